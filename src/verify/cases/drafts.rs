//! Cases of the ops that a step with guessed tokens uses, or one of a model whose sources stand in its cache.

use super::{Case, CaseBuilder};
use crate::graph::{Dtype, ValueId};
use crate::ops::{AcceptDrafts, AppendKv, AttentionDecode, ChoiceSettings, PrefixTable, SETTINGS_LEN};

pub(super) fn push(cases: &mut Vec<Case>) {
    attention_of_drafts(cases);
    append_kv(cases);
    prefix_table(cases);
    accept_drafts(cases);
}

/// Rows that stand one behind the other in the same sequence, after all of their keys were stored.
fn attention_of_drafts(cases: &mut Vec<Case>) {
    for [homes, width, heads, d_kv, kv_len] in
        [[1, 4, 1, 1, 5], [3, 2, 2, 5, 9], [2, 16, 1, 64, 200], [5, 4, 2, 8, 513]]
    {
        for wide in [false, true] {
            let name = format!("attention_decode of drafts [{homes} {width} {heads} {d_kv} {kv_len}] wide={wide}");
            cases.push(Case::new(name, move |b| {
                let (rows, inner, reach) = (homes * width, heads * d_kv, 6);
                let op = AttentionDecode {
                    rows,
                    homes,
                    heads,
                    d_kv,
                    kv_len,
                    windows: 1,
                    window: 0,
                    causal: true,
                    stores: false,
                    reach,
                    wide: Some(wide),
                };
                let qkv = b.constant("qkv", &[rows, 3 * inner], 1.0);
                let (pos, table) = places_of_drafts(b, homes, width, kv_len);
                let bias = b.constant("bias", &[heads, 2 * reach + 1], 1.0);
                let memory = b.constant("cache", &[homes * kv_len, 2 * inner], 1.0);
                let cache = b.graph.push1(append_to(homes, kv_len, width), &[qkv, pos]);
                b.graph.store_in(cache, memory);
                let out = b.graph.push1(op, &[qkv, pos, bias, table, cache]);
                b.output_constant("out", out);
                b.output_constant("cache", memory);
            }));
        }
    }
}

/// Where rows stand, and whose keys they see: every other sequence runs into the end of its cache.
fn places_of_drafts(b: &mut CaseBuilder, homes: usize, width: usize, kv_len: usize) -> (ValueId, ValueId) {
    let first = |home: usize| if home.is_multiple_of(2) { kv_len - 1 - width / 2 } else { kv_len / 3 };
    let pos: Vec<u32> = (0..homes * width).map(|row| (first(row / width) + row % width) as u32).collect();
    let table = (0..homes * width * kv_len).map(|i| (i / kv_len / width) as f64).collect();
    (b.ids("pos", &pos), b.leaf("table", &[homes * width, kv_len], Dtype::U32, table))
}

fn append_to(homes: usize, kv_len: usize, together: usize) -> AppendKv {
    AppendKv { homes, kv_len, together, stride: 1 }
}

fn append_kv(cases: &mut Vec<Case>) {
    for [homes, width, inner, kv_len] in [[1, 1, 1, 1], [3, 2, 5, 9], [2, 4, 512, 33], [5, 16, 12, 40]] {
        cases.push(Case::new(format!("append_kv [{homes} {width} {inner} {kv_len}]"), move |b| {
            let qkv = b.constant("qkv", &[homes * width, 3 * inner], 1.0);
            let (pos, _) = places_of_drafts(b, homes, width, kv_len);
            let memory = b.constant("cache", &[homes * kv_len, 2 * inner], 1.0);
            let cache = b.graph.push1(append_to(homes, kv_len, width), &[qkv, pos]);
            b.graph.store_in(cache, memory);
            b.output_constant("cache", memory);
        }));
    }
    // Whole sources, of which each has several rows of the cache and fills the first; of one the last positions are past the end.
    for [sources, len, inner, kv_len, stride] in [[1, 5, 3, 5, 1], [3, 7, 4, 6, 4], [2, 33, 96, 40, 3]] {
        cases.push(Case::new(format!("append_kv of sources [{sources} {len} {inner} {kv_len} {stride}]"), move |b| {
            let (rows, homes) = (sources * len, sources * stride);
            let qkv = b.constant("qkv", &[rows, 3 * inner], 1.0);
            let pos = b.ids("pos", &(0..rows).map(|row| (row % len) as u32).collect::<Vec<_>>());
            let memory = b.constant("cache", &[homes * kv_len, 2 * inner], 1.0);
            let cache = b.graph.push1(AppendKv { homes, kv_len, together: len, stride }, &[qkv, pos]);
            b.graph.store_in(cache, memory);
            b.output_constant("cache", memory);
        }));
    }
}

/// Sources of different lengths, one that fills its places, and rows that stand at the end and past it.
fn prefix_table(cases: &mut Vec<Case>) {
    for [sources, beams, width, src_len, len] in
        [[1, 1, 1, 1, 1], [3, 1, 1, 5, 7], [2, 4, 1, 16, 33], [3, 1, 4, 20, 9], [4, 32, 1, 64, 96]]
    {
        cases.push(Case::new(format!("prefix_table [{sources} {beams} {width} {src_len} {len}]"), move |b| {
            let rows = sources * beams * width;
            let source_of: Vec<u32> = (0..rows).map(|row| (row / width / beams) as u32).collect();
            let lens: Vec<u32> = (0..sources).map(|s| (src_len - s * src_len / (sources + 1)) as u32).collect();
            let pos: Vec<u32> = (0..rows).map(|row| ((row * 5 + len - 1) % (len + 2)) as u32).collect();
            // Each position by itself in some row of the same source.
            let home = |i: usize| (i / len / width / beams * beams + (i * i + i / len) % beams) as f64;
            let inputs = [
                b.ids("pos", &pos),
                b.leaf("cache_row", &[rows, len], Dtype::U32, (0..rows * len).map(home).collect()),
                b.ids("source_of", &source_of),
                b.ids("src_lens", &lens),
            ];
            let made = b.graph.push(PrefixTable { src_len, beams }, &inputs);
            b.output_constant("at", made[0]);
            b.output_constant("table", made[1]);
        }));
    }
}

fn accept_drafts(cases: &mut Vec<Case>) {
    let eos = std::array::from_fn(|i| 4 + i as u32);
    let plain = ChoiceSettings { pad: 2, ..ChoiceSettings::default() };
    let settings = [
        ("plain", plain),
        ("ending", ChoiceSettings { n_eos: 2, eos, ..plain }),
        ("limited", ChoiceSettings { limit: 3, ..plain }),
    ];
    for (what, settings) in settings {
        for (batch, drafts, [vocab, src_len, len], shared) in [
            (1, 1, [1, 1, 1], false),
            (9, 1, [7, 5, 12], true),
            (9, 3, [7, 40, 60], false),
            (9, 3, [700, 40, 60], true),
            (6, 15, [5003, 600, 400], false),
            (6, 15, [5003, 600, 400], true),
        ] {
            let name = format!("accept_drafts {what} [{batch} {drafts} {vocab} {src_len} {len}] shared={shared}");
            cases.push(Case::new(name, move |b| {
                push_accept_drafts(b, batch, drafts, [vocab, src_len, len], settings, shared)
            }));
        }
    }
}

fn push_accept_drafts(
    b: &mut CaseBuilder,
    batch: usize,
    drafts: usize,
    [vocab, src_len, len]: [usize; 3],
    settings: ChoiceSettings,
    shared: bool,
) {
    let (width, few) = (1 + drafts, vocab.min(6) as f64);
    // Few ids, so that sequences of them repeat, in sources and targets.
    let mut few_ids = |count: usize| -> Vec<f64> { (0..count).map(|_| (b.uniform() * few).floor()).collect() };
    let (ids, src_ids, tokens) = (few_ids(batch * width), few_ids(batch * src_len), few_ids(len * batch));
    // Near the beginning and the end, at the end, and between. The fifth sequence is finished, the sixth has nothing to copy.
    let at = |s: usize| [len / 2, 0, len - 1, 1, len / 3, len / 3, 2, 3, len - 2][s % 9].min(len - 1);
    let mut logits = b.noise(batch * width * vocab, 8.0);
    for (row, scores) in logits.chunks_mut(vocab).enumerate() {
        let (s, draft) = (row / width, row % width);
        // Drafts are right up to a different place in each sequence, and behind it now and then.
        if draft + 1 < width && (draft < s % (1 + width) || row % 3 == 0) {
            scores[ids[row + 1] as usize] = 9.0;
        }
    }
    if batch > 8 {
        // Ties, and rows of no number: at the first row, and behind a draft that is right.
        logits[7 * width * vocab..][..vocab].fill(9.0);
        logits[8 * width * vocab..][..vocab].fill(f64::NAN);
        logits[(6 * width + 1) * vocab..][..vocab].fill(f64::NAN);
    }
    let words: [u32; SETTINGS_LEN] = bytemuck::cast(settings);
    let src_lens: Vec<u32> =
        (0..batch).map(|s| if s == 5 { 1 } else { (src_len - s % src_len.min(4)) as u32 }).collect();
    let inputs = [
        b.leaf("logits", &[batch * width, vocab], Dtype::F32, logits),
        b.ids("settings", &words),
        b.leaf("src_ids", &[batch * src_len], Dtype::U32, src_ids),
        b.ids("src_lens", &src_lens),
    ];
    let pos: Vec<u32> = (0..batch * width).map(|row| (at(row / width) + row % width) as u32).collect();
    let finished: Vec<u32> = (0..batch).map(|s| u32::from(s == 4)).collect();
    let state = [
        b.leaf("ids", &[batch * width], Dtype::U32, ids),
        b.leaf("tokens", &[len, batch], Dtype::U32, tokens),
        b.ids("finished", &finished),
        b.ids("pos", &pos),
        b.leaf("origin", &[len, batch], Dtype::U32, vec![0.0; len * batch]),
    ];
    let made = b.graph.push(AcceptDrafts { drafts, len, shared: Some(shared) }, &inputs);
    for (value, leaf) in made.into_iter().zip(state) {
        b.graph.store_in(value, leaf);
        let name = b.graph.value(leaf).label.clone();
        b.output_constant(&name, leaf);
    }
}
