//! What each part of a run was made from, kept in the run's folder: so that a changed recipe redoes what it must, and refuses
//! to go on where that would need more.
//!
//! A part is a stage or the tokenizer. Its record is the recipe without all that its result does not depend on, spelled out,
//! and prints of the files that it read. Comments, defaults, and paths of files that moved are no difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::run::TOKENIZER;
use super::stage::Begin;
use super::{ModelSpec, NOT_A_NAME, Recipe, Stage, is_name};
use crate::data::Split;
use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};
use crate::report::flatten;
use crate::run_folder::RunFolder;
use crate::train::evaluate::is_of_answers;
use crate::train::examples::fingerprint;
use crate::train::trainer::{BEST, LAST};

/// The file of the records.
pub const RECORDS: &str = "stages.json";

/// What a part's result follows from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub recipe: Recipe,
    /// Key -> print of the contents of its files. `None`: an older program began the run, and only paths are known.
    pub files: Option<BTreeMap<String, String>>,
    /// The steps of a training whose minutes were raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
}

/// A key that is not what it was.
#[derive(Debug)]
pub(super) struct Difference {
    pub key: String,
    /// What it was, and what it is; "none" where it is not there. `None`: files, whose contents changed.
    values: Option<[String; 2]>,
}

impl Difference {
    /// Whether the key has a value before and now.
    pub fn is_another_value(&self) -> bool {
        self.values.as_ref().is_some_and(|values| values.iter().all(|value| value != NONE))
    }
}

const NONE: &str = "none";

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.values {
            Some([before, now]) => write!(f, "{} was {before}, and is {now} now", self.key),
            None => write!(f, "the contents of {} have changed", self.key),
        }
    }
}

impl Record {
    /// What a part of the recipe would be made from now. `out` is the run's folder. The recipe is spelled out.
    pub fn of(recipe: &Recipe, part: &str, out: &Path) -> Result<Record> {
        let essence = recipe.essence(part);
        let mut files: Vec<(String, Vec<PathBuf>)> = Vec::new();
        let here = Path::new("");
        for (name, text) in &essence.texts {
            for (key, list) in [("files", Some(&text.files)), ("validation", text.validation.as_ref())] {
                files.extend(list.map(|list| Ok((format!("texts.{name}.{key}"), list.paths(here)?))).transpose()?);
            }
        }
        for (name, task) in &essence.tasks {
            for (key, list) in [("train", &task.train), ("validation", &task.validation), ("test", &task.test)] {
                let list = list.as_ref();
                files.extend(list.map(|list| Ok((format!("tasks.{name}.{key}"), list.paths(here)?))).transpose()?);
            }
        }
        if let Some(list) = &essence.tokenizer.files {
            files.push(("tokenizer.files".into(), list.paths(here)?));
        }
        let paths = [("model.from", &essence.model.from), ("model.config", &essence.model.config)];
        files.extend(paths.into_iter().filter_map(|(key, path)| Some((key.to_owned(), contents(path.as_ref()?)))));
        if part != TOKENIZER {
            let learned = out.join(TOKENIZER).join("tokenizer.json");
            match &essence.tokenizer.from {
                Some(from) if from != "bytes" => files.push(("tokenizer.from".into(), contents(Path::new(from)))),
                _ if essence.tokenizer.vocab_size.is_some() && learned.exists() => {
                    files.push((LEARNED.into(), vec![learned]));
                }
                _ => {}
            }
        }
        if let Some(weights) = start_of(recipe, part, out).filter(|folder| folder.exists()) {
            files.push((WEIGHTS.into(), contents(&weights)));
        }
        let prints = files.into_iter().map(|(key, paths)| Ok((key, fingerprint(&paths)?)));
        Ok(Record { recipe: essence, files: Some(prints.collect::<Result<_>>()?), steps: None })
    }

    /// What is known of a part that a program made which kept no records.
    pub fn of_older(recipe: &Recipe, part: &str) -> Record {
        Record { recipe: recipe.essence(part), files: None, steps: None }
    }

    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.recipe.stages.iter().find(|stage| stage.name == name)
    }

    /// Writes down that a training goes on for longer, and therefore to so many steps.
    pub fn extend(&mut self, now: &Stage, steps: u64) {
        self.steps = Some(steps);
        let stages = self.recipe.stages.iter_mut();
        stages.filter(|stage| stage.name == now.name).for_each(|stage| stage.take_budget(now));
    }

    /// Whether the part, as it was made, is what it would be now, or the beginning of that.
    pub fn begins(&self, now: &Record, part: &str) -> bool {
        let Ok(differences) = self.differences(now, part) else { return false };
        let (old, new) = (self.stage(part), now.stage(part));
        let has_fewer_steps = || {
            let fewer = old.zip(new).is_some_and(|(old, new)| old.steps < new.steps);
            fewer && new.and_then(|stage| stage.schedule).is_some_and(|schedule| !schedule.depends_on_steps())
        };
        match &differences[..] {
            [] => true,
            [one] => one.key == format!("stage.{part}.steps") && has_fewer_steps(),
            _ => false,
        }
    }

    /// What has changed since the part was made.
    pub fn differences(&self, now: &Record, part: &str) -> Result<Vec<Difference>> {
        // An older program may have left a newer setting open.
        let before = self.recipe.spelled_out().map_or_else(|_| self.recipe.clone(), |recipe| recipe.essence(part));
        let with_paths = self.files.is_none();
        let (old, new) = (flat(&before, with_paths)?, flat(&now.recipe, with_paths)?);
        let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let value = |of: &BTreeMap<String, String>, key: &String| of.get(key).cloned().unwrap_or_else(|| NONE.into());
        let mut found: Vec<Difference> = keys
            .into_iter()
            .filter(|key| old.get(*key) != new.get(*key))
            .map(|key| Difference { key: key.clone(), values: Some([value(&old, key), value(&new, key)]) })
            .collect();
        if let (Some(old), Some(new)) = (&self.files, &now.files) {
            // What the run itself makes is made again if it is gone.
            let is_made = |key: &str| [LEARNED, WEIGHTS].contains(&key);
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let values = match (old.get(key), new.get(key)) {
                    (Some(a), Some(b)) if a != b => None,
                    (Some(_), None) if !is_made(key) => Some(["given", NONE]),
                    (None, Some(_)) if !is_made(key) => Some([NONE, "given"]),
                    _ => continue,
                };
                found.push(Difference { key: key.clone(), values: values.map(|values| values.map(str::to_owned)) });
            }
        }
        Ok(found)
    }
}

/// What the learned tokenizer is called among a stage's files, and the weights of the stage that it begins with.
pub(super) const LEARNED: &str = "the tokenizer";
const WEIGHTS: &str = "the weights to begin with";

/// The recipe's keys and values, of which paths count only `with_paths`.
fn flat(recipe: &Recipe, with_paths: bool) -> Result<BTreeMap<String, String>> {
    let value: Value = toml::from_str(&recipe.to_toml()?).map_err(|e| Error::Input(e.to_string()))?;
    let mut flat = BTreeMap::new();
    flatten("", &value, &mut flat);
    let is_path = |key: &str| {
        let parts: Vec<&str> = key.split('.').collect();
        matches!(
            parts[..],
            ["texts", _, "files" | "validation", ..]
                | ["tasks", _, "train" | "validation" | "test", ..]
                | ["tokenizer", "files" | "from", ..]
                | ["model", "from" | "config", ..]
        )
    };
    flat.retain(|key, _| with_paths || !is_path(key));
    Ok(flat)
}

/// The folder of the weights that a stage begins with, if they are those of another stage.
pub(super) fn start_of(recipe: &Recipe, part: &str, out: &Path) -> Option<PathBuf> {
    let stage = recipe.stages.iter().find(|stage| stage.name == part)?;
    let folder = out.join(&recipe.starting_stage(stage)?.name);
    let default = if stage.trains() { Begin::Last } else { Begin::Best };
    let is_best = stage.begin.unwrap_or(default) == Begin::Best && folder.join(BEST).exists();
    Some(folder.join(if is_best { BEST } else { LAST }))
}

/// A file, or the files of a folder, in order.
fn contents(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return vec![path.to_path_buf()] };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.is_file());
    files.sort();
    files
}

impl Recipe {
    /// What the result of a part depends on, a stage or "tokenizer". The recipe is spelled out.
    pub fn essence(&self, part: &str) -> Recipe {
        let lineage = self.lineage(part);
        let learns = |name: &String| {
            let spec = &self.tokenizer;
            part == TOKENIZER
                && spec.vocab_size.is_some()
                && spec.train.as_ref().is_none_or(|names| names.contains(name))
        };
        let evaluates = |stage: &Stage, name: &String| stage.evaluate.as_ref().is_some_and(|all| all.contains(name));
        let trains_on = |name: &String| learns(name) || lineage.iter().any(|stage| stage.train.contains(name));
        let reads = |name: &String, split: Split| {
            (split == Split::Train && trains_on(name))
                || lineage.iter().any(|stage| evaluates(stage, name) && stage.split() == split)
        };
        let all = [Split::Train, Split::Validation, Split::Test];
        // Training goes by its metrics only where one of them chooses the best checkpoint.
        let scores = |name: &String| {
            lineage.first().is_some_and(|stage| !stage.trains() && evaluates(stage, name))
                || lineage.iter().any(|stage| stage.best.as_ref().is_some_and(|best| is_of_answers(best, name)))
        };
        let mut essence = Recipe { name: None, about: None, out: None, seed: 0, ..self.clone() };
        if part == TOKENIZER {
            essence.model = ModelSpec::default();
        }
        essence.stages.retain(|stage| lineage.iter().any(|other| other.name == stage.name));
        for stage in &mut essence.stages {
            (stage.prefetch, stage.recompute) = (None, None);
            (stage.log_every, stage.norms_every) = (None, None);
        }
        if part != TOKENIZER {
            // Their texts show in what was learned.
            (essence.tokenizer.train, essence.tokenizer.files) = (None, None);
        }
        essence.texts.retain(|name, text| {
            text.validation.take_if(|_| !reads(name, Split::Validation));
            text.examples.take_if(|_| !lineage.iter().any(|stage| stage.train.contains(name)));
            all.iter().any(|&split| reads(name, split))
        });
        essence.tasks.retain(|name, task| {
            if part == TOKENIZER && task.train.is_none() {
                return false;
            }
            let holds_out = task.held_out.is_some() && reads(name, Split::Validation);
            task.train.take_if(|_| !reads(name, Split::Train) && !holds_out);
            task.train_examples.take_if(|_| !reads(name, Split::Train));
            task.validation.take_if(|_| !reads(name, Split::Validation));
            task.test.take_if(|_| !reads(name, Split::Test));
            task.metrics.take_if(|_| !scores(name));
            all.iter().any(|&split| reads(name, split))
        });
        essence
    }

    /// A stage, the stage whose weights it begins with, and so on.
    fn lineage(&self, part: &str) -> Vec<&Stage> {
        let mut lineage = Vec::new();
        let mut next = self.stages.iter().find(|stage| stage.name == part);
        while let Some(stage) = next {
            lineage.push(stage);
            next = self.starting_stage(stage);
        }
        lineage
    }
}

/// The records of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Records(pub BTreeMap<String, Record>);

impl Records {
    /// Those in a run's folder, if there are any.
    pub fn read(out: &Path) -> Result<Records> {
        let path = out.join(RECORDS);
        if !path.exists() {
            return Ok(Records::default());
        }
        let text = files::read_text(&path, SETTINGS_LIMIT)?;
        let bad = |e: serde_json::Error| Error::line(&path, e.line(), format!("not the records of a run: {e}"));
        let records: Records = serde_json::from_str(&text).map_err(bad)?;
        // They lead to folders.
        match records.0.keys().find(|name| !is_name(name) && *name != TOKENIZER) {
            Some(name) => Err(Error::file(&path, format!("{name:?}: {NOT_A_NAME}"))),
            None => Ok(records),
        }
    }

    /// The first thing that a part would be made from now and was not made from.
    pub fn difference(&self, now: &Record, part: &str) -> Result<Option<Difference>> {
        let differences = self.0.get(part).map_or(Ok(Vec::new()), |record| record.differences(now, part))?;
        Ok(differences.into_iter().next())
    }

    pub fn write(&self, folder: &RunFolder) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::file(folder.path(), e.to_string()))?;
        folder.write(RECORDS, &text)
    }
}
