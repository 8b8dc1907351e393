//! Which tokenizer a recipe uses, or what one of its own learns from.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::{Recipe, Wrong};
use crate::data::task::Files;
use crate::data::{Documents, Split};
use crate::error::Result;
use crate::tokenizer::{self, Tokenizer, TrainOptions, Trained};

/// Where the tokenizer comes from: a file, or training.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerSpec {
    /// "bytes", a tokenizer.json, a spiece.model, or a folder. Default: the model's own, or bytes.
    pub from: Option<String>,
    /// Trains a unigram vocabulary of this size instead, special tokens counted.
    pub vocab_size: Option<usize>,
    /// Names of the texts and tasks to train it on; all by default.
    pub train: Option<Vec<String>>,
    /// Further files of text to train it on.
    pub files: Option<Files>,
    /// Sentinel tokens (100).
    pub sentinels: Option<usize>,
    /// Share of the text's characters that get a piece (0.9995). Where a language is a small part of the text, 1 keeps its
    /// letters.
    pub character_coverage: Option<f64>,
    /// Spells the other characters as bytes, 256 ids, instead of `<unk>`.
    pub byte_fallback: Option<bool>,
    /// Pieces that are always kept whole, such as `<sep>`; they may hold line ends and tabs.
    pub pieces: Option<Vec<String>>,
    /// Each digit is a piece of its own.
    pub split_digits: Option<bool>,
    /// No piece has characters of two scripts, digits and marks being a script of their own (true). False lets phonemes such
    /// as "AH0" be pieces.
    pub split_scripts: Option<bool>,
    /// NFKC makes letters plain (true). False keeps each, as phonetic alphabets need it.
    pub nfkc: Option<bool>,
}

impl TokenizerSpec {
    /// The same with everything said of a vocabulary that is learned.
    pub(super) fn spelled_out(&self) -> TokenizerSpec {
        if self.vocab_size.is_none() {
            return self.clone();
        }
        let options = self.options();
        TokenizerSpec {
            sentinels: Some(options.sentinels),
            character_coverage: Some(options.character_coverage),
            byte_fallback: Some(options.byte_fallback),
            pieces: Some(options.user_defined),
            split_digits: Some(options.split_digits),
            split_scripts: Some(options.split_scripts),
            nfkc: Some(options.nfkc),
            ..self.clone()
        }
    }

    fn options(&self) -> TrainOptions {
        let default = TrainOptions::default();
        TrainOptions {
            vocab_size: self.vocab_size.unwrap_or(default.vocab_size),
            sentinels: self.sentinels.unwrap_or(default.sentinels),
            character_coverage: self.character_coverage.unwrap_or(default.character_coverage),
            byte_fallback: self.byte_fallback.unwrap_or(default.byte_fallback),
            user_defined: self.pieces.clone().unwrap_or_default(),
            split_digits: self.split_digits.unwrap_or(default.split_digits),
            split_scripts: self.split_scripts.unwrap_or(default.split_scripts),
            nfkc: self.nfkc.unwrap_or(default.nfkc),
            ..default
        }
    }
}

/// Files, and what their lines hold.
type TextFiles = (Documents, Vec<PathBuf>);

impl Recipe {
    pub(super) fn check_tokenizer(&self) -> Result<(), Wrong> {
        let spec = &self.tokenizer;
        if spec.from.is_some() && spec.vocab_size.is_some() {
            return Err(Wrong::new(
                "tokenizer.vocab_size",
                "a tokenizer is read (from) or trained (vocab_size), not both",
            ));
        }
        if spec.vocab_size.is_none() {
            let set = [
                ("train", spec.train.is_some()),
                ("files", spec.files.is_some()),
                ("sentinels", spec.sentinels.is_some()),
                ("character_coverage", spec.character_coverage.is_some()),
                ("byte_fallback", spec.byte_fallback.is_some()),
                ("pieces", spec.pieces.is_some()),
                ("split_digits", spec.split_digits.is_some()),
                ("split_scripts", spec.split_scripts.is_some()),
                ("nfkc", spec.nfkc.is_some()),
            ];
            if let Some((key, _)) = set.iter().find(|(_, set)| *set) {
                let what = "this is for a tokenizer that is trained: set vocab_size";
                return Err(Wrong::new(format!("tokenizer.{key}"), what));
            }
        }
        if spec.vocab_size.is_some() && self.model.from.is_some() {
            let what = "the model in `model.from` has a tokenizer of its own: leave vocab_size out";
            return Err(Wrong::new("tokenizer.vocab_size", what));
        }
        for name in spec.train.iter().flatten() {
            if !self.texts.contains_key(name) && !self.tasks.contains_key(name) {
                return Err(Wrong::new("tokenizer.train", self.no_such_task(name)));
            }
        }
        if let Some(files) = &spec.files {
            files.paths(Path::new("")).map_err(|e| Wrong::new("tokenizer.files", e.to_string()))?;
        }
        match &spec.from {
            Some(from) if from != "bytes" && !Path::new(from).exists() => {
                Err(Wrong::new("tokenizer.from", format!("there is no {from}")))
            }
            _ => Ok(()),
        }
    }

    /// The tokenizer that is named, or that comes with the model, or bytes; `None` if one is to be trained.
    pub(super) fn named_tokenizer(&self) -> Result<Option<Tokenizer>> {
        if self.tokenizer.vocab_size.is_some() {
            return Ok(None);
        }
        let opened = match (&self.tokenizer.from, &self.model.from) {
            (Some(from), _) => Tokenizer::open(from),
            (None, Some(model)) => Tokenizer::from_dir(model),
            (None, None) => Ok(Tokenizer::bytes()),
        };
        opened.map(Some)
    }

    /// Trains the recipe's own tokenizer.
    pub(super) fn train_tokenizer(&self) -> Result<Trained> {
        let (texts, files) = self.tokenizer_text()?;
        let documents = files.into_iter().flat_map(|(documents, files)| documents.of_files(files));
        tokenizer::train(texts.into_iter().map(Ok).chain(documents), &self.tokenizer.options())
    }

    /// What it is trained on: texts of tasks, and files.
    fn tokenizer_text(&self) -> Result<(Vec<String>, Vec<TextFiles>)> {
        let Recipe { texts, tasks, tokenizer: spec, .. } = self;
        let all = || texts.keys().chain(tasks.keys()).cloned().collect();
        let mut lines = Vec::new();
        let further = spec.files.as_ref().map_or(Ok(Vec::new()), |files| files.paths(Path::new("")))?;
        let mut files = vec![(Documents::default(), further)];
        for name in spec.train.clone().unwrap_or_else(all) {
            if let Some(text) = texts.get(&name) {
                files.push((text.documents()?, text.files.paths(Path::new(""))?));
            } else if let Some(task) = tasks.get(&name).filter(|task| task.has(Split::Train)) {
                let examples = task.load(Path::new(""), Split::Train)?;
                lines.extend(examples.into_iter().flat_map(|example| [example.source, example.target]));
            }
        }
        Ok((lines, files))
    }
}
