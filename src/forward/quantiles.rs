//! What a Chronos-Bolt finds may follow series of numbers.

use super::{MOST_PLANS, batches, parts};
use crate::batch::BatchShape;
use crate::error::{Error, Result};
use crate::model::{Builder, Model, PatchHead};
use crate::plan::{Plan, PlanOptions, Plans, SlotPool};

/// Asks a Chronos-Bolt. Plans are kept by shape, for the next call.
pub struct PatchReader {
    pub model: Model,
    head: PatchHead,
    plans: Plans<BatchShape>,
}

/// A series in patches, as the model reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Patches {
    /// `[patches, 2 patch_size]`: the values of a patch, 0 where one is missing, then 1 for each value that is there.
    pub values: Vec<f32>,
    /// Of each patch, whether any value is there.
    pub shown: Vec<bool>,
}

/// Positions of the decoder, of which the first alone counts: so many that no kernel for few rows is taken.
const TARGET: usize = 16;

impl PatchReader {
    /// # Errors
    /// `Input`: the model is no Chronos-Bolt.
    pub fn new(model: Model) -> Result<PatchReader> {
        let Some(head) = model.config.patches.clone() else {
            return Err(Error::Input("the model is no Chronos-Bolt".into()));
        };
        Ok(PatchReader { model, head, plans: Plans::new(MOST_PLANS, SlotPool::new()) })
    }

    pub fn head(&self) -> &PatchHead {
        &self.head
    }

    /// `[quantiles, prediction_length]` for each series, in their order and in the measure of its patches.
    ///
    /// # Errors
    /// `OutOfMemory`; `Numeric`: the model gives NaN; `Cancelled`, once `should_stop` says so.
    pub async fn quantiles(
        &mut self,
        series: &[Patches],
        should_stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Vec<f32>>> {
        let width = 2 * self.head.patch_size;
        let summary = usize::from(self.head.use_reg_token);
        let sizes: Vec<[usize; 1]> = series.iter().map(|patches| [patches.shown.len() + summary]).collect();
        let mut found = vec![Vec::new(); series.len()];
        for ([len], rows) in batches(&sizes) {
            let batch = rows.len().next_power_of_two();
            let shape = BatchShape { batch, src_len: len, tgt_len: TARGET, packed: false };
            let (model, head) = (&self.model, &self.head);
            let plan = self.plans.get(shape, |pool| {
                compile(model, head, shape, &PlanOptions { bind: &|name| model.bind(name), pool })
            })?;
            let words = len.div_ceil(32);
            let mut patches = vec![0f32; batch * len * width];
            let mut places: Vec<u32> = (0..(batch * len) as u32).collect();
            let mut shown = vec![0u32; batch * words];
            for (b, &row) in rows.iter().enumerate() {
                let n = series[row].shown.len();
                patches[b * len * width..][..n * width].copy_from_slice(&series[row].values);
                let seen = series[row].shown.iter().copied().chain(std::iter::repeat_n(true, summary));
                for (i, _) in seen.enumerate().filter(|(_, seen)| *seen) {
                    shown[b * words + i / 32] |= 1 << (i % 32);
                }
                if summary > 0 {
                    places[b * len + n] = (batch * len) as u32;
                }
            }
            plan.write("patches", &patches);
            plan.write("src_rows", &places);
            plan.write("src_shown", &shown);
            plan.run_until(should_stop).await?;
            let values: Vec<f32> = plan.read("quantiles").await?;
            for (&row, range) in rows.iter().zip(parts(rows.len(), values.len() / batch)) {
                found[row] = values[range].to_vec();
                if found[row].iter().any(|x| !x.is_finite()) {
                    return Err(Error::Numeric(format!("series {row}: the model gives NaN: its weights are damaged")));
                }
            }
        }
        Ok(found)
    }
}

fn compile(model: &Model, head: &PatchHead, shape: BatchShape, options: &PlanOptions<'_>) -> Result<Plan> {
    let mut b = Builder::new(model, shape, 0.0);
    b.rows_alike();
    let quantiles = b.quantiles(head);
    let choices = model.tuner.any_batch().choices(&model.gpu, &b.graph, &[quantiles])?;
    let plan = Plan::compile_with(&model.gpu, &b.graph, &[("quantiles", quantiles)], options, &choices)?;
    let BatchShape { batch, src_len, tgt_len, .. } = shape;
    // These stay as they are for all series.
    for rows in [batch, batch * src_len] {
        plan.write(&format!("zeros_{rows}"), &vec![0u32; rows]);
    }
    plan.write("summary_ids", &[u32::from(head.use_reg_token)]);
    plan.write("tgt_ids", &vec![model.config.decoder_start_token_id; batch * tgt_len]);
    let starts: Vec<u32> = (0..batch).map(|b| (b * tgt_len) as u32).collect();
    plan.write("starts", &starts);
    Ok(plan)
}
