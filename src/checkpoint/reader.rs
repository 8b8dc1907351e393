//! Reads safetensors: one file, or a folder with `model.safetensors` or its shards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};

/// The tensors of a checkpoint, mapped into memory and converted only when asked for.
#[derive(Debug)]
pub struct Weights {
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Tensor>,
    /// What the user named: the folder or the file.
    path: PathBuf,
}

impl Weights {
    /// Opens the weights in a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json`
    /// lists. Headers are checked completely (lengths, offsets, shapes), tensor values by [`Weights::read_f32`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Weights> {
        let dir = dir.as_ref();
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        if single.exists() {
            Ok(Weights { path: dir.to_path_buf(), ..Weights::open_file(&single)? })
        } else if index.exists() {
            Weights::open_shards(dir, &index)
        } else {
            Err(no_weights(dir))
        }
    }

    /// Opens one safetensors file, whatever tensors it holds.
    pub fn open_file(path: impl AsRef<Path>) -> Result<Weights> {
        let path = path.as_ref();
        let file = MappedFile::open(path)?;
        let tensors = file.tensors(0)?;
        Ok(Weights { files: vec![file], tensors, path: path.to_path_buf() })
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
        let (tensor, file) = self.find(name, expected)?;
        let bytes = file.data(tensor);
        let values = match tensor.dtype {
            Dtype::F32 => convert(bytes, f32::from_le_bytes),
            Dtype::F16 => convert(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => convert(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F64 => convert(bytes, |b| f64::from_le_bytes(b) as f32),
            other => {
                let what = "only F32, F16, BF16 and F64 can be read; convert the checkpoint (quantized weights must be \
                            dequantized first)";
                return Err(Error::file(&file.path, format!("tensor {name} is stored as {other}; {what}")));
            }
        };
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let what = format!(
                "tensor {name} holds {} at element {at}: the file is damaged, or was saved after training diverged",
                values[at]
            );
            return Err(Error::file(&file.path, what));
        }
        Ok(values)
    }

    /// A tensor's bytes as stored (little-endian, row-major). An error if it is missing or of another type or shape.
    pub fn read_bytes(&self, name: &str, dtype: Dtype, expected: &[usize]) -> Result<&[u8]> {
        let (tensor, file) = self.find(name, expected)?;
        if tensor.dtype != dtype {
            let what = format!("tensor {name} is stored as {}, expected {dtype}", tensor.dtype);
            return Err(Error::file(&file.path, what));
        }
        Ok(file.data(tensor))
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
        Err(Error::file(&self.path, what))
    }

    /// The name under which this checkpoint stores the embedding that encoder and decoder share.
    pub fn embedding_name(&self) -> Result<&'static str> {
        EMBEDDINGS.into_iter().find(|name| self.contains(name)).ok_or_else(|| {
            let what = format!("no embedding among the tensors (looked for {})", EMBEDDINGS.join(", "));
            Error::file(&self.path, what)
        })
    }

    /// Tensors of the file that are not `expected`, sorted. Leaves out what old T5 files are known to carry in vain:
    /// copies of the embedding and a bias table for cross-attention, which has no position bias.
    pub fn unused<'a>(&self, expected: impl IntoIterator<Item = &'a str>) -> Vec<&str> {
        let expected: BTreeSet<&str> = expected.into_iter().chain(EMBEDDINGS).chain([CROSS_ATTENTION_BIAS]).collect();
        self.names().filter(|name| !expected.contains(name)).collect()
    }

    fn open_shards(dir: &Path, index_path: &Path) -> Result<Weights> {
        let text = files::read_text(index_path, SETTINGS_LIMIT)?;
        let index: ShardIndex = serde_json::from_str(&text)
            .map_err(|e| Error::line(index_path, e.line(), format!("not an index of safetensors shards: {e}")))?;
        let shards: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
        let mut weights = Weights { files: Vec::new(), tensors: BTreeMap::new(), path: dir.to_path_buf() };
        for shard in shards {
            // A hostile index must not make us open files elsewhere.
            let mut components = Path::new(shard).components();
            if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
                let what = format!("shard \"{shard}\" lies outside of this folder; refusing to read it");
                return Err(Error::file(index_path, what));
            }
            let path = dir.join(shard);
            if !path.exists() {
                let what = format!("shard {shard} is missing from {}; download the model again", dir.display());
                return Err(Error::file(index_path, what));
            }
            let file = MappedFile::open(&path)?;
            let wanted = |name: &String| index.weight_map.get(name).is_some_and(|home| home == shard);
            weights.tensors.extend(file.tensors(weights.files.len())?.into_iter().filter(|(name, _)| wanted(name)));
            weights.files.push(file);
        }
        match index.weight_map.iter().find(|(name, _)| !weights.contains(name)) {
            None => Ok(weights),
            Some((name, shard)) => {
                let what =
                    format!("tensor {name} should be in shard {shard}, but is not there; download the model again");
                Err(Error::file(index_path, what))
            }
        }
    }

    fn find(&self, name: &str, expected: &[usize]) -> Result<(&Tensor, &MappedFile)> {
        let Some(tensor) = self.tensors.get(name) else {
            let what = format!(
                "tensor {name} with shape {expected:?} is missing; do configuration and weights belong to one model?"
            );
            return Err(Error::file(&self.path, what));
        };
        let file = &self.files[tensor.file];
        if tensor.shape != expected {
            let what = format!(
                "tensor {name} has shape {:?}, but the configuration asks for {expected:?}; do they belong to one model?",
                tensor.shape
            );
            return Err(Error::file(&file.path, what));
        }
        Ok((tensor, file))
    }
}

const EMBEDDINGS: [&str; 3] = ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
const CROSS_ATTENTION_BIAS: &str = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";

#[derive(Debug)]
struct Tensor {
    /// Index into [`Weights::files`].
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Byte range in the file, checked to lie within it.
    range: Range<usize>,
}

#[derive(Debug)]
struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    fn open(path: &Path) -> Result<MappedFile> {
        let file = files::open(path)?;
        if file.metadata().map_err(Error::io("read", path))?.len() == 0 {
            return Err(Error::file(path, "the file is empty; download or copy it again"));
        }
        // SAFETY: the mapping is read-only. A file that another program changes meanwhile would yield changed numbers, or
        // a signal if it shrinks; this program never writes into an existing weights file, it replaces it by a rename.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(MappedFile { path: path.to_path_buf(), map })
    }

    fn tensors(&self, file: usize) -> Result<BTreeMap<String, Tensor>> {
        let (header_len, metadata) = SafeTensors::read_metadata(&self.map).map_err(|e| {
            let what = "not a complete safetensors file";
            Error::file(&self.path, format!("{what}: {e} (an interrupted download? fetch or copy it again)"))
        })?;
        let data_start = size_of::<u64>() + header_len;
        let tensor = |info: &safetensors::tensor::TensorInfo| Tensor {
            file,
            dtype: info.dtype,
            shape: info.shape.clone(),
            range: data_start + info.data_offsets.0..data_start + info.data_offsets.1,
        };
        Ok(metadata.tensors().into_iter().map(|(name, info)| (name, tensor(info))).collect())
    }

    fn data(&self, tensor: &Tensor) -> &[u8] {
        &self.map[tensor.range.clone()]
    }
}

#[derive(Deserialize)]
struct ShardIndex {
    /// Tensor name to shard file.
    weight_map: BTreeMap<String, String>,
}

/// Stored elements need not be aligned, so they are assembled from bytes.
fn convert<const N: usize>(bytes: &[u8], from_le: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (elements, _) = bytes.as_chunks::<N>();
    elements.iter().map(|&element| from_le(element)).collect()
}

/// Names the remedy for folders that hold a model in another format.
fn no_weights(dir: &Path) -> Error {
    match fs::metadata(dir) {
        Err(source) => return Error::io("open", dir)(source),
        Ok(metadata) if !metadata.is_dir() => {
            return Error::file(dir, "not a folder; name the folder that holds config.json and model.safetensors");
        }
        Ok(_) => {}
    }
    let none = "holds neither model.safetensors nor model.safetensors.index.json";
    Error::file(dir, other_format(dir).unwrap_or_else(|| none.to_owned()))
}

/// What a folder without `model.safetensors` holds instead, and the way from there.
pub(crate) fn other_format(dir: &Path) -> Option<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).ok()?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let original = "use the HuggingFace folder that it was converted from";
    let convert = |model: &str, finish: &str| {
        format!(
            "convert it once with: python -c \"from {model} as M; M.from_pretrained('IN'){finish}.save_pretrained('OUT', \
             safe_serialization=True)\""
        )
    };
    let with_transformers = convert("transformers import AutoModelForSeq2SeqLM", "");
    let of_transformers = ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"];
    let describe = |name: &str| -> Option<String> {
        Some(match name {
            "adapter_config.json" => format!(
                "is an adapter (LoRA or the like), which means nothing without its base model; {}",
                convert("peft import AutoPeftModelForSeq2SeqLM", ".merge_and_unload()")
            ),
            _ if of_transformers.contains(&name) => {
                format!("has {name}, but only safetensors can be read; {with_transformers}")
            }
            _ if name.ends_with(".gguf") => {
                format!("has {name}, a model for llama.cpp, which cannot be read; {original}")
            }
            _ if name.ends_with(".ot") => {
                format!("has {name}, a model for rust-bert, which cannot be read; {original}")
            }
            _ if name.ends_with(".onnx") => format!("has {name}, an ONNX graph, which cannot be read; {original}"),
            "model.bin" => format!("has {name}, a model for CTranslate2, which cannot be read; {original}"),
            _ if name.contains(".ckpt") => format!(
                "has {name}, a checkpoint of TensorFlow, which cannot be read; convert it once with: python -m \
                 transformers.models.t5.convert_t5_original_tf_checkpoint_to_pytorch (transformers 4)"
            ),
            "checkpoint" => format!(
                "has {name}, as T5X writes it, which cannot be read; convert it once with: python -m \
                 transformers.models.t5.convert_t5x_checkpoint_to_pytorch (transformers 4)"
            ),
            _ if name.ends_with(".safetensors") && name != "model.safetensors" => format!(
                "has {name}, but only model.safetensors is looked for: if it holds a whole T5 with HuggingFace's names, rename \
                 it so (files made for image generators hold an encoder alone)"
            ),
            _ => return None,
        })
    };
    // An adapter's weights are safetensors too, and a converted model may lie beside what it was made from.
    let first =
        |wanted: &dyn Fn(&str) -> bool| names.iter().filter(|name| wanted(name)).find_map(|name| describe(name));
    first(&|name| name == "adapter_config.json")
        .or_else(|| first(&|name| of_transformers.contains(&name)))
        .or_else(|| first(&|_| true))
}
