//! How much work goes into one submit, so that nobody waits long for the device: not the system's watchdog, not the frames of an
//! application, not someone who wants to stop.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::work::Work;

/// A submit's budget, and how fast the device has been.
pub(super) struct Pace {
    /// Microseconds.
    budget: AtomicU64,
    guess: Guess,
    /// Measured time over guessed time, of late.
    slowness: Mutex<f64>,
}

/// A device as [`Pace`] takes it to be before anything is measured.
struct Guess {
    flops_a_second: f64,
    bytes_a_second: f64,
    seconds_a_dispatch: f64,
}

/// A slow graphics card: too small a piece costs little.
const CARD: Guess = Guess { flops_a_second: 1e12, bytes_a_second: 50e9, seconds_a_dispatch: 5e-6 };
/// Two cores of a processor.
const SOFTWARE: Guess = Guess { flops_a_second: 30e9, bytes_a_second: 8e9, seconds_a_dispatch: 5e-6 };

impl Pace {
    pub fn new(budget: Duration, is_cpu: bool) -> Pace {
        let guess = if is_cpu { SOFTWARE } else { CARD };
        Pace { budget: AtomicU64::new(budget.as_micros() as u64), guess, slowness: Mutex::new(1.0) }
    }

    pub fn set_budget(&self, budget: Duration) {
        self.budget.store(budget.as_micros().min(u64::MAX.into()) as u64, Ordering::Relaxed);
    }

    /// Guessed seconds, as [`Pace::seconds`] counts them, that fit into one submit.
    pub fn budget(&self) -> f64 {
        1e-6 * self.budget.load(Ordering::Relaxed) as f64 / *self.slowness()
    }

    /// The guessed time of one dispatch.
    pub fn seconds(&self, work: &Work) -> f64 {
        let Guess { flops_a_second, bytes_a_second, seconds_a_dispatch } = self.guess;
        seconds_a_dispatch + (work.flops / flops_a_second).max(work.bytes / bytes_a_second)
    }

    /// Learns that a submit of `guessed` seconds took `measured` ones. One outlier, such as another program's work, moves the
    /// estimate by a factor of two at most.
    pub fn learn(&self, guessed: f64, measured: f64) {
        let mut slowness = self.slowness();
        let found = (measured / guessed).clamp(*slowness / 4.0, *slowness * 4.0);
        *slowness = (*slowness * found).sqrt().clamp(1e-3, 1e3);
    }

    fn slowness(&self) -> MutexGuard<'_, f64> {
        self.slowness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_follows_the_device() {
        let pace = Pace::new(Duration::from_millis(100), true);
        assert!((pace.budget() - 0.1).abs() < 1e-9);
        for _ in 0..50 {
            pace.learn(0.01, 0.1);
        }
        assert!((pace.budget() - 0.01).abs() < 1e-4, "ten times slower than guessed: {}", pace.budget());
        pace.learn(0.01, 1000.0);
        assert!(pace.budget() > 0.0049, "one outlier: {}", pace.budget());
        pace.set_budget(Duration::from_millis(8));
        assert!(pace.budget() < 0.0008);
    }
}
