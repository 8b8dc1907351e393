//! Activations computed again for the gradients: the same bits, in less memory.

mod common;

use common::gpu;
use t5_wgpu::batch::{Batch, BatchShape};
use t5_wgpu::gpu::Gpu;
use t5_wgpu::model::{Model, T5Config};
use t5_wgpu::train::engine::{Engine, Regularization};
use t5_wgpu::train::optimizer::OptimizerConfig;

fn engine(gpu: &Gpu, layers: usize, recompute: bool) -> Engine {
    let text = format!(
        r#"{{"model_type": "t5", "vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 128, "num_layers": {layers},
            "num_heads": 4, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false}}"#
    );
    let model = Model::init(gpu, T5Config::from_json(&text, "test").unwrap(), 3).unwrap();
    let regularization = Regularization { dropout: 0.1, z_loss: 1e-4, label_smoothing: 0.1, average: 0.0 };
    Engine::new(model, regularization, &OptimizerConfig::adafactor_paper(), 1.0).unwrap().with_recompute(recompute)
}

fn batch(shape: BatchShape) -> Batch {
    let BatchShape { batch, src_len, tgt_len, .. } = shape;
    let ids = |len: usize| (0..(batch * len) as u32).map(|i| 3 + i * 7919 % 256).collect::<Vec<_>>();
    Batch {
        shape,
        src_ids: ids(src_len),
        src_lens: (0..batch as u32).map(|i| src_len as u32 - i).collect(),
        tgt_in: ids(tgt_len),
        labels: ids(tgt_len),
        tgt_lens: vec![tgt_len as u32; batch],
        segments: None,
    }
}

/// The bits of losses, gradients and parameters over three steps of two passes each.
fn bits(gpu: &Gpu, recompute: bool) -> Vec<u32> {
    let batch = batch(BatchShape { batch: 3, src_len: 9, tgt_len: 6, packed: false });
    let mut engine = engine(gpu, 3, recompute);
    let mut bits = Vec::new();
    for step in 0..3 {
        engine.begin_step();
        for pass in 0..2 {
            engine.micro_batch(&batch, [1, 2, step, pass]).unwrap();
        }
        let report = engine.finish_step(1e-2, u64::from(step)).unwrap();
        let (stats, report) = pollster::block_on(report.finish()).unwrap();
        bits.extend([(stats.loss as f32).to_bits(), report.grad_norm.to_bits()]);
        for arena in engine.gradients().iter().chain(&engine.model.params) {
            bits.extend(pollster::block_on(gpu.read::<u32>(arena, 0..arena.bytes())).unwrap());
        }
    }
    bits
}

#[test]
fn recomputed_activations_change_no_bit() {
    let gpu = gpu();
    assert!(bits(&gpu, false) == bits(&gpu, true));
}

#[test]
fn recomputed_activations_take_less_memory() {
    let gpu = gpu();
    let shape = BatchShape { batch: 4, src_len: 64, tgt_len: 64, packed: false };
    let memory = |layers, recompute| {
        let mut engine = engine(&gpu, layers, recompute);
        engine.prepare(shape).unwrap();
        let memory = engine.plan(shape).unwrap().memory();
        eprintln!("{layers} layers, recompute {recompute}: {memory:?}");
        assert!(memory.slots as f64 <= 1.3 * memory.live_maximum as f64, "slots waste memory: {memory:?}");
        memory.slots as f64
    };
    let (kept, again) = (memory(6, false), memory(6, true));
    assert!(again <= 0.4 * kept, "{again} of {kept} bytes");
    // What a further pair of layers takes is little more than their inputs.
    let input = (4 * 4 * 64 * 32) as f64;
    let more = (memory(12, true) - again) / 12.0;
    assert!(more <= 1.5 * input, "{more} bytes a layer, whose input takes {input}");
}
