//! What the tests of training share.
#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]

mod gpu;
#[cfg(feature = "train")]
pub mod learning;
#[cfg(feature = "train")]
pub mod objective;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

pub use gpu::{gpu, gpu_options};

/// An empty folder of a test's own, removed at its end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        // Tests of one name run side by side.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("t5-{name}-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).unwrap();
        path
    }

    /// `n` pairs: a word, and the word backwards.
    pub fn pairs(&self, n: usize) -> PathBuf {
        let mut text = String::new();
        for i in 0..n {
            let word: String = format!("w{}", i * 7919 % 1009).chars().collect();
            let back: String = word.chars().rev().collect();
            text += &format!("{word}\t{back}\n");
        }
        self.file("pairs.tsv", text)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `t5 train` with a model so small that a step takes milliseconds.
#[cfg(feature = "cli")]
pub fn train(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_t5"));
    // What other runs measured must not decide how this one rounds.
    command.arg("train").args(args).env("T5_TUNE", "off");
    command
}

pub const TINY: [&str; 10] = ["--d-model", "16", "--d-kv", "8", "--d-ff", "16", "--heads", "2", "--layers", "1"];

/// A recipe with a model so small, and the rest of it.
#[allow(unused_macros, reason = "each test program uses a part of it")]
macro_rules! tiny_recipe {
    ($rest:literal) => {
        concat!("[model]\nd_model = 16\nd_kv = 8\nd_ff = 16\nheads = 2\nlayers = 1\n", $rest)
    };
}

/// `t5 run` of this recipe with the folder `o`, as written in `recipe.toml`.
#[cfg(feature = "cli")]
pub fn run_recipe(scratch: &Scratch, recipe: &str, more: &[&str]) -> (Option<i32>, String) {
    let file = scratch.file("recipe.toml", recipe);
    let mut command = Command::new(env!("CARGO_BIN_EXE_t5"));
    command.env("T5_TUNE", "off").env_remove("T5_ADAPTER").arg("run").arg(file).arg("--out").arg(scratch.path("o"));
    outcome(&command.args(more).output().unwrap())
}

#[track_caller]
pub fn assert_says(text: &str, expected: &[&str]) {
    for part in expected {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

/// Exit code and standard error.
pub fn outcome(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The files that decide how a run goes on.
pub fn weights_and_moments(out: &Path) -> [Vec<u8>; 2] {
    ["last/model.safetensors", "last/training_state/optimizer.safetensors"]
        .map(|name| fs::read(out.join(name)).unwrap())
}

/// The steps of the log's lines of one kind.
pub fn logged_steps(out: &Path, event: &str) -> Vec<u64> {
    let text = fs::read_to_string(out.join("log.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| line["event"] == event).map(|line| line["step"].as_u64().unwrap()).collect()
}
