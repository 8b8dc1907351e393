//! The gate: what a frozen workload computed, held against results that were recorded in float64. A figure counts only if it passes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::workload::{EXAMPLES, FrozenWorkload};
use crate::error::{Error, Result};
use crate::verify::{NOISE_FACTOR, Row};

/// The recorded results; `tests/golden/workloads.py` writes them.
const RECORDED: &str = include_str!("expected.json");

/// What a workload must give. Each `noise` says how far PyTorch's float32 lies from its float64 there; four times as far is the bound,
/// as in [`check_golden`](crate::verify::check_golden).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ExpectedResult {
    Encoder {
        /// Of each example, the states at the places of [`sampled_places`].
        states: Vec<Vec<f64>>,
        /// The largest of all states.
        noise: f64,
    },
    Decode {
        /// The likeliest tokens, one after the other.
        ids: Vec<u32>,
        /// The logarithm of each one's probability.
        log_probs: Vec<f64>,
        /// The largest of them.
        noise: f64,
        /// The least distance of a token's logit from the second likeliest's.
        margin: f64,
        /// The largest of all logits.
        logits_noise: f64,
    },
    Train {
        /// The mean over all target tokens.
        loss: f64,
        /// The largest of a token's loss: the mean's own would be small by luck.
        loss_noise: f64,
        /// Of the mean loss, before clipping.
        gradient_norm: f64,
        /// The norm of the difference of both gradients, over the norm.
        gradient_noise: f64,
        /// After a step of AdamW with a learning rate of 1e-5.
        loss_after: f64,
        loss_after_noise: f64,
    },
}

/// What a run of a workload computed.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkloadOutcome {
    Encoder {
        /// `[batch * source tokens, width]`.
        states: Vec<f32>,
        width: usize,
    },
    Decode {
        /// Of every timed answer and of the one with log-probabilities: the tokens of each row.
        ids: Vec<Vec<u32>>,
        log_probs: Vec<Vec<f32>>,
    },
    Train {
        loss: f64,
        gradient_norm: f64,
        loss_after: f64,
    },
}

/// The learning rate of the step behind which the loss is taken once more.
pub(super) const STEP_RATE: f64 = 1e-5;

/// States of an example that are compared.
const SAMPLES: usize = 64;

/// The verdict on one workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    pub passed: bool,
    /// Each comparison: what, how far apart, how far it may be.
    pub checks: Vec<Row>,
}

/// Every recorded result, by the workload's name.
///
/// # Errors
/// `Input` if the recording is damaged, which a test excludes.
pub fn recorded_results() -> Result<BTreeMap<String, ExpectedResult>> {
    serde_json::from_str(RECORDED).map_err(|e| Error::Input(format!("src/bench/expected.json: {e}")))
}

/// Where the states of an example are compared: token and column, spread over both.
pub fn sampled_places(source_len: usize, width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..SAMPLES).map(move |i| (i * source_len / SAMPLES, i * 97 % width))
}

impl Gate {
    /// Holds an outcome against what is expected. An outcome of another kind fails.
    pub fn of(frozen: &FrozenWorkload, expected: &ExpectedResult, outcome: &WorkloadOutcome) -> Gate {
        let checks = checks(frozen, expected, outcome);
        Gate { passed: !checks.is_empty() && checks.iter().all(Row::passed), checks }
    }

    /// The first comparison that failed, as a text.
    pub fn failure(&self) -> Option<String> {
        if self.passed {
            return None;
        }
        let failed = self.checks.iter().find(|row| !row.passed());
        Some(failed.map_or("nothing was compared".into(), |Row { what, error, tolerance }| {
            format!("{what}: off by {error:.3e}, allowed are {tolerance:.3e}")
        }))
    }
}

fn checks(frozen: &FrozenWorkload, expected: &ExpectedResult, outcome: &WorkloadOutcome) -> Vec<Row> {
    let row = |what: &str, error: f64, tolerance: f64| Row { what: what.into(), error, tolerance };
    match (expected, outcome) {
        (ExpectedResult::Encoder { states, noise }, WorkloadOutcome::Encoder { states: found, width }) => {
            let len = frozen.workload.source_len;
            let error_of = |sequence: usize| {
                let at = |(token, column): (usize, usize)| found.get((sequence * len + token) * width + column);
                let pairs = sampled_places(len, *width).map(at).zip(&states[sequence % EXAMPLES]);
                worst(pairs.map(|(found, expected)| found.map_or(f64::NAN, |&x| f64::from(x)) - expected))
            };
            let error = worst((0..frozen.workload.batch).map(error_of));
            vec![row("states of all rows", error, NOISE_FACTOR * noise)]
        }
        (
            ExpectedResult::Decode { ids, log_probs, noise, .. },
            WorkloadOutcome::Decode { ids: found, log_probs: found_log_probs },
        ) => {
            let wrong = found.iter().filter(|row| *row != ids).count();
            // Whoever makes nothing has nothing right.
            let wrong = if found.is_empty() { f64::INFINITY } else { wrong as f64 };
            let apart = |row: &Vec<f32>| {
                let missing = if row.len() == log_probs.len() { 0.0 } else { f64::NAN };
                worst(row.iter().zip(log_probs).map(|(&f, e)| f64::from(f) - e).chain([missing]))
            };
            let error = if found_log_probs.is_empty() { f64::NAN } else { worst(found_log_probs.iter().map(apart)) };
            vec![row("answers with a wrong id", wrong, 0.0), row("log-probabilities", error, NOISE_FACTOR * noise)]
        }
        (
            ExpectedResult::Train { loss, loss_noise, gradient_norm, gradient_noise, loss_after, loss_after_noise },
            WorkloadOutcome::Train { loss: found, gradient_norm: found_norm, loss_after: found_after },
        ) => {
            let relative = (found_norm - gradient_norm).abs() / gradient_norm;
            vec![
                row("loss", (found - loss).abs(), NOISE_FACTOR * loss_noise),
                row("norm of the gradient, relative", relative, NOISE_FACTOR * gradient_noise),
                row("loss after a step", (found_after - loss_after).abs(), NOISE_FACTOR * loss_after_noise),
            ]
        }
        _ => Vec::new(),
    }
}

/// The largest magnitude; NaN if one of them is.
fn worst(errors: impl Iterator<Item = f64>) -> f64 {
    errors.map(f64::abs).fold(0.0, |worst, error| if error > worst || error.is_nan() { error } else { worst })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frozen_workload_is_recorded_and_no_id_hangs_on_rounding() {
        let recorded = recorded_results().unwrap();
        let all = FrozenWorkload::all();
        assert_eq!(recorded.len(), all.len());
        for frozen in all {
            match &recorded[&frozen.to_string()] {
                ExpectedResult::Encoder { states, noise } => {
                    assert!(states.len() == EXAMPLES && states.iter().all(|row| row.len() == SAMPLES), "{frozen}");
                    assert!(*noise > 0.0, "{frozen}");
                }
                ExpectedResult::Decode { ids, log_probs, noise, margin, logits_noise } => {
                    let new = frozen.workload.target_len;
                    assert!(ids.len() == new && log_probs.len() == new && *noise > 0.0, "{frozen}");
                    // Both logits may be off by the bound.
                    assert!(*margin > 2.0 * NOISE_FACTOR * logits_noise, "{frozen}: {margin} and {logits_noise}");
                    let distinct: std::collections::HashSet<_> = ids.iter().collect();
                    assert!(distinct.len() >= new / 8, "{frozen}: {} distinct ids of {new}", distinct.len());
                }
                ExpectedResult::Train { loss, loss_noise, gradient_noise, loss_after, loss_after_noise, .. } => {
                    assert!(*loss_noise > 0.0 && *gradient_noise > 0.0 && *loss_after_noise > 0.0, "{frozen}");
                    // A step that is not taken, or is taken a little wrong, would be seen.
                    assert!(loss - loss_after > 100.0 * NOISE_FACTOR * loss_after_noise, "{frozen}");
                }
            }
        }
    }

    fn decode() -> FrozenWorkload {
        FrozenWorkload::named(&["tiny/dec-b1-s64-n16".into()]).unwrap()[0]
    }

    #[test]
    fn one_wrong_number_is_a_failure() {
        let expected = recorded_results().unwrap()[&decode().to_string()].clone();
        let ExpectedResult::Decode { ids, log_probs, .. } = &expected else { panic!("a decoding") };
        let right = |ids: Vec<u32>, log_probs: Vec<f32>| {
            let outcome = WorkloadOutcome::Decode { ids: vec![ids], log_probs: vec![log_probs] };
            Gate::of(&decode(), &expected, &outcome)
        };
        let single: Vec<f32> = log_probs.iter().map(|&p| p as f32).collect();
        assert!(right(ids.clone(), single.clone()).passed);
        let mut other = ids.clone();
        other[3] += 1;
        assert!(!right(other, single.clone()).passed);
        for planted in [single[7] + 1e-3, f32::NAN, f32::INFINITY] {
            let mut off = single.clone();
            off[7] = planted;
            let gate = right(ids.clone(), off);
            assert!(!gate.passed && gate.failure().unwrap().contains("log-probabilities"), "{planted}");
        }
        assert!(!right(ids.clone(), single[1..].to_vec()).passed);
        let nothing = WorkloadOutcome::Decode { ids: Vec::new(), log_probs: Vec::new() };
        assert!(!Gate::of(&decode(), &expected, &nothing).passed);
        let another = WorkloadOutcome::Train { loss: 1.0, gradient_norm: 1.0, loss_after: 1.0 };
        assert_eq!(Gate::of(&decode(), &expected, &another).failure().unwrap(), "nothing was compared");
    }
}
