//! A byte-level BPE in its old form, `vocab.json` and `merges.txt`, as RoBERTa and the first CodeT5 have it: written as the
//! `tokenizer.json` that says the same.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::contents_of;
use super::folder::{AddedToken, MERGES_FILE, TokenizerConfig, VOCAB_FILE, added_tokens};
use crate::error::{Error, Result};

/// The contents of that `tokenizer.json`, from the files of a folder.
///
/// # Errors
/// A file is damaged, or the vocabulary lacks the tokens that begin and end a sequence.
pub(super) fn as_json(dir: &Path, config: &TokenizerConfig, files: &[(&'static str, Vec<u8>)]) -> Result<Vec<u8>> {
    let path = dir.join(VOCAB_FILE);
    let vocab: BTreeMap<String, u32> = serde_json::from_slice(contents_of(files, VOCAB_FILE))
        .map_err(|e| Error::line(&path, e.line(), format!("not a vocabulary of pieces and their ids: {e}")))?;
    let merges = merges(&dir.join(MERGES_FILE), contents_of(files, MERGES_FILE))?;
    let added = added_tokens(&path, config, files, &|token| vocab.get(token).copied())?;
    let id_of = |name: &str| {
        let added = || added.iter().find(|token| token.content == name).map(|token| token.id);
        vocab.get(name).copied().or_else(added).ok_or_else(|| {
            let what = "begins or ends a sequence; special_tokens_map.json or tokenizer_config.json beside it can name another";
            Error::file(&path, format!("the vocabulary has no {name:?}, which {what}"))
        })
    };
    let [first, last] = config.roberta_ends();
    let space = config.add_prefix_space.unwrap_or(false);
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": true});
    let added: Vec<Value> = added.iter().map(as_value).collect();
    let file = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": bytes,
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [last, id_of(last)?],
            "cls": [first, id_of(first)?],
            "trim_offsets": true,
            "add_prefix_space": space,
        },
        "decoder": bytes,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": merges,
        },
    });
    Ok(file.to_string().into_bytes())
}

/// The pairs of `merges.txt`, the first to be merged first.
fn merges(path: &Path, contents: &[u8]) -> Result<Vec<[String; 2]>> {
    let text = std::str::from_utf8(contents).map_err(|_| Error::file(path, "not UTF-8"))?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.starts_with("#version") && !line.is_empty());
    let pair = |(number, line): (usize, &str)| match line.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
            Ok([left.to_owned(), right.to_owned()])
        }
        _ => Err(Error::line(path, number, format!("{line:?} is no pair of pieces"))),
    };
    lines.map(pair).collect()
}

fn as_value(token: &AddedToken) -> Value {
    let AddedToken { content, id, lstrip, rstrip, single_word, special } = token;
    json!({
        "id": id, "content": content, "single_word": single_word, "lstrip": lstrip, "rstrip": rstrip, "normalized": false,
        "special": special,
    })
}
