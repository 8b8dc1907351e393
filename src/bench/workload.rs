//! What is timed, as data: a kind of work and its sizes, and the made-up weights and token ids that it is done with.
//!
//! Weights and ids follow from names alone, in whole numbers and one rounding, so that anyone can make the same ones in any
//! language: docs/benchmarks.md has the rules, `tests/golden/workloads.py` follows them. They must never change.

use std::fmt;

use crate::batch::{Batch, BatchShape};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Gpu, StepWork, Work, Workgroup};
use crate::graph::Dtype;
use crate::model::{Builder, Chooser, DecodeShape, Layout, Model, T5Config, TensorSpan};
use crate::plan::outline;
use crate::rng::{Purpose, Rng, fnv1a};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    /// The encoder over a batch of sources.
    Encoder,
    /// Greedy decoding, from sources to the last of so many tokens.
    Decode,
    /// A training step with AdamW.
    Train,
}

/// Work of one kind at one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Workload {
    pub kind: WorkloadKind,
    /// Sequences.
    pub batch: usize,
    /// Tokens of each source.
    pub source_len: usize,
    /// Tokens of each target; 0 for the encoder.
    pub target_len: usize,
    /// Of a training step.
    pub dropout: f32,
}

/// A workload of `t5 bench suite`. Its name stands for the same numbers for ever.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrozenWorkload {
    /// The published size.
    pub model: &'static str,
    pub workload: Workload,
}

/// The published sizes with frozen workloads. Those of `tiny` are for tests.
const MODELS: [&str; 4] = ["tiny", "t5-small", "t5-base", "t5-large"];

/// The seed of all weights and ids.
const SEED: u64 = 1;

/// Different rows of a batch; the others repeat them, so that a few results tell what all rows must give.
pub(super) const EXAMPLES: usize = 2;

/// Source and target of a row.
const SIDES: [&str; 2] = ["source", "target"];

impl Workload {
    pub const fn encoder(batch: usize, source_len: usize) -> Workload {
        Workload { kind: WorkloadKind::Encoder, batch, source_len, target_len: 0, dropout: 0.0 }
    }

    pub const fn decode(batch: usize, source_len: usize, target_len: usize) -> Workload {
        Workload { kind: WorkloadKind::Decode, batch, source_len, target_len, dropout: 0.0 }
    }

    pub const fn train(batch: usize, source_len: usize, target_len: usize, dropout: f32) -> Workload {
        Workload { kind: WorkloadKind::Train, batch, source_len, target_len, dropout }
    }

    /// Tokens that a run's rate counts: of sources and targets; in decoding, those that are made.
    pub fn tokens(&self) -> usize {
        match self.kind {
            WorkloadKind::Encoder | WorkloadKind::Train => self.batch * (self.source_len + self.target_len),
            WorkloadKind::Decode => self.batch * self.target_len,
        }
    }

    /// The shape of its batch. An encoder's has targets of one token, which nothing reads.
    pub fn shape(&self) -> BatchShape {
        let Workload { batch, source_len, target_len, .. } = *self;
        BatchShape { batch, src_len: source_len, tgt_len: target_len.max(1), packed: false }
    }

    /// The sources: made-up ids of the model's vocabulary.
    pub fn sources(&self, config: &T5Config) -> Vec<Vec<u32>> {
        self.rows(SIDES[0], self.source_len, config)
    }

    /// Sources and targets; no sequence is padded.
    pub fn batch(&self, config: &T5Config) -> Batch {
        let shape = self.shape();
        let labels = self.rows(SIDES[1], shape.tgt_len, config);
        let start = config.decoder_start_token_id;
        let shifted = |row: &Vec<u32>| [&[start], &row[..row.len() - 1]].concat();
        Batch {
            shape,
            src_ids: self.sources(config).concat(),
            src_lens: vec![shape.src_len as u32; shape.batch],
            tgt_in: labels.iter().flat_map(shifted).collect(),
            labels: labels.concat(),
            tgt_lens: vec![shape.tgt_len as u32; shape.batch],
            segments: None,
        }
    }

    fn rows(&self, side: &str, len: usize, config: &T5Config) -> Vec<Vec<u32>> {
        (0..self.batch).map(|row| ids(side, row % EXAMPLES, len, config.vocab_size)).collect()
    }

    /// What each dispatch has to do on such an adapter: of decoding, those of one step.
    ///
    /// # Errors
    /// A table does not fit the adapter's bindings.
    pub fn outline(&self, config: &T5Config, caps: &Caps) -> Result<Vec<StepWork>> {
        let untied = !config.tie_word_embeddings;
        let layout = Layout::new(config, untied, caps, &|_| Dtype::F32)?;
        let (scale, _) = config.output_scale(untied);
        let builder = |shape, dropout| Builder::on_layout(config, &layout, scale, shape, dropout);
        match self.kind {
            WorkloadKind::Encoder => {
                let mut b = builder(self.shape(), 0.0);
                let encoded = b.encoder();
                outline(caps, &b.graph, &[encoded])
            }
            WorkloadKind::Decode => {
                // As Generator::shape rounds it up, but for the batch.
                let max_len = (1 + self.target_len).next_multiple_of(32);
                let (batch, src_len) = (self.batch, self.source_len);
                let shape = DecodeShape { sources: batch, batch, beams: 1, drafts: 0, src_len, max_len };
                let mut b = builder(BatchShape { tgt_len: max_len, ..self.shape() }, 0.0);
                b.decode_step(shape.sequences(), shape.drafts);
                let chooser = shape.chooser(config.vocab_size, Chooser { n_eos: 1, ..Chooser::default() });
                Ok([outline(caps, &b.graph, &[])?, outline(caps, &chooser, &[])?].concat())
            }
            WorkloadKind::Train => {
                let mut b = builder(self.shape(), self.dropout);
                let hidden = b.states();
                let stats = b.loss(hidden, 0.0, 0.0);
                b.backward(stats);
                Ok([outline(caps, &b.graph, &[])?, adamw(config, &layout)].concat())
            }
        }
    }
}

/// Bytes a parameter that AdamW moves: both moments and the parameter there and back, the gradient twice for its norm and
/// for the update, and once to be cleared.
const ADAMW_BYTES: f64 = 36.0;
/// Dispatches of AdamW, for each window of the arenas and for all.
const ADAMW_DISPATCHES: [usize; 2] = [2, 1];

fn adamw(config: &T5Config, layout: &Layout) -> Vec<StepWork> {
    let windows = layout.tensors().iter().flat_map(|t| &t.pieces).map(|p| p.window + 1).max().unwrap_or(1);
    let count = ADAMW_DISPATCHES[0] * windows + ADAMW_DISPATCHES[1];
    let bytes = ADAMW_BYTES * config.param_count() as f64 / count as f64;
    let step = StepWork {
        kernel: "adamw",
        label: "optimiser".into(),
        work: Work { flops: 0.0, bytes },
        // Four parameters an invocation.
        workgroups: (config.param_count() / windows as u64).div_ceil(4 * 256),
        workgroup: Workgroup { invocations: 256, shared_bytes: 0 },
    };
    vec![step; count]
}

/// `enc-512x8`: source tokens x batch; `dec-b1-s512-n64`: batch, source tokens, new tokens; `train-8x512+114`: batch x source + target
/// tokens, with the dropout behind it if there is any.
impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Workload { kind, batch, source_len, target_len, dropout } = self;
        match kind {
            WorkloadKind::Encoder => write!(f, "enc-{source_len}x{batch}"),
            WorkloadKind::Decode => write!(f, "dec-b{batch}-s{source_len}-n{target_len}"),
            WorkloadKind::Train if *dropout == 0.0 => write!(f, "train-{batch}x{source_len}+{target_len}"),
            WorkloadKind::Train => write!(f, "train-{batch}x{source_len}+{target_len}-dropout{dropout}"),
        }
    }
}

impl fmt::Display for FrozenWorkload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.model, self.workload)
    }
}

impl FrozenWorkload {
    /// All of them, model by model; each model's training last.
    pub fn all() -> Vec<FrozenWorkload> {
        let of = |model| {
            let workloads = match model {
                "tiny" => [Workload::encoder(4, 64), Workload::decode(1, 64, 16), Workload::train(4, 64, 24, 0.0)],
                _ => [Workload::encoder(8, 512), Workload::decode(1, 512, 64), Workload::train(8, 512, 114, 0.0)],
            };
            workloads.map(|workload| FrozenWorkload { model, workload })
        };
        MODELS.into_iter().flat_map(of).collect()
    }

    /// Those that these words name, in their order of [`FrozenWorkload::all`]: a workload with or without its model, or a model.
    /// No words: all but those of `tiny`.
    ///
    /// # Errors
    /// `Input` for a word that names none, with the list of all.
    pub fn named(words: &[String]) -> Result<Vec<FrozenWorkload>> {
        let is_named = |frozen: &FrozenWorkload, word: &str| {
            let names = [frozen.to_string(), frozen.workload.to_string(), frozen.model.to_owned()];
            names.iter().any(|name| name == word)
        };
        let all = FrozenWorkload::all();
        if let Some(word) = words.iter().find(|word| !all.iter().any(|frozen| is_named(frozen, word))) {
            let names = all.iter().map(|frozen| format!("  {frozen}")).collect::<Vec<_>>().join("\n");
            return Err(Error::Input(format!(
                "no workload and no model of the suite is called \"{word}\"; there are\n{names}\nand a model's name means all of its"
            )));
        }
        let wanted = |frozen: &FrozenWorkload| match words {
            [] => frozen.model != "tiny",
            words => words.iter().any(|word| is_named(frozen, word)),
        };
        Ok(all.into_iter().filter(wanted).collect())
    }

    /// The configuration of its model.
    pub fn config(&self) -> Result<T5Config> {
        T5Config::preset(self.model)
    }
}

/// A model with the made-up weights.
pub(super) fn model(gpu: &Gpu, config: T5Config) -> Result<Model> {
    Model::filled(gpu, config, &weights)
}

/// Numbers that a weight's 24 random bits are out of, on either side of zero.
const HALF: i64 = 1 << 23;

/// A tensor's weights: uniform, most of them of the deviation that T5's first weights have. With those alone, states hardly differ from
/// the embeddings, and decoding repeats its first token. So the feed-forward networks' outputs are four times as large, and the scales of
/// both stacks' last norms have either sign, which hides a token from a tied head. Other norms' scales lie around 1.
pub(super) fn weights(config: &T5Config, tensor: &TensorSpan) -> Vec<f32> {
    let name = tensor.name.trim_end_matches(".weight");
    let module = name.rsplit('.').next().unwrap_or(name);
    let is_norm = module == "layer_norm";
    let (inverse_variance, gain) = match module {
        "shared" | "relative_attention_bias" | "final_layer_norm" => (1, 1.0),
        "q" => (config.d_model * config.d_kv, 1.0),
        "o" => (config.inner_dim(), 1.0),
        "wo" => (config.d_ff, 4.0),
        _ => (config.d_model, 1.0),
    };
    let reach = if is_norm { 0.5 } else { (3.0 / inverse_variance as f64).sqrt() * gain };
    let step = (reach / HALF as f64) as f32;
    let middle = if is_norm { 1.0 } else { 0.0 };
    let mut rng = Rng::new(SEED, Purpose::Benchmark, &[fnv1a(tensor.name.bytes())]);
    let mut weight = || middle + ((rng.next_u64() >> 40) as i64 - HALF) as f32 * step;
    (0..tensor.shape.iter().product()).map(|_| weight()).collect()
}

/// Ids from 2 on.
fn ids(side: &str, row: usize, count: usize, vocab: usize) -> Vec<u32> {
    let mut rng = Rng::new(SEED, Purpose::Benchmark, &[fnv1a(side.bytes()), row as u64]);
    let others = vocab.saturating_sub(2).max(1) as u64;
    let last = vocab.saturating_sub(1) as u32;
    (0..count).map(|_| (2 + ((rng.next_u64() >> 32) % others) as u32).min(last)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_find_their_workloads() {
        let all = FrozenWorkload::all();
        for frozen in &all {
            assert_eq!(FrozenWorkload::named(&[frozen.to_string()]).unwrap(), [*frozen]);
        }
        let named = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            FrozenWorkload::named(&words).map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(
            named(&["t5-base", "tiny/enc-64x4"]).unwrap(),
            ["tiny/enc-64x4", "t5-base/enc-512x8", "t5-base/dec-b1-s512-n64", "t5-base/train-8x512+114"]
        );
        assert_eq!(named(&["enc-512x8"]).unwrap().len(), 3);
        assert_eq!(named(&[]).unwrap().len(), 9);
        let error = named(&["enc-512x9"]).unwrap_err().to_string();
        assert!(error.contains("enc-512x9") && error.contains("t5-large/dec-b1-s512-n64"), "{error}");
    }

    #[test]
    fn a_batch_repeats_its_examples() {
        let config = T5Config::preset("tiny").unwrap();
        let batch = Workload::train(3, 5, 4, 0.0).batch(&config);
        assert_eq!(batch.src_ids[..5], batch.src_ids[10..]);
        assert_ne!(batch.src_ids[..5], batch.src_ids[5..10]);
        assert_eq!((batch.tgt_in[0], &batch.tgt_in[1..4]), (0, &batch.labels[..3]));
        // A longer source begins as the shorter one does.
        assert_eq!(Workload::encoder(1, 9).sources(&config)[0][..5], batch.src_ids[..5]);
    }
}
