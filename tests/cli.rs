//! The program as a user meets it: what it prints, and how it refuses what it cannot use.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn t5(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_t5"));
    command.args(args).env_remove("T5_ADAPTER").env("T5_TUNE", "off");
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// The command fails with exit code 1 and an error that contains each of these; nothing panics.
#[track_caller]
fn refuses(command: &mut Command, expected: &[&str]) {
    let (code, _, stderr) = run(command);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("error: ") && !stderr.contains("panicked"), "{stderr}");
    for part in expected {
        assert!(stderr.contains(part), "`{part}` is not in:\n{stderr}");
    }
}

/// A copy of a golden folder, to be spoilt.
fn spoilt(name: &str, spoil: impl FnOnce(&Path)) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::create_dir(&path).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/t5v10");
    for entry in fs::read_dir(golden).unwrap() {
        let from = entry.unwrap().path();
        // Not `fs::copy`: it would keep files read-only.
        fs::write(path.join(from.file_name().unwrap()), fs::read(&from).unwrap()).unwrap();
    }
    spoil(&path);
    (folder, path)
}

#[track_caller]
fn verify_refuses(spoil: impl FnOnce(&Path), expected: &[&str]) {
    let (_folder, path) = spoilt("model", spoil);
    refuses(&mut t5(&["verify", "--golden", path.to_str().unwrap()]), expected);
}

fn edit_config(path: &Path, from: &str, to: &str) {
    let file = path.join("config.json");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(file, text.replace(from, to)).unwrap();
}

#[test]
fn devices_lists_the_adapter_in_use() {
    let (code, stdout, _) = run(&mut t5(&["devices"]));
    assert_eq!(code, Some(0));
    for part in ["* ", "driver", "compiler", "Next:"] {
        assert!(stdout.contains(part), "no `{part}` in {stdout}");
    }
    let (_, stdout, _) = run(&mut t5(&["devices", "--json"]));
    let list: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert!(list[0]["name"].is_string() && list[0]["max_binding"].is_u64(), "{list}");
    assert!(list[0]["compiler"].as_str().is_some_and(|text| text.contains("naga to")), "{list}");
}

#[test]
fn verify_passes_and_speaks_json() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/t5v10");
    let (code, stdout, stderr) = run(&mut t5(&["verify", "--golden", golden, "--json"]));
    assert_eq!(code, Some(0), "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["failed"], 0);
    assert!(report["comparisons"].as_u64() > Some(100));
}

#[test]
fn verify_runs_the_checks_that_are_asked_for() {
    let (code, stdout, _) = run(&mut t5(&["verify", "--list"]));
    assert_eq!(code, Some(0));
    let names: Vec<&str> = stdout.lines().collect();
    assert!(names.len() > 100 && ["add_into [7]", "t5v10"].iter().all(|name| names.contains(name)), "{stdout}");

    let (code, stdout, stderr) = run(&mut t5(&["verify", "--only", "add_into [7]", "--only", "add [3", "--json"]));
    assert_eq!(code, Some(0), "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let rows = report["rows"].as_array().unwrap().iter().map(|row| row["what"].as_str().unwrap());
    let ran: HashSet<&str> = rows.map(|what| &what[..what.find(']').unwrap() + 1]).collect();
    assert_eq!(ran, HashSet::from(["add_into [7]", "add [3, 5]"]));

    refuses(&mut t5(&["verify", "--only", "nosuch"]), &["no check has `nosuch` in its name", "--list"]);
}

/// A check that cannot fail is none: wrong weights must be noticed.
#[test]
fn verify_notices_wrong_weights() {
    let (_folder, path) = spoilt("model", |path| {
        let file = path.join("model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let at = bytes.len() - 400;
        bytes[at + 3] ^= 0x02;
        bytes[at + 2] ^= 0x40;
        fs::write(file, bytes).unwrap();
    });
    let (code, stdout, _) = run(&mut t5(&["verify", "--golden", path.to_str().unwrap()]));
    assert_eq!(code, Some(1));
    assert!(stdout.contains("FAILED"), "{stdout}");
}

#[test]
fn without_an_adapter_it_says_what_to_install() {
    let nowhere = "/nonexistent/icd.json";
    let mut command = t5(&["verify"]);
    command.env("VK_ICD_FILENAMES", nowhere).env("VK_DRIVER_FILES", nowhere);
    refuses(&mut command, &["no GPU adapter found", "install a Vulkan driver"]);
}

#[test]
fn an_unknown_adapter_is_answered_with_the_list() {
    refuses(&mut t5(&["verify", "--adapter", "nosuch"]), &["no adapter `nosuch`", "  0: "]);
    refuses(&mut t5(&["verify", "--adapter", "99"]), &["no adapter `99`"]);
}

#[test]
fn spoilt_model_folders_are_refused() {
    refuses(&mut t5(&["verify", "--golden", "/nonexistent/model"]), &["/nonexistent/model", "No such file"]);
    let model = |path: &Path| path.join("model.safetensors");
    verify_refuses(|p| fs::remove_file(model(p)).unwrap(), &["model.safetensors"]);
    let truncate = |p: &Path| {
        let bytes = fs::read(model(p)).unwrap();
        fs::write(model(p), &bytes[..bytes.len() / 2]).unwrap();
    };
    verify_refuses(truncate, &["model.safetensors"]);
    let hostile = |p: &Path| {
        let mut bytes = fs::read(model(p)).unwrap();
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        fs::write(model(p), bytes).unwrap();
    };
    verify_refuses(hostile, &["model.safetensors"]);
    verify_refuses(|p| fs::write(model(p), b"").unwrap(), &["model.safetensors"]);
}

#[test]
fn impossible_configurations_are_refused() {
    let absurd = |p: &Path| edit_config(p, "\"d_model\": 32", "\"d_model\": 1000000000");
    verify_refuses(absurd, &["config.json", "d_model"]);
    let activation = |p: &Path| edit_config(p, "\"feed_forward_proj\": \"relu\"", "\"feed_forward_proj\": \"swoosh\"");
    verify_refuses(activation, &["config.json", "swoosh"]);
    let missing = |p: &Path| edit_config(p, "\"num_layers\": 2", "\"num_layers\": 3");
    verify_refuses(missing, &["encoder.block.2"]);
    let shapes = |p: &Path| edit_config(p, "\"d_ff\": 64", "\"d_ff\": 72");
    verify_refuses(shapes, &["64", "72"]);
    verify_refuses(|p| fs::write(p.join("config.json"), "{").unwrap(), &["config.json"]);
}

#[test]
fn help_teaches() {
    for command in ["devices", "verify", "tokenize", "data", "tune"] {
        let (code, stdout, _) = run(&mut t5(&[command, "--help"]));
        assert_eq!(code, Some(0));
        assert!(stdout.lines().count() > 6 && stdout.contains("Usage: t5"), "{stdout}");
    }
    let (code, _, stderr) = run(&mut t5(&["nosuch"]));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("nosuch"), "{stderr}");
}

/// A golden model with the byte tokenizer beside it.
fn byte_model() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/byt5");
    for file in ["config.json", "model.safetensors"] {
        fs::write(folder.path().join(file), fs::read(golden.join(file)).unwrap()).unwrap();
    }
    let tokenizer = r#"{"tokenizer_class": "ByT5Tokenizer"}"#;
    fs::write(folder.path().join("tokenizer_config.json"), tokenizer).unwrap();
    let path = folder.path().to_path_buf();
    (folder, path)
}

#[test]
fn generate_gives_a_line_for_each_source() {
    let (folder, model) = byte_model();
    let lines = folder.path().join("lines.txt");
    fs::write(&lines, "abc\r\n\na longer line than the others\n").unwrap();
    let [model, lines] = [&model, &lines].map(|p| p.to_str().unwrap());
    let base = ["generate", "--model", model, "--quiet", "--max-new-tokens", "9"];
    let (code, plain, stderr) = run(t5(&base).args(["--file", lines]));
    assert_eq!((code, plain.lines().count(), stderr.as_str()), (Some(0), 3, ""));
    let (_, json, _) = run(t5(&base).args(["--file", lines, "--json", "--batch", "1"]));
    let objects: Vec<serde_json::Value> = json.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(objects[2]["source"], "a longer line than the others");
    for (object, line) in objects.iter().zip(plain.lines()) {
        assert_eq!(object["text"].as_str().unwrap().replace(['\n', '\r'], " "), line);
    }
    let (_, streamed, _) = run(t5(&base).arg("abc"));
    assert_eq!(streamed.lines().next(), plain.lines().next());
    let drawn = ["--temperature", "2", "--top-k", "50", "--top-p", "0.99", "--seed", "5", "abc"];
    let (_, first, _) = run(t5(&base).args(drawn));
    assert_eq!(run(t5(&base).args(drawn)).1, first);
}

#[test]
fn generate_tells_log_probabilities_and_ends_at_texts() {
    let (_folder, model) = byte_model();
    let model = model.to_str().unwrap();
    let base =
        ["generate", "--model", model, "--quiet", "--max-new-tokens", "9", "--min-new-tokens", "9", "--seed", "5"];
    let object = |flags: &[&str]| -> serde_json::Value {
        let (code, out, stderr) = run(t5(&base).args(flags).args(["--json", "abc"]));
        assert_eq!(code, Some(0), "{stderr}");
        serde_json::from_str(out.trim_end()).unwrap()
    };
    let drawn = ["--temperature", "2"];
    let told = object(&[&drawn[..], &["--alternatives", "2"]].concat());
    assert!(told["log_probs"].as_array().unwrap().iter().all(|p| p.as_f64().unwrap() < 0.0), "{told}");
    let places = told["alternatives"].as_array().unwrap();
    assert!(places.len() == told["log_probs"].as_array().unwrap().len() && places[0].as_array().unwrap().len() == 2);
    assert!(
        places[0][0]["log_prob"].as_f64() >= places[0][1]["log_prob"].as_f64() && places[0][0]["token"].is_string()
    );
    let untold = object(&drawn);
    assert!(
        untold["text"] == told["text"] && untold.get("log_probs").is_none() && untold.get("alternatives").is_none()
    );

    // The same as lines: each token's under its text.
    let (_, lines, _) = run(t5(&base).args(drawn).args(["--log-probs", "abc"]));
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 1 + places.len());
    for (line, expected) in lines[1..].iter().zip(told["log_probs"].as_array().unwrap()) {
        let number: f64 = line.strip_prefix('\t').unwrap().split('\t').next().unwrap().parse().unwrap();
        assert!((number - expected.as_f64().unwrap()).abs() < 1e-6, "{line}");
    }

    let text = told["text"].as_str().unwrap();
    let stop: String = text.chars().last().into_iter().collect();
    let (before, _) = text.split_once(&stop).unwrap();
    let cut = object(&[&drawn[..], &["--stop", "never there", "--stop", &stop]].concat());
    assert!(cut["text"] == before && cut["stop_string"] == stop.as_str() && cut["finished"] == true, "{cut}");
    let (_, streamed, _) = run(t5(&base).args(drawn).args(["--stop", &stop, "abc"]));
    assert_eq!(streamed, before.replace(['\n', '\r'], " ") + "\n");
    refuses(t5(&base).args(["--beams", "2", "--stop", "x", "abc"]), &["beams do not stop at texts"]);

    // What a text begins with counts, and is not printed; the source may be empty then.
    let begun = |text: &str, source: &str| {
        let (code, out, stderr) = run(t5(&base).args(drawn).args(["--json", "--begin", text, source]));
        assert_eq!(code, Some(0), "{stderr}");
        serde_json::from_str::<serde_json::Value>(out.trim_end()).unwrap()["ids"].clone()
    };
    let (plain, one) = (told["ids"].clone(), begun("xy", "abc"));
    assert!(one != plain && one != begun("xyz", "abc") && one == begun("xy", "abc"), "{one} {plain}");
    assert_eq!((one.as_array().map(Vec::len), begun("xy", "").as_array().map(Vec::len)), (Some(9), Some(9)));
    refuses(t5(&base).args(["--begin", "", "abc"]), &["the text \"\" has no tokens"]);
}

#[test]
fn tune_keeps_what_it_finds() {
    let (folder, model) = byte_model();
    let cache = folder.path().join("cache");
    let model = model.to_str().unwrap();
    let with_cache = |args: &[&str]| {
        let mut command = t5(args);
        command.env("T5_CACHE_DIR", &cache).env_remove("T5_TUNE");
        let (code, stdout, stderr) = run(&mut command);
        assert_eq!(code, Some(0), "{stderr}");
        (stdout, stderr)
    };
    let generate = ["generate", "--model", model, "--max-new-tokens", "4", "abc"];
    let (by_rule, _) = with_cache(&generate);
    // Compiled pipelines may be kept; timings are not, since a short command measures nothing.
    let timings = || -> Vec<PathBuf> {
        let entries = fs::read_dir(&cache).into_iter().flatten().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|e| e == "json")).collect()
    };
    assert_eq!(timings(), Vec::<PathBuf>::new(), "a short command measured something");

    let tune = ["tune", model, "--batch", "2", "--source-len", "16", "--target-len", "8"];
    let sources = |args: &[&str]| {
        let report: serde_json::Value = serde_json::from_str(&with_cache(args).0).unwrap();
        let choices = report["choices"].as_array().unwrap();
        assert!(choices.iter().all(|c| c["variant"].is_string()));
        (report["file"].as_str().unwrap().to_owned(), choices.iter().map(|c| c["source"].clone()).collect::<Vec<_>>())
    };
    let (file, measured) = sources(&[&tune[..], &["--json"]].concat());
    assert!(!measured.is_empty() && measured.iter().all(|source| source == "measured"), "{measured:?}");
    assert!(sources(&[&tune[..], &["--json"]].concat()).1.iter().all(|source| source == "cache"));
    assert!(sources(&[&tune[..], &["--json", "--force"]].concat()).1.iter().all(|source| source == "measured"));
    let (table, _) = with_cache(&tune);
    assert!(table.contains("GFLOP/s") && table.contains(&file) && table.contains("Next: "), "{table}");
    assert_eq!(with_cache(&generate).0, by_rule);

    fs::write(&file, "{").unwrap();
    let (text, stderr) = with_cache(&generate);
    assert!(text == by_rule && stderr.contains("warning: ") && stderr.contains(".json"), "{stderr}");
    refuses(t5(&["tune", "nosuch"]).env("T5_CACHE_DIR", &cache), &["nosuch"]);
    let (code, _, stderr) = run(t5(&generate).env("T5_TUNE", "perhaps"));
    assert!(code == Some(2) && stderr.contains("off, cache or on"), "{stderr}");
}

#[test]
fn generate_refuses_what_it_cannot_use() {
    let (folder, model) = byte_model();
    let latin = folder.path().join("latin.txt");
    fs::write(&latin, b"fine\ncaf\xe9\n").unwrap();
    let [model, latin] = [&model, &latin].map(|p| p.to_str().unwrap());
    refuses(&mut t5(&["generate", "--model", "no/such/folder", "x"]), &["no/such/folder", "--model"]);
    refuses(&mut t5(&["generate", "--model", model, "--file", latin]), &["latin.txt:2: not UTF-8"]);
    refuses(&mut t5(&["generate", "--model", model, "--top-p", "3", "x"]), &["top_p 3"]);
    let bare = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/flan");
    refuses(&mut t5(&["generate", "--model", bare, "x"]), &["no tokenizer"]);
}
