//! The file format of SentencePiece models, as far as it is needed, and models of other files in it.

use prost::Message;

/// A piece as other files have it; its kind is SentencePiece's number.
pub(in crate::tokenizer) struct PieceOf<'a> {
    pub text: &'a str,
    pub score: f32,
    pub kind: i32,
}

/// The contents of a `spiece.model`.
pub(in crate::tokenizer) fn encode(
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

// The part of sentencepiece_model.proto (proto2) that is needed; numbers and defaults are the format's.

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pub pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    pub trainer: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    pub normalizer: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(enumeration = "PieceKind", optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TrainerSpec {
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
pub(super) struct NormalizerSpec {
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
pub(super) enum ModelType {
    Unigram = 1,
    Bpe = 2,
    Word = 3,
    Char = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum PieceKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}
