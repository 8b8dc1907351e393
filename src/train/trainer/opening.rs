//! How a run begins, and how it goes on from its checkpoint.

use std::path::Path;
use std::sync::Arc;

use super::{BEST, FILES, LAST, LOG, Trainer};
use crate::data::Split;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::{Learns, Model};
use crate::run_folder::{RunFolder, recover};
use crate::tokenizer::Tokenizer;
use crate::train::engine::Engine;
use crate::train::evaluate::Evaluator;
use crate::train::examples::Sources;
use crate::train::inputs::Inputs;
use crate::train::log::Log;
use crate::train::settings::Settings;
use crate::train::state::State;
use crate::train::window::Window;
use crate::tune::Tuner;

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
        settings.check()?;
        let tokenizer = Arc::new(tokenizer);
        let sources = Sources::open(&settings, &tokenizer)?;
        let mut state = State::new(settings, sources.fingerprint.clone());
        state.kernels = model.tuner.is_on().then(Default::default);
        // Only once everything else is known to be right may an old run go.
        Trainer::assemble(model, tokenizer, state, sources, || {
            let folder = RunFolder::open(out, &FILES)?;
            folder.remove(&[LAST, BEST])?;
            let log = Log::create(&folder)?;
            Ok((folder, log))
        })
    }

    /// The error of [`Trainer::create`] for a folder that holds a run, before anything is loaded.
    pub fn refuse_run(out: &Path, overwrite: bool) -> Result<()> {
        RunFolder::look(out, &FILES)?;
        for folder in [BEST, LAST] {
            recover(out.join(folder))?;
        }
        if overwrite {
            RunFolder::refuse_strangers(out, &[LAST, BEST])?;
        }
        // Nothing is lost with the log of a run that reached no checkpoint.
        match [LAST, BEST].map(|name| out.join(name)).iter().find(|path| path.exists()) {
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
        state.check(&last)?;
        let folder = RunFolder::open(out, &FILES)?;
        let resumed = Log::read(&folder, state.step)?;
        let Settings { learns, frozen_weights, .. } = &state.settings;
        let mut model = Model::load_to_train(gpu, &last, learns, *frozen_weights)?.0;
        // A run that went by the rules goes on by the rules.
        if let Some(kernels) = &mut state.kernels {
            kernels.extend(resumed.kernels.clone());
            model.tuner = tuner.continuing(kernels.clone());
        }
        let tokenizer = Arc::new(Tokenizer::from_dir(&last)?);
        let sources = Sources::open(&state.settings, &tokenizer)?;
        if sources.fingerprint != state.data {
            let what = "the training data changed since this run began: it cannot be continued as if nothing had happened \
                        (fine-tune from this folder instead, with --model)";
            return Err(Error::file(&last, what));
        }
        let odd = resumed.odd;
        let open = || Log::resume(&folder, &resumed).map(|log| (folder, log));
        let mut trainer = Trainer::assemble(model, tokenizer, state, sources, open)?;
        if odd > 0 {
            let log = trainer.folder().join(LOG);
            trainer.remarks.push(format!("warning: {}: {odd} lines are no events and are left out", log.display()));
        }
        State::load_moments(&last, &trainer.engine)?;
        Ok(trainer)
    }

    /// The state of the run in `out`; `None` if it has not reached its first checkpoint or there is no run.
    /// The error if what it saved is missing or damaged.
    pub fn load_state(out: &Path) -> Result<Option<State>> {
        State::of_run(&out.join(LAST), &out.join(BEST))
    }

    fn assemble(
        mut model: Model,
        tokenizer: Arc<Tokenizer>,
        state: State,
        mut sources: Sources,
        open: impl FnOnce() -> Result<(RunFolder, Log)>,
    ) -> Result<Trainer> {
        let settings = &state.settings;
        model.config.set_prefixes(&settings.prefixes());
        let model = model.learning(&settings.learns, settings.seed)?;
        if settings.learns.adds() {
            model.expect_source()?;
        }
        let config = model.config.clone();
        config.check_vocabulary(tokenizer.vocab_size())?;
        let batches = sources.stream(&config, &state.position)?;
        let mut remarks = std::mem::take(&mut sources.remarks);
        if batches.mixture().members().len() > 1 {
            let share = |(name, share): (&str, f64)| format!("{:.1} % {name}", 100.0 * share);
            let shares: Vec<String> = batches.mixture().members().map(share).collect();
            remarks.push(format!("mixed: {}", shares.join(", ")));
        }
        let evaluated =
            Sources::evaluated(settings, &tokenizer, Split::Validation, settings.eval_examples, &mut remarks)?;
        if !config.eos_token_id.contains(&tokenizer.eos()) {
            remarks.push(format!(
                "the tokenizer ends texts with id {}, the model's configuration with {:?}: answers may not end",
                tokenizer.eos(),
                config.eos_token_id
            ));
        }
        let largest = batches.largest_shape();
        let batches = Inputs::prefetch(batches, settings.prefetch, &config)?;
        let evaluator = (!evaluated.is_empty())
            .then(|| Evaluator::new(evaluated, settings.eval_batch_size, Default::default(), &model, &tokenizer));
        let engine = Engine::new(model, settings.regularization(), &settings.optimizer, settings.clip)?;
        let engine = if settings.norms_every.is_some() { engine.with_norms()? } else { engine };
        let mut engine = engine.with_recompute(settings.recompute);
        // The largest first: later plans share its memory, and too little of it shows now.
        engine.prepare(largest)?;
        remarks.extend(learns_remark(&engine));
        let window = Window::new(state.tokens);
        let (folder, log) = open()?;
        Ok(Trainer {
            engine,
            tokenizer,
            sources,
            batches,
            evaluator,
            state,
            folder,
            log,
            pending: None,
            window,
            passes: 0.0,
            remarks,
        })
    }
}

/// What learns, and what that takes, unless it is everything.
fn learns_remark(engine: &Engine) -> Option<String> {
    let layout = &engine.model.layout;
    if *layout.learns() == Learns::All {
        return None;
    }
    let [_, gradients, moments, _] = engine.memory().map(|bytes| bytes as f64 / f64::from(1 << 20));
    let (learning, all) = (layout.n_learning(), layout.n_params());
    Some(format!(
        "{learning} of {all} parameters learn ({:.2} %): {gradients:.1} MiB of gradients, {moments:.1} of moments",
        100.0 * learning as f64 / all as f64
    ))
}
