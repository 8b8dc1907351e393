//! Everything that a run's result follows from, besides the contents of its files; stored with each checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_with::skip_serializing_none;

use super::engine::Regularization;
use super::evaluate::figure_names;
use super::optimizer::OptimizerConfig;
pub use super::parameters::Parameter;
use super::parameters::hyper_parameters;
use super::schedule::{Decay, LrSchedule};
use crate::data::mixture::Rates;
use crate::data::stream::Batching;
use crate::data::task::{Files, Format, TaskConfig};
use crate::data::{Documents, Objective, Split};
use crate::error::{Error, Result};
use crate::model::{Learns, Storage};

/// Unlabelled text as a task: restore it under a denoising objective.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// One document or paragraph a line, or a row with one; plain, .gz, .xz or .zst.
    pub files: Files,
    /// What lines are: "lines", "jsonl", "tsv" or "cmudict". By default those of files whose names end in .json, .jsonl or .ndjson are
    /// JSON, and all others text.
    pub format: Option<Format>,
    /// The names of a table's columns.
    pub columns: Option<Vec<String>>,
    /// The text of a row, with columns in braces as a task's `input` has them. By default "{text}" of JSON, a table's first column, a
    /// dictionary's words.
    pub text: Option<String>,
    /// Text to evaluate on.
    pub validation: Option<Files>,
    /// Evaluate on this share of the lines of `files` instead, which are not trained on.
    pub held_out: Option<f64>,
    #[serde(default)]
    pub objective: Objective,
    /// Tokens of a source, EOS counted; that of the raw text follows from it (512: 568 raw tokens).
    #[serde(default = "default_inputs_len")]
    pub inputs_len: usize,
    /// Tokens of a target, where the objective leaves it open.
    pub targets_len: Option<usize>,
    /// Examples that it counts as where rates are proportional to them.
    pub examples: Option<u64>,
}

macro_rules! settings {
    (
        stage { $($(#[doc = $sdoc:literal])+ $skey:ident: $stype:ty, $swords:expr, $sflag:expr;)* }
        plain { $($(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr, $words:expr, $flag:expr;)* }
        open { $($(#[doc = $odoc:literal])+ $okey:ident: $otype:ty, $owords:expr, $oflag:expr;)* }
    ) => {
        /// The settings of a run. What an older program did not write down has its default.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Settings {
            /// Unlabelled texts by name.
            pub texts: BTreeMap<String, TextConfig>,
            /// Supervised tasks by name.
            pub tasks: BTreeMap<String, TaskConfig>,
            /// Names of what is trained on.
            pub train: Vec<String>,
            /// Names of what is evaluated on.
            pub evaluate: Vec<String>,
            /// Where the first weights came from, in words; for comparison on resuming.
            pub origin: String,
            pub optimizer: OptimizerConfig,
            $($(#[doc = $doc])+ pub $key: $type,)*
            $($(#[doc = $odoc])+ pub $okey: Option<$otype>,)*
        }

        impl Settings {
            /// The defaults, with nothing to train on yet.
            pub fn new() -> Settings {
                Settings {
                    texts: BTreeMap::new(),
                    tasks: BTreeMap::new(),
                    train: Vec::new(),
                    evaluate: Vec::new(),
                    origin: String::new(),
                    optimizer: with_weight_decay(OptimizerConfig::adamw(), 0.0),
                    $($key: $default,)*
                    $($okey: None,)*
                }
            }
        }

        /// All hyper-parameters of training.
        pub fn hyper_parameters() -> Vec<Parameter> {
            let defaults = serde_json::to_value(Settings::new()).unwrap_or_default();
            let shown = |key: &str, words: Option<&str>| match (words, &defaults[key]) {
                (Some(words), _) => words.to_owned(),
                (None, Value::String(text)) => text.clone(),
                (None, value) => value.as_f64().map_or_else(|| value.to_string(), |number| number.to_string()),
            };
            vec![
                $(Parameter::new(stringify!($skey), &[$($sdoc),+], $swords, $sflag),)*
                $(Parameter::new(stringify!($key), &[$($doc),+], &shown(stringify!($key), $words), $flag),)*
                $(Parameter::new(stringify!($okey), &[$($odoc),+], $owords, $oflag),)*
            ]
        }
    };
}

hyper_parameters!(settings);

/// Batches that a step may take: enough for any, and no product of counts overflows.
const MOST_BATCHES: usize = 1 << 16;

/// Rows of a batch. Examples for 32 batches are held at a time.
const MOST_ROWS: usize = 1 << 16;

/// Threads for the data: more than any machine has cores for them.
const MOST_THREADS: usize = 256;

/// Settings that no result depends on, or that may change on resuming.
const FREE: [&str; 5] = ["steps", "recompute", "prefetch", "log_every", "norms_every"];

/// The error of a text's or a task's declaration, with its name.
fn in_task(name: &str, error: Error) -> Error {
    match error {
        Error::Setting { key, what } => Error::Setting { key, what: format!("{name}: {what}") },
        other => Error::Input(format!("{name}: {other}")),
    }
}

fn default_inputs_len() -> usize {
    512
}

impl TextConfig {
    /// Span corruption in sources of 512 tokens.
    pub fn new(files: Files) -> TextConfig {
        TextConfig {
            files,
            format: None,
            columns: None,
            text: None,
            validation: None,
            held_out: None,
            objective: Objective::default(),
            inputs_len: default_inputs_len(),
            targets_len: None,
            examples: None,
        }
    }

    /// # Errors
    /// `Setting`: the first one that cannot be used.
    pub fn check(&self) -> Result<()> {
        if [Some(&self.files), self.validation.as_ref()].into_iter().flatten().any(|f| matches!(f, Files::Parallel(_)))
        {
            return Err(Error::setting("files", "text is read from a file or a list of files, not from columns"));
        }
        self.documents()?;
        match self.held_out {
            Some(_) if self.validation.is_some() => {
                return Err(Error::setting("held_out", "name a file to evaluate on or a share to hold out, not both"));
            }
            Some(share) if !(share > 0.0 && share < 1.0) => {
                return Err(Error::setting("held_out", "the share held out must lie between 0 and 1"));
            }
            _ => {}
        }
        let lengths = self.objective.lengths(self.inputs_len, self.targets_len);
        lengths.map(drop).map_err(|e| Error::setting("inputs_len", e.to_string()))
    }

    /// What the lines of its files hold.
    ///
    /// # Errors
    /// `Setting`: one of `format`, `columns` and `text` cannot be used.
    pub fn documents(&self) -> Result<Documents> {
        Documents::new(self.format, self.columns.as_deref(), self.text.as_deref())
    }

    /// Whether there is something to evaluate on.
    pub fn has_validation(&self) -> bool {
        self.held_out.is_some() || self.validation.is_some()
    }

    /// The declaration with its relative paths taken from `base`.
    pub fn absolute(mut self, base: &Path) -> TextConfig {
        for files in [Some(&mut self.files), self.validation.as_mut()].into_iter().flatten() {
            files.start_at(base);
        }
        self
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::new()
    }
}

impl Settings {
    /// Trains on this text, and evaluates on what it has for that.
    pub fn on_text(name: &str, text: TextConfig) -> Settings {
        let evaluate = if text.has_validation() { vec![name.to_owned()] } else { Vec::new() };
        let texts = BTreeMap::from([(name.to_owned(), text)]);
        Settings { texts, train: vec![name.to_owned()], evaluate, ..Settings::new() }
    }

    /// Trains on this task, and evaluates on its validation split if it has one.
    pub fn on_task(name: &str, task: TaskConfig) -> Settings {
        let evaluate = if task.has(Split::Validation) { vec![name.to_owned()] } else { Vec::new() };
        let tasks = BTreeMap::from([(name.to_owned(), task)]);
        Settings { tasks, train: vec![name.to_owned()], evaluate, ..Settings::new() }
    }

    /// # Errors
    /// `Setting`: the first one that cannot be used.
    pub fn check(&self) -> Result<()> {
        let require = |holds: bool, key: &str, what: &str| if holds { Ok(()) } else { Err(Error::setting(key, what)) };
        let share = |value: f32| (0.0..1.0).contains(&value);
        require(self.steps > 0, "steps", "the number of steps must be at least 1")?;
        let rows = 1..=MOST_ROWS;
        require(rows.contains(&self.batch_size), "batch_size", "a batch has at least 1 row and at most 65,536")?;
        require(
            (1..=MOST_BATCHES).contains(&self.accumulate),
            "accumulate",
            "gradients are accumulated over at least 1 batch and at most 65,536",
        )?;
        require(self.prefetch <= MOST_THREADS, "prefetch", "at most 256 threads make batches ahead of time")?;
        require((0.0..1.0).contains(&self.average), "average", "the decay must be at least 0 and less than 1")?;
        require(share(self.dropout), "dropout", "it must be at least 0 and less than 1")?;
        require(share(self.label_smoothing), "label_smoothing", "it must be at least 0 and less than 1")?;
        require(self.z_loss >= 0.0 && self.z_loss.is_finite(), "z_loss", "the factor must be 0 or more")?;
        require(
            self.clip >= 0.0 && self.clip.is_finite(),
            "clip",
            "the gradient norm to clip to must be 0 (never) or more",
        )?;
        require(self.eval_examples > 0, "eval_examples", "an evaluation needs at least 1 example")?;
        let what = "an evaluation needs rows for at least 1 example, and has at most 65,536";
        require(rows.contains(&self.eval_batch_size), "eval_batch_size", what)?;
        require(
            self.patience != Some(0),
            "patience",
            "training cannot end early before its first evaluation: patience starts at 1",
        )?;
        require(
            self.patience.is_none() || !self.evaluate.is_empty(),
            "patience",
            "ending early needs something to evaluate on: name a validation file or hold some examples out",
        )?;
        require(!self.train.is_empty(), "train", "nothing to train on: name a text or a task")?;
        let names = [("train", &self.train), ("evaluate", &self.evaluate)];
        let names = names.into_iter().flat_map(|(key, names)| names.iter().map(move |name| (key, name)));
        for (key, name) in names.chain(self.scale.keys().map(|name| ("scale", name))) {
            if !self.texts.contains_key(name) && !self.tasks.contains_key(name) {
                let known: Vec<&str> = self.texts.keys().chain(self.tasks.keys()).map(String::as_str).collect();
                return Err(Error::setting(key, format!("there is no task `{name}`; there are: {}", known.join(", "))));
            }
        }
        for (name, text) in &self.texts {
            text.check().map_err(|e| in_task(name, e))?;
        }
        for (name, task) in &self.tasks {
            task.check().map_err(|e| in_task(name, e))?;
        }
        let scales: Vec<(f64, f64)> =
            self.train.iter().map(|name| (1.0, self.scale.get(name).copied().unwrap_or(1.0))).collect();
        self.mixture.shares(&scales).map_err(|e| Error::setting("mixture", e.to_string()))?;
        let by_size = self.train.len() > 1 && self.mixture.rates == Rates::Proportional;
        let sizeless = |name: &&String| self.texts.get(*name).is_some_and(|text| text.examples.is_none());
        if let Some(name) = self.train.iter().find(sizeless).filter(|_| by_size) {
            let what = format!(
                "the text {name} has no number of examples to be mixed by: say as how many it counts (`examples`), or mix at \
                 equal rates"
            );
            return Err(Error::setting("mixture", what));
        }
        if let Batching::Packed { source_len, target_len } = self.batching {
            let room = source_len > 1 && target_len > 1;
            require(room, "batching", "packed rows need at least 2 source and 2 target tokens")?;
        }
        if let Some(best) = &self.best {
            let known = figure_names(self);
            if !known.contains(best) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Error::setting("best", format!("no evaluation gives `{best}`; there are: {known}")));
            }
        }
        let intervals =
            [("eval_every", self.eval_every), ("save_every", self.save_every), ("norms_every", self.norms_every)];
        for (key, every) in intervals {
            require(every != Some(0), key, "the steps from one to the next must be at least 1")?;
        }
        let is_f32 = self.frozen_weights == Storage::F32;
        let what = "only what \"lora\" and \"ia3\" add to stays in files of its own: with any other `learns` it is f32";
        require(is_f32 || self.learns.adds(), "frozen_weights", what)?;
        let gradual = self.learns == Learns::Gradual;
        require(
            !gradual || self.optimizer.weight_decay() == 0.0,
            "weight_decay",
            "under gradual unfreezing there is none: it would change weights that do not learn yet",
        )?;
        require(gradual || self.unfreeze_every.is_none(), "unfreeze_every", "it needs learns = \"gradual\"")?;
        require(
            self.unfreeze_every != Some(0),
            "unfreeze_every",
            "the steps from one block to the next must be at least 1",
        )?;
        let has_cooldown = self.cooldown.is_some() && self.schedule != Decay::Wsd;
        require(!has_cooldown, "cooldown", "only the schedule wsd has a cooldown")?;
        self.optimizer.validate()?;
        self.lr_schedule().check()
    }

    /// Replaces what depends on the number of steps by plain numbers, so that a longer run later changes none of it.
    pub fn settle(&mut self) {
        let twentieth = (self.steps / 20).min(1000);
        self.warmup.get_or_insert(twentieth);
        self.eval_every.get_or_insert(twentieth.max(50));
        self.save_every.get_or_insert(twentieth.max(1));
        if self.schedule == Decay::Wsd {
            self.cooldown.get_or_insert(self.steps / 5);
        }
    }

    /// Blocks of each stack that learn at a step: 1 at first, one more every [`Settings::unfreeze_every`] steps.
    pub fn unfrozen(&self, step: u64) -> usize {
        let every = self.unfreeze_every.unwrap_or(self.steps).max(1);
        1 + usize::try_from(step / every).unwrap_or(usize::MAX - 1)
    }

    /// The tasks that are trained on, with what their sources begin with.
    pub fn prefixes(&self) -> BTreeMap<String, String> {
        let task = |name: &String| Some((name.clone(), self.tasks.get(name)?.source_prefix()));
        self.train.iter().filter_map(task).collect()
    }

    pub fn lr_schedule(&self) -> LrSchedule {
        let mut settled = self.clone();
        settled.settle();
        let schedule = LrSchedule::new(self.schedule, self.lr, settled.warmup.unwrap_or(0), self.steps);
        LrSchedule { cooldown: settled.cooldown.unwrap_or(0), ..schedule }
    }

    /// The same with what no result depends on as `now` says, and with the same data where they lie now.
    pub fn with_free(self, now: Settings) -> Settings {
        let Settings { texts, tasks, prefetch, recompute, log_every, norms_every, .. } = now;
        Settings { texts, tasks, prefetch, recompute, log_every, norms_every, ..self }
    }

    pub fn regularization(&self) -> Regularization {
        let Settings { dropout, z_loss, label_smoothing, average, .. } = *self;
        Regularization { dropout, z_loss, label_smoothing, average }
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
            .filter(|(key, value)| !FREE.contains(&key.as_str()) && others.get(*key) != Some(value))
            .map(|(key, value)| format!("{key} is {} in the run, not {value}", others.get(key).unwrap_or(&Value::Null)))
            .collect()
    }
}

/// The same optimiser with another weight decay.
pub fn with_weight_decay(mut config: OptimizerConfig, decay: f64) -> OptimizerConfig {
    match &mut config {
        OptimizerConfig::AdamW { weight_decay, .. }
        | OptimizerConfig::AdamWScale { weight_decay, .. }
        | OptimizerConfig::Adafactor { weight_decay, .. } => {
            *weight_decay = decay;
        }
    }
    config
}
