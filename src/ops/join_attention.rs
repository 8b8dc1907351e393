//! One attention of two: what queries make of some keys and of others, joined as if they had seen all of them at once.

use super::rows::elem;
use crate::gpu::{Header, Shader};
use crate::graph::{Dtype, Launch, Launcher, Op, Tensor64};

/// Inputs: the two outputs of an [`super::Attention`] (`[batch q_len, heads d_kv]` and the logarithm of the softmax's
/// denominator, `[batch heads, q_len]`), those of another one over the same queries, and `counts [batch]` (u32): in how many keys of a
/// sequence the second has, of which it may have none. Output: `[batch q_len, heads d_kv]`, the mean of both weighted by their
/// denominators. Has no backward rule.
#[derive(Clone, Debug)]
pub struct JoinAttention;

static JOIN_ATTENTION: Shader = Shader {
    name: "join_attention",
    source: include_str!("../../shaders/join_attention.wgsl"),
    shared: &[],
    defaults: &[],
};

impl Op for JoinAttention {
    fn name(&self) -> &'static str {
        "join_attention"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        assert_eq!((inputs[0], inputs[1]), (inputs[2], inputs[3]), "join_attention");
        let (batch, heads, q_len) = sizes(inputs[1], inputs[4]);
        assert!(inputs[0][0] == batch * q_len && inputs[0][1].is_multiple_of(heads), "join_attention {inputs:?}");
        vec![(inputs[0].to_vec(), Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (batch, heads, q_len) = sizes(l.shape(1), l.shape(4));
        let (header, width) = elem(Header::new(), l.shape(0)[1] / heads);
        l.launch(Launch {
            shader: &JOIN_ATTENTION,
            header,
            bindings: vec![
                ("a", l.input(0)),
                ("lse_a", l.input(1)),
                ("b", l.input(2)),
                ("lse_b", l.input(3)),
                ("counts", l.input(4)),
                ("out", l.output(0)),
            ],
            params: vec![
                ("batch", batch.into()),
                ("heads", heads.into()),
                ("q_len", q_len.into()),
                ("width", width.into()),
            ],
            workgroups: (batch * q_len * heads * width).div_ceil(64) as u64,
        });
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let [a, lse_a, b, lse_b, counts] = inputs else { unreachable!("join_attention has five inputs") };
        let (_, heads, q_len) = sizes(&lse_a.shape, &counts.shape);
        let inner = a.shape[1];
        let joined = |(i, (x, y)): (usize, (&f64, &f64))| {
            let (row, head) = (i / inner, i % inner / (inner / heads));
            let (sequence, at) = (row / q_len, (row / q_len * heads + head) * q_len + row % q_len);
            let top = lse_a.data[at].max(lse_b.data[at]);
            let weight = |lse: &Tensor64| (lse.data[at] - top).exp();
            let (first, second) = (weight(lse_a), if counts.data[sequence] > 0.0 { weight(lse_b) } else { 0.0 });
            (first * x + second * y) / (first + second)
        };
        vec![Tensor64::new(&a.shape, a.data.iter().zip(&b.data).enumerate().map(joined).collect())]
    }
}

/// Sequences, heads and queries, from the shapes of a logarithm and of the counts.
fn sizes(lse: &[usize], counts: &[usize]) -> (usize, usize, usize) {
    (counts[0], lse[0] / counts[0], lse[1])
}
