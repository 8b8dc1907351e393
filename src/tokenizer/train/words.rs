//! The words and the characters that a vocabulary is learned from.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use rayon::prelude::*;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizer};
use unicode_script::{Script, UnicodeScript};

use super::{TrainOptions, seeds};
use crate::error::{Error, Result};
use crate::rng::{Purpose, Rng};

/// Number of lines that are not blank, and all of them or a uniform sample (Vitter 1985, algorithm R, with the draw of each
/// line a function of its number).
pub(super) fn sample(
    lines: impl Iterator<Item = Result<String>>,
    options: &TrainOptions,
) -> Result<(u64, Vec<String>)> {
    let mut kept = Vec::new();
    let mut total = 0u64;
    for line in lines {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        total += 1;
        if kept.len() < options.max_lines {
            kept.push(line);
            continue;
        }
        let place = Rng::new(options.seed, Purpose::Lines, &[total]).below(total) as usize;
        if let Some(kept) = kept.get_mut(place) {
            *kept = line;
        }
    }
    if kept.is_empty() {
        return Err(Error::Input("there is no text to learn a vocabulary from".to_owned()));
    }
    Ok((total, kept))
}

/// Different words of the text with their counts, sorted; cut by the very rules of the tokenizer to be written.
pub(super) fn count_words(lines: &[String], skeleton: &[u8]) -> Result<Vec<(String, u64)>> {
    let failed = |e: tokenizers::Error| Error::Input(format!("the text cannot be cut into words: {e}"));
    let cutter = tokenizers::Tokenizer::from_bytes(skeleton).map_err(failed)?;
    let count = |mut counts: HashMap<String, u64>, line: &String| -> tokenizers::Result<HashMap<String, u64>> {
        let mut text = cutter.get_added_vocabulary().extract_and_normalize(cutter.get_normalizer(), line);
        if let Some(rule) = cutter.get_pre_tokenizer() {
            rule.pre_tokenize(&mut text)?;
        }
        for (word, _, special) in text.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            if special.is_some() || word.is_empty() {
                continue;
            }
            match counts.get_mut(word) {
                Some(n) => *n += 1,
                None => {
                    counts.insert(word.to_owned(), 1);
                }
            }
        }
        Ok(counts)
    };
    let merged = lines.par_iter().try_fold(HashMap::new, count).try_reduce(HashMap::new, |mut all, part| {
        for (word, n) in part {
            *all.entry(word).or_default() += n;
        }
        Ok(all)
    });
    let mut words: Vec<_> = merged.map_err(failed)?.into_iter().collect();
    words.par_sort_unstable();
    Ok(words)
}

pub(super) struct Alphabet {
    /// Different characters of the text.
    pub total: usize,
    /// The commonest that make up the coverage, with their counts; commonest first.
    pub covered: Vec<(char, u64)>,
}

impl Alphabet {
    pub fn of(words: &[(String, u64)], coverage: f64) -> Alphabet {
        let mut counts: HashMap<char, u64> = HashMap::new();
        for (word, n) in words {
            for c in word.chars() {
                *counts.entry(c).or_default() += n;
            }
        }
        let all: u64 = counts.values().sum();
        let total = counts.len();
        // The end of a word among candidates; no text has a use for it.
        counts.remove(&seeds::END);
        let mut covered: Vec<_> = counts.into_iter().collect();
        covered.sort_unstable_by_key(|&(c, n)| (Reverse(n), c));
        let mut sum = 0;
        let enough = covered.iter().position(|&(_, n)| {
            let reached = sum as f64 >= coverage * all as f64;
            sum += n;
            reached
        });
        covered.truncate(enough.unwrap_or(covered.len()));
        Alphabet { total, covered }
    }

    /// The words cut at characters that are to have no piece, and between scripts if asked; sorted.
    pub fn covered_parts(&self, words: &[(String, u64)], split_scripts: bool) -> Vec<(String, u64)> {
        let covered: HashSet<char> = self.covered.iter().map(|&(c, _)| c).collect();
        let mut parts: HashMap<&str, u64> = HashMap::new();
        for (word, n) in words {
            for part in word.split(|c| !covered.contains(&c)).filter(|part| !part.is_empty()) {
                let mut rest = part;
                while let Some(at) = script_end(rest).filter(|_| split_scripts) {
                    let (run, after) = rest.split_at(at);
                    *parts.entry(run).or_default() += n;
                    rest = after;
                }
                *parts.entry(rest).or_default() += n;
            }
        }
        let mut parts: Vec<_> = parts.into_iter().map(|(part, n)| (part.to_owned(), n)).collect();
        parts.par_sort_unstable();
        parts
    }
}

/// Where a second script begins: `IsValidSentencePiece` of SentencePiece's `trainer_interface.cc`. The mark of a word's
/// beginning goes with any script, accents with what they are on, and Japanese is one.
fn script_end(part: &str) -> Option<usize> {
    let scripts = part.char_indices().filter(|&(_, c)| c != '▁').map(|(at, c)| match c.script() {
        Script::Hiragana | Script::Katakana => (at, Script::Han),
        _ if c == 'ー' => (at, Script::Han),
        script => (at, script),
    });
    let mut scripts = scripts.filter(|&(_, script)| script != Script::Inherited);
    let (_, first) = scripts.next()?;
    scripts.find(|&(_, script)| script != first).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_bounded_and_a_function_of_the_seed() {
        let text: Vec<String> = (0..500).map(|i| format!("line {i}")).collect();
        let kept = |seed| {
            let options = TrainOptions { max_lines: 50, seed, ..TrainOptions::default() };
            sample(text.iter().map(|line| Ok(line.clone())), &options).unwrap()
        };
        assert_eq!(kept(1), kept(1));
        assert_ne!(kept(1), kept(2));
        assert_eq!((kept(1).0, kept(1).1.len()), (500, 50));
        assert!(kept(1).1.iter().filter(|line| text[250..].contains(line)).count() > 15);
    }

    #[test]
    fn rare_characters_are_left_out_and_cut_words() {
        let words = [("aab".to_owned(), 50), ("axb\0b".to_owned(), 1)];
        let alphabet = Alphabet::of(&words, 0.98);
        assert_eq!(alphabet.covered, [('a', 101), ('b', 52)]);
        assert_eq!(alphabet.total, 4);
        let parts = alphabet.covered_parts(&words, true);
        assert_eq!(parts, [("a".to_owned(), 1), ("aab".to_owned(), 50), ("b".to_owned(), 2)]);
    }

    #[test]
    fn scripts_end_where_sentencepiece_says() {
        for (part, end) in [
            ("▁word", None),
            ("▁", None),
            ("▁AH0", Some("0")),
            ("12.5", None),
            ("naïve", None),
            ("nai\u{308}ve", None),
            ("ひらカタ漢ー字", None),
            ("漢a", Some("a")),
            ("\"▁x", Some("x")),
            ("да-да", Some("-да")),
        ] {
            assert_eq!(script_end(part).map(|at| &part[at..]), end, "{part}");
        }
    }
}
