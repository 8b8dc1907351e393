//! The denoising objectives of the T5 paper (Raffel et al. 2020, sections 3.1.4 and 3.3; `t5/data/preprocessors.py`), and
//! UL2's mixture of denoisers (Tay et al. 2022).
//!
//! An objective turns a segment of running text into a source and a target, both ending with EOS. None of them loses a token:
//! segments are as long as fits, where the reference trims.

mod span_corruption;
mod written;

use serde::{Deserialize, Serialize};

pub use span_corruption::{Markers, SpanCorruption, noise_span_to_unique_sentinel};

use super::Example;
use crate::rng::Rng;
use crate::{Error, Result};

/// How text becomes sources and targets. In a recipe it is a name, or a table with the name and its settings:
/// `{ name = "span_corruption", noise_density = 0.15, mean_span = 3 }`.
#[derive(Clone, Debug, PartialEq)]
pub enum Objective {
    /// Random spans become sentinels; the target spells them out (section 3.1.4).
    SpanCorruption(SpanCorruption),
    /// The same with tokens masked one by one: a span is a run of them (the paper's baseline, table 5).
    IidReplaceSpans { noise_density: f64 },
    /// Masked tokens become a sentinel, a share of them a random token; the target is the whole text (table 4).
    Bert { noise_density: f64, random_share: f64 },
    /// The same without random tokens (table 5).
    Mass { noise_density: f64 },
    /// Masked tokens are left out; the target is them (table 5).
    DropTokens { noise_density: f64 },
    /// The source is the tokens in a random order, the target the text (table 4).
    Deshuffle,
    /// The text is cut at a random place: the target goes on where the source ends (table 4).
    PrefixLm,
    /// The target is the text, the source is empty (section 3.2.3).
    Lm,
    /// One of several denoisers, drawn for each segment; the source begins with its mode (UL2).
    Ul2 { denoisers: Vec<Denoiser> },
}

/// One of UL2's denoisers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denoiser {
    pub mode: Mode,
    /// Share of the text that is the target.
    pub noise_density: f64,
    /// Mean length of a span; not for `S`, whose target is the end of the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_span: Option<f64>,
    /// How often it is drawn, relative to the others.
    #[serde(default = "one")]
    pub rate: f64,
}

/// What a denoiser asks for; the source begins with this text in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Short spans: `[R]`.
    R,
    /// The end of the text: `[S]`.
    S,
    /// Long spans or many: `[X]`.
    X,
}

/// The sizes of an objective's examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// Tokens of a segment of text.
    pub raw: usize,
    /// The most tokens of a source, EOS counted.
    pub source: usize,
    /// The most tokens of a target, EOS counted.
    pub target: usize,
}

/// Deviations of the target's length beyond the mean that there is room for, where each token is masked by itself.
const DEVIATIONS: f64 = 3.5;

/// Masks drawn until a target fits. Hardly one in a thousand does not.
const TRIES: usize = 1000;

fn one() -> f64 {
    1.0
}

impl Default for Objective {
    fn default() -> Objective {
        Objective::SpanCorruption(SpanCorruption::default())
    }
}

impl Objective {
    /// UL2's seven denoisers at equal rates: two R, four X, one S.
    pub fn ul2() -> Objective {
        let spans = |mode, mean_span, noise_density| Denoiser { mode, noise_density, mean_span: Some(mean_span), rate: 1.0 };
        let denoisers = vec![
            spans(Mode::R, 3.0, 0.15),
            spans(Mode::R, 8.0, 0.15),
            Denoiser { mode: Mode::S, noise_density: 0.25, mean_span: None, rate: 1.0 },
            spans(Mode::X, 3.0, 0.5),
            spans(Mode::X, 8.0, 0.5),
            spans(Mode::X, 64.0, 0.15),
            spans(Mode::X, 64.0, 0.5),
        ];
        Objective::Ul2 { denoisers }
    }

    /// # Errors
    /// `Input` if a setting is out of its range.
    pub fn check(&self) -> Result<()> {
        let density = |density: f64| {
            let holds = density > 0.0 && density < 1.0;
            if holds { Ok(()) } else { Err(Error::Input(format!("noise density {density} is not between 0 and 1"))) }
        };
        match self {
            Objective::SpanCorruption(spans) => spans.check(),
            Objective::IidReplaceSpans { noise_density }
            | Objective::Mass { noise_density }
            | Objective::DropTokens { noise_density } => density(*noise_density),
            Objective::Bert { noise_density, random_share } => {
                density(*noise_density)?;
                let holds = (0.0..=1.0).contains(random_share);
                let what = || format!("a share of {random_share} random tokens is not between 0 and 1");
                if holds { Ok(()) } else { Err(Error::Input(what())) }
            }
            Objective::Deshuffle | Objective::PrefixLm | Objective::Lm => Ok(()),
            Objective::Ul2 { denoisers } => {
                for denoiser in denoisers {
                    match denoiser.spans() {
                        Some(spans) => spans.check()?,
                        None => density(denoiser.noise_density)?,
                    }
                }
                let rates_hold = denoisers.iter().all(|d| d.rate >= 0.0 && d.rate.is_finite());
                if !rates_hold || denoisers.iter().map(|d| d.rate).sum::<f64>() <= 0.0 {
                    return Err(Error::Input("the rates of denoisers must not be negative, and not all 0".into()));
                }
                Ok(())
            }
        }
    }

    /// The sizes for sources of at most `inputs_len` tokens, EOS counted: the longest segments that fit. `targets_len` is for
    /// objectives whose targets have no length of their own: (prefix) language modelling, where it defaults to `inputs_len`, and
    /// masks that are drawn token by token, where it defaults to somewhat more than the mean.
    ///
    /// # Errors
    /// `Input` if a setting is out of range, or the lengths leave no room for a text.
    pub fn lengths(&self, inputs_len: usize, targets_len: Option<usize>) -> Result<Lengths> {
        self.check()?;
        if targets_len.is_some() && !self.leaves_targets_open() {
            let what = format!("the length of {}'s targets follows from that of its sources: leave it out", self.name());
            return Err(Error::Input(what));
        }
        let targets = targets_len.unwrap_or(inputs_len);
        if inputs_len < 3 || targets < 3 {
            return Err(Error::Input(format!(
                "lengths of {} tokens cannot hold a text and the end of the sequence: use at least 3",
                inputs_len.min(targets)
            )));
        }
        let raw = inputs_len - 1;
        Ok(match self {
            Objective::SpanCorruption(spans) => {
                let (raw, target) = spans.lengths(inputs_len)?;
                Lengths { raw, source: inputs_len, target }
            }
            Objective::IidReplaceSpans { noise_density: r } => {
                let n = raw as f64;
                // Masked tokens, a sentinel for each run of clean ones, EOS.
                let mean = n * r + n * r * (1.0 - r) + 3.0;
                let room = mean + 2.0 * DEVIATIONS * (n * r * (1.0 - r)).sqrt();
                Lengths { raw, source: inputs_len, target: targets_len.unwrap_or((room.ceil() as usize).min(inputs_len + 1)) }
            }
            Objective::DropTokens { noise_density: r } => {
                let n = raw as f64;
                let room = n * r + 1.0 + DEVIATIONS * (n * r * (1.0 - r)).sqrt();
                Lengths { raw, source: inputs_len, target: targets_len.unwrap_or((room.ceil() as usize).clamp(2, inputs_len)) }
            }
            Objective::Bert { .. } | Objective::Mass { .. } | Objective::Deshuffle => {
                Lengths { raw, source: inputs_len, target: inputs_len }
            }
            // The cut leaves at least a token on either side.
            Objective::PrefixLm => {
                let raw = inputs_len.min(targets);
                Lengths { raw, source: raw, target: raw }
            }
            Objective::Lm => Lengths { raw: targets - 1, source: 1, target: targets },
            Objective::Ul2 { denoisers } => {
                let each = denoisers.iter().map(|denoiser| denoiser.lengths(inputs_len));
                let raw = each.collect::<Result<Vec<_>>>()?.into_iter().min().unwrap_or(2);
                let sizes = |pick: fn((usize, usize)) -> usize| {
                    denoisers.iter().map(|denoiser| pick(denoiser.sizes(raw))).max().unwrap_or(2)
                };
                Lengths { raw, source: sizes(|(source, _)| source), target: sizes(|(_, target)| target) }
            }
        })
    }

    /// Whether documents are joined before they are cut into segments; the reference's prefix LM cuts each by itself.
    pub fn joins_documents(&self) -> bool {
        !matches!(self, Objective::PrefixLm | Objective::Deshuffle)
    }

    /// Turns a segment of at least 2 tokens, without EOS, into an example.
    ///
    /// # Errors
    /// `Input`: a shorter segment, fewer sentinels than the mask needs.
    pub fn apply(&self, tokens: &[u32], lengths: &Lengths, markers: &Markers, rng: &mut Rng) -> Result<Example> {
        if tokens.len() < 2 {
            return Err(Error::Input(format!("a text of {} token(s) is too short to mask a part of it", tokens.len())));
        }
        let (mut source, mut target) = match self {
            Objective::SpanCorruption(spans) => return spans.corrupt(tokens, markers, rng),
            Objective::IidReplaceSpans { noise_density } => {
                fitting(lengths.target, || {
                    let mask = iid_mask(tokens.len(), *noise_density, rng);
                    let inverted: Vec<bool> = mask.iter().map(|&masked| !masked).collect();
                    let source = noise_span_to_unique_sentinel(tokens, &mask, &markers.sentinels)?;
                    Ok((source, noise_span_to_unique_sentinel(tokens, &inverted, &markers.sentinels)?))
                })?
            }
            Objective::DropTokens { noise_density } => fitting(lengths.target, || {
                let mask = iid_mask(tokens.len(), *noise_density, rng);
                let pick = |wanted: bool| tokens.iter().zip(&mask).filter(move |(_, m)| **m == wanted).map(|(t, _)| *t);
                Ok((pick(false).collect(), pick(true).collect()))
            })?,
            Objective::Bert { noise_density, random_share } => {
                (masked(tokens, *noise_density, *random_share, markers, rng)?, tokens.to_vec())
            }
            Objective::Mass { noise_density } => (masked(tokens, *noise_density, 0.0, markers, rng)?, tokens.to_vec()),
            Objective::Deshuffle => {
                let mut source = tokens.to_vec();
                rng.shuffle(&mut source);
                (source, tokens.to_vec())
            }
            Objective::PrefixLm => {
                let cut = 1 + rng.below(tokens.len() as u64 - 1) as usize;
                (tokens[..cut].to_vec(), tokens[cut..].to_vec())
            }
            Objective::Lm => (Vec::new(), tokens.to_vec()),
            Objective::Ul2 { denoisers } => {
                let denoiser = draw(denoisers, rng);
                let Example { source, target } = denoiser.apply(tokens, markers, rng)?;
                return Ok(Example { source: [markers.mode(denoiser.mode), &source].concat(), target });
            }
        };
        source.push(markers.eos);
        target.push(markers.eos);
        Ok(Example { source, target })
    }

    /// # Errors
    /// `Input` if segments of `raw` tokens need more sentinels than the tokenizer has.
    pub fn check_sentinels(&self, raw: usize, markers: &Markers) -> Result<()> {
        match self {
            Objective::SpanCorruption(spans) => spans.check_sentinels(raw, markers),
            Objective::Ul2 { denoisers } => {
                denoisers.iter().filter_map(Denoiser::spans).try_for_each(|spans| spans.check_sentinels(raw, markers))
            }
            // Runs of a mask drawn token by token: at most half of the tokens, as many as the mean and some more.
            Objective::IidReplaceSpans { noise_density: r } => {
                let mean = raw as f64 * r * (1.0 - r);
                let needed = ((mean + DEVIATIONS * mean.sqrt()).ceil() as usize + 1).min(raw.div_ceil(2));
                if needed <= markers.sentinels.len() {
                    return Ok(());
                }
                Err(Error::Input(format!(
                    "a text of {raw} tokens may have {needed} masked spans, but the tokenizer has {} sentinels: use a shorter \
                     sequence length",
                    markers.sentinels.len()
                )))
            }
            Objective::Bert { .. } | Objective::Mass { .. } if markers.sentinels.is_empty() => {
                Err(Error::Input("the tokenizer has no sentinel to mask tokens with".into()))
            }
            _ => Ok(()),
        }
    }

    fn leaves_targets_open(&self) -> bool {
        matches!(
            self,
            Objective::IidReplaceSpans { .. } | Objective::DropTokens { .. } | Objective::PrefixLm | Objective::Lm
        )
    }
}

impl Denoiser {
    /// `None` for the end of the text.
    fn spans(&self) -> Option<SpanCorruption> {
        let mean_span = self.mean_span.filter(|_| self.mode != Mode::S)?;
        Some(SpanCorruption { noise_density: self.noise_density, mean_span })
    }

    /// Tokens of the longest segment that fits.
    fn lengths(&self, inputs_len: usize) -> Result<usize> {
        let room = inputs_len.saturating_sub(Markers::MODE_TOKENS);
        match self.spans() {
            Some(spans) => Ok(spans.lengths(room)?.0),
            None if room < 3 => Err(Error::Input(format!("sources of {inputs_len} tokens have no room for a text"))),
            None => Ok((2..).take_while(|&raw| raw - self.suffix(raw) < room).last().unwrap_or(2)),
        }
    }

    /// (source, target) tokens of a segment, EOS and mode counted.
    fn sizes(&self, raw: usize) -> (usize, usize) {
        let (source, target) = match self.spans() {
            Some(spans) => spans.corrupted_lengths(raw),
            None => (raw - self.suffix(raw) + 1, self.suffix(raw) + 1),
        };
        (source + Markers::MODE_TOKENS, target)
    }

    /// Tokens at the end of the text that are the target.
    fn suffix(&self, raw: usize) -> usize {
        ((raw as f64 * self.noise_density).round_ties_even() as usize).clamp(1, raw - 1)
    }

    fn apply(&self, tokens: &[u32], markers: &Markers, rng: &mut Rng) -> Result<Example> {
        match self.spans() {
            Some(spans) => spans.corrupt(tokens, markers, rng),
            None => {
                let (source, target) = tokens.split_at(tokens.len() - self.suffix(tokens.len()));
                let ended = |tokens: &[u32]| tokens.iter().copied().chain([markers.eos]).collect();
                Ok(Example { source: ended(source), target: ended(target) })
            }
        }
    }
}

fn draw<'a>(denoisers: &'a [Denoiser], rng: &mut Rng) -> &'a Denoiser {
    let mut point = rng.uniform() * denoisers.iter().map(|d| d.rate).sum::<f64>();
    let chosen = denoisers.iter().find(|denoiser| {
        let here = point < denoiser.rate;
        point -= denoiser.rate;
        here
    });
    chosen.unwrap_or(&denoisers[denoisers.len() - 1])
}

/// Each token masked with this probability, at least one and never all (as the reference's span masks are).
fn iid_mask(len: usize, density: f64, rng: &mut Rng) -> Vec<bool> {
    loop {
        let mask: Vec<bool> = (0..len).map(|_| rng.uniform() < density).collect();
        if mask.contains(&true) && mask.contains(&false) {
            return mask;
        }
        // A short text, or an extreme density: one token of the rarer kind.
        if len as f64 * density.min(1.0 - density) < 1.0 {
            let rarer = rng.below(len as u64) as usize;
            return (0..len).map(|i| (i == rarer) == (density < 0.5)).collect();
        }
    }
}

/// Draws until the target and its EOS fit.
fn fitting(most: usize, mut draw: impl FnMut() -> Result<(Vec<u32>, Vec<u32>)>) -> Result<(Vec<u32>, Vec<u32>)> {
    for _ in 0..TRIES {
        let (source, target) = draw()?;
        if target.len() < most {
            return Ok((source, target));
        }
    }
    Err(Error::Input(format!("targets of {most} tokens are too short for so many masked tokens: allow longer ones")))
}

/// Masked tokens replaced by sentinel 0, or by a random token other than the special ones
/// (`noise_token_to_random_token_or_sentinel`).
fn masked(tokens: &[u32], density: f64, random: f64, markers: &Markers, rng: &mut Rng) -> Result<Vec<u32>> {
    let sentinel = *markers.sentinels.first().ok_or_else(|| Error::Input("the tokenizer has no sentinel".into()))?;
    let mask = iid_mask(tokens.len(), density, rng);
    let replace = |(&token, &masked): (&u32, &bool)| match masked {
        false => token,
        true if random > 0.0 && rng.uniform() < random => markers.random_token(rng),
        true => sentinel,
    };
    Ok(tokens.iter().zip(&mask).map(replace).collect())
}
