//! The types of a model's weights on the device.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::layout::{Layout, TensorSpan};
use crate::checkpoint::{self, Encoding, Weights};
use crate::error::{Error, Result};
use crate::graph::Dtype;

/// How the matrices of a model are held: projections, embedding, head. Norms and position biases are f32 always, and so is
/// every sum. What learns is f32, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// As the checkpoint has them: f16, bf16, or the quantized blocks of GGUF; else f32. Nothing is rounded.
    #[default]
    AsStored,
    /// As stored if the adapter's memory holds that and an eighth more; else as `Int8`, or `Int4`. No setting of a training, whose
    /// result would depend on the adapter.
    #[serde(skip)]
    Fitting,
    F32,
    /// Half the memory; rounds at the 11th bit.
    F16,
    /// Half the memory; rounds at the 8th bit.
    Bf16,
    /// Integers of 8 bits in blocks of 32 with an f32 scale each: 28 % of the memory. A weight errs by 1/254 of the largest of
    /// its block at most.
    Int8,
    /// Integers of 4 bits in blocks of 32 with a scale and a least value each, both f16: 16 % of the memory. A weight errs by about 1/30 of
    /// the range of its block at most.
    Int4,
}

impl Storage {
    /// What is tried, in turn, as long as there is not enough memory.
    pub(super) fn choices(self) -> Vec<Storage> {
        match self {
            Storage::Fitting => vec![Storage::AsStored, Storage::Int8, Storage::Int4],
            storage => vec![storage],
        }
    }

    /// The type that a tensor of this checkpoint should have.
    pub(super) fn wanted(self, weights: &Weights, tensor: &str) -> Dtype {
        self.dtype().unwrap_or_else(|| match weights.encoding(tensor) {
            Some(Encoding::Plain(checkpoint::Dtype::F16)) => Dtype::F16,
            Some(Encoding::Plain(checkpoint::Dtype::BF16)) => Dtype::Bf16,
            Some(Encoding::Blocks(format)) => format.dtype(),
            _ => Dtype::F32,
        })
    }

    /// The type of matrices, unless it is that of a checkpoint.
    pub(super) fn dtype(self) -> Option<Dtype> {
        match self {
            Storage::F32 => Some(Dtype::F32),
            Storage::F16 => Some(Dtype::F16),
            Storage::Bf16 => Some(Dtype::Bf16),
            Storage::Int8 => Some(Dtype::Q8),
            Storage::Int4 => Some(Dtype::Q4),
            Storage::AsStored | Storage::Fitting => None,
        }
    }
}

/// The type that a tensor gets where `wanted` is asked for: only matrices whose rows are whole pieces of it are packed.
pub(super) fn fitting(wanted: Dtype, name: &str, shape: &[usize]) -> Dtype {
    if is_matrix(name, shape) && shape[1].is_multiple_of(wanted.row_multiple()) { wanted } else { Dtype::F32 }
}

/// Whether matrix products or the embedding read this tensor.
fn is_matrix(name: &str, shape: &[usize]) -> bool {
    shape.len() == 2 && !name.ends_with("relative_attention_bias.weight")
}

/// What to tell of a layout with packed weights; `None` if it has none, and none were wanted.
pub(super) fn remark(layout: &Layout, wanted: impl Fn(&TensorSpan) -> Dtype) -> Option<String> {
    let names = |dtypes: &BTreeSet<&str>| dtypes.iter().copied().collect::<Vec<_>>().join(" and ");
    let (mut held, mut refused) = (BTreeSet::new(), Vec::new());
    for tensor in layout.tensors().iter().filter(|t| is_matrix(&t.name, &t.shape)) {
        let dtype = layout.dtype(tensor);
        held.insert(dtype.name());
        if dtype != wanted(tensor) {
            refused.push(format!("{} [{} x {}]", tensor.name, tensor.shape[0], tensor.shape[1]));
        }
    }
    if refused.is_empty() && held.iter().all(|&name| name == "f32") {
        return None;
    }
    let mib = layout.bytes() as f64 / f64::from(1 << 20);
    let mut text = format!("weights held as {}: {mib:.1} MiB", names(&held));
    if !refused.is_empty() {
        let (few, more) = refused.split_at(refused.len().min(4));
        text += &format!(
            "; as f32, since their rows are no whole number of blocks, or what shares a product with them has another type: {}",
            few.join(", ")
        );
        if !more.is_empty() {
            text += &format!(" and {} more", more.len());
        }
    }
    Some(text)
}

/// [`Dtype::encode`] of rows of a tensor, with an error that names tensor and remedy.
pub(super) fn encode(dtype: Dtype, tensor: &TensorSpan, cols: usize, data: &[f32]) -> Result<Vec<u32>> {
    dtype.encode(cols, data).map_err(|e| {
        let remedy = "hold them as bf16, which has the range of f32";
        Error::Numeric(format!("{} cannot be held as {}: {e}; {remedy}", tensor.name, dtype.name()))
    })
}
