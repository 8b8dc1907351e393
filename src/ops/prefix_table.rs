//! Where the keys of a row lie whose source stands before its target in the same cache.

use crate::gpu::{Header, Shader};
use crate::graph::{Dtype, Launch, Launcher, Op, Tensor64};

/// `pos [rows]` (u32), where each row's newest token stands in its target; `cache_row [rows, len]` (u32), in which row of the cache the key
/// of each position of the target lies; `source_of [rows]` (u32); `src_lens [sources]` (u32) -> what [`super::AttentionDecode`] reads:
/// the same for positions behind the source. `at [rows]`, and `table [rows, src_len + len]`: the keys of source s lie in row `s *
/// beams` of the cache, those of the target behind them wherever `cache_row` says. A position past the end of the target is past the
/// end of the table.
#[derive(Clone, Debug)]
pub struct PrefixTable {
    /// Positions that a source can have.
    pub src_len: usize,
    /// Rows of the cache to a source.
    pub beams: usize,
}

static PREFIX_TABLE: Shader = Shader {
    name: "prefix_table",
    source: include_str!("../../shaders/prefix_table.wgsl"),
    shared: &[],
    defaults: &[],
};

impl Op for PrefixTable {
    fn name(&self) -> &'static str {
        "prefix_table"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let rows = inputs[0][0];
        assert_eq!((inputs[1][0], inputs[2]), (rows, [rows].as_slice()), "rows of {self:?}");
        vec![(vec![rows], Dtype::U32), (vec![rows, self.src_len + inputs[1][1]], Dtype::U32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (rows, len, sources) = (l.shape(0)[0], l.shape(1)[1], l.shape(3)[0]);
        let width = self.src_len + len;
        l.launch(Launch {
            shader: &PREFIX_TABLE,
            header: Header::new(),
            bindings: vec![
                ("pos", l.input(0)),
                ("cache_row", l.input(1)),
                ("source_of", l.input(2)),
                ("src_lens", l.input(3)),
                ("at", l.output(0)),
                ("table", l.output(1)),
            ],
            params: vec![
                ("rows", rows.into()),
                ("len", len.into()),
                ("width", width.into()),
                ("sources", sources.into()),
                ("beams", self.beams.into()),
            ],
            workgroups: (rows * width).div_ceil(64) as u64,
        });
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let [pos, cache_row, source_of, src_lens] = [&inputs[0], &inputs[1], &inputs[2], &inputs[3]];
        let (rows, len) = (pos.data.len(), cache_row.shape[1]);
        let width = self.src_len + len;
        let mut at = pos.clone();
        let mut table = Tensor64::zeros(&[rows, width]);
        for row in 0..rows {
            let source = source_of.data[row] as usize;
            let source_len = src_lens.data[source] as usize;
            let newest = pos.data[row] as usize;
            at.data[row] = if newest < len { source_len + newest } else { width } as f64;
            let home = (source * self.beams) as f64;
            for j in 0..width {
                let of_target = j.checked_sub(source_len).and_then(|p| cache_row.data[row * len..][..len].get(p));
                table.data[row * width + j] = of_target.copied().unwrap_or(home);
            }
        }
        vec![at, table]
    }
}
