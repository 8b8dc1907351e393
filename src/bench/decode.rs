//! Times generation as a user sees it, from sources to tokens, with the host's part of the work.

use super::report::Figure;
use super::spread::{Arm, Spread, seconds};
use super::subject::Needed;
use super::trace::Trace;
use super::{Bench, Section};
use crate::error::Result;
use crate::generate::{Decoding, Generator};
use crate::gpu::{StepTime, Work};
use crate::model::{GenerationConfig, Model};

impl Bench<'_, '_> {
    pub(super) fn decode(&mut self, model: &Model) -> Result<()> {
        let quick = self.options.quick;
        let source_len = self.options.source_len.unwrap_or(64);
        let wanted = match (quick, self.gpu.caps().is_cpu()) {
            (true, _) => 8,
            (false, true) => 32,
            (false, false) => 64,
        };
        let new_tokens = self.options.target_len.unwrap_or(wanted).max(2);
        let batches = self.options.batch.map_or(if quick { vec![1, 4] } else { vec![1, 16] }, |batch| vec![batch]);
        let mut generators = Vec::new();
        for &batch in &batches {
            let mut model = model.clone();
            // Nothing ends early.
            model.config.eos_token_id.clear();
            model.generation = GenerationConfig::default();
            let vocab = model.config.vocab_size;
            let source = |b: usize| (0..source_len).map(|i| ((3 + i * 7919 + b * 31) % vocab) as u32).collect();
            let sources: Vec<Vec<u32>> = (0..batch).map(source).collect();
            generators.push((batch, sources, std::cell::RefCell::new(Generator::new(model))));
        }
        let mut arms = Vec::new();
        for (batch, sources, generator) in &generators {
            for tokens in [1, new_tokens] {
                let decoding = Decoding { max_batch: *batch, ..Decoding::greedy().max_new_tokens(tokens) };
                arms.push(Arm::new(format!("decode batch {batch}, {tokens} of {new_tokens} tokens"), move || {
                    let mut generator = generator.borrow_mut();
                    seconds(|| pollster::block_on(generator.generate_best(sources, &decoding)).map(drop))
                }));
            }
        }
        let spreads =
            self.time(&mut arms).map_err(|e| Needed::of(&model.config, false).explain(&self.options.subject, e))?;
        drop(arms);
        for ((batch, sources, generator), spreads) in generators.into_iter().zip(spreads.chunks(2)) {
            let mut generator = generator.into_inner();
            let shape = Generator::shape(&sources, &Decoding::greedy().max_new_tokens(new_tokens));
            let plans = generator.step_plans(shape)?;
            let work: Vec<_> = plans.iter().flat_map(|plan| plan.work()).collect();
            self.decoded(batch, source_len, new_tokens, [spreads[0], spreads[1]], &work);
            if self.gpu.caps().timestamps {
                let mut times: Vec<StepTime> = Vec::new();
                for plan in plans {
                    let begin = times.last().map_or(0.0, |last| last.start + last.seconds);
                    let profile = pollster::block_on(plan.profile())?;
                    times.extend(profile.into_iter().map(|time| StepTime { start: begin + time.start, ..time }));
                }
                self.profile(Section::Decode, &format!("a step at batch {batch}"), &times);
                if self.options.trace {
                    self.traces.push(Trace { name: format!("decoding step, batch {batch}"), steps: times });
                }
            }
        }
        Ok(())
    }

    /// The figures of one batch size, from the times until the first and until the last token.
    fn decoded(
        &mut self,
        batch: usize,
        source_len: usize,
        tokens: usize,
        [first, all]: [Spread; 2],
        steps: &[crate::gpu::StepWork],
    ) {
        let section = Section::Decode;
        let each = all.map(|s| (s - first.median).max(1e-9) / (tokens - 1) as f64);
        let at = format!("batch {batch}");
        let ceilings = self.report.ceilings.clone();
        let work: Work = steps.iter().map(|step| step.work).sum();
        let figures = [
            Figure::new(section, &format!("{at}, first token after {source_len}"), "ms", first.map(|s| 1e3 * s)),
            Figure::new(section, &format!("{at}, a token"), "ms", each.map(|s| 1e3 * s)).with_work(
                steps,
                each.median,
                &ceilings,
            ),
            Figure::new(section, &format!("{at}, rate"), "tokens/s", each.map(|s| batch as f64 / s)),
            Figure::exact(section, &format!("{at}, moved in a step"), "MiB", work.bytes / f64::from(1 << 20)),
            Figure::once(
                section,
                &format!("{at}, bandwidth's floor of a step"),
                "ms",
                1e3 * work.bytes / ceilings.bytes,
            ),
        ];
        self.report.figures.extend(figures);
    }
}
