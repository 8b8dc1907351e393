//! The tensors of a checkpoint, whatever files they lie in: checked, and converted when asked for.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use rayon::prelude::*;

use super::mapped::MappedFile;
use super::naming::{Origin, huggingface_names};
use super::peft::PeftFolder;
use super::{BlockFormat, Dtype, open};
use crate::error::{Error, Result};

/// Where a checkpoint's tensors come from: files, memory, a network. What it gives is checked by [`Weights`], which also knows
/// what different programs call the same parameter.
pub trait WeightSource: Send + Sync {
    /// The type and the shape of each tensor, by its name in this source.
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
    pub encoding: Encoding,
    pub shape: Vec<usize>,
}

/// How the numbers of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// One after the other.
    Plain(Dtype),
    /// In quantized blocks along the rows.
    Blocks(BlockFormat),
}

impl TensorInfo {
    /// Bytes of the tensor; nothing if its rows are no whole blocks, or they are too many to count.
    pub fn bytes(&self) -> Option<usize> {
        let elements = self.shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))?;
        match self.encoding {
            Encoding::Plain(dtype) => elements.checked_mul(dtype.bitsize()).map(|bits| bits.div_ceil(8)),
            Encoding::Blocks(format) => {
                let row = self.shape.last().filter(|row| row.is_multiple_of(format.elements()))?;
                (elements / row.max(&1) * (row / format.elements())).checked_mul(format.bytes())
            }
        }
    }
}

impl Encoding {
    /// The bytes of numbers stored so, little-endian; of blocks, those of whole rows.
    ///
    /// # Errors
    /// `Numeric` if a finite number is beyond the range of what stores it; `Input` for encodings that are only read.
    pub fn encode(self, numbers: &[f32]) -> Result<Vec<u8>> {
        let halves = |bits: fn(f32) -> u16, infinity: u16| {
            let half = |&x: &f32| match bits(x) {
                half if half & 0x7fff == infinity && x.is_finite() => {
                    Err(Error::Numeric(format!("{x} is beyond the range of {self}")))
                }
                half => Ok(half.to_le_bytes()),
            };
            numbers.iter().map(half).collect::<Result<Vec<_>>>().map(|halves| halves.into_flattened())
        };
        match self {
            Encoding::Plain(Dtype::F32) => Ok(numbers.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Encoding::Plain(Dtype::F16) => halves(|x| f16::from_f32(x).to_bits(), f16::INFINITY.to_bits()),
            Encoding::Plain(Dtype::BF16) => halves(|x| bf16::from_f32(x).to_bits(), bf16::INFINITY.to_bits()),
            Encoding::Plain(other) => Err(Error::Input(format!("weights are not written as {other}"))),
            Encoding::Blocks(format) => format.encode(numbers),
        }
    }

    /// The numbers that bytes stand for: the reverse of [`Encoding::encode`].
    pub(crate) fn decode(self, bytes: &[u8]) -> Option<Cow<'_, [f32]>> {
        Some(match self {
            Encoding::Plain(Dtype::F32) => match bytemuck::try_cast_slice(bytes) {
                Ok(values) if cfg!(target_endian = "little") => values.into(),
                _ => convert(bytes, f32::from_le_bytes).into(),
            },
            Encoding::Plain(Dtype::F16) => convert(bytes, |b| f16::from_le_bytes(b).to_f32()).into(),
            Encoding::Plain(Dtype::BF16) => convert(bytes, |b| bf16::from_le_bytes(b).to_f32()).into(),
            Encoding::Plain(Dtype::F64) => convert(bytes, |b| f64::from_le_bytes(b) as f32).into(),
            Encoding::Plain(_) => return None,
            Encoding::Blocks(format) => {
                let mut values = vec![0.0; bytes.len() / format.bytes() * format.elements()];
                let runs = bytes.par_chunks(BLOCKS_A_TASK * format.bytes());
                runs.zip(values.par_chunks_mut(BLOCKS_A_TASK * format.elements()))
                    .for_each(|(b, v)| format.decode(b, v));
                values.into()
            }
        })
    }
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Encoding::Plain(dtype) => dtype.fmt(f),
            Encoding::Blocks(format) => f.write_str(format.name()),
        }
    }
}

/// The tensors of a [`WeightSource`], by HuggingFace's names: those of other programs are translated, and what wraps of whole
/// models put before every name (`module.`) is left out.
pub struct Weights {
    source: Box<dyn WeightSource>,
    tensors: BTreeMap<String, Tensor>,
    /// What is worth saying about how these were found.
    pub(super) remark: Option<String>,
}

struct Tensor {
    /// As HuggingFace has it, `[out, in]`.
    info: TensorInfo,
    origin: Origin,
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tensors of {}", self.tensors.len(), self.source.place(None).display())
    }
}

impl Weights {
    /// Opens the weights of a model: in a folder those that its files' names stand for, else the file itself. In a folder these
    /// are `model.safetensors`, else `pytorch_model.bin` (feature `pytorch`); their shards, which an index lists, or whose names say
    /// that all are there; `flax_model.msgpack` or T5X's `checkpoint` (feature `flax`); the same of the only variant (`model.fp16.safetensors`); or the only GGUF file. Headers are checked completely
    /// (lengths, offsets, shapes), tensor values when they are read. A folder of PyPI's peft in their place stands for the model
    /// that it names, with what it adds merged into it.
    ///
    /// # Errors
    /// There are none, or several variants; a file is missing, damaged or in a format that is not read.
    pub fn open(path: impl AsRef<Path>) -> Result<Weights> {
        if let Some(adapter) = PeftFolder::find(path.as_ref())? {
            return Weights::open(adapter.base()?)?.with_peft(adapter);
        }
        let (source, remark) = open::open_model(path.as_ref())?;
        Ok(Weights { remark, ..Weights::of_box(source)? })
    }

    /// Opens one file, whatever tensors it holds.
    ///
    /// # Errors
    /// It is damaged or in a format that is not read.
    pub fn open_file(path: impl AsRef<Path>) -> Result<Weights> {
        Weights::of_box(open::open_file(path.as_ref())?)
    }

    /// A file that is in memory. `name` stands for it in messages, and tells its format as a file's name does.
    ///
    /// # Errors
    /// Those of [`Weights::open_file`].
    pub fn from_bytes(name: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Weights> {
        Weights::of_box(open::of_file(MappedFile::of_bytes(name.as_ref(), bytes))?)
    }

    /// The tensors of any source.
    ///
    /// # Errors
    /// Two tensors are the same parameter.
    pub fn of(source: impl WeightSource + 'static) -> Result<Weights> {
        Weights::of_box(Box::new(source))
    }

    fn of_box(source: Box<dyn WeightSource>) -> Result<Weights> {
        let mut infos = source.tensors();
        let names = huggingface_names(infos.keys().map(String::as_str));
        let names = names.map_err(|what| Error::file(source.place(None), what))?;
        let of_origin = |(name, origin): (String, Origin)| {
            let mut info = infos.remove(&origin.name)?;
            if origin.transposed {
                info.shape.reverse();
            }
            Some((name, Tensor { info, origin }))
        };
        let tensors = names.into_iter().filter_map(of_origin).collect();
        Ok(Weights { source, tensors, remark: None })
    }

    /// A sentence about which weights these are, where that is not plain.
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.info.shape.as_slice())
    }

    /// How a tensor is stored.
    pub fn encoding(&self, name: &str) -> Option<Encoding> {
        self.tensors.get(name).map(|tensor| tensor.info.encoding)
    }

    /// The type in which a tensor is stored, unless it is quantized.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        match self.encoding(name)? {
            Encoding::Plain(dtype) => Some(dtype),
            Encoding::Blocks(_) => None,
        }
    }

    /// A tensor's values, row-major, as f32; stored may be f32, f16, bf16, f64 or quantized blocks.
    ///
    /// # Errors
    /// The tensor is missing, of another type, has another shape than `expected`, or holds a NaN or an infinity.
    pub fn read_f32(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        let whole = |read: Cow<'_, [f32]>| values = read.into_owned();
        self.values(name, expected, whole)?;
        Ok(values)
    }

    /// [`Weights::read_f32`], for one look at the values: f32 that lie in a file's mapping are not copied.
    ///
    /// # Errors
    /// Those of [`Weights::read_f32`].
    pub fn look_f32<R>(&self, name: &str, expected: &[usize], look: impl FnOnce(&[f32]) -> R) -> Result<R> {
        self.values(name, expected, |values| look(&values))
    }

    fn values<R>(&self, name: &str, expected: &[usize], take: impl FnOnce(Cow<'_, [f32]>) -> R) -> Result<R> {
        let encoding = self.find(name, expected)?.info.encoding;
        let bytes = &*self.bytes_of(name, encoding, expected)?;
        let Some(values) = encoding.decode(bytes) else {
            let what = "only F32, F16, BF16, F64 and GGUF's blocks can be read; convert the checkpoint";
            return Err(self.wrong(Some(name), format!("tensor {name} is stored as {encoding}; {what}")));
        };
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let what = format!(
                "tensor {name} holds {} at element {at}: the file is damaged, or was saved after training diverged",
                values[at]
            );
            return Err(self.wrong(Some(name), what));
        }
        Ok(take(values))
    }

    /// A tensor's bytes as stored (little-endian), row-major.
    ///
    /// # Errors
    /// It is missing or of another type or shape.
    pub fn read_bytes(&self, name: &str, dtype: Dtype, expected: &[usize]) -> Result<Cow<'_, [u8]>> {
        self.bytes_of(name, Encoding::Plain(dtype), expected)
    }

    /// The blocks of a quantized tensor as they are stored, row by row.
    ///
    /// # Errors
    /// It is missing, or stored otherwise or with another shape, or holds a scale that is not finite.
    pub fn read_blocks(&self, name: &str, format: BlockFormat, expected: &[usize]) -> Result<Cow<'_, [u8]>> {
        let blocks = self.bytes_of(name, Encoding::Blocks(format), expected)?;
        match format.first_bad(&blocks) {
            None => Ok(blocks),
            Some(bad) => {
                let what =
                    format!("tensor {name} holds a scale that is not finite in block {bad}: the file is damaged");
                Err(self.wrong(Some(name), what))
            }
        }
    }

    pub(super) fn bytes_of(&self, name: &str, encoding: Encoding, expected: &[usize]) -> Result<Cow<'_, [u8]>> {
        let Tensor { info, origin } = self.find(name, expected)?;
        if info.encoding != encoding {
            let stored = info.encoding;
            return Err(self.wrong(Some(name), format!("tensor {name} is stored as {stored}, expected {encoding}")));
        }
        let bytes = self.source.read(&origin.name)?;
        match info.shape[..] {
            _ if info.bytes() != Some(bytes.len()) => {
                let what = format!("tensor {name} has {} bytes, too few or too many for its shape", bytes.len());
                Err(self.wrong(Some(name), what))
            }
            [rows, cols] if origin.transposed && matches!(encoding, Encoding::Plain(_)) => {
                Ok(transposed(&bytes, rows, cols).into())
            }
            _ => Ok(bytes),
        }
    }

    /// Refuses a file that is part of a T5, or one with another head: neither writes text.
    ///
    /// # Errors
    /// Say what it is.
    pub fn expect_decoder(&self) -> Result<()> {
        let what = if self.classifier_labels().is_some() {
            "this is a T5 with a head for classification (such as T5ForSequenceClassification), which gives labels their scores, \
             writes no text and cannot be used here: classify texts with it, or take the model that it was fine-tuned from, and \
             train it to write the labels as words"
        } else if self.names().any(|name| name.starts_with("decoder.")) {
            return Ok(());
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
        has("encoder.") && !has("decoder.")
    }

    /// How many labels a head for classification gives scores, if there is one: of texts (T5ForSequenceClassification), or of
    /// tokens (T5ForTokenClassification).
    pub fn classifier_labels(&self) -> Option<usize> {
        let rows = |name| self.shape(name)?.first().copied();
        rows("classification_head.out_proj.weight").or(rows("classifier.weight"))
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

    fn find(&self, name: &str, expected: &[usize]) -> Result<&Tensor> {
        let Some(tensor) = self.tensors.get(name) else {
            let what = format!(
                "tensor {name} with shape {expected:?} is missing; do configuration and weights belong to one model?"
            );
            return Err(self.wrong(None, what));
        };
        if tensor.info.shape != expected {
            let what = format!(
                "tensor {name} has shape {:?}, but the configuration asks for {expected:?}; do they belong to one model?",
                tensor.info.shape
            );
            return Err(self.wrong(Some(name), what));
        }
        Ok(tensor)
    }

    /// What messages about a tensor should name, or about the whole.
    pub(super) fn place(&self, tensor: Option<&str>) -> PathBuf {
        let origin = tensor.and_then(|name| self.tensors.get(name)).map(|tensor| tensor.origin.name.as_str());
        self.source.place(origin)
    }

    fn wrong(&self, tensor: Option<&str>, what: impl Into<String>) -> Error {
        Error::file(self.place(tensor), what)
    }
}

pub(super) const EMBEDDINGS: [&str; 3] =
    ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
const CROSS_ATTENTION_BIAS: &str = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";

/// Quantized blocks that are decoded at once.
const BLOCKS_A_TASK: usize = 1024;

/// Stored elements need not be aligned, so they are assembled from bytes.
fn convert<const N: usize>(bytes: &[u8], from_le: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (elements, _) = bytes.as_chunks::<N>();
    elements.iter().map(|&element| from_le(element)).collect()
}

/// The bytes of a matrix `[rows, cols]` whose transpose these are.
fn transposed(bytes: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    let size = bytes.len() / (rows * cols).max(1);
    let mut turned = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        (0..cols).for_each(|col| turned.extend_from_slice(&bytes[size * (col * rows + row)..][..size]));
    }
    turned
}
