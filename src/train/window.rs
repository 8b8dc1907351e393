//! Counters of a run: since the last line of its log, and since its last start.

use std::time::Instant;

use super::engine::LossStats;
use super::optimizer::StepReport;

/// Sums since the last log line.
pub(super) struct Window {
    pub start: Instant,
    pub first_token: u64,
    /// Of the batches, padding counted.
    pub positions: u64,
    pub stats: LossStats,
    pub last: StepReport,
}

impl Window {
    pub fn new(first_token: u64) -> Window {
        let last = StepReport { grad_norm: 0.0, clip: 1.0, skipped: false };
        Window { start: Instant::now(), first_token, positions: 0, stats: LossStats::default(), last }
    }
}

/// The time of one call of [`super::Trainer::run`].
pub(super) struct Session {
    pub start: Instant,
    pub first_step: u64,
    /// Seconds of earlier sessions.
    pub elapsed: f64,
}

impl Session {
    pub fn total(&self) -> f64 {
        self.elapsed + self.start.elapsed().as_secs_f64()
    }

    pub fn seconds_per_step(&self, step: u64) -> f64 {
        self.start.elapsed().as_secs_f64() / (step - self.first_step).max(1) as f64
    }
}
