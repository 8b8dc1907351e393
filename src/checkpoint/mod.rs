//! Files in and out: HuggingFace model folders, and folders that are replaced as a whole or not at all.

mod atomic;
mod reader;
mod writer;

pub use atomic::{AtomicDir, recover, write_file_atomic};
pub use reader::Weights;
pub(crate) use reader::other_format;
pub use safetensors::Dtype;
pub use writer::{RawTensor, write_model, write_tensors};
