//! Metrics of answers to questions: SQuAD, ReCoRD, MultiRC and the Winograd schemas.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::classes::f1_of;
use super::{Case, Part, words};

/// What Python's `re` takes for a word: no combining marks, unlike `\w` of the crate.
static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").expect("a valid pattern"));

const ARTICLES: [&str; 3] = ["a", "an", "the"];

/// Words that the judge of Winograd schemas overlooks.
const DETERMINERS: [&str; 21] = [
    "a", "an", "few", "her", "his", "each", "every", "many", "much", "my", "our", "some", "that", "the", "their",
    "these", "this", "those", "which", "whose", "your",
];

pub(super) fn squad(cases: &[Case]) -> Result<Vec<Part>, String> {
    let (mut exact, mut f1) = (0.0, 0.0);
    for case in cases {
        let prediction = normalised(&case.prediction);
        let answers: Vec<String> = case.references.iter().map(|answer| normalised(answer)).collect();
        let (best_exact, best_f1) = best_answer(&prediction, answers.iter().map(String::as_str));
        exact += f64::from(u8::from(best_exact));
        f1 += best_f1;
    }
    let n = cases.len() as f64;
    Ok(vec![Part::new(exact / n, &[("exact", exact)]), Part::new(f1 / n, &[("f1_sum", f1)])])
}

/// F1 of the answers' truth values, and the share of questions of which every answer is judged right.
pub(super) fn multirc(cases: &[Case]) -> Result<Vec<Part>, String> {
    let truth = |text: &str| match text.trim() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    };
    let mut pairs = Vec::with_capacity(cases.len());
    let mut questions: HashMap<String, bool> = HashMap::new();
    for case in cases {
        let target = truth(case.target())
            .ok_or_else(|| format!("the reference {:?} is neither \"True\" nor \"False\"", case.target()))?;
        let prediction = truth(&case.prediction).unwrap_or(!target);
        pairs.push((target, prediction));
        *questions.entry(question(case)?).or_insert(true) &= target == prediction;
    }
    let right = questions.values().filter(|&&all_right| all_right).count();
    Ok(vec![f1_of(pairs.into_iter()), Part::ratio(("questions_right", right), ("questions", questions.len()))?])
}

/// Whether the prediction names the candidate is compared with whether the candidate is the referent.
pub(super) fn wsc(cases: &[Case]) -> Result<Vec<Part>, String> {
    let mut right = 0;
    for case in cases {
        let label = case.example.extra.get("label").and_then(Value::as_bool).ok_or(
            "the examples do not say whether their candidate is the referent (extra.label): use the preset super_glue/wsc",
        )?;
        right += usize::from(same_referent(&case.prediction, case.target()) == Some(label));
    }
    Ok(vec![Part::ratio(("correct", right), ("examples", cases.len()))?])
}

fn question(case: &Case) -> Result<String, String> {
    match (case.example.extra.get("paragraph"), case.example.extra.get("question")) {
        (Some(paragraph), Some(question)) => Ok(format!("{paragraph} {question}")),
        _ => Err("the examples lack the numbers of their questions (extra.paragraph, extra.question): use the preset \
                  super_glue/multirc"
            .into()),
    }
}

/// The normaliser of the SQuAD script: lower case, no ASCII punctuation, no articles, single blanks.
fn normalised(answer: &str) -> String {
    let lower: String = answer.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let without = WORD.replace_all(&lower, |word: &regex::Captures| match &word[0] {
        article if ARTICLES.contains(&article) => " ".to_owned(),
        word => word.to_owned(),
    });
    words(&without).collect::<Vec<_>>().join(" ")
}

/// (whether it equals an answer, the best F1 of words).
fn best_answer<'a>(prediction: &str, answers: impl Iterator<Item = &'a str>) -> (bool, f64) {
    answers
        .fold((false, 0.0), |(exact, f1), answer| (exact || prediction == answer, f1.max(word_f1(prediction, answer))))
}

fn word_f1(prediction: &str, answer: &str) -> f64 {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut answer_words = 0;
    for word in words(answer) {
        *counts.entry(word).or_default() += 1;
        answer_words += 1;
    }
    let (mut same, mut predicted_words) = (0, 0);
    for word in words(prediction) {
        predicted_words += 1;
        if let Some(left) = counts.get_mut(word).filter(|left| **left > 0) {
            *left -= 1;
            same += 1;
        }
    }
    if same == 0 { 0.0 } else { 2.0 * f64::from(same) / f64::from(predicted_words + answer_words) }
}

/// The test of the T5 paper: the words of one, determiners apart, are among those of the other. A possessive on one side
/// only means another referent ("Bob" is not "Bob's hat"). None, wrong whatever the label, if the prediction says nothing.
fn same_referent(prediction: &str, referent: &str) -> Option<bool> {
    let content = |text: &str| -> HashSet<String> {
        words(&text.to_lowercase()).filter(|word| !DETERMINERS.contains(word)).map(str::to_owned).collect()
    };
    let (ours, theirs) = (content(prediction), content(referent));
    let possessive = |words: &HashSet<String>| words.iter().any(|word| word.contains('\''));
    match (ours.is_empty(), theirs.is_empty()) {
        (true, _) => None,
        (false, true) => Some(false),
        (false, false) => {
            Some(possessive(&ours) == possessive(&theirs) && (ours.is_subset(&theirs) || theirs.is_subset(&ours)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T5's `qa_utils_test.py`.
    #[test]
    fn the_squad_normaliser() {
        assert_eq!(normalised("`Needs\tA_LOT of the 'normalization'.\"‘"), "needs alot of normalization‘");
        assert_eq!(normalised("needs no normalization"), "needs no normalization");
        assert_eq!(normalised("The a\u{301} an"), "\u{301}");
    }

    /// T5's `qa_utils_test.py`: EM 25, F1 35 over texts taken as they are.
    #[test]
    fn the_best_answer_counts() {
        let questions: [(&[&str], &str); 4] = [
            (&["big moose", "hippo"], "a big moose‘"),
            (&["correct1"], "wrong"),
            (&["correct2.1", "correct2.2"], "correct2.2"),
            (&["a", "b"], "c"),
        ];
        let scores: Vec<(bool, f64)> =
            questions.iter().map(|(answers, prediction)| best_answer(prediction, answers.iter().copied())).collect();
        assert_eq!(scores.iter().filter(|s| s.0).count(), 1);
        assert!((scores.iter().map(|s| s.1).sum::<f64>() / 4.0 - 0.35).abs() < 1e-12);
    }
}
