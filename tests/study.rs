//! `t5 study`: tables that are right, studies that go on after kills and are shared, and what is refused.
//!
//! T5_KILLS sets how often a study is killed (default 5).

#![cfg(feature = "cli")]

#[macro_use]
mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Scratch, assert_says};
use serde_json::Value;
use t5_wgpu::rng::{Purpose, Rng};
use t5_wgpu::study::Study;

const RECIPE: &str = tiny_recipe!(
    r#"
[texts.words]
files = "text.txt"
inputs_len = 24

[tasks.backwards]
train = "pairs.tsv"
columns = ["source", "target"]
held_out = 0.2

[[stage]]
name = "pretrain"
train = ["words"]
steps = 6
batch_size = 4

[[stage]]
name = "finetune"
train = ["backwards"]
steps = 8
batch_size = 4
eval_every = 4
log_every = 1

[[stage]]
name = "test"
evaluate = ["backwards"]
"#
);

const STUDY: &str = r#"
about = "Whether anything is learned"
recipe = "recipe.toml"
seeds = [3, 4]
results = ["test/backwards/loss", "test/backwards/token accuracy"]

[[factor]]
name = "rate"
levels = [{ name = "none", set = ["finetune.lr=1e-9"] }, { name = "high", set = ["finetune.lr=1e-2"] }]

[[factor]]
name = "objective"
levels = [{ name = "span" }, { name = "deshuffle", set = ["texts.words.objective=deshuffle"] }]

[paper]
source = "A paper, table 1"
sigma = { GLUE = 0.2 }
row = [
    { cell = { rate = "none" }, values = { GLUE = 60.0 } },
    { cell = { rate = "high" }, values = { GLUE = 80.0 } },
]
"#;

fn scratch(name: &str) -> Scratch {
    let scratch = Scratch::new(name);
    scratch.pairs(64);
    let text: String = (0..80).map(|i| format!("the cat number {i} sat on mat {}\n", i * 7 % 31)).collect();
    scratch.file("text.txt", text);
    scratch.file("recipe.toml", RECIPE);
    scratch.file("study.toml", STUDY);
    scratch
}

fn study(scratch: &Scratch, out: &str, more: &[&str]) -> Command {
    study_of(scratch, "study.toml", out, more)
}

fn study_of(scratch: &Scratch, file: &str, out: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_t5"));
    command.arg("study").arg(scratch.path(file)).arg("--out").arg(scratch.path(out)).args(more);
    command.env("T5_TUNE", "off").env("T5_CACHE_DIR", scratch.path("cache")).stdin(Stdio::null());
    command
}

/// The table without times.
fn table(scratch: &Scratch, out: &str) -> Value {
    let output = study(scratch, out, &["--table", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut table: Value = serde_json::from_slice(&output.stdout).unwrap();
    for result in table["results"].as_array_mut().unwrap() {
        for row in result["rows"].as_array_mut().unwrap() {
            row["seconds"] = Value::Null;
        }
    }
    table
}

#[test]
fn a_killed_and_a_shared_study_end_with_the_same_table() {
    let kills: u64 = std::env::var("T5_KILLS").ok().map_or(5, |n| n.parse().expect("T5_KILLS is a number"));
    let scratch = scratch("study");
    // The driver compiles shaders only once.
    assert!(study(&scratch, "warm", &["--quiet", "--most", "2"]).status().unwrap().success());
    let start = Instant::now();
    assert!(study(&scratch, "whole", &["--quiet"]).status().unwrap().success());
    let time = start.elapsed();
    let expected = table(&scratch, "whole");
    assert_eq!((&expected["done"], &expected["runs"]), (&8.into(), &8.into()));

    // Where another study has all of it, nothing is made.
    let whole = scratch.path("whole");
    let reused = study(&scratch, "reused", &["--reuse", whole.to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8_lossy(&reused.stderr);
    assert!(reused.status.success() && said.matches("test: as in ").count() == 8, "{said}");
    assert_eq!(table(&scratch, "reused"), expected);
    let nothing = study(&scratch, "other", &["--reuse", scratch.path("cache").to_str().unwrap()]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(1));

    let (mut killed, mut at_most) = (0, time);
    for kill in 0.. {
        let wait = at_most.mul_f64(Rng::new(kills, Purpose::Examples, &[kill]).uniform());
        let mut child = study(&scratch, "killed", &["--quiet"]).spawn().unwrap();
        std::thread::sleep(wait);
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            killed += 1;
        } else {
            // Done before all kills were dealt: begin again, and kill sooner.
            fs::remove_dir_all(scratch.path("killed")).unwrap();
            at_most = at_most.mul_f64(0.7).max(Duration::from_millis(50));
        }
        child.wait().unwrap();
        if killed == kills {
            break;
        }
    }
    assert!(study(&scratch, "killed", &["--quiet"]).status().unwrap().success());
    assert_eq!(table(&scratch, "killed"), expected);

    // Two at once: each makes runs of its own, and both end with the whole.
    let mut both: Vec<_> = (0..2).map(|_| study(&scratch, "shared", &["--quiet"]).spawn().unwrap()).collect();
    assert!(both.iter_mut().all(|child| child.wait().unwrap().success()));
    assert_eq!(table(&scratch, "shared"), expected);

    // Nor do they make the same pre-training at the same time, which the order of these factors would have them do.
    let (rate, objective) = (STUDY.find("[[factor]]").unwrap(), STUDY.rfind("[[factor]]").unwrap());
    let paper = STUDY.find("[paper]").unwrap();
    let turned = [&STUDY[..rate], &STUDY[objective..paper], &STUDY[rate..objective]].concat();
    scratch.file("turned.toml", turned);
    let shared = || study_of(&scratch, "turned.toml", "turned", &["--quiet"]).spawn().unwrap();
    let mut both = [shared(), shared()];
    assert!(both.iter_mut().all(|child| child.wait().unwrap().success()));
    for (objective, seed) in [("span", 3), ("span", 4), ("deshuffle", 3), ("deshuffle", 4)] {
        let log = |rate| {
            fs::read(scratch.path(&format!("turned/{objective}.{rate}/seed-{seed}/pretrain/log.jsonl"))).unwrap()
        };
        assert!(log("none") == log("high"), "{objective}, seed {seed}: made twice");
    }

    figures_are_those_of_the_runs(&scratch, &expected);
    // The same pre-training is not made twice: even the times in its log are those of the other run.
    let log = |cell: &str| fs::read(scratch.path("whole").join(cell).join("seed-3/pretrain/log.jsonl")).unwrap();
    assert_eq!(log("none.span"), log("high.span"));
    assert_ne!(log("none.span"), log("none.deshuffle"));
    pages_show_them(&scratch);
}

fn figures_are_those_of_the_runs(scratch: &Scratch, table: &Value) {
    let value = |cell: &str, seed: u64| {
        let file = scratch.path("whole").join(cell).join(format!("seed-{seed}/test/metrics.json"));
        let metrics: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        metrics["tasks"]["backwards"]["loss"].as_f64().unwrap()
    };
    let result = &table["results"][0];
    assert_eq!((result["name"].as_str(), result["better"].as_str()), (Some("test/backwards/loss"), Some("lower")));
    let rows = result["rows"].as_array().unwrap();
    let cells: Vec<&str> = rows.iter().map(|row| row["cell"].as_str().unwrap()).collect();
    assert_eq!(cells, ["none.span", "none.deshuffle", "high.span", "high.deshuffle"]);
    for (row, cell) in rows.iter().zip(&cells) {
        let (a, b) = (value(cell, 3), value(cell, 4));
        assert_ne!(a, b, "seeds change nothing");
        assert!((row["mean"].as_f64().unwrap() - (a + b) / 2.0).abs() < 1e-12);
        assert!((row["deviation"].as_f64().unwrap() - (a - b).abs() / 2.0f64.sqrt()).abs() < 1e-12);
        assert!(row["tokens"].as_f64().unwrap() > 100.0 && row["flops"].as_f64().unwrap() > 1e6);
        assert_eq!(row["is_baseline"], Value::Bool(*cell == "none.span"));
    }
    // A rate that changes nothing against one that learns: this much is beyond doubt.
    let high = &rows[2];
    assert!(high["difference"]["mean"].as_f64().unwrap() < 0.0 && high["difference"]["sigma"].as_f64().unwrap() < -2.0);
    assert_eq!(high["difference"]["degrees_of_freedom"], 4);
    let paper = &high["paper"][0];
    assert_eq!((paper["figure"].as_str(), paper["difference"].as_f64()), (Some("GLUE"), Some(20.0)));
    assert_eq!(paper["sign"], "agrees", "less loss and more points are both better");
}

fn pages_show_them(scratch: &Scratch) {
    let text = String::from_utf8(study(scratch, "whole", &["--table"]).output().unwrap().stdout).unwrap();
    assert_says(&text, &["study: 8 of 8 runs are done", "baseline", "A paper, table 1", "agrees", "lower is better"]);
    let text = String::from_utf8(study(scratch, "whole", &["--table", "--markdown"]).output().unwrap().stdout).unwrap();
    assert_says(&text, &["| rate | objective | mean |", "|---|---|---:|", "| high | span |"]);
    let page = scratch.path("page.html");
    let mut report = Command::new(env!("CARGO_BIN_EXE_t5"));
    assert!(report.arg("report").arg(scratch.path("whole")).arg("--out").arg(&page).status().unwrap().success());
    let html = fs::read_to_string(page).unwrap();
    let bands = html.matches("class=\"band ").count();
    assert!(bands > 0 && html.matches("class=\"whisker\"").count() == 8, "{bands} bands");
    assert_says(&html, &["Whether anything is learned", "Stage finetune", "high.deshuffle"]);
}

/// Of two cells that differ in the steps of a training at a constant rate, the longer one goes on from the shorter one, and ends with
/// the weights that it would have had alone.
#[test]
fn a_longer_training_goes_on_from_a_shorter_one() {
    let scratch = scratch("study-longer");
    let constant = RECIPE.replacen(
        "steps = 6",
        "steps = 4\nschedule = \"constant\"\nwarmup = 2\neval_every = 4\nsave_every = 4\nlog_every = 1",
        1,
    );
    scratch.file("recipe.toml", &constant);
    let factor = STUDY.find("[[factor]]").unwrap();
    let levels =
        "[[factor]]\nname = \"steps\"\nlevels = [{ name = \"4\" }, { name = \"8\", set = [\"pretrain.steps=8\"] }]\n";
    scratch.file("study.toml", STUDY[..factor].replacen("[3, 4]", "[3]", 1) + levels);
    assert!(study(&scratch, "o", &["--quiet"]).status().unwrap().success());
    let (short, long) = (scratch.path("o/4/seed-3"), scratch.path("o/8/seed-3"));
    let first = |folder: &Path| {
        let log = fs::read_to_string(folder.join("pretrain/log.jsonl")).unwrap();
        log.lines().find(|line| line.contains("\"step\":1,")).unwrap().to_owned()
    };
    assert_eq!(first(&short), first(&long), "the times of its first steps are those of the other run");
    let mut alone = Command::new(env!("CARGO_BIN_EXE_t5"));
    alone.arg("run").arg(scratch.path("recipe.toml")).arg("--out").arg(scratch.path("alone")).arg("--quiet");
    alone.args(["--set", "seed=3", "--set", "pretrain.steps=8"]).env("T5_TUNE", "off");
    assert!(alone.status().unwrap().success());
    for stage in ["pretrain", "finetune"] {
        let weights = |run: &Path| fs::read(run.join(stage).join("last/model.safetensors")).unwrap();
        assert!(weights(&long) == weights(&scratch.path("alone")), "{stage}");
        assert!(weights(&long) != weights(&short), "{stage}");
    }
}

#[test]
fn a_study_that_has_changed_is_refused_and_more_seeds_go_on() {
    let scratch = scratch("study-changed");
    assert!(study(&scratch, "o", &["--quiet", "--most", "1"]).status().unwrap().success());
    assert_eq!(table(&scratch, "o")["done"], 1);
    scratch.file("study.toml", STUDY.replace("lr=1e-9", "lr=2e-9"));
    let output = study(&scratch, "o", &["--quiet"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_says(
        &String::from_utf8_lossy(&output.stderr),
        &["none.span", "stage.finetune.lr was", "choose another folder"],
    );
    // What lies in a folder that no study made stays.
    let stranger = scratch.path("strange").join("none.span");
    fs::create_dir_all(&stranger).unwrap();
    let output = study(&scratch, "strange", &["--quiet"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_says(&String::from_utf8_lossy(&output.stderr), &["no run of t5 made this"]);
}

#[test]
fn what_cannot_be_compared_is_refused_with_its_line() {
    let scratch = scratch("study-refused");
    let refuses = |old: &str, new: &str, expected: &[&str]| {
        assert!(STUDY.contains(old), "{old}");
        let path = scratch.file("wrong.toml", STUDY.replacen(old, new, 1));
        let error = Study::read(Path::new(&path)).unwrap_err().to_string();
        assert_says(&error, expected);
    };
    refuses("seeds = [3, 4]", "seeds = []", &["wrong.toml:4: seeds: name at least one seed"]);
    refuses("seeds = [3, 4]", "seeds = [3, 3]", &["a seed stands here twice"]);
    refuses("seeds = [3, 4]", "seed = [3, 4]", &["wrong.toml:4", "unknown field `seed`"]);
    refuses("test/backwards/loss", "text/backwards/loss", &["wrong.toml:5: results:", "pretrain, finetune, test"]);
    refuses("name = \"span\"", "name = \"../span\"", &["factor.objective", "letters, digits"]);
    refuses("name = \"none\"", "name = \"high\"", &["factor.rate", "names are distinct"]);
    refuses("lr=1e-9", "rl=1e-9", &["rate = none, objective = span", "unknown field `rl`"]);
    refuses("rate = \"none\" }, v", "rate = \"no\" }, v", &["rate has no level `no`; it has: none, high"]);
    refuses("rate = \"none\" }, v", "lr = \"none\" }, v", &["there is no factor `lr`; there are: rate, objective"]);
    refuses("GLUE = 0.2", "SQuAD = 0.2", &["paper.sigma", "standard deviation of GLUE"]);
    refuses("recipe = \"recipe.toml\"", "recipe = \"none.toml\"", &["none.toml"]);
    scratch.file("recipe.toml", RECIPE.replacen("steps = 6", "steps = 6\nseed = 9", 1));
    refuses("recipe.toml", "recipe.toml", &["stage pretrain has a seed of its own"]);
}

#[test]
fn shipped_studies_are_sound() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/studies.md")).unwrap();
    let files: Vec<_> = fs::read_dir(root.join("studies")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let studies: Vec<_> = files.iter().filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    assert!(studies.len() >= 5);
    for path in studies {
        let study = Study::read(path).unwrap();
        assert!(study.about.is_some() && study.seeds.len() >= 3, "{}", path.display());
        let runs = study.cells().len() * study.seeds.len();
        let row = page.lines().find(|line| line.contains(&format!("(../studies/{}.toml)", study.title())));
        assert!(row.is_some_and(|row| row.ends_with(&format!("| {runs} |"))), "{runs} runs of {}", path.display());
        // Each row of a paper's table stands for a cell, and says no more than the study asks.
        for row in study.paper.iter().flat_map(|paper| &paper.rows) {
            assert!(study.cells().iter().any(|cell| study.paper_values(cell) == Some(&row.values)), "{row:?}");
        }
    }
}

#[test]
fn designs_and_baselines_say_what_is_compared() {
    let scratch = scratch("study-design");
    let read = |text: String| Study::read(Path::new(&scratch.file("other.toml", text))).unwrap();
    let names = |study: &Study| study.cells().into_iter().map(|cell| cell.name).collect::<Vec<_>>();
    let each = read(STUDY.replacen("seeds", "design = \"each\"\nseeds", 1));
    assert_eq!(names(&each), ["none.span", "none.deshuffle", "high.span"]);
    let within = read(STUDY.replacen("seeds", "baseline = { objective = \"deshuffle\" }\nseeds", 1));
    let baselines: Vec<String> = within.cells().iter().map(|cell| within.baseline_of(cell).name).collect();
    assert_eq!(baselines, ["none.deshuffle", "none.deshuffle", "high.deshuffle", "high.deshuffle"]);
}
