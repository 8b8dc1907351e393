//! Which noun a pronoun refers to: the Winograd schemas of SuperGLUE, and definite pronoun resolution.

use serde_json::{Value, json};

use super::PresetMaker;
use crate::data::example::{Split, TaskExample, UNKNOWN_LABEL};
use crate::data::task::row::{Row, text_of, texts_of};

impl PresetMaker {
    /// "wsc: ... *he* ..." and the candidate; for training only where the candidate is the referent. `extra.label` tells
    /// whether it is, null where that is secret.
    pub(super) fn wsc(&self, row: &Row, split: Split) -> Result<Vec<TaskExample>, String> {
        let label = match self.label_value(row, split)? {
            Some(Value::Bool(flag)) => Some(*flag),
            Some(value) => match text_of(value)?.trim() {
                "1" | "True" | "true" => Some(true),
                "0" | "False" | "false" => Some(false),
                "-1" => None,
                other => return Err(format!("the label {other:?} is neither true nor false")),
            },
            None => None,
        };
        if split == Split::Train && label != Some(true) {
            return Ok(Vec::new());
        }
        let field = |name: &str| row.need(&[name, &format!("target.{name}")]);
        let target = text_of(field("span1_text")?)?;
        let index = text_of(field("span2_index")?)?;
        let index = index.parse().map_err(|_| format!("span2_index is {index:?}, not a number"))?;
        let marked = mark_word(&row.text(&["text"])?, &text_of(field("span2_text")?)?, index)?;
        Ok(vec![TaskExample {
            source: format!("{}{marked}", self.prefix),
            references: vec![target.clone()],
            target,
            extra: json!({ "label": label, "idx": row.get("idx") }),
        }])
    }

    /// "wsc: ... *he* ..." and the right one of two candidates.
    pub(super) fn dpr(&self, row: &Row, split: Split) -> Result<TaskExample, String> {
        let candidates = texts_of(row.need(&["candidates"])?)?;
        let target = match self.label_value(row, split)? {
            Some(value) => {
                let number = text_of(value)?;
                let named = number.trim().parse().ok().and_then(|index: usize| candidates.get(index));
                named.ok_or_else(|| format!("the label {number:?} is no number of a candidate"))?.clone()
            }
            None => UNKNOWN_LABEL.to_owned(),
        };
        let marked = mark_first(&row.text(&["sentence"])?, &row.text(&["pronoun"])?);
        let source = format!("{}{marked}", self.prefix);
        Ok(TaskExample { source, references: vec![target.clone()], target, extra: Value::Null })
    }
}

/// The text with stars round the `index`-th of its words, which must be `word`. Two texts of SuperGLUE count wrongly or
/// leave punctuation on the word: there the nearest such word is meant, and its punctuation gets a blank before it.
fn mark_word(text: &str, word: &str, index: usize) -> Result<String, String> {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let is_word = |at: usize| words[at] == word;
    let opens =
        |at: usize| words[at].strip_prefix(word).is_some_and(|rest| rest.starts_with(|c: char| !c.is_alphanumeric()));
    let nearest =
        |fits: &dyn Fn(usize) -> bool| (0..words.len()).filter(|&at| fits(at)).min_by_key(|at| at.abs_diff(index));
    let at = nearest(&is_word)
        .filter(|at| at.abs_diff(index) <= 1)
        .or_else(|| nearest(&opens))
        .ok_or_else(|| format!("word {index} of the text is not {word:?}, as span2_text says"))?;
    let rest = words[at][word.len()..].to_owned();
    if rest.is_empty() {
        words[at] = format!("*{word}*");
        return Ok(words.join(" "));
    }
    words[at] = format!("*{word}* {rest}");
    // T5's corrected text has lost the blank at its end.
    Ok(words.join(" ").trim_end().to_owned())
}

/// Stars round the first such word that stands after a blank and before a blank, point or comma; none if there is none.
fn mark_first(sentence: &str, word: &str) -> String {
    let spaced = format!(" {word}");
    let ends = |at: &(usize, &str)| sentence[at.0 + at.1.len()..].starts_with([' ', '.', ',']);
    match sentence.match_indices(&spaced).find(ends) {
        Some((at, found)) => format!("{} *{word}*{}", &sentence[..at], &sentence[at + found.len()..]),
        None => sentence.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pronouns_are_marked() {
        assert_eq!(
            mark_word("Mitchell asked Tom if he could lend some money.", "he", 4).unwrap(),
            "Mitchell asked Tom if *he* could lend some money."
        );
        // The two texts that T5 corrects by hand, abridged.
        assert_eq!(
            mark_word("it out loud. \"Good for him,\" he said.", "him", 4).unwrap(),
            "it out loud. \"Good for *him* ,\" he said."
        );
        assert_eq!(mark_word("might want to use it , but it", "it", 3).unwrap(), "might want to use *it* , but it");
        assert!(mark_word("no such word", "he", 1).unwrap_err().contains("word 1"));
        assert_eq!(
            mark_first("Bob asked the other Tom if he can lend he money.", "he"),
            "Bob asked the other Tom if *he* can lend he money."
        );
    }
}
