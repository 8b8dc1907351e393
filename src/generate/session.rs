//! Decoding on the device for one shape: the state, the plan that prepares it, the plan of a step, and that of the choice.

use std::collections::HashMap;

use super::constraint::Constraint;
use super::generation::{Alternative, Generation};
use super::generator::ShouldStop;
use super::rules::Rules;
use crate::batch::BatchShape;
use crate::error::Result;
use crate::gpu::{Gpu, Readback, Sequence, Slice};
use crate::graph::Graph;
use crate::model::{Builder, Chooser, DecodeShape, EncoderAttention, Model, StateLeaf};
use crate::ops::{BeamSearch, ChoiceSettings, UNCHOOSABLE};
use crate::plan::{Plan, PlanOptions, SlotPool};

pub(super) struct Session {
    gpu: Gpu,
    shape: DecodeShape,
    state: HashMap<String, Slice>,
    /// What else `prepare` reads of the sources.
    encoder_attention: EncoderAttention,
    prepare: Plan,
    pub(super) step: Plan,
    choosers: Vec<(Chooser, Plan)>,
    /// The one in use, by its place.
    chooser: usize,
}

/// What a session begins with.
pub(super) struct Start<'a> {
    pub sources: &'a [&'a [u32]],
    /// The source of each target.
    pub source_of: &'a [u32],
    /// Each target's number, for its random draws.
    pub sequences: &'a [u32],
    pub settings: &'a ChoiceSettings,
    pub rules: Option<&'a Rules>,
    pub start_token: u32,
    /// What the score of a hypothesis of so many tokens is divided by.
    pub penalty: &'a (dyn Fn(usize) -> f32 + Sync),
}

/// How the log-probabilities of a row's tokens lie in `token_scores`: pairs of a log-probability and an id.
#[derive(Clone, Copy)]
pub(super) struct ScoreLists {
    /// Pairs of a row.
    pub width: usize,
    /// Where the likeliest begin.
    pub first: usize,
}

impl ScoreLists {
    /// Adds what the list of a row says about the token that came of it, and `alternatives` of the likeliest.
    pub fn take(self, pairs: &[f32], token: u32, alternatives: usize, generation: &mut Generation) {
        let pairs = pairs.as_chunks::<2>().0;
        let own = pairs.iter().find(|[_, id]| *id == token as f32);
        generation.log_probs.push(own.map_or(UNCHOOSABLE, |pair| pair[0]));
        if alternatives > 0 {
            // What is suppressed is no alternative.
            let likeliest = pairs[self.first..].iter().take_while(|pair| pair[0] > UNCHOOSABLE / 2.0);
            let alternative = |&[log_prob, id]: &[f32; 2]| Alternative { id: id as u32, log_prob };
            generation.alternatives.push(likeliest.take(alternatives).map(alternative).collect());
        }
    }

    /// The list of a row whose token was not chosen but given.
    pub fn of_given(self, token: u32) -> Vec<f32> {
        let mut pairs = vec![[UNCHOOSABLE, -1.0]; self.width];
        pairs[..(self.first + 1).min(self.width)].fill([0.0, token as f32]);
        pairs.concat()
    }
}

impl Session {
    pub fn compile(model: &Model, shape: DecodeShape, pool: &SlotPool) -> Result<Session> {
        let gpu = &model.gpu;
        let mut state = HashMap::new();
        for StateLeaf { name, shape, dtype } in shape.state(&model.config, &model.layout) {
            let bytes = dtype.bytes(&shape);
            state.insert(name.clone(), gpu.buffer(&name, bytes)?.slice(0, bytes));
        }
        let sizes = BatchShape { batch: shape.sources, src_len: shape.src_len, tgt_len: shape.max_len, packed: false };
        let mut b = Builder::new(model, sizes, 0.0);
        b.rows_alike();
        b.prepare_decoding(shape.beams);
        let prepare = compile(model, &state, &b.graph, pool)?;
        let mut b = Builder::new(model, sizes, 0.0);
        b.decode_step(shape.sequences(), shape.drafts);
        let step = compile(model, &state, &b.graph, pool)?;
        let mut session = Session {
            gpu: gpu.clone(),
            shape,
            state,
            encoder_attention: model.config.encoder_attention,
            prepare,
            step,
            choosers: Vec::new(),
            chooser: 0,
        };
        if session.state.contains_key("src_pos") {
            let positions: Vec<u32> = (0..shape.sources).flat_map(|_| 0..shape.src_len as u32).collect();
            session.write("src_pos", &positions);
        }
        session.choose_by(model, pool, None, None)?;
        Ok(session)
    }

    /// Takes the chooser for the model's end tokens as they are now, for rules of this length if there are any, and for keeping
    /// the log-probabilities of the chosen tokens and so many of the likeliest if `scores` asks for it.
    pub fn choose_by(
        &mut self,
        model: &Model,
        pool: &SlotPool,
        rules: Option<&Rules>,
        scores: Option<usize>,
    ) -> Result<()> {
        // Few distinct lengths, so that plans are used again.
        let mask = |rules: &Rules| match rules.has_mask {
            true => self.shape.rows() * Constraint::words(model.config.vocab_size),
            false => 0,
        };
        let rules = rules.map_or(0, |rules| (rules.words.len() + mask(rules)).next_power_of_two().max(64));
        let chooser = Chooser { n_eos: model.end_tokens().len(), rules, scores };
        self.provide("rules", rules, |known| known.rules == 0)?;
        let width = self.shape.token_scores(chooser).map_or(0, |op| op.width());
        self.provide("token_scores", self.shape.max_len * self.shape.rows() * 2 * width, |known| {
            known.scores.is_none()
        })?;
        self.chooser = match self.choosers.iter().position(|(known, _)| *known == chooser) {
            Some(at) => at,
            None => {
                let graph = self.shape.chooser(model.config.vocab_size, chooser);
                self.choosers.push((chooser, compile(model, &self.state, &graph, pool)?));
                self.choosers.len() - 1
            }
        };
        Ok(())
    }

    /// Makes a leaf of so many elements, if there are any, and forgets the choosers that have it in another size: all but those
    /// that do `without`.
    fn provide(&mut self, name: &str, elements: usize, without: fn(&Chooser) -> bool) -> Result<()> {
        let bytes = 4 * elements as u64;
        if bytes > 0 && self.state.get(name).is_none_or(|slice| slice.bytes != bytes) {
            self.choosers.retain(|(known, _)| without(known));
            self.state.insert(name.into(), self.gpu.buffer(name, bytes)?.slice(0, bytes));
        }
        Ok(())
    }

    /// The plans of a step and of the choice.
    pub fn plans(&self) -> [&Plan; 2] {
        [&self.step, &self.choosers[self.chooser].1]
    }

    pub fn shape(&self) -> DecodeShape {
        self.shape
    }

    /// Bytes of caches and state.
    pub fn bytes(&self) -> u64 {
        self.state.values().map(|slice| slice.buffer.bytes()).sum()
    }

    fn write<T: bytemuck::NoUninit>(&self, name: &str, data: &[T]) {
        self.gpu.write(&self.state[name].buffer, 0, data);
    }

    /// Encodes the sources and puts every row at its start. Places of the batch that have no target are finished from the
    /// start.
    pub async fn start(&self, start: &Start<'_>, should_stop: &ShouldStop<'_>) -> Result<()> {
        let DecodeShape { sources: n_sources, beams, drafts, src_len, max_len, .. } = self.shape;
        let (rows, sequences, targets) = (self.shape.rows(), self.shape.sequences(), start.source_of.len());
        let mut ids = vec![start.settings.pad; n_sources * src_len];
        let mut lens = vec![0u32; n_sources];
        for (b, source) in start.sources.iter().enumerate() {
            ids[b * src_len..][..source.len()].copy_from_slice(source);
            lens[b] = source.len() as u32;
        }
        let sequence_of = |row: usize| row / (1 + drafts);
        let source_of = |row| start.source_of.get(sequence_of(row) / beams).copied().unwrap_or(0);
        let source_of: Vec<u32> = (0..rows).map(source_of).collect();
        let cache_row: Vec<u32> = (0..rows * max_len).map(|i| sequence_of(i / max_len) as u32).collect();
        self.write("src_ids", &ids);
        self.write("src_lens", &lens);
        for (name, data) in self.encoder_attention.leaves(&lens, src_len) {
            self.prepare.write(name, &data);
        }
        self.write("source_of", &source_of);
        self.write("cache_row", &cache_row);
        self.write("pos", &self.positions(0));
        self.write("tgt_ids", &vec![start.start_token; rows]);
        self.write("settings", std::slice::from_ref(start.settings));
        self.write("tokens", &vec![start.start_token; sequences]);
        if drafts > 0 {
            self.write("origin", &vec![0u32; max_len * sequences]);
        }
        if let Some(rules) = start.rules {
            self.write("rules", &rules.words);
        }
        if beams == 1 {
            let mut numbers = start.sequences.to_vec();
            numbers.resize(sequences, 0);
            self.write("sequences", &numbers);
            self.write("finished", &self.unused(targets));
        } else {
            let penalties: Vec<f32> = (0..max_len).map(|tokens| (start.penalty)(tokens.max(1))).collect();
            self.write("penalties", &penalties);
            self.write("beams", &self.first_beams(targets));
        }
        self.prepare.run_until(should_stop).await
    }

    /// The state of beam search before its first step: one beam counts, and there is no hypothesis.
    fn first_beams(&self, targets: usize) -> Vec<f32> {
        let DecodeShape { batch, beams, .. } = self.shape;
        let mut state = Vec::with_capacity(batch * (1 + 5 * beams));
        for target in 0..batch {
            state.push(if target < targets { 0.0 } else { BeamSearch::DONE });
            state.extend((0..beams).map(|beam| if beam == 0 { 0.0 } else { BeamSearch::OUT }));
            state.extend((0..beams).flat_map(|_| [BeamSearch::OUT, 0.0, 0.0, 0.0]));
        }
        state
    }

    /// Overwrites the rules from this word on.
    pub fn write_rules(&self, place: usize, words: &[u32]) {
        self.gpu.write(&self.state["rules"].buffer, 4 * place as u64, words);
    }

    /// 1 for each place of the batch beyond the targets.
    fn unused(&self, targets: usize) -> Vec<u32> {
        (0..self.shape.batch).map(|target| u32::from(target >= targets)).collect()
    }

    /// Where the tokens of all rows stand if the newest of their sequences stand at `at`.
    fn positions(&self, at: usize) -> Vec<u32> {
        (0..self.shape.rows()).map(|row| (at + row % (1 + self.shape.drafts)) as u32).collect()
    }

    /// Lets every row go on with this token behind position `at`, whatever it would choose itself.
    pub async fn feed(&self, at: usize, token: u32) -> Result<()> {
        let (rows, sequences) = (self.shape.rows(), self.shape.sequences());
        self.step.run_until(&|| false).await?;
        let place = 4 * sequences as u64 * (at + 1) as u64;
        // Drafts are no guess here, and wrong ones are overwritten.
        self.write("tgt_ids", &vec![token; rows]);
        self.write("pos", &self.positions(at + 1));
        self.gpu.write(&self.state["tokens"].buffer, place, &vec![token; sequences]);
        if self.shape.beams > 1 {
            self.gpu.write(&self.state["parents"].buffer, place, &(0..sequences as u32).collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Makes the next `count` tokens of every row, or more with drafts, in one submit.
    pub async fn advance(&self, count: usize) -> Result<()> {
        let mut sequence = Sequence::new(&self.gpu);
        for _ in 0..count {
            self.plans().iter().try_for_each(|plan| plan.run_in(&mut sequence))?;
        }
        sequence.submit_until(&|| false).await
    }

    /// Starts the way back of `count` positions of `tokens`, `origin`, `parents` or `token_scores`, from position `first` on: `[count,
    /// sequences]` or, of `token_scores`, `[count, sequences, 2 width]`.
    pub fn start_history<T: bytemuck::Pod>(&self, name: &str, first: usize, count: usize) -> Result<Readback<T>> {
        let Slice { buffer, bytes, .. } = &self.state[name];
        let row = bytes / self.shape.max_len as u64;
        let begin = row * first as u64;
        self.gpu.start_read(buffer, begin..begin + row * count as u64)
    }

    /// What the log-probabilities of tokens look like, if they are kept.
    pub fn score_lists(&self) -> Option<ScoreLists> {
        let op = self.shape.token_scores(self.choosers[self.chooser].0)?;
        Some(ScoreLists { width: op.width(), first: usize::from(op.chosen) })
    }

    /// Starts the way back of the state of beam search.
    pub fn start_beams(&self) -> Result<Readback<f32>> {
        let Slice { buffer, bytes, .. } = &self.state["beams"];
        self.gpu.start_read(buffer, 0..*bytes)
    }
}

fn compile(model: &Model, state: &HashMap<String, Slice>, graph: &Graph, pool: &SlotPool) -> Result<Plan> {
    let bind = |name: &str| state.get(name).cloned().or_else(|| model.bind(name));
    let choices = model.tuner.any_batch().choices(&model.gpu, graph, &[])?;
    Plan::compile_with(&model.gpu, graph, &[], &PlanOptions { bind: &bind, pool }, &choices)
}
