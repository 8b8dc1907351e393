//! The flags of commands that ask a model about texts: which model, where the texts are, and the device.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use t5_wgpu::gpu::Gpu;
use t5_wgpu::hub::ModelName;
use t5_wgpu::model::{Model, ModelParts, Storage};
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::tune::{Mode, TuneBudget};

use super::console::note;
use super::{GpuArgs, TuneArgs, model_folder, open_tokenizer};

#[derive(clap::Args, Debug)]
pub struct ModelArgs {
    /// Model folder as HuggingFace and `t5 train` write it: config.json, weights, tokenizer; or the file of weights in one; or a
    /// run's folder: its best checkpoint; or, if nothing here has that name, a model of the hub, as google/flan-t5-small or
    /// google/flan-t5-small@REVISION, which is fetched once and then kept in the cache that other programs share
    #[arg(long, short, value_name = "DIR|FILE|OWNER/MODEL")]
    model: PathBuf,
    /// Tokenizer to use instead of the model folder's: "bytes", a file, or the folder of a model or a run
    #[arg(long, value_name = "FILE|bytes|DIR")]
    tokenizer: Option<String>,
    /// Read texts from this file, one a line; plain, .gz, .xz or .zst ("-": standard input)
    #[arg(long, short, value_name = "FILE", conflicts_with = "text")]
    pub file: Option<PathBuf>,
    /// How weights are held in the adapter's memory; sums are f32 always. auto: as the file has them, f16, bf16 or GGUF's blocks,
    /// else f32, so that nothing is rounded; where the adapter's memory does not hold that, int8 or int4. int8 takes 28 % of f32's memory, and rounds each weight by up to 0.4 % of the largest
    /// beside it; int4 takes 16 %, and rounds by up to 3 % of the range of the 32 beside it
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = WeightsArg::Auto)]
    pub weights: WeightsArg,
    #[command(flatten)]
    pub peft: PeftArgs,
}

/// What is added to a model.
#[derive(clap::Args, Clone, Debug)]
pub struct PeftArgs {
    /// Merge the LoRA or IA3 of this folder into the model: one of PyPI's peft (adapter_config.json, adapter_model.safetensors), or a
    /// checkpoint of `t5 train --learns lora` or `ia3`. Such a folder in place of the model stands for the model that it names and itself
    #[arg(long, value_name = "DIR")]
    peft: Option<PathBuf>,
}

impl PeftArgs {
    /// The model with what is added to it.
    ///
    /// # Errors
    /// The folder is damaged, or was made on another model.
    pub fn merge(&self, parts: ModelParts) -> t5_wgpu::Result<ModelParts> {
        match &self.peft {
            None => Ok(parts),
            Some(run) => parts.with_peft(&model_folder(run, true)?),
        }
    }
}

impl ModelArgs {
    /// The model's folder or file; of a run's folder its best checkpoint, which is said unless `quiet`.
    ///
    /// # Errors
    /// There is no such folder or file.
    pub fn folder(&self, quiet: bool) -> Result<PathBuf> {
        if !self.model.exists() && ModelName::in_place_of(&self.model).is_none() {
            let shown = self.model.display();
            bail!(
                "{shown} does not exist; --model takes a folder with config.json, weights and a tokenizer, or a model of the hub with \
                 its owner, such as google/flan-t5-small"
            );
        }
        Ok(model_folder(&self.model, quiet)?)
    }

    /// The tokenizer that was asked for, else that of the model's folder.
    pub fn tokenizer(&self, folder: &Path) -> t5_wgpu::Result<Tokenizer> {
        match &self.tokenizer {
            Some(spec) => open_tokenizer(spec),
            None => Tokenizer::from_dir(folder),
        }
    }
}

/// Where a model is asked, and how much is said about it.
#[derive(clap::Args, Debug)]
pub struct DeviceArgs {
    /// Say nothing on standard error
    #[arg(long, short)]
    pub quiet: bool,
    #[command(flatten)]
    pub tune: TuneArgs,
    #[command(flatten)]
    gpu: GpuArgs,
}

impl DeviceArgs {
    /// Opens the adapter.
    pub fn open(&self) -> t5_wgpu::Result<Gpu> {
        self.gpu.open(self.quiet)
    }

    /// Puts a model on it, and says what is worth saying about the model.
    pub fn load(&self, gpu: &Gpu, parts: &ModelParts, weights: WeightsArg) -> t5_wgpu::Result<Model> {
        let (mut model, remarks) = Model::upload(gpu, parts, weights.into(), &mut |_, _| ControlFlow::Continue(()))?;
        model.tuner = self.tune.open(gpu, Mode::Cache, TuneBudget::for_run());
        if !self.quiet {
            remarks.iter().for_each(|remark| note!("{remark}"));
        }
        Ok(model)
    }
}

/// What `--weights` can ask for.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum WeightsArg {
    Auto,
    F32,
    F16,
    Bf16,
    Int8,
    Int4,
}

impl From<WeightsArg> for Storage {
    fn from(weights: WeightsArg) -> Storage {
        match weights {
            WeightsArg::Auto => Storage::Fitting,
            WeightsArg::F32 => Storage::F32,
            WeightsArg::F16 => Storage::F16,
            WeightsArg::Bf16 => Storage::Bf16,
            WeightsArg::Int8 => Storage::Int8,
            WeightsArg::Int4 => Storage::Int4,
        }
    }
}
