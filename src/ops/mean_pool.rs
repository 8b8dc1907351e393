//! The mean of each sequence's states, as sentence embeddings take it (Sentence-T5, arXiv 2108.08877, section 3).

use crate::gpu::{Header, Shader};
use crate::graph::{Dtype, Launch, Launcher, Op, Tensor64};

/// `x [batch len, cols]`, `lens [batch]` (u32) -> `[batch, cols]`: the mean of the first `lens` rows of each sequence, 0 where
/// there is none. Has no backward rule.
#[derive(Clone, Debug)]
pub struct MeanPool;

static MEAN_POOL: Shader =
    Shader { name: "mean_pool", source: include_str!("../../shaders/mean_pool.wgsl"), shared: &[], defaults: &[] };

impl Op for MeanPool {
    fn name(&self) -> &'static str {
        "mean_pool"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let (x, batch) = (inputs[0], inputs[1][0]);
        assert!(x[0].is_multiple_of(batch), "mean_pool of {x:?} in {batch} sequences");
        vec![(vec![batch, x[1]], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (rows, cols, batch) = (l.shape(0)[0], l.shape(0)[1], l.shape(1)[0]);
        let len = rows / batch;
        l.iterations(len, &format!("the mean of {len} positions"));
        l.launch(Launch {
            shader: &MEAN_POOL,
            header: Header::new(),
            bindings: vec![("x", l.input(0)), ("lens", l.input(1)), ("y", l.output(0))],
            params: vec![("batch", batch.into()), ("len", len.into()), ("cols", cols.into())],
            workgroups: (batch * cols).div_ceil(64) as u64,
        });
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (x, lens) = (&inputs[0], &inputs[1]);
        let (batch, cols) = (lens.data.len(), x.shape[1]);
        let len = x.shape[0] / batch;
        let mut y = Tensor64::zeros(&[batch, cols]);
        for (b, &count) in lens.data.iter().enumerate() {
            for row in x.rows().skip(b * len).take(len.min(count as usize)) {
                for (sum, v) in y.data[b * cols..][..cols].iter_mut().zip(row) {
                    *sum += v / count;
                }
            }
        }
        vec![y]
    }
}
