//! The embedding: rows of a table by id, and its gradient.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::rows::elem;
use super::weights;
use crate::gpu::{Header, Shader};
use crate::graph::{Backward, Dtype, Launch, Launcher, Op, Tensor64};

/// `ids [count]`, `index` (see [`gather_index`]; only the gradient reads it), then the table in shards of rows
/// -> `[count, cols]`. The table may be packed.
#[derive(Clone, Debug)]
pub struct Gather {
    /// Rows of each shard.
    pub shards: Vec<usize>,
}

/// `dy`, `ids`, `index` -> the gradient of one shard, added to the memory that it is stored in.
#[derive(Clone, Debug)]
struct GatherBackward {
    first: usize,
    rows: usize,
    accumulate: bool,
}

static GATHER: Shader =
    Shader { name: "gather", source: include_str!("../../shaders/gather.wgsl"), shared: &[], defaults: &[] };

static GATHER_BACKWARD: Shader = Shader {
    name: "gather_backward",
    source: include_str!("../../shaders/gather_backward.wgsl"),
    shared: &[],
    defaults: &[],
};

/// Marks an unused place in a [`gather_index`], and positions that have no gradient.
pub const NO_ID: u32 = u32::MAX;

/// Positions of one id that one dispatch adds up; further dispatches take the rest. Mesa 22 silently ends an invocation's
/// loops after 65,535 iterations.
const MOST_POSITIONS: usize = 1 << 14;

/// Number of u32s in the index of `count` ids.
pub const fn gather_index_len(count: usize) -> usize {
    3 * count + 1
}

/// Positions grouped by id, for the gradient of [`Gather`]: `order` (positions, id by id, ascending), `id` (the distinct
/// ids, the most frequent first, then [`NO_ID`]), `start` (where each distinct id begins in `order`). Positions for which
/// `counts` is false are left out: padding has no gradient.
pub fn gather_index(ids: &[u32], counts: impl Fn(usize) -> bool) -> Vec<u32> {
    let n = ids.len();
    let mut positions: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (i, &id) in ids.iter().enumerate().filter(|(i, _)| counts(*i)) {
        positions.entry(id).or_default().push(i as u32);
    }
    let mut groups: Vec<_> = positions.into_iter().collect();
    groups.sort_by_key(|(_, at)| Reverse(at.len()));
    let mut index = vec![0; gather_index_len(n)];
    index[n..2 * n].fill(NO_ID);
    let mut used = 0;
    for (distinct, (id, at)) in groups.iter().enumerate() {
        index[used..used + at.len()].copy_from_slice(at);
        index[n + distinct] = *id;
        index[2 * n + distinct] = used as u32;
        used += at.len();
        index[2 * n + distinct + 1] = used as u32;
    }
    index
}

impl Gather {
    /// The first row of each shard.
    fn firsts(&self) -> impl Iterator<Item = (usize, usize)> {
        self.shards.iter().scan(0, |next, &rows| {
            let first = *next;
            *next += rows;
            Some((first, rows))
        })
    }
}

impl Op for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let rows: Vec<usize> = inputs[2..].iter().map(|s| s[0]).collect();
        assert_eq!(rows, self.shards, "gather");
        vec![(vec![inputs[0][0], inputs[2][1]], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let count = l.shape(0)[0];
        let moved = count * l.shape(2)[1] / self.shards.len();
        for (shard, (first, rows)) in self.firsts().enumerate() {
            let (table, cols) = (l.weights(2 + shard), l.shape(2)[1]);
            let (header, width) = elem(Header::new(), cols);
            let table_rows = weights::rows(table.dtype, cols);
            l.launch(Launch {
                shader: &GATHER,
                header: weights::load_parts(header, table, cols.is_multiple_of(4)),
                bindings: vec![("src", table), ("ids", l.input(0)), ("out", l.output(0))],
                params: vec![
                    ("count", count.into()),
                    ("width", width.into()),
                    ("first", first.into()),
                    ("rows", rows.into()),
                    ("ld", table_rows.ld.into()),
                    ("offset", 0u32.into()),
                    ("scales", table_rows.scales.into()),
                ],
                workgroups: (count * width).div_ceil(64) as u64,
            });
            l.moves("src", moved);
            l.moves("out", moved);
        }
    }

    fn backward(&self, b: &mut Backward<'_>) {
        let Some(dy) = b.grad(0) else { return };
        for (shard, (first, rows)) in self.firsts().enumerate() {
            if b.needs(2 + shard) {
                let inputs = [dy, b.input(0), b.input(1)];
                let dtable = b.graph.push1(GatherBackward { first, rows, accumulate: false }, &inputs);
                b.give(2 + shard, dtable);
            }
        }
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let table: Vec<&[f64]> = inputs[2..].iter().flat_map(Tensor64::rows).collect();
        let out = inputs[0].data.iter().flat_map(|&id| table[id as usize].iter().copied()).collect();
        vec![Tensor64::new(&[inputs[0].data.len(), inputs[2].shape[1]], out)]
    }
}

impl Op for GatherBackward {
    fn name(&self) -> &'static str {
        "gather_backward"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        vec![(vec![self.rows, inputs[0][1]], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        assert!(self.accumulate, "a table's gradient is sparse: it is only ever added to memory");
        let (count, cols) = (l.shape(0)[0], l.shape(0)[1]);
        let (header, width) = elem(Header::new(), cols);
        for skip in (0..count).step_by(MOST_POSITIONS) {
            // The most frequent ids come first: few are left for the later dispatches.
            let ids = count.checked_div(skip).unwrap_or(count);
            l.launch(Launch {
                shader: &GATHER_BACKWARD,
                header: header.clone(),
                bindings: vec![("dy", l.input(0)), ("index", l.input(2)), ("dtable", l.output(0))],
                params: vec![
                    ("count", count.into()),
                    ("width", width.into()),
                    ("first", self.first.into()),
                    ("rows", self.rows.into()),
                    ("skip", skip.into()),
                    ("most", MOST_POSITIONS.into()),
                ],
                workgroups: (ids * width).div_ceil(64) as u64,
            });
            l.moves("dtable", 2 * ids * cols);
        }
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (dy, ids, index) = (&inputs[0], &inputs[1], &inputs[2]);
        let (count, cols) = (dy.shape[0], dy.shape[1]);
        let mut dtable = inputs.get(3).cloned().unwrap_or_else(|| Tensor64::zeros(&[self.rows, cols]));
        // Only which positions count is taken from the index; the grouping itself is what the kernel must get right.
        let used = index.data[2 * count..].iter().fold(0.0f64, |m, &x| m.max(x)) as usize;
        for &at in &index.data[..used] {
            let id = ids.data[at as usize] as usize;
            if (self.first..self.first + self.rows).contains(&id) {
                let row = &mut dtable.data[(id - self.first) * cols..][..cols];
                row.iter_mut().zip(&dy.data[at as usize * cols..]).for_each(|(d, g)| *d += g);
            }
        }
        vec![dtable]
    }

    fn accumulating(&self, _: usize) -> Option<Arc<dyn Op>> {
        Some(Arc::new(GatherBackward { accumulate: true, ..self.clone() }))
    }
}
