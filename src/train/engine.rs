//! A model under training on the device: plans by batch shape, gradient arenas, the optimiser.

use std::collections::HashMap;

use super::average::Average;
use super::inputs::Inputs;
use super::norms::{Meter, Norms};
use super::optimizer::{Arenas, Optimizer, OptimizerConfig, StepReport};
use crate::batch::{Batch, BatchShape};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Readback, Sequence};
use crate::graph::{Graph, ValueId};
use crate::model::{Builder, EncoderAttention, Model};
use crate::plan::{Plan, PlanOptions, Plans, SlotPool, outline};

/// What training adds to the model, to the cross-entropy and to the optimiser.
#[derive(Clone, Copy, Debug, Default)]
pub struct Regularization {
    pub dropout: f32,
    pub z_loss: f32,
    pub label_smoothing: f32,
    /// Decay of a moving average of the weights over the steps; 0 keeps none.
    pub average: f64,
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
    /// Where weights are averaged, the model of the average: that which is evaluated and saved.
    pub model: Model,
    /// The model whose gradients are taken; the same, where weights are not averaged.
    learner: Model,
    average: Option<Average>,
    meter: Option<Meter>,
    /// Target tokens of the first of several passes of the step.
    first_tokens: u64,
    passes: usize,
    pub optimizer: Optimizer,
    regularization: Regularization,
    recompute: bool,
    /// Blocks of each stack that learn now.
    unfrozen: Option<usize>,
    grads: Vec<Buffer>,
    stats: Buffer,
    plans: Plans<BatchShape>,
    scorer: Scorer,
    /// What was recorded of the step that is begun.
    step: Sequence,
    /// Operations of a pass over batches of each shape met.
    flops: HashMap<BatchShape, f64>,
}

/// Plans that are kept. The shapes of a run's batches are few.
const MOST_PLANS: usize = 64;

/// The loss of batches under a model, without dropout and without gradients.
pub struct Scorer {
    model: Model,
    plans: Plans<BatchShape>,
}

impl Scorer {
    pub fn new(model: Model) -> Scorer {
        Scorer::sharing(model, SlotPool::new())
    }

    fn sharing(model: Model, pool: SlotPool) -> Scorer {
        Scorer { model, plans: Plans::new(MOST_PLANS, pool) }
    }

    /// The loss of a batch with the parameters as they are.
    ///
    /// # Errors
    /// `Input` for an id outside of the vocabulary; `OutOfMemory`.
    pub async fn score(&mut self, batch: &Batch) -> Result<LossStats> {
        let inputs = Inputs::new(batch, &self.model.config)?;
        let model = &self.model;
        let plan = self.plans.get(inputs.shape, |pool| {
            let (graph, stats) = graph(model, Regularization::default(), inputs.shape, Pass::Evaluation);
            let choices = model.tuner.choices(&model.gpu, &graph, &[stats])?;
            let options = PlanOptions { bind: &|name| model.bind(name), pool };
            let plan = Plan::compile_with(&model.gpu, &graph, &[("stats", stats)], &options, &choices)?;
            plan.write("dstats", &[0f32, 0.0, 0.0, 1.0]);
            Ok(plan)
        })?;
        let mut sequence = Sequence::new(&model.gpu);
        inputs.write(plan, &mut sequence);
        plan.run_in(&mut sequence)?;
        let stats = sequence.submit_reading::<f32>(std::slice::from_ref(plan.output("stats")))?;
        Ok(LossStats::from_gpu(&stats.finish().await?))
    }
}

impl Engine {
    /// Takes a model over for training. `max_norm`: global gradient norm to clip to; 0 does not clip.
    ///
    /// # Errors
    /// Also `Input` if weights that are to learn are packed, or its encoder's attention is transient-global.
    pub fn new(
        model: Model,
        regularization: Regularization,
        optimizer: &OptimizerConfig,
        max_norm: f32,
    ) -> Result<Engine> {
        if model.layout.learns_packed() {
            return Err(Error::Input("only weights in f32 learn: load the model with Storage::F32".into()));
        }
        if let EncoderAttention::TransientGlobal { .. } = model.config.encoder_attention {
            return Err(Error::Input(
                "LongT5 with transient-global attention is for inference only: of its sums of blocks there are no gradients yet; \
                 LongT5 with local attention can be trained"
                    .into(),
            ));
        }
        let gpu = &model.gpu;
        let grads = model.layout.allocate_learning(gpu, "gradients")?;
        let stats = gpu.buffer("stats", 16)?;
        let (layout, spans) = (&model.layout, model.layout.learning_tensors());
        let learner = match regularization.average {
            0.0 => model.clone(),
            _ => model.in_arenas(
                layout.with_learning(layout.allocate_learning(gpu, "weights that are averaged")?, &model.params),
            ),
        };
        let params = layout.learning_windows(&learner.params);
        let optimizer = Optimizer::new(gpu, optimizer, &spans, params, &grads, &stats, max_norm)?;
        let average = (regularization.average > 0.0).then(|| {
            let averages = layout.learning_windows(&model.params);
            Average::new(gpu, params, averages, optimizer.control(), regularization.average)
        });
        let average = average.transpose()?;
        // Evaluations come between steps: they use the memory of the steps' activations.
        let pool = SlotPool::new();
        let scorer = Scorer::sharing(model.clone(), pool.clone());
        let (plans, step) = (Plans::new(MOST_PLANS, pool), Sequence::new(gpu));
        let (recompute, unfrozen, flops) = (false, None, HashMap::new());
        Ok(Engine {
            model,
            learner,
            average,
            meter: None,
            first_tokens: 0,
            passes: 0,
            optimizer,
            regularization,
            recompute,
            unfrozen,
            grads,
            stats,
            plans,
            scorer,
            step,
            flops,
        })
    }

    /// Whether the backward pass computes each block's activations again instead of keeping them: less memory for up to a
    /// third more work, the same results bit for bit.
    pub fn with_recompute(mut self, recompute: bool) -> Engine {
        self.plans.clear();
        Engine { recompute, ..self }
    }

    /// Makes ready for [`Engine::norms`].
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn with_norms(mut self) -> Result<Engine> {
        let layout = &self.learner.layout;
        let arenas = Arenas {
            gpu: &self.model.gpu,
            spans: &layout.learning_tensors(),
            params: layout.learning_windows(&self.learner.params),
            grads: &self.grads,
            control: self.optimizer.control(),
        };
        self.meter = Some(Meter::new(&arenas)?);
        Ok(self)
    }

    /// The norms of all tensors that learn, behind the step that was finished last, and the noise of its gradient if it had several passes; `None`
    /// without [`Engine::with_norms`]. Waits for the device.
    pub async fn norms(&mut self) -> Result<Option<Norms>> {
        let Some(meter) = &self.meter else { return Ok(None) };
        let small = if self.passes > 1 { self.first_tokens } else { 0 };
        meter.read(Sequence::new(&self.model.gpu), self.stats.slice(0, 16), small).await.map(Some)
    }

    /// Under [`Learns::Gradual`](crate::model::Learns::Gradual): how many blocks of each stack learn from now on, from the last one
    /// on. What does not learn has a gradient of 0, with which optimisers without weight decay change nothing.
    pub fn unfreeze(&mut self, blocks: usize) {
        if self.unfrozen.replace(blocks) != Some(blocks) {
            self.model.layout.unfreeze(&self.model.config, blocks);
            self.learner.layout.unfreeze(&self.learner.config, blocks);
            self.plans.clear();
            self.flops.clear();
        }
    }

    /// Compiles the plan for a shape ahead of its first batch: the largest first, so that smaller ones fit its memory.
    pub fn prepare(&mut self, shape: BatchShape) -> Result<()> {
        self.plan_of(shape).map(drop)
    }

    /// The plan of a shape, and the step that it goes into.
    fn plan_of(&mut self, shape: BatchShape) -> Result<(&Plan, &mut Sequence)> {
        let Engine { learner: model, regularization, recompute, grads, stats, plans, step, .. } = self;
        let plan = plans.get(shape, |pool| {
            let (graph, _) = graph(model, *regularization, shape, Pass::Training { recompute: *recompute });
            let bind = |name: &str| match name.strip_prefix("grad/") {
                Some(leaf) => model.layout.slice(leaf, grads),
                None if name == "stats" => Some(stats.all()),
                None => model.bind(name),
            };
            let choices = model.tuner.choices(&model.gpu, &graph, &[])?;
            let plan = Plan::compile_with(&model.gpu, &graph, &[], &PlanOptions { bind: &bind, pool }, &choices)?;
            plan.write("dstats", &[0f32, 0.0, 0.0, 1.0]);
            Ok(plan)
        })?;
        Ok((plan, step))
    }

    /// Zeroes the gradients and the stats: the beginning of an optimiser step. What the step is made of is recorded, and runs
    /// once [`Engine::finish_step`] or [`Engine::finish_gradients`] submits it.
    pub fn begin_step(&mut self) {
        self.step = Sequence::new(&self.model.gpu);
        self.passes = 0;
        for arena in self.grads.iter().chain([&self.stats]) {
            self.step.clear(&arena.all());
        }
    }

    /// Adds a batch's gradients and stats to the sums. `key`: the key of the dropout masks.
    pub fn micro_batch(&mut self, batch: &Batch, key: [u32; 4]) -> Result<()> {
        let inputs = Inputs::new(batch, &self.model.config)?;
        self.micro_batch_of(&inputs, key)
    }

    /// [`Engine::micro_batch`] of a batch that was prepared elsewhere, such as on another thread.
    pub fn micro_batch_of(&mut self, inputs: &Inputs, key: [u32; 4]) -> Result<()> {
        let has_masks = self.regularization.dropout > 0.0 || self.learner.layout.has_dropout();
        let (plan, step) = self.plan_of(inputs.shape)?;
        inputs.write(plan, step);
        if has_masks {
            plan.write_in(step, "key", &key);
        }
        plan.run_in(step)?;
        self.passes += 1;
        if let (1, Some(meter)) = (self.passes, &self.meter) {
            meter.first_in(&mut self.step);
            self.first_tokens = inputs.n_labels;
        }
        Ok(())
    }

    /// Divides the sums by the token count, clips, updates the parameters, and submits the whole step. `number`: that of the step,
    /// from 0 on. The report is on its way then; later steps do not delay it, so that the device need not wait for the host.
    pub fn finish_step(&mut self, lr: f64, number: u64) -> Result<PendingReport> {
        self.optimizer.step_in(&mut self.step, lr, number);
        if let Some(average) = &self.average {
            average.step_in(&mut self.step, number);
        }
        self.finish_gradients()
    }

    /// Submits what was recorded, as it is: a step that leaves the parameters alone.
    pub fn finish_gradients(&mut self) -> Result<PendingReport> {
        let reports = [self.stats.slice(0, 16), self.optimizer.report_slice()];
        Ok(PendingReport(self.step.submit_reading(&reports)?))
    }

    /// Floating-point operations of a training pass over a batch of that shape: those of matrix products and attention, forward
    /// and backward. What `recompute` repeats is not counted, so that the figure says how much was learned from.
    ///
    /// # Errors
    /// As compiling a plan for that shape.
    pub fn flops(&mut self, shape: BatchShape) -> Result<f64> {
        if let Some(&known) = self.flops.get(&shape) {
            return Ok(known);
        }
        let (graph, _) = graph(&self.learner, self.regularization, shape, Pass::Training { recompute: false });
        let steps = outline(self.model.gpu.caps(), &graph, &[])?;
        let flops = steps.iter().map(|step| step.work.flops).sum();
        self.flops.insert(shape, flops);
        Ok(flops)
    }

    /// The loss of a batch, without dropout and without gradients.
    pub async fn evaluate(&mut self, batch: &Batch) -> Result<LossStats> {
        self.scorer.score(batch).await
    }

    /// A gradient's arena slice, for checks.
    pub fn gradients(&self) -> &[Buffer] {
        &self.grads
    }

    /// The plan of a training shape, if it was compiled.
    pub fn plan(&self, shape: BatchShape) -> Option<&Plan> {
        self.plans.find(&shape)
    }

    /// What a training needs beside the model to go on bit for bit, by name, with the bytes in use: the optimiser's moments and, where
    /// `model` is an average, the weights themselves.
    pub fn state(&self) -> Vec<(String, Buffer, u64)> {
        let weights = self.average.iter().flat_map(Average::state);
        self.optimizer.state().into_iter().chain(weights).collect()
    }

    /// The parameters, and the average of them if there is one.
    pub fn arenas(&self) -> Vec<Buffer> {
        let averaged = self.average.iter().flat_map(Average::weights);
        self.model.params.iter().chain(averaged).cloned().collect()
    }

    /// Bytes on the device: parameters, gradients, moments, activations.
    pub fn memory(&self) -> [u64; 4] {
        let sum = |buffers: &[Buffer]| buffers.iter().map(Buffer::bytes).sum();
        [sum(&self.arenas()), sum(&self.grads), self.optimizer.state_bytes(), self.plans.bytes()]
    }
}

/// A step's report on its way to the host.
pub struct PendingReport(Readback<f32>);

impl PendingReport {
    /// The report, once the step has run.
    pub async fn finish(self) -> Result<(LossStats, StepReport)> {
        let values = self.0.finish().await?;
        Ok((LossStats::from_gpu(&values), StepReport::from_gpu(&values[4..])))
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
    let Regularization { dropout, z_loss, label_smoothing, .. } =
        if training { regularization } else { Regularization::default() };
    let mut b = Builder::new(model, shape, dropout);
    if training {
        b.for_training();
    }
    if pass == (Pass::Training { recompute: true }) {
        b.recompute_blocks();
    }
    let hidden = b.states();
    let stats = b.loss(hidden, z_loss, label_smoothing);
    if training {
        b.backward(stats);
    }
    (b.graph, stats)
}
