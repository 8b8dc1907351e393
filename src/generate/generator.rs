//! The decode loop: sources in batches of similar length, a few steps a submit, tokens handed out as they come.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::GenerateOptions;
use super::session::Session;
use crate::error::{Error, Result};
use crate::gpu::Readback;
use crate::model::{DecodeShape, Model};
use crate::ops::{BAD_TOKEN, SampleSettings};
use crate::plan::{Plan, SlotPool};

/// A generated target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Without start and end token.
    pub ids: Vec<u32>,
    /// The end token that stopped it; `None` if it ran into `max_new_tokens` or was interrupted.
    pub stopped_at: Option<u32>,
}

impl Generation {
    pub fn stopped_at_eos(&self) -> bool {
        self.stopped_at.is_some()
    }
}

/// Receives a source's index and its new tokens (never an end token); [`ControlFlow::Break`] ends the whole generation.
pub type OnTokens<'a> = dyn FnMut(usize, &[u32]) -> ControlFlow<()> + 'a;

/// Decodes with a model. Plans and state are kept by shape, for the next call.
pub struct Generator {
    pub model: Model,
    pool: SlotPool,
    /// The most recently used last.
    sessions: Vec<(DecodeShape, Session)>,
}

/// Shapes whose memory is kept.
const MAX_SESSIONS: usize = 8;

/// Steps a submit. A GPU wants to be kept busy while the host looks at tokens; a software adapter gains nothing from
/// steps after the end.
const STEPS: usize = 8;
const STEPS_ON_CPU: usize = 2;

impl Generator {
    pub fn new(model: Model) -> Generator {
        Generator { model, pool: SlotPool::new(), sessions: Vec::new() }
    }

    /// Generates a target for every source (token ids that end with the end token, as the tokenizer gives them), in
    /// their order. The result of a source does not depend on the others.
    ///
    /// # Errors
    /// `Input`: an empty source, an id outside of the vocabulary, an impossible setting. `OutOfMemory`: the batch does
    /// not fit. `Numeric`: the model produces NaN.
    pub async fn generate(
        &mut self,
        sources: &[Vec<u32>],
        options: &GenerateOptions,
        on_tokens: &mut OnTokens<'_>,
    ) -> Result<Vec<Generation>> {
        let settings = options.settings(&self.model)?;
        self.check_sources(sources)?;
        let end_tokens = self.model.end_tokens().to_vec();
        let mut generations = vec![Generation::default(); sources.len()];
        // The longest first: memory taken for them serves the shorter ones.
        let mut order: Vec<usize> = (0..sources.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(sources[i].len()));
        for rows in order.chunks(options.max_batch) {
            let mut batch = Rows {
                rows,
                eos: &end_tokens,
                left: vec![options.max_new_tokens; rows.len()],
                generations: &mut generations,
            };
            if self.run_batch(sources, &settings, &mut batch, options, on_tokens).await?.is_break() {
                break;
            }
        }
        Ok(generations)
    }

    /// [`Generator::generate`] without looking on.
    pub async fn generate_all(&mut self, sources: &[Vec<u32>], options: &GenerateOptions) -> Result<Vec<Generation>> {
        self.generate(sources, options, &mut |_, _| ControlFlow::Continue(())).await
    }

    /// Bytes held beside the weights: activations, caches and state of the shapes kept.
    pub fn bytes(&self) -> u64 {
        self.pool.bytes() + self.sessions.iter().map(|(_, session)| session.bytes()).sum::<u64>()
    }

    /// The shape that serves these sources in one batch.
    pub fn shape(sources: &[Vec<u32>], max_new_tokens: usize) -> DecodeShape {
        let rows: Vec<usize> = (0..sources.len()).collect();
        bucket(&rows, sources, max_new_tokens)
    }

    /// The plan of a decoding step, for profiles and printing.
    pub fn step_plan(&mut self, shape: DecodeShape) -> Result<&Plan> {
        Ok(&self.session(shape)?.step)
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

    fn session(&mut self, shape: DecodeShape) -> Result<&Session> {
        let session = match self.sessions.iter().position(|(s, _)| *s == shape) {
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
        self.sessions.push((shape, session));
        let last = self.sessions.len() - 1;
        Ok(&self.sessions[last].1)
    }

    async fn run_batch(
        &mut self,
        sources: &[Vec<u32>],
        settings: &SampleSettings,
        batch: &mut Rows<'_>,
        options: &GenerateOptions,
        on_tokens: &mut OnTokens<'_>,
    ) -> Result<ControlFlow<()>> {
        let on_cpu = self.model.gpu.caps().is_cpu();
        let (steps, ahead) = if on_cpu { (STEPS_ON_CPU, 1) } else { (STEPS, 2) };
        let generation = &self.model.generation;
        let start_token = generation.decoder_start_token_id.unwrap_or(self.model.config.decoder_start_token_id);
        let forced = generation.forced_bos_token_id;
        let shape = bucket(batch.rows, sources, options.max_new_tokens);
        let session = self.session(shape)?;
        let texts: Vec<&[u32]> = batch.rows.iter().map(|&row| sources[row].as_slice()).collect();
        let number = |&row: &usize| (options.first_source + row) as u32;
        let numbers: Vec<u32> = batch.rows.iter().map(number).collect();
        session.start(&texts, &numbers, settings, start_token)?;

        let mut made = 0;
        if let Some(token) = forced {
            session.force_first(texts.len(), token)?;
            made = 1;
            if batch.take(&vec![token; shape.batch], shape.batch, on_tokens)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let mut underway: VecDeque<Readback<u32>> = VecDeque::new();
        while batch.any_left() {
            while made < options.max_new_tokens && underway.len() < ahead {
                let count = steps.min(options.max_new_tokens - made);
                underway.push_back(session.advance(made, count)?);
                made += count;
            }
            let Some(readback) = underway.pop_front() else { break };
            let tokens = readback.finish().await?;
            if batch.take(&tokens, shape.batch, on_tokens)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// The sources of a batch and their tokens so far.
struct Rows<'a> {
    /// Indices of the sources.
    rows: &'a [usize],
    eos: &'a [u32],
    /// Tokens that each may still get; 0 once it is done.
    left: Vec<usize>,
    generations: &'a mut [Generation],
}

impl Rows<'_> {
    fn any_left(&self) -> bool {
        self.left.iter().any(|&n| n > 0)
    }

    /// Takes tokens [steps, width] as they came from the device.
    fn take(&mut self, tokens: &[u32], width: usize, on_tokens: &mut OnTokens<'_>) -> Result<ControlFlow<()>> {
        for (b, &row) in self.rows.iter().enumerate() {
            let generation = &mut self.generations[row];
            let known = generation.ids.len();
            for step in tokens.chunks(width) {
                let token = step[b];
                if self.left[b] == 0 {
                    break;
                }
                if token == BAD_TOKEN {
                    return Err(Error::Numeric(format!(
                        "source {row}: the model's logits are NaN: its weights are damaged, or its training diverged"
                    )));
                }
                self.left[b] -= 1;
                if self.eos.contains(&token) {
                    generation.stopped_at = Some(token);
                    self.left[b] = 0;
                } else {
                    generation.ids.push(token);
                }
            }
            let new = &generation.ids[known..];
            if !new.is_empty() && on_tokens(row, new).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// The shape that serves these sources: few distinct ones, so that plans are used again, at little padding.
fn bucket(rows: &[usize], sources: &[Vec<u32>], max_new_tokens: usize) -> DecodeShape {
    let longest = rows.iter().map(|&row| sources[row].len()).max().unwrap_or(1);
    // Eighths of powers of two waste an eighth at most. With 16 positions the encoder's products are never of the kind
    // that suits few rows, whose rounding differs: a source gives the same result in every shape.
    let step = (longest.next_power_of_two() / 8).max(16);
    DecodeShape {
        batch: rows.len().next_power_of_two(),
        src_len: longest.next_multiple_of(step),
        max_len: (max_new_tokens + 1).next_multiple_of(32),
    }
}
