//! Carrying a recipe out in a folder, stage after stage, from wherever an earlier start left it.
//!
//! The folder holds `recipe.toml` with everything spelled out, `tokenizer/` if one was trained, and a folder for each stage:
//! `last`, `best` and `log.jsonl` of training, `metrics.json` and `predictions/TASK.jsonl` of an evaluation. Each file and
//! checkpoint appears whole or not at all, and a stage is done when its last file is there: so any stop, at any instant, is
//! continued by starting again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::evaluation::{self, evaluate, write_evaluation};
use super::stage::Begin;
use super::{Recipe, Stage};
use crate::data::stream::BatchPosition;
use crate::error::{Error, Result};
use crate::files::{RunFolder, recover};
use crate::gpu::{Gpu, Stopwatch};
use crate::model::Model;
use crate::report::{METRICS, RECIPE};
use crate::tokenizer::{Tokenizer, TrainSummary, Trained};
use crate::train::evaluate::Evaluation;
use crate::train::examples::Sources;
use crate::train::settings::Settings;
use crate::train::trainer::{self, BEST, LAST};
use crate::train::{Event, Hooks, Outcome, Trainer};
use crate::tune::Tuner;

/// The folder of a tokenizer that was trained.
pub(super) const TOKENIZER: &str = "tokenizer";

/// A stage with a time limit stops when training takes this much longer than was asked for.
const PATIENCE: f64 = 1.15;

const REMEDY: &str = "choose another folder (--out) or replace the run (--overwrite)";

/// A recipe and its folder.
pub struct Run {
    pub recipe: Recipe,
    pub out: PathBuf,
    folder: RunFolder,
    /// The stages of the run that is to be replaced, once this one is known to begin.
    replaced: Option<Vec<String>>,
}

/// Who watches, who may stop, and who chooses kernels.
pub struct Conductor<'a> {
    pub watch: &'a mut dyn Watch,
    pub should_stop: &'a dyn Fn() -> bool,
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

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunOutcome {
    Finished,
    /// `should_stop` said so, in this stage.
    Stopped {
        stage: String,
    },
}

impl Run {
    /// The run of a recipe in its folder, which is created. A run that is there goes on if what has begun in it would be the
    /// same by this recipe; with `overwrite` it is removed as soon as this one is known to begin ([`Run::execute`]).
    ///
    /// # Errors
    /// Another recipe's run is there, or something that is no run; the folder cannot be written.
    pub fn open(mut recipe: Recipe, out: Option<PathBuf>, overwrite: bool) -> Result<Run> {
        let name = recipe.name.clone().unwrap_or_else(|| "run".into());
        let out = out.or_else(|| recipe.out.take()).unwrap_or_else(|| Path::new("runs").join(name));
        let out = std::path::absolute(&out).map_err(Error::io("find", &out))?;
        recipe.out = None;
        let recipe = recipe.spelled_out()?;
        let names: Vec<&str> = parts(&recipe).chain([RECIPE]).collect();
        let folder = RunFolder::open(&out, &names)?;
        let file = out.join(RECIPE);
        // What was spelled out by an older program may leave a newer setting open.
        let before = file.exists().then(|| Recipe::reread(&file)?.spelled_out()).transpose();
        let before = before.map_err(|e| {
            let what = "no recipe can be read here, so that it is not known what the run has written: choose another folder \
                        (--out), or remove this one yourself";
            Error::file(&file, format!("{what} ({e})"))
        })?;
        let stages: Vec<String> = before.iter().flat_map(|recipe| &recipe.stages).map(|s| s.name.clone()).collect();
        let is_new = |stage: &&Stage| !stages.contains(&stage.name) && out.join(&stage.name).exists();
        if let Some(stage) = recipe.stages.iter().find(is_new) {
            let what = "this is no stage of the run here: rename the stage, or choose another folder (--out)";
            return Err(Error::file(out.join(&stage.name), what));
        }
        let Some(before) = before.filter(|_| !overwrite) else {
            let run = Run { recipe, out, folder, replaced: overwrite.then_some(stages) };
            if !overwrite {
                run.write_recipe()?;
            }
            return Ok(run);
        };
        let begun = |part: &str| out.join(part).exists();
        let (old, new) = (before.essence(&begun).to_toml()?, recipe.essence(&begun).to_toml()?);
        if parts(&before).any(begun) && old != new {
            let (old, new) = first_difference(&old, &new);
            let what = format!("a run of another recipe is here: it has `{old}` where there is `{new}` now; {REMEDY}");
            return Err(Error::file(&file, what));
        }
        let run = Run { recipe, out, folder, replaced: None };
        run.write_recipe()?;
        Ok(run)
    }

    /// Carries out what is not done yet. A run that is to be replaced goes first, but not before tokenizer, data and model
    /// of this one are there and fit.
    ///
    /// # Errors
    /// What the stages give; what was done stays.
    pub fn execute(&mut self, gpu: &Gpu, conductor: &mut Conductor<'_>) -> Result<RunOutcome> {
        let tokenizer = match self.replaced.take() {
            Some(stages) => self.replace(&stages, gpu, conductor)?,
            None => self.tokenizer(conductor)?,
        };
        for (index, stage) in self.recipe.stages.iter().enumerate() {
            if (conductor.should_stop)() {
                return Ok(RunOutcome::Stopped { stage: stage.name.clone() });
            }
            self.folder.check()?;
            conductor.watch.remark(&format!(
                "stage {} of {}, {}: {}",
                index + 1,
                self.recipe.stages.len(),
                stage.name,
                if stage.trains() { "training" } else { "evaluation" }
            ));
            if stage.trains() {
                let outcome = self.train(index, gpu, &tokenizer, conductor)?;
                if matches!(outcome, Outcome::Stopped { .. }) {
                    return Ok(RunOutcome::Stopped { stage: stage.name.clone() });
                }
            } else {
                self.evaluate(index, gpu, &tokenizer, conductor)?;
            }
        }
        Ok(RunOutcome::Finished)
    }

    /// Removes the run that is here, if this one can begin.
    fn replace(&self, stages: &[String], gpu: &Gpu, conductor: &mut Conductor<'_>) -> Result<Tokenizer> {
        let named = self.recipe.named_tokenizer()?;
        let trained = if named.is_some() { None } else { Some(self.train_tokenizer(conductor)?) };
        let tokenizer = named.or_else(|| trained.as_ref().map(|trained| trained.tokenizer.clone()));
        let tokenizer = tokenizer.unwrap_or_else(Tokenizer::bytes);
        self.rehearse(gpu, &tokenizer)?;
        for stage in stages {
            let folder = self.out.join(stage);
            if folder.exists() && RunFolder::look(&folder, &stage_files())? {
                RunFolder::open(&folder, &[])?.dissolve(&stage_files())?;
            }
        }
        self.folder.remove(&[TOKENIZER])?;
        self.write_recipe()?;
        match trained {
            Some(trained) => self.keep_tokenizer(&trained),
            None => Ok(tokenizer),
        }
    }

    /// What would keep a stage from beginning: its data, its model.
    fn rehearse(&self, gpu: &Gpu, tokenizer: &Tokenizer) -> Result<()> {
        let config = self.recipe.model.config(tokenizer)?;
        config.check_vocabulary(tokenizer.vocab_size())?;
        if let Some(from) = &self.recipe.model.from {
            Model::load(gpu, from)?;
        }
        let shared = Arc::new(tokenizer.clone());
        for stage in &self.recipe.stages {
            let settings = self.recipe.settings(stage)?;
            if stage.trains() {
                Sources::open(&settings, &shared)?.stream(&config, &BatchPosition::default())?.next_batch()?;
            }
            Sources::evaluated(&settings, &shared, stage.split(), settings.eval_examples, &mut Vec::new())?;
        }
        Ok(())
    }

    fn write_recipe(&self) -> Result<()> {
        self.folder.write(RECIPE, self.recipe.to_toml()?.as_bytes())
    }

    /// The folder of a stage.
    pub fn folder(&self, stage: &Stage) -> PathBuf {
        self.out.join(&stage.name)
    }

    /// The run's tokenizer: read, or trained once and kept.
    pub fn tokenizer(&self, conductor: &mut Conductor<'_>) -> Result<Tokenizer> {
        if let Some(tokenizer) = self.recipe.named_tokenizer()? {
            return Ok(tokenizer);
        }
        let folder = self.out.join(TOKENIZER);
        recover(&folder)?;
        if folder.join("tokenizer.json").exists() {
            return Tokenizer::from_dir(&folder);
        }
        let trained = self.train_tokenizer(conductor)?;
        self.keep_tokenizer(&trained)
    }

    fn train_tokenizer(&self, conductor: &mut Conductor<'_>) -> Result<Trained> {
        conductor.watch.remark("training a tokenizer");
        let trained = self.recipe.train_tokenizer()?;
        let TrainSummary { lines, bytes_per_token, unknown, .. } = trained.summary;
        conductor.watch.remark(&format!(
            "learned {} pieces from {lines} lines: {bytes_per_token:.2} bytes a token, {:.3} % of the tokens unknown",
            trained.tokenizer.vocab_size(),
            100.0 * unknown
        ));
        Ok(trained)
    }

    fn keep_tokenizer(&self, trained: &Trained) -> Result<Tokenizer> {
        let dir = self.folder.begin(TOKENIZER)?;
        trained.save(dir.path())?;
        dir.commit()?;
        Tokenizer::from_dir(&self.out.join(TOKENIZER))
    }

    fn train(&self, index: usize, gpu: &Gpu, tokenizer: &Tokenizer, conductor: &mut Conductor<'_>) -> Result<Outcome> {
        let stage = &self.recipe.stages[index];
        let folder = self.folder(stage);
        let limit = stage.minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes));
        if let Some(mut state) = Trainer::load_state(&folder)? {
            if state.step >= state.settings.steps || state.ended_early {
                conductor.watch.remark(&format!("{} is done: {} steps", stage.name, state.step));
                return Ok(Outcome::Finished);
            }
            state.settings.prefetch = stage.prefetch.unwrap_or(state.settings.prefetch);
            state.settings.recompute = stage.recompute.unwrap_or(state.settings.recompute);
            let passes = state.settings.steps.saturating_mul(state.settings.accumulate as u64);
            let tuner = (conductor.tuner)(gpu, passes, None);
            let mut trainer = Trainer::resume(gpu, &tuner, state, &folder)?;
            return drive(&mut trainer, &stage.name, None, gpu.stopwatch(), conductor);
        }
        let begin = gpu.stopwatch();
        let mut settings = self.recipe.settings(stage)?;
        settings.check()?;
        let passes = settings.steps.saturating_mul(settings.accumulate as u64);
        let mut model = self.model(index, gpu, tokenizer, Begin::Last, &mut settings, conductor.watch)?;
        model.tuner = (conductor.tuner)(gpu, passes, limit);
        // Nothing but a log can be there yet: the first checkpoint was not reached.
        let mut trainer = Trainer::create(model, tokenizer.clone(), settings, &folder, true)?;
        let outcome = drive(&mut trainer, &stage.name, limit, begin, conductor)?;
        match outcome {
            // The time is up: a later start goes on with the next stage, as this one does.
            Outcome::Stopped { .. } if !(conductor.should_stop)() => {
                let outcome = trainer.end_here(&mut |event| conductor.watch.event(event))?;
                conductor.watch.trained(&trainer, outcome);
                Ok(outcome)
            }
            _ => Ok(outcome),
        }
    }

    /// The weights that a stage begins with: those of an earlier stage, or the recipe's model.
    fn model(
        &self,
        index: usize,
        gpu: &Gpu,
        tokenizer: &Tokenizer,
        begin: Begin,
        settings: &mut Settings,
        watch: &mut dyn Watch,
    ) -> Result<Model> {
        let stage = &self.recipe.stages[index];
        let folder = match (self.recipe.starting_stage(stage), &self.recipe.model.from) {
            (Some(before), _) => {
                let folder = self.folder(before);
                let best = stage.begin.unwrap_or(begin) == Begin::Best && folder.join(BEST).exists();
                Some(folder.join(if best { BEST } else { LAST }))
            }
            (None, from) => from.clone(),
        };
        match folder {
            Some(folder) => {
                recover(&folder)?;
                let (model, remarks) = Model::load(gpu, &folder)?;
                remarks.iter().for_each(|remark| watch.remark(remark));
                settings.origin = format!("model {}", folder.display());
                Ok(model)
            }
            None => {
                let config = self.recipe.model.config(tokenizer)?;
                settings.origin = "scratch".into();
                Model::init(gpu, config, settings.seed)
            }
        }
    }

    fn evaluate(&self, index: usize, gpu: &Gpu, tokenizer: &Tokenizer, conductor: &mut Conductor<'_>) -> Result<()> {
        let stage = &self.recipe.stages[index];
        let folder = self.folder(stage);
        if folder.join(METRICS).exists() {
            conductor.watch.remark(&format!("{} is done: {}", stage.name, folder.join(METRICS).display()));
            return Ok(());
        }
        let mut settings = self.recipe.settings(stage)?;
        let model = self.model(index, gpu, tokenizer, Begin::Best, &mut settings, conductor.watch)?;
        let most = stage.eval_examples.unwrap_or(usize::MAX);
        let decoding = stage.decoding(settings.seed);
        let evaluation = evaluate(model, tokenizer, &settings, stage.split(), most, decoding, conductor.watch)?;
        write_evaluation(&folder, &evaluation)?;
        conductor.watch.evaluated(&stage.name, &evaluation);
        Ok(())
    }
}

/// The folders of a run.
fn parts(recipe: &Recipe) -> impl Iterator<Item = &str> {
    recipe.stages.iter().map(|stage| stage.name.as_str()).chain([TOKENIZER])
}

/// What a stage writes into its folder.
fn stage_files() -> Vec<&'static str> {
    [&trainer::FILES[..], &evaluation::FILES[..]].concat()
}

/// The first lines in which two texts differ.
fn first_difference<'a>(old: &'a str, new: &'a str) -> (&'a str, &'a str) {
    const END: &str = "the end";
    let (mut old, mut new) = (old.lines(), new.lines());
    loop {
        match (old.next(), new.next()) {
            (Some(a), Some(b)) if a == b => {}
            (a, b) => return (a.unwrap_or(END), b.unwrap_or(END)),
        }
    }
}

/// Runs a trainer to its end or until it is stopped. With a `limit`, the number of steps is fixed first so that they take
/// about that long, counted from `begin` and without what goes into compiling kernels.
///
/// # Errors
/// As [`Trainer::run`].
pub fn drive(
    trainer: &mut Trainer,
    stage: &str,
    limit: Option<Duration>,
    begin: Stopwatch,
    conductor: &mut Conductor<'_>,
) -> Result<Outcome> {
    trainer.remarks().iter().for_each(|remark| conductor.watch.remark(remark));
    if let Some(time) = limit {
        conductor.watch.remark("measuring the speed of training to fix the number of steps");
        trainer.fit_steps(time.saturating_sub(begin.elapsed()))?;
    }
    conductor.watch.training(stage, trainer);
    let training = trainer.engine().model.gpu.stopwatch();
    let late = || limit.is_some_and(|time| training.elapsed() > time.mul_f64(PATIENCE));
    let Conductor { watch, should_stop, .. } = conductor;
    let outcome = trainer
        .run(Hooks { observe: &mut |event: &Event| watch.event(event), should_stop: &|| should_stop() || late() })?;
    watch.trained(trainer, outcome);
    Ok(outcome)
}
