//! Batches as the leaves that the model's graphs read.

use crate::batch::{Batch, BatchShape, IGNORE};
use crate::data::prefetch::Prefetch;
use crate::data::stream::Batches;
use crate::error::{Error, Result};
use crate::gpu::Sequence;
use crate::model::T5Config;
use crate::plan::Plan;

/// A batch, checked and indexed, ready to be written: all that the host has to do for it but the upload.
pub struct Inputs {
    pub shape: BatchShape,
    /// Source and target tokens, padding not counted.
    pub n_tokens: u64,
    /// Target tokens that count.
    pub n_labels: u64,
    /// Source and target positions, padding counted.
    pub n_positions: u64,
    leaves: Vec<(&'static str, Vec<u32>)>,
}

impl Inputs {
    /// # Errors
    /// `Input` for an id outside of the vocabulary.
    pub fn new(batch: &Batch, config: &T5Config) -> Result<Inputs> {
        let vocab = config.vocab_size as u32;
        let ids = batch.src_ids.iter().chain(&batch.tgt_in);
        let labels = batch.labels.iter().filter(|&&label| label != IGNORE);
        if let Some(id) = ids.chain(labels).find(|&&id| id >= vocab) {
            return Err(Error::Input(format!(
                "token id {id} is outside of the model's vocabulary of {vocab}: the tokenizer does not belong to this model"
            )));
        }
        let leaves = config.batch_leaves(batch);
        let n_labels = batch.labels.iter().filter(|&&label| label != IGNORE).count() as u64;
        let (n_tokens, n_positions) = (batch.n_tokens(), batch.n_positions());
        Ok(Inputs { shape: batch.shape, n_tokens, n_labels, n_positions, leaves })
    }

    /// The batches of a stream, made and prepared by so many threads: see [`Prefetch::new`].
    pub fn prefetch(batches: Batches, threads: usize, config: &T5Config) -> Result<Prefetch<Inputs>> {
        let config = config.clone();
        Prefetch::new(batches, threads, move |batch| Inputs::new(&batch, &config))
    }

    /// Has `sequence` upload them into the leaves of a plan of their shape.
    pub fn write(&self, plan: &Plan, sequence: &mut Sequence) {
        for (name, data) in &self.leaves {
            plan.write_in(sequence, name, data);
        }
    }
}
