//! What a card should need, from a count of the work: `max(flops / (a peak), bytes / (b bandwidth)) + launch` summed over
//! the dispatches of a step. Nothing is run, and no adapter is needed.

use super::gpus::{GPUS, NamedGpu};
use super::{BenchOptions, Subject};
use crate::batch::BatchShape;
use crate::error::Result;
use crate::gpu::{Caps, StepWork, Work, Workgroup};
use crate::graph::Dtype;
use crate::model::{Builder, Chooser, DecodeShape, Layout, T5Config};
use crate::plan::outline;

/// The share of the peak that our plain f32 products are taken to reach, and with fewer than 64 rows.
const COMPUTE: f64 = 0.35;
const COMPUTE_FEW_ROWS: f64 = 0.2;
/// The share of the bandwidth that streaming kernels are taken to reach.
const STREAM: f64 = 0.75;
/// Operations a byte of a product of 64 rows with a large matrix: 2 x 64 for the four bytes of each weight.
const ROWS_64: f64 = 32.0;
/// Bytes a parameter that AdamW moves: both moments and the parameter there and back, the gradient twice for its norm and
/// for the update, and once to be cleared.
const ADAMW_BYTES: f64 = 36.0;
/// Dispatches of AdamW, for each window of the arenas and for all.
const ADAMW_DISPATCHES: [usize; 2] = [2, 1];

/// The times of one model on one card.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Forecast {
    #[serde(flatten)]
    pub gpu: NamedGpu,
    /// In the order of `workloads`.
    pub seconds: Vec<f64>,
}

/// What is predicted.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Workload {
    pub name: String,
    /// Tokens of one run.
    pub tokens: usize,
    pub dispatches: usize,
    #[serde(flatten)]
    pub work: Work,
    pub kernels: Vec<Occupancy>,
    #[serde(skip)]
    pub steps: Vec<StepWork>,
}

/// How much of a card the dispatches of one kernel can keep busy.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Occupancy {
    pub kernel: &'static str,
    pub dispatches: usize,
    #[serde(flatten)]
    pub work: Work,
    /// Of the dispatch with the fewest invocations, but for those that move less than [`SMALL_DISPATCH`]: its workgroups, and what each
    /// takes.
    pub workgroups: u64,
    pub workgroup: Workgroup,
}

/// Bytes below which a dispatch is done before a card could be kept busy.
pub const SMALL_DISPATCH: f64 = 65_536.0;

impl Occupancy {
    pub fn invocations(&self) -> u64 {
        self.workgroups * u64::from(self.workgroup.invocations)
    }

    /// Of each kernel, the one that moves most bytes first.
    fn of(steps: &[StepWork]) -> Vec<Occupancy> {
        let mut all: Vec<Occupancy> = Vec::new();
        let mut by_size: Vec<&StepWork> = steps.iter().collect();
        by_size.sort_by_key(|step| (step.work.bytes < SMALL_DISPATCH, step.invocations()));
        for &StepWork { kernel, work, workgroups, workgroup, .. } in by_size {
            match all.iter_mut().find(|known| known.kernel == kernel) {
                Some(known) => (known.dispatches, known.work) = (known.dispatches + 1, known.work + work),
                None => all.push(Occupancy { kernel, dispatches: 1, work, workgroups, workgroup }),
            }
        }
        all.sort_by(|a, b| b.work.bytes.total_cmp(&a.work.bytes));
        all
    }
}

/// Predicts the encoder, decoding and a training step for every card of [`GPUS`].
pub fn predict(options: &BenchOptions) -> Result<(Vec<Workload>, Vec<Forecast>)> {
    options.check()?;
    let workloads = workloads(options)?;
    let forecast =
        |gpu: &NamedGpu| Forecast { gpu: *gpu, seconds: workloads.iter().map(|w| seconds_on(gpu, &w.steps)).collect() };
    let forecasts = GPUS.iter().map(forecast).collect();
    Ok((workloads, forecasts))
}

/// Seconds of these dispatches, one after the other.
pub fn seconds_on(gpu: &NamedGpu, steps: &[StepWork]) -> f64 {
    let seconds = |step: &StepWork| {
        let few = step.work.flops < ROWS_64 * step.work.bytes;
        let compute = if few { COMPUTE_FEW_ROWS } else { COMPUTE };
        step.work.floor(compute * gpu.f32_rate * 1e12, STREAM * gpu.bandwidth * 1e9) + gpu.launch * 1e-6
    };
    steps.iter().map(seconds).sum()
}

fn workloads(options: &BenchOptions) -> Result<Vec<Workload>> {
    let config = options.subject.config()?;
    config.validate()?;
    let caps = card();
    let untied = !config.tie_word_embeddings;
    let layout = Layout::new(&config, untied, &caps, &|_| Dtype::F32)?;
    let (scale, _) = config.output_scale(untied);
    let batch = options.batch.unwrap_or(8);
    let shape = BatchShape { batch, src_len: options.source_len.unwrap_or(512), tgt_len: 1, packed: false };
    let mut workloads = Vec::new();

    let mut b = Builder::on_layout(&config, &layout, scale, shape, 0.0);
    let encoded = b.encoder();
    let steps = outline(&caps, &b.graph, &[encoded])?;
    workloads.push(Workload::new(format!("encoder {batch} x {}", shape.src_len), batch * shape.src_len, steps));

    for batch in options.batch.map_or(vec![1, 16], |batch| vec![batch]) {
        let src_len = options.source_len.unwrap_or(64);
        let max_len = options.target_len.unwrap_or(64) + 32;
        let shape = DecodeShape { batch, beams: 1, drafts: 0, src_len, max_len };
        let mut b = Builder::on_layout(
            &config,
            &layout,
            scale,
            BatchShape { batch, src_len, tgt_len: max_len, packed: false },
            0.0,
        );
        b.decode_step(shape.beams, shape.drafts);
        let mut steps = outline(&caps, &b.graph, &[])?;
        steps.extend(outline(
            &caps,
            &shape.chooser(config.vocab_size, Chooser { n_eos: 1, ..Chooser::default() }),
            &[],
        )?);
        workloads.push(Workload::new(format!("decode batch {batch}"), batch, steps));
    }

    let shape = BatchShape { tgt_len: options.target_len.unwrap_or(114), ..shape };
    let tokens = batch * (shape.src_len + shape.tgt_len);
    let mut b = Builder::on_layout(&config, &layout, scale, shape, 0.1);
    let encoded = b.encoder();
    let hidden = b.decoder(encoded);
    let stats = b.loss(hidden, 0.0, 0.0);
    b.backward(stats);
    let mut steps = outline(&caps, &b.graph, &[])?;
    steps.extend(adamw(&config, &layout));
    workloads.push(Workload::new(format!("train {batch} x ({} + {})", shape.src_len, shape.tgt_len), tokens, steps));
    Ok(workloads)
}

fn adamw(config: &T5Config, layout: &Layout) -> Vec<StepWork> {
    let windows = layout.tensors().iter().flat_map(|t| &t.pieces).map(|p| p.window + 1).max().unwrap_or(1);
    let count = ADAMW_DISPATCHES[0] * windows + ADAMW_DISPATCHES[1];
    let bytes = ADAMW_BYTES * config.param_count() as f64 / count as f64;
    let step = StepWork {
        kernel: "adamw",
        label: "optimiser".into(),
        work: Work { flops: 0.0, bytes },
        // Four parameters an invocation.
        workgroups: (config.param_count() / windows as u64).div_ceil(4 * 256),
        workgroup: Workgroup { invocations: 256, shared_bytes: 0 },
    };
    vec![step; count]
}

/// The capabilities of a common graphics card: they decide which kernels are counted.
fn card() -> Caps {
    Caps {
        name: "a graphics card".into(),
        kind: "discrete GPU",
        max_binding: 2 << 30,
        table_bytes: 2 << 30,
        max_buffer: 2 << 30,
        max_invocations: 1024,
        max_workgroup_bytes: 32 << 10,
        max_storage_bindings: 8,
        max_workgroups_per_dim: 65_535,
        alignment: 256,
        ..Caps::default()
    }
}

impl Workload {
    fn new(name: String, tokens: usize, steps: Vec<StepWork>) -> Workload {
        let work = steps.iter().map(|step| step.work).sum();
        Workload { name, tokens, dispatches: steps.len(), work, kernels: Occupancy::of(&steps), steps }
    }
}

/// The options of a prediction at the default sizes.
impl BenchOptions {
    pub fn new(subject: Subject) -> BenchOptions {
        BenchOptions {
            sections: Vec::new(),
            subject,
            batch: None,
            source_len: None,
            target_len: None,
            seconds: 1.0,
            quick: false,
            trace: false,
            text: Vec::new(),
            tokenizer: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(flops: f64, bytes: f64) -> StepWork {
        let workgroup = Workgroup { invocations: 64, shared_bytes: 0 };
        StepWork { kernel: "k", label: String::new(), work: Work { flops, bytes }, workgroups: 1, workgroup }
    }

    #[test]
    fn a_step_by_hand() {
        let gpu = NamedGpu { name: "made up", bandwidth: 100.0, f32_rate: 10.0, launch: 5.0 };
        // 7 GFLOP at 3.5 TFLOP/s; 0.3 GB at 75 GB/s; 2 GFLOP on 0.1 GB, few rows, at 2 TFLOP/s but 75 GB/s is slower.
        let steps = [step(7e9, 1e6), step(0.0, 0.3e9), step(2e9, 0.1e9)];
        let expected = 2e-3 + 4e-3 + 0.1 / 75.0 + 3.0 * 5e-6;
        assert!((seconds_on(&gpu, &steps) - expected).abs() < 1e-12);
    }

    #[test]
    fn better_cards_are_faster() {
        let mut options = BenchOptions::new(Subject::parse("t5-small").unwrap());
        options.source_len = Some(64);
        let (workloads, forecasts) = predict(&options).unwrap();
        assert_eq!(forecasts.len(), GPUS.len());
        for a in &forecasts {
            for b in &forecasts {
                let better = a.gpu.bandwidth >= b.gpu.bandwidth
                    && a.gpu.f32_rate >= b.gpu.f32_rate
                    && a.gpu.launch <= b.gpu.launch;
                let faster = a.seconds.iter().zip(&b.seconds).all(|(x, y)| x <= y);
                assert!(!better || faster, "{} and {}", a.gpu.name, b.gpu.name);
            }
        }
        // 38.5 million parameters of decoder and head are read for each token; embeddings, caches and states add little.
        let weights = 4.0 * 38.5e6;
        let moved = workloads[1].work.bytes;
        assert!((weights..1.1 * weights).contains(&moved), "{moved}");
    }
}
