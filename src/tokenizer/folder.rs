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
/// What LLaMA's tokenizers call the same kind of file.
pub(super) const LLAMA_FILE: &str = "tokenizer.model";
/// A byte-level BPE in two files.
pub(super) const VOCAB_FILE: &str = "vocab.json";
pub(super) const MERGES_FILE: &str = "merges.txt";
pub(super) const ADDED_FILE: &str = "added_tokens.json";
const SPECIAL_FILE: &str = "special_tokens_map.json";

/// Files that make up a tokenizer, as far as a folder has them; `save` writes back those that were read.
pub(crate) const FILES: [&str; 8] =
    [JSON_FILE, SPIECE_FILE, LLAMA_FILE, VOCAB_FILE, MERGES_FILE, CONFIG_FILE, SPECIAL_FILE, ADDED_FILE];

/// More sentinels than any model has: a guard against damaged files.
pub(super) const MAX_EXTRA_IDS: usize = 1 << 16;

/// What is read of `tokenizer_config.json`.
#[derive(Default, Deserialize)]
pub(super) struct TokenizerConfig {
    tokenizer_class: Option<String>,
    extra_ids: Option<usize>,
    /// Whether every stretch of text between added tokens begins as a text does, as transformers had it before 4.31.
    pub(super) legacy: Option<bool>,
    pub(super) add_prefix_space: Option<bool>,
    add_bos_token: Option<bool>,
    #[serde(flatten)]
    special: SpecialTokens,
    /// By their ids.
    added_tokens_decoder: Option<BTreeMap<String, TokenName>>,
}

/// What `tokenizer_config.json` and `special_tokens_map.json` both say.
#[derive(Default, Deserialize)]
struct SpecialTokens {
    pad_token: Option<TokenName>,
    eos_token: Option<TokenName>,
    unk_token: Option<TokenName>,
    bos_token: Option<TokenName>,
    cls_token: Option<TokenName>,
    sep_token: Option<TokenName>,
    mask_token: Option<TokenName>,
    additional_special_tokens: Option<Value>,
    /// The newer name of the same list.
    extra_special_tokens: Option<Value>,
}

/// HuggingFace writes `"</s>"` or `{"content": "</s>", "lstrip": ...}`.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum TokenName {
    Plain(String),
    Added {
        content: String,
        #[serde(default)]
        lstrip: bool,
        #[serde(default)]
        rstrip: bool,
        #[serde(default)]
        single_word: bool,
        #[serde(default)]
        special: bool,
    },
}

/// A token that was added to a vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub content: String,
    pub id: u32,
    /// Takes the whitespace before or behind it along.
    pub lstrip: bool,
    pub rstrip: bool,
    /// Counts only between what is no letter or digit.
    pub single_word: bool,
    pub special: bool,
}

impl SpecialTokens {
    /// These, and where they say nothing those.
    fn or(self, other: SpecialTokens) -> SpecialTokens {
        SpecialTokens {
            pad_token: self.pad_token.or(other.pad_token),
            eos_token: self.eos_token.or(other.eos_token),
            unk_token: self.unk_token.or(other.unk_token),
            bos_token: self.bos_token.or(other.bos_token),
            cls_token: self.cls_token.or(other.cls_token),
            sep_token: self.sep_token.or(other.sep_token),
            mask_token: self.mask_token.or(other.mask_token),
            additional_special_tokens: self.additional_special_tokens.or(other.additional_special_tokens),
            extra_special_tokens: self.extra_special_tokens.or(other.extra_special_tokens),
        }
    }
}

impl TokenizerConfig {
    /// Of these files of a folder. Where both say something, `special_tokens_map.json` goes first in folders written before
    /// transformers 4.34, whose `tokenizer_config.json` has no `added_tokens_decoder`.
    pub(super) fn of_files(dir: &Path, files: &[(&'static str, Vec<u8>)]) -> Result<TokenizerConfig> {
        let mut config = match super::contents_of(files, CONFIG_FILE) {
            [] => TokenizerConfig::default(),
            contents => TokenizerConfig::parse(&dir.join(CONFIG_FILE), contents)?,
        };
        let map: SpecialTokens = match super::contents_of(files, SPECIAL_FILE) {
            [] => SpecialTokens::default(),
            contents => serde_json::from_slice(contents).map_err(|e| {
                Error::line(dir.join(SPECIAL_FILE), e.line(), format!("not a list of special tokens: {e}"))
            })?,
        };
        let said = std::mem::take(&mut config.special);
        config.special = if config.added_tokens_decoder.is_some() { said.or(map) } else { map.or(said) };
        Ok(config)
    }

    fn parse(path: &Path, contents: &[u8]) -> Result<TokenizerConfig> {
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

    /// A tokenizer whose sentinels, if it has any, are among its added tokens.
    pub(super) fn is_llama(&self) -> bool {
        self.tokenizer_class.as_deref().is_some_and(|class| class.starts_with("Llama"))
    }

    /// The token before every text, if there is one.
    pub(super) fn first_token(&self) -> Option<&str> {
        let begins = self.is_llama() && self.add_bos_token != Some(false);
        begins.then(|| self.special.bos_token.as_ref().map_or("<s>", TokenName::as_str))
    }

    /// How many sentinels the file asks for: by number or by listing them, since transformers 5 saves `ByT5Tokenizer`
    /// with `"extra_ids": 0` and a list. `None` where it says neither.
    pub(super) fn n_sentinels(&self) -> Option<usize> {
        let lists = [&self.special.additional_special_tokens, &self.special.extra_special_tokens];
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
        self.special.pad_token.as_ref().map(TokenName::as_str)
    }

    pub(super) fn eos_token(&self) -> Option<&str> {
        self.special.eos_token.as_ref().map(TokenName::as_str)
    }

    /// The names of the tokens that end, pad, begin or part sequences, or stand for what has no piece: as they are given, or
    /// T5's.
    pub(super) fn controls(&self) -> Vec<&str> {
        let SpecialTokens { eos_token, pad_token, unk_token, bos_token, cls_token, sep_token, .. } = &self.special;
        let given = [eos_token, pad_token, unk_token, bos_token].map(|name| name.as_ref().map(TokenName::as_str));
        let usual = given.into_iter().zip(["</s>", "<pad>", "<unk>", "<s>"]);
        let mut names: Vec<&str> = usual.map(|(given, usual)| given.unwrap_or(usual)).collect();
        for name in [cls_token, sep_token].into_iter().flatten().map(TokenName::as_str) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    pub(super) fn unk_token(&self) -> Option<&str> {
        self.special.unk_token.as_ref().map(TokenName::as_str)
    }

    /// The names of the tokens that begin and end a sequence of a RoBERTa.
    pub(super) fn roberta_ends(&self) -> [&str; 2] {
        let SpecialTokens { bos_token, eos_token, cls_token, sep_token, .. } = &self.special;
        let (first, last) = (cls_token.as_ref().or(bos_token.as_ref()), sep_token.as_ref().or(eos_token.as_ref()));
        [first.map_or("<s>", TokenName::as_str), last.map_or("</s>", TokenName::as_str)]
    }

    /// Every special token that is named, as it is said to behave.
    fn special_tokens(&self) -> Vec<TokenName> {
        let SpecialTokens { eos_token, pad_token, unk_token, bos_token, cls_token, sep_token, mask_token, .. } =
            &self.special;
        let mask_token = mask_token.as_ref().map(|mask| match mask {
            // As RoBERTa's tokenizer has it.
            TokenName::Plain(name) => TokenName::added(name.clone(), [true, false]),
            added => added.clone(),
        });
        let lists = [&self.special.additional_special_tokens, &self.special.extra_special_tokens];
        let listed = lists.into_iter().flatten().filter_map(|list| list.as_array()).flatten();
        let listed = listed.filter_map(|token| serde_json::from_value(token.clone()).ok());
        let named = [eos_token, pad_token, unk_token, bos_token, cls_token, sep_token].into_iter().flatten().cloned();
        named.chain(mask_token).chain(listed).collect()
    }
}

impl TokenName {
    fn added(content: String, [lstrip, rstrip]: [bool; 2]) -> TokenName {
        TokenName::Added { content, lstrip, rstrip, single_word: false, special: true }
    }

    fn as_str(&self) -> &str {
        match self {
            TokenName::Plain(name) | TokenName::Added { content: name, .. } => name,
        }
    }

    fn with_id(&self, id: u32) -> AddedToken {
        let content = self.as_str().to_owned();
        match *self {
            TokenName::Plain(_) => {
                AddedToken { content, id, lstrip: false, rstrip: false, single_word: false, special: false }
            }
            TokenName::Added { lstrip, rstrip, single_word, special, .. } => {
                AddedToken { content, id, lstrip, rstrip, single_word, special }
            }
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

/// The tokens that were added to a vocabulary, by their ids: those of `added_tokens.json`, those that `tokenizer_config.json`
/// lists, and special tokens, of which `piece_id` may know the ids. `path` is the vocabulary's.
pub(super) fn added_tokens(
    path: &Path,
    config: &TokenizerConfig,
    files: &[(&'static str, Vec<u8>)],
    piece_id: &dyn Fn(&str) -> Option<u32>,
) -> Result<Vec<AddedToken>> {
    let ids: BTreeMap<String, u32> = match super::contents_of(files, ADDED_FILE) {
        [] => BTreeMap::new(),
        contents => serde_json::from_slice(contents).map_err(|e| {
            Error::line(path.with_file_name(ADDED_FILE), e.line(), format!("not a list of tokens and their ids: {e}"))
        })?,
    };
    let mut added: BTreeMap<String, AddedToken> = BTreeMap::new();
    for (token, &id) in &ids {
        added.insert(token.clone(), TokenName::Plain(token.clone()).with_id(id));
    }
    for token in config.special_tokens() {
        if let Some(id) = ids.get(token.as_str()).copied().or_else(|| piece_id(token.as_str())) {
            added.insert(token.as_str().to_owned(), AddedToken { special: true, ..token.with_id(id) });
        }
    }
    for (id, token) in config.added_tokens_decoder.iter().flatten() {
        let what = || format!("{id:?} in added_tokens_decoder is no token's id");
        let id = id.parse().map_err(|_| Error::file(path.with_file_name(CONFIG_FILE), what()))?;
        added.insert(token.as_str().to_owned(), token.with_id(id));
    }
    let mut added: Vec<AddedToken> = added.into_values().collect();
    added.sort_by_key(|token| token.id);
    Ok(added)
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
