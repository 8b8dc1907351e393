//! Metrics of labels: accuracy, F1 and Matthews correlation.

use std::collections::HashMap;

use super::{Case, Part};

pub(super) fn accuracy(cases: &[Case]) -> Result<Vec<Part>, String> {
    let right = cases.iter().filter(|case| case.references.iter().any(|r| r.trim() == case.prediction.trim())).count();
    Ok(vec![Part::ratio(("correct", right), ("examples", cases.len()))?])
}

/// F1 of the second label. A prediction that is no label counts as the label that is wrong.
pub(super) fn f1(cases: &[Case], labels: &[String]) -> Result<Vec<Part>, String> {
    let [negative, positive] = labels else {
        return Err(format!(
            "needs two labels, the positive one second, not {}: set labels = [\"...\", \"...\"] here or in the task",
            labels.len()
        ));
    };
    let pairs = cases.iter().map(|case| {
        let is_positive = case.target().trim() == positive;
        let predicted = match case.prediction.trim() {
            label if label == positive => true,
            label if label == negative => false,
            _ => !is_positive,
        };
        (is_positive, predicted)
    });
    Ok(vec![f1_of(pairs)])
}

/// 2 tp / (2 tp + fp + fn) over pairs (is positive, is predicted positive), 0 if there is nothing positive.
pub(super) fn f1_of(pairs: impl Iterator<Item = (bool, bool)>) -> Part {
    let (mut hits, mut targets, mut predictions) = (0usize, 0usize, 0usize);
    for (target, prediction) in pairs {
        hits += usize::from(target && prediction);
        targets += usize::from(target);
        predictions += usize::from(prediction);
    }
    let whole = targets + predictions;
    let value = if whole == 0 { 0.0 } else { 2.0 * hits as f64 / whole as f64 };
    Part::new(value, &[("hits", hits as f64), ("positive", targets as f64), ("predicted_positive", predictions as f64)])
}

/// The mean of the labels' F1 values; a label that neither occurs nor is predicted has 0, as in scikit-learn.
pub(super) fn f1_macro(cases: &[Case], labels: &[String]) -> Result<Vec<Part>, String> {
    let classes = classes(cases, labels);
    let coded = coded(cases, &classes);
    let values = (0..classes.len()).map(|class| f1_of(coded.iter().map(|&(t, p)| (t == class, p == class))).value);
    let mean = values.sum::<f64>() / classes.len() as f64;
    Ok(vec![Part::new(mean, &[("labels", classes.len() as f64)])])
}

/// The correlation of Gorodkin 2004 for any number of classes; 0 where either side is constant, as in scikit-learn.
pub(super) fn matthews(cases: &[Case], labels: &[String]) -> Result<Vec<Part>, String> {
    let classes = classes(cases, labels);
    let coded = coded(cases, &classes);
    let mut target_counts = vec![0.0; classes.len() + 1];
    let mut predicted_counts = vec![0.0; classes.len() + 1];
    let mut correct = 0.0;
    for &(target, predicted) in &coded {
        target_counts[target] += 1.0;
        predicted_counts[predicted] += 1.0;
        correct += f64::from(u8::from(target == predicted));
    }
    let n = coded.len() as f64;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let covariance = correct * n - dot(&target_counts, &predicted_counts);
    let variances = [&target_counts, &predicted_counts].map(|counts| n * n - dot(counts, counts));
    let scale = variances[0] * variances[1];
    let value = if scale == 0.0 { 0.0 } else { covariance / scale.sqrt() };
    Ok(vec![Part::new(value, &[("correct", correct), ("labels", classes.len() as f64)])])
}

/// The labels, or the words found among the references where none are given.
fn classes<'a>(cases: &'a [Case], labels: &'a [String]) -> Vec<&'a str> {
    if !labels.is_empty() {
        return labels.iter().map(String::as_str).collect();
    }
    let mut found: Vec<&str> = cases.iter().map(|case| case.target().trim()).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// (target, prediction) as class numbers, `classes.len()` for a text that is no class.
fn coded(cases: &[Case], classes: &[&str]) -> Vec<(usize, usize)> {
    let numbers: HashMap<&str, usize> = classes.iter().enumerate().map(|(number, &class)| (class, number)).collect();
    let code = |text: &str| numbers.get(text.trim()).copied().unwrap_or(classes.len());
    cases.iter().map(|case| (code(case.target()), code(&case.prediction))).collect()
}
