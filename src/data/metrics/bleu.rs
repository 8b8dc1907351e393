//! Corpus BLEU (Papineni et al. 2002) as sacreBLEU (Post 2018) computes it.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::{Case, Part, is_white_space, words};

/// The version of sacreBLEU whose figures the tests hold this module to.
const SACREBLEU: &str = "2.6.0";

const MAX_ORDER: usize = 4;

/// How sentences are cut into words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BleuTokenizer {
    /// That of mteval-v13a.pl: ASCII punctuation apart from words, except in numbers. sacreBLEU's default.
    #[default]
    #[serde(rename = "13a")]
    V13a,
    /// That of mteval-v14.pl: all punctuation and symbols of Unicode. The T5 paper's.
    Intl,
    /// Every character is a word.
    Char,
    /// Words stand between white space already.
    None,
}

/// Counts over the corpus, which make up the score.
#[derive(Default)]
struct Counts {
    hypothesis_words: usize,
    reference_words: usize,
    correct: [usize; MAX_ORDER],
    total: [usize; MAX_ORDER],
}

pub(super) fn bleu(cases: &[Case], tokenizer: BleuTokenizer) -> Result<Vec<Part>, String> {
    let mut counts = Counts::default();
    for case in cases {
        let cut = |text: &str| tokenizer.cut(text.trim_end_matches(is_white_space));
        let references: Vec<String> = case.references.iter().map(|reference| cut(reference)).collect();
        counts.add(&cut(&case.prediction), &references);
    }
    Ok(vec![counts.part()])
}

/// sacreBLEU's line about how it counted; `references` None where their number varies.
pub(super) fn signature(references: Option<usize>, lowercase: bool, tokenizer: BleuTokenizer) -> String {
    format!(
        "nrefs:{}|case:{}|eff:no|tok:{}|smooth:exp|version:{SACREBLEU}",
        references.map_or("var".into(), |n| n.to_string()),
        if lowercase { "lc" } else { "mixed" },
        tokenizer.name()
    )
}

impl BleuTokenizer {
    fn name(self) -> &'static str {
        match self {
            BleuTokenizer::V13a => "13a",
            BleuTokenizer::Intl => "intl",
            BleuTokenizer::Char => "char",
            BleuTokenizer::None => "none",
        }
    }

    /// The text with blanks between its words.
    fn cut(self, text: &str) -> String {
        match self {
            BleuTokenizer::V13a => v13a(text),
            BleuTokenizer::Intl => apply(&INTL, text),
            BleuTokenizer::Char => text.chars().flat_map(|c| [c, ' ']).collect(),
            BleuTokenizer::None => text.to_owned(),
        }
    }
}

type Rules = [(Regex, &'static str)];

static V13A: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    rules(&[
        (r"([\{-~\[-` -&\(-+:-@/])", " $1 "),
        (r"([^0-9])([.,])", "$1 $2 "),
        (r"([.,])([^0-9])", " $1 $2"),
        (r"([0-9])(-)", "$1 $2 "),
    ])
});

static INTL: LazyLock<Vec<(Regex, &str)>> =
    LazyLock::new(|| rules(&[(r"(\P{N})(\p{P})", "$1 $2 "), (r"(\p{P})(\P{N})", " $1 $2"), (r"(\p{S})", " $1 ")]));

fn rules(patterns: &[(&str, &'static str)]) -> Vec<(Regex, &'static str)> {
    patterns.iter().map(|&(pattern, by)| (Regex::new(pattern).expect("a valid pattern"), by)).collect()
}

fn apply(rules: &Rules, text: &str) -> String {
    rules.iter().fold(text.to_owned(), |text, (pattern, by)| pattern.replace_all(&text, *by).into_owned())
}

fn v13a(text: &str) -> String {
    let mut line = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    for (entity, c) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        line = line.replace(entity, c);
    }
    apply(&V13A, &format!(" {line} "))
}

impl Counts {
    /// Of several references each n-gram counts as often as in the one that has it most, and the length is that of the
    /// one nearest in length, the shorter of two.
    fn add(&mut self, hypothesis: &str, references: &[String]) {
        let hypothesis: Vec<&str> = words(hypothesis).collect();
        let references: Vec<Vec<&str>> = references.iter().map(|reference| words(reference).collect()).collect();
        let lengths = references.iter().map(Vec::len);
        self.hypothesis_words += hypothesis.len();
        self.reference_words += lengths.min_by_key(|&n| (n.abs_diff(hypothesis.len()), n)).unwrap_or(0);
        for order in 1..=MAX_ORDER {
            let mut allowed: HashMap<&[&str], usize> = HashMap::new();
            for reference in &references {
                for (ngram, count) in ngrams(reference, order) {
                    let most = allowed.entry(ngram).or_default();
                    *most = count.max(*most);
                }
            }
            let matches = |(ngram, count): (&[&str], usize)| count.min(allowed.get(ngram).copied().unwrap_or(0));
            self.correct[order - 1] += ngrams(&hypothesis, order).into_iter().map(matches).sum::<usize>();
            self.total[order - 1] += (hypothesis.len() + 1).saturating_sub(order);
        }
    }

    fn part(&self) -> Part {
        let (ours, theirs) = (self.hypothesis_words as f64, self.reference_words as f64);
        let brevity = match ours < theirs {
            true if ours == 0.0 => 0.0,
            true => (1.0 - theirs / ours).exp(),
            false => 1.0,
        };
        let precisions = self.precisions();
        let all_positive = precisions.iter().all(|&p| p > 0.0);
        let mean_log = precisions.iter().map(|p| p.ln()).sum::<f64>() / MAX_ORDER as f64;
        let value = if all_positive { brevity * mean_log.exp() } else { 0.0 };
        let mut part = Part::new(value, &[("sys_len", ours), ("ref_len", theirs), ("bp", brevity)]);
        let rows = self.correct.iter().zip(&self.total).zip(&precisions).enumerate();
        for (index, ((&correct, &total), precision)) in rows {
            let named = [("correct", correct as f64), ("total", total as f64), ("precision", 100.0 * precision)];
            part.counts.extend(named.map(|(name, count)| (format!("{name}_{}", index + 1), count)));
        }
        part
    }

    /// Method 3 of Chen and Cherry 2014: each further order without a match counts half as much as the one before.
    /// All are 0 where nothing matches.
    fn precisions(&self) -> [f64; MAX_ORDER] {
        let mut precisions = [0.0; MAX_ORDER];
        if self.correct == [0; MAX_ORDER] {
            return precisions;
        }
        let mut smooth = 1.0;
        for (precision, (&correct, &total)) in precisions.iter_mut().zip(self.correct.iter().zip(&self.total)) {
            if total == 0 {
                break;
            }
            *precision = if correct == 0 {
                smooth *= 2.0;
                1.0 / (smooth * total as f64)
            } else {
                correct as f64 / total as f64
            };
        }
        precisions
    }
}

fn ngrams<'a, 'b>(words: &'b [&'a str], order: usize) -> HashMap<&'b [&'a str], usize> {
    let mut counts = HashMap::new();
    for ngram in words.windows(order) {
        *counts.entry(ngram).or_default() += 1;
    }
    counts
}
