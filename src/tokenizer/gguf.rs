//! The vocabulary in a GGUF file of a T5: a SentencePiece model in another wrapping.

#[cfg(feature = "train")]
use base64::prelude::{BASE64_STANDARD, Engine};
#[cfg(feature = "train")]
use serde_json::Value;

use super::sentencepiece::{self, PieceOf};
#[cfg(feature = "train")]
use super::{Kind, Tokenizer};
use crate::checkpoint::{GgufFile, Setting};
use crate::error::{Error, Result};

/// The vocabulary as the contents of a `spiece.model`, and how many sentinels there is room for behind it; `None` if the file has
/// none.
///
/// llama.cpp fills the vocabulary up to the rows of the embedding with pieces that nothing becomes, sentinels among them.
/// These are left out here.
pub(super) fn spiece(gguf: &GgufFile) -> Result<Option<(Vec<u8>, usize)>> {
    let wrong = |what: &str| Error::file(gguf.path(), format!("the vocabulary in this file cannot be used: {what}"));
    match gguf.text("tokenizer.ggml.model")? {
        None => return Ok(None),
        Some("t5") => {}
        Some(other) => {
            let what = format!(
                "it is of the kind {other}, not T5's; name the tokenizer of the model that it was converted from"
            );
            return Err(wrong(&what));
        }
    }
    let (Some(Setting::Texts(texts)), Some(Setting::Floats(scores)), Some(Setting::Integers(kinds))) = (
        gguf.setting("tokenizer.ggml.tokens"),
        gguf.setting("tokenizer.ggml.scores"),
        gguf.setting("tokenizer.ggml.token_type"),
    ) else {
        return Err(wrong("it lacks its tokens, their scores or their kinds"));
    };
    if texts.len() != scores.len() || texts.len() != kinds.len() {
        return Err(wrong("there are not as many scores or kinds as tokens"));
    }
    let all = texts.iter().zip(scores).zip(kinds);
    let mut pieces: Vec<PieceOf> =
        all.map(|((text, &score), &kind)| PieceOf { text, score: score as f32, kind: kind as i32 }).collect();
    let is_filling = |piece: &PieceOf| piece.kind == UNUSED && piece.text.starts_with("[PAD");
    while pieces.pop_if(|piece| is_filling(piece)).is_some() {}
    let charsmap = match gguf.setting("tokenizer.ggml.precompiled_charsmap") {
        Some(Setting::Integers(bytes)) => bytes.iter().map(|&byte| byte as u8).collect(),
        _ => Vec::new(),
    };
    let name = |key: &str, usual: &str| -> Result<String> {
        let id = gguf.size(key)?;
        Ok(id.and_then(|id| texts.get(id)).map_or(usual, |text| text).to_owned())
    };
    let file = sentencepiece::encode(
        &pieces,
        charsmap,
        [name("tokenizer.ggml.eos_token_id", "</s>")?, name("tokenizer.ggml.padding_token_id", "<pad>")?],
        gguf.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
        gguf.flag("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(true),
    );
    Ok(Some((file, texts.len() - pieces.len())))
}

/// SentencePiece's number for pieces that nothing becomes.
const UNUSED: i32 = 5;

/// A unigram vocabulary as GGUF's settings have it.
#[cfg(feature = "train")]
pub(crate) struct Vocabulary {
    pub texts: Vec<String>,
    pub scores: Vec<f32>,
    /// SentencePiece's numbers.
    pub kinds: Vec<i32>,
    pub charsmap: Vec<u8>,
    pub add_space_prefix: bool,
    pub remove_extra_whitespaces: bool,
}

#[cfg(feature = "train")]
impl Vocabulary {
    /// Fills it up to `rows` with pieces that nothing becomes, as llama.cpp's converter does.
    pub fn fill(&mut self, rows: usize) {
        for id in self.texts.len()..rows {
            self.texts.push(format!("[PAD{id}]"));
            self.scores.push(-10_000.0);
            self.kinds.push(UNUSED);
        }
    }
}

#[cfg(feature = "train")]
impl Tokenizer {
    /// The vocabulary, if it is one of unigrams.
    pub(crate) fn vocabulary(&self) -> Option<Vocabulary> {
        match &self.0.kind {
            Kind::Bytes(_) => None,
            Kind::SentencePiece(model) => Some(model.vocabulary()),
            Kind::Json(_) => {
                of_json(&serde_json::from_slice(super::contents_of(&self.0.files, super::JSON_FILE)).ok()?)
            }
        }
    }
}

/// The vocabulary of a `tokenizer.json`.
#[cfg(feature = "train")]
fn of_json(file: &Value) -> Option<Vocabulary> {
    // SentencePiece's numbers.
    let [normal, unknown, control, kept_whole] = [1, 2, 3, 4];
    let model = &file["model"];
    if model["type"].as_str().is_some_and(|kind| kind != "Unigram") {
        return None;
    }
    let pieces = model["vocab"].as_array()?;
    let mut texts = Vec::with_capacity(pieces.len());
    let mut scores = Vec::with_capacity(pieces.len());
    for piece in pieces {
        texts.push(piece.get(0)?.as_str()?.to_owned());
        scores.push(piece.get(1)?.as_f64()? as f32);
    }
    let mut kinds = vec![normal; texts.len()];
    let special = file["added_tokens"].as_array().into_iter().flatten().filter(|token| token["special"] == true);
    for id in special.filter_map(|token| token["id"].as_u64()) {
        if let Some(kind) = kinds.get_mut(id as usize) {
            *kind = if texts[id as usize].contains("<extra_id_") { kept_whole } else { control };
        }
    }
    // T5's sentinels end the vocabulary, the first one last: readers give them the last ids without being told.
    let n_last = (0..).take_while(|k| texts.iter().rev().nth(*k) == Some(&super::sentinels::name(*k))).count();
    let rest = texts.len() - n_last;
    texts.truncate(rest);
    scores.truncate(rest);
    kinds.truncate(rest);
    if let Some(kind) = model["unk_id"].as_u64().and_then(|id| kinds.get_mut(id as usize)) {
        *kind = unknown;
    }
    // A normaliser by itself, or one of several.
    let normalizer = &file["normalizer"];
    let steps = normalizer["normalizers"].as_array().map_or(std::slice::from_ref(normalizer), Vec::as_slice);
    let charsmap = steps.iter().find_map(|step| step["precompiled_charsmap"].as_str());
    let charsmap = charsmap.map(|text| BASE64_STANDARD.decode(text)).transpose().ok()?.unwrap_or_default();
    Some(Vocabulary { texts, scores, kinds, charsmap, add_space_prefix: true, remove_extra_whitespaces: true })
}
