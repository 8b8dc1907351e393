//! `tokenizer.json` by way of HuggingFace's own `tokenizers` crate, so that its rules hold to the letter.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tokenizers::Decoder;

use super::Special;
use super::folder::TokenizerConfig;
use crate::error::{Error, Result};

pub(super) struct JsonTokenizer {
    inner: tokenizers::Tokenizer,
    size: usize,
}

impl JsonTokenizer {
    pub(super) fn parse(path: &Path, contents: &[u8]) -> Result<JsonTokenizer> {
        let mut inner = tokenizers::Tokenizer::from_bytes(contents)
            .map_err(|e| Error::file(path, format!("not a usable tokenizer.json (cut short?): {e}")))?;
        // Lengths are the caller's business; a file saved with truncation on must not cut training data.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::file(path, e.to_string()))?;
        let size = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        Ok(JsonTokenizer { inner, size })
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
        // The crate indexes a damaged precompiled_charsmap out of bounds instead of refusing it when read.
        let encoded = catch_unwind(AssertUnwindSafe(|| self.inner.encode_fast(text, false)));
        let encoding = encoded
            .map_err(|_| Error::Input("tokenizer.json is damaged (its normalizer table?); fetch it again".into()))?
            .map_err(|e| Error::Input(format!("tokenizer.json cannot encode the text: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    pub(super) fn decode(&self, ids: &[u32]) -> String {
        let pieces: Vec<String> = ids.iter().map(|&id| self.piece(id).unwrap_or_else(|| "\u{fffd}".into())).collect();
        match self.inner.get_decoder() {
            Some(decoder) => decoder.decode(pieces.clone()).unwrap_or_else(|_| pieces.concat()),
            None => pieces.join(" "),
        }
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
