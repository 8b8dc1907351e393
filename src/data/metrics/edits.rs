//! How far predicted texts are from their references.
//!
//! Texts are compared as sequences of units, the pieces between white space: words for ordinary text, phonemes for
//! pronunciations ("K AE1 T"). So the unit error rate is the phoneme error rate (PER) of pronunciation tasks, and the
//! share of inexact predictions their word error rate (WER).

use std::fmt;

use serde::Serialize;

use super::{Case, MetricKind, Part};

/// Sums over all predictions; [`Scores::report`] divides them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scores {
    predictions: u64,
    exact: u64,
    unit_edits: u64,
    reference_units: u64,
    matching_units: u64,
    compared_units: u64,
    char_edits: u64,
    reference_chars: u64,
}

/// The scores of a set of predictions, with the counts they come from. Rates are between 0 and 1 (error rates may exceed
/// 1), and NaN (null in JSON) if there was nothing to count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ScoreReport {
    pub predictions: u64,
    /// Predictions whose units equal those of a reference.
    pub exact: u64,
    /// exact / predictions
    pub exact_match: f64,
    /// 1 - exact_match: WER where a prediction is the pronunciation of a word.
    pub inexact: f64,
    pub unit_edits: u64,
    pub reference_units: u64,
    /// unit_edits / reference_units: PER where units are phonemes.
    pub unit_error_rate: f64,
    /// Positions at which prediction and reference have the same unit.
    pub matching_units: u64,
    /// Positions compared: for each prediction the longer of prediction and reference.
    pub compared_units: u64,
    /// matching_units / compared_units
    pub unit_accuracy: f64,
    pub char_edits: u64,
    pub reference_chars: u64,
    /// char_edits / reference_chars, over Unicode scalars, with every white space as one blank.
    pub char_error_rate: f64,
}

/// Levenshtein distance: the fewest insertions, deletions and substitutions that turn `a` into `b`.
pub fn edit_distance<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let mut row: Vec<usize> = (0..=short.len()).collect();
    let mut next = vec![0; row.len()];
    for (i, x) in long.iter().enumerate() {
        next[0] = i + 1;
        for (j, y) in short.iter().enumerate() {
            let substituted = row[j] + usize::from(x != y);
            next[j + 1] = substituted.min(row[j + 1] + 1).min(next[j] + 1);
        }
        std::mem::swap(&mut row, &mut next);
    }
    row[short.len()]
}

impl Scores {
    /// Compares a prediction with its references; only the best of them counts, the one with the fewest unit edits, then
    /// the fewest character edits, then the first. Panics without any reference.
    #[track_caller]
    pub fn add(&mut self, prediction: &str, references: &[&str]) {
        let predicted = Text::new(prediction);
        let best = references
            .iter()
            .map(|reference| Comparison::new(&predicted, &Text::new(reference)))
            .min_by_key(|comparison| (comparison.unit_edits, comparison.char_edits));
        let best = best.expect("a prediction is compared with at least one reference");
        self.predictions += 1;
        self.exact += u64::from(best.unit_edits == 0);
        self.unit_edits += best.unit_edits as u64;
        self.reference_units += best.reference_units as u64;
        self.matching_units += best.matching_units as u64;
        self.compared_units += best.compared_units as u64;
        self.char_edits += best.char_edits as u64;
        self.reference_chars += best.reference_chars as u64;
    }

    pub fn report(&self) -> ScoreReport {
        let ratio = |part: u64, whole: u64| part as f64 / whole as f64;
        let exact_match = ratio(self.exact, self.predictions);
        ScoreReport {
            predictions: self.predictions,
            exact: self.exact,
            exact_match,
            inexact: 1.0 - exact_match,
            unit_edits: self.unit_edits,
            reference_units: self.reference_units,
            unit_error_rate: ratio(self.unit_edits, self.reference_units),
            matching_units: self.matching_units,
            compared_units: self.compared_units,
            unit_accuracy: ratio(self.matching_units, self.compared_units),
            char_edits: self.char_edits,
            reference_chars: self.reference_chars,
            char_error_rate: ratio(self.char_edits, self.reference_chars),
        }
    }
}

impl fmt::Display for ScoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |rate: f64| 100.0 * rate;
        write!(
            f,
            "exact {:.2} % ({} of {}), unit errors {:.2} %, unit accuracy {:.2} %, character errors {:.2} %",
            percent(self.exact_match),
            self.exact,
            self.predictions,
            percent(self.unit_error_rate),
            percent(self.unit_accuracy),
            percent(self.char_error_rate)
        )
    }
}

/// The rates of this module as metrics: one part, for the kinds that compare units or characters.
pub(super) fn rate(cases: &[Case], kind: MetricKind) -> Result<Vec<Part>, String> {
    let mut sums = Scores::default();
    for case in cases {
        let references: Vec<&str> = case.references.iter().map(|reference| reference.as_ref()).collect();
        sums.add(&case.prediction, &references);
    }
    let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let ratio = |part: (&str, u64), whole: (&str, u64)| Part::ratio((part.0, count(part.1)), (whole.0, count(whole.1)));
    let part = match kind {
        MetricKind::SequenceError => {
            ratio(("inexact", sums.predictions - sums.exact), ("predictions", sums.predictions))
        }
        MetricKind::Wer | MetricKind::Per => {
            ratio(("unit_edits", sums.unit_edits), ("reference_units", sums.reference_units))
        }
        MetricKind::Cer => ratio(("char_edits", sums.char_edits), ("reference_chars", sums.reference_chars)),
        MetricKind::UnitAccuracy => {
            ratio(("matching_units", sums.matching_units), ("compared_units", sums.compared_units))
        }
        _ => ratio(("exact", sums.exact), ("predictions", sums.predictions)),
    };
    Ok(vec![part?])
}

struct Text<'a> {
    units: Vec<&'a str>,
    chars: Vec<char>,
}

impl<'a> Text<'a> {
    fn new(text: &'a str) -> Text<'a> {
        let units: Vec<&str> = text.split_whitespace().collect();
        let chars = units.join(" ").chars().collect();
        Text { units, chars }
    }
}

struct Comparison {
    unit_edits: usize,
    reference_units: usize,
    matching_units: usize,
    compared_units: usize,
    char_edits: usize,
    reference_chars: usize,
}

impl Comparison {
    fn new(predicted: &Text<'_>, reference: &Text<'_>) -> Comparison {
        Comparison {
            unit_edits: edit_distance(&predicted.units, &reference.units),
            reference_units: reference.units.len(),
            matching_units: predicted.units.iter().zip(&reference.units).filter(|(p, r)| p == r).count(),
            compared_units: predicted.units.len().max(reference.units.len()),
            char_edits: edit_distance(&predicted.chars, &reference.chars),
            reference_chars: reference.chars.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Rng};

    fn chars(text: &str) -> Vec<char> {
        text.chars().collect()
    }

    #[test]
    fn edit_distances_by_hand() {
        for (a, b, distance) in [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
            ("intention", "execution", 5),
            ("abc", "abc", 0),
            ("żółw", "zółw", 1),
        ] {
            assert_eq!(edit_distance(&chars(a), &chars(b)), distance, "{a} {b}");
            assert_eq!(edit_distance(&chars(b), &chars(a)), distance, "{b} {a}");
        }
    }

    /// The definition, without memory.
    fn naive(a: &[u64], b: &[u64]) -> usize {
        match (a, b) {
            ([], rest) | (rest, []) => rest.len(),
            ([x, xs @ ..], [y, ys @ ..]) => {
                let substituted = naive(xs, ys) + usize::from(x != y);
                substituted.min(naive(xs, b) + 1).min(naive(a, ys) + 1)
            }
        }
    }

    #[test]
    fn edit_distance_equals_its_definition() {
        let mut rng = Rng::new(1, Purpose::Examples, &[]);
        for _ in 0..300 {
            let mut draw = || (0..rng.below(7)).map(|_| rng.below(3)).collect::<Vec<u64>>();
            let (a, b) = (draw(), draw());
            assert_eq!(edit_distance(&a, &b), naive(&a, &b), "{a:?} {b:?}");
        }
    }

    #[test]
    fn scores_by_hand() {
        let mut scores = Scores::default();
        scores.add("K AE1 T", &["K AE1 T"]);
        scores.add(" K  AA1 T S ", &["K AE1 T"]);
        let report = scores.report();
        assert_eq!((report.predictions, report.exact, report.exact_match, report.inexact), (2, 1, 0.5, 0.5));
        assert_eq!((report.unit_edits, report.reference_units), (2, 6));
        assert_eq!((report.matching_units, report.compared_units), (5, 7));
        // "K AA1 T S" from "K AE1 T": one substitution, two insertions; 7 characters each.
        assert_eq!((report.char_edits, report.reference_chars), (3, 14));
        assert_eq!(report.unit_error_rate, 2.0 / 6.0);
    }

    #[test]
    fn the_best_reference_counts() {
        let mut scores = Scores::default();
        scores.add("T AH0 M EY1 T OW2", &["T AH0 M AA1 T OW2 Z", "T AH0 M EY1 T OW2"]);
        scores.add("A B", &["X Y", "A C D"]);
        let report = scores.report();
        assert_eq!((report.exact, report.unit_edits, report.reference_units), (1, 2, 8));
    }

    #[test]
    fn empty_predictions_are_all_errors() {
        let mut scores = Scores::default();
        scores.add("", &["a b"]);
        let report = scores.report();
        assert_eq!((report.exact_match, report.unit_error_rate, report.char_error_rate), (0.0, 1.0, 1.0));
        assert_eq!(report.unit_accuracy, 0.0);
    }

    #[test]
    fn reports_are_json() {
        let mut scores = Scores::default();
        scores.add("a", &["a"]);
        let json = serde_json::to_value(scores.report()).unwrap();
        assert_eq!((json["exact"].as_u64(), json["exact_match"].as_f64()), (Some(1), Some(1.0)));
        assert!(serde_json::to_value(Scores::default().report()).unwrap()["exact_match"].is_null());
        assert!(scores.report().to_string().starts_with("exact 100.00 % (1 of 1)"));
    }
}
