//! Text to ids and back: raw bytes (ByT5), HuggingFace `tokenizer.json`, SentencePiece `spiece.model`.
//!
//! A lone `▁` (id 3) beside a sentinel. Versions of HuggingFace's tokenizers disagree: `"a <extra_id_0> b"` becomes
//! `▁a ▁ <extra_id_0> ▁b` where the space before the sentinel is kept (transformers pull request 26678 shows it), and
//! `▁a <extra_id_0> ▁b` with the published `tokenizer.json` and transformers 5. For `spiece.model` this module does the
//! latter: text between sentinels is encoded on its own, so a space before a sentinel vanishes as trailing whitespace.
//! T5 was trained that way: seqio's vocabulary has the pieces `▁<extra_id_k>`, which swallow that space.
//! Text right after a sentinel gets the usual dummy prefix, so `"<extra_id_0>."` gives `<extra_id_0> ▁ .` as the published
//! `tokenizer.json` does (transformers' `legacy` mode; pull request 24565 describes the other one): both formats of one
//! vocabulary must agree. A `tokenizer.json` itself is followed to the letter,
//! except that a text never becomes one of the tokens that end, pad or begin a sequence.

mod bpe;
mod bytes;
mod charsmap;
mod folder;
mod gguf;
mod grow;
mod guard;
mod json;
mod sentencepiece;
mod sentinels;
mod stream;
#[cfg(feature = "train")]
mod train;
mod trie;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use crate::checkpoint::{GgufFile, base_of};
use crate::error::{Error, Result};
use crate::files::{self, LARGE_LIMIT};
use bytes::ByteVocab;
use folder::{CONFIG_FILE, JSON_FILE, LLAMA_FILE, MERGES_FILE, SPIECE_FILE, TokenizerConfig, VOCAB_FILE};
use json::JsonTokenizer;
use sentencepiece::SentencePiece;

#[cfg(feature = "hub")]
pub(crate) use folder::FILES;
#[cfg(feature = "train")]
pub(crate) use gguf::Vocabulary;
pub use stream::DecodeStream;
#[cfg(feature = "train")]
pub use train::{TrainOptions, TrainSummary, Trained, train};

/// Sentinels that T5 appends to a SentencePiece model which has none (arXiv 1910.10683, section 3.1.4).
const T5_SENTINELS: usize = 100;

/// A vocabulary with its rules for cutting text. Cloning shares the tables.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    kind: Kind,
    special: Special,
    /// Id of `<extra_id_k>` at index k.
    sentinels: Vec<u32>,
    /// Texts of the tokens that text never becomes.
    controls: Vec<String>,
    /// What `save` writes: (file name, contents).
    files: Vec<(&'static str, Vec<u8>)>,
}

enum Kind {
    Bytes(ByteVocab),
    SentencePiece(Box<SentencePiece>),
    Json(Box<JsonTokenizer>),
}

#[derive(Clone, Copy, Debug)]
struct Special {
    pad: u32,
    eos: u32,
    unk: u32,
}

impl Tokenizer {
    /// The ByT5 vocabulary (arXiv 2105.13626): pad 0, eos 1, unk 2, byte b is id b + 3, and
    /// `<extra_id_0>`..`<extra_id_124>` ascend from 259 to 383, as in HuggingFace's `ByT5Tokenizer`.
    pub fn bytes() -> Tokenizer {
        Tokenizer::byte_level(ByteVocab::new(bytes::BYT5_SENTINELS), Vec::new())
    }

    /// Opens `"bytes"`, a `tokenizer.json`, a `spiece.model` (told apart by their contents) or a model folder.
    ///
    /// # Errors
    /// The path does not exist, or holds neither format; see also [`Tokenizer::from_dir`].
    pub fn open(spec: &str) -> Result<Tokenizer> {
        if spec == "bytes" {
            return Ok(Tokenizer::bytes());
        }
        let path = Path::new(spec);
        if path.is_dir() {
            return Tokenizer::from_dir(path);
        }
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            return Tokenizer::from_dir(path);
        }
        let contents = files::read(path, LARGE_LIMIT)?;
        let format = sniff(&contents).ok_or_else(|| Error::file(path, unknown_format(&contents)))?;
        // The files beside it say how many sentinels there are and what the special tokens are called.
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut found = folder::read_files(dir)?;
        found.retain(|(name, _)| ![JSON_FILE, SPIECE_FILE, LLAMA_FILE].contains(name));
        let config = TokenizerConfig::of_files(dir, &found)?;
        match format {
            Format::Json => {
                found.push((JSON_FILE, contents.clone()));
                Tokenizer::from_json(path, &config, &contents, found)
            }
            Format::SentencePiece => {
                let name = if path.ends_with(LLAMA_FILE) { LLAMA_FILE } else { SPIECE_FILE };
                found.push((name, contents));
                Tokenizer::from_spiece(path, &config, found)
            }
        }
    }

    /// Opens the tokenizer of a model, in its folder or beside the file of its weights: `tokenizer.json` if there, else `spiece.model`
    /// or `tokenizer.model`, else `vocab.json` with `merges.txt`, else the byte vocabulary if `tokenizer_config.json` names `ByT5Tokenizer`. That file also
    /// gives the number of sentinels and the special tokens. A GGUF file that is named, or lies in a folder without these, has a
    /// vocabulary itself.
    ///
    /// # Errors
    /// The folder has none of these, or one of them is damaged.
    pub fn from_dir(model: &Path) -> Result<Tokenizer> {
        let dir = files::model_folder(model);
        let files = folder::read_files(dir)?;
        if (model.is_file() || files.is_empty())
            && let Some(file) = GgufFile::of_model(model)?
            && let Some((contents, room)) = gguf::spiece(&file)?
        {
            let config = TokenizerConfig::of_sentinels(if room < T5_SENTINELS { 0 } else { T5_SENTINELS });
            return Tokenizer::from_spiece(file.path(), &config, vec![(SPIECE_FILE, contents)]);
        }
        match base_of(dir)?.filter(|_| files.is_empty()) {
            Some(base) => Tokenizer::from_dir(&base),
            None => Tokenizer::of_files(dir, files),
        }
    }

    /// The tokenizer that these files of a folder are.
    fn of_files(dir: &Path, files: Vec<(&'static str, Vec<u8>)>) -> Result<Tokenizer> {
        let has = |wanted| files.iter().any(|(name, _)| *name == wanted);
        let config = TokenizerConfig::of_files(dir, &files)?;
        if has(JSON_FILE) {
            let contents = contents_of(&files, JSON_FILE).to_vec();
            Tokenizer::from_json(&dir.join(JSON_FILE), &config, &contents, files)
        } else if has(SPIECE_FILE) {
            Tokenizer::from_spiece(&dir.join(SPIECE_FILE), &config, files)
        } else if has(LLAMA_FILE) {
            Tokenizer::from_spiece(&dir.join(LLAMA_FILE), &config, files)
        } else if has(VOCAB_FILE) && has(MERGES_FILE) {
            let contents = bpe::as_json(dir, &config, &files)?;
            Tokenizer::from_json(&dir.join(VOCAB_FILE), &config, &contents, files)
        } else if config.is_byt5() {
            Ok(Tokenizer::byte_level(ByteVocab::new(config.n_sentinels().unwrap_or(bytes::BYT5_SENTINELS)), files))
        } else {
            Err(Error::file(
                dir,
                "the folder has no tokenizer: expected tokenizer.json, spiece.model, tokenizer.model, vocab.json with merges.txt, \
                 or a tokenizer_config.json with tokenizer_class ByT5Tokenizer; copy one of them here, or name a tokenizer that \
                 lies elsewhere (Chronos, which reads numbers, has none)",
            ))
        }
    }

    /// Ids of `text`, without an end-of-sequence id. Of special tokens only sentinels are read in a text; `</s>`, `<pad>`,
    /// `<unk>` and `<s>` are read as the characters that they are spelled with, so that no text can end a sequence.
    ///
    /// # Errors
    /// A `tokenizer.json` may refuse, for one, a character that it has neither piece nor `<unk>` for.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.0.kind {
            Kind::Bytes(vocab) => Ok(vocab.encode(text)),
            Kind::SentencePiece(model) => Ok(model.encode(text)),
            Kind::Json(tokenizer) => tokenizer.encode(text),
        }
    }

    /// As [`Tokenizer::encode`], with the end-of-sequence id behind, and before it what the `post_processor` of a
    /// `tokenizer.json` puts there (`<s>` in CodeT5's), or LLaMA's first token.
    pub fn encode_with_eos(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.prefix().to_vec();
        ids.extend(self.encode(text)?);
        ids.push(self.eos());
        Ok(ids)
    }

    /// Special tokens whose text stands in `text`: sentinels, and those that end, pad or begin a sequence.
    pub fn special_texts(&self, text: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        if text.contains('<') || !self.0.controls.iter().all(|token| token.starts_with('<')) {
            found.extend(self.0.controls.iter().filter(|token| text.contains(token.as_str())).cloned());
            for segment in sentinels::segments(text, self.n_sentinels(), &[]) {
                if let sentinels::Segment::Sentinel(k) = segment {
                    found.insert(sentinels::name(k));
                }
            }
        }
        found
    }

    /// [`Tokenizer::encode`] of many texts, on all processor cores.
    pub fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.encode(text)).collect()
    }

    /// Text of `ids`. Padding and end-of-sequence are left out, sentinels appear as `<extra_id_k>`, and what is no text
    /// (an id outside the vocabulary, a byte that is no UTF-8) appears as U+FFFD rather than not at all.
    pub fn decode(&self, ids: &[u32]) -> String {
        if let Kind::Json(tokenizer) = &self.0.kind {
            let ids: Vec<u32> = ids.iter().copied().filter(|&id| !self.is_silent(id)).collect();
            return tokenizer.decode(&ids);
        }
        let mut stream = self.stream();
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// The piece behind `id`, for display: `▁the`, `<extra_id_0>`, `</s>`; a byte as itself or `<0x0A>`.
    pub fn piece(&self, id: u32) -> Option<String> {
        match &self.0.kind {
            Kind::Bytes(vocab) => vocab.piece(id),
            Kind::SentencePiece(model) => model.piece(id),
            Kind::Json(tokenizer) => tokenizer.piece(id),
        }
    }

    /// Number of ids, sentinels included. A model's embedding may have more rows (T5: 32,128 for 32,100).
    pub fn vocab_size(&self) -> usize {
        match &self.0.kind {
            Kind::Bytes(vocab) => vocab.size(),
            Kind::SentencePiece(model) => model.size(),
            Kind::Json(tokenizer) => tokenizer.size(),
        }
    }

    /// Padding id; the end-of-sequence id where the vocabulary has no padding.
    pub fn pad(&self) -> u32 {
        self.0.special.pad
    }

    /// End-of-sequence id.
    pub fn eos(&self) -> u32 {
        self.0.special.eos
    }

    /// Id of characters without a piece; the padding id where the vocabulary can spell everything.
    pub fn unk(&self) -> u32 {
        self.0.special.unk
    }

    /// Id of `<extra_id_k>`.
    pub fn sentinel(&self, k: usize) -> Option<u32> {
        self.0.sentinels.get(k).copied()
    }

    /// How many of `<extra_id_0>`, `<extra_id_1>`, ... the vocabulary has.
    pub fn n_sentinels(&self) -> usize {
        self.0.sentinels.len()
    }

    /// Writes the tokenizer files into `dir`, creating it, so that HuggingFace's `AutoTokenizer` loads the folder.
    /// None of them is replaced before all are written. Files that were read are written back byte for byte; a missing
    /// `tokenizer_config.json` is added.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(Error::io("create the folder", dir))?;
        let mut files: Vec<_> =
            self.0.files.iter().map(|(name, contents)| (dir.join(name), contents.clone())).collect();
        if !self.0.files.iter().any(|(name, _)| *name == CONFIG_FILE) {
            files.push((dir.join(CONFIG_FILE), folder::config(self)));
        }
        let files: Vec<_> = files.iter().map(|(path, contents)| (path.as_path(), contents.as_slice())).collect();
        files::write_all_atomic(&files)
    }

    /// Turns ids into text one at a time, for showing text while it is generated.
    pub fn stream(&self) -> DecodeStream {
        DecodeStream::new(self.clone())
    }

    fn byte_level(vocab: ByteVocab, files: Vec<(&'static str, Vec<u8>)>) -> Tokenizer {
        let special = Special { pad: 0, eos: 1, unk: 2 };
        let sentinels = vocab.sentinels();
        Tokenizer::assemble(Kind::Bytes(vocab), special, sentinels, files)
    }

    /// `files` holds the model under [`SPIECE_FILE`] or [`LLAMA_FILE`]; `path` is where it came from, for messages.
    fn from_spiece(path: &Path, config: &TokenizerConfig, files: Vec<(&'static str, Vec<u8>)>) -> Result<Tokenizer> {
        let model = [SPIECE_FILE, LLAMA_FILE].map(|name| contents_of(&files, name)).concat();
        let mut model = SentencePiece::parse(path, &model, config)?;
        let added = folder::added_tokens(path, config, &files, &model.id_of_each())?;
        model.add(path, added)?;
        let special = model.special(config);
        let sentinels = model.sentinels();
        Ok(Tokenizer::assemble(Kind::SentencePiece(Box::new(model)), special, sentinels, files))
    }

    /// `contents` are those of a `tokenizer.json`, `files` what is saved.
    fn from_json(
        path: &Path,
        config: &TokenizerConfig,
        contents: &[u8],
        files: Vec<(&'static str, Vec<u8>)>,
    ) -> Result<Tokenizer> {
        let tokenizer = JsonTokenizer::parse(path, contents, config)?;
        let special = tokenizer.special(path, config)?;
        let sentinels = sentinels::lookup(|token| tokenizer.id(token));
        Ok(Tokenizer::assemble(Kind::Json(Box::new(tokenizer)), special, sentinels, files))
    }

    fn assemble(kind: Kind, special: Special, sentinels: Vec<u32>, files: Vec<(&'static str, Vec<u8>)>) -> Tokenizer {
        let mut inner = Inner { kind, special, sentinels, controls: vec!["<s>".into()], files };
        let piece = |id| match &inner.kind {
            Kind::Bytes(vocab) => vocab.piece(id),
            Kind::SentencePiece(model) => model.piece(id),
            Kind::Json(tokenizer) => tokenizer.piece(id),
        };
        let named: Vec<String> = [special.eos, special.pad, special.unk].into_iter().filter_map(piece).collect();
        inner.controls.extend(named);
        Tokenizer(Arc::new(inner))
    }

    fn sentinel_piece(&self, k: usize) -> Option<String> {
        self.piece(self.sentinel(k)?)
    }

    /// What stands before every text that a model is given.
    fn prefix(&self) -> &[u32] {
        match &self.0.kind {
            Kind::Json(tokenizer) => tokenizer.prefix(),
            Kind::SentencePiece(model) => model.prefix(),
            Kind::Bytes(_) => &[],
        }
    }

    fn is_silent(&self, id: u32) -> bool {
        id == self.pad() || id == self.eos() || self.prefix().contains(&id)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Format {
    Json,
    SentencePiece,
}

/// A SentencePiece model is a protobuf that opens with field 1, a message (0x0a), whose length is no JSON text.
fn sniff(contents: &[u8]) -> Option<Format> {
    match contents.trim_ascii_start().first() {
        Some(b'{') => Some(Format::Json),
        _ if contents.first() == Some(&0x0a) => Some(Format::SentencePiece),
        _ => None,
    }
}

fn unknown_format(contents: &[u8]) -> String {
    let reason = if contents.is_empty() {
        "the file is empty"
    } else if contents.starts_with(b"version https://git-lfs") {
        "this is a Git LFS pointer, not the file itself (fetch it with `git lfs pull`)"
    } else {
        "neither a tokenizer.json (JSON) nor a spiece.model (SentencePiece protobuf)"
    };
    format!("not a tokenizer: {reason}")
}

fn contents_of<'a>(files: &'a [(&'static str, Vec<u8>)], wanted: &str) -> &'a [u8] {
    files.iter().find(|(name, _)| *name == wanted).map_or(&[], |(_, contents)| contents)
}
