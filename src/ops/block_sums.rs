//! The sums of blocks of tokens: what LongT5's transient-global attention makes its global keys of (Guo et al. 2022, arXiv
//! 2112.07916, section 3.1).

use crate::gpu::{Header, Shader};
use crate::graph::{Dtype, Launch, Launcher, Op, Tensor64};

/// `x [batch len, cols]`, `lens [batch]` (u32) -> `[batch slots, cols]`: for each whole block of a sequence's first `lens` rows
/// the sum of its rows. Rows behind the last whole block count to that one; a sequence without a whole block has none. The
/// other slots are 0. Has no backward rule.
#[derive(Clone, Debug)]
pub struct BlockSums {
    /// Rows of a block.
    pub block: usize,
    /// Rows of a sequence in the result; at least as many as `len` has whole blocks.
    pub slots: usize,
}

static BLOCK_SUMS: Shader =
    Shader { name: "block_sums", source: include_str!("../../shaders/block_sums.wgsl"), shared: &[], defaults: &[] };

impl Op for BlockSums {
    fn name(&self) -> &'static str {
        "block_sums"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let (x, batch) = (inputs[0], inputs[1][0]);
        assert!(x[0].is_multiple_of(batch), "block_sums of {x:?} in {batch} sequences");
        assert!(self.slots >= (x[0] / batch / self.block).max(1), "{self:?} of sequences of {}", x[0] / batch);
        vec![(vec![batch * self.slots, x[1]], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (rows, cols, batch) = (l.shape(0)[0], l.shape(0)[1], l.shape(1)[0]);
        let len = rows / batch;
        l.iterations(2 * self.block, &format!("sums of blocks of {}", self.block));
        l.launch(Launch {
            shader: &BLOCK_SUMS,
            header: Header::new(),
            bindings: vec![("x", l.input(0)), ("lens", l.input(1)), ("y", l.output(0))],
            params: vec![
                ("batch", batch.into()),
                ("len", len.into()),
                ("cols", cols.into()),
                ("block", self.block.into()),
                ("slots", self.slots.into()),
            ],
            workgroups: (batch * self.slots * cols).div_ceil(64) as u64,
        });
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (x, lens) = (&inputs[0], &inputs[1].data);
        let (batch, cols) = (lens.len(), x.shape[1]);
        let len = x.shape[0] / batch;
        let mut y = Tensor64::zeros(&[batch * self.slots, cols]);
        for (i, row) in x.rows().enumerate() {
            let (b, at, count) = (i / len, i % len, lens[i / len] as usize);
            let Some(last) = (count / self.block).checked_sub(1) else { continue };
            if at < count {
                let slot = b * self.slots + last.min(at / self.block);
                y.data[slot * cols..][..cols].iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
            }
        }
        vec![y]
    }
}
