//! Finds before a run how many steps fit into its time, by measuring, or make so many tokens or operations, by counting. The run itself
//! depends on no clock then.

use std::time::Duration;

use super::engine::Engine;
use super::trainer::Trainer;
use crate::batch::Batch;
use crate::data::stream::{BatchPosition, WINDOW_BATCHES};
use crate::error::Result;
use crate::gpu::Sequence;

/// What a step has to do: the mean over some batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLoad {
    /// Of sources and targets, padding not counted.
    pub tokens: f64,
    /// Padding counted.
    pub positions: f64,
    /// See [`Engine::flops`].
    pub flops: f64,
}

impl StepLoad {
    /// The mean over these batches, of which `accumulate` make a step.
    ///
    /// # Errors
    /// As [`Engine::flops`].
    pub fn of(engine: &mut Engine, batches: &[Batch], accumulate: usize) -> Result<StepLoad> {
        let share = accumulate as f64 / batches.len().max(1) as f64;
        let flops = batches.iter().map(|batch| engine.flops(batch.shape)).sum::<Result<f64>>()?;
        let tokens: u64 = batches.iter().map(Batch::n_tokens).sum();
        let positions: u64 = batches.iter().map(Batch::n_positions).sum();
        Ok(StepLoad { tokens: share * tokens as f64, positions: share * positions as f64, flops: share * flops })
    }
}

/// Share of the time that is planned for; the rest is for checkpoints.
const PLANNED: f64 = 0.97;

/// Most evaluations where their interval is left open, and the share of the time that they may take.
const EVALUATIONS: f64 = 20.0;
const EVALUATION_SHARE: f64 = 0.2;

impl Trainer {
    /// Fixes the number of steps so that the run takes about `time` from now on, by rehearsing for about a twentieth of
    /// it: the first steps are run and forgotten. From there on the run is one of that many steps, as reproducible as if
    /// the number had been given. Evaluations get at most a fifth of the time where their interval is left open.
    pub fn fit_steps(&mut self, time: Duration) -> Result<()> {
        let gpu = self.engine.model.gpu.clone();
        let start = gpu.stopwatch();
        let arenas = self.engine.arenas();
        let read = |arena| pollster::block_on(gpu.read::<f32>(arena, 0..arena.bytes()));
        let params = arenas.iter().map(read).collect::<Result<Vec<_>>>()?;
        self.rehearse(time / 40)?;
        let seconds_per_step = self.rehearse(time / 40)?;
        for (arena, values) in arenas.iter().zip(&params) {
            gpu.write(arena, 0, values);
        }
        let mut sequence = Sequence::new(&gpu);
        self.engine.optimizer.state().iter().for_each(|(_, moments, _)| sequence.clear(&moments.all()));
        sequence.submit()?;
        (self.state.step, self.state.tokens, self.state.flops) = (0, 0, 0.0);
        self.rewind()?;
        let engine = &mut self.engine;
        let evaluation = match &mut self.evaluator {
            Some(evaluator) => {
                let mut loss_of = |batch: &_| pollster::block_on(engine.evaluate(batch));
                evaluator.evaluate(&mut loss_of, &self.tokenizer, &|| false)?.map_or(0.0, |done| done.seconds)
            }
            None => 0.0,
        };
        // A driver that compiles shaders for long must not leave a run of a single step.
        let left = time.saturating_sub(start.elapsed()).max(time / 2).as_secs_f64();
        let settings = &mut self.state.settings;
        let steps = |left: f64, seconds: f64| ((PLANNED * left / seconds) as u64).max(1);
        settings.steps = match settings.eval_every {
            Some(every) => steps(left, seconds_per_step + evaluation / every as f64),
            None => {
                let evaluations = (EVALUATION_SHARE * left / evaluation.max(1e-3)).clamp(1.0, EVALUATIONS).floor();
                let n = steps((left - evaluations * evaluation).max(0.0), seconds_per_step);
                settings.eval_every = Some(n.div_ceil(evaluations as u64));
                n
            }
        };
        settings.check()
    }

    /// Fixes the number of steps so that they make about `amount` of what `of` says of a step: the mean over the first batches,
    /// so many as have all lengths in their shares, is taken for all.
    ///
    /// # Errors
    /// The data cannot be read, or a batch does not fit.
    pub fn count_steps(&mut self, amount: f64, of: fn(&StepLoad) -> f64) -> Result<()> {
        let mut batches = self.sources.stream(&self.engine.model.config, &BatchPosition::default())?;
        let first: Vec<Batch> = (0..WINDOW_BATCHES).map(|_| batches.next_batch()).collect::<Result<_>>()?;
        let load = StepLoad::of(&mut self.engine, &first, self.state.settings.accumulate)?;
        self.state.settings.steps = ((amount / of(&load)).round() as u64).max(1);
        self.state.settings.check()
    }

    /// Runs steps for about `time`, at least two of them; seconds per step.
    fn rehearse(&mut self, time: Duration) -> Result<f64> {
        let (start, first) = (self.engine.model.gpu.stopwatch(), self.state.step);
        while self.state.step < first + 2 || start.elapsed() < time {
            self.submit_step(self.state.settings.lr)?;
            self.state.step += 1;
            self.engine.model.gpu.wait()?;
        }
        Ok(start.elapsed().as_secs_f64() / (self.state.step - first) as f64)
    }
}
