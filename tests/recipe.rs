//! Recipes as they are read: what is refused, with which line, and what the shipped ones say. No adapter is needed.

mod common;

use std::path::Path;

use common::Scratch;
use t5_wgpu::recipe::Recipe;
use t5_wgpu::train::settings::Settings;

const GOOD: &str = r#"[model]
d_model = 16
heads = 2

[texts.words]
files = "text.txt"
inputs_len = 24
held_out = 0.2

[tasks.backwards]
train = "pairs.tsv"
columns = ["source", "target"]

[[stage]]
name = "pretrain"
train = ["words"]
steps = 20

[[stage]]
name = "test"
evaluate = ["words"]
"#;

fn scratch(name: &str) -> Scratch {
    let scratch = Scratch::new(name);
    scratch.pairs(4);
    scratch.file("text.txt", "some words\n");
    scratch
}

#[test]
fn what_cannot_work_is_refused_with_its_line() {
    let scratch = scratch("recipe-refused");
    assert!(Recipe::read(&scratch.file("good.toml", GOOD), &[]).is_ok());
    for (old, new, line, what) in [
        ("[model]", "name = \"../home\"\n[model]", 1, "files are named"),
        ("d_model = 16", "d_modell = 16", 2, "d_modell"),
        ("d_model = 16", "d_model = \"wide\"", 2, "invalid type"),
        ("heads = 2", "heads = 0", 3, "model.heads: is 0"),
        ("heads = 2", "preset = \"t5-tiny\"", 3, "t5-small"),
        ("text.txt", "missing.txt", 6, "missing.txt"),
        ("inputs_len = 24", "inputs_len = 2", 7, "at least 3"),
        ("held_out = 0.2", "held_out = 2", 8, "between 0 and 1"),
        ("held_out = 0.2", "objective = \"berd\"", 8, "span_corruption"),
        ("held_out = 0.2", "format = \"csv\"", 8, "\"jsonl\""),
        ("held_out = 0.2", "format = \"tsv\"", 5, "columns"),
        ("held_out = 0.2", "text = \"{text\"", 8, "{ without }"),
        ("held_out = 0.2", "format = \"cmudict\"\ntext = \"{words}\"", 9, "there are word, pronunciation"),
        ("pairs.tsv", "*.csv", 11, "*.csv"),
        ("columns = ", "colums = ", 12, "colums"),
        ("train = [\"words\"]", "train = [\"word\"]", 16, "`word`"),
        ("steps = 20", "steps = 20\nminutes = 1", 18, "not both"),
        ("steps = 20", "steps = 20\nsplit = \"test\"", 18, "evaluates"),
        ("steps = 20", "steps = 20\nfrom = \"test\"", 18, "choose among: model"),
        ("steps = 20", "steps = 20\nbegin = \"best\"", 18, "no last and best"),
        ("name = \"test\"", "name = \"test\"\nfrom = \"train\"", 21, "choose among: pretrain, model"),
        ("steps = 20", "optimizer = \"sgd\"", 17, "stage.pretrain.optimizer"),
        ("steps = 20", "optimizer = \"adafactor-hf\"\nlr = 1", 18, "own rate"),
        ("steps = 20", "minutes = 1e18", 17, "a million at most"),
        ("steps = 20", "accumulate = 9000000000", 17, "65,536"),
        ("steps = 20", "mixture = { temperature = 0 }", 17, "temperature"),
        ("steps = 20", "batching = { packed = { source_len = 0, target_len = 9 } }", 17, "at least 2"),
        ("steps = 20", "best = \"words/accuracy\"", 17, "there are: words/loss, words/token_accuracy"),
        ("train = [\"words\"]", "train = [\"words\", \"backwards\"]", 14, "as how many it counts"),
        ("evaluate = [\"words\"]", "evaluate = [\"words\"]\neval_batch_size = 0", 22, "rows for"),
        ("evaluate = [\"words\"]", "evaluate = [\"words\"]\ntop_k = 5", 22, "without a temperature"),
        ("evaluate = [\"words\"]", "evaluate = [\"words\"]\ntemperature = nan", 22, "positive"),
        ("evaluate = [\"words\"]", "evaluate = [\"words\"]\ndropout = 0.1", 22, "trains"),
        ("[tasks.backwards]", "[tasks.\"my/backwards\"]", 10, "files are named"),
        ("name = \"test\"", "name = \"tokenizer\"", 20, "files are named"),
        ("name = \"test\"", "name = \"tokenizer.old\"", 14, "files are named"),
        ("name = \"test\"", "name = \"v1.0\"", 14, "letters, digits, hyphens and underscores"),
        ("name = \"test\"", "name = \"texts\"", 20, "a section of recipes"),
        ("steps = 20", "prefetch = 4294967296", 17, "stage.pretrain.prefetch: at most 256 threads"),
        ("steps = 20", "steps = 20\nlr = -1", 18, "stage.pretrain.lr: the learning rate -1 is"),
        ("name = \"test\"", "name = \"pretrain\"", 15, "this name"),
        ("evaluate = [\"words\"]", "evaluate = [\"backwards\"]", 21, "no files for validation"),
        ("evaluate = [\"words\"]", "", 20, "does nothing"),
        ("[[stage]]\nname = \"test\"", "[[stage]\nname = \"test\"", 19, ""),
    ] {
        assert!(GOOD.contains(old), "{old}");
        let file = scratch.file("bad.toml", GOOD.replacen(old, new, 1));
        let error = Recipe::read(&file, &[]).err().unwrap_or_else(|| panic!("`{new}` is taken")).to_string();
        assert!(error.contains(&format!("bad.toml:{line}: ")) && error.contains(what), "`{new}`: {error}");
    }
}

#[test]
fn overrides_replace_values() {
    let scratch = scratch("recipe-set");
    let file = scratch.file("good.toml", GOOD);
    let set = |text: &str| Recipe::read(&file, &[text.to_owned()]);
    assert_eq!(set("pretrain.steps=7").unwrap().stages[0].steps, Some(7));
    assert_eq!(set("model.d_model=32").unwrap().model.d_model, Some(32));
    assert_eq!(set("seed=9").unwrap().seed, 9);
    assert_eq!(set("tokenizer.from=bytes").unwrap().tokenizer.from.as_deref(), Some("bytes"));
    for bad in ["pretrain.step=7", "steps", "pretrain.steps=many", "finetune.steps=1", "pretrain.prefetch=1000"] {
        let both = ["seed=1".to_owned(), bad.to_owned(), "model.d_ff=32".to_owned()];
        let error = Recipe::read(&file, &both).unwrap_err().to_string();
        assert!(error.contains(&format!("--set {bad}: ")), "{bad}: {error}");
    }
    let error = set("finetune.steps=1").unwrap_err().to_string();
    assert!(error.contains("no stage `finetune`") && error.contains("(pretrain, test)"), "{error}");
    // As errors write it.
    assert_eq!(set("stage.pretrain.steps=7").unwrap().stages[0].steps, Some(7));
    let error = set("stage.pretrain.lr=-1").unwrap_err().to_string();
    assert!(error.starts_with("--set stage.pretrain.lr=-1: the learning rate"), "{error}");
    let error = set("stage.model.steps=1").unwrap_err().to_string();
    assert!(error.contains("no stage `model`"), "{error}");
}

#[test]
fn what_a_run_keeps_says_everything_and_means_the_same() {
    let scratch = scratch("recipe-spelled");
    let file = scratch.file("good.toml", GOOD);
    let recipe = Recipe::read(&file, &[]).unwrap();
    let spelled = recipe.spelled_out().unwrap();
    let text = spelled.to_toml().unwrap();
    for part in [
        "d_kv = 64",
        "dropout = 0.1",
        "lr = 0.001",
        "optimizer = \"adamw\"",
        "warmup = 1",
        "save_every = 1",
        "split = ",
        "from = \"model\"",
        "from = \"pretrain\"",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let kept = Recipe::reread(&scratch.file("kept.toml", &text)).unwrap();
    assert_eq!(kept, spelled);
    assert_eq!(kept.spelled_out().unwrap(), kept);
    // As an older program wrote it, before stages could begin anywhere and rows could be packed.
    let newer = |line: &str| line.starts_with("from = ") || line.starts_with("batching = ");
    assert_eq!(text.lines().filter(|line| newer(line)).count(), 3, "{text}");
    let older: String = text.lines().filter(|line| !newer(line)).map(|line| format!("{line}\n")).collect();
    assert_eq!(Recipe::reread(&scratch.file("older.toml", older)).unwrap().spelled_out().unwrap(), kept);
    let mut settings = serde_json::to_value(kept.settings(&kept.stages[0]).unwrap()).unwrap();
    assert!(settings.as_object_mut().unwrap().remove("batching").is_some());
    assert_eq!(serde_json::from_value::<Settings>(settings).unwrap(), kept.settings(&kept.stages[0]).unwrap());
    assert_eq!(kept.settings(&kept.stages[0]).unwrap(), spelled.settings(&spelled.stages[0]).unwrap());
}

/// Those that the README lists: users keep theirs in the same folder.
#[test]
fn shipped_recipes_are_sound() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let listed: Vec<&str> =
        readme.lines().filter(|line| line.starts_with("| [") && line.contains("](recipes/")).collect();
    assert!(listed.len() >= 6, "{listed:?}");
    for line in listed {
        let name = line.split(['(', ')']).nth(1).unwrap();
        match Recipe::read(&root.join(name), &[]) {
            Ok(recipe) => assert!(recipe.about.is_some(), "{name}"),
            // Some ask for data that must be fetched first.
            Err(error) => assert!(error.to_string().contains("data/external"), "{error}"),
        }
    }
}
