//! A training step: forward, backward, optimiser; and whether the data can keep up.

use super::data::Pipeline;
use super::report::Figure;
use super::spread::{Arm, seconds};
use super::subject::{Needed, random_batch};
use super::trace::Trace;
use super::{Bench, Section};
use crate::batch::BatchShape;
use crate::error::Result;
use crate::gpu::StepWork;
use crate::model::Model;
use crate::train::engine::{Engine, Regularization};
use crate::train::optimizer::OptimizerConfig;

impl Bench<'_, '_> {
    pub(super) fn train(&mut self, model: Model) -> Result<()> {
        let section = Section::Train;
        let shape = BatchShape {
            batch: self.options.batch(self.gpu),
            src_len: self.options.source_len.unwrap_or(512),
            tgt_len: self.options.target_len.unwrap_or(114),
            packed: false,
        };
        let needed = Needed::of(&model.config, true);
        let subject = &self.options.subject;
        let batch = random_batch(shape, model.config.vocab_size);
        let mut engine = Engine::new(
            model,
            Regularization { dropout: 0.1, ..Regularization::default() },
            &OptimizerConfig::adamw(),
            1.0,
        )
        .map_err(|e| needed.explain(subject, e))?;
        engine.prepare(shape).map_err(|e| needed.explain(subject, e))?;

        let name = format!("{} x ({} + {}) tokens", shape.batch, shape.src_len, shape.tgt_len);
        let tokens = (shape.batch * (shape.src_len + shape.tgt_len)) as f64;
        let pipeline = Pipeline::open(self.options, shape.src_len, shape.batch)?;
        let engine = std::cell::RefCell::new(engine);
        let mut number = 0;
        let mut arms = [
            Arm::new(format!("training step {name}"), || {
                let mut engine = engine.borrow_mut();
                seconds(|| {
                    engine.begin_step();
                    engine.micro_batch(&batch, [0, 0, number as u32, 0])?;
                    // A learning rate of zero: the weights stay those that the next run finds.
                    let report = engine.finish_step(0.0, number)?;
                    number += 1;
                    pollster::block_on(report.finish()).map(drop)
                })
            }),
            Arm::new("loss alone", || {
                let mut engine = engine.borrow_mut();
                seconds(|| pollster::block_on(engine.evaluate(&batch)).map(drop))
            }),
            Arm::new("optimiser alone", || pollster::block_on(engine.borrow().optimizer.program().time(1))),
            Arm::new("text to batches", || pipeline.run()),
        ];
        let spreads = self.time(&mut arms)?;
        drop(arms);
        let engine = engine.into_inner();
        let Some(plan) = engine.plan(shape) else { return Ok(()) };
        let steps: Vec<StepWork> = [plan.work(), engine.optimizer.program().work()].concat();
        let ceilings = self.report.ceilings.clone();
        let flops: f64 = steps.iter().map(|step| step.work.flops).sum();
        let of = |what: &str| format!("{name}, {what}");
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let [parameters, gradients, moments, activations] = engine.memory().map(mib);
        let figures = [
            Figure::new(section, &name, "tokens/s", spreads[0].map(|s| tokens / s)),
            Figure::new(section, &of("step"), "ms", spreads[0].map(|s| 1e3 * s)).with_work(
                &steps,
                spreads[0].median,
                &ceilings,
            ),
            Figure::new(section, &of("loss alone"), "ms", spreads[1].map(|s| 1e3 * s)),
            Figure::new(section, &of("optimiser alone"), "ms", spreads[2].map(|s| 1e3 * s)).with_work(
                &engine.optimizer.program().work(),
                spreads[2].median,
                &ceilings,
            ),
            Figure::new(section, &of("matmul and attention"), "GF/s", spreads[0].map(|s| flops / s / 1e9)),
            Figure::new(
                section,
                &of("of the matmul rate"),
                "%",
                spreads[0].map(|s| 100.0 * flops / s / ceilings.flops),
            )
            .higher_is_better(),
            Figure::exact(section, &of("parameters"), "MiB", parameters),
            Figure::exact(section, &of("gradients"), "MiB", gradients),
            Figure::exact(section, &of("moments"), "MiB", moments),
            Figure::exact(section, &of("activations"), "MiB", activations),
            Figure::exact(section, &of("live activations at most"), "MiB", mib(plan.memory().live_maximum)),
            Figure::new(
                section,
                &format!("text to batches on one core, tokenizer {}", pipeline.name),
                "tokens/s",
                spreads[3],
            ),
            Figure::new(
                section,
                "the same, over the training step's",
                "x",
                spreads[3].map(|rate| rate * spreads[0].median / tokens),
            )
            .higher_is_better(),
        ];
        self.report.figures.extend(figures);
        if self.gpu.caps().timestamps {
            let mut times = pollster::block_on(plan.profile())?;
            let end = times.last().map_or(0.0, |step| step.start + step.seconds);
            let optimizer = pollster::block_on(engine.optimizer.program().profile())?;
            times.extend(optimizer.into_iter().map(|step| crate::gpu::StepTime { start: step.start + end, ..step }));
            self.profile(section, &name, &times);
            if self.options.trace {
                self.traces.push(Trace { name: format!("training step, {name}"), steps: times });
            }
        }
        Ok(())
    }
}
