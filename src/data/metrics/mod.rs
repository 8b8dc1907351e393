//! Metrics of predictions: those of the T5 paper and of pronunciation, held to the figures of the packages
//! that define them (sacreBLEU 2.6.0, rouge-score 0.1.2, scikit-learn, SciPy, jiwer; see tests/data/metrics).
//!
//! A recipe names metrics, with options where they need any:
//!
//! ```toml
//! metrics = ["exact_match", { name = "bleu", tokenize = "intl" }, { name = "per", ignore = "012", as = "per_unstressed" }]
//! ```
//!
//! All values are percentages (times 100), as the papers print them, error rates and correlations too, and never NaN.

mod answers;
mod bleu;
mod classes;
mod config;
mod edits;
mod numbers;
mod rouge;

pub use bleu::BleuTokenizer;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::example::TaskExample;
use crate::{Error, Result};

/// What a metric counts; its name in recipes is in snake_case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Share of predictions that equal a reference but for outer white space: labels. Score `accuracy`.
    Accuracy,
    /// Share of predictions whose words equal those of a reference. Score `exact_match`.
    ExactMatch,
    /// F1 of the second of two `labels`; an answer that is neither label counts as the wrong one (MRPC, QQP). Score `f1`.
    F1,
    /// Mean F1 of all `labels` (CB). Score `f1_macro`.
    F1Macro,
    /// Matthews correlation over `labels`, all that is no label being one more class (CoLA). Score `matthews`.
    Matthews,
    /// Pearson correlation of texts read as numbers, -1 for a text that is no number (STS-B). Score `pearson`.
    Pearson,
    /// Spearman correlation, as `pearson` over ranks; ties have their mean rank. Score `spearman`.
    Spearman,
    /// SQuAD: after its normaliser, exact match `em` and F1 of words `f1`, each over the best of the answers.
    Squad,
    /// ReCoRD: the same two numbers.
    Record,
    /// MultiRC: F1 over all answers `f1a`, share of questions with every answer right `em`. Examples carry
    /// `extra.paragraph` and `extra.question`.
    Multirc,
    /// The Winograd schemas of the T5 paper: whether prediction and candidate name the same referent, by their words, is
    /// compared with `extra.label`. Score `accuracy`.
    Wsc,
    /// Corpus BLEU as sacreBLEU computes it, exponentially smoothed. Score `bleu`, with sacreBLEU's signature.
    Bleu,
    /// ROUGE-1, ROUGE-2 and ROUGE-Lsum (F, no stemmer): `rouge1`, `rouge2`, `rougeLsum`. Sentences are lines; as T5 does,
    /// " . " ends one too. The mean over examples; T5 prints a bootstrap's estimate of the same mean.
    Rouge,
    /// Edits of words / words of the reference; of several references the best counts. Score `wer`.
    Wer,
    /// Share of predictions whose units equal no reference: what the pronunciation literature calls WER.
    /// Score `sequence_error`.
    SequenceError,
    /// Edits of units / units of the reference: phonemes of pronunciations, and the same numbers as `wer`. Score `per`.
    Per,
    /// Edits of characters / characters of the reference that is nearest in units, white space as single blanks.
    /// Score `cer`.
    Cer,
    /// Positions with the same unit / positions of the longer of prediction and reference. Score `unit_accuracy`.
    UnitAccuracy,
}

/// A metric with its options; in TOML a bare name, or a table with `name`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "config::Declared", into = "config::Declared")]
pub struct Metric {
    pub kind: MetricKind,
    /// Characters deleted from predictions and references before anything else: "012" for stress digits.
    pub ignore: String,
    /// Compare in lower case.
    pub lowercase: bool,
    /// How BLEU cuts words.
    pub tokenize: BleuTokenizer,
    /// The label words of `f1` (the positive one second), `f1_macro` and `matthews`. Empty: those of the task, else the
    /// words found among the references.
    pub labels: Vec<String>,
    /// `as` in TOML: the name of the score, or what stands before the names of several ("dev" -> "dev_em").
    pub alias: Option<String>,
}

/// Which way is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Higher,
    Lower,
}

/// One number about a set of predictions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Such as "rouge1".
    pub name: String,
    /// In percent, finite. Correlations are between -100 and 100, and error rates may exceed 100.
    pub value: f64,
    pub better: Direction,
    /// The numbers that the value comes from, at least `examples`.
    pub counts: BTreeMap<String, f64>,
    /// How it was counted, where a metric has such a line (BLEU).
    pub signature: Option<String>,
}

impl Metric {
    /// A metric without options.
    pub fn new(kind: MetricKind) -> Metric {
        Metric {
            kind,
            ignore: String::new(),
            lowercase: false,
            tokenize: BleuTokenizer::default(),
            labels: Vec::new(),
            alias: None,
        }
    }

    /// The scores of predictions, one for each example; as many as [`Metric::names`], in that order.
    ///
    /// # Errors
    /// No examples, not as many predictions as examples, an example without references, nothing to divide by (references
    /// that are empty after `ignore`), `f1` without two labels, or examples that lack what the metric needs in `extra`.
    pub fn score(&self, predictions: &[String], examples: &[TaskExample]) -> Result<Vec<Score>> {
        let fail = |what: String| Error::Input(format!("{}: {what}", self.kind.name()));
        if predictions.len() != examples.len() {
            return Err(fail(format!("{} predictions for {} examples", predictions.len(), examples.len())));
        }
        if examples.is_empty() {
            return Err(fail("there are no examples to score".into()));
        }
        if let Some(bad) = examples.iter().find(|example| example.references.is_empty()) {
            return Err(fail(format!("the example {:?} has no references", bad.source)));
        }
        let cases: Vec<Case> = predictions.iter().zip(examples).map(|(p, e)| self.case(p, e)).collect();
        let labels: Vec<String> = self.labels.iter().map(|label| self.prepare(label).into_owned()).collect();
        let parts = match self.kind {
            MetricKind::Accuracy => classes::accuracy(&cases),
            MetricKind::F1 => classes::f1(&cases, &labels),
            MetricKind::F1Macro => classes::f1_macro(&cases, &labels),
            MetricKind::Matthews => classes::matthews(&cases, &labels),
            MetricKind::Pearson => numbers::pearson(&cases),
            MetricKind::Spearman => numbers::spearman(&cases),
            MetricKind::Squad | MetricKind::Record => answers::squad(&cases),
            MetricKind::Multirc => answers::multirc(&cases),
            MetricKind::Wsc => answers::wsc(&cases),
            MetricKind::Bleu => bleu::bleu(&cases, self.tokenize),
            MetricKind::Rouge => rouge::rouge(&cases),
            kind => edits::rate(&cases, kind),
        };
        let parts = parts.map_err(fail)?;
        let signature = (self.kind == MetricKind::Bleu).then(|| self.bleu_signature(examples));
        let score = |(name, part): (String, Part)| {
            let mut counts = part.counts;
            counts.insert("examples".into(), examples.len() as f64);
            let signature = signature.clone();
            Score { name, value: 100.0 * part.value, better: self.direction(), counts, signature }
        };
        Ok(self.names().into_iter().zip(parts).map(score).collect())
    }

    /// The names of the scores that [`Metric::score`] gives.
    pub fn names(&self) -> Vec<String> {
        let own = self.kind.score_names();
        match &self.alias {
            None => own.iter().map(|&name| name.into()).collect(),
            Some(alias) if own.len() == 1 => vec![alias.clone()],
            Some(alias) => own.iter().map(|name| format!("{alias}_{name}")).collect(),
        }
    }

    /// Which way its scores are better.
    pub fn direction(&self) -> Direction {
        match self.kind {
            MetricKind::Wer | MetricKind::SequenceError | MetricKind::Per | MetricKind::Cer => Direction::Lower,
            _ => Direction::Higher,
        }
    }

    /// The metric with these labels, where it counts labels and has none of its own.
    pub fn with_labels(mut self, labels: &[String]) -> Metric {
        if self.kind.counts_labels() && self.labels.is_empty() {
            self.labels = labels.to_vec();
        }
        self
    }

    fn case<'a>(&self, prediction: &'a str, example: &'a TaskExample) -> Case<'a> {
        Case {
            prediction: self.prepare(prediction),
            references: example.references.iter().map(|reference| self.prepare(reference)).collect(),
            example,
        }
    }

    /// What is compared of a prediction, a reference or a label.
    fn prepare<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let kept = if text.contains(|c| self.ignore.contains(c)) {
            Cow::Owned(text.chars().filter(|&c| !self.ignore.contains(c)).collect())
        } else {
            Cow::Borrowed(text)
        };
        if self.lowercase { Cow::Owned(kept.to_lowercase()) } else { kept }
    }

    fn bleu_signature(&self, examples: &[TaskExample]) -> String {
        let first = examples.first().map_or(0, |example| example.references.len());
        let same = examples.iter().all(|example| example.references.len() == first);
        bleu::signature(same.then_some(first), self.lowercase, self.tokenize)
    }
}

/// What a metric compares: texts after `ignore` and `lowercase`; at least one reference.
struct Case<'a> {
    prediction: Cow<'a, str>,
    references: Vec<Cow<'a, str>>,
    example: &'a TaskExample,
}

impl Case<'_> {
    /// The first reference: the label, where there can be only one.
    fn target(&self) -> &str {
        self.references.first().map_or("", |reference| reference)
    }
}

/// One number of a metric, before it is named and multiplied by 100.
struct Part {
    value: f64,
    counts: BTreeMap<String, f64>,
}

impl Part {
    fn new(value: f64, counts: &[(&str, f64)]) -> Part {
        Part { value, counts: counts.iter().map(|&(name, count)| (name.to_owned(), count)).collect() }
    }

    /// `part / whole`, an error if `whole` is 0.
    fn ratio(part: (&str, usize), whole: (&str, usize)) -> Result<Part, String> {
        if whole.1 == 0 {
            return Err(format!("there are no {} to count", whole.0.replace('_', " ")));
        }
        Ok(Part::new(part.1 as f64 / whole.1 as f64, &[(part.0, part.1 as f64), (whole.0, whole.1 as f64)]))
    }
}

/// What Python's `str.split` and `str.isspace` take for white space: four separators more than Unicode's property.
fn is_white_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_white_space).filter(|word| !word.is_empty())
}
