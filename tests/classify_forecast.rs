//! `t5 classify`, `t5 forecast` and `t5 train --add-token` as a user meets them.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Scratch, gpu, outcome, train};
use t5_wgpu::T5;
use t5_wgpu::checkpoint::{Weights, write_model};
use t5_wgpu::model::T5Config;
use t5_wgpu::tokenizer::Tokenizer;

fn tests(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

fn t5(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_t5")).args(args).args(["--tune", "off"]).env_remove("T5_ADAPTER").output().unwrap()
}

#[track_caller]
fn prints(args: &[&str]) -> String {
    let Output { status, stdout, stderr } = t5(args);
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[track_caller]
fn refuses(args: &[&str], expected: &str) {
    let output = t5(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains(expected), "`{expected}` is not in:\n{said}");
}

/// The tiny model, which reads bytes, with a head for these labels.
fn classifier(scratch: &Scratch, name: &str, head: &[(&str, Vec<usize>)], config: serde_json::Value) -> PathBuf {
    let (tiny, folder) = (tests("data/tiny-model"), scratch.path(name));
    fs::create_dir_all(&folder).unwrap();
    fs::copy(tiny.join("tokenizer_config.json"), folder.join("tokenizer_config.json")).unwrap();
    let mut settings: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(tiny.join("config.json")).unwrap()).unwrap();
    settings.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    fs::write(folder.join("config.json"), settings.to_string()).unwrap();
    let weights = Weights::open(&tiny).unwrap();
    let of_tiny = weights.names().filter(|name| *name != "lm_head.weight");
    let mut tensors: Vec<(String, Vec<usize>)> =
        of_tiny.map(|name| (format!("transformer.{name}"), weights.shape(name).unwrap().to_vec())).collect();
    tensors.extend(head.iter().map(|(name, shape)| (name.to_string(), shape.clone())));
    write_model(folder.join("model.safetensors"), &tensors, |name| {
        Ok(match name.strip_prefix("transformer.") {
            Some(inner) => weights.read_f32(inner, weights.shape(inner).unwrap()).unwrap(),
            None => {
                let shape = &tensors.iter().find(|(n, _)| n == name).unwrap().1;
                (0..shape.iter().product()).map(|i: usize| (i * 37 % 19) as f32 / 10.0 - 0.9).collect()
            }
        })
    })
    .unwrap();
    folder
}

#[test]
fn texts_get_labels() {
    let scratch = Scratch::new("classify");
    let head = [
        ("classification_head.dense.weight", vec![16, 16]),
        ("classification_head.dense.bias", vec![16]),
        ("classification_head.out_proj.weight", vec![3, 16]),
        ("classification_head.out_proj.bias", vec![3]),
    ];
    let names = serde_json::json!({"id2label": {"0": "bad", "1": "so so", "2": "good"}});
    let folder = classifier(&scratch, "texts", &head, names);
    let model = ["--model", folder.to_str().unwrap()];
    let lines = prints(&[&["classify", "one text", "two"][..], &model].concat());
    let objects = prints(&[&["classify", "--json", "one text", "two"][..], &model].concat());
    let t5 = T5::builder(&folder).gpu(&gpu()).load().wait().unwrap();
    let scores = t5.classify(&["one text", "two"]).wait().unwrap();
    let head = t5.config().classifier.clone().unwrap();
    assert_eq!(head.labels, ["bad", "so so", "good"]);
    for (i, (line, object)) in lines.lines().zip(objects.lines()).enumerate() {
        let probabilities = head.probabilities(&scores[i].values);
        assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        let best = (0..3).max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b])).unwrap();
        let text = ["one text", "two"][i];
        assert_eq!(line, format!("{}\t{:.6}\t{text}", head.labels[best], probabilities[best]));
        let object: serde_json::Value = serde_json::from_str(object).unwrap();
        for (k, label) in object["labels"].as_array().unwrap().iter().enumerate() {
            assert_eq!(label["label"], head.labels[k]);
            assert_eq!(label["score"].as_f64().unwrap() as f32, scores[i].values[k]);
            assert_eq!(label["probability"].as_f64().unwrap() as f32, probabilities[k]);
        }
    }
    // Alone, a text has the same scores.
    assert_eq!(t5.classify(&["two"]).wait().unwrap()[0], scores[1]);
    let error = t5.generate("one").wait().unwrap_err().to_string();
    assert!(error.contains("gives labels their scores"), "{error}");
    refuses(&[&["generate", "one"][..], &model].concat(), "a head for classification");
    refuses(&["classify", "one", "--model", tests("data/tiny-model").to_str().unwrap()], "no head for classification");
    // Its encoder embeds as the tiny model's does.
    let vector = |model: &str| prints(&["embed", "one", "--model", model]);
    assert_eq!(vector(model[1]), vector(tests("data/tiny-model").to_str().unwrap()));
    let wrong = serde_json::json!({"id2label": {"0": "bad"}});
    let head = [("classification_head.out_proj.weight", vec![3, 16])];
    let folder = classifier(&scratch, "wrong", &head, wrong);
    refuses(&["classify", "one", "--model", folder.to_str().unwrap()], "does not name the 3 labels");
}

#[test]
fn tokens_get_labels() {
    let scratch = Scratch::new("classify-tokens");
    let head = [("classifier.weight", vec![2, 16]), ("classifier.bias", vec![2])];
    let folder =
        classifier(&scratch, "tokens", &head, serde_json::json!({"problem_type": "multi_label_classification"}));
    let model = ["--model", folder.to_str().unwrap()];
    let object: serde_json::Value =
        serde_json::from_str(&prints(&[&["classify", "--json", "ab"][..], &model].concat())).unwrap();
    let tokens = object["tokens"].as_array().unwrap();
    assert_eq!(tokens.iter().map(|token| token["token"].as_str().unwrap()).collect::<Vec<_>>(), ["a", "b", "</s>"]);
    for label in tokens.iter().flat_map(|token| token["labels"].as_array().unwrap()) {
        let (score, probability) = (label["score"].as_f64().unwrap(), label["probability"].as_f64().unwrap());
        assert!((1.0 / (1.0 + (-score).exp()) - probability).abs() < 1e-6);
    }
    let lines = prints(&[&["classify", "ab", "c"][..], &model].concat());
    assert_eq!(lines.lines().filter(|line| line.is_empty()).count(), 2);
    assert_eq!(lines.lines().count(), 3 + 1 + 2 + 1);
}

#[test]
fn series_come_as_numbers_lines_or_columns() {
    let scratch = Scratch::new("forecast");
    let model = tests("golden/families/chronos-t5");
    let model = ["--model", model.to_str().unwrap(), "--seed", "3"];
    let given = prints(&[&["forecast", "1.5", "-2", "4", "8"][..], &model].concat());
    let rows: Vec<&str> = given.lines().collect();
    assert_eq!((rows[0], rows.len()), ("series,step,mean,0.1,0.5,0.9", 7));
    assert!(rows[6].starts_with("1,6,"), "{}", rows[6]);
    let lines = scratch.file("series.jsonl", "[1.5, -2, 4, 8]\n\n1.5,-2,4,8\nnull -2.0 4 8.0\n");
    let read = prints(&[&["forecast", "--json", "--file", lines.to_str().unwrap()][..], &model].concat());
    let objects: Vec<serde_json::Value> = read.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.iter().map(|o| o["series"].as_str().unwrap()).collect::<Vec<_>>(), ["1", "3", "4"]);
    let mean = |row: &str| row.split(',').nth(2).unwrap().parse::<f32>().unwrap();
    let means: Vec<f32> = rows[1..].iter().map(|row| mean(row)).collect();
    let found: Vec<f32> = objects[0]["mean"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
    assert_eq!(found, means);
    assert_eq!(objects[0]["paths"].as_array().unwrap().len(), 4);
    // Later series have draws of their own.
    assert_ne!(objects[0]["paths"], objects[1]["paths"]);
    let table = scratch.file("table.csv", "day,\"a, b\",c\n1,1.5,9\n2,-2,\n3,4,9\n4,8,9\n");
    let file = ["--file", table.to_str().unwrap()];
    let column = prints(&[&["forecast", "--column", "a, b"][..], &file, &model].concat());
    assert_eq!(column.replace("\"a, b\"", "1"), given);
    refuses(&[&["forecast", "--column", "x"][..], &file, &model].concat(), "no column \"x\"; there are day, a, b, c");
    refuses(&[&["forecast", "--column", "c"][..], &file, &model].concat(), "value 2");
    let words = scratch.file("words.csv", "1,2\none\n");
    refuses(&[&["forecast", "--file", words.to_str().unwrap()][..], &model].concat(), "words.csv:2");
    refuses(&["forecast", "1", "--model", tests("golden/flan").to_str().unwrap()], "no chronos_config");
    // A Chronos-Bolt takes gaps, and draws nothing.
    let bolt = tests("golden/families/chronos-bolt");
    let bolt = ["--model", bolt.to_str().unwrap()];
    let found =
        prints(&[&["forecast", "--column", "c", "--length", "2", "--quantiles", "0.5"][..], &file, &bolt].concat());
    let rows: Vec<Vec<&str>> = found.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!((rows[0][2], rows[0][3], rows[1][0], rows[1][2]), ("mean", "0.5", "c", rows[1][3]));
    let object = prints(&[&["forecast", "--json", "1", "2"][..], &bolt].concat());
    let object: serde_json::Value = serde_json::from_str(&object).unwrap();
    assert!(object.get("paths").is_none() && object["mean"].as_array().unwrap().len() == 6);
    refuses(&[&["forecast", "1", "--paths", "3"][..], &bolt].concat(), "draws no paths");
    refuses(&[&["generate", "1"][..], &bolt].concat(), "Chronos-Bolt");
}

/// New tokens get ids behind the others, and rows that are the mean of theirs, in files that open to the same.
#[test]
fn fine_tuning_adds_tokens() {
    let scratch = Scratch::new("add-token");
    let pairs = scratch.file("pairs.tsv", "ab <new> ba\tba <new>\nb\ta\n");
    let pairs = pairs.to_str().unwrap();
    for (name, tokenizer, ids) in [("spiece", "added-new", 66), ("json", "added-newline", 37)] {
        let (first, second) = (scratch.path(&format!("{name}-1")), scratch.path(&format!("{name}-2")));
        let vocabulary = tests(&format!("data/tokenizers/{tokenizer}"));
        let steps = ["--pairs", pairs, "--steps", "1", "--batch-size", "2", "--lr", "1e-9"];
        let vocab = ids.to_string();
        let sizes = ["--vocab", &vocab, "--tokenizer", vocabulary.to_str().unwrap(), "--out", first.to_str().unwrap()];
        let (code, said) = outcome(&train(&[&steps[..], &common::TINY, &sizes].concat()).output().unwrap());
        assert_eq!(code, Some(0), "{said}");
        let model = first.join("last");
        let more = ["--model", model.to_str().unwrap(), "--out", second.to_str().unwrap()];
        let tokens = ["--add-token", "<new>", "--add-token", "\\t", "--add-token", "<new>"];
        let (code, said) = outcome(&train(&[&steps[..], &more, &tokens].concat()).output().unwrap());
        assert!(code == Some(0) && said.contains("2 tokens added"), "{said}");
        let saved = second.join("last");
        let tokenizer = Tokenizer::from_dir(&saved).unwrap();
        assert_eq!(tokenizer.vocab_size(), ids + 2);
        let encoded = tokenizer.encode("<new>\t").unwrap();
        assert_eq!(encoded, [ids as u32, ids as u32 + 1]);
        assert_eq!(tokenizer.decode(&encoded), "<new>\t");
        let config = T5Config::from_dir(&saved).unwrap();
        assert_eq!(config.vocab_size, ids + 2);
        let weights = Weights::open(&saved).unwrap();
        for table in ["shared.weight", "lm_head.weight"] {
            let rows = weights.read_f32(table, &[ids + 2, 16]).unwrap();
            for column in 0..16 {
                let of = |row: usize| f64::from(rows[row * 16 + column]);
                let mean = (0..ids).map(of).sum::<f64>() / ids as f64;
                assert!((of(ids) - mean).abs() < 1e-5 && (of(ids + 1) - mean).abs() < 1e-5, "{table} {column}");
            }
        }
    }
    let bytes =
        ["--model", "tests/data/tiny-model", "--add-token", "x", "--pairs", pairs, "--steps", "1", "--out", "/none"];
    let (code, said) = outcome(&train(&bytes).output().unwrap());
    assert!(code == Some(1) && said.contains("the byte vocabulary takes no tokens"), "{said}");
}
