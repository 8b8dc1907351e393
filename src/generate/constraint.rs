//! Decoding that asks a function of the caller which tokens may come next.

use std::fmt;
use std::sync::Arc;

use super::session::Session;
use crate::error::{Error, Result};

type Allowed = dyn Fn(usize, &[u32]) -> Vec<u32> + Send + Sync;

/// Says which tokens may come next, given the number of a source among those of the call and the tokens that its target has so
/// far (without start token and decoder prefix): as `prefix_allowed_tokens_fn` of transformers. Clones are the same function.
///
/// ```
/// # use t5_wgpu::{Result, T5};
/// # fn main() -> Result<()> {
/// let t5 = T5::load("tests/data/tiny-model").wait()?;
/// // Three digits, and nothing else.
/// let digits = t5.tokenizer().encode("0123456789")?;
/// let end = t5.tokenizer().eos();
/// let rule = move |_source: usize, made: &[u32]| if made.len() < 3 { digits.clone() } else { vec![end] };
/// let answer = t5.answer(&["a number"], &t5.decoding().allow(rule)).wait()?.remove(0);
/// assert!(answer.text.len() == 3 && answer.text.bytes().all(|b| b.is_ascii_digit()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AllowedTokens(Arc<Allowed>);

impl AllowedTokens {
    pub fn new(allowed: impl Fn(usize, &[u32]) -> Vec<u32> + Send + Sync + 'static) -> AllowedTokens {
        AllowedTokens(Arc::new(allowed))
    }
}

impl PartialEq for AllowedTokens {
    /// Whether it is the same function.
    fn eq(&self, other: &AllowedTokens) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for AllowedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AllowedTokens")
    }
}

/// A row that is asked about.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub source: usize,
    pub made: &'a [u32],
    /// Whether something of the row can get into an answer. Beams that only fill places are asked about as well, as in
    /// transformers, but nothing need be allowed there.
    pub counts: bool,
}

/// The function, and what its answers become on the device: a bit for each row and token.
pub(super) struct Constraint<'a> {
    pub allowed: &'a AllowedTokens,
    /// Where the bits begin in the rules.
    pub place: usize,
    pub vocab: usize,
    /// Ids from here on are never chosen.
    pub limit: usize,
}

impl Constraint<'_> {
    /// Words of a row's bits.
    pub fn words(vocab: usize) -> usize {
        vocab.div_ceil(32)
    }

    /// Asks about each row, `None` being one that is finished, and uploads what the next step may choose.
    pub fn apply<'a>(&self, session: &Session, rows: impl Iterator<Item = Option<Asked<'a>>>) -> Result<()> {
        let mut bits = Vec::new();
        for row in rows {
            let first = bits.len();
            let asked = row.map(|asked| (asked, (self.allowed.0)(asked.source, asked.made)));
            let Some((asked, ids)) = asked.filter(|(asked, ids)| asked.counts || !ids.is_empty()) else {
                bits.resize(first + Constraint::words(self.vocab), u32::MAX);
                continue;
            };
            bits.resize(first + Constraint::words(self.vocab), 0u32);
            if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab) {
                let vocab = self.vocab;
                return Err(Error::Input(format!(
                    "the token {id}, which is allowed for source {}, is outside of the model's vocabulary of {vocab}",
                    asked.source
                )));
            }
            ids.iter().for_each(|&id| bits[first + id as usize / 32] |= 1 << (id % 32));
            if asked.counts && !ids.iter().any(|&id| (id as usize) < self.limit) {
                let tail = &asked.made[asked.made.len().saturating_sub(8)..];
                return Err(Error::Input(format!(
                    "no token is allowed for source {} behind its {} tokens, which end in {tail:?}: allow an end token \
                     where a target may end",
                    asked.source,
                    asked.made.len()
                )));
            }
        }
        session.write_rules(self.place, &bits);
        Ok(())
    }
}
