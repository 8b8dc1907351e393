//! An exponential moving average of the weights over the steps of a training: what is evaluated, saved and used in their place.

use super::clip::CONTROL;
use crate::error::Result;
use crate::gpu::{Buffer, Dispatch, Gpu, Header, Program, ProgramBuilder, Sequence, Shader};

static AVERAGE: Shader =
    Shader { name: "average", source: include_str!("../../shaders/average.wgsl"), shared: &[CONTROL], defaults: &[] };

pub(super) fn kernels() -> Vec<(&'static Shader, Header)> {
    vec![(&AVERAGE, Header::new())]
}

/// The average of some windows of parameters.
pub(super) struct Average {
    decay: f64,
    rate: Buffer,
    program: Program,
    /// The weights that are averaged.
    weights: Vec<Buffer>,
}

impl Average {
    /// Averages `weights` in `averages`. Both begin as the averages are. `control` is the optimiser's,
    /// with its verdict on each step.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(gpu: &Gpu, weights: &[Buffer], averages: &[Buffer], control: &Buffer, decay: f64) -> Result<Average> {
        for (average, weights) in averages.iter().zip(weights) {
            gpu.copy(&average.all(), &weights.all());
        }
        let rate = gpu.buffer("rate", 4)?;
        let program = record(gpu, weights, averages, control, &rate)?;
        Ok(Average { decay, rate, program, weights: weights.to_vec() })
    }

    /// The weights that are averaged.
    pub fn weights(&self) -> &[Buffer] {
        &self.weights
    }

    /// Takes the weights behind a step, counted from 0, into the average. Its decay grows from 0.1 with the steps, so that the
    /// first weights are soon forgotten (as TensorFlow's `ExponentialMovingAverage` with `num_updates`).
    pub fn step_in(&self, sequence: &mut Sequence, step: u64) {
        let decay = self.decay.min((1.0 + step as f64) / (10.0 + step as f64));
        sequence.write(&self.rate.all(), &[(1.0 - decay) as f32]);
        sequence.run(&self.program);
    }

    /// The weights by name, with their bytes, as an optimiser's moments are.
    pub fn state(&self) -> impl Iterator<Item = (String, Buffer, u64)> {
        self.weights.iter().enumerate().map(|(i, weights)| (format!("weights.{i}"), weights.clone(), weights.bytes()))
    }
}

fn record(gpu: &Gpu, weights: &[Buffer], averages: &[Buffer], control: &Buffer, rate: &Buffer) -> Result<Program> {
    let mut builder = ProgramBuilder::new(gpu);
    for (window, (weights, average)) in weights.iter().zip(averages).enumerate() {
        let bindings = vec![
            ("control", control.all()),
            ("rate", rate.all()),
            ("weights", weights.all()),
            ("average", average.all()),
        ];
        builder.push(Dispatch {
            label: format!("average {window}"),
            shader: &AVERAGE,
            header: Header::new(),
            bindings,
            params: vec![("len4", ((weights.bytes() / 16) as usize).into())],
            workgroups: (weights.bytes() / 16).div_ceil(256),
        });
    }
    builder.finish()
}
