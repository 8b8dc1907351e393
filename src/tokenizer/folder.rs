//! The tokenizer files of a HuggingFace model folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Kind, Tokenizer, sentinels};
use crate::error::{Error, Result};
use crate::files::{self, LARGE_LIMIT};

pub(super) const JSON_FILE: &str = "tokenizer.json";
pub(super) const SPIECE_FILE: &str = "spiece.model";
pub(super) const CONFIG_FILE: &str = "tokenizer_config.json";
const ADDED_FILE: &str = "added_tokens.json";

/// Files that make up a tokenizer, as far as a folder has them; `save` writes back those that were read.
pub(crate) const FILES: [&str; 5] = [JSON_FILE, SPIECE_FILE, CONFIG_FILE, "special_tokens_map.json", ADDED_FILE];

/// More sentinels than any model has: a guard against damaged files.
pub(super) const MAX_EXTRA_IDS: usize = 1 << 16;

/// What is read of `tokenizer_config.json`.
#[derive(Default, Deserialize)]
pub(super) struct TokenizerConfig {
    tokenizer_class: Option<String>,
    extra_ids: Option<usize>,
    additional_special_tokens: Option<Value>,
    /// The newer name of the same list.
    extra_special_tokens: Option<Value>,
    pad_token: Option<TokenName>,
    eos_token: Option<TokenName>,
    unk_token: Option<TokenName>,
    bos_token: Option<TokenName>,
    /// By their ids.
    added_tokens_decoder: Option<BTreeMap<String, TokenName>>,
}

/// HuggingFace writes `"</s>"` or `{"content": "</s>", "lstrip": ...}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenName {
    Plain(String),
    Added { content: String },
}

impl TokenizerConfig {
    pub(super) fn parse(path: &Path, contents: &[u8]) -> Result<TokenizerConfig> {
        let config: TokenizerConfig = serde_json::from_slice(contents)
            .map_err(|e| Error::line(path, e.line(), format!("not a usable tokenizer_config.json: {e}")))?;
        if config.extra_ids.is_some_and(|n| n > MAX_EXTRA_IDS) {
            return Err(Error::file(path, format!("\"extra_ids\" is above {MAX_EXTRA_IDS}; T5 has 100, ByT5 125")));
        }
        Ok(config)
    }

    /// One that says no more than how many sentinels there are.
    pub(super) fn of_sentinels(n: usize) -> TokenizerConfig {
        TokenizerConfig { extra_ids: Some(n), ..TokenizerConfig::default() }
    }

    pub(super) fn is_byt5(&self) -> bool {
        self.tokenizer_class.as_deref() == Some("ByT5Tokenizer")
    }

    /// How many sentinels the file asks for: by number or by listing them, since transformers 5 saves `ByT5Tokenizer`
    /// with `"extra_ids": 0` and a list. `None` where it says neither.
    pub(super) fn n_sentinels(&self) -> Option<usize> {
        let lists = [&self.additional_special_tokens, &self.extra_special_tokens];
        let listed = lists.into_iter().filter_map(|list| list.as_ref()?.as_array()).map(|list| {
            let is_sentinel = |token: &&Value| {
                let name = token.get("content").unwrap_or(token).as_str();
                name.is_some_and(|name| name.starts_with("<extra_id_"))
            };
            list.iter().filter(is_sentinel).count()
        });
        listed.filter(|&n| n > 0).chain(self.extra_ids).max()
    }

    pub(super) fn pad_token(&self) -> Option<&str> {
        self.pad_token.as_ref().map(TokenName::as_str)
    }

    pub(super) fn eos_token(&self) -> Option<&str> {
        self.eos_token.as_ref().map(TokenName::as_str)
    }

    /// The names of the tokens that end, pad or begin a sequence, or stand for what has no piece: as they are given, or T5's.
    pub(super) fn controls(&self) -> Vec<&str> {
        let given = [&self.eos_token, &self.pad_token, &self.unk_token, &self.bos_token];
        let given = given.map(|name| name.as_ref().map(TokenName::as_str));
        given.into_iter().zip(["</s>", "<pad>", "<unk>", "<s>"]).map(|(given, usual)| given.unwrap_or(usual)).collect()
    }

    pub(super) fn unk_token(&self) -> Option<&str> {
        self.unk_token.as_ref().map(TokenName::as_str)
    }
}

impl TokenName {
    fn as_str(&self) -> &str {
        match self {
            TokenName::Plain(name) | TokenName::Added { content: name } => name,
        }
    }
}

/// (name, contents) of the tokenizer files that `dir` has, in no need of any.
pub(super) fn read_files(dir: &Path) -> Result<Vec<(&'static str, Vec<u8>)>> {
    fs::metadata(dir).map_err(Error::io("open the model folder", dir))?;
    let mut found = Vec::new();
    for name in FILES {
        let path = dir.join(name);
        if path.exists() {
            found.push((name, files::read(&path, LARGE_LIMIT)?));
        }
    }
    Ok(found)
}

/// The tokens that were added to a vocabulary of SentencePiece, with their ids: those of `added_tokens.json` and those that
/// `tokenizer_config.json` lists. `path` is the vocabulary's.
pub(super) fn added_tokens(
    path: &Path,
    config: &TokenizerConfig,
    files: &[(&'static str, Vec<u8>)],
) -> Result<Vec<(String, u32)>> {
    let mut added: BTreeMap<String, u32> = match super::contents_of(files, ADDED_FILE) {
        [] => BTreeMap::new(),
        contents => serde_json::from_slice(contents).map_err(|e| {
            Error::line(path.with_file_name(ADDED_FILE), e.line(), format!("not a list of tokens and their ids: {e}"))
        })?,
    };
    for (id, token) in config.added_tokens_decoder.iter().flatten() {
        let what = || format!("{id:?} in added_tokens_decoder is no token's id");
        let id = id.parse().map_err(|_| Error::file(path.with_file_name(CONFIG_FILE), what()))?;
        added.insert(token.as_str().to_owned(), id);
    }
    Ok(added.into_iter().collect())
}

/// The `tokenizer_config.json` by which `AutoTokenizer` finds the class for `tokenizer`'s files.
pub(super) fn config(tokenizer: &Tokenizer) -> Vec<u8> {
    let mut config = Map::new();
    let n_sentinels = tokenizer.n_sentinels();
    let sentinel_names: Vec<String> = (0..n_sentinels).map(sentinels::name).collect();
    match &tokenizer.0.kind {
        Kind::Bytes(_) => {
            config.insert("tokenizer_class".into(), "ByT5Tokenizer".into());
            config.insert("extra_ids".into(), n_sentinels.into());
        }
        Kind::SentencePiece(model) => {
            config.insert("tokenizer_class".into(), "T5Tokenizer".into());
            config.insert("extra_ids".into(), model.n_appended().into());
        }
        // The generic class takes a tokenizer.json as it is; T5Tokenizer would rebuild parts of it.
        Kind::Json(_) => {
            config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        }
    }
    // transformers would add ids of its own for sentinels that are pieces, which it knows by other names.
    if sentinel_names.iter().enumerate().all(|(k, name)| tokenizer.sentinel_piece(k).as_ref() == Some(name)) {
        config.insert("additional_special_tokens".into(), json!(sentinel_names));
    }
    for (key, id) in [("pad_token", tokenizer.pad()), ("eos_token", tokenizer.eos()), ("unk_token", tokenizer.unk())] {
        if let Some(piece) = tokenizer.piece(id) {
            config.insert(key.into(), piece.into());
        }
    }
    format!("{:#}\n", Value::Object(config)).into_bytes()
}
