//! How long the segments of a text must be for an objective's examples to fit.

use serde::Serialize;

use super::noise::{Iid, target_of};
use super::{Denoiser, Markers, Objective};
use crate::batch::Example;
use crate::{Error, Result};

/// What an objective makes of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// Tokens of a segment of the text, without EOS.
    pub raw: usize,
    /// The most tokens of a source, EOS counted.
    pub source: usize,
    /// The most tokens of a target, EOS counted.
    pub target: usize,
}

/// Targets of `iid_replace_spans` for sources of 512 tokens, by noise density, in the paper's configurations.
const PAPER_IID: [(f64, usize); 4] = [(0.10, 103), (0.15, 192), (0.25, 256), (0.50, 512)];

/// The same for `drop_tokens`.
const PAPER_DROP: [(f64, usize); 1] = [(0.15, 104)];

/// The source length that those are for.
const PAPER_SOURCE: usize = 512;

/// Beyond any model, and searches for lengths end.
const MOST_TOKENS: usize = 1 << 20;

/// Deviations from the mean up to which targets of random length are kept whole: beyond lies one in 10^9.
const DEVIATIONS: f64 = 6.0;

impl Lengths {
    /// Cuts sides that are too long, and puts EOS at their end.
    pub fn trim(&self, example: &mut Example, eos: u32) {
        for (tokens, most) in [(&mut example.source, self.source), (&mut example.target, self.target)] {
            if tokens.len() > most {
                tokens.truncate(most - 1);
                tokens.push(eos);
            }
        }
    }

    fn widest(self, other: Lengths) -> Lengths {
        Lengths {
            raw: self.raw.max(other.raw),
            source: self.source.max(other.source),
            target: self.target.max(other.target),
        }
    }
}

impl Objective {
    /// The longest segments whose sources have at most `inputs_len` tokens, EOS counted.
    ///
    /// `targets_len` limits targets, EOS counted:
    /// - `iid_replace_spans` and `drop_tokens` make targets of random length, and cut those that are longer. By default
    ///   the limit is the paper's where it has one (192 for 512 and 15 %), else it is hardly ever reached.
    /// - `prefix_lm` cuts them too; by default none is.
    /// - `bert`, `mass` and `deshuffle` have the whole text as target, `lm` nothing else: segments are as short as it
    ///   takes (the reference cuts the targets). By default `inputs_len`.
    /// - `span_corruption` fixes the targets' length, and so do the denoisers of `ul2`: it must not be less than that.
    ///
    /// For `ul2` each denoiser has lengths of its own; these are the most of each.
    ///
    /// # Errors
    /// `Input`: settings out of range, or lengths too short to hold a part of a text of two tokens.
    pub fn lengths(&self, inputs_len: usize, targets_len: Option<usize>) -> Result<Lengths> {
        self.check()?;
        if inputs_len < 3 || targets_len.is_some_and(|length| length < 2) {
            return Err(Error::Input(format!(
                "{}: lengths of {inputs_len} source and {} target tokens cannot hold a part of a text: use at least 3 and 2",
                self.name(),
                targets_len.unwrap_or(inputs_len)
            )));
        }
        if inputs_len.max(targets_len.unwrap_or(0)) > MOST_TOKENS {
            return Err(Error::Input(format!("{}: an example has at most {MOST_TOKENS} tokens", self.name())));
        }
        // One token of the source is for EOS.
        let raw = inputs_len - 1;
        let lengths = match self {
            Objective::SpanCorruption(spans) => {
                let (raw, target) = spans.lengths(inputs_len)?;
                Lengths { raw, source: spans.corrupted_lengths(raw).0, target }.with_targets(targets_len)?
            }
            Objective::IidReplaceSpans(iid) => {
                let target = targets_len.unwrap_or_else(|| iid.replaced_targets(inputs_len));
                Lengths { raw, source: inputs_len, target }
            }
            Objective::DropTokens(iid) => {
                let target = targets_len.unwrap_or_else(|| iid.dropped_targets(inputs_len));
                Lengths { raw, source: inputs_len, target }
            }
            Objective::Bert(_) | Objective::Mass(_) | Objective::Deshuffle => {
                let length = inputs_len.min(targets_len.unwrap_or(inputs_len));
                Lengths { raw: length - 1, source: length, target: length }
            }
            Objective::PrefixLm(prefix_lm) => match prefix_lm.target_share {
                Some(share) => shared(inputs_len, share, targets_len),
                // At least one token is on the other side.
                None => Lengths { raw, source: raw, target: targets_len.unwrap_or(raw).min(raw) },
            },
            Objective::Lm => {
                let target = targets_len.unwrap_or(inputs_len);
                Lengths { raw: target - 1, source: 1, target }
            }
            Objective::Ul2(ul2) => {
                let each = ul2.denoisers.iter().map(|denoiser| denoiser.lengths(inputs_len, targets_len));
                let none = Lengths { raw: 0, source: 0, target: 0 };
                each.collect::<Result<Vec<_>>>()?.into_iter().fold(none, Lengths::widest)
            }
        };
        if lengths.raw < 2 {
            return Err(Error::Input(format!(
                "{}: segments of {} token: use longer lengths",
                self.name(),
                lengths.raw
            )));
        }
        Ok(lengths)
    }

    /// [`Objective::lengths`] with a given tokenizer, one for each number that [`Objective::draw`] may give.
    ///
    /// For `ul2` segments are shortened where their spans outnumber the sentinels.
    ///
    /// # Errors
    /// Those, and too few sentinels for `span_corruption`.
    pub fn lengths_by_draw(
        &self,
        inputs_len: usize,
        targets_len: Option<usize>,
        markers: &Markers,
    ) -> Result<Vec<Lengths>> {
        let lengths = self.lengths(inputs_len, targets_len)?;
        match self {
            Objective::SpanCorruption(spans) => spans.check_sentinels(lengths.raw, markers).map(|()| vec![lengths]),
            Objective::Ul2(ul2) => {
                let fitting = |denoiser: &Denoiser| denoiser.fitting_lengths(inputs_len, targets_len, markers);
                ul2.denoisers.iter().map(fitting).collect()
            }
            _ => Ok(vec![lengths]),
        }
    }
}

impl Lengths {
    /// The most of each.
    pub fn most(all: &[Lengths]) -> Lengths {
        all.iter().fold(Lengths { raw: 0, source: 0, target: 0 }, |most, &lengths| most.widest(lengths))
    }

    fn with_targets(self, targets_len: Option<usize>) -> Result<Lengths> {
        match targets_len {
            Some(most) if most < self.target => Err(Error::Input(format!(
                "targets of up to {most} tokens are too short: sources of {} come with targets of {}; leave the length of \
                 targets out, or use shorter sources",
                self.source, self.target
            ))),
            _ => Ok(self),
        }
    }
}

impl Denoiser {
    fn lengths(&self, inputs_len: usize, targets_len: Option<usize>) -> Result<Lengths> {
        let room = self.prefix_room();
        let lengths = self.objective.lengths(inputs_len.saturating_sub(room), targets_len)?;
        Ok(Lengths { source: lengths.source + room, ..lengths })
    }

    fn fitting_lengths(&self, inputs_len: usize, targets_len: Option<usize>, markers: &Markers) -> Result<Lengths> {
        let lengths = self.lengths(inputs_len, targets_len)?;
        let Objective::SpanCorruption(spans) = &self.objective else { return Ok(lengths) };
        let raw = (2..=lengths.raw).rev().find(|&raw| spans.n_spans(raw) <= markers.sentinels.len());
        let raw = raw.ok_or_else(|| Error::Input("the tokenizer has no sentinels to mask spans with".into()))?;
        let (source, target) = spans.corrupted_lengths(raw);
        Ok(Lengths { raw, source: source + self.prefix_room(), target })
    }
}

impl Iid {
    /// The masked tokens, a sentinel for each run of clean ones, and EOS.
    fn replaced_targets(&self, inputs_len: usize) -> usize {
        let (n, p) = ((inputs_len - 1) as f64, self.noise_density);
        let pq = p * (1.0 - p);
        let mean = n * (p + pq);
        let variance = n * pq * (1.0 + (1.0 - 3.0 * pq) + 2.0 * (1.0 - 2.0 * p));
        // Each run of clean tokens has at least one token: the target is never longer than the text.
        self.papers(&PAPER_IID, inputs_len).unwrap_or_else(|| bound(mean, variance, inputs_len))
    }

    /// The masked tokens and EOS.
    fn dropped_targets(&self, inputs_len: usize) -> usize {
        let (n, p) = ((inputs_len - 1) as f64, self.noise_density);
        self.papers(&PAPER_DROP, inputs_len).unwrap_or_else(|| bound(n * p, n * p * (1.0 - p), inputs_len))
    }

    fn papers(&self, table: &[(f64, usize)], inputs_len: usize) -> Option<usize> {
        let row = table.iter().find(|(density, _)| *density == self.noise_density && inputs_len == PAPER_SOURCE);
        row.map(|(_, target)| *target)
    }
}

/// The mean, some deviations, the first run's sentinel and EOS, but no more than is possible.
fn bound(mean: f64, variance: f64, most: usize) -> usize {
    ((mean + DEVIATIONS * variance.max(0.0).sqrt()).ceil() as usize + 2).min(most)
}

/// The longest segment whose first part fits, the last `share` of it being the target.
fn shared(inputs_len: usize, share: f64, targets_len: Option<usize>) -> Lengths {
    let sides = |raw: usize| (raw - target_of(share, raw) + 1, target_of(share, raw) + 1);
    let mut raw = 2;
    while sides(raw + 1).0 <= inputs_len {
        raw += 1;
    }
    let (source, target) = sides(raw);
    Lengths { raw, source, target: targets_len.unwrap_or(target).min(target) }
}
