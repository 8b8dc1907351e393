//! How likely a model finds targets: log-probabilities of given tokens.

use super::{MOST_PLANS, batches, check_ids, parts};
use crate::batch::{Batch, BatchShape, Example};
use crate::error::{Error, Result};
use crate::model::{Builder, Model};
use crate::plan::{Plan, PlanOptions, Plans, SlotPool};

/// Scores targets. Plans are kept by shape, for the next call.
pub struct TargetScorer {
    pub model: Model,
    plans: Plans<BatchShape>,
}

/// How likely a model finds a target, given its source.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetScore {
    /// Natural logarithm of each token's probability, given the source and the tokens before; the end token's is the last.
    pub log_probs: Vec<f32>,
    /// Tokens that the model finds the likeliest at their place.
    pub likeliest: usize,
}

impl TargetScore {
    /// Logarithm of the probability of the whole target.
    pub fn sum(&self) -> f64 {
        self.log_probs.iter().map(|&p| f64::from(p)).sum()
    }
}

impl TargetScorer {
    pub fn new(model: Model) -> TargetScorer {
        TargetScorer { model, plans: Plans::new(MOST_PLANS, SlotPool::new()) }
    }

    /// The score of each example's target, in their order. Sources and targets are token ids as the tokenizer gives them, end
    /// token included.
    ///
    /// # Errors
    /// `Input`: a row without tokens, an id outside of the vocabulary; `OutOfMemory`; `Numeric`: the model gives NaN; `Cancelled`,
    /// once `should_stop` says so.
    pub async fn score(
        &mut self,
        examples: &[Example],
        should_stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<TargetScore>> {
        self.model.expect_decoder()?;
        for (what, pick) in [("source", (|e| &e.source) as fn(&Example) -> &Vec<u32>), ("target", |e| &e.target)] {
            check_ids(&self.model, what, &examples.iter().map(|e| pick(e).clone()).collect::<Vec<_>>())?;
        }
        let sizes: Vec<[usize; 2]> = examples.iter().map(|e| e.lengths().into()).collect();
        let mut scores = vec![TargetScore { log_probs: Vec::new(), likeliest: 0 }; examples.len()];
        for ([src_len, tgt_len], rows) in batches(&sizes) {
            let (model, batch) = (&self.model, rows.len().next_power_of_two());
            let shape = BatchShape { batch, src_len, tgt_len, packed: false };
            let config = &model.config;
            let start = model.generation.decoder_start_token_id.unwrap_or(config.decoder_start_token_id);
            let laid_out: Vec<Vec<&Example>> = rows.iter().map(|&row| vec![&examples[row]]).collect();
            let batch = Batch::collate(&laid_out, shape, config.pad_token_id, start);
            let plan =
                self.plans.get(shape, |pool| compile(model, shape, &PlanOptions { bind: &|n| model.bind(n), pool }))?;
            for (name, data) in config.batch_leaves(&batch) {
                plan.write(name, &data);
            }
            plan.run_until(should_stop).await?;
            let stats: Vec<f32> = plan.read("losses").await?;
            for (row, range) in rows.iter().zip(parts(rows.len(), 4 * tgt_len)) {
                let tokens = &stats[range][..4 * examples[*row].target.len()];
                if tokens.iter().any(|x| !x.is_finite()) {
                    return Err(Error::Numeric(format!(
                        "source {row}: the model gives NaN: its weights are damaged, or its training diverged"
                    )));
                }
                let tokens = tokens.as_chunks::<4>().0;
                let likeliest = tokens.iter().filter(|[_, _, hit, _]| *hit > 0.0).count();
                scores[*row] = TargetScore { log_probs: tokens.iter().map(|[ce, ..]| -ce).collect(), likeliest };
            }
        }
        Ok(scores)
    }

    /// Bytes held beside the weights.
    pub fn bytes(&self) -> u64 {
        self.plans.bytes()
    }
}

fn compile(model: &Model, shape: BatchShape, options: &PlanOptions<'_>) -> Result<Plan> {
    let mut b = Builder::new(model, shape, 0.0);
    b.rows_alike();
    let hidden = b.states();
    let losses = b.losses(hidden);
    let choices = model.tuner.any_batch().choices(&model.gpu, &b.graph, &[losses])?;
    let plan = Plan::compile_with(&model.gpu, &b.graph, &[("losses", losses)], options, &choices)?;
    plan.write("dstats", &[0f32; 4]);
    Ok(plan)
}
