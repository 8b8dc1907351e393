//! Cases of the ops that only decoding uses: no gradients, state in leaves.

use super::{Case, CaseBuilder};
use crate::graph::{Dtype, ValueId};
use crate::ops::{AttentionDecode, SETTINGS_LEN, Sample, SampleSettings};

pub(super) fn push(cases: &mut Vec<Case>) {
    attention_decode(cases);
    sample(cases);
}

fn attention_decode(cases: &mut Vec<Case>) {
    let sizes = [
        [1, 1, 1, 1],
        [3, 2, 5, 9],
        [3, 3, 8, 70],
        [2, 2, 64, 200],
        [1, 2, 36, 64],
        [3, 1, 260, 65],
        [70, 1, 4, 3],
        [4, 2, 6, 1100],
        [3, 1, 64, 513],
    ];
    for [batch, heads, d_kv, kv_len] in sizes {
        for causal in [false, true] {
            for scale in [1.0, 6.0] {
                let name = format!("attention_decode [{batch} {heads} {d_kv} {kv_len}] causal={causal} x{scale}");
                let case = Case::new(name, move |b| {
                    let (inner, reach) = (heads * d_kv, 6);
                    // Causal attention writes: the cache's other windows must stay as they were.
                    let (windows, window) = if kv_len % 2 == 1 { (3, 1) } else { (1, 0) };
                    let op = AttentionDecode { batch, heads, d_kv, kv_len, windows, window, causal, reach };
                    let row = windows * 2 * inner;
                    // Full, half, and only the first key, or none; the fourth of four is past the end of its cache.
                    let lens = [kv_len - usize::from(causal), kv_len / 2, 0, kv_len];
                    let lens = b.ids("lens", &(0..batch).map(|i| lens[i % 4] as u32).collect::<Vec<_>>());
                    if causal {
                        let qkv = b.constant("qkv", &[batch, 3 * inner], scale);
                        let bias = b.constant("bias", &[heads, 2 * reach + 1], 1.0);
                        let memory = b.constant("cache", &[batch * kv_len, row], scale);
                        let made = b.graph.push(op, &[qkv, lens, bias]);
                        b.graph.store_in(made[1], memory);
                        b.output_constant("out", made[0]);
                        b.output_constant("cache", memory);
                    } else {
                        let q = b.constant("q", &[batch, inner], scale);
                        let kv = b.constant("kv", &[batch * kv_len, row], scale);
                        let out = b.graph.push1(op, &[q, kv, lens]);
                        b.output_constant("out", out);
                    }
                });
                // exp of a score s in f32 errs by s units in the last place: scores reach 6^2 * 260 there.
                cases.push(if scale > 1.0 { case.slack(100.0) } else { case });
            }
        }
    }
}

fn sample(cases: &mut Vec<Case>) {
    let greedy = SampleSettings {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        limit: u32::MAX,
        seed: [3, 5],
        pad: 0,
        n_eos: 2,
        eos: std::array::from_fn(|i| 1 + i as u32),
    };
    let warm = SampleSettings { temperature: 0.8, ..greedy };
    let settings = [
        ("greedy", greedy),
        ("limited", SampleSettings { limit: 3, ..greedy }),
        ("drawn", warm),
        ("top_k", SampleSettings { top_k: 4, ..warm }),
        ("top_k 1", SampleSettings { top_k: 1, ..warm }),
        ("top_k of more than there are", SampleSettings { top_k: 1 << 20, ..warm }),
        ("top_p", SampleSettings { top_p: 0.6, ..warm }),
        ("top_p 0", SampleSettings { top_p: 0.0, ..warm }),
        ("both", SampleSettings { top_k: 9, top_p: 0.9, temperature: 2.5, ..greedy }),
    ];
    for (what, settings) in settings {
        for (batch, vocab) in [(1, 1), (5, 7), (9, 300), (6, 5003)] {
            cases.push(Case::new(format!("sample {what} [{batch} {vocab}]"), move |b| {
                let mut logits = b.noise(batch * vocab, 8.0);
                special_rows(&mut logits, vocab);
                let logits = b.leaf("logits", &[batch, vocab], Dtype::F32, logits);
                push_sample(b, logits, &settings);
            }));
        }
    }
}

/// Ties for the first place in row 1, one NaN in row 2, nothing but NaN in row 3.
fn special_rows(logits: &mut [f64], vocab: usize) {
    for (r, row) in logits.chunks_mut(vocab).enumerate() {
        match r {
            1 => [vocab / 2, vocab - 1].iter().for_each(|&i| row[i] = 9.0),
            2 => row[vocab / 3] = f64::NAN,
            3 => row.fill(f64::NAN),
            _ => {}
        }
    }
}

fn push_sample(b: &mut CaseBuilder, logits: ValueId, settings: &SampleSettings) {
    const LEN: usize = 6;
    let batch = b.graph.shape(logits)[0];
    let words: [u32; SETTINGS_LEN] = bytemuck::cast(*settings);
    let settings = b.ids("settings", &words);
    let sequences = b.ids("sequences", &(10..10 + batch as u32).collect::<Vec<_>>());
    let rows = |f: fn(u32) -> u32| (0..batch as u32).map(f).collect::<Vec<_>>();
    // The fifth sequence is finished, the sixth at its last position.
    let state = [
        b.ids("ids", &rows(|i| i)),
        b.leaf("tokens", &[LEN, batch], Dtype::U32, vec![0.0; LEN * batch]),
        b.ids("finished", &rows(|i| u32::from(i == 4))),
        b.ids("pos", &rows(|i| if i == 5 { 5 } else { i % 5 })),
    ];
    let made = b.graph.push(Sample { len: LEN }, &[logits, settings, sequences]);
    for (value, leaf) in made.into_iter().zip(state) {
        b.graph.store_in(value, leaf);
        let name = b.graph.value(leaf).label.clone();
        b.output_constant(&name, leaf);
    }
}
