//! Matrix products in the three layouts that a linear layer and its gradients need.

mod gemm;
mod shared;

use std::sync::Arc;

use super::{Activation, Dropout, DropoutMask, RmsNorm};
use crate::graph::{Backward, Dtype, Launcher, Op, Tensor64};
pub use gemm::{Gemm, Matrix, Variant};

/// Which operands are stored transposed. Storage is row-major throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatmulLayout {
    /// `a [m, k]`, `b [k, n]`: gradient of a linear layer's input. b may be packed, and is unpacked into memory first.
    Nn,
    /// `a [m, k]`, `b [n, k]`: a linear layer, weights as HuggingFace stores them, [out, in]. b may be packed; sums are in f32
    /// all the same.
    Nt,
    /// `a [k, m]`, `b [k, n]`: gradient of a linear layer's weights. Nothing is packed.
    Tn,
}

/// `c [m, n] = dropout(act(alpha norm(a) b)) + residual`. Inputs: `a`, `b`, and of these what there is: the norm's
/// `scale [k]`, the `key [4]` of dropout, `residual [m, n]`.
#[derive(Clone, Debug)]
pub struct Matmul {
    pub layout: MatmulLayout,
    pub alpha: f32,
    /// Takes the rows of `a` through [`RmsNorm`] with this epsilon first. Has no backward rule.
    pub norm: Option<f32>,
    /// Gated: of a product of twice as many columns. Has no backward rule.
    pub activation: Option<Activation>,
    pub dropout: Option<DropoutMask>,
    pub residual: bool,
    /// Whether the result is added to the numbers in the output's memory.
    pub accumulate: bool,
    /// A kernel to use instead of the preferred one; tests go through all.
    pub variant: Option<Variant>,
    /// Whether a row of the result must be the same, bit for bit, however many rows there are, from 16 on. Sums along k are then
    /// not split over workgroups where rows are few.
    pub any_rows: bool,
}

impl Matmul {
    pub fn new(layout: MatmulLayout) -> Matmul {
        Matmul {
            layout,
            alpha: 1.0,
            norm: None,
            activation: None,
            dropout: None,
            residual: false,
            accumulate: false,
            variant: None,
            any_rows: false,
        }
    }

    /// `alpha a b + residual`.
    pub fn with_residual(self) -> Matmul {
        Matmul { residual: true, ..self }
    }

    pub fn scaled(self, alpha: f32) -> Matmul {
        Matmul { alpha, ..self }
    }

    /// The position of dropout's key among the inputs, if there is one, and how many come before the residual.
    fn key_slot(&self) -> (Option<usize>, usize) {
        let before = 2 + usize::from(self.norm.is_some());
        match self.dropout {
            Some(_) => (Some(before), before + 1),
            None => (None, before),
        }
    }

    /// m, n, k for operands of these shapes.
    #[track_caller]
    fn sizes(&self, a: &[usize], b: &[usize]) -> [usize; 3] {
        let (m, k) = if self.layout == MatmulLayout::Tn { (a[1], a[0]) } else { (a[0], a[1]) };
        let (n, k_of_b) = if self.layout == MatmulLayout::Nt { (b[0], b[1]) } else { (b[1], b[0]) };
        assert_eq!(k, k_of_b, "matmul {:?} of {a:?} and {b:?}", self.layout);
        [m, n, k]
    }
}

impl Op for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let [m, columns, k] = self.sizes(inputs[0], inputs[1]);
        let n = self.activation.map_or(columns, |a| a.n_out(columns));
        assert_eq!(inputs.len(), self.key_slot().1 + usize::from(self.residual), "inputs of {self:?}");
        assert!(
            self.norm.is_none() || inputs[2] == [k] && self.layout != MatmulLayout::Tn,
            "matmul of a norm {inputs:?}"
        );
        let residual = inputs.last().filter(|_| self.residual);
        assert!(residual.is_none_or(|r| **r == [m, n]), "matmul residual {residual:?}, result {:?}", [m, n]);
        vec![(vec![m, n], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let [m, columns, k] = self.sizes(l.shape(0), l.shape(1));
        let n = self.activation.map_or(columns, |a| a.n_out(columns));
        let gemm = Gemm {
            layout: self.layout,
            m,
            n,
            k,
            a: Matrix::whole(l.input(0), l.shape(0)[1]),
            b: Matrix::whole(l.weights(1), l.shape(1)[1]),
            c: Matrix::whole(l.output(0), n),
            alpha: self.alpha,
            norm: self.norm.map(|eps| (l.input(2), eps)),
            activation: self.activation,
            dropout: self.dropout.zip(self.key_slot().0.map(|slot| l.input(slot))),
            accumulate: self.accumulate,
            residual: self.residual.then(|| l.input(l.n_inputs() - 1)),
            variant: self.variant,
            any_rows: self.any_rows,
        };
        gemm.launch(l);
    }

    fn backward(&self, b: &mut Backward<'_>) {
        let Some(dc) = b.grad(0) else { return };
        let plain = self.layout == MatmulLayout::Nt && self.norm.is_none() && self.activation.is_none();
        assert!(plain, "only a linear layer by itself is differentiated, not {self:?}");
        if self.residual {
            b.give(self.key_slot().1, dc);
        }
        let dc = match self.dropout.zip(self.key_slot().0) {
            Some((DropoutMask { rate, site }, slot)) => {
                let key = b.input(slot);
                b.graph.push1(Dropout { rate, site, add: false }, &[dc, key])
            }
            None => dc,
        };
        let product = |layout| Matmul { variant: self.variant, ..Matmul::new(layout).scaled(self.alpha) };
        if b.needs(0) {
            let weights = b.input(1);
            let da = b.graph.push1(product(MatmulLayout::Nn), &[dc, weights]);
            b.give(0, da);
        }
        if b.needs(1) {
            let a = b.input(0);
            let dw = b.graph.push1(product(MatmulLayout::Tn), &[dc, a]);
            b.give(1, dw);
        }
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let normed = self.norm.map(|eps| RmsNorm { eps }.oracle(&[inputs[0].clone(), inputs[2].clone()]).remove(0));
        let (a, b) = (normed.as_ref().unwrap_or(&inputs[0]), &inputs[1]);
        let [m, n, k] = self.sizes(&a.shape, &b.shape);
        let at = |i: usize, l: usize| {
            if self.layout == MatmulLayout::Tn { a.data[l * m + i] } else { a.data[i * k + l] }
        };
        let bt = |l: usize, j: usize| {
            if self.layout == MatmulLayout::Nt { b.data[j * k + l] } else { b.data[l * n + j] }
        };
        let mut c = Tensor64::zeros(&[m, n]);
        for i in 0..m {
            for j in 0..n {
                let sum: f64 = (0..k).map(|l| at(i, l) * bt(l, j)).sum();
                c.data[i * n + j] = f64::from(self.alpha) * sum;
            }
        }
        if let Some(activation) = &self.activation {
            c = activation.oracle(&[c]).remove(0);
        }
        let (key, others) = self.key_slot();
        if let Some((DropoutMask { rate, site }, slot)) = self.dropout.zip(key) {
            c = Dropout { rate, site, add: false }.oracle(&[c, inputs[slot].clone()]).remove(0);
        }
        for added in &inputs[others..] {
            c.data.iter_mut().zip(&added.data).for_each(|(c, x)| *c += x);
        }
        vec![c]
    }

    fn accumulating(&self, _: usize) -> Option<Arc<dyn Op>> {
        Some(Arc::new(Matmul { accumulate: true, ..self.clone() }))
    }

    fn plus(&self) -> Option<Arc<dyn Op>> {
        (!self.residual).then(|| Arc::new(self.clone().with_residual()) as Arc<dyn Op>)
    }
}
