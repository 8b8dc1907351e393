//! How far predicted texts are from their references.
//!
//! Texts are compared as sequences of units, the pieces between white space: words for ordinary text, phonemes for
//! pronunciations ("K AE1 T"). So the unit error rate is the phoneme error rate (PER) of pronunciation tasks, and the
//! share of inexact predictions their word error rate (WER).

use strsim::generic_levenshtein;

use super::{Case, MetricKind, Part};

/// Of one prediction and a reference, or the sums over all predictions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    predictions: usize,
    /// Predictions whose units equal those of a reference.
    exact: usize,
    unit_edits: usize,
    reference_units: usize,
    /// Positions at which prediction and reference have the same unit.
    matching_units: usize,
    /// Positions of the longer of prediction and reference.
    compared_units: usize,
    char_edits: usize,
    reference_chars: usize,
}

/// The rates of this module as metrics: one part, for the kinds that compare units or characters.
pub(super) fn rate(cases: &[Case], kind: MetricKind) -> Result<Vec<Part>, String> {
    let sums = cases.iter().map(Counts::of).fold(Counts::default(), Counts::plus);
    let part = match kind {
        MetricKind::SequenceError => {
            Part::ratio(("inexact", sums.predictions - sums.exact), ("predictions", sums.predictions))
        }
        MetricKind::Wer | MetricKind::Per => {
            Part::ratio(("unit_edits", sums.unit_edits), ("reference_units", sums.reference_units))
        }
        MetricKind::Cer => Part::ratio(("char_edits", sums.char_edits), ("reference_chars", sums.reference_chars)),
        MetricKind::UnitAccuracy => {
            Part::ratio(("matching_units", sums.matching_units), ("compared_units", sums.compared_units))
        }
        _ => Part::ratio(("exact", sums.exact), ("predictions", sums.predictions)),
    };
    Ok(vec![part?])
}

impl Counts {
    /// Compares a prediction with its references. Only the best of them counts: the one with the fewest unit edits, then the
    /// fewest character edits, then the first.
    fn of(case: &Case) -> Counts {
        let predicted = Text::new(&case.prediction);
        let counts = case.references.iter().map(|reference| Counts::between(&predicted, &Text::new(reference)));
        // `Metric::score` refuses an example without references.
        counts.min_by_key(|counts| (counts.unit_edits, counts.char_edits)).unwrap_or_default()
    }

    fn between(predicted: &Text<'_>, reference: &Text<'_>) -> Counts {
        let unit_edits = generic_levenshtein(&predicted.units, &reference.units);
        Counts {
            predictions: 1,
            exact: usize::from(unit_edits == 0),
            unit_edits,
            reference_units: reference.units.len(),
            matching_units: predicted.units.iter().zip(&reference.units).filter(|(p, r)| p == r).count(),
            compared_units: predicted.units.len().max(reference.units.len()),
            char_edits: generic_levenshtein(&predicted.chars, &reference.chars),
            reference_chars: reference.chars.len(),
        }
    }

    fn plus(self, other: Counts) -> Counts {
        Counts {
            predictions: self.predictions + other.predictions,
            exact: self.exact + other.exact,
            unit_edits: self.unit_edits + other.unit_edits,
            reference_units: self.reference_units + other.reference_units,
            matching_units: self.matching_units + other.matching_units,
            compared_units: self.compared_units + other.compared_units,
            char_edits: self.char_edits + other.char_edits,
            reference_chars: self.reference_chars + other.reference_chars,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Metric;
    use crate::data::example::TaskExample;

    fn counts(cases: &[(&str, &[&str])]) -> Counts {
        let metric = Metric::new(MetricKind::Per);
        let one = |(prediction, references): &(&str, &[&str])| {
            let references = references.iter().map(|&reference| reference.to_owned()).collect();
            let (source, target, extra) = Default::default();
            Counts::of(&metric.case(prediction, &TaskExample { source, target, references, extra }))
        };
        cases.iter().map(one).fold(Counts::default(), Counts::plus)
    }

    #[test]
    fn counts_by_hand() {
        let sums = counts(&[("K AE1 T", &["K AE1 T"]), (" K  AA1 T S ", &["K AE1 T"])]);
        assert_eq!((sums.predictions, sums.exact), (2, 1));
        assert_eq!((sums.unit_edits, sums.reference_units), (2, 6));
        assert_eq!((sums.matching_units, sums.compared_units), (5, 7));
        // "K AA1 T S" from "K AE1 T": one substitution, two insertions; 7 characters each.
        assert_eq!((sums.char_edits, sums.reference_chars), (3, 14));
        let spelled = counts(&[("intention", &["execution"]), ("żółw", &["zółw"])]);
        assert_eq!((spelled.unit_edits, spelled.char_edits, spelled.reference_chars), (2, 6, 13));
    }

    #[test]
    fn the_best_reference_counts() {
        let tomato: &[&str] = &["T AH0 M AA1 T OW2 Z", "T AH0 M EY1 T OW2"];
        let sums = counts(&[("T AH0 M EY1 T OW2", tomato), ("A B", &["X Y", "A C D"])]);
        assert_eq!((sums.exact, sums.unit_edits, sums.reference_units), (1, 2, 8));
    }

    #[test]
    fn empty_predictions_are_all_errors() {
        let sums = counts(&[("", &["a b"])]);
        assert_eq!((sums.exact, sums.unit_edits, sums.reference_units), (0, 2, 2));
        assert_eq!((sums.char_edits, sums.reference_chars, sums.matching_units), (3, 3, 0));
    }
}
