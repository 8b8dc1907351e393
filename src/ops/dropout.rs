//! Dropout from a counter-based generator: elementwise masks, as in HuggingFace's T5.
//!
//! (The Mesh TensorFlow original broadcasts residual masks over the length; the mask here is drawn per element.)

use std::sync::Arc;

use crate::gpu::{Constant, Header, Shader};
use crate::graph::{Backward, Dtype, Launch, Launcher, Op, Tensor64};

/// `x`, `key [4]` (u32: seed low and high, step low and high), and optionally a tensor to add -> `dropout(x) (+ before)`.
#[derive(Clone, Debug)]
pub struct Dropout {
    pub rate: f32,
    /// Tells the masks of one step apart.
    pub site: u32,
    pub add: bool,
}

/// Which mask is drawn, for an op with dropout inside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutMask {
    pub rate: f32,
    /// See [`Dropout::site`].
    pub site: u32,
}

pub(super) const RANDOM: &str = include_str!("../../shaders/random.wgsl");

static DROPOUT: Shader = Shader {
    name: "dropout",
    source: include_str!("../../shaders/dropout.wgsl"),
    shared: &[RANDOM],
    defaults: &[("ADD", Constant::Bool(false))],
};

/// The factor by which element `i` is multiplied: the kernels' `keep`, bit for bit.
pub(super) fn keep(i: u32, site: u32, key: &[f64], rate: f32) -> f64 {
    let [x, y, z, w] = [key[0] as u32, key[1] as u32, key[2] as u32, key[3] as u32];
    let mixed = pcg4d([i, site, x ^ z.wrapping_mul(0x9e37_79b9), y ^ w ^ (z >> 7)]);
    let uniform = (mixed[0] >> 8) as f32 / 16_777_216.0;
    if uniform >= rate { f64::from(1.0 / (1.0 - rate)) } else { 0.0 }
}

pub(super) fn pcg4d(seed: [u32; 4]) -> [u32; 4] {
    let mut v = seed.map(|s| s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let round = |v: &mut [u32; 4]| {
        v[0] = v[0].wrapping_add(v[1].wrapping_mul(v[3]));
        v[1] = v[1].wrapping_add(v[2].wrapping_mul(v[0]));
        v[2] = v[2].wrapping_add(v[0].wrapping_mul(v[1]));
        v[3] = v[3].wrapping_add(v[1].wrapping_mul(v[2]));
    };
    round(&mut v);
    v = v.map(|x| x ^ (x >> 16));
    round(&mut v);
    v
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        assert_eq!(inputs[1], [4], "dropout key");
        assert!(!self.add || inputs[0] == inputs[2], "dropout of {:?} added to {:?}", inputs[0], inputs[2]);
        vec![(inputs[0].to_vec(), Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (x, y) = (l.input(0), l.output(0));
        let before = if self.add { l.input(2) } else { x };
        l.launch(Launch {
            shader: &DROPOUT,
            header: Header::new().bool("ADD", self.add),
            bindings: vec![("key", l.input(1)), ("x", x), ("before", before), ("y", y)],
            params: vec![("len", y.len.into()), ("site", self.site.into()), ("rate", self.rate.into())],
            workgroups: y.len.div_ceil(64) as u64,
        });
    }

    fn backward(&self, b: &mut Backward<'_>) {
        let Some(dy) = b.grad(0) else { return };
        if self.add {
            b.give(2, dy);
        }
        if b.needs(0) {
            let key = b.input(1);
            let dx = b.graph.push1(Dropout { add: false, ..self.clone() }, &[dy, key]);
            b.give(0, dx);
        }
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (x, key) = (&inputs[0], &inputs[1]);
        let value = |(i, v): (usize, &f64)| {
            let before = if self.add { inputs[2].data[i] } else { 0.0 };
            v * keep(i as u32, self.site, &key.data, self.rate) + before
        };
        vec![Tensor64::new(&x.shape, x.data.iter().enumerate().map(value).collect())]
    }

    fn plus(&self) -> Option<Arc<dyn Op>> {
        (!self.add).then(|| Arc::new(Dropout { add: true, ..self.clone() }) as Arc<dyn Op>)
    }
}
