//! The configuration of a T5: HuggingFace's `config.json` of T5 1.0, T5 1.1, Flan-T5, ByT5, mT5, UMT5 and LongT5.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::architecture::Architecture;
use super::encoder_attention::EncoderAttention;
use super::head::ClassifierHead;
use super::patches::PatchHead;
use crate::checkpoint::{GgufFile, Weights, base_of, other_format};
use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};
use crate::ops::Activation;

/// A model's configuration. Sizes are counts of elements, rates are fractions; field names are those of `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct T5Config {
    pub model_type: Family,
    /// A key of our own, `architecture`; absent in the files of published models.
    pub architecture: Architecture,
    /// Rows of the embedding; may exceed what the tokenizer can produce (32,128 rows for 32,100 ids).
    pub vocab_size: usize,
    pub d_model: usize,
    /// Width of one head; `num_heads * d_kv` need not equal `d_model`.
    pub d_kv: usize,
    pub d_ff: usize,
    /// Blocks of the encoder, or of the only stack.
    pub num_layers: usize,
    /// Blocks of the decoder; `num_layers` where [`Architecture`] has one set of blocks.
    pub num_decoder_layers: usize,
    pub num_heads: usize,
    pub relative_attention_num_buckets: usize,
    pub relative_attention_max_distance: usize,
    pub dropout_rate: f64,
    pub layer_norm_epsilon: f64,
    pub initializer_factor: f64,
    /// `wo(act(wi x))`, or `wo(act(wi_0 x) * wi_1 x)` where gated.
    pub feed_forward_proj: Activation,
    pub tie_word_embeddings: bool,
    /// Width of the adapter behind each feed-forward network, 0: there are none. A key of our own.
    pub adapter_width: usize,
    /// LongT5's `encoder_attention_type`, `local_radius` and `global_block_size`.
    pub encoder_attention: EncoderAttention,
    /// Written by transformers 5.x; decides the output scale when present (see [`T5Config::output_scale`]).
    pub scale_decoder_outputs: Option<bool>,
    pub pad_token_id: u32,
    /// Generation stops at any of these.
    pub eos_token_id: Vec<u32>,
    pub decoder_start_token_id: u32,
    /// The head of a model that gives labels their scores instead of writing text. No key of the file: the weights tell.
    pub classifier: Option<ClassifierHead>,
    /// What a Chronos-Bolt has instead of text; read from `chronos_config`, which stays in `extra`.
    pub patches: Option<PatchHead>,
    /// Keys of the file that mean nothing here; written back by [`T5Config::to_json`].
    pub extra: Map<String, Value>,
}

/// `model_type`: the variants differ in defaults, in the output scale and in where relative bias tables live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// T5 1.0, 1.1, Flan-T5, ByT5, UL2.
    T5,
    Mt5,
    /// Every self-attention layer has its own relative bias table.
    Umt5,
    /// T5 1.1 whose encoder attends to what is near: see [`EncoderAttention`].
    LongT5,
}

/// The key of tasks and their settings.
const TASKS: &str = "task_specific_params";

impl T5Config {
    /// Reads and validates a `config.json`. Errors name the file, the line and what is wrong with the value.
    pub fn from_file(path: impl AsRef<Path>) -> Result<T5Config> {
        let path = path.as_ref();
        let text = files::read_text(path, SETTINGS_LIMIT)?;
        T5Config::from_json(&text, path)
    }

    /// The configuration in a model's folder, beside its weights or in a GGUF file. Where there is none, the error says what the
    /// folder is instead.
    pub fn from_dir(model: &Path) -> Result<T5Config> {
        if let Some((config, _)) = T5Config::from_gguf(model)? {
            return Ok(config);
        }
        let dir = files::model_folder(model);
        if let Some(base) = base_of(dir)? {
            return T5Config::from_dir(&base);
        }
        let file = dir.join("config.json");
        if !dir.is_dir() || file.exists() {
            return T5Config::from_file(file);
        }
        let none =
            "there is no config.json in this folder, so it holds no model: a model's folder has one beside its weights";
        Err(Error::file(dir, other_format(dir).unwrap_or_else(|| none.into())))
    }

    /// What a GGUF file says of itself, if the model is one, and a sentence about what it does not say. A folder's `config.json` says
    /// more.
    pub(super) fn from_gguf(model: &Path) -> Result<Option<(T5Config, String)>> {
        if model.is_dir() && model.join("config.json").exists() {
            return Ok(None);
        }
        match GgufFile::of_model(model)? {
            Some(file) => super::gguf::config_of(&file, &Weights::open(model)?),
            None => Ok(None),
        }
    }

    /// The tasks that the model knows, with what their sources begin with: `task_specific_params` of transformers.
    pub fn prefixes(&self) -> BTreeMap<String, String> {
        let tasks = self.extra.get(TASKS).and_then(Value::as_object);
        let prefix =
            |(task, settings): (&String, &Value)| Some((task.clone(), settings["prefix"].as_str()?.to_owned()));
        tasks.into_iter().flatten().filter_map(prefix).collect()
    }

    /// A sentence about tasks that cannot be read, if there are some.
    pub fn remark(&self) -> Option<String> {
        let odd = |settings: &Value| {
            settings.as_object().is_none_or(|settings| settings.get("prefix").is_some_and(|prefix| !prefix.is_string()))
        };
        let what = match self.extra.get(TASKS)? {
            Value::Null => return None,
            Value::Object(tasks) => {
                let odd: Vec<&str> = tasks.iter().filter(|(_, of)| odd(of)).map(|(task, _)| task.as_str()).collect();
                (!odd.is_empty()).then(|| format!("no task with a prefix: {}", odd.join(", ")))?
            }
            other => format!("not tasks with their settings, but {other}"),
        };
        Some(format!("config.json: {TASKS}: not obeyed: {what}"))
    }

    pub(super) fn task(&self, name: &str) -> Option<&Value> {
        self.extra.get(TASKS)?.get(name)
    }

    /// Makes these the tasks that the model knows, if there are some.
    pub fn set_prefixes(&mut self, prefixes: &BTreeMap<String, String>) {
        if prefixes.is_empty() {
            return;
        }
        let tasks = prefixes.iter().map(|(task, prefix)| (task.clone(), json!({ "prefix": prefix }))).collect();
        self.extra.insert(TASKS.into(), Value::Object(tasks));
    }

    /// As [`T5Config::from_file`] with the text at hand; `path` only serves error messages.
    pub fn from_json(text: &str, path: impl AsRef<Path>) -> Result<T5Config> {
        let path = path.as_ref();
        let map = serde_json::from_str(text)
            .map_err(|e| Error::line(path, e.line(), format!("not a JSON object of settings: {e}")))?;
        from_map(Keys { map, text, path })
    }

    /// A `config.json` that transformers 4.57 and 5.x load to the same model, provided that the weights beside it hold
    /// an `lm_head.weight` exactly if `tie_word_embeddings` is false; [`T5Config::for_head`] arranges that.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", Value::Object(self.clone().into()))
    }

    /// The configuration to save with weights that hold (`untied`) or lack an `lm_head.weight`. Computes the same as
    /// `self`: where the changed tie flag alone would alter the output scale, `scale_decoder_outputs` is set.
    ///
    /// transformers 4.57 ignores that key. A model with a tied but unscaled head (any mT5 or UMT5 without `lm_head`)
    /// therefore means the same to every version only if saved untied, with a copy of the embedding as its head.
    pub fn for_head(&self, untied: bool) -> T5Config {
        let mut saved = T5Config { tie_word_embeddings: !untied, ..self.clone() };
        if saved.scales_output() != self.scales_output() {
            saved.scale_decoder_outputs = Some(self.scales_output());
        }
        saved
    }

    /// The factor on the decoder's output before the head, and the rule that decided it, for printing.
    ///
    /// The head is `lm_head.weight` whenever the file has it, otherwise the embedding. The scale does not change which
    /// token is likeliest, so only losses, samples and beams show a wrong one.
    pub fn output_scale(&self, file_has_lm_head: bool) -> (f32, String) {
        let scale = if self.scales_output() { (self.d_model as f64).powf(-0.5) as f32 } else { 1.0 };
        let reason = match (self.scale_decoder_outputs, self.model_type) {
            (Some(flag), _) => format!("scale_decoder_outputs is {flag}"),
            (None, Family::Mt5 | Family::Umt5) => format!("model_type is {}", self.model_type.name()),
            (None, Family::T5 | Family::LongT5) => format!("tie_word_embeddings is {}", self.tie_word_embeddings),
        };
        let mut rule = match file_has_lm_head {
            true => "head is lm_head.weight (the file has it)".to_owned(),
            false => "head is the embedding (the file has no lm_head.weight)".to_owned(),
        };
        rule += &format!(", output scale {scale} ({reason})");
        if file_has_lm_head && self.tie_word_embeddings && self.scale_decoder_outputs.is_none() {
            rule +=
                "; transformers before version 5 would use the embedding as head, since tie_word_embeddings is true";
        }
        (scale, rule)
    }

    fn scales_output(&self) -> bool {
        let may = matches!(self.model_type, Family::T5 | Family::LongT5);
        self.scale_decoder_outputs.unwrap_or(may && self.tie_word_embeddings)
    }
}

impl Family {
    /// The value of `model_type`.
    pub fn name(self) -> &'static str {
        match self {
            Family::T5 => "t5",
            Family::Mt5 => "mt5",
            Family::Umt5 => "umt5",
            Family::LongT5 => "longt5",
        }
    }

    /// What transformers calls the class of its models that write text.
    fn class(self) -> &'static str {
        match self {
            Family::T5 => "T5ForConditionalGeneration",
            Family::Mt5 => "MT5ForConditionalGeneration",
            Family::Umt5 => "UMT5ForConditionalGeneration",
            Family::LongT5 => "LongT5ForConditionalGeneration",
        }
    }
}

impl TryFrom<Map<String, Value>> for T5Config {
    type Error = Error;

    fn try_from(map: Map<String, Value>) -> Result<T5Config> {
        from_map(Keys { map, text: "", path: Path::new("config.json") })
    }
}

impl From<T5Config> for Map<String, Value> {
    fn from(config: T5Config) -> Map<String, Value> {
        let mut map = config.extra;
        let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
        if config.architecture == Architecture::EncoderDecoder && config.adapter_width == 0 {
            set("architectures", json!([config.model_type.class()]));
            set("model_type", json!(config.model_type.name()));
        } else {
            // Under a name that transformers does not know: it would make up the parameters that it misses.
            set("architecture", json!(config.architecture.name()));
            set("adapter_width", json!(config.adapter_width));
            set("model_type", json!(format!("{}{OWN_SUFFIX}", config.model_type.name())));
        }
        set("is_encoder_decoder", json!(!config.architecture.is_one_stack()));
        set("dtype", json!("float32"));
        set("vocab_size", json!(config.vocab_size));
        set("d_model", json!(config.d_model));
        set("d_kv", json!(config.d_kv));
        set("d_ff", json!(config.d_ff));
        set("num_layers", json!(config.num_layers));
        set("num_decoder_layers", json!(config.num_decoder_layers));
        set("num_heads", json!(config.num_heads));
        set("relative_attention_num_buckets", json!(config.relative_attention_num_buckets));
        set("relative_attention_max_distance", json!(config.relative_attention_max_distance));
        set("dropout_rate", json!(config.dropout_rate));
        set("layer_norm_epsilon", json!(config.layer_norm_epsilon));
        set("initializer_factor", json!(config.initializer_factor));
        set("feed_forward_proj", json!(config.feed_forward_proj.config_name()));
        set("tie_word_embeddings", json!(config.tie_word_embeddings));
        set("pad_token_id", json!(config.pad_token_id));
        set("decoder_start_token_id", json!(config.decoder_start_token_id));
        match config.eos_token_id.as_slice() {
            [one] => set("eos_token_id", json!(one)),
            several => set("eos_token_id", json!(several)),
        };
        match config.encoder_attention {
            EncoderAttention::Full => {}
            EncoderAttention::Local { radius } => {
                set("encoder_attention_type", json!("local"));
                set("local_radius", json!(radius));
            }
            EncoderAttention::TransientGlobal { radius, block } => {
                set("encoder_attention_type", json!("transient-global"));
                set("local_radius", json!(radius));
                set("global_block_size", json!(block));
            }
        }
        if let Some(flag) = config.scale_decoder_outputs {
            set("scale_decoder_outputs", json!(flag));
        }
        map
    }
}

/// Behind the `model_type` of a model with an [`Architecture`] that only this crate knows.
const OWN_SUFFIX: &str = "-wgpu";

/// Models that are called after T5 and are none, by `model_type`, with what they are.
const RELATIVES: [(&str, &str); 5] = [
    ("t5gemma", "T5Gemma is made of Gemma 2's layers (rotary positions, grouped queries, soft caps), not of T5's"),
    ("t5gemma2", "T5Gemma 2 is made of Gemma 3's layers and reads images, too; its layers are not T5's"),
    ("switch_transformers", "its feed-forward networks are mixtures of experts"),
    ("codet5p", "CodeT5+ 2B, 6B and 16B join a CodeGen encoder and decoder; those of 220M and 770M are T5s"),
    ("codet5p_embedding", "CodeT5+'s embedding model has a projection of its own behind a T5's encoder"),
];

/// Derived from the keys that are read, or describe weights that are stored differently from those written here.
const DROPPED: [&str; 5] = ["architectures", "is_encoder_decoder", "dtype", "torch_dtype", "quantization_config"];

/// Defaults of absent keys are those of transformers' `T5Config`, `MT5Config`, `UMT5Config` and `LongT5Config`.
fn from_map(mut keys: Keys) -> Result<T5Config> {
    let model_type = keys.family()?;
    let t5 = matches!(model_type, Family::T5 | Family::LongT5);
    let num_layers = keys.size(&["num_layers", "num_hidden_layers"], if t5 { 6 } else { 8 })?;
    let pad_token_id = keys.id("pad_token_id", 0)?;
    let mut config = T5Config {
        model_type,
        architecture: keys.architecture()?,
        vocab_size: keys.size(&["vocab_size"], if t5 { 32_128 } else { 250_112 })?,
        d_model: keys.size(&["d_model", "hidden_size"], 512)?,
        d_kv: keys.size(&["d_kv", "head_dim"], 64)?,
        d_ff: keys.size(&["d_ff"], if t5 { 2048 } else { 1024 })?,
        num_layers,
        num_decoder_layers: keys.size(&["num_decoder_layers"], num_layers)?,
        num_heads: keys.size(&["num_heads", "num_attention_heads"], if t5 { 8 } else { 6 })?,
        relative_attention_num_buckets: keys.size(&["relative_attention_num_buckets"], 32)?,
        relative_attention_max_distance: keys.size(&["relative_attention_max_distance"], 128)?,
        dropout_rate: keys.number("dropout_rate", 0.1)?,
        layer_norm_epsilon: keys.number("layer_norm_epsilon", 1e-6)?,
        initializer_factor: keys.number("initializer_factor", 1.0)?,
        feed_forward_proj: keys.feed_forward(if t5 { "relu" } else { "gated-gelu" })?,
        tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(model_type != Family::Mt5),
        adapter_width: keys.size(&["adapter_width"], 0)?,
        encoder_attention: keys.encoder_attention(model_type)?,
        scale_decoder_outputs: keys.flag("scale_decoder_outputs")?,
        pad_token_id,
        eos_token_id: keys.ids("eos_token_id", 1)?,
        decoder_start_token_id: keys.id("decoder_start_token_id", pad_token_id)?,
        classifier: None,
        patches: PatchHead::find(keys.map.get("chronos_config")).map_err(|what| keys.error("chronos_config", &what))?,
        extra: Map::new(),
    };
    config.check().map_err(|(key, what)| keys.error(key, &what))?;
    for key in DROPPED {
        keys.map.remove(key);
    }
    config.extra = keys.map;
    Ok(config)
}

/// The keys of a file not yet read; reading one takes it away, and `null` counts as absent.
struct Keys<'a> {
    map: Map<String, Value>,
    text: &'a str,
    path: &'a Path,
}

impl Keys<'_> {
    fn family(&mut self) -> Result<Family> {
        let name = match self.take("model_type") {
            Some(Value::String(name)) => name,
            Some(other) => return Err(self.error("model_type", &format!("is {other}, not a name"))),
            // The first architecture tells as much: "T5ForConditionalGeneration", "MT5EncoderModel".
            None => match self.map.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str) {
                Some(name) => {
                    let stem = |name, suffix| str::split_once(name, suffix).map_or(name, |(stem, _)| stem);
                    ["For", "Encoder", "Model"].into_iter().fold(name, stem).to_lowercase()
                }
                None => return Err(self.error("model_type", "is missing; add \"model_type\": \"t5\"")),
            },
        };
        match name.strip_suffix(OWN_SUFFIX).unwrap_or(&name) {
            "t5" => Ok(Family::T5),
            "mt5" => Ok(Family::Mt5),
            "umt5" => Ok(Family::Umt5),
            "longt5" => Ok(Family::LongT5),
            name => {
                let relative = RELATIVES.iter().find(|(kind, _)| *kind == name).map(|(_, what)| format!(": {what}"));
                let what = format!(
                    "is \"{name}\"; only t5, mt5, umt5 and longt5 models are supported{}",
                    relative.unwrap_or_default()
                );
                Err(self.error("model_type", &what))
            }
        }
    }

    fn architecture(&mut self) -> Result<Architecture> {
        let parsed = match self.take("architecture") {
            None => return Ok(Architecture::default()),
            Some(Value::String(name)) => Architecture::parse(&name),
            Some(value) => Err(format!("is {value}, not a name")),
        };
        parsed.map_err(|what| self.error("architecture", &what))
    }

    /// `names` are the key and its alias in transformers' generic vocabulary, if any.
    fn size(&mut self, names: &[&'static str], default: usize) -> Result<usize> {
        let found: Vec<_> = names.iter().filter_map(|&name| Some((name, self.take(name)?))).collect();
        let Some((name, value)) = found.first() else {
            return Ok(default);
        };
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| self.error(name, &format!("is {value}, not a positive whole number")))
    }

    fn number(&mut self, key: &str, default: f64) -> Result<f64> {
        match self.take(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.error(key, &format!("is {value}, not a number"))),
        }
    }

    fn flag(&mut self, key: &str) -> Result<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(value) => Err(self.error(key, &format!("is {value}, not true or false"))),
        }
    }

    fn id(&mut self, key: &str, default: u32) -> Result<u32> {
        match self.take(key) {
            None => Ok(default),
            Some(value) => self.as_id(key, &value),
        }
    }

    fn ids(&mut self, key: &str, default: u32) -> Result<Vec<u32>> {
        match self.take(key) {
            None => Ok(vec![default]),
            Some(Value::Array(list)) => list.iter().map(|value| self.as_id(key, value)).collect(),
            Some(value) => Ok(vec![self.as_id(key, &value)?]),
        }
    }

    /// `feed_forward_proj`, and over it `is_gated_act` and `dense_act_fn`, which transformers obeys where they differ.
    fn feed_forward(&mut self, default: &str) -> Result<Activation> {
        let value = self.take("feed_forward_proj").unwrap_or_else(|| json!(default));
        let known = "relu, gelu, gelu_new, silu or tanh";
        let said = value.as_str().and_then(Activation::parse).ok_or_else(|| {
            let what = format!("is {value}; known are {known}, with or without \"gated-\" before it");
            self.error("feed_forward_proj", &what)
        })?;
        let function = match self.take("dense_act_fn") {
            None => said.function,
            Some(name) => match name.as_str().and_then(Activation::parse) {
                Some(Activation { gated: false, function }) => function,
                _ => return Err(self.error("dense_act_fn", &format!("is {name}; known are {known}"))),
            },
        };
        Ok(Activation { gated: self.flag("is_gated_act")?.unwrap_or(said.gated), function })
    }

    fn encoder_attention(&mut self, family: Family) -> Result<EncoderAttention> {
        if family != Family::LongT5 {
            return Ok(EncoderAttention::Full);
        }
        let kind = self.take("encoder_attention_type").unwrap_or_else(|| json!("local"));
        let radius = self.size(&["local_radius"], 127)?;
        match kind.as_str() {
            Some("local") => Ok(EncoderAttention::Local { radius }),
            Some("transient-global") => {
                Ok(EncoderAttention::TransientGlobal { radius, block: self.size(&["global_block_size"], 16)? })
            }
            _ => {
                let what = format!("is {kind}; known are \"local\" and \"transient-global\"");
                Err(self.error("encoder_attention_type", &what))
            }
        }
    }

    fn as_id(&self, key: &str, value: &Value) -> Result<u32> {
        value
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| self.error(key, &format!("is {value}, not a token id")))
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|value| !value.is_null())
    }

    fn error(&self, key: &str, what: &str) -> Error {
        let quoted = format!("\"{key}\"");
        let line = self.text.lines().position(|line| line.contains(&quoted)).map(|index| index + 1);
        Error::File { path: self.path.to_path_buf(), line, what: format!("{key} {what}") }
    }
}
