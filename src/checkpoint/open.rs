//! Finding a model's weights: which files of a folder hold them, and in which format a file is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::gguf::GgufFile;
use super::mapped::MappedFile;
use super::safetensors_file::SafetensorsFile;
use super::shards::Shards;
use super::weights::WeightSource;
use crate::error::{Error, Result};

/// What the files of a model are called: stem and extension. The first is preferred.
const NAMES: [(&str, &str); 3] = [("model", "safetensors"), ("pytorch_model", "bin"), ("flax_model", "msgpack")];

/// What T5X calls its checkpoint.
const T5X: &str = "checkpoint";

/// The tensors of a model in a folder, or in one of its files; and which files these are, where that is worth saying.
pub(super) fn open_model(path: &Path) -> Result<(Box<dyn WeightSource>, Option<String>)> {
    let (dir, files, remark) = located(path)?;
    let source: Box<dyn WeightSource> = match files {
        ModelFiles::Whole(name) => open_file(&dir.join(name))?,
        ModelFiles::Index(name) => Box::new(Shards::of_index(&dir.join(name), &open_file)?),
        ModelFiles::Shards(names) => Box::new(Shards::of_files(dir, &names, &open_file)?),
    };
    Ok((source, remark))
}

/// Whether a folder holds a model's weights. What cannot be told counts as weights: opening them says what is wrong.
pub(super) fn has_weights(dir: &Path) -> bool {
    !matches!(files_of(dir), Ok(None))
}

/// The GGUF file, or the first of its shards, that a model's path stands for, if it is one.
pub(super) fn gguf_of(path: &Path) -> Result<Option<PathBuf>> {
    let file = match path.is_dir() {
        true => files_of(path)?.map(|(files, _)| path.join(files.name())),
        false => located(path).ok().map(|(dir, files, _)| dir.join(files.name())),
    };
    Ok(file.filter(|file| extension(file) == "gguf"))
}

/// The folder and the files in it that a model's path stands for: one of its shards stands for all.
fn located(path: &Path) -> Result<(&Path, ModelFiles, Option<String>)> {
    if path.is_dir() {
        let Some((files, remark)) = files_of(path)? else { return Err(no_weights(path)) };
        return Ok((path, files, remark));
    }
    let dir = path.parent().unwrap_or(Path::new(""));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let files = match shard_of(&name) {
        _ if name.ends_with(".index.json") => ModelFiles::Index(name),
        None => ModelFiles::Whole(name),
        Some(ShardName { before, of, after, .. }) => {
            let found = (1..=of).map(|number| (number, format!("{before}-{number:05}-of-{of:05}{after}")));
            let shards = found.filter(|(_, name)| dir.join(name).exists()).collect();
            Found { shards: BTreeMap::from([(of, shards)]), ..Found::default() }.choose(dir)?
        }
    };
    Ok((dir, files, None))
}

/// The tensors of one file.
pub(super) fn open_file(path: &Path) -> Result<Box<dyn WeightSource>> {
    of_file(MappedFile::open(path)?)
}

pub(super) fn of_file(file: MappedFile) -> Result<Box<dyn WeightSource>> {
    let is_zip = file.starts_with(b"PK\x03\x04");
    match extension(&file.path).as_str() {
        "gguf" => Ok(Box::new(GgufFile::new(file)?)),
        _ if file.starts_with(b"GGUF") => Ok(Box::new(GgufFile::new(file)?)),
        "bin" | "pt" | "pth" => pytorch(&file),
        _ if is_zip => pytorch(&file),
        "msgpack" => flax(file),
        "" if file.path.ends_with(T5X) => flax(file),
        _ => Ok(Box::new(SafetensorsFile::new(file)?)),
    }
}

#[cfg(feature = "flax")]
fn flax(file: MappedFile) -> Result<Box<dyn WeightSource>> {
    Ok(Box::new(super::msgpack::MsgpackFile::new(file)?))
}

#[cfg(not(feature = "flax"))]
fn flax(file: MappedFile) -> Result<Box<dyn WeightSource>> {
    Err(Error::file(&file.path, NO_FLAX))
}

/// In lower case.
fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

#[cfg(feature = "pytorch")]
fn pytorch(file: &MappedFile) -> Result<Box<dyn WeightSource>> {
    Ok(Box::new(super::pytorch::PytorchFile::new(file)?))
}

#[cfg(not(feature = "pytorch"))]
fn pytorch(file: &MappedFile) -> Result<Box<dyn WeightSource>> {
    Err(Error::file(&file.path, NO_PYTORCH))
}

#[cfg(any(feature = "hub", not(feature = "flax")))]
const NO_FLAX: &str = "a file of Flax, which a build without the feature `flax` does not read; build with it, or save the model as \
                       safetensors (transformers: save_pretrained)";
#[cfg(any(feature = "hub", not(feature = "pytorch")))]
const NO_PYTORCH: &str = "a file of PyTorch, which a build without the feature `pytorch` does not read; build with it, or save the \
                          model as safetensors (transformers: save_pretrained)";

/// Why this build cannot read a model's file of this name, if it cannot.
#[cfg(feature = "hub")]
pub(crate) fn not_in_this_build(name: &str) -> Option<&'static str> {
    let name = name.strip_suffix(".index.json").unwrap_or(name);
    match extension(Path::new(name)).as_str() {
        "bin" if !cfg!(feature = "pytorch") => Some(NO_PYTORCH),
        "msgpack" | "" if !cfg!(feature = "flax") => Some(NO_FLAX),
        _ => None,
    }
}

/// The files of one model, by their names in its folder.
#[derive(Debug, PartialEq)]
pub(crate) enum ModelFiles {
    Whole(String),
    Index(String),
    Shards(Vec<String>),
}

/// What a file's name says about its part in a model.
#[derive(Debug, PartialEq)]
enum Part {
    Whole,
    Index,
    /// Of so many.
    Shard(u32, u32),
}

/// The files that a folder holds of a model with the same name.
#[derive(Default)]
struct Found {
    whole: Option<String>,
    index: Option<String>,
    /// By how many there are, and their numbers.
    shards: BTreeMap<u32, BTreeMap<u32, String>>,
}

/// The files of the model in a folder.
fn files_of(dir: &Path) -> Result<Option<(ModelFiles, Option<String>)>> {
    let mut names = names_in(dir);
    names.retain(|name| name != T5X || dir.join(T5X).is_file());
    files_among(dir, &names)
}

/// The files of the model among those that `place` holds: those with plain names, or of the only variant
/// (`model.fp16.safetensors`); and a sentence where it is not plain which these are.
///
/// # Errors
/// There are several models, or a shard is missing.
pub(crate) fn files_among(place: &Path, names: &BTreeSet<String>) -> Result<Option<(ModelFiles, Option<String>)>> {
    let mut models: Vec<BTreeMap<String, Found>> = NAMES.iter().map(|_| BTreeMap::new()).collect();
    for name in names {
        for ((stem, extension), variants) in NAMES.into_iter().zip(&mut models) {
            let Some((variant, part)) = part_of(name, stem, extension) else { continue };
            let found = variants.entry(variant.to_owned()).or_default();
            match part {
                Part::Whole => found.whole = Some(name.clone()),
                Part::Index => found.index = Some(name.clone()),
                Part::Shard(number, of) => _ = found.shards.entry(of).or_default().insert(number, name.clone()),
            }
        }
    }
    if let Some(plain) = models.iter_mut().find_map(|variants| variants.remove("")) {
        return Ok(Some((plain.choose(place)?, None)));
    }
    for variants in models {
        let files = variants.into_values().map(|found| found.choose(place)).collect::<Result<Vec<ModelFiles>>>()?;
        match <[ModelFiles; 1]>::try_from(files) {
            Ok([files]) => {
                let remark = format!("the weights are those of {}", files.name());
                return Ok(Some((files, Some(remark))));
            }
            Err(files) if files.is_empty() => {}
            Err(files) => {
                let names: Vec<&str> = files.iter().map(ModelFiles::name).collect();
                let what = format!(
                    "holds several variants of a model, and none without a variant's name: {}; name the file itself, or leave \
                     only one here",
                    names.join(", ")
                );
                return Err(Error::file(place, what));
            }
        }
    }
    gguf_files_among(place, names)
}

/// The only GGUF model, whatever it is called; or T5X's checkpoint.
fn gguf_files_among(place: &Path, names: &BTreeSet<String>) -> Result<Option<(ModelFiles, Option<String>)>> {
    let mut models: BTreeMap<String, Found> = BTreeMap::new();
    for name in names.iter().filter(|name| extension(Path::new(name)) == "gguf") {
        match shard_of(name) {
            None => _ = models.entry(name.clone()).or_default().whole.insert(name.clone()),
            Some(ShardName { before, number, of, .. }) => {
                let found = models.entry(before.to_owned()).or_default();
                found.shards.entry(of).or_default().insert(number, name.clone());
            }
        }
    }
    if models.len() > 1 {
        let names: Vec<&str> = models.keys().map(String::as_str).collect();
        let what = format!("holds several GGUF files: {}; name one of them", names.join(", "));
        return Err(Error::file(place, what));
    }
    let Some((_, found)) = models.pop_first() else {
        let t5x = names.contains(T5X);
        return Ok(t5x.then(|| (ModelFiles::Whole(T5X.into()), Some(format!("the weights are those of {T5X}")))));
    };
    let files = found.choose(place)?;
    let remark = format!("the weights are those of {}", files.name());
    Ok(Some((files, Some(remark))))
}

impl Found {
    fn choose(self, place: &Path) -> Result<ModelFiles> {
        if let Some(files) = self.whole.map(ModelFiles::Whole).or(self.index.map(ModelFiles::Index)) {
            return Ok(files);
        }
        // Shards tell the whole by their names alone. The last is of the largest number.
        let Some((of, shards)) = self.shards.into_iter().next_back() else {
            return Err(no_weights(place));
        };
        match (1..=of).find(|number| !shards.contains_key(number)) {
            None => Ok(ModelFiles::Shards(shards.into_values().collect())),
            Some(number) => {
                let one = shards.values().next().map_or("", |name| name);
                let what = format!("shard {number} of {of} is missing beside {one}; download the model again");
                Err(Error::file(place, what))
            }
        }
    }
}

impl ModelFiles {
    /// That of the file, or of the first.
    pub fn name(&self) -> &str {
        match self {
            ModelFiles::Whole(name) | ModelFiles::Index(name) => name,
            ModelFiles::Shards(names) => names.first().map_or("", |name| name),
        }
    }
}

/// The variant ("" for none) and the part that a file's name stands for, if it is one of a model's names.
fn part_of<'a>(name: &'a str, stem: &str, extension: &str) -> Option<(&'a str, Part)> {
    let rest = name.strip_prefix(stem)?;
    let variant_of = |middle: &'a str| match middle.strip_prefix('.') {
        Some(variant) if !variant.is_empty() && !variant.contains('.') => Some(variant),
        None if middle.is_empty() => Some(""),
        _ => None,
    };
    if let Some(rest) = rest.strip_suffix(".json") {
        // `.safetensors.index`, `.safetensors.index.fp16` or `.fp16.safetensors.index`.
        let (before, after) = rest.split_once(&format!(".{extension}.index"))?;
        let variants = [variant_of(before)?, variant_of(after)?];
        return match variants {
            ["", variant] | [variant, ""] => Some((variant, Part::Index)),
            _ => None,
        };
    }
    let rest = rest.strip_suffix(extension)?.strip_suffix('.')?;
    // `.fp16-00001-of-00002` or `-00001-of-00002.fp16`.
    let Some(ShardName { before, number, of, after }) = shard_of(rest) else {
        return Some((variant_of(rest)?, Part::Whole));
    };
    match [variant_of(before)?, variant_of(after)?] {
        ["", variant] | [variant, ""] => Some((variant, Part::Shard(number, of))),
        _ => None,
    }
}

/// The parts of `before-00001-of-00002after`.
struct ShardName<'a> {
    before: &'a str,
    number: u32,
    of: u32,
    after: &'a str,
}

fn shard_of(name: &str) -> Option<ShardName<'_>> {
    let (before, after) = name.split_once("-of-")?;
    let (before, number) = before.rsplit_once('-')?;
    let (of, after) = after.split_at(after.find('.').unwrap_or(after.len()));
    let (number, of) = (number.parse().ok()?, of.parse().ok()?);
    // More files than any model has would only cost time.
    (1..=of).contains(&number).then_some(ShardName { before, number, of, after }).filter(|shard| shard.of <= 9999)
}

/// Sorted.
fn names_in(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Names the remedy for folders that hold a model in another format.
fn no_weights(dir: &Path) -> Error {
    Error::file(dir, other_format(dir).unwrap_or_else(|| NO_WEIGHTS.to_owned()))
}

/// What is said of a folder in which nothing looks like a model.
pub(crate) const NO_WEIGHTS: &str = "holds no weights: neither model.safetensors nor pytorch_model.bin, nor an index or shards of \
                                     one, nor GGUF, nor flax_model.msgpack";

/// What a folder without `model.safetensors` holds instead, and the way from there.
pub(crate) fn other_format(dir: &Path) -> Option<String> {
    other_format_among(&names_in(dir))
}

/// The same of the names of its files.
pub(crate) fn other_format_among(names: &BTreeSet<String>) -> Option<String> {
    let original = "use the HuggingFace folder that it was converted from";
    let convert = |model: &str, finish: &str| {
        format!(
            "convert it once with: python -c \"from {model} as M; M.from_pretrained('IN'){finish}.save_pretrained('OUT', \
             safe_serialization=True)\""
        )
    };
    let with_transformers = convert("transformers import AutoModelForSeq2SeqLM", "");
    let describe = |name: &str| -> Option<String> {
        Some(match name {
            "adapter_config.json" => format!(
                "is an adapter (LoRA or the like), which means nothing without its base model; {}",
                convert("peft import AutoPeftModelForSeq2SeqLM", ".merge_and_unload()")
            ),
            "tf_model.h5" => {
                format!("has {name}, which cannot be read; {with_transformers}")
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
            _ if name.ends_with(".safetensors") && name != "model.safetensors" => format!(
                "has {name}, but only model.safetensors and its variants are looked for: if it holds a whole T5 with \
                 HuggingFace's names, rename it so, or name the file (files made for image generators hold an encoder alone)"
            ),
            _ => return None,
        })
    };
    // An adapter's weights are safetensors too, and a converted model may lie beside what it was made from.
    let first =
        |wanted: &dyn Fn(&str) -> bool| names.iter().filter(|name| wanted(name)).find_map(|name| describe(name));
    first(&|name| name == "adapter_config.json")
        .or_else(|| first(&|name| name == "tf_model.h5"))
        .or_else(|| first(&|_| true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        let part = |name| part_of(name, "model", "safetensors");
        for (name, variant, expected) in [
            ("model.safetensors", "", Part::Whole),
            ("model.fp16.safetensors", "fp16", Part::Whole),
            ("model.safetensors.index.json", "", Part::Index),
            ("model.safetensors.index.fp16.json", "fp16", Part::Index),
            ("model.fp16.safetensors.index.json", "fp16", Part::Index),
            ("model-00001-of-00002.safetensors", "", Part::Shard(1, 2)),
            ("model.fp32-00002-of-00002.safetensors", "fp32", Part::Shard(2, 2)),
            ("model-00002-of-00010.fp16.safetensors", "fp16", Part::Shard(2, 10)),
        ] {
            assert_eq!(part(name), Some((variant, expected)), "{name}");
        }
        for name in [
            "model..safetensors",
            "modelsafetensors",
            "model_2.safetensors",
            "model.a.b.safetensors",
            "model-00003-of-00002.safetensors",
            "model-00000-of-00002.safetensors",
            "model.a-1-of-2.b.safetensors",
            "model-x-of-2.safetensors",
            "model.a.safetensors.index.b.json",
            "model.json",
            "adapter_model.safetensors",
        ] {
            assert_eq!(part(name), None, "{name}");
        }
    }
}
