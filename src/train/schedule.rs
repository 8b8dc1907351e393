//! The learning rate as a function of the optimiser step.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What follows the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Stays at the peak.
    Constant,
    /// peak * sqrt(k / max(step, k)) with k = max(hold, warmup, 1). The paper's pre-training schedule
    /// 1 / sqrt(max(step, 10^4)) (section 3.1.2) is peak 0.01, warmup 0, hold 10^4.
    InverseSqrt,
    /// peak * (total - step) / (total - warmup): 0 at step `total`.
    Linear,
    /// Stays at the peak, then falls linearly over the last `cooldown` steps: warmup-stable-decay (Hu et al. 2024; Haegele et al.
    /// 2024, section 3). 0 at step `total`.
    Wsd,
    /// peak * (f + (1 - f) * (1 + cos(pi * p)) / 2) with p = (step - warmup) / (total - warmup), f = final_fraction.
    Cosine,
}

impl Decay {
    /// Whether the rate of a step follows from the number of all steps, too.
    pub fn depends_on_steps(self) -> bool {
        matches!(self, Decay::Linear | Decay::Wsd | Decay::Cosine)
    }
}

/// The rate for `step`, counted in optimiser steps from 0: peak * (step + 1) / warmup while step < warmup (so the last
/// warm-up step runs at the peak), then as [`Decay`] says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LrSchedule {
    pub decay: Decay,
    /// The highest rate.
    pub peak: f64,
    /// Steps of linear warm-up, 0 for none.
    pub warmup: u64,
    /// Inverse square root only: the step until which the rate stays at the peak; no effect if less than `warmup`.
    pub hold: u64,
    /// Linear and cosine only: the step at which the decay ends; the rate stays at its final value from there.
    pub total: u64,
    /// Cosine only: the final rate as a share of the peak.
    pub final_fraction: f64,
    /// Warmup-stable-decay only: the steps before `total` over which the rate falls.
    pub cooldown: u64,
}

impl LrSchedule {
    /// A schedule of `total` steps with no hold, decaying to 0 where it decays to anything.
    pub fn new(decay: Decay, peak: f64, warmup: u64, total: u64) -> LrSchedule {
        LrSchedule { decay, peak, warmup, hold: 0, total, final_fraction: 0.0, cooldown: total / 5 }
    }

    /// Errors with `Input` if the peak is not positive, the final fraction not in 0..=1, or a decay that ends would end
    /// before the warm-up does.
    pub fn check(&self) -> Result<()> {
        if !(self.peak > 0.0 && self.peak.is_finite()) {
            return Err(Error::setting("lr", format!("the learning rate {} is not a positive number", self.peak)));
        }
        if !(0.0..=1.0).contains(&self.final_fraction) {
            return Err(Error::Input(format!("the final fraction {} is not between 0 and 1", self.final_fraction)));
        }
        if self.decay.depends_on_steps() && self.total <= self.warmup {
            let what = format!(
                "{} steps leave nothing after {} of warm-up: train longer or warm up for fewer steps",
                self.total, self.warmup
            );
            return Err(Error::setting("warmup", what));
        }
        Ok(())
    }

    /// The learning rate of optimiser step `step` (from 0).
    pub fn lr(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        match self.decay {
            Decay::Constant => self.peak,
            Decay::InverseSqrt => {
                let k = self.hold.max(self.warmup).max(1);
                self.peak * (k as f64 / step.max(k) as f64).sqrt()
            }
            Decay::Linear | Decay::Wsd => self.peak * (1.0 - self.progress(step)),
            Decay::Cosine => {
                let share = 0.5 * (1.0 + (PI * self.progress(step)).cos());
                self.peak * (self.final_fraction + (1.0 - self.final_fraction) * share)
            }
        }
    }

    /// 0 until the decay begins, 1 from `total` on.
    fn progress(&self, step: u64) -> f64 {
        let stable = if self.decay == Decay::Wsd { self.total.saturating_sub(self.cooldown) } else { 0 };
        let begin = self.warmup.max(stable);
        let span = self.total.saturating_sub(begin).max(1);
        (step.saturating_sub(begin) as f64 / span as f64).min(1.0)
    }
}

impl Decay {
    const NAMES: [(&'static str, Decay); 5] = [
        ("constant", Decay::Constant),
        ("inverse-sqrt", Decay::InverseSqrt),
        ("linear", Decay::Linear),
        ("wsd", Decay::Wsd),
        ("cosine", Decay::Cosine),
    ];
}

impl FromStr for Decay {
    type Err = Error;

    fn from_str(name: &str) -> Result<Decay> {
        Decay::NAMES.iter().find(|(n, _)| *n == name).map(|(_, decay)| *decay).ok_or_else(|| {
            let names = Decay::NAMES.map(|(n, _)| n).join(", ");
            Error::Input(format!("unknown learning rate schedule {name:?}: use one of {names}"))
        })
    }
}

impl fmt::Display for Decay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Decay::NAMES.iter().find(|(_, decay)| decay == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(actual: f64, expected: f64) {
        assert!((actual - expected).abs() <= 1e-15 * expected.abs().max(1e-2), "{actual} is not {expected}");
    }

    #[test]
    fn warmup_is_linear_and_reaches_the_peak() {
        for decay in [Decay::Constant, Decay::InverseSqrt, Decay::Linear, Decay::Wsd, Decay::Cosine] {
            let schedule = LrSchedule::new(decay, 1e-3, 4, 100);
            for (step, expected) in [(0, 0.25e-3), (1, 0.5e-3), (2, 0.75e-3), (3, 1e-3), (4, 1e-3)] {
                assert_close(schedule.lr(step), expected);
            }
            assert_close(LrSchedule::new(decay, 1e-3, 0, 100).lr(0), 1e-3);
        }
    }

    #[test]
    fn constant() {
        assert_close(LrSchedule::new(Decay::Constant, 1e-3, 10, 0).lr(u64::MAX), 1e-3);
    }

    #[test]
    fn inverse_sqrt() {
        let schedule = LrSchedule::new(Decay::InverseSqrt, 0.02, 100, 0);
        for (step, expected) in [(99, 0.02), (100, 0.02), (400, 0.01), (10_000, 0.002)] {
            assert_close(schedule.lr(step), expected);
        }
        // Without warm-up the first step is at the peak, then 1 / sqrt(step).
        let steep = LrSchedule::new(Decay::InverseSqrt, 1.0, 0, 0);
        for (step, expected) in [(0, 1.0), (1, 1.0), (4, 0.5), (100, 0.1)] {
            assert_close(steep.lr(step), expected);
        }
    }

    #[test]
    fn inverse_sqrt_holds_the_papers_schedule() {
        let paper = |step: u64| 1.0 / (step.max(10_000) as f64).sqrt();
        let schedule = LrSchedule { hold: 10_000, ..LrSchedule::new(Decay::InverseSqrt, 0.01, 0, 0) };
        for step in [0, 1, 9_999, 10_000, 10_001, 40_000, 524_288, 1_000_000] {
            assert_close(schedule.lr(step), paper(step));
        }
    }

    #[test]
    fn linear() {
        let schedule = LrSchedule::new(Decay::Linear, 0.1, 10, 110);
        for (step, expected) in [(10, 0.1), (35, 0.075), (60, 0.05), (109, 0.001), (110, 0.0), (1000, 0.0)] {
            assert_close(schedule.lr(step), expected);
        }
    }

    #[test]
    fn warmup_stable_decay() {
        let schedule = LrSchedule { cooldown: 40, ..LrSchedule::new(Decay::Wsd, 0.1, 10, 110) };
        for (step, expected) in [(10, 0.1), (70, 0.1), (80, 0.075), (90, 0.05), (109, 0.0025), (110, 0.0), (1000, 0.0)]
        {
            assert_close(schedule.lr(step), expected);
        }
        // A cooldown longer than what the warm-up leaves is all of that.
        let long = LrSchedule { cooldown: 1000, ..schedule };
        assert_close(long.lr(60), 0.05);
    }

    #[test]
    fn cosine() {
        let schedule = LrSchedule { final_fraction: 0.1, ..LrSchedule::new(Decay::Cosine, 1.0, 10, 70) };
        // Thirds of the way: cos(pi / 3) = 1/2, so 0.1 + 0.9 * 3/4; half way 0.1 + 0.9 / 2.
        for (step, expected) in [(10, 1.0), (30, 0.775), (40, 0.55), (50, 0.325), (70, 0.1), (71, 0.1)] {
            assert_close(schedule.lr(step), expected);
        }
        assert_close(LrSchedule::new(Decay::Cosine, 1.0, 10, 70).lr(70), 0.0);
    }

    #[test]
    fn names_round_trip() {
        for name in ["constant", "inverse-sqrt", "linear", "wsd", "cosine"] {
            assert_eq!(name.parse::<Decay>().unwrap().to_string(), name);
            let json = serde_json::to_value(name.parse::<Decay>().unwrap()).unwrap();
            assert_eq!(json.as_str(), Some(name));
        }
        assert!(
            "cosin".parse::<Decay>().unwrap_err().to_string().contains("constant, inverse-sqrt, linear, wsd, cosine")
        );
    }

    #[test]
    fn impossible_schedules_are_errors() {
        for decay in [Decay::Linear, Decay::Cosine] {
            assert!(LrSchedule::new(decay, 1e-3, 100, 100).check().is_err());
            assert!(LrSchedule::new(decay, 1e-3, 100, 101).check().is_ok());
        }
        assert!(LrSchedule::new(Decay::Constant, 0.0, 0, 1).check().is_err());
        assert!(LrSchedule::new(Decay::Constant, f64::NAN, 0, 1).check().is_err());
        assert!(LrSchedule { final_fraction: 1.5, ..LrSchedule::new(Decay::Cosine, 1.0, 0, 9) }.check().is_err());
    }
}
