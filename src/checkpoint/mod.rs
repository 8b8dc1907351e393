//! Tensors in and out: the checkpoints that people have, and whatever else is a [`WeightSource`].

mod mapped;
mod naming;
mod open;
mod safetensors_file;
mod shards;
mod weights;
mod writer;

pub(crate) use open::other_format;
pub use safetensors::Dtype;
pub use weights::{TensorInfo, WeightSource, Weights};
pub use writer::{tensor_file, write_model};
