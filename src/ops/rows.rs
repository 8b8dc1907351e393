//! The common parts of row-wise kernels: element width, lanes per row, and sums made in parts.

use crate::gpu::{Caps, Constant, Header, Shader};
use crate::graph::{Launch, Launcher, Operand};

const ELEM: [&str; 2] = [include_str!("../../shaders/elem_f32.wgsl"), include_str!("../../shaders/elem_vec4.wgsl")];

static COLUMN_SUM: Shader = Shader {
    name: "column_sum",
    source: include_str!("../../shaders/column_sum.wgsl"),
    shared: &[],
    defaults: &[("ACCUMULATE", Constant::Bool(false))],
};

/// The element type for rows of `cols` numbers, with the rows' width in elements.
pub(super) fn elem(header: Header, cols: usize) -> (Header, usize) {
    let vec4 = cols.is_multiple_of(4);
    (header.part(ELEM[vec4 as usize]), if vec4 { cols / 4 } else { cols })
}

/// Invocations that share a row. A GPU wants neighbours to read neighbours; a software rasteriser loads lane by lane
/// whatever the addresses, and saves the barrier, unless a row of `cols` numbers is long.
pub(super) fn lanes_per_row(caps: &Caps, cols: usize) -> u32 {
    match (cols >= LONG_ROW, caps.is_cpu()) {
        (true, _) => 64,
        (false, true) => 1,
        (false, false) => 32,
    }
}

/// Rows at least this long are always shared by a whole workgroup.
const LONG_ROW: usize = 4096;

/// Rows that one invocation adds up.
const PART_ROWS: usize = 256;

/// `out [cols] = sum of the rows of x [rows, cols]`, added to what `out` holds if `accumulate`.
pub(super) fn column_sum(l: &mut Launcher<'_>, x: Operand, rows: usize, out: Operand, accumulate: bool) {
    let cols = out.len;
    let (mut x, mut rows) = (x, rows);
    while rows > PART_ROWS {
        let parts = rows.div_ceil(PART_ROWS);
        let sums = l.scratch(parts * cols);
        launch_column_sum(l, x, rows, sums, cols, false);
        (x, rows) = (sums, parts);
    }
    launch_column_sum(l, x, rows, out, cols, accumulate);
}

fn launch_column_sum(l: &mut Launcher<'_>, x: Operand, rows: usize, out: Operand, cols: usize, accumulate: bool) {
    let parts = out.len / cols;
    l.launch(Launch {
        shader: &COLUMN_SUM,
        header: Header::new().bool("ACCUMULATE", accumulate),
        bindings: vec![("x", x), ("out", out)],
        params: vec![
            ("rows", rows.into()),
            ("cols", cols.into()),
            ("part_rows", PART_ROWS.into()),
            ("parts", parts.into()),
        ],
        workgroups: out.len.div_ceil(64) as u64,
    });
}
