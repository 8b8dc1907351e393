//! What comes out of decoding.

/// A generated target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generation {
    /// Without start and end token. The tokens of a stop string that ended it are there, so that its text is [`Decoding::text`](super::Decoding::text)'s.
    pub ids: Vec<u32>,
    /// What ended it; `None` if it ran into `max_new_tokens` or was interrupted.
    pub stopped_at: Option<StoppedAt>,
    /// Tokens that were guessed rightly, so that they took no step of their own: see [`Decoding::speculate`](super::Decoding::speculate).
    pub guessed: usize,
    /// Of beam search: the sum of the tokens' log-probabilities, the end token's too, divided by the length penalty.
    pub score: Option<f32>,
    /// Natural logarithm of the probability of each token, given the source and the tokens before; the end token's is the last.
    /// Empty unless [`Decoding::log_probs`](super::Decoding::log_probs) or [`Decoding::alternatives`](super::Decoding::alternatives) asked for it.
    ///
    /// It is that of the model, which [`TargetScorer`](crate::forward::TargetScorer) gives as well, before temperature, `top_k`, `top_p` and
    /// `min_p`. Where rules change scores (penalties, suppressed tokens, answers), it is that of the changed scores, as
    /// `compute_transition_scores` of transformers gives it: the probabilities of what is left add up to 1, but not those of
    /// beams, whose rules change log-probabilities. So a beam's [`Generation::score`] is always the sum of these numbers over the length penalty.
    /// A forced token has 0.
    pub log_probs: Vec<f32>,
    /// For each token, and for the end token at last: the likeliest tokens at its place, the likeliest first and the lower id
    /// first of equals. There are fewer where fewer may be chosen; a token that was drawn need not be among them. Empty
    /// unless [`Decoding::alternatives`](super::Decoding::alternatives) asked for it.
    pub alternatives: Vec<Vec<Alternative>>,
}

/// A token that could be at a place, and the logarithm of its probability there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alternative {
    pub id: u32,
    pub log_prob: f32,
}

impl Generation {
    /// Whether it ended by itself.
    pub fn is_finished(&self) -> bool {
        self.stopped_at.is_some()
    }

    /// The end token, if that ended it.
    pub fn end_token(&self) -> Option<u32> {
        match self.stopped_at {
            Some(StoppedAt::EndToken(id)) => Some(id),
            _ => None,
        }
    }

    /// Its tokens, the end token included: those that [`Generation::log_probs`] tells of.
    pub fn tokens(&self) -> impl Iterator<Item = u32> {
        self.ids.iter().copied().chain(self.end_token())
    }
}

/// What ended a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoppedAt {
    EndToken(u32),
    /// One of [`Decoding::stop_strings`](super::Decoding::stop_strings).
    StopString(String),
}
