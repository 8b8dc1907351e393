//! `tokenizer.json` by way of HuggingFace's own `tokenizers` crate, so that its rules hold to the letter.

use std::path::Path;

use tokenizers::Decoder;

use super::Special;
use super::folder::TokenizerConfig;
use super::guard::{Growth, guarded};
use crate::error::{Error, Result};

pub(super) struct JsonTokenizer {
    inner: tokenizers::Tokenizer,
    growth: Growth,
    size: usize,
}

const DAMAGED: &str = "tokenizer.json is damaged (the tokenizers library panicked over it); fetch it again";

impl JsonTokenizer {
    pub(super) fn parse(path: &Path, contents: &[u8]) -> Result<JsonTokenizer> {
        let growth = Growth::parse(path, contents)?;
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(contents))
            .ok_or_else(|| Error::file(path, DAMAGED))?
            .map_err(|e| Error::file(path, format!("not a usable tokenizer.json: {e}")))?;
        // Lengths are the caller's business; a file saved with truncation on must not cut training data.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::file(path, e.to_string()))?;
        let size = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        Ok(JsonTokenizer { inner, growth, size })
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
        self.inner.id_to_token(id)
    }

    pub(super) fn id(&self, piece: &str) -> Option<u32> {
        self.inner.token_to_id(piece)
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }
}
