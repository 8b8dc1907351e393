//! Cases of the ops that read packed weights: the oracle gets the numbers that the packed ones stand for.

use super::{Case, CaseBuilder, variants};
use crate::graph::{Dtype, ValueId};
use crate::ops::{Activation, Function, Gather, Logits, Matmul, MatmulLayout};

pub(super) fn push(cases: &mut Vec<Case>) {
    for dtype in [Dtype::F16, Dtype::Bf16, Dtype::Q8] {
        matmul(cases, dtype);
        fused_matmul(cases, dtype);
        gather(cases, dtype);
        logits(cases, dtype);
    }
}

impl CaseBuilder {
    /// Random weights as `dtype` holds them, whose rows differ in magnitude.
    pub(in crate::verify) fn weights(&mut self, name: &str, shape: [usize; 2], dtype: Dtype) -> ValueId {
        let [rows, cols] = shape;
        let mut data: Vec<f32> = self.noise(rows * cols, 1.0).into_iter().map(|x| x as f32).collect();
        for (i, block) in data.chunks_mut(32).enumerate() {
            block.iter_mut().for_each(|x| *x *= 0.5f32.powi(i as i32 % 7));
        }
        let words = dtype.encode(cols, &data).expect("numbers of magnitude 1 have a place in every type");
        let held = dtype.decode(rows, cols, &words).into_iter().map(f64::from).collect();
        self.leaf(name, &shape, dtype, held)
    }
}

/// Columns, of which rows consist: the shortest row, an odd number of the shortest, one that fills pieces of 16 bytes.
fn widths(dtype: Dtype) -> [usize; 3] {
    let least = dtype.row_multiple();
    [least, 5 * least, 128]
}

fn matmul(cases: &mut Vec<Case>, dtype: Dtype) {
    for k in widths(dtype) {
        for [m, n] in [[1, 1], [1, 9], [2, 132], [3, 4], [7, 130], [8, 36], [11, 5], [70, 33]] {
            for variant in variants(cases) {
                cases.push(Case::new(format!("matmul {dtype:?} {variant:?} [{m} {n} {k}]"), move |b| {
                    let (x, residual) = (b.constant("a", &[m, k], 1.0), b.constant("residual", &[m, n], 1.0));
                    let w = b.weights("b", [n, k], dtype);
                    let op = Matmul { variant: Some(variant), ..Matmul::new(MatmulLayout::Nt) };
                    let c = b.graph.push1(op.scaled(0.5).with_residual(), &[x, w, residual]);
                    b.output_constant("c", c);
                }));
            }
        }
    }
}

/// With norm and gated activation; the last row is too long for workgroup memory, and 6 rows are no whole groups.
fn fused_matmul(cases: &mut Vec<Case>, dtype: Dtype) {
    for [m, n, k] in [[1, 4, 32], [3, 132, 160], [9, 12, 64], [2, 6, 64], [8, 36, 416]] {
        for variant in variants(cases) {
            for gated in [false, true] {
                for norm in [None, Some(1e-6)] {
                    let name = format!("matmul {dtype:?} [{m} {n} {k}] {variant:?} gated={gated} norm={norm:?}");
                    cases.push(Case::new(name, move |b| {
                        let activation = Some(Activation { function: Function::GeluTanh, gated });
                        let op = Matmul { norm, activation, variant: Some(variant), ..Matmul::new(MatmulLayout::Nt) };
                        let mut inputs = vec![b.constant("a", &[m, k], 1.0)];
                        inputs.push(b.weights("b", [if gated { 2 * n } else { n }, k], dtype));
                        inputs.extend(norm.map(|_| b.constant("scale", &[k], 1.0)));
                        let c = b.graph.push1(op, &inputs);
                        b.output_constant("c", c);
                    }));
                }
            }
        }
    }
}

fn gather(cases: &mut Vec<Case>, dtype: Dtype) {
    for cols in widths(dtype) {
        cases.push(Case::new(format!("gather {dtype:?} [4, 7] {cols}"), move |b| {
            let ids: Vec<u32> = (0..17u32).map(|i| (i * i * 5 + 3) % 11).collect();
            let index = b.ids("index", &[]);
            let ids = b.ids("ids", &ids);
            let shards = vec![4, 7];
            let tables = [b.weights("table0", [4, cols], dtype), b.weights("table1", [7, cols], dtype)];
            let y = b.graph.push1(Gather { shards }, &[ids, index, tables[0], tables[1]]);
            b.output_constant("y", y);
        }));
    }
}

fn logits(cases: &mut Vec<Case>, dtype: Dtype) {
    for (rows, shards) in [(1, vec![8]), (3, vec![5, 6, 2]), (20, vec![8, 12])] {
        let k = dtype.row_multiple();
        cases.push(Case::new(format!("logits {dtype:?} {rows} {shards:?}"), move |b| {
            let mut inputs = vec![b.constant("h", &[rows, k], 1.0)];
            for (i, &n) in shards.iter().enumerate() {
                inputs.push(b.weights(&format!("head{i}"), [n, k], dtype));
            }
            let logits =
                b.graph.push1(Logits { shards: shards.clone(), scale: 0.3, variant: None, norm: None }, &inputs);
            b.output_constant("logits", logits);
        }));
    }
}
