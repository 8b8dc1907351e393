//! Each op at the shapes that T5 1.1 small gives it: what the benchmarks time.

use super::cases::{Case, CaseBuilder};
use super::compile;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::{Add, AddInto, Dtype};
use crate::ops::{
    AcceptDrafts, Activation, AddColumns, AdjustLogits, AppendKv, Attention, AttentionDecode, BeamSearch, BlockSums,
    ChoiceSettings, CrossEntropy, Dropout, Function, Gather, JoinAttention, Logits, Mask, Matmul, MatmulLayout,
    MeanPool, NO_ROW, PositionBias, PrefixTable, RmsNorm, SETTINGS_LEN, Sample, ScaleColumns, SelectRows, TokenScores,
    TopTokens, distance_buckets, gather_index,
};
use crate::plan::Plan;

/// What of a case is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    Forward,
    /// The gradients of all inputs, with those forward kernels whose results they read.
    Gradient,
}

const SEQUENCES: usize = 4;
const LEN: usize = 128;
const TOKENS: usize = SEQUENCES * LEN;
const D_MODEL: usize = 512;
const D_FF: usize = 1024;
const HEADS: usize = 6;
const D_KV: usize = 64;
const INNER: usize = HEADS * D_KV;
const VOCAB: usize = 32_128;
const BUCKETS: usize = 32;
const REACH: usize = 128;
/// Rows of the output head's case: with all tokens a run would take seconds on a software adapter.
const HEAD_ROWS: usize = 64;

/// Every op at T5's shapes. The additions move 48 MiB each and compute next to nothing: they show the bandwidth.
pub fn bench_cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("add 8192x512", |b| {
            let (x, y) = (b.input("x", &[8192, D_MODEL], 1.0), b.input("y", &[8192, D_MODEL], 1.0));
            let sum = b.graph.push1(Add, &[x, y]);
            b.output("sum", sum);
        }),
        Case::new("add_into 8192x512", |b| {
            let shape = vec![8192, D_MODEL];
            let (x, memory) = (b.constant("x", &shape, 1.0), b.constant("memory", &shape, 1.0));
            let sum = b.graph.push1(AddInto { shape }, &[x]);
            b.graph.store_in(sum, memory);
            b.output_constant("sum", memory);
        }),
        Case::new("rms_norm 512x512", |b| {
            let (x, scale) = (b.input("x", &[TOKENS, D_MODEL], 1.0), b.parameter("scale", &[D_MODEL], 1.0));
            let y = b.graph.push1(RmsNorm { eps: 1e-6 }, &[x, scale]);
            b.output("y", y);
        }),
        Case::new("mean_pool 4x128x512", |b| {
            let (x, lens) = (b.constant("x", &[TOKENS, D_MODEL], 1.0), b.ids("lens", &[LEN as u32; SEQUENCES]));
            let y = b.graph.push1(MeanPool, &[x, lens]);
            b.output_constant("y", y);
        }),
        Case::new("block_sums 4x128x512 by 16", |b| {
            let (x, lens) = (b.constant("x", &[TOKENS, D_MODEL], 1.0), b.ids("lens", &[LEN as u32; SEQUENCES]));
            let y = b.graph.push1(BlockSums { block: 16, slots: LEN / 16 }, &[x, lens]);
            b.output_constant("y", y);
        }),
        Case::new("join_attention 512x8x64", |b| {
            let (out, lse) = ([TOKENS, INNER], [SEQUENCES * HEADS, LEN]);
            let inputs = [
                b.constant("a", &out, 1.0),
                b.constant("lse_a", &lse, 1.0),
                b.constant("b", &out, 1.0),
                b.constant("lse_b", &lse, 1.0),
                b.ids("counts", &[1; SEQUENCES]),
            ];
            let joined = b.graph.push1(JoinAttention, &inputs);
            b.output_constant("out", joined);
        }),
        Case::new("activation gated gelu 512x1024", |b| {
            let h = b.input("h", &[TOKENS, 2 * D_FF], 1.0);
            let op = Activation { function: Function::GeluTanh, gated: true };
            let y = b.graph.push1(op, &[h]);
            b.output("y", y);
        }),
        Case::new("dropout 512x512", |b| {
            let x = b.input("x", &[TOKENS, D_MODEL], 1.0);
            let key = b.ids("key", &[1, 2, 3, 4]);
            let y = b.graph.push1(Dropout { rate: 0.1, site: 1, add: false }, &[x, key]);
            b.output("y", y);
        }),
        Case::new("position_bias 32 buckets", |b| {
            let table = b.input("table", &[BUCKETS, HEADS], 1.0);
            let bucket = b.ids("bucket", &distance_buckets(true, BUCKETS, REACH));
            let bias = b.graph.push1(PositionBias, &[table, bucket]);
            b.output("bias", bias);
        }),
        Case::new("gather 512 of 32128x512", gather),
        Case::new("add_columns 384 of 512x1152", |b| {
            let (x, part) = (b.input("x", &[TOKENS, 3 * INNER], 1.0), b.input("part", &[TOKENS, INNER], 1.0));
            let y = b.graph.push1(AddColumns { at: INNER, scale: 2.0 }, &[x, part]);
            b.output("y", y);
        }),
        Case::new("scale_columns 384 of 512x1152", |b| {
            let (x, factors) = (b.input("x", &[TOKENS, 3 * INNER], 1.0), b.input("factors", &[INNER, 1], 1.0));
            let y = b.graph.push1(ScaleColumns { at: INNER }, &[x, factors]);
            b.output("y", y);
        }),
        Case::new("select_rows 256 of 512x512", |b| {
            let x = b.input("x", &[TOKENS, D_MODEL], 1.0);
            let rows: Vec<u32> = (0..TOKENS as u32 / 2).map(|i| 2 * i).collect();
            let places: Vec<u32> = (0..TOKENS as u32).map(|i| if i % 2 == 0 { i / 2 } else { NO_ROW }).collect();
            let inputs = [x, b.ids("rows", &rows), b.ids("places", &places)];
            let y = b.graph.push1(SelectRows, &inputs);
            b.output("y", y);
        }),
        Case::new("attention encoder 4x128", |b| attention(b, true)),
        Case::new("attention cross 4x128", |b| attention(b, false)),
        Case::new("attention_decode 4 over 128", attention_decode),
        Case::new("sample greedy 4 of 32128", |b| sample(b, 0.0)),
        Case::new("sample top_k top_p 4 of 32128", |b| sample(b, 1.0)),
        Case::new("append_kv 4 of 1 over 128", append_kv),
        Case::new("prefix_table 4 of 128 + 128", prefix_table),
        Case::new("accept_drafts 3 of 32128", accept_drafts),
        Case::new("adjust_logits 4 of 32128", adjust_logits),
        Case::new("top_tokens 8 of 32128, 4 rows", top_tokens),
        Case::new("token_scores 5 of 32128, 4 rows", token_scores),
        Case::new("beam_search 4 sources of 4 beams", beam_search),
        Case::new("logits 4 of 32128x512", |b| {
            let h = b.constant("h", &[SEQUENCES, D_MODEL], 1.0);
            let head = b.constant("head", &[VOCAB, D_MODEL], 0.05);
            let op = Logits { shards: vec![VOCAB], scale: 1.0, norm: None, variant: None };
            let logits = b.graph.push1(op, &[h, head]);
            b.output_constant("logits", logits);
        }),
        Case::new("cross_entropy 64 of 32128x512", cross_entropy),
    ];
    for (name, rows, out, width) in [
        ("matmul qkv 512x1152x512", TOKENS, 3 * INNER, D_MODEL),
        ("matmul wi 512x2048x512", TOKENS, 2 * D_FF, D_MODEL),
        ("matmul wo 512x512x1024", TOKENS, D_MODEL, D_FF),
        ("matmul wi 1x2048x512", 1, 2 * D_FF, D_MODEL),
    ] {
        cases.push(Case::new(name, move |b| {
            let (x, w) = (b.input("x", &[rows, width], 1.0), b.parameter("w", &[out, width], 1.0));
            let y = b.graph.push1(Matmul::new(MatmulLayout::Nt), &[x, w]);
            b.output("y", y);
        }));
    }
    cases
}

impl Case {
    /// Whether there is such a part: not every op has a gradient.
    pub fn has(&self, timed: Timed) -> bool {
        !self.timed(timed).1.is_empty()
    }

    /// The plan of one part, with its inputs on the device.
    pub fn plan(&self, gpu: &Gpu, timed: Timed) -> Result<Plan> {
        let (built, outputs) = self.timed(timed);
        let outputs: Vec<_> = outputs.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        compile(gpu, &built, &outputs)
    }

    fn timed(&self, timed: Timed) -> (CaseBuilder, Vec<(String, crate::graph::ValueId)>) {
        match timed {
            Timed::Forward => {
                let built = self.build();
                let outputs = built.outputs.clone();
                (built, outputs)
            }
            Timed::Gradient => self.build_backward(true),
        }
    }
}

fn gather(b: &mut CaseBuilder) {
    let ids: Vec<u32> = (0..TOKENS).map(|_| (b.uniform().powi(3) * VOCAB as f64) as u32).collect();
    let index = gather_index(&ids, |_| true);
    let (ids, index) = (b.ids("ids", &ids), b.ids("index", &index));
    let table = b.parameter("table", &[VOCAB, D_MODEL], 1.0);
    let y = b.graph.push1(Gather { shards: vec![VOCAB] }, &[ids, index, table]);
    b.output("y", y);
}

fn attention(b: &mut CaseBuilder, encoder: bool) {
    let op = Attention {
        batch: SEQUENCES,
        heads: HEADS,
        d_kv: D_KV,
        q_len: LEN,
        kv_len: LEN,
        mask: Mask::Padded,
        fused: encoder,
        reach: encoder.then_some(REACH),
        query_block: 1,
        dropout: 0.0,
        site: 0,
        tiling: None,
    };
    let mut inputs = if encoder {
        vec![b.input("qkv", &[TOKENS, 3 * INNER], 0.5), b.input("bias", &[HEADS, 2 * REACH + 1], 1.0)]
    } else {
        vec![b.input("q", &[TOKENS, INNER], 0.5), b.input("kv", &[TOKENS, 2 * INNER], 0.5)]
    };
    inputs.push(b.ids("lens", &[LEN as u32; SEQUENCES]));
    let outputs = b.graph.push(op, &inputs);
    b.output("out", outputs[0]);
}

/// A step of self-attention over a full cache.
fn attention_decode(b: &mut CaseBuilder) {
    let op = AttentionDecode {
        rows: SEQUENCES,
        homes: SEQUENCES,
        heads: HEADS,
        d_kv: D_KV,
        kv_len: LEN,
        windows: 1,
        window: 0,
        causal: true,
        stores: true,
        reach: REACH,
        wide: None,
    };
    let table = (0..SEQUENCES * LEN).map(|i| (i / LEN) as f64).collect();
    let inputs = [
        b.constant("qkv", &[SEQUENCES, 3 * INNER], 0.5),
        b.ids("pos", &[LEN as u32 - 1; SEQUENCES]),
        b.constant("bias", &[HEADS, 2 * REACH + 1], 1.0),
        b.leaf("table", &[SEQUENCES, LEN], Dtype::U32, table),
    ];
    let memory = b.constant("cache", &[TOKENS, 2 * INNER], 0.5);
    let made = b.graph.push(op, &inputs);
    b.graph.store_in(made[1], memory);
    b.output_constant("out", made[0]);
}

/// Each replay advances a position: the sequences are longer than a benchmark has replays.
fn sample(b: &mut CaseBuilder, temperature: f32) {
    const MAX_LEN: usize = 1024;
    let settings = ChoiceSettings { temperature, top_k: 40, top_p: 0.9, ..ChoiceSettings::default() };
    let words: [u32; SETTINGS_LEN] = bytemuck::cast(settings);
    let inputs =
        [b.constant("logits", &[SEQUENCES, VOCAB], 8.0), b.ids("settings", &words), b.ids("sequences", &[0, 1, 2, 3])];
    let state = [
        b.ids("ids", &[0; SEQUENCES]),
        b.leaf("tokens", &[MAX_LEN, SEQUENCES], Dtype::U32, vec![0.0; MAX_LEN * SEQUENCES]),
        b.ids("finished", &[0; SEQUENCES]),
        b.ids("pos", &[0; SEQUENCES]),
    ];
    let made = b.graph.push(Sample { len: MAX_LEN, shared: None }, &inputs);
    for (value, leaf) in made.into_iter().zip(state) {
        b.graph.store_in(value, leaf);
        let name = b.graph.value(leaf).label.clone();
        b.output_constant(&name, leaf);
    }
}

/// The four rows of one sequence with three drafts.
fn append_kv(b: &mut CaseBuilder) {
    let inputs = [b.constant("qkv", &[SEQUENCES, 3 * INNER], 0.5), b.ids("pos", &[100, 101, 102, 103])];
    let memory = b.constant("cache", &[LEN, 2 * INNER], 0.5);
    let cache = b.graph.push1(AppendKv { homes: 1, kv_len: LEN, together: SEQUENCES, stride: 1 }, &inputs);
    b.graph.store_in(cache, memory);
    b.output_constant("cache", memory);
}

fn prefix_table(b: &mut CaseBuilder) {
    let rows: Vec<u32> = (0..SEQUENCES as u32).collect();
    let homes = (0..SEQUENCES * LEN).map(|i| (i / LEN) as f64).collect();
    let inputs = [
        b.ids("pos", &[100; SEQUENCES]),
        b.leaf("cache_row", &[SEQUENCES, LEN], Dtype::U32, homes),
        b.ids("source_of", &rows),
        b.ids("src_lens", &[100; SEQUENCES]),
    ];
    let made = b.graph.push(PrefixTable { src_len: LEN, beams: 1 }, &inputs);
    b.output_constant("table", made[1]);
}

/// One sequence whose drafts are wrong, so that each replay advances a position.
fn accept_drafts(b: &mut CaseBuilder) {
    const MAX_LEN: usize = 1024;
    let words: [u32; SETTINGS_LEN] = bytemuck::cast(ChoiceSettings::default());
    let inputs = [
        b.constant("logits", &[SEQUENCES, VOCAB], 8.0),
        b.ids("settings", &words),
        b.ids("src_ids", &[0; LEN]),
        b.ids("src_lens", &[LEN as u32]),
    ];
    let state = [
        b.ids("ids", &[0; SEQUENCES]),
        b.leaf("tokens", &[MAX_LEN, 1], Dtype::U32, vec![0.0; MAX_LEN]),
        b.ids("finished", &[0]),
        b.ids("pos", &[0, 1, 2, 3]),
        b.leaf("origin", &[MAX_LEN, 1], Dtype::U32, vec![0.0; MAX_LEN]),
    ];
    let made = b.graph.push(AcceptDrafts { drafts: SEQUENCES - 1, len: MAX_LEN, shared: None }, &inputs);
    for (value, leaf) in made.into_iter().zip(state) {
        b.graph.store_in(value, leaf);
        let name = b.graph.value(leaf).label.clone();
        b.output_constant(&name, leaf);
    }
}

/// Behind a history of 200 tokens.
fn adjust_logits(b: &mut CaseBuilder) {
    const LEN: usize = 256;
    let settings = ChoiceSettings { repetition_penalty: 1.2, no_repeat_ngram: 3, ..ChoiceSettings::default() };
    let words: [u32; SETTINGS_LEN] = bytemuck::cast(settings);
    let inputs = [
        b.ids("settings", &words),
        b.leaf("tokens", &[LEN, SEQUENCES], Dtype::U32, (0..LEN * SEQUENCES).map(|i| (i % 97) as f64).collect()),
        b.leaf("cache_row", &[SEQUENCES, LEN], Dtype::U32, (0..LEN * SEQUENCES).map(|i| (i / LEN) as f64).collect()),
        b.ids("pos", &[200; SEQUENCES]),
        b.ids("rules", &[0]),
    ];
    let memory = b.constant("logits", &[SEQUENCES, VOCAB], 8.0);
    let made = b.graph.push1(AdjustLogits { vocab: VOCAB, normalize: true }, &inputs);
    b.graph.store_in(made, memory);
    b.output_constant("logits", made);
}

fn top_tokens(b: &mut CaseBuilder) {
    let words: [u32; SETTINGS_LEN] = bytemuck::cast(ChoiceSettings::default());
    let inputs = [b.constant("logits", &[SEQUENCES, VOCAB], 8.0), b.ids("settings", &words)];
    let top = b.graph.push1(TopTokens { keep: 8, normalized: false }, &inputs);
    b.output_constant("top", top);
}

fn token_scores(b: &mut CaseBuilder) {
    const LEN: usize = 256;
    let words: [u32; SETTINGS_LEN] = bytemuck::cast(ChoiceSettings::default());
    let op = TokenScores { keep: 5, chosen: true, normalized: false };
    let memory = b.constant("scores", &[LEN, SEQUENCES, 2 * op.width()], 1.0);
    let inputs = [
        b.constant("logits", &[SEQUENCES, VOCAB], 8.0),
        b.ids("settings", &words),
        b.leaf("tokens", &[LEN, SEQUENCES], Dtype::U32, (0..LEN * SEQUENCES).map(|i| (i % 97) as f64).collect()),
        b.ids("pos", &[200; SEQUENCES]),
    ];
    let made = b.graph.push1(op, &inputs);
    b.graph.store_in(made, memory);
    b.output_constant("scores", memory);
}

/// Each replay advances a position, as for [`sample`].
fn beam_search(b: &mut CaseBuilder) {
    const BEAMS: usize = 4;
    let (rows, len, keep) = (BEAMS * SEQUENCES, 1024, 2 * BEAMS);
    let words: [u32; SETTINGS_LEN] = bytemuck::cast(ChoiceSettings::default());
    let list = |i: usize| if i.is_multiple_of(2) { -0.5 * (1 + i % (2 * keep)) as f64 } else { (i % VOCAB) as f64 };
    let inputs = [
        b.leaf("top", &[rows, 2 * keep], Dtype::F32, (0..rows * 2 * keep).map(list).collect()),
        b.ids("settings", &words),
        b.leaf("penalties", &[len], Dtype::F32, vec![1.0; len]),
    ];
    let table = (0..rows * len).map(|i| (i / len) as f64).collect();
    let state = [
        b.ids("ids", &vec![0; rows]),
        b.leaf("tokens", &[len, rows], Dtype::U32, vec![0.0; len * rows]),
        b.leaf("parents", &[len, rows], Dtype::U32, vec![0.0; len * rows]),
        b.ids("pos", &vec![0; rows]),
        b.leaf("cache_row", &[rows, len], Dtype::U32, table),
        b.leaf("beams", &[SEQUENCES, 1 + 5 * BEAMS], Dtype::F32, vec![0.0; SEQUENCES * (1 + 5 * BEAMS)]),
    ];
    let made = b.graph.push(BeamSearch { beams: BEAMS, len }, &inputs);
    for (value, leaf) in made.into_iter().zip(state) {
        b.graph.store_in(value, leaf);
        let name = b.graph.value(leaf).label.clone();
        b.output_constant(&name, leaf);
    }
}

fn cross_entropy(b: &mut CaseBuilder) {
    let h = b.input("h", &[HEAD_ROWS, D_MODEL], 1.0);
    let labels: Vec<u32> = (0..HEAD_ROWS).map(|_| (b.uniform() * VOCAB as f64) as u32).collect();
    let labels = b.ids("labels", &labels);
    let seed = b.leaf("dstats", &[4], Dtype::F32, vec![0.0, 0.0, 0.0, 1.0]);
    let head = b.parameter("head", &[VOCAB, D_MODEL], 0.05);
    let stats = b.graph.push1(CrossEntropy::new(vec![VOCAB], 1.0), &[h, labels, seed, head]);
    b.output_seeded("stats", stats, seed);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::ops::NAMES;

    #[test]
    fn every_op_is_timed() {
        let mut timed_ops = HashSet::new();
        for case in bench_cases() {
            for timed in [Timed::Forward, Timed::Gradient] {
                let (built, outputs) = case.timed(timed);
                let values: Vec<_> = outputs.iter().map(|(_, value)| *value).collect();
                let live = built.graph.live_nodes(&values);
                let nodes = built.graph.nodes().iter().zip(live);
                timed_ops.extend(nodes.filter(|(_, live)| *live).map(|(node, _)| node.op.name()));
            }
        }
        let missing: Vec<_> = NAMES.iter().filter(|name| !timed_ops.contains(**name)).collect();
        assert!(missing.is_empty(), "no bench case times {missing:?}");
    }

    #[test]
    fn names_are_distinct() {
        let cases = bench_cases();
        let names: HashSet<_> = cases.iter().map(|case| &case.name).collect();
        assert_eq!(names.len(), cases.len());
    }
}
