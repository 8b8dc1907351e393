//! The training loop.

mod opening;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::engine::{Engine, PendingReport};
use super::evaluate::{Best, Evaluator};
use super::examples::Sources;
use super::inputs::Inputs;
pub use super::log::LOG;
use super::log::{Event, Log, StepLog};
use super::optimizer::StepReport;
use super::settings::Settings;
use super::state::State;
use super::tensorboard;
use super::window::{Session, Window};
use crate::data::prefetch::{Prefetch, Ready};
use crate::data::stream::BatchPosition;
use crate::error::{Error, Result};
use crate::model::{Learns, T5Config};
use crate::run_folder::RunFolder;
use crate::tokenizer::Tokenizer;

/// The checkpoint that a run continues from: a HuggingFace folder with `training_state/`.
pub const LAST: &str = "last";
/// The checkpoint of the best evaluation: a HuggingFace folder.
pub const BEST: &str = "best";
/// What training writes into its folder.
pub const FILES: [&str; 4] = [LAST, BEST, LOG, tensorboard::FOLDER];

/// Steps that changed nothing, one after the other, after which a run gives up.
const MOST_SKIPPED: u64 = 20;

const DIVERGED: &str = "training diverged: lower the learning rate (--lr), warm up longer (--warmup) or clip (--clip); the \
                        last checkpoint is as it was";

/// A run in its folder.
pub struct Trainer {
    pub(super) engine: Engine,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) sources: Sources,
    batches: Prefetch<Inputs>,
    pub(super) evaluator: Option<Evaluator>,
    pub(super) state: State,
    folder: RunFolder,
    log: Log,
    /// The report of the last step submitted: read when the next one is on its way, so that the device never waits.
    pending: Option<(u64, PendingReport)>,
    window: Window,
    /// Passes over the data.
    passes: f64,
    remarks: Vec<String>,
}

/// Hooks: one that sees the events of a run, and one that may stop it.
pub struct Hooks<'a> {
    pub observe: &'a mut dyn FnMut(&Event),
    /// Asked after each step, and within evaluations.
    pub should_stop: &'a crate::generate::ShouldStop<'a>,
    /// Whether the time is up: asked after each step. An evaluation is finished all the same.
    pub is_late: &'a dyn Fn() -> bool,
}

/// How [`Trainer::run`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// Evaluations no longer improved, or [`Trainer::end_here`] said so.
    EndedEarly {
        step: u64,
    },
    /// `should_stop` or `is_late` said so; the checkpoint of this step is saved.
    Stopped {
        step: u64,
    },
}

impl Trainer {
    /// Makes the step that a stopped run is at its last one, for good, and evaluates it.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn end_here(&mut self, mut hooks: Hooks<'_>) -> Result<Outcome> {
        self.state.ended_early = true;
        self.save(LAST, &mut hooks)?;
        self.run(hooks)
    }

    /// Begins the data again.
    pub(super) fn rewind(&mut self) -> Result<()> {
        self.state.position = BatchPosition::default();
        let config = &self.engine.model.config;
        let batches = self.sources.stream(config, &self.state.position)?;
        self.batches = Inputs::prefetch(batches, self.state.settings.prefetch, config)?;
        Ok(())
    }

    /// Trains to the last step, or until told to stop. Checkpoints are only taken behind steps that changed the weights.
    ///
    /// # Errors
    /// The loss is no number, gradients keep failing to be finite or do so at the end, the device or the disk fails. The
    /// last checkpoint stays as it is.
    pub fn run(&mut self, mut hooks: Hooks<'_>) -> Result<Outcome> {
        self.state.settings.settle();
        if self.state.settings.learns == Learns::Gradual {
            let T5Config { num_layers, num_decoder_layers, .. } = self.engine.model.config;
            let blocks = num_layers.max(num_decoder_layers) as u64;
            let Settings { steps, unfreeze_every, .. } = &mut self.state.settings;
            unfreeze_every.get_or_insert((*steps / blocks).max(1));
        }
        let Settings { steps, eval_every, save_every, .. } = self.state.settings;
        let schedule = self.state.settings.lr_schedule();
        let due =
            |step: u64, every: Option<u64>| step == steps || every.is_some_and(|every| step.is_multiple_of(every));
        let session = Session { start: Instant::now(), first_step: self.state.step, elapsed: self.state.elapsed };
        self.window = Window::new(self.state.tokens);
        // What a stop at this step put off.
        let step = self.state.step;
        let has_ended = step >= steps || self.state.ended_early;
        if (due(step, eval_every) || has_ended) && self.state.evaluated.is_some_and(|evaluated| evaluated < step) {
            if !self.evaluate(&mut hooks)? {
                return Ok(Outcome::Stopped { step });
            }
            if has_ended {
                self.save(LAST, &mut hooks)?;
            }
        }
        let mut to_save = false;
        while self.state.step < steps && !self.state.ended_early {
            let lr = self.state.settings.optimizer.rate(schedule.lr(self.state.step), self.state.step);
            self.train_step(lr, &mut hooks)?;
            let step = self.state.step;
            if self.state.settings.norms_every.is_some_and(|every| step.is_multiple_of(every)) {
                self.log_norms(&mut hooks)?;
            }
            let mut stop = ((hooks.should_stop)() || (hooks.is_late)()) && step < steps;
            if stop || self.log_is_due() {
                self.log_steps(lr, &session, &mut hooks)?;
            }
            if due(step, eval_every) && !stop {
                stop = !self.evaluate(&mut hooks)?;
            }
            to_save |= stop || due(step, save_every) || self.state.ended_early;
            if to_save {
                self.finish_pending(&mut hooks)?;
            }
            // In the middle of a divergence the checkpoint before it is worth more.
            if to_save && self.state.skipped_in_a_row == 0 {
                self.state.elapsed = session.total();
                self.save(LAST, &mut hooks)?;
                to_save = false;
            }
            if stop && !to_save {
                return Ok(Outcome::Stopped { step });
            }
        }
        if to_save {
            let (step, idle) = (self.state.step, self.state.skipped_in_a_row);
            return Err(Error::Numeric(format!("step {step}: the last {idle} steps changed nothing; {DIVERGED}")));
        }
        Ok(if self.state.ended_early { Outcome::EndedEarly { step: self.state.step } } else { Outcome::Finished })
    }

    /// Submits one step, then hears of the step before it.
    fn train_step(&mut self, lr: f64, hooks: &mut Hooks<'_>) -> Result<()> {
        let step = self.state.step;
        let report = self.submit_step(lr)?;
        self.state.step += 1;
        let before = self.pending.replace((step + 1, report));
        self.record_kernels(hooks)?;
        self.account(before, hooks)
    }

    /// Writes down which kernels were chosen for new plans, before anything that they computed is saved.
    fn record_kernels(&mut self, hooks: &mut Hooks<'_>) -> Result<()> {
        let (tuner, step) = (self.engine.model.tuner.clone(), self.state.step);
        for what in tuner.warnings() {
            self.tell(&Event::Warning { step, what }, hooks)?;
        }
        let choices = tuner.new_decisions();
        if choices.is_empty() {
            return Ok(());
        }
        let named = choices.iter().map(|choice| (choice.class.clone(), choice.variant.clone()));
        self.state.kernels.get_or_insert_default().extend(named);
        self.tell(&Event::Kernels { step, seconds: tuner.spent().as_secs_f64(), choices }, hooks)
    }

    pub(super) fn submit_step(&mut self, lr: f64) -> Result<PendingReport> {
        let Settings { seed, accumulate, .. } = self.state.settings;
        if self.state.settings.learns == Learns::Gradual {
            self.engine.unfreeze(self.state.settings.unfrozen(self.state.step));
        }
        self.engine.begin_step();
        for pass in 0..accumulate as u64 {
            let index = self.state.step * accumulate as u64 + pass;
            let Ready { batch, next, passes } = self.batches.next_batch()?;
            self.state.tokens += batch.n_tokens;
            self.state.flops += self.engine.flops(batch.shape)?;
            self.window.positions += batch.n_positions;
            (self.state.position, self.passes) = (next, passes);
            let halves = |x: u64| [x as u32, (x >> 32) as u32];
            let ([a, b], [c, d]) = (halves(seed), halves(index));
            self.engine.micro_batch_of(&batch, [a, b, c, d])?;
        }
        self.engine.finish_step(lr, self.state.step)
    }

    fn finish_pending(&mut self, hooks: &mut Hooks<'_>) -> Result<()> {
        let pending = self.pending.take();
        self.account(pending, hooks)
    }

    fn account(&mut self, report: Option<(u64, PendingReport)>, hooks: &mut Hooks<'_>) -> Result<()> {
        let Some((step, report)) = report else { return Ok(()) };
        let (stats, report) = pollster::block_on(report.finish())?;
        if !stats.loss.is_finite() {
            return Err(Error::Numeric(format!("step {step}: the loss is {}; {DIVERGED}", stats.mean_loss())));
        }
        self.window.stats.add(&stats);
        self.window.last = report;
        let why = match report {
            StepReport { skipped: true, .. } => "the gradient is not finite",
            StepReport { grad_norm: 0.0, .. } if stats.loss > 0.0 => "the gradient is 0, and the loss is not",
            _ => {
                self.state.skipped_in_a_row = 0;
                return Ok(());
            }
        };
        self.state.skipped += 1;
        self.state.skipped_in_a_row += 1;
        if self.state.skipped_in_a_row == MOST_SKIPPED {
            return Err(Error::Numeric(format!("step {step}: {why}, for {MOST_SKIPPED} steps now; {DIVERGED}")));
        }
        let what = format!("{why}: this step changes nothing");
        self.tell(&Event::Warning { step, what }, hooks)
    }

    fn log_is_due(&self) -> bool {
        let Settings { steps, log_every, .. } = self.state.settings;
        let step = self.state.step;
        let by_time = log_every == 0 && self.window.start.elapsed() >= Duration::from_secs(1);
        step == steps || by_time || (log_every > 0 && step.is_multiple_of(log_every))
    }

    fn log_steps(&mut self, lr: f64, session: &Session, hooks: &mut Hooks<'_>) -> Result<()> {
        self.finish_pending(hooks)?;
        let (state, window) = (&self.state, &self.window);
        let tokens = (state.tokens - window.first_token) as f64;
        let seconds = window.start.elapsed().as_secs_f64().max(1e-9);
        let event = Event::Step(StepLog {
            step: state.step,
            steps: state.settings.steps,
            epoch: self.passes,
            loss: window.stats.mean_loss(),
            accuracy: window.stats.accuracy(),
            lr,
            grad_norm: window.last.grad_norm,
            clip: window.last.clip,
            skipped: state.skipped,
            tokens: state.tokens,
            flops: state.flops,
            tokens_per_second: tokens / seconds,
            padding: 1.0 - tokens / (window.positions as f64).max(1.0),
            elapsed: session.total(),
            time_left: session.seconds_per_step(state.step) * (state.settings.steps - state.step) as f64,
        });
        self.tell(&event, hooks)?;
        self.window = Window::new(self.state.tokens);
        Ok(())
    }

    fn log_norms(&mut self, hooks: &mut Hooks<'_>) -> Result<()> {
        self.finish_pending(hooks)?;
        let step = self.state.step;
        match pollster::block_on(self.engine.norms())? {
            Some(norms) => self.tell(&Event::Norms { step, norms }, hooks),
            None => Ok(()),
        }
    }

    /// Whether it was done: an evaluation that is stopped leaves everything as it was, and is done again later.
    fn evaluate(&mut self, hooks: &mut Hooks<'_>) -> Result<bool> {
        self.finish_pending(hooks)?;
        let step = self.state.step;
        let Some(evaluator) = &mut self.evaluator else {
            self.state.evaluated = Some(step);
            return Ok(true);
        };
        let engine = &mut self.engine;
        let mut loss_of = |batch: &_| pollster::block_on(engine.evaluate(batch));
        let Some(evaluation) = evaluator.evaluate(&mut loss_of, &self.tokenizer, hooks.should_stop)? else {
            return Ok(false);
        };
        self.state.evaluated = Some(step);
        let metric = evaluator.best_metric(&self.state.settings).unwrap_or_default();
        self.record_kernels(hooks)?;
        for (name, task) in &evaluation.tasks {
            if !task.loss.is_finite() {
                return Err(Error::Numeric(format!("step {step}: the loss on {name} is {}", task.loss)));
            }
        }
        let (value, higher) = evaluation.figure(&metric)?;
        let task = metric.rsplit_once('/').and_then(|(task, _)| evaluation.tasks.get(task));
        let this = Best { step, metric: metric.clone(), value, loss: task.map(|task| task.loss) };
        let best = self.state.best.as_ref().is_none_or(|best| best.is_beaten(&this, higher));
        let seconds = evaluation.seconds;
        self.tell(&Event::Evaluation { step, evaluation, metric, value, best }, hooks)?;
        if best {
            self.state.best = Some(this);
            self.state.evaluations_since_best = 0;
            self.save(BEST, hooks)?;
        } else {
            self.state.evaluations_since_best += 1;
        }
        let evaluations = self.state.evaluations_since_best;
        if self.state.settings.patience.is_some_and(|patience| evaluations >= patience)
            && step < self.state.settings.steps
        {
            self.state.ended_early = true;
            self.tell(&Event::EndsEarly { step, evaluations }, hooks)?;
        }
        // The time that it took says nothing about the speed of training.
        self.window.start += Duration::from_secs_f64(seconds);
        Ok(true)
    }

    fn save(&mut self, name: &str, hooks: &mut Hooks<'_>) -> Result<()> {
        let folder = self.folder.path().join(name);
        let dir = self.folder.begin(name)?;
        self.engine.model.save(dir.path())?;
        self.tokenizer.save(dir.path())?;
        if name == LAST {
            self.state.save(dir.path(), &self.engine)?;
        }
        dir.commit()?;
        (hooks.observe)(&Event::Saved { step: self.state.step, folder });
        Ok(())
    }

    fn tell(&mut self, event: &Event, hooks: &mut Hooks<'_>) -> Result<()> {
        self.folder.check()?;
        self.log.append(event)?;
        (hooks.observe)(event);
        Ok(())
    }

    pub fn settings(&self) -> &Settings {
        &self.state.settings
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    pub fn best(&self) -> Option<&Best> {
        self.state.best.as_ref()
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Worth telling the user before training begins.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }
}
