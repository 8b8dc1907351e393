//! The CMU Pronouncing Dictionary: English words and their pronunciations in ARPAbet.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::example::Split;
use super::lines::for_each_line;
use crate::rng::fnv1a;
use crate::{Error, Result, files};

/// Words at these places out of [`SPLIT_OUT_OF`] are kept for validation, and those behind them for the final test.
const VALIDATION_END: u64 = 500;
const TEST_END: u64 = 1000;
const SPLIT_OUT_OF: u64 = 10_000;

/// What lines begin with that are not about a word.
const COMMENT: &str = ";;;";

/// A word and its pronunciations, the usual one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DictEntry {
    pub word: String,
    /// Phonemes with stress digits, separated by blanks: "K AE1 T".
    pub pronunciations: Vec<String>,
}

/// The words of the dictionary that consist of a-z, apostrophe, point and hyphen, in the file's order.
#[derive(Debug)]
pub struct CmuDict {
    pub entries: Vec<DictEntry>,
    /// Lines left out because of other characters in the word.
    pub skipped: usize,
}

/// A file that [`CmuDict::write_tsv`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub split: Split,
    pub path: PathBuf,
    pub words: usize,
    /// Words with alternatives have several, but for training.
    pub lines: usize,
}

impl CmuDict {
    /// Reads `cmudict.dict`, plain or gzipped: lines `word phonemes # comment`, with alternatives as `word(2)`.
    /// Errors name the file and the line.
    pub fn open(path: &Path) -> Result<CmuDict> {
        let mut dict = CmuDict { entries: Vec::new(), skipped: 0 };
        let mut index_of: HashMap<String, usize> = HashMap::new();
        for_each_line(path, |number, line| {
            if line.starts_with(COMMENT) {
                return Ok(());
            }
            let (word, pronunciation) = parse(line).map_err(|what| Error::line(path, number, what))?;
            if !is_plain(word) {
                dict.skipped += 1;
                return Ok(());
            }
            let index = *index_of.entry(word.to_owned()).or_insert(dict.entries.len());
            match dict.entries.get_mut(index) {
                Some(entry) if !entry.pronunciations.contains(&pronunciation) => {
                    entry.pronunciations.push(pronunciation);
                }
                Some(_) => {}
                None => dict.entries.push(DictEntry { word: word.to_owned(), pronunciations: vec![pronunciation] }),
            }
            Ok(())
        })?;
        Ok(dict)
    }

    /// The words of a split, each with its pronunciations. For training this is the first one only, so that there is one right
    /// answer to learn.
    pub fn split(&self, split: Split) -> impl Iterator<Item = (&str, &[String])> {
        self.entries.iter().filter(move |entry| split_of(&entry.word) == split).map(move |entry| {
            let used = if split == Split::Train { 1 } else { entry.pronunciations.len() };
            (entry.word.as_str(), &entry.pronunciations[..used])
        })
    }

    /// Writes `train.tsv`, `validation.tsv` and `test.tsv` (`word<TAB>phonemes`) into `folder`, which is created if missing.
    ///
    /// There is a line for each pronunciation of [`CmuDict::split`]: evaluation takes lines of equal source as alternatives.
    ///
    /// # Errors
    /// One of the files is there already and `overwrite` is not said, or it cannot be written.
    pub fn write_tsv(&self, folder: &Path, overwrite: bool) -> Result<Vec<Written>> {
        let files =
            [Split::Train, Split::Validation, Split::Test].map(|split| (split, folder.join(format!("{split}.tsv"))));
        if let Some((_, path)) = files.iter().find(|(_, path)| path.exists() && !overwrite) {
            return Err(Error::file(path, "is there already: choose another folder, or replace it with --force"));
        }
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        files.into_iter().map(|(split, path)| self.write_split(split, path)).collect()
    }

    fn write_split(&self, split: Split, path: PathBuf) -> Result<Written> {
        let (mut text, mut words, mut lines) = (String::new(), 0, 0);
        for (word, pronunciations) in self.split(split) {
            for pronunciation in pronunciations {
                let _ = writeln!(text, "{word}\t{pronunciation}");
            }
            (words, lines) = (words + 1, lines + pronunciations.len());
        }
        files::write_atomic(&path, text.as_bytes())?;
        Ok(Written { split, path, words, lines })
    }
}

/// The split that a word belongs to: a function of the word alone, so that it survives new editions of the dictionary. 5 % of
/// the words are for validation and 5 % for the test.
pub fn split_of(word: &str) -> Split {
    match place(word) {
        ..VALIDATION_END => Split::Validation,
        VALIDATION_END..TEST_END => Split::Test,
        _ => Split::Train,
    }
}

/// The columns of a line that is the first of a word of this split.
pub(super) fn columns_of(line: &str, split: Split) -> Result<Option<[(&'static str, String); 2]>, String> {
    if line.starts_with(COMMENT) {
        return Ok(None);
    }
    let (word, pronunciation) = parse(line)?;
    let is_first = line.split_whitespace().next() == Some(word);
    let is_wanted = is_first && is_plain(word) && split_of(word) == split;
    Ok(is_wanted.then(|| [("word", word.to_owned()), ("pronunciation", pronunciation)]))
}

fn is_plain(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase() || "'.-".contains(c))
}

/// Below [`SPLIT_OUT_OF`], as good as uniform.
fn place(word: &str) -> u64 {
    let hash = fnv1a(word.bytes());
    (hash ^ (hash >> 32)) % SPLIT_OUT_OF
}

fn parse(line: &str) -> Result<(&str, String), String> {
    let content = line.split_once('#').map_or(line, |(content, _comment)| content);
    let mut fields = content.split_whitespace();
    let head = fields.next().ok_or("there is no word before the comment")?;
    let phonemes: Vec<&str> = fields.collect();
    if phonemes.is_empty() {
        return Err(format!("the word {head:?} has no phonemes; expected lines like `cat K AE1 T`"));
    }
    Ok((without_alternative(head), phonemes.join(" ")))
}

/// "word(2)" -> "word"
fn without_alternative(head: &str) -> &str {
    match head.strip_suffix(')').and_then(|rest| rest.rsplit_once('(')) {
        Some((word, digits)) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => word,
        _ => head,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(parse("cat K AE1 T").unwrap(), ("cat", "K AE1 T".to_owned()));
        assert_eq!(parse("aalborg(2) AA1 L  # place, danish").unwrap(), ("aalborg", "AA1 L".to_owned()));
        assert_eq!(parse("a.d. EY2 D").unwrap().0, "a.d.");
        assert!(parse("cat").is_err());
        assert!(parse("# only a comment").is_err());
        assert_eq!(without_alternative("x(y)"), "x(y)");
        assert_eq!(without_alternative("x()"), "x()");
    }

    #[test]
    fn the_split_is_pinned() {
        let words = ["cat", "dog", "house", "tomato", "zebra", "abandon", "abbey", "abbot", "aardvark", "zygote"];
        let dev: Vec<&str> = words.into_iter().filter(|word| split_of(word) == Split::Validation).collect();
        assert_eq!(dev, ["abbey"]);
    }
}
