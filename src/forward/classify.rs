//! What a classifier finds in texts: a score for each label, of whole texts or of their tokens.

use super::{MOST_PLANS, batches, check_ids, padded, parts};
use crate::batch::BatchShape;
use crate::error::{Error, Result};
use crate::model::{Builder, ClassifierHead, Labelled, Model};
use crate::plan::{Plan, PlanOptions, Plans, SlotPool};

/// Classifies texts. Plans are kept by shape, for the next call.
pub struct Classifier {
    pub model: Model,
    head: ClassifierHead,
    plans: Plans<BatchShape>,
}

/// The scores of labels, as they come out of the head: [`ClassifierHead::probabilities`] says what they mean.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelScores {
    pub labels: usize,
    /// `[rows, labels]`: one row for the text, or one for each of its tokens.
    pub values: Vec<f32>,
}

impl LabelScores {
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks(self.labels.max(1))
    }
}

impl Classifier {
    /// # Errors
    /// `Input`: the model has no head for classification.
    pub fn new(model: Model) -> Result<Classifier> {
        let Some(head) = model.config.classifier.clone() else {
            let what = "the model has no head for classification (as T5ForSequenceClassification and T5ForTokenClassification \
                        have); a T5 that writes labels as words is asked for the likeliest of these answers instead";
            return Err(Error::Input(what.into()));
        };
        Ok(Classifier { model, head, plans: Plans::new(MOST_PLANS, SlotPool::new()) })
    }

    /// Labels and what their scores mean.
    pub fn head(&self) -> &ClassifierHead {
        &self.head
    }

    /// The scores of each source (token ids as the tokenizer gives them, end token included), in their order.
    ///
    /// # Errors
    /// `Input`: an empty source, an id outside of the vocabulary, a source without an end token where whole texts are
    /// classified; `OutOfMemory`; `Numeric`: the model gives NaN; `Cancelled`, once `should_stop` says so.
    pub async fn classify(
        &mut self,
        sources: &[Vec<u32>],
        should_stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<LabelScores>> {
        check_ids(&self.model, "source", sources)?;
        let (labels, labelled) = (self.head.labels.len(), self.head.labelled);
        let mut scores = vec![LabelScores { labels, values: Vec::new() }; sources.len()];
        let sizes: Vec<[usize; 1]> = sources.iter().map(|source| [source.len()]).collect();
        for ([len], rows) in batches(&sizes) {
            let config = &self.model.config;
            let texts: Vec<&[u32]> = rows.iter().map(|&row| sources[row].as_slice()).collect();
            let (batch, ids, lens) = padded(&texts, len, config.pad_token_id);
            let tgt_len = if labelled == Labelled::Texts { len } else { 0 };
            let shape = BatchShape { batch, src_len: len, tgt_len, packed: false };
            let model = &self.model;
            let plan = self.plans.get(shape, |pool| {
                compile(model, shape, labelled, &PlanOptions { bind: &|name| model.bind(name), pool })
            })?;
            plan.write("src_ids", &ids);
            plan.write("src_lens", &lens);
            for (name, data) in config.encoder_attention.leaves(&lens, len) {
                plan.write(name, &data);
            }
            if labelled == Labelled::Texts {
                // The decoder reads the source, shifted as in training.
                let mut tgt_ids = vec![config.pad_token_id; batch * len];
                let mut ends = vec![0; batch];
                for (b, (row, text)) in rows.iter().zip(&texts).enumerate() {
                    tgt_ids[b * len] = config.decoder_start_token_id;
                    tgt_ids[b * len + 1..][..text.len() - 1].copy_from_slice(&text[..text.len() - 1]);
                    let end = text.iter().rposition(|id| config.eos_token_id.contains(id));
                    let end = end.ok_or_else(|| {
                        Error::Input(format!("source {row} has no end token, at which a text is classified"))
                    })?;
                    ends[b] = (b * len + end) as u32;
                }
                plan.write("tgt_ids", &tgt_ids);
                plan.write("ends", &ends);
            }
            plan.run_until(should_stop).await?;
            let found: Vec<f32> = plan.read("scores").await?;
            let each = found.len() / batch;
            for ((row, text), range) in rows.iter().zip(&texts).zip(parts(rows.len(), each)) {
                let n = if labelled == Labelled::Texts { 1 } else { text.len() };
                let values = found[range][..n * labels].to_vec();
                if values.iter().any(|x| !x.is_finite()) {
                    return Err(Error::Numeric(format!("source {row}: the model gives NaN: its weights are damaged")));
                }
                scores[*row].values = values;
            }
        }
        Ok(scores)
    }

    /// Bytes held beside the weights.
    pub fn bytes(&self) -> u64 {
        self.plans.bytes()
    }
}

fn compile(model: &Model, shape: BatchShape, labelled: Labelled, options: &PlanOptions<'_>) -> Result<Plan> {
    let mut b = Builder::new(model, shape, 0.0);
    b.rows_alike();
    let scores = b.label_scores(labelled);
    let choices = model.tuner.any_batch().choices(&model.gpu, &b.graph, &[scores])?;
    let plan = Plan::compile_with(&model.gpu, &b.graph, &[("scores", scores)], options, &choices)?;
    let rows = if labelled == Labelled::Texts { shape.batch } else { shape.batch * shape.src_len };
    plan.write(&format!("zeros_{rows}"), &vec![0u32; rows]);
    Ok(plan)
}
