//! The adapter on which tests and benchmarks run. The library reads no environment; the program has
//! `src/cli/environment.rs` for it, and they have this.

use std::env::var;

use t5_wgpu::gpu::{Gpu, GpuOptions};

/// `T5_ADAPTER`, `T5_CHECKED` and `T5_DEBUG`, with the meaning that they have for the program, and `T5_PIECES` (`GpuOptions::pieces`).
pub fn gpu_options() -> GpuOptions {
    GpuOptions {
        adapter: var("T5_ADAPTER").ok().filter(|v| !v.is_empty()),
        checked: var("T5_CHECKED").is_ok_and(|v| !v.is_empty() && v != "0"),
        check_numbers: var("T5_DEBUG").is_ok_and(|v| v == "1"),
        pieces: var("T5_PIECES").ok().and_then(|v| v.parse().ok()).unwrap_or(0),
        ..GpuOptions::default()
    }
}

pub fn gpu() -> Gpu {
    pollster::block_on(Gpu::open(&gpu_options())).expect("an adapter")
}
