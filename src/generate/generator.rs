//! The decode loop: sources in batches of similar length, a few steps a submit, tokens handed out as they come.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;

use super::answer_text::AnswerText;
use super::beams::Beams;
use super::constraint::{Asked, Constraint};
use super::decoding::Decoding;
use super::generation::{Generation, StoppedAt};
use super::rules::Rules;
use super::session::{ScoreLists, Session, Start};
use crate::error::{Error, Result};
use crate::gpu::Readback;
use crate::model::{DecodeShape, Model};
use crate::ops::{AcceptDrafts, BAD_TOKEN};
use crate::plan::{Plan, SlotPool};
use crate::tokenizer::Tokenizer;

/// Receives a source's index and its new tokens (never an end token); [`ControlFlow::Break`] ends the whole generation.
pub type OnTokens<'a> = dyn FnMut(usize, &[u32]) -> ControlFlow<()> + Send + 'a;

/// Says, between two submits, that the whole generation shall end.
pub type ShouldStop<'a> = dyn Fn() -> bool + Sync + 'a;

/// Decodes with a model. Plans and state are kept by shape, for the next call.
pub struct Generator {
    pub model: Model,
    /// The model's tokenizer, which [`Decoding::stop_strings`] need.
    pub tokenizer: Option<Tokenizer>,
    pool: SlotPool,
    /// The most recently used last.
    sessions: Vec<(DecodeShape, Session)>,
}

/// Shapes whose memory is kept.
const MAX_SESSIONS: usize = 8;

/// How far the device runs ahead of what the host has seen.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// Steps a submit.
    pub steps: usize,
    /// Submits under way.
    pub ahead: usize,
}

impl Pace {
    /// A GPU wants to be kept busy while the host looks at tokens; a software adapter gains nothing from steps after the
    /// end.
    fn of(model: &Model) -> Pace {
        if model.gpu.caps().is_cpu() { Pace { steps: 2, ahead: 1 } } else { Pace { steps: 8, ahead: 2 } }
    }
}

impl Generator {
    pub fn new(model: Model) -> Generator {
        Generator { model, tokenizer: None, pool: SlotPool::new(), sessions: Vec::new() }
    }

    /// The same with the model's tokenizer.
    #[must_use]
    pub fn with_tokenizer(self, tokenizer: &Tokenizer) -> Generator {
        Generator { tokenizer: Some(tokenizer.clone()), ..self }
    }

    /// Generates targets for every source (token ids that end with the end token, as the tokenizer gives them): for each
    /// source, in their order, the best first. The result of a source does not depend on the others. Where `on_tokens` or
    /// `should_stop` end it, gives what there is.
    ///
    /// # Errors
    /// `Input`: an empty source, an id outside of the vocabulary, an impossible setting, stop strings without a tokenizer, a
    /// place where [`Decoding::allowed`] allows nothing. `OutOfMemory`: the batch does
    /// not fit. `Numeric`: the model produces NaN.
    pub async fn generate(
        &mut self,
        sources: &[Vec<u32>],
        decoding: &Decoding,
        on_tokens: &mut OnTokens<'_>,
        should_stop: &ShouldStop<'_>,
    ) -> Result<Vec<Vec<Generation>>> {
        let mut settings = decoding.settings(&self.model)?;
        self.check_sources(sources)?;
        decoding.check_ids(&self.model)?;
        let rules = decoding.rules(&self.model);
        if let Some(rules) = &rules {
            rules.describe(&mut settings);
        }
        if !decoding.stop_strings.is_empty() && self.tokenizer.is_none() {
            return Err(Error::Input(
                "stop_strings need the model's tokenizer: Generator::with_tokenizer takes it".into(),
            ));
        }
        let constraint = decoding.allowed.as_ref().map(|allowed| Constraint {
            allowed,
            place: settings.mask as usize,
            vocab: self.model.config.vocab_size,
            limit: settings.limit as usize,
        });
        let end_tokens = self.model.end_tokens().to_vec();
        let mut generations = vec![Vec::new(); sources.len()];
        // The longest first: memory taken for them serves the shorter ones.
        let mut order: Vec<usize> = (0..sources.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(sources[i].len()));
        for rows in order.chunks(decoding.max_batch) {
            let all: Vec<&[u32]> = rows.iter().map(|&row| sources[row].as_slice()).collect();
            let (texts, source_of) = if decoding.speculate > 0 || self.model.config.architecture.is_one_stack() {
                let each = (0..all.len() as u32).collect();
                (all, each)
            } else {
                distinct(&all)
            };
            let shape = bucket(&texts, rows.len(), decoding);
            let number = |&row: &usize| (decoding.first_source + row) as u32;
            let numbers: Vec<u32> = rows.iter().map(number).collect();
            let generation = &self.model.generation;
            let start_token = generation.decoder_start_token_id.unwrap_or(self.model.config.decoder_start_token_id);
            let pace = match &constraint {
                // What may come next is known when the token before is.
                Some(_) => Pace { steps: 1, ahead: 1 },
                None => Pace::of(&self.model),
            };
            let tokenizer = self.tokenizer.clone();
            let session = self.session(shape, rules.as_ref(), decoding.scores())?;
            let start = Start {
                sources: &texts,
                source_of: &source_of,
                sequences: &numbers,
                settings: &settings,
                rules: rules.as_ref(),
                start_token,
                penalty: &|tokens| decoding.length_penalty.of(tokens),
            };
            match session.start(&start, should_stop).await {
                Err(Error::Cancelled) => break,
                started => started?,
            }
            // The prompt and the forced token are given; what is made begins behind them.
            let prompt = 1 + decoding.decoder_prefix.len();
            for (at, &token) in decoding.decoder_prefix.iter().chain(&decoding.forced_first).enumerate() {
                session.feed(at, token).await?;
            }
            let max_new = decoding.length();
            let end = if shape.beams > 1 {
                let beams = Beams {
                    session,
                    sources: rows,
                    eos: &end_tokens,
                    max_new,
                    constraint: constraint.as_ref(),
                    forced_first: decoding.forced_first,
                    prompt,
                    n_best: decoding.n_best,
                    alternatives: decoding.alternatives,
                    pace,
                    should_stop,
                };
                let (found, mut end) = beams.search().await?;
                for (&row, found) in rows.iter().zip(found) {
                    if let Some(best) = found.first()
                        && on_tokens(row, &best.ids).is_break()
                    {
                        end = ControlFlow::Break(());
                    }
                    generations[row] = found;
                }
                end
            } else {
                rows.iter().for_each(|&row| generations[row] = vec![Generation::default()]);
                let mut batch = Rows {
                    rows,
                    eos: &end_tokens,
                    max_new,
                    left: vec![max_new; rows.len()],
                    lists: session.score_lists(),
                    texts: match &tokenizer {
                        Some(tokenizer) if !decoding.stop_strings.is_empty() => {
                            rows.iter().map(|_| decoding.text_stream(tokenizer)).collect()
                        }
                        _ => Vec::new(),
                    },
                    constraint: constraint.as_ref(),
                    alternatives: decoding.alternatives,
                    generations: &mut generations,
                    on_tokens,
                    should_stop,
                };
                batch.run(session, prompt, decoding, pace).await?
            };
            if end.is_break() {
                break;
            }
        }
        Ok(generations)
    }

    /// The best target of every source, by [`Generator::generate`].
    pub async fn generate_best(&mut self, sources: &[Vec<u32>], decoding: &Decoding) -> Result<Vec<Generation>> {
        let made = self.generate(sources, decoding, &mut |_, _| ControlFlow::Continue(()), &|| false).await?;
        Ok(made.into_iter().map(|targets| targets.into_iter().next().unwrap_or_default()).collect())
    }

    /// Bytes held beside the weights: activations, caches and state of the shapes kept.
    pub fn bytes(&self) -> u64 {
        self.pool.bytes() + self.sessions.iter().map(|(_, session)| session.bytes()).sum::<u64>()
    }

    /// The shape that serves these sources, of which no two are alike, in one batch.
    pub fn shape(sources: &[Vec<u32>], decoding: &Decoding) -> DecodeShape {
        let texts: Vec<&[u32]> = sources.iter().map(Vec::as_slice).collect();
        bucket(&texts, texts.len(), decoding)
    }

    /// The plans of a decoding step and of the choice of a token, for profiles and printing.
    pub fn step_plans(&mut self, shape: DecodeShape) -> Result<[&Plan; 2]> {
        Ok(self.session(shape, None, None)?.plans())
    }

    fn check_sources(&self, sources: &[Vec<u32>]) -> Result<()> {
        let vocab = self.model.config.vocab_size;
        for (i, source) in sources.iter().enumerate() {
            if source.is_empty() {
                return Err(Error::Input(format!("source {i} has no token: even an empty text has an end token")));
            }
            if let Some(id) = source.iter().find(|&&id| id as usize >= vocab) {
                return Err(Error::Input(format!(
                    "source {i}: token id {id} is outside of the model's vocabulary of {vocab}: the tokenizer does not \
                     belong to this model"
                )));
            }
        }
        Ok(())
    }

    fn session(&mut self, shape: DecodeShape, rules: Option<&Rules>, scores: Option<usize>) -> Result<&Session> {
        let mut session = match self.sessions.iter().position(|(s, _)| *s == shape) {
            Some(at) => self.sessions.remove(at).1,
            None => {
                if self.sessions.len() == MAX_SESSIONS {
                    self.sessions.remove(0);
                }
                match Session::compile(&self.model, shape, &self.pool) {
                    Err(Error::OutOfMemory(_)) if !self.sessions.is_empty() => {
                        self.sessions.clear();
                        Session::compile(&self.model, shape, &self.pool)?
                    }
                    compiled => compiled?,
                }
            }
        };
        session.choose_by(&self.model, &self.pool, rules, scores)?;
        self.sessions.push((shape, session));
        let last = self.sessions.len() - 1;
        Ok(&self.sessions[last].1)
    }
}

/// The sources of a batch and their tokens so far.
struct Rows<'a> {
    /// Indices of the sources.
    rows: &'a [usize],
    eos: &'a [u32],
    max_new: usize,
    /// Tokens that each may still get; 0 once it is done.
    left: Vec<usize>,
    /// How log-probabilities come, if they are asked for.
    lists: Option<ScoreLists>,
    /// Each target's text, if there are texts that end it.
    texts: Vec<AnswerText>,
    constraint: Option<&'a Constraint<'a>>,
    alternatives: usize,
    generations: &'a mut [Vec<Generation>],
    on_tokens: &'a mut OnTokens<'a>,
    should_stop: &'a ShouldStop<'a>,
}

/// What a submit makes, on its way from the device.
struct Underway {
    steps: usize,
    first: usize,
    tokens: Readback<u32>,
    scores: Option<Readback<f32>>,
    origin: Option<Readback<u32>>,
}

/// Tokens of every place of the batch, `[count, width]`.
struct Made {
    /// How many tokens targets have before these.
    first: usize,
    tokens: Vec<u32>,
    /// What is known of their log-probabilities.
    scores: Option<Vec<f32>>,
    /// With drafts: what kind of token each is, if it is one. See [`AcceptDrafts`].
    origin: Option<Vec<u32>>,
}

impl Underway {
    async fn finish(self) -> Result<Made> {
        let tokens = self.tokens.finish().await?;
        let scores = match self.scores {
            Some(scores) => Some(scores.finish().await?),
            None => None,
        };
        let origin = match self.origin {
            Some(origin) => Some(origin.finish().await?),
            None => None,
        };
        Ok(Made { first: self.first, tokens, scores, origin })
    }
}

impl Rows<'_> {
    /// Makes tokens, the first of them at position `prompt`, until no source has any left.
    async fn run(
        &mut self,
        session: &Session,
        prompt: usize,
        decoding: &Decoding,
        pace: Pace,
    ) -> Result<ControlFlow<()>> {
        let DecodeShape { batch: width, drafts, .. } = session.shape();
        let max_new = decoding.length();
        if let Some(token) = decoding.forced_first {
            let scores = self.lists.map(|lists| lists.of_given(token).repeat(width));
            let given = Made { first: 0, tokens: vec![token; width], scores, origin: None };
            if self.take(&given, width)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let mut underway: VecDeque<Underway> = VecDeque::new();
        while self.any_left() {
            if (self.should_stop)() {
                return Ok(ControlFlow::Break(()));
            }
            while underway.len() < pace.ahead {
                // A step makes one token of a target, or with drafts up to so many more.
                let (least, most) = self.taken();
                let queued: usize = underway.iter().map(|one| one.steps).sum();
                let first = least + queued;
                if first >= max_new {
                    break;
                }
                let steps = pace.steps.min(max_new - first);
                let count = (most + (queued + steps) * (1 + drafts)).min(max_new) - first;
                if let Some(constraint) = self.constraint {
                    constraint.apply(session, (0..width).map(|b| self.asked(b)))?;
                }
                session.advance(steps).await?;
                let scores = self.lists.map(|_| session.start_history("token_scores", prompt + first, count));
                let origin = (drafts > 0).then(|| session.start_history("origin", prompt + first, count));
                let tokens = session.start_history("tokens", prompt + first, count)?;
                let (scores, origin) = (scores.transpose()?, origin.transpose()?);
                underway.push_back(Underway { steps, first, tokens, scores, origin });
            }
            let Some(made) = underway.pop_front() else { break };
            if self.take(&made.finish().await?, width)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The fewest and the most tokens that a target which may get more has.
    fn taken(&self) -> (usize, usize) {
        let left = || self.left.iter().copied().filter(|&left| left > 0);
        (self.max_new - left().max().unwrap_or(0), self.max_new - left().min().unwrap_or(0))
    }

    /// A row, as a constraint is asked about it.
    fn asked(&self, b: usize) -> Option<Asked<'_>> {
        let source = *self.rows.get(b).filter(|_| self.left[b] > 0)?;
        Some(Asked { source, made: &self.generations[source][0].ids, counts: true })
    }

    fn any_left(&self) -> bool {
        self.left.iter().any(|&n| n > 0)
    }

    /// Takes tokens as they came from the device.
    fn take(&mut self, made: &Made, width: usize) -> Result<ControlFlow<()>> {
        for (b, &row) in self.rows.iter().enumerate() {
            let generation = &mut self.generations[row][0];
            let known = generation.ids.len();
            // With drafts, targets may be further than where these tokens begin.
            let next = (self.max_new - self.left[b]).saturating_sub(made.first);
            for (s, step) in made.tokens.chunks(width).enumerate().skip(next) {
                let token = step[b];
                let origin = made.origin.as_ref().map_or(AcceptDrafts::CHOSEN, |origin| origin[s * width + b]);
                if self.left[b] == 0 || origin == 0 {
                    break;
                }
                if token == BAD_TOKEN {
                    return Err(not_a_number(row));
                }
                self.left[b] -= 1;
                generation.guessed += usize::from(origin == AcceptDrafts::GUESSED);
                if let (Some(lists), Some(scores)) = (self.lists, &made.scores) {
                    let first = (s * width + b) * 2 * lists.width;
                    lists.take(&scores[first..first + 2 * lists.width], token, self.alternatives, generation);
                }
                if self.eos.contains(&token) {
                    generation.stopped_at = Some(StoppedAt::EndToken(token));
                    self.left[b] = 0;
                } else {
                    generation.ids.push(token);
                }
                if let Some(text) = self.texts.get_mut(b) {
                    text.push(token);
                    if self.left[b] == 0 {
                        text.finish();
                    }
                    if let Some(stop) = text.stopped_at() {
                        generation.stopped_at = Some(StoppedAt::StopString(stop.to_owned()));
                        self.left[b] = 0;
                    }
                }
            }
            let new = &generation.ids[known..];
            if !new.is_empty() && (self.on_tokens)(row, new).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

pub(super) fn not_a_number(source: usize) -> Error {
    Error::Numeric(format!(
        "source {source}: the model's logits are NaN: its weights are damaged, or its training diverged"
    ))
}

/// The shape that serves these sources: few distinct ones, so that plans are used again, at little padding.
/// The texts that there are, and which of them each of these is.
fn distinct<'a>(sources: &[&'a [u32]]) -> (Vec<&'a [u32]>, Vec<u32>) {
    let (mut texts, mut source_of) = (Vec::new(), Vec::with_capacity(sources.len()));
    let mut known = HashMap::new();
    for &source in sources {
        source_of.push(*known.entry(source).or_insert_with(|| {
            texts.push(source);
            texts.len() as u32 - 1
        }));
    }
    (texts, source_of)
}

fn bucket(texts: &[&[u32]], targets: usize, decoding: &Decoding) -> DecodeShape {
    let longest = texts.iter().map(|text| text.len()).max().unwrap_or(1);
    // Eighths of powers of two waste an eighth at most. With 16 positions the encoder's products are never of the kind
    // that suits few rows, whose rounding differs: a source gives the same result in every shape.
    let step = (longest.next_power_of_two() / 8).max(16);
    DecodeShape {
        sources: texts.len().next_power_of_two(),
        batch: targets.next_power_of_two(),
        beams: decoding.num_beams,
        drafts: decoding.speculate,
        src_len: longest.next_multiple_of(step),
        max_len: (1 + decoding.decoder_prefix.len() + decoding.length()).next_multiple_of(32),
    }
}
