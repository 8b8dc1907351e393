//! A recipe that is changed after it was carried out: what is done again, what goes on, what is refused.

#![cfg(feature = "cli")]

#[macro_use]
mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Scratch, assert_says, logged_steps, outcome, run_recipe};
use serde_json::{Value, json};

const RECIPE: &str = tiny_recipe!(
    r#"
[tokenizer]
vocab_size = 140
sentinels = 20

[texts.words]
files = "text.txt"
inputs_len = 24
examples = 40

[tasks.backwards]
train = "pairs.tsv"
columns = ["source", "target"]
held_out = 0.2

[[stage]]
name = "pretrain"
train = ["words"]
steps = 4
batch_size = 4

[[stage]]
name = "finetune"
train = ["backwards"]
steps = 40
batch_size = 4

[[stage]]
name = "test"
evaluate = ["backwards"]
"#
);

fn scratch(name: &str) -> Scratch {
    let scratch = Scratch::new(name);
    scratch.pairs(64);
    scratch.file(
        "text.txt",
        (0..80).map(|i| format!("the cat number {i} sat on mat {}\n", i * 7 % 31)).collect::<String>(),
    );
    scratch
}

/// Whether a stage was done before, and what else was said.
#[track_caller]
fn runs(scratch: &Scratch, recipe: &str, done: &[&str], said: &[&str]) {
    let (code, text) = run_recipe(scratch, recipe, &[]);
    assert_eq!(code, Some(0), "{text}");
    for stage in ["pretrain", "finetune", "test"] {
        assert_eq!(text.contains(&format!("{stage} is done")), done.contains(&stage), "{stage}: {text}");
    }
    assert_says(&text, said);
}

#[track_caller]
fn refuses(scratch: &Scratch, recipe: &str, expected: &[&str]) {
    let before = contents(&scratch.path("o"));
    let (code, text) = run_recipe(scratch, recipe, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert_says(&text, expected);
    assert!(contents(&scratch.path("o")) == before, "something was changed");
}

/// Exit code, standard error and standard output of `t5 run --dry-run`.
fn dry_run(scratch: &Scratch, recipe: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_t5"));
    command
        .env("T5_TUNE", "off")
        .arg("run")
        .arg(scratch.file("recipe.toml", recipe))
        .arg("--out")
        .arg(scratch.path("o"));
    let output = command.arg("--dry-run").args(more).output().unwrap();
    let (code, text) = outcome(&output);
    (code, text, String::from_utf8(output.stdout).unwrap())
}

fn contents(out: &Path) -> Vec<Vec<u8>> {
    let files = ["recipe.toml", "stages.json", "pretrain/last/model.safetensors", "finetune/last/model.safetensors"];
    files.iter().chain(&["test/metrics.json"]).map(|name| fs::read(out.join(name)).unwrap()).collect()
}

#[test]
fn what_changed_is_done_again_and_no_more() {
    let scratch = scratch("rerun");
    let out = scratch.path("o");
    runs(&scratch, RECIPE, &[], &[]);
    let all = ["pretrain", "finetune", "test"];
    // Comments and defaults change nothing, nor do settings that no result depends on.
    let same = RECIPE
        .replace("steps = 40", "steps = 40 # enough\nlr = 1e-4\nwarmup = 2\nprefetch = 2")
        .replace("held_out = 0.2", "held_out = 0.2\nmax_source = 512\nmetrics = [\"exact_match\"]\ntoo_long = \"skip\"")
        .replace("sentinels = 20", "sentinels = 20\nbyte_fallback = false")
        .replace("evaluate = ", "temperature = 0\neval_batch_size = 64\nevaluate = ");
    runs(&scratch, &same, &all, &[]);
    runs(&scratch, RECIPE, &all, &[]);
    // The test alone.
    let tested = RECIPE.replace("evaluate = ", "eval_examples = 3\nevaluate = ");
    runs(&scratch, &tested, &all[..2], &["since stage.test.eval_examples was none, and is 3 now"]);
    runs(&scratch, &tested, &all, &[]);
    let scored = tested.replace("held_out = 0.2", "held_out = 0.2\nmetrics = [\"cer\"]");
    runs(&scratch, &scored, &all[..2], &["since tasks.backwards.metrics was"]);
    assert!(fs::read_to_string(out.join("test/metrics.json")).unwrap().contains("cer"));
    // What is tested on another task leaves no predictions of the one before.
    let task = "[tasks.same]\nvalidation = \"pairs.tsv\"\ncolumns = [\"source\", \"target\"]\n[[stage]]";
    let same = scored.replacen("[[stage]]", task, 1).replace("evaluate = [\"backwards\"]", "evaluate = [\"same\"]");
    runs(&scratch, &same, &all[..2], &["since stage.test.evaluate was"]);
    assert!(!out.join("test/predictions/backwards.jsonl").exists());
}

#[test]
fn an_evaluation_is_replaced_when_its_successor_is_there() {
    let scratch = scratch("rerun-kept");
    let out = scratch.path("o");
    runs(&scratch, RECIPE, &[], &[]);
    let (metrics, best) = (out.join("test/metrics.json"), out.join("finetune/best/model.safetensors"));
    let (before, weights) = (fs::read(&metrics).unwrap(), fs::read(&best).unwrap());
    fs::write(&best, &weights[..100]).unwrap();
    let (code, text) = run_recipe(&scratch, &RECIPE.replace("evaluate = ", "eval_examples = 3\nevaluate = "), &[]);
    assert!(code == Some(1) && text.contains("model.safetensors"), "{text}");
    assert!(fs::read(&metrics).unwrap() == before && out.join("test/predictions/backwards.jsonl").exists());
    fs::write(&best, weights).unwrap();
    // One that a fault has cut off was never made.
    fs::write(&metrics, "").unwrap();
    runs(&scratch, RECIPE, &["pretrain", "finetune"], &[]);
    assert_eq!(fs::read(&metrics).unwrap(), before);
}

#[test]
fn the_last_training_goes_on_for_more_steps() {
    let scratch = scratch("rerun-steps");
    let out = scratch.path("o");
    runs(&scratch, RECIPE, &[], &[]);
    // The warm-up follows from the steps that the stage began with.
    let longer = RECIPE.replace("steps = 40", "steps = 80\nlog_every = 1");
    let said = ["finetune: 80 steps instead of 40", "continuing after step 40 of 80", "evaluating again, since"];
    runs(&scratch, &longer, &["pretrain"], &said);
    assert_eq!(logged_steps(&out.join("finetune"), "step").last(), Some(&80));
    runs(&scratch, &longer, &["pretrain", "finetune", "test"], &[]);
    runs(&scratch, &longer.replace("steps = 80", "steps = 90\nwarmup = 2"), &["pretrain"], &["90 steps instead of 80"]);
    refuses(&scratch, RECIPE, &["o/finetune", "90 steps already", "can only be raised"]);
    let warmer = longer.replace("steps = 80", "steps = 90\nwarmup = 4");
    refuses(&scratch, &warmer, &["stage.finetune.warmup was 2, and is 4 now"]);
}

#[test]
fn more_minutes_are_more_steps() {
    let scratch = scratch("rerun-minutes");
    let recipe = |minutes: &str| RECIPE.replace("steps = 40", &format!("minutes = {minutes}"));
    runs(&scratch, &recipe("0.02"), &[], &[]);
    let steps = || {
        let state = fs::read(scratch.path("o/finetune/last/training_state/state.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&state).unwrap()["settings"]["steps"].as_u64().unwrap()
    };
    let before = steps();
    runs(&scratch, &recipe("0.03"), &["pretrain"], &["steps instead of"]);
    assert!(steps().abs_diff(before * 3 / 2) <= 1, "{before} {}", steps());
    runs(&scratch, &recipe("0.03"), &["pretrain", "finetune", "test"], &[]);
    refuses(&scratch, &recipe("0.02"), &["stage.finetune.minutes can only be raised"]);
}

#[test]
fn tokens_and_operations_fix_the_steps() {
    let scratch = scratch("rerun-tokens");
    let last = || {
        let text = fs::read_to_string(scratch.path("o/finetune/log.jsonl")).unwrap();
        let line = text.lines().rev().find(|line| line.contains("\"event\":\"step\"")).unwrap().to_owned();
        let value: Value = serde_json::from_str(&line).unwrap();
        ["step", "tokens", "flops"].map(|key| value[key].as_f64().unwrap())
    };
    let near = |found: f64, wanted: f64| assert!((found / wanted - 1.0).abs() < 0.15, "{found} instead of {wanted}");
    let recipe = |length: &str| RECIPE.replace("steps = 40", length);
    runs(&scratch, &recipe("tokens = 900"), &[], &[]);
    let [steps, tokens, flops] = last();
    near(tokens, 900.0);
    assert!(steps > 5.0 && flops / tokens > 1e3, "{steps} {tokens} {flops}");
    runs(&scratch, &recipe("tokens = 1350"), &["pretrain"], &["steps instead of"]);
    near(last()[1], 1350.0);
    refuses(&scratch, &recipe("tokens = 900"), &["stage.finetune.tokens can only be raised"]);
    refuses(
        &scratch,
        &recipe("steps = 99"),
        &["trained by another recipe", "stage.finetune.steps was none, and is 99 now"],
    );
    fs::remove_dir_all(scratch.path("o/finetune")).unwrap();
    runs(&scratch, &recipe(&format!("flops = {flops:e}")), &["pretrain"], &[]);
    near(last()[2], flops);
    let wrong = recipe("tokens = 900\nflops = 1e9");
    assert_says(
        &run_recipe(&scratch, &wrong, &[]).1,
        &["stage.finetune.flops: train for tokens or for flops, not both"],
    );
    assert_says(&run_recipe(&scratch, &recipe("tokens = 0"), &[]).1, &["tokens are a positive number"]);
}

#[test]
fn what_others_began_with_is_not_changed() {
    let scratch = scratch("rerun-refused");
    runs(&scratch, RECIPE, &[], &[]);
    let with = |old: &str, new: &str| {
        assert!(RECIPE.contains(old));
        RECIPE.replacen(old, new, 1)
    };
    let remedies = ["--out", "--overwrite", "remove this folder"];
    for (recipe, expected) in [
        (with("steps = 4\n", "steps = 4\nlr = 0.5\n"), ["o/pretrain", "stage.pretrain.lr was 0.001, and is 0.5 now"]),
        (with("steps = 4\n", "steps = 8\n"), ["o/finetune", "stage.pretrain.steps was 4, and is 8 now"]),
        (with("d_ff = 16", "d_ff = 32"), ["o/pretrain", "model.d_ff was 16, and is 32 now"]),
        (with("vocab_size = 140", "vocab_size = 141"), ["o/tokenizer", "tokenizer.vocab_size was 140, and is 141 now"]),
        (with("held_out = 0.2", "held_out = 0.3"), ["o/tokenizer", "tasks.backwards.held_out"]),
        (
            with("[\"backwards\"]\nsteps", "[\"backwards\"]\nfrom = \"model\"\nsteps"),
            ["o/finetune", "stage.finetune.from"],
        ),
    ] {
        refuses(&scratch, &recipe, &[&expected[..], &remedies].concat());
    }
    // Files may move, but not change.
    fs::rename(scratch.path("pairs.tsv"), scratch.path("moved.tsv")).unwrap();
    let moved = with("pairs.tsv", "moved.tsv");
    runs(&scratch, &moved, &["pretrain", "finetune", "test"], &[]);
    let text = fs::read_to_string(scratch.path("moved.tsv")).unwrap();
    scratch.file("moved.tsv", text.replace("w", "v"));
    refuses(&scratch, &moved, &["o/tokenizer", "the contents of tasks.backwards.train have changed"]);
    scratch.file("moved.tsv", text);
    // A stage whose folder is removed begins again, and so does what is tested of it.
    fs::remove_dir_all(scratch.path("o/finetune")).unwrap();
    let other = moved.replace("steps = 40\n", "steps = 40\nlr = 0.01\n");
    runs(&scratch, &other, &["pretrain"], &["evaluating again, since"]);
    // A stage that is left out stays, until the run is replaced.
    let without = &other[..other.rfind("[[stage]]").unwrap()];
    let (code, text) = run_recipe(&scratch, without, &[]);
    assert!(code == Some(0) && scratch.path("o/test/metrics.json").exists(), "{text}");
    assert_eq!(run_recipe(&scratch, without, &["--overwrite"]).0, Some(0));
    assert!(!scratch.path("o/test").exists());
}

#[test]
fn runs_without_records_go_by_their_recipe() {
    let scratch = scratch("rerun-older");
    runs(&scratch, RECIPE, &[], &[]);
    fs::remove_file(scratch.path("o/stages.json")).unwrap();
    runs(&scratch, RECIPE, &["pretrain", "finetune", "test"], &[]);
    fs::remove_file(scratch.path("o/stages.json")).unwrap();
    let (code, text) = run_recipe(&scratch, &RECIPE.replace("d_ff = 16", "d_ff = 32"), &[]);
    assert!(code == Some(1) && text.contains("model.d_ff was 16, and is 32 now"), "{text}");
}

#[test]
fn a_dry_run_says_what_is_done_and_what_would_be_refused() {
    let scratch = scratch("rerun-dry");
    let out = scratch.path("o");
    let standings = |recipe: &str| -> BTreeMap<String, Value> {
        let (code, text, printed) = dry_run(&scratch, recipe, &["--json"]);
        let report: Value = serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{e}: {printed} {text}"));
        let parts = report["parts"].as_array().unwrap().iter();
        let all: BTreeMap<_, _> = parts.map(|part| (part["name"].as_str().unwrap().to_owned(), part.clone())).collect();
        assert_eq!(code == Some(1), all.values().any(|part| part["standing"] == "refused"), "{text}");
        all
    };
    let names = ["tokenizer", "pretrain", "finetune", "test"];
    let as_words = |all: &BTreeMap<String, Value>| names.map(|name| all[name]["standing"].as_str().unwrap().to_owned());
    assert_eq!(as_words(&standings(RECIPE)), ["new"; 4]);
    assert!(!out.exists(), "a dry run has written something");
    runs(&scratch, RECIPE, &[], &[]);
    let before = contents(&out);
    assert_eq!(as_words(&standings(RECIPE)), ["done"; 4]);
    let tested = standings(&RECIPE.replace("evaluate = ", "eval_examples = 3\nevaluate = "));
    assert_eq!(as_words(&tested), ["done", "done", "done", "again"]);
    assert!(tested["test"]["why"].as_str().unwrap().contains("stage.test.eval_examples was none, and is 3 now"));
    let longer = standings(&RECIPE.replace("steps = 40", "steps = 80"));
    assert_eq!(as_words(&longer), ["done", "done", "goes_on", "again"]);
    assert_eq!((&longer["finetune"]["step"], &longer["finetune"]["steps"]), (&json!(40), &json!(80)));
    let wider = RECIPE.replace("d_ff = 16", "d_ff = 32");
    let refused = standings(&wider);
    assert_eq!(as_words(&refused)[..3], ["done", "refused", "refused"]);
    assert!(refused["pretrain"]["why"].as_str().unwrap().contains("model.d_ff was 16, and is 32 now"));
    // The refusal is the run's own.
    let (_, text) = run_recipe(&scratch, &wider, &[]);
    assert!(text.contains(refused["pretrain"]["why"].as_str().unwrap()), "{text}");
    let (code, text, printed) = dry_run(&scratch, &wider, &[]);
    assert!(
        code == Some(1) && printed.contains("refused: ") && text.contains("because of pretrain"),
        "{text}{printed}"
    );
    let replaced = dry_run(&scratch, &wider, &["--overwrite"]);
    assert!(replaced.0 == Some(0) && replaced.2.contains("to be made"), "{replaced:?}");
    assert!(contents(&out) == before, "a dry run has written something");
}
