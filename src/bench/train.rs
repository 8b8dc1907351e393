//! A training step: forward, backward, optimiser; and whether the data can keep up.

use std::cell::{Cell, RefCell};

use super::ceilings::Ceilings;
use super::data::Pipeline;
use super::gate::{STEP_RATE, WorkloadOutcome};
use super::report::Figure;
use super::run::{WorkloadRun, arms};
use super::spread::{Arm, Spread, seconds};
use super::subject::Needed;
use super::trace::Trace;
use super::workload::Workload;
use super::{Bench, Section};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::gpu::{StepTime, StepWork};
use crate::model::Model;
use crate::plan::{KernelUse, Plan};
use crate::train::engine::{Engine, LossStats, Regularization};
use crate::train::optimizer::{OptimizerConfig, StepReport};

pub(super) struct TrainRun {
    workload: Workload,
    batch: Batch,
    engine: RefCell<Engine>,
    /// Steps so far.
    count: Cell<u64>,
    /// Of the latest step.
    report: Cell<Option<(LossStats, StepReport)>>,
}

impl TrainRun {
    pub fn compile(model: &Model, workload: &Workload) -> Result<TrainRun> {
        let regularization = Regularization { dropout: workload.dropout, ..Regularization::default() };
        let mut engine = Engine::new(model.clone(), regularization, &OptimizerConfig::adamw(), 1.0)?;
        engine.prepare(workload.shape())?;
        let batch = workload.batch(&model.config);
        let engine = RefCell::new(engine);
        Ok(TrainRun { workload: *workload, batch, engine, count: Cell::new(0), report: Cell::new(None) })
    }

    /// One step. With a rate of zero the weights stay those that the next step finds.
    fn step(&self, rate: f64) -> Result<()> {
        let mut engine = self.engine.borrow_mut();
        let number = self.count.replace(self.count.get() + 1);
        engine.begin_step();
        engine.micro_batch(&self.batch, [0, 0, number as u32, 0])?;
        let report = engine.finish_step(rate, number)?;
        self.report.set(Some(pollster::block_on(report.finish())?));
        Ok(())
    }

    fn loss(&self) -> Result<LossStats> {
        pollster::block_on(self.engine.borrow_mut().evaluate(&self.batch))
    }

    fn with_plan<T>(&self, f: impl FnOnce(&Plan, &Engine) -> Result<T>) -> Result<T> {
        let engine = self.engine.borrow();
        let plan = engine.plan(self.workload.shape());
        f(plan.ok_or_else(|| Error::Input("the training plan is gone".into()))?, &engine)
    }
}

impl WorkloadRun for TrainRun {
    fn parts(&self) -> Vec<String> {
        vec![self.workload.to_string()]
    }

    fn sample(&self, _: usize) -> Result<f64> {
        seconds(|| self.step(0.0))
    }

    fn figures(&self, parts: &[Spread], ceilings: &Ceilings) -> Result<Vec<Figure>> {
        let (section, name, step) = (Section::Train, self.workload.to_string(), parts[0]);
        let tokens = self.workload.tokens() as f64;
        let work = self.work()?;
        let flops: f64 = work.iter().map(|step| step.work.flops).sum();
        let of = |what: &str| format!("{name}, {what}");
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let [parameters, gradients, moments, activations] = self.engine.borrow().memory().map(mib);
        let live = self.with_plan(|plan, _| Ok(mib(plan.memory().live_maximum)))?;
        let of_ceiling = step.map(|s| 100.0 * flops / s / ceilings.flops);
        Ok(vec![
            Figure::new(section, &name, "tokens/s", step.map(|s| tokens / s)),
            Figure::new(section, &of("step"), "ms", step.map(|s| 1e3 * s)).with_work(&work, step.median, ceilings),
            Figure::new(section, &of("matmul and attention"), "GF/s", step.map(|s| flops / s / 1e9)),
            Figure::new(section, &of("of the matmul rate"), "%", of_ceiling).higher_is_better(),
            Figure::exact(section, &of("parameters"), "MiB", parameters),
            Figure::exact(section, &of("gradients"), "MiB", gradients),
            Figure::exact(section, &of("moments"), "MiB", moments),
            Figure::exact(section, &of("activations"), "MiB", activations),
            Figure::exact(section, &of("live activations at most"), "MiB", live),
        ])
    }

    fn work(&self) -> Result<Vec<StepWork>> {
        self.with_plan(|plan, engine| Ok([plan.work(), engine.optimizer.program().work()].concat()))
    }

    fn profile(&self) -> Result<Vec<StepTime>> {
        // The optimiser's moments take part.
        self.count.set(self.count.get() + 1);
        self.with_plan(|plan, engine| {
            let mut times = pollster::block_on(plan.profile())?;
            let end = times.last().map_or(0.0, |step| step.start + step.seconds);
            let optimizer = pollster::block_on(engine.optimizer.program().profile())?;
            times.extend(optimizer.into_iter().map(|step| StepTime { start: step.start + end, ..step }));
            Ok(times)
        })
    }

    fn kernels(&self) -> Result<Vec<KernelUse>> {
        self.with_plan(|plan, _| Ok(plan.kernels().to_vec()))
    }

    /// Loss and gradient of the latest timed step. A step after others of the same batch at a rate of zero is what a first step would
    /// be, since the moments' corrections cancel.
    fn outcome(&self) -> Result<WorkloadOutcome> {
        if self.report.get().is_none() {
            self.step(0.0)?;
        }
        let missing = || Error::Input("no training step has run".into());
        let (stats, report) = self.report.get().ok_or_else(missing)?;
        self.step(STEP_RATE)?;
        Ok(WorkloadOutcome::Train {
            loss: stats.mean_loss(),
            gradient_norm: report.grad_norm.into(),
            loss_after: self.loss()?.mean_loss(),
        })
    }
}

impl Bench<'_, '_> {
    pub(super) fn train(&mut self, model: &Model, workload: &Workload) -> Result<()> {
        let section = Section::Train;
        let subject = &self.options.subject;
        let run =
            TrainRun::compile(model, workload).map_err(|e| Needed::of(&model.config, true).explain(subject, e))?;
        let pipeline = Pipeline::open(self.options, workload.source_len, workload.batch)?;
        let program_time = || pollster::block_on(run.engine.borrow().optimizer.program().time(1));
        let mut all = arms(&run);
        all.push(Arm::new("loss alone", || seconds(|| run.loss().map(drop))));
        all.push(Arm::new("optimiser alone", program_time));
        all.push(Arm::new("text to batches", || pipeline.run()));
        let spreads = self.time(&mut all)?;
        drop(all);
        let [step, loss, optimizer, data] = [0, 1, 2, 3].map(|arm: usize| spreads[arm]);
        let ceilings = self.report.ceilings.clone();
        let mut figures = run.figures(&spreads, &ceilings)?;
        let of = |what: &str| format!("{workload}, {what}");
        let optimizer_work = run.engine.borrow().optimizer.program().work();
        let tokens = workload.tokens() as f64;
        figures.extend([
            Figure::new(section, &of("loss alone"), "ms", loss.map(|s| 1e3 * s)),
            Figure::new(section, &of("optimiser alone"), "ms", optimizer.map(|s| 1e3 * s)).with_work(
                &optimizer_work,
                optimizer.median,
                &ceilings,
            ),
            Figure::new(
                section,
                &format!("text to batches on one core, tokenizer {}", pipeline.name),
                "tokens/s",
                data,
            ),
            Figure::new(
                section,
                "the same, over the training step's",
                "x",
                data.map(|rate| rate * step.median / tokens),
            )
            .higher_is_better(),
        ]);
        self.report.figures.extend(figures);
        if self.gpu.caps().timestamps {
            let times = run.profile()?;
            self.profile(section, &workload.to_string(), &times);
            if self.options.trace {
                self.traces.push(Trace { name: format!("training step, {workload}"), steps: times });
            }
        }
        Ok(())
    }
}
