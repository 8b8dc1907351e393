//! A model under training on the device: plans by batch shape, gradient arenas, the optimiser.

use std::collections::HashMap;

use super::optimizer::{Optimizer, OptimizerConfig, StepReport};
use crate::batch::{Batch, BatchShape, IGNORE, Segments};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu, Readback};
use crate::graph::{Graph, ValueId};
use crate::model::{Builder, Model};
use crate::ops::{Sight, gather_index, segment_ranges};
use crate::plan::{Plan, PlanOptions, SlotPool};

/// What training adds to the model and to the cross-entropy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Regularization {
    pub dropout: f32,
    pub z_loss: f32,
    pub label_smoothing: f32,
}

/// Sums over the tokens of one or more batches.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct LossStats {
    /// Sum of the cross-entropy, in nats.
    pub loss: f64,
    pub tokens: f64,
    /// Tokens whose most likely class was the label.
    pub correct: f64,
}

impl LossStats {
    /// Mean cross-entropy per target token.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.tokens.max(1.0)
    }

    /// Share of target tokens predicted right, given those before.
    pub fn accuracy(&self) -> f64 {
        self.correct / self.tokens.max(1.0)
    }

    pub fn add(&mut self, other: &LossStats) {
        self.loss += other.loss;
        self.tokens += other.tokens;
        self.correct += other.correct;
    }

    fn from_gpu(values: &[f32]) -> LossStats {
        LossStats { loss: values[0].into(), tokens: values[1].into(), correct: values[2].into() }
    }
}

/// See the module.
pub struct Engine {
    pub model: Model,
    pub optimizer: Optimizer,
    regularization: Regularization,
    recompute: bool,
    grads: Vec<Buffer>,
    stats: Buffer,
    pool: SlotPool,
    training: HashMap<BatchShape, Plan>,
    scorer: Scorer,
}

/// The loss of batches under a model, without dropout and without gradients.
pub struct Scorer {
    model: Model,
    pool: SlotPool,
    plans: HashMap<BatchShape, Plan>,
}

impl Scorer {
    pub fn new(model: Model) -> Scorer {
        Scorer::sharing(model, SlotPool::new())
    }

    fn sharing(model: Model, pool: SlotPool) -> Scorer {
        Scorer { model, pool, plans: HashMap::new() }
    }

    /// The loss of a batch with the parameters as they are.
    ///
    /// # Errors
    /// `Input` for an id outside of the vocabulary; `OutOfMemory`.
    pub async fn score(&mut self, batch: &Batch) -> Result<LossStats> {
        let shape = checked_shape(batch, &self.model)?;
        if !self.plans.contains_key(&shape) {
            let plan = self.compile(shape)?;
            self.plans.insert(shape, plan);
        }
        let plan = &self.plans[&shape];
        write_batch(plan, batch);
        plan.run()?;
        Ok(LossStats::from_gpu(&plan.read::<f32>("stats").await?))
    }

    fn compile(&self, shape: BatchShape) -> Result<Plan> {
        let (graph, stats) = graph(&self.model, Regularization::default(), shape, Pass::Evaluation);
        let bind = |name: &str| self.model.bind(name);
        let choices = self.model.tuner.choices(&self.model.gpu, &graph, &[stats])?;
        let options = PlanOptions { bind: &bind, pool: &self.pool };
        let plan = Plan::compile_with(&self.model.gpu, &graph, &[("stats", stats)], &options, &choices)?;
        plan.write("dstats", &[0f32, 0.0, 0.0, 1.0]);
        Ok(plan)
    }
}

impl Engine {
    /// Takes a model over for training. `max_norm`: global gradient norm to clip to; 0 does not clip.
    ///
    /// # Errors
    /// Also `Input` if the model's weights are packed.
    pub fn new(
        model: Model,
        regularization: Regularization,
        optimizer: &OptimizerConfig,
        max_norm: f32,
    ) -> Result<Engine> {
        if model.layout.is_packed() {
            return Err(Error::Input("only weights in f32 can be trained: load the model with Storage::F32".into()));
        }
        let gpu = &model.gpu;
        let grads = model.layout.allocate(gpu, "gradients")?;
        let stats = gpu.buffer("stats", 16)?;
        let spans = model.layout.tensors();
        let optimizer = Optimizer::new(gpu, optimizer, spans, &model.params, &grads, &stats, max_norm)?;
        let (recompute, pool, training) = (false, SlotPool::new(), HashMap::new());
        // Evaluations come between steps: they use the memory of the steps' activations.
        let scorer = Scorer::sharing(model.clone(), pool.clone());
        Ok(Engine { optimizer, regularization, recompute, grads, stats, pool, training, scorer, model })
    }

    /// Whether the backward pass computes each block's activations again instead of keeping them: less memory for up to a
    /// third more work, the same results bit for bit.
    pub fn with_recompute(self, recompute: bool) -> Engine {
        Engine { recompute, training: HashMap::new(), ..self }
    }

    fn gpu(&self) -> &Gpu {
        &self.model.gpu
    }

    /// Compiles the plan for a shape ahead of its first batch: the largest first, so that smaller ones fit its memory.
    pub fn prepare(&mut self, shape: BatchShape) -> Result<()> {
        if !self.training.contains_key(&shape) {
            let plan = self.compile(shape)?;
            self.training.insert(shape, plan);
        }
        Ok(())
    }

    fn compile(&self, shape: BatchShape) -> Result<Plan> {
        let pass = Pass::Training { recompute: self.recompute };
        let (graph, _) = graph(&self.model, self.regularization, shape, pass);
        let bind = |name: &str| match name.strip_prefix("grad/") {
            Some(leaf) => self.model.layout.slice(leaf, &self.grads),
            None if name == "stats" => Some(self.stats.all()),
            None => self.model.bind(name),
        };
        let choices = self.model.tuner.choices(self.gpu(), &graph, &[])?;
        let options = PlanOptions { bind: &bind, pool: &self.pool };
        let plan = Plan::compile_with(self.gpu(), &graph, &[], &options, &choices)?;
        plan.write("dstats", &[0f32, 0.0, 0.0, 1.0]);
        Ok(plan)
    }

    /// Zeroes the gradients and the stats: the beginning of an optimiser step.
    pub fn begin_step(&self) {
        for grads in &self.grads {
            self.gpu().clear(&grads.all());
        }
        self.gpu().clear(&self.stats.all());
    }

    /// Adds a batch's gradients and stats to the sums. `key`: the key of the dropout masks.
    pub fn micro_batch(&mut self, batch: &Batch, key: [u32; 4]) -> Result<()> {
        let shape = checked_shape(batch, &self.model)?;
        self.prepare(shape)?;
        let plan = &self.training[&shape];
        write_batch(plan, batch);
        if self.regularization.dropout > 0.0 {
            plan.write("key", &key);
        }
        plan.run()
    }

    /// The loss of a batch, without dropout and without gradients.
    pub async fn evaluate(&mut self, batch: &Batch) -> Result<LossStats> {
        self.scorer.score(batch).await
    }

    /// Divides the sums by the token count, clips, and updates the parameters. `step` counts from 0.
    pub fn finish_step(&self, lr: f64, step: u64) -> Result<()> {
        self.optimizer.step(lr, step)
    }

    /// The stats of the batches since [`Engine::begin_step`], and the optimiser's report on them.
    pub async fn report(&self) -> Result<(LossStats, StepReport)> {
        self.start_report()?.finish().await
    }

    /// Begins to read the report of the step just submitted. The next step may be submitted before the report is
    /// finished, so that the device never waits for the host.
    pub fn start_report(&self) -> Result<PendingReport> {
        Ok(PendingReport { stats: self.gpu().start_read(&self.stats, 0..16)?, step: self.optimizer.start_report()? })
    }

    /// A gradient's arena slice, for checks.
    pub fn gradients(&self) -> &[Buffer] {
        &self.grads
    }

    /// The plan of a training shape, if it was compiled.
    pub fn plan(&self, shape: BatchShape) -> Option<&Plan> {
        self.training.get(&shape)
    }

    /// Bytes on the device: parameters, gradients, moments, activations.
    pub fn memory(&self) -> [u64; 4] {
        let sum = |buffers: &[Buffer]| buffers.iter().map(Buffer::bytes).sum();
        [sum(&self.model.params), sum(&self.grads), self.optimizer.state_bytes(), self.pool.bytes()]
    }
}

/// A step's report on its way to the host.
pub struct PendingReport {
    stats: Readback<f32>,
    step: Readback<f32>,
}

impl PendingReport {
    /// The report, once the step has run.
    pub async fn finish(self) -> Result<(LossStats, StepReport)> {
        let stats = self.stats.finish().await?;
        Ok((LossStats::from_gpu(&stats), StepReport::from_gpu(&self.step.finish().await?)))
    }
}

/// What a graph of [`graph`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The loss alone, without dropout.
    Evaluation,
    /// Loss and gradients; for `recompute` see [`Engine::with_recompute`].
    Training { recompute: bool },
}

/// The graph of a training pass (loss and gradients) or of an evaluation, and its stats, which a training pass adds up
/// in the leaf of that name.
pub fn graph(model: &Model, regularization: Regularization, shape: BatchShape, pass: Pass) -> (Graph, ValueId) {
    let training = pass != Pass::Evaluation;
    let Regularization { dropout, z_loss, label_smoothing } =
        if training { regularization } else { Regularization::default() };
    let mut b = Builder::new(model, shape, dropout);
    if pass == (Pass::Training { recompute: true }) {
        b.recompute_blocks();
    }
    let encoded = b.encoder();
    let hidden = b.decoder(encoded);
    let stats = b.loss(hidden, z_loss, label_smoothing);
    if training {
        b.backward(stats);
    }
    (b.graph, stats)
}

/// Uploads a batch into the leaves that the builder's graphs read.
pub fn write_batch(plan: &Plan, batch: &Batch) {
    let counts = |lens: &[u32], width: usize| {
        let lens = lens.to_vec();
        move |i: usize| i % width < lens[i / width] as usize
    };
    plan.write("src_ids", &batch.src_ids);
    plan.write("src_index", &gather_index(&batch.src_ids, counts(&batch.src_lens, batch.shape.src_len)));
    plan.write("tgt_ids", &batch.tgt_in);
    plan.write("tgt_index", &gather_index(&batch.tgt_in, counts(&batch.tgt_lens, batch.shape.tgt_len)));
    plan.write("labels", &batch.labels);
    if let Some(Segments { src, tgt }) = &batch.segments {
        let ranges = |own: &[u32], seen: &[u32], sight| segment_ranges(own, seen, batch.shape.batch, sight);
        plan.write("src_ranges", &ranges(src, src, Sight::Segment));
        plan.write("tgt_keys", &ranges(tgt, tgt, Sight::UpToSelf));
        plan.write("tgt_queries", &ranges(tgt, tgt, Sight::FromSelf));
        plan.write("cross_keys", &ranges(tgt, src, Sight::Segment));
        plan.write("cross_queries", &ranges(src, tgt, Sight::Segment));
    } else {
        plan.write("src_lens", &batch.src_lens);
    }
}

/// The batch's shape, once its ids are known to lie inside the vocabulary.
fn checked_shape(batch: &Batch, model: &Model) -> Result<BatchShape> {
    let vocab = model.config.vocab_size as u32;
    let ids = batch.src_ids.iter().chain(&batch.tgt_in);
    let labels = batch.labels.iter().filter(|&&l| l != IGNORE);
    if let Some(id) = ids.chain(labels).find(|&&id| id >= vocab) {
        return Err(Error::Input(format!(
            "token id {id} is outside of the model's vocabulary of {vocab}: the tokenizer does not belong to this model"
        )));
    }
    Ok(batch.shape)
}
