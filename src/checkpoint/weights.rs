//! The tensors of a checkpoint, whatever files they lie in: checked, and converted when asked for.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::{bf16, f16};

use super::Dtype;
use super::safetensors_files::SafetensorsFiles;
use crate::error::{Error, Result};

/// Where a checkpoint's tensors come from: files, memory, a network. What it gives is checked by [`Weights`].
pub trait WeightSource: Send + Sync {
    /// The type and the shape of each tensor, by its HuggingFace name.
    fn tensors(&self) -> BTreeMap<String, TensorInfo>;

    /// The bytes of one of these tensors: little-endian, row-major.
    ///
    /// # Errors
    /// They cannot be read.
    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>>;

    /// What messages about this tensor should name, or about the whole.
    fn place(&self, tensor: Option<&str>) -> PathBuf;
}

/// How a tensor is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

/// The tensors of a [`WeightSource`].
pub struct Weights {
    source: Box<dyn WeightSource>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tensors of {}", self.tensors.len(), self.source.place(None).display())
    }
}

impl Weights {
    /// Opens the weights in a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json`
    /// lists. Headers are checked completely (lengths, offsets, shapes), tensor values by [`Weights::read_f32`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Weights> {
        Ok(Weights::of(SafetensorsFiles::open_folder(dir.as_ref())?))
    }

    /// Opens one safetensors file, whatever tensors it holds.
    pub fn open_file(path: impl AsRef<Path>) -> Result<Weights> {
        Ok(Weights::of(SafetensorsFiles::open(path.as_ref())?))
    }

    /// A safetensors file that is in memory. `name` stands for it in messages.
    pub fn from_bytes(name: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Weights> {
        Ok(Weights::of(SafetensorsFiles::from_bytes(name.as_ref(), bytes)?))
    }

    /// The tensors of any source.
    pub fn of(source: impl WeightSource + 'static) -> Weights {
        Weights { tensors: source.tensors(), source: Box::new(source) }
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// The type in which a tensor is stored.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).map(|tensor| tensor.dtype)
    }

    /// A tensor's values, row-major, as f32; stored may be f32, f16, bf16 or f64. An error if the tensor is missing, has
    /// another shape than `expected`, or holds a NaN or an infinity.
    pub fn read_f32(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>> {
        let dtype = self.find(name, expected)?.dtype;
        let bytes = &*self.source.read(name)?;
        let values = match dtype {
            Dtype::F32 => convert(bytes, f32::from_le_bytes),
            Dtype::F16 => convert(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => convert(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F64 => convert(bytes, |b| f64::from_le_bytes(b) as f32),
            other => {
                let what = "only F32, F16, BF16 and F64 can be read; convert the checkpoint (quantized weights must be \
                            dequantized first)";
                return Err(self.wrong(Some(name), format!("tensor {name} is stored as {other}; {what}")));
            }
        };
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let what = format!(
                "tensor {name} holds {} at element {at}: the file is damaged, or was saved after training diverged",
                values[at]
            );
            return Err(self.wrong(Some(name), what));
        }
        Ok(values)
    }

    /// A tensor's bytes as stored (little-endian, row-major). An error if it is missing or of another type or shape.
    pub fn read_bytes(&self, name: &str, dtype: Dtype, expected: &[usize]) -> Result<Cow<'_, [u8]>> {
        let stored = self.find(name, expected)?.dtype;
        if stored != dtype {
            return Err(self.wrong(Some(name), format!("tensor {name} is stored as {stored}, expected {dtype}")));
        }
        self.source.read(name)
    }

    /// Refuses a file that is part of a T5, or one with another head: neither writes text.
    ///
    /// # Errors
    /// Say what it is.
    pub fn expect_decoder(&self) -> Result<()> {
        let what = if self.names().any(|name| name.starts_with("decoder.")) {
            return Ok(());
        } else if self.names().any(|name| name.starts_with("transformer.")) {
            "this is a T5 with a head for classification (such as T5ForSequenceClassification), which writes no text and cannot \
             be used here: take the model that it was fine-tuned from, and train it to write the labels as words"
        } else if self.names().any(|name| name.starts_with("encoder.")) {
            "this is an encoder without a decoder (T5EncoderModel, as sentence embeddings and image generators use it), which \
             writes no text and cannot be used here: take the whole T5 that it was taken from"
        } else {
            return Ok(());
        };
        Err(self.wrong(None, what))
    }

    /// Whether it is an encoder without a decoder.
    pub fn is_encoder(&self) -> bool {
        let has = |prefix| self.names().any(|name| name.starts_with(prefix));
        has("encoder.") && !has("decoder.") && !has("transformer.")
    }

    /// The name under which this checkpoint stores the embedding that encoder and decoder share.
    pub fn embedding_name(&self) -> Result<&'static str> {
        EMBEDDINGS.into_iter().find(|name| self.contains(name)).ok_or_else(|| {
            let what = format!("no embedding among the tensors (looked for {})", EMBEDDINGS.join(", "));
            self.wrong(None, what)
        })
    }

    /// Tensors of the file that are not `expected`, sorted. Leaves out what old T5 files are known to carry in vain:
    /// copies of the embedding and a bias table for cross-attention, which has no position bias.
    pub fn unused<'a>(&self, expected: impl IntoIterator<Item = &'a str>) -> Vec<&str> {
        let expected: BTreeSet<&str> = expected.into_iter().chain(EMBEDDINGS).chain([CROSS_ATTENTION_BIAS]).collect();
        self.names().filter(|name| !expected.contains(name)).collect()
    }

    fn find(&self, name: &str, expected: &[usize]) -> Result<&TensorInfo> {
        let Some(tensor) = self.tensors.get(name) else {
            let what = format!(
                "tensor {name} with shape {expected:?} is missing; do configuration and weights belong to one model?"
            );
            return Err(self.wrong(None, what));
        };
        if tensor.shape != expected {
            let what = format!(
                "tensor {name} has shape {:?}, but the configuration asks for {expected:?}; do they belong to one model?",
                tensor.shape
            );
            return Err(self.wrong(Some(name), what));
        }
        Ok(tensor)
    }

    fn wrong(&self, tensor: Option<&str>, what: impl Into<String>) -> Error {
        Error::file(self.source.place(tensor), what)
    }
}

const EMBEDDINGS: [&str; 3] = ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
const CROSS_ATTENTION_BIAS: &str = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";

/// Stored elements need not be aligned, so they are assembled from bytes.
fn convert<const N: usize>(bytes: &[u8], from_le: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (elements, _) = bytes.as_chunks::<N>();
    elements.iter().map(|&element| from_le(element)).collect()
}
