//! `generation_config.json`: the settings with which transformers generates by default.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::T5Config;
use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};

/// The file's name in a model folder.
pub const GENERATION_FILE: &str = "generation_config.json";

/// What is read of the file, and the file itself, which is saved again with the model.
#[derive(Clone, Debug, Default)]
pub struct GenerationConfig {
    /// End tokens instead of those of `config.json`.
    pub eos_token_id: Option<Vec<u32>>,
    pub decoder_start_token_id: Option<u32>,
    /// The first token of every answer: a language's in multilingual models.
    pub forced_bos_token_id: Option<u32>,
    /// Tokens after which an answer ends; from `max_new_tokens`, or `max_length`, which counts the start token.
    pub max_new_tokens: Option<usize>,
    /// Settings that have no effect here, as "num_beams = 4".
    pub disregarded: Vec<String>,
    text: Option<String>,
}

/// The keys that are read.
#[derive(Deserialize)]
struct Keys {
    eos_token_id: Option<OneOrMore>,
    decoder_start_token_id: Option<u32>,
    forced_bos_token_id: Option<u32>,
    max_new_tokens: Option<usize>,
    max_length: Option<usize>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(u32),
    More(Vec<u32>),
}

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
    /// Of a model folder; the default where it has no such file.
    ///
    /// # Errors
    /// The file cannot be read, is no JSON of this kind, or names an id that the model does not have.
    pub fn from_dir(dir: &Path, config: &T5Config) -> Result<GenerationConfig> {
        let path = dir.join(GENERATION_FILE);
        if !path.exists() {
            return Ok(GenerationConfig::default());
        }
        let text = files::read_text(&path, SETTINGS_LIMIT)?;
        let keys: Keys = serde_json::from_str(&text)
            .map_err(|e| Error::line(&path, e.line(), format!("not the settings of a generation: {e}")))?;
        let eos = keys.eos_token_id.map(|ids| match ids {
            OneOrMore::One(id) => vec![id],
            OneOrMore::More(ids) => ids,
        });
        let ids = eos.iter().flatten().chain(&keys.decoder_start_token_id).chain(&keys.forced_bos_token_id);
        if let Some(id) = ids.into_iter().find(|&&id| id as usize >= config.vocab_size) {
            let what = format!("the id {id} is outside of the model's vocabulary of {}", config.vocab_size);
            return Err(Error::file(&path, what));
        }
        let has_effect = |(key, value): &(&String, &Value)| {
            let is_off = value.is_null() || **value == Value::Bool(false) || value.as_f64() == Some(0.0);
            // One beam, a factor of 1 and a group of 1 are none.
            !HARMLESS.contains(&key.as_str()) && !is_off && value.as_f64() != Some(1.0)
        };
        let disregarded =
            keys.others.iter().filter(has_effect).map(|(key, value)| format!("{key} = {value}")).collect();
        Ok(GenerationConfig {
            eos_token_id: eos.filter(|ids| !ids.is_empty()),
            decoder_start_token_id: keys.decoder_start_token_id,
            forced_bos_token_id: keys.forced_bos_token_id,
            max_new_tokens: keys.max_new_tokens.or(keys.max_length.map(|n| n.saturating_sub(1))).filter(|&n| n > 0),
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
