//! The files of a run's folder.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::settings;
use crate::data::metrics::Direction;
use crate::error::{Error, Result};
use crate::files::{self, LARGE_LIMIT};

const LOG: &str = "log.jsonl";
/// The split that models are evaluated on while they are trained.
const VALIDATION: &str = "validation";
/// The recipe as it is carried out.
pub const RECIPE: &str = "recipe.toml";
/// The result of an evaluation, in its stage's folder.
pub const METRICS: &str = "metrics.json";
/// The folder of an evaluation's answers.
pub const PREDICTIONS: &str = "predictions";

/// A run: one training, or the stages of a recipe.
#[derive(Debug)]
pub(super) struct Run {
    /// The folder's name, unique within a report.
    pub name: String,
    pub folder: PathBuf,
    pub stages: Vec<Stage>,
    /// "stage.lr" -> "0.001"
    pub settings: BTreeMap<String, String>,
}

/// A training or an evaluation.
#[derive(Debug, Default)]
pub(super) struct Stage {
    /// Empty for the only stage of a run without a recipe.
    pub name: String,
    pub steps: Vec<Step>,
    pub evaluations: Vec<Evaluation>,
    pub warnings: Vec<(u64, String)>,
    /// What `metrics.json` says: of an evaluation of its own, after training.
    pub last_word: Option<Evaluation>,
    /// Task -> predictions.
    pub predictions: BTreeMap<String, Vec<Prediction>>,
}

/// A line of the log about training steps. Numbers that were not finite are absent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Step {
    pub step: u64,
    pub steps: u64,
    pub epoch: Option<f64>,
    pub loss: Option<f64>,
    pub accuracy: Option<f64>,
    pub lr: Option<f64>,
    pub grad_norm: Option<f64>,
    pub skipped: u64,
    pub tokens: u64,
    /// An older program did not count them.
    pub flops: Option<f64>,
    pub tokens_per_second: Option<f64>,
    pub elapsed: Option<f64>,
    pub padding: Option<f64>,
}

/// Figures of all tasks at one step.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Evaluation {
    pub step: u64,
    pub tasks: BTreeMap<String, TaskFigures>,
    /// Which examples of the tasks: those for validation while a model is trained. Empty: an older program did not say.
    pub split: String,
    /// Whether this was the best evaluation when it was made.
    pub best: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TaskFigures {
    pub examples: u64,
    /// Nats a target token.
    pub loss: Option<f64>,
    /// Share of target tokens predicted right.
    pub accuracy: Option<f64>,
    /// Of unlabelled text: comparable between tokenizers, as the loss is not.
    pub bits_per_byte: Option<f64>,
    pub metrics: BTreeMap<String, Option<f64>>,
    pub scores: Vec<ScoreLine>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ScoreLine {
    pub name: String,
    pub value: Option<f64>,
    pub better: Option<Direction>,
    #[serde(default)]
    pub signature: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Prediction {
    pub source: String,
    pub prediction: String,
    pub references: Vec<String>,
    pub correct: Option<bool>,
}

impl Run {
    pub(super) fn read(folder: &Path, remarks: &mut Vec<String>) -> Result<Run> {
        let name = name_of(folder);
        let mut stages = if is_stage(folder) {
            vec![Stage::read(String::new(), folder, remarks)?]
        } else {
            stages_of(folder, remarks)?
        };
        let settings = settings::read(folder)?;
        for stage in &mut stages {
            let split = settings.get(&format!("stage.{}.split", stage.name));
            if let (Some(evaluation), Some(split)) = (&mut stage.last_word, split)
                && evaluation.split.is_empty()
            {
                evaluation.split.clone_from(split);
            }
        }
        if stages.iter().all(Stage::is_empty) {
            remarks.push(format!("{}: nothing has been logged yet", folder.display()));
        }
        Ok(Run { name, folder: folder.to_path_buf(), stages, settings })
    }

    /// Its stages as runs of their own.
    pub(super) fn into_stages(self) -> Vec<Run> {
        let Run { name, folder, stages, settings } = self;
        let run_of = |stage: Stage| {
            let own = format!("stage.{}.", stage.name);
            let of_stage = |(key, value): (&String, &String)| Some((key.strip_prefix(&own)?.to_owned(), value.clone()));
            Run {
                name: format!("{name}/{}", stage.name),
                folder: folder.join(&stage.name),
                settings: settings.iter().filter_map(of_stage).collect(),
                stages: vec![Stage { name: String::new(), ..stage }],
            }
        };
        if stages.iter().any(|stage| stage.name.is_empty()) {
            return vec![Run { name, folder, stages, settings }];
        }
        stages.into_iter().map(run_of).collect()
    }
}

impl Stage {
    fn read(name: String, folder: &Path, remarks: &mut Vec<String>) -> Result<Stage> {
        let mut stage = Stage { name, ..Stage::default() };
        if let Some(text) = read_if_there(&folder.join(LOG))? {
            stage.read_log(&text, &folder.join(LOG), remarks);
        }
        let metrics = folder.join(METRICS);
        if let Some(text) = read_if_there(&metrics)? {
            let parsed = serde_json::from_str(&text).map_err(|e| Error::line(&metrics, e.line(), e.to_string()))?;
            stage.last_word = Some(parsed);
        }
        for path in files_in(&folder.join(PREDICTIONS), "jsonl")? {
            let text = files::read_text(&path, LARGE_LIMIT)?;
            let parse = |(i, line): (usize, &str)| {
                serde_json::from_str(line).map_err(|e| Error::line(&path, i + 1, format!("not a prediction: {e}")))
            };
            let rows = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse);
            stage.predictions.insert(name_of(&path.with_extension("")), rows.collect::<Result<Vec<Prediction>>>()?);
        }
        Ok(stage)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.evaluations.is_empty() && self.last_word.is_none() && self.predictions.is_empty()
    }

    /// The evaluation that the stage is worth: its own, or that of the best checkpoint.
    pub(super) fn result(&self) -> Option<&Evaluation> {
        let best = || self.evaluations.iter().rev().find(|evaluation| evaluation.best);
        self.last_word.as_ref().or_else(best).or(self.evaluations.last())
    }

    /// All evaluations in their order; that of `metrics.json` last.
    pub(super) fn all_evaluations(&self) -> impl DoubleEndedIterator<Item = &Evaluation> {
        self.evaluations.iter().chain(&self.last_word)
    }

    fn read_log(&mut self, text: &str, path: &Path, remarks: &mut Vec<String>) {
        let mut odd = 0;
        for line in text.split_inclusive('\n').filter(|line| !line.trim().is_empty()) {
            let Ok(value) = serde_json::from_str::<Value>(line) else {
                // A process that is killed, or still writing, leaves half a line at the end.
                odd += usize::from(line.ends_with('\n'));
                continue;
            };
            match value["event"].as_str() {
                Some("step") => match Step::deserialize(&value) {
                    Ok(step) => self.steps.push(step),
                    Err(_) => odd += 1,
                },
                Some("evaluation") => match Evaluation::deserialize(&value) {
                    Ok(evaluation) => self.evaluations.push(Evaluation { split: VALIDATION.into(), ..evaluation }),
                    Err(_) => odd += 1,
                },
                Some("warning") => {
                    let what = value["what"].as_str().unwrap_or_default();
                    self.warnings.push((value["step"].as_u64().unwrap_or(0), what.to_owned()));
                }
                Some(_) => {}
                None => odd += 1,
            }
        }
        if odd > 0 {
            remarks.push(format!("{}: lines that are no events were skipped: {odd}", path.display()));
        }
    }
}

impl TaskFigures {
    /// (name, value, direction), of metrics, scores and bits per byte; scores know their direction.
    pub(super) fn named(&self) -> Vec<(&str, f64, Direction)> {
        let scored = self.scores.iter().filter_map(|score| {
            Some((score.name.as_str(), score.value?, score.better.unwrap_or_else(|| direction(&score.name))))
        });
        let is_scored = |name: &String| self.scores.iter().any(|score| score.name == *name);
        let others = self.metrics.iter().filter(|(name, _)| !is_scored(name));
        let others = others.filter_map(|(name, value)| Some((name.as_str(), (*value)?, direction(name))));
        let bits = self.bits_per_byte.map(|bits| ("bits per byte", bits, Direction::Lower));
        scored.chain(others).chain(bits).collect()
    }
}

/// Whether more is better, by the name alone: error rates and losses are less when better.
pub(super) fn direction(metric: &str) -> Direction {
    let is_error = |word: &str| matches!(word, "wer" | "cer" | "per" | "ter" | "loss" | "error" | "perplexity");
    match metric.split(|c: char| !c.is_alphanumeric()).any(is_error) {
        true => Direction::Lower,
        false => Direction::Higher,
    }
}

/// Whether a training or an evaluation has written into a folder.
fn is_stage(folder: &Path) -> bool {
    [LOG, METRICS, PREDICTIONS].iter().any(|part| folder.join(part).exists())
}

/// Two runs of one name get their parent folders' names in front, and if that is not enough, numbers behind.
pub(super) fn make_names_distinct(runs: &mut [Run]) {
    let count = |runs: &[Run]| {
        let mut counts: HashMap<String, usize> = HashMap::new();
        runs.iter().for_each(|run| *counts.entry(run.name.clone()).or_default() += 1);
        counts
    };
    let counts = count(runs);
    for run in runs.iter_mut().filter(|run| counts[&run.name] > 1) {
        if let Some(parent) = run.folder.parent().and_then(Path::file_name) {
            run.name = format!("{}/{}", parent.to_string_lossy(), run.name);
        }
    }
    let counts = count(runs);
    for (i, run) in runs.iter_mut().enumerate().filter(|(_, run)| counts[&run.name] > 1) {
        run.name = format!("{} ({})", run.name, i + 1);
    }
}

fn stages_of(folder: &Path, remarks: &mut Vec<String>) -> Result<Vec<Stage>> {
    let entries = fs::read_dir(folder).map_err(Error::io("open the run's folder", folder))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if is_stage(&path) {
            found.push(path);
        }
    }
    let recipe = read_if_there(&folder.join(RECIPE))?;
    if found.is_empty() && recipe.is_none() {
        let what = "not a run: it has neither log.jsonl nor recipe.toml nor metrics.json; name the folder that `t5 train --out`, \
                    `t5 eval --out` or `t5 run` wrote";
        return Err(Error::file(folder, what));
    }
    let order = match &recipe {
        Some(text) => settings::stage_names(text, &folder.join(RECIPE))?,
        None => Vec::new(),
    };
    found.sort_by_key(|path| {
        let name = name_of(path);
        (order.iter().position(|stage| *stage == name).unwrap_or(order.len()), name)
    });
    found.into_iter().map(|path| Stage::read(name_of(&path), &path, remarks)).collect()
}

/// None where there is no such file. Bytes that are no UTF-8 belong to a torn line.
pub(super) fn read_if_there(path: &Path) -> Result<Option<String>> {
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&files::read(path, LARGE_LIMIT)?).into_owned()))
}

fn files_in(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if path.extension().is_some_and(|e| e == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn name_of(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    absolute.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
