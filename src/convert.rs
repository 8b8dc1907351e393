//! A model in other files: HuggingFace's folder or GGUF, its weights in another type.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::checkpoint::{
    BlockFormat, Dtype, Encoding, GgufValue, TensorInfo, Weights, llama_cpp_name, write_gguf, write_tensors,
};
use crate::error::{Error, Result};
use crate::files::{LEFT_OVER, folder_of, sync_folder};
use crate::model::config::Family;
use crate::model::{Architecture, EncoderAttention, Labelled, ModelParts, T5Config};
use crate::ops::Function;
use crate::tokenizer::{Tokenizer, Vocabulary};

/// What files a model is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A folder as HuggingFace has it: `config.json`, `model.safetensors`, the tokenizer.
    Folder,
    /// One file with llama.cpp's names.
    Gguf,
}

/// What became of a tensor.
#[derive(Clone, Debug)]
pub struct Converted {
    /// HuggingFace's name.
    pub name: String,
    pub shape: Vec<usize>,
    pub from: Encoding,
    pub to: Encoding,
    /// That it takes.
    pub bytes: usize,
    /// Root mean square of what rounding changed, relative to that of the numbers; 0 for a tensor of zeros.
    pub relative_error: f64,
    /// The largest change of a number.
    pub largest_error: f64,
}

/// A model to be written.
pub struct Conversion {
    parts: ModelParts,
    tokenizer: Option<Tokenizer>,
    format: Format,
    encoding: Option<Encoding>,
    /// HuggingFace's name, the name in the source, and how the tensor will be stored.
    tensors: Vec<(String, String, TensorInfo)>,
}

/// Elements that are converted at once: whole blocks.
const A_TASK: usize = 1 << 18;

impl Conversion {
    /// `encoding`: how matrices are stored; without, as they are, where the format can. Norms and bias tables, and matrices whose rows are
    /// no whole blocks, are f32.
    ///
    /// # Errors
    /// The format cannot hold this model.
    pub fn new(
        parts: ModelParts,
        tokenizer: Option<Tokenizer>,
        format: Format,
        encoding: Option<Encoding>,
    ) -> Result<Conversion> {
        let ModelParts { config, weights, .. } = &parts;
        let mut untied = config.num_decoder_layers > 0 && weights.contains("lm_head.weight");
        if let (Format::Folder, Some(Encoding::Blocks(blocks))) = (format, encoding) {
            let what = format!("a folder holds no {}: write a file that ends in .gguf", blocks.name());
            return Err(Error::Input(what));
        }
        if format == Format::Gguf {
            // A head without a matrix of its own is scaled as T5's is, as far as readers of GGUF know.
            let copies = config.num_decoder_layers > 0 && !untied && config.output_scale(untied).0 == 1.0;
            untied |= copies;
            expect_gguf(config, untied)?;
        }
        let embedding = weights.embedding_name()?;
        let of = |(name, shape): (String, Vec<usize>)| -> Result<(String, String, TensorInfo)> {
            let origin = match &*name {
                "shared.weight" => embedding,
                "lm_head.weight" if !weights.contains(&name) => embedding,
                _ => &name,
            };
            let stored = weights.encoding(origin).ok_or_else(|| missing(weights, &name, &shape))?;
            let wanted = encoding.unwrap_or(match stored {
                Encoding::Plain(Dtype::F16 | Dtype::BF16) => stored,
                Encoding::Blocks(_) if format == Format::Gguf => stored,
                _ => F32,
            });
            let info = TensorInfo { encoding: wanted, shape: shape.clone() };
            let fits = is_matrix(&name, &shape) && info.bytes().is_some();
            let info = if fits { info } else { TensorInfo { encoding: F32, ..info } };
            let origin = origin.to_owned();
            Ok((name, origin, info))
        };
        let tensors = config.tensor_shapes(untied).into_iter().map(of).collect::<Result<_>>()?;
        Ok(Conversion { parts, tokenizer, format, encoding, tensors })
    }

    /// The model that is written.
    pub fn config(&self) -> &T5Config {
        &self.parts.config
    }

    /// Bytes of all weights as they will be written.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().filter_map(|(.., info)| info.bytes()).map(|bytes| bytes as u64).sum()
    }

    /// Worth telling before it is written.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = self.parts.remarks.clone();
        if let Some(wanted) = self.encoding {
            let kept =
                self.tensors.iter().filter(|(name, _, info)| is_matrix(name, &info.shape) && info.encoding != wanted);
            let kept: Vec<&str> = kept.map(|(name, ..)| &**name).collect();
            if let [first, ..] = kept[..] {
                let n = kept.len();
                remarks.push(format!(
                    "{n} matrices stay f32, since their rows are no whole blocks of {wanted}: {first} ..."
                ));
            }
        }
        if self.format == Format::Gguf && self.vocabulary().is_none() {
            let what = "no vocabulary is written: the model has none of unigrams, and only these have a place in such a file; name the tokenizer \
                        where the file is used";
            remarks.push(what.into());
        }
        if self.format == Format::Folder && self.tokenizer.is_none() {
            remarks.push("no tokenizer is written: the model has none beside it".into());
        }
        remarks
    }

    /// Writes the file or the folder. A file that is there is replaced, a folder must be new or empty. `on_tensor` hears of each
    /// tensor, with the bytes that all so far take; its `Break` stops.
    ///
    /// # Errors
    /// A weight cannot be read, or is beyond the range of its type; the disk is full; `Cancelled`. Nothing is left then.
    pub fn write(&self, out: &Path, on_tensor: &mut dyn FnMut(&Converted, u64) -> ControlFlow<()>) -> Result<()> {
        let mut done = 0;
        let mut bytes = |name: &str| -> Result<Cow<'_, [u8]>> {
            let Some((name, origin, info)) = self.tensors.iter().find(|(own, ..)| own == name) else {
                unreachable!("only tensors of the list are asked for")
            };
            let (bytes, converted) = self.convert(name, origin, info)?;
            done += bytes.len() as u64;
            if on_tensor(&converted, done).is_break() {
                return Err(Error::Cancelled);
            }
            Ok(bytes)
        };
        match self.format {
            Format::Gguf => {
                let named: Vec<(String, TensorInfo)> = self
                    .tensors
                    .iter()
                    .map(|(name, _, info)| (llama_cpp_name(name).unwrap_or_else(|| name.clone()), info.clone()))
                    .collect();
                let back: BTreeMap<&str, &str> =
                    named.iter().zip(&self.tensors).map(|((to, _), (from, ..))| (&**to, &**from)).collect();
                write_gguf(out, &self.settings(), &named, |name| bytes(back[name]))
            }
            Format::Folder => {
                let tensor = |(name, _, info): &(String, String, TensorInfo)| match info.encoding {
                    Encoding::Plain(dtype) => (self.name_in_folder(name), dtype, info.shape.clone()),
                    Encoding::Blocks(blocks) => unreachable!("{} in a folder", blocks.name()),
                };
                let tensors = self.tensors.iter().map(tensor).collect();
                let bytes = |name: &str| bytes(name.strip_prefix("transformer.").unwrap_or(name));
                new_folder(out, |dir| {
                    let path = dir.join("config.json");
                    fs::write(&path, self.config_json()).map_err(Error::io("write", &path))?;
                    self.parts.generation.save(dir)?;
                    if let Some(tokenizer) = &self.tokenizer {
                        tokenizer.save(dir)?;
                    }
                    write_tensors(&dir.join("model.safetensors"), tensors, bytes)
                })
            }
        }
    }

    fn convert(&self, name: &str, origin: &str, info: &TensorInfo) -> Result<(Cow<'_, [u8]>, Converted)> {
        let weights = &self.parts.weights;
        let from = weights.encoding(origin).ok_or_else(|| missing(weights, name, &info.shape))?;
        let mut converted = Converted {
            name: name.to_owned(),
            shape: info.shape.clone(),
            from,
            to: info.encoding,
            bytes: 0,
            relative_error: 0.0,
            largest_error: 0.0,
        };
        let bytes = match from {
            Encoding::Blocks(format) if from == info.encoding => weights.read_blocks(origin, format, &info.shape)?,
            // Not as they are: numbers that are not finite would go unseen.
            _ => {
                let (bytes, error) = weights
                    .look_f32(origin, &info.shape, |numbers| rounded(numbers, info.encoding))?
                    .map_err(|e| match e {
                        Error::Numeric(what) => Error::Numeric(format!(
                            "{name} cannot be stored as {}: {what}; bf16 has the range of f32",
                            info.encoding
                        )),
                        other => other,
                    })?;
                (converted.relative_error, converted.largest_error) = error;
                bytes.into()
            }
        };
        converted.bytes = bytes.len();
        Ok((bytes, converted))
    }

    fn config_json(&self) -> String {
        let config = &self.parts.config;
        if config.writes_text() {
            let untied = self.tensors.iter().any(|(name, ..)| name == "lm_head.weight");
            return config.for_head(untied).to_json();
        }
        let family = config.model_type.name().to_uppercase();
        let class = match config.classifier.as_ref().map(|head| head.labelled) {
            None if config.patches.is_some() => "ChronosBoltModelForForecasting".to_owned(),
            None => format!("{family}EncoderModel"),
            Some(Labelled::Texts) => format!("{family}ForSequenceClassification"),
            Some(Labelled::Tokens) => format!("{family}ForTokenClassification"),
        };
        // transformers counts the decoder's layers of an encoder, too, which has none.
        let layers = if config.num_decoder_layers == 0 { config.num_layers } else { config.num_decoder_layers };
        let mut map = Map::from(T5Config { num_decoder_layers: layers, ..config.clone() });
        map.insert("architectures".into(), json!([class]));
        format!("{:#}\n", Value::Object(map))
    }

    /// What a folder's file calls a tensor: with a head for classification, the T5 is a part.
    fn name_in_folder(&self, name: &str) -> String {
        let is_head = name.starts_with("classif");
        if self.parts.config.classifier.is_some() && !is_head { format!("transformer.{name}") } else { name.to_owned() }
    }

    fn vocabulary(&self) -> Option<Vocabulary> {
        self.tokenizer.as_ref()?.vocabulary()
    }

    /// llama.cpp's settings of a T5: <https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py>.
    fn settings(&self) -> Vec<(String, GgufValue)> {
        let config = &self.parts.config;
        let encoder = config.num_decoder_layers == 0;
        let architecture = if encoder { "t5encoder" } else { "t5" };
        let number = |n: usize| GgufValue::U32(n as u32);
        let own = |key: &str, value: GgufValue| (format!("{architecture}.{key}"), value);
        let general = |key: &str, value: GgufValue| (format!("general.{key}"), value);
        let eps = || GgufValue::F32(config.layer_norm_epsilon as f32);
        let mut settings = vec![
            general("architecture", GgufValue::Text(architecture.into())),
            general("file_type", number(file_type(&self.tensors))),
            general("quantization_version", number(2)),
            // What llama.cpp reserves memory for; a T5 has no longest text.
            own("context_length", number(512)),
            own("embedding_length", number(config.d_model)),
            own("feed_forward_length", number(config.d_ff)),
            own("block_count", number(config.num_layers)),
            own("attention.head_count", number(config.num_heads)),
            own("attention.key_length", number(config.d_kv)),
            own("attention.value_length", number(config.d_kv)),
            own("attention.layer_norm_epsilon", eps()),
            own("attention.layer_norm_rms_epsilon", eps()),
            own("attention.relative_buckets_count", number(config.relative_attention_num_buckets)),
        ];
        if !encoder {
            settings.push(own("decoder_block_count", number(config.num_decoder_layers)));
            settings.push(own("decoder_start_token_id", GgufValue::U32(config.decoder_start_token_id)));
        }
        if let Some(mut vocabulary) = self.vocabulary() {
            vocabulary.fill(config.vocab_size);
            let tokens = |key: &str, value: GgufValue| (format!("tokenizer.ggml.{key}"), value);
            settings.extend([
                tokens("model", GgufValue::Text("t5".into())),
                tokens("pre", GgufValue::Text("default".into())),
                tokens("tokens", GgufValue::Texts(vocabulary.texts)),
                tokens("scores", GgufValue::Floats(vocabulary.scores)),
                tokens("token_type", GgufValue::Integers(vocabulary.kinds)),
                tokens("add_space_prefix", GgufValue::Flag(vocabulary.add_space_prefix)),
                tokens("remove_extra_whitespaces", GgufValue::Flag(vocabulary.remove_extra_whitespaces)),
                tokens("add_bos_token", GgufValue::Flag(false)),
                tokens("add_eos_token", GgufValue::Flag(true)),
            ]);
            if !vocabulary.charsmap.is_empty() {
                settings.push(tokens("precompiled_charsmap", GgufValue::Bytes(vocabulary.charsmap)));
            }
            if let Some(tokenizer) = &self.tokenizer {
                settings.push(tokens("eos_token_id", GgufValue::U32(tokenizer.eos())));
                settings.push(tokens("unknown_token_id", GgufValue::U32(tokenizer.unk())));
                settings.push(tokens("padding_token_id", GgufValue::U32(tokenizer.pad())));
            }
        }
        settings
    }
}

/// Fills a folder beside `out` and gives it that name.
fn new_folder(out: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = folder_of(out);
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    let temporary = tempfile::Builder::new().prefix(LEFT_OVER).tempdir_in(parent).map_err(Error::io("create", out))?;
    fill(temporary.path())?;
    sync_folder(temporary.path())?;
    // Takes the place of an empty folder, of no other.
    fs::rename(temporary.path(), out).map_err(Error::io("create", out))?;
    _ = temporary.keep();
    sync_folder(parent)
}

const F32: Encoding = Encoding::Plain(Dtype::F32);

fn is_matrix(name: &str, shape: &[usize]) -> bool {
    shape.len() == 2 && !name.ends_with("relative_attention_bias.weight")
}

/// The bytes of numbers, and by how much these differ from them: relatively, and the largest.
fn rounded(numbers: &[f32], to: Encoding) -> Result<(Vec<u8>, (f64, f64))> {
    let task = |some: &[f32]| -> Result<(Vec<u8>, [f64; 3])> {
        let bytes = to.encode(some)?;
        let found = to.decode(&bytes).unwrap_or_default();
        let mut sums = [0.0f64; 3];
        for (&x, &y) in some.iter().zip(&*found) {
            let (x, error) = (f64::from(x), f64::from(y) - f64::from(x));
            sums = [sums[0] + error * error, sums[1] + x * x, sums[2].max(error.abs())];
        }
        Ok((bytes, sums))
    };
    let parts = numbers.par_chunks(A_TASK).map(task).collect::<Result<Vec<_>>>()?;
    let [error, square, largest] = parts
        .iter()
        .fold([0.0; 3], |[e, s, l], (_, [error, square, largest])| [e + error, s + square, l.max(*largest)]);
    let relative = if square > 0.0 { (error / square).sqrt() } else { 0.0 };
    let bytes = parts.into_iter().map(|(bytes, _)| bytes).collect::<Vec<_>>().concat();
    Ok((bytes, (relative, largest)))
}

fn missing(weights: &Weights, name: &str, shape: &[usize]) -> Error {
    // Reading is what has the words for it.
    match weights.look_f32(name, shape, |_| ()) {
        Err(e) => e,
        Ok(()) => Error::Input(format!("the tensor {name} is missing")),
    }
}

/// Refuses what readers of GGUF, this one too, would take for something else: such files say neither the activation nor the largest distance.
fn expect_gguf(config: &T5Config, untied: bool) -> Result<()> {
    if config.architecture != Architecture::EncoderDecoder {
        let name = config.architecture.name();
        let what = format!("a GGUF file cannot say that the architecture is {name}: write a folder instead");
        return Err(Error::Input(what));
    }
    if config.adapter_width > 0 {
        return Err(Error::Input("a GGUF file has no place for adapters: write a folder instead".into()));
    }
    if config.classifier.is_some() {
        return Err(Error::Input("a GGUF file has no place for a head that classifies: write a folder instead".into()));
    }
    if config.patches.is_some() {
        return Err(Error::Input(
            "a GGUF file has no place for a Chronos-Bolt's patches: write a folder instead".into(),
        ));
    }
    if config.encoder_attention != EncoderAttention::Full {
        return Err(Error::Input(
            "a GGUF file cannot say that the encoder sees only what is near, as LongT5's does: write a folder instead"
                .into(),
        ));
    }
    let activation = config.feed_forward_proj;
    let usual = if activation.gated { Function::GeluTanh } else { Function::Relu };
    let refuse =
        |what: String| Err(Error::Input(format!("a GGUF file cannot say that {what}: write a folder instead")));
    if activation.function != usual {
        return refuse(format!("the activation is {}", activation.config_name()));
    }
    if config.relative_attention_max_distance != 128 {
        return refuse(format!("the largest relative distance is {}", config.relative_attention_max_distance));
    }
    let scale = config.output_scale(untied).0;
    let taken =
        if untied || config.model_type == Family::Umt5 { 1.0 } else { (config.d_model as f64).powf(-0.5) as f32 };
    if config.num_decoder_layers > 0 && scale != taken {
        return refuse(format!("the output is scaled by {scale}"));
    }
    Ok(())
}

/// llama.cpp's number for the type that most weights have.
fn file_type(tensors: &[(String, String, TensorInfo)]) -> usize {
    let mut bytes: BTreeMap<usize, usize> = BTreeMap::new();
    for (_, _, info) in tensors {
        let number = match info.encoding {
            Encoding::Plain(Dtype::F16) => 1,
            Encoding::Plain(Dtype::BF16) => 32,
            Encoding::Plain(_) => 0,
            Encoding::Blocks(BlockFormat::Q4_0) => 2,
            Encoding::Blocks(BlockFormat::Q4_1) => 3,
            Encoding::Blocks(BlockFormat::Q8_0) => 7,
            Encoding::Blocks(BlockFormat::Q5_0) => 8,
            Encoding::Blocks(BlockFormat::Q5_1) => 9,
            Encoding::Blocks(BlockFormat::Q4K) => 15,
            Encoding::Blocks(BlockFormat::Q5K) => 17,
            Encoding::Blocks(BlockFormat::Q6K) => 18,
        };
        *bytes.entry(number).or_default() += info.shape.iter().product::<usize>();
    }
    bytes.into_iter().max_by_key(|(_, elements)| *elements).map_or(0, |(number, _)| number)
}
