//! What a recipe would take on an adapter: measured on a few steps of each stage.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::stage::Budget;
use super::{Recipe, Stage};
use crate::batch::Batch;
use crate::data::stream::{BatchPosition, WINDOW_BATCHES};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::model::{Model, T5Config};
use crate::tokenizer::Tokenizer;
use crate::train::engine::Engine;
use crate::train::examples::Sources;
use crate::train::rehearse::StepLoad;

/// What a stage that trains takes on an adapter.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    pub stage: String,
    pub parameters: u64,
    /// How many of them learn.
    pub learning: u64,
    /// Bytes on the device.
    pub weights: u64,
    pub gradients: u64,
    pub moments: u64,
    pub activations: u64,
    /// (rows, source tokens, target tokens) of the largest batch.
    pub largest_batch: [usize; 3],
    /// Padding not counted.
    pub tokens_per_step: f64,
    /// Share of a step's positions.
    pub padding: f64,
    pub steps: u64,
    /// Floating-point operations, see [`Engine::flops`].
    pub flops_per_step: f64,
    /// Where the recipe limits the time.
    pub minutes: Option<f64>,
    pub seconds_per_step: f64,
    pub tokens_per_second: f64,
}

/// Time that is spent on measuring a stage's steps.
const MEASURED: Duration = Duration::from_secs(3);

/// Measures a few steps of every stage that trains and is `wanted`, with fresh weights, and writes nothing. A tokenizer of the
/// recipe's own is trained for it.
///
/// # Errors
/// As training would give them: data that cannot be read, too little memory.
pub fn estimate(recipe: &Recipe, gpu: &Gpu, wanted: impl Fn(&str) -> bool) -> Result<Vec<Estimate>> {
    let recipe = &recipe.spelled_out()?;
    let stages: Vec<&Stage> = recipe.stages.iter().filter(|stage| stage.trains() && wanted(&stage.name)).collect();
    if stages.is_empty() {
        return Ok(Vec::new());
    }
    let tokenizer = match recipe.named_tokenizer()? {
        Some(tokenizer) => tokenizer,
        None => recipe.train_tokenizer()?.tokenizer,
    };
    let config = recipe.model.config(&tokenizer)?;
    stages.into_iter().map(|stage| estimate_stage(recipe, stage, gpu, &tokenizer, &config)).collect()
}

fn estimate_stage(
    recipe: &Recipe,
    stage: &Stage,
    gpu: &Gpu,
    tokenizer: &Tokenizer,
    config: &T5Config,
) -> Result<Estimate> {
    let settings = recipe.settings(stage)?;
    let sources = Sources::open(&settings, &Arc::new(tokenizer.clone()))?;
    let mut batches = sources.stream(config, &BatchPosition::default())?;
    let largest = batches.largest_shape();
    let model = Model::init_as(gpu, config.clone(), settings.seed, settings.frozen_weights)?;
    let model = model.learning(&recipe.learns(stage)?, settings.seed)?;
    let (parameters, learning) = (model.layout.n_params() as u64, model.layout.n_learning() as u64);
    let engine = Engine::new(model, settings.regularization(), &settings.optimizer, settings.clip)?;
    let mut engine = engine.with_recompute(settings.recompute);
    engine.prepare(largest)?;
    // So many have all lengths in their shares; a few need not.
    let window: Vec<Batch> = (0..WINDOW_BATCHES).map(|_| batches.next_batch()).collect::<Result<_>>()?;
    let load = StepLoad::of(&mut engine, &window, settings.accumulate)?;
    let (mut positions, mut seconds, mut measured) = (0, 0.0, 0u64);
    // Each shape's kernels are compiled at its first step: steps count once their shape was met.
    let mut met = HashSet::new();
    let start = Instant::now();
    let mut step = 0;
    let mut drawn = window.iter().cycle();
    while measured < 3 || start.elapsed() < MEASURED {
        let batches: Vec<&Batch> = drawn.by_ref().take(settings.accumulate).collect();
        let new = batches.iter().filter(|batch| met.insert(batch.shape)).count();
        let begin = Instant::now();
        engine.begin_step();
        for (pass, batch) in batches.iter().enumerate() {
            engine.micro_batch(batch, [0, 0, step as u32, pass as u32])?;
        }
        engine.finish_step(0.0, step)?;
        gpu.wait()?;
        step += 1;
        if new == 0 {
            seconds += begin.elapsed().as_secs_f64();
            measured += 1;
            positions += batches.iter().map(|batch| batch.n_positions()).sum::<u64>();
        }
    }
    let [weights, gradients, moments, activations] = engine.memory();
    let seconds_per_step = seconds / positions as f64 * load.positions;
    let steps = match stage.budget() {
        Some(Budget::Minutes(minutes)) => (60.0 * minutes / seconds_per_step) as u64,
        Some(Budget::Tokens(tokens)) => (tokens / load.tokens).round() as u64,
        Some(Budget::Flops(flops)) => (flops / load.flops).round() as u64,
        None => settings.steps,
    };
    Ok(Estimate {
        stage: stage.name.clone(),
        parameters,
        learning,
        weights,
        gradients,
        moments,
        activations,
        largest_batch: [largest.batch, largest.src_len, largest.tgt_len],
        tokens_per_step: load.tokens,
        padding: 1.0 - load.tokens / load.positions,
        steps,
        flops_per_step: load.flops,
        minutes: stage.minutes,
        seconds_per_step,
        tokens_per_second: load.tokens / seconds_per_step,
    })
}
