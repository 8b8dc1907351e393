//! The encoder over whole batches.

use super::report::Figure;
use super::spread::{Arm, seconds};
use super::subject::{Needed, random_batch};
use super::{Bench, Section};
use crate::batch::BatchShape;
use crate::error::Result;
use crate::model::{Builder, Model};
use crate::plan::{Plan, PlanOptions, SlotPool};

impl Bench<'_, '_> {
    pub(super) fn encoder(&mut self, model: &Model) -> Result<()> {
        let section = Section::Encoder;
        let shape = BatchShape {
            batch: self.options.batch(self.gpu),
            src_len: self.options.source_len.unwrap_or(512),
            tgt_len: 1,
            packed: false,
        };
        let mut builder = Builder::new(model, shape, 0.0);
        let encoded = builder.encoder();
        let options = PlanOptions { bind: &|name| model.bind(name), pool: &SlotPool::new() };
        let plan = Plan::compile(self.gpu, &builder.graph, &[("encoded", encoded)], &options)
            .map_err(|e| Needed::of(&model.config, false).explain(&self.options.subject, e))?;
        let batch = random_batch(shape, model.config.vocab_size);
        plan.write("src_ids", &batch.src_ids);
        plan.write("src_lens", &batch.src_lens);
        let name = format!("{} x {} tokens", shape.batch, shape.src_len);
        let gpu = self.gpu;
        let mut arms = [Arm::new(format!("encoder {name}"), || {
            seconds(|| {
                plan.run()?;
                gpu.wait()
            })
        })];
        let spread = self.time(&mut arms)?[0];
        let tokens = (shape.batch * shape.src_len) as f64;
        self.report.figures.push(Figure::new(section, &name, "tokens/s", spread.map(|s| tokens / s)));
        let time = Figure::new(section, &format!("{name}, time"), "ms", spread.map(|s| 1e3 * s));
        self.report.figures.push(time.with_work(&plan.work(), spread.median, &self.report.ceilings));
        if self.gpu.caps().timestamps {
            let steps = pollster::block_on(plan.profile())?;
            self.profile(section, &name, &steps);
        }
        Ok(())
    }

    /// Adds the table of a profiled step, and how its matrix products do.
    pub(super) fn profile(&mut self, section: Section, name: &str, steps: &[crate::gpu::StepTime]) {
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
