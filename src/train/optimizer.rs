//! Optimisers that run wholly on the GPU: AdamW, AdamWScale and Adafactor over flat arenas of parameters and gradients.
//!
//! A step reads the token count and the summed gradients where the backward pass left them, averages, clips by the
//! global norm, and updates; the host sends four numbers and reads nothing back.

use std::str::FromStr;

use super::{adafactor, adamw, average, clip, tiles};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu, Header, Program, ProgramBuilder, Sequence, Shader, Slice};
use crate::model::TensorSpan;

/// Which optimiser, with all its settings but the learning rate.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OptimizerConfig {
    /// Loshchilov & Hutter 2019, with the arithmetic of `torch.optim.AdamW`: decay applies to every parameter.
    #[serde(rename = "adamw")]
    AdamW { betas: [f64; 2], eps: f64, weight_decay: f64 },
    /// Adam's step of each tensor relative to the root mean square of its parameters, as Adafactor's are: nanoT5's AdamWScale
    /// (Nawrot 2023). Its denominator is `sqrt(v) + eps` before the bias correction; decay comes after the step.
    #[serde(rename = "adamw_scale")]
    AdamWScale {
        betas: [f64; 2],
        eps: f64,
        weight_decay: f64,
        /// Least root mean square that the parameters of a tensor count with.
        least_scale: f64,
    },
    /// Shazeer & Stern 2018, without momentum.
    Adafactor {
        /// Added to squared gradients.
        eps1: f64,
        /// Least root mean square that the parameters of a tensor count with under `scale_parameter`.
        eps2: f64,
        /// Root mean square of an update beyond which it is scaled down.
        clip_threshold: f64,
        /// The moments' decay at step t = 1, 2, ... is 1 - t^-decay_rate.
        decay_rate: f64,
        /// Multiplied by the step size, as in transformers.
        weight_decay: f64,
        /// Steps are relative to the root mean square of a tensor's parameters.
        scale_parameter: bool,
        /// Matrices whose smaller dimension is at least this keep only row and column moments.
        min_dim_factored: usize,
        /// Step size min(1e-2, 1/sqrt(t)) in place of the learning rate given.
        relative_step: bool,
        /// With `relative_step`: min(1e-6 t, 1/sqrt(t)).
        warmup_init: bool,
    },
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Of the gradient per token over all tensors, before clipping.
    pub grad_norm: f32,
    /// What the gradient was multiplied by; 1 where it was not clipped.
    pub clip: f32,
    /// The batch had no token or the norm was not finite: parameters and moments are as they were.
    pub skipped: bool,
}

impl StepReport {
    /// From the head of `Control` (optimizer_control.wgsl).
    pub(super) fn from_gpu(values: &[f32]) -> StepReport {
        StepReport { grad_norm: values[1], clip: values[2], skipped: values[3] != 0.0 }
    }
}

/// An optimiser recorded for one set of arenas.
pub struct Optimizer {
    gpu: Gpu,
    config: OptimizerConfig,
    control: Buffer,
    program: Program,
    moments: Moments,
}

/// Buffers that outlive a step: name, buffer, bytes in use.
pub(super) type Moments = Vec<(String, Buffer, u64)>;

/// The arenas as the optimisers' recorders see them.
pub(super) struct Arenas<'a> {
    pub gpu: &'a Gpu,
    pub spans: &'a [TensorSpan],
    pub params: &'a [Buffer],
    pub grads: &'a [Buffer],
    pub control: &'a Buffer,
}

/// Byte offset in `Control` (optimizer_control.wgsl) of what the host writes before each step.
const RATES_AT: u64 = 16;
const TENSORS_AT: u64 = 32;

impl OptimizerConfig {
    pub fn weight_decay(&self) -> f64 {
        match self {
            OptimizerConfig::AdamW { weight_decay, .. }
            | OptimizerConfig::AdamWScale { weight_decay, .. }
            | OptimizerConfig::Adafactor { weight_decay, .. } => *weight_decay,
        }
    }

    /// PyTorch's defaults: betas 0.9 and 0.999, eps 1e-8, decay 0.01.
    pub fn adamw() -> OptimizerConfig {
        OptimizerConfig::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 }
    }

    /// nanoT5's: betas 0.9 and 0.999, eps 1e-6, no decay, a scale of at least 1e-3.
    pub fn adamw_scale() -> OptimizerConfig {
        OptimizerConfig::AdamWScale { betas: [0.9, 0.999], eps: 1e-6, weight_decay: 0.0, least_scale: 1e-3 }
    }

    /// Adafactor as the T5 paper trained with it (Mesh TensorFlow, T5X): the learning rate comes from a schedule, steps
    /// are relative to the parameters, matrices below 128 are not factored.
    pub fn adafactor_paper() -> OptimizerConfig {
        OptimizerConfig::Adafactor {
            eps1: 1e-30,
            eps2: 1e-3,
            clip_threshold: 1.0,
            decay_rate: 0.8,
            weight_decay: 0.0,
            scale_parameter: true,
            min_dim_factored: 128,
            relative_step: false,
            warmup_init: false,
        }
    }

    /// The defaults of `transformers.Adafactor`: its own step size, every matrix factored.
    pub fn adafactor_hf() -> OptimizerConfig {
        OptimizerConfig::Adafactor {
            eps1: 1e-30,
            eps2: 1e-3,
            clip_threshold: 1.0,
            decay_rate: 0.8,
            weight_decay: 0.0,
            scale_parameter: true,
            min_dim_factored: 0,
            relative_step: true,
            warmup_init: false,
        }
    }

    /// # Errors
    /// `Input` for settings with which a step would divide by zero or the moments would grow without bound.
    pub fn validate(&self) -> Result<()> {
        let require = |holds: bool, what: &str, value: f64| {
            let key = if what.starts_with("weight_decay") { "weight_decay" } else { "optimizer" };
            if holds { Ok(()) } else { Err(Error::setting(key, format!("{what}, not {value}"))) }
        };
        match *self {
            OptimizerConfig::AdamW { betas, eps, weight_decay }
            | OptimizerConfig::AdamWScale { betas, eps, weight_decay, .. } => {
                for beta in betas {
                    require((0.0..1.0).contains(&beta), "betas must be at least 0 and less than 1", beta)?;
                }
                // In f32 the smallest normal number: gaps between tensors would turn to 0/0.
                require(eps as f32 >= f32::MIN_POSITIVE && eps.is_finite(), "eps must be positive", eps)?;
                if let OptimizerConfig::AdamWScale { least_scale, .. } = *self {
                    require(
                        least_scale >= 0.0 && least_scale.is_finite(),
                        "least_scale must be 0 or more",
                        least_scale,
                    )?;
                }
                require(weight_decay >= 0.0 && weight_decay.is_finite(), "weight_decay must be 0 or more", weight_decay)
            }
            OptimizerConfig::Adafactor { eps1, eps2, clip_threshold, decay_rate, weight_decay, .. } => {
                require(eps1 as f32 >= f32::MIN_POSITIVE && eps1.is_finite(), "eps1 must be at least 1.2e-38", eps1)?;
                require(eps2 >= 0.0 && eps2.is_finite(), "eps2 must be 0 or more", eps2)?;
                require(clip_threshold > 0.0, "clip_threshold must be positive", clip_threshold)?;
                require(decay_rate > 0.0 && decay_rate.is_finite(), "decay_rate must be positive", decay_rate)?;
                require(weight_decay >= 0.0 && weight_decay.is_finite(), "weight_decay must be 0 or more", weight_decay)
            }
        }
    }

    /// Whether its steps follow a rule of its own instead of a learning rate.
    pub fn sets_own_rate(&self) -> bool {
        matches!(self, OptimizerConfig::Adafactor { relative_step: true, .. })
    }

    /// The learning rate that it uses at a step, counted from 0, where a schedule says `lr`.
    pub(super) fn rate(&self, lr: f64, step: u64) -> f64 {
        match *self {
            OptimizerConfig::Adafactor { relative_step: true, warmup_init, .. } => {
                adafactor::relative_step(step, warmup_init)
            }
            _ => lr,
        }
    }

    /// What the kernels need of a learning rate and a step; computed in f64, since 1 - beta^t cancels.
    fn rates(&self, lr: f64, step: u64) -> [f32; 4] {
        match *self {
            OptimizerConfig::AdamW { betas, weight_decay, .. } => adamw::rates(betas, weight_decay, lr, step),
            OptimizerConfig::AdamWScale { betas, weight_decay, .. } => {
                adamw::scaled_rates(betas, weight_decay, lr, step)
            }
            OptimizerConfig::Adafactor { decay_rate, weight_decay, .. } => {
                adafactor::rates(decay_rate, weight_decay, self.rate(lr, step), step)
            }
        }
    }
}

impl FromStr for OptimizerConfig {
    type Err = Error;

    /// `adamw`, `adamw-scale`, `adafactor` (the paper's) or `adafactor-hf`.
    fn from_str(text: &str) -> Result<OptimizerConfig> {
        match text {
            "adamw" => Ok(OptimizerConfig::adamw()),
            "adamw-scale" => Ok(OptimizerConfig::adamw_scale()),
            "adafactor" => Ok(OptimizerConfig::adafactor_paper()),
            "adafactor-hf" => Ok(OptimizerConfig::adafactor_hf()),
            _ => Err(Error::Input(format!(
                "no optimizer `{text}`: there are adamw, adamw-scale, adafactor and adafactor-hf"
            ))),
        }
    }
}

impl Optimizer {
    /// Records the steps of an optimiser whose moments are zero.
    ///
    /// `params` and `grads` are the windows of two arenas of the same layout; what lies between tensors is zero in
    /// both. `grads` holds sums over tokens, `stats` (four f32: loss sum, tokens, correct, objective sum) the tokens to
    /// divide them by. `max_norm` 0 means no clipping.
    ///
    /// # Errors
    /// `Input` for impossible settings or spans outside the arenas, `OutOfMemory` if the moments do not fit.
    pub fn new(
        gpu: &Gpu,
        config: &OptimizerConfig,
        spans: &[TensorSpan],
        params: &[Buffer],
        grads: &[Buffer],
        stats: &Buffer,
        max_norm: f32,
    ) -> Result<Optimizer> {
        config.validate()?;
        if max_norm.is_nan() || max_norm < 0.0 {
            return Err(Error::Input(format!("optimizer: max_norm must be 0 (no clipping) or more, not {max_norm}")));
        }
        check_layout(spans, params, grads)?;
        let control = gpu.buffer("optimizer control", TENSORS_AT + 16 * spans.len().max(1) as u64)?;
        let arenas = Arenas { gpu, spans, params, grads, control: &control };
        let mut builder = ProgramBuilder::new(gpu);
        clip::record(&mut builder, &arenas, stats, max_norm)?;
        let moments = match config {
            OptimizerConfig::AdamW { betas, eps, .. } => {
                adamw::record(&mut builder, &arenas, adamw::Settings { betas: *betas, eps: *eps })?
            }
            OptimizerConfig::AdamWScale { betas, eps, least_scale, .. } => {
                let settings = adamw::Settings { betas: *betas, eps: *eps };
                adamw::record_scaled(&mut builder, &arenas, settings, *least_scale)?
            }
            OptimizerConfig::Adafactor { eps1, eps2, clip_threshold, scale_parameter, min_dim_factored, .. } => {
                let settings = adafactor::Settings {
                    eps1: *eps1 as f32,
                    eps2: *eps2 as f32,
                    threshold: *clip_threshold as f32,
                    scale_parameter: *scale_parameter,
                    min_dim_factored: *min_dim_factored,
                };
                adafactor::record(&mut builder, &arenas, &settings)?
            }
        };
        let program = builder.finish()?;
        Ok(Optimizer { gpu: gpu.clone(), config: config.clone(), control, program, moments })
    }

    /// Submits one step. `step` counts from 0 and sets bias corrections and decay rates; `lr` is ignored under
    /// Adafactor's `relative_step`.
    pub fn step(&self, lr: f64, step: u64) -> Result<()> {
        let mut sequence = Sequence::new(&self.gpu);
        self.step_in(&mut sequence, lr, step);
        sequence.submit()
    }

    /// [`Optimizer::step`] as a part of a sequence.
    pub fn step_in(&self, sequence: &mut Sequence, lr: f64, step: u64) {
        sequence.write(&self.control.slice(RATES_AT, TENSORS_AT - RATES_AT), &self.config.rates(lr, step));
        sequence.run(&self.program);
    }

    /// What the last step did; waits for it.
    pub async fn report(&self) -> Result<StepReport> {
        Ok(StepReport::from_gpu(&self.gpu.read(&self.control, 0..RATES_AT).await?))
    }

    /// The head of it says whether the last step was skipped.
    pub(super) fn control(&self) -> &Buffer {
        &self.control
    }

    /// Where what `StepReport::from_gpu` takes lies.
    pub(super) fn report_slice(&self) -> Slice {
        self.control.slice(0, RATES_AT)
    }

    /// The moments by name, with the bytes in use: written back verbatim they continue a run bit for bit, on arenas of
    /// the same layout.
    pub fn state(&self) -> Vec<(String, Buffer, u64)> {
        self.moments.clone()
    }

    /// Bytes of all moments.
    pub fn state_bytes(&self) -> u64 {
        self.moments.iter().map(|(.., bytes)| bytes).sum()
    }

    /// The recorded dispatches, for profiles.
    pub fn program(&self) -> &Program {
        &self.program
    }
}

/// Every kernel of the optimisers with the headers that it runs under, for checks without a device.
pub fn kernels() -> Vec<(&'static Shader, Header)> {
    [clip::kernels(), average::kernels(), tiles::kernels(), adamw::kernels(), adafactor::kernels()].concat()
}

fn check_layout(spans: &[TensorSpan], params: &[Buffer], grads: &[Buffer]) -> Result<()> {
    let same = params.len() == grads.len() && params.iter().zip(grads).all(|(p, g)| p.bytes() == g.bytes());
    if !same {
        return Err(Error::Input("optimizer: the arenas of parameters and gradients differ in size".into()));
    }
    for span in spans {
        let wrong = |what: String| Err(Error::Input(format!("optimizer: tensor {} {what}", span.name)));
        if span.shape.len() > 2 || span.is_empty() || u32::try_from(span.len()).is_err() {
            return wrong(format!(
                "has shape {:?}; one or two dimensions and 1 to 2^32-1 elements are expected",
                span.shape
            ));
        }
        let total: usize = span.pieces.iter().map(|p| p.len).sum();
        if total != span.len() {
            return wrong(format!("of shape {:?} has pieces of {total} elements", span.shape));
        }
        for piece in &span.pieces {
            if let [_, cols] = span.shape[..]
                && piece.rows * cols != piece.len
            {
                return wrong(format!(
                    "has a piece of {} rows and {} elements, not {}",
                    piece.rows,
                    piece.len,
                    piece.rows * cols
                ));
            }
            let held = params.get(piece.window).map_or(0, |b| b.bytes() / 4);
            if (piece.offset + piece.len) as u64 > held {
                return wrong(format!("ends outside window {}, which holds {held} elements", piece.window));
            }
        }
    }
    Ok(())
}
