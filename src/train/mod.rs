//! Training: the loop, the optimisers, the schedules.

mod adafactor;
mod adamw;
mod clip;
pub mod engine;
pub mod optimizer;
pub mod schedule;
