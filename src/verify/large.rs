//! Cases at sizes where one invocation, left alone, would loop too long: some drivers silently end its loops after 65,535
//! iterations, and all that shows is a wrong number.

use super::cases::{Case, CaseBuilder};
use crate::batch::IGNORE;
use crate::graph::Dtype;
use crate::ops::{
    Attention, AttentionDecode, ChoiceSettings, CrossEntropy, Gather, Mask, Matmul, MatmulLayout, RmsNorm,
    SETTINGS_LEN, Sample, TopTokens, Variant, gather_index,
};

/// Sums of f32 over k random terms err by about sqrt(k) units in the last place, here with k from 65,536 to 300,000.
const LONG_SUM: f64 = 10.0;

/// Every op whose work grows in one direction, far in that direction: checked like [`super::cases`], but without finite
/// differences, which would take hours.
pub fn large_cases() -> Vec<Case> {
    let mut cases = vec![
        gather(70_000),
        rms_norm(100_000, 4),
        rms_norm(2, 65_535),
        cross_entropy(3, 250_112),
        cross_entropy(100_000, 8),
        sample(3, 250_112),
        top_tokens(3, 250_112),
        attention_decode(60_000),
        attention(16, 9552),
        attention(9552, 16),
    ];
    for (layout, variant, sizes) in [
        (MatmulLayout::Nn, Variant::Tile, [4, 12, 70_003]),
        (MatmulLayout::Nt, Variant::Tile, [4, 12, 70_003]),
        (MatmulLayout::Tn, Variant::Tile, [4, 12, 70_003]),
        (MatmulLayout::Nt, Variant::Subgroup, [4, 12, 70_003]),
        (MatmulLayout::Tn, Variant::Subgroup, [4, 12, 70_004]),
        (MatmulLayout::Nn, Variant::Shared, [4, 12, 70_003]),
        (MatmulLayout::Nt, Variant::Shared, [5, 7, 140_004]),
        // Enough for the larger tiles.
        (MatmulLayout::Nn, Variant::Shared, [1028, 1028, 20]),
        (MatmulLayout::Nt, Variant::Shared, [1030, 1030, 20]),
        (MatmulLayout::Tn, Variant::Shared, [1030, 1031, 21]),
        (MatmulLayout::Nt, Variant::Rows, [4, 12, 300_004]),
    ] {
        cases.push(matmul(layout, variant, sizes));
    }
    cases
}

fn matmul(layout: MatmulLayout, variant: Variant, [m, n, k]: [usize; 3]) -> Case {
    let case = Case::new(format!("matmul {layout:?} {variant:?} [{m} {n} {k}]"), move |b| {
        let a = if layout == MatmulLayout::Tn { [k, m] } else { [m, k] };
        let w = if layout == MatmulLayout::Nt { [n, k] } else { [k, n] };
        let (a, w) = (b.constant("a", &a, 1.0), b.constant("b", &w, 1.0));
        let residual = b.constant("residual", &[m, n], 100.0);
        let op = Matmul { variant: Some(variant), ..Matmul::new(layout).scaled(0.5).with_residual() };
        let c = b.graph.push1(op, &[a, w, residual]);
        b.output_constant("c", c);
    });
    case.slack(LONG_SUM)
}

fn rms_norm(rows: usize, cols: usize) -> Case {
    let case = Case::new(format!("rms_norm [{rows} {cols}]"), move |b| {
        let (x, scale) = (b.input("x", &[rows, cols], 2.0), b.input("scale", &[cols], 1.0));
        let y = b.graph.push1(RmsNorm { eps: 1e-6 }, &[x, scale]);
        b.output("y", y);
    });
    case.slack(LONG_SUM)
}

/// An embedding of one id at nearly all positions: its gradient is one long sum.
fn gather(count: usize) -> Case {
    let case = Case::new(format!("gather {count} of one id"), move |b| {
        let ids: Vec<u32> = (0..count as u32).map(|i| if i % 1000 == 7 { i % 5 } else { 3 }).collect();
        let index = gather_index(&ids, |_| true);
        let inputs = [b.ids("ids", &ids), b.ids("index", &index), b.parameter("table", &[5, 4], 1.0)];
        let y = b.graph.push1(Gather { shards: vec![5] }, &inputs);
        b.output("y", y);
    });
    case.slack(LONG_SUM)
}

fn cross_entropy(rows: usize, vocab: usize) -> Case {
    let case = Case::new(format!("cross_entropy [{rows} 4] [{vocab}]"), move |b: &mut CaseBuilder| {
        let label = |r: usize| {
            if r % 3 == 2 { IGNORE } else { ((r + 1) * (vocab - 1) / 2 % vocab) as u32 }
        };
        let h = b.input("h", &[rows, 4], 3.0);
        let labels = b.ids("labels", &(0..rows).map(label).collect::<Vec<_>>());
        let seed = b.leaf("dstats", &[4], Dtype::F32, vec![0.5, 0.0, 0.0, 1.0]);
        let head = b.input("head", &[vocab, 4], 1.0);
        let op = CrossEntropy { z_loss: 1e-4, ..CrossEntropy::new(vec![vocab], 1.0) };
        let stats = b.graph.push1(op, &[h, labels, seed, head]);
        b.output_seeded("stats", stats, seed);
    });
    case.slack(LONG_SUM)
}

fn sample(batch: usize, vocab: usize) -> Case {
    Case::new(format!("sample [{batch} {vocab}]"), move |b| {
        let logits = b.constant("logits", &[batch, vocab], 8.0);
        let settings =
            ChoiceSettings { temperature: 0.7, top_k: 50_000, top_p: 0.9, seed: [3, 5], ..ChoiceSettings::default() };
        let words: [u32; SETTINGS_LEN] = bytemuck::cast(settings);
        let settings = b.ids("settings", &words);
        let sequences = b.ids("sequences", &(0..batch as u32).collect::<Vec<_>>());
        let state = ["ids", "tokens", "finished", "pos"].map(|name| {
            let shape = if name == "tokens" { vec![2, batch] } else { vec![batch] };
            b.leaf(name, &shape, Dtype::U32, vec![0.0; shape.iter().product()])
        });
        let made = b.graph.push(Sample { len: 2, shared: None }, &[logits, settings, sequences]);
        for (value, leaf) in made.into_iter().zip(state) {
            b.graph.store_in(value, leaf);
        }
        b.output_constant("ids", state[0]);
    })
}

fn top_tokens(rows: usize, vocab: usize) -> Case {
    let case = Case::new(format!("top_tokens [{rows} {vocab}]"), move |b| {
        let words: [u32; SETTINGS_LEN] = bytemuck::cast(ChoiceSettings::default());
        let inputs = [b.constant("logits", &[rows, vocab], 8.0), b.ids("settings", &words)];
        let top = b.graph.push1(TopTokens { keep: 8, normalized: false }, &inputs);
        b.output_constant("top", top);
    });
    case.slack(LONG_SUM)
}

fn attention_decode(kv_len: usize) -> Case {
    let case = Case::new(format!("attention_decode of {kv_len} keys"), move |b| {
        let [rows, heads, d_kv, reach] = [2, 1, 64, 128];
        let (homes, windows, window, causal, stores, wide) = (rows, 1, 0, true, true, None);
        let op = AttentionDecode { rows, homes, heads, d_kv, kv_len, windows, window, causal, stores, reach, wide };
        // Every third key of the first row is the second's.
        let home = |i: usize| if i < kv_len / 2 && i.is_multiple_of(3) { 1.0 } else { (i / kv_len) as f64 };
        let table = (0..rows * kv_len).map(home).collect();
        let inputs = [
            b.constant("qkv", &[rows, 3 * d_kv], 0.5),
            b.ids("pos", &[kv_len as u32 - 1, kv_len as u32 / 2]),
            b.constant("bias", &[heads, 2 * reach + 1], 1.0),
            b.leaf("table", &[rows, kv_len], Dtype::U32, table),
        ];
        let memory = b.constant("cache", &[rows * kv_len, 2 * d_kv], 1.0);
        let made = b.graph.push(op, &inputs);
        b.graph.store_in(made[1], memory);
        b.output_constant("out", made[0]);
    });
    case.slack(LONG_SUM)
}

fn attention(q_len: usize, kv_len: usize) -> Case {
    let case = Case::new(format!("attention {q_len} queries {kv_len} keys"), move |b| {
        let [batch, heads, d_kv] = [1, 1, 64];
        let reach = 128;
        let op = Attention {
            batch,
            heads,
            d_kv,
            q_len,
            kv_len,
            mask: Mask::Padded,
            fused: false,
            reach: Some(reach),
            query_block: 1,
            dropout: 0.0,
            site: 0,
            tiling: None,
        };
        let inputs = [
            b.input("q", &[q_len, d_kv], 0.5),
            b.input("kv", &[kv_len, 2 * d_kv], 1.0),
            b.input("bias", &[heads, 2 * reach + 1], 1.0),
            b.ids("lens", &[kv_len as u32]),
        ];
        let outputs = b.graph.push(op, &inputs);
        b.output("out", outputs[0]);
        b.output_constant("lse", outputs[1]);
    });
    case.slack(LONG_SUM)
}
