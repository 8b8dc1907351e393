//! Columns multiplied by learned factors: what IA3 (Liu et al. 2022) does to the outputs and inputs of projections.

use std::sync::Arc;

use super::rows::column_sum;
use crate::gpu::{Header, Shader};
use crate::graph::{Backward, Dtype, Launch, Launcher, Op, Tensor64};

/// `x [rows, cols]`, factors `[width, 1]` or `[1, width]` -> `x`, the columns from `at` on multiplied by them.
#[derive(Clone, Debug)]
pub struct ScaleColumns {
    pub at: usize,
}

/// `x [rows, cols]`, `dy [rows, cols]` -> the gradient of the factors, of their shape.
#[derive(Clone, Debug)]
struct ScaleColumnsBackward {
    at: usize,
    shape: Vec<usize>,
    accumulate: bool,
}

static SCALE_COLUMNS: Shader = Shader {
    name: "scale_columns",
    source: include_str!("../../shaders/scale_columns.wgsl"),
    shared: &[],
    defaults: &[],
};

static SCALE_COLUMNS_BACKWARD: Shader = Shader {
    name: "scale_columns_backward",
    source: include_str!("../../shaders/scale_columns_backward.wgsl"),
    shared: &[],
    defaults: &[],
};

impl Op for ScaleColumns {
    fn name(&self) -> &'static str {
        "scale_columns"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let width: usize = inputs[1].iter().product();
        assert!(self.at + width <= inputs[0][1], "{self:?} of {:?} by {:?}", inputs[0], inputs[1]);
        vec![(inputs[0].to_vec(), Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (x, factors, out) = (l.input(0), l.input(1), l.output(0));
        l.launch(Launch {
            shader: &SCALE_COLUMNS,
            header: Header::new(),
            bindings: vec![("x", x), ("factors", factors), ("out", out)],
            params: vec![
                ("len", out.len.into()),
                ("cols", l.shape(0)[1].into()),
                ("at", self.at.into()),
                ("width", factors.len.into()),
            ],
            workgroups: out.len.div_ceil(256) as u64,
        });
    }

    fn backward(&self, b: &mut Backward<'_>) {
        let Some(dy) = b.grad(0) else { return };
        let (x, factors) = (b.input(0), b.input(1));
        if b.needs(0) {
            let dx = b.graph.push1(self.clone(), &[dy, factors]);
            b.give(0, dx);
        }
        if b.needs(1) {
            let shape = b.graph.shape(factors).to_vec();
            let op = ScaleColumnsBackward { at: self.at, shape, accumulate: false };
            let dfactors = b.graph.push1(op, &[x, dy]);
            b.give(1, dfactors);
        }
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (mut out, factors) = (inputs[0].clone(), &inputs[1]);
        let cols = out.shape[1];
        for row in out.data.chunks_mut(cols) {
            row[self.at..].iter_mut().zip(&factors.data).for_each(|(y, factor)| *y *= factor);
        }
        vec![out]
    }
}

/// Rows that one invocation adds up first.
const PART_ROWS: usize = 64;

impl Op for ScaleColumnsBackward {
    fn name(&self) -> &'static str {
        "scale_columns_backward"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        assert_eq!(inputs[0], inputs[1], "{self:?}");
        vec![(self.shape.clone(), Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let [rows, cols] = [l.shape(0)[0], l.shape(0)[1]];
        let (x, dy, out) = (l.input(0), l.input(1), l.output(0));
        let n_parts = rows.div_ceil(PART_ROWS);
        let parts = l.scratch(n_parts * out.len);
        l.launch(Launch {
            shader: &SCALE_COLUMNS_BACKWARD,
            header: Header::new(),
            bindings: vec![("x", x), ("dy", dy), ("parts", parts)],
            params: vec![
                ("rows", rows.into()),
                ("cols", cols.into()),
                ("at", self.at.into()),
                ("width", out.len.into()),
                ("part_rows", PART_ROWS.into()),
                ("parts", n_parts.into()),
            ],
            workgroups: parts.len.div_ceil(64) as u64,
        });
        l.moves("x", rows * out.len);
        l.moves("dy", rows * out.len);
        column_sum(l, parts, n_parts, out, self.accumulate);
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (x, dy) = (&inputs[0], &inputs[1]);
        let mut sums = match (self.accumulate, inputs.last()) {
            (true, Some(before)) => before.data.clone(),
            _ => vec![0.0; self.shape.iter().product()],
        };
        for (x, dy) in x.rows().zip(dy.rows()) {
            let products = x[self.at..].iter().zip(&dy[self.at..]).map(|(x, dy)| x * dy);
            sums.iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
        }
        vec![Tensor64::new(&self.shape, sums)]
    }

    fn accumulating(&self, output: usize) -> Option<Arc<dyn Op>> {
        (output == 0).then(|| Arc::new(ScaleColumnsBackward { accumulate: true, ..self.clone() }) as Arc<dyn Op>)
    }
}
