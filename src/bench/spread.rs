//! Times several things in turn, and reduces the samples to medians and quartiles.

use std::time::Instant;

use super::Progress;
use crate::error::Result;

/// Median and quartiles of samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
    pub samples: usize,
}

/// Something to be timed.
pub struct Arm<'a> {
    pub name: String,
    /// Does it once and gives the sample; its unit is up to the caller.
    pub run: Box<dyn FnMut() -> Result<f64> + 'a>,
}

/// How long each arm is measured.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub seconds: f64,
    /// The fewest samples, however long they take.
    pub least: usize,
    pub most: usize,
}

/// Something that takes a multiple of its time gets no more than a few samples.
const SLOW: f64 = 8.0;
const SLOW_SAMPLES: usize = 3;

impl<'a> Arm<'a> {
    pub fn new(name: impl Into<String>, run: impl FnMut() -> Result<f64> + 'a) -> Arm<'a> {
        Arm { name: name.into(), run: Box::new(run) }
    }
}

impl Spread {
    /// Of samples in any order; zero if there are none.
    pub fn of(mut samples: Vec<f64>) -> Spread {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * samples.len().saturating_sub(1) as f64;
            let (below, above) = (place.floor() as usize, place.ceil() as usize);
            let (Some(a), Some(b)) = (samples.get(below), samples.get(above)) else { return 0.0 };
            a + (b - a) * place.fract()
        };
        Spread { median: at(0.5), low: at(0.25), high: at(0.75), samples: samples.len() }
    }

    /// Of `f` of the samples, for a monotone `f`.
    pub fn map(self, f: impl Fn(f64) -> f64) -> Spread {
        let (a, b) = (f(self.low), f(self.high));
        Spread { median: f(self.median), low: a.min(b), high: a.max(b), samples: self.samples }
    }
}

/// Measures the arms round by round: each once to warm up (a driver compiles a kernel at its first dispatch), then one
/// sample of each in turn until each has had its time.
pub fn in_turn(arms: &mut [Arm<'_>], budget: Budget, progress: &mut Progress<'_>) -> Result<Vec<Spread>> {
    for arm in arms.iter_mut() {
        progress(&format!("{}: warm-up", arm.name));
        (arm.run)()?;
    }
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); arms.len()];
    let mut spent = vec![0.0; arms.len()];
    loop {
        let mut under_way = false;
        for (i, arm) in arms.iter_mut().enumerate() {
            let count = samples[i].len();
            let long = count >= SLOW_SAMPLES && spent[i] >= SLOW * budget.seconds;
            if count >= budget.most || long || (count >= budget.least && spent[i] >= budget.seconds) {
                continue;
            }
            under_way = true;
            progress(&arm.name);
            let start = Instant::now();
            let sample = (arm.run)()?;
            spent[i] += start.elapsed().as_secs_f64();
            samples[i].push(sample);
        }
        if !under_way {
            return Ok(samples.into_iter().map(Spread::of).collect());
        }
    }
}

/// Seconds that something takes, by the host's clock.
pub fn seconds(run: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_interpolate() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0, 5.0]);
        assert_eq!(spread, Spread { median: 3.0, low: 2.0, high: 4.0, samples: 5 });
        assert_eq!(Spread::of(vec![1.0, 2.0]).low, 1.25);
        assert_eq!(spread.map(|x| 1.0 / x).low, 0.25);
        assert_eq!(Spread::of(Vec::new()).samples, 0);
    }

    #[test]
    fn arms_take_turns() {
        let order = std::cell::RefCell::new(Vec::new());
        let arm = |name: &'static str| {
            let order = &order;
            Arm::new(name, move || {
                order.borrow_mut().push(name);
                Ok(1.0)
            })
        };
        let budget = Budget { seconds: 0.0, least: 2, most: 9 };
        let spreads = in_turn(&mut [arm("a"), arm("b")], budget, &mut |_| {}).unwrap();
        assert_eq!(*order.borrow(), ["a", "b", "a", "b", "a", "b"]);
        assert_eq!(spreads[1].samples, 2);
    }
}
