//! `kill -9` of `t5 run` at random instants: every time the run goes on, and ends with the bytes of an undisturbed one.
//!
//! T5_KILLS sets how often (default 5 for each number of threads).

#![cfg(feature = "cli")]

#[macro_use]
mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Scratch, logged_steps};
use t5_wgpu::rng::{Purpose, Rng};

/// Everything at once: a tokenizer, text and pairs mixed, two stages of training and an evaluation.
const RECIPE: &str = tiny_recipe!(
    r#"
[tokenizer]
vocab_size = 140
sentinels = 20

[texts.words]
files = "text.txt"
inputs_len = 24
held_out = 0.2
examples = 40

[tasks.backwards]
train = "pairs.tsv"
columns = ["source", "target"]
held_out = 0.2
metrics = ["per"]

[[stage]]
name = "pretrain"
train = ["words"]
steps = 20
batch_size = 4
save_every = 3
eval_every = 10
eval_examples = 8
log_every = 1
dropout = 0.1

[[stage]]
name = "finetune"
train = ["words", "backwards"]
steps = 20
batch_size = 4
accumulate = 2
optimizer = "adafactor"
batching = { packed = { source_len = 48, target_len = 32 } }
save_every = 3
eval_every = 10
eval_examples = 8
log_every = 1

[[stage]]
name = "test"
evaluate = ["backwards", "words"]
"#
);

#[test]
fn a_killed_run_ends_like_an_undisturbed_one() {
    let kills: u64 = std::env::var("T5_KILLS").ok().map_or(5, |n| n.parse().expect("T5_KILLS is a number"));
    let scratch = Scratch::new("kill");
    scratch.pairs(64);
    let text: String = (0..80).map(|i| format!("the cat number {i} sat on mat {}\n", i * 7 % 31)).collect();
    scratch.file("text.txt", text);
    let recipe = scratch.file("recipe.toml", RECIPE);
    let command = |out: &Path, threads: u64| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_t5"));
        command.arg("run").arg(&recipe).arg("--out").arg(out).arg("--quiet");
        command.args(["--set", &format!("pretrain.prefetch={threads}")]);
        command.args(["--set", &format!("finetune.prefetch={threads}")]);
        // Kernels are measured by the first run; what a killed one goes by is in its own folder.
        command.env("T5_TUNE", "on").env("T5_CACHE_DIR", scratch.path("cache"));
        command
    };
    let whole = scratch.path("whole");
    // Once more before it is timed: the driver compiles shaders only once.
    assert!(command(&scratch.path("warm"), 0).status().unwrap().success());
    let start = Instant::now();
    assert!(command(&whole, 0).status().unwrap().success());
    let time = start.elapsed();
    let expected = results(&whole);
    for threads in [1, 2] {
        let out = scratch.path(&format!("killed-{threads}"));
        let mut at_most = time;
        let mut killed = 0;
        for kill in 0.. {
            let wait = at_most.mul_f64(Rng::new(kills, Purpose::Examples, &[threads, kill]).uniform());
            let mut child = command(&out, threads).stdin(Stdio::null()).spawn().unwrap();
            std::thread::sleep(wait);
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                child.wait().unwrap();
                killed += 1;
            }
            if out.join("test/metrics.json").exists() && killed < kills {
                // Done before all kills were dealt: begin again, and kill sooner.
                fs::remove_dir_all(&out).unwrap();
                at_most = at_most.mul_f64(0.7).max(Duration::from_millis(50));
            }
            if killed == kills {
                break;
            }
        }
        assert!(command(&out, threads).status().unwrap().success(), "the last run");
        let found = results(&out);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, bytes) in &expected {
            assert!(&found[name] == bytes, "{threads} threads: {name} is not that of the undisturbed run");
        }
        for stage in ["pretrain", "finetune"] {
            assert_eq!(logged_steps(&out.join(stage), "step"), (1..=20).collect::<Vec<_>>(), "{stage}");
            assert_eq!(logged_steps(&out.join(stage), "evaluation"), [10, 20], "{stage}");
        }
    }
    eprintln!("undisturbed {time:.1?}; {kills} kills with one and with two threads");
}

/// All files of a run but those that hold times, and the recipe, which says the number of threads.
fn results(out: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &format!("{name}/"), files);
            } else if !name.ends_with("log.jsonl") && !name.ends_with("state.json") && name != "recipe.toml" {
                files.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(out, "", &mut files);
    files
}
