//! Measures before a run how many steps fit into its time, so that the run itself depends on no clock.

use std::time::Duration;

use super::trainer::Trainer;
use crate::error::Result;
use crate::gpu::Sequence;

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
        let arenas = self.engine.model.params.clone();
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
        (self.state.step, self.state.tokens) = (0, 0);
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
