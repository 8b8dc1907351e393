//! The table of cases: each op at awkward sizes. It drives correctness and gradients; `bench_cases.rs` has the same at
//! T5's own shapes, for speed.

mod attention;
mod decoding;
mod drafts;
mod fused;
mod learning;
mod packed;

use std::collections::HashMap;

use crate::batch::IGNORE;
use crate::error::Result;
use crate::graph::{Add, AddInto, Dtype, Graph, Tensor64, ValueId, ValueInfo, interpret};
use crate::ops::{
    Activation, BlockSums, CrossEntropy, Dropout, Function, Gather, JoinAttention, Logits, Matmul, MatmulLayout,
    MeanPool, NO_ROW, PositionBias, RmsNorm, SelectRows, Variant, distance_buckets, gather_index, gather_index_len,
};
use crate::rng::{Purpose, Rng, fnv1a};

/// One computation to check.
pub struct Case {
    pub name: String,
    /// Factor on the tolerance, with its reason where it is made.
    pub slack: f64,
    make: Box<dyn Fn(&mut CaseBuilder) + Send + Sync>,
}

/// A graph under construction together with the contents of its leaves.
pub struct CaseBuilder {
    pub graph: Graph,
    pub leaves: HashMap<String, Tensor64>,
    /// What leaves of quantized blocks, which no numbers can be turned into, hold in memory.
    words: HashMap<String, Vec<u32>>,
    pub outputs: Vec<(String, ValueId)>,
    /// Names of the leaves whose gradients are checked.
    pub differentiable: Vec<String>,
    /// Pairs of an output and its upstream gradient.
    seeds: Vec<(ValueId, ValueId)>,
    /// Whether differentiable inputs are computed values with a second use, as in the middle of a model.
    mid_graph: bool,
    random: Rng,
}

impl CaseBuilder {
    fn new(name: &str, mid_graph: bool) -> CaseBuilder {
        CaseBuilder {
            graph: Graph::new(),
            leaves: HashMap::new(),
            words: HashMap::new(),
            outputs: Vec::new(),
            differentiable: Vec::new(),
            seeds: Vec::new(),
            mid_graph,
            random: Rng::new(0, Purpose::Trials, &[fnv1a(name.bytes())]),
        }
    }

    /// A uniform number below 1.
    pub fn uniform(&mut self) -> f64 {
        self.random.uniform()
    }

    /// Numbers that f32 holds exactly, about uniform in +-`scale`.
    fn noise(&mut self, len: usize, scale: f64) -> Vec<f64> {
        (0..len).map(|_| f64::from(((2.0 * self.uniform() - 1.0) * scale) as f32)).collect()
    }

    /// A leaf with the given contents.
    pub fn leaf(&mut self, name: &str, shape: &[usize], dtype: Dtype, data: Vec<f64>) -> ValueId {
        self.leaves.insert(name.to_owned(), Tensor64::new(shape, data));
        self.graph.leaf(name, shape, dtype)
    }

    /// A leaf's contents as they lie in memory; nothing for leaves that have none.
    ///
    /// # Errors
    /// A number has no place in the leaf's type.
    pub fn memory(&self, leaf: &ValueInfo) -> Result<Option<Vec<u32>>> {
        if let Some(words) = self.words.get(&leaf.label) {
            return Ok(Some(words.clone()));
        }
        let Some(tensor) = self.leaves.get(&leaf.label) else { return Ok(None) };
        // Whole numbers not by way of f32, which does not hold every one.
        if leaf.dtype == Dtype::U32 {
            return Ok(Some(tensor.data.iter().map(|&x| x as u32).collect()));
        }
        let data: Vec<f32> = tensor.data.iter().map(|&x| x as f32).collect();
        leaf.dtype.encode(leaf.shape.last().copied().unwrap_or(1), &data).map(Some)
    }

    /// Integers.
    pub fn ids(&mut self, name: &str, data: &[u32]) -> ValueId {
        self.leaf(name, &[data.len()], Dtype::U32, data.iter().map(|&x| f64::from(x)).collect())
    }

    /// Random numbers without a gradient.
    pub fn constant(&mut self, name: &str, shape: &[usize], scale: f64) -> ValueId {
        let data = self.noise(shape.iter().product(), scale);
        self.leaf(name, shape, Dtype::F32, data)
    }

    /// Random numbers whose gradient is checked.
    pub fn input(&mut self, name: &str, shape: &[usize], scale: f64) -> ValueId {
        let leaf = self.constant(name, shape, scale);
        self.differentiable.push(name.to_owned());
        if !self.mid_graph {
            return leaf;
        }
        let shift = self.constant(&format!("{name}.shift"), shape, 0.1);
        let value = self.graph.push1(Add, &[leaf, shift]);
        let second_use = self.graph.push1(Add, &[value, shift]);
        self.output(&format!("{name}.second_use"), second_use);
        value
    }

    /// Random numbers read as a parameter: their gradient only ever adds up in memory.
    pub fn parameter(&mut self, name: &str, shape: &[usize], scale: f64) -> ValueId {
        let leaf = self.constant(name, shape, scale);
        if !self.mid_graph {
            self.differentiable.push(name.to_owned());
        }
        leaf
    }

    /// A result to compare, with a random upstream gradient.
    pub fn output(&mut self, name: &str, value: ValueId) {
        let shape = self.graph.shape(value).to_vec();
        let seed = self.constant(&format!("seed/{name}"), &shape, 1.0);
        self.output_seeded(name, value, seed);
    }

    /// A result to compare with this upstream gradient.
    pub fn output_seeded(&mut self, name: &str, value: ValueId, seed: ValueId) {
        self.outputs.push((name.to_owned(), value));
        self.seeds.push((value, seed));
    }

    /// A result without a gradient.
    pub fn output_constant(&mut self, name: &str, value: ValueId) {
        self.outputs.push((name.to_owned(), value));
    }

    /// Some indices below `len`: all if they are few.
    pub fn sample_indices(&self, len: usize) -> Vec<usize> {
        let step = len.div_ceil(24).max(1) | 1;
        (0..len).step_by(step).collect()
    }

    /// The derivative of the sum of outputs times seeds by element `index` of a leaf, by central differences on the
    /// oracle.
    pub fn finite_difference(&self, leaf: &str, index: usize) -> f64 {
        let step = 1e-5;
        let objective = |delta: f64| -> f64 {
            let mut leaves = self.leaves.clone();
            if let Some(tensor) = leaves.get_mut(leaf) {
                tensor.data[index] += delta;
            }
            let values: Vec<_> = self.seeds.iter().map(|(value, _)| *value).collect();
            let outputs = interpret(&self.graph, &values, &mut leaves);
            let dot = |((_, seed), output): (&(ValueId, ValueId), &Tensor64)| -> f64 {
                let seed = &self.leaves[&self.graph.value(*seed).label];
                seed.data.iter().zip(&output.data).map(|(s, o)| s * o).sum()
            };
            self.seeds.iter().zip(&outputs).map(dot).sum()
        };
        (objective(step) - objective(-step)) / (2.0 * step)
    }
}

impl Case {
    pub(super) fn new(name: impl Into<String>, make: impl Fn(&mut CaseBuilder) + Send + Sync + 'static) -> Case {
        Case { name: name.into(), slack: 1.0, make: Box::new(make) }
    }

    pub(super) fn slack(self, slack: f64) -> Case {
        Case { slack, ..self }
    }

    /// The forward graph.
    pub fn build(&self) -> CaseBuilder {
        let mut builder = CaseBuilder::new(&self.name, false);
        (self.make)(&mut builder);
        builder
    }

    /// The graph with gradients of every differentiable leaf, by name. `accumulate`: the leaves are read directly and
    /// their gradients add up in memory that already holds something; otherwise the inputs are computed values with a
    /// second use, and gradients are plain values.
    pub fn build_backward(&self, accumulate: bool) -> (CaseBuilder, Vec<(String, ValueId)>) {
        let mut b = CaseBuilder::new(&self.name, !accumulate);
        (self.make)(&mut b);
        let mut targets = Vec::new();
        for name in b.differentiable.clone() {
            let shape = b.leaves[&name].shape.clone();
            let leaf = b.graph.leaf(name.as_str(), &shape, Dtype::F32);
            let gradient = accumulate.then(|| b.constant(&format!("grad/{name}"), &shape, 1.0));
            targets.push((leaf, gradient));
        }
        let plain = b.graph.backward(&b.seeds.clone(), &targets);
        let values = if accumulate { targets.iter().filter_map(|(_, g)| *g).collect() } else { plain };
        let gradients = b.differentiable.iter().cloned().zip(values).collect();
        (b, gradients)
    }
}

/// Every case. Sizes include 1, odd numbers, and numbers that are no multiple of any tile.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("add [3, 5]", |b| {
            let (x, y) = (b.input("x", &[3, 5], 1.0), b.input("y", &[3, 5], 1.0));
            let sum = b.graph.push1(Add, &[x, y]);
            b.output("sum", sum);
        }),
        Case::new("add_into [7]", |b| {
            let (x, memory) = (b.constant("x", &[7], 1.0), b.constant("memory", &[7], 1.0));
            let sum = b.graph.push1(AddInto { shape: vec![7] }, &[x]);
            b.graph.store_in(sum, memory);
            b.output_constant("sum", memory);
        }),
    ];
    matmul(&mut cases);
    rms_norm(&mut cases);
    activation(&mut cases);
    gather(&mut cases);
    select_rows(&mut cases);
    dropout(&mut cases);
    position_bias(&mut cases);
    attention::push(&mut cases);
    cross_entropy(&mut cases);
    mean_pool(&mut cases);
    block_sums(&mut cases);
    join_attention(&mut cases);
    decoding::push(&mut cases);
    drafts::push(&mut cases);
    logits(&mut cases);
    fused::push(&mut cases);
    learning::push(&mut cases);
    packed::push(&mut cases);
    cases
}

fn rms_norm(cases: &mut Vec<Case>) {
    for [rows, cols] in [[1, 1], [3, 7], [5, 64], [70, 36], [300, 5]] {
        cases.push(Case::new(format!("rms_norm [{rows} {cols}]"), move |b| {
            let (x, scale) = (b.input("x", &[rows, cols], 2.0), b.input("scale", &[cols], 1.0));
            let y = b.graph.push1(RmsNorm { eps: 1e-6 }, &[x, scale]);
            b.output("y", y);
        }));
    }
}

fn activation(cases: &mut Vec<Case>) {
    for function in [Function::Relu, Function::GeluTanh, Function::GeluErf, Function::Silu, Function::Tanh] {
        for gated in [false, true] {
            for (cols, scale) in [(3, 4.0), (8, 4.0), (4, 50.0)] {
                // The series of the oracle's erf converges for small arguments only.
                if function == Function::GeluErf && scale > 4.0 {
                    continue;
                }
                cases.push(Case::new(format!("activation {function:?} gated={gated} {cols} x{scale}"), move |b| {
                    let h = b.input("h", &[5, if gated { 2 * cols } else { cols }], scale);
                    let y = b.graph.push1(Activation { function, gated }, &[h]);
                    b.output("y", y);
                }));
            }
        }
    }
}

fn gather(cases: &mut Vec<Case>) {
    for (shards, cols) in [(vec![11], 3), (vec![4, 7], 8), (vec![1], 4)] {
        cases.push(Case::new(format!("gather {shards:?} {cols}"), move |b| {
            let vocab: usize = shards.iter().sum();
            let ids: Vec<u32> = (0..17u32).map(|i| (i * i * 5 + 3) % vocab as u32).collect();
            // The last three positions are padding.
            let index = gather_index(&ids, |i| i < 14);
            let ids = b.ids("ids", &ids);
            let index = b.ids("index", &index);
            let mut inputs = vec![ids, index];
            for (i, &rows) in shards.iter().enumerate() {
                inputs.push(b.parameter(&format!("table{i}"), &[rows, cols], 1.0));
            }
            let y = b.graph.push1(Gather { shards: shards.clone() }, &inputs);
            // Padding must not receive a gradient: the seed there is zero.
            let mut seed = b.noise(17 * cols, 1.0);
            seed[14 * cols..].fill(0.0);
            let seed = b.leaf("seed", &[17, cols], Dtype::F32, seed);
            b.output_seeded("y", y, seed);
            assert_eq!(b.graph.len(inputs[1]), gather_index_len(17));
        }));
    }
}

/// Some rows in no order, some of the result empty, some taken by none.
fn select_rows(cases: &mut Vec<Case>) {
    for [n, m, cols] in [[1, 1, 1], [17, 9, 5], [9, 17, 8], [70, 40, 64]] {
        cases.push(Case::new(format!("select_rows {m} of {n}x{cols}"), move |b| {
            let (mut rows, mut places) = (vec![NO_ROW; m], vec![NO_ROW; n]);
            for i in (0..m.min(n)).filter(|i| i % 4 != 3) {
                let from = (i * 7 + 2) % n;
                if places[from] == NO_ROW {
                    (rows[i], places[from]) = (from as u32, i as u32);
                }
            }
            let x = b.input("x", &[n, cols], 1.0);
            let inputs = [x, b.ids("rows", &rows), b.ids("places", &places)];
            let y = b.graph.push1(SelectRows, &inputs);
            b.output("y", y);
        }));
    }
}

fn dropout(cases: &mut Vec<Case>) {
    for (rate, add) in [(0.1, false), (0.5, true)] {
        cases.push(Case::new(format!("dropout {rate} add={add}"), move |b| {
            let x = b.input("x", &[13, 7], 1.0);
            let key = b.ids("key", &[7, 1, 12345, 0]);
            let mut inputs = vec![x, key];
            if add {
                inputs.push(b.input("before", &[13, 7], 1.0));
            }
            let y = b.graph.push1(Dropout { rate, site: 3, add }, &inputs);
            b.output("y", y);
        }));
    }
}

fn position_bias(cases: &mut Vec<Case>) {
    for (bidirectional, buckets, reach, heads) in [(true, 32, 128, 3), (false, 8, 20, 1), (true, 4, 3, 5)] {
        cases.push(Case::new(format!("position_bias {bidirectional} {buckets} {reach} {heads}"), move |b| {
            let table = b.input("table", &[buckets, heads], 1.0);
            let bucket = b.ids("bucket", &distance_buckets(bidirectional, buckets, reach));
            let bias = b.graph.push1(PositionBias, &[table, bucket]);
            b.output("bias", bias);
        }));
    }
}

fn cross_entropy(cases: &mut Vec<Case>) {
    type Setting = (usize, usize, Vec<usize>, f32, f32, f32, usize, f64);
    let settings: [Setting; 6] = [
        (1, 1, vec![1], 1.0, 0.0, 0.0, 1 << 20, 1.0),
        (5, 3, vec![7], 0.5, 0.0, 0.0, 1 << 20, 1.0),
        (9, 8, vec![4, 5, 3], 1.0, 1e-2, 0.1, 100, 1.0),
        (70, 12, vec![40], 0.3, 1e-4, 0.0, 4 * 40 * 32, 1.0),
        (3, 4, vec![4100], 1.0, 0.0, 0.1, 1 << 20, 1.0),
        (4, 4, vec![9], 1.0, 0.0, 0.0, 1 << 20, 20.0),
    ];
    for (rows, d, shards, scale, z_loss, smoothing, chunk_bytes, magnitude) in settings {
        let name = format!("cross_entropy [{rows} {d}] {shards:?} z={z_loss} smoothing={smoothing} x{magnitude}");
        cases.push(Case::new(name, move |b| {
            let vocab: usize = shards.iter().sum();
            let h = b.input("h", &[rows, d], magnitude);
            let ignored = |r: usize| rows > 1 && r % 4 == 3;
            let label = |r: usize| {
                if ignored(r) { IGNORE } else { ((r * 7 + 1) % vocab) as u32 }
            };
            let labels = b.ids("labels", &(0..rows).map(label).collect::<Vec<_>>());
            let seed = b.leaf("dstats", &[4], Dtype::F32, vec![0.5, 0.0, 0.0, 1.0]);
            let mut inputs = vec![h, labels, seed];
            for (i, &n) in shards.iter().enumerate() {
                inputs.push(b.input(&format!("head{i}"), &[n, d], 1.0));
            }
            let op = CrossEntropy { z_loss, smoothing, chunk_bytes, ..CrossEntropy::new(shards.clone(), scale) };
            let stats = b.graph.push1(op, &inputs);
            b.output_seeded("stats", stats, seed);
        }));
    }
    for (rows, shards, chunk_bytes) in [(5, vec![7], 1 << 20), (70, vec![21, 19], 4 * 40 * 33)] {
        cases.push(Case::new(format!("cross_entropy by row {rows} {shards:?}"), move |b| {
            let vocab: u32 = shards.iter().sum::<usize>() as u32;
            let labels: Vec<u32> = (0..rows).map(|r| if r % 5 == 3 { IGNORE } else { (r * 7 + 1) % vocab }).collect();
            let mut inputs = vec![b.constant("h", &[rows as usize, 12], 1.0), b.ids("labels", &labels)];
            inputs.push(b.constant("dstats", &[4], 1.0));
            for (i, &n) in shards.iter().enumerate() {
                inputs.push(b.constant(&format!("head{i}"), &[n, 12], 1.0));
            }
            let op = CrossEntropy { chunk_bytes, by_row: true, ..CrossEntropy::new(shards.clone(), 0.5) };
            let stats = b.graph.push1(op, &inputs);
            b.output_constant("stats", stats);
        }));
    }
}

fn mean_pool(cases: &mut Vec<Case>) {
    for (lens, len, cols) in [(vec![1], 1, 1), (vec![3, 0, 7, 9], 7, 33), (vec![100, 1], 130, 20)] {
        cases.push(Case::new(format!("mean_pool {lens:?} of {len} x {cols}"), move |b| {
            let x = b.constant("x", &[lens.len() * len, cols], 1.0);
            let counts = b.ids("lens", &lens.iter().map(|&n: &u32| n.min(len as u32)).collect::<Vec<_>>());
            let y = b.graph.push1(MeanPool, &[x, counts]);
            b.output_constant("y", y);
        }));
    }
}

fn block_sums(cases: &mut Vec<Case>) {
    // Whole blocks only, rows behind the last one, no whole block, an empty sequence, slots to spare.
    for (lens, len, cols, block, slots) in [
        (vec![1], 1, 1, 1, 1),
        (vec![16, 19, 3, 0, 4], 19, 33, 4, 4),
        (vec![130, 15, 47], 130, 20, 16, 16),
        (vec![7, 2], 7, 3, 8, 2),
    ] {
        cases.push(Case::new(format!("block_sums {lens:?} of {len} x {cols} by {block} to {slots}"), move |b| {
            let x = b.constant("x", &[lens.len() * len, cols], 1.0);
            let lens = b.ids("lens", &lens);
            let y = b.graph.push1(BlockSums { block, slots }, &[x, lens]);
            b.output_constant("y", y);
        }));
    }
}

fn join_attention(cases: &mut Vec<Case>) {
    // Logarithms that are close, and so far apart that one side weighs nothing.
    for (batch, heads, q_len, d_kv, scale) in [(1, 1, 1, 1, 1.0), (3, 2, 7, 5, 3.0), (2, 3, 33, 8, 200.0)] {
        cases.push(Case::new(format!("join_attention {batch} {heads} {q_len} {d_kv} x{scale}"), move |b| {
            let (out, lse) = ([batch * q_len, heads * d_kv], [batch * heads, q_len]);
            let counts: Vec<u32> = (0..batch as u32).map(|i| (i + 2) % 3).collect();
            let inputs = [
                b.constant("a", &out, 1.0),
                b.constant("lse_a", &lse, scale),
                b.constant("b", &out, 1.0),
                b.constant("lse_b", &lse, scale),
                b.ids("counts", &counts),
            ];
            let joined = b.graph.push1(JoinAttention, &inputs);
            b.output_constant("out", joined);
        }));
    }
}

/// The kernels of products. Those whose invocations share sums, of every depth, and those that fetch ahead are dealt out to two
/// cases of seven each: lavapipe takes seconds to compile one.
fn variants(cases: &[Case]) -> Vec<Variant> {
    let all = [Variant::Rows, Variant::Tile, Variant::Subgroup, Variant::Shared];
    let deep = Variant::Deep([8, 16, 32, 64, 128][cases.len() / 7 % 5]);
    let other = [Some(deep), Some(Variant::SharedAhead), None][(cases.len() % 7 / 2).min(2)];
    all.into_iter().chain(other).collect()
}

fn matmul(cases: &mut Vec<Case>) {
    // In the last three, Variant::Shared splits the sum over workgroups; in the last one it does so for the gradient of b.
    let sizes = [
        [1, 1, 1],
        [5, 3, 7],
        [8, 8, 4],
        [33, 70, 19],
        [64, 36, 40],
        [7, 130, 64],
        [2, 32, 12],
        [130, 257, 66],
        [5, 3, 1027],
        [36, 40, 1100],
        [1030, 8, 12],
    ];
    for [m, n, k] in sizes {
        for layout in [MatmulLayout::Nn, MatmulLayout::Nt, MatmulLayout::Tn] {
            for variant in variants(cases) {
                let name = format!("matmul {layout:?} {variant:?} [{m} {n} {k}]");
                cases.push(Case::new(name, move |b| {
                    let a = if layout == MatmulLayout::Tn { [k, m] } else { [m, k] };
                    let w = if layout == MatmulLayout::Nt { [n, k] } else { [k, n] };
                    let op = Matmul { variant: Some(variant), ..Matmul::new(layout) };
                    if layout == MatmulLayout::Nt {
                        let (x, w) = (b.input("a", &a, 1.0), b.input("b", &w, 1.0));
                        let residual = b.input("residual", &[m, n], 1.0);
                        let y = b.graph.push1(op.scaled(0.5).with_residual(), &[x, w, residual]);
                        b.output("c", y);
                    } else {
                        let (x, w) = (b.constant("a", &a, 1.0), b.constant("b", &w, 1.0));
                        let y = b.graph.push1(op, &[x, w]);
                        b.output_constant("c", y);
                    }
                }));
            }
        }
    }
}

fn logits(cases: &mut Vec<Case>) {
    for (rows, shards) in [(1, vec![8]), (3, vec![5, 6, 2]), (20, vec![8, 12])] {
        for norm in [None, Some(1e-6)] {
            let shards = shards.clone();
            cases.push(Case::new(format!("logits {rows} {shards:?} norm={norm:?}"), move |b| {
                let mut inputs = vec![b.constant("h", &[rows, 12], 1.0)];
                for (i, &n) in shards.iter().enumerate() {
                    inputs.push(b.constant(&format!("head{i}"), &[n, 12], 1.0));
                }
                inputs.extend(norm.map(|_| b.constant("scale", &[12], 1.0)));
                let op = Logits { shards: shards.clone(), scale: 0.3, norm, variant: None };
                let logits = b.graph.push1(op, &inputs);
                b.output_constant("logits", logits);
            }));
        }
    }
}
