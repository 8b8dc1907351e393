//! How targets are generated, and what comes out.

use crate::error::{Error, Result};
use crate::model::{DecodingSettings, EarlyStopping, Model};
use crate::ops::{BeamSearch, ChoiceSettings, MAX_EOS};

/// How targets are generated: greedy unless a field says otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoding {
    /// Tokens after which a target ends, if no end token did it before; `None`: [`Decoding::MAX_NEW_TOKENS`].
    pub max_new_tokens: Option<usize>,
    /// Beams of a source; 1 is no beam search.
    pub num_beams: usize,
    /// Of beam search: how the scores of hypotheses of different lengths compare.
    pub length_penalty: LengthPenalty,
    pub early_stopping: EarlyStopping,
    /// Hypotheses of beam search that are handed out, the best first.
    pub n_best: usize,
    /// The first token of every target: a language's in multilingual models.
    pub forced_first: Option<u32>,
    /// The decoder's prompt: with these tokens, behind the start token, every target begins. They are not among what is made.
    pub decoder_prefix: Vec<u32>,
    /// Divides the logits of draws; 0 takes the likeliest token, the first of equals.
    pub temperature: f32,
    /// Draw among the k likeliest; 0: among all.
    pub top_k: usize,
    /// Draw among the fewest tokens whose probabilities reach this sum, in (0, 1].
    pub top_p: f32,
    /// The draws of a source depend on the seed, the source's number and the position alone.
    pub seed: u64,
    /// Number of the first source among all that share a seed.
    pub first_source: usize,
    /// Sources that are decoded side by side.
    pub max_batch: usize,
    /// Ids from here on are never chosen; `None`: all rows of the vocabulary's table count. A table often has more rows
    /// than the tokenizer has pieces (T5: 32,128 and 32,100).
    pub limit: Option<usize>,
}

impl Default for Decoding {
    fn default() -> Decoding {
        Decoding::greedy()
    }
}

impl Decoding {
    /// Where nobody says how long a target may get.
    pub const MAX_NEW_TOKENS: usize = 128;

    /// The most that [`Decoding::max_new_tokens`] can be: beyond any answer, and no product of sizes overflows.
    pub const MOST_NEW_TOKENS: usize = 1_000_000;

    /// The likeliest token at each step.
    pub fn greedy() -> Decoding {
        Decoding {
            max_new_tokens: None,
            num_beams: 1,
            length_penalty: LengthPenalty::default(),
            early_stopping: EarlyStopping::No,
            n_best: 1,
            forced_first: None,
            decoder_prefix: Vec::new(),
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            seed: 0,
            first_source: 0,
            max_batch: 16,
            limit: None,
        }
    }

    /// Draws from all tokens; [`Decoding::top_k`] and [`Decoding::top_p`] leave fewer.
    pub fn sample(temperature: f32, seed: u64) -> Decoding {
        Decoding { temperature, seed, ..Decoding::greedy() }
    }

    /// Beam search with so many beams.
    pub fn beam(num_beams: usize) -> Decoding {
        Decoding { num_beams, ..Decoding::greedy() }
    }

    /// As the model's files want it: its `generation_config.json`, over which goes what its `task_specific_params` say about this
    /// task. What they leave open is as in [`Decoding::greedy`].
    ///
    /// # Errors
    /// `Input`: a setting of the task has the wrong type.
    pub fn of_model(model: &Model, task: Option<&str>) -> Result<Decoding> {
        let of_task = task.map(|task| model.config.task_decoding(task)).transpose()?.flatten();
        let of_task = of_task.map(|(settings, _)| settings).unwrap_or_default();
        Ok(Decoding::greedy().with(&of_task.or(model.generation.decoding.clone())))
    }

    /// These settings over what there is.
    fn with(self, settings: &DecodingSettings) -> Decoding {
        let beams = settings.num_beams.unwrap_or(self.num_beams).max(1);
        // What transformers draws with where nothing else is said.
        let (temperature, top_k) = match settings.do_sample == Some(true) && beams == 1 {
            true => (settings.temperature.unwrap_or(1.0), settings.top_k.unwrap_or(50)),
            false => (self.temperature, self.top_k),
        };
        Decoding {
            max_new_tokens: settings.most_new_tokens().or(self.max_new_tokens),
            num_beams: beams,
            length_penalty: settings.length_penalty.map_or(self.length_penalty, LengthPenalty::Power),
            early_stopping: settings.early_stopping.unwrap_or(self.early_stopping),
            temperature,
            top_k,
            top_p: if temperature > 0.0 { settings.top_p.unwrap_or(self.top_p) } else { self.top_p },
            forced_first: settings.forced_bos_token_id.or(self.forced_first),
            ..self
        }
    }

    /// The same with another end.
    pub fn max_new_tokens(self, tokens: usize) -> Decoding {
        Decoding { max_new_tokens: Some(tokens), ..self }
    }

    pub(super) fn length(&self) -> usize {
        self.max_new_tokens.unwrap_or(Decoding::MAX_NEW_TOKENS)
    }

    /// # Errors
    /// `Input`: a token that the model does not have.
    pub(super) fn check_ids(&self, model: &Model) -> Result<()> {
        let vocab = model.config.vocab_size;
        let mut ids = self.decoder_prefix.iter().chain(&self.forced_first);
        match ids.find(|&&id| id as usize >= vocab) {
            Some(id) => Err(Error::Input(format!("the token {id} is outside of the model's vocabulary of {vocab}"))),
            None => Ok(()),
        }
    }

    /// The settings as the kernels that choose tokens read them.
    ///
    /// # Errors
    /// `Input` where a setting makes no sense.
    pub(super) fn settings(&self, model: &Model) -> Result<ChoiceSettings> {
        let (config, end_tokens) = (&model.config, model.end_tokens());
        if self.length() == 0 || self.max_batch == 0 {
            return Err(Error::Input("nothing to generate: max_new_tokens and max_batch start at 1".into()));
        }
        if self.length() > Decoding::MOST_NEW_TOKENS {
            return Err(Error::Input("a target has at most a million tokens: lower max_new_tokens".into()));
        }
        let (beams, most) = (self.num_beams, BeamSearch::MOST_BEAMS);
        if !(1..=most).contains(&beams) {
            return Err(Error::Input(format!("num_beams {beams} does not lie between 1 and {most}")));
        }
        if !(1..=beams).contains(&self.n_best) {
            let n_best = self.n_best;
            return Err(Error::Input(format!("n_best {n_best}: {beams} beams give between 1 and {beams} answers")));
        }
        if beams > 1 && self.temperature > 0.0 {
            return Err(Error::Input("num_beams and temperature: beams are not drawn, choose one of the two".into()));
        }
        if beams > 1 && !self.length_penalty.exponent().is_finite() {
            return Err(Error::Input("length_penalty must be a number".into()));
        }
        let n_eos = end_tokens.len();
        if n_eos > MAX_EOS {
            return Err(Error::Input(format!(
                "the model's eos_token_id lists {n_eos} ids, at most {MAX_EOS} are supported"
            )));
        }
        let Decoding { temperature, top_p, seed, .. } = *self;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(Error::Input(format!("temperature {temperature} is not a number of 0 or more")));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(Error::Input(format!("top_p {top_p} does not lie above 0 and up to 1")));
        }
        let limit = self.limit.unwrap_or(config.vocab_size).min(config.vocab_size);
        if limit == 0 {
            return Err(Error::Input("the limit of token ids leaves none to choose from".into()));
        }
        let mut eos = [0; MAX_EOS];
        eos[..n_eos].copy_from_slice(end_tokens);
        Ok(ChoiceSettings {
            temperature,
            top_k: self.top_k.min(config.vocab_size) as u32,
            top_p,
            limit: limit as u32,
            seed: [seed as u32, (seed >> 32) as u32],
            pad: config.pad_token_id,
            n_eos: n_eos as u32,
            eos,
            max_new: self.length() as u32,
            prompt: self.decoder_prefix.len() as u32,
            early_stopping: match self.early_stopping {
                EarlyStopping::No => 0,
                EarlyStopping::Yes => BeamSearch::EARLY,
                EarlyStopping::Never => BeamSearch::NEVER,
            },
            reserved: 0,
        })
    }
}

/// What the sum of a hypothesis's log-probabilities is divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LengthPenalty {
    /// length^p, as transformers has it: above 0 it favours longer targets, 0 compares the sums themselves.
    Power(f32),
    /// ((5 + length) / 6)^alpha of [Wu et al. 2016](https://arxiv.org/abs/1609.08144), equation 14, with which T5's paper decodes
    /// (alpha 0.6).
    Gnmt(f32),
}

impl Default for LengthPenalty {
    fn default() -> LengthPenalty {
        LengthPenalty::Power(1.0)
    }
}

impl LengthPenalty {
    fn exponent(self) -> f32 {
        let (LengthPenalty::Power(exponent) | LengthPenalty::Gnmt(exponent)) = self;
        exponent
    }

    /// Of a target of so many tokens, the end token counted.
    pub fn of(self, tokens: usize) -> f32 {
        let base = match self {
            LengthPenalty::Power(_) => tokens as f64,
            LengthPenalty::Gnmt(_) => (5 + tokens) as f64 / 6.0,
        };
        base.powf(f64::from(self.exponent())) as f32
    }
}

/// A generated target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generation {
    /// Without start and end token.
    pub ids: Vec<u32>,
    /// The end token that stopped it; `None` if it ran into `max_new_tokens` or was interrupted.
    pub stopped_at: Option<u32>,
    /// Of beam search: the sum of the tokens' log-probabilities, the end token's too, divided by the length penalty.
    pub score: Option<f32>,
}

impl Generation {
    pub fn stopped_at_eos(&self) -> bool {
        self.stopped_at.is_some()
    }
}
