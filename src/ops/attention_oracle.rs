//! Attention in f64, with every score in memory: the reference for the kernels that never store one.

use super::attention::{Attention, Mask};
use super::dropout::keep;
use crate::graph::Tensor64;

/// Strided views of one head of one sequence.
struct Head<'a> {
    a: &'a Attention,
    inputs: &'a [Tensor64],
    b: usize,
    h: usize,
}

impl Head<'_> {
    fn q(&self, i: usize) -> usize {
        (self.b * self.a.q_len + i) * self.inputs[0].shape[1] + self.h * self.a.d_kv
    }

    /// Start of row `j` of k (`which` 1) or v (`which` 2).
    fn kv(&self, which: usize, j: usize) -> usize {
        let layout = self.a.kv_layout();
        (self.b * self.a.kv_len + j) * layout[0] + layout[which] + self.h * self.a.d_kv
    }

    fn out(&self, i: usize) -> usize {
        ((self.b * self.a.q_len + i) * self.a.heads + self.h) * self.a.d_kv
    }

    /// The keys that query `i` sees.
    fn keys(&self, i: usize) -> Vec<usize> {
        let data = self.a.slots().keys.map(|slot| &self.inputs[slot].data);
        match (self.a.mask, data) {
            (Mask::Padded, Some(lens)) => (0..(lens[self.b] as usize).min(self.a.kv_len)).collect(),
            (Mask::Shown, Some(words)) => {
                let words = &words[self.b * self.a.kv_len.div_ceil(32)..];
                (0..self.a.kv_len).filter(|j| words[j / 32] as u32 >> (j % 32) & 1 == 1).collect()
            }
            (Mask::Segments | Mask::Window { .. }, Some(ranges)) => {
                let at = 2 * (self.b * self.a.q_len + i);
                (ranges[at] as usize..ranges[at + 1] as usize).collect()
            }
            _ => (0..i + 1).collect(),
        }
    }

    fn distance(&self, i: usize, j: usize) -> usize {
        let reach = self.a.reach.unwrap_or(0) as i64;
        let i = match self.a.query_block {
            1 => i,
            block => (i / block).min(self.keys(i).len().saturating_sub(1)),
        };
        ((j as i64 - i as i64).clamp(-reach, reach) + reach) as usize
    }

    /// Softmax weights of the keys that query `i` sees, and the logarithm of their denominator.
    fn weights(&self, i: usize) -> (Vec<f64>, f64) {
        let slots = self.a.slots();
        let (q, kv) = (&self.inputs[0].data, &self.inputs[slots.kv].data);
        let score = |j: usize| {
            let dot: f64 = (0..self.a.d_kv).map(|d| q[self.q(i) + d] * kv[self.kv(1, j) + d]).sum();
            let bias = slots.bias.map(|bias| &self.inputs[bias]);
            dot + bias.map_or(0.0, |t| t.data[self.h * t.shape[1] + self.distance(i, j)])
        };
        let scores: Vec<f64> = self.keys(i).into_iter().map(score).collect();
        if scores.is_empty() {
            return (scores, 0.0);
        }
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        let lse = top + sum.ln();
        (scores.iter().map(|s| (s - lse).exp()).collect(), lse)
    }

    fn kept(&self, i: usize, j: usize) -> f64 {
        let Some(key) = self.a.slots().key else { return 1.0 };
        let row = (self.b * self.a.heads + self.h) * self.a.q_len + i;
        keep((row * self.a.kv_len + j) as u32, self.a.site, &self.inputs[key].data, self.a.dropout)
    }
}

fn heads<'a>(a: &'a Attention, inputs: &'a [Tensor64]) -> impl Iterator<Item = Head<'a>> {
    (0..a.batch).flat_map(move |b| (0..a.heads).map(move |h| Head { a, inputs, b, h }))
}

pub(super) fn forward(a: &Attention, inputs: &[Tensor64]) -> Vec<Tensor64> {
    let mut out = Tensor64::zeros(&[a.batch * a.q_len, a.inner()]);
    let mut lse = Tensor64::zeros(&[a.batch * a.heads, a.q_len]);
    let kv = &inputs[a.slots().kv].data;
    for head in heads(a, inputs) {
        for i in 0..a.q_len {
            let (weights, log_sum) = head.weights(i);
            lse.data[(head.b * a.heads + head.h) * a.q_len + i] = log_sum;
            for (j, w) in head.keys(i).into_iter().zip(&weights) {
                for d in 0..a.d_kv {
                    out.data[head.out(i) + d] += w * head.kept(i, j) * kv[head.kv(2, j) + d];
                }
            }
        }
    }
    vec![out, lse]
}

pub(super) fn backward(a: &Attention, inputs: &[Tensor64]) -> Vec<Tensor64> {
    let slots = a.slots();
    let dout = &inputs[slots.count + 2].data;
    let (q, kv) = (&inputs[0].data, &inputs[slots.kv].data);
    let mut dq = Tensor64::zeros(&inputs[0].shape);
    let mut dkv = Tensor64::zeros(&inputs[slots.kv].shape);
    let mut dbias = slots.bias.map(|bias| Tensor64::zeros(&inputs[bias].shape));
    for head in heads(a, inputs) {
        for i in 0..a.q_len {
            let (weights, _) = head.weights(i);
            let dweight = |j: usize| -> f64 {
                let dot: f64 = (0..a.d_kv).map(|d| dout[head.out(i) + d] * kv[head.kv(2, j) + d]).sum();
                dot * head.kept(i, j)
            };
            let dweights: Vec<f64> = head.keys(i).into_iter().map(dweight).collect();
            let mean: f64 = weights.iter().zip(&dweights).map(|(w, d)| w * d).sum();
            for (j, (w, dw)) in head.keys(i).into_iter().zip(weights.iter().zip(&dweights)) {
                let dscore = w * (dw - mean);
                for d in 0..a.d_kv {
                    dq.data[head.q(i) + d] += dscore * kv[head.kv(1, j) + d];
                    dkv.data[head.kv(1, j) + d] += dscore * q[head.q(i) + d];
                    dkv.data[head.kv(2, j) + d] += w * head.kept(i, j) * dout[head.out(i) + d];
                }
                if let Some(dbias) = &mut dbias {
                    let cols = dbias.shape[1];
                    dbias.data[head.h * cols + head.distance(i, j)] += dscore;
                }
            }
        }
    }
    let mut grads = if a.fused {
        dq.data.iter_mut().zip(&dkv.data).for_each(|(a, b)| *a += b);
        vec![dq]
    } else {
        vec![dq, dkv]
    };
    grads.extend(dbias);
    grads
}
