//! Carrying a recipe out in a folder, stage after stage, from wherever an earlier start left it.
//!
//! The folder holds `recipe.toml` with everything spelled out, `stages.json` with what each part was made from, `tokenizer/` if
//! one was trained, and a folder for each stage: `last`, `best` and `log.jsonl` of training, `metrics.json` and
//! `predictions/TASK.jsonl` of an evaluation. Each file and checkpoint appears whole or not at all, and a stage is done when its
//! last file is there: so any stop, at any instant, is continued by starting again.
//!
//! A recipe that has changed redoes evaluations and lets a training go on for more steps. Other changes of what has been trained
//! are refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::IgnoredAny;

use super::conductor::{Conductor, Watch, drive};
use super::evaluation::{self, evaluate, write_evaluation};
use super::record::{Difference, LEARNED, RECORDS, Record, Records, start_of};
use super::source::LENGTHS;
use super::stage::Budget;
use super::{Recipe, Stage};
use crate::data::stream::BatchPosition;
use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};
use crate::gpu::Gpu;
use crate::model::Model;
use crate::report::{METRICS, RECIPE};
use crate::run_folder::{RunFolder, recover};
use crate::tokenizer::{Tokenizer, TrainSummary, Trained};
use crate::train::examples::Sources;
use crate::train::settings::Settings;
use crate::train::state::State;
use crate::train::trainer::{self, LAST};
use crate::train::{Hooks, Outcome, Trainer};

/// The folder of a tokenizer that was trained.
pub(super) const TOKENIZER: &str = "tokenizer";

/// Differences that an error names.
const MOST_NAMED: usize = 3;

/// A recipe and its folder.
pub struct Run {
    pub recipe: Recipe,
    pub out: PathBuf,
    pub(super) folder: RunFolder,
    pub(super) records: Records,
    /// The stages of the run that is to be replaced, once this one is known to begin.
    replaced: Option<Vec<String>>,
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
    /// The run of a recipe in its folder, which is created. A run that is there goes on if this recipe would train what has
    /// been trained in it alike; with `overwrite` it is removed as soon as this one is known to begin ([`Run::execute`]).
    ///
    /// # Errors
    /// What has been trained there would now be another; something is there that is no run; the folder cannot be written.
    pub fn open(mut recipe: Recipe, out: Option<PathBuf>, overwrite: bool) -> Result<Run> {
        let out = folder_of(&mut recipe, out)?;
        let folder = RunFolder::open(&out, &names(&recipe))?;
        let records = recorded(&recipe, &out, overwrite)?;
        if overwrite {
            let replaced = Some(records.0.into_keys().filter(|part| part != TOKENIZER).collect());
            let recipe = recipe.spelled_out()?;
            return Ok(Run { recipe, out, folder, records: Records::default(), replaced });
        }
        let recipe = spelled_out(&recipe, &records, &out)?;
        let run = Run { recipe, out, folder, records, replaced: None };
        for part in parts(&run.recipe).filter(|part| has_begun(&run.out, part)) {
            check_part(&run.recipe, &run.records, &run.out, part)?;
        }
        // Before the recipe, by which an older run's parts were made.
        run.records.write(&run.folder)?;
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
        for index in 0..self.recipe.stages.len() {
            let stage = self.recipe.stages[index].clone();
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
            } else if !self.evaluate(index, gpu, &tokenizer, conductor)? {
                return Ok(RunOutcome::Stopped { stage: stage.name.clone() });
            }
        }
        Ok(RunOutcome::Finished)
    }

    /// Removes the run that is here, if this one can begin.
    fn replace(&mut self, stages: &[String], gpu: &Gpu, conductor: &mut Conductor<'_>) -> Result<Tokenizer> {
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
        self.records.write(&self.folder)?;
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

    /// Writes down what a part is made from, before anything of it is written. What it evaluated before is removed.
    fn begin(&mut self, part: &str, record: Record) -> Result<()> {
        if part != TOKENIZER {
            RunFolder::open(&self.out.join(part), &stage_files())?.remove(&evaluation::FILES)?;
        }
        self.records.0.insert(part.to_owned(), record);
        self.records.write(&self.folder)
    }

    /// What a part would be made from now.
    pub(super) fn record(&self, part: &str) -> Result<Record> {
        Record::of(&self.recipe, part, &self.out)
    }

    /// The folder of a stage.
    pub fn folder(&self, stage: &Stage) -> PathBuf {
        self.out.join(&stage.name)
    }

    /// The run's tokenizer: read, or trained once and kept.
    pub fn tokenizer(&mut self, conductor: &mut Conductor<'_>) -> Result<Tokenizer> {
        if let Some(tokenizer) = self.recipe.named_tokenizer()? {
            return Ok(tokenizer);
        }
        let folder = self.out.join(TOKENIZER);
        recover(&folder)?;
        if folder.join("tokenizer.json").exists() {
            // Where a stage has been trained with it, that was checked already.
            return Tokenizer::from_dir(&folder).map_err(|e| {
                let what = "put the tokenizer back, or remove this folder: it is learned again then";
                Error::file(&folder, format!("{e}; {what}"))
            });
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

    fn keep_tokenizer(&mut self, trained: &Trained) -> Result<Tokenizer> {
        self.begin(TOKENIZER, self.record(TOKENIZER)?)?;
        let dir = self.folder.begin(TOKENIZER)?;
        trained.save(dir.path())?;
        dir.commit()?;
        Tokenizer::from_dir(&self.out.join(TOKENIZER))
    }

    fn train(
        &mut self,
        index: usize,
        gpu: &Gpu,
        tokenizer: &Tokenizer,
        conductor: &mut Conductor<'_>,
    ) -> Result<Outcome> {
        let stage = &self.recipe.stages[index].clone();
        let folder = self.folder(stage);
        if let Some(mut state) = Trainer::load_state(&folder)? {
            check_part(&self.recipe, &self.records, &self.out, &stage.name)?;
            let before = state.settings.steps;
            let record = self.records.0.get_mut(&stage.name);
            state = gone_on(stage, state, record.as_deref());
            let steps = state.settings.steps;
            if steps > before {
                conductor.watch.remark(&format!("{}: {steps} steps instead of {before}", stage.name));
            }
            if let Some(record) = record.filter(|record| lengthened(stage, record).is_some()) {
                record.extend(stage, steps);
                self.records.write(&self.folder)?;
            }
            if state.is_finished() {
                conductor.watch.remark(&format!("{} is done: {} steps", stage.name, state.step));
                return Ok(Outcome::Finished);
            }
            state.settings = Settings { steps, ..state.settings.with_free(self.recipe.settings(stage)?) };
            let passes = steps.saturating_mul(state.settings.accumulate as u64);
            let tuner = (conductor.tuner)(gpu, passes, None);
            let mut trainer = Trainer::resume(gpu, &tuner, state, &folder)?;
            return drive(&mut trainer, &stage.name, None, gpu.stopwatch(), conductor);
        }
        self.begin(&stage.name, self.record(&stage.name)?)?;
        let begin = gpu.stopwatch();
        let mut settings = self.recipe.settings(stage)?;
        settings.check()?;
        let passes = settings.steps.saturating_mul(settings.accumulate as u64);
        let mut model = self.model(index, gpu, tokenizer, &mut settings, conductor.watch)?;
        let budget = stage.budget();
        model.tuner = (conductor.tuner)(gpu, passes, budget.and_then(Budget::time));
        // Nothing but a log can be there yet: the first checkpoint was not reached.
        let mut trainer = Trainer::create(model, tokenizer.clone(), settings, &folder, true)?;
        let outcome = drive(&mut trainer, &stage.name, budget, begin, conductor)?;
        match outcome {
            // The time is up: a later start goes on with the next stage, as this one does.
            Outcome::Stopped { .. } if !(conductor.should_stop)() => {
                let Conductor { watch, should_stop, .. } = &mut *conductor;
                let hooks =
                    Hooks { observe: &mut |event| watch.event(event), should_stop: *should_stop, is_late: &|| false };
                let outcome = trainer.end_here(hooks)?;
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
        settings: &mut Settings,
        watch: &mut dyn Watch,
    ) -> Result<Model> {
        let stage = &self.recipe.stages[index];
        let folder = start_of(&self.recipe, &stage.name, &self.out).or_else(|| self.recipe.model.from.clone());
        match folder {
            Some(folder) => {
                recover(&folder)?;
                // What is only evaluated is asked, and faster with everything merged.
                let learns = if stage.trains() { settings.learns.clone() } else { Default::default() };
                let (model, remarks) = Model::load_to_train(gpu, &folder, &learns, settings.frozen_weights)?;
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

    /// Whether the evaluation is done.
    fn evaluate(
        &mut self,
        index: usize,
        gpu: &Gpu,
        tokenizer: &Tokenizer,
        conductor: &mut Conductor<'_>,
    ) -> Result<bool> {
        let stage = &self.recipe.stages[index].clone();
        let folder = self.folder(stage);
        let now = self.record(&stage.name)?;
        if is_written(&folder.join(METRICS)) {
            match self.records.difference(&now, &stage.name)? {
                Some(difference) => conductor.watch.remark(&format!("evaluating again, since {difference}")),
                None => {
                    conductor.watch.remark(&format!("{} is done: {}", stage.name, folder.join(METRICS).display()));
                    return Ok(true);
                }
            }
        }
        RunFolder::refuse_strangers(&folder, &evaluation::FILES)?;
        let mut settings = self.recipe.settings(stage)?;
        let model = self.model(index, gpu, tokenizer, &mut settings, conductor.watch)?;
        let most = stage.eval_examples.unwrap_or(usize::MAX);
        let decoding = stage.decoding(settings.seed);
        let Conductor { watch, should_stop, .. } = conductor;
        let (split, watch) = (stage.split(), &mut **watch);
        let evaluation = evaluate(model, tokenizer, &settings, (split, most), decoding, watch, *should_stop)?;
        let Some(evaluation) = evaluation else { return Ok(false) };
        // Until here, what was found before stays.
        self.begin(&stage.name, now)?;
        write_evaluation(&folder, stage.split(), &evaluation)?;
        watch.evaluated(&stage.name, &evaluation);
        Ok(true)
    }
}

/// The tokenizer, if it is learned, and the stages: folders of a run.
pub(super) fn parts(recipe: &Recipe) -> impl Iterator<Item = &str> {
    let learned = recipe.tokenizer.vocab_size.map(|_| TOKENIZER);
    learned.into_iter().chain(recipe.stages.iter().map(|stage| stage.name.as_str()))
}

/// Whether there is a result of a part, or a checkpoint.
pub(super) fn has_begun(out: &Path, part: &str) -> bool {
    let folder = out.join(part);
    // What cannot be recovered now is an error as soon as it is read.
    let _later = recover(&folder).and_then(|()| recover(folder.join(LAST)));
    [LAST, METRICS, "tokenizer.json"].iter().any(|file| folder.join(file).exists())
}

/// Whether an evaluation has been written to its end.
pub(super) fn is_written(metrics: &Path) -> bool {
    files::read(metrics, SETTINGS_LIMIT).is_ok_and(|text| serde_json::from_slice::<IgnoredAny>(&text).is_ok())
}

/// What a stage writes into its folder.
fn stage_files() -> Vec<&'static str> {
    [&trainer::FILES[..], &evaluation::FILES[..]].concat()
}

/// The folder of a recipe's run, which the recipe no longer names then.
pub(super) fn folder_of(recipe: &mut Recipe, out: Option<PathBuf>) -> Result<PathBuf> {
    let name = recipe.name.clone().unwrap_or_else(|| "run".into());
    let named = recipe.out.take();
    let out = out.or(named).unwrap_or_else(|| Path::new("runs").join(name));
    std::path::absolute(&out).map_err(Error::io("find", &out))
}

/// What a recipe's run writes into its folder.
pub(super) fn names(recipe: &Recipe) -> Vec<&str> {
    recipe.stages.iter().map(|stage| stage.name.as_str()).chain([TOKENIZER, RECIPE, RECORDS]).collect()
}

/// What the parts of the run in a folder were made from.
///
/// # Errors
/// That is not known; what lies there is in the way of this recipe, or, with `overwrite`, is not the run's to remove.
pub(super) fn recorded(recipe: &Recipe, out: &Path, overwrite: bool) -> Result<Records> {
    let records = read_records(out).map_err(|e| {
        let what =
            "it is not known what the run here has written: choose another folder (--out), or remove this one yourself";
        Error::file(out, format!("{what} ({e})"))
    })?;
    // Through a link, files elsewhere would be replaced and removed.
    if let Some(part) =
        parts(recipe).chain(records.0.keys().map(String::as_str)).find(|part| out.join(part).is_symlink())
    {
        let what =
            "this is a link, where a run has a folder of its own: put the folder itself here, or remove the link";
        return Err(Error::file(out.join(part), what));
    }
    let is_new = |stage: &&Stage| !records.0.contains_key(&stage.name) && out.join(&stage.name).exists();
    if let Some(stage) = recipe.stages.iter().find(is_new) {
        let what = "this is no stage of the run here: rename the stage, or choose another folder (--out)";
        return Err(Error::file(out.join(&stage.name), what));
    }
    if overwrite {
        for part in records.0.keys() {
            RunFolder::refuse_strangers(&out.join(part), &stage_files())?;
        }
        RunFolder::refuse_strangers(out, &[TOKENIZER])?;
    }
    Ok(records)
}

/// The recipe with what it leaves open spelled out, as the stages that have begun did.
pub(super) fn spelled_out(recipe: &Recipe, records: &Records, out: &Path) -> Result<Recipe> {
    let begun: Vec<&String> = records.0.keys().filter(|part| has_begun(out, part)).collect();
    let steps_of =
        |stage: &str| begun.iter().find(|part| **part == stage).and(records.0.get(stage)?.stage(stage)?.steps);
    recipe.spelled_out_since(&steps_of)
}

/// Whether the recipe lets a training go on that has begun. What an evaluation comes to is found out again instead.
pub(super) fn check_part(recipe: &Recipe, records: &Records, out: &Path, part: &str) -> Result<()> {
    let Some(record) = records.0.get(part) else { return Ok(()) };
    if record.stage(part).is_some_and(|stage| !stage.trains()) {
        return Ok(());
    }
    let (folder, place) = (out.join(part), format!("stage.{part}"));
    let mut differences = record.differences(&Record::of(recipe, part, out)?, part)?;
    let is_length = |key: &str| LENGTHS.iter().any(|length| key == format!("{place}.{length}"));
    differences.retain(|difference| !(is_length(&difference.key) && difference.is_another_value()));
    let budget = |stage: Option<&Stage>| stage.and_then(Stage::budget);
    let amount = |stage: Option<&Stage>| budget(stage).map_or(0.0, Budget::amount);
    let now = recipe.stages.iter().find(|stage| stage.name == part);
    let done = Trainer::load_state(&folder)?.map_or(0, |state| state.step);
    if differences.iter().any(|difference| difference.key == LEARNED) {
        let what = format!(
            "stage {part} was trained with another tokenizer than this, which was changed or damaged: put back what was here; \
             \"{}\" holds a copy",
            folder.join(LAST).display()
        );
        return Err(Error::file(out.join(TOKENIZER), what));
    }
    let what = match differences.first() {
        Some(_) => {
            let all: Vec<String> = differences.iter().take(MOST_NAMED).map(Difference::to_string).collect();
            let made = if part == TOKENIZER { "the tokenizer was learned" } else { "this stage was trained" };
            format!(
                "{made} by another recipe: {}. Put that back to go on, or choose another folder (--out), or train all anew \
                     (--overwrite), or remove this folder to make this part anew",
                all.join("; ")
            )
        }
        None if now.and_then(|stage| stage.steps).is_some_and(|steps| steps < done) => {
            format!("this stage has done {done} steps already: {place}.steps can only be raised")
        }
        None if amount(now) < amount(record.stage(part)) => {
            let before = amount(record.stage(part));
            let key = budget(now).map_or("minutes", Budget::key);
            format!("this stage has been trained for {before} {key}: {place}.{key} can only be raised")
        }
        None => return Ok(()),
    };
    Err(Error::file(folder, what))
}

/// The state of a training with the number of steps that it goes to now. Of one limited by a [`Budget`] that was found; a larger
/// one makes it more in proportion.
pub(super) fn gone_on(stage: &Stage, state: State, record: Option<&Record>) -> State {
    let before = state.settings.steps;
    let measured = record.and_then(|record| record.steps).unwrap_or(before);
    let steps = match (stage.budget(), record.and_then(|record| lengthened(stage, record))) {
        (None, _) => stage.steps.unwrap_or(before),
        (Some(_), None) => measured,
        (Some(_), Some(factor)) => (measured as f64 * factor).round() as u64,
    };
    State { ended_early: state.ended_early && steps <= before, settings: Settings { steps, ..state.settings }, ..state }
}

/// How many times as long a training may be now, if that is more than before.
fn lengthened(stage: &Stage, record: &Record) -> Option<f64> {
    let factor = stage.budget()?.amount() / record.stage(&stage.name)?.budget()?.amount();
    (factor > 1.0).then_some(factor)
}

/// Those in a run's folder; of a run by an older program that is as its recipe says.
fn read_records(out: &Path) -> Result<Records> {
    let mut records = Records::read(out)?;
    let file = out.join(RECIPE);
    if file.exists() {
        let recipe = Recipe::reread(&file)?;
        let recipe = recipe.spelled_out().unwrap_or(recipe);
        for part in parts(&recipe).filter(|part| out.join(part).exists()) {
            records.0.entry(part.to_owned()).or_insert_with(|| Record::of_older(&recipe, part));
        }
    }
    Ok(records)
}
