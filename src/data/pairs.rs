//! Pairs of source and target texts: every supervised task is one file of them.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lines::for_each_line;
use super::{Example, ExampleSource};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// How a file writes its pairs, one a line; any of them may be gzipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairFormat {
    /// `source<TAB>target`, no header, no quoting.
    Tsv,
    /// `{"source": "...", "target": "..."}`; further keys are ignored.
    Jsonl,
}

/// What to do with a text of more tokens than allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// Leave the pair out and count it.
    #[default]
    Skip,
    /// Cut the end off, keep EOS, and count the pair.
    Truncate,
    /// Refuse the file, naming the line.
    Error,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairOptions {
    /// Put before every source, as in "translate English to German: ".
    pub prefix: String,
    /// Most tokens of a source, prefix and EOS counted.
    pub max_source: usize,
    /// Most tokens of a target, EOS counted.
    pub max_target: usize,
    pub too_long: TooLong,
    /// The key of the source in JSON lines.
    pub source_key: String,
    /// The key of the target in JSON lines.
    pub target_key: String,
}

/// Tokenised pairs in memory, in the file's order, with their texts.
#[derive(Debug)]
pub struct PairSet {
    examples: Vec<Example>,
    texts: Vec<Pair>,
    skipped_too_long: usize,
    truncated: usize,
}

/// The texts of an example as they stand in the file: without prefix, never truncated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub source: String,
    pub target: String,
}

impl PairFormat {
    /// By the ending of the name: `.tsv` or `.jsonl`, also followed by `.gz`.
    pub fn from_path(path: &Path) -> Result<PairFormat> {
        let name = path.to_string_lossy().to_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        if name.ends_with(".tsv") {
            Ok(PairFormat::Tsv)
        } else if name.ends_with(".jsonl") {
            Ok(PairFormat::Jsonl)
        } else {
            Err(Error::file(path, "pairs are read from .tsv or .jsonl files, gzipped (.gz) or not: rename the file"))
        }
    }
}

impl Default for PairOptions {
    fn default() -> Self {
        PairOptions {
            prefix: String::new(),
            max_source: 512,
            max_target: 512,
            too_long: TooLong::default(),
            source_key: "source".into(),
            target_key: "target".into(),
        }
    }
}

impl PairSet {
    /// Reads a file of pairs; `format` None goes by the file's name. Blank lines are skipped.
    ///
    /// Errors name the file and the line: not UTF-8, not two columns, bad JSON, a missing key, an empty source or target,
    /// a text too long under [`TooLong::Error`]. Also if no pair is left.
    pub fn open(
        path: &Path,
        format: Option<PairFormat>,
        options: &PairOptions,
        tokenizer: &Tokenizer,
    ) -> Result<PairSet> {
        if options.max_source < 2 || options.max_target < 2 {
            return Err(Error::Input("sources and targets need room for 2 tokens: raise the limit".into()));
        }
        let format = format.map_or_else(|| PairFormat::from_path(path), Ok)?;
        let mut set = PairSet { examples: Vec::new(), texts: Vec::new(), skipped_too_long: 0, truncated: 0 };
        for_each_line(path, |number, line| {
            let pair = match format {
                PairFormat::Tsv => parse_tsv(line),
                PairFormat::Jsonl => parse_json(line, &options.source_key, &options.target_key),
            };
            pair.and_then(|pair| set.add(pair, options, tokenizer)).map_err(|what| Error::line(path, number, what))
        })?;
        if set.examples.is_empty() {
            return Err(Error::file(
                path,
                format!(
                    "all {} pairs are longer than {} source or {} target tokens: raise the limits",
                    set.skipped_too_long, options.max_source, options.max_target
                ),
            ));
        }
        Ok(set)
    }

    /// At least 1.
    pub fn n_examples(&self) -> usize {
        self.examples.len()
    }

    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// The texts of the examples: `[n_examples]`.
    pub fn texts(&self) -> &[Pair] {
        &self.texts
    }

    /// Pairs left out because a side was too long.
    pub fn skipped_too_long(&self) -> usize {
        self.skipped_too_long
    }

    /// Pairs of which a side was cut.
    pub fn truncated(&self) -> usize {
        self.truncated
    }

    /// Examples with equal source text, in the order of the file: the targets of a group are alternative references for
    /// one question, wherever in the file their lines stand.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut group_of: HashMap<&str, usize> = HashMap::new();
        for (index, pair) in self.texts.iter().enumerate() {
            let group = *group_of.entry(&pair.source).or_insert(groups.len());
            match groups.get_mut(group) {
                Some(members) => members.push(index),
                None => groups.push(vec![index]),
            }
        }
        groups
    }

    fn add(&mut self, pair: Pair, options: &PairOptions, tokenizer: &Tokenizer) -> Result<(), String> {
        let encode = |text: &str| tokenizer.encode_with_eos(text).map_err(|e| e.to_string());
        let mut source = encode(&format!("{}{}", options.prefix, pair.source))?;
        let mut target = encode(&pair.target)?;
        if source.len() > options.max_source || target.len() > options.max_target {
            match options.too_long {
                TooLong::Skip => {
                    self.skipped_too_long += 1;
                    return Ok(());
                }
                TooLong::Error => {
                    return Err(format!(
                        "{} source and {} target tokens, more than the {} and {} allowed",
                        source.len(),
                        target.len(),
                        options.max_source,
                        options.max_target
                    ));
                }
                TooLong::Truncate => self.truncated += 1,
            }
            truncate(&mut source, options.max_source, tokenizer.eos());
            truncate(&mut target, options.max_target, tokenizer.eos());
        }
        self.examples.push(Example { source, target });
        self.texts.push(pair);
        Ok(())
    }
}

impl ExampleSource for PairSet {
    fn len_per_epoch(&self) -> usize {
        self.examples.len()
    }

    fn lengths(&self, _epoch: u64) -> Vec<(usize, usize)> {
        self.examples.iter().map(Example::lengths).collect()
    }

    fn example(&self, _epoch: u64, index: usize) -> Result<Example> {
        Ok(self.examples[index].clone())
    }
}

fn truncate(tokens: &mut Vec<u32>, max: usize, eos: u32) {
    if tokens.len() > max {
        tokens.truncate(max - 1);
        tokens.push(eos);
    }
}

fn parse_tsv(line: &str) -> Result<Pair, String> {
    let columns: Vec<&str> = line.split('\t').collect();
    match columns[..] {
        [source, target] => checked(source, target),
        _ => Err(format!("{} column(s), expected 2: source, one tab, target", columns.len())),
    }
}

fn parse_json(line: &str, source_key: &str, target_key: &str) -> Result<Pair, String> {
    let value: Value = serde_json::from_str(line).map_err(|e| format!("not valid JSON: {e}"))?;
    let text = |key: &str| match value.get(key) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(format!("the value of {key:?} is not a string")),
        None => {
            Err(format!("there is no key {key:?}; every line must be an object with {source_key:?}, {target_key:?}"))
        }
    };
    checked(text(source_key)?, text(target_key)?)
}

fn checked(source: &str, target: &str) -> Result<Pair, String> {
    for (text, side) in [(source, "source"), (target, "target")] {
        if text.trim().is_empty() {
            return Err(format!("the {side} is empty"));
        }
    }
    Ok(Pair { source: source.to_owned(), target: target.to_owned() })
}
