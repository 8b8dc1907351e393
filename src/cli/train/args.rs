//! The flags of `t5 train`, and what they say about a run's settings.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::error::ErrorKind;
use clap::{Arg, ArgGroup, ArgMatches, Command, FromArgMatches, ValueEnum};
use t5_wgpu::Error;
use t5_wgpu::data::metrics::MetricKind;
use t5_wgpu::data::task::{Files, OnBadRow};
use t5_wgpu::data::{Metric, Split, TaskConfig, TooLong};
use t5_wgpu::recipe::{ModelSpec, Stage};
use t5_wgpu::train::Settings;
use t5_wgpu::train::settings::{Parameter, TextConfig, hyper_parameters};

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

    /// Start from this HuggingFace folder, or from a run's folder: its best checkpoint; or from a model of the hub, as
    /// google/flan-t5-small
    #[arg(long, value_name = "DIR|OWNER/MODEL", help_heading = "Model", conflicts_with_all = ["preset", "config", SIZES])]
    pub model: Option<PathBuf>,
    /// A folder of PyPI's peft that adds to --model: --learns lora or ia3 goes on training what is
    /// there; anything else is trained with it merged
    #[arg(long, value_name = "DIR", help_heading = "Model", requires = "model")]
    pub peft: Option<PathBuf>,
    /// Start from scratch at the size of a published model, such as t5-small, t5-v1_1-base, byt5-small
    #[arg(long, value_name = "NAME", help_heading = "Model", conflicts_with = "config")]
    pub preset: Option<String>,
    /// Start from scratch as this config.json says
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub config: Option<PathBuf>,
    /// "bytes", a tokenizer.json, a spiece.model, or the folder of a model or a run [default: that of --model, else bytes]
    #[arg(long, value_name = "FILE|bytes|DIR", help_heading = "Model")]
    pub tokenizer: Option<String>,
    /// Add this token to the vocabulary that --model has, and rows for it to embedding and head; give it once for each. "\n" is a
    /// line end, "\t" a tab
    #[arg(long, value_name = "TOKEN", help_heading = "Model", requires = "model")]
    pub add_token: Vec<String>,
    /// The model's sizes and the hyper-parameters of training.
    #[command(flatten)]
    pub keys: Keys,

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
    #[command(flatten)]
    pub look: LookArgs,
    #[command(flatten)]
    pub tune: TuneArgs,
    #[command(flatten)]
    pub gpu: GpuArgs,
}

/// What a recipe's model and stages have too: flags that are called, explained and read as the keys there are.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    pub stage: Stage,
    pub model: ModelSpec,
}

impl clap::Args for Keys {
    fn augment_args(command: Command) -> Command {
        let flag = |Parameter { key, meaning, default, flag }: Parameter| {
            let (value, heading) = flag?;
            let arg = Arg::new(key).long(key.replace('_', "-")).value_name(value).help_heading(heading);
            let arg = arg.help(format!("{meaning} [default: {default}]"));
            Some(match (key, value) {
                ("minutes" | "tokens" | "flops", _) => {
                    arg.conflicts_with_all(LENGTHS.iter().filter(|other| **other != key))
                }
                ("recompute", _) => arg.num_args(0..=1).default_missing_value("true"),
                _ => arg,
            })
        };
        let all = ModelSpec::sizes().into_iter().chain(hyper_parameters());
        let sizes = ModelSpec::sizes().into_iter().map(|size| size.key);
        command.args(all.filter_map(flag)).group(ArgGroup::new(SIZES).args(sizes).multiple(true))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Keys::augment_args(command)
    }
}

impl FromArgMatches for Keys {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Keys, clap::Error> {
        let mut keys = Keys::default();
        keys.update_from_arg_matches(matches)?;
        Ok(keys)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let given = |parameter: &Parameter| matches.try_get_one::<String>(parameter.key).ok().flatten().cloned();
        let check = |done: t5_wgpu::Result<()>| {
            done.map_err(|error| clap::Error::raw(ErrorKind::ValueValidation, format!("{}\n", named_by_flag(error))))
        };
        for size in ModelSpec::sizes() {
            given(&size).map_or(Ok(()), |value| check(self.model.set(size.key, &value)))?;
        }
        for parameter in hyper_parameters() {
            given(&parameter).map_or(Ok(()), |value| check(self.stage.set(parameter.key, &value)))?;
        }
        Ok(())
    }
}

/// The error with the flag's name instead of the key's.
pub fn named_by_flag(error: Error) -> anyhow::Error {
    match error {
        Error::Setting { key, what } => {
            let flag = match key.as_str() {
                "inputs_len" => "seq-len".into(),
                "files" => "text".into(),
                key => key.replace('_', "-"),
            };
            anyhow!("--{flag}: {what}")
        }
        other => other.into(),
    }
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

/// The group of the model's sizes.
const SIZES: &str = "sizes";

/// Flags of which one says how long training takes.
const LENGTHS: [&str; 4] = ["steps", "minutes", "tokens", "flops"];

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
        self.keys.stage.apply(settings)?;
        self.apply_data(settings)?;
        if let Some(origin) = self.origin()? {
            settings.origin = origin;
        }
        Ok(())
    }

    /// The model to begin with.
    pub fn model(&self) -> ModelSpec {
        let (from, preset, config) = (self.model.clone(), self.preset.clone(), self.config.clone());
        ModelSpec { from, preset, config, ..self.keys.model.clone() }
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
        if let Some(dir) = &self.peft {
            parts.push(format!("adapter {}", absolute(dir)?.display()));
        }
        if let Some(name) = &self.preset {
            parts.push(format!("preset {name}"));
        }
        if let Some(file) = &self.config {
            parts.push(format!("config {}", absolute(file)?.display()));
        }
        if let serde_json::Value::Object(sizes) = serde_json::to_value(&self.keys.model)? {
            let given = sizes.iter().filter(|(_, value)| !value.is_null());
            parts.extend(given.map(|(name, value)| format!("{name} {value}")));
        }
        if let Some(tokenizer) = &self.tokenizer {
            parts.push(format!("tokenizer {tokenizer}"));
        }
        parts.extend(self.add_token.iter().map(|token| format!("token {token:?}")));
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
