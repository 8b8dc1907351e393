//! What a model's encoder makes of texts: a state for each token, or one vector for the whole.

use super::sentence::SentenceHead;
use super::{MOST_PLANS, batches, check_ids, padded, parts};
use crate::batch::BatchShape;
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Slice};
use crate::graph::Dtype;
use crate::model::{Builder, Model};
use crate::ops::{Matmul, MatmulLayout, MeanPool, RmsNorm, Variant};
use crate::plan::{Plan, PlanOptions, Plans, SlotPool};

/// Encodes texts. Plans are kept by shape, for the next call.
pub struct Encoder {
    pub model: Model,
    head: Option<SentenceHead>,
    /// 1 / sqrt(width), for the means and for the head's vectors: with it the root mean square norm divides by the Euclidean norm.
    units: [Buffer; 2],
    plans: Plans<Key>,
}

#[derive(Clone, Copy, PartialEq)]
struct Key {
    batch: usize,
    len: usize,
    pooling: Option<Pooling>,
}

/// How one vector is made of a text's states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over the text's tokens, its end token included; padding does not count.
    #[default]
    Mean,
    /// The mean, divided by its Euclidean norm: dot products are then cosines.
    MeanNormalized,
    /// As the folder's `modules.json` says, which Sentence-T5 and GTR have: the mean, through a dense layer, divided by its norm.
    Sentence,
}

/// How token states are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Pads every text with padding tokens to this length, and refuses longer ones. Image generators expect a fixed length.
    pub pad_to: Option<usize>,
    /// Lets texts attend to their padding, as pipelines do that give their T5 no attention mask (Flux, Stable Diffusion 3). Else
    /// the states of padding are zero.
    pub unmasked: bool,
}

/// A text's states: `len` rows of `width` numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct HiddenStates {
    pub len: usize,
    pub width: usize,
    /// `[len, width]`
    pub values: Vec<f32>,
}

/// One vector a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    pub width: usize,
    /// `[texts, width]`
    pub values: Vec<f32>,
}

impl Embeddings {
    /// The vectors, in the order of the texts.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks(self.width.max(1))
    }
}

impl Encoder {
    /// `head`: what [`Pooling::Sentence`] needs.
    pub fn new(model: Model, head: Option<SentenceHead>) -> Result<Encoder> {
        let d_model = model.config.d_model;
        let unit = |width: usize| model.gpu.buffer_of("unit", &vec![(width as f32).sqrt().recip(); width]);
        let units = [unit(d_model)?, unit(head.as_ref().map_or(d_model, |head| head.width(d_model)))?];
        Ok(Encoder { model, head, units, plans: Plans::new(MOST_PLANS, SlotPool::new()) })
    }

    /// The encoder's output for each source (token ids as the tokenizer gives them, end token included), in their order.
    ///
    /// # Errors
    /// `Input`: an empty source, an id outside of the vocabulary, a source longer than [`EncodeOptions::pad_to`]; `OutOfMemory`;
    /// `Cancelled`, once `should_stop` says so.
    pub async fn hidden_states(
        &mut self,
        sources: &[Vec<u32>],
        options: &EncodeOptions,
        should_stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<HiddenStates>> {
        let pad = self.model.config.pad_token_id;
        let longest = options.pad_to.unwrap_or(usize::MAX);
        if let Some((i, source)) = sources.iter().enumerate().find(|(_, source)| source.len() > longest) {
            return Err(Error::Input(format!(
                "source {i} has {} tokens, more than {longest}: shorten it",
                source.len()
            )));
        }
        let lens: Vec<usize> = sources.iter().map(Vec::len).collect();
        let mut seen = sources.to_vec();
        if let (true, Some(len)) = (options.unmasked, options.pad_to) {
            seen.iter_mut().for_each(|source| source.resize(len, pad));
        }
        let width = self.model.config.d_model;
        let mut states = vec![HiddenStates { len: 0, width, values: Vec::new() }; sources.len()];
        let mut put = |row: usize, values: &[f32]| {
            let shown = if options.unmasked { seen[row].len() } else { lens[row] };
            let len = options.pad_to.unwrap_or(lens[row]).max(shown);
            let mut values = values[..shown * width].to_vec();
            values.resize(len * width, 0.0);
            states[row] = HiddenStates { len, width, values };
        };
        self.run(&seen, None, should_stop, &mut put).await?;
        Ok(states)
    }

    /// One vector for each source, in their order.
    ///
    /// # Errors
    /// Those of [`Encoder::hidden_states`]; `Input` if the model has no head for [`Pooling::Sentence`].
    pub async fn embed(
        &mut self,
        sources: &[Vec<u32>],
        pooling: Pooling,
        should_stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Embeddings> {
        if pooling == Pooling::Sentence && self.head.is_none() {
            return Err(Error::Input(
                "the model's folder has no modules.json that says how sentences are embedded".into(),
            ));
        }
        let width = width_of(&self.model, self.head.as_ref(), Some(pooling));
        let mut values = vec![0.0; sources.len() * width];
        let mut put = |row: usize, vector: &[f32]| values[row * width..][..width].copy_from_slice(vector);
        self.run(sources, Some(pooling), should_stop, &mut put).await?;
        Ok(Embeddings { width, values })
    }

    /// Bytes held beside the weights.
    pub fn bytes(&self) -> u64 {
        self.plans.bytes() + self.head.as_ref().map_or(0, SentenceHead::bytes)
    }

    async fn run(
        &mut self,
        sources: &[Vec<u32>],
        pooling: Option<Pooling>,
        should_stop: &(dyn Fn() -> bool + Sync),
        put: &mut (dyn FnMut(usize, &[f32]) + Send),
    ) -> Result<()> {
        self.model.config.expect_encoder("it has no states of texts by themselves, which embeddings are made of")?;
        check_ids(&self.model, "source", sources)?;
        let sizes: Vec<[usize; 1]> = sources.iter().map(|source| [source.len()]).collect();
        for ([len], rows) in batches(&sizes) {
            let texts: Vec<&[u32]> = rows.iter().map(|&row| sources[row].as_slice()).collect();
            let (batch, ids, lens) = padded(&texts, len, self.model.config.pad_token_id);
            let key = Key { batch, len, pooling };
            let (model, head, units) = (&self.model, self.head.as_ref(), &self.units);
            let plan = self.plans.get(key, |pool| {
                let bind = |name: &str| -> Option<Slice> {
                    let unit = &units[usize::from(pooling == Some(Pooling::Sentence))];
                    match name {
                        "unit" => Some(unit.slice(0, 4 * width_of(model, head, pooling) as u64)),
                        "dense" => head.and_then(SentenceHead::weight),
                        name => model.bind(name),
                    }
                };
                compile(model, head, key, &PlanOptions { bind: &bind, pool })
            })?;
            plan.write("src_ids", &ids);
            plan.write("src_lens", &lens);
            for (name, data) in self.model.config.encoder_attention.leaves(&lens, len) {
                plan.write(name, &data);
            }
            plan.run_until(should_stop).await?;
            let result: Vec<f32> = plan.read("result").await?;
            for (row, range) in rows.iter().zip(parts(rows.len(), result.len() / batch)) {
                put(*row, &result[range]);
            }
        }
        Ok(())
    }
}

/// Below any norm that a vector of f32 has.
const TINY: f32 = 1e-30;

/// Numbers in a row of the result.
fn width_of(model: &Model, head: Option<&SentenceHead>, pooling: Option<Pooling>) -> usize {
    let d_model = model.config.d_model;
    head.filter(|_| pooling == Some(Pooling::Sentence)).map_or(d_model, |head| head.width(d_model))
}

/// The graph of an encoder for one batch shape, pooled or not.
fn compile(model: &Model, head: Option<&SentenceHead>, key: Key, options: &PlanOptions<'_>) -> Result<Plan> {
    let Key { batch, len, pooling } = key;
    let mut b = Builder::new(model, BatchShape { batch, src_len: len, tgt_len: 0, packed: false }, 0.0);
    b.rows_alike();
    let mut result = b.encoder();
    let graph = &mut b.graph;
    if pooling.is_some() {
        let lens = graph.leaf("src_lens", &[batch], Dtype::U32);
        graph.scope("pooling");
        result = graph.push1(MeanPool, &[result, lens]);
    }
    if let (Some(Pooling::Sentence), Some(SentenceHead { dense: Some(dense), .. })) = (pooling, head) {
        let w = graph.leaf("dense", &[dense.rows, model.config.d_model], Dtype::F32);
        // A kernel whose rows do not depend on each other, however few they are.
        let product = Matmul { variant: Some(Variant::Few), ..Matmul::new(MatmulLayout::Nt) };
        result = graph.push1(product, &[result, w]);
    }
    let is_normalized = match pooling {
        Some(Pooling::MeanNormalized) => true,
        Some(Pooling::Sentence) => head.is_some_and(|head| head.normalize),
        Some(Pooling::Mean) | None => false,
    };
    if is_normalized {
        let width = graph.shape(result)[1];
        let unit = graph.leaf("unit", &[width], Dtype::F32);
        result = graph.push1(RmsNorm { eps: TINY }, &[result, unit]);
    }
    let choices = model.tuner.any_batch().choices(&model.gpu, &b.graph, &[result])?;
    Plan::compile_with(&model.gpu, &b.graph, &[("result", result)], options, &choices)
}
