//! A vocabulary learned from real text: its encodings are those of HuggingFace transformers, and the program says what it did.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use t5_wgpu::data::Documents;
use t5_wgpu::tokenizer::{Tokenizer, TrainOptions, train};

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn books() -> PathBuf {
    in_repository("data/books_heldout_sample.txt.gz")
}

/// The ids that `AutoTokenizer` of transformers 5.24.0 (tokenizers 0.23.3) gives with the files written here.
#[test]
fn a_learned_vocabulary_encodes_as_transformers_says() {
    let options = TrainOptions { vocab_size: 2000, byte_fallback: true, ..TrainOptions::default() };
    let trained = train(Documents::default().of_files(vec![books()]), &options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    trained.save(folder.path()).unwrap();
    let tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.sentinel(0), tokenizer.n_sentinels()), (2000, Some(1999), 100));
    let golden = fs::read_to_string(in_repository("tests/data/tokenizers/trained.golden_encodings.jsonl")).unwrap();
    let rows: Vec<Value> = golden.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() > 50);
    for row in rows {
        let text = row["text"].as_str().unwrap();
        let ids: Vec<u32> = row["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(tokenizer.encode_with_eos(text).unwrap(), ids, "{text:?}");
    }
    let sentence = "He said that the procession filed off, 12 or 1234 ☃ of them.";
    assert_eq!(tokenizer.decode(&tokenizer.encode(sentence).unwrap()), sentence);
}

fn t5(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_t5")).args(["tokenizer", "train"]).args(args).output().unwrap()
}

#[test]
fn the_program_says_what_it_did_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("mine");
    let (out, text) = (out.to_str().unwrap(), books());
    let args = [text.to_str().unwrap(), "--vocab-size", "500", "--out", out];
    let first = t5(&args);
    let said = String::from_utf8(first.stdout).unwrap();
    assert!(first.status.success(), "{said}");
    for part in [
        "1000 lines",
        "normaliser: NFKC",
        "vocabulary: 500 ids, 397 of them learned",
        "bytes of text a token",
        "next: t5 tokenize",
    ] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    let written = fs::read(Path::new(out).join("tokenizer.json")).unwrap();

    let again = t5(&args);
    let why = String::from_utf8(again.stderr).unwrap();
    assert!(!again.status.success() && why.contains("--force"), "{why}");
    assert!(t5(&[&args[..], &["--force"]].concat()).status.success());
    assert!(fs::read(Path::new(out).join("tokenizer.json")).unwrap() == written);
}

#[test]
fn too_little_text_is_refused_or_said() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("little.txt");
    fs::write(&text, "the cat and the dog\nthe dog and the cat\n").unwrap();
    let out = folder.path().join("mine");
    let args = [text.to_str().unwrap(), "--vocab-size", "1000", "--out", out.to_str().unwrap()];
    let why = String::from_utf8(t5(&args).stderr).unwrap();
    assert!(why.contains("use a vocabulary of at most") && !out.exists(), "{why}");
    let said = String::from_utf8(t5(&[&args[..], &["--allow-smaller"]].concat()).stdout).unwrap();
    assert!(said.contains("instead of 1000: the text gives no more pieces"), "{said}");
}
