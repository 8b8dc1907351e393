//! Correlations of numbers that are written as texts.

use super::{Case, Part};

/// What stands for a prediction that is no number, as in T5.
const NO_NUMBER: f64 = -1.0;

pub(super) fn pearson(cases: &[Case]) -> Result<Vec<Part>, String> {
    let (targets, predictions) = read(cases)?;
    Ok(vec![part(&targets, &predictions, cases)])
}

pub(super) fn spearman(cases: &[Case]) -> Result<Vec<Part>, String> {
    let (targets, predictions) = read(cases)?;
    Ok(vec![part(&ranks(&targets), &ranks(&predictions), cases)])
}

fn part(targets: &[f64], predictions: &[f64], cases: &[Case]) -> Part {
    let invalid = cases.iter().filter(|case| number(&case.prediction).is_none()).count();
    Part::new(correlation(targets, predictions), &[("not_numbers", invalid as f64)])
}

fn read(cases: &[Case]) -> Result<(Vec<f64>, Vec<f64>), String> {
    let target =
        |case: &Case| number(case.target()).ok_or_else(|| format!("the reference {:?} is not a number", case.target()));
    let targets = cases.iter().map(target).collect::<Result<_, _>>()?;
    Ok((targets, cases.iter().map(|case| number(&case.prediction).unwrap_or(NO_NUMBER)).collect()))
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|x: &f64| x.is_finite())
}

/// 0 where a side is constant: there the correlation is undefined, and a model that says one thing only has learnt nothing.
fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let centred = |values: &[f64]| -> Vec<f64> {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|v| v - mean).collect()
    };
    let is_constant = |values: &[f64]| values.windows(2).all(|w| w[0] == w[1]);
    if is_constant(x) || is_constant(y) {
        return 0.0;
    }
    let (x, y) = (centred(x), centred(y));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(p, q)| p * q).sum::<f64>();
    // Norms are divided one after the other: their product may overflow where they do not.
    let value = dot(&x, &y) / dot(&x, &x).sqrt() / dot(&y, &y).sqrt();
    if value.is_finite() { value.clamp(-1.0, 1.0) } else { 0.0 }
}

/// Ranks from 1; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for ties in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean = first as f64 + (ties.len() + 1) as f64 / 2.0;
        ties.iter().for_each(|&index| ranks[index] = mean);
        first += ties.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_their_mean_rank() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 0.0, 3.0]), [4.0, 2.0, 4.0, 1.0, 4.0]);
        assert_eq!(ranks(&[-0.0, 0.0]), [1.5, 1.5]);
    }

    #[test]
    fn constants_and_extremes_are_finite() {
        assert_eq!(correlation(&[1.0, 1.0], &[1.0, 2.0]), 0.0);
        assert_eq!(correlation(&[0.1, 0.1, 0.1], &[1.0, 2.0, 3.0]), 0.0);
        assert_eq!(correlation(&[2.0], &[3.0]), 0.0);
        assert!(correlation(&[1e200, -1e200, 0.0], &[1.0, 2.0, 4.0]).is_finite());
    }
}
