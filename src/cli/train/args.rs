//! The flags of `t5 train`, and what they say about a run's settings.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use t5_wgpu::data::metrics::MetricKind;
use t5_wgpu::data::task::{Files, OnBadRow};
use t5_wgpu::data::{Metric, Split, TaskConfig, TooLong};
use t5_wgpu::recipe::stage::MOST_MINUTES;
use t5_wgpu::recipe::{ModelSpec, Stage};
use t5_wgpu::train::Settings;
use t5_wgpu::train::schedule::Decay;
use t5_wgpu::train::settings::TextConfig;

use crate::cli::pairs::{self, OnBadRowArg, PAIRS};
use crate::cli::progress::LookArgs;
use crate::cli::{GpuArgs, TuneArgs};

const EXAMPLES: &str = "\
Examples:
  Pronunciations from scratch, byte by byte (`t5 data cmudict` writes the files):
    t5 train --pairs train.tsv --eval validation.tsv --layers 3 --d-model 256 --steps 5000 --out runs/g2p
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
    /// Text files, plain, .gz, .xz or .zst, one paragraph a line
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Data", conflicts_with = "pairs")]
    pub text: Vec<PathBuf>,
    /// Pairs: .tsv (source, tab, target), .csv or .jsonl; plain, .gz, .xz or .zst. A first row that names the columns
    /// ("source", "target") is left out
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
    #[arg(long, value_name = "N", help_heading = "Data", requires = "pairs", value_parser = two_or_more)]
    pub max_source: Option<usize>,
    /// Most tokens of a target [default: 512]
    #[arg(long, value_name = "N", help_heading = "Data", requires = "pairs", value_parser = two_or_more)]
    pub max_target: Option<usize>,
    /// What to do with longer ones [default: skip]
    #[arg(long, value_enum, help_heading = "Data", requires = "pairs")]
    pub too_long: Option<TooLongArg>,
    /// What to do with a row that is no example: another number of columns, a key or a text that is missing [default: error]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Data", requires = "pairs")]
    pub on_bad_row: Option<OnBadRowArg>,
    /// How text becomes sources and targets; `t5 show-objective --list` shows them [default: span_corruption]
    #[arg(long, value_name = "NAME", help_heading = "Data", requires = "text")]
    pub objective: Option<String>,
    /// Tokens of a source made from text [default: 128]
    #[arg(long, value_name = "N", help_heading = "Data", requires = "text")]
    pub seq_len: Option<usize>,
    /// Evaluate on this file, of the training data's format
    #[arg(long, value_name = "FILE", help_heading = "Data", conflicts_with = "held_out")]
    pub eval: Option<PathBuf>,
    /// Evaluate on this share of the training data, held out of training
    #[arg(long, value_name = "SHARE", help_heading = "Data", value_parser = share)]
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
    /// Threads that make batches ahead of time; the results are the same [default: 1]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub prefetch: Option<usize>,
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
    /// Replace the run in --out, as soon as this one can begin. What no run has made is never removed
    #[arg(long, help_heading = "Output")]
    pub overwrite: bool,
    /// Steps between evaluations [default: a twentieth of the steps, at least 50, at most 1000]
    #[arg(long, value_name = "N", help_heading = "Output")]
    pub eval_every: Option<u64>,
    /// Most examples of an evaluation [default: 512]
    #[arg(long, value_name = "N", help_heading = "Output")]
    pub eval_examples: Option<usize>,
    /// The figure that says which checkpoint is the best: pairs/per, pairs/exact_match, pairs/cer or pairs/loss
    /// [default: the loss]
    #[arg(long, value_name = "NAME", help_heading = "Output")]
    pub best: Option<String>,
    /// End early after so many evaluations without a new best
    #[arg(long, value_name = "N", help_heading = "Output")]
    pub patience: Option<u64>,
    /// Steps between checkpoints [default: a twentieth of the steps, at most 1000]
    #[arg(long, value_name = "N", help_heading = "Output")]
    pub save_every: Option<u64>,
    /// Steps between log lines; 0: about one line a second [default: 0]
    #[arg(long, value_name = "N", help_heading = "Output")]
    pub log_every: Option<u64>,
    #[command(flatten)]
    pub look: LookArgs,
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
    /// Whether the output head is the embedding, as in T5 1.0 [default: false]
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

/// What text on the command line is called.
const TEXT: &str = "text";

impl Args {
    /// Whether the flags name data.
    pub fn names_data(&self) -> bool {
        !self.text.is_empty() || self.pairs.is_some()
    }

    /// Writes what the flags say over the settings.
    pub fn apply(&self, settings: &mut Settings) -> Result<()> {
        self.stage().apply(settings)?;
        self.apply_data(settings)?;
        if let Some(origin) = self.origin()? {
            settings.origin = origin;
        }
        Ok(())
    }

    /// The flags that a recipe's stage has too.
    pub fn stage(&self) -> Stage {
        Stage {
            steps: self.steps,
            batch_size: self.batch_size,
            accumulate: self.accumulate,
            recompute: self.recompute,
            prefetch: self.prefetch,
            lr: self.lr,
            optimizer: self.optimizer.clone(),
            weight_decay: self.weight_decay,
            schedule: self.schedule,
            warmup: self.warmup,
            clip: self.clip,
            dropout: self.dropout,
            label_smoothing: self.label_smoothing,
            z_loss: self.z_loss,
            seed: self.seed,
            eval_every: self.eval_every,
            eval_examples: self.eval_examples,
            best: self.best.clone(),
            patience: self.patience,
            save_every: self.save_every,
            log_every: self.log_every,
            ..Stage::default()
        }
    }

    /// The model to begin with.
    pub fn model(&self) -> ModelSpec {
        let Sizes { d_model, d_kv, d_ff, heads, layers, decoder_layers, activation, vocab, tie } = self.sizes.clone();
        ModelSpec {
            from: self.model.clone(),
            preset: self.preset.clone(),
            config: self.config.clone(),
            d_model,
            d_kv,
            d_ff,
            heads,
            layers,
            decoder_layers,
            activation,
            vocab,
            tie,
            dropout: None,
        }
    }

    /// What is trained and evaluated on.
    fn apply_data(&self, settings: &mut Settings) -> Result<()> {
        let base = absolute(Path::new(""))?;
        let files = |path: &Path| Files::Together(vec![path.to_string_lossy().into_owned()]);
        if !self.text.is_empty() {
            let all = self.text.iter().map(|path| path.to_string_lossy().into_owned()).collect();
            let new = || TextConfig { inputs_len: SEQ_LEN, ..TextConfig::new(Files::Together(Vec::new())) };
            let text = settings.texts.entry(TEXT.into()).or_insert_with(new);
            text.files = Files::Together(all);
        }
        if let Some(file) = &self.pairs {
            let task = settings.tasks.entry(PAIRS.into()).or_insert_with(pairs_task);
            pairs::set_file(task, Split::Train, file)?;
        }
        if let Some(text) = settings.texts.get_mut(TEXT) {
            set(&mut text.inputs_len, &self.seq_len);
            if let Some(objective) = &self.objective {
                text.objective = objective.parse().context("--objective")?;
            }
            text.validation = self.eval.as_deref().map(files).or_else(|| text.validation.take());
            text.held_out = self.held_out.or(text.held_out);
            *text = text.clone().absolute(&base);
        }
        if let Some(task) = settings.tasks.get_mut(PAIRS) {
            task.prefix = self.prefix.clone().or_else(|| task.prefix.take());
            let template = |key: &Option<String>| key.as_ref().map(|key| format!("{{{key}}}"));
            task.input = template(&self.source_key).or_else(|| task.input.take());
            task.target = template(&self.target_key).or_else(|| task.target.take());
            task.max_source = self.max_source.or(task.max_source);
            task.max_target = self.max_target.or(task.max_target);
            task.too_long = self.too_long.map(TooLong::from).or(task.too_long);
            task.on_bad_row = self.on_bad_row.map(OnBadRow::from).or(task.on_bad_row);
            if let Some(file) = &self.eval {
                pairs::set_file(task, Split::Validation, file)?;
            }
            task.held_out = self.held_out.or(task.held_out);
        }
        let text = settings.texts.get(TEXT).map(|text| (TEXT, text.has_validation()));
        let task = settings.tasks.get(PAIRS).map(|task| (PAIRS, task.has(Split::Validation)));
        if let Some((name, evaluates)) = text.or(task) {
            settings.train = vec![name.to_owned()];
            settings.evaluate = if evaluates { vec![name.to_owned()] } else { Vec::new() };
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

/// Pairs: what they are scored by, for words as for texts.
fn pairs_task() -> TaskConfig {
    let metrics = [MetricKind::Per, MetricKind::ExactMatch, MetricKind::Cer].map(Metric::new).to_vec();
    TaskConfig { metrics: Some(metrics), ..TaskConfig::default() }
}

impl From<TooLongArg> for TooLong {
    fn from(arg: TooLongArg) -> TooLong {
        match arg {
            TooLongArg::Skip => TooLong::Skip,
            TooLongArg::Truncate => TooLong::Truncate,
            TooLongArg::Error => TooLong::Error,
        }
    }
}

fn set<T: Clone>(place: &mut T, given: &Option<T>) {
    if let Some(value) = given {
        place.clone_from(value);
    }
}

/// So that a run can be resumed from elsewhere.
fn absolute(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return std::env::current_dir().context("cannot find the current folder");
    }
    std::path::absolute(path).with_context(|| format!("cannot make \"{}\" absolute", path.display()))
}

fn share(text: &str) -> Result<f64> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value < 1.0 => Ok(value),
        _ => bail!("`{text}` does not lie between 0 and 1"),
    }
}

fn two_or_more(text: &str) -> Result<usize> {
    match text.parse() {
        Ok(n) if n > 1 => Ok(n),
        _ => bail!("`{text}` is not a whole number of 2 or more"),
    }
}

fn positive(text: &str) -> Result<f64> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= MOST_MINUTES => Ok(value),
        _ => bail!("`{text}` is not a positive number, a million at most"),
    }
}
