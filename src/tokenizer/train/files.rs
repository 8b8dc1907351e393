//! The files of a trained vocabulary, laid out as those of T5.

use serde_json::{Value, json};

use super::TrainOptions;
use crate::tokenizer::sentinels;

const SPECIAL: [&str; 3] = ["<pad>", "</s>", "<unk>"];

/// ln probability of the pieces `<0x41>`: no spelling of a text that has them literally.
const BYTE_SCORE: f64 = -1000.0;

/// White space of all kinds, and marks without width but for those that join or part letters (U+200C, U+200D): all become a
/// space. With [`CONTROL`] what SentencePiece's `nmt_nfkc` has beside NFKC.
const SPACE: &str = r"[\t\n\x0B\x0C\r\x{85}\x{1680}\x{200B}\x{200E}\x{200F}\x{2028}\x{2029}\x{2581}\x{FEFF}\x{FFFD}]";

/// Control characters, which vanish.
const CONTROL: &str = r"[\x01-\x08\x0E-\x1F\x7F\x{8F}\x{9F}]";

/// What the normaliser does to any text, in words.
pub(super) const NORMALIZER: &str = "a run of white space becomes one space, control characters vanish; own pieces are found before \
    that, as they are written";

/// Ids that do not depend on the text.
pub(super) fn fixed_ids(options: &TrainOptions) -> usize {
    first(options).len() + options.sentinels
}

/// Whether the vocabulary has `piece` whatever the text.
pub(super) fn is_reserved(piece: &str, options: &TrainOptions) -> bool {
    piece.starts_with('<')
        && (SPECIAL.contains(&piece)
            || (options.byte_fallback && (0..=255).any(|byte| byte_piece(byte) == piece))
            || (0..options.sentinels).any(|k| sentinels::name(k) == piece))
}

/// `tokenizer.json`: pad, eos and unk; user-defined pieces; bytes; `learned` (piece, ln probability); sentinels, descending.
pub(super) fn tokenizer_json(options: &TrainOptions, learned: &[(String, f64)]) -> Vec<u8> {
    let mut vocab = first(options);
    vocab.extend(learned.iter().cloned());
    let first_sentinel = vocab.len();
    vocab.extend((0..options.sentinels).rev().map(|k| (sentinels::name(k), 0.0)));
    // A sentinel takes the space before it, as T5's do: a masked text has none there.
    let added = |id: usize, special: bool| {
        json!({"id": id, "content": vocab[id].0, "single_word": false, "lstrip": id >= first_sentinel, "rstrip": false,
            "normalized": false, "special": special})
    };
    let replace = |pattern: &str, by: &str| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": by});
    let mut normalizers = vec![replace(SPACE, " "), replace(CONTROL, "")];
    normalizers.extend(options.nfkc.then(|| json!({"type": "NFKC"})));
    normalizers.push(replace(" {2,}", " "));
    let own = SPECIAL.len()..SPECIAL.len() + options.user_defined.len();
    let added_tokens: Vec<Value> = (0..SPECIAL.len())
        .map(|id| added(id, true))
        .chain(own.map(|id| added(id, false)))
        .chain((first_sentinel..vocab.len()).map(|id| added(id, true)))
        .collect();
    // The text's first word gets a mark before it, text behind an own piece does not: only where a space stands there, so that
    // what has other spaces has other ids.
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true});
    let mut cuts = vec![metaspace.clone()];
    if options.split_digits {
        cuts.push(json!({"type": "Digits", "individual_digits": true}));
    }
    let decoder = match options.byte_fallback {
        true => json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, metaspace]}),
        false => metaspace,
    };
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let end = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cuts},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [text("A"), end],
            "pair": [text("A"), end, text("B"), end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": decoder,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": options.byte_fallback},
    });
    format!("{tokenizer:#}\n").into_bytes()
}

/// `tokenizer_config.json`. The generic class takes `tokenizer.json` as it is; T5Tokenizer would rebuild parts of it.
pub(super) fn config_json(options: &TrainOptions) -> Vec<u8> {
    let names: Vec<String> = (0..options.sentinels).map(sentinels::name).collect();
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "extra_ids": options.sentinels,
        "additional_special_tokens": names,
        "pad_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "unk_token": SPECIAL[2],
        "model_max_length": 512,
        "clean_up_tokenization_spaces": false,
    });
    format!("{config:#}\n").into_bytes()
}

/// The pieces before the learned ones.
fn first(options: &TrainOptions) -> Vec<(String, f64)> {
    let special = SPECIAL.iter().map(|name| ((*name).to_owned(), 0.0));
    let own = options.user_defined.iter().map(|piece| (piece.clone(), 0.0));
    let bytes = if options.byte_fallback { 0..256 } else { 0..0 };
    special.chain(own).chain(bytes.map(|byte| (byte_piece(byte), BYTE_SCORE))).collect()
}

fn byte_piece(byte: u32) -> String {
    format!("<0x{byte:02X}>")
}
