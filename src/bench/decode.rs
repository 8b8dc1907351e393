//! Times generation as a user sees it, from sources to tokens, with the host's part of the work.

use std::cell::RefCell;

use super::ceilings::Ceilings;
use super::gate::WorkloadOutcome;
use super::report::Figure;
use super::run::{WorkloadRun, arms};
use super::spread::{Spread, seconds};
use super::subject::Needed;
use super::trace::Trace;
use super::workload::Workload;
use super::{Bench, Section};
use crate::error::Result;
use crate::generate::{Decoding, Generation, Generator};
use crate::gpu::{StepTime, StepWork, Work};
use crate::model::{DecodeShape, GenerationConfig, Model};
use crate::plan::KernelUse;

pub(super) struct DecodeRun {
    workload: Workload,
    sources: Vec<Vec<u32>>,
    shape: DecodeShape,
    generator: RefCell<Generator>,
    /// The answers of the latest whole run.
    made: RefCell<Vec<Generation>>,
}

impl DecodeRun {
    pub fn compile(model: &Model, workload: &Workload) -> Result<DecodeRun> {
        let mut model = model.clone();
        // Nothing ends early.
        model.config.eos_token_id.clear();
        model.generation = GenerationConfig::default();
        let sources = workload.sources(&model.config);
        let shape = Generator::shape(&sources, &Decoding::greedy().max_new_tokens(workload.target_len));
        let mut generator = Generator::new(model);
        generator.step_plans(shape)?;
        let (generator, made) = (RefCell::new(generator), RefCell::default());
        Ok(DecodeRun { workload: *workload, sources, shape, generator, made })
    }

    fn generate(&self, decoding: Decoding) -> Result<Vec<Generation>> {
        let decoding = Decoding { max_batch: self.workload.batch, ..decoding };
        pollster::block_on(self.generator.borrow_mut().generate_best(&self.sources, &decoding))
    }
}

impl WorkloadRun for DecodeRun {
    fn parts(&self) -> Vec<String> {
        let of = |tokens: usize| format!("{}, {tokens} of {} tokens", self.workload, self.workload.target_len);
        vec![of(1), of(self.workload.target_len)]
    }

    fn sample(&self, part: usize) -> Result<f64> {
        // The shape is that of the whole answer: the caches are as long.
        let tokens = [1, self.workload.target_len][part];
        let mut made = Vec::new();
        let seconds = seconds(|| {
            made = self.generate(Decoding::greedy().max_new_tokens(tokens))?;
            Ok(())
        })?;
        if part == 1 {
            self.made.replace(made);
        }
        Ok(seconds)
    }

    fn figures(&self, parts: &[Spread], ceilings: &Ceilings) -> Result<Vec<Figure>> {
        let Workload { batch, source_len, target_len, .. } = self.workload;
        let (section, name) = (Section::Decode, self.workload.to_string());
        let [first, all] = [parts[0], parts[1]];
        let each = all.map(|s| (s - first.median).max(1e-9) / (target_len - 1) as f64);
        let steps = self.work()?;
        let work: Work = steps.iter().map(|step| step.work).sum();
        let of = |what: &str| format!("{name}, {what}");
        Ok(vec![
            Figure::new(section, &name, "ms/token", each.map(|s| 1e3 * s)).with_work(&steps, each.median, ceilings),
            Figure::new(section, &of(&format!("first token after {source_len}")), "ms", first.map(|s| 1e3 * s)),
            Figure::new(section, &of("rate"), "tokens/s", each.map(|s| batch as f64 / s)),
            Figure::exact(section, &of("moved in a step"), "MiB", work.bytes / f64::from(1 << 20)),
            Figure::once(section, &of("bandwidth's floor of a step"), "ms", 1e3 * work.bytes / ceilings.bytes),
        ])
    }

    fn work(&self) -> Result<Vec<StepWork>> {
        Ok(self.generator.borrow_mut().step_plans(self.shape)?.iter().flat_map(|plan| plan.work()).collect())
    }

    fn profile(&self) -> Result<Vec<StepTime>> {
        let mut times: Vec<StepTime> = Vec::new();
        for plan in self.generator.borrow_mut().step_plans(self.shape)? {
            let begin = times.last().map_or(0.0, |last| last.start + last.seconds);
            let profile = pollster::block_on(plan.profile())?;
            times.extend(profile.into_iter().map(|time| StepTime { start: begin + time.start, ..time }));
        }
        Ok(times)
    }

    fn kernels(&self) -> Result<Vec<KernelUse>> {
        let mut generator = self.generator.borrow_mut();
        Ok(generator.step_plans(self.shape)?.iter().flat_map(|plan| plan.kernels().to_vec()).collect())
    }

    fn outcome(&self) -> Result<WorkloadOutcome> {
        let decoding = Decoding { log_probs: true, ..Decoding::greedy().max_new_tokens(self.workload.target_len) };
        let told = self.generate(decoding)?;
        let timed = self.made.borrow();
        let ids = timed.iter().chain(&told).map(|generation| generation.ids.clone()).collect();
        Ok(WorkloadOutcome::Decode {
            ids,
            log_probs: told.into_iter().map(|generation| generation.log_probs).collect(),
        })
    }
}

impl Bench<'_, '_> {
    pub(super) fn decode(&mut self, model: &Model, workloads: &[Workload]) -> Result<()> {
        let compile = |workload| DecodeRun::compile(model, workload);
        let explain = |e| Needed::of(&model.config, false).explain(&self.options.subject, e);
        let runs: Vec<DecodeRun> = workloads.iter().map(compile).collect::<Result<_>>().map_err(explain)?;
        let mut all: Vec<_> = runs.iter().flat_map(|run| arms(run)).collect();
        let spreads =
            self.time(&mut all).map_err(|e| Needed::of(&model.config, false).explain(&self.options.subject, e))?;
        for (run, spreads) in runs.iter().zip(spreads.chunks(2)) {
            let figures = run.figures(spreads, &self.report.ceilings)?;
            self.report.figures.extend(figures);
            if self.gpu.caps().timestamps {
                let times = run.profile()?;
                self.profile(Section::Decode, &format!("a step of {}", run.workload), &times);
                if self.options.trace {
                    self.traces.push(Trace { name: format!("decoding step, {}", run.workload), steps: times });
                }
            }
        }
        Ok(())
    }
}
