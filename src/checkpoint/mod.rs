//! Tensors in and out: the safetensors of HuggingFace's model folders.

mod reader;
mod writer;

pub use reader::Weights;
pub(crate) use reader::other_format;
pub use safetensors::Dtype;
pub use writer::write_model;
