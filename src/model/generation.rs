//! The settings with which a model wants to be decoded: `generation_config.json`, and `task_specific_params` of
//! `config.json`.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::T5Config;
use crate::checkpoint::base_of;
use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};

/// The file's name in a model folder.
pub const GENERATION_FILE: &str = "generation_config.json";

/// When beam search of a source ends, once there is a hypothesis for each beam.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub enum EarlyStopping {
    /// As soon as the best running beam, if it ended at its present length, would be no better than the worst hypothesis.
    #[default]
    No,
    /// At once.
    Yes,
    /// When no running beam can become better, even if it grew to the most tokens.
    Never,
}

impl TryFrom<Value> for EarlyStopping {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<EarlyStopping, Self::Error> {
        match value {
            Value::Bool(false) => Ok(EarlyStopping::No),
            Value::Bool(true) => Ok(EarlyStopping::Yes),
            Value::String(text) if text == "never" => Ok(EarlyStopping::Never),
            _ => Err("early_stopping is true, false or \"never\""),
        }
    }
}

/// What a model's files say about decoding, by transformers' names; `None` where they say nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DecodingSettings {
    pub max_new_tokens: Option<usize>,
    /// Counts the start token. `max_new_tokens` goes before it.
    pub max_length: Option<usize>,
    pub num_beams: Option<usize>,
    pub length_penalty: Option<f32>,
    pub early_stopping: Option<EarlyStopping>,
    /// Whether tokens are drawn; if not, temperature, top_k and top_p mean nothing.
    pub do_sample: Option<bool>,
    pub temperature: Option<f32>,
    pub top_k: Option<usize>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    /// The first token of every answer: a language's in multilingual models.
    pub forced_bos_token_id: Option<u32>,
    /// The last token of an answer that would be cut.
    pub forced_eos_token_id: Option<u32>,
    pub min_new_tokens: Option<usize>,
    /// Counts the start token. `min_new_tokens` goes before it.
    pub min_length: Option<usize>,
    pub repetition_penalty: Option<f32>,
    pub no_repeat_ngram_size: Option<usize>,
    pub bad_words_ids: Option<Vec<Vec<u32>>>,
    pub suppress_tokens: Option<Vec<u32>>,
    pub begin_suppress_tokens: Option<Vec<u32>>,
    /// Texts that end an answer: one, or several.
    #[serde(deserialize_with = "one_or_more")]
    pub stop_strings: Option<Vec<String>>,
}

impl DecodingSettings {
    /// Tokens after which an answer ends, if these settings say so.
    pub fn most_new_tokens(&self) -> Option<usize> {
        self.max_new_tokens.or(self.max_length.map(|n| n.saturating_sub(1))).filter(|&n| n > 0)
    }

    /// Tokens before which an answer does not end, if these settings say so.
    pub fn least_new_tokens(&self) -> Option<usize> {
        self.min_new_tokens.or(self.min_length.map(|n| n.saturating_sub(1)))
    }

    /// The tokens that these settings name.
    fn ids(&self) -> impl Iterator<Item = u32> {
        let lists = self.bad_words_ids.iter().flatten();
        let lists = lists.chain(&self.suppress_tokens).chain(&self.begin_suppress_tokens);
        lists.flatten().chain(&self.forced_bos_token_id).chain(&self.forced_eos_token_id).copied()
    }

    /// These settings, and where they say nothing those.
    pub fn or(self, other: DecodingSettings) -> DecodingSettings {
        let length = if self.most_new_tokens().is_some() { &self } else { &other };
        let least = if self.least_new_tokens().is_some() { &self } else { &other };
        DecodingSettings {
            max_new_tokens: length.max_new_tokens,
            max_length: length.max_length,
            min_new_tokens: least.min_new_tokens,
            min_length: least.min_length,
            min_p: self.min_p.or(other.min_p),
            forced_eos_token_id: self.forced_eos_token_id.or(other.forced_eos_token_id),
            repetition_penalty: self.repetition_penalty.or(other.repetition_penalty),
            no_repeat_ngram_size: self.no_repeat_ngram_size.or(other.no_repeat_ngram_size),
            bad_words_ids: self.bad_words_ids.or(other.bad_words_ids),
            suppress_tokens: self.suppress_tokens.or(other.suppress_tokens),
            begin_suppress_tokens: self.begin_suppress_tokens.or(other.begin_suppress_tokens),
            stop_strings: self.stop_strings.or(other.stop_strings),
            num_beams: self.num_beams.or(other.num_beams),
            length_penalty: self.length_penalty.or(other.length_penalty),
            early_stopping: self.early_stopping.or(other.early_stopping),
            do_sample: self.do_sample.or(other.do_sample),
            temperature: self.temperature.or(other.temperature),
            top_k: self.top_k.or(other.top_k),
            top_p: self.top_p.or(other.top_p),
            forced_bos_token_id: self.forced_bos_token_id.or(other.forced_bos_token_id),
        }
    }
}

/// What is read of the file, and the file itself, which is saved again with the model.
#[derive(Clone, Debug, Default)]
pub struct GenerationConfig {
    /// End tokens instead of those of `config.json`.
    pub eos_token_id: Option<Vec<u32>>,
    pub decoder_start_token_id: Option<u32>,
    pub decoding: DecodingSettings,
    /// Settings that have no effect here, as "num_beam_groups = 4".
    pub disregarded: Vec<String>,
    text: Option<String>,
}

/// The keys that are read.
#[derive(Deserialize)]
struct Keys {
    eos_token_id: Option<OneOrMore<u32>>,
    decoder_start_token_id: Option<u32>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> From<OneOrMore<T>> for Vec<T> {
    fn from(values: OneOrMore<T>) -> Vec<T> {
        match values {
            OneOrMore::One(value) => vec![value],
            OneOrMore::More(values) => values,
        }
    }
}

fn one_or_more<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    Ok(Option::<OneOrMore<String>>::deserialize(from)?.map(Vec::from))
}

/// Keys of [`DecodingSettings`].
const OBEYED: [&str; 20] = [
    "stop_strings",
    "forced_eos_token_id",
    "min_new_tokens",
    "min_length",
    "min_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "max_new_tokens",
    "max_length",
    "num_beams",
    "length_penalty",
    "early_stopping",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "forced_bos_token_id",
];

/// Keys that change no answer.
const HARMLESS: [&str; 8] = [
    "_from_model_config",
    "transformers_version",
    "pad_token_id",
    "bos_token_id",
    "use_cache",
    "return_dict_in_generate",
    "output_scores",
    "cache_implementation",
];

impl GenerationConfig {
    /// Of a model's folder, or beside its weights; the default where there is no such file.
    ///
    /// # Errors
    /// The file cannot be read, is no JSON of this kind, or names an id that the model does not have.
    pub fn from_dir(model: &Path, config: &T5Config) -> Result<GenerationConfig> {
        let folder = files::model_folder(model);
        if let Some(base) = base_of(folder)? {
            return GenerationConfig::from_dir(&base, config);
        }
        let path = folder.join(GENERATION_FILE);
        if !path.exists() {
            return Ok(GenerationConfig::default());
        }
        let text = files::read_text(&path, SETTINGS_LIMIT)?;
        let keys: Keys = serde_json::from_str(&text)
            .map_err(|e| Error::line(&path, e.line(), format!("not the settings of a generation: {e}")))?;
        let eos: Option<Vec<u32>> = keys.eos_token_id.map(Vec::from);
        let (decoding, disregarded) = settings(keys.others)
            .map_err(|what| Error::file(&path, format!("not the settings of a generation: {what}")))?;
        let ids = eos.iter().flatten().chain(&keys.decoder_start_token_id).copied().chain(decoding.ids());
        if let Some(id) = ids.into_iter().find(|&id| id as usize >= config.vocab_size) {
            let what = format!("the id {id} is outside of the model's vocabulary of {}", config.vocab_size);
            return Err(Error::file(&path, what));
        }
        Ok(GenerationConfig {
            eos_token_id: eos.filter(|ids| !ids.is_empty()),
            decoder_start_token_id: keys.decoder_start_token_id,
            decoding,
            disregarded,
            text: Some(text),
        })
    }

    /// A sentence about settings without effect, if there are some.
    pub fn remark(&self) -> Option<String> {
        let list = self.disregarded.join(", ");
        (!list.is_empty()).then(|| format!("{GENERATION_FILE}: not obeyed: {list}"))
    }

    /// Writes the file that was read into a folder.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let path = dir.join(GENERATION_FILE);
        self.text.as_ref().map_or(Ok(()), |text| fs::write(&path, text).map_err(Error::io("write", &path)))
    }
}

/// What these keys say about decoding, and those that have no effect.
fn settings(keys: Map<String, Value>) -> Result<(DecodingSettings, Vec<String>), String> {
    let has_effect = |(key, value): &(&String, &Value)| {
        let is_off = value.is_null() || **value == Value::Bool(false) || value.as_f64() == Some(0.0);
        // One beam, a factor of 1 and a group of 1 are none.
        !HARMLESS.contains(&key.as_str()) && !OBEYED.contains(&key.as_str()) && !is_off && value.as_f64() != Some(1.0)
    };
    let mut disregarded: Vec<String> =
        keys.iter().filter(has_effect).map(|(key, value)| format!("{key} = {value}")).collect();
    let settings: DecodingSettings = serde_json::from_value(Value::Object(keys)).map_err(|e| e.to_string())?;
    if settings.num_beams.is_some_and(|beams| beams > 1) {
        if settings.do_sample == Some(true) {
            disregarded.push("do_sample = true (beams are not drawn)".into());
        }
        if settings.stop_strings.is_some() {
            disregarded.push("stop_strings (beams do not stop at texts)".into());
        }
    }
    Ok((settings, disregarded))
}

impl T5Config {
    /// How a task of `task_specific_params` wants to be decoded, and what of it has no effect; `None` if there is no such task.
    ///
    /// # Errors
    /// `Input`: a setting of it has the wrong type.
    pub fn task_decoding(&self, task: &str) -> Result<Option<(DecodingSettings, Vec<String>)>> {
        let Some(Value::Object(keys)) = self.task(task) else { return Ok(None) };
        let mut keys = keys.clone();
        keys.remove("prefix");
        let wrong = |what| Error::Input(format!("config.json: task_specific_params of {task}: {what}"));
        settings(keys).map(Some).map_err(wrong)
    }
}
