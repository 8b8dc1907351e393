//! The vocabulary projection for decoding: logits of a head that may come in shards of rows.

use super::matmul::{Gemm, Layout, Matrix, Variant};
use crate::graph::{Dtype, Launcher, Op, Tensor64};

/// `h [rows, d]`, then the head in shards `[classes, d]` -> logits `scale h head^T`, `[rows, all classes]`.
#[derive(Clone, Debug)]
pub struct Head {
    pub scale: f32,
    /// The kernel to prefer where several can do it.
    pub variant: Option<Variant>,
}

impl Op for Head {
    fn name(&self) -> &'static str {
        "head"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        assert!(inputs[1..].iter().all(|s| s[1] == inputs[0][1]), "head {inputs:?}");
        let classes = inputs[1..].iter().map(|s| s[0]).sum();
        vec![(vec![inputs[0][0], classes], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let [m, k] = [l.shape(0)[0], l.shape(0)[1]];
        let shards: Vec<usize> = (1..l.n_inputs()).map(|i| l.shape(i)[0]).collect();
        let classes = shards.iter().sum();
        let mut offset = 0;
        for (i, n) in shards.into_iter().enumerate() {
            let gemm = Gemm {
                layout: Layout::Nt,
                m,
                n,
                k,
                a: Matrix::whole(l.input(0), k),
                b: Matrix::whole(l.input(1 + i), k),
                c: Matrix { operand: l.output(0), offset, ld: classes },
                alpha: self.scale,
                accumulate: false,
                residual: None,
                variant: self.variant,
            };
            gemm.launch(l);
            offset += n;
        }
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let classes = inputs[1..].iter().map(|s| s.shape[0]).sum();
        let dot = |h: &[f64], w: &[f64]| -> f64 { h.iter().zip(w).map(|(h, w)| h * w).sum() };
        let rows = inputs[0].rows().flat_map(|h| {
            let all = inputs[1..].iter().flat_map(|shard| shard.rows());
            all.map(move |w| f64::from(self.scale) * dot(h, w))
        });
        vec![Tensor64::new(&[inputs[0].shape[0], classes], rows.collect())]
    }
}
