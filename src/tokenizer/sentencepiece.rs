//! SentencePiece unigram models (`spiece.model`), with the same ids as the `sentencepiece` library.
//!
//! Normalisation follows its `normalizer.cc`, segmentation `Model::EncodeOptimized` of `unigram_model.cc`, both as release
//! 0.2.3 behaves, rounding of f32 sums and strict `>` on ties included: `!!!!!!` has several best segmentations, and
//! HuggingFace picks another one.

use std::collections::HashMap;
use std::iter;
use std::path::Path;

use prost::Message;

use super::Special;
use super::charsmap::CharsMap;
use super::folder::MAX_EXTRA_IDS;
use super::sentinels::{self, Segment};
use super::stream::{Fragment, LeadingSpace};
use super::trie::PieceTrie;
use crate::error::{Error, Result};

/// Added to the lowest score for a character without a piece (`kUnkPenalty`).
const UNK_PENALTY: f32 = 10.0;

pub(super) struct SentencePiece {
    pieces: Vec<Piece>,
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
    /// Tokens that were added behind all of these, with their ids.
    added: Vec<(String, u32)>,
}

impl SentencePiece {
    /// `contents` is the protobuf; `n_extra` sentinels are appended unless the model has sentinels. Of the `added` tokens those
    /// that are pieces or sentinels say nothing new.
    pub(super) fn parse(
        path: &Path,
        contents: &[u8],
        n_extra: usize,
        added: Vec<(String, u32)>,
    ) -> Result<SentencePiece> {
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
        let mut model = SentencePiece {
            trie: of_kind(&[PieceKind::Normal, PieceKind::UserDefined]),
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
        };
        model.add(added).map_err(|what| Error::file(path, what))?;
        Ok(model)
    }

    fn add(&mut self, added: Vec<(String, u32)>) -> Result<(), String> {
        for (token, id) in added {
            match self.piece(id) {
                None if (id as usize) < self.n_own() + MAX_EXTRA_IDS && !token.is_empty() => {
                    self.added.push((token, id))
                }
                Some(piece) if piece == token => {}
                found => {
                    let there = found.map_or("no piece can be".to_owned(), |piece| format!("{piece:?} is"));
                    return Err(format!(
                        "the files beside the vocabulary give {token:?} the id {id}, where {there}: they do not belong together"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Ids of pieces and sentinels.
    fn n_own(&self) -> usize {
        self.pieces.len() + self.n_appended
    }

    pub(super) fn size(&self) -> usize {
        self.added.iter().map(|&(_, id)| id as usize + 1).fold(self.n_own(), usize::max)
    }

    pub(super) fn special(&self) -> Special {
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
        let ids: HashMap<&str, u32> = named.map(|(id, piece)| (piece.piece(), id)).collect();
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
        for segment in sentinels::segments(text, self.n_appended, &self.added) {
            match segment {
                Segment::Text(text) => self.segment_text(&self.normalize(text), &mut ids),
                Segment::Sentinel(k) => ids.push(self.appended_id(k)),
                Segment::Added(id) => ids.push(id),
            }
        }
        ids
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
        self.added.iter().find(|(_, other)| *other == id).map(|(token, _)| token.as_str())
    }

    fn appended_sentinel(&self, id: u32) -> Option<usize> {
        let id = id as usize;
        (self.pieces.len()..self.n_own()).contains(&id).then(|| self.n_own() - 1 - id)
    }

    /// `Normalizer::Normalize`: replacement rules, runs of spaces, dummy prefix, `▁` for a space.
    fn normalize(&self, text: &str) -> String {
        let squeeze = self.normalizer.remove_extra_whitespaces();
        let space = if self.normalizer.escape_whitespaces() { "▁" } else { " " };
        let mut chunks = self.normalized_chunks(text).peekable();
        while squeeze && chunks.next_if_eq(&" ").is_some() {}
        let mut out = String::with_capacity(text.len() + text.len() / 4 + 4);
        if chunks.peek().is_some() && self.normalizer.add_dummy_prefix() {
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
        self.append_best_path(text, &ends, ids);
    }

    fn append_best_path(&self, text: &str, ends: &[PathEnd], ids: &mut Vec<u32>) {
        let mut path = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let PathEnd { start, id, .. } = ends[end];
            path.push((id, start..end));
            end = start;
        }
        let mut after_unk = false;
        for (id, range) in path.into_iter().rev() {
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
    if trainer.model_type() != ModelType::Unigram {
        let kind = trainer.model_type();
        return Err(format!("it is a {kind:?} model, only Unigram is read; convert it to tokenizer.json"));
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

/// A piece as other files have it; its kind is SentencePiece's number.
pub(super) struct PieceOf<'a> {
    pub text: &'a str,
    pub score: f32,
    pub kind: i32,
}

/// The contents of a `spiece.model`.
pub(super) fn encode(
    pieces: &[PieceOf],
    charsmap: Vec<u8>,
    [eos, pad]: [String; 2],
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
) -> Vec<u8> {
    let piece = |piece: &PieceOf| Piece {
        piece: Some(piece.text.to_owned()),
        score: Some(piece.score),
        kind: Some(piece.kind),
    };
    let trainer = TrainerSpec {
        model_type: Some(ModelType::Unigram.into()),
        byte_fallback: Some(pieces.iter().any(|piece| piece.kind == i32::from(PieceKind::Byte))),
        eos_piece: Some(eos),
        pad_piece: Some(pad),
        ..TrainerSpec::default()
    };
    let normalizer = NormalizerSpec {
        precompiled_charsmap: Some(charsmap),
        add_dummy_prefix: Some(add_dummy_prefix),
        remove_extra_whitespaces: Some(remove_extra_whitespaces),
        escape_whitespaces: Some(true),
    };
    let pieces = pieces.iter().map(piece).collect();
    ModelProto { pieces, trainer: Some(trainer), normalizer: Some(normalizer) }.encode_to_vec()
}

/// 0x41 of `<0x41>`.
fn byte_of(piece: &str) -> Option<u8> {
    u8::from_str_radix(piece.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}

// The part of sentencepiece_model.proto (proto2) that is needed; numbers and defaults are the format's.

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(enumeration = "PieceKind", optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    #[prost(enumeration = "ModelType", optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
    #[prost(string, optional, tag = "44", default = " \u{2047} ")]
    unk_surface: Option<String>,
    #[prost(string, optional, tag = "47", default = "</s>")]
    eos_piece: Option<String>,
    #[prost(string, optional, tag = "48", default = "<pad>")]
    pad_piece: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3", default = "true")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4", default = "true")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5", default = "true")]
    escape_whitespaces: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum ModelType {
    Unigram = 1,
    Bpe = 2,
    Word = 3,
    Char = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum PieceKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}
