//! A T5: its configuration, its parameters on the device, and the builder that writes it down as a graph.

pub mod builder;
pub mod config;
mod init;
mod layout;
mod limits;
pub mod presets;
mod shapes;

use std::collections::HashMap;
use std::path::Path;

pub use builder::{BatchShape, Builder, DecodeShape};
pub use config::T5Config;
pub use layout::{Layout, Piece, TensorSpan};

use crate::checkpoint::{Weights, write_model};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu, Slice};
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
    /// Chooses the kernels of this model's plans.
    pub tuner: Tuner,
    constants: HashMap<&'static str, Buffer>,
}

impl Model {
    /// A model with fresh random weights; the same seed gives the same weights on every adapter.
    pub fn init(gpu: &Gpu, config: T5Config, seed: u64) -> Result<Model> {
        let model = Model::zeroed(gpu, config)?;
        for tensor in model.layout.tensors() {
            model.write_tensor(tensor, &init::weights(&model.config, tensor, seed));
        }
        Ok(model)
    }

    /// A model whose parameters are all zero: for looking at its plans.
    pub fn zeroed(gpu: &Gpu, config: T5Config) -> Result<Model> {
        config.validate()?;
        let untied = !config.tie_word_embeddings;
        let (scale, _) = config.output_scale(untied);
        Model::allocate(gpu, config, untied, scale)
    }

    /// Opens a HuggingFace folder. Gives the model and remarks worth printing: which rule chose the output's scale,
    /// which tensors of the file were ignored.
    pub fn load(gpu: &Gpu, dir: &Path) -> Result<(Model, Vec<String>)> {
        crate::checkpoint::recover(dir)?;
        let config = T5Config::from_file(dir.join("config.json"))?;
        let weights = Weights::open(dir)?;
        let untied = weights.contains("lm_head.weight");
        let (scale, rule) = config.output_scale(untied);
        let mut remarks = vec![rule];
        let model = Model::allocate(gpu, config, untied, scale)?;
        let embedding = weights.embedding_name()?;
        for tensor in model.layout.tensors() {
            let name = if tensor.name == "shared.weight" { embedding } else { tensor.name.as_str() };
            model.write_tensor(tensor, &weights.read_f32(name, &tensor.shape)?);
        }
        let unused = weights.unused(model.layout.tensors().iter().map(|t| t.name.as_str()));
        if !unused.is_empty() {
            remarks.push(format!("ignored {} tensors of the file: {}", unused.len(), unused.join(", ")));
        }
        Ok((model, remarks))
    }

    fn allocate(gpu: &Gpu, config: T5Config, untied: bool, output_scale: f32) -> Result<Model> {
        let layout = Layout::new(&config, untied, gpu.caps().max_binding, gpu.caps().table_bytes)?;
        let params = layout.allocate(gpu, "parameters")?;
        let buckets = |bidirectional| {
            let (n, max) = (config.relative_attention_num_buckets, config.relative_attention_max_distance);
            gpu.buffer_of("buckets", &distance_buckets(bidirectional, n, max))
        };
        let constants = HashMap::from([("encoder.buckets", buckets(true)?), ("decoder.buckets", buckets(false)?)]);
        Ok(Model { gpu: gpu.clone(), config, layout, params, output_scale, tuner: Tuner::off(), constants })
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

    fn write_tensor(&self, tensor: &TensorSpan, data: &[f32]) {
        write_span(&self.gpu, tensor, &self.params, data);
    }

    /// Reads one parameter back by its HuggingFace name.
    pub async fn read_tensor(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.layout.tensor(name).ok_or_else(|| Error::Input(format!("no parameter `{name}`")))?;
        read_span(&self.gpu, tensor, &self.params).await
    }

    /// Writes `config.json` and `model.safetensors` into an existing folder.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let config = self.config.for_head(self.untied()).to_json();
        std::fs::write(dir.join("config.json"), config).map_err(Error::io("write", dir.join("config.json")))?;
        let tensors: Vec<_> = self.layout.tensors().iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
        write_model(dir.join("model.safetensors"), &tensors, |name| pollster::block_on(self.read_tensor(name)))
    }
}

/// Writes a tensor into arenas laid out as its span says.
pub fn write_span(gpu: &Gpu, tensor: &TensorSpan, arenas: &[Buffer], data: &[f32]) {
    let mut rest = data;
    for piece in &tensor.pieces {
        let (now, after) = rest.split_at(piece.len);
        gpu.write(&arenas[piece.window], 4 * piece.offset as u64, now);
        rest = after;
    }
}

/// Reads a tensor out of arenas laid out as its span says.
pub async fn read_span(gpu: &Gpu, tensor: &TensorSpan, arenas: &[Buffer]) -> Result<Vec<f32>> {
    let mut data = Vec::with_capacity(tensor.shape.iter().product());
    for piece in &tensor.pieces {
        let start = 4 * piece.offset as u64;
        data.extend(gpu.read::<f32>(&arenas[piece.window], start..start + 4 * piece.len as u64).await?);
    }
    Ok(data)
}
