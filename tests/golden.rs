//! Whole models against PyTorch's results, and the relative-position buckets against transformers'.

mod common;

use std::fs;
use std::path::Path;

use common::{Scratch, gpu};
use t5_wgpu::checkpoint::{Dtype, Weights};
use t5_wgpu::ops::relative_bucket;
use t5_wgpu::verify::check_golden;

fn check(folder: &str) {
    check_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder));
}

/// A folder of `families.py`, and how many comparisons it holds.
fn check_family(name: &str, expected: usize) {
    let gpu = gpu();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families").join(name);
    let rows = pollster::block_on(check_golden(&gpu, &dir)).expect("the golden folder is complete");
    assert_eq!(rows.len(), expected, "{name}");
    for row in rows {
        assert!(row.passed(), "{name}: {}: {:.2e} > {:.2e}", row.what, row.error, row.tolerance);
    }
}

/// A golden model whose weights are those of `tests/data/sources` instead.
fn check_source(folder: &str, source: &str, config: bool) {
    let (scratch, tests) = (Scratch::new("golden"), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"));
    let results = ["golden.json", "golden.safetensors", "config.json"];
    for name in results.into_iter().filter(|name| config || *name != "config.json") {
        fs::copy(tests.join("golden").join(folder).join(name), scratch.path(name)).unwrap();
    }
    for entry in fs::read_dir(tests.join("data/sources").join(source)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, scratch.path(path.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    check_dir(&scratch.path(""));
}

fn check_dir(dir: &Path) {
    let gpu = gpu();
    let rows = pollster::block_on(check_golden(&gpu, dir)).expect("the golden folder is complete");
    assert!(rows.len() > 100);
    let failed: Vec<String> = rows
        .iter()
        .filter(|r| !r.passed())
        .map(|r| format!("{}: {:.2e} > {:.2e}", r.what, r.error, r.tolerance))
        .collect();
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), rows.len(), failed.join("\n"));
}

#[test]
fn t5_v1_0_matches_pytorch() {
    check("t5v10");
}

#[test]
fn flan_matches_pytorch() {
    check("flan");
}

#[test]
fn byt5_matches_pytorch() {
    check("byt5");
}

/// A bias table in every layer, unequal depths, odd d_kv, scaled output with a head of its own.
#[test]
fn umt5_matches_pytorch() {
    check("umt5");
}

#[test]
fn mt5_matches_pytorch() {
    check("mt5");
}

#[test]
fn pytorch_bin_matches_pytorch() {
    check_source("mt5", "mt5-bin", true);
}

#[test]
fn pytorch_shards_match_pytorch() {
    check_source("mt5", "mt5-shards", true);
}

/// llama.cpp's names; no configuration but what the file says and what is inferred.
#[test]
fn gguf_matches_pytorch() {
    check_source("t5v10", "t5v10-gguf", false);
    check_source("flan", "flan-gguf", false);
}

#[test]
fn flax_and_t5x_match_pytorch() {
    check_source("mt5", "mt5-flax", true);
    check_source("mt5", "mt5-t5x", true);
}

/// Encoder, logits, loss and greedy ids.
#[test]
fn families_that_write_text_match_pytorch() {
    for name in ["ul2", "pile-t5", "madlad", "nanot5", "chronos-t5", "longt5-local", "longt5-tglobal"] {
        check_family(name, 4);
    }
}

/// What no published file has: one set of blocks for encoder and decoder, and one stack for source and target. Logits, loss, every
/// gradient, greedy ids, and a source longer than the largest distance.
#[test]
fn architectures_match_pytorch() {
    let gpu = gpu();
    for name in ["shared", "umt5-shared", "language-model", "prefix-lm", "umt5-prefix-lm"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/architectures").join(name);
        let rows = pollster::block_on(check_golden(&gpu, &dir)).expect("the golden folder is complete");
        let tensors = Weights::open(&dir).expect("the weights are there").names().count();
        let forward = if name.contains("shared") { 6 } else { 4 };
        assert_eq!(rows.len(), forward + tensors + 1, "{name}");
        for row in rows {
            assert!(row.passed(), "{name}: {}: {:.2e} > {:.2e}", row.what, row.error, row.tolerance);
        }
    }
}

#[test]
fn encoders_alone_match_pytorch() {
    check_family("prott5", 1);
    check_family("umt5-encoder", 1);
    check_family("sentence-t5", 2);
}

#[test]
fn classifiers_match_pytorch() {
    for name in ["sequence-classifier", "mt5-sequence-classifier", "token-classifier", "umt5-token-classifier"] {
        check_family(name, 1);
    }
}

#[test]
fn buckets_match_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/buckets.safetensors");
    let file = Weights::open_file(&path).unwrap();
    let read = |name: &str| -> Vec<i64> {
        let bytes = file.read_bytes(name, Dtype::I64, &[1201]).unwrap();
        bytes.as_chunks().0.iter().map(|c| i64::from_le_bytes(*c)).collect()
    };
    let distances = read("distance");
    for (n, max) in [(32, 128), (32, 256), (16, 64), (8, 20), (64, 128)] {
        for (kind, bidirectional) in [("bidirectional", true), ("causal", false)] {
            let expected = read(&format!("{kind}.buckets{n}.max_distance{max}"));
            for (&d, &bucket) in distances.iter().zip(&expected) {
                assert_eq!(relative_bucket(d, bidirectional, n, max) as i64, bucket, "{kind} {n} {max} distance {d}");
                // The table of the kernels clamps distances at max: nothing may change beyond.
                let clamped = d.clamp(-(max as i64), max as i64);
                assert_eq!(relative_bucket(clamped, bidirectional, n, max) as i64, bucket);
            }
        }
    }
}
