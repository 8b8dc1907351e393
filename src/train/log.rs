//! The log of a run: one JSON object a line in `log.jsonl`, and the same events for whoever watches.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::evaluate::Evaluation;
use crate::checkpoint::write_file_atomic;
use crate::error::{Error, Result};
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
    /// Steps of the whole run that were left out because their gradient was not finite.
    pub skipped: u64,
    /// Source and target tokens of the whole run, padding not counted.
    pub tokens: u64,
    pub tokens_per_second: f64,
    /// Share of the positions of these steps that was padding.
    pub padding: f64,
    /// Seconds of the whole run, in all its sessions.
    pub elapsed: f64,
    /// Estimated seconds to the end.
    pub time_left: f64,
}

/// The open log file.
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Starts an empty log.
    pub fn create(path: &Path) -> Result<Log> {
        let _locked = lock(path)?;
        write_file_atomic(path, b"")?;
        Log::append_to(path)
    }

    /// Continues a log behind `step`: what was written of later steps belongs to work that is done again, except for the
    /// choice of kernels, which stays.
    pub fn resume(path: &Path, step: u64) -> Result<Log> {
        let _locked = lock(path)?;
        let text = read(path)?;
        let mut kept = Vec::with_capacity(text.len());
        for (line, value) in records(&text) {
            if value["event"] == "kernels" || value["step"].as_u64().is_some_and(|at| at <= step) {
                kept.extend_from_slice(line);
            }
        }
        write_file_atomic(path, &kept)?;
        Log::append_to(path)
    }

    /// The variant of each class that the log of a run names.
    pub fn kernels(path: &Path) -> Result<BTreeMap<String, String>> {
        let text = read(path)?;
        let mut kernels = BTreeMap::new();
        for (_, value) in records(&text).filter(|(_, value)| value["event"] == "kernels") {
            for choice in value["choices"].as_array().into_iter().flatten() {
                if let (Some(class), Some(variant)) = (choice["class"].as_str(), choice["variant"].as_str()) {
                    kernels.insert(class.to_owned(), variant.to_owned());
                }
            }
        }
        Ok(kernels)
    }

    fn append_to(path: &Path) -> Result<Log> {
        let file = lock(path)?;
        Ok(Log { path: path.to_path_buf(), file })
    }

    /// Adds a line.
    pub fn append(&mut self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_vec(event).map_err(|e| Error::file(&self.path, e.to_string()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(Error::io("write", &self.path))
    }
}

/// The log so far; empty if there is none.
fn read(path: &Path) -> Result<Vec<u8>> {
    match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(Error::io("read", path)),
    }
}

/// Whole lines and what they say. The process may have been killed within a line: that one does not parse.
fn records(text: &[u8]) -> impl Iterator<Item = (&[u8], Value)> {
    let lines = text.split_inclusive(|&b| b == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.filter_map(|line| Some((line, serde_json::from_slice(line).ok()?)))
}

/// Opens the log for appending, and refuses if another process has it: two runs in one folder would mix.
fn lock(path: &Path) -> Result<File> {
    let file = File::options().append(true).create(true).open(path).map_err(Error::io("write", path))?;
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => {
            Err(Error::file(path, "another process is training into this folder; choose another one"))
        }
        // A file system without locks protects nothing, and hinders nothing.
        _ => Ok(file),
    }
}
