//! The key and value cache of a decoder's self-attention: one row per sequence and step.

use super::rows::elem;
use crate::gpu::{Header, Shader};
use crate::graph::{Dtype, Launch, Launcher, Op, Tensor64};

/// `qkv [batch, 3 inner]`, `pos [batch]` (u32) -> the cache `[batch max_len, 2 inner]`, of which row `pos` of each
/// sequence becomes `[k | v]`. The output is to be stored in a leaf; a position past the end writes nothing.
#[derive(Clone, Debug)]
pub struct CacheWrite {
    pub max_len: usize,
}

static CACHE_WRITE: Shader =
    Shader { name: "cache_write", source: include_str!("../../shaders/cache_write.wgsl"), shared: &[], defaults: &[] };

impl Op for CacheWrite {
    fn name(&self) -> &'static str {
        "cache_write"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let (batch, inner) = (inputs[0][0], inputs[0][1] / 3);
        assert_eq!(inputs[1], [batch], "positions of {self:?}");
        vec![(vec![batch * self.max_len, 2 * inner], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (batch, inner) = (l.shape(0)[0], l.shape(0)[1] / 3);
        let moved = 2 * batch * inner;
        let (header, inner) = elem(Header::new(), inner);
        l.launch(Launch {
            shader: &CACHE_WRITE,
            header,
            bindings: vec![("qkv", l.input(0)), ("pos", l.input(1)), ("cache", l.output(0))],
            params: vec![("batch", batch.into()), ("max_len", self.max_len.into()), ("inner", inner.into())],
            workgroups: (batch * 2 * inner).div_ceil(64) as u64,
        });
        l.moves("qkv", moved);
        l.moves("cache", moved);
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (qkv, pos, mut cache) = (&inputs[0], &inputs[1], inputs[2].clone());
        let inner = qkv.shape[1] / 3;
        for (b, (row, &at)) in qkv.rows().zip(&pos.data).enumerate() {
            if (at as usize) < self.max_len {
                let start = (b * self.max_len + at as usize) * 2 * inner;
                cache.data[start..start + 2 * inner].copy_from_slice(&row[inner..]);
            }
        }
        vec![cache]
    }
}
