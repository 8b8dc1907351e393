//! Products by tiles in workgroup memory. They read both operands as they are stored, and split a long k over workgroups.

use super::MatmulLayout;
use super::gemm::{ACCUMULATE, ACTIVATE, Gemm, KIND, MOST_STEPS, Matrix, RESIDUAL, k_major};
use crate::gpu::{Constant, Header, Shader};
use crate::graph::{Launch, Launcher};
use crate::ops::activation::FUNCTIONS;

const OPERANDS: [&str; 2] =
    [include_str!("../../../shaders/operands_f32.wgsl"), include_str!("../../../shaders/operands_vec4.wgsl")];

static MATMUL_SHARED: Shader = Shader {
    name: "matmul_shared",
    source: include_str!("../../../shaders/matmul_shared.wgsl"),
    shared: &[FUNCTIONS],
    defaults: &[
        RESIDUAL,
        ACCUMULATE,
        ACTIVATE,
        KIND,
        ("TILE", Constant::U32(64)),
        ("AHEAD", Constant::Bool(false)),
        ("A_ALONG_K", Constant::Bool(true)),
        ("B_ALONG_K", Constant::Bool(true)),
    ],
};

static MATMUL_PARTS: Shader = Shader {
    name: "matmul_parts",
    source: include_str!("../../../shaders/matmul_parts.wgsl"),
    shared: &[FUNCTIONS],
    defaults: &[RESIDUAL, ACCUMULATE, ACTIVATE, KIND],
};

/// Workgroups below which a GPU has idle processors: WebGPU does not tell how many it has, the large ones have 60 to 170.
const WANTED_WORKGROUPS: usize = 256;

/// Steps along k worth a part of their own: fewer cost less than writing and adding up their sums.
const LEAST_PART: usize = 512;

/// Steps along k that one invocation may take: it counts up to 1.3 iterations a step (see [`MOST_STEPS`]).
const MOST_PART: usize = MOST_STEPS;

/// How a product is cut up.
#[derive(Debug, PartialEq)]
struct Cut {
    /// Side of a workgroup's tile: 64, or 32 where larger ones would be too few.
    tile: usize,
    tiles: usize,
    parts: usize,
    /// Steps along k of each part; fewer in the last.
    part_k: usize,
}

impl Cut {
    /// `any_rows`: the sums are cut as they would be for many rows.
    fn of(m: usize, n: usize, k: usize, any_rows: bool) -> Cut {
        let tiles = |tile: usize| m.div_ceil(tile) * n.div_ceil(tile);
        let most = (k / LEAST_PART).max(1);
        let tile = if tiles(64) * most >= WANTED_WORKGROUPS { 64 } else { 32 };
        let tiles = tiles(tile);
        let wanted = if any_rows { 1 } else { WANTED_WORKGROUPS.div_ceil(tiles).min(most) };
        let parts = wanted.max(k.div_ceil(MOST_PART));
        // A multiple of the kernel's DEPTH for either tile.
        let part_k = k.div_ceil(parts).next_multiple_of(32);
        Cut { tile, tiles, parts: k.div_ceil(part_k), part_k }
    }
}

impl Gemm {
    /// `ahead`: tiles are fetched while the ones before them are multiplied.
    pub(super) fn launch_shared(&self, l: &mut Launcher<'_>, ahead: bool) {
        if self.b.is_packed() {
            let b = k_major(l, self.b, true, self.k, self.n, 4);
            return Gemm { layout: MatmulLayout::Nn, b, ..*self }.launch_shared(l, ahead);
        }
        let cut = Cut::of(self.m, self.n, self.k, self.any_rows);
        if cut.parts == 1 {
            return self.launch_tiles(l, &cut, ahead);
        }
        let ld = self.n.next_multiple_of(4);
        let sums = l.scratch(cut.parts * self.m * ld);
        let c = Matrix::whole(sums, ld);
        let parts = Gemm { c, alpha: 1.0, activation: None, dropout: None, residual: None, accumulate: false, ..*self };
        parts.launch_tiles(l, &cut, ahead);
        l.launch(Launch {
            shader: &MATMUL_PARTS,
            header: self
                .epilogue(Header::new())
                .bool("RESIDUAL", self.residual.is_some())
                .bool("ACCUMULATE", self.accumulate),
            bindings: [("x", sums), ("residual", self.residual.unwrap_or(sums))]
                .into_iter()
                .chain(self.epilogue_bindings())
                .chain([("c", self.c.operand)])
                .collect(),
            params: [
                ("m", self.m.into()),
                ("n", self.n.into()),
                ("parts", cut.parts.into()),
                ("ldx4", (ld / 4).into()),
                ("ldc", self.c.ld.into()),
                ("c_offset", self.c.offset.into()),
            ]
            .into_iter()
            .chain(self.epilogue_params())
            .collect(),
            workgroups: (self.m * ld / 4).div_ceil(64) as u64,
        });
        l.moves("c", self.m * self.n * if self.accumulate { 2 } else { 1 });
    }

    fn launch_tiles(&self, l: &mut Launcher<'_>, cut: &Cut, ahead: bool) {
        let (a_along_k, b_along_k) = (self.layout != MatmulLayout::Tn, self.layout == MatmulLayout::Nt);
        let vec4 = |x: Matrix, along_k: bool, width: usize| {
            x.is_vec4() && if along_k { self.k } else { width }.is_multiple_of(4)
        };
        let aligned = vec4(self.a, a_along_k, self.m) && vec4(self.b, b_along_k, self.n);
        let header = self
            .epilogue(Header::new().part(OPERANDS[aligned as usize]))
            .bool("RESIDUAL", self.residual.is_some())
            .bool("ACCUMULATE", self.accumulate)
            .u32("TILE", cut.tile as u32)
            .bool("AHEAD", ahead)
            .bool("A_ALONG_K", a_along_k)
            .bool("B_ALONG_K", b_along_k);
        l.launch(Launch {
            shader: &MATMUL_SHARED,
            header,
            bindings: [
                ("a", self.a.operand),
                ("b", self.b.operand),
                ("residual", self.residual.unwrap_or(self.a.operand)),
            ]
            .into_iter()
            .chain(self.epilogue_bindings())
            .chain([("c", self.c.operand)])
            .collect(),
            params: [
                ("m", (cut.parts * self.m).into()),
                ("rows", self.m.into()),
                ("n", self.n.into()),
                ("k", self.k.into()),
                ("part_k", cut.part_k.into()),
                ("lda", self.a.ld.into()),
                ("ldb", self.b.ld.into()),
                ("a_offset", self.a.offset.into()),
                ("b_offset", self.b.offset.into()),
                ("ldc", self.c.ld.into()),
                ("c_offset", self.c.offset.into()),
            ]
            .into_iter()
            .chain(self.epilogue_params())
            .collect(),
            workgroups: (cut.parts * cut.tiles) as u64,
        });
        l.flops(2.0 * (self.m * self.n * self.k) as f64);
        l.moves("a", self.m * self.k);
        l.moves("b", self.n * self.k);
        l.moves("c", cut.parts * self.m * self.n * if self.accumulate { 2 } else { 1 });
    }
}

#[cfg(test)]
mod tests {
    use super::Cut;

    #[test]
    fn few_tiles_share_out_a_long_k() {
        let weights = Cut::of(512, 512, 4096, false);
        assert_eq!(weights, Cut { tile: 64, tiles: 64, parts: 4, part_k: 1024 });
        let activations = Cut::of(4096, 512, 512, false);
        assert_eq!(activations, Cut { tile: 64, tiles: 512, parts: 1, part_k: 512 });
        let rows_alike = [16, 4096].map(|m| Cut::of(m, 512, 4096, true));
        assert!(rows_alike.iter().all(|cut| (cut.parts, cut.part_k) == (1, 4096)), "{rows_alike:?}");
        // 144 and 216 tiles: one workgroup each would leave the second half of a card idle.
        let square = Cut::of(768, 768, 4096, false);
        assert_eq!(square, Cut { tile: 64, tiles: 144, parts: 2, part_k: 2048 });
        assert_eq!(Cut::of(1152, 768, 4096, false).parts, 2);
        assert_eq!(Cut::of(1024, 1024, 4096, false).parts, 1);
        let small = Cut::of(512, 512, 512, false);
        assert_eq!(small, Cut { tile: 32, tiles: 256, parts: 1, part_k: 512 });
    }

    #[test]
    fn parts_cover_every_step() {
        for k in [1, 31, 511, 1025, 70_003, 1 << 20] {
            let cut = Cut::of(4, 12, k, false);
            assert!((cut.parts - 1) * cut.part_k < k && k <= cut.parts * cut.part_k, "{cut:?}");
            assert!(cut.part_k.is_multiple_of(32), "{cut:?}");
        }
    }
}
