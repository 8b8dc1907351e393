//! Projections, and what adapters add to them: the only places where a block's products are made, but for those of a decode step that are one
//! kernel with their norm.

use super::Builder;
use crate::graph::{Add, ValueId};
use crate::model::additions::Addition;
use crate::ops::{Activation, AddColumns, Dropout, DropoutMask, Function, Matmul, MatmulLayout, ScaleColumns};

impl Builder<'_> {
    /// x W^T, with what adapters add to it. Every projection of a block is made here, in [`Builder::project_back`], or for decoding in
    /// `project_norm`.
    pub fn linear(&mut self, weight: &str, x: ValueId) -> ValueId {
        let (mut scaled, layout) = (x, self.layout);
        for added in layout.added(weight) {
            if let Addition::Inputs { factors } = added {
                let factors = self.param(factors);
                scaled = self.graph.push1(ScaleColumns { at: 0 }, &[scaled, factors]);
            }
        }
        let w = self.param(weight);
        let mut y = self.graph.push1(self.product(), &[scaled, w]);
        for added in layout.added(weight) {
            match added {
                Addition::LowRank { at, down, up, scale, dropout } => {
                    let (down, up) = (self.param(down), self.param(up));
                    let x = self.drop(if self.training { *dropout } else { 0.0 }, x);
                    let inner = self.graph.push1(self.product(), &[x, down]);
                    let part = self.graph.push1(self.product(), &[inner, up]);
                    y = self.graph.push1(AddColumns { at: *at, scale: *scale }, &[y, part]);
                }
                Addition::Outputs { at, factors } => {
                    let factors = self.param(factors);
                    y = self.graph.push1(ScaleColumns { at: *at }, &[y, factors]);
                }
                Addition::Inputs { .. } => {}
            }
        }
        y
    }

    pub(super) fn product(&self) -> Matmul {
        Matmul { variant: self.variant, any_rows: self.any_rows, ..Matmul::new(MatmulLayout::Nt) }
    }

    /// residual + dropout(linear(x)).
    pub fn project_back(&mut self, weight: &str, x: ValueId, residual: ValueId) -> ValueId {
        if !self.layout.added(weight).is_empty() {
            let y = self.linear(weight, x);
            return self.add_to_residual(y, residual);
        }
        let w = self.param(weight);
        let op = self.product().with_residual();
        if self.dropout == 0.0 {
            return self.graph.push1(op, &[x, w, residual]);
        }
        self.sites += 1;
        let dropout = Some(DropoutMask { rate: self.dropout, site: self.sites });
        let key = self.key();
        self.graph.push1(Matmul { dropout, ..op }, &[x, w, key, residual])
    }

    /// residual + dropout(x).
    fn add_to_residual(&mut self, x: ValueId, residual: ValueId) -> ValueId {
        if self.dropout == 0.0 {
            return self.graph.push1(Add, &[residual, x]);
        }
        self.sites += 1;
        let key = self.key();
        self.graph.push1(Dropout { rate: self.dropout, site: self.sites, add: true }, &[x, key, residual])
    }

    /// residual + dropout(wo(a)); with an adapter (Houlsby et al. 2019) residual + dropout(y + up(relu(down(y)))) for y = wo(a).
    pub(super) fn end_feed_forward(&mut self, layer: &str, a: ValueId, residual: ValueId) -> ValueId {
        let wo = format!("{layer}.DenseReluDense.wo.weight");
        if self.config.adapter_width == 0 {
            return self.project_back(&wo, a, residual);
        }
        let y = self.linear(&wo, a);
        let inner = self.linear(&format!("{layer}.Adapter.down.weight"), y);
        let inner = self.graph.push1(Activation { function: Function::Relu, gated: false }, &[inner]);
        let up = self.param(&format!("{layer}.Adapter.up.weight"));
        let y = self.graph.push1(self.product().with_residual(), &[inner, up, y]);
        self.add_to_residual(y, residual)
    }
}
