//! The training loop.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::engine::{Engine, LossStats, PendingReport};
use super::evaluate::{Best, Evaluator};
use super::examples::{Examples, Opened};
use super::log::{Event, Log, StepLog};
use super::optimizer::StepReport;
use super::settings::Settings;
use super::state::State;
use crate::checkpoint::{AtomicDir, recover};
use crate::data::{Batch, BatchOptions, BatchStream};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::{BatchShape, Model};
use crate::tokenizer::Tokenizer;
use crate::tune::Tuner;

/// The checkpoint that a run continues from: a HuggingFace folder with `training_state/`.
pub const LAST: &str = "last";
/// The checkpoint of the best evaluation: a HuggingFace folder.
pub const BEST: &str = "best";
/// One JSON object for each [`Event`] but [`Event::Saved`].
pub const LOG: &str = "log.jsonl";

/// Steps without a finite gradient, one after the other, after which a run gives up.
const MOST_SKIPPED: u64 = 20;

/// A run in its folder.
pub struct Trainer {
    pub(super) engine: Engine,
    pub(super) tokenizer: Tokenizer,
    batches: BatchStream<Examples>,
    pub(super) evaluator: Option<Evaluator>,
    pub(super) state: State,
    out: PathBuf,
    log: Log,
    /// The report of the last step submitted: read when the next one is on its way, so that the device never waits.
    pending: Option<(u64, PendingReport)>,
    window: Window,
    remarks: Vec<String>,
}

/// Who watches a run, and who may stop it.
pub struct Hooks<'a> {
    pub observe: &'a mut dyn FnMut(&Event),
    /// Asked after each step.
    pub should_stop: &'a dyn Fn() -> bool,
}

/// How [`Trainer::run`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// `should_stop` said so; the checkpoint of this step is saved.
    Stopped {
        step: u64,
    },
}

/// Sums since the last log line.
struct Window {
    start: Instant,
    first_token: u64,
    stats: LossStats,
    last: StepReport,
}

impl Trainer {
    /// A new run in the folder `out`, which is created. `overwrite` removes a run that is there; without, that is an
    /// error.
    ///
    /// # Errors
    /// Settings that cannot be used, data that cannot be read, ids that the model has no embedding for, a folder that
    /// cannot be written or holds a run.
    pub fn create(
        model: Model,
        tokenizer: Tokenizer,
        settings: Settings,
        out: &Path,
        overwrite: bool,
    ) -> Result<Trainer> {
        Trainer::refuse_run(out, overwrite)?;
        let opened = Examples::open(&settings, &tokenizer)?;
        let mut state = State::new(settings, opened.training.fingerprint());
        state.kernels = model.tuner.is_on().then(Default::default);
        // Only once everything else is known to be right may an old run go.
        Trainer::assemble(model, tokenizer, state, opened, out, || {
            fs::create_dir_all(out).map_err(Error::io("create", out))?;
            let log = Log::create(&out.join(LOG))?;
            for folder in [LAST, BEST].map(|name| out.join(name)).iter().filter(|folder| folder.exists()) {
                fs::remove_dir_all(folder).map_err(Error::io("remove", folder))?;
            }
            Ok(log)
        })
    }

    /// The error of [`Trainer::create`] for a folder that holds a run, before anything is loaded.
    pub fn refuse_run(out: &Path, overwrite: bool) -> Result<()> {
        for folder in [BEST, LAST] {
            recover(out.join(folder))?;
        }
        match [LAST, BEST, LOG].map(|name| out.join(name)).iter().find(|path| path.exists()) {
            Some(found) if !overwrite => {
                let what = "a run is in this folder already: continue it with --resume, replace it with --overwrite, or \
                            choose another folder";
                Err(Error::file(found, what))
            }
            _ => Ok(()),
        }
    }

    /// Continues the run in `out` from its last checkpoint. `state` is that checkpoint's, as [`Trainer::load_state`]
    /// gives it; its number of steps may have been raised. `tuner` chooses kernels for shapes that the run has not met; all
    /// others keep those that they had.
    ///
    /// # Errors
    /// As [`Trainer::create`], and if the training data are not what they were.
    pub fn resume(gpu: &Gpu, tuner: &Tuner, mut state: State, out: &Path) -> Result<Trainer> {
        let last = out.join(LAST);
        let (mut model, _) = Model::load(gpu, &last)?;
        // A run that went by the rules goes on by the rules.
        if let Some(kernels) = &mut state.kernels {
            kernels.extend(Log::kernels(&out.join(LOG))?);
            model.tuner = tuner.continuing(kernels.clone());
        }
        let tokenizer = Tokenizer::from_dir(&last)?;
        let opened = Examples::open(&state.settings, &tokenizer)?;
        if format!("{:016x}", opened.training.fingerprint()) != state.data {
            let what = "the training data changed since this run began: it cannot be continued as if nothing had happened \
                        (fine-tune from this folder instead, with --model)";
            return Err(Error::file(&last, what));
        }
        let step = state.step;
        let open_log = || Log::resume(&out.join(LOG), step);
        let trainer = Trainer::assemble(model, tokenizer, state, opened, out, open_log)?;
        State::load_moments(&last, gpu, &trainer.engine.optimizer)?;
        Ok(trainer)
    }

    /// The state of the run in `out`; `None` if it has not reached its first checkpoint or there is no run.
    pub fn load_state(out: &Path) -> Result<Option<State>> {
        recover(out.join(BEST))?;
        recover(out.join(LAST))?;
        if out.join(LAST).exists() { State::load(&out.join(LAST)).map(Some) } else { Ok(None) }
    }

    fn assemble(
        model: Model,
        tokenizer: Tokenizer,
        state: State,
        opened: Opened,
        out: &Path,
        open_log: impl FnOnce() -> Result<Log>,
    ) -> Result<Trainer> {
        let settings = &state.settings;
        settings.check()?;
        let config = model.config.clone();
        let mut remarks = opened.remarks;
        remarks.push(format!("training on {}", opened.training.describe()));
        opened.training.check_vocab(config.vocab_size)?;
        if let Some(held_out) = &opened.held_out {
            held_out.check_vocab(config.vocab_size)?;
            remarks.push(format!("evaluating on {}", held_out.describe()));
        }
        if !config.eos_token_id.contains(&tokenizer.eos()) {
            remarks.push(format!(
                "the tokenizer ends texts with id {}, the model's configuration with {:?}: answers may not end",
                tokenizer.eos(),
                config.eos_token_id
            ));
        }
        let options = BatchOptions {
            batch_size: settings.batch_size,
            seed: settings.seed,
            pad: config.pad_token_id,
            decoder_start: config.decoder_start_token_id,
            ..BatchOptions::default()
        };
        let batches = BatchStream::new(opened.training, options)?;
        let evaluator = opened.held_out.map(|held_out| Evaluator::new(held_out, settings, &model, &tokenizer));
        let evaluator = evaluator.transpose()?;
        let engine = Engine::new(model, settings.objective(), &settings.optimizer, settings.clip)?;
        let mut engine = engine.with_recompute(settings.recompute);
        // The largest first: later plans share its memory, and too little of it shows now.
        let (batch, src_len, tgt_len) = batches.largest_shape();
        engine.prepare(BatchShape { batch, src_len, tgt_len })?;
        let window = Window::new(state.tokens);
        let (out, pending, log) = (out.to_path_buf(), None, open_log()?);
        Ok(Trainer { engine, tokenizer, batches, evaluator, state, out, log, pending, window, remarks })
    }

    /// Trains to the last step, or until told to stop. Checkpoints are only taken between steps.
    ///
    /// # Errors
    /// The loss is no number, gradients keep failing to be finite, the device or the disk fails. The last checkpoint
    /// stays as it is.
    pub fn run(&mut self, mut hooks: Hooks<'_>) -> Result<Outcome> {
        self.state.settings.settle();
        let Settings { steps, eval_every, save_every, .. } = self.state.settings;
        let schedule = self.state.settings.lr_schedule();
        let due =
            |step: u64, every: Option<u64>| step == steps || every.is_some_and(|every| step.is_multiple_of(every));
        let session = Session { start: Instant::now(), first_step: self.state.step, elapsed: self.state.elapsed };
        self.window = Window::new(self.state.tokens);
        while self.state.step < steps {
            let lr = schedule.lr(self.state.step);
            self.train_step(lr, &mut hooks)?;
            let step = self.state.step;
            let stop = (hooks.should_stop)() && step < steps;
            if stop || self.log_is_due() {
                self.log_steps(lr, &session, &mut hooks)?;
            }
            if due(step, eval_every) && !stop {
                self.evaluate(&mut hooks)?;
            }
            if stop || due(step, save_every) {
                self.finish_pending(&mut hooks)?;
                self.state.elapsed = session.total();
                self.save(LAST, &mut hooks)?;
            }
            if stop {
                return Ok(Outcome::Stopped { step });
            }
        }
        Ok(Outcome::Finished)
    }

    /// Submits one step, then hears of the step before it.
    fn train_step(&mut self, lr: f64, hooks: &mut Hooks<'_>) -> Result<()> {
        let step = self.state.step;
        let before = self.pending.take();
        self.submit_step(lr)?;
        self.state.step += 1;
        self.pending = Some((step + 1, self.engine.start_report()?));
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

    pub(super) fn submit_step(&mut self, lr: f64) -> Result<()> {
        let Settings { seed, accumulate, .. } = self.state.settings;
        self.engine.begin_step();
        for pass in 0..accumulate as u64 {
            let index = self.state.step * accumulate as u64 + pass;
            let batch = self.batches.get(index)?;
            self.state.tokens += real_tokens(&batch);
            let halves = |x: u64| [x as u32, (x >> 32) as u32];
            let ([a, b], [c, d]) = (halves(seed), halves(index));
            self.engine.micro_batch(&batch, [a, b, c, d])?;
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
        let remedy = "training diverged: lower the learning rate (--lr), warm up longer (--warmup) or clip (--clip); the \
                      last checkpoint is as it was";
        if !stats.loss.is_finite() {
            return Err(Error::Numeric(format!("step {step}: the loss is {}; {remedy}", stats.mean_loss())));
        }
        self.window.stats.add(&stats);
        self.window.last = report;
        if !report.skipped {
            self.state.skipped_in_a_row = 0;
            return Ok(());
        }
        self.state.skipped += 1;
        self.state.skipped_in_a_row += 1;
        if self.state.skipped_in_a_row == MOST_SKIPPED {
            return Err(Error::Numeric(format!(
                "step {step}: the gradient was not finite for {MOST_SKIPPED} steps; {remedy}"
            )));
        }
        let what = "the gradient is not finite: this step changes nothing".into();
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
        let accumulated = state.step * state.settings.accumulate as u64;
        let seconds = window.start.elapsed().as_secs_f64().max(1e-9);
        let event = Event::Step(StepLog {
            step: state.step,
            steps: state.settings.steps,
            epoch: accumulated as f64 / self.batches.batches_per_epoch() as f64,
            loss: window.stats.mean_loss(),
            accuracy: window.stats.accuracy(),
            lr,
            grad_norm: window.last.grad_norm,
            clip: window.last.clip,
            skipped: state.skipped,
            tokens: state.tokens,
            tokens_per_second: (state.tokens - window.first_token) as f64 / seconds,
            elapsed: session.total(),
            time_left: session.seconds_per_step(state.step) * (state.settings.steps - state.step) as f64,
        });
        self.tell(&event, hooks)?;
        self.window = Window::new(self.state.tokens);
        Ok(())
    }

    fn evaluate(&mut self, hooks: &mut Hooks<'_>) -> Result<()> {
        self.finish_pending(hooks)?;
        let Some(evaluator) = &mut self.evaluator else {
            return Ok(());
        };
        let step = self.state.step;
        let evaluation = evaluator.evaluate(&mut self.engine, &self.tokenizer)?;
        self.record_kernels(hooks)?;
        if !evaluation.loss.is_finite() {
            return Err(Error::Numeric(format!("step {step}: the loss of the evaluation is {}", evaluation.loss)));
        }
        let result = Best::of(step, &evaluation);
        let best = result.beats(self.state.best.as_ref());
        self.tell(&Event::Evaluation { step, evaluation, best }, hooks)?;
        if best {
            self.state.best = Some(result);
            self.save(BEST, hooks)?;
        }
        // The time that it took says nothing about the speed of training.
        self.window.start += Duration::from_secs_f64(evaluation.seconds);
        Ok(())
    }

    fn save(&mut self, name: &str, hooks: &mut Hooks<'_>) -> Result<()> {
        let folder = self.out.join(name);
        let dir = AtomicDir::begin(&folder)?;
        self.engine.model.save(dir.path())?;
        self.tokenizer.save(dir.path())?;
        if name == LAST {
            self.state.save(dir.path(), &self.engine.model.gpu, &self.engine.optimizer)?;
        }
        dir.commit()?;
        (hooks.observe)(&Event::Saved { step: self.state.step, folder });
        Ok(())
    }

    fn tell(&mut self, event: &Event, hooks: &mut Hooks<'_>) -> Result<()> {
        self.log.append(event)?;
        (hooks.observe)(event);
        Ok(())
    }

    pub fn settings(&self) -> &Settings {
        &self.state.settings
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

/// The time of one call of [`Trainer::run`].
struct Session {
    start: Instant,
    first_step: u64,
    /// Seconds of earlier sessions.
    elapsed: f64,
}

impl Session {
    fn total(&self) -> f64 {
        self.elapsed + self.start.elapsed().as_secs_f64()
    }

    fn seconds_per_step(&self, step: u64) -> f64 {
        self.start.elapsed().as_secs_f64() / (step - self.first_step).max(1) as f64
    }
}

impl Window {
    fn new(first_token: u64) -> Window {
        let last = StepReport { grad_norm: 0.0, clip: 1.0, skipped: false };
        Window { start: Instant::now(), first_token, stats: LossStats::default(), last }
    }
}

fn real_tokens(batch: &Batch) -> u64 {
    let sources: u64 = batch.src_lens.iter().map(|&len| u64::from(len)).sum();
    sources + batch.n_target_tokens() as u64
}
