//! Remarks about a split before it is trained or evaluated on: rows that are left out, and texts that the tokenizer changes.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use rayon::prelude::*;

use super::{TaskConfig, TaskSet};
use crate::Result;
use crate::batch::Example;
use crate::data::example::{Split, TaskExample, UNKNOWN_LABEL};
use crate::tokenizer::Tokenizer;

/// How many characters or tokens a remark names.
const SHOWN: usize = 20;

impl TaskSet {
    /// A sentence for each finding about the split of the task `name`.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn findings(&self, name: &str, task: &TaskConfig, split: Split, tokenizer: &Tokenizer) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let left_out = self.left_out();
        for file in &left_out.headers {
            found.push(format!(
                "{name}: the first row of {} names the columns and is no example (a recipe's header = false makes it one)",
                file.display()
            ));
        }
        if let Some(first) = &left_out.first_bad {
            let count = left_out.bad;
            found.push(format!("{name}: {count} rows for {split} are no examples and left out; the first: {first}"));
        }
        let (max_source, max_target) = task.lengths();
        for (count, what) in [(self.skipped_too_long(), "left out"), (self.truncated(), "cut")] {
            if count > 0 {
                found.push(format!(
                    "{name}: {count} examples longer than {max_source} source or {max_target} target tokens are {what}"
                ));
            }
        }
        let of = format!("of {} {split}", self.n_examples());
        let (count, characters) = self.unknown(tokenizer)?;
        if count > 0 {
            found.push(format!(
                "{name}: {count} {of} examples have characters without a piece in the tokenizer ({}): the model reads and \
                 writes <unk> there, and such an answer is never right; a tokenizer trained with character_coverage = 1 has them",
                listed(characters.iter().copied().map(shown), " "),
            ));
        }
        let (count, what) = self.lost(tokenizer)?;
        if count > 0 {
            found.push(format!(
                "{name}: {count} {of} targets come back from the tokenizer as another text (lost: {}): no answer can ever \
                 equal them; change them, or use a tokenizer that keeps these, as \"bytes\" does",
                listed(what, ", "),
            ));
        }
        let is_sentinel = |token: &str| (0..tokenizer.n_sentinels()).any(|k| token == format!("<extra_id_{k}>"));
        let (sentinels, others): (BTreeMap<_, _>, _) =
            self.special_texts(tokenizer).into_iter().partition(|(token, _)| is_sentinel(token));
        let counts = |tokens: &BTreeMap<String, usize>| {
            listed(tokens.iter().map(|(token, count)| format!("{token} in {count}")), ", ")
        };
        if !others.is_empty() {
            found.push(format!(
                "{name}: special tokens are spelled out within texts ({} {of} examples): they are read as plain characters, never as \
                 the tokens; every text gets its end by itself, so leave them out of the data",
                counts(&others),
            ));
        }
        if !sentinels.is_empty() {
            found.push(format!(
                "{name}: sentinels stand within texts ({} {of} examples): they are read as the tokens",
                counts(&sentinels)
            ));
        }
        Ok(found)
    }

    /// How many examples have `<unk>` in source or target, and the characters that became it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn unknown(&self, tokenizer: &Tokenizer) -> Result<(usize, BTreeSet<char>)> {
        let unk = tokenizer.unk();
        let (mut count, mut known) = (0, HashMap::new());
        for (Example { source, target }, text) in self.examples().iter().zip(self.texts()) {
            let sides = [(source, &text.source), (target, &text.target)];
            let unknown = |&&(ids, text): &&(&Vec<u32>, &String)| ids.contains(&unk) && *text != UNKNOWN_LABEL;
            let unknown: Vec<_> = sides.iter().filter(unknown).collect();
            count += usize::from(!unknown.is_empty());
            for c in unknown.iter().flat_map(|(_, text)| text.chars()).filter(|c| !c.is_whitespace()) {
                if let Entry::Vacant(new) = known.entry(c) {
                    new.insert(!tokenizer.encode(&c.to_string())?.contains(&unk));
                }
            }
        }
        Ok((count, known.into_iter().filter(|(_, known)| !known).map(|(c, _)| c).collect()))
    }

    /// How many examples have no reference that the tokenizer gives back as it is, and what is lost in them. Those with
    /// `<unk>` are not counted: [`TaskSet::unknown`] does.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn lost(&self, tokenizer: &Tokenizer) -> Result<(usize, BTreeSet<String>)> {
        // The text that comes back where it is another one.
        let lost = |text: &str| -> Result<Option<String>> {
            let ids = tokenizer.encode(text)?;
            let back = tokenizer.decode(&ids);
            Ok((back != text && !ids.contains(&tokenizer.unk())).then_some(back))
        };
        let all_lost = |(example, text): (&Example, &TaskExample)| -> Result<Option<(String, String)>> {
            // Most targets come back: no need to encode them once more.
            if tokenizer.decode(&example.target) == text.target {
                return Ok(None);
            }
            for reference in text.references.iter().skip(1) {
                if lost(reference)?.is_none() {
                    return Ok(None);
                }
            }
            let first = text.references.first().filter(|first| *first != UNKNOWN_LABEL);
            first.map_or(Ok(None), |first| Ok(lost(first)?.map(|back| (first.clone(), back))))
        };
        let pairs = self.examples().par_iter().zip(self.texts());
        let texts = pairs.map(all_lost).filter_map(Result::transpose);
        let texts = texts.collect::<Result<Vec<_>>>()?;
        let (mut what, mut kept) = (BTreeSet::new(), HashMap::new());
        for (text, back) in &texts {
            let count = |text: &str, wanted: &[char]| text.matches(wanted).count();
            for (wanted, name) in [(&['\n', '\r'][..], "line ends"), (&['\t'], "tabs")] {
                if count(text, wanted) != count(back, wanted) {
                    what.insert(name.to_owned());
                }
            }
            if text.contains("  ") && !back.contains("  ") || text.trim_matches(' ') != text {
                what.insert("spaces in a row or at an end".into());
            }
            for c in text.chars().filter(|c| !c.is_whitespace()) {
                if let Entry::Vacant(new) = kept.entry(c) {
                    let alone = c.to_string();
                    new.insert(lost(&alone)?.is_none());
                }
                if !kept[&c] {
                    what.insert(shown(c));
                }
            }
            if what.is_empty() {
                what.insert(format!("{text:?} becomes {back:?}"));
            }
        }
        Ok((texts.len(), what))
    }

    /// Special tokens whose text stands in sources or targets, with the number of examples that have it.
    pub fn special_texts(&self, tokenizer: &Tokenizer) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for text in self.texts().iter().filter(|text| text.target != UNKNOWN_LABEL) {
            let mut tokens = tokenizer.special_texts(&text.source);
            tokens.extend(tokenizer.special_texts(&text.target));
            tokens.into_iter().for_each(|token| *counts.entry(token).or_default() += 1);
        }
        counts
    }
}

/// A character, or its number where it may not be seen.
fn shown(c: char) -> String {
    if c.is_ascii_graphic() || c.is_alphanumeric() { c.into() } else { format!("U+{:04X}", u32::from(c)) }
}

fn listed(items: impl IntoIterator<Item = String>, between: &str) -> String {
    let mut items = items.into_iter();
    let mut shown: Vec<String> = items.by_ref().take(SHOWN).collect();
    shown.extend(items.next().map(|_| "...".to_owned()));
    shown.join(between)
}
