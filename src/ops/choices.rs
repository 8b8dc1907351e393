//! For ops with several kernels: the classes of shapes among which one answer holds, and the trials on which kernels are timed.

use std::sync::Arc;

use super::Activation;
use super::attention::{Attention, AttentionBackward, Mask, Tiling};
use super::matmul::{Gemm, Matmul, MatmulLayout, Variant};
use crate::gpu::Caps;
use crate::graph::{Class, Fill, Launcher, Op, Trial};

/// The largest m, n and k of a trial: enough that more changes nothing, as little as that allows. A card wants thousands
/// of workgroups, a processor a handful.
fn most(caps: &Caps) -> [usize; 3] {
    match caps.kind {
        "discrete GPU" => [2048, 4096, 2048],
        "CPU" => [256, 1024, 1024],
        _ => [512, 2048, 2048],
    }
}

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Variant::Tile => "tile",
            Variant::Shared => "shared",
            Variant::SharedAhead => "shared ahead",
            Variant::Subgroup => "subgroup",
            Variant::Rows | Variant::Few => "rows",
            Variant::Deep(8) => "deep 8",
            Variant::Deep(16) => "deep 16",
            Variant::Deep(32) => "deep 32",
            Variant::Deep(64) => "deep 64",
            Variant::Deep(_) => "deep 128",
        }
    }
}

impl Gemm {
    /// The variant for this product, `any_rows`: whatever the number of rows. Sizes that are no multiples of four, which no
    /// published T5 has, go by the rules, and so do packed weights.
    pub(super) fn choose(&self, l: &mut Launcher<'_>, candidates: &[Variant], any_rows: bool) -> Variant {
        let aligned = [self.a, self.b, self.c].iter().all(|matrix| matrix.is_vec4());
        if !(aligned && self.n.is_multiple_of(4)) || self.b.is_packed() {
            return candidates[0];
        }
        let class = self.class(l.caps, any_rows);
        let names: Vec<_> = candidates.iter().map(|v| v.name()).collect();
        let columns = if self.is_gated() { 2 * self.n } else { self.n };
        let flops = 2.0 * (self.m * columns) as f64 * self.k as f64;
        candidates[l.choose(class, &names, flops, |class, i| self.trial(class, candidates[i]))]
    }

    fn class(&self, caps: &Caps, any_rows: bool) -> Class {
        let [m, n, k] = most(caps);
        let mut name = String::from(match self.layout {
            MatmulLayout::Nn => "matmul nn f32",
            MatmulLayout::Nt => "matmul nt f32",
            MatmulLayout::Tn => "matmul tn f32",
        });
        if self.norm.is_some() {
            name += " norm";
        }
        if let Some(Activation { function, gated }) = self.activation {
            name += &format!(" {}{function:?}", if gated { "gated " } else { "" }).to_lowercase();
        }
        if self.adds() {
            name += " add";
        }
        if any_rows {
            return Class::new(name + " few rows").model_size("n", self.n, n).model_size("k", self.k, k);
        }
        let class = Class::new(name);
        match self.layout {
            // A gradient of weights: the sum is over the tokens.
            MatmulLayout::Tn => class.model_size("m", self.m, m).model_size("n", self.n, n).batch_size("k", self.k, k),
            _ => class.batch_size("m", self.m, m).model_size("n", self.n, n).model_size("k", self.k, k),
        }
    }

    /// Whether the result is added to something that is read from memory.
    fn adds(&self) -> bool {
        self.accumulate || self.residual.is_some()
    }

    fn trial(&self, class: &Class, variant: Variant) -> Trial {
        let [m, n, k] = ["m", "n", "k"].map(|name| class.size(name));
        let op = Matmul {
            variant: Some(variant),
            norm: self.norm.map(|(_, eps)| eps),
            activation: self.activation,
            residual: self.adds(),
            ..Matmul::new(self.layout)
        };
        let columns = if self.is_gated() { 2 * n } else { n };
        let a = if self.layout == MatmulLayout::Tn { vec![k, m] } else { vec![m, k] };
        let b = if self.layout == MatmulLayout::Nt { vec![columns, k] } else { vec![k, columns] };
        let (scale, residual) = (self.norm.map(|_| vec![k]), self.adds().then(|| vec![m, n]));
        let inputs = [Some(a), Some(b), scale, residual].into_iter().flatten();
        let inputs = inputs.map(|shape| (shape, Fill::Random)).collect();
        Trial { op: Arc::new(op), inputs, flops: 2.0 * (m * columns) as f64 * k as f64 }
    }
}

/// Largest batch times heads, and sequence length, of a trial of attention.
const MOST_HEADS: usize = 64;
const MOST_POSITIONS: usize = 512;

impl Tiling {
    fn name(self) -> &'static str {
        match self {
            Tiling::Workgroup { side: 4 } => "workgroup 4",
            Tiling::Workgroup { .. } => "workgroup 8",
            Tiling::Staged => "staged",
            Tiling::Subgroup { .. } => "subgroup",
        }
    }
}

impl Attention {
    /// The tiling for this attention, or for its gradients. A software adapter goes by the rule: there it is known to be
    /// right, and compiling each of the others' kernels takes a second.
    pub(super) fn choose(&self, l: &mut Launcher<'_>, candidates: &[Tiling], backward: bool) -> Tiling {
        if l.caps.is_cpu() {
            return candidates[0];
        }
        let class = self.class(backward);
        let names: Vec<_> = candidates.iter().map(|tiling| tiling.name()).collect();
        let flops = self.flops() * if backward { 3.5 } else { 1.0 };
        candidates[l.choose(class, &names, flops, |class, i| self.trial(class, candidates[i], backward))]
    }

    fn class(&self, backward: bool) -> Class {
        let mut name = format!("attention{} f32 d{}", if backward { " backward" } else { "" }, self.d_kv);
        if let Some(reach) = self.reach {
            name += &format!(" bias{reach}");
        }
        let traits = [
            (self.mask == Mask::Causal, " causal"),
            (self.dropout > 0.0, " dropout"),
            (self.fused, " fused"),
            (self.query_block > 1, " blocks"),
        ];
        for (_, text) in traits.iter().filter(|s| s.0) {
            name += text;
        }
        Class::new(name)
            .batch_size("h", self.batch * self.heads, MOST_HEADS)
            .batch_size("q", self.q_len, MOST_POSITIONS)
            .batch_size("k", self.kv_len, MOST_POSITIONS)
    }

    /// Segments shorten the walks, and gaps change what is looked up: they go by what padded sequences do.
    fn trial(&self, class: &Class, tiling: Tiling, backward: bool) -> Trial {
        let mask = if self.mask.has_ranges() || self.mask == Mask::Shown { Mask::Padded } else { self.mask };
        let [heads, q_len, kv_len] = ["h", "q", "k"].map(|name| class.size(name));
        let op = Attention { batch: 1, heads, q_len, kv_len, mask, tiling: Some(tiling), ..self.clone() };
        let (slots, inner) = (op.slots(), op.inner());
        let mut inputs = vec![(vec![q_len, if op.fused { 3 * inner } else { inner }], Fill::Random)];
        inputs.extend((!op.fused).then(|| (vec![kv_len, 2 * inner], Fill::Random)));
        inputs.extend(op.reach.map(|reach| (vec![heads, 2 * reach + 1], Fill::Random)));
        inputs.extend(slots.keys.map(|_| (vec![1], Fill::Number(kv_len as u32))));
        inputs.extend(slots.key.map(|_| (vec![4], Fill::Number(1))));
        let flops = op.flops();
        if !backward {
            return Trial { op: Arc::new(op), inputs, flops };
        }
        // The output, the logarithm of the denominators, and the output's gradient: any numbers will do.
        for shape in [vec![q_len, inner], vec![heads, q_len], vec![q_len, inner]] {
            inputs.push((shape, Fill::Random));
        }
        Trial { op: Arc::new(AttentionBackward(op)), inputs, flops: 3.5 * flops }
    }
}
