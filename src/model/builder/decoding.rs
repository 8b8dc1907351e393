//! The graphs of cached decoding: one that prepares a source, the step that makes the logits of the next tokens, and the
//! choosers that make tokens of logits.
//!
//! They meet in leaves, whose memory the caller provides (see [`DecodeShape::state`]). A *row* is what a step works on: a
//! target, or one of the beams of a target, or one of the next tokens of a target, of which all but the first are guessed. Rows of
//! a target lie side by side. Targets may share a source, which the encoder reads once.

use super::{Builder, Keep, Run, Sees};
use crate::batch::BatchShape;
use crate::graph::{Dtype, Graph, ValueId};
use crate::model::architecture::{Architecture, Stack};
use crate::model::config::T5Config;
use crate::model::layout::{Layout, cross_leaf};
use crate::ops::{
    AcceptDrafts, Activation, AdjustLogits, AppendKv, AttentionDecode, BeamSearch, Mask, Matmul, PrefixTable,
    SETTINGS_LEN, Sample, TokenScores, TopTokens, Variant,
};

/// Sizes of a decoding session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecodeShape {
    /// Sources. With drafts, or where one stack reads source and target, as many as targets.
    pub sources: usize,
    /// Targets.
    pub batch: usize,
    /// Sequences of a target: 1, or the number of its beams.
    pub beams: usize,
    /// Tokens of a sequence that are guessed, so that a step checks them: rows beside that of its newest token. Not with beams.
    pub drafts: usize,
    pub src_len: usize,
    /// Positions of the target, the start token included.
    pub max_len: usize,
}

/// A leaf of the graphs that outlives a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateLeaf {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: Dtype,
}

impl DecodeShape {
    /// Sequences, each of which has a row of the caches.
    pub fn sequences(&self) -> usize {
        self.batch * self.beams
    }

    pub fn rows(&self) -> usize {
        self.sequences() * (1 + self.drafts)
    }

    /// Positions of a row of the caches: those of the target, and before them those of the source where one stack reads both.
    fn cached(&self, config: &T5Config) -> usize {
        if config.architecture.is_one_stack() { self.src_len + self.max_len } else { self.max_len }
    }

    /// The leaves that outlive a run:
    /// - `cross.N`: keys and values of the source, for the run of decoder blocks that begins with block N
    /// - `cache.N`, `bias.N`: keys and values of the target so far and position biases, of block N. Where one stack reads source and
    ///   target, those of the source stand before those of the target, in the first row of each source; `src_pos [sources src_len]` says at
    ///   which position each does: `0..src_len`, over and over
    /// - `cache_row [rows, max_len]`: in which row of the caches the key of each position lies. A row itself from its newest
    ///   position on; a beam's earlier keys are where its ancestors left them. All rows of a sequence name the sequence's
    /// - `source_of [rows]`, `src_ids [sources src_len]`, `src_lens [sources]`: the source of each row, the tokens of each source and
    ///   their number
    /// - `tgt_ids [rows]`, `pos [rows]`: the newest token and its position, and behind it the drafts and theirs
    /// - `tokens [max_len, sequences]`: all tokens. A row's own at position p is `tokens[p, cache_row[row, p]]`
    /// - `logits [rows, vocab]`: what a step makes and a chooser reads
    /// - `settings`: [`crate::ops::ChoiceSettings`]
    /// - `finished [batch]`, `sequences [batch]`: of [`Sample`], where a target has one sequence
    /// - `origin [max_len, batch]`: of [`AcceptDrafts`], where it has drafts
    /// - `parents [max_len, rows]`, `beams`, `penalties [max_len]`: of [`BeamSearch`], where it has several
    ///
    /// A [`Chooser`] may ask for two more: `rules` and `token_scores`.
    pub fn state(&self, config: &T5Config, layout: &Layout) -> Vec<StateLeaf> {
        let (rows, sequences, row) = (self.rows(), self.sequences(), 2 * config.inner_dim());
        let distances = 2 * config.relative_attention_max_distance + 1;
        let mut leaves = Vec::new();
        let mut add = |name: String, shape: &[usize], dtype| {
            leaves.push(StateLeaf { name, shape: shape.to_vec(), dtype });
        };
        let positions = self.sources * self.src_len;
        for run in layout.cross_runs(positions) {
            add(format!("cross.{}", run.start), &[positions, run.len() * row], Dtype::F32);
        }
        for block in 0..config.num_decoder_layers {
            add(format!("cache.{block}"), &[sequences * self.cached(config), row], Dtype::F32);
            if config.has_relative_bias(block) {
                add(format!("bias.{block}"), &[config.num_heads, distances], Dtype::F32);
            }
        }
        for name in ["tgt_ids", "pos", "source_of"] {
            add(name.into(), &[rows], Dtype::U32);
        }
        if self.beams == 1 {
            add("finished".into(), &[sequences], Dtype::U32);
            add("sequences".into(), &[sequences], Dtype::U32);
        } else {
            add("parents".into(), &[self.max_len, rows], Dtype::U32);
            add("beams".into(), &[self.batch, 1 + 5 * self.beams], Dtype::F32);
            add("penalties".into(), &[self.max_len], Dtype::F32);
        }
        if self.drafts > 0 {
            add("origin".into(), &[self.max_len, sequences], Dtype::U32);
        }
        if config.architecture.is_one_stack() {
            add("src_pos".into(), &[positions], Dtype::U32);
        }
        add("src_ids".into(), &[positions], Dtype::U32);
        add("src_lens".into(), &[self.sources], Dtype::U32);
        add("cache_row".into(), &[rows, self.max_len], Dtype::U32);
        add("tokens".into(), &[self.max_len, sequences], Dtype::U32);
        add("logits".into(), &[rows, config.vocab_size], Dtype::F32);
        add("settings".into(), &[SETTINGS_LEN], Dtype::U32);
        leaves
    }

    /// The graph that makes tokens of logits and advances the state. Where a target has one row: each row's next token, greedy or
    /// drawn, or greedy ones as far as its drafts are right. Where it has several: a step of beam search.
    pub fn chooser(&self, vocab: usize, chooser: Chooser) -> Graph {
        let rows = self.rows();
        let mut graph = Graph::new();
        graph.scope("decoder");
        let mut logits = graph.leaf("logits", &[rows, vocab], Dtype::F32);
        let settings = graph.leaf("settings", &[SETTINGS_LEN], Dtype::U32);
        let (adjusted, searched) = (chooser.rules > 0, self.beams > 1);
        let keep_scores = |graph: &mut Graph, logits, pos, tokens| {
            let Some(op) = self.token_scores(chooser) else { return };
            let scores = graph.push1(op, &[logits, settings, tokens, pos]);
            store(graph, scores, "token_scores");
        };
        if adjusted {
            let inputs = [
                settings,
                graph.leaf("tokens", &[self.max_len, rows], Dtype::U32),
                graph.leaf("cache_row", &[rows, self.max_len], Dtype::U32),
                graph.leaf("pos", &[rows], Dtype::U32),
                graph.leaf("rules", &[chooser.rules], Dtype::U32),
            ];
            logits = graph.push1(AdjustLogits { vocab, normalize: searched }, &inputs);
            store(&mut graph, logits, "logits");
        }
        if searched {
            let keep = BeamSearch::keep(self.beams, chooser.n_eos);
            let tokens = graph.leaf("tokens", &[self.max_len, rows], Dtype::U32);
            let pos = graph.leaf("pos", &[rows], Dtype::U32);
            keep_scores(&mut graph, logits, pos, tokens);
            let top = graph.push1(TopTokens { keep, normalized: adjusted }, &[logits, settings]);
            let penalties = graph.leaf("penalties", &[self.max_len], Dtype::F32);
            let op = BeamSearch { beams: self.beams, len: self.max_len };
            let made = graph.push(op, &[top, settings, penalties]);
            store_all(&mut graph, &made, &["tgt_ids", "tokens", "parents", "pos", "cache_row", "beams"]);
        } else if self.drafts > 0 {
            let src_ids = graph.leaf("src_ids", &[self.sources * self.src_len], Dtype::U32);
            let src_lens = graph.leaf("src_lens", &[self.sources], Dtype::U32);
            let op = AcceptDrafts { drafts: self.drafts, len: self.max_len, shared: None };
            let made = graph.push(op, &[logits, settings, src_ids, src_lens]);
            store_all(&mut graph, &made, &["tgt_ids", "tokens", "finished", "pos", "origin"]);
        } else {
            let sequences = graph.leaf("sequences", &[rows], Dtype::U32);
            let chosen = graph.push(Sample { len: self.max_len, shared: None }, &[logits, settings, sequences]);
            store_all(&mut graph, &chosen, &["tgt_ids", "tokens", "finished", "pos"]);
            keep_scores(&mut graph, logits, chosen[3], chosen[1]);
        }
        graph
    }

    /// What keeps the log-probabilities of tokens, if they are kept. A row under beam search chooses among the likeliest, so that
    /// these are all that its tokens can be.
    pub fn token_scores(&self, chooser: Chooser) -> Option<TokenScores> {
        let searched = self.beams > 1;
        let least = if searched { BeamSearch::keep(self.beams, chooser.n_eos) } else { 0 };
        let normalized = searched && chooser.rules > 0;
        chooser.scores.map(|keep| TokenScores { keep: keep.max(least), chosen: !searched, normalized })
    }
}

/// What a chooser is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chooser {
    /// End tokens of the model.
    pub n_eos: usize,
    /// Elements of the leaf `rules`, by which [`AdjustLogits`] changes the scores first; 0: nothing changes them.
    pub rules: usize,
    /// Whether log-probabilities are kept, in the leaf `token_scores`, and of how many of the likeliest tokens at least beside those
    /// that are chosen: see [`TokenScores`].
    pub scores: Option<usize>,
}

fn store_all(graph: &mut Graph, values: &[ValueId], names: &[&str]) {
    values.iter().zip(names).for_each(|(&value, name)| store(graph, value, name));
}

/// Lets a value live in the leaf of this name.
pub(super) fn store(graph: &mut Graph, value: ValueId, name: &str) {
    let info = graph.value(value);
    let (shape, dtype) = (info.shape.clone(), info.dtype);
    let leaf = graph.leaf(name, &shape, dtype);
    graph.store_in(value, leaf);
}

/// The table of the decoder's position bias.
const DECODER_BIAS: &str = "SelfAttention.relative_attention_bias";

impl Builder<'_> {
    /// Everything that depends on the sources or the weights alone: the encoder, and the decoder's keys and values of the source; or, of
    /// one stack, its own keys and values of the source. Stores `cross.N` or `cache.N`, and `bias.N`. Reads `src_ids` (`[B S]`), `src_lens`
    /// (`[B]`) and for one stack `src_pos` (`[B S]`). `beams`: rows of the caches to a source.
    pub fn prepare_decoding(&mut self, beams: usize) {
        let BatchShape { batch, src_len, tgt_len: max_len, .. } = self.shape;
        let encoded = match self.config.architecture {
            Architecture::EncoderDecoder | Architecture::Shared => Some(self.encoder()),
            one_stack => {
                let own = match one_stack {
                    Architecture::PrefixLm => self.sees_source(),
                    _ => Sees { mask: Mask::Causal, inputs: Vec::new() },
                };
                let kv_len = src_len + max_len;
                let append = AppendKv { homes: batch * beams, kv_len, together: src_len, stride: beams };
                let pos = self.graph.leaf("src_pos", &[batch * src_len], Dtype::U32);
                let keep = Some(Keep { append, pos });
                let embedded = self.embed("src", batch * src_len);
                self.stack(&Run { stack: Stack::Decoder, len: src_len, own, source: None, keep }, embedded);
                None
            }
        };
        for block in 0..self.config.num_decoder_layers {
            if self.config.has_relative_bias(block)
                && let Some(bias) = self.bias(Stack::Decoder, block, DECODER_BIAS, None)
            {
                store(&mut self.graph, bias, &format!("bias.{block}"));
            }
        }
        let Some(encoded) = encoded else { return };
        for run in self.layout.cross_runs(batch * src_len) {
            self.graph.scope(format!("decoder.block.{}.layer.1", run.start));
            let kv = self.linear(&cross_leaf(&run), encoded);
            store(&mut self.graph, kv, &format!("cross.{}", run.start));
        }
    }

    /// One step of decoding for every row, which are the newest tokens of so many sequences and `drafts` behind each: embeds `tgt_ids` at
    /// `pos`, extends the caches, and stores `logits`. Matrix products are of the kind that treats rows alike in any batch, so that a row's logits
    /// do not depend on its neighbours.
    pub fn decode_step(&mut self, sequences: usize, drafts: usize) {
        self.variant = Some(Variant::Few);
        let (batch, src_len, max_len) = (self.shape.batch, self.shape.src_len, self.shape.tgt_len);
        let rows = sequences * (1 + drafts);
        let inner = self.config.inner_dim();
        let distances = 2 * self.config.relative_attention_max_distance + 1;
        let lens = self.graph.leaf("src_lens", &[batch], Dtype::U32);
        let mut pos = self.graph.leaf("pos", &[rows], Dtype::U32);
        let mut table = self.graph.leaf("cache_row", &[rows, max_len], Dtype::U32);
        let source_of = self.graph.leaf("source_of", &[rows], Dtype::U32);
        let mut kv_len = max_len;
        if self.config.architecture.is_one_stack() {
            // The positions of a target go on where its source ends.
            let op = PrefixTable { src_len, beams: sequences / batch };
            let placed = self.graph.push(op, &[pos, table, source_of, lens]);
            (pos, table, kv_len) = (placed[0], placed[1], src_len + max_len);
        }
        let attention = AttentionDecode {
            rows,
            homes: sequences,
            heads: self.config.num_heads,
            d_kv: self.config.d_kv,
            kv_len,
            windows: 1,
            window: 0,
            causal: true,
            stores: drafts == 0,
            reach: self.config.relative_attention_max_distance,
            wide: None,
        };
        let mut x = self.embed("tgt", rows);
        let mut bias_block = 0;
        let runs = self.layout.cross_runs(batch * src_len);
        for block in 0..self.config.num_decoder_layers {
            if self.config.has_relative_bias(block) {
                bias_block = block;
            }
            let bias_shape = [self.config.num_heads, distances];
            let bias = self.graph.leaf(format!("bias.{bias_block}"), &bias_shape, Dtype::F32);
            let layers = self.config.block_names(Stack::Decoder, block);
            let layer = layers.self_attention;
            let qkv = self.project_norm(&layer, "SelfAttention.qkv", x, None);
            let memory = self.graph.leaf(format!("cache.{block}"), &[sequences * kv_len, 2 * inner], Dtype::F32);
            let inputs = [qkv, pos, bias, table];
            let attended = if drafts == 0 {
                let [attended, cache] = self.graph.push(attention.clone(), &inputs)[..] else { unreachable!() };
                self.graph.store_in(cache, memory);
                attended
            } else {
                // A draft sees the keys of those before it: all are stored before any row attends.
                let append = AppendKv { homes: sequences, kv_len, together: 1 + drafts, stride: 1 };
                let cache = self.graph.push1(append, &[qkv, pos]);
                self.graph.store_in(cache, memory);
                self.graph.push1(attention.clone(), &[&inputs[..], &[cache]].concat())
            };
            x = self.project_back(&format!("{layer}.SelfAttention.o.weight"), attended, x);

            let run = runs.iter().find(|run| run.contains(&block));
            if let (Some(layer), Some(run)) = (layers.cross_attention, run) {
                let q = self.project_norm(&layer, "EncDecAttention.q", x, None);
                let cross_shape = [batch * src_len, run.len() * 2 * inner];
                let cross = self.graph.leaf(format!("cross.{}", run.start), &cross_shape, Dtype::F32);
                let (windows, window) = (run.len(), block - run.start);
                let op = AttentionDecode {
                    homes: batch,
                    kv_len: src_len,
                    windows,
                    window,
                    causal: false,
                    stores: false,
                    ..attention.clone()
                };
                let attended = self.graph.push1(op, &[q, cross, lens, source_of]);
                x = self.project_back(&format!("{layer}.EncDecAttention.o.weight"), attended, x);
            }

            let layer = layers.feed_forward;
            let a = self.project_norm(&layer, "DenseReluDense.wi", x, Some(self.config.feed_forward_proj));
            x = self.end_feed_forward(&layer, a, x);
        }
        self.graph.scope("decoder");
        let logits = self.logits(x, Some(&self.config.final_norm(Stack::Decoder)));
        store(&mut self.graph, logits, "logits");
    }

    /// activation(weight norm(x)), the beginning of a layer: in one kernel, unless an adapter adds to the product.
    fn project_norm(&mut self, layer: &str, weight: &str, x: ValueId, activation: Option<Activation>) -> ValueId {
        self.graph.scope(layer);
        let weights = [format!("{layer}.{weight}.weight"), format!("{layer}.layer_norm.weight")];
        if !self.layout.added(&weights[0]).is_empty() {
            let y = self.norm_and_project(layer, &weights[0], x);
            return activation.map_or(y, |activation| self.graph.push1(activation, &[y]));
        }
        let inputs = [x, self.param(&weights[0]), self.param(&weights[1])];
        let op = Matmul { norm: Some(self.eps()), activation, ..self.product() };
        self.graph.push1(op, &inputs)
    }
}
