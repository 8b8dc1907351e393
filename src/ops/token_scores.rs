//! What is kept of the log-probabilities of tokens, position by position.

use super::token_choice::{
    LANES, REDUCE, SETTINGS, SETTINGS_LEN, TOP, UNCHOOSABLE, likeliest, log_sum, top_iterations,
};
use crate::gpu::{Constant, Header, Shader};
use crate::graph::{Dtype, Launch, Launcher, Op, Tensor64};

/// `logits [rows, vocab]`, `settings` (see [`super::ChoiceSettings`], of which `limit` counts), `tokens [len, rows]` (u32), `pos [rows]`
/// (u32) -> `scores [len, rows, 2 width]`, to be stored in a leaf: at one position of each row its token's log-probability and
/// id, if it is chosen already, and then those of the `keep` likeliest tokens, as [`super::TopTokens`] gives them. `width` is the number
/// of these pairs.
#[derive(Clone, Debug)]
pub struct TokenScores {
    pub keep: usize,
    /// The token at `pos` was chosen by these logits, and comes first. Else the token behind `pos` will be, and only the likeliest are
    /// kept, for its position.
    pub chosen: bool,
    /// The logits are log-probabilities already.
    pub normalized: bool,
}

impl TokenScores {
    /// Pairs of each row and position.
    pub fn width(&self) -> usize {
        self.keep + usize::from(self.chosen)
    }
}

static TOKEN_SCORES: Shader = Shader {
    name: "token_scores",
    source: include_str!("../../shaders/token_scores.wgsl"),
    shared: &[SETTINGS, REDUCE, TOP],
    defaults: &[
        ("LANES", Constant::U32(LANES as u32)),
        ("CHOSEN", Constant::Bool(true)),
        ("NORMALIZED", Constant::Bool(false)),
    ],
};

impl Op for TokenScores {
    fn name(&self) -> &'static str {
        "token_scores"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let [len, rows] = inputs[2][..] else { panic!("tokens {:?} of {self:?}", inputs[2]) };
        assert_eq!(inputs[0][0], rows, "logits of {self:?}");
        assert_eq!(inputs[1], [SETTINGS_LEN], "settings of {self:?}");
        assert_eq!(inputs[3], [rows], "pos of {self:?}");
        vec![(vec![len, rows, 2 * self.width()], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let ([rows, vocab], len) = ([l.shape(0)[0], l.shape(0)[1]], l.shape(2)[0]);
        l.iterations(top_iterations(vocab, self.keep), &format!("the {} likeliest of {vocab} tokens", self.keep));
        l.launch(Launch {
            shader: &TOKEN_SCORES,
            header: Header::new().bool("CHOSEN", self.chosen).bool("NORMALIZED", self.normalized),
            bindings: vec![
                ("logits", l.input(0)),
                ("settings", l.input(1)),
                ("tokens", l.input(2)),
                ("pos", l.input(3)),
                ("scores", l.output(0)),
            ],
            params: vec![
                ("rows", rows.into()),
                ("vocab", vocab.into()),
                ("len", len.into()),
                ("keep", self.keep.into()),
            ],
            workgroups: rows as u64,
        });
        l.moves("tokens", rows);
        l.moves("scores", rows * 2 * self.width());
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let [logits, settings, tokens, pos] = [0, 1, 2, 3].map(|i| &inputs[i]);
        let mut scores = inputs[4].clone();
        let [len, rows] = [tokens.shape[0], tokens.shape[1]];
        let limit = settings.data[3] as usize;
        for (row, logits) in logits.rows().enumerate() {
            let at = pos.data[row] as usize + usize::from(!self.chosen);
            if at >= len {
                continue;
            }
            let log_sum = if self.normalized { 0.0 } else { log_sum(logits) };
            let token = (tokens.data[at * rows + row] as usize).min(logits.len() - 1);
            let of_chosen = match logits[token].is_nan() {
                true => f64::from(UNCHOOSABLE),
                false => logits[token] - log_sum,
            };
            let chosen = self.chosen.then_some([of_chosen, token as f64]);
            let pairs = chosen.into_iter().chain(likeliest(logits, limit, self.keep, log_sum));
            let first = (at * rows + row) * 2 * self.width();
            scores.data[first..].iter_mut().zip(pairs.flatten()).for_each(|(place, x)| *place = x);
        }
        vec![scores]
    }
}
