//! The vocabulary in a GGUF file of a T5: a SentencePiece model in another wrapping.

use super::sentencepiece::{self, PieceOf};
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
