//! Recipes: one TOML file that says everything about an experiment, from the tokenizer to the last evaluation.
//!
//! A recipe names texts and tasks, a model, and stages that train on them or evaluate. [`Recipe::read`] refuses what cannot
//! work before anything runs, naming the file and the line; [`run::Run`] carries it out in a folder and goes on after any stop.

pub mod checkpoint;
pub mod conductor;
pub mod estimate;
pub mod evaluation;
pub mod model;
pub mod run;
pub mod stage;
pub mod standing;
pub mod tokenizer;

mod adopt;
mod record;
pub(crate) mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::checkpoint::PeftFolder;
use crate::data::task::TaskConfig;
use crate::error::{Error, Result};
use crate::model::Learns;
use crate::run_folder::is_plain_name;
use crate::train::settings::{Settings, TextConfig};
use checkpoint::{model_of_run, tokenizer_of_run};
pub use model::ModelSpec;
use run::TOKENIZER;
use source::Source;
pub(crate) use source::Wrong;
use stage::FROM_MODEL;
pub use stage::Stage;
pub use tokenizer::TokenizerSpec;

/// A recipe as it is written.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Default: the file's name.
    pub name: Option<String>,
    /// What it is about, and where to get the data.
    pub about: Option<String>,
    /// The run's folder. Default: `runs/NAME` where the program is started.
    pub out: Option<PathBuf>,
    /// Of everything random, unless a stage has its own.
    #[serde(default)]
    pub seed: u64,
    #[serde(default)]
    pub model: ModelSpec,
    #[serde(default)]
    pub tokenizer: TokenizerSpec,
    /// Unlabelled texts by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub texts: BTreeMap<String, TextConfig>,
    /// Supervised tasks by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, TaskConfig>,
    /// In their order.
    #[serde(rename = "stage")]
    pub stages: Vec<Stage>,
}

/// What stages, texts and tasks are called, since files are named after them.
fn is_name(name: &str) -> bool {
    is_plain_name(name) && !name.contains('.') && name != TOKENIZER
}

const NOT_A_NAME: &str =
    "files are named after it: use letters, digits, hyphens and underscores, and not the name of a run's own file";

impl Recipe {
    /// Reads and checks a recipe. `overrides` are "KEY=VALUE" with dots in the key, as "model.d_model=64"; stages are named:
    /// "pretrain.steps=100". Relative paths are taken from the file's folder.
    ///
    /// # Errors
    /// The file cannot be read or is no TOML; an unknown key, a value of the wrong type, an impossible size, a file that is
    /// not there: with the line.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Recipe> {
        Recipe::read_finding(path, overrides, &|_| Ok(None))
    }

    /// [`Recipe::read`] where a model that is no folder may have a name by which `find` knows one.
    ///
    /// # Errors
    /// Those, and those of `find`.
    pub fn read_finding(
        path: &Path,
        overrides: &[String],
        find: &dyn Fn(&Path) -> Result<Option<PathBuf>>,
    ) -> Result<Recipe> {
        let source = Source::read(path, overrides)?;
        let mut recipe: Recipe = source.parse()?;
        let absolute = std::path::absolute(path).map_err(Error::io("find", path))?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        recipe.name.get_or_insert_with(|| path.file_stem().map_or("run".into(), |s| s.to_string_lossy().into_owned()));
        if let Some(from) = &mut recipe.model.from
            && !base.join(&*from).exists()
            && let Some(found) = find(from).map_err(|e| source.error(&Wrong::new("model.from", e.to_string())))?
        {
            *from = found;
        }
        recipe.start_paths_at(base);
        recipe.resolve_runs().map_err(|wrong| source.error(&wrong))?;
        recipe.check().map_err(|wrong| source.error(&wrong))?;
        Ok(recipe)
    }

    /// Reads a recipe that a run has written into its folder: absolute paths, and nothing left to check but names, which
    /// lead to folders.
    ///
    /// # Errors
    /// The file cannot be read or is no recipe.
    pub fn reread(path: &Path) -> Result<Recipe> {
        let source = Source::read(path, &[])?;
        let recipe: Recipe = source.parse()?;
        match recipe.stages.iter().find(|stage| !is_name(&stage.name)) {
            Some(stage) => Err(source.error(&Wrong::new(format!("stage.{}.name", stage.name), NOT_A_NAME))),
            None => Ok(recipe),
        }
    }

    /// The recipe with what it leaves open spelled out.
    ///
    /// # Errors
    /// What is wrong with the model or with a stage.
    pub fn spelled_out(&self) -> Result<Recipe> {
        self.spelled_out_since(&|_| None)
    }

    /// The same where stages have begun with other numbers of steps, from which the intervals that they leave open followed.
    pub(crate) fn spelled_out_since(&self, steps_of: &dyn Fn(&str) -> Option<u64>) -> Result<Recipe> {
        let mut recipe =
            Recipe { model: self.model.spelled_out()?, tokenizer: self.tokenizer.spelled_out(), ..self.clone() };
        recipe.tasks.values_mut().for_each(|task| *task = task.spelled_out());
        let stages = recipe.stages.iter().map(|stage| {
            let start = recipe.starting_stage(stage).map(|other| other.name.clone());
            let spelled = stage.spelled_out(&recipe.settings(stage)?, steps_of(&stage.name));
            let begin = spelled.begin.filter(|_| start.is_some());
            Ok(Stage { from: Some(start.unwrap_or_else(|| FROM_MODEL.into())), begin, ..spelled })
        });
        recipe.stages = stages.collect::<Result<_>>()?;
        Ok(recipe)
    }

    /// As TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Input(format!("the recipe cannot be written: {e}")))
    }

    /// The stage's settings; those of a stage without training only say what to evaluate on.
    ///
    /// # Errors
    /// What is wrong with the stage.
    pub fn settings(&self, stage: &Stage) -> Result<Settings> {
        let fine_tuning = self.model.from.is_some() || self.starting_stage(stage).is_some();
        stage.settings(&self.texts, &self.tasks, self.seed, fine_tuning, self.model.dropout)
    }

    /// The stage whose weights this one begins with, unless they are those of the recipe's model.
    fn starting_stage(&self, stage: &Stage) -> Option<&Stage> {
        let mut earlier =
            self.stages.iter().take_while(|other| other.name != stage.name).filter(|other| other.trains());
        match stage.from.as_deref() {
            Some(FROM_MODEL) => None,
            Some(name) => earlier.find(|other| other.name == name),
            None => earlier.last(),
        }
    }

    /// What a stage trains, with nothing left out that it takes over from what was added to its model before.
    ///
    /// # Errors
    /// What is wrong with the stage; what was added before is something else.
    fn learns(&self, stage: &Stage) -> Result<Learns> {
        let learns = self.settings(stage)?.learns;
        if !learns.adds() {
            return Ok(learns);
        }
        let there = match (self.starting_stage(stage), &self.model.from) {
            (Some(start), _) => self.learns(start)?,
            (None, Some(from)) => {
                PeftFolder::find(from)?.map_or(Ok(Learns::All), |folder| Learns::of_folder(&folder))?
            }
            (None, None) => Learns::All,
        };
        learns.on(&there)
    }

    fn start_paths_at(&mut self, base: &Path) {
        let at = |path: &mut PathBuf| *path = base.join(&*path);
        self.model.from.iter_mut().for_each(at);
        self.model.config.iter_mut().for_each(at);
        self.out.iter_mut().for_each(at);
        if let Some(from) = self.tokenizer.from.as_mut().filter(|from| *from != "bytes") {
            *from = base.join(&*from).to_string_lossy().into_owned();
        }
        self.tokenizer.files.iter_mut().for_each(|files| files.start_at(base));
        self.texts.values_mut().for_each(|text| *text = text.clone().absolute(base));
        self.tasks.values_mut().for_each(|task| *task = task.clone().absolute(base));
    }

    /// Puts the folders of a run's model and tokenizer in the place of the run's folder.
    fn resolve_runs(&mut self) -> Result<(), Wrong> {
        if let Some(from) = &mut self.model.from
            && let Some((model, _)) = model_of_run(from).map_err(|e| Wrong::new("model.from", e.to_string()))?
        {
            *from = model;
        }
        if let Some(from) = self.tokenizer.from.as_mut().filter(|from| *from != "bytes") {
            *from = tokenizer_of_run(from).map_err(|e| Wrong::new("tokenizer.from", e.to_string()))?;
        }
        Ok(())
    }

    /// Everything that shows without running: names, sizes, files.
    fn check(&self) -> Result<(), Wrong> {
        if self.stages.is_empty() {
            return Err(Wrong::new("stage", "there is no stage: add [[stage]] with a name and what it trains on"));
        }
        // It may be that of a file, with spaces and all, but it must not lead elsewhere.
        let leads = |name: &String| name.contains(['/', '\\']) || [".", ".."].contains(&name.as_str());
        if self.name.as_ref().is_some_and(leads) {
            return Err(Wrong::new("name", NOT_A_NAME));
        }
        for (list, name) in
            self.texts.keys().map(|name| ("texts", name)).chain(self.tasks.keys().map(|name| ("tasks", name)))
        {
            if !is_name(name) {
                return Err(Wrong::new(format!("{list}.{name}"), NOT_A_NAME));
            }
        }
        for (name, text) in &self.texts {
            let key = format!("texts.{name}");
            text.check().map_err(|e| Wrong::within(&key, e, &key))?;
            for (part, files) in [("files", Some(&text.files)), ("validation", text.validation.as_ref())] {
                let found = files.map_or(Ok(Vec::new()), |files| files.paths(Path::new("")));
                found.map_err(|e| Wrong::new(format!("{key}.{part}"), e.to_string()))?;
            }
        }
        for (name, task) in &self.tasks {
            let key = format!("tasks.{name}");
            if self.texts.contains_key(name) {
                return Err(Wrong::new(key, "a text has this name already"));
            }
            task.check().map_err(|e| Wrong::within(&key, e, &key))?;
            use crate::data::Split;
            for split in [Split::Train, Split::Validation, Split::Test].into_iter().filter(|&split| task.has(split)) {
                let found = task.files(Path::new(""), split);
                found.map_err(|e| Wrong::new(format!("{key}.{split}"), e.to_string()))?;
            }
        }
        self.check_tokenizer()?;
        self.model.check()?;
        for (index, stage) in self.stages.iter().enumerate() {
            if self.stages[..index].iter().any(|other| other.name == stage.name) {
                return Err(Wrong::new(format!("stage.{}.name", stage.name), "another stage has this name"));
            }
            stage.check(self)?;
            let key = format!("stage.{}", stage.name);
            self.learns(stage).map_err(|e| Wrong::within(&key, e, &key))?;
        }
        Ok(())
    }

    fn no_such_task(&self, name: &str) -> String {
        let known: Vec<&str> = self.texts.keys().chain(self.tasks.keys()).map(String::as_str).collect();
        format!("there is no text or task `{name}`; there are: {}", known.join(", "))
    }
}
