//! The hidden layer of the feed-forward network: relu in T5 v1.0, gated gelu from v1.1 on (Shazeer 2020).

use super::rows::elem;
use crate::gpu::{Constant, Header, Shader};
use crate::graph::{Backward, Dtype, Launch, Launcher, Op, Operand, Tensor64};

/// Activation functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    Relu,
    /// The tanh form, "gelu_new".
    GeluTanh,
    /// The exact form, "gelu".
    GeluErf,
    Silu,
    /// Of heads for classification.
    Tanh,
}

/// `h [rows, n]` -> `act(h)`; gated: `h [rows, 2 n]` -> `act(first half) * second half`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activation {
    pub function: Function,
    pub gated: bool,
}

#[derive(Clone, Debug)]
struct ActivationBackward(Activation);

const DEFAULTS: [(&str, Constant); 2] = [("KIND", Constant::U32(0)), ("GATED", Constant::Bool(false))];
pub(super) const FUNCTIONS: &str = include_str!("../../shaders/activation_functions.wgsl");

static ACTIVATION: Shader = Shader {
    name: "activation",
    source: include_str!("../../shaders/activation.wgsl"),
    shared: &[FUNCTIONS],
    defaults: &DEFAULTS,
};

static ACTIVATION_BACKWARD: Shader = Shader {
    name: "activation_backward",
    source: include_str!("../../shaders/activation_backward.wgsl"),
    shared: &[FUNCTIONS],
    defaults: &DEFAULTS,
};

impl Activation {
    /// Parses the `feed_forward_proj` of a configuration, such as `relu` or `gated-gelu`. "gated-gelu" means the tanh form,
    /// "gelu" alone the erf form, as in transformers. `None` if the activation is unknown.
    pub fn parse(name: &str) -> Option<Activation> {
        let (gated, word) = match name.split_once('-') {
            Some(("gated", word)) => (true, word),
            Some(_) => return None,
            None => (false, name),
        };
        let function = match word {
            "relu" => Function::Relu,
            "gelu" if gated => Function::GeluTanh,
            "gelu" | "gelu_python" => Function::GeluErf,
            "gelu_new" | "gelu_pytorch_tanh" => Function::GeluTanh,
            "silu" | "swish" => Function::Silu,
            "tanh" => Function::Tanh,
            _ => return None,
        };
        Some(Activation { function, gated })
    }

    /// The value of `feed_forward_proj` that parses back to this.
    pub fn config_name(self) -> &'static str {
        match (self.gated, self.function) {
            (false, Function::Relu) => "relu",
            (false, Function::GeluTanh) => "gelu_new",
            (false, Function::GeluErf) => "gelu",
            (false, Function::Silu) => "silu",
            (false, Function::Tanh) => "tanh",
            (true, Function::Relu) => "gated-relu",
            (true, Function::GeluTanh) => "gated-gelu",
            (true, Function::GeluErf) => "gated-gelu_python",
            (true, Function::Silu) => "gated-silu",
            (true, Function::Tanh) => "gated-tanh",
        }
    }

    fn header(&self) -> Header {
        Header::new().u32("KIND", self.function as u32).bool("GATED", self.gated)
    }

    /// `y [rows, n]` of `h`.
    pub(super) fn launch_on(&self, l: &mut Launcher<'_>, rows: usize, h: Operand, y: Operand) {
        let (header, width) = elem(self.header(), y.len / rows);
        l.launch(Launch {
            shader: &ACTIVATION,
            header,
            bindings: vec![("h", h), ("y", y)],
            params: vec![("rows", rows.into()), ("width", width.into())],
            workgroups: (rows * width).div_ceil(64) as u64,
        });
    }

    pub(super) fn n_out(&self, n_in: usize) -> usize {
        assert!(!self.gated || n_in.is_multiple_of(2), "gated activation of {n_in} columns");
        if self.gated { n_in / 2 } else { n_in }
    }
}

impl Function {
    /// Constant and derivative, in f64.
    fn at(self, x: f64) -> (f64, f64) {
        match self {
            Function::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
            Function::GeluTanh => {
                let c = (2.0 / std::f64::consts::PI).sqrt();
                let t = (c * (x + 0.044715 * x * x * x)).tanh();
                let slope = c * (1.0 + 3.0 * 0.044715 * x * x);
                (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope)
            }
            Function::GeluErf => {
                let cdf = 0.5 * (1.0 + erf(x / 2f64.sqrt()));
                let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
                (x * cdf, cdf + x * density)
            }
            Function::Silu => {
                let s = 1.0 / (1.0 + (-x).exp());
                (x * s, s * (1.0 + x * (1.0 - s)))
            }
            Function::Tanh => (x.tanh(), 1.0 - x.tanh() * x.tanh()),
        }
    }
}

/// The error function by its Taylor series, which converges fast enough for the arguments of tests (|x| < 6).
fn erf(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, x, 0.0f64);
    while term.abs() > 1e-18 * sum.abs().max(1e-300) && n < 400.0 {
        n += 1.0;
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    (sum * 2.0 / std::f64::consts::PI.sqrt()).clamp(-1.0, 1.0)
}

impl Op for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        vec![(vec![inputs[0][0], self.n_out(inputs[0][1])], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (rows, h, y) = (l.shape(0)[0], l.input(0), l.output(0));
        self.launch_on(l, rows, h, y);
    }

    fn backward(&self, b: &mut Backward<'_>) {
        let Some(dy) = b.grad(0) else { return };
        let h = b.input(0);
        let dh = b.graph.push1(ActivationBackward(*self), &[h, dy]);
        b.give(0, dh);
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let h = &inputs[0];
        let n = self.n_out(h.shape[1]);
        let value = |row: &[f64], i: usize| {
            let gate = if self.gated { row[n + i] } else { 1.0 };
            self.function.at(row[i]).0 * gate
        };
        let y = h.rows().flat_map(|row| (0..n).map(move |i| value(row, i)).collect::<Vec<_>>()).collect();
        vec![Tensor64::new(&[h.shape[0], n], y)]
    }
}

impl Op for ActivationBackward {
    fn name(&self) -> &'static str {
        "activation_backward"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        vec![(inputs[0].to_vec(), Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (rows, cols) = (l.shape(1)[0], l.shape(1)[1]);
        let (header, width) = elem(self.0.header(), cols);
        l.launch(Launch {
            shader: &ACTIVATION_BACKWARD,
            header,
            bindings: vec![("h", l.input(0)), ("dy", l.input(1)), ("dh", l.output(0))],
            params: vec![("rows", rows.into()), ("width", width.into())],
            workgroups: (rows * width).div_ceil(64) as u64,
        });
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (h, dy) = (&inputs[0], &inputs[1]);
        let n = dy.shape[1];
        let mut dh = Tensor64::zeros(&h.shape);
        for (r, (row, dy)) in h.rows().zip(dy.rows()).enumerate() {
            let at = r * h.shape[1];
            for i in 0..n {
                let (value, slope) = self.0.function.at(row[i]);
                if self.0.gated {
                    dh.data[at + i] = slope * row[n + i] * dy[i];
                    dh.data[at + n + i] = value * dy[i];
                } else {
                    dh.data[at + i] = slope * dy[i];
                }
            }
        }
        vec![dh]
    }
}
