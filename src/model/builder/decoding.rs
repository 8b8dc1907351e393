//! The two graphs of cached decoding: one that prepares a source, and the step that makes one token per sequence.
//!
//! They meet in leaves, whose memory the caller provides (see [`DecodeShape::state`]).

use super::{Builder, Stack};
use crate::graph::{Dtype, ValueId};
use crate::model::config::T5Config;
use crate::model::layout::{Layout, cross_leaf};
use crate::ops::{Activation, AttentionDecode, Matmul, SETTINGS_LEN, Sample, Variant};

/// Sizes of a decoding session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecodeShape {
    pub batch: usize,
    pub src_len: usize,
    /// Positions of the target, the start token included.
    pub max_len: usize,
}

impl DecodeShape {
    /// The leaves that outlive a run, with their elements: per run of decoder blocks that begins with block N the keys and
    /// values of the source (`cross.N`), per block those of the target so far (`cache.N`) and the position biases
    /// (`bias.N`), and per sequence the newest token (`tgt_ids`), all tokens (`tokens`, `[max_len, batch]`), `finished`,
    /// `pos`, `src_lens` and `sequences`; the `settings` of [`Sample`].
    pub fn state(&self, config: &T5Config, layout: &Layout) -> Vec<(String, usize)> {
        let row = 2 * config.inner_dim();
        let distances = 2 * config.relative_attention_max_distance + 1;
        let mut leaves = Vec::new();
        let positions = self.batch * self.src_len;
        for run in layout.cross_runs(positions) {
            leaves.push((format!("cross.{}", run.start), positions * run.len() * row));
        }
        for block in 0..config.num_decoder_layers {
            leaves.push((format!("cache.{block}"), self.batch * self.max_len * row));
            if config.has_relative_bias(block) {
                leaves.push((format!("bias.{block}"), config.num_heads * distances));
            }
        }
        for name in ["tgt_ids", "finished", "pos", "src_lens", "sequences"] {
            leaves.push((name.to_owned(), self.batch));
        }
        leaves.push(("tokens".to_owned(), self.max_len * self.batch));
        leaves.push(("settings".to_owned(), SETTINGS_LEN));
        leaves
    }
}

impl Builder<'_> {
    /// The encoder, and everything in the decoder that depends on the source or the weights alone: stores `cross.N` and
    /// `bias.N`. Reads `src_ids` (`[B S]`) and `src_lens` (`[B]`).
    pub fn prepare_decoding(&mut self) {
        let encoded = self.encoder();
        for block in 0..self.config.num_decoder_layers {
            if self.config.has_relative_bias(block)
                && let Some(bias) = self.bias(Stack::Decoder, block, None)
            {
                let shape = self.graph.shape(bias).to_vec();
                let leaf = self.graph.leaf(format!("bias.{block}"), &shape, Dtype::F32);
                self.graph.store_in(bias, leaf);
            }
        }
        for run in self.layout.cross_runs(self.shape.batch * self.shape.src_len) {
            self.graph.scope(format!("decoder.block.{}.layer.1", run.start));
            let kv = self.linear(&cross_leaf(&run), encoded);
            let shape = self.graph.shape(kv).to_vec();
            let leaf = self.graph.leaf(format!("cross.{}", run.start), &shape, Dtype::F32);
            self.graph.store_in(kv, leaf);
        }
    }

    /// One step of decoding for every sequence: embeds `tgt_ids` at `pos`, extends the caches, chooses the next tokens
    /// and advances the state. Matrix products are of the kind that treats rows alike in any batch, so that a
    /// sequence's tokens do not depend on its neighbours.
    pub fn decode_step(&mut self) {
        self.variant = Some(Variant::Rows);
        let (batch, src_len, max_len) = (self.shape.batch, self.shape.src_len, self.shape.tgt_len);
        let inner = self.config.inner_dim();
        let distances = 2 * self.config.relative_attention_max_distance + 1;
        let lens = self.graph.leaf("src_lens", &[batch], Dtype::U32);
        let pos = self.graph.leaf("pos", &[batch], Dtype::U32);
        let attention = AttentionDecode {
            batch,
            heads: self.config.num_heads,
            d_kv: self.config.d_kv,
            kv_len: max_len,
            windows: 1,
            window: 0,
            causal: true,
            reach: self.config.relative_attention_max_distance,
        };
        let mut x = self.embed("tgt", batch);
        let mut bias_block = 0;
        let runs = self.layout.cross_runs(batch * src_len);
        for (run, block) in runs.iter().flat_map(|run| run.clone().map(move |block| (run, block))) {
            if self.config.has_relative_bias(block) {
                bias_block = block;
            }
            let bias_shape = [self.config.num_heads, distances];
            let bias = self.graph.leaf(format!("bias.{bias_block}"), &bias_shape, Dtype::F32);
            let layer = format!("decoder.block.{block}.layer");
            self.graph.scope(format!("{layer}.0"));
            let names = [format!("{layer}.0.layer_norm.weight"), format!("{layer}.0.SelfAttention.qkv.weight")];
            let qkv = self.linear_of_norm(names, x, None);
            let memory = self.graph.leaf(format!("cache.{block}"), &[batch * max_len, 2 * inner], Dtype::F32);
            let [attended, cache] = self.graph.push(attention.clone(), &[qkv, pos, bias])[..] else { unreachable!() };
            self.graph.store_in(cache, memory);
            x = self.project_back(&format!("{layer}.0.SelfAttention.o.weight"), attended, x);

            self.graph.scope(format!("{layer}.1"));
            let names = [format!("{layer}.1.layer_norm.weight"), format!("{layer}.1.EncDecAttention.q.weight")];
            let q = self.linear_of_norm(names, x, None);
            let cross_shape = [batch * src_len, run.len() * 2 * inner];
            let cross = self.graph.leaf(format!("cross.{}", run.start), &cross_shape, Dtype::F32);
            let (windows, window) = (run.len(), block - run.start);
            let op = AttentionDecode { kv_len: src_len, windows, window, causal: false, ..attention.clone() };
            let attended = self.graph.push1(op, &[q, cross, lens]);
            x = self.project_back(&format!("{layer}.1.EncDecAttention.o.weight"), attended, x);

            self.graph.scope(format!("{layer}.2"));
            let names = [format!("{layer}.2.layer_norm.weight"), format!("{layer}.2.DenseReluDense.wi.weight")];
            let a = self.linear_of_norm(names, x, Some(self.config.feed_forward_proj));
            x = self.project_back(&format!("{layer}.2.DenseReluDense.wo.weight"), a, x);
        }
        self.graph.scope("decoder");
        let logits = self.logits(x, Some("decoder.final_layer_norm.weight"));
        self.choose(logits);
    }

    /// activation(weight norm(x)) in one kernel.
    fn linear_of_norm(&mut self, [norm, weight]: [String; 2], x: ValueId, activation: Option<Activation>) -> ValueId {
        let inputs = [x, self.param(&weight), self.param(&norm)];
        let op = Matmul { norm: Some(self.eps()), activation, ..self.product() };
        self.graph.push1(op, &inputs)
    }

    /// Chooses the next tokens from logits [B, vocab].
    fn choose(&mut self, logits: ValueId) {
        let (batch, len) = (self.shape.batch, self.shape.tgt_len);
        let settings = self.graph.leaf("settings", &[SETTINGS_LEN], Dtype::U32);
        let sequences = self.graph.leaf("sequences", &[batch], Dtype::U32);
        let chosen = self.graph.push(Sample { len }, &[logits, settings, sequences]);
        let names = ["tgt_ids", "tokens", "finished", "pos"];
        for (value, name) in chosen.into_iter().zip(names) {
            let shape = self.graph.shape(value).to_vec();
            let leaf = self.graph.leaf(name, &shape, Dtype::U32);
            self.graph.store_in(value, leaf);
        }
    }
}
