//! Every op on the adapter at hand against its f64 oracle, and every gradient rule against finite differences.

mod common;

use std::process::{Child, Command, Stdio};

use t5_wgpu::gpu::Gpu;
use t5_wgpu::verify::{Case, Row, cases, check_gradients, check_kernels};

fn gpu() -> Gpu {
    let gpu = common::gpu();
    eprintln!("adapter: {} ({})", gpu.caps().name, gpu.caps().driver_info);
    gpu
}

#[track_caller]
fn assert_all(rows: Vec<Row>) {
    assert!(!rows.is_empty());
    let failed: Vec<String> = rows
        .iter()
        .filter(|r| !r.passed())
        .map(|r| format!("{}: {:.2e} > {:.0e}", r.what, r.error, r.tolerance))
        .collect();
    assert!(failed.is_empty(), "{} of {} comparisons failed:\n{}", failed.len(), rows.len(), failed.join("\n"));
}

/// Each core runs its share of the cases in a process of its own, since lavapipe compiles one kernel at a time in a process.
///
/// `T5_TEST_QUARTER=N`, of 0 to 3, leaves out three quarters of attention's cases: lavapipe compiles their kernels for five seconds
/// each, nine tenths of the time of this test. For trials of further drivers, beside one that runs all.
#[test]
fn kernels_match_the_oracle() {
    const SHARE: &str = "T5_TEST_SHARE";
    let quarter = std::env::var("T5_TEST_QUARTER").ok().map(|n| n.parse::<usize>().expect("a number from 0 to 3"));
    if let Ok(share) = std::env::var(SHARE) {
        let (first, step) = share.split_once('/').expect("FIRST/STEP");
        let (first, step) = (first.parse().unwrap(), step.parse().unwrap());
        let gpu = gpu();
        let is_wanted = |(i, case): &(usize, Case)| {
            quarter.is_none_or(|quarter| i % 4 == quarter || !case.name.starts_with("attention "))
        };
        let cases = cases().into_iter().enumerate().filter(is_wanted).map(|(_, case)| case).skip(first).step_by(step);
        return assert_all(cases.flat_map(|case| check_kernels(&gpu, &case).expect("a case runs")).collect());
    }
    let step = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let start = |first| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "kernels_match_the_oracle", "--nocapture"]).env(SHARE, format!("{first}/{step}"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let started: Vec<Child> = (0..step).map(start).collect();
    for child in started {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
}

#[test]
fn gradient_rules_match_finite_differences() {
    assert_all(cases().iter().flat_map(check_gradients).collect());
}

#[test]
fn every_op_has_a_case() {
    let mut covered = std::collections::HashSet::new();
    for case in cases() {
        let built = case.build();
        covered.extend(built.graph.nodes().iter().map(|n| n.op.name()));
        if !built.differentiable.is_empty() {
            let (built, _) = case.build_backward(true);
            covered.extend(built.graph.nodes().iter().map(|n| n.op.name()));
        }
    }
    for name in t5_wgpu::ops::NAMES {
        assert!(covered.contains(name), "{name} has no case");
    }
    for name in covered {
        assert!(t5_wgpu::ops::NAMES.contains(&name), "{name} is missing in ops::NAMES");
    }
}
