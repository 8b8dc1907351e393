//! Each op at T5's shapes: the cases that the divan benchmarks time too, more matrix products, and an optimiser's pass.

use super::ceilings::{Repeats, product, repeated};
use super::report::Figure;
use super::spread::Arm;
use super::{Bench, Section};
use crate::error::Result;
use crate::gpu::StepWork;
use crate::model::{Piece, TensorSpan};
use crate::ops::MatmulLayout;
use crate::plan::Plan;
use crate::train::optimizer::{Optimizer, OptimizerConfig};
use crate::verify::{Timed, bench_cases};

/// Parameters of the optimisers' passes.
const OPTIMIZED: [usize; 2] = [4096, 1024];

impl Bench<'_, '_> {
    pub(super) fn ops(&mut self) -> Result<()> {
        self.matmuls()?;
        for (timed, what) in [(Timed::Forward, "forward"), (Timed::Gradient, "with gradient")] {
            let mut plans = Vec::new();
            for case in bench_cases().iter().filter(|case| case.has(timed)) {
                (self.progress)(&format!("compiling {}", case.name));
                plans.push((format!("{}, {what}", case.name), case.plan(self.gpu, timed)?));
            }
            self.time_plans(&plans)?;
        }
        self.optimizers()
    }

    fn matmuls(&mut self) -> Result<()> {
        let mut plans = Vec::new();
        let cube = if self.options.quick { 512 } else { 1024 };
        for [m, n, k] in [[512, 2048, 512], [cube; 3]] {
            for layout in [MatmulLayout::Nn, MatmulLayout::Nt, MatmulLayout::Tn] {
                let name = format!("matmul {layout:?} {m}x{n}x{k}");
                plans.push((name, product(self.gpu, layout, [m, n, k], None)?));
            }
        }
        for m in [1, 2, 4, 8] {
            plans.push((format!("matmul Nt {m}x2048x512"), product(self.gpu, MatmulLayout::Nt, [m, 2048, 512], None)?));
        }
        self.time_plans(&plans)
    }

    fn time_plans(&mut self, plans: &[(String, Plan)]) -> Result<()> {
        let mut arms: Vec<_> = plans.iter().map(|(name, plan)| repeated(name, plan)).collect();
        let spreads = self.time(&mut arms)?;
        for ((name, plan), spread) in plans.iter().zip(spreads) {
            self.add_op(name, &plan.work(), spread);
        }
        Ok(())
    }

    fn add_op(&mut self, name: &str, steps: &[StepWork], spread: super::Spread) {
        let figure = Figure::new(Section::Ops, name, "ms", spread.map(|s| 1e3 * s));
        self.report.figures.push(figure.with_work(steps, spread.median, &self.report.ceilings));
    }

    fn optimizers(&mut self) -> Result<()> {
        let gpu = self.gpu;
        let len = OPTIMIZED[0] * OPTIMIZED[1];
        let span = TensorSpan {
            name: "weights".into(),
            shape: OPTIMIZED.to_vec(),
            pieces: vec![Piece { window: 0, offset: 0, rows: OPTIMIZED[0], len }],
        };
        let params = [gpu.buffer("parameters", 4 * len as u64)?];
        let grads = [gpu.buffer("gradients", 4 * len as u64)?];
        // One token: a step without any is skipped.
        let stats = gpu.buffer_of("stats", &[1f32, 1.0, 0.0, 1.0])?;
        let mut made = Vec::new();
        for (name, config) in [("adamw", OptimizerConfig::adamw()), ("adafactor", OptimizerConfig::adafactor_paper())] {
            let optimizer = Optimizer::new(gpu, &config, std::slice::from_ref(&span), &params, &grads, &stats, 1.0)?;
            optimizer.step(1e-3, 0)?;
            made.push((format!("{name} {} parameters", len), optimizer));
        }
        let mut arms: Vec<_> = made.iter().map(|(name, optimizer)| pass(name, optimizer)).collect();
        let spreads = self.time(&mut arms)?;
        drop(arms);
        for ((name, optimizer), spread) in made.iter().zip(spreads) {
            self.add_op(name, &optimizer.program().work(), spread);
        }
        Ok(())
    }
}

/// An arm that gives the device's seconds of one pass of an optimiser.
fn pass<'a>(name: &str, optimizer: &'a Optimizer) -> Arm<'a> {
    let mut runs = Repeats::default();
    Arm::new(name, move || runs.sample(|times| pollster::block_on(optimizer.program().time(times))))
}
