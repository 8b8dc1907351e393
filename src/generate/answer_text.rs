//! The text of an answer, and the texts that end it.

use super::decoding::Decoding;
use crate::tokenizer::{DecodeStream, Tokenizer};

/// Text of an answer as its tokens come: see [`Decoding::text_stream`]. It ends before the first stop string, and no text is
/// given out that may turn out to be the beginning of one.
pub struct AnswerText {
    /// `None` once the text has ended.
    tokens: Option<DecodeStream>,
    stop_strings: Vec<String>,
    /// Text that may be the beginning of a stop string.
    held: String,
    stopped_at: Option<String>,
}

impl Decoding {
    /// The text of these tokens, up to the first of [`Decoding::stop_strings`].
    pub fn text(&self, tokenizer: &Tokenizer, ids: &[u32]) -> String {
        if self.stop_strings.is_empty() {
            return tokenizer.decode(ids);
        }
        let mut stream = self.text_stream(tokenizer);
        let text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text + &stream.finish()
    }

    /// [`Decoding::text`] piece by piece.
    pub fn text_stream(&self, tokenizer: &Tokenizer) -> AnswerText {
        AnswerText {
            tokens: Some(tokenizer.stream()),
            stop_strings: self.stop_strings.clone(),
            held: String::new(),
            stopped_at: None,
        }
    }
}

impl AnswerText {
    /// Takes the next token; gives the text that is now final, which is often empty. Behind a stop string there is none.
    pub fn push(&mut self, id: u32) -> String {
        let text = self.tokens.as_mut().map(|tokens| tokens.push(id)).unwrap_or_default();
        self.take(&text)
    }

    /// The rest of the text, when no token follows.
    pub fn finish(&mut self) -> String {
        let Some(tokens) = self.tokens.take() else { return String::new() };
        let text = self.take(&tokens.finish());
        text + &std::mem::take(&mut self.held)
    }

    /// The stop string that has ended the text. Of several it is the one that is complete first, and the longest of those.
    pub fn stopped_at(&self) -> Option<&str> {
        self.stopped_at.as_deref()
    }

    fn take(&mut self, text: &str) -> String {
        self.held.push_str(text);
        let place = |stop: &String| self.held.find(stop).map(|start| (start + stop.len(), start));
        if let Some((end, start)) = self.stop_strings.iter().filter_map(place).min() {
            self.stopped_at = Some(self.held[start..end].to_owned());
            self.tokens = None;
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return text;
        }
        let undecided = |&at: &usize| self.stop_strings.iter().any(|stop| stop.starts_with(&self.held[at..]));
        let first = self.held.char_indices().map(|(at, _)| at).find(undecided).unwrap_or(self.held.len());
        let rest = self.held.split_off(first);
        std::mem::replace(&mut self.held, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text and what stopped it, at each number of bytes that may come at a time.
    #[track_caller]
    fn check(text: &str, stops: &[&str], expected: &str, stopped_at: Option<&str>) {
        let decoding = Decoding { stop_strings: stops.iter().map(|&s| s.into()).collect(), ..Decoding::greedy() };
        let tokenizer = Tokenizer::bytes();
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(decoding.text(&tokenizer, &ids), expected);
        let mut stream = decoding.text_stream(&tokenizer);
        let mut shown = String::new();
        for id in ids {
            shown += &stream.push(id);
            assert!(expected.starts_with(&shown), "{shown:?} was given out of {expected:?}");
        }
        shown += &stream.finish();
        assert_eq!((shown.as_str(), stream.stopped_at()), (expected, stopped_at));
        assert_eq!(stream.push(100), "", "nothing follows the end");

        let mut stream = decoding.text_stream(&tokenizer);
        let at_once = stream.take(text) + &stream.finish();
        assert_eq!((at_once.as_str(), stream.stopped_at()), (expected, stopped_at));
    }

    #[test]
    fn text_ends_before_what_stops_it() {
        check("one two three", &["two"], "one ", Some("two"));
        check("one two three", &["four"], "one two three", None);
        check("no stop at all", &[], "no stop at all", None);
        check("stop", &["stop"], "", Some("stop"));
        check("ends in st", &["stop"], "ends in st", None);
        // Beginnings that lead nowhere, and one within another.
        check("ababac", &["abac"], "ab", Some("abac"));
        check("aaaab", &["aab"], "aa", Some("aab"));
        // What is complete first counts, and of those the longest.
        check("xabcd", &["abcd", "bc"], "xa", Some("bc"));
        check("xab", &["b", "ab"], "x", Some("ab"));
        check("é\n\nü", &["\n\n"], "é", Some("\n\n"));
        check("größer", &["ß"], "grö", Some("ß"));
    }

    #[test]
    fn half_a_character_at_the_end_is_part_of_the_text() {
        let decoding = Decoding { stop_strings: vec!["\u{fffd}".into()], ..Decoding::greedy() };
        let tokenizer = Tokenizer::bytes();
        let half = tokenizer.encode("é").unwrap()[0];
        let mut stream = decoding.text_stream(&tokenizer);
        assert_eq!((stream.push(half), stream.finish()), (String::new(), String::new()));
        assert_eq!(stream.stopped_at(), Some("\u{fffd}"));
    }
}
