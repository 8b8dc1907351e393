//! Tensors in and out: the safetensors of HuggingFace's model folders, and whatever else is a [`WeightSource`].

mod safetensors_files;
mod weights;
mod writer;

pub use safetensors::Dtype;
pub(crate) use safetensors_files::other_format;
pub use weights::{TensorInfo, WeightSource, Weights};
pub use writer::{tensor_file, write_model};
