//! Proof that the kernels are right on the adapter at hand: every op against its f64 oracle, every gradient rule
//! against finite differences.

mod bench_cases;
mod cases;
mod golden;
mod large;

use std::collections::HashMap;

use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::{Dtype, ValueId, interpret};
use crate::plan::{Plan, PlanOptions, SlotPool};

pub use bench_cases::{Timed, bench_cases};
pub use cases::{Case, CaseBuilder, cases};
pub use golden::{NOISE_FACTOR, check_golden};
pub use large::large_cases;

/// The worst error of one comparison, and the largest one allowed.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// The case, and the tensor that was compared.
    pub what: String,
    /// Largest absolute difference, divided by the largest magnitude of the reference (or by 1 if that is smaller).
    pub error: f64,
    pub tolerance: f64,
}

impl Row {
    pub fn passed(&self) -> bool {
        // A NaN fails.
        self.error <= self.tolerance
    }
}

/// Largest difference relative to the largest reference value.
pub fn relative_error(found: &[f32], reference: &[f64]) -> f64 {
    if found.len() != reference.len() {
        return f64::INFINITY;
    }
    let scale = reference.iter().fold(1e-30f64, |m, r| m.max(r.abs())).max(1e-3);
    let mut worst = 0.0f64;
    for (f, r) in found.iter().zip(reference) {
        let error = (f64::from(*f) - r).abs() / scale;
        if !error.is_finite() {
            return f64::INFINITY;
        }
        worst = worst.max(error);
    }
    worst
}

/// How many whole numbers differ, given their bits as they were read.
fn mismatches(found: &[f32], reference: &[f64]) -> f64 {
    let differ = |(f, r): (&f32, &f64)| f64::from(f.to_bits()) != *r;
    found.iter().zip(reference).filter(|pair| differ(*pair)).count() as f64
}

/// How far kernels in f32 may lie from the f64 oracle. Sums over k terms err by about sqrt(k) units of 6e-8; software
/// rasterisers and fast-math GPUs evaluate exp and tanh to some 4e-6.
pub const KERNEL_TOLERANCE: f64 = 2e-5;

/// Finite differences in f64 with a step of 1e-5 agree with the true derivative to about 1e-9 of the values involved.
const GRADIENT_TOLERANCE: f64 = 1e-6;

/// Runs a case's graph on the device and gives the outputs and the final contents of the leaves that it stores in.
fn run_on_gpu(gpu: &Gpu, built: &CaseBuilder, outputs: &[ValueId]) -> Result<Vec<Vec<f32>>> {
    let names: Vec<String> = (0..outputs.len()).map(|i| i.to_string()).collect();
    let named: Vec<_> = names.iter().map(String::as_str).zip(outputs.iter().copied()).collect();
    let plan = compile(gpu, built, &named)?;
    plan.run()?;
    names.iter().map(|name| pollster::block_on(plan.read(name))).collect()
}

/// A plan of its own memory, its leaves filled.
fn compile(gpu: &Gpu, built: &CaseBuilder, outputs: &[(&str, ValueId)]) -> Result<Plan> {
    let mut buffers = HashMap::new();
    for (value, info) in built.graph.leaves() {
        if let Some(words) = built.memory(info)? {
            let buffer = gpu.buffer_of(&info.label, &words)?;
            buffers.insert(info.label.clone(), buffer.slice(0, built.graph.bytes(value)));
        }
    }
    let options = PlanOptions { bind: &|name| buffers.get(name).cloned(), pool: &SlotPool::new() };
    Plan::compile(gpu, &built.graph, outputs, &options)
}

/// Compares every output and every gradient kernel of a case with the oracle.
pub fn check_kernels(gpu: &Gpu, case: &Case) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut compare = |part: &str, built: &CaseBuilder, outputs: &[(String, ValueId)]| -> Result<()> {
        let values: Vec<_> = outputs.iter().map(|(_, v)| *v).collect();
        let found = run_on_gpu(gpu, built, &values)?;
        let reference = interpret(&built.graph, &values, &mut built.leaves.clone());
        for (((name, value), found), reference) in outputs.iter().zip(&found).zip(&reference) {
            let error = match built.graph.value(*value).dtype {
                Dtype::U32 => mismatches(found, &reference.data),
                _ => relative_error(found, &reference.data),
            };
            rows.push(Row {
                what: format!("{} {part} {name}", case.name),
                error,
                tolerance: KERNEL_TOLERANCE * case.slack,
            });
        }
        Ok(())
    };
    let forward = case.build();
    compare("forward", &forward, &forward.outputs)?;
    if !forward.differentiable.is_empty() {
        let (built, gradients) = case.build_backward(true);
        compare("gradient", &built, &gradients)?;
        let (built, gradients) = case.build_backward(false);
        compare("gradient mid-graph", &built, &gradients)?;
    }
    Ok(rows)
}

/// Compares the gradient rules of a case, run on the oracle, with central finite differences of its forward oracle.
pub fn check_gradients(case: &Case) -> Vec<Row> {
    let mut rows = Vec::new();
    for accumulate in [true, false] {
        let (built, gradients) = case.build_backward(accumulate);
        if gradients.is_empty() {
            continue;
        }
        let values: Vec<_> = gradients.iter().map(|(_, v)| *v).collect();
        let found = interpret(&built.graph, &values, &mut built.leaves.clone());
        for ((name, _), gradient) in gradients.iter().zip(&found) {
            let leaf = name.as_str();
            let before = built.leaves.get(&format!("grad/{leaf}"));
            let mut worst = 0.0f64;
            let mut scale = 1e-3f64;
            for i in built.sample_indices(gradient.data.len()) {
                let expected = built.finite_difference(leaf, i);
                let base = before.map_or(0.0, |t| t.data[i]);
                worst = worst.max((gradient.data[i] - base - expected).abs());
                scale = scale.max(expected.abs());
            }
            let how = if accumulate { "accumulated" } else { "mid-graph" };
            rows.push(Row {
                what: format!("{} d/d {leaf} {how}", case.name),
                error: worst / scale,
                tolerance: GRADIENT_TOLERANCE,
            });
        }
    }
    rows
}
