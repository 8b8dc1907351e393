//! Addition, which reverse mode itself needs wherever a value has several uses.

use super::{Backward, Dtype, Launch, Launcher, Op, Tensor64};
use crate::gpu::{Header, Shader};

/// `a + b`, elementwise.
#[derive(Debug)]
pub struct Add;

/// `memory += input`: for gradients whose own op cannot add to memory.
#[derive(Debug)]
pub struct AddInto {
    pub shape: Vec<usize>,
}

static ADD: Shader = Shader { name: "add", source: include_str!("../../shaders/add.wgsl"), shared: &[], defaults: &[] };

static ADD_INTO: Shader =
    Shader { name: "add_into", source: include_str!("../../shaders/add_into.wgsl"), shared: &[], defaults: &[] };

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        assert_eq!(inputs[0], inputs[1], "add");
        vec![(inputs[0].to_vec(), Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (a, b, out) = (l.input(0), l.input(1), l.output(0));
        l.launch(Launch {
            shader: &ADD,
            header: Header::new(),
            bindings: vec![("a", a), ("b", b), ("out", out)],
            params: vec![("len", out.len.into())],
            workgroups: out.len.div_ceil(256) as u64,
        });
    }

    fn backward(&self, b: &mut Backward<'_>) {
        let Some(dy) = b.grad(0) else { return };
        b.give(0, dy);
        b.give(1, dy);
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let sum = inputs[0].data.iter().zip(&inputs[1].data).map(|(a, b)| a + b).collect();
        vec![Tensor64::new(&inputs[0].shape, sum)]
    }
}

impl Op for AddInto {
    fn name(&self) -> &'static str {
        "add_into"
    }

    fn infer(&self, _: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        vec![(self.shape.clone(), Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (a, out) = (l.input(0), l.output(0));
        l.launch(Launch {
            shader: &ADD_INTO,
            header: Header::new(),
            bindings: vec![("a", a), ("out", out)],
            params: vec![("len", out.len.into())],
            workgroups: out.len.div_ceil(256) as u64,
        });
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let sum = inputs[0].data.iter().zip(&inputs[1].data).map(|(a, b)| a + b).collect();
        vec![Tensor64::new(&self.shape, sum)]
    }
}
