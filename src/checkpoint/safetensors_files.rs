//! The safetensors format: one file, a folder with `model.safetensors` or its shards, or bytes in memory.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::{Deref, Range};
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use serde::Deserialize;

use super::weights::{TensorInfo, WeightSource};
use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};

/// Tensors in safetensors files, mapped into memory.
pub(super) struct SafetensorsFiles {
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Tensor>,
    /// What the user named: the folder or the file.
    path: PathBuf,
}

impl SafetensorsFiles {
    pub fn open_folder(dir: &Path) -> Result<SafetensorsFiles> {
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        if single.exists() {
            Ok(SafetensorsFiles { path: dir.to_path_buf(), ..SafetensorsFiles::open(&single)? })
        } else if index.exists() {
            SafetensorsFiles::open_shards(dir, &index)
        } else {
            Err(no_weights(dir))
        }
    }

    pub fn open(path: &Path) -> Result<SafetensorsFiles> {
        SafetensorsFiles::of_one(MappedFile::open(path)?)
    }

    pub fn from_bytes(name: &Path, bytes: Vec<u8>) -> Result<SafetensorsFiles> {
        SafetensorsFiles::of_one(MappedFile { path: name.to_path_buf(), contents: Contents::InMemory(bytes) })
    }

    fn of_one(file: MappedFile) -> Result<SafetensorsFiles> {
        let (tensors, path) = (file.tensors(0)?, file.path.clone());
        Ok(SafetensorsFiles { files: vec![file], tensors, path })
    }

    fn open_shards(dir: &Path, index_path: &Path) -> Result<SafetensorsFiles> {
        let text = files::read_text(index_path, SETTINGS_LIMIT)?;
        let index: ShardIndex = serde_json::from_str(&text)
            .map_err(|e| Error::line(index_path, e.line(), format!("not an index of safetensors shards: {e}")))?;
        let shards: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
        let mut weights = SafetensorsFiles { files: Vec::new(), tensors: BTreeMap::new(), path: dir.to_path_buf() };
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
        match index.weight_map.iter().find(|(name, _)| !weights.tensors.contains_key(name.as_str())) {
            None => Ok(weights),
            Some((name, shard)) => {
                let what =
                    format!("tensor {name} should be in shard {shard}, but is not there; download the model again");
                Err(Error::file(index_path, what))
            }
        }
    }
}

impl WeightSource for SafetensorsFiles {
    fn tensors(&self) -> BTreeMap<String, TensorInfo> {
        self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.info.clone())).collect()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(self.files[tensor.file].contents[tensor.range.clone()].into()),
            None => Err(Error::file(&self.path, format!("there is no tensor {name}"))),
        }
    }

    fn place(&self, tensor: Option<&str>) -> PathBuf {
        let tensor = tensor.and_then(|name| self.tensors.get(name));
        tensor.map_or(&self.path, |tensor| &self.files[tensor.file].path).clone()
    }
}

struct Tensor {
    /// Index into [`SafetensorsFiles::files`].
    file: usize,
    info: TensorInfo,
    /// Byte range in the file, checked to lie within it.
    range: Range<usize>,
}

struct MappedFile {
    path: PathBuf,
    contents: Contents,
}

enum Contents {
    Mapped(Mmap),
    InMemory(Vec<u8>),
}

impl Deref for Contents {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Contents::Mapped(map) => map,
            Contents::InMemory(bytes) => bytes,
        }
    }
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
        Ok(MappedFile { path: path.to_path_buf(), contents: Contents::Mapped(map) })
    }

    fn tensors(&self, file: usize) -> Result<BTreeMap<String, Tensor>> {
        let (header_len, metadata) = SafeTensors::read_metadata(&self.contents).map_err(|e| {
            let what = "not a complete safetensors file";
            Error::file(&self.path, format!("{what}: {e} (an interrupted download? fetch or copy it again)"))
        })?;
        let data_start = size_of::<u64>() + header_len;
        let tensor = |info: &safetensors::tensor::TensorInfo| Tensor {
            file,
            info: TensorInfo { dtype: info.dtype, shape: info.shape.clone() },
            range: data_start + info.data_offsets.0..data_start + info.data_offsets.1,
        };
        Ok(metadata.tensors().into_iter().map(|(name, info)| (name, tensor(info))).collect())
    }
}

#[derive(Deserialize)]
struct ShardIndex {
    /// Tensor name to shard file.
    weight_map: BTreeMap<String, String>,
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
