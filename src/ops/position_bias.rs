//! T5's relative position bias: one learnt number per head and bucket of distances (Raffel et al. 2020, section 2.1).

use std::sync::Arc;

use crate::gpu::{Constant, Header, Shader};
use crate::graph::{Backward, Dtype, Launch, Launcher, Op, Tensor64};

/// `table [buckets, heads]`, `bucket [distances]` (u32, see [`distance_buckets`]) -> `[heads, distances]`.
#[derive(Clone, Debug)]
pub struct PositionBias;

#[derive(Clone, Debug)]
struct PositionBiasBackward {
    buckets: usize,
    accumulate: bool,
}

static POSITION_BIAS: Shader = Shader {
    name: "position_bias",
    source: include_str!("../../shaders/position_bias.wgsl"),
    shared: &[],
    defaults: &[],
};

static POSITION_BIAS_BACKWARD: Shader = Shader {
    name: "position_bias_backward",
    source: include_str!("../../shaders/position_bias_backward.wgsl"),
    shared: &[],
    defaults: &[("ACCUMULATE", Constant::Bool(false))],
};

/// The bucket of a distance (key position - query position), by transformers' float32 arithmetic: the exact powers at
/// which the logarithm lands on a whole number must fall on the same side as there.
pub fn relative_bucket(distance: i64, bidirectional: bool, n_buckets: usize, max_distance: usize) -> usize {
    let (mut offset, mut n) = (0, n_buckets);
    let distance = if bidirectional {
        n /= 2;
        if distance > 0 {
            offset = n;
        }
        distance.unsigned_abs() as usize
    } else {
        (-distance).max(0) as usize
    };
    let exact = n / 2;
    if distance < exact {
        return offset + distance;
    }
    // Not float32 division of logarithms in one go: torch takes log(d / exact), divides by the double log, rounds to f32.
    let log = (distance as f32 / exact as f32).ln();
    let scaled = log / (max_distance as f64 / exact as f64).ln() as f32 * (n - exact) as f32;
    offset + (exact + scaled as usize).min(n - 1)
}

/// Buckets of the distances `-max_distance ..= max_distance`; farther ones share the ends' buckets.
pub fn distance_buckets(bidirectional: bool, n_buckets: usize, max_distance: usize) -> Vec<u32> {
    let reach = max_distance as i64;
    (-reach..=reach).map(|d| relative_bucket(d, bidirectional, n_buckets, max_distance) as u32).collect()
}

impl Op for PositionBias {
    fn name(&self) -> &'static str {
        "position_bias"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        vec![(vec![inputs[0][1], inputs[1][0]], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (heads, distances) = (l.shape(0)[1], l.shape(1)[0]);
        l.launch(Launch {
            shader: &POSITION_BIAS,
            header: Header::new(),
            bindings: vec![("table", l.input(0)), ("bucket", l.input(1)), ("bias", l.output(0))],
            params: vec![("heads", heads.into()), ("distances", distances.into())],
            workgroups: (heads * distances).div_ceil(64) as u64,
        });
    }

    fn backward(&self, b: &mut Backward<'_>) {
        let Some(dbias) = b.grad(0) else { return };
        let buckets = b.graph.shape(b.input(0))[0];
        let bucket = b.input(1);
        let dtable = b.graph.push1(PositionBiasBackward { buckets, accumulate: false }, &[dbias, bucket]);
        b.give(0, dtable);
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (table, bucket) = (&inputs[0], &inputs[1]);
        let heads = table.shape[1];
        let entry = |h: usize, b: f64| table.data[b as usize * heads + h];
        let bias = (0..heads).flat_map(|h| bucket.data.iter().map(move |&b| entry(h, b))).collect();
        vec![Tensor64::new(&[heads, bucket.data.len()], bias)]
    }
}

impl Op for PositionBiasBackward {
    fn name(&self) -> &'static str {
        "position_bias_backward"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        vec![(vec![self.buckets, inputs[0][0]], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (heads, distances) = (l.shape(0)[0], l.shape(0)[1]);
        l.launch(Launch {
            shader: &POSITION_BIAS_BACKWARD,
            header: Header::new().bool("ACCUMULATE", self.accumulate),
            bindings: vec![("dbias", l.input(0)), ("bucket", l.input(1)), ("dtable", l.output(0))],
            params: vec![("buckets", self.buckets.into()), ("heads", heads.into()), ("distances", distances.into())],
            workgroups: (self.buckets * heads).div_ceil(64) as u64,
        });
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (dbias, bucket) = (&inputs[0], &inputs[1]);
        let heads = dbias.shape[0];
        let mut dtable = inputs.get(2).cloned().unwrap_or_else(|| Tensor64::zeros(&[self.buckets, heads]));
        for (h, row) in dbias.rows().enumerate() {
            for (d, b) in row.iter().zip(&bucket.data) {
                dtable.data[*b as usize * heads + h] += d;
            }
        }
        vec![dtable]
    }

    fn accumulating(&self, _: usize) -> Option<Arc<dyn Op>> {
        Some(Arc::new(PositionBiasBackward { accumulate: true, ..self.clone() }))
    }
}
