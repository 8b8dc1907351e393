//! What replaying a plan costs the host: the time of the thread that encodes and submits 1,000 tiny dispatches, with the
//! kernel changing at every dispatch and at none; and what a training step of T5-small costs it, with its uploads and its
//! report. A short batch has as many dispatches as a long one.
//!
//! On Linux it is the thread's processor time, which neither the device's work (another thread's, on a software adapter)
//! nor other processes enter; elsewhere it is wall time.

#[path = "../tests/common/gpu.rs"]
mod adapter;

use std::time::Instant;

use adapter::gpu;
use t5_wgpu::bench::Workload;
use t5_wgpu::gpu::Gpu;
use t5_wgpu::graph::{Add, Dtype, Graph};
use t5_wgpu::model::{Model, T5Config};
use t5_wgpu::ops::RmsNorm;
use t5_wgpu::plan::{Plan, PlanOptions, SlotPool};
use t5_wgpu::train::engine::{Engine, Regularization};
use t5_wgpu::train::inputs::Inputs;
use t5_wgpu::train::optimizer::OptimizerConfig;

const DISPATCHES: usize = 1000;
/// Replays of one sample.
const REPLAYS: usize = 100;
const SAMPLES: usize = 3;
const STEPS: u64 = 10;

fn main() {
    let gpu = gpu();
    println!("adapter: {}", gpu.caps());
    let plans = [("one kernel", plan(&gpu, false)), ("alternating kernels", plan(&gpu, true))];
    let mut times = [const { Vec::new() }; 2];
    for sample in 0..=SAMPLES {
        for ((_, plan), times) in plans.iter().zip(&mut times) {
            let seconds = sample_of(&gpu, plan);
            // The driver compiles a kernel at its first dispatch.
            if sample > 0 {
                times.push(1e6 * seconds / (REPLAYS * DISPATCHES) as f64);
            }
        }
    }
    for ((name, _), mut times) in plans.iter().zip(times) {
        times.sort_by(f64::total_cmp);
        println!("{name}: {:.2} us a dispatch (fastest {:.2})", times[SAMPLES / 2], times[0]);
    }
    training_step(&gpu);
}

fn training_step(gpu: &Gpu) {
    let workload = Workload::train(2, 16, 16, 0.1);
    let shape = workload.shape();
    let model = Model::init(gpu, T5Config::preset("t5-small").expect("a published size"), 0).expect("a model");
    let inputs = Inputs::new(&workload.batch(&model.config), &model.config).expect("a batch");
    let regularization = Regularization { dropout: 0.1, ..Regularization::default() };
    let mut engine = Engine::new(model, regularization, &OptimizerConfig::adamw(), 1.0).expect("an engine");
    engine.prepare(shape).expect("a plan");
    let dispatches = engine.plan(shape).expect("the plan above").dispatches() + engine.optimizer.program().len();
    let mut times = Vec::new();
    for number in 0..STEPS {
        let (before, start) = (thread_seconds(), Instant::now());
        engine.begin_step();
        engine.micro_batch_of(&inputs, [0, 0, 0, number as u32]).expect("a plan");
        let report = engine.finish_step(0.0, number).expect("a step");
        let wall = start.elapsed().as_secs_f64();
        times.push(1e6 * before.zip(thread_seconds()).map_or(wall, |(before, after)| after - before));
        pollster::block_on(report.finish()).expect("the step ends");
    }
    // The first makes buffers.
    times.remove(0);
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!(
        "training step of T5-small, {dispatches} dispatches: {median:.0} us, {:.2} us a dispatch (fastest {:.0} us)",
        median / dispatches as f64,
        times[0]
    );
}

fn plan(gpu: &Gpu, alternate: bool) -> Plan {
    let mut graph = Graph::new();
    let mut x = graph.leaf("x", &[1, 64], Dtype::F32);
    let scale = graph.leaf("scale", &[64], Dtype::F32);
    let first = x;
    for i in 0..DISPATCHES {
        x = match alternate && i % 2 == 1 {
            true => graph.push1(RmsNorm { eps: 1e-6 }, &[x, scale]),
            false => graph.push1(Add, &[x, first]),
        };
    }
    let options = PlanOptions { bind: &|_| None, pool: &SlotPool::new() };
    let plan = Plan::compile(gpu, &graph, &[("x", x)], &options).expect("the plan compiles");
    assert_eq!(plan.dispatches(), DISPATCHES);
    plan
}

/// Seconds of this thread for `REPLAYS` replays.
fn sample_of(gpu: &Gpu, plan: &Plan) -> f64 {
    let before = thread_seconds();
    let mut wall = 0.0;
    for _ in 0..REPLAYS {
        let start = Instant::now();
        plan.run().expect("the plan runs");
        wall += start.elapsed().as_secs_f64();
        // Or else the driver's lists of commands pile up, and their memory is never warm.
        gpu.wait().expect("the replay ends");
    }
    match (before, thread_seconds()) {
        (Some(before), Some(after)) => after - before,
        _ => wall,
    }
}

/// Processor time of this thread, where the system tells.
fn thread_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(1e-9 * nanoseconds)
}
