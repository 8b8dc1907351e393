//! `t5 train` when something is wrong: what it says, and how it exits.

#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Scratch, TINY, outcome, train, weights_and_moments};

/// Runs a short training on `pairs` with further flags.
fn run(pairs: &Path, out: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut command = train(&TINY);
    command.arg("--pairs").arg(pairs).arg("--out").arg(out).args(["--steps", "4", "--batch-size", "2"]).args(more);
    outcome(&command.output().unwrap())
}

#[track_caller]
fn assert_fails((code, text): (Option<i32>, String), expected: &[&str]) {
    assert!(matches!(code, Some(1 | 2)), "exit code {code:?}: {text}");
    assert!(text.contains("error: "), "{text}");
    for part in expected {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn bad_files_are_named_with_their_lines() {
    let scratch = Scratch::new("cli-files");
    let out = scratch.path("run");
    let cases: [(&str, &[u8], &[&str]); 6] = [
        ("empty.tsv", b"", &["empty.tsv", "holds no text"]),
        ("blank.tsv", b"\n\n", &["blank.tsv", "holds no text"]),
        ("tab.tsv", b"a\tb\nno tab here\n", &["tab.tsv:2"]),
        ("utf8.tsv", b"a\tb\nc\td\n\xff\xfe\tx\n", &["utf8.tsv:3", "UTF-8"]),
        ("json.jsonl", b"{\"source\": \"a\"}\n", &["json.jsonl:1", "target"]),
        ("pairs.txt", b"a,b\n", &["pairs.txt"]),
    ];
    for (name, contents, expected) in cases {
        assert_fails(run(&scratch.file(name, contents), &out, &[]), expected);
    }
    assert_fails(run(&scratch.path("missing.tsv"), &out, &[]), &["missing.tsv", "No such file"]);
    let good = scratch.pairs(8);
    assert_fails(run(&good, &out, &["--eval", "nowhere.tsv"]), &["nowhere.tsv", "No such file"]);
    assert!(!out.exists(), "a folder was made for a run that never began");
}

#[test]
fn too_long_is_skipped_cut_or_refused() {
    let scratch = Scratch::new("cli-long");
    let file = scratch.file("long.tsv", format!("{}\tb\nc\td\ne\tf\n", "a".repeat(100)));
    let limit = ["--max-source", "20", "--too-long"];
    let with = |how| [&limit[..], &[how]].concat();
    let (code, text) = run(&file, &scratch.path("skip"), &limit[..2]);
    assert!(
        code == Some(0) && text.contains("1 examples longer than 20 source") && text.contains("left out"),
        "{text}"
    );
    let (code, text) = run(&file, &scratch.path("cut"), &with("truncate"));
    assert!(code == Some(0) && text.contains("1 examples longer") && text.contains("are cut"), "{text}");
    assert_fails(run(&file, &scratch.path("error"), &with("error")), &["long.tsv:1", "101 source", "20"]);
    let all = scratch.file("all.tsv", format!("{}\tb\n", "a".repeat(100)));
    assert_fails(run(&all, &scratch.path("none"), &limit[..2]), &["all 1 examples", "raise max_source"]);
}

#[test]
fn folders_are_not_overwritten_unasked() {
    let scratch = Scratch::new("cli-folder");
    let (pairs, out) = (scratch.pairs(8), scratch.path("run"));
    assert_fails(run(&pairs, &scratch.file("file", "x").join("run"), &[]), &["file"]);
    assert_fails(run(&pairs, Path::new("/proc/t5-run"), &[]), &["/proc/t5-run"]);
    assert_eq!(run(&pairs, &out, &[]).0, Some(0));
    let before = weights_and_moments(&out);
    assert_fails(run(&pairs, &out, &[]), &["--resume", "--overwrite"]);
    // What is wrong with a new run shows before the old one goes.
    assert_fails(run(&scratch.path("missing.tsv"), &out, &["--overwrite"]), &["missing.tsv"]);
    assert!(before == weights_and_moments(&out));
    assert_eq!(run(&pairs, &out, &["--overwrite", "--seed", "7"]).0, Some(0));
    assert!(before != weights_and_moments(&out));
}

#[test]
fn resuming_keeps_to_the_run() {
    let scratch = Scratch::new("cli-resume");
    let (pairs, out) = (scratch.pairs(8), scratch.path("run"));
    let resume = |more: &[&str]| outcome(&train(&["--resume", "--out"]).arg(&out).args(more).output().unwrap());
    assert_fails(resume(&[]), &["no run to resume"]);
    assert_eq!(run(&pairs, &out, &["--optimizer", "adafactor"]).0, Some(0));
    assert_fails(
        resume(&["--lr", "0.5", "--batch-size", "3"]),
        &["lr is 0.01 in the run", "batch_size is 2 in the run"],
    );
    assert_fails(resume(&["--steps", "3"]), &["step 4"]);
    assert_eq!(run(&pairs, &out, &["--optimizer", "adafactor", "--resume"]).0, Some(0));
    assert_eq!(resume(&["--steps", "5", "--recompute"]).0, Some(0));
    assert_eq!(resume(&["--steps", "6"]).0, Some(0));
    let state = fs::read_to_string(out.join("last/training_state/state.json")).unwrap();
    assert!(state.contains("\"step\": 6,") && state.contains("\"recompute\": true"), "{state}");
    fs::write(out.join("last/training_state/state.json"), state.replace("\"format\": 4", "\"format\": 9")).unwrap();
    assert_fails(resume(&[]), &["state.json", "format is 9"]);
}

#[test]
fn impossible_settings_are_refused() {
    let scratch = Scratch::new("cli-settings");
    let (pairs, out) = (scratch.pairs(8), scratch.path("run"));
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--preset", "t5-tiny"], &["t5-tiny", "t5-small"]),
        (&["--optimizer", "sgd"], &["sgd", "adamw"]),
        (&["--schedule", "cosin"], &["cosin", "cosine"]),
        (&["--activation", "softplus"], &["softplus", "gated-"]),
        (&["--vocab", "100"], &["an embedding of 100 rows", "--tokenizer"]),
        (&["--lr", "0"], &["learning rate"]),
        (&["--dropout", "1"], &["dropout"]),
        (&["--tokenizer", "nowhere.model"], &["nowhere.model"]),
    ];
    for (flags, expected) in cases {
        assert_fails(run(&pairs, &out, flags), expected);
    }
    assert_fails(outcome(&train(&["--out"]).arg(&out).output().unwrap()), &["--text", "--pairs"]);
    let output = train(&["--model", "nowhere", "--pairs"]).arg(&pairs).arg("--out").arg(&out).output().unwrap();
    assert_fails(outcome(&output), &["nowhere", "model folder"]);
    assert!(!out.exists());
}

#[test]
fn a_saved_folder_can_be_fine_tuned() {
    let scratch = Scratch::new("cli-finetune");
    let (pairs, out) = (scratch.pairs(8), scratch.path("run"));
    assert_eq!(run(&pairs, &out, &["--eval", pairs.to_str().unwrap()]).0, Some(0));
    for start in ["best", "last"] {
        let mut command = train(&["--steps", "2", "--batch-size", "2", "--model"]);
        command.arg(out.join(start)).arg("--pairs").arg(&pairs).arg("--out").arg(scratch.path(start));
        let (code, text) = outcome(&command.output().unwrap());
        assert_eq!(code, Some(0), "{text}");
    }
}

#[test]
fn minutes_fix_the_steps() {
    let scratch = Scratch::new("cli-minutes");
    let (pairs, out) = (scratch.pairs(64), scratch.path("run"));
    let start = Instant::now();
    let mut command = train(&TINY);
    command.arg("--pairs").arg(&pairs).arg("--out").arg(&out).args(["--minutes", "0.08", "--batch-size", "4"]);
    let (code, text) = outcome(&command.output().unwrap());
    assert_eq!(code, Some(0), "{text}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let state: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("last/training_state/state.json")).unwrap()).unwrap();
    let steps = state["settings"]["steps"].as_u64().unwrap();
    assert!((2..1_000_000).contains(&steps), "{steps}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let scratch = Scratch::new("cli-interrupt");
    let (pairs, out) = (scratch.pairs(64), scratch.path("run"));
    let mut command = train(&TINY);
    command.arg("--pairs").arg(&pairs).arg("--out").arg(&out);
    command.args(["--steps", "1000000", "--save-every", "1000000", "--log-every", "1"]);
    let child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let log = out.join("log.jsonl");
    let start = Instant::now();
    while fs::metadata(&log).map_or(0, |m| m.len()) == 0 && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let (code, text) = outcome(&child.wait_with_output().unwrap());
    assert_eq!(code, Some(130), "{text}");
    assert!(text.contains("t5 train --resume --out"), "{text}");
    assert!(out.join("last/training_state/state.json").exists());
}

/// A small file system of its own fills up; needs the right to mount one.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_last_checkpoint_alone() {
    let scratch = Scratch::new("cli-full");
    let pairs = scratch.pairs(8);
    let disk = scratch.path("disk");
    fs::create_dir(&disk).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "t5-test"]).arg(&disk).output();
    if !mount.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("not tested: no file system can be mounted here ({mount:?})");
        return;
    }
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.0).status();
        }
    }
    let _unmount = Unmount(&disk);
    let out = disk.join("run");
    let (code, text) = run(&pairs, &out, &[]);
    assert_eq!(code, Some(0), "{text}");
    let before = weights_and_moments(&out);
    let free: usize = 1 << 20;
    let used: usize = before.iter().map(Vec::len).sum();
    // Leaves room for less than another checkpoint.
    fs::write(disk.join("filler"), vec![0; free - used - used / 2 - 16384]).unwrap();
    let (code, text) = outcome(&train(&["--resume", "--steps", "8", "--out"]).arg(&out).output().unwrap());
    assert_fails((code, text), &["No space left", "free some space", "--resume"]);
    assert!(before == weights_and_moments(&out), "the checkpoint was touched");
    fs::remove_file(disk.join("filler")).unwrap();
    let (code, text) = outcome(&train(&["--resume", "--steps", "8", "--out"]).arg(&out).output().unwrap());
    assert_eq!(code, Some(0), "{text}");
}
