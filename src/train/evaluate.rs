//! Evaluation: loss and accuracy given the reference so far, and metrics of free answers.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::engine::LossStats;
use super::examples::Evaluated;
use super::settings::Settings;
use crate::batch::{Batch, Example};
use crate::data::metrics::{Direction, Metric, Score};
use crate::data::stream::by_length;
use crate::data::{TaskConfig, TaskExample};
use crate::error::{Error, Result};
use crate::forward::{TargetScore, TargetScorer};
use crate::generate::{Decoding, Generation, Generator, ShouldStop};
use crate::model::Model;
use crate::tokenizer::Tokenizer;

/// The result of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    pub tasks: BTreeMap<String, TaskEvaluation>,
    pub seconds: f64,
    /// How answers were decoded, if there are some: `greedy, at most 20 tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoding: Option<String>,
}

/// The result on one task.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskEvaluation {
    pub examples: usize,
    /// Target tokens that the loss is over.
    pub tokens: u64,
    /// Mean cross-entropy per target token in nats.
    pub loss: f64,
    /// Share of target tokens predicted right, given those before.
    pub accuracy: f64,
    /// For unlabelled text: cross-entropy in bits per byte of the text that the targets spell out, sentinels being free.
    pub bits_per_byte: Option<f64>,
    /// Answers that did not end by themselves, if there are some.
    pub cut: Option<Cut>,
    /// Of the answers: metric -> value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
    /// The same with directions, counts and signatures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<Score>,
    /// For each of the examples.
    #[serde(skip)]
    pub predictions: Vec<Prediction>,
}

/// So many answers were cut at so many tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cut {
    pub answers: usize,
    pub tokens: usize,
}

/// An answer, with its source and the references.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    pub source: String,
    pub prediction: String,
    pub references: Vec<String>,
    /// Whether it equals one of the references.
    pub correct: bool,
}

/// The best evaluation of a run.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: u64,
    /// TASK/METRIC
    pub metric: String,
    pub value: f64,
    /// The loss on the same task, which decides between equal values.
    pub loss: Option<f64>,
}

/// What the share of target tokens predicted right is called beside metrics, of which one is `accuracy`.
pub const TOKEN_ACCURACY: &str = "token_accuracy";

/// The score of choosing among given answers.
const CHOICE: &str = "choice";

/// The names TASK/METRIC of [`Evaluation::figures`].
pub fn figure_names(settings: &Settings) -> Vec<String> {
    let of_task = |task: &TaskConfig| {
        let chosen = task.choices.as_ref().map(|_| CHOICE.to_owned());
        chosen.into_iter().chain(task.resolved_metrics().iter().flat_map(Metric::names)).collect()
    };
    let names = settings.evaluate.iter().flat_map(|name| {
        let metrics: Vec<String> = settings.tasks.get(name).map_or_else(Vec::new, of_task);
        let own = ["loss", TOKEN_ACCURACY].map(str::to_owned);
        metrics.into_iter().chain(own).map(move |metric| format!("{name}/{metric}"))
    });
    names.collect()
}

/// Whether a figure TASK/METRIC is one of the answers to this task.
pub fn is_of_answers(figure: &str, task: &str) -> bool {
    let metric = figure.strip_prefix(task).and_then(|rest| rest.strip_prefix('/'));
    metric.is_some_and(|metric| !["loss", TOKEN_ACCURACY, CHOICE].contains(&metric))
}

impl Best {
    /// Whether a later evaluation replaces this one; `higher` is better, or lower.
    pub fn is_beaten(&self, by: &Best, higher: bool) -> bool {
        let is_better = if higher { by.value > self.value } else { by.value < self.value };
        let has_less_loss = self.loss.zip(by.loss).is_some_and(|(own, other)| other < own);
        is_better || by.value == self.value && has_less_loss
    }
}

impl Evaluation {
    /// The figure `metric` = TASK/METRIC and whether more of it is better.
    ///
    /// # Errors
    /// `Input` listing the figures that there are.
    pub fn figure(&self, metric: &str) -> Result<(f64, bool)> {
        let figures = self.figures();
        match figures.iter().find(|(name, ..)| name == metric) {
            Some((_, value, higher)) => Ok((*value, *higher)),
            None => {
                let known: Vec<&str> = figures.iter().map(|(name, ..)| name.as_str()).collect();
                Err(Error::Input(format!("no figure is called `{metric}`: there are {}", known.join(", "))))
            }
        }
    }

    /// (TASK/METRIC, value, whether more is better) of everything.
    pub fn figures(&self) -> Vec<(String, f64, bool)> {
        let mut figures = Vec::new();
        for (task, result) in &self.tasks {
            for score in &result.scores {
                figures.push((format!("{task}/{}", score.name), score.value, score.better == Direction::Higher));
            }
            figures.push((format!("{task}/loss"), result.loss, false));
            figures.push((format!("{task}/{TOKEN_ACCURACY}"), result.accuracy, true));
        }
        figures
    }
}

/// The examples to evaluate on, ready for a model.
pub struct Evaluator {
    tasks: Vec<Prepared>,
    /// Shares the parameters with the model in training.
    generator: Generator,
    scorer: TargetScorer,
    decoding: Decoding,
}

struct Prepared {
    name: String,
    batches: Vec<Batch>,
    examples: usize,
    answers: Option<Answers>,
    /// Bytes that the targets of unlabelled text spell out.
    bytes: u64,
}

struct Answers {
    task: TaskConfig,
    texts: Vec<TaskExample>,
    sources: Vec<Vec<u32>>,
    /// Tokens of the longest target, EOS counted.
    longest: usize,
}

/// Tokens that an answer may be longer than the longest target.
const SLACK: usize = 16;

impl Evaluator {
    /// `rows` examples are evaluated side by side; the model's parameters are read as they are at each evaluation. Where
    /// `decoding` does not say how long an answer may get, it may be somewhat longer than the longest target.
    pub fn new(
        evaluated: Vec<Evaluated>,
        rows: usize,
        decoding: Decoding,
        model: &Model,
        tokenizer: &Tokenizer,
    ) -> Evaluator {
        let config = &model.config;
        let prepare = |Evaluated { name, examples, task }: Evaluated| {
            let rows = rows.min(examples.len());
            let bytes = match &task {
                Some(_) => 0,
                None => examples.iter().map(|example| spelled(tokenizer, &example.target)).sum(),
            };
            let answers = task.map(|(task, texts)| Answers {
                task,
                texts,
                sources: examples.iter().map(|example| example.source.clone()).collect(),
                longest: examples.iter().map(|example| example.target.len()).max().unwrap_or(0),
            });
            let batches = by_length(&examples, rows, config.pad_token_id, config.decoder_start_token_id);
            Prepared { name, batches, examples: examples.len(), answers, bytes }
        };
        let limit = Some(tokenizer.vocab_size().min(config.vocab_size));
        Evaluator {
            tasks: evaluated.into_iter().map(prepare).collect(),
            generator: Generator::new(model.clone()).with_tokenizer(tokenizer),
            scorer: TargetScorer::new(model.clone()),
            decoding: Decoding { max_batch: rows, limit, ..decoding },
        }
    }

    /// The figure that says which checkpoint is the best, if there is anything to evaluate on: the loss, unless the settings
    /// name another. Early on a metric of answers may be the best for a model that says nothing.
    pub fn best_metric(&self, settings: &Settings) -> Option<String> {
        let first = self.tasks.first()?;
        Some(settings.best.clone().unwrap_or_else(|| format!("{}/loss", first.name)))
    }

    /// Evaluates the parameters as they are; `loss_of` gives the loss of a batch with them. `None` if `should_stop` said so, which
    /// is asked between batches and while answers are made.
    pub fn evaluate(
        &mut self,
        loss_of: &mut dyn FnMut(&Batch) -> Result<LossStats>,
        tokenizer: &Tokenizer,
        should_stop: &ShouldStop<'_>,
    ) -> Result<Option<Evaluation>> {
        let start = Instant::now();
        let mut tasks = BTreeMap::new();
        for prepared in &self.tasks {
            let mut stats = LossStats::default();
            for batch in &prepared.batches {
                if should_stop() {
                    return Ok(None);
                }
                stats.add(&loss_of(batch)?);
            }
            let (mut scores, mut predictions, mut cut) = (Vec::new(), Vec::new(), None);
            if let Some(answers) = &prepared.answers
                && answers.task.choices.is_some()
            {
                let Some(chosen) = answers.choose(&mut self.scorer, tokenizer, should_stop)? else { return Ok(None) };
                scores.push(chosen.0);
                predictions = chosen.1;
            }
            if let Some(answers) = &prepared.answers
                && answers.is_generated()
            {
                let answered = answers.predict(&mut self.generator, &self.decoding, tokenizer, should_stop)?;
                let Some(answered) = answered else { return Ok(None) };
                (predictions, cut) = answered;
                let texts: Vec<String> = predictions.iter().map(|p| p.prediction.clone()).collect();
                if answers.texts.iter().all(TaskExample::is_labelled) {
                    scores.extend(answers.task.score(&texts, &answers.texts)?);
                }
            }
            let result = TaskEvaluation {
                examples: prepared.examples,
                tokens: stats.tokens as u64,
                loss: stats.mean_loss(),
                accuracy: stats.accuracy(),
                bits_per_byte: (prepared.bytes > 0)
                    .then(|| stats.loss / std::f64::consts::LN_2 / prepared.bytes as f64),
                cut,
                metrics: scores.iter().map(|score| (score.name.clone(), score.value)).collect(),
                scores,
                predictions,
            };
            tasks.insert(prepared.name.clone(), result);
        }
        let is_generated = |task: &Prepared| task.answers.as_ref().is_some_and(Answers::is_generated);
        let decoding = self.tasks.iter().any(is_generated).then(|| {
            let slack = match self.decoding.max_new_tokens {
                Some(_) => String::new(),
                None => format!(", at most {SLACK} tokens more than the longest target"),
            };
            format!("{}{slack}", self.decoding)
        });
        Ok(Some(Evaluation { tasks, seconds: start.elapsed().as_secs_f64(), decoding }))
    }
}

impl Answers {
    /// Whether answers are made, and not only chosen.
    fn is_generated(&self) -> bool {
        self.task.choices.is_none() || !self.task.resolved_metrics().is_empty()
    }

    /// How often the target is the likeliest of the answers to choose from, and the likeliest of each example. Of answers that
    /// are as likely, each counts for its share, as in BLiMP (Warstadt et al. 2020) a tie counts for half.
    fn choose(
        &self,
        scorer: &mut TargetScorer,
        tokenizer: &Tokenizer,
        should_stop: &ShouldStop<'_>,
    ) -> Result<Option<(Score, Vec<Prediction>)>> {
        let mut asked = Vec::new();
        for (text, source) in self.texts.iter().zip(&self.sources) {
            for choice in text.choices() {
                asked.push(Example { source: source.clone(), target: tokenizer.encode_with_eos(choice)? });
            }
        }
        let scores = match pollster::block_on(scorer.score(&asked, should_stop)) {
            Err(Error::Cancelled) => return Ok(None),
            scores => scores?,
        };
        let mut scores = scores.iter().map(TargetScore::sum);
        let (mut right, mut predictions) = (0.0, Vec::new());
        for text in &self.texts {
            let choices: Vec<(&str, f64)> = text.choices().into_iter().zip(scores.by_ref()).collect();
            let (choice, share) = chosen(&choices, &text.target);
            right += share;
            predictions.push(Prediction {
                source: text.source.clone(),
                prediction: choice.to_owned(),
                references: text.references.clone(),
                correct: share == 1.0,
            });
        }
        let examples = self.texts.len() as f64;
        let counts = BTreeMap::from([("examples".to_owned(), examples), ("right".to_owned(), right)]);
        let value = 100.0 * right / examples;
        let score = Score { name: CHOICE.into(), value, better: Direction::Higher, counts, signature: None };
        Ok(Some((score, predictions)))
    }

    fn predict(
        &self,
        generator: &mut Generator,
        decoding: &Decoding,
        tokenizer: &Tokenizer,
        should_stop: &ShouldStop<'_>,
    ) -> Result<Option<(Vec<Prediction>, Option<Cut>)>> {
        let max_new_tokens = decoding.max_new_tokens.unwrap_or(self.longest + SLACK);
        let decoding = decoding.clone().max_new_tokens(max_new_tokens);
        let mut go_on = |_: usize, _: &[u32]| ControlFlow::Continue(());
        let stopped = AtomicBool::new(false);
        let stop = || {
            stopped.fetch_or(should_stop(), Ordering::Relaxed);
            stopped.load(Ordering::Relaxed)
        };
        let generated = pollster::block_on(generator.generate(&self.sources, &decoding, &mut go_on, &stop))?;
        if stopped.into_inner() {
            return Ok(None);
        }
        let generated: Vec<Generation> = generated.into_iter().map(|mut targets| targets.swap_remove(0)).collect();
        let answers = generated.iter().filter(|generation| !generation.is_finished()).count();
        let cut = (answers > 0).then_some(Cut { answers, tokens: max_new_tokens });
        let predictions = generated.iter().zip(&self.texts).map(|(generation, text)| {
            let prediction = decoding.text(tokenizer, &generation.ids);
            Prediction {
                source: text.source.clone(),
                correct: text.references.iter().any(|reference| reference.trim() == prediction.trim()),
                prediction,
                references: text.references.clone(),
            }
        });
        Ok(Some((predictions.collect(), cut)))
    }
}

/// The first of the likeliest answers, and what the choice counts: 1 if the target is the likeliest, its share if several are.
fn chosen<'a>(choices: &[(&'a str, f64)], target: &str) -> (&'a str, f64) {
    let best = choices.iter().map(|(_, score)| *score).fold(f64::NEG_INFINITY, f64::max);
    let likeliest = choices.iter().filter(|(_, score)| *score == best).map(|(choice, _)| *choice);
    let likeliest: Vec<&str> = likeliest.collect();
    let share = if likeliest.contains(&target) { 1.0 / likeliest.len() as f64 } else { 0.0 };
    (likeliest.first().copied().unwrap_or_default(), share)
}

/// Bytes of the text between the special tokens of a target.
fn spelled(tokenizer: &Tokenizer, target: &[u32]) -> u64 {
    let sentinels: Vec<u32> = (0..tokenizer.n_sentinels()).map_while(|k| tokenizer.sentinel(k)).collect();
    let is_text = |id: &u32| *id != tokenizer.eos() && !sentinels.contains(id);
    let ids: Vec<u32> = target.iter().copied().filter(is_text).collect();
    tokenizer.decode(&ids).len() as u64
}

#[cfg(test)]
mod tests {
    use super::chosen;

    #[test]
    fn the_likeliest_answer_is_chosen_and_ties_are_shared() {
        assert_eq!(chosen(&[("a", -2.0), ("b", -1.0)], "b"), ("b", 1.0));
        assert_eq!(chosen(&[("a", -2.0), ("b", -1.0)], "a"), ("b", 0.0));
        assert_eq!(chosen(&[("a", -1.0), ("b", -1.0)], "b"), ("a", 0.5));
        assert_eq!(chosen(&[("a", -1.0), ("b", -1.0), ("c", -3.0)], "c"), ("a", 0.0));
    }
}
