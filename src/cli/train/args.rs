//! The flags of `t5 train`, and what they say about a run's settings.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use t5_wgpu::data::{PairOptions, SpanCorruption, TooLong};
use t5_wgpu::train::optimizer::OptimizerConfig;
use t5_wgpu::train::schedule::Decay;
use t5_wgpu::train::settings::with_weight_decay;
use t5_wgpu::train::{HeldOut, Settings, Task};

use crate::cli::{GpuArgs, TuneArgs};

const EXAMPLES: &str = "\
Examples:
  Pronunciations from scratch, byte by byte (`t5 data cmudict` writes the files):
    t5 train --pairs train.tsv --eval dev.tsv --layers 3 --d-model 256 --steps 5000 --out runs/g2p
  Pre-training on text by span corruption, about an hour:
    t5 train --text corpus.txt.gz --held-out 0.02 --tokenizer spiece.model --preset t5-small \\
      --optimizer adafactor --lr 0.01 --schedule inverse-sqrt --minutes 60 --out runs/pretrained
  Fine-tuning a HuggingFace folder:
    t5 train --model models/flan-t5-small --pairs qa.jsonl --prefix \"question: \" --lr 3e-4 --out runs/qa
  After a crash, a kill or Ctrl-C, as if nothing had happened:
    t5 train --resume --out runs/qa";

/// Train a T5 on text or on pairs
///
/// Text (--text) trains by span corruption as T5 was pre-trained; pairs (--pairs) train source to target. The model
/// starts from scratch (--preset, --config or sizes) or from a HuggingFace folder (--model).
///
/// The folder --out receives `last` and `best` (HuggingFace folders that transformers loads too) and `log.jsonl`. A run
/// that was killed continues with --resume, bit for bit.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Text files, plain or gzipped, one paragraph a line
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Data", conflicts_with = "pairs")]
    pub text: Vec<PathBuf>,
    /// Pairs: .tsv (source, tab, target) or .jsonl, plain or gzipped
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub pairs: Option<PathBuf>,
    /// Put before every source, as in "translate English to German: "
    #[arg(long, value_name = "TEXT", help_heading = "Data", requires = "pairs")]
    pub prefix: Option<String>,
    /// Key of the source in .jsonl [default: source]
    #[arg(long, value_name = "KEY", help_heading = "Data", requires = "pairs")]
    pub source_key: Option<String>,
    /// Key of the target in .jsonl [default: target]
    #[arg(long, value_name = "KEY", help_heading = "Data", requires = "pairs")]
    pub target_key: Option<String>,
    /// Most tokens of a source [default: 512]
    #[arg(long, value_name = "N", help_heading = "Data", requires = "pairs")]
    pub max_source: Option<usize>,
    /// Most tokens of a target [default: 512]
    #[arg(long, value_name = "N", help_heading = "Data", requires = "pairs")]
    pub max_target: Option<usize>,
    /// What to do with longer ones [default: skip]
    #[arg(long, value_enum, help_heading = "Data", requires = "pairs")]
    pub too_long: Option<TooLongArg>,
    /// Tokens of a source made from text [default: 128]
    #[arg(long, value_name = "N", help_heading = "Data", requires = "text")]
    pub seq_len: Option<usize>,
    /// Evaluate on this file, of the training data's format
    #[arg(long, value_name = "FILE", help_heading = "Data", conflicts_with = "held_out")]
    pub eval: Option<PathBuf>,
    /// Evaluate on this share of the training data, held out of training
    #[arg(long, value_name = "SHARE", help_heading = "Data")]
    pub held_out: Option<f64>,

    /// Start from this HuggingFace folder
    #[arg(long, value_name = "DIR", help_heading = "Model", conflicts_with_all = ["preset", "config", "Sizes"])]
    pub model: Option<PathBuf>,
    /// Start from scratch at the size of a published model, such as t5-small, t5-v1_1-base, byt5-small
    #[arg(long, value_name = "NAME", help_heading = "Model", conflicts_with = "config")]
    pub preset: Option<String>,
    /// Start from scratch as this config.json says
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub config: Option<PathBuf>,
    /// "bytes", a tokenizer.json, a spiece.model, or a folder [default: that of --model, else bytes]
    #[arg(long, value_name = "FILE|bytes|DIR", help_heading = "Model")]
    pub tokenizer: Option<String>,
    #[command(flatten)]
    pub sizes: Sizes,

    /// Optimiser steps [default: 1000]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub steps: Option<u64>,
    /// Train for about this long: the speed is measured first, which fixes --steps
    #[arg(long, value_name = "M", help_heading = "Training", conflicts_with = "steps", value_parser = positive)]
    pub minutes: Option<f64>,
    /// Examples in one pass [default: 32]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub batch_size: Option<usize>,
    /// Passes whose gradients are added up before a step [default: 1]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub accumulate: Option<usize>,
    /// Compute activations again for the gradients instead of keeping them: less memory for up to a third more work, the
    /// same results; may be changed on resuming [default: false]
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", help_heading = "Training")]
    pub recompute: Option<bool>,
    /// Peak learning rate [default: 1e-3 with adamw, 1e-2 with adafactor; a tenth of it with --model]
    #[arg(long, help_heading = "Training")]
    pub lr: Option<f64>,
    /// adamw, adafactor (as the T5 paper) or adafactor-hf (its own step size) [default: adamw]
    #[arg(long, help_heading = "Training")]
    pub optimizer: Option<String>,
    /// constant, inverse-sqrt, linear or cosine [default: linear]
    #[arg(long, help_heading = "Training")]
    pub schedule: Option<Decay>,
    /// Steps of linear warm-up [default: a twentieth of the steps, at most 1000]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub warmup: Option<u64>,
    /// Scale gradients down to this global norm; 0 never does [default: 1]
    #[arg(long, value_name = "NORM", help_heading = "Training")]
    pub clip: Option<f32>,
    /// [default: the model's]
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub dropout: Option<f32>,
    /// [default: 0]
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub weight_decay: Option<f64>,
    /// [default: 0]
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub label_smoothing: Option<f32>,
    /// Factor of log(Z)^2 in the loss; T5X uses 1e-4 [default: 0]
    #[arg(long, value_name = "FACTOR", help_heading = "Training")]
    pub z_loss: Option<f32>,
    /// Of the first weights, the order of examples, the masks [default: 0]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub seed: Option<u64>,

    /// The run's folder
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub out: PathBuf,
    /// Continue the run in --out; settings given again must agree, only --steps may be another number. Without a
    /// checkpoint there, a command with data starts from the beginning
    #[arg(long, help_heading = "Output", conflicts_with = "overwrite")]
    pub resume: bool,
    /// Replace the run in --out
    #[arg(long, help_heading = "Output")]
    pub overwrite: bool,
    /// Steps between evaluations [default: a twentieth of the steps, at most 1000]
    #[arg(long, value_name = "N", help_heading = "Output")]
    pub eval_every: Option<u64>,
    /// Most examples of an evaluation [default: 512]
    #[arg(long, value_name = "N", help_heading = "Output")]
    pub eval_examples: Option<usize>,
    /// Steps between checkpoints [default: a twentieth of the steps, at most 1000]
    #[arg(long, value_name = "N", help_heading = "Output")]
    pub save_every: Option<u64>,
    /// Steps between log lines; 0: about one line a second [default: 0]
    #[arg(long, value_name = "N", help_heading = "Output")]
    pub log_every: Option<u64>,
    /// Print nothing but warnings and errors
    #[arg(long, short, help_heading = "Output")]
    pub quiet: bool,
    /// Print events as JSON, one a line, as in log.jsonl
    #[arg(long, help_heading = "Output", conflicts_with = "quiet")]
    pub json: bool,
    #[command(flatten)]
    pub tune: TuneArgs,
    #[command(flatten)]
    pub gpu: GpuArgs,
}

/// Sizes of a model from scratch; with --preset or --config they replace what those say.
#[derive(clap::Args, Clone, Debug, Default, serde::Serialize)]
#[group(id = "Sizes", multiple = true)]
#[command(next_help_heading = "Sizes of a model from scratch")]
pub struct Sizes {
    /// Width of the residual stream [default: 256]
    #[arg(long, value_name = "N")]
    pub d_model: Option<usize>,
    /// Width of a head [default: 64]
    #[arg(long, value_name = "N")]
    pub d_kv: Option<usize>,
    /// Width of the feed-forward layers [default: 512]
    #[arg(long, value_name = "N")]
    pub d_ff: Option<usize>,
    /// Attention heads [default: 4]
    #[arg(long, value_name = "N")]
    pub heads: Option<usize>,
    /// Layers of the encoder, and of the decoder unless given [default: 3]
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,
    /// Layers of the decoder [default: as many]
    #[arg(long, value_name = "N")]
    pub decoder_layers: Option<usize>,
    /// relu, gelu, silu, gated-gelu, gated-silu ... [default: gated-gelu]
    #[arg(long, value_name = "NAME")]
    pub activation: Option<String>,
    /// Rows of the embedding [default: the tokenizer's size, rounded up to a multiple of 64]
    #[arg(long, value_name = "N")]
    pub vocab: Option<usize>,
    /// Whether the output head is the embedding [default: true]
    #[arg(long, value_name = "true|false")]
    pub tie: Option<bool>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TooLongArg {
    /// Leave such pairs out
    Skip,
    /// Cut their end off
    Truncate,
    /// Stop with an error that names the line
    Error,
}

/// The segments' length where neither the flags nor a run say.
const SEQ_LEN: usize = 128;

impl Args {
    /// What is trained on, if the flags say.
    pub fn task(&self, before: Option<&Task>) -> Result<Option<Task>> {
        if !self.text.is_empty() {
            let files = self.text.iter().map(|file| absolute(file)).collect::<Result<_>>()?;
            let (before_len, objective) = match before {
                Some(Task::Text { seq_len, objective, .. }) => (*seq_len, *objective),
                _ => (SEQ_LEN, SpanCorruption::default()),
            };
            return Ok(Some(Task::Text { files, seq_len: self.seq_len.unwrap_or(before_len), objective }));
        }
        let Some(file) = &self.pairs else { return Ok(None) };
        let mut options = match before {
            Some(Task::Pairs { options, .. }) => options.clone(),
            _ => PairOptions::default(),
        };
        set(&mut options.prefix, &self.prefix);
        set(&mut options.source_key, &self.source_key);
        set(&mut options.target_key, &self.target_key);
        set(&mut options.max_source, &self.max_source);
        set(&mut options.max_target, &self.max_target);
        if let Some(too_long) = self.too_long {
            options.too_long = match too_long {
                TooLongArg::Skip => TooLong::Skip,
                TooLongArg::Truncate => TooLong::Truncate,
                TooLongArg::Error => TooLong::Error,
            };
        }
        Ok(Some(Task::Pairs { file: absolute(file)?, options }))
    }

    /// Writes what the flags say over the settings.
    pub fn apply(&self, settings: &mut Settings) -> Result<()> {
        if let Some(task) = self.task(Some(&settings.task))? {
            settings.task = task;
        }
        if let Some(file) = &self.eval {
            settings.held_out = HeldOut::File(absolute(file)?);
        }
        if let Some(share) = self.held_out {
            settings.held_out = HeldOut::Share(share);
        }
        if let Some(name) = &self.optimizer {
            settings.optimizer = with_weight_decay(name.parse()?, weight_decay(&settings.optimizer));
        }
        if let Some(decay) = self.weight_decay {
            settings.optimizer = with_weight_decay(settings.optimizer.clone(), decay);
        }
        set(&mut settings.steps, &self.steps);
        set(&mut settings.batch_size, &self.batch_size);
        set(&mut settings.accumulate, &self.accumulate);
        set(&mut settings.recompute, &self.recompute);
        set(&mut settings.lr, &self.lr);
        set(&mut settings.schedule, &self.schedule);
        set(&mut settings.clip, &self.clip);
        set(&mut settings.dropout, &self.dropout);
        set(&mut settings.label_smoothing, &self.label_smoothing);
        set(&mut settings.z_loss, &self.z_loss);
        set(&mut settings.seed, &self.seed);
        set(&mut settings.eval_examples, &self.eval_examples);
        set(&mut settings.log_every, &self.log_every);
        settings.warmup = self.warmup.or(settings.warmup);
        settings.eval_every = self.eval_every.or(settings.eval_every);
        settings.save_every = self.save_every.or(settings.save_every);
        if let Some(origin) = self.origin()? {
            settings.origin = origin;
        }
        Ok(())
    }

    /// Where the first weights come from, if the flags say.
    fn origin(&self) -> Result<Option<String>> {
        let mut parts = Vec::new();
        if let Some(dir) = &self.model {
            parts.push(format!("model {}", absolute(dir)?.display()));
        }
        if let Some(name) = &self.preset {
            parts.push(format!("preset {name}"));
        }
        if let Some(file) = &self.config {
            parts.push(format!("config {}", absolute(file)?.display()));
        }
        if let serde_json::Value::Object(sizes) = serde_json::to_value(&self.sizes)? {
            let given = sizes.iter().filter(|(_, value)| !value.is_null());
            parts.extend(given.map(|(name, value)| format!("{name} {value}")));
        }
        if let Some(tokenizer) = &self.tokenizer {
            parts.push(format!("tokenizer {tokenizer}"));
        }
        Ok((!parts.is_empty()).then(|| parts.join(", ")))
    }
}

fn weight_decay(config: &OptimizerConfig) -> f64 {
    match config {
        OptimizerConfig::AdamW { weight_decay, .. } | OptimizerConfig::Adafactor { weight_decay, .. } => *weight_decay,
    }
}

fn set<T: Clone>(place: &mut T, given: &Option<T>) {
    if let Some(value) = given {
        place.clone_from(value);
    }
}

/// So that a run can be resumed from elsewhere.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot make \"{}\" absolute", path.display()))
}

fn positive(text: &str) -> Result<f64> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => bail!("`{text}` is not a positive number"),
    }
}
