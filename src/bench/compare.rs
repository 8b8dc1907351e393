//! Compares two runs.

use std::path::Path;

use serde::Deserialize;

use super::report::{BenchReport, Better, Figure, SCHEMA};
use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};

/// A report as it was saved: what a comparison needs of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Saved {
    schema: u32,
    pub date: String,
    pub version: String,
    pub quick: bool,
    pub adapter: SavedAdapter,
    pub figures: Vec<Figure>,
}

/// Which adapter a saved report is of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SavedAdapter {
    pub name: String,
    pub driver_info: String,
    pub backend: String,
}

/// One figure in both runs.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Comparison {
    pub old: Figure,
    pub new: Figure,
    /// New over old.
    pub ratio: f64,
    /// The ratios that the quartiles allow.
    pub low: f64,
    pub high: f64,
    pub verdict: Verdict,
}

/// Whether a difference means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Better,
    Worse,
    /// The quartiles overlap, or the medians are within 2 %.
    Same,
    /// One of the two was measured only once, so that nothing is known of its spread.
    Unknown,
}

/// Differences of medians that mean nothing on any machine.
const NOISE: f64 = 0.02;

impl Saved {
    /// # Errors
    /// `Io` or `File`: not there, not a report, or one of another schema.
    pub fn read(path: &Path) -> Result<Saved> {
        let text = files::read_text(path, SETTINGS_LIMIT)?;
        let wrong =
            |e: serde_json::Error| Error::line(path, e.line(), format!("is not a report of `t5 bench --json`: {e}"));
        // The schema first: another one may have other fields.
        let value: serde_json::Value = serde_json::from_str(&text).map_err(wrong)?;
        match value["schema"].as_u64() {
            Some(schema) if schema == u64::from(SCHEMA) => serde_json::from_str(&text).map_err(wrong),
            Some(schema) => {
                Err(Error::file(path, format!("has schema {schema}, this program reads {SCHEMA}: measure again")))
            }
            None => Err(Error::file(path, "is not a report of `t5 bench --json`: it has no schema")),
        }
    }

    /// Every figure that both runs have.
    pub fn compare(&self, new: &BenchReport) -> Vec<Comparison> {
        let same = |a: &Figure, b: &Figure| (&a.section, &a.name, &a.unit) == (&b.section, &b.name, &b.unit);
        let pair = |new: &Figure| Some(Comparison::of(self.figures.iter().find(|old| same(old, new))?, new));
        new.figures.iter().filter_map(pair).collect()
    }

    /// What makes the two runs hard to compare, if anything does.
    pub fn differences(&self, new: &BenchReport) -> Vec<String> {
        let mut found = Vec::new();
        let adapter = &new.adapter;
        if (&self.adapter.name, &self.adapter.driver_info, &self.adapter.backend)
            != (&adapter.name, &adapter.driver_info, &adapter.backend)
        {
            let SavedAdapter { name, driver_info, backend } = &self.adapter;
            found.push(format!("the old run is of another adapter or driver: {name} ({backend}, {driver_info})"));
        }
        if self.quick != new.quick {
            found.push("one of the runs is a quick one".into());
        }
        debug_assert_eq!(self.schema, new.schema);
        found
    }
}

impl Comparison {
    pub fn of(old: &Figure, new: &Figure) -> Comparison {
        let divide = |a: f64, b: f64| if b == 0.0 && a == 0.0 { 1.0 } else { a / b };
        let ratio = divide(new.value, old.value);
        let apart = new.low > old.high || new.high < old.low;
        let verdict = if old.samples == 1 || new.samples == 1 {
            Verdict::Unknown
        } else if !apart || (ratio - 1.0).abs() <= NOISE {
            Verdict::Same
        } else if (ratio > 1.0) == (new.better == Better::Higher) {
            Verdict::Better
        } else {
            Verdict::Worse
        };
        let (low, high) = (divide(new.low, old.high), divide(new.high, old.low));
        Comparison { old: old.clone(), new: new.clone(), ratio, low, high, verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(unit: &str, [low, value, high]: [f64; 3]) -> Figure {
        Figure { unit: unit.into(), value, low, high, samples: 5, ..Figure::default() }
    }

    #[test]
    fn only_what_is_outside_of_the_noise_counts() {
        let old = figure("ms", [9.0, 10.0, 11.0]);
        let verdict = |new: [f64; 3]| Comparison::of(&old, &figure("ms", new)).verdict;
        assert_eq!(verdict([4.0, 5.0, 6.0]), Verdict::Better);
        assert_eq!(verdict([19.0, 20.0, 21.0]), Verdict::Worse);
        assert_eq!(verdict([10.5, 12.0, 13.0]), Verdict::Same);
        let rate = |better, samples| {
            let of = |value| Figure { better, samples, ..figure("%", [value; 3]) };
            Comparison::of(&of(1.0), &of(2.0))
        };
        assert_eq!((rate(Better::Higher, 5).ratio, rate(Better::Higher, 5).verdict), (2.0, Verdict::Better));
        assert_eq!(rate(Better::Lower, 5).verdict, Verdict::Worse);
        // Counted figures have no spread. Of a single measurement the spread is unknown.
        assert_eq!(rate(Better::Higher, 0).verdict, Verdict::Better);
        assert_eq!(rate(Better::Higher, 1).verdict, Verdict::Unknown);
        let tiny = Comparison::of(&figure("MiB", [100.0; 3]), &figure("MiB", [101.0; 3]));
        assert_eq!(tiny.verdict, Verdict::Same);
    }
}
