//! Lists the adapters, then computes y = x w^T on the default one: graph, plan, run, read.
//!
//! cargo run --release --example devices

use t5_wgpu::gpu::{Gpu, GpuOptions, list_adapters};
use t5_wgpu::graph::{Dtype, Graph};
use t5_wgpu::ops::{Matmul, MatmulLayout};
use t5_wgpu::plan::{Plan, PlanOptions, SlotPool};

fn main() -> t5_wgpu::Result<()> {
    for adapter in pollster::block_on(list_adapters(&GpuOptions::default()))? {
        println!("{}: {}", adapter.index, adapter.caps);
    }
    let gpu = pollster::block_on(Gpu::open(&GpuOptions::default()))?;

    let mut graph = Graph::new();
    let x = graph.leaf("x", &[2, 3], Dtype::F32);
    let w = graph.leaf("w", &[2, 3], Dtype::F32);
    let y = graph.push1(Matmul::new(MatmulLayout::Nt), &[x, w]);

    // No memory is bound from outside, so the plan owns the leaves and `write` fills them.
    let options = PlanOptions { bind: &|_| None, pool: &SlotPool::new() };
    let plan = Plan::compile(&gpu, &graph, &[("y", y)], &options)?;
    plan.write("x", &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
    plan.write("w", &[1.0f32, 0.0, 0.0, 1.0, 1.0, 1.0]);
    plan.run()?;
    println!("{plan}y = {:?}", pollster::block_on(plan.read::<f32>("y"))?);
    Ok(())
}
