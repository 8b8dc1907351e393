//! A step of beam search, on the device.

use super::token_choice::{SETTINGS, SETTINGS_LEN};
use crate::gpu::{Header, Shader};
use crate::graph::{Dtype, Launch, Launcher, Op, Tensor64};

/// From the likeliest tokens of every beam to the beams that go on and the hypotheses that end here: what transformers' vectorised
/// `_beam_search` (4.57) does with its scores, for each source by itself. Of equal scores the lower beam and then the lower id
/// comes first.
///
/// Inputs: `top [rows, 2 keep]` of [`super::TopTokens`], where the rows of a source lie side by side; `settings` (see
/// [`super::ChoiceSettings`]: end tokens, `pad`, `max_new`, `prompt`, `early_stopping`); `penalties [len]`, what the score of a
/// hypothesis of so many tokens is divided by.
///
/// Outputs, to be stored in leaves: `ids [rows]` (u32), the newest tokens; `tokens [len, rows]` (u32); `parents [len, rows]` (u32), the row
/// that the one before belongs to; `pos [rows]` (u32); `cache_row [rows, len]` (u32), which [`super::AttentionDecode`] reads; and
/// `beams [rows / beams, 1 + 5 beams]`, for each source: [`BeamSearch::DONE`], [`BeamSearch::FAILED`] or 0; the running scores; the
/// best ended hypotheses in descending order, each as its score, the position of its last token (0: none), the row of
/// that position's parent, and the last token itself.
#[derive(Clone, Debug)]
pub struct BeamSearch {
    /// Of a source.
    pub beams: usize,
    /// Positions that a sequence can have.
    pub len: usize,
}

impl BeamSearch {
    /// The most beams of a source.
    pub const MOST_BEAMS: usize = 32;
    /// The state of a source whose search has ended.
    pub const DONE: f32 = 1.0;
    /// The state of a source with a beam whose logits are all NaN.
    pub const FAILED: f32 = 2.0;
    /// `early_stopping`: as soon as there are as many hypotheses as beams.
    pub const EARLY: u32 = 1;
    /// `early_stopping`: only when no hypothesis can become better, even if it grew to `max_new`. 0 judges by the present length.
    pub const NEVER: u32 = 2;
    /// A score below this belongs to a beam that only fills a place.
    pub const HOPELESS: f32 = -1e8;
    /// Of running beams that are out of the race, and of places without a hypothesis.
    pub const OUT: f32 = -1e9;

    /// Tokens of each beam that are looked at: enough that as many beams go on, whichever of the tokens end.
    pub fn keep(beams: usize, n_eos: usize) -> usize {
        beams * (1 + n_eos).max(2)
    }
}

static BEAM_SEARCH: Shader = Shader {
    name: "beam_search",
    source: include_str!("../../shaders/beam_search.wgsl"),
    shared: &[SETTINGS],
    defaults: &[],
};

impl Op for BeamSearch {
    fn name(&self) -> &'static str {
        "beam_search"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let rows = inputs[0][0];
        assert!(self.beams <= BeamSearch::MOST_BEAMS && rows.is_multiple_of(self.beams), "{rows} rows of {self:?}");
        assert_eq!(inputs[1], [SETTINGS_LEN], "settings of {self:?}");
        assert_eq!(inputs[2], [self.len], "penalties of {self:?}");
        let history = vec![self.len, rows];
        let integers = [vec![rows], history.clone(), history, vec![rows], vec![rows, self.len]];
        let scores = (vec![rows / self.beams, 1 + 5 * self.beams], Dtype::F32);
        integers.into_iter().map(|shape| (shape, Dtype::U32)).chain([scores]).collect()
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let [rows, keep] = [l.shape(0)[0], l.shape(0)[1] / 2];
        l.iterations(
            keep * (self.beams + 20) + 6 * self.beams.pow(2) + self.len.div_ceil(64) * (2 * self.beams + 1),
            &format!("a beam search of {} beams over {} positions", self.beams, self.len),
        );
        let names = ["ids", "tokens", "parents", "pos", "cache_row", "beams"];
        let outputs = names.iter().enumerate().map(|(i, &name)| (name, l.output(i)));
        l.launch(Launch {
            shader: &BEAM_SEARCH,
            header: Header::new(),
            bindings: [("top", l.input(0)), ("settings", l.input(1)), ("penalties", l.input(2))]
                .into_iter()
                .chain(outputs)
                .collect(),
            params: vec![
                ("batch", (rows / self.beams).into()),
                ("beams", self.beams.into()),
                ("keep", keep.into()),
                ("len", self.len.into()),
            ],
            workgroups: (rows / self.beams) as u64,
        });
        l.moves("tokens", rows);
        l.moves("parents", rows);
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let [top, settings, penalties] = [&inputs[0], &inputs[1], &inputs[2]];
        let [mut ids, mut tokens, mut parents, mut pos, mut cache_row, mut state] =
            [3, 4, 5, 6, 7, 8].map(|i| inputs[i].clone());
        let (n, rows, keep) = (self.beams, ids.data.len(), top.shape[1] / 2);
        let s: Vec<u32> = settings.data.iter().map(|&x| x as u32).collect();
        let (pad, eos, max_new, prompt, early) = (s[6], &s[8..8 + s[7] as usize], s[24], s[25], s[26]);
        let (out, hopeless) = (f64::from(BeamSearch::OUT), f64::from(BeamSearch::HOPELESS));
        for (source, state) in state.data.chunks_mut(1 + 5 * n).enumerate() {
            let row = source * n;
            let at = pos.data[row] as usize + 1;
            if state[0] != 0.0 || at >= self.len {
                continue;
            }
            let (running, ended) = state[1..].split_at_mut(n);
            let lists: Vec<&[f64]> = top.data[row * 2 * keep..].chunks(2 * keep).take(n).collect();
            if lists.iter().zip(&*running).any(|(list, score)| list[1] < 0.0 && *score > hopeless) {
                state[0] = f64::from(BeamSearch::FAILED);
                continue;
            }
            let of_beam = |(b, list): (usize, &&[f64])| -> Vec<(f64, usize, u32)> {
                let token = |id: f64| if id < 0.0 { pad } else { id as u32 };
                list.chunks(2).map(|pair| (running[b] + pair[0], b, token(pair[1]))).collect()
            };
            let mut kept: Vec<_> = lists.iter().enumerate().flat_map(of_beam).collect();
            kept.sort_by(|a, b| b.0.total_cmp(&a.0));
            kept.truncate(keep);
            let made = at - prompt as usize;
            let is_last = made >= max_new as usize;
            let ends = |token: u32| is_last || eos.contains(&token);
            let mut hypotheses: Vec<Vec<f64>> = ended.chunks(4).map(<[f64]>::to_vec).collect();
            let is_full = |hypotheses: &[Vec<f64>]| hypotheses.iter().all(|h| h[1] > 0.0);
            if !(is_full(&hypotheses) && early == BeamSearch::EARLY) {
                for &(score, beam, token) in kept[..n].iter().filter(|(_, _, token)| ends(*token)) {
                    let score = score / penalties.data[made.min(self.len - 1)];
                    hypotheses.push(vec![score, at as f64, (row + beam) as f64, f64::from(token)]);
                }
                hypotheses.sort_by(|a, b| b[0].total_cmp(&a[0]));
                hypotheses.truncate(n);
            }
            ended.copy_from_slice(&hypotheses.concat());
            kept.iter_mut().filter(|(_, _, token)| ends(*token)).for_each(|(score, ..)| *score += out);
            kept.sort_by(|a, b| b.0.total_cmp(&a.0));
            let table = cache_row.data.clone();
            for (slot, &(score, beam, token)) in kept[..n].iter().enumerate() {
                running[slot] = score;
                ids.data[row + slot] = f64::from(token);
                tokens.data[at * rows + row + slot] = f64::from(token);
                parents.data[at * rows + row + slot] = (row + beam) as f64;
                pos.data[row + slot] = at as f64;
                cache_row.data[(row + slot) * self.len..][..at]
                    .copy_from_slice(&table[(row + beam) * self.len..][..at]);
            }
            let penalty = |length: usize| penalties.data[length.min(self.len - 1)];
            let never = early == BeamSearch::NEVER && penalty(max_new as usize) > 1.0;
            let possible = running[0] / penalty(if never { max_new as usize } else { made });
            let worst = hypotheses[n - 1][0];
            let improves = hypotheses.iter().any(|h| possible > if h[1] > 0.0 { worst } else { out });
            if is_last || !improves || (is_full(&hypotheses) && early == BeamSearch::EARLY) {
                state[0] = f64::from(BeamSearch::DONE);
            }
        }
        vec![ids, tokens, parents, pos, cache_row, state]
    }
}
