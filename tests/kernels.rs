//! Every op on the adapter at hand against its f64 oracle, and every gradient rule against finite differences.

mod common;

use std::process::{Child, Command, Stdio};

use t5_wgpu::gpu::{Caps, Gpu};
use t5_wgpu::graph::{Dtype, Graph, Launcher};
use t5_wgpu::ops::{Activation, Function, Matmul, MatmulLayout, Variant};
use t5_wgpu::plan::{Plan, PlanOptions, SlotPool};
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
/// For trials of further drivers, beside one that runs all:
///
/// - `T5_TEST_QUARTER=N`, of 0 to 3, leaves out three quarters of attention's cases: lavapipe compiles their kernels for five
///   seconds each, most of the time of this test.
/// - `T5_TEST_SUBGROUPS=1` leaves out the cases without a kernel that uses subgroups. For a driver that differs from one that
///   runs all in the size of its subgroups only; with the widest vectors lavapipe compiles each kernel three times as long.
#[test]
fn kernels_match_the_oracle() {
    const SHARE: &str = "T5_TEST_SHARE";
    let quarter = std::env::var("T5_TEST_QUARTER").ok().map(|n| n.parse::<usize>().expect("a number from 0 to 3"));
    if let Ok(share) = std::env::var(SHARE) {
        let (first, step) = share.split_once('/').expect("FIRST/STEP");
        let (first, step): (usize, usize) = (first.parse().unwrap(), step.parse().unwrap());
        let gpu = gpu();
        let only_subgroups = std::env::var_os("T5_TEST_SUBGROUPS").is_some();
        // Four tilings take turns: neighbouring quarters begin with other ones.
        let is_wanted = |(i, case): &(usize, Case)| {
            quarter.is_none_or(|quarter| (i / 4 + i) % 4 == quarter || !case.name.starts_with("attention "))
                && (!only_subgroups || uses_subgroups(gpu.caps(), case))
        };
        let wanted = cases().into_iter().enumerate().filter(is_wanted).map(|(_, case)| case).enumerate();
        // Here too, so that no share has the dearest of every four.
        let cases = wanted.filter(|(i, _)| (i / 4 + i) % step == first).map(|(_, case)| case);
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
        assert!(output.status.success() && text.contains("1 passed"), "{}: {text}", output.status);
    }
}

/// Whether this adapter launches a kernel with subgroup operations for the case or for its gradients.
fn uses_subgroups(caps: &Caps, case: &Case) -> bool {
    let forward = case.build();
    let is_differentiable = !forward.differentiable.is_empty();
    let gradients = is_differentiable.then(|| case.build_backward(true).0);
    [Some(forward), gradients].into_iter().flatten().any(|built| {
        built.graph.nodes().iter().any(|node| {
            let mut launcher = Launcher::new(caps, &built.graph, node);
            node.op.launch(&mut launcher);
            launcher.launches.iter().any(|launch| launch.shader.expand(&launch.header).contains("subgroup"))
        })
    })
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

/// Decoding gives a source the same answer in any batch only if the kernels for few rows add up every row alike.
#[test]
fn a_row_of_few_is_the_same_beside_any_others() {
    let gpu = gpu();
    let (n, k) = (36, 416);
    let number = |i: usize| (i as u32).wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32 - 0.5;
    let [scale, weights] = [k, 2 * n * k].map(|len| (0..len).map(|i| number(i + 7)).collect::<Vec<f32>>());
    for variant in [Variant::Rows, Variant::Deep(32)] {
        let activation = Some(Activation { function: Function::GeluTanh, gated: true });
        let op = Matmul { norm: Some(1e-6), activation, variant: Some(variant), ..Matmul::new(MatmulLayout::Nt) };
        let first = [1, 3, 11].map(|m| {
            let mut graph = Graph::new();
            let inputs = [("a", vec![m, k]), ("b", vec![2 * n, k]), ("scale", vec![k])];
            let inputs = inputs.map(|(name, shape)| graph.leaf(name, &shape, Dtype::F32));
            let c = graph.push1(op.clone(), &inputs);
            let options = PlanOptions { bind: &|_| None, pool: &SlotPool::new() };
            let plan = Plan::compile(&gpu, &graph, &[("c", c)], &options).expect("the graph compiles");
            // The first row is the same in all, the others are not.
            plan.write("a", &(0..m * k).map(|i| number(if i < k { i } else { i * m })).collect::<Vec<f32>>());
            plan.write("b", &weights);
            plan.write("scale", &scale);
            plan.run().expect("the plan runs");
            let c: Vec<f32> = pollster::block_on(plan.read("c")).expect("it is read");
            c[..n].iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
        });
        assert!(first.iter().all(|bits| *bits == first[0]), "{variant:?}");
    }
}
