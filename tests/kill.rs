//! `kill -9` at random instants: every time the run goes on, and ends with the bytes of an undisturbed one.
//!
//! T5_KILLS sets how often (default 5).

#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Scratch, TINY, logged_steps, train, weights_and_moments};
use t5_wgpu::rng::{Purpose, Rng};
use t5_wgpu::train::Trainer;

const STEPS: u64 = 60;

#[test]
fn a_killed_run_ends_like_an_undisturbed_one() {
    let kills: u64 = std::env::var("T5_KILLS").ok().map_or(5, |n| n.parse().expect("T5_KILLS is a number"));
    let scratch = Scratch::new("kill");
    let pairs = scratch.pairs(64);
    let command = |out: &Path| {
        let mut command = train(&TINY);
        command.arg("--pairs").arg(&pairs).arg("--eval").arg(&pairs).arg("--out").arg(out);
        command.args(["--steps", &STEPS.to_string(), "--batch-size", "4", "--accumulate", "2", "--dropout", "0.1"]);
        command.args(["--save-every", "3", "--eval-every", "10", "--eval-examples", "8", "--log-every", "1"]);
        command.args(["--resume", "--quiet"]);
        // Kernels are measured by the first run; what a killed one goes by is in its own folder.
        command.env("T5_TUNE", "on").env("T5_CACHE_DIR", scratch.path("cache"));
        command
    };
    let whole = scratch.path("whole");
    // Once more before it is timed: the driver compiles shaders only once.
    assert!(command(&scratch.path("warm")).status().unwrap().success());
    let start = Instant::now();
    assert!(command(&whole).status().unwrap().success());
    let time = start.elapsed();

    let out = scratch.path("killed");
    let mut at_most = time;
    let (mut killed, mut steps) = (0, Vec::new());
    for kill in 0.. {
        let wait = at_most.mul_f64(Rng::new(kills, Purpose::Examples, &[kill]).uniform());
        let mut child = command(&out).stdin(Stdio::null()).spawn().unwrap();
        std::thread::sleep(wait);
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
        }
        steps.push(Trainer::load_state(&out).unwrap().map_or(0, |state| state.step));
        if steps.last() == Some(&STEPS) {
            // Done before all kills were dealt: begin again, and kill sooner.
            fs::remove_dir_all(&out).unwrap();
            at_most = at_most.mul_f64(0.7).max(Duration::from_millis(50));
        }
        if killed == kills {
            break;
        }
    }
    assert!(command(&out).status().unwrap().success(), "the last run");
    eprintln!("undisturbed {time:.1?}; {kills} kills, checkpoints found afterwards: {steps:?}");
    assert!(weights_and_moments(&whole) == weights_and_moments(&out), "another end than the undisturbed run's");
    let best = |out: &Path| fs::read(out.join("best/model.safetensors")).unwrap();
    assert!(best(&whole) == best(&out), "another best model");
    for out in [&whole, &out] {
        assert_eq!(logged_steps(out, "step"), (1..=STEPS).collect::<Vec<_>>(), "{}", out.display());
        assert_eq!(logged_steps(out, "evaluation"), (1..=STEPS / 10).map(|i| 10 * i).collect::<Vec<_>>());
        let mut names: Vec<_> = fs::read_dir(out).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["best", "last", "log.jsonl"]);
    }
}
