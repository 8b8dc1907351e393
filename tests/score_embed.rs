//! `t5 score` and `t5 embed` as a user meets them.
#![cfg(feature = "cli")]

mod common;

use std::process::{Command, Output};

use common::Scratch;
use t5_wgpu::checkpoint::Weights;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny-model");

fn t5(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_t5"));
    command.args(args).args(["--model", MODEL, "--tune", "off"]).env_remove("T5_ADAPTER");
    command
}

#[track_caller]
fn prints(args: &[&str]) -> (String, String) {
    let Output { status, stdout, stderr } = t5(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(stdout), text(stderr));
    assert!(status.success(), "{stderr}");
    (stdout, stderr)
}

#[track_caller]
fn refuses(args: &[&str], expected: &str) {
    let Output { status, stderr, .. } = t5(args).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(status.code() == Some(1) && stderr.contains(expected), "`{expected}` is not in:\n{stderr}");
}

fn json_lines(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(value: &serde_json::Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

#[test]
fn the_same_vectors_in_every_format() {
    let scratch = Scratch::new("embed");
    let lines = scratch.file("lines.txt", "one\nanother line\nthree\n");
    let file = ["embed", "--file", lines.to_str().unwrap()];
    let (out, said) = prints(&file);
    let rows: Vec<Vec<f32>> = json_lines(&out).iter().map(|row| numbers(&row["embedding"])).collect();
    assert_eq!(json_lines(&out)[1]["text"], "another line");
    assert!(rows.len() == 3 && rows[0].len() == 16 && said.contains("texts: 3"), "{said}");

    let path = scratch.path("v.safetensors");
    prints(&[&file[..], &["--out", path.to_str().unwrap()]].concat());
    assert_eq!(Weights::open_file(&path).unwrap().read_f32("embeddings", &[3, 16]).unwrap(), rows.concat());

    let path = scratch.path("v.npy");
    let (out, said) = prints(&[&file[..], &["--out", path.to_str().unwrap()]].concat());
    assert!(out.is_empty() && said.contains("written: "), "{said}");
    let bytes = std::fs::read(&path).unwrap();
    let data = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = str::from_utf8(&bytes[10..data]).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY\x01\x00") && data.is_multiple_of(64) && header.ends_with('\n'));
    assert!(header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 16,), }"), "{header}");
    let read: Vec<f32> = bytes[data..].as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(read, rows.concat());

    let (out, _) = prints(&["embed", "--normalize", "one"]);
    let unit = numbers(&json_lines(&out)[0]["embedding"]);
    assert!((unit.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
}

#[test]
fn states_of_a_fixed_length_or_of_each_token() {
    let scratch = Scratch::new("states");
    let path = scratch.path("s.safetensors");
    let to = ["--out", path.to_str().unwrap(), "--pooling", "none"];
    prints(&[&["embed", "one", "three"][..], &to].concat());
    let file = Weights::open_file(&path).unwrap();
    // A byte a token, and the end.
    let states = file.read_f32("text.0", &[4, 16]).unwrap();
    assert_eq!(file.shape("text.1").unwrap(), [6, 16]);
    prints(&[&["embed", "one", "three", "--pad-to", "8"][..], &to].concat());
    let padded = Weights::open_file(&path).unwrap().read_f32("embeddings", &[2, 8, 16]).unwrap();
    assert_eq!(padded[..64], states);
    assert!(padded[64..128].iter().all(|&x| x == 0.0));
    refuses(&["embed", "--pooling", "none", "--out", "x.npy", "one"], "add --pad-to");
    refuses(&["embed", "--pad-to", "8", "one"], "add --pooling none");
    refuses(&["embed", "--pooling", "none", "--pad-to", "2", "one"], "source 0 has 4 tokens, more than 2");
    refuses(&["embed", "--pooling", "sentence", "one"], "no modules.json");
    refuses(&["embed", "--out", "x.txt", "one"], ".npy, .safetensors or .jsonl");
}

#[test]
fn pairs_have_scores_and_a_perplexity() {
    let scratch = Scratch::new("score");
    let pairs = scratch.file("pairs.tsv", "one\tuno\ntwo\tdos\nthree\ttres\n");
    let (out, said) = prints(&["score", "--pairs", pairs.to_str().unwrap()]);
    let rows: Vec<(f64, usize, &str)> = out
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .map(|row| (row[0].parse().unwrap(), row[1].parse().unwrap(), row[2]))
        .collect();
    assert_eq!(rows.iter().map(|row| (row.1, row.2)).collect::<Vec<_>>(), [(4, "uno"), (4, "dos"), (5, "tres")]);
    let (sum, tokens) = (rows.iter().map(|row| row.0).sum::<f64>(), 13.0);
    assert!(said.contains(&format!("perplexity: {:.3}", (-sum / tokens).exp())), "{sum} {said}");
    let (out, _) = prints(&["score", "--json", "--pairs", pairs.to_str().unwrap()]);
    for (object, row) in json_lines(&out).iter().zip(&rows) {
        let log_probs = numbers(&object["log_probs"]);
        assert_eq!(log_probs.len(), row.1);
        assert!((log_probs.iter().map(|&p| f64::from(p)).sum::<f64>() - row.0).abs() < 1e-5);
    }
    refuses(&["score", "one"], "two or more answers");
    refuses(&["score", "--pairs", "none.tsv"], "none.tsv");
}

#[test]
fn answers_are_compared_and_sources_ranked() {
    let sources = ["first text", "second", "the third of all"];
    let answers = ["--answer", "true", "--answer", "false"];
    let (out, _) = prints(&[&["score"][..], &answers, &sources].concat());
    let shares: Vec<f64> = out.lines().map(|line| line.split('\t').next().unwrap().parse().unwrap()).collect();
    for line in out.lines() {
        let both: f64 = line.split('\t').take(2).map(|x| x.parse::<f64>().unwrap()).sum();
        assert!((both - 1.0).abs() < 2e-6, "{line}");
    }
    let (ranked, _) = prints(&[&["score", "--rank"][..], &answers, &sources].concat());
    let mut order: Vec<usize> = (0..3).collect();
    order.sort_by(|&a, &b| shares[b].total_cmp(&shares[a]));
    let expected: Vec<&str> = order.iter().map(|&i| sources[i]).collect();
    assert_eq!(ranked.lines().map(|line| line.split('\t').next_back().unwrap()).collect::<Vec<_>>(), expected);

    // The end counts where one answer begins with another, or the shorter would always win.
    let json = |answers: &[&str]| {
        let (out, _) = prints(&[&["score", "--json", "a source"][..], answers].concat());
        json_lines(&out)[0]["answers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| a["log_prob"].as_f64().unwrap())
            .collect::<Vec<_>>()
    };
    let (without, with) = (json(&["--answer", "ab", "--answer", "c"]), json(&["--answer", "ab", "--answer", "abc"]));
    assert!(with[0] < without[0], "{with:?} {without:?}");
    refuses(&["score", "--answer", "a", "--answer", "a", "x"], "same tokens");
}
