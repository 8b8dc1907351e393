//! A T5: its configuration, its parameters on the device, and the builder that writes it down as a graph.

mod additions;
mod architecture;
mod batch_leaves;
pub mod builder;
pub mod config;
mod encoder_attention;
mod generation;
mod gguf;
mod head;
mod init;
mod layout;
mod learns;
mod limits;
mod patches;
mod peft;
pub mod presets;
mod shapes;
mod storage;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rayon::prelude::*;
use web_time::Instant;

pub use additions::Lora;
pub use architecture::Architecture;
pub use builder::{Builder, Chooser, DecodeShape, StateLeaf};
pub use config::T5Config;
pub use encoder_attention::EncoderAttention;
#[cfg(feature = "hub")]
pub(crate) use generation::GENERATION_FILE;
pub use generation::{DecodingSettings, EarlyStopping, GenerationConfig};
pub use head::{ClassifierHead, Labelled, Problem};
pub use layout::{Layout, Piece, TensorSpan};
pub use learns::Learns;
pub use patches::PatchHead;
pub use peft::Beside;
pub use storage::Storage;

use crate::checkpoint::{BlockFormat, Encoding, PeftFolder, Weights, write_model};
use crate::error::{Error, Result};
use crate::files;
use crate::gpu::{Buffer, Gpu, Slice};
use crate::graph::Dtype;
use crate::ops::distance_buckets;
use crate::tune::Tuner;

/// A model's parameters on a device, in arenas. Clones share them.
#[derive(Clone)]
pub struct Model {
    pub gpu: Gpu,
    pub config: T5Config,
    pub layout: Layout,
    /// One buffer per window of the layout.
    pub params: Vec<Buffer>,
    /// Factor on the decoder's output before the head.
    pub output_scale: f32,
    /// What the model's folder says about generating.
    pub generation: GenerationConfig,
    /// Chooses the kernels of this model's plans.
    pub tuner: Tuner,
    /// How long loading took; nothing for a model that was not loaded.
    pub load_times: LoadTimes,
    constants: HashMap<&'static str, Buffer>,
    /// The folder or file that the parameters came from, unless they were changed on the way.
    source: Option<PathBuf>,
}

/// Where the time of loading went.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadTimes {
    /// Reading weights, converting and checking them.
    pub reading: Duration,
    /// Packing them and waiting for the device, whose copies run on while the next tensors are read.
    pub uploading: Duration,
}

/// Bytes of weights that may be on their way to the device: they lie in the host's memory once more until they have arrived.
const UNDERWAY: u64 = 64 << 20;

/// What a model is made of before it is on a device.
#[derive(Debug)]
pub struct ModelParts {
    pub config: T5Config,
    pub generation: GenerationConfig,
    pub weights: Weights,
    /// Worth printing: which weights these are, and what was inferred about them.
    pub remarks: Vec<String>,
    /// The folder or file that these are all of; `None` for what no file holds so.
    pub source: Option<PathBuf>,
    /// What is not merged into the weights: see [`ModelParts::open_to_train`].
    pub beside: Option<Beside>,
}

impl ModelParts {
    /// Opens a model: its folder, or one file of weights with `config.json` beside it, or a GGUF file, which needs none. Of the weights
    /// only the headers are read yet.
    ///
    /// # Errors
    /// A file is missing or damaged, or this is no T5 that writes text.
    pub fn open(model: &Path) -> Result<ModelParts> {
        ModelParts::open_any(model)?.that_write_text(model)
    }

    /// These, if they are of a model that writes text.
    fn that_write_text(self, model: &Path) -> Result<ModelParts> {
        self.weights.expect_decoder()?;
        if self.config.patches.is_some() {
            let what = "this is a Chronos-Bolt, which forecasts series of numbers and writes no text";
            return Err(Error::file(files::model_folder(model).join("config.json"), what));
        }
        Ok(self)
    }

    /// [`ModelParts::open`] that also takes models that write no text: an encoder alone (T5EncoderModel), those with a head for
    /// classification, and Chronos-Bolt.
    pub fn open_any(model: &Path) -> Result<ModelParts> {
        let source = PeftFolder::find(model)?.is_none().then(|| model.to_owned());
        ModelParts::of(model, Weights::open(model)?, source)
    }

    /// What a folder or file says of a model with these weights, which are all those of `source`.
    fn of(model: &Path, weights: Weights, source: Option<PathBuf>) -> Result<ModelParts> {
        let mut remarks: Vec<String> = weights.remark().map(str::to_owned).into_iter().collect();
        let (config, generation) = match T5Config::from_gguf(model)? {
            Some((config, inferred)) => {
                remarks.push(inferred);
                (config, GenerationConfig::default())
            }
            None => {
                let config = T5Config::from_dir(model)?;
                let generation = GenerationConfig::from_dir(model, &config)?;
                (config, generation)
            }
        };
        let parts = ModelParts { config, generation, weights, remarks, source, beside: None };
        let mut parts = if parts.weights.is_encoder() { parts.encoder_only() } else { parts };
        parts.config.classifier = ClassifierHead::find(&parts.config, &parts.weights)
            .map_err(|what| Error::file(files::model_folder(model).join("config.json"), what))?;
        if parts.config.classifier.is_some() {
            parts.config.expect_encoder("its head for classification has nothing to classify by")?;
        }
        Ok(parts)
    }

    /// The same with rows of embedding and head for `ids` tokens, of which the model knows the first `known`: a new token's row is
    /// the mean of theirs. Rows that a model has beyond its tokenizer's ids are used first.
    ///
    /// # Errors
    /// `File`: the checkpoint names a table twice.
    pub fn with_rows(mut self, known: usize, ids: usize) -> Result<ModelParts> {
        let before = self.config.vocab_size;
        self.config.vocab_size = before.max(ids);
        self.weights = self.weights.with_rows(known.min(before), ids)?;
        self.source = None;
        let more = self.config.vocab_size - before;
        self.remarks.push(format!(
            "{} tokens added, their rows the mean of the others; embedding and head have {more} more rows",
            ids - known.min(ids)
        ));
        Ok(self)
    }

    /// The encoder alone, for what needs no decoder: half of the memory or less. A model of one stack stays as it is, having none.
    pub fn encoder_only(mut self) -> ModelParts {
        if self.config.architecture.is_one_stack() {
            return self;
        }
        self.config.architecture = Architecture::EncoderDecoder;
        self.config.num_decoder_layers = 0;
        self.config.tie_word_embeddings = true;
        self.config.classifier = None;
        self.config.patches = None;
        self
    }
}

impl Model {
    /// A model with fresh random weights; the same seed gives the same weights on every adapter.
    pub fn init(gpu: &Gpu, config: T5Config, seed: u64) -> Result<Model> {
        Model::init_as(gpu, config, seed, Storage::F32)
    }

    /// [`Model::init`] with weights held as `storage` says; as f32 where that leaves it to a checkpoint.
    pub fn init_as(gpu: &Gpu, config: T5Config, seed: u64, storage: Storage) -> Result<Model> {
        Model::zeroed_as(gpu, config, storage)?.with_weights(&|config, tensor| init::weights(config, tensor, seed))
    }

    /// A model with the weights that `weights` gives for each tensor, in row-major order.
    pub fn filled(gpu: &Gpu, config: T5Config, weights: &dyn Fn(&T5Config, &TensorSpan) -> Vec<f32>) -> Result<Model> {
        Model::zeroed(gpu, config)?.with_weights(weights)
    }

    fn with_weights(self, weights: &dyn Fn(&T5Config, &TensorSpan) -> Vec<f32>) -> Result<Model> {
        for tensor in self.layout.tensors() {
            self.write_tensor(tensor, &weights(&self.config, tensor))?;
        }
        Ok(self)
    }

    /// A model whose parameters are all zero: for looking at its plans.
    pub fn zeroed(gpu: &Gpu, config: T5Config) -> Result<Model> {
        Model::zeroed_as(gpu, config, Storage::F32)
    }

    fn zeroed_as(gpu: &Gpu, config: T5Config, storage: Storage) -> Result<Model> {
        config.validate()?;
        let untied = !config.tie_word_embeddings;
        let (scale, _) = config.output_scale(untied);
        Model::allocate(gpu, config, untied, scale, &|_| storage.dtype().unwrap_or(Dtype::F32))
    }

    /// Opens a model as [`ModelParts::open`] does, in f32. Gives the model and remarks worth printing: which rule chose the
    /// output's scale, which tensors of the file were ignored.
    pub fn load(gpu: &Gpu, model: &Path) -> Result<(Model, Vec<String>)> {
        Model::load_as(gpu, model, Storage::F32)
    }

    /// [`Model::load`] with weights held as `storage` says.
    ///
    /// # Errors
    /// Also `Numeric` where a weight is beyond the range of f16.
    pub fn load_as(gpu: &Gpu, model: &Path, storage: Storage) -> Result<(Model, Vec<String>)> {
        Model::upload(gpu, &ModelParts::open(model)?, storage, &mut |_, _| ControlFlow::Continue(()))
    }

    /// Puts a model on a device, with weights held as `storage` says. Tensors are read one at a time: the host needs memory for
    /// the largest. `on_progress` hears after each how many numbers are on their way, of how many; its `Break` stops.
    ///
    /// # Errors
    /// `File` for a tensor that is missing, of another shape than the configuration asks for, or not finite; `Numeric` for a
    /// weight beyond the range of f16; `OutOfMemory`; `Cancelled`.
    pub fn upload(
        gpu: &Gpu,
        parts: &ModelParts,
        storage: Storage,
        on_progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<(Model, Vec<String>)> {
        let ModelParts { config, generation, weights, remarks, source, beside } = parts;
        let writes_text = config.writes_text();
        let untied = writes_text && weights.contains("lm_head.weight");
        let (scale, rule) = config.output_scale(untied);
        let mut remarks = remarks.clone();
        if writes_text {
            remarks.push(rule);
            remarks.extend(config.remark());
            remarks.extend(generation.remark());
        }
        let embedding = weights.embedding_name()?;
        let mut refused = None;
        let mut choices = storage.choices().into_iter().peekable();
        let (mut model, storage) = loop {
            let Some(storage) = choices.next() else { unreachable!("there is a last choice, which ends the loop") };
            let wanted = |name: &str| storage.wanted(weights, in_file(name, embedding));
            let made = Model::allocate(gpu, config.clone(), untied, scale, &wanted);
            match made.and_then(|model| if choices.peek().is_some() { model.with_room() } else { Ok(model) }) {
                Err(Error::OutOfMemory(why)) if choices.peek().is_some() => _ = refused.get_or_insert(why),
                made => break (made?, storage),
            }
        };
        if let Some(why) = refused {
            remarks.push(format!("the adapter's memory does not hold the weights as they are stored ({why})"));
        }
        let wanted = |name: &str| storage.wanted(weights, in_file(name, embedding));
        model.generation = generation.clone();
        model.source.clone_from(source);
        let (mut done, total) = (0, model.layout.n_params() as u64);
        let (start, mut reading, mut underway) = (Instant::now(), Duration::ZERO, 0);
        for tensor in model.layout.tensors() {
            let began = Instant::now();
            let name = in_file(&tensor.name, embedding);
            match weights.encoding(name) {
                Some(Encoding::Blocks(format)) if format.dtype() == model.layout.dtype(tensor) => {
                    let blocks = weights.read_blocks(name, format, &tensor.shape)?;
                    reading += began.elapsed();
                    model.write_blocks(tensor, format, &blocks)?;
                }
                _ => weights.look_f32(name, &tensor.shape, |data| {
                    reading += began.elapsed();
                    model.write_tensor(tensor, data)
                })??,
            }
            done += tensor.len() as u64;
            underway += 4 * tensor.len() as u64;
            if underway < UNDERWAY {
                gpu.send()?;
            } else {
                gpu.flush()?;
                underway = 0;
            }
            if on_progress(done, total).is_break() {
                return Err(Error::Cancelled);
            }
        }
        gpu.flush()?;
        model.load_times = LoadTimes { reading, uploading: start.elapsed().saturating_sub(reading) };
        remarks.extend(storage::remark(&model.layout, |tensor| wanted(&tensor.name)));
        let unused = weights.unused(model.layout.tensors().iter().map(|t| t.name.as_str()));
        if writes_text && !unused.is_empty() {
            remarks.push(format!("ignored {} tensors of the file: {}", unused.len(), unused.join(", ")));
        }
        if let Some(beside) = beside {
            model = model.with_beside(beside)?;
        }
        Ok((model, remarks))
    }

    /// This, if there is memory for an eighth more: activations and caches.
    fn with_room(self) -> Result<Model> {
        let mut rest = self.layout.bytes() / 8;
        let mut probes = Vec::new();
        while rest > 0 {
            let bytes = rest.min(self.gpu.caps().max_buffer);
            probes.push(self.gpu.buffer("activations", bytes)?);
            rest -= bytes;
        }
        Ok(self)
    }

    fn allocate(
        gpu: &Gpu,
        config: T5Config,
        untied: bool,
        output_scale: f32,
        wanted: &dyn Fn(&str) -> Dtype,
    ) -> Result<Model> {
        let layout = Layout::new(&config, untied, gpu.caps(), wanted)?;
        let params = layout.allocate(gpu, "parameters")?;
        let buckets = |bidirectional| {
            let (n, max) = (config.relative_attention_num_buckets, config.relative_attention_max_distance);
            gpu.buffer_of("buckets", &distance_buckets(bidirectional, n, max))
        };
        let constants = HashMap::from([("encoder.buckets", buckets(true)?), ("decoder.buckets", buckets(false)?)]);
        Ok(Model {
            gpu: gpu.clone(),
            config,
            layout,
            params,
            output_scale,
            generation: GenerationConfig::default(),
            tuner: Tuner::off(),
            load_times: LoadTimes::default(),
            constants,
            source: None,
        })
    }

    /// The same model with its parameters in other arenas of its layout.
    #[cfg(feature = "train")]
    pub(crate) fn in_arenas(&self, params: Vec<Buffer>) -> Model {
        Model { params, ..self.clone() }
    }

    /// Whether the head is a matrix of its own.
    pub fn untied(&self) -> bool {
        self.layout.untied
    }

    /// Memory of a parameter or constant leaf of the builder's graphs.
    pub fn bind(&self, leaf: &str) -> Option<Slice> {
        let constant = self.constants.get(leaf).map(|b| {
            let entries = 2 * self.config.relative_attention_max_distance as u64 + 1;
            b.slice(0, 4 * entries)
        });
        constant.or_else(|| self.layout.slice(leaf, &self.params))
    }

    fn write_tensor(&self, tensor: &TensorSpan, data: &[f32]) -> Result<()> {
        let dtype = self.layout.dtype(tensor);
        if dtype == Dtype::F32 {
            write_span(&self.gpu, tensor, &self.params, data);
            return Ok(());
        }
        let cols = tensor.shape[1];
        self.write_packed(tensor, data, cols, |rows| storage::encode(dtype, tensor, cols, rows))
    }

    /// Writes quantized blocks of a file, in the type that holds them as they are.
    fn write_blocks(&self, tensor: &TensorSpan, format: BlockFormat, blocks: &[u8]) -> Result<()> {
        let cols = tensor.shape[1];
        let row = cols / format.elements() * format.bytes();
        self.write_packed(tensor, blocks, row, |rows| Ok(format.pack(cols, rows)))
    }

    /// Writes rows of `row_len` items each, which `encode` packs, some at a time.
    fn write_packed<T: Sync>(
        &self,
        tensor: &TensorSpan,
        data: &[T],
        row_len: usize,
        encode: impl Fn(&[T]) -> Result<Vec<u32>> + Sync,
    ) -> Result<()> {
        let mut rest = data;
        for piece in &tensor.pieces {
            let (now, after) = rest.split_at(piece.rows * row_len);
            let mut at = 4 * piece.offset as u64;
            for some in now.chunks(ROWS_A_TASK * row_len * rayon::current_num_threads()) {
                let chunks: Vec<Vec<u32>> =
                    some.par_chunks(ROWS_A_TASK * row_len).map(&encode).collect::<Result<_>>()?;
                for words in chunks {
                    self.gpu.write(&self.params[piece.window], at, &words);
                    at += 4 * words.len() as u64;
                }
            }
            rest = after;
        }
        Ok(())
    }

    /// Reads one parameter back by its HuggingFace name; packed weights are unpacked.
    pub async fn read_tensor(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.layout.tensor(name).ok_or_else(|| Error::Input(format!("no parameter `{name}`")))?;
        let dtype = self.layout.dtype(tensor);
        if dtype == Dtype::F32 {
            return read_span(&self.gpu, tensor, &self.params).await;
        }
        let cols = tensor.shape[1];
        let mut data = Vec::with_capacity(tensor.len());
        for piece in &tensor.pieces {
            let start = 4 * piece.offset as u64;
            let end = start + dtype.bytes(&[piece.rows, cols]);
            let words: Vec<u32> = self.gpu.read(&self.params[piece.window], start..end).await?;
            data.extend(dtype.decode(piece.rows, cols, &words));
        }
        Ok(data)
    }

    /// Refuses a model that writes no text.
    ///
    /// # Errors
    /// `Input`.
    pub fn expect_decoder(&self) -> Result<()> {
        let what = match self.config.classifier {
            _ if self.config.writes_text() => return Ok(()),
            _ if self.config.patches.is_some() => {
                "the model is a Chronos-Bolt: it forecasts series of numbers, and writes no text"
            }
            Some(_) => "the model gives labels their scores: it classifies texts, and writes none",
            None => "the model is an encoder without a decoder: it embeds texts, and neither writes nor scores any",
        };
        Err(Error::Input(what.into()))
    }

    /// The ids that end an answer.
    pub fn end_tokens(&self) -> &[u32] {
        self.generation.eos_token_id.as_deref().unwrap_or(&self.config.eos_token_id)
    }

    /// Writes `config.json`, `model.safetensors` and, if there was one, `generation_config.json` into an existing folder; of a model that
    /// LoRA adds to only what is added, in place of the weights, as PyPI's peft does.
    ///
    /// # Errors
    /// `Input` for a model that writes no text; `Io`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.expect_decoder()?;
        self.generation.save(dir)?;
        let config = self.config.for_head(self.untied()).to_json();
        std::fs::write(dir.join("config.json"), config).map_err(Error::io("write", dir.join("config.json")))?;
        if self.layout.learns().adds() {
            return self.save_peft(dir);
        }
        let tensors: Vec<_> = self.layout.tensors().iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
        write_model(dir.join("model.safetensors"), &tensors, |name| pollster::block_on(self.read_tensor(name)))
    }
}

/// What a checkpoint calls a tensor, given its name for the shared embedding.
fn in_file<'a>(name: &'a str, embedding: &'a str) -> &'a str {
    if name == "shared.weight" { embedding } else { name }
}

/// Rows that are packed at once: whole groups.
const ROWS_A_TASK: usize = 1024;

/// Writes a tensor of f32 into arenas laid out as its span says.
pub fn write_span(gpu: &Gpu, tensor: &TensorSpan, arenas: &[Buffer], data: &[f32]) {
    let mut rest = data;
    for piece in &tensor.pieces {
        let (now, after) = rest.split_at(piece.len);
        gpu.write(&arenas[piece.window], 4 * piece.offset as u64, now);
        rest = after;
    }
}

/// Reads a tensor of f32 out of arenas laid out as its span says.
pub async fn read_span(gpu: &Gpu, tensor: &TensorSpan, arenas: &[Buffer]) -> Result<Vec<f32>> {
    let mut data = Vec::with_capacity(tensor.shape.iter().product());
    for piece in &tensor.pieces {
        let start = 4 * piece.offset as u64;
        data.extend(gpu.read::<f32>(&arenas[piece.window], start..start + 4 * piece.len as u64).await?);
    }
    Ok(data)
}
