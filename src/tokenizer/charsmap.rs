//! SentencePiece's `precompiled_charsmap`: replacement rules (NFKC and more) in a Darts-clone double array.
//!
//! The `tokenizers` crate reads the same table but applies it grapheme by grapheme; SentencePiece replaces the longest
//! matching prefix, which differs on combining sequences, so the table is read here.

/// Layout: u32 length of the trie in bytes | trie, u32 units | replacement texts, each ended by NUL. Little-endian.
pub(super) struct CharsMap {
    units: Vec<u32>,
    replacements: String,
}

/// Replacements beyond that are meant to fill the memory: those of Unicode's NFKC have at most 33 bytes.
const LONGEST: usize = 256;

impl CharsMap {
    /// `None` where the blob is cut or no such table, or makes a page of a character. An empty blob is a table without rules.
    pub(super) fn parse(blob: &[u8]) -> Option<CharsMap> {
        if blob.is_empty() {
            return Some(CharsMap { units: Vec::new(), replacements: String::new() });
        }
        let (size, rest) = blob.split_first_chunk()?;
        let (trie, texts) = rest.split_at_checked(u32::from_le_bytes(*size) as usize)?;
        let (units, []) = trie.as_chunks() else { return None };
        let units = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        let map = CharsMap { units, replacements: String::from_utf8(texts.to_vec()).ok()? };
        (map.longest() <= LONGEST).then_some(map)
    }

    /// Bytes of the longest replacement.
    pub(super) fn longest(&self) -> usize {
        self.replacements.split('\0').map(str::len).max().unwrap_or(0)
    }

    /// The longest rule that `text` starts with: (bytes replaced, replacement).
    pub(super) fn replacement(&self, text: &str) -> Option<(usize, &str)> {
        let mut node = self.units.first().map(|&unit| offset(unit))?;
        let mut longest = None;
        for (at, byte) in text.bytes().enumerate() {
            node ^= usize::from(byte);
            let Some(&unit) = self.units.get(node).filter(|&&unit| label(unit) == u32::from(byte)) else {
                break;
            };
            node ^= offset(unit);
            if has_leaf(unit)
                && let Some(&leaf) = self.units.get(node)
            {
                longest = Some((at + 1, leaf & 0x7fff_ffff));
            }
        }
        let (len, start) = longest?;
        let (replacement, _) = self.replacements.get(start as usize..)?.split_once('\0')?;
        // A damaged table may name a rule that ends inside a character.
        text.is_char_boundary(len).then_some((len, replacement))
    }
}

// Unit of a Darts-clone double array: bit 31 marks a value; else bits 0-7 label, 8 has_leaf, 9 wide, 10-30 offset.

fn has_leaf(unit: u32) -> bool {
    unit >> 8 & 1 == 1
}

fn label(unit: u32) -> u32 {
    unit & 0x8000_00ff
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}
