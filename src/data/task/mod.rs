//! Supervised tasks: files of examples and the words that turn them into a source text and a target text.
//!
//! A recipe declares a task by its files and two templates over their columns:
//!
//! ```toml
//! [tasks.pronounce]
//! train = "words-*.tsv"
//! validation = "held-out.tsv.gz"
//! columns = ["word", "pronunciation"]
//! prefix = "pronounce: "
//! input = "{word}"
//! target = "{pronunciation}"
//! metrics = ["sequence_error", "per", { name = "per", ignore = "012", as = "per_unstressed" }]
//! ```
//!
//! or by a preset of the T5 paper, which knows columns, words and metrics (see [`presets`]):
//!
//! ```toml
//! [tasks.cola]
//! preset = "glue/cola"
//! train = "cola/train.jsonl"
//! validation = "cola/validation.jsonl"
//! ```

mod check;
mod files;
mod findings;
mod languages;
mod load;
mod preset;
mod row;
mod rows;
mod set;
mod template;

pub use files::Files;
pub use load::LeftOut;
pub use preset::presets;
pub(super) use row::Row;
pub use rows::Format;
pub(super) use rows::{json_row, table_row};
pub use set::{TaskSet, spread};
pub(super) use template::Template;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::example::{Split, TaskExample};
use super::metrics::{Metric, MetricKind, Score};
use crate::{Error, Result};
use preset::Preset;

/// Tokens of a source and a target, EOS included, where the declaration says nothing else.
const DEFAULT_LENGTH: usize = 512;

/// What to do with a text of more tokens than allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// Leave the example out and count it.
    #[default]
    Skip,
    /// Cut the end off, keep EOS, and count the example.
    Truncate,
    /// Refuse the file, naming the line.
    Error,
}

/// What to do with a row that is no example: another number of columns, no such key, an empty text, no JSON, no UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRow {
    /// Refuse the file, naming the line.
    #[default]
    Error,
    /// Leave the row out and count it.
    Skip,
}

/// A task as a recipe declares it. [`TaskConfig::check`] refuses one that cannot be carried out.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// A file, a list of files, globs, or a table of parallel files, one a column.
    pub train: Option<Files>,
    pub validation: Option<Files>,
    pub test: Option<Files>,
    /// Trains on so many examples only, spread evenly over those there are. By default on all.
    pub train_examples: Option<usize>,
    /// Holds this share of the distinct sources of `train` out, as the validation split.
    pub held_out: Option<f64>,
    /// By default the format that the ending of the file's name stands for, before .gz, .xz or .zst.
    pub format: Option<Format>,
    /// The names of the columns of TSV and CSV files.
    pub columns: Option<Vec<String>>,
    /// Whether the first row of TSV and CSV files names the columns. By default it does if `columns` is not given, or if its
    /// words are those of `columns` (for a source and a target, also those in use elsewhere: "input_text"); it is no example then.
    pub header: Option<bool>,
    /// Makes sources and targets as the T5 paper does, and gives what else the declaration leaves open.
    pub preset: Option<String>,
    /// Put before every source.
    pub prefix: Option<String>,
    /// The source: text with columns in braces, as "question: {q} context: {page.text}"; `{{` and `}}` are braces, and
    /// `{tags | replace(";", " ")}` is a column with all semicolons replaced. The column `file`, where the data have none of
    /// the name, is the file's name up to its first dot. By default "{source}", or the first of two `columns`.
    pub input: Option<String>,
    /// The target, likewise. By default "{target}", or the second of two `columns`, or the label.
    pub target: Option<String>,
    /// Answers, likewise, of which the target is one: an evaluation asks which of them is the likeliest. Score `choice`, the
    /// share of examples where the target is; answers that are as likely share it. Nothing is generated then, unless there
    /// are `metrics`.
    pub choices: Option<Vec<String>>,
    /// The column that holds a label: its number among `labels`, or the word itself.
    pub label: Option<String>,
    /// The words of the labels 0, 1, ...
    pub labels: Option<Vec<String>>,
    /// For the preset "wmt": a code ("de") or a name ("German").
    pub source_language: Option<String>,
    pub target_language: Option<String>,
    /// By default those of the preset, `accuracy` where there are labels, else `exact_match`.
    pub metrics: Option<Vec<Metric>>,
    /// Most tokens of a source, prefix and EOS counted.
    pub max_source: Option<usize>,
    /// Most tokens of a target, EOS counted. By default 512, or the preset's.
    pub max_target: Option<usize>,
    /// By default longer examples are skipped, with a preset truncated as the paper does.
    pub too_long: Option<TooLong>,
    /// By default a row that is no example is an error.
    pub on_bad_row: Option<OnBadRow>,
    /// Whether examples for evaluation with one source are one question with several references. By default yes, and with
    /// a preset or `choices` no: there every line is a question.
    pub group_references: Option<bool>,
}

impl TaskConfig {
    /// Whether the task can be carried out, as far as that shows without its files.
    ///
    /// # Errors
    /// Say which key to change and how.
    pub fn check(&self) -> Result<()> {
        check::check(self).map_err(Error::Input)
    }

    /// Whether there are examples for the split.
    pub fn has(&self, split: Split) -> bool {
        self.of(split).is_some()
    }

    /// The declaration with its relative paths taken from `base`.
    pub fn absolute(mut self, base: &Path) -> TaskConfig {
        for files in [&mut self.train, &mut self.validation, &mut self.test].into_iter().flatten() {
            files.start_at(base);
        }
        self
    }

    /// The scores of answers to the examples, by all metrics of the task.
    ///
    /// # Errors
    /// As [`Metric::score`].
    pub fn score(&self, answers: &[String], examples: &[TaskExample]) -> Result<Vec<Score>> {
        let scores = self.resolved_metrics().into_iter().map(|metric| metric.score(answers, examples));
        Ok(scores.collect::<Result<Vec<_>>>()?.concat())
    }

    /// The files of a split, with globs resolved, in order; relative paths start at `base`.
    ///
    /// # Errors
    /// The split has none, one does not exist, or a glob matches nothing.
    pub fn files(&self, base: &Path, split: Split) -> Result<Vec<PathBuf>> {
        Ok(self.declared(split)?.resolve(base)?.into_paths())
    }

    /// The examples of a split in the order of its files. Blank lines are left out; of parallel files so is any line that
    /// is blank in one of them.
    ///
    /// For training every line is an example. For evaluation, lines with one source are one question with several
    /// references, unless `group_references` says otherwise.
    ///
    /// # Errors
    /// Those of [`TaskConfig::check`] and [`TaskConfig::files`]; unless `on_bad_row` says otherwise, they name the file and the
    /// line: not UTF-8, a missing column, a label that is none, an empty source or target. Also if no example is left.
    pub fn load(&self, base: &Path, split: Split) -> Result<Vec<TaskExample>> {
        Ok(load::load(self, base, split)?.into_examples())
    }

    /// The metrics of the task, with its labels where they count some.
    pub fn resolved_metrics(&self) -> Vec<Metric> {
        let labels = self.label_words();
        let declared = self.metrics.clone().unwrap_or_else(|| self.default_metrics());
        declared.into_iter().map(|metric| metric.with_labels(&labels)).collect()
    }

    /// What all sources begin with: the declaration's prefix or the preset's.
    pub fn source_prefix(&self) -> String {
        load::prefix(self)
    }

    /// The same with what it leaves open spelled out, as far as that shows without its files.
    pub fn spelled_out(&self) -> TaskConfig {
        let (max_source, max_target) = self.lengths();
        TaskConfig {
            metrics: Some(self.metrics.clone().unwrap_or_else(|| self.default_metrics())),
            max_source: Some(max_source),
            max_target: Some(max_target),
            too_long: Some(self.too_long()),
            on_bad_row: Some(self.on_bad_row.unwrap_or_default()),
            group_references: Some(self.groups_references()),
            ..self.clone()
        }
    }

    /// Most tokens of (sources, targets), EOS included.
    pub fn lengths(&self) -> (usize, usize) {
        let preset = self.known_preset().map_or(DEFAULT_LENGTH, |preset| preset.max_target);
        (self.max_source.unwrap_or(DEFAULT_LENGTH), self.max_target.unwrap_or(preset))
    }

    fn too_long(&self) -> TooLong {
        let default = if self.preset.is_some() { TooLong::Truncate } else { TooLong::Skip };
        self.too_long.unwrap_or(default)
    }

    fn groups_references(&self) -> bool {
        self.group_references.unwrap_or(self.preset.is_none() && self.choices.is_none())
    }

    fn of(&self, split: Split) -> Option<&Files> {
        match split {
            Split::Train => self.train.as_ref(),
            Split::Validation if self.held_out.is_some() => self.train.as_ref(),
            Split::Validation => self.validation.as_ref(),
            Split::Test => self.test.as_ref(),
        }
    }

    fn declared(&self, split: Split) -> Result<&Files> {
        self.of(split).ok_or_else(|| Error::Input(format!("the task has no files for {split}: set {split} = \"...\"")))
    }

    /// The format as far as it shows without a look at the disk: a glob may hide the ending.
    fn known_format(&self) -> Option<Format> {
        let first = [Split::Train, Split::Validation, Split::Test].into_iter().find_map(|split| self.of(split));
        let by_name = || match first? {
            Files::Together(paths) => Format::from_path(Path::new(paths.first()?)).ok(),
            Files::Parallel(_) => Some(Format::Lines),
        };
        self.format.or_else(by_name)
    }

    fn known_preset(&self) -> Option<&'static Preset> {
        self.preset.as_deref().and_then(|name| Preset::find(name).ok())
    }

    fn label_words(&self) -> Vec<String> {
        let preset = || self.known_preset().map(|preset| preset.labels.iter().map(|&word| word.to_owned()).collect());
        self.labels.clone().or_else(preset).unwrap_or_default()
    }

    fn default_metrics(&self) -> Vec<Metric> {
        let kinds = match self.known_preset() {
            Some(preset) => return preset.metrics(),
            None if self.choices.is_some() => Vec::new(),
            None if self.labels.is_some() => vec![MetricKind::Accuracy],
            None if self.known_format() == Some(Format::Cmudict) => vec![MetricKind::SequenceError, MetricKind::Per],
            None => vec![MetricKind::ExactMatch],
        };
        kinds.into_iter().map(Metric::new).collect()
    }
}
