//! Tensors in and out: the checkpoints that people have, and whatever else is a [`WeightSource`].

mod gguf;
mod grown;
mod mapped;
#[cfg(feature = "flax")]
mod msgpack;
mod naming;
mod open;
mod peft;
#[cfg(feature = "pytorch")]
mod pytorch;
mod safetensors_file;
mod shards;
mod weights;
mod writer;

pub use gguf::BlockFormat;
pub(crate) use gguf::{GgufFile, Setting};
#[cfg(feature = "train")]
pub(crate) use gguf::{Value as GgufValue, write_gguf};
#[cfg(feature = "train")]
pub(crate) use naming::llama_cpp_name;
pub(crate) use open::other_format;
#[cfg(feature = "hub")]
pub(crate) use open::{ModelFiles, NO_WEIGHTS, files_among, not_in_this_build, other_format_among};
pub use peft::PeftFolder;
pub(crate) use peft::{PeftKind, base_of, write_peft};
pub use safetensors::Dtype;
#[cfg(feature = "hub")]
pub(crate) use shards::shard_names;
pub use weights::{Encoding, TensorInfo, WeightSource, Weights};
#[cfg(feature = "train")]
pub(crate) use writer::write_tensors;
pub use writer::{tensor_file, write_model};
