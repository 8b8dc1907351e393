//! Which keys the encoder's queries see: all of their text, or what LongT5 lets them see (Guo et al. 2022, arXiv 2112.07916).

use crate::ops::{Sight, segment_ranges};

/// The kind of a model's encoder self-attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncoderAttention {
    /// A query sees its whole text: every T5 but LongT5.
    Full,
    /// `encoder_attention_type` "local": a query sees the keys that are at most `radius` tokens away.
    Local { radius: usize },
    /// "transient-global": a query also sees, of each whole block of `block` tokens, a key made of the sum of its states.
    TransientGlobal { radius: usize, block: usize },
}

impl EncoderAttention {
    /// What checkpoints call the module.
    pub fn module(self) -> &'static str {
        match self {
            EncoderAttention::Full => "SelfAttention",
            EncoderAttention::Local { .. } => "LocalSelfAttention",
            EncoderAttention::TransientGlobal { .. } => "TransientGlobalSelfAttention",
        }
    }

    /// How far a query sees, if not everywhere.
    pub fn radius(self) -> Option<usize> {
        match self {
            EncoderAttention::Full => None,
            EncoderAttention::Local { radius } | EncoderAttention::TransientGlobal { radius, .. } => Some(radius),
        }
    }

    /// What a position sees of its own text, in [`crate::ops::segment_ranges`]'s terms.
    pub fn sight(self) -> Sight {
        self.radius().map_or(Sight::Segment, Sight::Within)
    }

    /// The leaves, beside `src_lens`, that say what the positions of sources of these lengths see, where each source has a row of
    /// `len` positions to itself. To be written with every batch.
    pub fn leaves(self, lens: &[u32], len: usize) -> Vec<(&'static str, Vec<u32>)> {
        if self == EncoderAttention::Full {
            return Vec::new();
        }
        let ids: Vec<u32> = lens.iter().flat_map(|&n| (0..len as u32).map(move |i| u32::from(i < n))).collect();
        let mut leaves = vec![("src_ranges", segment_ranges(&ids, &ids, lens.len(), self.sight()))];
        if let EncoderAttention::TransientGlobal { block, .. } = self {
            leaves.push(("src_blocks", lens.iter().map(|&n| n / block as u32).collect()));
        }
        leaves
    }
}
