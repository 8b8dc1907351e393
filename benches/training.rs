//! A training step of the demo's model, from the upload of the batch to the updated parameters.
//!
//! The rate counts source and target positions; no sequence is padded. `adamw` and `adafactor` differ by the optimiser
//! alone; `evaluate` is the loss without gradients.

#[path = "../tests/common/gpu.rs"]
mod adapter;

use std::sync::OnceLock;

use divan::Bencher;
use divan::counter::ItemsCount;
use t5_wgpu::batch::{Batch, BatchShape};
use t5_wgpu::bench::Workload;
use t5_wgpu::gpu::Gpu;
use t5_wgpu::model::{Model, T5Config};
use t5_wgpu::train::engine::{Engine, Regularization};
use t5_wgpu::train::optimizer::OptimizerConfig;

static GPU: OnceLock<Gpu> = OnceLock::new();

/// Byte-level, T5 1.1's architecture.
const CONFIG: &str = r#"{
    "model_type": "t5", "vocab_size": 384, "d_model": 128, "d_kv": 32, "d_ff": 256, "num_heads": 4,
    "num_layers": 4, "num_decoder_layers": 2, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false
}"#;

/// Sequences x source positions > target positions: words and their pronunciations, and text under span corruption.
const SHAPES: [&str; 2] = ["64 x 16 > 32", "8 x 128 > 40"];

fn main() {
    println!("adapter: {}", gpu().caps());
    divan::main();
}

#[divan::bench(args = SHAPES, sample_count = 12, sample_size = 1, max_time = 6)]
fn adamw(bencher: Bencher, shape: &str) {
    step(bencher, shape, &OptimizerConfig::adamw());
}

#[divan::bench(args = SHAPES, sample_count = 12, sample_size = 1, max_time = 6)]
fn adafactor(bencher: Bencher, shape: &str) {
    step(bencher, shape, &OptimizerConfig::adafactor_paper());
}

#[divan::bench(args = SHAPES, sample_count = 12, sample_size = 1, max_time = 6)]
fn evaluate(bencher: Bencher, shape: &str) {
    let batch = batch(parse(shape));
    let mut engine = engine(&OptimizerConfig::adamw());
    let mut run = || pollster::block_on(engine.evaluate(&batch)).expect("the evaluation runs");
    run();
    bencher.counter(positions(&batch)).bench_local(run);
}

fn step(bencher: Bencher, shape: &str, optimizer: &OptimizerConfig) {
    let batch = batch(parse(shape));
    let mut engine = engine(optimizer);
    let mut number = 0u32;
    let mut run = || {
        engine.begin_step();
        engine.micro_batch(&batch, [0, 0, number, 0]).expect("the batch runs");
        let report = engine.finish_step(1e-3, u64::from(number)).expect("the optimiser runs");
        number += 1;
        pollster::block_on(report.finish()).expect("the step ends")
    };
    // The driver compiles a kernel at its first dispatch.
    run();
    bencher.counter(positions(&batch)).bench_local(run);
}

fn engine(optimizer: &OptimizerConfig) -> Engine {
    let config = T5Config::from_json(CONFIG, "benches/training.rs").expect("a sound configuration");
    let model = Model::init(gpu(), config, 0).expect("the model fits the device");
    let regularization = Regularization { dropout: 0.1, ..Regularization::default() };
    Engine::new(model, regularization, optimizer, 1.0).expect("the engine fits the device")
}

/// A batch of made-up bytes.
fn batch(shape: BatchShape) -> Batch {
    let config = T5Config::from_json(CONFIG, "benches/training.rs").expect("a sound configuration");
    Workload::train(shape.batch, shape.src_len, shape.tgt_len, 0.1).batch(&config)
}

fn positions(batch: &Batch) -> ItemsCount {
    ItemsCount::new(batch.n_positions())
}

fn parse(shape: &str) -> BatchShape {
    let sizes: Vec<usize> = shape.split(['x', '>']).map(|size| size.trim().parse().expect("a number")).collect();
    BatchShape { batch: sizes[0], src_len: sizes[1], tgt_len: sizes[2], packed: false }
}

/// The adapter that T5_ADAPTER names, or the most capable one.
fn gpu() -> &'static Gpu {
    GPU.get_or_init(adapter::gpu)
}
