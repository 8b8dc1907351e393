//! The log of a run: one JSON object a line in `log.jsonl`, and the same events for the code that shows them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::evaluate::Evaluation;
use super::norms::Norms;
use crate::error::{Error, Result};
use crate::files::{self, LARGE_LIMIT};
use crate::run_folder::RunFolder;
use crate::tune::Decision;

/// What happens in a run.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Step(StepLog),
    Evaluation {
        step: u64,
        #[serde(flatten)]
        evaluation: Evaluation,
        /// The figure that says which checkpoint is the best, TASK/METRIC, and its value.
        metric: String,
        value: f64,
        /// Whether it is the best so far, and therefore saved.
        best: bool,
    },
    /// Norms of all tensors, and the gradient's noise (under `norms_every`).
    Norms {
        step: u64,
        #[serde(flatten)]
        norms: Norms,
    },
    /// Kernels that were chosen for plans made since the step before; they stay for the rest of the run.
    Kernels {
        step: u64,
        /// Time that measuring has taken so far.
        seconds: f64,
        choices: Vec<Decision>,
    },
    /// Training ends before its last step: evaluations no longer improve.
    EndsEarly {
        step: u64,
        /// Evaluations since the best one.
        evaluations: u64,
    },
    Saved {
        step: u64,
        folder: PathBuf,
    },
    Warning {
        step: u64,
        what: String,
    },
}

/// The steps since the last such line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StepLog {
    /// Steps done.
    pub step: u64,
    /// Of how many.
    pub steps: u64,
    /// Passes over the training data so far; of several tasks, those over the one that is the furthest.
    pub epoch: f64,
    /// Mean cross-entropy per target token in nats, over these steps.
    pub loss: f64,
    /// Share of target tokens predicted right, given those before, over these steps.
    pub accuracy: f64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Of the last step, before clipping.
    pub grad_norm: f32,
    /// What the last step's gradient was multiplied by.
    pub clip: f32,
    /// Steps of the whole run that changed nothing because their gradient was not finite, or 0.
    pub skipped: u64,
    /// Source and target tokens of the whole run, padding not counted.
    pub tokens: u64,
    /// Floating-point operations of the whole run: those of matrix products and attention, forward and backward.
    pub flops: f64,
    pub tokens_per_second: f64,
    /// Share of the positions of these steps that was padding.
    pub padding: f64,
    /// Seconds of the whole run, in all its sessions.
    pub elapsed: f64,
    /// Estimated seconds to the end.
    pub time_left: f64,
}

/// One JSON object for each [`Event`] but [`Event::Saved`].
pub const LOG: &str = "log.jsonl";

/// The open log file.
pub struct Log {
    path: PathBuf,
    file: File,
}

/// What the log of a run says that goes on.
#[derive(Debug, Default)]
pub struct Resumed {
    /// The variant of each class of shapes that it names.
    pub kernels: BTreeMap<String, String>,
    /// Whole lines that are no events.
    pub odd: usize,
    /// The lines to keep.
    kept: Vec<u8>,
}

impl Log {
    /// Starts an empty log.
    pub fn create(folder: &RunFolder) -> Result<Log> {
        Log::begin(folder, b"")
    }

    /// Reads the log of a run that goes on behind `step`: what was written of later steps belongs to work that is done
    /// again, except for the choice of kernels, which stays.
    pub fn read(folder: &RunFolder, step: u64) -> Result<Resumed> {
        let path = folder.path().join(LOG);
        let text = if path.exists() { files::read(&path, LARGE_LIMIT)? } else { Vec::new() };
        let mut resumed = Resumed::default();
        // The process may have been killed within the last line.
        for line in text.split_inclusive(|&b| b == b'\n').filter(|line| line.ends_with(b"\n")) {
            let event = serde_json::from_slice::<Value>(line).ok();
            let Some((event, at)) = event.and_then(|event| Some((event.clone(), event["step"].as_u64()?))) else {
                resumed.odd += 1;
                continue;
            };
            let is_choice = event["event"] == "kernels";
            for choice in event["choices"].as_array().into_iter().flatten().filter(|_| is_choice) {
                if let (Some(class), Some(variant)) = (choice["class"].as_str(), choice["variant"].as_str()) {
                    resumed.kernels.insert(class.to_owned(), variant.to_owned());
                }
            }
            if is_choice || at <= step {
                resumed.kept.extend_from_slice(line);
            }
        }
        Ok(resumed)
    }

    /// Goes on with the log that was read.
    pub fn resume(folder: &RunFolder, resumed: &Resumed) -> Result<Log> {
        Log::begin(folder, &resumed.kept)
    }

    fn begin(folder: &RunFolder, text: &[u8]) -> Result<Log> {
        folder.write(LOG, text)?;
        Ok(Log { path: folder.path().join(LOG), file: folder.append(LOG)? })
    }

    /// Adds a line.
    pub fn append(&mut self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_vec(event).map_err(|e| Error::file(&self.path, e.to_string()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(Error::io("write", &self.path))
    }
}
