//! Cases of what trainings need that change only some of the parameters.

use super::Case;
use crate::batch::IGNORE;
use crate::graph::Dtype;
use crate::ops::{AddColumns, CrossEntropy, RmsNorm, ScaleColumns};

pub(super) fn push(cases: &mut Vec<Case>) {
    for [rows, cols, at, width] in [[1, 1, 0, 1], [5, 9, 2, 4], [33, 24, 0, 24], [70, 96, 64, 32]] {
        cases.push(Case::new(format!("add_columns [{rows} {cols}] {at}+{width}"), move |b| {
            let (x, part) = (b.input("x", &[rows, cols], 1.0), b.input("part", &[rows, width], 1.0));
            let y = b.graph.push1(AddColumns { at, scale: 1.5 }, &[x, part]);
            b.output("y", y);
        }));
    }
    // Factors of outputs, of inputs; rows in several parts, and in several stages of parts.
    for ([rows, cols, at], shape) in
        [([1, 1, 0], [1, 1]), ([5, 9, 2], [4, 1]), ([130, 24, 0], [1, 24]), ([16_500, 5, 3], [2, 1])]
    {
        cases.push(Case::new(format!("scale_columns [{rows} {cols}] {at} by {shape:?}"), move |b| {
            let (x, factors) = (b.input("x", &[rows, cols], 1.0), b.input("factors", &shape, 1.0));
            let y = b.graph.push1(ScaleColumns { at }, &[x, factors]);
            b.output("y", y);
        }));
    }
    cases.push(Case::new("scale_columns by frozen factors", |b| {
        let (x, factors) = (b.input("x", &[5, 7], 1.0), b.constant("factors", &[1, 7], 1.0));
        let y = b.graph.push1(ScaleColumns { at: 0 }, &[x, factors]);
        b.output("y", y);
    }));
    for [rows, cols] in [[3, 7], [70, 36]] {
        cases.push(Case::new(format!("rms_norm [{rows} {cols}] of a frozen scale"), move |b| {
            let (x, scale) = (b.input("x", &[rows, cols], 2.0), b.constant("scale", &[cols], 1.0));
            let y = b.graph.push1(RmsNorm { eps: 1e-6 }, &[x, scale]);
            b.output("y", y);
        }));
    }
    // Two shards, in several chunks of rows.
    cases.push(Case::new("cross_entropy of a frozen head", |b| {
        let h = b.input("h", &[40, 8], 1.0);
        let labels: Vec<u32> = (0..40).map(|row| if row % 7 == 3 { IGNORE } else { row * 5 % 23 }).collect();
        let labels = b.ids("labels", &labels);
        let dstats = b.leaf("dstats", &[4], Dtype::F32, vec![0.5, 0.0, 0.0, 1.0]);
        let head = [b.constant("head#0", &[16, 8], 1.0), b.constant("head#1", &[7, 8], 1.0)];
        let op = CrossEntropy { chunk_bytes: 16 * 23 * 4, ..CrossEntropy::new(vec![16, 7], 0.5) };
        let stats = b.graph.push1(op, &[h, labels, dstats, head[0], head[1]]);
        b.output_seeded("stats", stats, dstats);
    }));
}
