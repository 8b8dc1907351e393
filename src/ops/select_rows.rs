//! Some rows of a matrix, in another order.

use super::rows::elem;
use crate::gpu::{Header, Shader};
use crate::graph::{Backward, Dtype, Launch, Launcher, Op, Tensor64};

/// `x [n, cols]`, `rows [m]` (u32), `places [n]` (u32) -> `[m, cols]`: row i is `x[rows[i]]`, or zeros where `rows[i]` is [`NO_ROW`].
/// No row is taken twice: `places` says where each row of x went, or [`NO_ROW`]; only the gradient reads it.
#[derive(Clone, Debug)]
pub struct SelectRows;

/// In the indices of [`SelectRows`]: none.
pub const NO_ROW: u32 = u32::MAX;

static SELECT_ROWS: Shader =
    Shader { name: "select_rows", source: include_str!("../../shaders/select_rows.wgsl"), shared: &[], defaults: &[] };

impl Op for SelectRows {
    fn name(&self) -> &'static str {
        "select_rows"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        assert_eq!(inputs[2], [inputs[0][0]], "places of the rows of {:?}", inputs[0]);
        vec![(vec![inputs[1][0], inputs[0][1]], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (rows, cols, count) = (l.shape(0)[0], l.shape(0)[1], l.shape(1)[0]);
        let (header, width) = elem(Header::new(), cols);
        l.launch(Launch {
            shader: &SELECT_ROWS,
            header,
            bindings: vec![("x", l.input(0)), ("index", l.input(1)), ("y", l.output(0))],
            params: vec![("count", count.into()), ("rows", rows.into()), ("width", width.into())],
            workgroups: (count * width).div_ceil(64) as u64,
        });
        l.moves("x", count.min(rows) * cols);
    }

    fn backward(&self, b: &mut Backward<'_>) {
        let Some(dy) = b.grad(0) else { return };
        // The same with both indices changed over: every row gets back what became of it.
        let inputs = [dy, b.input(2), b.input(1)];
        let dx = b.graph.push1(SelectRows, &inputs);
        b.give(0, dx);
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (x, rows) = (&inputs[0], &inputs[1].data);
        let mut y = Tensor64::zeros(&[rows.len(), x.shape[1]]);
        for (out, &row) in y.data.chunks_mut(x.shape[1]).zip(rows) {
            if let Some(row) = x.rows().nth(row as usize) {
                out.copy_from_slice(row);
            }
        }
        vec![y]
    }
}
