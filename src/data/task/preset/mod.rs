//! The tasks of the T5 paper (arXiv 1910.10683, section 2.4 and appendix D), word for word as its `preprocessors.py` and
//! `tasks.py` make them.

mod questions;
mod referents;

use serde_json::{Value, json};

use super::languages::language;
use super::load::label_word;
use super::row::Row;
use crate::data::example::{Split, TaskExample, UNKNOWN_LABEL};
use crate::data::metrics::{BleuTokenizer, Metric, MetricKind};

/// The names of all presets.
///
/// - `glue/cola`, `sst2`, `mrpc`, `qqp`, `stsb`, `mnli`, `qnli`, `rte`: "cola sentence: ...", the keys in alphabetical
///   order, and label words. Columns of HuggingFace's `nyu-mll/glue` as JSON lines or CSV, or of GLUE's own TSV files
///   (those of QQP with lines of fewer columns removed). `stsb` rounds to 0.2, ties to even.
/// - `super_glue/boolq`, `cb`, `copa`, `multirc`, `record`, `rte`, `wic`, `wsc`: SuperGLUE's own JSON lines, or
///   HuggingFace's `aps/super_glue` as JSON lines. `wsc` asks for the referent of a marked pronoun and trains on the right
///   candidates only; `record` trains on every answer.
/// - `dpr`: definite pronoun resolution, asked like `wsc`: "sentence", "pronoun", "candidates", "label".
/// - `squad`: SQuAD 1.1's own JSON file, or HuggingFace's `rajpurkar/squad` as JSON lines.
/// - `cnn_dailymail`: columns "article" and "highlights".
/// - `wmt`: needs `source_language` and `target_language`; columns named by their codes, of parallel files or of JSON
///   lines, there also inside "translation".
pub fn presets() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.name)
}

/// What a preset says about its task.
pub(super) struct Preset {
    pub name: &'static str,
    /// Opens every source.
    prefix: &'static str,
    shape: Shape,
    /// Columns of the label, in order of preference.
    label: &'static [&'static str],
    pub labels: &'static [&'static str],
    metrics: &'static [MetricKind],
    /// Most tokens of a target, as in the paper.
    pub max_target: usize,
    /// The columns of its own TSV file, where that has no header.
    pub tsv_columns: &'static [&'static str],
}

enum Shape {
    /// "key: text key: text", and a label.
    Keys(&'static [Key]),
    /// Likewise with a number from 0 to 5.
    Similarity(&'static [Key]),
    Multirc,
    Record,
    Squad,
    Wsc,
    Dpr,
    Summary,
    Translation,
}

/// A key in the source, and the columns that may hold its text, in order of preference.
type Key = (&'static str, &'static [&'static str]);

const PLAIN: Preset = Preset {
    name: "",
    prefix: "",
    shape: Shape::Keys(&[]),
    label: &["label"],
    labels: &[],
    metrics: &[MetricKind::Accuracy],
    max_target: GLUE_TARGET,
    tsv_columns: &[],
};

const GLUE_TARGET: usize = 84;
const SUPER_GLUE_TARGET: usize = 62;

const SENTENCES: &[Key] = &[("sentence1", &["sentence1", "#1 String"]), ("sentence2", &["sentence2", "#2 String"])];
const PREMISES: &[Key] = &[("hypothesis", &["hypothesis", "sentence2"]), ("premise", &["premise", "sentence1"])];
const ENTAILMENT: &[&str] = &["entailment", "not_entailment"];
const TRUTH: &[&str] = &["False", "True"];

static PRESETS: [Preset; 20] = [
    Preset {
        name: "glue/cola",
        prefix: "cola ",
        shape: Shape::Keys(&[("sentence", &["sentence"])]),
        labels: &["unacceptable", "acceptable"],
        metrics: &[MetricKind::Matthews],
        tsv_columns: &["source", "label", "star", "sentence"],
        ..PLAIN
    },
    Preset {
        name: "glue/sst2",
        prefix: "sst2 ",
        shape: Shape::Keys(&[("sentence", &["sentence"])]),
        labels: &["negative", "positive"],
        ..PLAIN
    },
    Preset {
        name: "glue/mrpc",
        prefix: "mrpc ",
        shape: Shape::Keys(SENTENCES),
        label: &["label", "Quality"],
        labels: &["not_equivalent", "equivalent"],
        metrics: &[MetricKind::F1, MetricKind::Accuracy],
        ..PLAIN
    },
    Preset {
        name: "glue/qqp",
        prefix: "qqp ",
        shape: Shape::Keys(&[("question1", &["question1"]), ("question2", &["question2"])]),
        label: &["label", "is_duplicate"],
        labels: &["not_duplicate", "duplicate"],
        metrics: &[MetricKind::F1, MetricKind::Accuracy],
        ..PLAIN
    },
    Preset {
        name: "glue/stsb",
        prefix: "stsb ",
        shape: Shape::Similarity(SENTENCES),
        label: &["label", "score"],
        metrics: &[MetricKind::Pearson, MetricKind::Spearman],
        ..PLAIN
    },
    Preset {
        name: "glue/mnli",
        prefix: "mnli ",
        shape: Shape::Keys(PREMISES),
        label: &["label", "gold_label"],
        labels: &["entailment", "neutral", "contradiction"],
        ..PLAIN
    },
    Preset {
        name: "glue/qnli",
        prefix: "qnli ",
        shape: Shape::Keys(&[("question", &["question"]), ("sentence", &["sentence"])]),
        labels: ENTAILMENT,
        ..PLAIN
    },
    Preset { name: "glue/rte", prefix: "rte ", shape: Shape::Keys(SENTENCES), labels: ENTAILMENT, ..PLAIN },
    Preset {
        name: "super_glue/boolq",
        prefix: "boolq ",
        shape: Shape::Keys(&[("passage", &["passage"]), ("question", &["question"])]),
        labels: TRUTH,
        max_target: SUPER_GLUE_TARGET,
        ..PLAIN
    },
    Preset {
        name: "super_glue/cb",
        prefix: "cb ",
        shape: Shape::Keys(PREMISES),
        labels: &["entailment", "contradiction", "neutral"],
        metrics: &[MetricKind::F1Macro, MetricKind::Accuracy],
        max_target: SUPER_GLUE_TARGET,
        ..PLAIN
    },
    Preset {
        name: "super_glue/copa",
        prefix: "copa ",
        shape: Shape::Keys(&[
            ("choice1", &["choice1"]),
            ("choice2", &["choice2"]),
            ("premise", &["premise"]),
            ("question", &["question"]),
        ]),
        labels: &["choice1", "choice2"],
        max_target: SUPER_GLUE_TARGET,
        ..PLAIN
    },
    Preset {
        name: "super_glue/multirc",
        prefix: "multirc ",
        shape: Shape::Multirc,
        labels: TRUTH,
        metrics: &[MetricKind::Multirc],
        max_target: SUPER_GLUE_TARGET,
        ..PLAIN
    },
    Preset {
        name: "super_glue/record",
        prefix: "record ",
        shape: Shape::Record,
        metrics: &[MetricKind::Record],
        max_target: SUPER_GLUE_TARGET,
        ..PLAIN
    },
    Preset {
        name: "super_glue/rte",
        prefix: "rte ",
        shape: Shape::Keys(PREMISES),
        labels: ENTAILMENT,
        max_target: SUPER_GLUE_TARGET,
        ..PLAIN
    },
    Preset {
        name: "super_glue/wic",
        prefix: "wic ",
        shape: Shape::Keys(&[("sentence1", &["sentence1"]), ("sentence2", &["sentence2"]), ("word", &["word"])]),
        labels: TRUTH,
        max_target: SUPER_GLUE_TARGET,
        ..PLAIN
    },
    Preset {
        name: "super_glue/wsc",
        prefix: "wsc: ",
        shape: Shape::Wsc,
        metrics: &[MetricKind::Wsc],
        max_target: SUPER_GLUE_TARGET,
        ..PLAIN
    },
    Preset { name: "dpr", prefix: "wsc: ", shape: Shape::Dpr, max_target: SUPER_GLUE_TARGET, ..PLAIN },
    Preset { name: "squad", shape: Shape::Squad, metrics: &[MetricKind::Squad], max_target: 97, ..PLAIN },
    Preset {
        name: "cnn_dailymail",
        prefix: "summarize: ",
        shape: Shape::Summary,
        metrics: &[MetricKind::Rouge],
        max_target: 512,
        ..PLAIN
    },
    Preset { name: "wmt", shape: Shape::Translation, metrics: &[MetricKind::Bleu], max_target: 512, ..PLAIN },
];

impl Preset {
    /// Errors list the presets.
    pub(super) fn find(name: &str) -> Result<&'static Preset, String> {
        if name == "glue/wnli" {
            return Err("the T5 paper trains on no WNLI, whose validation set contradicts its training set: use \
                        super_glue/wsc"
                .into());
        }
        PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
            let names: Vec<&str> = presets().collect();
            format!("there is no preset {name:?}; there are {}", names.join(", "))
        })
    }

    pub(super) fn metrics(&self) -> Vec<Metric> {
        let mut metrics: Vec<Metric> = self.metrics.iter().copied().map(Metric::new).collect();
        for bleu in metrics.iter_mut().filter(|metric| metric.kind == MetricKind::Bleu) {
            bleu.tokenize = BleuTokenizer::Intl;
        }
        metrics
    }
}

/// A preset with what the declaration adds to it.
pub(super) struct PresetMaker {
    preset: &'static Preset,
    prefix: String,
    label: Vec<String>,
    labels: Vec<String>,
    /// Codes of (source, target).
    languages: (&'static str, &'static str),
}

impl PresetMaker {
    /// `languages` are required by "wmt" and of no meaning to the others; `label` None is the preset's column.
    pub(super) fn new(
        name: &str,
        prefix: Option<&str>,
        languages: Option<(&str, &str)>,
        label: Option<&str>,
        labels: Vec<String>,
    ) -> Result<PresetMaker, String> {
        let preset = Preset::find(name)?;
        let mut words = preset.prefix.to_owned();
        let mut codes = ("", "");
        if let Shape::Translation = preset.shape {
            let (source, target) =
                languages.ok_or("the preset \"wmt\" needs source_language and target_language (\"en\", \"German\")")?;
            let (source, target) = (language(source)?, language(target)?);
            words = format!("translate {} to {}: ", source.1, target.1);
            codes = (source.0, target.0);
        }
        let label = label.map_or_else(
            || preset.label.iter().map(|&column| column.to_owned()).collect(),
            |column| vec![column.to_owned()],
        );
        Ok(PresetMaker { preset, prefix: prefix.map_or(words, str::to_owned), label, labels, languages: codes })
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn examples(&self, row: Row, split: Split) -> Result<Vec<TaskExample>, String> {
        let one = |example: Result<TaskExample, String>| example.map(|example| vec![example]);
        match self.preset.shape {
            Shape::Keys(keys) => one(self.keys(keys, &row, split)),
            Shape::Similarity(keys) => one(self.similarity(keys, &row, split)),
            Shape::Summary => one(self.columns(&row, &["article"], &["highlights"])),
            Shape::Translation => {
                let nested = |code: &str| [format!("translation.{code}"), code.to_owned()];
                let (source, target) = (nested(self.languages.0), nested(self.languages.1));
                one(self.columns(&row, &[&source[0], &source[1]], &[&target[0], &target[1]]))
            }
            Shape::Multirc => self.multirc(row, split),
            Shape::Record => self.record(row, split),
            Shape::Squad => self.squad(row),
            Shape::Wsc => self.wsc(&row, split),
            Shape::Dpr => one(self.dpr(&row, split)),
        }
    }

    fn keys(&self, keys: &[Key], row: &Row, split: Split) -> Result<TaskExample, String> {
        let target = self.label(row, split)?;
        Ok(TaskExample {
            source: self.keyed(keys, row)?,
            references: vec![target.clone()],
            target,
            extra: numbers(row),
        })
    }

    /// The number rounded in 32 bits, as T5 does: there 0.5 / 5 is a tie more often than in 64.
    fn similarity(&self, keys: &[Key], row: &Row, split: Split) -> Result<TaskExample, String> {
        let target = match self.label_value(row, split)? {
            Some(value) => {
                let text = super::row::text_of(value)?;
                let number = text.trim().parse().ok().filter(|x: &f32| x.is_finite());
                let number = number.ok_or_else(|| format!("the label {text:?} is not a number"))?;
                format!("{:.1}", (number * 5.0).round_ties_even() / 5.0)
            }
            None => UNKNOWN_LABEL.to_owned(),
        };
        Ok(TaskExample {
            source: self.keyed(keys, row)?,
            references: vec![target.clone()],
            target,
            extra: numbers(row),
        })
    }

    fn columns(&self, row: &Row, source: &[&str], target: &[&str]) -> Result<TaskExample, String> {
        let target = row.text(target)?;
        let source = format!("{}{}", self.prefix, row.text(source)?);
        Ok(TaskExample { source, references: vec![target.clone()], target, extra: numbers(row) })
    }

    fn keyed(&self, keys: &[Key], row: &Row) -> Result<String, String> {
        let parts: Vec<String> = keys
            .iter()
            .map(|(key, columns)| Ok(format!("{key}: {}", row.text(columns)?)))
            .collect::<Result<_, String>>()?;
        Ok(format!("{}{}", self.prefix, parts.join(" ")))
    }

    fn label(&self, row: &Row, split: Split) -> Result<String, String> {
        match self.label_value(row, split)? {
            Some(value) => label_word(value, &self.labels),
            None => Ok(UNKNOWN_LABEL.to_owned()),
        }
    }

    /// None only in a test set, where labels may be secret.
    fn label_value<'a>(&self, row: &'a Row, split: Split) -> Result<Option<&'a Value>, String> {
        let columns: Vec<&str> = self.label.iter().map(String::as_str).collect();
        match split {
            Split::Test => Ok(row.first(&columns)),
            _ => row.need(&columns).map(Some),
        }
    }
}

/// The number of the example in its data set, if it has one.
fn numbers(row: &Row) -> Value {
    match row.first(&["idx", "id", "index"]) {
        Some(number) => json!({ "idx": number }),
        None => Value::Null,
    }
}
