//! Cross-entropy together with the vocabulary projection, in chunks of rows: the whole [tokens, vocab] matrix of logits
//! never exists.

use std::sync::Arc;

use super::matmul::{Gemm, MatmulLayout, Matrix};
use super::rows::{column_sum, elem, lanes_per_row};
use crate::batch::IGNORE;
use crate::gpu::{Constant, Header, Shader};
use crate::graph::{Backward, Dtype, Launch, Launcher, Op, Operand, Tensor64};

/// `h [rows, d]`, `labels [rows]` (u32), `dstats [4]` (only the gradient reads it), the head in shards of rows
/// `[vocab, d]` -> `stats [4]`: sum of the cross-entropy, rows counted, rows whose most likely class is the label, sum of
/// the objective. With [`by_row`](CrossEntropy::by_row), these four of each row: `[rows, 4]`.
///
/// The objective is the cross-entropy with label smoothing (Mesh TensorFlow: the label gets `1 - s + s / vocab`, the
/// others `s / vocab`) plus `z_loss log(Z)^2`.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// Rows of each shard of the head.
    pub shards: Vec<usize>,
    /// Factor on the logits: d_model^-0.5 where the head is tied to the embedding.
    pub scale: f32,
    pub z_loss: f32,
    pub smoothing: f32,
    /// Bytes of logits to hold at a time.
    pub chunk_bytes: usize,
    /// Rows are not added up, and each is the same, bit for bit, whatever the others are (of batches of 16 rows or more). Has no
    /// backward rule.
    pub by_row: bool,
}

/// The inputs of [`CrossEntropy`], the third being the gradient of its output -> gradient of `h`, `stats` again, and the
/// gradients of the head's shards.
#[derive(Clone, Debug)]
struct CrossEntropyBackward {
    forward: CrossEntropy,
    /// Which shards' gradients are added to memory.
    accumulate: Vec<bool>,
}

static CROSS_ENTROPY: Shader = Shader {
    name: "cross_entropy",
    source: include_str!("../../shaders/cross_entropy.wgsl"),
    shared: &[],
    defaults: &[("LANES", Constant::U32(32)), ("GRADIENT", Constant::Bool(false))],
};

impl CrossEntropy {
    pub fn new(shards: Vec<usize>, scale: f32) -> CrossEntropy {
        CrossEntropy { shards, scale, z_loss: 0.0, smoothing: 0.0, chunk_bytes: 64 << 20, by_row: false }
    }

    fn vocab(&self) -> usize {
        self.shards.iter().sum()
    }

    /// Equal chunks of rows, none with more logits than allowed; all but the last a multiple of 16, so that no kernel for few rows
    /// takes the last of a multiple of 16 rows.
    fn chunk_rows(&self, rows: usize, max_binding: u64) -> usize {
        let bytes = self.chunk_bytes.min(max_binding as usize);
        let most = (bytes / (4 * self.vocab())).clamp(1, rows);
        let even = rows.div_ceil(rows.div_ceil(most));
        if most < 16 { even } else { even.next_multiple_of(16).min(most / 16 * 16).min(rows) }
    }

    /// Launches the loss, and the gradients where `into` says where they go: `dh`, and each shard's with whether to add.
    fn launch_chunks(&self, l: &mut Launcher<'_>, stats: Operand, into: Option<(Operand, Vec<(Operand, bool)>)>) {
        let (rows, d) = (l.shape(0)[0], l.shape(0)[1]);
        let vocab = self.vocab();
        let (h, labels, dstats) = (l.input(0), l.input(1), l.input(2));
        let chunk = self.chunk_rows(rows, l.caps.max_binding);
        let logits = l.scratch(chunk * vocab);
        let row_stats = if self.by_row { stats } else { l.scratch(4 * rows) };
        let lanes = lanes_per_row(l.caps, vocab);
        let heads: Vec<Matrix> = (self.shards.iter().enumerate())
            .map(|(shard, &of_shard)| {
                let head = Matrix::whole(l.weights(3 + shard), d);
                // Once for the gradient and all chunks. By row, products must not depend on whether there are several.
                let again = into.is_some() || chunk < rows && !self.by_row;
                if again { head.unpacked(l, of_shard) } else { head }
            })
            .collect();
        for first in (0..rows).step_by(chunk) {
            let m = chunk.min(rows - first);
            let mut column = 0;
            let product = |layout, m, n, k, a, b, c, accumulate| Gemm {
                layout,
                m,
                n,
                k,
                a,
                b,
                c,
                alpha: self.scale,
                norm: None,
                activation: None,
                dropout: None,
                accumulate,
                residual: None,
                variant: None,
                any_rows: self.by_row,
            };
            let h_rows = Matrix { operand: h, offset: first * d, ld: d };
            let part = |column| Matrix { operand: logits, offset: column, ld: vocab };
            for (shard, &n) in self.shards.iter().enumerate() {
                product(MatmulLayout::Nt, m, n, d, h_rows, heads[shard], part(column), false).launch(l);
                column += n;
            }
            let header = Header::new().u32("LANES", lanes).bool("GRADIENT", into.is_some());
            let (header, width) = elem(header, vocab);
            let bindings = vec![("labels", labels), ("dstats", dstats), ("row_stats", row_stats), ("logits", logits)];
            l.launch(Launch {
                shader: &CROSS_ENTROPY,
                header,
                bindings,
                params: vec![
                    ("rows", m.into()),
                    ("first", first.into()),
                    ("width", width.into()),
                    ("classes", (vocab as f32).into()),
                    ("smoothing", self.smoothing.into()),
                    ("z_loss", self.z_loss.into()),
                ],
                workgroups: m.div_ceil(64 / lanes as usize) as u64,
            });
            l.moves("logits", m * vocab * if into.is_some() { 2 } else { 1 });
            let Some((dh, dweights)) = &into else { continue };
            let dh_rows = Matrix { operand: *dh, offset: first * d, ld: d };
            column = 0;
            for (shard, &n) in self.shards.iter().enumerate() {
                product(MatmulLayout::Nn, m, d, n, part(column), heads[shard], dh_rows, shard > 0).launch(l);
                if let Some(&(dw, add)) = dweights.get(shard) {
                    let dw = Matrix::whole(dw, d);
                    product(MatmulLayout::Tn, n, d, m, part(column), h_rows, dw, add || first > 0).launch(l);
                }
                column += n;
            }
        }
        if !self.by_row {
            column_sum(l, row_stats, rows, stats, false);
        }
    }

    /// Stats, and the gradient of the logits, for given logits.
    fn on_logits(&self, inputs: &[Tensor64]) -> (Tensor64, Vec<Vec<f64>>) {
        let (h, labels, dstats) = (&inputs[0], &inputs[1], &inputs[2]);
        let weights: Vec<&[f64]> = inputs[3..3 + self.shards.len()].iter().flat_map(Tensor64::rows).collect();
        let (vocab, scale) = (weights.len() as f64, f64::from(self.scale));
        let (z_loss, smoothing) = (f64::from(self.z_loss), f64::from(self.smoothing));
        let mut stats = Tensor64::zeros(&[if self.by_row { h.shape[0] } else { 1 }, 4]);
        let mut dlogits = Vec::new();
        for (r, (row, &label)) in h.rows().zip(&labels.data).enumerate() {
            let to = if self.by_row { 4 * r } else { 0 };
            let dot = |w: &&[f64]| scale * w.iter().zip(row).map(|(a, b)| a * b).sum::<f64>();
            let logits: Vec<f64> = weights.iter().map(dot).collect();
            if label == f64::from(IGNORE) {
                dlogits.push(vec![0.0; logits.len()]);
                continue;
            }
            let label = label as usize;
            let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lse = top + logits.iter().map(|z| (z - top).exp()).sum::<f64>().ln();
            let target = |i: usize| smoothing / vocab + if i == label { 1.0 - smoothing } else { 0.0 };
            let smooth = lse - logits.iter().enumerate().map(|(i, z)| target(i) * z).sum::<f64>();
            let first_best = logits.iter().position(|&z| z == top);
            stats.data[to] += lse - logits[label];
            stats.data[to + 1] += 1.0;
            stats.data[to + 2] += if first_best == Some(label) { 1.0 } else { 0.0 };
            stats.data[to + 3] += smooth + z_loss * lse * lse;
            let gradient = |(i, z): (usize, &f64)| {
                let softmax = (z - lse).exp();
                let of_ce = softmax - if i == label { 1.0 } else { 0.0 };
                let of_objective = softmax * (1.0 + 2.0 * z_loss * lse) - target(i);
                dstats.data[0] * of_ce + dstats.data[3] * of_objective
            };
            dlogits.push(logits.iter().enumerate().map(gradient).collect());
        }
        if !self.by_row {
            stats.shape = vec![4];
        }
        (stats, dlogits)
    }
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        assert_eq!(inputs[0][0], inputs[1][0], "cross_entropy labels");
        assert_eq!(inputs[2], [4], "cross_entropy dstats");
        let rows: Vec<usize> = inputs[3..].iter().map(|s| s[0]).collect();
        assert_eq!(rows, self.shards, "cross_entropy head");
        vec![(if self.by_row { vec![inputs[0][0], 4] } else { vec![4] }, Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let stats = l.output(0);
        self.launch_chunks(l, stats, None);
    }

    fn backward(&self, b: &mut Backward<'_>) {
        let Some(dstats) = b.grad(0) else { return };
        assert!(!self.by_row, "the loss of single rows is not differentiated");
        let mut inputs: Vec<_> = (0..b.n_inputs()).map(|i| b.input(i)).collect();
        inputs[2] = dstats;
        // The shards of a head learn together.
        let shards = if b.needs(3) { self.shards.len() } else { 0 };
        let op = CrossEntropyBackward { forward: self.clone(), accumulate: vec![false; shards] };
        let grads = b.graph.push(op, &inputs);
        b.give(0, grads[0]);
        b.replay(0, grads[1]);
        for shard in 0..shards {
            b.give(3 + shard, grads[2 + shard]);
        }
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        vec![self.on_logits(inputs).0]
    }
}

impl Op for CrossEntropyBackward {
    fn name(&self) -> &'static str {
        "cross_entropy_backward"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let mut shapes = vec![inputs[0].to_vec(), vec![4]];
        shapes.extend(inputs[3..].iter().take(self.accumulate.len()).map(|s| s.to_vec()));
        shapes.into_iter().map(|shape| (shape, Dtype::F32)).collect()
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let dweights = (0..self.accumulate.len()).map(|s| (l.output(2 + s), self.accumulate[s])).collect();
        let (dh, stats) = (l.output(0), l.output(1));
        self.forward.launch_chunks(l, stats, Some((dh, dweights)));
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (stats, dlogits) = self.forward.on_logits(inputs);
        let h = &inputs[0];
        let n_shards = self.forward.shards.len();
        let weights: Vec<&[f64]> = inputs[3..3 + n_shards].iter().flat_map(Tensor64::rows).collect();
        let (d, scale) = (h.shape[1], f64::from(self.forward.scale));
        let mut dh = Tensor64::zeros(&h.shape);
        let mut memory = inputs[3 + n_shards..].iter();
        let mut dw: Vec<f64> = Vec::new();
        for (shard, &rows) in self.forward.shards.iter().enumerate() {
            let before = self.accumulate.get(shard).is_some_and(|&add| add).then(|| memory.next()).flatten();
            dw.extend(before.map_or_else(|| vec![0.0; rows * d], |t| t.data.clone()));
        }
        for (r, gradient) in dlogits.iter().enumerate() {
            for (v, g) in gradient.iter().enumerate() {
                for c in 0..d {
                    dh.data[r * d + c] += scale * g * weights[v][c];
                    dw[v * d + c] += scale * g * h.data[r * d + c];
                }
            }
        }
        let mut out = vec![dh, stats];
        let mut rest = dw.as_slice();
        for &rows in &self.forward.shards[..self.accumulate.len()] {
            let (shard, after) = rest.split_at(rows * d);
            out.push(Tensor64::new(&[rows, d], shard.to_vec()));
            rest = after;
        }
        out
    }

    fn accumulating(&self, output: usize) -> Option<Arc<dyn Op>> {
        let shard = output.checked_sub(2)?;
        let mut op = self.clone();
        op.accumulate[shard] = true;
        Some(Arc::new(op))
    }
}
