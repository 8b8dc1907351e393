//! Training: the loop, the optimisers, the schedules.

mod adafactor;
mod adamw;
mod average;
mod clip;
pub mod engine;
pub mod evaluate;
pub mod examples;
pub mod inputs;
pub mod log;
pub mod norms;
pub mod optimizer;
pub(crate) mod parameters;
pub mod rehearse;
pub mod schedule;
pub mod settings;
pub mod state;
pub mod tensorboard;
mod tiles;
pub mod trainer;
mod window;

pub use evaluate::{Evaluation, TaskEvaluation};
pub use log::{Event, StepLog};
pub use settings::Settings;
pub use trainer::{Hooks, Outcome, Trainer};
