//! Matrix products in the three layouts that a linear layer and its gradients need.

mod shared;

use std::sync::Arc;

use super::activation::FUNCTIONS;
use super::attention::OUTER_PRODUCT;
use super::rows::elem;
use super::{Activation, RmsNorm, weights};
use crate::gpu::{Caps, Header, Shader, Value};
use crate::graph::{Backward, Dtype, GROUP, Launch, Launcher, Op, Operand, Tensor64};

/// Which operands are stored transposed. Storage is row-major throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `a [m, k]`, `b [k, n]`: gradient of a linear layer's input.
    Nn,
    /// `a [m, k]`, `b [n, k]`: a linear layer, weights as HuggingFace stores them, [out, in].
    /// Only here b may be packed; sums are in f32 all the same.
    Nt,
    /// `a [k, m]`, `b [k, n]`: gradient of a linear layer's weights.
    Tn,
}

/// `c [m, n] = act(alpha norm(a) b) + residual`. Inputs: `a`, `b`, the norm's `scale [k]` if there is one, `residual [m, n]`
/// if there is one.
#[derive(Clone, Debug)]
pub struct Matmul {
    pub layout: Layout,
    pub alpha: f32,
    /// Takes the rows of `a` through [`RmsNorm`] with this epsilon first. Has no backward rule.
    pub norm: Option<f32>,
    /// Gated: of a product of twice as many columns. Has no backward rule.
    pub activation: Option<Activation>,
    pub residual: bool,
    /// Adds to what the output's memory holds.
    pub accumulate: bool,
    /// A kernel to use instead of the preferred one; tests go through all.
    pub variant: Option<Variant>,
}

/// The kernels that make matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Register tiles; any adapter.
    Tile,
    /// Outer products across subgroups of a fixed size.
    Subgroup,
    /// Tiles in workgroup memory, both operands read as they are stored; any adapter, made for GPUs.
    Shared,
    /// Preferred for few rows; layout NT, k a multiple of four. A row's result does not depend on the other rows.
    Rows,
}

/// A product on windows of larger buffers: what [`Matmul`] and the cross-entropy op launch.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    pub layout: Layout,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Matrix,
    pub b: Matrix,
    pub c: Matrix,
    pub alpha: f32,
    /// Scale and epsilon; of an `a` that is a whole matrix.
    pub norm: Option<(Operand, f32)>,
    /// Gated: `n` counts the columns of `c`, which is a whole matrix; `b` has twice as many.
    pub activation: Option<Activation>,
    pub accumulate: bool,
    pub residual: Option<Operand>,
    pub variant: Option<Variant>,
}

/// A row-major matrix inside an operand: elements to its first, and from one row to the next. A packed operand is one
/// matrix as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub operand: Operand,
    pub offset: usize,
    pub ld: usize,
}

const EMIT: [&str; 2] = [include_str!("../../shaders/emit_f32.wgsl"), include_str!("../../shaders/emit_vec4.wgsl")];

static PACK: Shader = Shader {
    name: "pack",
    source: include_str!("../../shaders/pack.wgsl"),
    shared: &[],
    defaults: &[("TRANSPOSE", Value::Bool(false))],
};

const RESIDUAL: (&str, Value) = ("RESIDUAL", Value::Bool(false));
const ACCUMULATE: (&str, Value) = ("ACCUMULATE", Value::Bool(false));
const ACTIVATE: (&str, Value) = ("ACTIVATE", Value::Bool(false));
const KIND: (&str, Value) = ("KIND", Value::U32(0));

static MATMUL: Shader = Shader {
    name: "matmul",
    source: include_str!("../../shaders/matmul.wgsl"),
    shared: &[FUNCTIONS],
    defaults: &[RESIDUAL, ACCUMULATE, ACTIVATE, KIND],
};

static MATMUL_SUBGROUP: Shader = Shader {
    name: "matmul_subgroup",
    source: include_str!("../../shaders/matmul_subgroup.wgsl"),
    shared: &[FUNCTIONS],
    defaults: &[RESIDUAL, ACCUMULATE, ACTIVATE, KIND, ("LANES", Value::U32(8))],
};

static MATMUL_SUBGROUP_NT: Shader = Shader {
    name: "matmul_subgroup_nt",
    source: include_str!("../../shaders/matmul_subgroup_nt.wgsl"),
    shared: &[FUNCTIONS, OUTER_PRODUCT],
    defaults: &[RESIDUAL, ACCUMULATE, ACTIVATE, KIND, ("SIDE", Value::U32(8))],
};

static MATMUL_ROWS: Shader = Shader {
    name: "matmul_rows",
    source: include_str!("../../shaders/matmul_rows.wgsl"),
    shared: &[FUNCTIONS],
    defaults: &[
        RESIDUAL,
        ACCUMULATE,
        ACTIVATE,
        KIND,
        ("ROWS", Value::U32(8)),
        ("NORM", Value::Bool(false)),
        ("STAGED4", Value::U32(1)),
        ("GATED", Value::Bool(false)),
    ],
};

/// Numbers of normed rows that matmul_rows keeps in workgroup memory, of which every adapter has 16 KiB; more are normed
/// again wherever they are read.
const STAGED: usize = 3072;

/// More rows than this are left to the tiled kernels.
const FEW_ROWS: usize = 8;

/// Steps along k that one dispatch takes; a longer product adds up in several. Mesa 22 silently ends an invocation's
/// loops after 65,535 iterations in all (LP_MAX_TGSI_LOOP_ITERATIONS in its gallivm).
const MOST_STEPS: usize = 1 << 15;

/// How a kernel walks along k: the parameter that counts its steps, their number, and the elements of a and of b (words, if
/// it is packed) from one step to the next.
struct Depth {
    name: &'static str,
    steps: usize,
    strides: [usize; 2],
    /// Workgroups side by side, for kernels that split the columns.
    col_groups: Option<usize>,
}

impl Matrix {
    /// A whole operand as a matrix of `ld` columns.
    pub fn whole(operand: Operand, ld: usize) -> Matrix {
        Matrix { operand, offset: 0, ld }
    }

    pub(super) fn is_packed(&self) -> bool {
        self.operand.dtype.is_packed()
    }

    pub(super) fn is_vec4(&self) -> bool {
        self.offset.is_multiple_of(4) && self.ld.is_multiple_of(4) && self.operand.len.is_multiple_of(4)
    }
}

impl Variant {
    /// The variants that this adapter can run for this product, best first.
    pub fn candidates(caps: &Caps, gemm: &Gemm) -> Vec<Variant> {
        let mut candidates = Vec::new();
        // The second half of packed columns must begin with a group of them. Every packed row is a whole number of loads.
        let halves_fit = !(gemm.b.is_packed() && gemm.is_gated()) || gemm.n.is_multiple_of(GROUP);
        let rows_fit = gemm.along_k() && halves_fit;
        if rows_fit && gemm.m <= FEW_ROWS {
            candidates.push(Variant::Rows);
        }
        // Where subgroups are wider, the tile's accumulators exceed what registers hold.
        if caps.is_cpu() && caps.fixed_subgroup().is_some_and(|s| s == 4 || s == 8) {
            candidates.push(Variant::Subgroup);
        }
        // A software rasteriser's workgroup memory is as slow as any other, and its barriers cost dear.
        candidates.extend(if caps.is_cpu() {
            [Variant::Tile, Variant::Shared]
        } else {
            [Variant::Shared, Variant::Tile]
        });
        if rows_fit && gemm.m > FEW_ROWS {
            candidates.push(Variant::Rows);
        }
        candidates
    }
}

impl Gemm {
    /// Whether the rows of both operands run along k and can be read in vec4s.
    fn along_k(&self) -> bool {
        self.layout == Layout::Nt && self.k.is_multiple_of(4) && self.a.is_vec4() && self.b.is_vec4()
    }

    pub fn launch(&self, l: &mut Launcher<'_>) {
        let packed_fits = self.layout == Layout::Nt && self.b.offset == 0 && self.b.ld == self.k;
        assert!(!self.b.is_packed() || packed_fits, "a packed operand is b of layout Nt");
        let candidates = Variant::candidates(l.caps, self);
        let variant = self.variant.filter(|v| candidates.contains(v)).unwrap_or_else(|| self.choose(l, &candidates));
        if variant != Variant::Rows && (self.norm.is_some() || self.is_gated()) {
            return self.launch_apart(l);
        }
        match variant {
            Variant::Rows => self.launch_rows(l),
            Variant::Tile => self.launch_k_major(l, &MATMUL, 8, 64, Header::new()),
            Variant::Subgroup => self.launch_subgroup(l),
            Variant::Shared => self.launch_shared(l),
        }
    }

    pub(super) fn is_gated(&self) -> bool {
        self.activation.is_some_and(|a| a.gated)
    }

    /// Launches norm, product and gated activation one by one.
    fn launch_apart(&self, l: &mut Launcher<'_>) {
        let mut product = Gemm { norm: None, ..*self };
        if let Some((scale, eps)) = self.norm {
            assert!(self.a.offset == 0 && self.a.ld == self.k, "norm of part of a matrix");
            let normed = l.scratch(self.m * self.k);
            RmsNorm { eps }.launch_on(l, self.a.operand, scale, normed);
            product.a.operand = normed;
        }
        let Some(activation) = self.activation.filter(|a| a.gated) else { return product.launch(l) };
        assert!(self.c.offset == 0 && self.c.ld == self.n && self.residual.is_none() && !self.accumulate);
        let h = l.scratch(2 * self.m * self.n);
        Gemm { n: 2 * self.n, c: Matrix::whole(h, 2 * self.n), activation: None, ..product }.launch(l);
        activation.launch_on(l, self.m, h, self.c.operand);
    }

    /// Launches a kernel of square tiles that wants both operands k-major, packing those which are not.
    fn launch_k_major(&self, l: &mut Launcher<'_>, shader: &'static Shader, tile: usize, per_group: usize, h: Header) {
        let a = k_major(l, self.a, self.layout != Layout::Tn, self.k, self.m, tile);
        let b = k_major(l, self.b, self.layout == Layout::Nt, self.k, self.n, tile);
        let tiles = self.m.div_ceil(tile) * self.n.div_ceil(tile);
        let depth = Depth { name: "k", steps: self.k, strides: [a.ld, b.ld], col_groups: None };
        self.launch_kernel(l, shader, h, [a, b], depth, tiles.div_ceil(per_group));
    }

    fn launch_subgroup(&self, l: &mut Launcher<'_>) {
        let lanes = l.caps.fixed_subgroup().unwrap_or(8);
        let (tile, per_group) = (4 * lanes as usize, 32 / lanes as usize);
        if !self.along_k() || self.b.is_packed() {
            return self.launch_k_major(l, &MATMUL_SUBGROUP, tile, per_group, Header::new().u32("LANES", lanes));
        }
        let tiles = self.m.div_ceil(tile) * self.n.div_ceil(tile);
        let depth = Depth { name: "k4", steps: self.k / 4, strides: [4, 4], col_groups: None };
        let header = Header::new().u32("SIDE", lanes);
        self.launch_kernel(l, &MATMUL_SUBGROUP_NT, header, [self.a, self.b], depth, tiles.div_ceil(per_group));
    }

    fn launch_rows(&self, l: &mut Launcher<'_>) {
        let rows = self.m.next_power_of_two().min(FEW_ROWS);
        let staged = if self.norm.is_some() && rows * self.k <= STAGED { rows * self.k / 4 } else { 1 };
        let header = Header::new()
            .u32("ROWS", rows as u32)
            .bool("NORM", self.norm.is_some())
            .u32("STAGED4", staged as u32)
            .bool("GATED", self.is_gated());
        let header = weights::weights_parts(header, self.b.operand.dtype);
        let groups = self.n.div_ceil(4 * 32);
        let load = weights::load_len(self.b.operand.dtype);
        let strides = [load, if self.b.is_packed() { 4 * GROUP } else { 4 }];
        let depth = Depth { name: "loads", steps: self.k / load, strides, col_groups: Some(groups) };
        let workgroups = self.m.div_ceil(rows) * groups;
        self.launch_kernel(l, &MATMUL_ROWS, header, [self.a, self.b], depth, workgroups);
    }

    /// What follows the sum over k, as a part of the kernel.
    fn epilogue(&self, header: Header) -> Header {
        let residual_fits = self.residual.is_none_or(|r| r.len.is_multiple_of(4));
        let vec4 = self.c.is_vec4() && self.n.is_multiple_of(4) && residual_fits;
        let (header, _) = elem(header, if vec4 { 4 } else { 1 });
        header
            .part(EMIT[vec4 as usize])
            .bool("ACTIVATE", self.activation.is_some())
            .u32("KIND", self.activation.map_or(0, |a| a.function as u32))
    }

    fn launch_kernel(
        &self,
        l: &mut Launcher<'_>,
        shader: &'static Shader,
        header: Header,
        [a, b]: [Matrix; 2],
        depth: Depth,
        workgroups: usize,
    ) {
        let header = self.epilogue(header);
        assert!(self.activation.is_none() && self.norm.is_none() || depth.steps <= MOST_STEPS, "{self:?}");
        let b_rows = weights::rows(b.operand.dtype, b.ld);
        let b_scales = (b.operand.dtype == Dtype::Q8 && depth.col_groups.is_some()).then_some(("b_scales", b.operand));
        for first in (0..depth.steps).step_by(MOST_STEPS) {
            let at = |matrix: Matrix, stride: usize| (matrix.offset + first * stride) / 4;
            l.launch(Launch {
                shader,
                header: header
                    .clone()
                    .bool("RESIDUAL", self.residual.is_some() && first == 0)
                    .bool("ACCUMULATE", self.accumulate || first > 0),
                bindings: [("a", a.operand), ("b", b.operand), ("residual", self.residual.unwrap_or(a.operand))]
                    .into_iter()
                    .chain(depth.col_groups.map(|_| ("scale", self.norm.map_or(a.operand, |(scale, _)| scale))))
                    .chain(b_scales)
                    .chain([("c", self.c.operand)])
                    .collect(),
                params: [
                    ("m", self.m.into()),
                    ("n", self.n.into()),
                    (depth.name, MOST_STEPS.min(depth.steps - first).into()),
                    ("lda4", (a.ld / 4).into()),
                    ("ldb4", (b_rows.ld / 4).into()),
                    ("a_offset4", at(a, depth.strides[0]).into()),
                    ("b_offset4", at(b, depth.strides[1]).into()),
                    ("ldc", self.c.ld.into()),
                    ("c_offset", self.c.offset.into()),
                    ("alpha", self.alpha.into()),
                ]
                .into_iter()
                .chain(depth.col_groups.map(|groups| ("col_groups", groups.into())))
                // A scale serves two loads.
                .chain(depth.col_groups.map(|_| ("b_scales4", (b_rows.scales / 4 + first / 2).into())))
                .chain(depth.col_groups.map(|_| ("eps", self.norm.map_or(0.0, |(_, eps)| eps).into())))
                .collect(),
                workgroups: workgroups as u64,
            });
            let deep = MOST_STEPS.min(depth.steps - first) * (self.k / depth.steps);
            let columns = if self.is_gated() { 2 * self.n } else { self.n };
            l.flops(2.0 * (self.m * columns * deep) as f64);
            l.moves("a", self.m * deep);
            l.moves("b", columns * deep);
            l.moves("c", self.m * self.n * if self.accumulate || first > 0 { 2 } else { 1 });
        }
    }
}

/// The matrix as [k, m] with rows of a multiple of four: itself, or a packed copy.
fn k_major(l: &mut Launcher<'_>, source: Matrix, transpose: bool, k: usize, m: usize, tile: usize) -> Matrix {
    if !transpose && source.is_vec4() && m.is_multiple_of(4) {
        return source;
    }
    let vec4 = source.is_vec4() && if transpose { k.is_multiple_of(4) } else { m.is_multiple_of(4) };
    let rows = weights::rows(source.operand.dtype, source.ld);
    let padded = m.next_multiple_of(tile);
    let packed = l.scratch(k * padded);
    l.launch(Launch {
        shader: &PACK,
        header: Header::new().bool("TRANSPOSE", transpose).part(weights::load_part(source.operand, vec4)),
        bindings: vec![("src", source.operand), ("dst", packed)],
        params: vec![
            ("rows", k.into()),
            ("cols", m.into()),
            ("padded4", (padded / 4).into()),
            ("ld", rows.ld.into()),
            ("offset", source.offset.into()),
            ("scales", rows.scales.into()),
        ],
        workgroups: (k.div_ceil(4) * padded / 4).div_ceil(64) as u64,
    });
    l.moves("src", k * m);
    Matrix::whole(packed, padded)
}

impl Matmul {
    pub fn new(layout: Layout) -> Matmul {
        Matmul { layout, alpha: 1.0, norm: None, activation: None, residual: false, accumulate: false, variant: None }
    }

    /// `alpha a b + residual`.
    pub fn with_residual(self) -> Matmul {
        Matmul { residual: true, ..self }
    }

    pub fn scaled(self, alpha: f32) -> Matmul {
        Matmul { alpha, ..self }
    }

    /// m, n, k for operands of these shapes.
    #[track_caller]
    fn sizes(&self, a: &[usize], b: &[usize]) -> [usize; 3] {
        let (m, k) = if self.layout == Layout::Tn { (a[1], a[0]) } else { (a[0], a[1]) };
        let (n, k_of_b) = if self.layout == Layout::Nt { (b[0], b[1]) } else { (b[1], b[0]) };
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
        assert_eq!(inputs.len(), 2 + usize::from(self.norm.is_some()) + usize::from(self.residual));
        assert!(self.norm.is_none() || inputs[2] == [k] && self.layout != Layout::Tn, "matmul of a norm {inputs:?}");
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
            accumulate: self.accumulate,
            residual: self.residual.then(|| l.input(l.n_inputs() - 1)),
            variant: self.variant,
        };
        gemm.launch(l);
    }

    fn backward(&self, b: &mut Backward<'_>) {
        let Some(dc) = b.grad(0) else { return };
        let plain = self.layout == Layout::Nt && self.norm.is_none() && self.activation.is_none();
        assert!(plain, "only a linear layer by itself is differentiated, not {self:?}");
        if self.residual {
            b.give(2, dc);
        }
        let product = |layout| Matmul::new(layout).scaled(self.alpha);
        if b.needs(0) {
            let weights = b.input(1);
            let da = b.graph.push1(product(Layout::Nn), &[dc, weights]);
            b.give(0, da);
        }
        if b.needs(1) {
            let a = b.input(0);
            let dw = b.graph.push1(product(Layout::Tn), &[dc, a]);
            b.give(1, dw);
        }
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let normed = self.norm.map(|eps| RmsNorm { eps }.oracle(&[inputs[0].clone(), inputs[2].clone()]).remove(0));
        let (a, b) = (normed.as_ref().unwrap_or(&inputs[0]), &inputs[1]);
        let [m, n, k] = self.sizes(&a.shape, &b.shape);
        let at = |i: usize, l: usize| {
            if self.layout == Layout::Tn { a.data[l * m + i] } else { a.data[i * k + l] }
        };
        let bt = |l: usize, j: usize| {
            if self.layout == Layout::Nt { b.data[j * k + l] } else { b.data[l * n + j] }
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
        for added in &inputs[2 + usize::from(self.norm.is_some())..] {
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
