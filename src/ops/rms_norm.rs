//! T5's layer norm: the root mean square alone, no mean, no bias (Raffel et al. 2020, section 2.1).

use std::sync::Arc;

use super::rows::{column_sum, elem, lanes_per_row};
use crate::gpu::{Constant, Header, Shader};
use crate::graph::{Backward, Dtype, Launch, Launcher, Op, Operand, Tensor64};

/// `x [rows, cols]`, `scale [cols]` -> `x / rms(x) * scale`.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    pub eps: f32,
}

/// `x`, `scale`, `dy`, and optionally a tensor to add to dx -> `dx`, and `dscale` unless it is not wanted.
#[derive(Clone, Debug)]
struct RmsNormBackward {
    eps: f32,
    wants_scale: bool,
    add: bool,
    accumulate: bool,
}

const LANES: (&str, Constant) = ("LANES", Constant::U32(32));

static RMS_NORM: Shader =
    Shader { name: "rms_norm", source: include_str!("../../shaders/rms_norm.wgsl"), shared: &[], defaults: &[LANES] };

static RMS_NORM_BACKWARD: Shader = Shader {
    name: "rms_norm_backward",
    source: include_str!("../../shaders/rms_norm_backward.wgsl"),
    shared: &[],
    defaults: &[LANES, ("ADD", Constant::Bool(false))],
};

static RMS_NORM_SCALE_BACKWARD: Shader = Shader {
    name: "rms_norm_scale_backward",
    source: include_str!("../../shaders/rms_norm_scale_backward.wgsl"),
    shared: &[],
    defaults: &[],
};

impl RmsNorm {
    /// `y = x / rms(x) * scale`; the rows are as long as `scale`.
    pub(super) fn launch_on(&self, l: &mut Launcher<'_>, x: Operand, scale: Operand, y: Operand) {
        let (cols, rows) = (scale.len, x.len / scale.len);
        let lanes = lanes_per_row(l.caps, cols);
        let (header, width) = elem(Header::new().u32("LANES", lanes), cols);
        l.launch(Launch {
            shader: &RMS_NORM,
            header,
            bindings: vec![("x", x), ("scale", scale), ("y", y)],
            params: vec![
                ("rows", rows.into()),
                ("width", width.into()),
                ("cols", (cols as f32).into()),
                ("eps", self.eps.into()),
            ],
            workgroups: rows.div_ceil(64 / lanes as usize) as u64,
        });
    }
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        assert_eq!(inputs[0][1..], *inputs[1], "rms_norm");
        vec![(inputs[0].to_vec(), Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (x, scale, y) = (l.input(0), l.input(1), l.output(0));
        self.launch_on(l, x, scale, y);
    }

    fn backward(&self, b: &mut Backward<'_>) {
        let Some(dy) = b.grad(0) else { return };
        let op = RmsNormBackward { eps: self.eps, wants_scale: b.needs(1), add: false, accumulate: false };
        let inputs = [b.input(0), b.input(1), dy];
        for (input, gradient) in b.graph.push(op, &inputs).into_iter().enumerate() {
            b.give(input, gradient);
        }
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (x, scale) = (&inputs[0], &inputs[1]);
        let mut y = Vec::with_capacity(x.data.len());
        for row in x.rows() {
            let rms = (row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64 + f64::from(self.eps)).sqrt();
            y.extend(row.iter().zip(&scale.data).map(|(v, s)| v / rms * s));
        }
        vec![Tensor64::new(&x.shape, y)]
    }
}

/// Rows summed by one invocation in the first stage of the scale's gradient.
const PART_ROWS: usize = 64;

impl Op for RmsNormBackward {
    fn name(&self) -> &'static str {
        "rms_norm_backward"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let shapes = [inputs[0].to_vec(), inputs[1].to_vec()];
        shapes.into_iter().take(1 + usize::from(self.wants_scale)).map(|shape| (shape, Dtype::F32)).collect()
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let [rows, cols] = [l.shape(0)[0], l.shape(0)[1]];
        let lanes = lanes_per_row(l.caps, cols);
        let (header, width) = elem(Header::new().u32("LANES", lanes).bool("ADD", self.add), cols);
        let (x, scale, dy) = (l.input(0), l.input(1), l.input(2));
        let rstd = l.scratch(rows);
        l.launch(Launch {
            shader: &RMS_NORM_BACKWARD,
            header,
            bindings: vec![
                ("x", x),
                ("scale", scale),
                ("dy", dy),
                ("before", if self.add { l.input(3) } else { dy }),
                ("rstd", rstd),
                ("grad_x", l.output(0)),
            ],
            params: vec![
                ("rows", rows.into()),
                ("width", width.into()),
                ("cols", (cols as f32).into()),
                ("eps", self.eps.into()),
            ],
            workgroups: rows.div_ceil(64 / lanes as usize) as u64,
        });
        if !self.wants_scale {
            return;
        }
        let n_parts = rows.div_ceil(PART_ROWS);
        let parts = l.scratch(n_parts * cols);
        l.launch(Launch {
            shader: &RMS_NORM_SCALE_BACKWARD,
            header: Header::new(),
            bindings: vec![("x", x), ("dy", dy), ("rstd", rstd), ("parts", parts)],
            params: vec![
                ("rows", rows.into()),
                ("cols", cols.into()),
                ("part_rows", PART_ROWS.into()),
                ("parts", n_parts.into()),
            ],
            workgroups: (n_parts * cols).div_ceil(64) as u64,
        });
        column_sum(l, parts, n_parts, l.output(1), self.accumulate);
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (x, scale, dy) = (&inputs[0], &inputs[1], &inputs[2]);
        let cols = scale.data.len();
        let mut dx = Vec::with_capacity(x.data.len());
        let mut dscale = vec![0.0; cols];
        for (row, dy) in x.rows().zip(dy.rows()) {
            let rms = (row.iter().map(|v| v * v).sum::<f64>() / cols as f64 + f64::from(self.eps)).sqrt();
            let dhat: Vec<f64> = dy.iter().zip(&scale.data).map(|(d, s)| d * s).collect();
            let mean = row.iter().zip(&dhat).map(|(v, d)| v / rms * d).sum::<f64>() / cols as f64;
            for c in 0..cols {
                dx.push((dhat[c] - row[c] / rms * mean) / rms);
                dscale[c] += dy[c] * row[c] / rms;
            }
        }
        let mut rest = inputs[3..].iter();
        if self.add
            && let Some(before) = rest.next()
        {
            dx.iter_mut().zip(&before.data).for_each(|(d, b)| *d += b);
        }
        if self.accumulate
            && let Some(before) = rest.next()
        {
            dscale.iter_mut().zip(&before.data).for_each(|(d, b)| *d += b);
        }
        let mut grads = vec![Tensor64::new(&x.shape, dx)];
        grads.extend(self.wants_scale.then(|| Tensor64::new(&scale.shape, dscale)));
        grads
    }

    fn accumulating(&self, output: usize) -> Option<Arc<dyn Op>> {
        (output == 1).then(|| Arc::new(RmsNormBackward { accumulate: true, ..self.clone() }) as Arc<dyn Op>)
    }

    fn plus(&self) -> Option<Arc<dyn Op>> {
        (!self.add).then(|| Arc::new(RmsNormBackward { add: true, ..self.clone() }) as Arc<dyn Op>)
    }
}
