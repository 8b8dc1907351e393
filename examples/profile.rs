//! Where the time of a training step goes: `cargo run --release --example profile -- t5-small 2 512 114`
//!
//! Arguments: a published size or a config.json, sequences, source length, target length. Random weights and ids.

use std::collections::BTreeMap;
use std::time::Instant;

use t5_wgpu::data::Batch;
use t5_wgpu::gpu::{Gpu, GpuOptions};
use t5_wgpu::model::{BatchShape, Model, T5Config};
use t5_wgpu::train::engine::{Engine, Objective};
use t5_wgpu::train::optimizer::OptimizerConfig;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, batch, src_len, tgt_len] = args.as_slice() else {
        return Err("usage: profile SIZE|CONFIG SEQUENCES SOURCE_LEN TARGET_LEN".into());
    };
    let shape = BatchShape { batch: batch.parse()?, src_len: src_len.parse()?, tgt_len: tgt_len.parse()? };
    let config = if model.ends_with(".json") { T5Config::from_file(model)? } else { T5Config::preset(model)? };
    let gpu = pollster::block_on(Gpu::open(&GpuOptions::from_env()))?;
    println!("{}", gpu.caps());
    let model = Model::init(&gpu, config, 1)?;
    println!("{} parameters", model.layout.n_params());
    let batch = random_batch(shape, model.config.vocab_size as u32);
    let mut engine = Engine::new(model, Objective::default(), &OptimizerConfig::adamw(), 1.0)?;

    let mut seconds = Vec::new();
    for step in 0..6 {
        let start = Instant::now();
        engine.begin_step();
        engine.micro_batch(&batch, [0, 0, step as u32, 0])?;
        engine.finish_step(1e-3, step)?;
        pollster::block_on(engine.report())?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    // The first step compiles the kernels.
    let first = seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    let tokens = (shape.batch * (shape.src_len + shape.tgt_len)) as f64;
    println!("first step {first:.2} s; then {:.3} s (median of 5), {:.0} tokens/s", seconds[2], tokens / seconds[2]);

    let plan = engine.plan(shape).ok_or("the plan was compiled by the first step")?;
    let [params, grads, moments, slots] = engine.memory().map(|bytes| bytes >> 20);
    println!(
        "{} dispatches; MiB: parameters {params}, gradients {grads}, moments {moments}, activations {slots}",
        plan.dispatches()
    );
    println!("largest sum of live activations: {} MiB", plan.memory().live_maximum >> 20);
    let mut kernels: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for step in pollster::block_on(plan.profile())? {
        let (sum, count) = kernels.entry(step.kernel).or_default();
        (*sum, *count) = (*sum + step.seconds, *count + 1);
    }
    let total: f64 = kernels.values().map(|(sum, _)| sum).sum();
    let mut kernels: Vec<_> = kernels.into_iter().collect();
    kernels.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    for (kernel, (sum, count)) in kernels {
        println!("{:5.1} %  {:8.2} ms  {count:4} x {kernel}", 100.0 * sum / total, 1e3 * sum);
    }
    Ok(())
}

fn random_batch(shape: BatchShape, vocab: u32) -> Batch {
    let ids = |len: usize, seed: u32| (0..len as u32).map(|i| 3 + (i * 7919 + seed) % (vocab - 3)).collect::<Vec<_>>();
    let BatchShape { batch, src_len, tgt_len } = shape;
    Batch {
        batch,
        src_len,
        tgt_len,
        src_ids: ids(batch * src_len, 1),
        src_lens: vec![src_len as u32; batch],
        tgt_in: ids(batch * tgt_len, 2),
        labels: ids(batch * tgt_len, 3),
        tgt_lens: vec![tgt_len as u32; batch],
        examples: (0..batch).collect(),
    }
}
