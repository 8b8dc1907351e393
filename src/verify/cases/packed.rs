//! Cases of the ops that read packed weights: the oracle gets the numbers that the packed ones stand for.

use super::{Case, CaseBuilder, variants};
use crate::checkpoint::BlockFormat;
use crate::graph::{Dtype, ValueId};
use crate::ops::{Activation, CrossEntropy, Function, Gather, Logits, Matmul, MatmulLayout};

pub(super) fn push(cases: &mut Vec<Case>) {
    for held in HELD {
        matmul(cases, held);
        fused_matmul(cases, held);
        frozen(cases, held);
        gather(cases, held);
        logits(cases, held);
    }
}

/// What packed weights are made from.
#[derive(Clone, Copy)]
enum Held {
    Numbers(Dtype),
    /// Blocks of a GGUF file.
    Blocks(BlockFormat),
}

const HELD: [Held; 8] = [
    Held::Numbers(Dtype::F16),
    Held::Numbers(Dtype::Bf16),
    Held::Numbers(Dtype::Q8),
    Held::Numbers(Dtype::Q4),
    Held::Blocks(BlockFormat::Q5_1),
    Held::Blocks(BlockFormat::Q4K),
    Held::Blocks(BlockFormat::Q5K),
    Held::Blocks(BlockFormat::Q6K),
];

impl Held {
    fn dtype(self) -> Dtype {
        match self {
            Held::Numbers(dtype) => dtype,
            Held::Blocks(format) => format.dtype(),
        }
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.dtype().fmt(f)
    }
}

impl CaseBuilder {
    /// Random weights as they are held, whose rows differ in magnitude.
    fn weights(&mut self, name: &str, shape: [usize; 2], held: Held) -> ValueId {
        let [rows, cols] = shape;
        match held {
            Held::Numbers(dtype) => {
                let mut data: Vec<f32> = self.noise(rows * cols, 1.0).into_iter().map(|x| x as f32).collect();
                for (i, block) in data.chunks_mut(32).enumerate() {
                    block.iter_mut().for_each(|x| *x *= 0.5f32.powi(i as i32 % 7));
                }
                let words = dtype.encode(cols, &data).expect("numbers of magnitude 1 have a place in every type");
                let numbers = dtype.decode(rows, cols, &words).into_iter().map(f64::from).collect();
                self.words.insert(name.to_owned(), words);
                self.leaf(name, &shape, dtype, numbers)
            }
            Held::Blocks(format) => {
                let blocks = rows * cols / format.elements();
                let mut bytes: Vec<u8> = (0..blocks * format.bytes()).map(|_| (256.0 * self.uniform()) as u8).collect();
                for block in bytes.chunks_exact_mut(format.bytes()) {
                    // f16 with any sign, from 2^-11 on where scales of 6 bits and more are multiplied by them, else from 2^-5 on:
                    // numbers of magnitude 1, as activations want them.
                    let exponent = if format.elements() == 256 { 0x10 } else { 0x28 };
                    format.scales_at().iter().for_each(|at| block[at + 1] = block[at + 1] & 0x83 | exponent);
                }
                let mut numbers = vec![0.0; rows * cols];
                format.decode(&bytes, &mut numbers);
                self.words.insert(name.to_owned(), format.pack(cols, &bytes));
                self.leaf(name, &shape, format.dtype(), numbers.into_iter().map(f64::from).collect())
            }
        }
    }
}

/// Columns, of which rows consist: the shortest row, an odd number of the shortest, one that fills pieces of 16 bytes.
fn widths(held: Held) -> [usize; 3] {
    let least = held.dtype().row_multiple();
    [least, 3 * least, least.next_multiple_of(128)]
}

fn matmul(cases: &mut Vec<Case>, held: Held) {
    // Blocks differ by what unpacks them alone, which is the same in every size.
    let few = matches!(held, Held::Blocks(_));
    let sizes = [[1, 9], [3, 4], [8, 36], [70, 33], [1, 1], [2, 132], [7, 130], [11, 5]];
    for k in widths(held).into_iter().take(if few { 2 } else { 3 }) {
        for &[m, n] in &sizes[..if few { 4 } else { 8 }] {
            for variant in variants(cases) {
                cases.push(Case::new(format!("matmul {held:?} {variant:?} [{m} {n} {k}]"), move |b| {
                    let (x, residual) = (b.constant("a", &[m, k], 1.0), b.constant("residual", &[m, n], 1.0));
                    let w = b.weights("b", [n, k], held);
                    let op = Matmul { variant: Some(variant), ..Matmul::new(MatmulLayout::Nt) };
                    let c = b.graph.push1(op.scaled(0.5).with_residual(), &[x, w, residual]);
                    b.output_constant("c", c);
                }));
            }
        }
    }
}

/// With norm and gated activation; the last row is too long for workgroup memory, and 6 rows are no whole groups.
fn fused_matmul(cases: &mut Vec<Case>, held: Held) {
    let sizes: [[usize; 3]; 5] = [[3, 132, 160], [8, 36, 416], [1, 4, 32], [9, 12, 64], [2, 6, 64]];
    for &[m, n, k] in &sizes[..if matches!(held, Held::Blocks(_)) { 2 } else { 5 }] {
        let k = k.next_multiple_of(held.dtype().row_multiple());
        for variant in variants(cases) {
            for gated in [false, true] {
                for norm in [None, Some(1e-6)] {
                    let name = format!("matmul {held:?} [{m} {n} {k}] {variant:?} gated={gated} norm={norm:?}");
                    cases.push(Case::new(name, move |b| {
                        let activation = Some(Activation { function: Function::GeluTanh, gated });
                        let op = Matmul { norm, activation, variant: Some(variant), ..Matmul::new(MatmulLayout::Nt) };
                        let mut inputs = vec![b.constant("a", &[m, k], 1.0)];
                        inputs.push(b.weights("b", [if gated { 2 * n } else { n }, k], held));
                        inputs.extend(norm.map(|_| b.constant("scale", &[k], 1.0)));
                        let c = b.graph.push1(op, &inputs);
                        b.output_constant("c", c);
                    }));
                }
            }
        }
    }
}

/// Weights that do not learn, below something that does: a linear layer and a head.
fn frozen(cases: &mut Vec<Case>, held: Held) {
    let [least, .., whole] = widths(held);
    for [m, n, k] in [[5, 33, least], [20, 36, whole]] {
        cases.push(Case::new(format!("matmul by frozen {held:?} [{m} {n} {k}]"), move |b| {
            let (x, w) = (b.input("x", &[m, k], 1.0), b.weights("w", [n, k], held));
            let y = b.graph.push1(Matmul::new(MatmulLayout::Nt).scaled(0.5), &[x, w]);
            b.output("y", y);
        }));
    }
    cases.push(Case::new(format!("cross_entropy of a frozen head of {held:?}"), move |b| {
        let h = b.input("h", &[20, least], 1.0);
        let labels = b.ids("labels", &(0..20).map(|row| row * 5 % 13).collect::<Vec<u32>>());
        let dstats = b.leaf("dstats", &[4], Dtype::F32, vec![0.5, 0.0, 0.0, 1.0]);
        let head = [b.weights("head#0", [8, least], held), b.weights("head#1", [5, least], held)];
        let op = CrossEntropy { chunk_bytes: 16 * 13 * 4, ..CrossEntropy::new(vec![8, 5], 0.5) };
        let stats = b.graph.push1(op, &[h, labels, dstats, head[0], head[1]]);
        b.output_seeded("stats", stats, dstats);
    }));
}

fn gather(cases: &mut Vec<Case>, held: Held) {
    for cols in widths(held) {
        cases.push(Case::new(format!("gather {held:?} [4, 7] {cols}"), move |b| {
            let ids: Vec<u32> = (0..17u32).map(|i| (i * i * 5 + 3) % 11).collect();
            let index = b.ids("index", &[]);
            let ids = b.ids("ids", &ids);
            let shards = vec![4, 7];
            let tables = [b.weights("table0", [4, cols], held), b.weights("table1", [7, cols], held)];
            let y = b.graph.push1(Gather { shards }, &[ids, index, tables[0], tables[1]]);
            b.output_constant("y", y);
        }));
    }
}

fn logits(cases: &mut Vec<Case>, held: Held) {
    for (rows, shards) in [(1, vec![8]), (3, vec![5, 6, 2]), (20, vec![8, 12])] {
        let k = held.dtype().row_multiple();
        cases.push(Case::new(format!("logits {held:?} {rows} {shards:?}"), move |b| {
            let mut inputs = vec![b.constant("h", &[rows, k], 1.0)];
            for (i, &n) in shards.iter().enumerate() {
                inputs.push(b.weights(&format!("head{i}"), [n, k], held));
            }
            let logits =
                b.graph.push1(Logits { shards: shards.clone(), scale: 0.3, variant: None, norm: None }, &inputs);
            b.output_constant("logits", logits);
        }));
    }
}
