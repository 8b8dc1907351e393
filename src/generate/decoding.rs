//! How targets are generated.

use std::fmt;

use super::constraint::AllowedTokens;
use super::rules::Rules;
use crate::error::{Error, Result};
use crate::model::{DecodingSettings, EarlyStopping, Model};
use crate::ops::{AcceptDrafts, BeamSearch, ChoiceSettings, MAX_EOS, NO_TOKEN};

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
    /// New tokens before which no end token is chosen.
    pub min_new_tokens: usize,
    /// Divides the positive scores of tokens that are there already, and multiplies the negative ones: above 1 it keeps repetitions
    /// down ([Keskar et al. 2019](https://arxiv.org/abs/1909.05858)); 1 changes nothing.
    pub repetition_penalty: f32,
    /// No sequence of so many tokens comes twice; 0: any may.
    pub no_repeat_ngram: usize,
    /// Sequences of tokens that are not completed.
    pub bad_words: Vec<Vec<u32>>,
    /// Tokens that are never chosen.
    pub suppress: Vec<u32>,
    /// Tokens that are not chosen as the first, or behind a forced first one.
    pub begin_suppress: Vec<u32>,
    /// The target is one of these (without end token), whatever else the model would say; none: anything.
    pub answers: Vec<Vec<u32>>,
    /// Texts that end a target as soon as they are in its text, which then ends before them: see [`Decoding::text`]. Not
    /// with beams. The [`Generator`](super::Generator) needs the tokenizer.
    pub stop_strings: Vec<String>,
    /// Says at each step which tokens may come next. That costs a way to the host and back for every token.
    pub allowed: Option<AllowedTokens>,
    /// The token that comes last where a target reaches the most tokens.
    pub forced_last: Option<u32>,
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
    /// Draw among the tokens that have at least this share of the likeliest's probability, in 0..=1.
    pub min_p: f32,
    /// The draws of a source depend on the seed, the source's number and the position alone.
    pub seed: u64,
    /// Tell the log-probability of every token that is made: [`Generation::log_probs`](super::Generation::log_probs).
    pub log_probs: bool,
    /// Tell so many of the likeliest tokens at every place, with their log-probabilities, and that of the token itself:
    /// [`Generation::alternatives`](super::Generation::alternatives).
    pub alternatives: usize,
    /// Tokens that are guessed at each step: see [`Decoding::speculate`].
    pub speculate: usize,
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

    /// The most that [`Decoding::alternatives`] can be.
    pub const MOST_ALTERNATIVES: usize = 64;

    /// The most tokens that [`Decoding::speculate`] can guess.
    pub const MOST_DRAFTS: usize = AcceptDrafts::MOST_DRAFTS;

    /// The likeliest token at each step.
    pub fn greedy() -> Decoding {
        Decoding {
            max_new_tokens: None,
            num_beams: 1,
            length_penalty: LengthPenalty::default(),
            early_stopping: EarlyStopping::No,
            n_best: 1,
            min_new_tokens: 0,
            repetition_penalty: 1.0,
            no_repeat_ngram: 0,
            bad_words: Vec::new(),
            suppress: Vec::new(),
            begin_suppress: Vec::new(),
            answers: Vec::new(),
            stop_strings: Vec::new(),
            allowed: None,
            forced_last: None,
            forced_first: None,
            decoder_prefix: Vec::new(),
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
            log_probs: false,
            alternatives: 0,
            speculate: 0,
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
            min_p: if temperature > 0.0 { settings.min_p.unwrap_or(self.min_p) } else { self.min_p },
            min_new_tokens: settings.least_new_tokens().unwrap_or(self.min_new_tokens),
            repetition_penalty: settings.repetition_penalty.unwrap_or(self.repetition_penalty),
            no_repeat_ngram: settings.no_repeat_ngram_size.unwrap_or(self.no_repeat_ngram),
            bad_words: settings.bad_words_ids.clone().unwrap_or(self.bad_words),
            suppress: settings.suppress_tokens.clone().unwrap_or(self.suppress),
            begin_suppress: settings.begin_suppress_tokens.clone().unwrap_or(self.begin_suppress),
            // Beams do not stop at texts.
            stop_strings: match &settings.stop_strings {
                Some(texts) if beams == 1 => texts.clone(),
                _ => self.stop_strings,
            },
            forced_last: settings.forced_eos_token_id.or(self.forced_last),
            forced_first: settings.forced_bos_token_id.or(self.forced_first),
            ..self
        }
    }

    /// The same with another end.
    pub fn max_new_tokens(self, tokens: usize) -> Decoding {
        Decoding { max_new_tokens: Some(tokens), ..self }
    }

    /// The same with the log-probability of every token told, or not.
    pub fn log_probs(self, log_probs: bool) -> Decoding {
        Decoding { log_probs, ..self }
    }

    /// The same with so many of the likeliest tokens at every place told.
    pub fn alternatives(self, alternatives: usize) -> Decoding {
        Decoding { alternatives, ..self }
    }

    /// The same with a function that says which tokens may come next: see [`AllowedTokens`].
    pub fn allow(self, allowed: impl Fn(usize, &[u32]) -> Vec<u32> + Send + Sync + 'static) -> Decoding {
        Decoding { allowed: Some(AllowedTokens::new(allowed)), ..self }
    }

    /// The same with so many tokens guessed at each step, which checks them all: what stood behind the last three tokens (or two, or one)
    /// in the source, or earlier in the target. Tokens are the same; where targets copy from their sources, there are fewer
    /// steps, each of which costs more: on a processor 3 guesses make a step take about twice as long. 0 guesses nothing. Of greedy
    /// decoding only, without rules and log-probabilities; [`Generator::generate`](super::Generator::generate) refuses the rest.
    /// [`Generation::guessed`](super::Generation::guessed) tells how often guesses were right.
    pub fn speculate(self, drafts: usize) -> Decoding {
        Decoding { speculate: drafts, ..self }
    }

    /// How many of the likeliest tokens are kept beside those that are chosen, if log-probabilities are asked for.
    pub(super) fn scores(&self) -> Option<usize> {
        (self.log_probs || self.alternatives > 0).then_some(self.alternatives)
    }

    pub(super) fn length(&self) -> usize {
        self.max_new_tokens.unwrap_or(Decoding::MAX_NEW_TOKENS)
    }

    /// The lists by which scores are changed, if there is anything to change.
    pub(super) fn rules(&self, model: &Model) -> Option<Rules> {
        let changes = self.min_new_tokens > 0
            || self.repetition_penalty != 1.0
            || self.no_repeat_ngram > 0
            || self.forced_last.is_some()
            || self.allowed.is_some()
            || [&self.suppress, &self.begin_suppress].iter().any(|list| !list.is_empty())
            || [&self.bad_words, &self.answers].iter().any(|list| !list.is_empty());
        let ends = model.end_tokens();
        // As transformers has it, the end token alone is no bad word.
        let is_word = |word: &&Vec<u32>| word.len() != 1 || !ends.contains(&word[0]);
        let bad_words: Vec<Vec<u32>> = self.bad_words.iter().filter(is_word).cloned().collect();
        let end = ends.first().copied().unwrap_or_default();
        changes.then(|| {
            let mut rules = Rules::new(&self.suppress, &self.begin_suppress, &bad_words, &self.answers, end);
            rules.has_mask = self.allowed.is_some();
            rules
        })
    }

    /// # Errors
    /// `Input`: a token that the model does not have.
    pub(super) fn check_ids(&self, model: &Model) -> Result<()> {
        let vocab = model.config.vocab_size;
        let lists = [&self.decoder_prefix, &self.suppress, &self.begin_suppress].into_iter();
        let lists = lists.chain(&self.bad_words).chain(&self.answers);
        let mut ids = lists.flatten().chain(&self.forced_first).chain(&self.forced_last);
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
        if self.alternatives > Decoding::MOST_ALTERNATIVES {
            let (wanted, most) = (self.alternatives, Decoding::MOST_ALTERNATIVES);
            return Err(Error::Input(format!("alternatives {wanted}: at most {most} are told of a token")));
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
        if !(0.0..=1.0).contains(&self.min_p) {
            return Err(Error::Input(format!("min_p {} does not lie between 0 and 1", self.min_p)));
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return Err(Error::Input("repetition_penalty must be a number above 0".into()));
        }
        if self.bad_words.iter().any(Vec::is_empty) {
            return Err(Error::Input("a bad word has no tokens".into()));
        }
        if self.stop_strings.iter().any(String::is_empty) {
            return Err(Error::Input("a stop string is empty: it would end every target at once".into()));
        }
        if beams > 1 && !self.stop_strings.is_empty() {
            return Err(Error::Input(
                "num_beams and stop_strings: beams do not stop at texts, choose one of the two".into(),
            ));
        }
        if self.allowed.is_some() && !self.answers.is_empty() {
            return Err(Error::Input(
                "answers and allowed: each says what may come next, choose one of the two".into(),
            ));
        }
        if n_eos == 0 && !self.answers.is_empty() {
            return Err(Error::Input("answers need an end token, and the model has none".into()));
        }
        if self.speculate > Decoding::MOST_DRAFTS {
            let (wanted, most) = (self.speculate, Decoding::MOST_DRAFTS);
            return Err(Error::Input(format!("speculate {wanted}: at most {most} tokens are guessed at a step")));
        }
        if self.speculate > 0 {
            let others = [
                (beams > 1, "beams"),
                (self.temperature > 0.0, "draws (temperature)"),
                (self.allowed.is_some(), "a function that allows tokens"),
                (self.rules(model).is_some(), "rules (lengths, penalties, suppressed, forced or bad words, answers)"),
                (self.scores().is_some(), "log-probabilities"),
            ];
            if let Some((_, what)) = others.iter().find(|(is_set, _)| *is_set) {
                return Err(Error::Input(format!(
                    "speculate and {what}: tokens are guessed in greedy decoding without any of these, choose one of the two"
                )));
            }
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
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            no_repeat_ngram: u32::try_from(self.no_repeat_ngram).unwrap_or(u32::MAX),
            min_new: self.min_new_tokens.min(self.length()) as u32,
            forced_last: self.forced_last.unwrap_or(NO_TOKEN),
            begin: u32::from(self.forced_first.is_some()),
            ..ChoiceSettings::default()
        })
    }
}

impl fmt::Display for Decoding {
    /// As one says it of results: `greedy, at most 20 tokens`, `4 beams, length penalty 0.6, no 3 tokens twice`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.temperature > 0.0 {
            write!(f, "drawn at temperature {}, seed {}", self.temperature, self.seed)?;
            for (is_set, what) in [
                (self.top_k > 0, format!("top-k {}", self.top_k)),
                (self.top_p < 1.0, format!("top-p {}", self.top_p)),
                (self.min_p > 0.0, format!("min-p {}", self.min_p)),
            ] {
                if is_set {
                    write!(f, ", {what}")?;
                }
            }
        } else if self.num_beams > 1 {
            let penalty = match self.length_penalty {
                LengthPenalty::Power(power) => power.to_string(),
                LengthPenalty::Gnmt(alpha) => format!("gnmt:{alpha}"),
            };
            let early = match self.early_stopping {
                EarlyStopping::No => "",
                EarlyStopping::Yes => ", early stopping",
                EarlyStopping::Never => ", early stopping never",
            };
            write!(f, "{} beams, length penalty {penalty}{early}", self.num_beams)?;
        } else {
            f.write_str("greedy")?;
        }
        for (is_set, what) in [
            (!self.answers.is_empty(), format!("one of {} answers", self.answers.len())),
            (self.min_new_tokens > 0, format!("at least {} tokens", self.min_new_tokens)),
            (self.repetition_penalty != 1.0, format!("repetition penalty {}", self.repetition_penalty)),
            (self.no_repeat_ngram > 0, format!("no {} tokens twice", self.no_repeat_ngram)),
            (!self.bad_words.is_empty(), format!("{} bad words", self.bad_words.len())),
            (
                !self.suppress.is_empty() || !self.begin_suppress.is_empty(),
                format!("{} suppressed tokens", self.suppress.len() + self.begin_suppress.len()),
            ),
            (self.forced_first.is_some() || self.forced_last.is_some(), "forced tokens".into()),
            (!self.stop_strings.is_empty(), format!("up to {:?}", self.stop_strings)),
            (self.max_new_tokens.is_some(), format!("at most {} tokens", self.length())),
        ] {
            if is_set {
                write!(f, ", {what}")?;
            }
        }
        Ok(())
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
