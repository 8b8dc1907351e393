//! Objectives that treat each token by itself, or a text as two halves.

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::Markers;
use super::markers::FIRST_RANDOM;
use super::spans::replace_spans;
use crate::batch::Example;
use crate::rng::Rng;
use crate::{Error, Result};

/// Tokens are masked independently of each other (`iid_noise_mask`). The default is the paper's 15 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Iid {
    /// Probability of a token to be masked, 0 < density < 1.
    pub noise_density: f64,
}

/// As [`Iid`], with some random tokens in place of the sentinel (`noise_token_to_random_token_or_sentinel`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bert {
    /// Probability of a token to be masked, 0 < density < 1.
    pub noise_density: f64,
    /// Share of the masked tokens that become a random token (of the whole vocabulary but the first three ids, sentinels
    /// included, as in the reference) and not the sentinel, 0 to 1.
    pub random_share: f64,
}

/// Where a text is cut.
#[skip_serializing_none]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixLm {
    /// Share of the text that is the target, 0 < share < 1 (UL2's S denoiser, as random spans with a single span). By
    /// default the prefix has a uniformly random length from 1 to all but one token (`random_prefix_noise_mask`).
    pub target_share: Option<f64>,
}

impl Default for Iid {
    fn default() -> Iid {
        Iid { noise_density: 0.15 }
    }
}

impl Default for Bert {
    fn default() -> Bert {
        Bert { noise_density: 0.15, random_share: 0.1 }
    }
}

impl Iid {
    pub(super) fn check(&self) -> Result<()> {
        check_density(self.noise_density)
    }

    pub(super) fn replace_spans(&self, tokens: &[u32], markers: &Markers, rng: &mut Rng) -> Result<Example> {
        // Clean runs may outnumber masked ones by one, and each needs a sentinel in the target.
        let most = markers.sentinels.len().saturating_sub(1);
        if most == 0 {
            return Err(Error::Input(format!(
                "iid_replace_spans needs 2 sentinels or more, the tokenizer has {}",
                markers.sentinels.len()
            )));
        }
        let mut mask = self.noise_mask(tokens.len(), rng);
        keep_runs(&mut mask, most);
        replace_spans(tokens, &mask, markers)
    }

    pub(super) fn mask(&self, tokens: &[u32], markers: &Markers, rng: &mut Rng) -> Result<Vec<u32>> {
        let sentinel = markers.mask()?;
        let mask = self.noise_mask(tokens.len(), rng);
        Ok(tokens.iter().zip(mask).map(|(&token, masked)| if masked { sentinel } else { token }).collect())
    }

    /// (clean tokens, masked tokens).
    pub(super) fn partition(&self, tokens: &[u32], rng: &mut Rng) -> (Vec<u32>, Vec<u32>) {
        let mut masked = self.noise_mask(tokens.len(), rng).into_iter();
        tokens.iter().partition(|_| masked.next() == Some(false))
    }

    fn noise_mask(&self, len: usize, rng: &mut Rng) -> Vec<bool> {
        (0..len).map(|_| rng.uniform() < self.noise_density).collect()
    }
}

impl Bert {
    pub(super) fn check(&self) -> Result<()> {
        check_density(self.noise_density)?;
        if !(0.0..=1.0).contains(&self.random_share) {
            return Err(Error::Input(format!("random_share = {} is not between 0 and 1", self.random_share)));
        }
        Ok(())
    }

    pub(super) fn mask(&self, tokens: &[u32], markers: &Markers, rng: &mut Rng) -> Result<Vec<u32>> {
        let sentinel = markers.mask()?;
        let mask = Iid { noise_density: self.noise_density }.noise_mask(tokens.len(), rng);
        let n_random = u64::from(markers.vocab_size.saturating_sub(FIRST_RANDOM));
        let noise = |rng: &mut Rng| match rng.uniform() < self.random_share && n_random > 0 {
            true => FIRST_RANDOM + rng.below(n_random) as u32,
            false => sentinel,
        };
        Ok(tokens.iter().zip(mask).map(|(&token, masked)| if masked { noise(rng) } else { token }).collect())
    }
}

impl PrefixLm {
    pub(super) fn check(&self) -> Result<()> {
        match self.target_share {
            Some(share) if !(share > 0.0 && share < 1.0) => {
                Err(Error::Input(format!("target_share = {share} is not between 0 and 1")))
            }
            _ => Ok(()),
        }
    }

    /// Tokens of the source of a text of `len` >= 2 tokens.
    pub(super) fn prefix_len(&self, len: usize, rng: &mut Rng) -> usize {
        match self.target_share {
            Some(share) => len - target_of(share, len),
            None => 1 + rng.below(len as u64 - 1) as usize,
        }
    }
}

/// Tokens of a text of `len` >= 2 that are the target: a share, but at least 1 and never all.
pub(super) fn target_of(share: f64, len: usize) -> usize {
    ((len as f64 * share).round_ties_even() as usize).clamp(1, len - 1)
}

fn check_density(density: f64) -> Result<()> {
    if density > 0.0 && density < 1.0 {
        Ok(())
    } else {
        Err(Error::Input(format!("noise density {density} is not between 0 and 1")))
    }
}

/// Masks nothing after the first `most` runs of masked tokens.
fn keep_runs(mask: &mut [bool], most: usize) {
    let (mut runs, mut previous) = (0, false);
    for masked in mask {
        runs += usize::from(*masked && !previous);
        previous = *masked;
        *masked &= runs <= most;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_beyond_the_last_are_unmasked() {
        let mask = |text: &str| text.chars().map(|c| c == 'x').collect::<Vec<bool>>();
        for (text, most, expected) in [("xx.x..xx", 2, "xx.x...."), (".x.x.", 1, ".x..."), ("xx.", 1, "xx.")] {
            let mut found = mask(text);
            keep_runs(&mut found, most);
            assert_eq!(found, mask(expected), "{text}");
        }
    }
}
