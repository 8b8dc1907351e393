//! Evaluation on held-out examples: loss and accuracy given the reference so far, and scores of free answers.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::engine::{Engine, LossStats};
use super::examples::Examples;
use super::settings::Settings;
use crate::data::{BatchOptions, BatchOrder, BatchStream, Example, ExampleSource, ScoreReport, Scores};
use crate::error::Result;
use crate::model::{Model, T5Config};
use crate::tokenizer::Tokenizer;

/// Decodes greedily; what the loop needs of a generator.
pub trait Answerer {
    /// For each source (ids with EOS) the answer's ids, with or without EOS, at most `max_tokens` each.
    fn answer(&mut self, model: &Model, sources: &[Vec<u32>], max_tokens: usize) -> Result<Vec<Vec<u32>>>;
}

/// The result of one evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Examples that the loss is over.
    pub examples: usize,
    /// Target tokens that the loss is over.
    pub tokens: u64,
    /// Mean cross-entropy per target token in nats.
    pub loss: f64,
    /// Share of target tokens predicted right, given those before.
    pub accuracy: f64,
    /// Of greedy answers; pairs only.
    #[serde(flatten)]
    pub scores: Option<ScoreReport>,
    pub seconds: f64,
}

/// The best evaluation of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: u64,
    /// "unit_error_rate" where answers were scored, else "loss": less is better.
    pub metric: String,
    pub value: f64,
}

impl Best {
    pub fn of(step: u64, evaluation: &Evaluation) -> Best {
        let (metric, value) = match &evaluation.scores {
            Some(scores) => ("unit_error_rate", scores.unit_error_rate),
            None => ("loss", evaluation.loss),
        };
        Best { step, metric: metric.into(), value }
    }

    /// Whether this replaces `before`: a lower value of the same metric, or the first of its metric.
    pub fn beats(&self, before: Option<&Best>) -> bool {
        before.is_none_or(|before| before.metric != self.metric || self.value < before.value)
    }
}

/// The held-out examples, ready to be evaluated on.
pub struct Evaluator {
    batches: BatchStream<Sample>,
    questions: Vec<Question>,
}

/// A source and all texts that are right answers.
struct Question {
    source: Vec<u32>,
    references: Vec<String>,
    /// Of the longest reference, EOS counted.
    tokens: usize,
}

/// Some of the examples of the first epoch.
struct Sample {
    examples: Examples,
    indices: Vec<usize>,
}

/// Tokens that an answer may be longer than the longest reference.
const SLACK: usize = 16;

impl Evaluator {
    /// Takes `eval_examples` of the examples, evenly spread.
    pub fn new(examples: Examples, settings: &Settings, config: &T5Config) -> Result<Evaluator> {
        let questions = questions(&examples, settings.eval_examples);
        let indices = spread(examples.len_per_epoch(), settings.eval_examples);
        let options = BatchOptions {
            batch_size: settings.batch_size.min(indices.len()),
            order: BatchOrder::ByLength,
            pad: config.pad_token_id,
            decoder_start: config.decoder_start_token_id,
            ..BatchOptions::default()
        };
        Ok(Evaluator { batches: BatchStream::new(Sample { examples, indices }, options)?, questions })
    }

    /// Evaluates the engine's parameters as they are.
    pub fn evaluate(
        &mut self,
        engine: &mut Engine,
        tokenizer: &Tokenizer,
        answerer: Option<&mut dyn Answerer>,
    ) -> Result<Evaluation> {
        let start = Instant::now();
        let mut stats = LossStats::default();
        for index in 0..self.batches.batches_per_epoch() {
            stats.add(&pollster::block_on(engine.evaluate(&self.batches.get(index)?))?);
        }
        let scores = match answerer {
            Some(answerer) if !self.questions.is_empty() => Some(self.score(&engine.model, tokenizer, answerer)?),
            _ => None,
        };
        Ok(Evaluation {
            examples: self.batches.source().indices.len(),
            tokens: stats.tokens as u64,
            loss: stats.mean_loss(),
            accuracy: stats.accuracy(),
            scores,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn score(&self, model: &Model, tokenizer: &Tokenizer, answerer: &mut dyn Answerer) -> Result<ScoreReport> {
        let sources: Vec<Vec<u32>> = self.questions.iter().map(|q| q.source.clone()).collect();
        let longest = self.questions.iter().map(|q| q.tokens).max().unwrap_or(0);
        let answers = answerer.answer(model, &sources, longest + SLACK)?;
        let mut scores = Scores::default();
        for (question, answer) in self.questions.iter().zip(&answers) {
            let references: Vec<&str> = question.references.iter().map(String::as_str).collect();
            scores.add(&tokenizer.decode(answer), &references);
        }
        Ok(scores.report())
    }
}

/// Up to `most` distinct sources of pairs with their references; none for text.
fn questions(examples: &Examples, most: usize) -> Vec<Question> {
    let Examples::Pairs { set, rows } = examples else {
        return Vec::new();
    };
    let wanted: std::collections::HashSet<usize> = rows.iter().copied().collect();
    let mut groups = set.groups();
    groups.retain(|group| group.iter().all(|row| wanted.contains(row)));
    let question = |group: &Vec<usize>| Question {
        source: set.examples()[group[0]].source.clone(),
        references: group.iter().map(|&row| set.texts()[row].target.clone()).collect(),
        tokens: group.iter().map(|&row| set.examples()[row].target.len()).max().unwrap_or(0),
    };
    spread(groups.len(), most).into_iter().map(|index| question(&groups[index])).collect()
}

/// Up to `most` of 0..n, evenly spaced.
fn spread(n: usize, most: usize) -> Vec<usize> {
    let count = n.min(most);
    (0..count).map(|i| i * n / count).collect()
}

impl ExampleSource for Sample {
    fn len_per_epoch(&self) -> usize {
        self.indices.len()
    }

    fn lengths(&self, _epoch: u64) -> Vec<(usize, usize)> {
        let lengths = self.examples.lengths(0);
        self.indices.iter().map(|&index| lengths[index]).collect()
    }

    fn example(&self, _epoch: u64, index: usize) -> Result<Example> {
        self.examples.example(0, self.indices[index])
    }
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn samples_are_spread_evenly() {
        assert_eq!(spread(10, 3), [0, 3, 6]);
        assert_eq!(spread(3, 10), [0, 1, 2]);
        assert_eq!(spread(0, 5), [0usize; 0]);
    }
}
