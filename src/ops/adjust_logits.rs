//! The scores of the next tokens as settings want them: penalties, suppressed and forced tokens, a set of answers.

use super::token_choice::{LANES, NO_TOKEN, REDUCE, SETTINGS, SETTINGS_LEN};
use crate::gpu::{Constant, Header, Shader};
use crate::graph::{Dtype, Launch, Launcher, Op, Tensor64};

/// Changes `logits [rows, vocab]` in place by the rules and in the order of transformers' logits processors (4.57). What is
/// suppressed scores -1e30.
///
/// Inputs: `settings` (see [`super::ChoiceSettings`]); the rows' tokens so far, as `tokens [len, rows]`, `cache_row [rows, len]` and `pos [rows]`
/// (u32), where a row's token at position p up to its `pos` is `tokens[p, cache_row[row, p]]`; and `rules` (u32, of any length):
/// suppressed ids, ids suppressed behind `begin` new ones, for each bad word its place in the rules and its number of
/// tokens, their tokens, and the trie of answers, whose nodes are the place and the number of their children, each a
/// token and its node's place, in the order of the tokens; and from the settings' `mask` on a bit for each token, 1 where it is
/// allowed, in whole words for each row.
///
/// Output, to be stored in a leaf: the logits.
#[derive(Clone, Debug)]
pub struct AdjustLogits {
    pub vocab: usize,
    /// Make log-probabilities of the logits first, as beam search compares them.
    pub normalize: bool,
}

const SUPPRESSED: f64 = -1e30;

static ADJUST_LOGITS: Shader = Shader {
    name: "adjust_logits",
    source: include_str!("../../shaders/adjust_logits.wgsl"),
    shared: &[SETTINGS, REDUCE],
    defaults: &[("LANES", Constant::U32(LANES as u32)), ("NORMALIZE", Constant::Bool(false))],
};

impl Op for AdjustLogits {
    fn name(&self) -> &'static str {
        "adjust_logits"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let [len, rows] = inputs[1][..] else { panic!("tokens {:?} of {self:?}", inputs[1]) };
        assert_eq!(inputs[0], [SETTINGS_LEN], "settings of {self:?}");
        assert_eq!(inputs[2], [rows, len], "cache_row of {self:?}");
        assert_eq!(inputs[3], [rows], "pos of {self:?}");
        vec![(vec![rows, self.vocab], Dtype::F32)]
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let [len, rows] = [l.shape(1)[0], l.shape(1)[1]];
        // Once over the history from each of its positions, once or twice more for n-grams and answers; three times over the row.
        let share = len.div_ceil(LANES);
        l.iterations(
            3 * self.vocab.div_ceil(LANES) + share * (len + 8) + len,
            &format!("the scores of {} tokens behind up to {len}", self.vocab),
        );
        l.launch(Launch {
            shader: &ADJUST_LOGITS,
            header: Header::new().bool("NORMALIZE", self.normalize),
            bindings: vec![
                ("settings", l.input(0)),
                ("tokens", l.input(1)),
                ("cache_row", l.input(2)),
                ("pos", l.input(3)),
                ("rules", l.input(4)),
                ("logits", l.output(0)),
            ],
            params: vec![("rows", rows.into()), ("vocab", self.vocab.into()), ("len", len.into())],
            workgroups: rows as u64,
        });
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let [settings, tokens, cache_row, pos, rules] = [0, 1, 2, 3, 4].map(|i| &inputs[i]);
        let mut logits = inputs[5].clone();
        let (len, rows) = (tokens.shape[0], tokens.shape[1]);
        let s: Vec<u32> = settings.data.iter().map(|&x| x as u32).collect();
        let rules: Vec<usize> = rules.data.iter().map(|&x| x as usize).collect();
        let eos: Vec<usize> = s[8..8 + s[7] as usize].iter().map(|&id| id as usize).collect();
        let [max_new, prompt, ngram, min_new] = [24, 25, 29, 30].map(|i| s[i] as usize);
        let (penalty, forced_last) = (f64::from(f32::from_bits(s[28])), s[31]);
        let [n_suppress, n_begin, begin, n_words, trie, mask] = [32, 33, 34, 35, 36, 37].map(|i| s[i] as usize);
        for (row, scores) in logits.data.chunks_mut(self.vocab).enumerate() {
            let at = pos.data[row] as usize;
            let home = |p: usize| cache_row.data[row * len + p] as usize;
            let history: Vec<usize> = (0..=at).map(|p| tokens.data[p * rows + home(p)] as usize).collect();
            if self.normalize {
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = scores.iter().map(|x| (x - top).exp()).sum();
                scores.iter_mut().for_each(|x| *x -= top + sum.ln());
            }
            let made = at - prompt;
            let children = |node: usize| rules[rules[node]..][..2 * rules[node + 1]].chunks(2);
            let child = |node: usize, token: usize| children(node).find(|c| c[0] == token).map(|c| c[1]);
            if trie > 0 {
                let node = history[prompt + 1..].iter().try_fold(trie, |node, &token| child(node, token));
                let allowed: Vec<usize> = match node {
                    Some(node) if rules[node + 1] > 0 => children(node).map(|c| c[0]).collect(),
                    _ => eos.clone(),
                };
                let kept = allowed.iter().map(|&id| (id, scores[id])).collect::<Vec<_>>();
                scores.fill(SUPPRESSED);
                kept.into_iter().for_each(|(id, score)| scores[id] = score);
            }
            if mask > 0 {
                let words = &rules[mask + row * self.vocab.div_ceil(32)..];
                let is_allowed = |id: usize| words[id / 32] >> (id % 32) & 1 == 1;
                scores.iter_mut().enumerate().filter(|(id, _)| !is_allowed(*id)).for_each(|(_, x)| *x = SUPPRESSED);
            }
            if forced_last != NO_TOKEN && made + 1 >= max_new {
                scores.fill(SUPPRESSED);
                scores[forced_last as usize] = 0.0;
            } else {
                let seen: std::collections::BTreeSet<usize> = history.iter().copied().collect();
                for id in seen {
                    scores[id] = if scores[id] < 0.0 { scores[id] * penalty } else { scores[id] / penalty };
                }
                let mut banned = Vec::new();
                if ngram > 0 && history.len() + 1 >= ngram {
                    let last = &history[history.len() + 1 - ngram..];
                    banned.extend(history.windows(ngram).filter(|w| w.starts_with(last)).map(|w| w[ngram - 1]));
                }
                for word in rules[n_suppress + n_begin..].chunks(2).take(n_words) {
                    let (&end, before) = rules[word[0]..][..word[1]].split_last().expect("a word has tokens");
                    if (word[1] == 1 || word[1] <= history.len()) && history.ends_with(before) {
                        banned.push(end);
                    }
                }
                if made < min_new {
                    banned.extend(&eos);
                }
                banned.into_iter().for_each(|id| scores[id] = SUPPRESSED);
            }
            let suppressed = n_suppress + if made == begin { n_begin } else { 0 };
            rules[..suppressed].iter().for_each(|&id| scores[id] = SUPPRESSED);
        }
        vec![logits]
    }
}
