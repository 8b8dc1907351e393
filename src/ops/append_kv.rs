//! What a step of decoding adds to a cache of keys and values, in a dispatch before the attention that reads them.

use crate::gpu::{Header, Shader};
use crate::graph::{Dtype, Launch, Launcher, Op, Tensor64};

/// `qkv [rows, 3 inner]` and the position of each row `[rows]` (u32) -> the cache `[homes kv_len, 2 inner]`, to be stored in a leaf: in the
/// row of the cache that a row belongs to, the place at its position becomes its `[k | v]`. A position past the end of the cache writes
/// nothing.
///
/// Rows of one sequence that see each other's keys need this; other rows let [`super::AttentionDecode`] store their own.
#[derive(Clone, Debug)]
pub struct AppendKv {
    /// Rows of the cache.
    pub homes: usize,
    pub kv_len: usize,
    /// Neighbouring rows that belong to the same row of the cache.
    pub together: usize,
    /// From the row of the cache of some to that of the next.
    pub stride: usize,
}

static APPEND_KV: Shader =
    Shader { name: "append_kv", source: include_str!("../../shaders/append_kv.wgsl"), shared: &[], defaults: &[] };

impl Op for AppendKv {
    fn name(&self) -> &'static str {
        "append_kv"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let [rows, width] = [inputs[0][0], inputs[0][1]];
        assert!(width.is_multiple_of(3), "qkv of {self:?}");
        assert_eq!(inputs[1], [rows], "positions of {self:?}");
        assert!((rows - 1) / self.together * self.stride < self.homes, "{rows} rows of {self:?}");
        vec![(vec![self.homes * self.kv_len, width / 3 * 2], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let [rows, inner] = [l.shape(0)[0], l.shape(0)[1] / 3];
        l.launch(Launch {
            shader: &APPEND_KV,
            header: Header::new(),
            bindings: vec![("qkv", l.input(0)), ("pos", l.input(1)), ("kv", l.output(0))],
            params: vec![
                ("rows", rows.into()),
                ("inner", inner.into()),
                ("kv_len", self.kv_len.into()),
                ("together", self.together.into()),
                ("stride", self.stride.into()),
            ],
            workgroups: (rows * 2 * inner).div_ceil(64) as u64,
        });
        l.moves("qkv", rows * 2 * inner);
        l.moves("kv", rows * 2 * inner);
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let [qkv, pos] = [&inputs[0], &inputs[1]];
        let (mut kv, inner) = (inputs[2].clone(), qkv.shape[1] / 3);
        for (row, &at) in pos.data.iter().enumerate().filter(|(_, at)| **at < self.kv_len as f64) {
            let home = row / self.together * self.stride;
            let place = (home * self.kv_len + at as usize) * 2 * inner;
            kv.data[place..][..2 * inner].copy_from_slice(&qkv.data[row * 3 * inner..][inner..3 * inner]);
        }
        vec![kv]
    }
}
