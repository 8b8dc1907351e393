//! Axes with round numbers, and numbers as people write them.

/// A linear axis over `low..=high` whose ticks are round.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    pub low: f64,
    pub high: f64,
    pub ticks: Vec<f64>,
    /// Of the ticks.
    decimals: usize,
}

impl Scale {
    /// Covers the values with about `wanted` ticks, whose steps are 1, 2 or 5 times a power of ten; the ends are ticks if `round`.
    pub(super) fn over(values: impl Iterator<Item = f64>, wanted: usize, round: bool) -> Scale {
        let finite = values.filter(|v| v.is_finite());
        let (mut low, mut high) =
            finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if high - low <= f64::EPSILON * 16.0 * high.abs().max(low.abs()) {
            let margin = if low == 0.0 { 1.0 } else { low.abs() * 0.05 };
            (low, high) = (low - margin, high + margin);
        }
        let step = round_step((high - low) / wanted.max(1) as f64);
        let (first, last) = if round {
            ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil())
        } else {
            ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor())
        };
        let count = (last - first).round().clamp(0.0, 1000.0) as usize;
        let ticks: Vec<f64> = (0..=count).map(|i| (first + i as f64) * step).collect();
        if round && let [low_tick, .., high_tick] = ticks[..] {
            (low, high) = (low_tick, high_tick);
        }
        let decimals = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
        Scale { low, high, ticks, decimals }
    }

    /// Where a value lies, 0 at the low end and 1 at the high one.
    pub(super) fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// All ticks' labels in one form: the same decimals and the same unit of thousands.
    pub(super) fn labels(&self) -> Vec<String> {
        let largest = self.ticks.iter().fold(0.0f64, |m, t| m.max(t.abs()));
        let smallest = self.ticks.windows(2).map(|pair| pair[1] - pair[0]).fold(largest, f64::min);
        if largest > 0.0 && largest < 1e-3 {
            return self.ticks.iter().map(|t| scientific(*t)).collect();
        }
        let (unit, suffix) = thousands(largest);
        let decimals =
            if unit > 1.0 { (-(smallest / unit).log10().floor()).clamp(0.0, 6.0) as usize } else { self.decimals };
        let label = |t: f64| {
            if t.abs() < smallest * 1e-6 {
                "0".to_owned()
            } else {
                format!("{:.decimals$}{suffix}", t / unit).replace('-', "−")
            }
        };
        self.ticks.iter().map(|t| label(*t)).collect()
    }
}

/// 1,234,567 -> "1.23 M", 0.000123 -> "1.23e-4", 61.238 -> "61.24".
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return "–".into();
    }
    let text = if size != 0.0 && size < 1e-3 {
        scientific(value)
    } else if size >= 1e4 {
        let (unit, suffix) = thousands(size);
        format!("{}{}", significant(value / unit, 3), suffix.replace(['k', 'M', 'G'], &format!("\u{202f}{suffix}")))
    } else if value.fract() == 0.0 {
        format!("{value}")
    } else {
        significant(value, 4)
    };
    text.replace('-', "−").replace("e−", "e-")
}

/// With separators: 1234567 -> "1,234,567".
pub(super) fn whole(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// 3,725 s -> "1 h 2 min"; 125 s -> "2 min 5 s"; 3.2 s -> "3.2 s".
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let s = seconds.round() as u64;
    match s {
        ..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

fn thousands(size: f64) -> (f64, &'static str) {
    match size {
        _ if size >= 1e9 => (1e9, "G"),
        _ if size >= 1e6 => (1e6, "M"),
        _ if size >= 1e4 => (1e3, "k"),
        _ => (1.0, ""),
    }
}

fn significant(value: f64, digits: usize) -> String {
    let before = if value == 0.0 { 1 } else { (value.abs().log10().floor() as i64 + 1).max(1) as usize };
    format!("{value:.*}", digits.saturating_sub(before))
}

fn scientific(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let text = format!("{value:.2e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.')),
        None => text,
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * (1.0 - 1e-9)).unwrap_or(10.0);
    factor * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover() {
        let scale = Scale::over([0.37, 4.81].into_iter(), 5, true);
        assert_eq!(scale.labels(), ["0", "1", "2", "3", "4", "5"]);
        let scale = Scale::over([0.0, 12_345.0].into_iter(), 5, false);
        assert_eq!(scale.labels(), ["0", "5k", "10k"]);
        assert_eq!((scale.low, scale.high), (0.0, 12_345.0));
        assert_eq!(Scale::over([0.0, 0.000_31].into_iter(), 3, true).labels(), ["0", "2e-4", "4e-4"]);
        assert_eq!(Scale::over([55.0, 61.0].into_iter(), 3, true).labels(), ["54", "56", "58", "60", "62"]);
        let alone = Scale::over([7.0].into_iter(), 4, true);
        assert!(alone.low < 7.0 && alone.high > 7.0 && alone.share(7.0) > 0.0);
        assert_eq!(Scale::over(std::iter::empty(), 4, true).labels(), ["0", "0.5", "1.0"]);
    }

    #[test]
    fn numbers_read_well() {
        let shown = [0.0, 61.238, 1.0, 1234.5, 12_345.0, 1_234_567.0, 0.000_123, -2.5, f64::NAN].map(number);
        assert_eq!(shown, ["0", "61.24", "1", "1234", "12.3\u{202f}k", "1.23\u{202f}M", "1.23e-4", "−2.500", "–"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(whole), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([3.24, 125.0, 3725.0, 90_000.0].map(duration), ["3.2 s", "2 min 5 s", "1 h 2 min", "1 d 1 h"]);
    }
}
