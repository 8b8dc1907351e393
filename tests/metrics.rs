//! Metrics against the figures of the packages that define them: every case of tests/data/metrics, to 1e-9.

use std::path::Path;

use serde_json::{Value, json};
use t5_wgpu::data::metrics::{Direction, Metric, MetricKind};
use t5_wgpu::data::{Score, TaskExample};

const TOLERANCE: f64 = 1e-9;

fn cases(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/metrics").join(name);
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = file["cases"].as_array().unwrap().clone();
    assert!(cases.len() >= 50, "{name} has {} cases", cases.len());
    cases
}

fn metric(declared: Value) -> Metric {
    serde_json::from_value(declared).unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn example(references: Vec<String>) -> TaskExample {
    TaskExample { source: "?".into(), target: references[0].clone(), references, extra: Value::Null }
}

/// Of "references", a list for each prediction, or of "targets", one for each.
fn examples(case: &Value) -> Vec<TaskExample> {
    match case.get("references") {
        Some(references) => references.as_array().unwrap().iter().map(|list| example(texts(list))).collect(),
        None => texts(&case["targets"]).into_iter().map(|target| example(vec![target])).collect(),
    }
}

fn scores(declared: Value, case: &Value) -> Vec<Score> {
    let metric = metric(declared);
    let scores = metric.score(&texts(&case["predictions"]), &examples(case)).unwrap();
    assert_eq!(scores.iter().map(|score| score.name.clone()).collect::<Vec<_>>(), metric.names());
    assert!(scores.iter().all(|score| score.value.is_finite() && score.better == metric.direction()));
    scores
}

#[track_caller]
fn assert_close(got: f64, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!((got - expected).abs() <= TOLERANCE * expected.abs().max(1.0), "{what}: {got}, expected {expected}");
}

#[test]
fn bleu_is_that_of_sacrebleu() {
    for (number, case) in cases("bleu.json").iter().enumerate() {
        let declared = json!({"name": "bleu", "tokenize": case["tokenize"], "lowercase": case["lowercase"]});
        let score = &scores(declared, case)[0];
        let what = format!("case {number}: {case}");
        for (name, key) in [("sys_len", "sys_len"), ("ref_len", "ref_len"), ("bp", "bp")] {
            assert_close(score.counts[name], &case[key], &format!("{name} of {what}"));
        }
        for order in 1..=4 {
            assert_close(score.counts[&format!("correct_{order}")], &case["correct"][order - 1], &what);
            assert_close(score.counts[&format!("total_{order}")], &case["total"][order - 1], &what);
        }
        assert_close(score.value, &case["bleu"], &what);
        assert_eq!(score.signature.as_deref(), case["signature"].as_str());
    }
}

#[test]
fn rouge_is_that_of_rouge_score() {
    for case in cases("rouge.json") {
        for score in scores(json!("rouge"), &case) {
            assert_close(score.value, &case[&score.name], &format!("{} of {case}", score.name));
        }
    }
}

#[test]
fn labels_score_as_in_scikit_learn() {
    for case in cases("classes.json") {
        for name in ["f1", "f1_macro", "matthews"].into_iter().filter(|name| case.get(name).is_some()) {
            let score = &scores(json!({"name": name, "labels": case["labels"]}), &case)[0];
            assert_close(score.value, &case[name], &format!("{name} of {case}"));
        }
        assert_close(scores(json!("accuracy"), &case)[0].value, &case["accuracy"], "accuracy");
    }
}

#[test]
fn correlations_are_those_of_scipy() {
    for case in cases("numbers.json") {
        for name in ["pearson", "spearman"] {
            assert_close(scores(json!(name), &case)[0].value, &case[name], &format!("{name} of {case}"));
        }
    }
}

#[test]
fn answers_score_as_in_t5() {
    for case in cases("squad.json") {
        for name in ["squad", "record"] {
            for score in scores(json!(name), &case) {
                assert_close(score.value, &case[&score.name], &format!("{} of {case}", score.name));
            }
        }
    }
}

#[test]
fn referents_are_judged_as_in_t5() {
    for case in cases("wsc.json") {
        let referent = case["referent"].as_str().unwrap().to_owned();
        let prediction = [case["prediction"].as_str().unwrap().to_owned()];
        for label in [false, true] {
            let examples = [TaskExample { extra: json!({ "label": label }), ..example(vec![referent.clone()]) }];
            let score = &metric(json!("wsc")).score(&prediction, &examples).unwrap()[0];
            assert_eq!(score.value == 100.0, case["judged"] == i64::from(label), "{label} {case}");
        }
    }
}

#[test]
fn error_rates_are_those_of_jiwer() {
    for case in cases("edits.json") {
        for (name, key) in [("wer", "wer"), ("per", "wer"), ("cer", "cer")] {
            let score = &scores(json!(name), &case)[0];
            assert_close(score.value, &case[key], &format!("{name} of {case}"));
            assert_eq!(score.better, Direction::Lower);
        }
    }
}

fn score(declared: Value, predictions: &[&str], references: &[&[&str]]) -> Vec<f64> {
    let predictions: Vec<String> = predictions.iter().map(|&p| p.to_owned()).collect();
    let to_example = |list: &&[&str]| example(list.iter().map(|&r| r.to_owned()).collect());
    let examples: Vec<TaskExample> = references.iter().map(to_example).collect();
    metric(declared).score(&predictions, &examples).unwrap().iter().map(|score| score.value).collect()
}

/// The values of T5's `metrics_test.py`.
#[test]
fn the_figures_of_t5s_own_tests() {
    let two = |text: &'static str| [text, text];
    let same = "this is a string";
    assert!((score(json!("bleu"), &two(same), &[&[same], &[same]])[0] - 100.0).abs() < TOLERANCE);
    assert_eq!(score(json!("bleu"), &two(""), &[&[same], &[same]]), [0.0]);
    assert!((score(json!("bleu"), &two(same), &[&["", same], &[same, ""]])[0] - 100.0).abs() < TOLERANCE);
    assert_eq!(score(json!("rouge"), &two(same), &[&[same], &[same]]), [100.0; 3]);
    assert_eq!(score(json!("rouge"), &two(""), &[&[same], &[same]]), [0.0; 3]);
    assert_eq!(score(json!("squad"), &two(same), &[&["", same], &[same, same]]), [100.0; 2]);
    assert_eq!(score(json!("squad"), &two(""), &[&[same], &[same]]), [0.0; 2]);
    let one = score(json!("squad"), &["abd"], &[&["abc abd", "$$$$"]]);
    assert!(one[0] == 0.0 && (one[1] - 200.0 / 3.0).abs() < TOLERANCE);
    let labels = json!(["0", "1"]);
    assert_eq!(
        score(json!({"name": "f1", "labels": labels}), &["0", "1", "2", "2"], &[&["0"], &["1"], &["1"], &["0"]]),
        [50.0]
    );
    let three = json!({"name": "f1_macro", "labels": ["0", "1", "2"]});
    let macro_f1 = score(three, &["0", "0", "2", "2"], &[&["0"], &["1"], &["1"], &["2"]]);
    assert!((macro_f1[0] - 44.44444444444444).abs() < TOLERANCE);
    assert_eq!(score(json!("accuracy"), &["0", "1", "2", "1"], &[&["0"], &["0"], &["2"], &["1"]]), [75.0]);
    assert!((score(json!("spearman"), &["0", "1", "2"], &[&["0"], &["2"], &["1"]])[0] - 50.0).abs() < TOLERANCE);
    // What no number could be read from counts as -1.
    assert!((score(json!("pearson"), &["x", "1"], &[&["0"], &["2"]])[0] - 100.0).abs() < TOLERANCE);
}

#[test]
fn multirc_scores_answers_and_questions() {
    let example = |question: u32, truth: &str| TaskExample {
        extra: json!({"paragraph": 0, "question": question, "answer": 0}),
        ..example(vec![truth.into()])
    };
    let examples = [example(0, "True"), example(0, "True"), example(1, "False"), example(2, "False")];
    let predictions = ["True", "junk", "True", "False"].map(String::from);
    let scores = metric(json!("multirc")).score(&predictions, &examples).unwrap();
    let values: Vec<f64> = scores.iter().map(|score| score.value).collect();
    // 1 hit, 2 true, 2 said to be true; questions 0 and 1 have a wrong answer.
    assert_eq!(scores.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["f1a", "em"]);
    assert!((values[0] - 50.0).abs() < TOLERANCE && (values[1] - 100.0 / 3.0).abs() < TOLERANCE);
}

#[test]
fn pronunciations() {
    let predictions = ["K AE1 T", "T AH0 M AA1 T OW2", "D AO0 G", ""];
    let references: [&[&str]; 4] =
        [&["K AE1 T"], &["T AH0 M EY1 T OW2", "T AH0 M AA1 T OW2"], &["D AO1 G"], &["AH0", "EY1 B"]];
    let value = |declared: Value| score(declared, &predictions, &references)[0];
    assert_eq!(value(json!("sequence_error")), 50.0);
    assert_eq!(value(json!("exact_match")), 50.0);
    // 1 substitution and 1 deletion over 3 + 6 + 3 + 1 phonemes of the nearest references.
    assert!((value(json!("per")) - 200.0 / 13.0).abs() < TOLERANCE);
    assert!((value(json!({"name": "per", "ignore": "012"})) - 100.0 / 13.0).abs() < TOLERANCE);
    assert_eq!(value(json!({"name": "sequence_error", "ignore": "012"})), 25.0);
    assert!((value(json!("unit_accuracy")) - 1100.0 / 13.0).abs() < TOLERANCE);
    assert_eq!(value(json!({"name": "exact_match", "lowercase": true})), 50.0);
    for name in ["f1", "f1_macro", "matthews"] {
        let of = |options: serde_json::Value| score(options, &["YES", "no", "YES"], &[&["YES"], &["no"], &["no"]]);
        let plain = of(json!({"name": name, "labels": ["no", "YES"]}));
        assert!(plain[0] > 0.0);
        assert_eq!(of(json!({"name": name, "labels": ["no", "YES"], "lowercase": true})), plain, "{name}");
    }
}

#[test]
fn declarations_round_trip() {
    for declared in [
        json!("bleu"),
        json!({"name": "bleu", "tokenize": "intl"}),
        json!({"name": "bleu", "lowercase": true, "tokenize": "13a"}),
        json!({"name": "per", "ignore": "012", "as": "per_unstressed"}),
        json!({"name": "f1", "labels": ["no", "yes"]}),
    ] {
        assert_eq!(serde_json::to_value(metric(declared.clone())).unwrap(), declared);
    }
    let renamed = metric(json!({"name": "squad", "as": "dev"}));
    assert_eq!(renamed.names(), ["dev_em", "dev_f1"]);
    assert_eq!("per".parse::<Metric>().unwrap(), Metric::new(MetricKind::Per));
}

#[test]
fn bad_declarations_say_why() {
    for (declared, message) in [
        (json!("blue"), "there is no metric \"blue\"; there are accuracy, exact_match, f1,"),
        (json!({"name": "bleu", "tokenizer": "intl"}), "unknown field `tokenizer`"),
        (json!({"name": "bleu", "tokenize": "zh"}), "unknown variant `zh`"),
        (json!({"name": "wer", "tokenize": "intl"}), "tokenize is an option of bleu, not of wer"),
        (json!({"name": "wer", "labels": ["a", "b"]}), "labels is an option of f1, f1_macro and matthews"),
        (json!({"tokenize": "intl"}), "missing field `name`"),
        (json!(3), "the name of a metric, or a table"),
    ] {
        let error = serde_json::from_value::<Metric>(declared).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn what_cannot_be_scored_is_an_error() {
    let fails = |declared: Value, predictions: &[&str], references: &[&str]| {
        let predictions: Vec<String> = predictions.iter().map(|&p| p.to_owned()).collect();
        let examples: Vec<TaskExample> = references.iter().map(|&r| example(vec![r.to_owned()])).collect();
        metric(declared).score(&predictions, &examples).unwrap_err().to_string()
    };
    assert_eq!(fails(json!("bleu"), &[], &[]), "bleu: there are no examples to score");
    assert_eq!(fails(json!("rouge"), &["a"], &["a", "b"]), "rouge: 1 predictions for 2 examples");
    assert_eq!(
        fails(json!({"name": "per", "ignore": "012"}), &["1"], &["2"]),
        "per: there are no reference units to count"
    );
    assert!(fails(json!("f1"), &["a"], &["a"]).contains("needs two labels"));
    assert!(fails(json!("pearson"), &["1"], &["x"]).contains("the reference \"x\" is not a number"));
    assert!(fails(json!("multirc"), &["True"], &["True"]).contains("super_glue/multirc"));
    assert!(fails(json!("multirc"), &["True"], &["yes"]).contains("neither \"True\" nor \"False\""));
    assert!(fails(json!("wsc"), &["a"], &["b"]).contains("super_glue/wsc"));
}
