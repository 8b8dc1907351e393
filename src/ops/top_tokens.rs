//! The likeliest tokens of each row of logits.

use super::token_choice::{LANES, REDUCE, SETTINGS, SETTINGS_LEN, TOP, likeliest, log_sum, top_iterations};
use crate::gpu::{Constant, Header, Shader};
use crate::graph::{Dtype, Launch, Launcher, Op, Tensor64};

/// `logits [rows, vocab]`, `settings` (see [`super::ChoiceSettings`], of which `limit` counts) -> `[rows, 2 keep]`: the `keep` likeliest
/// tokens, each as its log-probability and its id (-1 where a row has fewer numbers), in descending order and the lower id
/// first of equals. Log-probabilities are those among all of `vocab`; NaN counts as no class.
#[derive(Clone, Debug)]
pub struct TopTokens {
    pub keep: usize,
    /// The logits are log-probabilities already.
    pub normalized: bool,
}

static TOP_TOKENS: Shader = Shader {
    name: "top_tokens",
    source: include_str!("../../shaders/top_tokens.wgsl"),
    shared: &[SETTINGS, REDUCE, TOP],
    defaults: &[("LANES", Constant::U32(LANES as u32)), ("NORMALIZED", Constant::Bool(false))],
};

impl Op for TopTokens {
    fn name(&self) -> &'static str {
        "top_tokens"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        assert_eq!(inputs[1], [SETTINGS_LEN], "settings of {self:?}");
        vec![(vec![inputs[0][0], 2 * self.keep], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let [rows, vocab] = [l.shape(0)[0], l.shape(0)[1]];
        l.iterations(top_iterations(vocab, self.keep), &format!("the choice of {} among {vocab} tokens", self.keep));
        l.launch(Launch {
            shader: &TOP_TOKENS,
            header: Header::new().bool("NORMALIZED", self.normalized),
            bindings: vec![("logits", l.input(0)), ("settings", l.input(1)), ("top", l.output(0))],
            params: vec![("rows", rows.into()), ("vocab", vocab.into()), ("keep", self.keep.into())],
            workgroups: rows as u64,
        });
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let limit = inputs[1].data[3] as usize;
        let mut top = Vec::new();
        for row in inputs[0].rows() {
            let log_sum = if self.normalized { 0.0 } else { log_sum(row) };
            top.extend(likeliest(row, limit, self.keep, log_sum).flatten());
        }
        vec![Tensor64::new(&[inputs[0].shape[0], 2 * self.keep], top)]
    }
}
