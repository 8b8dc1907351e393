//! Runs frozen workloads, each behind its gate, and gathers the result that can be submitted.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use super::ceilings::Ceilings;
use super::gate::{ExpectedResult, Gate};
use super::machine::{MachineFacts, memory};
use super::render::number;
use super::report::BenchReport;
use super::result::{
    ColdStart, KernelChoice, KernelWork, SUITE_FORMAT, SUITE_SCHEMA, SuiteCeilings, SuiteResult, SuiteSettings,
    Sustained, WorkloadResult,
};
use super::run::{WorkloadRun, prepare};
use super::spread::{Arm, Budget, Spread, in_turn};
use super::subject::Needed;
use super::workload::{self, FrozenWorkload, Workload, WorkloadKind};
use super::{BenchOptions, Section, Subject};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, StepWork};
use crate::model::{Model, T5Config};
use crate::tune::{DecisionSource, Mode, Tuner};

/// What is run, and how long.
#[derive(Clone)]
pub struct SuiteOptions {
    pub workloads: Vec<FrozenWorkload>,
    /// Measuring time of each figure, in seconds.
    pub seconds: f64,
    /// Seconds of the run that shows whether the speed lasts; 0: none.
    pub sustained: f64,
    /// Seconds after which no workload is begun that would not fit; `None`: all are run.
    pub limit: Option<f64>,
    /// Chooses the kernels.
    pub tuner: Tuner,
    pub tune: Mode,
    /// Seconds that opening the adapter took.
    pub adapter_seconds: f64,
    /// What the workloads must give, by name: [`recorded_results`](super::recorded_results).
    pub expected: BTreeMap<String, ExpectedResult>,
}

/// How far a suite is.
#[derive(Clone, Debug)]
pub struct SuiteProgress {
    pub what: String,
    /// A guess, once there is one.
    pub seconds_left: Option<f64>,
    /// Whether this tells a workload's result, which stays true.
    pub is_result: bool,
}

impl SuiteProgress {
    fn of_result(measured: &WorkloadResult) -> SuiteProgress {
        let name = &measured.name;
        let what = match (&measured.left_out, measured.figures.first(), measured.gate.as_ref().and_then(Gate::failure))
        {
            (Some(why), ..) => format!("{name}: left out, {why}"),
            (None, Some(figure), None) => format!("{name}: {} {}, PASS", number(figure.value), figure.unit),
            (None, _, failure) => format!("{name}: FAILED, {}", failure.unwrap_or_default()),
        };
        SuiteProgress { what, seconds_left: None, is_result: true }
    }
}

/// Seconds of each ceiling's measurement.
const CEILING_SECONDS: f64 = 0.3;
/// The share of the ceilings that a workload is taken to reach before any was measured.
const GUESSED_SHARE: f64 = 0.5;
/// Seconds that compiling and the model take, as a guess.
const GUESSED_START: f64 = 4.0;
/// Runs beside the samples: one to warm up, the profile, and the gate's.
const OTHER_RUNS: f64 = 3.5;
const BUDGET: Budget = Budget { seconds: 0.0, least: 5, most: 50 };

/// Runs the workloads.
///
/// # Errors
/// `Input` for impossible settings or a workload of which nothing is recorded; the device fails. A workload that does not fit the
/// memory is left out.
pub fn run_suite(gpu: &Gpu, options: &SuiteOptions, progress: &mut dyn FnMut(&SuiteProgress)) -> Result<SuiteResult> {
    if !(options.seconds > 0.0 && options.seconds.is_finite()) {
        return Err(Error::Input(format!("{} seconds a figure: give a positive number", options.seconds)));
    }
    if !(options.sustained >= 0.0 && options.sustained.is_finite()) {
        return Err(Error::Input(format!("{} sustained seconds: give 0 or a positive number", options.sustained)));
    }
    if let Some(frozen) = options.workloads.iter().find(|frozen| !options.expected.contains_key(&frozen.to_string())) {
        return Err(Error::Input(format!("{frozen}: no result is recorded that it could be held against")));
    }
    let start = Instant::now();
    let ceilings = measure_ceilings(gpu, options, progress)?;
    let estimates: Vec<f64> = options
        .workloads
        .iter()
        .map(|frozen| estimate(gpu, frozen, &ceilings, options.seconds))
        .collect::<Result<_>>()?;
    let lasting = options.workloads.iter().find(|frozen| frozen.workload.kind == WorkloadKind::Train);
    let lasting = lasting.or(options.workloads.last()).copied();
    let mut suite = Suite { gpu, options, ceilings, model: None, lasting, spent: 0.0, guessed: 0.0 };
    let mut workloads: Vec<WorkloadResult> = Vec::new();
    for (at, frozen) in options.workloads.iter().enumerate() {
        let sustained = if lasting == Some(*frozen) { options.sustained } else { 0.0 };
        let needed = suite.speed() * estimates[at] + sustained;
        let left_of_limit = options.limit.map(|limit| limit - start.elapsed().as_secs_f64());
        if let Some(left) = left_of_limit.filter(|left| needed > *left) {
            workloads.push(WorkloadResult {
                left_out: Some(format!(
                    "it would take about {needed:.0} s, of which {:.0} s are left: name it to run it all the same",
                    left.max(0.0)
                )),
                ..named(frozen)
            });
            progress(&SuiteProgress::of_result(&workloads[at]));
            continue;
        }
        let began = Instant::now();
        // What will be left out takes no time.
        let fits = |seconds: f64| left_of_limit.is_none_or(|left| needed + seconds <= left);
        let later = suite.speed() * estimates[at + 1..].iter().filter(|&&seconds| fits(seconds)).sum::<f64>();
        let mut tell = |what: &str| {
            let left = (needed - began.elapsed().as_secs_f64()).max(0.0) + later;
            progress(&SuiteProgress { what: format!("{frozen}: {what}"), seconds_left: Some(left), is_result: false });
        };
        let measured = match suite.measure(frozen, &mut tell) {
            Err(Error::OutOfMemory(what)) => {
                WorkloadResult { left_out: Some(format!("out of memory: {what}")), ..named(frozen) }
            }
            measured => measured?,
        };
        if measured.left_out.is_none() {
            suite.spent += began.elapsed().as_secs_f64() - measured.sustained.map_or(0.0, |s| s.seconds);
            suite.guessed += estimates[at];
        }
        progress(&SuiteProgress::of_result(&measured));
        workloads.push(measured);
    }
    Ok(suite.result(workloads))
}

fn measure_ceilings(gpu: &Gpu, options: &SuiteOptions, progress: &mut dyn FnMut(&SuiteProgress)) -> Result<Ceilings> {
    let subject = Subject::parse("tiny")?;
    let bench = BenchOptions {
        sections: vec![Section::Ceilings],
        seconds: options.seconds.min(CEILING_SECONDS),
        ..BenchOptions::new(subject)
    };
    let mut tell = |what: &str| {
        progress(&SuiteProgress { what: format!("ceilings: {what}"), seconds_left: None, is_result: false })
    };
    let (BenchReport { ceilings, .. }, _) = super::run(gpu, &bench, &mut tell)?;
    Ok(ceilings)
}

/// Seconds that measuring a workload takes, as a guess.
fn estimate(gpu: &Gpu, frozen: &FrozenWorkload, ceilings: &Ceilings, seconds: f64) -> Result<f64> {
    let config = frozen.config()?;
    let of = |steps: &[StepWork]| -> f64 {
        let one = |step: &StepWork| step.work.floor(ceilings.flops, ceilings.bytes) / GUESSED_SHARE + ceilings.dispatch;
        steps.iter().map(one).sum()
    };
    let workload = &frozen.workload;
    let steps = of(&workload.outline(&config, gpu.caps())?);
    let run = match workload.kind {
        WorkloadKind::Encoder | WorkloadKind::Train => steps,
        WorkloadKind::Decode => {
            let encoder = Workload::encoder(workload.batch, workload.source_len).outline(&config, gpu.caps())?;
            2.0 * of(&encoder) + workload.target_len as f64 * steps
        }
    };
    let samples = (BUDGET.least as f64).max(seconds / run);
    Ok(GUESSED_START + (samples + OTHER_RUNS) * run)
}

fn named(frozen: &FrozenWorkload) -> WorkloadResult {
    let Workload { kind, batch, source_len, target_len, .. } = frozen.workload;
    WorkloadResult {
        name: frozen.to_string(),
        model: frozen.model.into(),
        kind,
        batch,
        source_len,
        target_len,
        left_out: None,
        gate: None,
        figures: Vec::new(),
        cold: None,
        sustained: None,
        kernels: Vec::new(),
    }
}

/// A suite under way.
struct Suite<'a> {
    gpu: &'a Gpu,
    options: &'a SuiteOptions,
    ceilings: Ceilings,
    /// The model of the latest workload.
    model: Option<(&'static str, Model)>,
    /// The workload that runs on without a pause.
    lasting: Option<FrozenWorkload>,
    /// Seconds that the workloads so far took, and were guessed to take.
    spent: f64,
    guessed: f64,
}

impl Suite<'_> {
    /// How many times as long as guessed things take here.
    fn speed(&self) -> f64 {
        if self.guessed > 0.0 { self.spent / self.guessed } else { 1.0 }
    }

    fn measure(&mut self, frozen: &FrozenWorkload, tell: &mut dyn FnMut(&str)) -> Result<WorkloadResult> {
        let config = frozen.config()?;
        self.check_memory(frozen, &config)?;
        tell("making the model");
        let begin = Instant::now();
        let model = self.model_of(frozen, config)?;
        let weights = begin.elapsed().as_secs_f64();
        tell("compiling");
        let begin = Instant::now();
        let run = prepare(&model, &frozen.workload)?;
        let compile = begin.elapsed().as_secs_f64();

        let first = Cell::new(None);
        let parts = run.parts();
        let arm = |(part, name): (usize, &String)| {
            let (run, first) = (&*run, &first);
            Arm::new(name.clone(), move || {
                let seconds = run.sample(part)?;
                first.set(first.get().or(Some(seconds)));
                Ok(seconds)
            })
        };
        let mut arms: Vec<Arm<'_>> = parts.iter().enumerate().map(arm).collect();
        let budget = Budget { seconds: self.options.seconds, ..BUDGET };
        let spreads = in_turn(&mut arms, budget, &mut |_| tell("measuring"))?;
        drop(arms);
        let figures = run.figures(&spreads, &self.ceilings)?;
        let kernels = kernels(self.gpu, &*run)?;
        let sustained = match self.lasting == Some(*frozen) && self.options.sustained > 0.0 {
            true => Some(sustain(&*run, self.options.sustained, &mut || tell("on and on"))?),
            false => None,
        };
        tell("checking the results");
        let gate = Gate::of(frozen, &self.options.expected[&frozen.to_string()], &run.outcome()?);
        if frozen.workload.kind == WorkloadKind::Train {
            // Its weights have changed.
            self.model = None;
        }
        Ok(WorkloadResult {
            gate: Some(gate),
            figures,
            cold: Some(ColdStart { weights, compile, first_run: first.get().unwrap_or_default() }),
            sustained,
            kernels,
            ..named(frozen)
        })
    }

    /// # Errors
    /// `OutOfMemory` where a software adapter's memory, which is the machine's, would run out.
    fn check_memory(&self, frozen: &FrozenWorkload, config: &T5Config) -> Result<()> {
        let needed = Needed::of(config, frozen.workload.kind == WorkloadKind::Train);
        match memory("MemAvailable:").filter(|_| self.gpu.caps().is_cpu()) {
            Some(available) if needed.total() > available => {
                Err(Error::OutOfMemory(format!("{needed}; this machine has {} MiB available", available >> 20)))
            }
            _ => Ok(()),
        }
    }

    fn model_of(&mut self, frozen: &FrozenWorkload, config: T5Config) -> Result<Model> {
        if let Some((_, model)) = self.model.as_ref().filter(|(name, _)| *name == frozen.model) {
            return Ok(model.clone());
        }
        // Two models at a time might not fit.
        self.model = None;
        let mut model = workload::model(self.gpu, config)?;
        self.gpu.flush()?;
        model.tuner = self.options.tuner.clone();
        self.model = Some((frozen.model, model.clone()));
        Ok(model)
    }

    fn result(self, workloads: Vec<WorkloadResult>) -> SuiteResult {
        let Ceilings { flops, bytes, dispatch, matmul } = self.ceilings;
        let decisions = self.options.tuner.decisions();
        let choices = decisions.into_iter().filter(|decision| decision.source != DecisionSource::Rule);
        SuiteResult {
            format: SUITE_FORMAT.into(),
            schema: SUITE_SCHEMA,
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            commit: option_env!("T5_COMMIT").map(str::to_owned),
            machine: MachineFacts::of(self.gpu.caps()),
            settings: SuiteSettings {
                seconds: self.options.seconds,
                tune: self.options.tune.to_string(),
                checked: self.gpu.checked(),
                choices: choices
                    .map(|d| KernelChoice { class: d.class, variant: d.variant, rule: d.rule.into() })
                    .collect(),
            },
            adapter_seconds: self.options.adapter_seconds,
            ceilings: SuiteCeilings { flops, bytes, dispatch_seconds: dispatch, product: matmul },
            workloads,
        }
    }
}

/// The dispatches of a run, added up by kernel; what takes or moves most comes first.
fn kernels(gpu: &Gpu, run: &dyn WorkloadRun) -> Result<Vec<KernelWork>> {
    let mut all: BTreeMap<&'static str, KernelWork> = BTreeMap::new();
    for step in run.work()? {
        let known = all.entry(step.kernel).or_insert_with(|| KernelWork {
            kernel: step.kernel.into(),
            variants: Vec::new(),
            dispatches: 0,
            flops: 0.0,
            bytes: 0.0,
            seconds: None,
        });
        known.dispatches += 1;
        known.flops += step.work.flops;
        known.bytes += step.work.bytes;
    }
    for kernel in run.kernels()? {
        if let Some(known) = all.get_mut(kernel.shader).filter(|known| !known.variants.contains(&kernel.variant)) {
            known.variants.push(kernel.variant);
        }
    }
    if gpu.caps().timestamps {
        for step in run.profile()? {
            if let Some(known) = all.get_mut(step.kernel) {
                *known.seconds.get_or_insert(0.0) += step.seconds;
            }
        }
    }
    let mut all: Vec<KernelWork> = all.into_values().collect();
    let weight = |kernel: &KernelWork| (kernel.seconds.unwrap_or(0.0), kernel.bytes);
    all.sort_by(|a, b| weight(b).partial_cmp(&weight(a)).unwrap_or(std::cmp::Ordering::Equal));
    Ok(all)
}

/// Runs without a pause for so long, but at least four times.
fn sustain(run: &dyn WorkloadRun, seconds: f64, tell: &mut dyn FnMut()) -> Result<Sustained> {
    const LEAST_RUNS: usize = 4;
    let last_part = run.parts().len() - 1;
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < LEAST_RUNS || start.elapsed().as_secs_f64() < seconds {
        tell();
        times.push(run.sample(last_part)?);
    }
    Ok(lasting(&times, start.elapsed().as_secs_f64()))
}

/// What the seconds of runs, one after the other, say about a loss of speed.
fn lasting(times: &[f64], seconds: f64) -> Sustained {
    let fifth = times.len().div_ceil(5);
    let median = |times: &[f64]| Spread::of(times.to_vec()).median;
    let (first, last) = (median(&times[..fifth]), median(&times[times.len() - fifth..]));
    Sustained { seconds, runs: times.len(), first, last, drop: 1.0 - first / last }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::recorded_results;
    use crate::gpu::GpuOptions;
    use crate::model::write_span;

    #[test]
    fn a_slower_end_is_a_drop() {
        let mut times = vec![1.0; 10];
        times[8..].fill(1.25);
        let found = lasting(&times, 10.5);
        assert_eq!((found.first, found.last, found.runs), (1.0, 1.25, 10));
        assert!((found.drop - 0.2).abs() < 1e-12);
        assert_eq!(lasting(&[2.0], 2.0).drop, 0.0);
    }

    /// One matrix of 32 x 64 in the last block of a stack is 0.1 % too large: every workload that uses it fails.
    #[test]
    fn a_planted_error_fails_the_gate() {
        let gpu = pollster::block_on(Gpu::open(&GpuOptions::default())).expect("an adapter");
        let expected = recorded_results().unwrap();
        for (tensor, fails) in [
            (None, [false, false, false]),
            (Some("encoder.block.1.layer.1.DenseReluDense.wo.weight"), [true, true, true]),
            (Some("decoder.block.1.layer.2.DenseReluDense.wo.weight"), [false, true, true]),
        ] {
            let workloads = FrozenWorkload::named(&["tiny".into()]).unwrap();
            for (frozen, fails) in workloads.iter().zip(fails) {
                let model = workload::model(&gpu, frozen.config().unwrap()).unwrap();
                if let Some(name) = tensor {
                    let span = model.layout.tensor(name).unwrap();
                    let data: Vec<f32> = workload::weights(&model.config, span).iter().map(|w| w * 1.001).collect();
                    write_span(&gpu, span, &model.params, &data);
                }
                let run = prepare(&model, &frozen.workload).unwrap();
                run.sample(run.parts().len() - 1).unwrap();
                let outcome = run.outcome().unwrap();
                let gate = Gate::of(frozen, &expected[&frozen.to_string()], &outcome);
                assert_eq!(!gate.passed, fails, "{frozen} with {tensor:?}: {:?}", gate.checks);
            }
        }
    }
}
