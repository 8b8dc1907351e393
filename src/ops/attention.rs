//! Attention as one op: T5's unscaled scores, bucketed bias, masks, online softmax, dropout.

use super::dropout::RANDOM;
use crate::gpu::{Caps, Constant, Header, Param, Shader};
use crate::graph::{Backward, Dtype, Launch, Launcher, Op, Operand, Tensor64};

/// `softmax(q k^T + bias) v` per sequence and head.
///
/// Inputs, in order:
/// - fused: `qkv [batch q_len, 3 heads d_kv]`; else `q [batch q_len, heads d_kv]` and `kv [batch kv_len, 2 heads d_kv]`
/// - with a bias: `[heads, 2 reach + 1]`, by clamped distance
/// - with [`Mask::Padded`]: `lens [batch]` (u32), the number of keys that are not padding
/// - with [`Mask::Shown`]: `shown [batch, kv_len / 32 rounded up]` (u32), a bit for each key, the lowest first
/// - with [`Mask::Segments`] and [`Mask::Window`]: for each query the range of keys that it sees, `[batch q_len, 2]` (u32), and for each key the
///   range of queries that see it, `[batch kv_len, 2]`, both as [`super::segment_ranges`] makes them
/// - with dropout: the generator's `key [4]` (u32)
///
/// Outputs: `[batch q_len, heads d_kv]`, and the logarithm of the softmax's denominator, `[batch heads, q_len]`.
#[derive(Clone, Debug)]
pub struct Attention {
    pub batch: usize,
    pub heads: usize,
    pub d_kv: usize,
    pub q_len: usize,
    pub kv_len: usize,
    pub mask: Mask,
    pub fused: bool,
    /// Largest distance that the bias tells apart; `None`: no bias.
    pub reach: Option<usize>,
    /// Queries that the bias takes to stand at one position: query i at `i / query_block`, those behind the last key at that key. 1, but
    /// where a key stands for a block of queries. Else only with [`Mask::Padded`], and without a backward rule.
    pub query_block: usize,
    pub dropout: f32,
    pub site: u32,
    /// Kernels to use instead of the preferred ones; tests go through all.
    pub tiling: Option<Tiling>,
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Those of its sequence that are not padding.
    Padded,
    /// Those of its sequence whose bits are set: gaps may lie anywhere.
    Shown,
    /// Those up to its own position.
    Causal,
    /// Those of its own segment, where a sequence holds several examples. Costs what the examples cost: tiles in which no
    /// query sees a key are left out.
    Segments,
    /// As [`Mask::Segments`], by ranges of which none reaches farther than `radius` from its own position. The kernels are the
    /// same; what they have to do is counted by the window.
    Window { radius: usize },
}

impl Mask {
    /// Whether ranges say what is seen.
    pub(super) fn has_ranges(self) -> bool {
        matches!(self, Mask::Segments | Mask::Window { .. })
    }

    /// How many of `len` positions `own` neighbouring ones see together at most.
    fn span(self, own: usize, len: usize) -> usize {
        match self {
            Mask::Window { radius } => len.min(own.saturating_add(2 * radius)),
            Mask::Padded | Mask::Shown | Mask::Causal | Mask::Segments => len,
        }
    }
}

/// How the kernels cut the scores into tiles, of 4 `side` queries x 4 `side` keys each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiling {
    /// A workgroup of `side` x `side` invocations, tiles in workgroup memory; any adapter.
    Workgroup { side: usize },
    /// Workgroups of 8 x 8 whose operands, too, pass through workgroup memory; any adapter, made for cards.
    Staged,
    /// Outer products across a subgroup, which has `side` lanes; d_kv a multiple of four.
    Subgroup { side: usize },
}

/// The inputs of [`Attention`], then its two outputs, then the gradient of the first -> gradients of `qkv` (or of `q`,
/// and of `kv`) and of the bias.
#[derive(Clone, Debug)]
pub(super) struct AttentionBackward(pub Attention);

macro_rules! part {
    ($name:literal) => {
        include_str!(concat!("../../shaders/", $name, ".wgsl"))
    };
}

const COMMON: &str = part!("attention_common");
const SCORES: &str = part!("attention_scores");
const TILE: &str = part!("attention_tile");
const GRADIENT: &str = part!("attention_gradient");
const STAGE: &str = part!("attention_stage");
const DISTANCES: &str = part!("attention_distances");
const OUTER: &str = part!("attention_outer");
pub(super) const OUTER_PRODUCT: &str = part!("outer");
const DV: (&str, Constant) = ("DV", Constant::U32(1));
const SIDE: (&str, Constant) = ("SIDE", Constant::U32(8));
const QUERY_BLOCK: (&str, Constant) = ("QUERY_BLOCK", Constant::U32(1));

static ATTENTION: Shader = Shader {
    name: "attention",
    source: part!("attention"),
    shared: &[RANDOM, COMMON, SCORES, TILE],
    defaults: &[DV, SIDE, QUERY_BLOCK],
};

static ATTENTION_STAGED: Shader = Shader {
    name: "attention_staged",
    source: part!("attention_staged"),
    shared: &[RANDOM, COMMON, SCORES, STAGE],
    defaults: &[DV, SIDE, QUERY_BLOCK],
};

static ATTENTION_SUBGROUP: Shader = Shader {
    name: "attention_subgroup",
    source: part!("attention_subgroup"),
    shared: &[RANDOM, COMMON, OUTER_PRODUCT, OUTER],
    defaults: &[DV, SIDE],
};

static ATTENTION_DELTA: Shader = Shader {
    name: "attention_delta",
    source: part!("attention_delta"),
    shared: &[],
    defaults: &[("LANES", Constant::U32(1))],
};

static ATTENTION_BACKWARD_KV: Shader = Shader {
    name: "attention_backward_kv",
    source: part!("attention_backward_kv"),
    shared: &[RANDOM, COMMON, SCORES, TILE, GRADIENT, part!("attention_backward_tile"), DISTANCES],
    defaults: &[DV, SIDE, ("DISTANCES", Constant::U32(1))],
};

static ATTENTION_BACKWARD_Q: Shader = Shader {
    name: "attention_backward_q",
    source: part!("attention_backward_q"),
    shared: &[RANDOM, COMMON, SCORES, TILE, GRADIENT, part!("attention_backward_tile")],
    defaults: &[DV, SIDE],
};

static ATTENTION_STAGED_BACKWARD_KV: Shader = Shader {
    name: "attention_staged_backward_kv",
    source: part!("attention_staged_backward_kv"),
    shared: &[RANDOM, COMMON, SCORES, GRADIENT, STAGE, DISTANCES],
    defaults: &[DV, SIDE, ("DISTANCES", Constant::U32(1))],
};

static ATTENTION_STAGED_BACKWARD_Q: Shader = Shader {
    name: "attention_staged_backward_q",
    source: part!("attention_staged_backward_q"),
    shared: &[RANDOM, COMMON, SCORES, GRADIENT, STAGE],
    defaults: &[DV, SIDE],
};

static ATTENTION_SUBGROUP_BACKWARD_KV: Shader = Shader {
    name: "attention_subgroup_backward_kv",
    source: part!("attention_subgroup_backward_kv"),
    shared: &[RANDOM, COMMON, OUTER_PRODUCT, OUTER, part!("attention_outer_backward")],
    defaults: &[DV, SIDE],
};

static ATTENTION_SUBGROUP_BACKWARD_Q: Shader = Shader {
    name: "attention_subgroup_backward_q",
    source: part!("attention_subgroup_backward_q"),
    shared: &[RANDOM, COMMON, OUTER_PRODUCT, OUTER, part!("attention_outer_backward")],
    defaults: &[DV, SIDE],
};

/// Invocations of a card that share a row of the output and its gradient: 64 bytes in one piece.
const DELTA_LANES: usize = 16;

/// Positions of the inputs.
pub(super) struct Slots {
    pub kv: usize,
    pub bias: Option<usize>,
    /// The number of keys, their bits, or the range of keys of each query.
    pub keys: Option<usize>,
    /// The range of queries of each key.
    pub queries: Option<usize>,
    pub key: Option<usize>,
    pub count: usize,
}

/// What a group of invocations with a tile of the one walks over.
#[derive(Clone, Copy)]
enum Walk {
    Keys,
    Queries,
}

impl Tiling {
    fn side(self) -> usize {
        match self {
            Tiling::Workgroup { side } | Tiling::Subgroup { side } => side,
            Tiling::Staged => 8,
        }
    }

    fn pick<T>(self, workgroup: T, staged: T, subgroup: T) -> T {
        match self {
            Tiling::Workgroup { .. } => workgroup,
            Tiling::Staged => staged,
            Tiling::Subgroup { .. } => subgroup,
        }
    }
}

impl Attention {
    pub(super) fn inner(&self) -> usize {
        self.heads * self.d_kv
    }

    pub(super) fn slots(&self) -> Slots {
        let mut count = if self.fused { 1 } else { 2 };
        let mut take = |present: bool| {
            let slot = present.then_some(count);
            count += usize::from(present);
            slot
        };
        let bias = take(self.reach.is_some());
        let keys = take(self.mask != Mask::Causal);
        let queries = take(self.mask.has_ranges());
        let key = take(self.dropout > 0.0);
        Slots { kv: usize::from(!self.fused), bias, keys, queries, key, count }
    }

    /// Elements from one row of k and v to the next, and to the first of k and of v.
    pub(super) fn kv_layout(&self) -> [usize; 3] {
        let inner = self.inner();
        if self.fused { [3 * inner, inner, 2 * inner] } else { [2 * inner, 0, inner] }
    }

    fn q_ld(&self) -> usize {
        if self.fused { 3 * self.inner() } else { self.inner() }
    }

    fn distances(&self) -> usize {
        self.reach.map_or(1, |reach| 2 * reach + 1)
    }

    /// The tilings that this adapter can run, best first.
    pub fn candidates(&self, caps: &Caps) -> Vec<Tiling> {
        // A software rasteriser pays for each barrier, for each load and for each place of a tile that stays empty; where
        // its subgroups are wider, or the rows longer, the accumulators take too long to compile.
        let lanes = caps.fixed_subgroup().map_or(0, |s| s as usize);
        let outer = caps.is_cpu() && matches!(lanes, 4 | 8) && self.d_kv.is_multiple_of(4) && self.d_kv <= 64;
        // There, columns share the biases of neighbouring rows.
        let outer = outer && self.query_block == 1;
        let workgroups = if caps.is_cpu() { [4, 8] } else { [8, 4] }.map(|side| Tiling::Workgroup { side });
        // Without registers the staged kernels gain nothing.
        let staged = caps.unrolls().then_some(Tiling::Staged);
        let mut candidates: Vec<_> = outer.then_some(Tiling::Subgroup { side: lanes }).into_iter().collect();
        if caps.is_cpu() {
            candidates.extend(workgroups.into_iter().chain(staged));
        } else {
            candidates.extend(staged.into_iter().chain(workgroups));
        }
        candidates
    }

    fn tiling(&self, l: &mut Launcher<'_>, backward: bool) -> Tiling {
        let candidates = self.candidates(l.caps);
        self.tiling.filter(|t| candidates.contains(t)).unwrap_or_else(|| self.choose(l, &candidates, backward))
    }

    fn header(&self, side: usize) -> Header {
        let header = Header::new().u32("DV", self.d_kv.div_ceil(4).div_ceil(side) as u32).u32("SIDE", side as u32);
        let header = if self.query_block > 1 { header.u32("QUERY_BLOCK", self.query_block as u32) } else { header };
        let header = if self.d_kv.is_multiple_of(4) {
            header.part(part!("attention_vec4"))
        } else {
            header.part(part!("attention_row_f32")).part(part!("attention_f32"))
        };
        header
            .part(match self.mask {
                Mask::Padded => part!("attention_padded"),
                Mask::Shown => part!("attention_shown"),
                Mask::Causal => part!("attention_causal"),
                Mask::Segments | Mask::Window { .. } => part!("attention_segments"),
            })
            .part(match self.query_block {
                1 => part!("attention_query"),
                _ => part!("attention_query_block"),
            })
            .part(if self.reach.is_some() { part!("attention_bias") } else { part!("attention_no_bias") })
            .part(if self.dropout > 0.0 { part!("attention_dropout") } else { part!("attention_no_dropout") })
    }

    /// The inputs of a kernel; `walks`: the positions that its loop runs over.
    fn bindings(&self, l: &Launcher<'_>, walks: Walk) -> Vec<(&'static str, Operand)> {
        let slots = self.slots();
        let mask = match (self.mask, walks) {
            (Mask::Shown, _) => ("shown", slots.keys),
            (mask, _) if !mask.has_ranges() => ("lens", slots.keys),
            (_, Walk::Keys) => ("ranges", slots.keys),
            (_, Walk::Queries) => ("ranges", slots.queries),
        };
        let mut bindings = vec![("q", l.input(0)), ("kv", l.input(slots.kv))];
        let optional = [("bias", slots.bias), mask, ("key", slots.key)];
        bindings.extend(optional.into_iter().filter_map(|(name, slot)| Some((name, l.input(slot?)))));
        bindings
    }

    /// `out`: elements between rows of the kernel's output, and to the first element of it and of its second half.
    fn params(&self, out: [usize; 3], side: usize) -> Vec<(&'static str, Param)> {
        let [kv_ld, k_offset, v_offset] = self.kv_layout();
        vec![
            ("batch", self.batch.into()),
            ("heads", self.heads.into()),
            ("d_kv", self.d_kv.into()),
            ("d4", self.d_kv.div_ceil(4).into()),
            ("q_len", self.q_len.into()),
            ("kv_len", self.kv_len.into()),
            ("q_ld", self.q_ld().into()),
            ("q_offset", 0usize.into()),
            ("kv_ld", kv_ld.into()),
            ("k_offset", k_offset.into()),
            ("v_offset", v_offset.into()),
            ("out_ld", out[0].into()),
            ("out_offset", out[1].into()),
            ("second_offset", out[2].into()),
            ("reach", self.reach.unwrap_or(0).into()),
            ("site", self.site.into()),
            ("rate", self.dropout.into()),
            ("tile", (4 * side).into()),
        ]
    }

    /// Declares what an invocation loops over as it walks over `len` keys or queries, tile by tile: twice the dot products
    /// of d_kv (the backward pass has two), the tile's rows, and its diagonals. Staged kernels go over the rows once for each slice
    /// of d_kv, for either gradient.
    fn declare_iterations(&self, l: &mut Launcher<'_>, len: usize, tiling: Tiling) {
        let (d4, side) = (self.d_kv.div_ceil(4), tiling.side());
        let tile = 4 * side;
        let len = self.mask.span(tile, len);
        let slices = if tiling == Tiling::Staged { d4.div_ceil(side) } else { 0 };
        let per_tile = 2 * d4 + 4 * tile + 2 * slices * (tile + 2);
        l.iterations(len.div_ceil(tile) * per_tile, &format!("attention over {len} positions"));
    }

    fn workgroups(&self, len: usize, side: usize) -> u64 {
        (self.batch * self.heads * len.div_ceil(4 * side)) as u64
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let (slots, inner) = (self.slots(), self.inner());
        assert_eq!(inputs.len(), slots.count, "inputs of {self:?}");
        assert_eq!(inputs[0], [self.batch * self.q_len, self.q_ld()], "q of {self:?}");
        assert_eq!(inputs[slots.kv], [self.batch * self.kv_len, self.kv_layout()[0]], "kv of {self:?}");
        assert!(self.query_block == 1 || (self.query_block > 1 && self.mask == Mask::Padded), "{self:?}");
        assert!(self.mask != Mask::Causal || self.q_len == self.kv_len, "{self:?}");
        if let (true, Some(keys), Some(queries)) = (self.mask.has_ranges(), slots.keys, slots.queries) {
            assert_eq!(inputs[keys], [self.batch * self.q_len, 2], "keys of {self:?}");
            assert_eq!(inputs[queries], [self.batch * self.kv_len, 2], "queries of {self:?}");
        }
        if let (Mask::Shown, Some(keys)) = (self.mask, slots.keys) {
            assert_eq!(inputs[keys], [self.batch, self.kv_len.div_ceil(32)], "keys of {self:?}");
        }
        if let Some(bias) = slots.bias {
            assert_eq!(inputs[bias], [self.heads, self.distances()], "bias of {self:?}");
        }
        let out = vec![self.batch * self.q_len, inner];
        vec![(out, Dtype::F32), (vec![self.batch * self.heads, self.q_len], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let tiling = self.tiling(l, false);
        let side = tiling.side();
        self.declare_iterations(l, self.kv_len, tiling);
        let mut bindings = self.bindings(l, Walk::Keys);
        bindings.extend([("lse", l.output(1)), ("out", l.output(0))]);
        l.launch(Launch {
            shader: tiling.pick(&ATTENTION, &ATTENTION_STAGED, &ATTENTION_SUBGROUP),
            header: self.header(side),
            bindings,
            params: self.params([self.inner(), 0, 0], side),
            workgroups: self.workgroups(self.q_len, side),
        });
        l.flops(self.flops());
    }

    fn backward(&self, b: &mut Backward<'_>) {
        let Some(dout) = b.grad(0) else { return };
        assert_eq!(self.query_block, 1, "{self:?} is not differentiated");
        let slots = self.slots();
        let mut inputs: Vec<_> = (0..slots.count).map(|i| b.input(i)).collect();
        inputs.extend([b.output(0), b.output(1), dout]);
        let mut grads = b.graph.push(AttentionBackward(self.clone()), &inputs).into_iter();
        for slot in [Some(0), (!self.fused).then_some(1), slots.bias].into_iter().flatten() {
            if let Some(gradient) = grads.next() {
                b.give(slot, gradient);
            }
        }
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        super::attention_oracle::forward(self, inputs)
    }

    fn flops(&self) -> f64 {
        let pairs = (self.batch * self.heads * self.q_len * self.mask.span(1, self.kv_len)) as f64;
        4.0 * pairs * self.d_kv as f64
    }
}

impl Op for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let slots = self.0.slots();
        let mut shapes = vec![inputs[0].to_vec()];
        shapes.extend((!self.0.fused).then(|| inputs[1].to_vec()));
        shapes.extend(slots.bias.map(|bias| inputs[bias].to_vec()));
        shapes.into_iter().map(|shape| (shape, Dtype::F32)).collect()
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let a = &self.0;
        let (slots, tiling) = (a.slots(), a.tiling(l, true));
        let side = tiling.side();
        a.declare_iterations(l, a.q_len.max(a.kv_len), tiling);
        let (out, lse, dout) = (l.input(slots.count), l.input(slots.count + 1), l.input(slots.count + 2));
        let stats = l.scratch(2 * lse.len);
        let lanes = if l.caps.is_cpu() { 1 } else { DELTA_LANES };
        l.launch(Launch {
            shader: &ATTENTION_DELTA,
            header: Header::new().u32("LANES", lanes as u32),
            bindings: vec![("o", out), ("dout", dout), ("lse", lse), ("stats", stats)],
            params: vec![
                ("batch", a.batch.into()),
                ("heads", a.heads.into()),
                ("d_kv", a.d_kv.into()),
                ("q_len", a.q_len.into()),
            ],
            workgroups: (lse.len * lanes).div_ceil(64) as u64,
        });
        let [mut over_keys, mut over_queries] = [Walk::Keys, Walk::Queries].map(|walks| {
            let mut bindings = a.bindings(l, walks);
            bindings.extend([("dout", dout), ("stats", stats)]);
            bindings
        });

        let tiles = a.kv_len.div_ceil(4 * side) * a.batch;
        let dbias = l.scratch(if a.reach.is_some() { tiles * a.heads * a.distances() } else { 4 });
        over_queries.extend([("dbias", dbias), ("out", l.output(usize::from(!a.fused)))]);
        l.launch(Launch {
            shader: tiling.pick(&ATTENTION_BACKWARD_KV, &ATTENTION_STAGED_BACKWARD_KV, &ATTENTION_SUBGROUP_BACKWARD_KV),
            header: match tiling {
                Tiling::Subgroup { .. } => a.header(side),
                _ => a.header(side).u32("DISTANCES", a.distances() as u32),
            },
            bindings: over_queries,
            params: a.params(a.kv_layout(), side),
            workgroups: a.workgroups(a.kv_len, side),
        });
        // Scores, their gradient, and the two products with it and with the weights.
        l.flops(2.0 * a.flops());
        l.moves("out", 2 * a.batch * a.kv_len * a.inner());

        over_keys.push(("out", l.output(0)));
        l.launch(Launch {
            shader: tiling.pick(&ATTENTION_BACKWARD_Q, &ATTENTION_STAGED_BACKWARD_Q, &ATTENTION_SUBGROUP_BACKWARD_Q),
            header: a.header(side),
            bindings: over_keys,
            params: a.params([a.q_ld(), 0, 0], side),
            workgroups: a.workgroups(a.q_len, side),
        });
        l.flops(1.5 * a.flops());
        l.moves("out", a.batch * a.q_len * a.inner());
        if a.reach.is_some() {
            let total = l.output(if a.fused { 1 } else { 2 });
            super::rows::column_sum(l, dbias, tiles, total, false);
        }
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        super::attention_oracle::backward(&self.0, inputs)
    }

    fn flops(&self) -> f64 {
        // Scores and weight gradients are made twice, then three products: 7 of the forward pass's 2.
        3.5 * self.0.flops()
    }
}
