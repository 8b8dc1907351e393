//! Greedy choice where a step checks guessed tokens: which guesses were right, and what is guessed next.

use super::sample::{choose, launch_likeliest, shares_rows};
use super::token_choice::{BAD_TOKEN, LANES, REDUCE, SETTINGS, SETTINGS_LEN};
use crate::gpu::{Constant, Header, Shader};
use crate::graph::{Dtype, Launch, Launcher, Op, Tensor64};

/// `logits [batch (1 + drafts), vocab]`, `settings` (see [`super::ChoiceSettings`]), `src_ids [batch src_len]` (u32), `src_lens [batch]`
/// (u32) -> five values to be stored in leaves, all u32: `ids [batch (1 + drafts)]`, each sequence's newest token and its drafts;
/// `tokens [len, batch]`; `finished [batch]`; `pos [batch (1 + drafts)]`, where these tokens stand; `origin [len, batch]`: what
/// kind of token there is at a position.
///
/// Tokens are those of [`super::Sample`] at temperature 0, several of them where drafts are what it would choose. The next drafts are
/// what stood behind the latest place, in the source or the sequence, where the last three tokens (else two, else one) stood
/// before: prompt lookup ([Saxena 2023](https://github.com/apoorvumang/prompt-lookup-decoding)). Where there is none, they are padding.
/// At the last position, and where a sequence is finished, nothing is written.
#[derive(Clone, Debug)]
pub struct AcceptDrafts {
    pub drafts: usize,
    pub len: usize,
    /// Whether many workgroups look for the likeliest class of a row, instead of what suits the adapter; tests go through both.
    pub shared: Option<bool>,
}

static ACCEPT_DRAFTS: Shader = Shader {
    name: "accept_drafts",
    source: include_str!("../../shaders/accept_drafts.wgsl"),
    shared: &[SETTINGS, REDUCE],
    defaults: &[("LANES", Constant::U32(LANES as u32))],
};

impl AcceptDrafts {
    /// WIDTH of the kernel, less the row that is no draft.
    pub const MOST_DRAFTS: usize = 15;

    /// In `origin`: the last token of a step.
    pub const CHOSEN: u32 = 1;
    /// In `origin`: a token that was guessed rightly, so that one more came of the step.
    pub const GUESSED: u32 = 2;
}

impl Op for AcceptDrafts {
    fn name(&self) -> &'static str {
        "accept_drafts"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let (rows, batch) = (inputs[0][0], inputs[3][0]);
        assert!((1..=AcceptDrafts::MOST_DRAFTS).contains(&self.drafts), "{self:?}");
        assert_eq!(rows, batch * (1 + self.drafts), "logits of {self:?}");
        assert_eq!(inputs[1], [SETTINGS_LEN], "settings of {self:?}");
        assert!(inputs[2].len() == 1 && inputs[2][0].is_multiple_of(batch), "src_ids of {self:?}");
        let shapes = [vec![rows], vec![self.len, batch], vec![batch], vec![rows], vec![self.len, batch]];
        shapes.into_iter().map(|shape| (shape, Dtype::U32)).collect()
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let (vocab, batch) = (l.shape(0)[1], l.shape(3)[0]);
        let (width, src_len) = (1 + self.drafts, l.shape(2)[0] / batch);
        let (found, shares) = launch_likeliest(l, self.shared.unwrap_or(shares_rows(l.caps, vocab)));
        // A row's shares, the drafts with the end tokens, the places, and the best of the lanes.
        let iterations = shares + width * 17 + (src_len + self.len).div_ceil(LANES) + 32;
        l.iterations(iterations, &format!("guesses from {src_len} and {} positions", self.len));
        l.launch(Launch {
            shader: &ACCEPT_DRAFTS,
            header: Header::new(),
            bindings: vec![
                ("settings", l.input(1)),
                ("found", found),
                ("src_ids", l.input(2)),
                ("src_lens", l.input(3)),
                ("ids", l.output(0)),
                ("finished", l.output(2)),
                ("pos", l.output(3)),
                ("origin", l.output(4)),
                ("tokens", l.output(1)),
            ],
            params: vec![
                ("batch", batch.into()),
                ("width", width.into()),
                ("len", self.len.into()),
                ("src_len", src_len.into()),
                ("shares", shares.into()),
            ],
            workgroups: batch as u64,
        });
        l.moves("origin", batch * width);
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let [logits, settings, src_ids, src_lens] = [&inputs[0], &inputs[1], &inputs[2], &inputs[3]];
        let [mut ids, mut tokens, mut finished, mut pos, mut origin] = [4, 5, 6, 7, 8].map(|i| inputs[i].clone());
        let (batch, width) = (finished.data.len(), 1 + self.drafts);
        let s: Vec<u32> = settings.data.iter().map(|&x| x as u32).collect();
        let (limit, pad, eos) = (s[3] as usize, s[6], &s[8..8 + s[7] as usize]);
        for b in 0..batch {
            if finished.data[b] != 0.0 {
                continue;
            }
            // One position after the other, as if each were a step of its own.
            let mut made = Vec::new();
            let start = pos.data[b * width] as usize;
            for r in 0..width {
                let agrees = r == 0 || made[r - 1] == ids.data[b * width + r] as u32;
                if start + r + 1 >= self.len || finished.data[b] != 0.0 || !agrees {
                    break;
                }
                let row = &logits.data[(b * width + r) * logits.shape[1]..][..logits.shape[1]];
                let token = choose(&row[..row.len().min(limit)], &[0; SETTINGS_LEN], [0; 4]);
                finished.data[b] = f64::from(u32::from(token == BAD_TOKEN || eos.contains(&token)));
                made.push(token);
            }
            for (i, &token) in made.iter().enumerate() {
                let to = (start + 1 + i) * batch + b;
                tokens.data[to] = f64::from(token);
                let last = i + 1 == made.len();
                origin.data[to] = f64::from(if last { AcceptDrafts::CHOSEN } else { AcceptDrafts::GUESSED });
            }
            let newest = start + made.len();
            let src_len = src_ids.data.len() / batch;
            let source: Vec<u32> = src_ids.data[b * src_len..].iter().map(|&id| id as u32).collect();
            let source = &source[..src_lens.data[b] as usize];
            let target: Vec<u32> = (0..=newest).map(|p| tokens.data[p * batch + b] as u32).collect();
            let last = target[newest];
            let next = guess(source, &target[1..], self.drafts, pad);
            for (r, token) in std::iter::once(if last == BAD_TOKEN { pad } else { last }).chain(next).enumerate() {
                ids.data[b * width + r] = f64::from(token);
                pos.data[b * width + r] = (newest + r) as f64;
            }
        }
        vec![ids, tokens, finished, pos, origin]
    }
}

/// So many tokens that may come after `target`.
fn guess(source: &[u32], target: &[u32], drafts: usize, pad: u32) -> Vec<u32> {
    for n in [3, 2, 1] {
        let Some(start) = target.len().checked_sub(n) else { continue };
        let needle = &target[start..];
        // An occurrence behind which something stands.
        let latest = |text: &[u32]| (n..text.len()).rev().find(|&end| &text[end - n..end] == needle);
        if let Some(end) = latest(target) {
            return target[end..].iter().copied().cycle().take(drafts).collect();
        }
        if let Some(end) = latest(source) {
            return source[end..].iter().copied().chain(std::iter::repeat(pad)).take(drafts).collect();
        }
    }
    vec![pad; drafts]
}
