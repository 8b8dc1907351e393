//! The heads of models that give labels their scores instead of writing text.

use std::collections::BTreeMap;

use serde_json::Value;

use super::config::T5Config;
use crate::checkpoint::Weights;

/// The head of a T5ForSequenceClassification or a T5ForTokenClassification, or the same of mT5 and UMT5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassifierHead {
    pub labelled: Labelled,
    /// The labels' names, in the order of their scores: `id2label` of `config.json`.
    pub labels: Vec<String>,
    pub problem: Problem,
}

/// What gets labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labelled {
    /// The text as a whole. The decoder reads it again; its state where it sees the end token goes through two layers.
    Texts,
    /// Each token: the encoder's states go through one layer.
    Tokens,
}

/// What scores mean: `problem_type` of `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// One of the labels is right.
    OneLabel,
    /// Each label may be right or not.
    ManyLabels,
    /// The scores are numbers that the model estimates.
    Regression,
}

impl ClassifierHead {
    /// The head that these weights have; the error is a sentence about the configuration.
    pub(super) fn find(config: &T5Config, weights: &Weights) -> Result<Option<ClassifierHead>, String> {
        let Some(n) = weights.classifier_labels() else { return Ok(None) };
        let labelled = if weights.contains("classifier.weight") { Labelled::Tokens } else { Labelled::Texts };
        let named = match config.extra.get("id2label") {
            None | Some(Value::Null) => (0..n).map(|i| format!("LABEL_{i}")).collect(),
            Some(value) => serde_json::from_value::<BTreeMap<usize, String>>(value.clone())
                .ok()
                .filter(|named| named.keys().copied().eq(0..n))
                .map(|named| named.into_values().collect())
                .ok_or_else(|| {
                    format!("id2label is {value}, which does not name the {n} labels that the weights have")
                })?,
        };
        let problem = match config.extra.get("problem_type").and_then(Value::as_str) {
            Some("single_label_classification") => Problem::OneLabel,
            Some("multi_label_classification") => Problem::ManyLabels,
            Some("regression") => Problem::Regression,
            Some(other) => return Err(format!("problem_type is {other:?}, which is none of transformers'")),
            None if n == 1 => Problem::Regression,
            None => Problem::OneLabel,
        };
        Ok(Some(ClassifierHead { labelled, labels: named, problem }))
    }

    /// The head's parameters, by HuggingFace's names.
    pub(super) fn tensor_shapes(&self, d_model: usize) -> Vec<(String, Vec<usize>)> {
        let layer = |name: &str, out: usize| {
            [(format!("{name}.weight"), vec![out, d_model]), (format!("{name}.bias"), vec![out])]
        };
        let n = self.labels.len();
        match self.labelled {
            Labelled::Texts => {
                [layer("classification_head.dense", d_model), layer("classification_head.out_proj", n)].concat()
            }
            Labelled::Tokens => layer("classifier", n).to_vec(),
        }
    }

    /// What the scores of one text or token, as many as labels, say: probabilities, or the estimated numbers themselves.
    pub fn probabilities(&self, scores: &[f32]) -> Vec<f32> {
        match self.problem {
            Problem::Regression => scores.to_vec(),
            Problem::ManyLabels => scores.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
            Problem::OneLabel => {
                let top = scores.iter().copied().fold(f32::MIN, f32::max);
                let shares: Vec<f32> = scores.iter().map(|x| (x - top).exp()).collect();
                let sum: f32 = shares.iter().sum();
                shares.into_iter().map(|share| share / sum).collect()
            }
        }
    }
}

impl T5Config {
    /// Whether the model has a decoder and a head over the vocabulary.
    pub fn writes_text(&self) -> bool {
        self.num_decoder_layers > 0 && self.classifier.is_none() && self.patches.is_none()
    }
}
