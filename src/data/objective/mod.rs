//! Unsupervised objectives: how a stretch of text becomes a source and a target (Raffel et al. 2020, sections 3.1.4
//! and 3.3; `t5/data/preprocessors.py` and `t5/models/gin/objectives/`; UL2: Tay et al. 2022).
//!
//! A recipe names one, `objective = "span_corruption"`, or gives its settings in a table,
//! `objective = { name = "span_corruption", noise_density = 0.15, mean_span = 3.0 }`.

mod config;
mod lengths;
mod markers;
mod noise;
mod spans;

pub use config::ObjectiveInfo;
pub use lengths::Lengths;
pub use markers::Markers;
pub use noise::{Bert, Iid, PrefixLm};
pub use spans::{SpanCorruption, noise_span_to_unique_sentinel};

use serde::{Deserialize, Serialize};

use crate::batch::Example;
use crate::rng::Rng;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// How text becomes examples. All examples end with EOS on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Objective {
    /// Random spans become sentinels; the target spells them out. T5's own.
    SpanCorruption(SpanCorruption),
    /// Each token is masked by itself, runs of masked ones become a sentinel, the target spells them out: the baseline of
    /// the paper.
    ///
    /// Differs from the reference where a text needs more sentinels than there are: the reference goes on with the
    /// vocabulary's last ordinary tokens, here the rest of the text stays clean.
    IidReplaceSpans(Iid),
    /// Masked tokens each become sentinel 0, or some of them a random token; the target is the whole text.
    Bert(Bert),
    /// As `Bert`, without random tokens.
    Mass(Iid),
    /// Masked tokens are left out of the source; the target is all of them, without sentinels.
    DropTokens(Iid),
    /// The source has the tokens in random order, the target in theirs.
    Deshuffle,
    /// The source is the beginning of a text, the target the rest.
    PrefixLm(PrefixLm),
    /// The source is empty but for EOS, the target is the text.
    Lm,
    /// For each text one of several objectives, with a prefix that says which.
    Ul2(Ul2),
}

/// A mixture of denoisers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ul2 {
    pub denoisers: Vec<Denoiser>,
}

/// One of the objectives of UL2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denoiser {
    /// Any but UL2 itself.
    pub objective: Objective,
    /// How often it is drawn, in proportion to the others' rates.
    pub rate: f64,
    /// What sources begin with: the token of that name, or a text. May be empty.
    #[serde(default)]
    pub prefix: String,
}

impl Default for Objective {
    fn default() -> Objective {
        Objective::SpanCorruption(SpanCorruption::default())
    }
}

/// The seven denoisers of the UL2 paper: R (spans of 3 and 8 tokens, 15 %), S (prefix LM, a target of a quarter), X (long
/// spans or half of the tokens). The rates are those of FAT5's reproduction, a third for each kind.
impl Default for Ul2 {
    fn default() -> Ul2 {
        let denoiser = |prefix: &str, rate, objective| Denoiser { objective, rate, prefix: prefix.to_owned() };
        let spans = |noise_density, mean_span| {
            Objective::SpanCorruption(SpanCorruption { noise_density, mean_span, random_roll: false })
        };
        Ul2 {
            denoisers: vec![
                denoiser("[R]", 0.165, spans(0.15, 3.0)),
                denoiser("[R]", 0.165, spans(0.15, 8.0)),
                denoiser("[S]", 0.34, Objective::PrefixLm(PrefixLm { target_share: Some(0.25) })),
                denoiser("[X]", 0.0825, spans(0.5, 3.0)),
                denoiser("[X]", 0.0825, spans(0.5, 8.0)),
                denoiser("[X]", 0.0825, spans(0.15, 64.0)),
                denoiser("[X]", 0.0825, spans(0.5, 64.0)),
            ],
        }
    }
}

impl Objective {
    /// # Errors
    /// `Input`: a setting is out of its range.
    pub fn check(&self) -> Result<()> {
        match self {
            Objective::SpanCorruption(spans) => spans.check(),
            Objective::IidReplaceSpans(iid) | Objective::Mass(iid) | Objective::DropTokens(iid) => iid.check(),
            Objective::Bert(bert) => bert.check(),
            Objective::PrefixLm(prefix_lm) => prefix_lm.check(),
            Objective::Deshuffle | Objective::Lm => Ok(()),
            Objective::Ul2(ul2) => ul2.check(),
        }
    }

    /// The ids that its examples are made of.
    ///
    /// # Errors
    /// `Input`: a prefix of UL2 cannot be encoded.
    pub fn markers(&self, tokenizer: &Tokenizer) -> Result<Markers> {
        let prefixes: Vec<Vec<u32>> = self
            .denoisers()
            .iter()
            .map(|denoiser| markers::encode_prefix(tokenizer, &denoiser.prefix, denoiser.prefix_room()))
            .collect::<Result<_>>()?;
        Ok(Markers { prefixes, ..Markers::of(tokenizer) })
    }

    /// The example that a text of at least 2 tokens (without EOS) becomes, however long: [`Lengths::trim`] cuts it.
    ///
    /// # Errors
    /// `Input`: a shorter text, a setting out of range, too few sentinels, or markers that were not made by
    /// [`Objective::markers`].
    pub fn apply(&self, tokens: &[u32], markers: &Markers, rng: &mut Rng) -> Result<Example> {
        self.check()?;
        if tokens.len() < 2 {
            return Err(Error::Input(format!("a text of {} token(s) is too short to mask a part of it", tokens.len())));
        }
        let ends = |source: &[u32], target: &[u32]| {
            let end = |tokens: &[u32]| [tokens, &[markers.eos]].concat();
            Example { source: end(source), target: end(target) }
        };
        match self {
            Objective::SpanCorruption(spans) => spans.corrupt(tokens, markers, rng),
            Objective::IidReplaceSpans(iid) => iid.replace_spans(tokens, markers, rng),
            Objective::Bert(bert) => Ok(ends(&bert.mask(tokens, markers, rng)?, tokens)),
            Objective::Mass(iid) => Ok(ends(&iid.mask(tokens, markers, rng)?, tokens)),
            Objective::DropTokens(iid) => {
                let (source, target) = iid.partition(tokens, rng);
                Ok(ends(&source, &target))
            }
            Objective::Deshuffle => {
                let mut source = tokens.to_vec();
                rng.shuffle(&mut source);
                Ok(ends(&source, tokens))
            }
            Objective::PrefixLm(prefix_lm) => {
                let (source, target) = tokens.split_at(prefix_lm.prefix_len(tokens.len(), rng));
                Ok(ends(source, target))
            }
            Objective::Lm => Ok(ends(&[], tokens)),
            Objective::Ul2(ul2) => {
                let index = self.draw(rng);
                let prefix = markers.prefixes.get(index).ok_or_else(|| {
                    Error::Input("these markers have no prefixes: make them from the objective and a tokenizer".into())
                })?;
                let Example { source, target } = ul2.denoisers[index].objective.apply(tokens, markers, rng)?;
                Ok(Example { source: [prefix.as_slice(), &source].concat(), target })
            }
        }
    }

    /// Which of its denoisers UL2 chooses for the text that `rng` is for: [`Objective::apply`] begins with this. 0, without
    /// touching `rng`, for all others.
    pub fn draw(&self, rng: &mut Rng) -> usize {
        let denoisers = self.denoisers();
        if denoisers.is_empty() {
            return 0;
        }
        let rates = denoisers.iter().map(|denoiser| denoiser.rate);
        rng.weighted(rates.clone(), rates.sum())
    }

    /// Whether segments may run over the end of a document. Not for a prefix LM, as in the reference.
    pub fn joins_documents(&self) -> bool {
        !matches!(self, Objective::PrefixLm(_))
    }

    fn denoisers(&self) -> &[Denoiser] {
        match self {
            Objective::Ul2(ul2) => &ul2.denoisers,
            _ => &[],
        }
    }
}

impl Denoiser {
    /// Tokens of a source that are set aside for the prefix, whatever the tokenizer: one a byte, and one for a leading
    /// space.
    fn prefix_room(&self) -> usize {
        if self.prefix.is_empty() { 0 } else { self.prefix.len() + 1 }
    }
}

impl Ul2 {
    fn check(&self) -> Result<()> {
        let rates: f64 = self.denoisers.iter().map(|denoiser| denoiser.rate).sum();
        if !(rates > 0.0 && rates.is_finite()) || self.denoisers.iter().any(|denoiser| denoiser.rate < 0.0) {
            return Err(Error::Input("ul2 needs denoisers with rates of 0 or more, and one above 0".into()));
        }
        for Denoiser { objective, .. } in &self.denoisers {
            if matches!(objective, Objective::Ul2(_)) {
                return Err(Error::Input("a denoiser of ul2 cannot be ul2 itself: name its denoisers".into()));
            }
            objective.check()?;
        }
        Ok(())
    }
}
