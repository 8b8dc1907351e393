//! The T5 written down once: training, evaluation and decoding are graphs of this one builder.
//!
//! Names in comments: B sequences, S source positions, T target positions, D = d_model, I = heads * d_kv.

mod decoding;
mod heads;
mod projections;

pub use decoding::{Chooser, DecodeShape, StateLeaf};

use decoding::store;

use super::architecture::Stack;
use super::config::T5Config;
use super::encoder_attention::EncoderAttention;
use super::layout::{Layout, shard_leaf};
use crate::batch::BatchShape;
use crate::graph::{Dtype, Graph, ValueId};
use crate::ops::{
    AppendKv, Attention, BlockSums, CrossEntropy, Dropout, Gather, JoinAttention, Logits, Mask, PositionBias, RmsNorm,
    SelectRows, Variant, gather_index_len,
};

/// Adds the parts of a T5 to a graph.
pub struct Builder<'a> {
    pub graph: Graph,
    config: &'a T5Config,
    layout: &'a Layout,
    output_scale: f32,
    shape: BatchShape,
    /// 0 outside of training.
    dropout: f32,
    /// Numbers the dropout sites.
    sites: u32,
    /// The kernel to prefer for matrix products.
    variant: Option<Variant>,
    /// Whether the backward pass computes the blocks' values again.
    recompute: bool,
    /// Whether a row must not depend on how many there are.
    any_rows: bool,
    /// Whether sources have gaps.
    gaps: bool,
    /// Whether what is added to projections loses parts of its inputs.
    training: bool,
}

/// What an attention may see: the kind of its mask, and the leaves that say more.
struct Sees {
    mask: Mask,
    inputs: Vec<ValueId>,
}

/// How a stack is run over rows of `len` positions.
struct Run {
    stack: Stack,
    len: usize,
    own: Sees,
    /// What cross-attention attends to, where there is some.
    source: Option<Encoded>,
    /// Where the keys and values of self-attention are kept for decoding.
    keep: Option<Keep>,
}

/// The encoder's output, `[B len, D]`.
struct Encoded {
    states: ValueId,
    len: usize,
    sees: Sees,
}

/// How keys and values get into the leaves `cache.N`, and the position of each row there.
struct Keep {
    append: AppendKv,
    pos: ValueId,
}

/// Products of so many rows or more treat them alike: see [`crate::ops::Matmul::any_rows`].
const LEAST_ROWS: usize = 16;

impl<'a> Builder<'a> {
    pub fn new(model: &'a super::Model, shape: BatchShape, dropout: f32) -> Builder<'a> {
        Builder::on_layout(&model.config, &model.layout, model.output_scale, shape, dropout)
    }

    /// A builder for a model that need not be on any device.
    pub fn on_layout(
        config: &'a T5Config,
        layout: &'a Layout,
        output_scale: f32,
        shape: BatchShape,
        dropout: f32,
    ) -> Builder<'a> {
        let (graph, sites, variant) = (Graph::new(), 0, None);
        let (recompute, any_rows, gaps, training) = (false, false, false, false);
        Builder {
            graph,
            config,
            layout,
            output_scale,
            shape,
            dropout,
            sites,
            variant,
            recompute,
            any_rows,
            gaps,
            training,
        }
    }

    /// Lets [`Builder::backward`] compute the values inside of each block again instead of keeping them from the forward
    /// pass on: of a block, only its input takes memory. To be said before the stacks are built.
    pub fn recompute_blocks(&mut self) {
        self.recompute = true;
    }

    /// Has what is added to projections lose parts of its inputs, as its own settings say ([`Lora::dropout`](super::Lora::dropout)). To be
    /// said before the stacks are built.
    pub fn for_training(&mut self) {
        self.training = true;
    }

    /// Makes each row of the batch the same, bit for bit, in every batch of rows of the same length, as what is asked of a model
    /// should be. To be said before the stacks are built. Lengths are multiples of 16.
    pub fn rows_alike(&mut self) {
        self.any_rows = true;
    }

    /// Encoder: reads the leaves `src_ids`, `src_index` (`[B S]`) and, of packed rows or where [`EncoderAttention`] is not full,
    /// `src_ranges` (`[B S, 2]`); of rows that are not packed `src_lens` (`[B]`), and for sums of blocks
    /// `src_blocks` (`[B]`), how many each source has; gives `[B S, D]`.
    pub fn encoder(&mut self) -> ValueId {
        let embedded = self.embed("src", self.shape.batch * self.shape.src_len);
        self.encoder_of(embedded)
    }

    /// The encoder's blocks on embedded sources, `[B S, D]`.
    fn encoder_of(&mut self, embedded: ValueId) -> ValueId {
        let len = self.shape.src_len;
        let radius = self.config.encoder_attention.radius();
        let mut own = if self.shape.packed {
            self.sees_segments(["src_ranges", "src_ranges"], [len, len])
        } else {
            self.sees_source()
        };
        if let Some(radius) = radius {
            let ranges = self.sees_segments(["src_ranges", "src_ranges"], [len, len]);
            own = Sees { mask: Mask::Window { radius }, ..ranges };
        }
        self.stack(&Run { stack: Stack::Encoder, len, own, source: None, keep: None }, embedded)
    }

    /// Decoder over whole targets: reads `tgt_ids`, `tgt_index` (`[B T]`) and `src_lens` (`[B]`), attends to the
    /// encoder's output `[B S, D]`; gives `[B T, D]`. Of packed rows it reads ranges instead of `src_lens`: `tgt_keys`,
    /// `tgt_queries`, `cross_keys` (`[B T, 2]`) and `cross_queries` (`[B S, 2]`), see [`crate::ops::Mask::Segments`].
    pub fn decoder(&mut self, encoded: ValueId) -> ValueId {
        let BatchShape { batch, src_len, tgt_len, packed } = self.shape;
        let (own, cross) = if packed {
            let own = self.sees_segments(["tgt_keys", "tgt_queries"], [tgt_len, tgt_len]);
            (own, self.sees_segments(["cross_keys", "cross_queries"], [tgt_len, src_len]))
        } else {
            (Sees { mask: Mask::Causal, inputs: Vec::new() }, self.sees_source())
        };
        let source = Some(Encoded { states: encoded, len: src_len, sees: cross });
        let embedded = self.embed("tgt", batch * tgt_len);
        self.stack(&Run { stack: Stack::Decoder, len: tgt_len, own, source, keep: None }, embedded)
    }

    /// The states of whole targets, `[B T, D]`, of any architecture: what head and loss are for. Reads the leaves of
    /// [`T5Config::batch_leaves`]: those of encoder and decoder; or, where one stack reads source and target in a row of L = S + T positions,
    /// `row_ids`, `row_index` (`[B L]`), the ranges `row_keys`, `row_queries` (`[B L, 2]`), and where targets lie in rows, `row_of_target`
    /// (`[B T]`) and `target_of_row` (`[B L]`).
    pub fn states(&mut self) -> ValueId {
        if !self.config.architecture.is_one_stack() {
            let encoded = self.encoder();
            return self.decoder(encoded);
        }
        let BatchShape { batch, src_len, tgt_len, .. } = self.shape;
        let len = src_len + tgt_len;
        let own = self.sees_segments(["row_keys", "row_queries"], [len, len]);
        let embedded = self.embed("row", batch * len);
        let x = self.stack(&Run { stack: Stack::Decoder, len, own, source: None, keep: None }, embedded);
        // The head is the dearest product: only targets go through it.
        let rows = self.graph.leaf("row_of_target", &[batch * tgt_len], Dtype::U32);
        let places = self.graph.leaf("target_of_row", &[batch * len], Dtype::U32);
        self.graph.push1(SelectRows, &[x, rows, places])
    }

    /// The blocks of a stack on embedded rows, and its last norm: `[B len, D]`.
    fn stack(&mut self, run: &Run, embedded: ValueId) -> ValueId {
        let (attention, layers) = match run.stack {
            Stack::Encoder => (self.config.encoder_attention, self.config.num_layers),
            Stack::Decoder => (EncoderAttention::Full, self.config.num_decoder_layers),
        };
        let mut x = self.dropout(embedded);
        let (mut bias, mut global_bias) = (None, None);
        for block in 0..layers {
            bias = self.bias(run.stack, block, &format!("{}.relative_attention_bias", attention.module()), bias);
            if let EncoderAttention::TransientGlobal { .. } = attention {
                let table = format!("{}.global_relative_attention_bias", attention.module());
                global_bias = self.bias(run.stack, block, &table, global_bias);
            }
            let names = self.config.block_names(run.stack, block);
            self.begin_block();
            x = match attention {
                EncoderAttention::TransientGlobal { block, .. } => {
                    self.transient_global_attention(&names.self_attention, x, [bias, global_bias], &run.own, block)
                }
                EncoderAttention::Full | EncoderAttention::Local { .. } => {
                    let module = format!("{}.{}", names.self_attention, attention.module());
                    let qkv = self.norm_and_project(&names.self_attention, &format!("{module}.qkv.weight"), x);
                    if let Some(keep) = &run.keep {
                        let cache = self.graph.push1(keep.append.clone(), &[qkv, keep.pos]);
                        store(&mut self.graph, cache, &format!("cache.{block}"));
                    }
                    let reach = bias.map(|_| self.config.relative_attention_max_distance);
                    let op = self.attention(run.len, run.len, reach);
                    let inputs: Vec<_> = [Some(qkv), bias].into_iter().flatten().collect();
                    let attended = self.attend(op, &inputs, &run.own);
                    self.project_back(&format!("{module}.o.weight"), attended, x)
                }
            };
            if let (Some(layer), Some(source)) = (&names.cross_attention, &run.source) {
                let q = self.norm_and_project(layer, &format!("{layer}.EncDecAttention.q.weight"), x);
                let kv = self.linear(&format!("{layer}.EncDecAttention.kv.weight"), source.states);
                let op = Attention { fused: false, ..self.attention(run.len, source.len, None) };
                let attended = self.attend(op, &[q, kv], &source.sees);
                x = self.project_back(&format!("{layer}.EncDecAttention.o.weight"), attended, x);
            }
            x = self.feed_forward(&names.feed_forward, x);
            self.end_block();
        }
        self.graph.scope(run.stack.name());
        let y = self.norm(&self.config.final_norm(run.stack), x);
        self.dropout(y)
    }

    fn begin_block(&mut self) {
        if self.recompute {
            self.graph.begin_block();
        }
    }

    fn end_block(&mut self) {
        if self.recompute {
            self.graph.end_block();
        }
    }

    /// Logits of decoder states `[rows, D]`, taken through the layer norm of this weight first if there is one:
    /// `[rows, vocab]`.
    pub fn logits(&mut self, hidden: ValueId, norm: Option<&str>) -> ValueId {
        self.graph.scope("lm_head");
        let op = Logits {
            shards: self.layout.shards().to_vec(),
            scale: self.output_scale,
            norm: norm.map(|_| self.eps()),
            variant: self.variant,
        };
        let scale = norm.map(|weight| self.param(weight));
        let inputs: Vec<_> = [hidden].into_iter().chain(self.head()).chain(scale).collect();
        self.graph.push1(op, &inputs)
    }

    /// Cross-entropy of decoder states `[B T, D]` against the leaf `labels` (`[B T]`): the stats that [`CrossEntropy`] gives.
    pub fn loss(&mut self, hidden: ValueId, z_loss: f32, smoothing: f32) -> ValueId {
        self.graph.scope("loss");
        let rows = self.graph.shape(hidden)[0];
        let labels = self.graph.leaf("labels", &[rows], Dtype::U32);
        let dstats = self.graph.leaf("dstats", &[4], Dtype::F32);
        let op =
            CrossEntropy { z_loss, smoothing, ..CrossEntropy::new(self.layout.shards().to_vec(), self.output_scale) };
        let inputs: Vec<_> = [hidden, labels, dstats].into_iter().chain(self.head()).collect();
        self.graph.push1(op, &inputs)
    }

    /// The cross-entropy of each decoder state `[B T, D]` against the leaf `labels` (`[B T]`): `[B T, 4]`, see
    /// [`CrossEntropy::by_row`].
    pub fn losses(&mut self, hidden: ValueId) -> ValueId {
        self.graph.scope("loss");
        let rows = self.graph.shape(hidden)[0];
        let labels = self.graph.leaf("labels", &[rows], Dtype::U32);
        let dstats = self.graph.leaf("dstats", &[4], Dtype::F32);
        let op = CrossEntropy::new(self.layout.shards().to_vec(), self.output_scale);
        let inputs: Vec<_> = [hidden, labels, dstats].into_iter().chain(self.head()).collect();
        self.graph.push1(CrossEntropy { by_row: true, ..op }, &inputs)
    }

    /// Appends the backward pass of `stats`' objective: the gradient of every parameter that learns is added to the leaf
    /// `grad/NAME`, and the stats to the leaf `stats`.
    pub fn backward(&mut self, stats: ValueId) {
        let dstats = self.graph.leaf("dstats", &[4], Dtype::F32);
        let params: Vec<(ValueId, String, Vec<usize>)> = self
            .graph
            .leaves()
            .filter(|(_, info)| self.layout.learns_now(&info.label))
            .map(|(value, info)| (value, format!("grad/{}", info.label), info.shape.clone()))
            .collect();
        let targets: Vec<_> = params
            .into_iter()
            .map(|(value, name, shape)| (value, Some(self.graph.leaf(name, &shape, Dtype::F32))))
            .collect();
        self.graph.backward(&[(stats, dstats)], &targets);
        self.graph.scope("loss");
        let total = self.graph.leaf("stats", &[4], Dtype::F32);
        self.graph.add_into(self.graph.replayed(stats), total);
    }

    /// The leaf of a parameter.
    pub fn param(&mut self, name: &str) -> ValueId {
        let (shape, dtype) = self.layout.leaf(name);
        self.graph.leaf(name, shape, dtype)
    }

    fn table(&mut self, name: &str) -> Vec<ValueId> {
        (0..self.layout.shards().len()).map(|s| self.param(&shard_leaf(name, s))).collect()
    }

    fn head(&mut self) -> Vec<ValueId> {
        self.table(if self.layout.untied { "lm_head.weight" } else { "shared.weight" })
    }

    /// Embeds the ids of `{side}_ids`.
    pub fn embed(&mut self, side: &str, count: usize) -> ValueId {
        self.graph.scope("shared");
        let ids = self.graph.leaf(format!("{side}_ids"), &[count], Dtype::U32);
        let index = self.graph.leaf(format!("{side}_index"), &[gather_index_len(count)], Dtype::U32);
        let inputs: Vec<_> = [ids, index].into_iter().chain(self.table("shared.weight")).collect();
        self.graph.push1(Gather { shards: self.layout.shards().to_vec() }, &inputs)
    }

    /// The bias that a block's table `name` makes, or where it has none the bias of the block before.
    fn bias(&mut self, stack: Stack, block: usize, name: &str, before: Option<ValueId>) -> Option<ValueId> {
        if !self.config.has_relative_bias(block) {
            return before;
        }
        let scope = format!("{}.{name}", self.config.block_names(stack, block).self_attention);
        self.graph.scope(scope.clone());
        let table = self.param(&format!("{scope}.weight"));
        let entries = 2 * self.config.relative_attention_max_distance + 1;
        let bucket = self.graph.leaf(self.config.buckets(stack), &[entries], Dtype::U32);
        Some(self.graph.push1(PositionBias, &[table, bucket]))
    }

    fn attention(&mut self, q_len: usize, kv_len: usize, reach: Option<usize>) -> Attention {
        self.sites += 1;
        Attention {
            batch: self.shape.batch,
            heads: self.config.num_heads,
            d_kv: self.config.d_kv,
            q_len,
            kv_len,
            mask: Mask::Causal,
            fused: true,
            reach,
            query_block: 1,
            dropout: self.dropout,
            site: self.sites,
            tiling: None,
        }
    }

    fn sees_source(&mut self) -> Sees {
        let BatchShape { batch, src_len, .. } = self.shape;
        if self.gaps {
            let shown = self.graph.leaf("src_shown", &[batch, src_len.div_ceil(32)], Dtype::U32);
            return Sees { mask: Mask::Shown, inputs: vec![shown] };
        }
        let lens = self.graph.leaf("src_lens", &[batch], Dtype::U32);
        Sees { mask: Mask::Padded, inputs: vec![lens] }
    }

    /// Leaves of ranges, for each query and for each key, of which a row has so many.
    fn sees_segments(&mut self, leaves: [&str; 2], lens: [usize; 2]) -> Sees {
        let batch = self.shape.batch;
        let mut leaf = |i: usize| self.graph.leaf(leaves[i], &[batch * lens[i], 2], Dtype::U32);
        Sees { mask: Mask::Segments, inputs: vec![leaf(0), leaf(1)] }
    }

    fn attend(&mut self, op: Attention, inputs: &[ValueId], sees: &Sees) -> ValueId {
        self.attend_with_lse(op, inputs, sees)[0]
    }

    /// The outputs of [`Attention`].
    fn attend_with_lse(&mut self, op: Attention, inputs: &[ValueId], sees: &Sees) -> Vec<ValueId> {
        let op = Attention { mask: sees.mask, ..op };
        let mut inputs = [inputs, &sees.inputs].concat();
        if op.dropout > 0.0 {
            inputs.push(self.key());
        }
        self.graph.push(op, &inputs)
    }

    /// x + o(attention(norm(x))), LongT5's transient-global: one softmax over the keys near a query and over one key for each whole
    /// block of tokens, made of the sum of its states by a norm and the same weights.
    fn transient_global_attention(
        &mut self,
        layer: &str,
        x: ValueId,
        biases: [Option<ValueId>; 2],
        near: &Sees,
        block: usize,
    ) -> ValueId {
        assert!(!self.shape.packed, "sums of blocks are those of a whole row");
        let (batch, len) = (self.shape.batch, self.shape.src_len);
        let slots = (len / block).max(1).next_multiple_of(LEAST_ROWS);
        let module = format!("{layer}.{}", self.config.encoder_attention.module());
        self.graph.scope(layer);
        let n = self.norm(&format!("{layer}.layer_norm.weight"), x);
        let lens = self.graph.leaf("src_lens", &[batch], Dtype::U32);
        let counts = self.graph.leaf("src_blocks", &[batch], Dtype::U32);
        let sums = self.graph.push1(BlockSums { block, slots }, &[n, lens]);
        let sums = self.norm(&format!("{module}.global_input_layer_norm.weight"), sums);
        let q = self.linear(&format!("{module}.q.weight"), n);
        let far = Sees { mask: Mask::Padded, inputs: vec![counts] };
        let mut outputs = Vec::new();
        for (states, kv_len, query_block, bias, sees) in
            [(n, len, 1, biases[0], near), (sums, slots, block, biases[1], &far)]
        {
            let kv = self.linear(&format!("{module}.kv.weight"), states);
            let reach = bias.map(|_| self.config.relative_attention_max_distance);
            let op = Attention { fused: false, query_block, ..self.attention(len, kv_len, reach) };
            let inputs: Vec<_> = [Some(q), Some(kv), bias].into_iter().flatten().collect();
            outputs.extend(self.attend_with_lse(op, &inputs, sees));
        }
        outputs.push(counts);
        let attended = self.graph.push1(JoinAttention, &outputs);
        self.project_back(&format!("{module}.o.weight"), attended, x)
    }

    /// linear(norm(x)), the beginning of a layer.
    fn norm_and_project(&mut self, layer: &str, weight: &str, x: ValueId) -> ValueId {
        self.graph.scope(layer);
        let n = self.norm(&format!("{layer}.layer_norm.weight"), x);
        self.linear(weight, n)
    }

    /// x + wo(act(wi(norm(x)))), with an adapter behind wo if there is one.
    fn feed_forward(&mut self, layer: &str, x: ValueId) -> ValueId {
        let h = self.norm_and_project(layer, &format!("{layer}.DenseReluDense.wi.weight"), x);
        let a = self.graph.push1(self.config.feed_forward_proj, &[h]);
        let a = self.dropout(a);
        self.end_feed_forward(layer, a, x)
    }

    fn eps(&self) -> f32 {
        self.config.layer_norm_epsilon as f32
    }

    pub fn norm(&mut self, weight: &str, x: ValueId) -> ValueId {
        let scale = self.param(weight);
        self.graph.push1(RmsNorm { eps: self.eps() }, &[x, scale])
    }

    fn key(&mut self) -> ValueId {
        self.graph.leaf("key", &[4], Dtype::U32)
    }

    /// dropout(x); x itself outside of training.
    fn dropout(&mut self, x: ValueId) -> ValueId {
        self.drop(self.dropout, x)
    }

    /// x without this share of it, which the others make up for.
    fn drop(&mut self, rate: f32, x: ValueId) -> ValueId {
        if rate == 0.0 {
            return x;
        }
        self.sites += 1;
        let key = self.key();
        self.graph.push1(Dropout { rate, site: self.sites, add: false }, &[x, key])
    }
}
