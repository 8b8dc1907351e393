//! The byte vocabulary of ByT5 (arXiv 2105.13626): three special ids, 256 bytes, sentinels.

use super::sentinels::{self, Segment};
use super::stream::Fragment;

/// How many sentinels HuggingFace's `ByT5Tokenizer` has unless told otherwise.
pub(super) const BYT5_SENTINELS: usize = 125;

const FIRST_BYTE: u32 = 3;
const FIRST_SENTINEL: u32 = FIRST_BYTE + 256;

/// Text is encoded without loss: only `<extra_id_k>` is read as a token, while HuggingFace also turns a literal
/// `</s>`, `<pad>` or `<unk>` (with the spaces around it) into that special id. Data must not be able to end a sequence.
pub(super) struct ByteVocab {
    n_sentinels: usize,
}

impl ByteVocab {
    pub(super) fn new(n_sentinels: usize) -> ByteVocab {
        ByteVocab { n_sentinels }
    }

    pub(super) fn size(&self) -> usize {
        FIRST_SENTINEL as usize + self.n_sentinels
    }

    pub(super) fn sentinels(&self) -> Vec<u32> {
        (0..self.n_sentinels).map(sentinel_id).collect()
    }

    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() + 1);
        for segment in sentinels::segments(text, self.n_sentinels, &[]) {
            match segment {
                Segment::Text(text) => ids.extend(text.bytes().map(|byte| u32::from(byte) + FIRST_BYTE)),
                Segment::Sentinel(k) => ids.push(sentinel_id(k)),
                Segment::Added(token) => ids.push(token.id),
            }
        }
        ids
    }

    pub(super) fn piece(&self, id: u32) -> Option<String> {
        match self.fragment(id) {
            Fragment::Byte(byte) if byte.is_ascii_graphic() => Some(char::from(byte).to_string()),
            Fragment::Byte(byte) => Some(format!("<0x{byte:02X}>")),
            Fragment::Sentinel(k) => Some(sentinels::name(k)),
            _ => ["<pad>", "</s>", "<unk>"].get(id as usize).map(|name| name.to_string()),
        }
    }

    pub(super) fn fragment(&self, id: u32) -> Fragment<'_> {
        match id {
            0 | 1 => Fragment::Nothing,
            2 => Fragment::Literal("<unk>"),
            FIRST_BYTE..FIRST_SENTINEL => Fragment::Byte((id - FIRST_BYTE) as u8),
            _ if (id as usize) < self.size() => Fragment::Sentinel((id - FIRST_SENTINEL) as usize),
            _ => Fragment::OutOfRange,
        }
    }
}

fn sentinel_id(k: usize) -> u32 {
    FIRST_SENTINEL + k as u32
}
