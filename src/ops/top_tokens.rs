//! The likeliest tokens of each row of logits.

use super::token_choice::{LANES, REDUCE, SETTINGS, SETTINGS_LEN};
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

/// The log-probability where a row has no more tokens.
const UNCHOOSABLE: f64 = -1e30;

static TOP_TOKENS: Shader = Shader {
    name: "top_tokens",
    source: include_str!("../../shaders/top_tokens.wgsl"),
    shared: &[SETTINGS, REDUCE],
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
        // A lane may hold all of the likeliest, and looks for two at a time.
        let looks = 4 + self.keep / 2;
        let iterations = vocab.div_ceil(LANES) * looks + 33 * (self.keep + 2);
        l.iterations(iterations, &format!("the choice of {} among {vocab} tokens", self.keep));
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
            let numbers = || row.iter().copied().filter(|x| !x.is_nan());
            let highest = numbers().fold(f64::MIN, f64::max);
            let log_sum = match self.normalized {
                true => 0.0,
                false => highest + numbers().map(|x| (x - highest).exp()).sum::<f64>().ln(),
            };
            let mut order: Vec<usize> = (0..row.len().min(limit)).filter(|&i| !row[i].is_nan()).collect();
            order.sort_by(|&i, &j| row[j].total_cmp(&row[i]).then(i.cmp(&j)));
            for k in 0..self.keep {
                top.extend(order.get(k).map_or([UNCHOOSABLE, -1.0], |&i| [row[i] - log_sum, i as f64]));
            }
        }
        vec![Tensor64::new(&[inputs[0].shape[0], 2 * self.keep], top)]
    }
}
