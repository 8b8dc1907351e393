//! Sizes at which a driver that ends loops early would be caught: see `verify::large_cases`.

mod common;

use std::time::Instant;

use t5_wgpu::gpu::Gpu;
use t5_wgpu::model::{Piece, TensorSpan};
use t5_wgpu::train::optimizer::{Optimizer, OptimizerConfig};
use t5_wgpu::verify::{check_kernels, large_cases};

fn gpu() -> Gpu {
    let gpu = common::gpu();
    eprintln!("adapter: {} ({})", gpu.caps().name, gpu.caps().driver_info);
    gpu
}

#[test]
fn no_invocation_loops_too_long() {
    let gpu = gpu();
    let mut failed = Vec::new();
    for case in large_cases() {
        let start = Instant::now();
        for row in check_kernels(&gpu, &case).expect("a case runs") {
            eprintln!("{:60} {:.1e} of {:.0e}", row.what, row.error, row.tolerance);
            if !row.passed() {
                failed.push(row.what);
            }
        }
        eprintln!("{}: {:.1} s", case.name, start.elapsed().as_secs_f64());
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// One optimiser step on a tall matrix of gradients that are all 1: the norm is the root of their number, and both
/// optimisers move each parameter by the learning rate.
#[test]
fn optimizers_reach_every_element_of_a_large_arena() {
    const ROWS: usize = 1 << 20;
    let gpu = gpu();
    let spans = [TensorSpan {
        name: "table".into(),
        shape: vec![ROWS, 4],
        pieces: vec![Piece { window: 0, offset: 0, rows: ROWS, len: 4 * ROWS }],
    }];
    let adamw = OptimizerConfig::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 };
    let adafactor = OptimizerConfig::Adafactor {
        eps1: 1e-30,
        eps2: 1e-3,
        clip_threshold: 1.0,
        decay_rate: 0.8,
        weight_decay: 0.0,
        scale_parameter: false,
        min_dim_factored: 0,
        relative_step: false,
        warmup_init: false,
    };
    for config in [adamw, adafactor] {
        let params = [gpu.buffer_of("parameters", &vec![1f32; 4 * ROWS]).unwrap()];
        let grads = [gpu.buffer_of("gradients", &vec![2f32; 4 * ROWS]).unwrap()];
        let stats = gpu.buffer_of("stats", &[0f32, 2.0, 0.0, 0.0]).unwrap();
        let optimizer = Optimizer::new(&gpu, &config, &spans, &params, &grads, &stats, 0.0).unwrap();
        optimizer.step(0.25, 0).unwrap();
        let report = pollster::block_on(optimizer.report()).unwrap();
        assert_eq!(report.grad_norm, ((4 * ROWS) as f32).sqrt());
        let after: Vec<f32> = pollster::block_on(gpu.read(&params[0], 0..params[0].bytes())).unwrap();
        let worst = after.iter().map(|p| (p - 0.75).abs()).fold(0f32, f32::max);
        assert!(worst < 1e-5, "{config:?}: {worst}");
    }
}
