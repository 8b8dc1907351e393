//! The encoder over whole batches.

use super::ceilings::Ceilings;
use super::gate::WorkloadOutcome;
use super::report::Figure;
use super::run::{WorkloadRun, arms};
use super::spread::{Spread, seconds};
use super::subject::Needed;
use super::workload::Workload;
use super::{Bench, Section};
use crate::error::Result;
use crate::gpu::{Gpu, StepTime, StepWork};
use crate::model::{Builder, Model};
use crate::plan::{KernelUse, Plan, PlanOptions, SlotPool};

pub(super) struct EncoderRun {
    gpu: Gpu,
    workload: Workload,
    width: usize,
    plan: Plan,
}

impl EncoderRun {
    pub fn compile(model: &Model, workload: &Workload) -> Result<EncoderRun> {
        let mut builder = Builder::new(model, workload.shape(), 0.0);
        let encoded = builder.encoder();
        let options = PlanOptions { bind: &|name| model.bind(name), pool: &SlotPool::new() };
        let choices = model.tuner.choices(&model.gpu, &builder.graph, &[encoded])?;
        let plan = Plan::compile_with(&model.gpu, &builder.graph, &[("encoded", encoded)], &options, &choices)?;
        let batch = workload.batch(&model.config);
        plan.write("src_ids", &batch.src_ids);
        plan.write("src_lens", &batch.src_lens);
        for (name, data) in model.config.encoder_attention.leaves(&batch.src_lens, batch.shape.src_len) {
            plan.write(name, &data);
        }
        Ok(EncoderRun { gpu: model.gpu.clone(), workload: *workload, width: model.config.d_model, plan })
    }
}

impl WorkloadRun for EncoderRun {
    fn parts(&self) -> Vec<String> {
        vec![self.workload.to_string()]
    }

    fn sample(&self, _: usize) -> Result<f64> {
        seconds(|| {
            self.plan.run()?;
            self.gpu.wait()
        })
    }

    fn figures(&self, parts: &[Spread], ceilings: &Ceilings) -> Result<Vec<Figure>> {
        let (name, run) = (self.workload.to_string(), parts[0]);
        let tokens = self.workload.tokens() as f64;
        let time = Figure::new(Section::Encoder, &format!("{name}, time"), "ms", run.map(|s| 1e3 * s));
        Ok(vec![
            Figure::new(Section::Encoder, &name, "tokens/s", run.map(|s| tokens / s)),
            time.with_work(&self.plan.work(), run.median, ceilings),
        ])
    }

    fn work(&self) -> Result<Vec<StepWork>> {
        Ok(self.plan.work())
    }

    fn profile(&self) -> Result<Vec<StepTime>> {
        pollster::block_on(self.plan.profile())
    }

    fn kernels(&self) -> Result<Vec<KernelUse>> {
        Ok(self.plan.kernels().to_vec())
    }

    fn outcome(&self) -> Result<WorkloadOutcome> {
        Ok(WorkloadOutcome::Encoder { states: pollster::block_on(self.plan.read("encoded"))?, width: self.width })
    }
}

impl Bench<'_, '_> {
    pub(super) fn encoder(&mut self, model: &Model, workload: &Workload) -> Result<()> {
        let run = EncoderRun::compile(model, workload)
            .map_err(|e| Needed::of(&model.config, false).explain(&self.options.subject, e))?;
        let spreads = self.time(&mut arms(&run))?;
        let figures = run.figures(&spreads, &self.report.ceilings)?;
        self.report.figures.extend(figures);
        if self.gpu.caps().timestamps {
            self.profile(Section::Encoder, &workload.to_string(), &run.profile()?);
        }
        Ok(())
    }

    /// Adds the table of a profiled step, and how its matrix products do.
    pub(super) fn profile(&mut self, section: Section, name: &str, steps: &[StepTime]) {
        let profile = self.report.add_profile(section, name, steps);
        let (seconds, work) = profile.products();
        if seconds > 0.0 {
            let once = |what: &str, unit, value| Figure::once(section, &format!("{name}, {what}"), unit, value);
            let share = 100.0 * seconds / profile.seconds();
            let rate = work.flops / seconds;
            let of_ceiling = 100.0 * self.report.ceilings.share(work, seconds);
            self.report.figures.push(once("share of time in matmul", "%", share));
            self.report.figures.push(once("rate in matmul", "GF/s", rate / 1e9));
            self.report
                .figures
                .push(once("rate in matmul of what its ceiling allows", "%", of_ceiling).higher_is_better());
        }
    }
}
