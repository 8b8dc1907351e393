//! `--model` with the folder of a run, and the prefixes that models keep.

#![cfg(feature = "cli")]

#[macro_use]
mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Scratch, TINY, outcome, train};
use serde_json::{Value, json};

const RECIPE: &str = tiny_recipe!(
    r#"
[texts.words]
files = "text.txt"
inputs_len = 24

[tasks.backwards]
train = "pairs.tsv"
columns = ["source", "target"]
held_out = 0.2
prefix = "turn: "

[[stage]]
name = "pretrain"
train = ["words"]
steps = 2
batch_size = 4

[[stage]]
name = "finetune"
train = ["backwards"]
steps = 2
batch_size = 4

[[stage]]
name = "test"
evaluate = ["backwards"]
"#
);

fn t5(args: &[&str], folder: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_t5"));
    let output = command.env("T5_TUNE", "off").current_dir(folder).args(args).output().unwrap();
    let (code, said) = outcome(&output);
    (code, String::from_utf8(output.stdout).unwrap(), said)
}

fn run(scratch: &Scratch, recipe: &str, out: &str) -> String {
    scratch.pairs(32);
    scratch.file("text.txt", "the cat sat on the mat and looked at me\n".repeat(20));
    scratch.file("recipe.toml", recipe);
    let (code, printed, said) = t5(&["run", "recipe.toml", "--out", out], &scratch.path(""));
    assert_eq!(code, Some(0), "{said}");
    printed
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn a_runs_folder_stands_for_its_best_checkpoint() {
    let scratch = Scratch::new("model-of-run");
    let printed = run(&scratch, RECIPE, "o");
    let lines: Vec<Vec<&str>> = printed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1][..5], ["stage", "step", "task", "split", "examples"], "{printed}");
    assert_eq!(lines[2][..4], ["finetune", "2", "backwards", "validation"], "{printed}");
    assert_eq!(lines[3][..4], ["test", "-", "backwards", "validation"], "{printed}");
    assert!(printed.contains("t5 generate --model") && !printed.contains("finetune/"), "{printed}");
    let here = scratch.path("");
    let says = |args: &[&str], expected: &[&str]| {
        let (code, _, said) = t5(args, &here);
        assert_eq!(code, Some(0), "{said}");
        for part in expected {
            assert!(said.contains(part), "{args:?}: `{part}` is missing in: {said}");
        }
        said
    };
    let generate = ["generate", "--max-new-tokens", "4", "w12", "--model"];
    says(
        &[&generate[..], &["o"]].concat(),
        &["o: taking the best checkpoint, backwards/loss", "of stage finetune in o/finetune/best"],
    );
    says(&[&generate[..], &["o/pretrain"]].concat(), &["taking the last checkpoint, step 2", "in o/pretrain/last"]);
    let quiet = says(&[&generate[..], &["o", "--quiet"]].concat(), &[]);
    assert_eq!(quiet, "");
    says(&["eval", "--model", "o", "--recipe", "recipe.toml"], &["taking the best checkpoint"]);
    let tuned = ["train", "--model", "o", "--pairs", "pairs.tsv", "--steps", "1", "--batch-size", "4", "--out"];
    says(&[&tuned[..], &["tuned"]].concat(), &["o: taking the best checkpoint"]);
    assert!(scratch.path("tuned/last/config.json").exists());
    let (code, _, said) = t5(&["bench", "--predict", "--model", "o"], &here);
    assert!(code == Some(0) && said.contains("taking the best checkpoint"), "{said}");

    // So it does where a tokenizer is named, or the model of a recipe.
    let ids = |spec: &str| t5(&["tokenize", "--tokenizer", spec, "w12"], &here);
    let (code, printed, said) = ids("o");
    assert!(code == Some(0) && printed == ids("o/finetune/best").1, "{said}");
    let from = "[model]\nfrom = \"o\"\n[tasks.t]\ntrain = \"pairs.tsv\"\ncolumns = [\"source\", \"target\"]\n\
                [[stage]]\nname = \"s\"\ntrain = [\"t\"]\nsteps = 1\nbatch_size = 4\n";
    scratch.file("from.toml", from);
    says(&["run", "from.toml", "--out", "from"], &[]);
    let kept = fs::read_to_string(scratch.path("from/recipe.toml")).unwrap();
    assert!(kept.contains("o/finetune/best"), "{kept}");
    scratch.file("learned.toml", format!("{RECIPE}[tokenizer]\nvocab_size = 60\nsentinels = 10\n"));
    says(&["run", "learned.toml", "--out", "learned"], &[]);
    assert_eq!(ids("learned").1, ids("learned/tokenizer").1);
    assert_ne!(ids("learned").1, ids("o").1);

    // What is missing is explained.
    let fails = |args: &[&str], expected: &[&str]| {
        let (code, _, said) = t5(args, &here);
        assert_eq!(code, Some(1), "{said}");
        for part in expected {
            assert!(said.contains(part), "{args:?}: `{part}` is missing in: {said}");
        }
    };
    fs::rename(scratch.path("o/finetune"), scratch.path("moved")).unwrap();
    let missing = ["o: stage finetune of the run here has no checkpoint yet", "t5 run", "or name o/pretrain"];
    fails(&[&generate[..], &["o"]].concat(), &missing);
    fs::rename(scratch.path("moved"), scratch.path("o/finetune")).unwrap();
    let state = scratch.path("o/finetune/last/training_state/state.json");
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, text.replacen("\"steps\": 2", "\"steps\": 9", 1)).unwrap();
    says(&[&generate[..], &["o"]].concat(), &["(unfinished: 2 of 9 steps)"]);
    let branches =
        "[[stage]]\nname = \"other\"\nfrom = \"pretrain\"\ntrain = [\"backwards\"]\nsteps = 2\nbatch_size = 4\n";
    run(&scratch, &format!("{RECIPE}{branches}"), "two");
    let several = ["several models that no later stage trains on: finetune, other", "as two/finetune"];
    fails(&[&generate[..], &["two"]].concat(), &several);
    says(&[&generate[..], &["two/other"]].concat(), &["in two/other/best"]);
}

#[test]
fn models_keep_the_prefixes_of_their_tasks() {
    let scratch = Scratch::new("model-prefix");
    let here = scratch.path("");
    let pairs = scratch.pairs(16);
    let out = scratch.path("run");
    let mut command = train(&TINY);
    command
        .args(["--steps", "1", "--batch-size", "2", "--prefix", "turn: ", "--pairs"])
        .arg(&pairs)
        .arg("--out")
        .arg(&out);
    assert_eq!(command.output().unwrap().status.code(), Some(0));
    let folder = out.join("last");
    assert_eq!(config(&folder)["task_specific_params"], json!({"pairs": {"prefix": "turn: "}}));
    let generate = |more: &[&str]| {
        let args = ["generate", "--model", "run", "--max-new-tokens", "4", "--json", "--temperature", "1"];
        let (code, made, said) = t5(&[&args[..], more].concat(), &here);
        assert_eq!(code, Some(0), "{said}");
        let ids: Vec<Value> =
            made.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["ids"].clone()).collect();
        (ids, said)
    };
    let noted = "prefix: \"turn: \", as the task pairs was trained with (--no-prefix leaves it out)";
    let (applied, said) = generate(&["w12"]);
    assert!(said.contains(noted), "{said}");
    let (bare, said) = generate(&["--no-prefix", "w12"]);
    assert!(!said.contains("prefix:") && bare != applied, "{said}");
    // However it is said, the model reads the same.
    for same in
        [&["turn: w12"][..], &["--no-prefix", "turn: w12"], &["--prefix", "turn: ", "w12"], &["--task", "pairs", "w12"]]
    {
        assert_eq!(generate(same).0, applied, "{same:?}");
    }
    // An evaluation asks the model in the same way.
    let evaluate = |more: &[&str]| {
        let (code, printed, said) = t5(&[&["eval", "--model", "run", "--pairs", "pairs.tsv"], more].concat(), &here);
        assert_eq!(code, Some(0), "{said}");
        (printed, said)
    };
    let (known, said) = evaluate(&[]);
    assert!(said.contains(noted), "{said}");
    assert_eq!(evaluate(&["--prefix", "turn: "]).0, known);
    assert_ne!(evaluate(&["--no-prefix"]).0, known);
    // Several tasks, as in T5's own folders.
    let mut several = config(&folder);
    several["task_specific_params"] =
        json!({"a": {"prefix": "turn: ", "num_beams": 4}, "b": {"prefix": "b: "}, "c": {}, "d": 1});
    fs::write(folder.join("config.json"), several.to_string()).unwrap();
    let (made, said) = generate(&["w12"]);
    assert!(said.contains("--task: a (\"turn: \"), b (\"b: \")") && made == bare, "{said}");
    assert_eq!(generate(&["--task", "a", "w12"]).0, applied);
    let (code, _, said) = t5(&["generate", "--model", "run", "--task", "x", "w12"], &here);
    assert!(
        code == Some(1) && said.contains("--task x: the model knows no such task; there are a (\"turn: \")"),
        "{said}"
    );
    assert_eq!(t5(&["generate", "--model", "run", "--task", "a", "--no-prefix", "w"], &here).0, Some(2));
    // What cannot be read is said, and has no effect.
    for (odd, expected) in [
        (json!(["a"]), "not tasks with their settings"),
        (json!({"a": {"prefix": 1}, "b": {}}), "no task with a prefix: a"),
    ] {
        let mut config = config(&folder);
        config["task_specific_params"] = odd;
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let (made, said) = generate(&["w12"]);
        assert!(said.contains("task_specific_params") && said.contains(expected) && made == bare, "{said}");
    }
}

#[test]
fn the_likeliest_of_given_answers_is_that_of_scores() {
    let scratch = Scratch::new("choices");
    let here = scratch.path("");
    let pairs = scratch.pairs(16);
    let mut command = train(&TINY);
    command.args(["--steps", "2", "--batch-size", "4", "--pairs"]).arg(&pairs).arg("--out").arg(scratch.path("run"));
    assert_eq!(command.output().unwrap().status.code(), Some(0));
    // Whichever of the two a model of two steps prefers, it is the right one in some rows only.
    let row = |i: usize| {
        let (one, other) = (format!("{i}w"), format!("x{i}{i}"));
        if i.is_multiple_of(3) { [format!("w{i}"), one, other] } else { [format!("w{i}"), other, one] }
    };
    let rows: Vec<[String; 3]> = (0..12).map(row).collect();
    scratch.file("t.tsv", rows.iter().map(|row| format!("{}\n", row.join("\t"))).collect::<String>());
    let declared = "[tasks.pick]\nvalidation = \"t.tsv\"\ncolumns = [\"q\", \"good\", \"bad\"]\ninput = \"{q}\"\n\
                    target = \"{good}\"\nchoices = [\"{bad}\", \"{good}\"]\n";
    let stage = "[[stage]]\nname = \"s\"\nevaluate = [\"pick\"]\n";
    scratch.file("pick.toml", format!("[model]\nfrom = \"run\"\n{declared}{stage}"));
    let scores = |column: usize| -> Vec<f64> {
        let lines = rows.iter().map(|row| format!("{}\t{}\n", row[0], row[column]));
        scratch.file("scored.tsv", lines.collect::<String>());
        let (code, printed, said) = t5(&["score", "--model", "run", "--pairs", "scored.tsv", "--json"], &here);
        assert_eq!(code, Some(0), "{said}");
        let of = |line: &str| serde_json::from_str::<Value>(line).unwrap()["log_prob"].as_f64().unwrap();
        printed.lines().map(of).collect()
    };
    let (good, bad) = (scores(1), scores(2));
    let right = good.iter().zip(&bad).filter(|(good, bad)| good > bad).count();
    assert!(right > 0 && right < 12, "{right} of 12: the test should hold rows of both kinds");
    let evaluate = ["eval", "--model", "run", "--recipe", "pick.toml", "--out", "e", "--json"];
    let (code, printed, said) = t5(&evaluate, &here);
    assert_eq!(code, Some(0), "{said}");
    let result: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(result["tasks"]["pick"]["metrics"], json!({"choice": 100.0 * right as f64 / 12.0}), "{result}");
    assert_eq!(result["decoding"], Value::Null);
    let predictions = fs::read_to_string(scratch.path("e/predictions/pick.jsonl")).unwrap();
    let correct = predictions.lines().filter(|line| line.contains("\"correct\":true")).count();
    assert_eq!(correct, right);
    // With metrics, answers are made besides.
    scratch.file("both.toml", format!("[model]\nfrom = \"run\"\n{declared}metrics = [\"exact_match\"]\n{stage}"));
    let (code, printed, said) = t5(&["run", "both.toml", "--out", "both"], &here);
    assert!(code == Some(0) && printed.contains("choice") && printed.contains("exact_match"), "{printed}{said}");
}
