//! Training under the eyes of someone: who is told of a run, who may stop it, and how long it may take.

use std::time::Duration;

use super::stage::Budget;
use crate::error::Result;
use crate::generate::ShouldStop;
use crate::gpu::{Gpu, Stopwatch};
use crate::train::evaluate::Evaluation;
use crate::train::{Event, Hooks, Outcome, Trainer};
use crate::tune::Tuner;

/// A stage with a time limit stops when training takes this much longer than was asked for.
const PATIENCE: f64 = 1.15;

/// Who watches, who may stop, and who chooses kernels.
pub struct Conductor<'a> {
    pub watch: &'a mut dyn Watch,
    pub should_stop: &'a ShouldStop<'a>,
    /// The tuner of a stage of so many passes over the device, which may take so long if that is limited.
    pub tuner: &'a dyn Fn(&Gpu, u64, Option<Duration>) -> Tuner,
}

/// What is told of a run.
pub trait Watch {
    fn remark(&mut self, text: &str);
    /// Training begins or goes on.
    fn training(&mut self, stage: &str, trainer: &Trainer);
    fn event(&mut self, event: &Event);
    /// An evaluation is done; `new` unless an earlier start did it.
    fn evaluated(&mut self, stage: &str, evaluation: &Evaluation);
    /// Training is over for now.
    fn trained(&mut self, trainer: &Trainer, outcome: Outcome);
}

/// Runs a trainer to its end or until it is stopped. With a `budget`, the number of steps is fixed first; a time is counted
/// from `begin` and without what goes into compiling kernels.
///
/// # Errors
/// As [`Trainer::run`].
pub fn drive(
    trainer: &mut Trainer,
    stage: &str,
    budget: Option<Budget>,
    begin: Stopwatch,
    conductor: &mut Conductor<'_>,
) -> Result<Outcome> {
    trainer.remarks().iter().for_each(|remark| conductor.watch.remark(remark));
    let limit = budget.and_then(Budget::time);
    match budget {
        None => {}
        Some(Budget::Minutes(_)) => {
            conductor.watch.remark("measuring the speed of training to fix the number of steps");
            trainer.fit_steps(limit.unwrap_or_default().saturating_sub(begin.elapsed()))?;
        }
        Some(Budget::Tokens(tokens)) => trainer.count_steps(tokens, |load| load.tokens)?,
        Some(Budget::Flops(flops)) => trainer.count_steps(flops, |load| load.flops)?,
    }
    conductor.watch.training(stage, trainer);
    let training = trainer.engine().model.gpu.stopwatch();
    let late = || limit.is_some_and(|time| training.elapsed() > time.mul_f64(PATIENCE));
    let Conductor { watch, should_stop, .. } = conductor;
    let outcome = trainer.run(Hooks {
        observe: &mut |event: &Event| watch.event(event),
        should_stop: *should_stop,
        is_late: &late,
    })?;
    watch.trained(trainer, outcome);
    Ok(outcome)
}
