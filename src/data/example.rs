//! An example as text: the source and the right answers.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What stands for a label that a test set does not tell.
pub const UNKNOWN_LABEL: &str = "<unk>";

/// The key of `extra` behind which answers to choose from lie.
pub(super) const CHOICES: &str = "choices";

/// One source and its right answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskExample {
    /// The text that the model reads, prefix included.
    pub source: String,
    /// The target of training: the first reference.
    pub target: String,
    /// The answers that evaluation accepts; at least one.
    pub references: Vec<String>,
    /// What some metrics ask for, such as the number of the question; null for most tasks.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub extra: Value,
}

impl TaskExample {
    /// The answers to choose from, of which the target is one; none for most tasks.
    pub fn choices(&self) -> Vec<&str> {
        self.extra[CHOICES].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Whether the right answer is known, as it is not in published test sets of GLUE and SuperGLUE.
    pub fn is_labelled(&self) -> bool {
        self.references != [UNKNOWN_LABEL]
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    #[default]
    Train,
    Validation,
    Test,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        })
    }
}
