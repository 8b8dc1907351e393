//! How metrics are written in recipes: names, and tables of options.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_untagged::UntaggedEnumVisitor;
use serde_with::skip_serializing_none;

use super::{BleuTokenizer, Metric, MetricKind};
use crate::{Error, Result};

/// All kinds with their names in recipes and the names of their scores.
const KINDS: [(MetricKind, &str, &[&str]); 18] = [
    (MetricKind::Accuracy, "accuracy", &["accuracy"]),
    (MetricKind::ExactMatch, "exact_match", &["exact_match"]),
    (MetricKind::F1, "f1", &["f1"]),
    (MetricKind::F1Macro, "f1_macro", &["f1_macro"]),
    (MetricKind::Matthews, "matthews", &["matthews"]),
    (MetricKind::Pearson, "pearson", &["pearson"]),
    (MetricKind::Spearman, "spearman", &["spearman"]),
    (MetricKind::Squad, "squad", &["em", "f1"]),
    (MetricKind::Record, "record", &["em", "f1"]),
    (MetricKind::Multirc, "multirc", &["f1a", "em"]),
    (MetricKind::Wsc, "wsc", &["accuracy"]),
    (MetricKind::Bleu, "bleu", &["bleu"]),
    (MetricKind::Rouge, "rouge", &["rouge1", "rouge2", "rougeLsum"]),
    (MetricKind::Wer, "wer", &["wer"]),
    (MetricKind::SequenceError, "sequence_error", &["sequence_error"]),
    (MetricKind::Per, "per", &["per"]),
    (MetricKind::Cer, "cer", &["cer"]),
    (MetricKind::UnitAccuracy, "unit_accuracy", &["unit_accuracy"]),
];

impl MetricKind {
    /// The name in recipes.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The names of its scores.
    pub fn score_names(self) -> &'static [&'static str] {
        self.row().2
    }

    pub(super) fn counts_labels(self) -> bool {
        matches!(self, MetricKind::F1 | MetricKind::F1Macro | MetricKind::Matthews)
    }

    fn row(self) -> &'static (MetricKind, &'static str, &'static [&'static str]) {
        KINDS.iter().find(|row| row.0 == self).expect("every kind has a row")
    }
}

impl FromStr for MetricKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<MetricKind> {
        KINDS.iter().find(|row| row.1 == name).map(|row| row.0).ok_or_else(|| {
            let names: Vec<&str> = KINDS.iter().map(|row| row.1).collect();
            Error::Input(format!("there is no metric {name:?}; there are {}", names.join(", ")))
        })
    }
}

/// A metric by its bare name, without options.
impl FromStr for Metric {
    type Err = Error;

    fn from_str(name: &str) -> Result<Metric> {
        name.parse().map(Metric::new)
    }
}

/// `"bleu"` or `{ name = "bleu", tokenize = "intl" }`.
pub(super) enum Declared {
    Name(String),
    Table(Table),
}

#[skip_serializing_none]
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    ignore: String,
    #[serde(default, skip_serializing_if = "is_false")]
    lowercase: bool,
    tokenize: Option<BleuTokenizer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
    #[serde(rename = "as")]
    alias: Option<String>,
}

impl TryFrom<Declared> for Metric {
    type Error = Error;

    fn try_from(declared: Declared) -> Result<Metric> {
        let table = match declared {
            Declared::Name(name) => return name.parse(),
            Declared::Table(table) => table,
        };
        let kind: MetricKind = table.name.parse()?;
        let stray =
            |option: &str, of: &str| Error::Input(format!("{option} is an option of {of}, not of {}", kind.name()));
        if table.tokenize.is_some() && kind != MetricKind::Bleu {
            return Err(stray("tokenize", "bleu"));
        }
        if !table.labels.is_empty() && !kind.counts_labels() {
            return Err(stray("labels", "f1, f1_macro and matthews"));
        }
        let Table { ignore, lowercase, tokenize, labels, alias, .. } = table;
        Ok(Metric { kind, ignore, lowercase, tokenize: tokenize.unwrap_or_default(), labels, alias })
    }
}

impl From<Metric> for Declared {
    fn from(metric: Metric) -> Declared {
        let name = metric.kind.name().to_owned();
        if metric == Metric::new(metric.kind) {
            return Declared::Name(name);
        }
        let tokenize = (metric.kind == MetricKind::Bleu).then_some(metric.tokenize);
        let Metric { ignore, lowercase, labels, alias, .. } = metric;
        Declared::Table(Table { name, ignore, lowercase, tokenize, labels, alias })
    }
}

impl Serialize for Declared {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Declared::Name(name) => name.serialize(serializer),
            Declared::Table(table) => table.serialize(serializer),
        }
    }
}

/// serde's own untagged enums lose the message of what failed inside.
impl<'de> Deserialize<'de> for Declared {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Declared, D::Error> {
        UntaggedEnumVisitor::new()
            .expecting("the name of a metric, or a table { name = \"...\", option = ... }")
            .string(|name| Ok(Declared::Name(name.to_owned())))
            .map(|table| table.deserialize().map(Declared::Table))
            .deserialize(deserializer)
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}
