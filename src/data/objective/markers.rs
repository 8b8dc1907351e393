//! The ids that an objective adds to the tokens of a text.

use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// The special ids that examples of an objective are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Markers {
    /// Sentinel k replaces the k-th masked span.
    pub sentinels: Vec<u32>,
    pub eos: u32,
    /// Random tokens are drawn from `FIRST_RANDOM..vocab_size`; nothing is drawn if there are none.
    pub vocab_size: u32,
    /// What is put before the sources of each denoiser of UL2; empty for all other objectives.
    pub prefixes: Vec<Vec<u32>>,
}

/// Padding, EOS and unknown are never random tokens (the reference's `num_reserved_tokens`).
pub(super) const FIRST_RANDOM: u32 = 3;

impl Markers {
    /// Markers without prefixes or random tokens.
    pub fn new(sentinels: Vec<u32>, eos: u32) -> Markers {
        Markers { sentinels, eos, vocab_size: 0, prefixes: Vec::new() }
    }

    /// Markers without prefixes; [`super::Objective::markers`] makes those of an objective.
    pub fn of(tokenizer: &Tokenizer) -> Markers {
        let sentinels = (0..tokenizer.n_sentinels()).map_while(|k| tokenizer.sentinel(k)).collect();
        let vocab_size = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        Markers { vocab_size, ..Markers::new(sentinels, tokenizer.eos()) }
    }

    /// The first sentinel, where there is one.
    pub(super) fn mask(&self) -> Result<u32> {
        let none = || Error::Input("the tokenizer has no sentinel (<extra_id_0>) to mask tokens with".into());
        self.sentinels.first().copied().ok_or_else(none)
    }
}

/// `prefix` as the token of that name, if the tokenizer has it, or else as text.
///
/// # Errors
/// `Input`: as text it has more than `most` tokens.
pub(super) fn encode_prefix(tokenizer: &Tokenizer, prefix: &str, most: usize) -> Result<Vec<u32>> {
    let vocab_size = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    if let Some(id) = (0..vocab_size).find(|&id| tokenizer.piece(id).is_some_and(|piece| piece == prefix)) {
        return Ok(vec![id]);
    }
    let ids = tokenizer.encode(prefix)?;
    if ids.len() > most {
        return Err(Error::Input(format!(
            "the prefix {prefix:?} is {} tokens of this tokenizer, more than the {most} that are set aside for it: use \
             another prefix",
            ids.len()
        )));
    }
    Ok(ids)
}
