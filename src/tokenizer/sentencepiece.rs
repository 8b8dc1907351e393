//! SentencePiece models (`spiece.model`), unigram or BPE, with the same ids as the `sentencepiece` library.
//!
//! Normalisation follows its `normalizer.cc`, segmentation of unigram models `Model::EncodeOptimized` of `unigram_model.cc`, both as release
//! 0.2.3 behaves, rounding of f32 sums and strict `>` on ties included: `!!!!!!` has several best segmentations, and
//! HuggingFace picks another one.

mod merges;
mod proto;

use std::borrow::Cow;
use std::collections::HashMap;
use std::iter;
use std::ops::Range;
use std::path::Path;

use prost::Message;

use super::Special;
use super::T5_SENTINELS;
use super::charsmap::CharsMap;
use super::folder::{AddedToken, MAX_EXTRA_IDS, TokenizerConfig};
use super::sentinels::{self, Segment};
use super::stream::{Fragment, LeadingSpace};
use super::trie::PieceTrie;
use crate::error::{Error, Result};
use proto::{ModelProto, ModelType, NormalizerSpec, Piece, PieceKind, TrainerSpec};
pub(super) use proto::{PieceOf, encode};

/// Added to the lowest score for a character without a piece (`kUnkPenalty`).
const UNK_PENALTY: f32 = 10.0;

pub(super) struct SentencePiece {
    pieces: Vec<Piece>,
    /// Whether pieces come of merging neighbours, not of their scores' best sum.
    is_bpe: bool,
    /// Ids of all pieces that text can match.
    trie: PieceTrie,
    user_defined: PieceTrie,
    charsmap: CharsMap,
    normalizer: NormalizerSpec,
    unk_surface: String,
    special: Special,
    unk_score: f32,
    /// Length in bytes of the longest piece, or of the longest character.
    longest_piece: usize,
    /// Ids of `<0x00>`..`<0xFF>`, if characters without a piece are spelled in bytes.
    byte_ids: Option<Vec<u32>>,
    /// Sentinels appended behind the pieces, `<extra_id_0>` last: 0 where the model has its own.
    n_appended: usize,
    /// Tokens that were added behind all of these.
    added: Vec<AddedToken>,
    /// Whether sentinels take the whitespace before and behind them along.
    sentinels_strip: [bool; 2],
    /// Before every text.
    prefix: Vec<u32>,
    /// Whether each stretch of text between tokens begins as a text does; if not, only the text as a whole does.
    legacy: bool,
    /// Where not `legacy`: whether that beginning is a space.
    prefix_space: bool,
}

impl SentencePiece {
    /// `contents` is the protobuf. Sentinels are appended, as many as the configuration says, unless the model has its own.
    pub(super) fn parse(path: &Path, contents: &[u8], config: &TokenizerConfig) -> Result<SentencePiece> {
        let n_extra = if config.is_llama() { 0 } else { config.n_sentinels().unwrap_or(T5_SENTINELS) };
        let invalid = |what: String| Error::file(path, format!("not a usable SentencePiece model: {what}"));
        let proto = ModelProto::decode(contents).map_err(|e| invalid(format!("{e} (cut short or damaged?)")))?;
        // Both follow the pieces: a file cut between two pieces is a valid protobuf without them.
        let (Some(trainer), Some(normalizer)) = (proto.trainer, proto.normalizer) else {
            return Err(invalid("it lacks its trainer or normalizer settings (cut short?)".into()));
        };
        check_supported(&trainer).map_err(&invalid)?;
        let ids = unique_ids(&proto.pieces).map_err(&invalid)?;
        let charsmap = CharsMap::parse(normalizer.precompiled_charsmap());
        let charsmap = charsmap.ok_or_else(|| invalid("its precompiled_charsmap is damaged".into()))?;
        let of_kind = |kinds: &[PieceKind]| {
            let wanted = |(_, piece): &(u32, &Piece)| kinds.contains(&piece.kind());
            PieceTrie::new((0..).zip(&proto.pieces).filter(wanted).map(|(id, piece)| (piece.piece(), id)))
        };

        let unk = (0..).zip(&proto.pieces).find(|(_, piece)| piece.kind() == PieceKind::Unknown);
        let unk = unk.map(|(id, _)| id).ok_or_else(|| invalid("it has no unknown piece".into()))?;
        let eos = ids.get(trainer.eos_piece()).copied();
        let eos = eos.ok_or_else(|| invalid(format!("it has no end-of-sequence piece {:?}", trainer.eos_piece())))?;
        let pad = ids.get(trainer.pad_piece()).copied().unwrap_or(eos);

        let byte_ids = trainer.byte_fallback().then(|| {
            let id_of = |byte| ids.get(format!("<0x{byte:02X}>").as_str()).copied();
            (0..=255u8).map(id_of).collect::<Option<Vec<u32>>>()
        });
        if byte_ids == Some(None) {
            return Err(invalid("byte_fallback is on, but not all of <0x00>..<0xFF> are pieces".into()));
        }
        let scores = proto.pieces.iter().filter(|piece| piece.kind() == PieceKind::Normal).map(Piece::score);
        let has_sentinels = !sentinels::lookup(|piece| ids.get(piece).copied()).is_empty();
        let prefix = match config.first_token() {
            None => Vec::new(),
            Some(first) => vec![ids.get(first).copied().ok_or_else(|| invalid(format!("it has no piece {first:?}")))?],
        };
        let is_bpe = trainer.model_type() == ModelType::Bpe;
        let mut matched = vec![PieceKind::Normal, PieceKind::UserDefined];
        // Merging goes through pieces that are then taken apart again.
        matched.extend(is_bpe.then_some(PieceKind::Unused));
        Ok(SentencePiece {
            is_bpe,
            trie: of_kind(&matched),
            user_defined: of_kind(&[PieceKind::UserDefined]),
            charsmap,
            unk_surface: trainer.unk_surface().to_string(),
            special: Special { pad, eos, unk },
            unk_score: scores.fold(f32::MAX, f32::min) - UNK_PENALTY,
            longest_piece: proto.pieces.iter().map(|piece| piece.piece().len()).fold(4, usize::max),
            byte_ids: byte_ids.flatten(),
            n_appended: if has_sentinels { 0 } else { n_extra },
            pieces: proto.pieces,
            normalizer,
            added: Vec::new(),
            sentinels_strip: [true; 2],
            prefix,
            legacy: config.legacy != Some(false),
            prefix_space: config.add_prefix_space != Some(false),
        })
    }

    /// Adds tokens; those that are pieces or sentinels say nothing new.
    ///
    /// # Errors
    /// A token's id is another piece's.
    pub(super) fn add(&mut self, path: &Path, added: Vec<AddedToken>) -> Result<()> {
        for token in added {
            match self.piece(token.id) {
                None if (token.id as usize) < self.n_own() + MAX_EXTRA_IDS && !token.content.is_empty() => {
                    self.added.push(token)
                }
                Some(piece) if piece == token.content => {
                    if self.appended_sentinel(token.id).is_some() {
                        self.sentinels_strip = [token.lstrip, token.rstrip];
                    }
                }
                found => {
                    let there = found.map_or("no piece can be".to_owned(), |piece| format!("{piece:?} is"));
                    return Err(Error::file(
                        path,
                        format!(
                            "the files beside the vocabulary give {:?} the id {}, where {there}: they do not belong together",
                            token.content, token.id
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    /// The id of a piece, a sentinel or an added token.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        let piece = (0..).zip(&self.pieces).find(|(_, piece)| piece.piece() == token).map(|(id, _)| id);
        piece.or_else(|| self.id_beside_pieces(token))
    }

    /// [`SentencePiece::id`] for many tokens.
    pub(super) fn id_of_each(&self) -> impl Fn(&str) -> Option<u32> {
        let pieces: HashMap<&str, u32> = self.pieces.iter().map(Piece::piece).zip(0..).collect();
        move |token| pieces.get(token).copied().or_else(|| self.id_beside_pieces(token))
    }

    fn id_beside_pieces(&self, token: &str) -> Option<u32> {
        let added = || self.added.iter().find(|added| added.content == token).map(|added| added.id);
        sentinels::number(token, self.n_appended).map(|k| self.appended_id(k)).or_else(added)
    }

    pub(super) fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// Ids of pieces and sentinels.
    fn n_own(&self) -> usize {
        self.pieces.len() + self.n_appended
    }

    pub(super) fn size(&self) -> usize {
        self.added.iter().map(|token| token.id as usize + 1).fold(self.n_own(), usize::max)
    }

    /// Ids of the special tokens by the names that `config` gives, or those of the model.
    pub(super) fn special(&mut self, config: &TokenizerConfig) -> Special {
        let named = |name: Option<&str>| name.and_then(|name| self.id(name));
        let Special { pad, eos, unk } = self.special;
        self.special = Special {
            pad: named(config.pad_token()).unwrap_or(pad),
            eos: named(config.eos_token()).unwrap_or(eos),
            unk,
        };
        self.special
    }

    pub(super) fn n_appended(&self) -> usize {
        self.n_appended
    }

    pub(super) fn sentinels(&self) -> Vec<u32> {
        if self.n_appended > 0 {
            return (0..self.n_appended).map(|k| self.appended_id(k)).collect();
        }
        let named = (0..).zip(&self.pieces).filter(|(_, piece)| piece.piece().contains("<extra_id_"));
        let mut ids: HashMap<&str, u32> = named.map(|(id, piece)| (piece.piece(), id)).collect();
        ids.extend(self.added.iter().map(|token| (token.content.as_str(), token.id)));
        sentinels::lookup(|piece| ids.get(piece).copied())
    }

    #[cfg(feature = "train")]
    pub(super) fn vocabulary(&self) -> super::gguf::Vocabulary {
        super::gguf::Vocabulary {
            texts: self.pieces.iter().map(|piece| piece.piece().to_owned()).collect(),
            scores: self.pieces.iter().map(Piece::score).collect(),
            kinds: self.pieces.iter().map(|piece| piece.kind().into()).collect(),
            charsmap: self.normalizer.precompiled_charsmap().to_vec(),
            add_space_prefix: self.normalizer.add_dummy_prefix(),
            remove_extra_whitespaces: self.normalizer.remove_extra_whitespaces(),
        }
    }

    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        // Where each stretch has its own beginning, transformers takes a piece's mark in the text for a space.
        let text = &*if self.legacy { Cow::from(text) } else { text.replace('▁', " ").into() };
        let segments = sentinels::segments(text, self.n_appended, &self.added);
        let strips = |at: Option<usize>, side: usize| match at.and_then(|at| segments.get(at)) {
            Some(Segment::Sentinel(_)) => self.sentinels_strip[side],
            Some(Segment::Added(token)) => [token.lstrip, token.rstrip][side],
            _ => false,
        };
        for (at, segment) in segments.iter().enumerate() {
            match segment {
                Segment::Text(text) => {
                    let text = if strips(Some(at + 1), 0) { text.trim_end() } else { text };
                    let text = if strips(at.checked_sub(1), 1) { text.trim_start() } else { text };
                    self.encode_text(text, at == 0, &mut ids);
                }
                Segment::Sentinel(k) => ids.push(self.appended_id(*k)),
                Segment::Added(token) => ids.push(token.id),
            }
        }
        ids
    }

    /// Text between tokens, of which `is_first` is the beginning.
    fn encode_text(&self, text: &str, is_first: bool, ids: &mut Vec<u32>) {
        let normalized = match self.legacy {
            true => self.normalize(text, self.normalizer.add_dummy_prefix()),
            // The beginning has a space; elsewhere only a space that is there stands before a word.
            false => {
                let begins = is_first && self.prefix_space;
                let keeps = self.normalizer.remove_extra_whitespaces() && text.starts_with(' ');
                self.normalize(text, begins || keeps)
            }
        };
        match self.is_bpe {
            true => self.merge_text(&normalized, ids),
            false => self.segment_text(&normalized, ids),
        }
    }

    pub(super) fn piece(&self, id: u32) -> Option<String> {
        let piece = self.pieces.get(id as usize).map(|piece| piece.piece().to_string());
        let sentinel = || self.appended_sentinel(id).map(sentinels::name);
        piece.or_else(sentinel).or_else(|| self.added_token(id).map(str::to_owned))
    }

    pub(super) fn fragment(&self, id: u32) -> Fragment<'_> {
        let Some(piece) = self.pieces.get(id as usize) else {
            let added = || self.added_token(id).map_or(Fragment::OutOfRange, Fragment::Literal);
            return self.appended_sentinel(id).map_or_else(added, Fragment::Sentinel);
        };
        match piece.kind() {
            PieceKind::Control => Fragment::Nothing,
            PieceKind::Unknown => Fragment::Literal(&self.unk_surface),
            PieceKind::Byte => byte_of(piece.piece()).map_or(Fragment::Piece(piece.piece()), Fragment::Byte),
            PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused => Fragment::Piece(piece.piece()),
        }
    }

    pub(super) fn leading_space(&self) -> LeadingSpace {
        if self.normalizer.remove_extra_whitespaces() {
            LeadingSpace::DropAll
        } else if self.normalizer.add_dummy_prefix() {
            LeadingSpace::DropOne
        } else {
            LeadingSpace::Keep
        }
    }

    fn appended_id(&self, k: usize) -> u32 {
        (self.n_own() - 1 - k) as u32
    }

    fn added_token(&self, id: u32) -> Option<&str> {
        self.added.iter().find(|token| token.id == id).map(|token| token.content.as_str())
    }

    fn appended_sentinel(&self, id: u32) -> Option<usize> {
        let id = id as usize;
        (self.pieces.len()..self.n_own()).contains(&id).then(|| self.n_own() - 1 - id)
    }

    /// `Normalizer::Normalize`: replacement rules, runs of spaces, dummy prefix, `▁` for a space.
    fn normalize(&self, text: &str, dummy_prefix: bool) -> String {
        let squeeze = self.normalizer.remove_extra_whitespaces();
        let space = if self.normalizer.escape_whitespaces() { "▁" } else { " " };
        let mut chunks = self.normalized_chunks(text).peekable();
        while squeeze && chunks.next_if_eq(&" ").is_some() {}
        let mut out = String::with_capacity(text.len() + text.len() / 4 + 4);
        if chunks.peek().is_some() && dummy_prefix {
            out.push_str(space);
        }
        let mut after_space = squeeze;
        for chunk in chunks {
            let chunk = if after_space { chunk.trim_start_matches(' ') } else { chunk };
            for (at, word) in chunk.split(' ').enumerate() {
                if at > 0 {
                    out.push_str(space);
                }
                out.push_str(word);
            }
            if !chunk.is_empty() {
                after_space = squeeze && chunk.ends_with(' ');
            }
        }
        if squeeze {
            // By the escaped form: a literal `▁` at the end of the text goes too, as it does in SentencePiece.
            out.truncate(out.trim_end_matches(space).len());
        }
        out
    }

    /// `Normalizer::NormalizePrefix`, until the text is used up: user-defined symbols stay as they are, then the
    /// longest replacement rule counts, else one character is copied.
    fn normalized_chunks<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        let mut rest = text;
        iter::from_fn(move || {
            let first = rest.chars().next()?;
            let symbol = if self.user_defined.is_empty() { None } else { self.user_defined.longest_prefix(rest) };
            let (len, chunk) = match (symbol, self.charsmap.replacement(rest)) {
                (Some(len), _) => (len, &rest[..len]),
                (None, Some((len, replacement))) => (len, replacement),
                (None, None) => (first.len_utf8(), &rest[..first.len_utf8()]),
            };
            rest = &rest[len..];
            Some(chunk)
        })
    }

    /// Viterbi over byte positions; appends the ids of the best path to `ids`.
    fn segment_text(&self, text: &str, ids: &mut Vec<u32>) {
        let mut ends = vec![PathEnd { score: 0.0, start: UNREACHED, id: 0 }; text.len() + 1];
        for (start, first) in text.char_indices() {
            if ends[start].score < REBASE_BELOW {
                // No path reaches further ahead than one piece.
                let reached = ends.len().min(start + self.longest_piece + 1);
                rebase(&mut ends[start..reached]);
            }
            let so_far = ends[start].score;
            let mut has_single = false;
            let mut node = PieceTrie::ROOT;
            for (end, byte) in (start + 1..).zip(text[start..].bytes()) {
                let Some(next) = self.trie.step(node, byte) else { break };
                node = next;
                if let Some(id) = self.trie.value(node) {
                    ends[end].offer(self.score(id, end - start) + so_far, start, id);
                    has_single |= end - start == first.len_utf8();
                }
            }
            if !has_single {
                ends[start + first.len_utf8()].offer(self.unk_score + so_far, start, self.special.unk);
            }
        }
        let mut path = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let PathEnd { start, id, .. } = ends[end];
            path.push((id, start..end));
            end = start;
        }
        self.append_pieces(text, path.into_iter().rev(), ids);
    }

    /// Appends the ids of pieces, which follow one another in `text`.
    fn append_pieces(&self, text: &str, pieces: impl Iterator<Item = (u32, Range<usize>)>, ids: &mut Vec<u32>) {
        let mut after_unk = false;
        for (id, range) in pieces {
            let is_unk = id == self.special.unk;
            match &self.byte_ids {
                Some(byte_ids) if is_unk => ids.extend(text[range].bytes().map(|byte| byte_ids[byte as usize])),
                // A run of unknown characters is one <unk>.
                _ if is_unk && after_unk => {}
                _ => ids.push(id),
            }
            after_unk = is_unk;
        }
    }

    /// User-defined symbols get a bonus by length: no spelling of them in pieces should win.
    fn score(&self, id: u32, len: usize) -> f32 {
        let piece = &self.pieces[id as usize];
        match piece.kind() {
            PieceKind::UserDefined => 0.1 * (len - 1) as f32,
            _ => piece.score(),
        }
    }
}

/// Makes the first path's score 0, keeping all differences: f32 is too coarse for the sums of a long text.
fn rebase(ends: &mut [PathEnd]) {
    let base = ends[0].score;
    for end in ends.iter_mut().filter(|end| end.start != UNREACHED) {
        end.score -= base;
    }
}

/// Where `sentencepiece` 0.2.3 starts counting anew.
const REBASE_BELOW: f32 = -1e5;

const UNREACHED: usize = usize::MAX;

/// The best path that ends at a position: its score, and its last piece.
#[derive(Clone, Copy)]
struct PathEnd {
    score: f32,
    start: usize,
    id: u32,
}

impl PathEnd {
    fn offer(&mut self, score: f32, start: usize, id: u32) {
        if self.start == UNREACHED || score > self.score {
            *self = PathEnd { score, start, id };
        }
    }
}

fn check_supported(trainer: &TrainerSpec) -> Result<(), String> {
    if ![ModelType::Unigram, ModelType::Bpe].contains(&trainer.model_type()) {
        let kind = trainer.model_type();
        return Err(format!("it is a {kind:?} model, only Unigram and BPE are read; convert it to tokenizer.json"));
    }
    if trainer.treat_whitespace_as_suffix() {
        return Err("treat_whitespace_as_suffix is on, which is not read; convert it to tokenizer.json".into());
    }
    Ok(())
}

fn unique_ids(pieces: &[Piece]) -> Result<HashMap<&str, u32>, String> {
    if pieces.is_empty() {
        return Err("it has no pieces".into());
    }
    let mut ids = HashMap::with_capacity(pieces.len());
    for (id, piece) in (0..).zip(pieces) {
        if piece.piece().is_empty() || !piece.score().is_finite() {
            return Err(format!("piece {id} is empty or has no finite score"));
        }
        if let Some(earlier) = ids.insert(piece.piece(), id) {
            return Err(format!("pieces {earlier} and {id} are both {:?}", piece.piece()));
        }
    }
    Ok(ids)
}

/// 0x41 of `<0x41>`.
fn byte_of(piece: &str) -> Option<u8> {
    u8::from_str_radix(piece.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}
