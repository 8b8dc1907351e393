//! The tables of docs/recipes.md against the program: every key, and every default that is a value.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::Scratch;
use serde_json::{Value, json};
use t5_wgpu::data::task::presets;
use t5_wgpu::data::{Metric, Objective, TaskConfig};
use t5_wgpu::recipe::{ModelSpec, Recipe};
use t5_wgpu::train::settings::{TextConfig, hyper_parameters};

/// The columns of a table's rows behind a heading.
struct Row {
    default: String,
    meaning: String,
}

fn page() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes.md")).unwrap()
}

/// Key -> the rest of its row, of all tables under a heading.
fn tables(heading: &str) -> BTreeMap<String, Row> {
    let page = page();
    let start = page.find(&format!("\n### {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let body = &page[start + 5..];
    let body = &body[..body.find("\n### ").unwrap_or(body.len())];
    let rows = body.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.splitn(3, " | ").collect();
        let key = cells[0].strip_prefix('`')?.strip_suffix('`')?;
        Some((key.to_owned(), Row { default: cells[1].to_owned(), meaning: cells[2].to_owned() }))
    });
    rows.collect()
}

/// The keys of a section, as serde lists them when it meets another one.
fn keys(section: &str) -> Vec<String> {
    let scratch = Scratch::new("reference");
    let file = scratch.file("recipe.toml", section.replace("UNKNOWN", "no_such_key = 1"));
    let error = Recipe::read(&file, &[]).unwrap_err().to_string();
    // An enum's variant has its keys named otherwise.
    if let Some((_, list)) = error.split_once("available keys: ") {
        return list.split(", ").map(|key| key.trim().to_owned()).collect();
    }
    let list = error.split("expected").nth(1).unwrap_or_else(|| panic!("{error}"));
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The page has these keys and no others; where its default is a value, it is that of `defaults`.
#[track_caller]
fn agrees(heading: &str, keys: &[String], defaults: &Value) {
    let rows = tables(heading);
    for key in keys {
        assert!(rows.contains_key(key), "{heading}: docs/recipes.md has no row for `{key}`");
    }
    for (key, row) in &rows {
        assert!(keys.contains(key), "{heading}: the program has no key `{key}`");
        assert!(row.meaning.len() > 3, "{heading}: `{key}` has no meaning");
        let value = &defaults[key];
        match row.default.strip_prefix('`').and_then(|default| default.strip_suffix('`')) {
            Some(default) => assert_eq!(default, value.to_string(), "{heading}: `{key}`"),
            None => {
                assert!(value.is_null(), "{heading}: the default of `{key}` is {value}, and the page says it in words")
            }
        }
    }
}

#[test]
fn the_page_has_every_key_and_its_default() {
    let seed = json!({"seed": Recipe::default().seed});
    agrees("Top level", &keys("UNKNOWN"), &seed);
    let learned =
        "[tokenizer]\nvocab_size = 300\n[tasks.t]\ntrain = \"t.tsv\"\n[[stage]]\nname = \"s\"\ntrain = [\"t\"]\n";
    let scratch = Scratch::new("reference-defaults");
    scratch.file("t.tsv", "source\ttarget\na\tb\n");
    let recipe = Recipe::read(&scratch.file("recipe.toml", learned), &[]).unwrap().spelled_out().unwrap();
    let mut tokenizer = serde_json::to_value(&recipe.tokenizer).unwrap();
    tokenizer.as_object_mut().unwrap().remove("vocab_size");
    agrees("[tokenizer]", &keys("[tokenizer]\nUNKNOWN"), &tokenizer);
    let mut text = serde_json::to_value(toml::from_str::<TextConfig>("files = \"x\"").unwrap()).unwrap();
    // In words: a table.
    text.as_object_mut().unwrap().retain(|key, _| !["files", "objective"].contains(&key.as_str()));
    agrees("[texts.NAME]", &keys("[texts.x]\nUNKNOWN"), &text);
    let task = serde_json::to_value(TaskConfig::default().spelled_out()).unwrap();
    agrees("[tasks.NAME]", &keys("[tasks.x]\nUNKNOWN"), &task);
    let metric = json!({"ignore": "", "lowercase": false});
    agrees("Metrics", &keys("[tasks.x]\nmetrics = [{ name = \"per\", UNKNOWN }]"), &metric);
    let mixing = serde_json::to_value(t5_wgpu::train::Settings::new().mixture).unwrap();
    agrees("Mixtures", &keys("[[stage]]\nname = \"x\"\nmixture = { UNKNOWN }"), &mixing);
    agrees("Packed rows", &keys("[[stage]]\nname = \"x\"\nbatching = { packed = { UNKNOWN } }"), &json!({}));
}

#[test]
fn the_page_has_every_setting_of_objectives() {
    let (mut all, mut defaults) = (Vec::new(), serde_json::Map::new());
    for info in Objective::ALL {
        let error =
            format!("{{ name = \"{}\", no_such_key = 1 }}", info.name).parse::<Objective>().unwrap_err().to_string();
        let list = error.split("expected").nth(1).unwrap_or_default();
        all.extend(list.split('`').skip(1).step_by(2).map(|key| format!("{}.{key}", info.name)));
        let objective: Objective = info.name.parse().unwrap();
        let Value::Object(settings) = serde_json::to_value(&objective).unwrap() else { panic!("no table") };
        let settings = settings.into_iter().filter(|(key, _)| !["name", "denoisers"].contains(&key.as_str()));
        defaults.extend(settings.map(|(key, value)| (format!("{}.{key}", info.name), value)));
    }
    assert!(all.len() > 8, "{all:?}");
    agrees("Objectives", &all, &Value::Object(defaults));
    for info in Objective::ALL {
        assert!(page().contains(info.name), "{}", info.name);
    }
}

#[test]
fn hyper_parameters_are_those_of_the_program() {
    let (stage, model) = (tables("[[stage]]"), tables("[model]"));
    for (rows, parameters) in [(&stage, hyper_parameters()), (&model, ModelSpec::sizes())] {
        for parameter in parameters {
            let wanted = format!("| `{}` | {} | {} |", parameter.key, parameter.default, parameter.meaning);
            let row = rows.get(parameter.key).unwrap_or_else(|| panic!("docs/recipes.md lacks: {wanted}"));
            let found = format!("| `{}` | {} | {} |", parameter.key, row.default, row.meaning);
            assert_eq!(found, wanted);
        }
    }
    // Those of the stage as a whole are described in words.
    let keys = keys("[[stage]]\nname = \"x\"\nUNKNOWN");
    assert_eq!(stage.keys().filter(|key| !keys.contains(key)).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(keys.iter().filter(|key| !stage.contains_key(*key)).collect::<Vec<_>>(), Vec::<&String>::new());
    let sizes = toml::from_str::<Recipe>("stage = []").unwrap().model.spelled_out().unwrap();
    let sizes = serde_json::to_value(sizes).unwrap();
    for size in ModelSpec::sizes().iter().filter(|size| !["decoder_layers", "vocab"].contains(&size.key)) {
        assert_eq!(size.default, sizes[size.key].to_string().trim_matches('"'), "{}", size.key);
    }
    let keys = self::keys("[model]\nUNKNOWN");
    assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>(), model.keys().collect());
}

#[test]
fn the_page_names_every_preset_and_metric() {
    let page = page();
    let error = "no_such_metric".parse::<Metric>().unwrap_err().to_string();
    let metrics = error.split("there are ").nth(1).unwrap().split(", ").map(str::to_owned);
    for name in presets().map(str::to_owned).chain(metrics) {
        let found = page.match_indices(&name).any(|(at, _)| page[at + name.len()..].starts_with([',', ' ', '.', '\n']));
        assert!(found, "docs/recipes.md does not name {name}");
    }
}
