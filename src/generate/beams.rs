//! The loop of beam search on the host: it lets the device search, and reads the hypotheses when all sources are done.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};

use super::constraint::{Asked, Constraint};
use super::generation::{Generation, StoppedAt};
use super::generator::{Pace, ShouldStop, not_a_number};
use super::session::{ScoreLists, Session};
use crate::error::Result;
use crate::gpu::Readback;
use crate::ops::BeamSearch;

/// The sources of a batch under beam search.
pub(super) struct Beams<'a> {
    pub session: &'a Session,
    /// Indices of the sources.
    pub sources: &'a [usize],
    pub eos: &'a [u32],
    pub max_new: usize,
    /// Positions of the target before the first new token.
    pub prompt: usize,
    pub n_best: usize,
    pub alternatives: usize,
    /// Says what may come next, if something does.
    pub constraint: Option<&'a Constraint<'a>>,
    /// The token that all targets begin with.
    pub forced_first: Option<u32>,
    pub pace: Pace,
    pub should_stop: &'a ShouldStop<'a>,
}

impl Beams<'_> {
    /// Searches to the end, or until `should_stop` says so, and gives the best hypotheses of each source, and whether that was
    /// the end.
    pub async fn search(&self) -> Result<(Vec<Vec<Generation>>, ControlFlow<()>)> {
        let mut underway: VecDeque<Readback<f32>> = VecDeque::new();
        let forced = usize::from(self.forced_first.is_some());
        let (mut made, mut state, mut end) = (forced, Vec::new(), ControlFlow::Continue(()));
        // What each row has made; known step by step where something is asked about it.
        let mut targets = vec![self.forced_first.into_iter().collect::<Vec<u32>>(); self.session.shape().rows()];
        loop {
            if (self.should_stop)() {
                end = ControlFlow::Break(());
                break;
            }
            while made < self.max_new && underway.len() < self.pace.ahead {
                let count = self.pace.steps.min(self.max_new - made);
                if let Some(constraint) = self.constraint {
                    constraint.apply(self.session, self.asked(&state, &targets))?;
                }
                self.session.advance(count).await?;
                underway.push_back(self.session.start_beams()?);
                made += count;
            }
            let Some(readback) = underway.pop_front() else { break };
            state = readback.finish().await?;
            if self.all_done(&state)? {
                break;
            }
            if self.constraint.is_some() {
                let newest = |name| self.session.start_history::<u32>(name, self.prompt + made - 1, 1);
                let (tokens, parents) = (newest("tokens")?, newest("parents")?);
                let (tokens, parents) = (tokens.finish().await?, parents.finish().await?);
                let grown = parents.iter().zip(tokens).map(|(&parent, token)| {
                    let before = targets.get(parent as usize).map_or(&[][..], Vec::as_slice);
                    [before, &[token]].concat()
                });
                targets = grown.collect();
            }
        }
        let positions = self.prompt + made;
        let tokens = self.session.start_history("tokens", 0, positions)?.finish().await?;
        let parents = self.session.start_history("parents", 0, positions)?.finish().await?;
        let lists = match self.session.score_lists() {
            Some(lists) => {
                let pairs = self.session.start_history("token_scores", 0, positions)?.finish().await?;
                Some((lists, pairs))
            }
            None => None,
        };
        let given = self.prompt..self.prompt + forced;
        let history = History { rows: self.session.shape().rows(), prompt: self.prompt, given, tokens, parents, lists };
        let stride = self.stride();
        let of_source = |state: &[f32]| self.hypotheses(state, &history);
        let mut found: Vec<_> = state.chunks(stride).take(self.sources.len()).map(of_source).collect();
        found.resize_with(self.sources.len(), Vec::new);
        Ok((found, end))
    }

    /// Numbers to a source in the state.
    fn stride(&self) -> usize {
        1 + 5 * self.session.shape().beams
    }

    /// The rows, as a constraint is asked about them: those of sources that are not done.
    fn asked<'b>(&'b self, state: &'b [f32], targets: &'b [Vec<u32>]) -> impl Iterator<Item = Option<Asked<'b>>> {
        let beams = self.session.shape().beams;
        targets.iter().enumerate().map(move |(row, made)| {
            let (place, beam) = (row / beams, row % beams);
            let source = *self.sources.get(place)?;
            let of_source = state.get(place * self.stride()..).filter(|state| !state.is_empty());
            let running = match of_source {
                Some(state) if state[0] == BeamSearch::DONE => return None,
                Some(state) => state[1 + beam],
                // At first one beam counts.
                None if beam == 0 => 0.0,
                None => BeamSearch::OUT,
            };
            Some(Asked { source, made, counts: running > BeamSearch::HOPELESS })
        })
    }

    fn all_done(&self, state: &[f32]) -> Result<bool> {
        let mut done = true;
        for (source, state) in self.sources.iter().zip(state.chunks(self.stride())) {
            if state[0] == BeamSearch::FAILED {
                return Err(not_a_number(*source));
            }
            done &= state[0] == BeamSearch::DONE;
        }
        Ok(done)
    }

    /// The hypotheses of a source that have ended, the best first.
    fn hypotheses(&self, state: &[f32], history: &History) -> Vec<Generation> {
        let ended = state[1 + self.session.shape().beams..].chunks(4);
        let real = ended.filter(|hypothesis| hypothesis[1] > 0.0 && hypothesis[0] > BeamSearch::HOPELESS);
        let generation = |hypothesis: &[f32]| {
            let [score, at, row, token] = [0, 1, 2, 3].map(|i| hypothesis[i]);
            let (at, token) = (at as usize, token as u32);
            let mut path = history.before(at, row as usize);
            path.push(Made { at, row: row as usize, token });
            let mut generation = Generation { score: Some(score), ..Generation::default() };
            path.iter().for_each(|made| history.tell(made, self.alternatives, &mut generation));
            generation.stopped_at = self.eos.contains(&token).then_some(StoppedAt::EndToken(token));
            path.truncate(path.len() - usize::from(generation.stopped_at.is_some()));
            generation.ids = path.into_iter().map(|made| made.token).collect();
            generation
        };
        real.take(self.n_best).map(generation).collect()
    }
}

/// The tokens of all beams, and from which row each of them went on.
struct History {
    rows: usize,
    prompt: usize,
    /// Positions whose token was not chosen.
    given: Range<usize>,
    tokens: Vec<u32>,
    parents: Vec<u32>,
    lists: Option<(ScoreLists, Vec<f32>)>,
}

/// A token, and the row whose logits it came of.
struct Made {
    at: usize,
    row: usize,
    token: u32,
}

impl History {
    /// The new tokens in front of position `at`, of which the last one belongs to `row`.
    fn before(&self, at: usize, mut row: usize) -> Vec<Made> {
        let mut path: Vec<Made> = (self.prompt..at)
            .rev()
            .map(|at| {
                let place = at * self.rows + row;
                row = self.parents[place] as usize;
                Made { at, row, token: self.tokens[place] }
            })
            .collect();
        path.reverse();
        path
    }

    /// Adds the log-probability of a token, if it is known.
    fn tell(&self, made: &Made, alternatives: usize, generation: &mut Generation) {
        let Some((lists, pairs)) = &self.lists else { return };
        if self.given.contains(&made.at) {
            return lists.take(&lists.of_given(made.token), made.token, alternatives, generation);
        }
        let first = (made.at * self.rows + made.row) * 2 * lists.width;
        lists.take(&pairs[first..first + 2 * lists.width], made.token, alternatives, generation);
    }
}
