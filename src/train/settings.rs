//! Everything that a run's result follows from, besides the contents of its files; stored with each checkpoint.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::engine::Objective;
use super::optimizer::OptimizerConfig;
use super::schedule::{Decay, LrSchedule};
use crate::data::{PairOptions, SpanCorruption};
use crate::error::{Error, Result};

/// What is trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Running text under span corruption, in sources of `seq_len` tokens.
    Text { files: Vec<PathBuf>, seq_len: usize, objective: SpanCorruption },
    /// Pairs of source and target.
    Pairs { file: PathBuf, options: PairOptions },
}

/// What is evaluated on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldOut {
    /// Nothing: only the training loss is known, and there is no best checkpoint.
    #[default]
    None,
    /// A file of the same format as the training data.
    File(PathBuf),
    /// This share of the training data, 0 < share < 1: of the documents of a text, of the distinct sources of pairs.
    Share(f64),
}

/// The settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub task: Task,
    pub held_out: HeldOut,
    /// Where the first weights came from, in words; for comparison on resuming.
    pub origin: String,
    /// Optimiser steps of the whole run.
    pub steps: u64,
    /// Examples in one pass over the device.
    pub batch_size: usize,
    /// Passes whose gradients are added up before a step.
    pub accumulate: usize,
    /// Whether the backward pass computes activations again instead of keeping them; no result depends on it.
    #[serde(default)]
    pub recompute: bool,
    /// Peak learning rate.
    pub lr: f64,
    pub optimizer: OptimizerConfig,
    pub schedule: Decay,
    /// Steps of linear warm-up. `None`: a twentieth of the steps, at most 1,000.
    pub warmup: Option<u64>,
    /// Global gradient norm beyond which gradients are scaled down; 0 never does.
    pub clip: f32,
    pub dropout: f32,
    pub label_smoothing: f32,
    pub z_loss: f32,
    pub seed: u64,
    /// Steps between evaluations. `None`: a twentieth of the steps, at most 1,000.
    pub eval_every: Option<u64>,
    /// Most examples of an evaluation, spread evenly over those held out.
    pub eval_examples: usize,
    /// Steps between checkpoints. `None`: a twentieth of the steps, at most 1,000.
    pub save_every: Option<u64>,
    /// Steps between log lines; 0: about one line a second.
    pub log_every: u64,
}

impl Settings {
    /// AdamW at 1e-3 with linear decay, batches of 32, 1,000 steps, no dropout.
    pub fn new(task: Task) -> Settings {
        Settings {
            task,
            held_out: HeldOut::None,
            origin: String::new(),
            steps: 1000,
            batch_size: 32,
            accumulate: 1,
            recompute: false,
            lr: 1e-3,
            optimizer: with_weight_decay(OptimizerConfig::adamw(), 0.0),
            schedule: Decay::Linear,
            warmup: None,
            clip: 1.0,
            dropout: 0.0,
            label_smoothing: 0.0,
            z_loss: 0.0,
            seed: 0,
            eval_every: None,
            eval_examples: 512,
            save_every: None,
            log_every: 0,
        }
    }

    /// # Errors
    /// `Input` naming the first setting that cannot be used.
    pub fn check(&self) -> Result<()> {
        let require = |holds: bool, what: &str| {
            if holds { Ok(()) } else { Err(Error::Input(what.to_owned())) }
        };
        let share = |value: f32| (0.0..1.0).contains(&value);
        require(self.steps > 0, "the number of steps must be at least 1")?;
        require(self.batch_size > 0, "the batch size must be at least 1")?;
        require(self.accumulate > 0, "gradients must be accumulated over at least 1 batch")?;
        require(share(self.dropout), "dropout must be at least 0 and less than 1")?;
        require(share(self.label_smoothing), "label smoothing must be at least 0 and less than 1")?;
        require(self.z_loss >= 0.0 && self.z_loss.is_finite(), "the z-loss factor must be 0 or more")?;
        require(self.clip >= 0.0 && self.clip.is_finite(), "the gradient norm to clip to must be 0 (never) or more")?;
        require(self.eval_examples > 0, "an evaluation needs at least 1 example")?;
        for every in [self.eval_every, self.save_every] {
            require(every != Some(0), "steps between evaluations and between checkpoints must be at least 1")?;
        }
        if let HeldOut::Share(share) = self.held_out {
            require(share > 0.0 && share < 1.0, "the share held out must lie between 0 and 1")?;
        }
        self.optimizer.validate()?;
        self.lr_schedule().check()
    }

    /// Replaces what depends on the number of steps by plain numbers, so that a longer run later changes none of it.
    pub fn settle(&mut self) {
        let twentieth = (self.steps / 20).min(1000);
        self.warmup.get_or_insert(twentieth);
        self.eval_every.get_or_insert(twentieth.max(1));
        self.save_every.get_or_insert(twentieth.max(1));
    }

    pub fn lr_schedule(&self) -> LrSchedule {
        let mut settled = self.clone();
        settled.settle();
        LrSchedule::new(self.schedule, self.lr, settled.warmup.unwrap_or(0), self.steps)
    }

    pub fn objective(&self) -> Objective {
        Objective { dropout: self.dropout, z_loss: self.z_loss, label_smoothing: self.label_smoothing }
    }

    /// Which settings differ from those of the run `other`, as "lr is 0.2 in the run, not 0.1"; the number of steps may
    /// differ, and what no result depends on.
    pub fn differences(&self, other: &Settings) -> Vec<String> {
        let fields = |settings: &Settings| match serde_json::to_value(settings) {
            Ok(Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let (own, others) = (fields(self), fields(other));
        own.iter()
            .filter(|(key, value)| !["steps", "recompute"].contains(&key.as_str()) && others.get(*key) != Some(value))
            .map(|(key, value)| format!("{key} is {} in the run, not {value}", others.get(key).unwrap_or(&Value::Null)))
            .collect()
    }
}

/// The same optimiser with another weight decay.
pub fn with_weight_decay(mut config: OptimizerConfig, decay: f64) -> OptimizerConfig {
    match &mut config {
        OptimizerConfig::AdamW { weight_decay, .. } | OptimizerConfig::Adafactor { weight_decay, .. } => {
            *weight_decay = decay;
        }
    }
    config
}
