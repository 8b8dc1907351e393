//! Ids to text, one id at a time.

use std::mem;

use super::{Kind, Tokenizer, sentinels};

/// Incremental decoder made by [`Tokenizer::stream`]: the texts returned by `push` and `finish`, joined, are what
/// [`Tokenizer::decode`] gives for all ids at once, and no text is returned that a later id could still change.
pub struct DecodeStream {
    tokenizer: Tokenizer,
    state: State,
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Tokenizer) -> DecodeStream {
        let state = match &tokenizer.0.kind {
            Kind::Bytes(_) => State::Assemble(Assembler::new(LeadingSpace::Keep)),
            Kind::SentencePiece(model) => State::Assemble(Assembler::new(model.leading_space())),
            Kind::Json(_) => State::Window(Window::default()),
        };
        DecodeStream { tokenizer, state }
    }

    /// Takes the next id; returns the text that is now final (often empty: half a character is held back).
    pub fn push(&mut self, id: u32) -> String {
        if self.tokenizer.is_silent(id) {
            return String::new();
        }
        let mut text = String::new();
        match (&mut self.state, &self.tokenizer.0.kind) {
            (State::Assemble(assembler), Kind::Bytes(vocab)) => assembler.push(vocab.fragment(id), &mut text),
            (State::Assemble(assembler), Kind::SentencePiece(model)) => assembler.push(model.fragment(id), &mut text),
            (State::Window(window), Kind::Json(tokenizer)) => window.push(id, |ids| tokenizer.decode(ids), &mut text),
            _ => unreachable!("`new` pairs state and kind"),
        }
        text
    }

    /// What was held back: bytes that never became a character appear as U+FFFD.
    pub fn finish(self) -> String {
        let mut text = String::new();
        match (self.state, &self.tokenizer.0.kind) {
            (State::Assemble(mut assembler), _) => assembler.end_bytes(&mut text),
            (State::Window(window), Kind::Json(tokenizer)) => text = window.rest(|ids| tokenizer.decode(ids)),
            _ => {}
        }
        text
    }
}

enum State {
    Assemble(Assembler),
    Window(Window),
}

/// What one id contributes to the text.
pub(super) enum Fragment<'a> {
    Nothing,
    Byte(u8),
    /// A SentencePiece piece: `▁` stands for a space.
    Piece(&'a str),
    Literal(&'a str),
    Sentinel(usize),
    OutOfRange,
}

/// What happens to spaces at the very start of the text, where the dummy prefix put one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LeadingSpace {
    Keep,
    DropOne,
    DropAll,
}

/// Joins fragments as `SentencePieceProcessor::Decode` does, and bytes to characters.
struct Assembler {
    leading: LeadingSpace,
    started: bool,
    /// Bytes of a character that is not complete yet: at most 3.
    pending: Vec<u8>,
}

impl Assembler {
    fn new(leading: LeadingSpace) -> Assembler {
        Assembler { leading, started: false, pending: Vec::new() }
    }

    fn push(&mut self, fragment: Fragment<'_>, out: &mut String) {
        match fragment {
            Fragment::Nothing => {}
            Fragment::Byte(byte) => {
                self.started = true;
                self.pending.push(byte);
                self.take_characters(out);
            }
            Fragment::Piece(piece) => {
                self.end_bytes(out);
                out.push_str(&self.strip_leading(piece).replace('▁', " "));
            }
            Fragment::Literal(text) => {
                self.end_bytes(out);
                self.started = true;
                out.push_str(text);
            }
            Fragment::Sentinel(k) => self.push(Fragment::Literal(&sentinels::name(k)), out),
            Fragment::OutOfRange => self.push(Fragment::Literal("\u{fffd}"), out),
        }
    }

    /// SentencePiece takes at most one `▁` off each piece for as long as the text is empty.
    fn strip_leading<'a>(&mut self, piece: &'a str) -> &'a str {
        if self.started || self.leading == LeadingSpace::Keep {
            self.started = true;
            return piece;
        }
        let stripped = piece.strip_prefix('▁');
        let rest = stripped.unwrap_or(piece);
        self.started = !rest.is_empty() || (stripped.is_some() && self.leading == LeadingSpace::DropOne);
        rest
    }

    fn take_characters(&mut self, out: &mut String) {
        let bytes = mem::take(&mut self.pending);
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            out.push_str(chunk.valid());
            if chunks.peek().is_none() && is_cut_character(chunk.invalid()) {
                self.pending = chunk.invalid().to_vec();
            } else {
                out.extend(chunk.invalid().iter().map(|_| '\u{fffd}'));
            }
        }
    }

    /// One U+FFFD a byte, as SentencePiece writes it.
    fn end_bytes(&mut self, out: &mut String) {
        out.extend(self.pending.drain(..).map(|_| '\u{fffd}'));
    }
}

/// Whether more bytes could still complete `bytes` to a character.
fn is_cut_character(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

/// A decoder of unknown rules is asked twice, without and with the new ids, and the difference is the new text.
/// Decoding starts at the last emitted step, not at the beginning, so that the cost of an id does not grow.
#[derive(Default)]
struct Window {
    ids: Vec<u32>,
    /// `ids[..emitted]` have been shown; they stay as context for spacing.
    emitted: usize,
}

impl Window {
    fn push(&mut self, id: u32, decode: impl Fn(&[u32]) -> String, out: &mut String) {
        self.ids.push(id);
        let rest = self.new_text(&decode);
        // A trailing U+FFFD is most likely half a character.
        if rest.is_empty() || rest.ends_with('\u{fffd}') {
            return;
        }
        out.push_str(&rest);
        self.ids.drain(..self.emitted);
        self.emitted = self.ids.len();
    }

    fn rest(&self, decode: impl Fn(&[u32]) -> String) -> String {
        self.new_text(&decode)
    }

    fn new_text(&self, decode: &impl Fn(&[u32]) -> String) -> String {
        let before = self.ids.get(..self.emitted).map(decode).unwrap_or_default();
        let after = decode(&self.ids);
        let common = before.chars().zip(after.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        after.get(common..).unwrap_or_default().to_string()
    }
}
