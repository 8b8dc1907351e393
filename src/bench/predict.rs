//! What a card should need, from a count of the work: `max(flops / (a peak), bytes / (b bandwidth)) + launch` summed over
//! the dispatches of a step. Nothing is run, and no adapter is needed. The shares a and b come from results of cards, kernel by
//! kernel; while there are none they are guessed.

use super::BenchOptions;
use super::efficiency::{Accuracy, Efficiencies};
use super::gpus::{GPUS, NamedGpu};
use super::result::{SuiteCeilings, SuiteResult};
use super::spread::Spread;
use super::workload::{Workload, WorkloadKind};
use crate::error::Result;
use crate::gpu::{Caps, StepWork, Work, Workgroup};

/// The share of the peak that our plain f32 products are guessed to reach, and with fewer than 64 rows.
const COMPUTE: f64 = 0.35;
const COMPUTE_FEW_ROWS: f64 = 0.2;
/// The share of the bandwidth that streaming kernels are guessed to reach.
const STREAM: f64 = 0.75;
/// Operations a byte of a product of 64 rows with a large matrix: 2 x 64 for the four bytes of each weight.
const ROWS_64: f64 = 32.0;
/// The times of one model on one card.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Forecast {
    #[serde(flatten)]
    pub gpu: NamedGpu,
    pub basis: Basis,
    /// In the order of the workloads.
    pub seconds: Vec<f64>,
}

/// What a forecast rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// The vendor's sheet, and guessed shares of it.
    Guess,
    /// The vendor's sheet, and shares that other cards reached.
    Fitted,
    /// Rates measured on a card of this name, and the shares that cards' kernels reached.
    Measured,
}

/// Forecasts for named cards, and what is known of their worth.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CardForecasts {
    pub workloads: Vec<CountedWorkload>,
    #[serde(rename = "cards")]
    pub forecasts: Vec<Forecast>,
    /// The cards whose results were learned from.
    pub learned_from: Vec<String>,
    /// For every adapter with a result: how far off predictions are there.
    pub accuracy: Vec<Accuracy>,
}

/// What is predicted.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CountedWorkload {
    pub name: String,
    /// Tokens of one run; of decoding, of a step.
    pub tokens: usize,
    pub dispatches: usize,
    #[serde(flatten)]
    pub work: Work,
    pub kernels: Vec<Occupancy>,
    #[serde(skip)]
    pub steps: Vec<StepWork>,
}

/// How much of a card the dispatches of one kernel can keep busy.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Occupancy {
    pub kernel: &'static str,
    pub dispatches: usize,
    #[serde(flatten)]
    pub work: Work,
    /// Of the dispatch with the fewest invocations, but for those that move less than [`SMALL_DISPATCH`]: its workgroups, and what each
    /// takes.
    pub workgroups: u64,
    pub workgroup: Workgroup,
}

/// Bytes below which a dispatch is done before a card could be kept busy.
pub const SMALL_DISPATCH: f64 = 65_536.0;

impl Occupancy {
    pub fn invocations(&self) -> u64 {
        self.workgroups * u64::from(self.workgroup.invocations)
    }

    /// Of each kernel, the one that moves most bytes first.
    fn of(steps: &[StepWork]) -> Vec<Occupancy> {
        let mut all: Vec<Occupancy> = Vec::new();
        let mut by_size: Vec<&StepWork> = steps.iter().collect();
        by_size.sort_by_key(|step| (step.work.bytes < SMALL_DISPATCH, step.invocations()));
        for &StepWork { kernel, work, workgroups, workgroup, .. } in by_size {
            match all.iter_mut().find(|known| known.kernel == kernel) {
                Some(known) => (known.dispatches, known.work) = (known.dispatches + 1, known.work + work),
                None => all.push(Occupancy { kernel, dispatches: 1, work, workgroups, workgroup }),
            }
        }
        all.sort_by(|a, b| b.work.bytes.total_cmp(&a.work.bytes));
        all
    }
}

/// Predicts the encoder, decoding and a training step for every card of [`GPUS`], learning from these results.
pub fn predict(options: &BenchOptions, results: &[SuiteResult]) -> Result<CardForecasts> {
    options.check()?;
    let config = options.subject.config()?;
    config.validate()?;
    let caps = card();
    let count = |workload: &Workload| CountedWorkload::new(workload, workload.outline(&config, &caps)?);
    let workloads: Vec<CountedWorkload> = options.workloads(&caps).iter().map(count).collect::<Result<_>>()?;
    let cards: Vec<&SuiteResult> = results.iter().filter(|result| !result.machine.is_software()).collect();
    let learned = Efficiencies::fit(&cards);
    let shares = sheet_shares(&cards);
    let forecast = |gpu: &NamedGpu| {
        let own = cards.iter().find(|result| gpu.is_called(&result.machine.adapter.name));
        let (basis, rates) = match own {
            Some(result) => (Basis::Measured, result.ceilings.clone()),
            None => (Basis::Fitted, gpu.rates(shares)),
        };
        match &learned {
            Some(learned) => Forecast {
                gpu: *gpu,
                basis,
                seconds: workloads.iter().map(|w| learned.seconds(&rates, &w.steps)).collect(),
            },
            None => Forecast {
                gpu: *gpu,
                basis: Basis::Guess,
                seconds: workloads.iter().map(|w| seconds_on(gpu, &w.steps)).collect(),
            },
        }
    };
    let forecasts = GPUS.iter().map(forecast).collect();
    let learned_from = match learned {
        Some(_) => cards.iter().map(|result| result.machine.chip()).collect(),
        None => Vec::new(),
    };
    let accuracy = Accuracy::of_all(results);
    Ok(CardForecasts { workloads, forecasts, learned_from, accuracy })
}

/// Shares of the sheet's arithmetic and bandwidth that the ceilings' kernels reach, where no card's result tells.
const SHEET_SHARES: [f64; 2] = [0.7, 0.85];

/// The same as the cards tell whose sheet is known: the median.
fn sheet_shares(cards: &[&SuiteResult]) -> [f64; 2] {
    let mut known: [Vec<f64>; 2] = Default::default();
    for result in cards {
        if let Some(gpu) = GPUS.iter().find(|gpu| gpu.is_called(&result.machine.adapter.name)) {
            let [flops, bytes] = &mut known;
            flops.push(result.ceilings.flops / (1e12 * gpu.f32_rate));
            bytes.push(result.ceilings.bytes / (1e9 * gpu.bandwidth));
        }
    }
    let median = |(known, guess): (Vec<f64>, f64)| if known.is_empty() { guess } else { Spread::of(known).median };
    let [flops, bytes] = known;
    [(flops, SHEET_SHARES[0]), (bytes, SHEET_SHARES[1])].map(median)
}

impl NamedGpu {
    /// Whether a driver's name for an adapter means this card.
    fn is_called(&self, adapter: &str) -> bool {
        // What makes another card of the same number.
        const KINDS: [&str; 9] = ["ti", "super", "laptop", "mobile", "max", "pro", "xt", "xtx", "ultra"];
        let words = |text: &str| -> Vec<String> {
            let lower = text.to_lowercase();
            lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
        };
        let (own, given) = (words(self.name), words(adapter));
        // Drivers leave the maker out, or add to it.
        let makers = ["nvidia", "amd", "intel", "qualcomm"];
        own.iter().all(|word| makers.contains(&word.as_str()) || given.contains(word))
            && given.iter().all(|word| !KINDS.contains(&word.as_str()) || own.contains(word))
    }

    /// The ceilings that it should have, if kernels reach these shares of its sheet.
    fn rates(&self, [flops, bytes]: [f64; 2]) -> SuiteCeilings {
        SuiteCeilings {
            flops: 1e12 * self.f32_rate * flops,
            bytes: 1e9 * self.bandwidth * bytes,
            dispatch_seconds: 1e-6 * self.launch,
            product: String::new(),
        }
    }
}

/// Seconds of these dispatches, one after the other, as a guess.
pub fn seconds_on(gpu: &NamedGpu, steps: &[StepWork]) -> f64 {
    let seconds = |step: &StepWork| {
        let few = step.work.flops < ROWS_64 * step.work.bytes;
        let compute = if few { COMPUTE_FEW_ROWS } else { COMPUTE };
        step.work.floor(compute * gpu.f32_rate * 1e12, STREAM * gpu.bandwidth * 1e9) + gpu.launch * 1e-6
    };
    steps.iter().map(seconds).sum()
}

/// The capabilities of a common graphics card: they decide which kernels are counted.
fn card() -> Caps {
    Caps {
        name: "a graphics card".into(),
        kind: "discrete GPU",
        max_binding: 2 << 30,
        table_bytes: 2 << 30,
        max_buffer: 2 << 30,
        max_invocations: 1024,
        max_workgroup_bytes: 32 << 10,
        max_storage_bindings: 8,
        max_workgroups_per_dim: 65_535,
        alignment: 256,
        ..Caps::default()
    }
}

impl CountedWorkload {
    fn new(workload: &Workload, steps: Vec<StepWork>) -> Result<CountedWorkload> {
        let work = steps.iter().map(|step| step.work).sum();
        let tokens = match workload.kind {
            WorkloadKind::Decode => workload.batch,
            WorkloadKind::Encoder | WorkloadKind::Train => workload.tokens(),
        };
        let (dispatches, kernels) = (steps.len(), Occupancy::of(&steps));
        Ok(CountedWorkload { name: workload.to_string(), tokens, dispatches, work, kernels, steps })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Subject;
    use super::super::efficiency::tests::made_up;
    use super::*;

    fn step(flops: f64, bytes: f64) -> StepWork {
        let workgroup = Workgroup { invocations: 64, shared_bytes: 0 };
        StepWork { kernel: "k", label: String::new(), work: Work { flops, bytes }, workgroups: 1, workgroup }
    }

    #[test]
    fn a_step_by_hand() {
        let gpu = NamedGpu { name: "made up", bandwidth: 100.0, f32_rate: 10.0, launch: 5.0 };
        // 7 GFLOP at 3.5 TFLOP/s; 0.3 GB at 75 GB/s; 2 GFLOP on 0.1 GB, few rows, at 2 TFLOP/s but 75 GB/s is slower.
        let steps = [step(7e9, 1e6), step(0.0, 0.3e9), step(2e9, 0.1e9)];
        let expected = 2e-3 + 4e-3 + 0.1 / 75.0 + 3.0 * 5e-6;
        assert!((seconds_on(&gpu, &steps) - expected).abs() < 1e-12);
    }

    #[test]
    fn better_cards_are_faster() {
        let mut options = BenchOptions::new(Subject::parse("t5-small").unwrap());
        options.source_len = Some(64);
        let CardForecasts { workloads, forecasts, learned_from, accuracy } = predict(&options, &[]).unwrap();
        assert!(forecasts.len() == GPUS.len() && learned_from.is_empty() && accuracy.is_empty());
        assert!(forecasts.iter().all(|forecast| forecast.basis == Basis::Guess));
        for a in &forecasts {
            for b in &forecasts {
                let better = a.gpu.bandwidth >= b.gpu.bandwidth
                    && a.gpu.f32_rate >= b.gpu.f32_rate
                    && a.gpu.launch <= b.gpu.launch;
                let faster = a.seconds.iter().zip(&b.seconds).all(|(x, y)| x <= y);
                assert!(!better || faster, "{} and {}", a.gpu.name, b.gpu.name);
            }
        }
        // 38.5 million parameters of decoder and head are read for each token; embeddings, caches and states add little.
        let weights = 4.0 * 38.5e6;
        let moved = workloads[1].work.bytes;
        assert!((weights..1.1 * weights).contains(&moved), "{moved}");
    }
    #[test]
    fn cards_are_found_by_their_drivers_names() {
        let named = |name: &str| GPUS.iter().filter(|gpu| gpu.is_called(name)).map(|gpu| gpu.name).collect::<Vec<_>>();
        assert_eq!(named("NVIDIA GeForce RTX 4090"), ["NVIDIA RTX 4090"]);
        assert_eq!(named("NVIDIA GeForce RTX 4090 Laptop GPU"), [""; 0]);
        assert_eq!(named("NVIDIA GeForce RTX 2080 Ti"), ["NVIDIA RTX 2080 Ti"]);
        assert_eq!(named("AMD Radeon RX 7900 XTX (RADV NAVI31)"), ["AMD RX 7900 XTX"]);
        assert_eq!(named("Apple M2 Pro"), ["Apple M2 Pro"]);
        assert_eq!(named("Apple M1 Max"), [""; 0]);
    }

    #[test]
    fn results_of_cards_replace_guesses() {
        let mut options = BenchOptions::new(Subject::parse("tiny").unwrap());
        options.source_len = Some(64);
        // Kernels of other names count as a whole: a third of the ceilings, which are 1e12 of a sheet's 12.7e12.
        let card = made_up("NVIDIA GeForce RTX 3060", 1e12, [0.5, 0.25]);
        let found = predict(&options, std::slice::from_ref(&card)).unwrap();
        assert_eq!(found.learned_from, ["NVIDIA GeForce RTX 3060"]);
        let of = |name: &str| found.forecasts.iter().find(|forecast| forecast.gpu.name == name).unwrap();
        assert_eq!([of("NVIDIA RTX 3060").basis, of("Apple M1").basis], [Basis::Measured, Basis::Fitted]);
        let steps = &found.workloads[0].steps;
        let expected = Efficiencies::fit(&[&card]).unwrap().seconds(&card.ceilings, steps);
        assert_eq!(of("NVIDIA RTX 3060").seconds[0], expected);
        let rates = SuiteCeilings {
            flops: 1e12 / 12.7e12 * 2.6e12,
            bytes: 1e11 / 360e9 * 68e9,
            dispatch_seconds: 4.5e-6,
            product: String::new(),
        };
        let expected = Efficiencies::fit(&[&card]).unwrap().seconds(&rates, steps);
        assert!((of("Apple M1").seconds[0] / expected - 1.0).abs() < 1e-9);
        // A processor teaches nothing about cards, but its accuracy is told.
        let mut software = card;
        software.machine.adapter.kind = "CPU".into();
        let found = predict(&options, &[software]).unwrap();
        assert!(found.learned_from.is_empty() && found.accuracy.len() == 1);
        assert!(found.forecasts.iter().all(|forecast| forecast.basis == Basis::Guess));
    }
}
