//! A product that goes into some columns of another: what an adapter of one projection adds where several share a product.

use crate::gpu::{Header, Shader};
use crate::graph::{Backward, Dtype, Launch, Launcher, Op, Tensor64};

/// `x [rows, cols]`, `part [rows, width]` -> `x`, with `scale part` added to its columns from `at` on.
#[derive(Clone, Debug)]
pub struct AddColumns {
    pub at: usize,
    pub scale: f32,
}

/// `x [rows, cols]` -> `scale` times its columns from `at` on, `[rows, width]`: the gradient of [`AddColumns`]' part.
#[derive(Clone, Debug)]
pub struct TakeColumns {
    pub at: usize,
    pub width: usize,
    pub scale: f32,
}

static ADD_COLUMNS: Shader =
    Shader { name: "add_columns", source: include_str!("../../shaders/add_columns.wgsl"), shared: &[], defaults: &[] };

static TAKE_COLUMNS: Shader = Shader {
    name: "take_columns",
    source: include_str!("../../shaders/take_columns.wgsl"),
    shared: &[],
    defaults: &[],
};

impl Op for AddColumns {
    fn name(&self) -> &'static str {
        "add_columns"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let [x, part] = [inputs[0], inputs[1]];
        assert!(x[0] == part[0] && self.at + part[1] <= x[1], "{self:?} of {x:?} and {part:?}");
        vec![(x.to_vec(), Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (x, part, out) = (l.input(0), l.input(1), l.output(0));
        l.launch(Launch {
            shader: &ADD_COLUMNS,
            header: Header::new(),
            bindings: vec![("x", x), ("part", part), ("out", out)],
            params: vec![
                ("len", out.len.into()),
                ("cols", l.shape(0)[1].into()),
                ("at", self.at.into()),
                ("width", l.shape(1)[1].into()),
                ("scale", self.scale.into()),
            ],
            workgroups: out.len.div_ceil(256) as u64,
        });
    }

    fn backward(&self, b: &mut Backward<'_>) {
        let Some(dy) = b.grad(0) else { return };
        b.give(0, dy);
        if b.needs(1) {
            let part = b.input(1);
            let width = b.graph.shape(part)[1];
            let dpart = b.graph.push1(TakeColumns { at: self.at, width, scale: self.scale }, &[dy]);
            b.give(1, dpart);
        }
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (mut out, part) = (inputs[0].clone(), &inputs[1]);
        let (cols, width) = (out.shape[1], part.shape[1]);
        for (row, part) in out.data.chunks_mut(cols).zip(part.data.chunks(width)) {
            row[self.at..].iter_mut().zip(part).for_each(|(y, p)| *y += f64::from(self.scale) * p);
        }
        vec![out]
    }
}

impl Op for TakeColumns {
    fn name(&self) -> &'static str {
        "take_columns"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        assert!(self.at + self.width <= inputs[0][1], "{self:?} of {:?}", inputs[0]);
        vec![(vec![inputs[0][0], self.width], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (x, out) = (l.input(0), l.output(0));
        l.launch(Launch {
            shader: &TAKE_COLUMNS,
            header: Header::new(),
            bindings: vec![("x", x), ("out", out)],
            params: vec![
                ("len", out.len.into()),
                ("cols", l.shape(0)[1].into()),
                ("at", self.at.into()),
                ("width", self.width.into()),
                ("scale", self.scale.into()),
            ],
            workgroups: out.len.div_ceil(256) as u64,
        });
        l.moves("x", out.len);
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let columns = inputs[0].rows().flat_map(|row| &row[self.at..self.at + self.width]);
        vec![Tensor64::new(&[inputs[0].shape[0], self.width], columns.map(|x| f64::from(self.scale) * x).collect())]
    }
}
