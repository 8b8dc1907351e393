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

/// The most and the fewest rows that one invocation adds up.
const PART_ROWS: [usize; 2] = [256, 32];

/// Invocations that a sum over rows should have on a card.
const WANTED_INVOCATIONS: usize = 1 << 14;

/// Rows that one invocation adds up of `rows` of `cols` numbers. A software rasteriser has no lanes to keep busy.
fn part_rows(caps: &Caps, rows: usize, cols: usize) -> usize {
    let [most, fewest] = PART_ROWS;
    if caps.is_cpu() { most } else { (rows * cols / WANTED_INVOCATIONS).clamp(fewest, most) }
}

/// `out [cols] = sum of the rows of x [rows, cols]`, added to what `out` holds if `accumulate`.
pub(super) fn column_sum(l: &mut Launcher<'_>, x: Operand, rows: usize, out: Operand, accumulate: bool) {
    let cols = out.len;
    let (mut x, mut rows) = (x, rows);
    loop {
        let part = part_rows(l.caps, rows, cols);
        let parts = rows.div_ceil(part).max(1);
        let sums = if parts > 1 { l.scratch(parts * cols) } else { out };
        l.launch(Launch {
            shader: &COLUMN_SUM,
            header: Header::new().bool("ACCUMULATE", accumulate && parts == 1),
            bindings: vec![("x", x), ("out", sums)],
            params: vec![
                ("rows", rows.into()),
                ("cols", cols.into()),
                ("part_rows", part.into()),
                ("parts", parts.into()),
            ],
            workgroups: (parts * cols).div_ceil(64) as u64,
        });
        if parts == 1 {
            return;
        }
        (x, rows) = (sums, parts);
    }
}
