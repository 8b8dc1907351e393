//! How much of an adapter's ceilings each kernel reaches, learned from results, and how good predictions from that are.

use std::collections::BTreeMap;

use serde::Serialize;

use super::result::{KernelWork, SuiteCeilings, SuiteResult, WorkloadResult};
use crate::gpu::{StepWork, Work};

/// For each kernel, the time that the ceilings would allow, divided by the time that it takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Efficiencies {
    pub by_kernel: BTreeMap<String, f64>,
    /// Of all kernels together: what one that was never seen gets.
    pub others: f64,
}

/// The least share of a kernel's time that is not launches.
const LEAST_WORK: f64 = 0.1;

/// All dispatches of one kernel: what efficiencies are applied to.
struct KernelTotal<'a> {
    kernel: &'a str,
    work: Work,
    dispatches: usize,
}

impl<'a> KernelTotal<'a> {
    fn of(kernel: &'a KernelWork) -> KernelTotal<'a> {
        let work = Work { flops: kernel.flops, bytes: kernel.bytes };
        KernelTotal { kernel: &kernel.kernel, work, dispatches: kernel.dispatches }
    }

    fn launches(&self, rates: &SuiteCeilings) -> f64 {
        self.dispatches as f64 * rates.dispatch_seconds
    }
}

impl Efficiencies {
    /// Those of results whose kernels have times; `None` if there are none. What failed its gate does not count.
    pub fn fit(results: &[&SuiteResult]) -> Option<Efficiencies> {
        // Seconds that the ceilings allow, and that it took.
        let mut sums: BTreeMap<&str, [f64; 2]> = BTreeMap::new();
        for result in results {
            for workload in result.workloads.iter().filter(|workload| workload.counted().is_some()) {
                let Some(run) = workload.run_seconds() else { continue };
                let timed: f64 = workload.kernels.iter().filter_map(|kernel| kernel.seconds).sum();
                if timed <= 0.0 {
                    continue;
                }
                for kernel in &workload.kernels {
                    let total = KernelTotal::of(kernel);
                    // The kernels' shares of the run, so that what lies between them counts, too.
                    let seconds = kernel.seconds.unwrap_or_default() * run / timed;
                    let [floor, taken] = sums.entry(&kernel.kernel).or_default();
                    *floor += total.work.floor(result.ceilings.flops, result.ceilings.bytes);
                    *taken += (seconds - total.launches(&result.ceilings)).max(LEAST_WORK * seconds);
                }
            }
        }
        let by_kernel: BTreeMap<String, f64> = sums
            .iter()
            .filter(|(_, [floor, taken])| *floor > 0.0 && *taken > 0.0)
            .map(|(kernel, [floor, taken])| ((*kernel).to_owned(), floor / taken))
            .collect();
        let [floor, taken] = sums.values().fold([0.0, 0.0], |[a, b], [floor, taken]| [a + floor, b + taken]);
        (!by_kernel.is_empty()).then(|| Efficiencies { by_kernel, others: floor / taken })
    }

    /// Seconds of these dispatches on an adapter of such ceilings.
    pub fn seconds(&self, rates: &SuiteCeilings, steps: &[StepWork]) -> f64 {
        let mut totals: BTreeMap<&str, (Work, usize)> = BTreeMap::new();
        for step in steps {
            let (work, dispatches) = totals.entry(step.kernel).or_default();
            (*work, *dispatches) = (*work + step.work, *dispatches + 1);
        }
        let total = |(kernel, (work, dispatches))| KernelTotal { kernel, work, dispatches };
        totals.into_iter().map(total).map(|total| self.seconds_of(rates, &total)).sum()
    }

    fn seconds_of(&self, rates: &SuiteCeilings, total: &KernelTotal<'_>) -> f64 {
        let share = self.by_kernel.get(total.kernel).copied().unwrap_or(self.others);
        total.work.floor(rates.flops, rates.bytes) / share + total.launches(rates)
    }
}

/// How far predictions lie from what one adapter did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// The chip and the driver.
    pub adapter: String,
    /// The efficiencies came from other results, not from this one.
    pub from_others: bool,
    pub workloads: Vec<PredictedRun>,
}

/// One workload, measured and predicted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PredictedRun {
    pub name: String,
    /// Seconds of a run; of decoding, of a step.
    pub measured: f64,
    pub predicted: f64,
}

impl PredictedRun {
    /// How many times too slow or too fast the prediction is.
    pub fn factor(&self) -> f64 {
        let ratio = self.predicted / self.measured;
        ratio.max(1.0 / ratio)
    }
}

impl Accuracy {
    /// Predicts each result from the others of its kind (graphics cards, or software adapters), or from itself where it is the only one.
    pub fn of_all(results: &[SuiteResult]) -> Vec<Accuracy> {
        let of = |(at, result): (usize, &SuiteResult)| {
            let is_alike = |other: &SuiteResult| other.machine.is_software() == result.machine.is_software();
            let others = results.iter().enumerate().filter(|(i, other)| *i != at && is_alike(other));
            let others: Vec<&SuiteResult> = others.map(|(_, other)| other).collect();
            let fitted = Efficiencies::fit(&others);
            let from_others = fitted.is_some();
            let efficiencies = fitted.or_else(|| Efficiencies::fit(&[result]))?;
            let predicted = |workload: &WorkloadResult| {
                let name = workload.name.clone();
                workload.counted()?;
                let kernels = workload.kernels.iter().map(KernelTotal::of);
                let predicted = kernels.map(|total| efficiencies.seconds_of(&result.ceilings, &total)).sum();
                Some(PredictedRun { name, measured: workload.run_seconds()?, predicted })
            };
            let workloads: Vec<PredictedRun> = result.workloads.iter().filter_map(predicted).collect();
            let adapter = format!("{} ({})", result.machine.chip(), result.machine.adapter.driver_info);
            (!workloads.is_empty()).then_some(Accuracy { adapter, from_others, workloads })
        };
        results.iter().enumerate().filter_map(of).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::gate::Gate;
    use super::super::machine::{AdapterFacts, MachineFacts};
    use super::super::report::Figure;
    use super::super::result::{SUITE_FORMAT, SUITE_SCHEMA, SuiteSettings};
    use super::super::workload::WorkloadKind;
    use super::super::{Section, Spread};
    use super::*;

    /// An adapter of these rates, on which one encoder's run of two kernels reaches these shares of them.
    pub fn made_up(name: &str, rate: f64, shares: [f64; 2]) -> SuiteResult {
        let ceilings =
            SuiteCeilings { flops: rate, bytes: rate / 10.0, dispatch_seconds: 1e-6, product: "matmul".into() };
        let kernel = |kernel: &str, flops: f64, bytes: f64, share: f64| KernelWork {
            kernel: kernel.into(),
            variants: Vec::new(),
            dispatches: 10,
            flops,
            bytes,
            seconds: Some(Work { flops, bytes }.floor(ceilings.flops, ceilings.bytes) / share + 10e-6),
        };
        let kernels = vec![kernel("matmul", 1e9, 1e6, shares[0]), kernel("add", 0.0, 1e8, shares[1])];
        let seconds: f64 = kernels.iter().filter_map(|kernel| kernel.seconds).sum();
        let value = 100.0 / seconds;
        let spread = Spread { median: value, low: value, high: value, samples: 5 };
        let workload = WorkloadResult {
            name: "t5-small/enc-10x10".into(),
            model: "t5-small".into(),
            kind: WorkloadKind::Encoder,
            batch: 10,
            source_len: 10,
            target_len: 0,
            left_out: None,
            gate: Some(Gate { passed: true, checks: Vec::new() }),
            figures: vec![Figure::new(Section::Encoder, "enc-10x10", "tokens/s", spread)],
            cold: None,
            sustained: None,
            kernels,
        };
        let adapter = AdapterFacts {
            vendor: "nvidia".into(),
            name: name.into(),
            kind: "discrete GPU".into(),
            backend: "vulkan".into(),
            driver_info: "1.0".into(),
            ..AdapterFacts::default()
        };
        SuiteResult {
            format: SUITE_FORMAT.into(),
            schema: SUITE_SCHEMA,
            date: "2026-01-31T12:00:00Z".into(),
            version: "0.1.0".into(),
            commit: None,
            machine: MachineFacts { adapter, ..MachineFacts::default() },
            settings: SuiteSettings { seconds: 1.0, tune: "off".into(), checked: false, choices: Vec::new() },
            adapter_seconds: 0.1,
            ceilings,
            workloads: vec![workload],
        }
    }

    #[test]
    fn what_kernels_reach_is_found_again() {
        let result = made_up("a card", 1e12, [0.5, 0.25]);
        let found = Efficiencies::fit(&[&result]).unwrap();
        assert!((found.by_kernel["matmul"] - 0.5).abs() < 1e-9 && (found.by_kernel["add"] - 0.25).abs() < 1e-9);
        // 1 ms of products and 1 ms of bytes, taken as 2 ms and 4 ms.
        assert!((found.others - 2.0 / 6.0).abs() < 1e-9, "{}", found.others);
        // What failed teaches nothing, and neither does what has no times.
        let mut failed = result.clone();
        failed.workloads[0].gate = Some(Gate { passed: false, checks: Vec::new() });
        assert_eq!(Efficiencies::fit(&[&failed]), None);
        let mut without = result;
        without.workloads[0].kernels.iter_mut().for_each(|kernel| kernel.seconds = None);
        assert_eq!(Efficiencies::fit(&[&without]), None);
    }

    #[test]
    fn each_adapter_is_predicted_from_the_others() {
        let cards = [made_up("a", 1e12, [0.5, 0.5]), made_up("b", 4e12, [0.25, 0.25])];
        let found = Accuracy::of_all(&cards);
        assert!(found.len() == 2 && found.iter().all(|card| card.from_others));
        // a's kernels are taken to be as slow as b's, and b's as fast as a's.
        for card in &found {
            assert!((card.workloads[0].factor() - 2.0).abs() < 0.02, "{card:?}");
        }
        let alone = Accuracy::of_all(&cards[..1]);
        assert!(!alone[0].from_others && (alone[0].workloads[0].factor() - 1.0).abs() < 1e-9);
        // A processor says nothing about a card.
        let mut software = cards.clone();
        software[1].machine.adapter.kind = "CPU".into();
        assert!(Accuracy::of_all(&software).iter().all(|adapter| !adapter.from_others));
    }
}
