//! How long each op takes at T5's shapes, forward and backward.
//!
//! One iteration replays the op's plan once: encode, submit, wait. So every figure holds the round trip of a submit, and
//! of the smallest ops little else. `gradient` includes the forward kernels whose results the backward ones read.

#[path = "../tests/common/gpu.rs"]
mod adapter;

use std::sync::OnceLock;

use divan::Bencher;
use t5_wgpu::gpu::Gpu;
use t5_wgpu::verify::{Timed, bench_cases};

static GPU: OnceLock<Gpu> = OnceLock::new();

fn main() {
    println!("adapter: {}", gpu().caps());
    divan::main();
}

#[divan::bench(args = names(Timed::Forward), sample_count = 20, sample_size = 1, max_time = 1)]
fn forward(bencher: Bencher, name: &str) {
    replay(bencher, name, Timed::Forward);
}

#[divan::bench(args = names(Timed::Gradient), sample_count = 20, sample_size = 1, max_time = 1.5)]
fn gradient(bencher: Bencher, name: &str) {
    replay(bencher, name, Timed::Gradient);
}

fn replay(bencher: Bencher, name: &str, timed: Timed) {
    let case = bench_cases().into_iter().find(|case| case.name == name).expect("a case of this name");
    let plan = case.plan(gpu(), timed).expect("the case compiles");
    let run = || {
        plan.run().expect("the plan runs");
        gpu().wait().expect("the plan ends");
    };
    // The driver compiles a kernel at its first dispatch.
    run();
    bencher.bench_local(run);
}

fn names(timed: Timed) -> Vec<String> {
    bench_cases().into_iter().filter(|case| case.has(timed)).map(|case| case.name).collect()
}

/// The adapter that T5_ADAPTER names, or the most capable one.
fn gpu() -> &'static Gpu {
    GPU.get_or_init(adapter::gpu)
}
