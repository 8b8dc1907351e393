//! The window's frame rate.

use std::collections::VecDeque;
use std::time::Instant;

/// The frame rate of the last hundred frames that followed each other.
#[derive(Default)]
pub struct Frames {
    last: Option<Instant>,
    /// Milliseconds.
    times: VecDeque<f64>,
}

impl Frames {
    /// Counts a frame: the milliseconds since the one before, if this one followed it without a pause. `goes_on`: another
    /// follows at once.
    pub fn tick(&mut self, goes_on: bool) -> Option<f64> {
        let now = Instant::now();
        let time = self.last.map(|last| 1e3 * (now - last).as_secs_f64());
        self.last = goes_on.then_some(now);
        self.times.extend(time);
        if self.times.len() > 100 {
            self.times.pop_front();
        }
        time
    }
}

impl std::fmt::Display for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sum, worst) =
            self.times.iter().fold((0.0, 0.0), |(sum, worst), &time| (sum + time, f64::max(worst, time)));
        write!(f, "{:.0} frames/s, the slowest took {worst:.0} ms", 1e3 * self.times.len() as f64 / f64::max(sum, 1.0))
    }
}
