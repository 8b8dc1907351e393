//! Measures what the adapter itself can do. All other figures are compared with these rates.

use super::report::Figure;
use super::spread::{Arm, seconds};
use super::{Bench, Section};
use crate::error::Result;
use crate::gpu::{Buffer, Constant, Dispatch, Gpu, Header, Program, ProgramBuilder, Shader, Work};
use crate::graph::{Dtype, Graph};
use crate::ops::{Matmul, MatmulLayout, Variant};
use crate::plan::{Plan, PlanOptions, SlotPool};

/// The rates that shares are shares of.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Ceilings {
    /// Floating-point operations a second of the fastest f32 matrix product.
    pub flops: f64,
    /// Bytes a second of a copy, read and written.
    pub bytes: f64,
    /// Seconds from one dispatch to the next that depends on it.
    pub dispatch: f64,
    /// Which product that was.
    pub matmul: String,
}

static COPY: Shader = Shader {
    name: "copy",
    source: include_str!("../../shaders/copy.wgsl"),
    shared: &[],
    defaults: &[("EACH", Constant::U32(1))],
};

/// The kernels that only benchmarks launch, for checks without a device.
pub fn kernels() -> Vec<(&'static Shader, Header)> {
    [1, 8].map(|each| (&COPY, Header::new().u32("EACH", each))).to_vec()
}

/// Dispatches of the pass in which the cost of one is measured.
const TINY_DISPATCHES: usize = 500;

impl Ceilings {
    /// The share of the fitting ceiling that work done in `seconds` reached.
    pub fn share(&self, work: Work, seconds: f64) -> f64 {
        work.floor(self.flops, self.bytes) / seconds
    }
}

impl Bench<'_, '_> {
    pub(super) fn ceilings(&mut self) -> Result<()> {
        self.products()?;
        self.copies()?;
        self.overheads()
    }

    fn products(&mut self) -> Result<()> {
        let n = if self.options.quick { 512 } else { 1024 };
        let mut plans = Vec::new();
        for layout in [MatmulLayout::Nn, MatmulLayout::Nt, MatmulLayout::Tn] {
            plans.push((format!("matmul {layout:?} {n}^3"), product(self.gpu, layout, [n, n, n], None)?));
        }
        for variant in [Variant::Tile, Variant::Subgroup, Variant::Rows] {
            let plan = product(self.gpu, MatmulLayout::Nt, [n, n, n], Some(variant))?;
            // An adapter that cannot run a variant gets the kernels of its first choice.
            let kernels = |plan: &Plan| plan.work().iter().map(|step| step.kernel).collect::<Vec<_>>();
            if plans.iter().all(|(_, known)| kernels(known) != kernels(&plan)) {
                plans.push((format!("matmul Nt {n}^3 {variant:?}"), plan));
            }
        }
        let mut arms: Vec<_> = plans.iter().map(|(name, plan)| repeated(name, plan)).collect();
        let spreads = self.time(&mut arms)?;
        drop(arms);
        let mut best = Figure::default();
        for ((name, plan), spread) in plans.iter().zip(spreads) {
            let flops: f64 = plan.work().iter().map(|step| step.work.flops).sum();
            let figure = Figure::new(Section::Ceilings, name, "GF/s", spread.map(|s| flops / s / 1e9));
            if figure.value > best.value {
                best = figure.clone();
                let kernels: Vec<_> = plan.work().iter().map(|step| step.kernel).collect();
                self.report.ceilings.matmul = format!("{name} ({})", kernels.join(", "));
            }
            self.report.figures.push(figure);
        }
        self.report.ceilings.flops = best.value * 1e9;
        Ok(())
    }

    fn copies(&mut self) -> Result<()> {
        let most = if self.options.quick { 16 << 20 } else { 64 << 20 };
        // Beyond the caches of large cards.
        let wanted = if self.gpu.caps().is_cpu() { most } else { 4 * most };
        let bytes = wanted.min(self.gpu.caps().max_binding).min(self.gpu.caps().max_buffer) / 4096 * 4096;
        let pair = [self.gpu.buffer("copy source", bytes)?, self.gpu.buffer("copy", bytes)?];
        // Cards like one access an invocation, software adapters several.
        let programs = [copies(self.gpu, &pair, bytes, 1, 1)?, copies(self.gpu, &pair, bytes, 1, 8)?];
        let mut arms = Vec::new();
        for (program, each) in programs.iter().zip(["one vec4 an invocation", "eight"]) {
            let mut runs = Repeats::default();
            let name = format!("copy {} MiB, {each}", bytes >> 20);
            arms.push(Arm::new(name, move || runs.sample(|times| pollster::block_on(program.time(times)))));
        }
        let spreads = self.time(&mut arms)?;
        for (arm, spread) in arms.iter().zip(spreads) {
            let spread = spread.map(|s| 2.0 * bytes as f64 / s / 1e9);
            self.report.ceilings.bytes = self.report.ceilings.bytes.max(1e9 * spread.median);
            self.report.figures.push(Figure::new(Section::Ceilings, &arm.name, "GB/s", spread));
        }
        Ok(())
    }

    fn overheads(&mut self) -> Result<()> {
        let gpu = self.gpu;
        let pair = [gpu.buffer("tiny", 4096)?, gpu.buffer("tiny", 4096)?];
        let (one, many) = (copies(gpu, &pair, 16, 1, 1)?, copies(gpu, &pair, 16, TINY_DISPATCHES, 1)?);
        let large_bytes: u64 = if self.options.quick { 4 << 20 } else { 32 << 20 };
        let large = gpu.buffer("transfer", large_bytes)?;
        let data = vec![0u8; large_bytes as usize];
        let per_dispatch = 1e6 / TINY_DISPATCHES as f64;
        let mut arms = [
            Arm::new("dispatch, each after the one before", || Ok(per_dispatch * pollster::block_on(many.time(1))?)),
            Arm::new("host's cost of a recorded dispatch", || {
                let submitted = seconds(|| many.run(1))?;
                gpu.wait()?;
                Ok(per_dispatch * submitted)
            }),
            Arm::new("submit and wait", || {
                Ok(1e6
                    * seconds(|| {
                        one.run(1)?;
                        gpu.wait()
                    })?)
            }),
            Arm::new("read 16 bytes", || {
                Ok(1e6 * seconds(|| pollster::block_on(gpu.read::<u32>(&pair[0], 0..16)).map(drop))?)
            }),
            Arm::new("read back", || {
                let read = seconds(|| pollster::block_on(gpu.read::<u32>(&large, 0..large_bytes)).map(drop))?;
                Ok(large_bytes as f64 / read / 1e9)
            }),
            Arm::new("upload", || {
                let written = seconds(|| {
                    gpu.write(&large, 0, &data);
                    one.run(1)?;
                    gpu.wait()
                })?;
                Ok(large_bytes as f64 / written / 1e9)
            }),
        ];
        let spreads = self.time(&mut arms)?;
        self.report.ceilings.dispatch = spreads[0].median / 1e6;
        let units = ["us", "us", "us", "us", "GB/s", "GB/s"];
        for ((arm, spread), unit) in arms.iter().zip(spreads).zip(units) {
            self.report.figures.push(Figure::new(Section::Ceilings, &arm.name, unit, spread));
        }
        Ok(())
    }
}

/// How often to repeat something short within a sample, so that the sample is long enough for any clock.
#[derive(Default)]
pub(super) struct Repeats {
    times: usize,
}

/// Seconds that a sample should take.
const SAMPLE_SECONDS: f64 = 0.02;
/// Some ops advance a position in each run and do nothing once they are at the end.
const MOST_REPEATS: usize = 64;

impl Repeats {
    /// Seconds of one of them, given a function that takes the time of several.
    pub fn sample(&mut self, time: impl FnOnce(usize) -> Result<f64>) -> Result<f64> {
        let times = self.times.max(1);
        let each = time(times)? / times as f64;
        self.times = ((SAMPLE_SECONDS / each.max(1e-9)) as usize).clamp(1, MOST_REPEATS);
        Ok(each)
    }
}

/// An arm that gives the device's seconds of one run of a plan.
pub(super) fn repeated<'a>(name: &str, plan: &'a Plan) -> Arm<'a> {
    let mut runs = Repeats::default();
    Arm::new(name, move || runs.sample(|times| pollster::block_on(plan.time(times))))
}

/// The plan of one product m x n x k of random matrices.
pub(super) fn product(
    gpu: &Gpu,
    layout: MatmulLayout,
    [m, n, k]: [usize; 3],
    variant: Option<Variant>,
) -> Result<Plan> {
    let (a, b) = match layout {
        MatmulLayout::Nn => ([m, k], [k, n]),
        MatmulLayout::Nt => ([m, k], [n, k]),
        MatmulLayout::Tn => ([k, m], [k, n]),
    };
    let mut graph = Graph::new();
    let inputs = [graph.leaf("a", &a, Dtype::F32), graph.leaf("b", &b, Dtype::F32)];
    let c = graph.push1(Matmul { variant, ..Matmul::new(layout) }, &inputs);
    let options = PlanOptions { bind: &|_| None, pool: &SlotPool::new() };
    let plan = Plan::compile(gpu, &graph, &[("c", c)], &options)?;
    // Zeros would be multiplied faster: a card draws less power and clocks higher.
    let noise = |len: usize| -> Vec<f32> { (0..len).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect() };
    plan.write("a", &noise(m * k));
    plan.write("b", &noise(n * k));
    Ok(plan)
}

/// `count` copies of `bytes` bytes, back and forth, `each` vec4s an invocation.
fn copies(gpu: &Gpu, pair: &[Buffer; 2], bytes: u64, count: usize, each: u32) -> Result<Program> {
    let mut builder = ProgramBuilder::new(gpu);
    for i in 0..count {
        let dispatch = Dispatch {
            label: "copy".into(),
            shader: &COPY,
            header: Header::new().u32("EACH", each),
            bindings: vec![("src", pair[i % 2].slice(0, bytes)), ("dst", pair[(i + 1) % 2].slice(0, bytes))],
            params: vec![("len4", ((bytes / 16) as usize).into())],
            workgroups: (bytes / 16).div_ceil(256 * u64::from(each)),
        };
        builder.push_counted(dispatch, Work { flops: 0.0, bytes: 2.0 * bytes as f64 });
    }
    builder.finish()
}
