//! The denoising objective of T5: random spans are replaced by sentinels, the target spells the spans out
//! (Raffel et al. 2020, section 3.1.4; `t5/data/preprocessors.py`: random_spans_helper, random_spans_noise_mask,
//! noise_span_to_unique_sentinel).

use serde::{Deserialize, Serialize};

use super::Markers;
use crate::batch::Example;
use crate::rng::Rng;
use crate::{Error, Result};

/// How much is masked, and in how long spans. The default is the paper's: 15 % in spans of 3 tokens on average.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpanCorruption {
    /// Share of the tokens that is masked, 0 < density < 1.
    pub noise_density: f64,
    /// Mean length of a masked span in tokens, >= 1.
    pub mean_span: f64,
    /// Whether the mask is rotated by a random number of tokens, so that a text may begin masked and end clean. Source or
    /// target (not both) may then be longer by one sentinel, for which the lengths make room, unlike the reference's.
    pub random_roll: bool,
}

impl Default for SpanCorruption {
    fn default() -> Self {
        SpanCorruption { noise_density: 0.15, mean_span: 3.0, random_roll: false }
    }
}

impl SpanCorruption {
    /// Errors with `Input` if the settings are outside their ranges.
    pub fn check(&self) -> Result<()> {
        if !(self.noise_density > 0.0 && self.noise_density < 1.0) {
            return Err(Error::Input(format!("noise density {} is not between 0 and 1", self.noise_density)));
        }
        if !(self.mean_span >= 1.0 && self.mean_span.is_finite()) {
            return Err(Error::Input(format!("mean span length {} is less than one token", self.mean_span)));
        }
        Ok(())
    }

    /// (raw tokens, target tokens) for sources of at most `inputs_len` tokens, EOS counted on both sides: the longest
    /// raw segment whose corrupted form fits. 512 -> (568, 114) with the default settings.
    ///
    /// Differs from random_spans_helper only for texts so short that it plans for no span at all although the mask
    /// always has one: there it lets the source overflow by one token and trims it, here nothing ever needs trimming.
    pub fn lengths(&self, inputs_len: usize) -> Result<(usize, usize)> {
        self.check()?;
        if inputs_len < self.corrupted_lengths(2).0 {
            return Err(Error::Input(format!(
                "a source length of {inputs_len} cannot hold a token, a sentinel and the end of the sequence: use at \
                 least {}",
                self.corrupted_lengths(2).0
            )));
        }
        // The reference begins at inputs_len - 1, which comes to the same: longer texts never have shorter sources.
        let mut raw = 2;
        while self.corrupted_lengths(raw + 1).0 <= inputs_len {
            raw += 1;
        }
        let (inputs, targets) = self.corrupted_lengths(raw);
        // The reference does this to make both sides equal when half of the text is masked.
        if self.noise_density == 0.5 && targets > inputs && raw > 2 {
            raw -= 1;
        }
        Ok((raw, self.corrupted_lengths(raw).1))
    }

    /// (source, target) tokens, EOS counted, that a text of `raw` >= 2 tokens is corrupted into: exact, but for a random
    /// roll, where either may be one less.
    pub fn corrupted_lengths(&self, raw: usize) -> (usize, usize) {
        let (noise, _) = self.counts(raw);
        let sentinels = self.n_spans(raw);
        (raw - noise + sentinels + 1, noise + sentinels + 1)
    }

    /// Sentinels that a text of `raw` >= 2 tokens needs: as many as spans, and one more if the mask is rolled.
    pub fn n_spans(&self, raw: usize) -> usize {
        self.counts(raw).1 + usize::from(self.random_roll)
    }

    /// `[len]`, true where masked: spans and gaps of random lengths that alternate, starting with a gap and ending with
    /// a span (before a random roll).
    pub fn noise_mask(&self, len: usize, rng: &mut Rng) -> Vec<bool> {
        let padded = len.max(2);
        let (noise, spans) = self.counts(padded);
        let span_lens = random_segmentation(noise, spans, rng);
        let gap_lens = random_segmentation(padded - noise, spans, rng);
        let mut mask = Vec::with_capacity(padded);
        for (gap, span) in gap_lens.into_iter().zip(span_lens) {
            mask.resize(mask.len() + gap, false);
            mask.resize(mask.len() + span, true);
        }
        mask.truncate(len);
        if self.random_roll && len > 0 {
            mask.rotate_right(rng.below(len as u64) as usize);
        }
        mask
    }

    /// Masks random spans of `tokens` (at least 2, without EOS). The source keeps the clean tokens, the target the masked
    /// ones, and each stretch that is missing is marked by the same sentinel on both sides; both end with EOS. There is
    /// no final sentinel in the target, as in the reference code and unlike the figures of the paper.
    ///
    /// Errors if the text is shorter than 2 tokens or needs more sentinels than there are.
    pub fn corrupt(&self, tokens: &[u32], markers: &Markers, rng: &mut Rng) -> Result<Example> {
        self.check()?;
        if tokens.len() < 2 {
            return Err(Error::Input(format!("a text of {} token(s) is too short to mask a part of it", tokens.len())));
        }
        self.check_sentinels(tokens.len(), markers)?;
        let mask = self.noise_mask(tokens.len(), rng);
        replace_spans(tokens, &mask, markers)
    }

    /// Errors with `Input` if texts of `raw` tokens need more sentinels than there are.
    pub fn check_sentinels(&self, raw: usize, markers: &Markers) -> Result<()> {
        let (needed, available) = (self.n_spans(raw), markers.sentinels.len());
        if needed > available {
            return Err(Error::Input(format!(
                "a text of {raw} tokens is masked in {needed} spans, but the tokenizer has {available} sentinels: use a \
                 shorter sequence length, or a mean span longer than {}",
                self.mean_span
            )));
        }
        Ok(())
    }

    /// (masked tokens, spans). Both are at least 1, and there are enough tokens for every span and gap to have one.
    fn counts(&self, len: usize) -> (usize, usize) {
        let len = len.max(2);
        let noise = ((len as f64 * self.noise_density).round_ties_even() as usize).clamp(1, len - 1);
        let spans = (noise as f64 / self.mean_span).round_ties_even() as usize;
        (noise, spans.clamp(1, noise.min(len - noise)))
    }
}

/// Replaces every maximal run of masked tokens by one sentinel: sentinel 0, 1, ... from left to right.
/// `tokens` and `mask` have the same length; errors if there are more runs than sentinels.
pub fn noise_span_to_unique_sentinel(tokens: &[u32], mask: &[bool], sentinels: &[u32]) -> Result<Vec<u32>> {
    assert_eq!(tokens.len(), mask.len(), "the mask has one element for each token");
    let mut out = Vec::with_capacity(tokens.len());
    let mut unused = sentinels.iter();
    let mut in_span = false;
    for (&token, &masked) in tokens.iter().zip(mask) {
        if !masked {
            out.push(token);
        } else if !in_span {
            let sentinel = unused.next().ok_or_else(|| {
                Error::Input(format!(
                    "more than the tokenizer's {} sentinels are needed: use a shorter sequence length or longer spans",
                    sentinels.len()
                ))
            })?;
            out.push(*sentinel);
        }
        in_span = masked;
    }
    Ok(out)
}

/// The source keeps the clean tokens, the target the masked ones; each run that is missing is one sentinel, counted from 0
/// on either side. Both end with EOS.
pub(super) fn replace_spans(tokens: &[u32], mask: &[bool], markers: &Markers) -> Result<Example> {
    let inverted: Vec<bool> = mask.iter().map(|&masked| !masked).collect();
    let mut source = noise_span_to_unique_sentinel(tokens, mask, &markers.sentinels)?;
    let mut target = noise_span_to_unique_sentinel(tokens, &inverted, &markers.sentinels)?;
    source.push(markers.eos);
    target.push(markers.eos);
    Ok(Example { source, target })
}

/// Lengths of `segments` non-empty parts of `items` things, each way to cut them being as likely.
fn random_segmentation(items: usize, segments: usize, rng: &mut Rng) -> Vec<usize> {
    let mut cut_after: Vec<bool> = (1..items).map(|i| i < segments).collect();
    rng.shuffle(&mut cut_after);
    let mut lengths = vec![1];
    for cut in cut_after {
        match lengths.last_mut() {
            Some(length) if !cut => *length += 1,
            _ => lengths.push(1),
        }
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    fn objective(noise_density: f64, mean_span: f64) -> SpanCorruption {
        SpanCorruption { noise_density, mean_span, random_roll: false }
    }

    fn rng(index: u64) -> Rng {
        Rng::new(11, Purpose::Corruption, &[index])
    }

    #[test]
    fn golden_lengths() {
        for (density, mean_span, inputs_len, expected) in [
            (0.15, 3.0, 512, (568, 114)),
            (0.20, 2.0, 64, (70, 22)),
            (0.20, 1.0, 64, (63, 27)),
            (0.15, 2.0, 512, (552, 126)),
            (0.15, 5.0, 512, (581, 105)),
            (0.15, 10.0, 512, (591, 99)),
            (0.10, 3.0, 512, (548, 74)),
            (0.25, 3.0, 512, (614, 206)),
            (0.50, 3.0, 512, (766, 512)),
            (0.15, 3.0, 256, (284, 58)),
            (0.15, 3.0, 128, (141, 29)),
        ] {
            let objective = objective(density, mean_span);
            assert_eq!(objective.lengths(inputs_len).unwrap(), expected, "{objective:?} {inputs_len}");
        }
        assert_eq!(SpanCorruption::default().counts(568), (85, 28));
        assert_eq!(SpanCorruption::default().corrupted_lengths(568), (512, 114));
    }

    #[test]
    fn raw_length_is_the_longest_that_fits() {
        for density in [0.01, 0.15, 0.3, 0.8] {
            for mean_span in [1.0, 3.0, 64.0] {
                for inputs_len in 3..300 {
                    let objective = objective(density, mean_span);
                    let (raw, targets) = objective.lengths(inputs_len).unwrap();
                    assert!(objective.corrupted_lengths(raw).0 <= inputs_len);
                    assert_eq!(objective.corrupted_lengths(raw).1, targets);
                    assert!(objective.corrupted_lengths(raw + 1).0 > inputs_len);
                }
            }
        }
    }

    #[test]
    fn golden_sentinels() {
        let tokens = [10, 11, 12, 13, 14, 15];
        let mask = [true, true, false, false, true, false];
        let inverted = mask.map(|m| !m);
        let sentinels = [999, 998, 997];
        assert_eq!(noise_span_to_unique_sentinel(&tokens, &mask, &sentinels).unwrap(), [999, 12, 13, 998, 15]);
        assert_eq!(noise_span_to_unique_sentinel(&tokens, &inverted, &sentinels).unwrap(), [10, 11, 999, 14, 998]);
        assert!(noise_span_to_unique_sentinel(&tokens, &mask, &[999]).is_err());
        assert_eq!(noise_span_to_unique_sentinel(&[], &[], &[]).unwrap(), [0u32; 0]);
    }

    #[test]
    fn rounding_is_half_to_even() {
        // 10 * 0.25 = 2.5 -> 2 and 14 * 0.25 = 3.5 -> 4; 6 * 0.5 / 2 = 1.5 -> 2 spans and 10 * 0.5 / 2 = 2.5 -> 2 spans.
        assert_eq!(objective(0.25, 1.0).counts(10).0, 2);
        assert_eq!(objective(0.25, 1.0).counts(14).0, 4);
        assert_eq!(objective(0.5, 2.0).counts(6).1, 2);
        assert_eq!(objective(0.5, 2.0).counts(10).1, 2);
    }

    #[test]
    fn masks_start_clean_and_end_masked() {
        for len in 0..200 {
            let objective = SpanCorruption::default();
            let mask = objective.noise_mask(len, &mut rng(len as u64));
            assert_eq!(mask.len(), len);
            if len >= 2 {
                let (noise, spans) = objective.counts(len);
                assert!(!mask[0] && mask[len - 1]);
                assert_eq!(mask.iter().filter(|&&m| m).count(), noise);
                assert_eq!(mask.windows(2).filter(|w| !w[0] && w[1]).count(), spans);
            }
        }
    }

    #[test]
    fn segmentations_are_uniform() {
        let mut counts = std::collections::HashMap::new();
        let mut rng = rng(0);
        for _ in 0..10_000 {
            let parts = random_segmentation(6, 3, &mut rng);
            assert_eq!((parts.len(), parts.iter().sum::<usize>()), (3, 6));
            *counts.entry(parts).or_insert(0u32) += 1;
        }
        // C(5, 2) = 10 ways of 1,000 each; 9 degrees of freedom: 27.9 is passed once in a thousand.
        assert_eq!(counts.len(), 10);
        let chi: f64 = counts.values().map(|&c| (f64::from(c) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 27.9, "{counts:?}");
    }

    #[test]
    fn too_few_sentinels_is_an_error_with_a_remedy() {
        let markers = Markers::new((0..5).map(|k| 1000 + k).collect(), 1);
        let tokens: Vec<u32> = (0..200).collect();
        let error = SpanCorruption::default().corrupt(&tokens, &markers, &mut rng(0)).unwrap_err().to_string();
        assert!(error.contains("10 spans") && error.contains("5 sentinels") && error.contains("shorter"), "{error}");
    }

    #[test]
    fn bad_settings_are_errors() {
        let markers = Markers::new(vec![9], 1);
        for bad in [objective(0.0, 3.0), objective(1.0, 3.0), objective(f64::NAN, 3.0), objective(0.15, 0.5)] {
            assert!(bad.lengths(512).is_err(), "{bad:?}");
            assert!(bad.corrupt(&[1, 2, 3], &markers, &mut rng(0)).is_err(), "{bad:?}");
        }
        assert!(SpanCorruption::default().lengths(2).is_err());
        assert!(SpanCorruption::default().corrupt(&[5], &markers, &mut rng(0)).is_err());
        let shortest = SpanCorruption::default().corrupt(&[5, 6], &markers, &mut rng(0)).unwrap();
        assert_eq!(shortest, Example { source: vec![5, 9, 1], target: vec![9, 6, 1] });
    }
}
