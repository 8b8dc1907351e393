//! The program under faults: files that are damaged or meant to harm, closed and full outputs, signals, folders that go.

#![cfg(all(feature = "cli", unix))]

#[macro_use]
mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Scratch, TINY, assert_says, outcome, run_recipe, train};
use serde_json::{Value, json};

const RECIPE: &str = tiny_recipe!(
    r#"
[tasks.t]
train = "pairs.tsv"
columns = ["source", "target"]
held_out = 0.2
[[stage]]
name = "a"
train = ["t"]
steps = 2
batch_size = 2
"#
);

fn t5() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_t5"));
    command.env("T5_TUNE", "off").env_remove("T5_ADAPTER");
    command
}

/// A line for the shell, in which $T5 is the program.
fn shell(folder: &Path, line: &str) -> Output {
    let mut command = Command::new("bash");
    command.args(["-c", line]).env("T5", env!("CARGO_BIN_EXE_t5")).env("T5_TUNE", "off").current_dir(folder);
    command.output().unwrap()
}

#[track_caller]
fn assert_fails((code, text): (Option<i32>, String), expected: &[&str]) {
    assert!(code == Some(1) && text.contains("error: ") && !text.contains("panicked"), "exit code {code:?}: {text}");
    assert_says(&text, expected);
}

#[test]
fn a_run_is_replaced_once_the_new_one_can_begin() {
    let scratch = Scratch::new("fault-replace");
    scratch.pairs(16);
    let (code, text) = run_recipe(&scratch, RECIPE, &[]);
    assert_eq!(code, Some(0), "{text}");
    let weights = scratch.path("o/a/last/model.safetensors");
    scratch.file("broken.tsv", b"a\tb\n\xff\tc\n");
    scratch.file("text.txt", b"fine\n\xff\n");
    let text = "[texts.words]\nfiles = \"text.txt\"\ninputs_len = 8\n\n[[stage]]\nname = \"b\"\ntrain = [\"words\"]\n";
    for (recipe, place) in [
        (RECIPE.replace("pairs.tsv", "broken.tsv"), "broken.tsv:2"),
        // A later stage, and text that is only read as it is trained on.
        (format!("{RECIPE}{text}"), "text.txt:2"),
        (RECIPE.replace("layers = 1", "layers = 1\nvocab = 64"), "64"),
    ] {
        assert_fails(run_recipe(&scratch, &recipe, &["--overwrite"]), &[place]);
        assert!(weights.exists(), "{place}");
    }
    let (code, text) = run_recipe(&scratch, &RECIPE.replace("\"a\"", "\"c\""), &["--overwrite"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(!scratch.path("o/a").exists() && scratch.path("o/c/last/model.safetensors").exists());
}

#[test]
fn what_a_run_has_not_written_outlives_it() {
    let scratch = Scratch::new("fault-strangers");
    scratch.pairs(16);
    let tested = format!("{RECIPE}[[stage]]\nname = \"b\"\nevaluate = [\"t\"]\n");
    assert_eq!(run_recipe(&scratch, &tested, &[]).0, Some(0));
    let weights = scratch.path("o/a/last/model.safetensors");
    // A model card moves on with the checkpoint that it lies in.
    for folder in ["best", "last"] {
        scratch.file(&format!("o/a/{folder}/README.md"), folder);
    }
    let (code, text) = run_recipe(&scratch, &tested.replace("steps = 2", "steps = 40"), &[]);
    assert_eq!(code, Some(0), "{text}");
    for folder in ["best", "last"] {
        assert_eq!(fs::read_to_string(scratch.path(&format!("o/a/{folder}/README.md"))).unwrap(), folder);
        assert!(!scratch.path(&format!("o/a/{folder}.old")).exists());
    }
    // A folder is not removed over it.
    for stranger in ["o/a/best/README.md", "o/b/predictions/mine.txt"] {
        let place = scratch.file(stranger, "mine");
        for folder in ["best", "last"] {
            let _ = fs::remove_file(scratch.path(&format!("o/a/{folder}/README.md")));
        }
        fs::write(&place, "mine").unwrap();
        assert_fails(run_recipe(&scratch, &tested, &["--overwrite"]), &[stranger, "has not written this"]);
        assert!(weights.exists() && scratch.path("o/b/metrics.json").exists());
        fs::remove_file(place).unwrap();
    }
    // Nor is what lies behind a link.
    fs::rename(scratch.path("o/a"), scratch.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", scratch.path("o/a")).unwrap();
    for more in [&["--overwrite"][..], &[]] {
        assert_fails(run_recipe(&scratch, &tested, more), &["o/a", "this is a link"]);
        assert!(scratch.path("elsewhere/last/model.safetensors").exists());
    }
    // A page is not written over anything else.
    fs::remove_file(scratch.path("o/a")).unwrap();
    fs::rename(scratch.path("elsewhere"), scratch.path("o/a")).unwrap();
    let page = |out: &str| outcome(&shell(&scratch.path(""), &format!("$T5 report o --out {out}")));
    assert_eq!((page("page.html").0, page("page.html").0), (Some(0), Some(0)));
    assert_fails(page("recipe.toml"), &["recipe.toml is there", "no page of `t5 report`"]);
    assert_eq!(fs::read_to_string(scratch.path("recipe.toml")).unwrap(), tested);
}

#[test]
fn nothing_of_others_is_removed() {
    let scratch = Scratch::new("fault-foreign");
    scratch.pairs(16);
    // A folder that is called as the stage is.
    fs::create_dir_all(scratch.path("o/a")).unwrap();
    scratch.file("o/a/p.jpg", "");
    assert_fails(run_recipe(&scratch, RECIPE, &["--overwrite"]), &["o/a", "no run of t5 made this"]);
    assert!(scratch.path("o/a/p.jpg").exists());
    fs::remove_dir_all(scratch.path("o")).unwrap();
    // The recipe in a run's folder names another one.
    assert_eq!(run_recipe(&scratch, RECIPE, &[]).0, Some(0));
    let kept = fs::read_to_string(scratch.path("o/recipe.toml")).unwrap();
    scratch.file("o/recipe.toml", kept.replace("name = \"a\"", "name = \"../victim\""));
    fs::create_dir(scratch.path("victim")).unwrap();
    scratch.file("victim/log.jsonl", "");
    assert_fails(run_recipe(&scratch, RECIPE, &["--overwrite"]), &["recipe.toml", "../victim"]);
    assert!(scratch.path("victim/log.jsonl").exists());
    scratch.file("o/recipe.toml", kept);
    // A stage that is new, and a folder of its name that is not.
    fs::create_dir(scratch.path("o/b")).unwrap();
    assert_fails(
        run_recipe(&scratch, &RECIPE.replace("\"a\"", "\"b\""), &["--overwrite"]),
        &["o/b", "no stage of the run"],
    );
    // The user's own recipe, where a run would put its.
    let (code, text) =
        outcome(&t5().current_dir(scratch.path("")).args(["run", "recipe.toml", "--out", "."]).output().unwrap());
    assert_fails((code, text), &["recipe.toml", "no run of t5 made this"]);
    assert!(!fs::read_to_string(scratch.path("recipe.toml")).unwrap().contains("weight_decay"));
}

#[test]
fn an_interrupted_start_blocks_nothing() {
    let scratch = Scratch::new("fault-start");
    let (pairs, out) = (scratch.pairs(16), scratch.path("run"));
    let begin = || {
        let mut command = train(&TINY);
        outcome(&command.args(["--steps", "2", "--pairs"]).arg(&pairs).arg("--out").arg(&out).output().unwrap())
    };
    fs::create_dir(&out).unwrap();
    scratch.file("run/.t5-run", "");
    scratch.file("run/log.jsonl", "{\"event\":\"st");
    fs::create_dir(scratch.path("run/last.partial")).unwrap();
    let (code, text) = begin();
    assert_eq!(code, Some(0), "{text}");
    assert!(!scratch.path("run/last.partial").exists());
    // Lines that somebody spoilt are counted, and the run goes on.
    let log = fs::read_to_string(out.join("log.jsonl")).unwrap();
    fs::write(out.join("log.jsonl"), format!("rubbish\n{{\"event\":1}}\n{log}")).unwrap();
    let (code, text) = outcome(&train(&["--resume", "--steps", "3", "--out"]).arg(&out).output().unwrap());
    assert!(code == Some(0) && text.contains("2 lines are no events"), "{text}");
    // So are settings.
    let state = out.join("last/training_state/state.json");
    let good = fs::read_to_string(&state).unwrap();
    fs::write(&state, good.replace("\"batch_size\": 32", "\"batch_size\": 0")).unwrap();
    let resumed = outcome(&train(&["--resume", "--steps", "4", "--out"]).arg(&out).output().unwrap());
    assert_fails(resumed, &["state.json", "batch_size"]);
}

#[test]
fn a_closed_or_full_output_does_not_panic() {
    let scratch = Scratch::new("fault-output");
    for command in
        ["devices", "bench --predict --model t5-small", "show-objective --list", "tokenize -t bytes x", "man"]
    {
        let closed = shell(&scratch.path(""), &format!("$T5 {command} 2>err | true; exit ${{PIPESTATUS[0]}}"));
        let said = fs::read_to_string(scratch.path("err")).unwrap();
        assert!(closed.status.code() == Some(0) && said.is_empty(), "{command} | true: {closed:?} {said}");
        let full = outcome(&shell(&scratch.path(""), &format!("$T5 {command} >/dev/full")));
        assert_fails(full, &["cannot write to standard output: No space left"]);
    }
    let untold = shell(&scratch.path(""), "$T5 tokenize --tokenizer missing x 2>/dev/full");
    assert_eq!(untold.status.code(), Some(1));
}

#[test]
fn lost_json_is_an_error() {
    let scratch = Scratch::new("fault-json");
    scratch.pairs(16);
    let tiny = TINY.join(" ");
    let train = format!("$T5 train --pairs pairs.tsv --steps 2 {tiny} --json --overwrite --out run");
    for command in [&*train, "$T5 generate --model run --json w1", "$T5 eval --model run --pairs pairs.tsv --json"] {
        let full = outcome(&shell(&scratch.path(""), &format!("{command} >/dev/full")));
        assert_fails(full, &["cannot write to standard output: No space left"]);
        // A reader that has had enough is no failure, and the work is done all the same.
        let closed = shell(&scratch.path(""), &format!("{command} | true; exit ${{PIPESTATUS[0]}}"));
        assert_eq!(closed.status.code(), Some(0), "{command} | true: {closed:?}");
        assert!(scratch.path("run/last/model.safetensors").exists());
    }
}

/// A recipe that learns a tokenizer, trains with it, and evaluates.
fn learning() -> String {
    let test = "[[stage]]\nname = \"test\"\nevaluate = [\"t\"]\n";
    format!("{RECIPE}{test}[tokenizer]\nvocab_size = 60\nsentinels = 10\n")
}

#[test]
fn damage_to_a_run_is_named_and_never_passes_for_done() {
    let scratch = Scratch::new("fault-damage");
    scratch.pairs(64);
    let (code, text) = run_recipe(&scratch, &learning(), &[]);
    assert_eq!(code, Some(0), "{text}");
    let goes_on = || run_recipe(&scratch, &learning(), &[]);
    let generate = || outcome(&shell(&scratch.path(""), "$T5 generate --model o w1"));
    let resume = || outcome(&shell(&scratch.path(""), "$T5 train --resume --out o/a"));
    // The tokenizer, of which every checkpoint has a copy.
    let (learned, copy) = (scratch.path("o/tokenizer/tokenizer.json"), scratch.path("o/a/last/tokenizer.json"));
    let whole = fs::read(&learned).unwrap();
    fs::write(&learned, &whole[..whole.len() / 2]).unwrap();
    let (code, text) = goes_on();
    assert_fails(
        (code, text.clone()),
        &["o/tokenizer: stage a was trained with another tokenizer", "put back", "o/a/last\""],
    );
    assert!(!text.contains("remove"), "{text}");
    fs::copy(copy, learned).unwrap();
    assert_eq!(goes_on().0, Some(0));
    // Weights.
    for weights in ["o/a/last/model.safetensors", "o/a/best/model.safetensors"] {
        let weights = scratch.path(weights);
        let whole = fs::read(&weights).unwrap();
        fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
        for outcome in [goes_on(), generate(), resume()] {
            assert_fails(outcome, &[&weights.display().to_string()[scratch.path("").display().to_string().len()..]]);
        }
        fs::write(&weights, whole).unwrap();
    }
    fs::rename(scratch.path("o/a/best"), scratch.path("kept")).unwrap();
    for outcome in [goes_on(), generate(), resume()] {
        assert_fails(outcome, &["o/a/best: the run's best checkpoint (t/loss", "is missing", "a/last\""]);
    }
    fs::rename(scratch.path("kept"), scratch.path("o/a/best")).unwrap();
    assert_eq!(goes_on().0, Some(0));
}

#[test]
fn a_pipe_in_the_place_of_a_file_does_not_block() {
    let scratch = Scratch::new("fault-pipe");
    scratch.pairs(64);
    assert_eq!(run_recipe(&scratch, &learning(), &[]).0, Some(0));
    for file in [
        "o/stages.json",
        "o/recipe.toml",
        "o/tokenizer/tokenizer.json",
        "o/a/best/config.json",
        "o/a/last/model.safetensors",
        "o/a/last/training_state/state.json",
    ] {
        let path = scratch.path(file);
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        for command in ["run recipe.toml --out o", "generate --model o w1", "report o --out page.html"] {
            let (code, text) = outcome(&shell(&scratch.path(""), &format!("timeout 60 $T5 {command}")));
            assert_ne!(code, Some(124), "{file}: `{command}` waits for ever: {text}");
            assert!(!text.contains("panicked"), "{text}");
            if command.starts_with("run") {
                assert_fails((code, text), &["a pipe or a device"]);
            }
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(run_recipe(&scratch, &learning(), &[]).0, Some(0));
}

#[test]
fn text_in_utf_16_is_named_as_such() {
    let scratch = Scratch::new("fault-utf16");
    let encoded = |text: &str, mark: [u8; 2], bytes: fn(u16) -> [u8; 2]| {
        [mark.to_vec(), text.encode_utf16().flat_map(bytes).collect()].concat()
    };
    let remedy = ["UTF-16", "iconv -f utf-16 -t utf-8"];
    for (mark, bytes) in [([0xff, 0xfe], u16::to_le_bytes as fn(u16) -> [u8; 2]), ([0xfe, 0xff], u16::to_be_bytes)] {
        scratch.file("recipe.toml", encoded(RECIPE, mark, bytes));
        assert_fails(outcome(&shell(&scratch.path(""), "$T5 run recipe.toml")), &remedy);
        for name in ["pairs.tsv", "pairs.csv", "pairs.jsonl"] {
            scratch.file(name, encoded("a\tb\nc\td\n", mark, bytes));
            // Nor are its lines left out one by one.
            let train = format!("$T5 train --pairs {name} --on-bad-row skip --out run");
            assert_fails(outcome(&shell(&scratch.path(""), &train)), &[&[name][..], &remedy].concat());
        }
        assert_fails(outcome(&shell(&scratch.path(""), "$T5 tokenize -t bytes --file pairs.tsv")), &remedy);
    }
}

#[test]
fn nothing_moves_on_a_dumb_terminal() {
    let scratch = Scratch::new("fault-dumb");
    scratch.pairs(16);
    let train = format!("$T5 train --pairs pairs.tsv --steps 2 {} --overwrite --out run", TINY.join(" "));
    // `script` gives the program a terminal.
    let on = |term: &str| {
        let output = shell(&scratch.path(""), &format!("TERM={term} script -qec '{train}' /dev/null </dev/null"));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    if shell(&scratch.path(""), "command -v script").status.success() {
        assert!(on("xterm").contains('\u{1b}'), "the test sees no escapes where there are some");
        assert!(!on("dumb").contains('\u{1b}'), "{}", on("dumb"));
    }
}

#[test]
fn what_files_say_does_not_reach_the_terminal_raw() {
    let scratch = Scratch::new("fault-escapes");
    scratch.pairs(16);
    let hostile = r"\u001b]0;PWNED\u0007";
    for recipe in [
        format!("about = \"{hostile}\"\n{RECIPE}"),
        RECIPE.replace("d_ff = 16", &format!("\"{hostile}\" = 16")),
        RECIPE.replace("[\"t\"]", &format!("[\"{hostile}\"]")),
    ] {
        let (_, text) = run_recipe(&scratch, &recipe, &["--overwrite"]);
        assert!(text.contains("u001b]0;PWNED") && !text.contains('\u{1b}'), "{text}");
    }
    // Data stay as they are where no terminal reads them.
    let output = t5().args(["tokenize", "-t", "bytes", "--decode", "30 96"]).output().unwrap();
    assert_eq!(output.stdout, b"\x1b]\n");
}

#[test]
fn limits_are_named() {
    let scratch = Scratch::new("fault-limits");
    let line = fs::File::create(scratch.path("line.txt")).unwrap();
    line.set_len(70 << 20).unwrap();
    for file in ["line.txt", "/dev/zero"] {
        let command = format!("$T5 tokenizer train {file} --vocab-size 60 --sentinels 4 --out tk");
        assert_fails(outcome(&shell(&scratch.path(""), &command)), &[file, "more than 64 MiB"]);
    }
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::copy(&mut fs::File::open(scratch.path("line.txt")).unwrap(), &mut packed).unwrap();
    scratch.file("line.txt.gz", packed.finish().unwrap());
    let command = "$T5 tokenizer train line.txt.gz --vocab-size 60 --sentinels 4 --out tk";
    assert_fails(outcome(&shell(&scratch.path(""), command)), &["line.txt.gz:1", "more than 64 MiB"]);
    let csv = "train --pairs line.csv --out o";
    fs::rename(scratch.path("line.txt"), scratch.path("line.csv")).unwrap();
    assert_fails(outcome(&shell(&scratch.path(""), &format!("$T5 {csv}"))), &["line.csv", "more than 64 MiB"]);
    assert_fails(outcome(&shell(&scratch.path(""), "$T5 run /dev/zero")), &["/dev/zero", "a pipe or a device"]);
    let prefetch = format!("$T5 train --pairs {} --prefetch 4294967296 --out o", scratch.pairs(16).display());
    assert_fails(outcome(&shell(&scratch.path(""), &prefetch)), &["--prefetch: at most 256 threads"]);
    for flag in ["--batch-size", "--eval-batch-size"] {
        let rows = format!("$T5 train --pairs {} {flag} 4294967296 --out o", scratch.pairs(16).display());
        assert_fails(outcome(&shell(&scratch.path(""), &rows)), &[flag, "at most 65,536"]);
    }
}

/// A tokenizer.json of a few pieces with these steps.
fn tokenizer(normalizer: &Value, decoder: &Value) -> String {
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": true, "special": true})
    };
    let vocab = json!({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "": 4});
    let model = json!({"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": []});
    json!({"version": "1.0", "added_tokens": [added(0, "<pad>"), added(1, "</s>")], "normalizer": normalizer,
        "pre_tokenizer": null, "post_processor": null, "decoder": decoder, "model": model})
    .to_string()
}

#[test]
fn damaged_and_hostile_tokenizers_are_errors() {
    let scratch = Scratch::new("fault-tokenizer");
    let plain = tokenizer(&Value::Null, &Value::Null);
    let tokenize = |contents: &str, more: &str| {
        scratch.file("tokenizer.json", contents);
        outcome(&shell(
            &scratch.path(""),
            &format!("ulimit -v 4000000; $T5 tokenize --tokenizer tokenizer.json {more}"),
        ))
    };
    assert_eq!(tokenize(&plain, "a").0, Some(0));
    for end in [plain.len() / 3, plain.len() / 2, plain.len() - 1] {
        assert_fails(tokenize(&plain[..end], "a"), &["tokenizer.json:1", "cut short"]);
    }
    let replace = |n: usize| json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(n)});
    let six = |key: &str| json!({"type": "Sequence", key: vec![replace(100); 6]});
    assert_fails(tokenize(&tokenizer(&six("normalizers"), &Value::Null), "a"), &["its normalizer", "times as long"]);
    assert_fails(tokenize(&tokenizer(&Value::Null, &six("decoders")), "a"), &["its decoder", "times as long"]);
    let long = tokenize(&tokenizer(&replace(60_000), &Value::Null), &"a".repeat(9000));
    assert_fails(long, &["a text of 9000 bytes", "break the text into lines"]);
    // The tokenizers crate panics over this one: the pieces are shown as they are.
    let strip = json!({"type": "Strip", "content": " ", "start": 0, "stop": 1});
    let (code, text) = tokenize(&tokenizer(&Value::Null, &strip), "--decode 4");
    assert!(code == Some(0) && text.is_empty(), "{text}");
}

#[test]
fn a_tokenizer_is_replaced_whole_or_not_at_all() {
    let scratch = Scratch::new("fault-force");
    let text: String = (0..99).map(|i| format!("some words of number {i} and more\n")).collect();
    scratch.file("text.txt", text);
    let train = "$T5 tokenizer train text.txt --sentinels 4 --allow-smaller --out tk";
    assert!(shell(&scratch.path(""), &format!("{train} --vocab-size 40")).status.success());
    let before = fs::read(scratch.path("tk/tokenizer.json")).unwrap();
    let full = shell(&scratch.path(""), &format!("trap '' XFSZ; ulimit -f 2; {train} --vocab-size 60 --force"));
    assert_fails(outcome(&full), &["tokenizer.json"]);
    assert!(before == fs::read(scratch.path("tk/tokenizer.json")).unwrap());
    assert_eq!(fs::read_dir(scratch.path("tk")).unwrap().count(), 2, "a temporary file is left");
}

#[test]
fn what_diverged_is_neither_saved_nor_a_success() {
    let scratch = Scratch::new("fault-diverged");
    scratch.pairs(16);
    let diverging = "steps = 60\nsave_every = 5\nlr = 1e6\nwarmup = 0\noptimizer = \"adafactor\"";
    let (code, text) = run_recipe(&scratch, &RECIPE.replace("steps = 2", diverging), &["--quiet"]);
    assert_eq!(code, Some(1), "{text}");
    if let Ok(state) = fs::read_to_string(scratch.path("o/a/last/training_state/state.json")) {
        assert!(state.contains("\"skipped_in_a_row\": 0,"), "{state}");
    }
    let idle = RECIPE.replace("steps = 2", "steps = 8\nz_loss = 1e38");
    assert_fails(
        run_recipe(&scratch, &idle, &["--quiet", "--overwrite"]),
        &["the last 8 steps changed nothing", "--lr"],
    );
    assert!(!scratch.path("o/a/last").exists());
}

/// A long training, as soon as it has logged a step.
fn training(scratch: &Scratch, wrapper: &[&str]) -> Child {
    let (pairs, out) = (scratch.pairs(64), scratch.path("run"));
    let mut command = Command::new(wrapper.first().unwrap_or(&env!("CARGO_BIN_EXE_t5")));
    command.args(wrapper.iter().skip(1));
    if !wrapper.is_empty() {
        command.arg(env!("CARGO_BIN_EXE_t5"));
    }
    command.arg("train").args(TINY).arg("--pairs").arg(&pairs).arg("--out").arg(&out).env("T5_TUNE", "off");
    command.args(["--steps", "1000000", "--save-every", "1000000", "--log-every", "1"]);
    let child = command.stderr(Stdio::piped()).stdout(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while fs::metadata(out.join("log.jsonl")).map_or(0, |m| m.len()) == 0 && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn send(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// As under `nohup`, whose children inherit it.
fn ignores_hangups() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}

#[test]
fn every_signal_that_ends_a_run_saves_it() {
    for (signal, expected) in [("-TERM", 143), ("-HUP", 129)] {
        if signal == "-HUP" && ignores_hangups() {
            eprintln!("not tested: whoever started the tests wants them to outlive their terminal");
            continue;
        }
        let scratch = Scratch::new(&format!("fault-signal{signal}"));
        let child = training(&scratch, &[]);
        send(&child, signal);
        let (code, text) = outcome(&child.wait_with_output().unwrap());
        assert_eq!(code, Some(expected), "{text}");
        assert!(text.contains("t5 train --resume --out"), "{text}");
        assert!(scratch.path("run/last/training_state/state.json").exists());
    }
}

#[test]
fn nohup_outlives_its_terminal() {
    let scratch = Scratch::new("fault-nohup");
    let mut child = training(&scratch, &["nohup"]);
    send(&child, "-HUP");
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none());
    send(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_signal_before_there_is_something_to_save_ends_at_once() {
    let scratch = Scratch::new("fault-early");
    let text: String = (0..200_000).map(|i: u64| format!("{} {} {}\n", i * 7919, i * 104_729, i * 1_299_709)).collect();
    scratch.file("text.txt", text);
    let learned = "[tokenizer]\nvocab_size = 8000\nfiles = \"text.txt\"\nsentinels = 4\n";
    scratch.pairs(16);
    let recipe = scratch.file("recipe.toml", format!("{RECIPE}{learned}"));
    let mut command = t5();
    command.arg("run").arg(recipe).arg("--out").arg(scratch.path("o"));
    let child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    while !scratch.path("o/recipe.toml").exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(100));
    send(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    // Saved, it would have ended with 130. How long it takes depends on what else the machine is doing.
    assert_eq!(output.status.signal(), Some(2), "{output:?}");
    assert!(!scratch.path("o/a").exists());
}

#[test]
fn a_folder_is_one_process_own_and_its_loss_an_error() {
    let scratch = Scratch::new("fault-gone");
    let child = training(&scratch, &[]);
    let second =
        train(&["--resume", "--out"]).arg(scratch.path("run")).arg("--pairs").arg(scratch.path("pairs.tsv")).output();
    assert_fails(outcome(&second.unwrap()), &["another process is working in this folder"]);
    fs::remove_dir_all(scratch.path("run")).unwrap();
    let (code, text) = outcome(&child.wait_with_output().unwrap());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the run's folder was removed"), "{text}");
    assert!(!scratch.path("run").exists());
}

#[test]
fn shells_and_man_know_the_commands() {
    let scratch = Scratch::new("fault-shell");
    for kind in ["bash", "zsh", "fish"] {
        let output = t5().args(["completions", kind]).output().unwrap();
        assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().contains("show-objective"));
    }
    assert!(t5().args(["man", "--out"]).arg(scratch.path("man1")).status().unwrap().success());
    let page = fs::read_to_string(scratch.path("man1/t5-train.1")).unwrap();
    assert!(page.contains("batch\\-size"), "{page}");
    // A number below 0 is a value.
    let output = t5().args(["tokenize", "-t", "bytes", "-5"]).output().unwrap();
    assert_eq!(output.stdout, b"-:48 5:56 </s>:1\n");
    let (code, text) = outcome(
        &t5().args(["train", "--lr", "-1", "--pairs"]).arg(scratch.pairs(8)).args(["--out", "o"]).output().unwrap(),
    );
    assert_fails((code, text), &["--lr: the learning rate -1 is not a positive number"]);
}
