//! Cases of attention over whole sequences: masks, biases, dropout, fused and separate projections.

use super::{Case, CaseBuilder};
use crate::graph::{Dtype, ValueId};
use crate::ops::{Attention, Mask, Sight, Tiling, segment_ranges};

const TILINGS: [Option<Tiling>; 4] =
    [Some(Tiling::Workgroup { side: 4 }), None, Some(Tiling::Workgroup { side: 8 }), Some(Tiling::Staged)];

/// Sequences, heads, d_kv, queries, keys.
type AttentionSize = [usize; 5];

pub(super) fn push(cases: &mut Vec<Case>) {
    let fused: [AttentionSize; 5] =
        [[1, 1, 1, 1, 1], [2, 3, 5, 9, 9], [2, 2, 8, 33, 33], [1, 2, 36, 70, 70], [3, 1, 4, 32, 32]];
    let cross: [AttentionSize; 4] = [[1, 1, 1, 1, 1], [2, 3, 5, 7, 34], [3, 2, 8, 40, 3], [2, 1, 36, 5, 65]];
    for dropout in [0.0, 0.25] {
        for causal in [false, true] {
            for size in fused {
                for reach in [Some(6), None] {
                    push_attention(cases, size, true, causal, reach, dropout, 1.0);
                }
            }
        }
        for size in cross {
            push_attention(cases, size, false, false, None, dropout, 1.0);
        }
        push_attention(cases, [2, 2, 4, 5, 37], false, false, Some(128), dropout, 1.0);
    }
    // Large scores: the softmax is all but one-hot.
    push_attention(cases, [2, 2, 16, 40, 40], true, true, Some(6), 0.0, 6.0);
    segments(cases);
    gaps(cases);
    query_blocks(cases);
}

/// Keys hidden anywhere: between others, a whole tile, all before the last, all.
fn gaps(cases: &mut Vec<Case>) {
    for (t, tiling) in TILINGS.into_iter().enumerate() {
        let (batch, fused, q_len, kv_len) = if t % 2 == 0 { (4, true, 70, 70) } else { (4, false, 5, 70) };
        let (mask, reach, dropout) = (Mask::Shown, fused.then_some(6), if t < 2 { 0.25 } else { 0.0 });
        let op = Attention {
            batch,
            heads: 2,
            d_kv: 8,
            q_len,
            kv_len,
            mask,
            fused,
            reach,
            query_block: 1,
            dropout,
            site: 5,
            tiling,
        };
        cases.push(Case::new(format!("attention gaps reach={reach:?} dropout={dropout} {tiling:?}"), move |b| {
            let mut inputs = operands(b, &op, 1.0);
            let shown = [[0x5a5a_5a5a, u32::MAX, 1], [0, 0xffff_0000, 0x3f], [0, 0, 0x20], [0; 3]];
            inputs.push(b.leaf("shown", &[4, 3], Dtype::U32, shown.concat().into_iter().map(f64::from).collect()));
            if dropout > 0.0 {
                inputs.push(b.ids("key", &[1, 2, 3, 4]));
            }
            let outputs = b.graph.push(op.clone(), &inputs);
            b.output("out", outputs[0]);
            b.output_constant("lse", outputs[1]);
        }));
    }
}

/// Keys that stand for four queries each: queries behind the last key, more keys than a tile has, and none.
fn query_blocks(cases: &mut Vec<Case>) {
    for tiling in [TILINGS[0], TILINGS[2], TILINGS[3]] {
        cases.push(Case::new(format!("attention of blocks {tiling:?}"), move |b| {
            let (batch, heads, d_kv, q_len, kv_len, reach) = (4, 2, 8, 163, 48, 6);
            let op = Attention {
                batch,
                heads,
                d_kv,
                q_len,
                kv_len,
                mask: Mask::Padded,
                fused: false,
                reach: Some(reach),
                query_block: 4,
                dropout: 0.0,
                site: 5,
                tiling,
            };
            let inputs = [
                b.constant("q", &[batch * q_len, heads * d_kv], 1.0),
                b.constant("kv", &[batch * kv_len, 2 * heads * d_kv], 1.0),
                b.constant("bias", &[heads, 2 * reach + 1], 1.0),
                b.ids("lens", &[40, 3, 0, 1]),
            ];
            let outputs = b.graph.push(op, &inputs);
            b.output_constant("out", outputs[0]);
            b.output_constant("lse", outputs[1]);
        }));
    }
}

fn push_attention(
    cases: &mut Vec<Case>,
    size: AttentionSize,
    fused: bool,
    causal: bool,
    reach: Option<usize>,
    dropout: f32,
    scale: f64,
) {
    // The cases are dealt out to the tilings.
    let tiling = TILINGS[cases.len() % 4];
    let [batch, heads, d_kv, q_len, kv_len] = size;
    let name = format!("attention {size:?} fused={fused} causal={causal} reach={reach:?} dropout={dropout} x{scale}");
    let mask = if causal { Mask::Causal } else { Mask::Padded };
    let case = Case::new(name, move |b| {
        let op = Attention {
            batch,
            heads,
            d_kv,
            q_len,
            kv_len,
            mask,
            fused,
            reach,
            query_block: 1,
            dropout,
            site: 5,
            tiling,
        };
        let mut inputs = operands(b, &op, scale);
        if !causal {
            // Full, partly padded, and (from three sequences on) empty.
            let lens = [kv_len, kv_len.div_ceil(2), 0];
            inputs.push(b.ids("lens", &(0..batch).map(|i| lens[i % 3] as u32).collect::<Vec<_>>()));
        }
        if dropout > 0.0 {
            inputs.push(b.ids("key", &[1, 2, 3, 4]));
        }
        let outputs = b.graph.push(op, &inputs);
        b.output("out", outputs[0]);
        b.output_constant("lse", outputs[1]);
    });
    // exp of a score s in f32 errs by s units in the last place: scores reach 6^2 * 16 there.
    cases.push(if scale > 1.0 { case.slack(10.0) } else { case });
}

/// Queries, keys and values, and the bias if there is one.
fn operands(b: &mut CaseBuilder, op: &Attention, scale: f64) -> Vec<ValueId> {
    let (queries, keys, inner) = (op.batch * op.q_len, op.batch * op.kv_len, op.heads * op.d_kv);
    let mut inputs = if op.fused {
        vec![b.input("qkv", &[queries, 3 * inner], scale)]
    } else {
        vec![b.input("q", &[queries, inner], scale), b.input("kv", &[keys, 2 * inner], scale)]
    };
    inputs.extend(op.reach.map(|reach| b.input("bias", &[op.heads, 2 * reach + 1], 1.0)));
    inputs
}

/// Lengths of the segments of each row.
type Rows = &'static [&'static [usize]];

/// The segment ids of rows, each padded to `len`; a segment of length 0 is one that this side lacks.
fn ids(rows: Rows, len: usize) -> Vec<u32> {
    let row = |lens: &&[usize]| -> Vec<u32> {
        let ids = (1..).zip(lens.iter()).flat_map(|(id, &n)| std::iter::repeat_n(id, n));
        ids.chain(std::iter::repeat(0)).take(len).collect()
    };
    rows.iter().flat_map(row).collect()
}

/// Rows of several examples, by every tiling: one segment, many tiny ones, of a length of 1, longer than tiles and across
/// their borders, padding, a row of nothing else, segments that one side lacks.
fn segments(cases: &mut Vec<Case>) {
    let own: [(Rows, usize, usize, usize); 4] = [
        (&[&[1]], 1, 1, 1),
        (&[&[9], &[1, 2, 1, 3]], 3, 5, 9),
        (&[&[33, 1, 31], &[70], &[], &[1, 1, 1, 1, 1, 20, 20, 20]], 2, 8, 70),
        (&[&[2, 1, 2, 4, 1, 1, 3, 5, 2, 1, 7, 3], &[40], &[17, 15, 8]], 1, 36, 40),
    ];
    for (rows, heads, d_kv, len) in own {
        for causal in [false, true] {
            for (t, tiling) in TILINGS.into_iter().enumerate() {
                let (q, k) = if causal { (Sight::UpToSelf, Sight::FromSelf) } else { (Sight::Segment, Sight::Segment) };
                let (fused, reach) = (true, (t != 2 || d_kv != 8).then_some(6));
                let dropout = if d_kv == 8 && t == 1 { 0.25 } else { 0.0 };
                let [batch, q_len, kv_len] = [rows.len(), len, len];
                let op = Attention {
                    batch,
                    heads,
                    d_kv,
                    q_len,
                    kv_len,
                    mask: Mask::Segments,
                    fused,
                    reach,
                    query_block: 1,
                    dropout,
                    site: 5,
                    tiling,
                };
                let ids = ids(rows, len);
                let ranges = [segment_ranges(&ids, &ids, batch, q), segment_ranges(&ids, &ids, batch, k)];
                push_segments(cases, op, format!("{rows:?} causal={causal}"), ranges, 1.0);
            }
        }
    }
    let cross: [(Rows, Rows, usize, usize, usize); 3] = [
        (&[&[1]], &[&[1]], 4, 1, 1),
        (&[&[3, 0, 4, 1], &[7], &[]], &[&[10, 5, 0, 30], &[34, 11], &[3]], 8, 8, 45),
        (&[&[1, 30, 5, 1], &[20, 17]], &[&[2, 1, 1, 1], &[0, 3]], 5, 40, 6),
    ];
    for (targets, sources, d_kv, q_len, kv_len) in cross {
        for (t, tiling) in TILINGS.into_iter().enumerate() {
            let batch = targets.len();
            let op = Attention {
                batch,
                heads: 2,
                d_kv,
                q_len,
                kv_len,
                mask: Mask::Segments,
                fused: false,
                reach: None,
                query_block: 1,
                dropout: if t == 0 { 0.25 } else { 0.0 },
                site: 5,
                tiling,
            };
            let (q, k) = (ids(targets, q_len), ids(sources, kv_len));
            let ranges = [(&q, &k), (&k, &q)].map(|(own, seen)| segment_ranges(own, seen, batch, Sight::Segment));
            push_segments(cases, op, format!("{targets:?} of {sources:?}"), ranges, 1.0);
        }
    }
    // Windows within texts, two texts a row among them. Radii below and above a tile's side.
    for (t, tiling) in TILINGS.into_iter().enumerate() {
        let rows: Rows = &[&[33, 1, 31], &[70], &[], &[2, 21]];
        let radius = [3, 20, 9, 40][t];
        let op = Attention {
            batch: rows.len(),
            heads: 2,
            d_kv: 8,
            q_len: 70,
            kv_len: 70,
            mask: Mask::Window { radius },
            fused: true,
            reach: (t != 2).then_some(6),
            query_block: 1,
            dropout: 0.0,
            site: 5,
            tiling,
        };
        let ids = ids(rows, 70);
        let near = segment_ranges(&ids, &ids, rows.len(), Sight::Within(radius));
        push_segments(cases, op, format!("{rows:?} within {radius}"), [near.clone(), near], 1.0);
    }
    // Large scores, in a row whose first tile some queries see nothing of.
    let rows: Rows = &[&[5, 30, 5], &[40]];
    for tiling in TILINGS {
        let op = Attention {
            batch: 2,
            heads: 2,
            d_kv: 16,
            q_len: 40,
            kv_len: 40,
            mask: Mask::Segments,
            fused: true,
            reach: Some(6),
            query_block: 1,
            dropout: 0.0,
            site: 5,
            tiling,
        };
        let ids = ids(rows, 40);
        let ranges = [Sight::UpToSelf, Sight::FromSelf].map(|sight| segment_ranges(&ids, &ids, 2, sight));
        push_segments(cases, op, format!("{rows:?} causal=true"), ranges, 6.0);
    }
}

/// `ranges`: of keys for each query, and of queries for each key.
fn push_segments(cases: &mut Vec<Case>, op: Attention, what: String, ranges: [Vec<u32>; 2], scale: f64) {
    let Attention { heads, d_kv, q_len, kv_len, reach, dropout, tiling, .. } = op;
    let size = format!("[{heads} {d_kv} {q_len} {kv_len}]");
    let name = format!("attention segments {what} {size} reach={reach:?} dropout={dropout} {tiling:?} x{scale}");
    let case = Case::new(name, move |b| {
        let mut inputs = operands(b, &op, scale);
        for (name, ranges) in ["keys", "queries"].into_iter().zip(&ranges) {
            let data = ranges.iter().map(|&x| f64::from(x)).collect();
            inputs.push(b.leaf(name, &[ranges.len() / 2, 2], Dtype::U32, data));
        }
        if op.dropout > 0.0 {
            inputs.push(b.ids("key", &[1, 2, 3, 4]));
        }
        let outputs = b.graph.push(op.clone(), &inputs);
        b.output("out", outputs[0]);
        b.output_constant("lse", outputs[1]);
    });
    // As for the large scores of whole sequences.
    cases.push(if scale > 1.0 { case.slack(10.0) } else { case });
}
