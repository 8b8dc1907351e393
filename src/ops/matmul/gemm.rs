//! Products on windows of larger buffers, and the kernels that make them.

use super::super::activation::FUNCTIONS;
use super::super::attention::OUTER_PRODUCT;
use super::super::dropout::RANDOM;
use super::super::rows::elem;
use super::super::{Activation, DropoutMask, RmsNorm, weights};
use super::MatmulLayout;
use crate::gpu::{Caps, Constant, Header, Param, Shader};
use crate::graph::{GROUP, Launch, Launcher, Operand};

/// The kernels that make matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Register tiles; any adapter.
    Tile,
    /// Outer products across subgroups of a fixed size.
    Subgroup,
    /// Tiles in workgroup memory, both operands read as they are stored; any adapter, made for GPUs.
    Shared,
    /// The same, each tile on its way from memory while the one before is multiplied. No card has compared the two yet:
    /// `t5 tune` does.
    SharedAhead,
    /// For few rows: each invocation walks along k alone. Layout NT, k a multiple of four. A row's result does not depend on the
    /// other rows.
    Rows,
    /// The same for cards: so many invocations share a sum along k, 8 to 128, and read neighbouring weights.
    Deep(u32),
    /// `Rows` or `Deep`, whichever suits the adapter and the weights, so that a row's result is the same, bit for bit, however
    /// many rows there are.
    Few,
}

/// A product on windows of larger buffers: what [`Matmul`] and the cross-entropy op launch.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    pub layout: MatmulLayout,
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
    /// With the generator's key; of a `c` that is a whole matrix.
    pub dropout: Option<(DropoutMask, Operand)>,
    pub accumulate: bool,
    pub residual: Option<Operand>,
    pub variant: Option<Variant>,
    /// See [`Matmul::any_rows`](super::Matmul::any_rows).
    pub any_rows: bool,
}

/// A row-major matrix inside an operand: elements to its first, and from one row to the next. A packed operand is one
/// matrix as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub operand: Operand,
    pub offset: usize,
    pub ld: usize,
}

const DROPOUT: &str = include_str!("../../../shaders/matmul_dropout.wgsl");
const NO_DROPOUT: &str = include_str!("../../../shaders/matmul_no_dropout.wgsl");
const EMIT: [&str; 2] =
    [include_str!("../../../shaders/emit_f32.wgsl"), include_str!("../../../shaders/emit_vec4.wgsl")];

static PACK: Shader = Shader {
    name: "pack",
    source: include_str!("../../../shaders/pack.wgsl"),
    shared: &[],
    defaults: &[("TRANSPOSE", Constant::Bool(false))],
};

pub(super) const RESIDUAL: (&str, Constant) = ("RESIDUAL", Constant::Bool(false));
pub(super) const ACCUMULATE: (&str, Constant) = ("ACCUMULATE", Constant::Bool(false));
pub(super) const ACTIVATE: (&str, Constant) = ("ACTIVATE", Constant::Bool(false));
pub(super) const KIND: (&str, Constant) = ("KIND", Constant::U32(0));

static MATMUL: Shader = Shader {
    name: "matmul",
    source: include_str!("../../../shaders/matmul.wgsl"),
    shared: &[FUNCTIONS, KEPT],
    defaults: &[RESIDUAL, ACCUMULATE, ACTIVATE, KIND],
};

static MATMUL_SUBGROUP: Shader = Shader {
    name: "matmul_subgroup",
    source: include_str!("../../../shaders/matmul_subgroup.wgsl"),
    shared: &[FUNCTIONS, KEPT],
    defaults: &[RESIDUAL, ACCUMULATE, ACTIVATE, KIND, ("LANES", Constant::U32(8))],
};

static MATMUL_SUBGROUP_NT: Shader = Shader {
    name: "matmul_subgroup_nt",
    source: include_str!("../../../shaders/matmul_subgroup_nt.wgsl"),
    shared: &[FUNCTIONS, OUTER_PRODUCT, KEPT],
    defaults: &[RESIDUAL, ACCUMULATE, ACTIVATE, KIND, ("SIDE", Constant::U32(8))],
};

/// Operands of the kernels for few rows.
const FEW: &str = include_str!("../../../shaders/matmul_few.wgsl");

static MATMUL_ROWS: Shader = Shader {
    name: "matmul_rows",
    source: include_str!("../../../shaders/matmul_rows.wgsl"),
    shared: &[FUNCTIONS, FEW],
    defaults: &[
        RESIDUAL,
        ACCUMULATE,
        ACTIVATE,
        KIND,
        ("ROWS", Constant::U32(8)),
        ("NORM", Constant::Bool(false)),
        ("STAGED4", Constant::U32(1)),
        ("GATED", Constant::Bool(false)),
    ],
};

static MATMUL_DEEP: Shader = Shader {
    name: "matmul_deep",
    source: include_str!("../../../shaders/matmul_deep.wgsl"),
    shared: &[FUNCTIONS, FEW],
    defaults: &[
        RESIDUAL,
        ACCUMULATE,
        ACTIVATE,
        KIND,
        ("ROWS", Constant::U32(8)),
        ("DEEP", Constant::U32(32)),
        ("LANES", Constant::U32(64)),
        ("NORM", Constant::Bool(false)),
        ("GATED", Constant::Bool(false)),
    ],
};

/// Invocations of `matmul_rows`'s workgroups, and the fewest of `matmul_deep`'s.
const ROWS_LANES: usize = 32;
const DEEP_LANES: u32 = 64;

/// Invocations that share a sum, in the kernels of [`Variant::Deep`].
const DEPTHS: [u32; 5] = [8, 16, 32, 64, 128];

/// Invocations that a product of few rows should have on a card: some hundred for each of its units.
const WANTED_INVOCATIONS: usize = 1 << 14;

/// Numbers of normed rows that matmul_rows keeps in workgroup memory, of which every adapter has 16 KiB; more are normed
/// again wherever they are read.
const STAGED: usize = 3072;

/// More rows than this are left to the tiled kernels.
const FEW_ROWS: usize = 8;

/// Steps along k that one dispatch takes; a longer product adds up in several. Mesa 22 silently ends an invocation's
/// loops after 65,535 iterations in all (LP_MAX_TGSI_LOOP_ITERATIONS in its gallivm).
pub(super) const MOST_STEPS: usize = 1 << 15;

/// The end of the kernels with many rows in registers.
const KEPT: &str = include_str!("../../../shaders/matmul_kept.wgsl");

/// How a kernel walks along k: the parameter that counts its steps, their number, and the elements of a and of b (words, if
/// it is packed) from one step to the next.
struct Depth {
    name: &'static str,
    steps: usize,
    strides: [usize; 2],
    /// Rows of `c` that one invocation or subgroup makes.
    tile_rows: usize,
    /// Workgroups side by side, for kernels that split the columns.
    col_groups: Option<usize>,
}

impl Matrix {
    /// A whole operand as a matrix of `ld` columns.
    pub fn whole(operand: Operand, ld: usize) -> Matrix {
        Matrix { operand, offset: 0, ld }
    }

    pub(in crate::ops) fn is_packed(&self) -> bool {
        self.operand.dtype.is_packed()
    }

    /// All of the matrix in f32, `rows` of them, if it is packed.
    pub(in crate::ops) fn unpacked(self, l: &mut Launcher<'_>, rows: usize) -> Matrix {
        if self.is_packed() { k_major(l, self, false, rows, self.ld, 4) } else { self }
    }

    pub(in crate::ops) fn is_vec4(&self) -> bool {
        self.offset.is_multiple_of(4) && self.ld.is_multiple_of(4) && self.operand.len.is_multiple_of(4)
    }
}

impl Variant {
    /// The variants worth trying on this adapter for this product, best first.
    pub fn candidates(caps: &Caps, gemm: &Gemm) -> Vec<Variant> {
        let few = gemm.few_rows(caps).into_iter().next();
        let mut candidates = Vec::new();
        candidates.extend(few.filter(|_| gemm.m <= FEW_ROWS));
        // Where subgroups are wider, the tile's accumulators exceed what registers hold.
        if Variant::Subgroup.runs(caps, gemm) {
            candidates.push(Variant::Subgroup);
        }
        // A software rasteriser's workgroup memory is as slow as any other, and its barriers cost dear.
        let tiles = [Variant::Shared, Variant::SharedAhead, Variant::Tile];
        candidates.extend(if caps.is_cpu() { &tiles[2..] } else { &tiles });
        candidates.extend(few.filter(|_| gemm.m > FEW_ROWS));
        candidates
    }

    /// Whether this adapter can run the variant for this product.
    fn runs(self, caps: &Caps, gemm: &Gemm) -> bool {
        match self {
            Variant::Tile | Variant::Shared | Variant::SharedAhead | Variant::Few => true,
            Variant::Subgroup => caps.is_cpu() && caps.fixed_subgroup().is_some_and(|s| s == 4 || s == 8),
            Variant::Rows | Variant::Deep(_) => gemm.fits_few(),
        }
    }
}

impl Gemm {
    /// Whether the rows of both operands run along k and can be read in vec4s.
    fn along_k(&self) -> bool {
        self.layout == MatmulLayout::Nt && self.k.is_multiple_of(4) && self.a.is_vec4() && self.b.is_vec4()
    }

    /// Whether the kernels for few rows can make this product.
    fn fits_few(&self) -> bool {
        // The second half of packed columns must begin with a group of them. Every packed row is a whole number of loads.
        self.along_k() && (!(self.b.is_packed() && self.is_gated()) || self.n.is_multiple_of(GROUP))
    }

    /// The variants for few rows that are worth trying, best first, whatever the number of rows; none if they do not fit.
    pub(in crate::ops) fn few_rows(&self, caps: &Caps) -> Vec<Variant> {
        if !self.fits_few() {
            return Vec::new();
        }
        // A software rasteriser has no lanes to keep busy, and pays for barriers.
        if caps.is_cpu() {
            return vec![Variant::Rows];
        }
        let loads = self.k / weights::load_len(self.b.operand.dtype);
        let most = (loads.next_power_of_two() as u32).clamp(DEPTHS[0], DEPTHS[4]);
        // Half a kilobyte in one piece: packed rows take turns in groups of four.
        let least = if self.b.is_packed() { 8 } else { 32 };
        let wanted = WANTED_INVOCATIONS.div_ceil(self.n.div_ceil(4)).next_power_of_two() as u32;
        let best = wanted.clamp(least.min(most), most);
        let others =
            [best / 2, best * 2].into_iter().filter(|&deep| deep >= DEPTHS[0] && deep <= most).map(Variant::Deep);
        [Variant::Deep(best)].into_iter().chain(others).chain([Variant::Rows]).collect()
    }

    pub fn launch(&self, l: &mut Launcher<'_>) {
        let columns = if self.layout == MatmulLayout::Nt { self.k } else { self.n };
        let packed_fits = self.layout != MatmulLayout::Tn && self.b.offset == 0 && self.b.ld == columns;
        assert!(!self.b.is_packed() || packed_fits, "a packed operand is all of b, not of layout Tn");
        if self.layout == MatmulLayout::Nn && self.b.is_packed() {
            return Gemm { b: self.b.unpacked(l, self.k), ..*self }.launch(l);
        }
        let variant = match self.variant.filter(|v| v.runs(l.caps, self)) {
            // Sizes that no published T5 has: tiles, of which every row is added up alike.
            Some(Variant::Few) if !self.fits_few() => Variant::Tile,
            Some(Variant::Few) => self.choose(l, &self.few_rows(l.caps), true),
            Some(variant) => variant,
            None => self.choose(l, &Variant::candidates(l.caps, self), false),
        };
        match variant {
            Variant::Rows => self.launch_rows(l, None),
            Variant::Deep(deep) => self.launch_rows(l, Some(deep)),
            _ if self.norm.is_some() || self.is_gated() => self.launch_apart(l),
            Variant::Subgroup => self.launch_subgroup(l),
            Variant::Shared => self.launch_shared(l, false),
            Variant::SharedAhead => self.launch_shared(l, true),
            Variant::Tile | Variant::Few => self.launch_k_major(l, &MATMUL, 8, 64, Header::new()),
        }
    }

    pub(in crate::ops) fn is_gated(&self) -> bool {
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
        let a = k_major(l, self.a, self.layout != MatmulLayout::Tn, self.k, self.m, tile);
        let b = k_major(l, self.b, self.layout == MatmulLayout::Nt, self.k, self.n, tile);
        let tiles = self.m.div_ceil(tile) * self.n.div_ceil(tile);
        let depth = Depth { name: "k", steps: self.k, strides: [a.ld, b.ld], tile_rows: tile, col_groups: None };
        self.launch_kernel(l, shader, h, [a, b], depth, tiles.div_ceil(per_group));
    }

    fn launch_subgroup(&self, l: &mut Launcher<'_>) {
        let lanes = l.caps.fixed_subgroup().unwrap_or(8);
        let (tile, per_group) = (4 * lanes as usize, 32 / lanes as usize);
        if !self.along_k() || self.b.is_packed() {
            return self.launch_k_major(l, &MATMUL_SUBGROUP, tile, per_group, Header::new().u32("LANES", lanes));
        }
        let tiles = self.m.div_ceil(tile) * self.n.div_ceil(tile);
        let depth = Depth { name: "k4", steps: self.k / 4, strides: [4, 4], tile_rows: tile, col_groups: None };
        let header = Header::new().u32("SIDE", lanes);
        self.launch_kernel(l, &MATMUL_SUBGROUP_NT, header, [self.a, self.b], depth, tiles.div_ceil(per_group));
    }

    /// The kernels for few rows: `matmul_deep`, or `matmul_rows`.
    fn launch_rows(&self, l: &mut Launcher<'_>, deep: Option<u32>) {
        // Shares of so many invocations fit into 16 KiB. Rows that find no place get workgroups of their own.
        let most_rows = deep.map_or(FEW_ROWS, |deep| FEW_ROWS.min(512 / deep as usize));
        let rows = self.m.next_power_of_two().min(most_rows);
        let header =
            Header::new().u32("ROWS", rows as u32).bool("NORM", self.norm.is_some()).bool("GATED", self.is_gated());
        let (shader, header, columns) = match deep {
            Some(deep) => {
                let lanes = deep.max(DEEP_LANES);
                (&MATMUL_DEEP, header.u32("DEEP", deep).u32("LANES", lanes), 4 * (lanes / deep) as usize)
            }
            None => {
                // At least 64: Mesa guesses from an array of up to 32 elements how often the loop over it turns, and unrolls it.
                let fits = self.norm.is_some() && rows * self.k <= STAGED;
                let staged = if fits { (rows * self.k / 4).max(64) } else { 1 };
                (&MATMUL_ROWS, header.u32("STAGED4", staged as u32), 4 * ROWS_LANES)
            }
        };
        let header = weights::weights_parts(header, self.b.operand.dtype);
        let groups = self.n.div_ceil(columns);
        let load = weights::load_len(self.b.operand.dtype);
        let strides = [load, if self.b.is_packed() { 4 * GROUP } else { 4 }];
        let steps = self.k / load;
        let depth = Depth { name: "loads", steps, strides, tile_rows: rows, col_groups: Some(groups) };
        let workgroups = self.m.div_ceil(rows) * groups;
        self.launch_kernel(l, shader, header, [self.a, self.b], depth, workgroups);
    }

    /// What follows the sum over k, as a part of the kernel.
    pub(super) fn epilogue(&self, header: Header) -> Header {
        let residual_fits = self.residual.is_none_or(|r| r.len.is_multiple_of(4));
        let vec4 = self.c.is_vec4() && self.n.is_multiple_of(4) && residual_fits;
        let (header, _) = elem(header, if vec4 { 4 } else { 1 });
        let header = match self.dropout {
            Some(_) => header.part(RANDOM).part(DROPOUT),
            None => header.part(NO_DROPOUT),
        };
        header
            .part(EMIT[vec4 as usize])
            .bool("ACTIVATE", self.activation.is_some())
            .u32("KIND", self.activation.map_or(0, |a| a.function as u32))
    }

    /// What the epilogue reads besides the residual.
    pub(super) fn epilogue_bindings(&self) -> impl Iterator<Item = (&'static str, Operand)> {
        self.dropout.map(|(_, key)| ("key", key)).into_iter()
    }

    pub(super) fn epilogue_params(&self) -> [(&'static str, Param); 3] {
        let mask = self.dropout.map_or(DropoutMask { rate: 0.0, site: 0 }, |(mask, _)| mask);
        [("alpha", self.alpha.into()), ("rate", mask.rate.into()), ("site", mask.site.into())]
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
        let plain = self.activation.is_none() && self.norm.is_none() && self.dropout.is_none();
        assert!(plain || depth.steps <= MOST_STEPS, "{self:?}");
        let b_rows = weights::rows(b.operand.dtype, b.ld);
        let scales = b.operand.dtype.packing().filter(|packing| packing.scale_words > 0 && depth.col_groups.is_some());
        let b_scales = scales.map(|_| ("b_scales", b.operand));
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
                    .chain(self.epilogue_bindings())
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
                ]
                .into_iter()
                .chain(self.epilogue_params())
                .chain(depth.col_groups.is_none().then(|| ("tile_rows", depth.tile_rows.min(self.m).into())))
                .chain(depth.col_groups.map(|groups| ("col_groups", groups.into())))
                .chain(depth.col_groups.map(|_| {
                    let before = scales.map_or(0, |packing| packing.words(first * packing.load_len())[1]);
                    ("b_scales4", (b_rows.scales / 4 + before).into())
                }))
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

/// The matrix as [k, m] in f32 with rows of a multiple of four: itself, or a copy.
pub(super) fn k_major(
    l: &mut Launcher<'_>,
    source: Matrix,
    transpose: bool,
    k: usize,
    m: usize,
    tile: usize,
) -> Matrix {
    if !transpose && !source.is_packed() && source.is_vec4() && m.is_multiple_of(4) {
        return source;
    }
    let vec4 = source.is_vec4() && if transpose { k.is_multiple_of(4) } else { m.is_multiple_of(4) };
    let rows = weights::rows(source.operand.dtype, source.ld);
    let padded = m.next_multiple_of(tile);
    let packed = l.scratch(k * padded);
    l.launch(Launch {
        shader: &PACK,
        header: weights::load_parts(Header::new().bool("TRANSPOSE", transpose), source.operand, vec4),
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
