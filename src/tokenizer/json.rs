//! `tokenizer.json`, read by HuggingFace's own `tokenizers` crate, so that its rules are followed exactly.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;
use tokenizers::{Decoder, ModelWrapper};

use super::Special;
use super::folder::TokenizerConfig;
use super::guard::{Growth, guarded};
use crate::error::{Error, Result};

pub(super) struct JsonTokenizer {
    inner: tokenizers::Tokenizer,
    growth: Growth,
    size: usize,
    /// Tokens by the names that the file gives them, for those that `inner` knows by another or not at all.
    names: HashMap<u32, String>,
    /// Ids that the file's `post_processor` puts before a text.
    prefix: Vec<u32>,
}

const DAMAGED: &str = "tokenizer.json is damaged (the tokenizers library panicked over it); fetch it again";

/// Before the name of a piece that no text may become: a character that no text has.
const HIDDEN: char = '\u{10ffff}';

impl JsonTokenizer {
    pub(super) fn parse(path: &Path, contents: &[u8], config: &TokenizerConfig) -> Result<JsonTokenizer> {
        let growth = Growth::parse(path, contents)?;
        let unusable = |e: serde_json::Error| Error::file(path, format!("not a usable tokenizer.json: {e}"));
        let mut file: Value = serde_json::from_slice(contents).map_err(unusable)?;
        let names = hide_controls(&mut file, config);
        let mut inner: tokenizers::Tokenizer =
            guarded(|| serde_json::from_value(file)).ok_or_else(|| Error::file(path, DAMAGED))?.map_err(unusable)?;
        // Lengths are the caller's business; a file saved with truncation on must not cut training data.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::file(path, e.to_string()))?;
        // For each tokenizer the crate keeps up to 10,000 words that it has cut by BPE in the memory of the thread, and leaves them
        // there when the tokenizer is gone (0.23.2). So it keeps none.
        if let ModelWrapper::BPE(bpe) = inner.get_model() {
            let mut bpe = bpe.clone();
            bpe.resize_cache(0);
            inner.with_model(bpe);
        }
        let ids = inner.get_vocab(true).into_values().chain(names.keys().copied());
        let size = ids.max().map_or(0, |id| id as usize + 1);
        let mut tokenizer = JsonTokenizer { inner, growth, size, names, prefix: Vec::new() };
        tokenizer.prefix = tokenizer.find_prefix().unwrap_or_default();
        Ok(tokenizer)
    }

    /// What comes before a text that the post-processor has seen; `None` if the vocabulary cannot even spell that text.
    fn find_prefix(&self) -> Option<Vec<u32>> {
        let encode = |special| Some(guarded(|| self.inner.encode_fast("a", special))?.ok()?.get_ids().to_vec());
        let (bare, whole) = (encode(false)?, encode(true)?);
        let at = whole.windows(bare.len().max(1)).position(|ids| ids == bare)?;
        Some(whole[..at].to_vec())
    }

    pub(super) fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// Ids of the special tokens by the names that `config` gives, or T5's.
    pub(super) fn special(&self, path: &Path, config: &TokenizerConfig) -> Result<Special> {
        let eos_name = config.eos_token().unwrap_or("</s>");
        let eos = self.id(eos_name).ok_or_else(|| {
            let what = format!("the vocabulary has no end-of-sequence token {eos_name:?}");
            Error::file(path, format!("{what}; name it as \"eos_token\" in tokenizer_config.json beside this file"))
        })?;
        let pad = self.id(config.pad_token().unwrap_or("<pad>")).unwrap_or(eos);
        let unk = self.id(config.unk_token().unwrap_or("<unk>")).unwrap_or(pad);
        Ok(Special { pad, eos, unk })
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.growth.check_text(text)?;
        // The crate indexes a damaged precompiled_charsmap out of bounds instead of refusing it when read.
        let encoding = guarded(|| self.inner.encode_fast(text, false))
            .ok_or_else(|| Error::Input(DAMAGED.into()))?
            .map_err(|e| Error::Input(format!("tokenizer.json cannot encode the text: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    pub(super) fn decode(&self, ids: &[u32]) -> String {
        let pieces: Vec<String> = ids.iter().map(|&id| self.piece(id).unwrap_or_else(|| "\u{fffd}".into())).collect();
        let Some(decoder) = self.inner.get_decoder() else { return pieces.join(" ") };
        if !self.growth.allows(pieces.iter().map(String::len).sum()) {
            return pieces.concat();
        }
        let decoded = guarded(|| decoder.decode(pieces.clone()));
        decoded.and_then(Result::ok).unwrap_or_else(|| pieces.concat())
    }

    pub(super) fn piece(&self, id: u32) -> Option<String> {
        self.names.get(&id).cloned().or_else(|| self.inner.id_to_token(id))
    }

    pub(super) fn id(&self, piece: &str) -> Option<u32> {
        let named = || self.names.iter().filter(|(_, name)| *name == piece).map(|(&id, _)| id).min();
        self.inner.token_to_id(piece).or_else(named)
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }
}

/// Takes the tokens that end, pad or begin a sequence away from text: none of them is looked for in it, and their pieces get
/// names that no text has. Returns these tokens' ids and names, with those of all added tokens, of which the crate tells the
/// normalised ones as what its normaliser makes of them.
fn hide_controls(file: &mut Value, config: &TokenizerConfig) -> HashMap<u32, String> {
    let controls = config.controls();
    let is_control = |name: &str| controls.contains(&name);
    let mut names = HashMap::new();
    if let Some(Value::Array(added)) = file.get_mut("added_tokens") {
        for token in added.iter() {
            if let (Some(id), Some(name)) = (token["id"].as_u64(), token["content"].as_str()) {
                names.insert(id as u32, name.to_owned());
            }
        }
        added.retain(|token| !token["content"].as_str().is_some_and(is_control));
    }
    let Some(model) = file.get_mut("model") else { return names };
    let hidden = |name: &str| Value::from(format!("{HIDDEN}{name}"));
    match model.get_mut("vocab") {
        // Unigram: [piece, score] in the order of the ids.
        Some(Value::Array(pieces)) => {
            for (id, piece) in (0..).zip(pieces) {
                if let Some(name) = piece[0].as_str().filter(|name| is_control(name)).map(str::to_owned) {
                    piece[0] = hidden(&name);
                    names.insert(id, name);
                }
            }
        }
        // The others: {piece: id}.
        Some(Value::Object(pieces)) => {
            for &name in &controls {
                if let Some(id) = pieces.remove(name) {
                    names.extend(id.as_u64().map(|id| (id as u32, name.to_owned())));
                    pieces.insert(format!("{HIDDEN}{name}"), id);
                }
            }
        }
        _ => {}
    }
    if let Some(unk) = model.get_mut("unk_token")
        && let Some(name) = unk.as_str().filter(|name| is_control(name)).map(str::to_owned)
    {
        *unk = hidden(&name);
    }
    names
}
