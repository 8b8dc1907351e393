//! The vocabulary projection alone, for decoding. Training uses [`super::CrossEntropy`], which never holds all logits.

use super::RmsNorm;
use super::matmul::{Gemm, MatmulLayout, Matrix, Variant};
use crate::graph::{Dtype, Launcher, Op, Tensor64};

/// `h [rows, d]`, the head in shards of rows `[vocab, d]`, the norm's scale `[d]` if there is one ->
/// `scale norm(h) head^T [rows, vocab]`.
#[derive(Clone, Debug)]
pub struct Logits {
    /// Rows of each shard of the head.
    pub shards: Vec<usize>,
    pub scale: f32,
    /// Takes the rows of `h` through [`RmsNorm`] with this epsilon first.
    pub norm: Option<f32>,
    /// The kernel to prefer where several can do it.
    pub variant: Option<Variant>,
}

impl Op for Logits {
    fn name(&self) -> &'static str {
        "logits"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let rows: Vec<usize> = inputs[1..=self.shards.len()].iter().map(|s| s[0]).collect();
        assert_eq!(rows, self.shards, "logits head");
        vec![(vec![inputs[0][0], self.shards.iter().sum()], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let [m, k] = [l.shape(0)[0], l.shape(0)[1]];
        let vocab = self.shards.iter().sum();
        let mut offset = 0;
        for (shard, &n) in self.shards.iter().enumerate() {
            let gemm = Gemm {
                layout: MatmulLayout::Nt,
                m,
                n,
                k,
                a: Matrix::whole(l.input(0), k),
                b: Matrix::whole(l.weights(1 + shard), k),
                c: Matrix { operand: l.output(0), offset, ld: vocab },
                alpha: self.scale,
                norm: self.norm.map(|eps| (l.input(1 + self.shards.len()), eps)),
                activation: None,
                dropout: None,
                accumulate: false,
                residual: None,
                variant: self.variant,
                any_rows: false,
            };
            gemm.launch(l);
            offset += n;
        }
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (h, head) = inputs.split_at(1);
        let (head, scale) = head.split_at(self.shards.len());
        let normed = self.norm.map(|eps| RmsNorm { eps }.oracle(&[h[0].clone(), scale[0].clone()]).remove(0));
        let h = normed.as_ref().unwrap_or(&h[0]);
        let head: Vec<&[f64]> = head.iter().flat_map(Tensor64::rows).collect();
        let dot = |a: &[f64], b: &[f64]| f64::from(self.scale) * a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let logits = h.rows().flat_map(|h| head.iter().map(|w| dot(h, w)).collect::<Vec<_>>()).collect();
        vec![Tensor64::new(&[h.shape[0], head.len()], logits)]
    }
}
