//! The choice of the next token on the device: greedy, or drawn at a temperature with top-k and top-p cut-offs.

use super::dropout::{RANDOM, pcg4d};
use super::token_choice::{BAD_TOKEN, LANES, REDUCE, SETTINGS, SETTINGS_LEN};
use crate::gpu::{Caps, Constant, Header, Shader};
use crate::graph::{Dtype, Launch, Launcher, Op, Operand, Tensor64};

/// `logits [batch, vocab]`, `settings` (see [`super::ChoiceSettings`]), `sequences [batch]` (u32, which random draws a row gets)
/// -> four values to be stored in leaves, all u32: `ids [batch]`, the newest tokens; `tokens [len, batch]`;
/// `finished [batch]`, not 0 once an end token was emitted; `pos [batch]`, where the newest token stands.
///
/// Each run reads `pos`, writes the token for the position after it, and advances it. A finished sequence emits padding;
/// one whose logits are all NaN emits [`BAD_TOKEN`] and is finished. At the last position nothing is written.
#[derive(Clone, Debug)]
pub struct Sample {
    pub len: usize,
    /// Whether many workgroups look for the likeliest class of a row first, in a dispatch of their own, instead of what suits
    /// the adapter; tests go through both.
    pub shared: Option<bool>,
}

/// Classes of a workgroup that looks for the likeliest, where many share a row.
const SHARE: usize = 512;

static LIKELIEST: Shader = Shader {
    name: "likeliest",
    source: include_str!("../../shaders/likeliest.wgsl"),
    shared: &[SETTINGS, REDUCE],
    defaults: &[("LANES", Constant::U32(LANES as u32))],
};

/// Looks for the likeliest class of each share of each row of input 0, the logits; input 1: the settings. Gives pairs of a key and
/// a class `[rows, shares]`, and the number of shares, which is 1 unless many workgroups share a row.
pub(super) fn launch_likeliest(l: &mut Launcher<'_>, is_shared: bool) -> (Operand, usize) {
    let [batch, vocab] = [l.shape(0)[0], l.shape(0)[1]];
    let share = if is_shared { SHARE } else { vocab };
    let shares = vocab.div_ceil(share);
    let found = l.scratch(2 * batch * shares);
    l.iterations(share.div_ceil(LANES) + 32, &format!("the choice among {vocab} tokens"));
    l.launch(Launch {
        shader: &LIKELIEST,
        header: Header::new(),
        bindings: vec![("logits", l.input(0)), ("settings", l.input(1)), ("found", found)],
        params: vec![
            ("batch", batch.into()),
            ("vocab", vocab.into()),
            ("shares", shares.into()),
            ("share", share.into()),
        ],
        workgroups: (batch * shares) as u64,
    });
    (found, shares)
}

/// Whether many workgroups share a row, if the adapter decides.
pub(super) fn shares_rows(caps: &Caps, vocab: usize) -> bool {
    !caps.is_cpu() && vocab > 4 * SHARE
}

/// Rounds of a bisection over the keys of all floats: each leaves at most a quarter of 2^32, and one and a quarter.
const CUT_ROUNDS: u32 = 18;

static SAMPLE: Shader = Shader {
    name: "sample",
    source: include_str!("../../shaders/sample.wgsl"),
    shared: &[SETTINGS, REDUCE, RANDOM],
    defaults: &[("LANES", Constant::U32(LANES as u32))],
};

impl Op for Sample {
    fn name(&self) -> &'static str {
        "sample"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        let batch = inputs[0][0];
        assert_eq!(inputs[1], [SETTINGS_LEN], "sample settings");
        assert_eq!(inputs[2], [batch], "sample sequences");
        let shapes = [vec![batch], vec![self.len, batch], vec![batch], vec![batch]];
        shapes.into_iter().map(|shape| (shape, Dtype::U32)).collect()
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let [batch, vocab] = [l.shape(0)[0], l.shape(0)[1]];
        // Two bisections with a round between, the likeliest, the sums, the draw. A round also adds up the lanes' sums in two
        // steps, and the draw walks the lanes.
        let rounds = 2 * CUT_ROUNDS as usize + 1;
        let iterations = vocab.div_ceil(LANES) * (rounds + 3) + 32 * (rounds + 1) + 2 * LANES;
        l.iterations(iterations, &format!("the choice among {vocab} tokens"));
        let is_shared = self.shared.unwrap_or(shares_rows(l.caps, vocab));
        let (found, shares) = if is_shared { launch_likeliest(l, true) } else { (l.scratch(2 * batch), 0) };
        let listed = l.scratch(2 * batch * vocab.next_multiple_of(LANES));
        l.launch(Launch {
            shader: &SAMPLE,
            header: Header::new(),
            bindings: vec![
                ("logits", l.input(0)),
                ("settings", l.input(1)),
                ("sequences", l.input(2)),
                ("ids", l.output(0)),
                ("finished", l.output(2)),
                ("pos", l.output(3)),
                ("tokens", l.output(1)),
                ("found", found),
                ("listed", listed),
            ],
            params: vec![
                ("batch", batch.into()),
                ("vocab", vocab.into()),
                ("len", self.len.into()),
                ("shares", shares.into()),
                ("rounds", CUT_ROUNDS.into()),
            ],
            workgroups: batch as u64,
        });
        l.moves("tokens", batch);
        // Of the likeliest. A draw reads them all, several times, and lists some.
        if is_shared {
            l.moves("logits", batch);
        }
        l.moves("listed", 0);
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let [logits, settings, sequences] = [&inputs[0], &inputs[1], &inputs[2]];
        let [mut ids, mut tokens, mut finished, mut pos] = [3, 4, 5, 6].map(|i| inputs[i].clone());
        let batch = ids.data.len();
        let s: Vec<u32> = settings.data.iter().map(|&x| x as u32).collect();
        for (b, row) in logits.rows().enumerate() {
            let key = [sequences.data[b] as u32, pos.data[b] as u32, s[4], s[5]];
            let mut token = choose(&row[..row.len().min(s[3] as usize)], &s, key);
            if finished.data[b] != 0.0 {
                token = s[6];
            }
            if token == BAD_TOKEN || s[8..].iter().take(s[7] as usize).any(|&e| e == token) {
                finished.data[b] = 1.0;
            }
            let at = pos.data[b] as usize + 1;
            if at < self.len {
                tokens.data[at * batch + b] = f64::from(token);
                ids.data[b] = f64::from(if token == BAD_TOKEN { s[6] } else { token });
                pos.data[b] = at as f64;
            }
        }
        vec![ids, tokens, finished, pos]
    }
}

/// The choice for one row by full sorting; `s`: the settings' words, `key`: the key of the random draw.
pub(super) fn choose(row: &[f64], s: &[u32], key: [u32; 4]) -> u32 {
    let mut order: Vec<usize> = (0..row.len()).filter(|&i| !row[i].is_nan()).collect();
    order.sort_by(|&i, &j| row[j].total_cmp(&row[i]).then(i.cmp(&j)));
    let Some(&best) = order.first() else { return BAD_TOKEN };
    let (temperature, top_k, top_p) = (f64::from(f32::from_bits(s[0])), s[1] as usize, f64::from(f32::from_bits(s[2])));
    if temperature == 0.0 || top_k == 1 {
        return best as u32;
    }
    let keep_ties = |order: &mut Vec<usize>, count: usize| {
        let last = row[order[count.clamp(1, order.len()) - 1]];
        order.retain(|&i| row[i] >= last);
    };
    if top_k > 0 {
        keep_ties(&mut order, top_k);
    }
    let weight = |i: usize| ((row[i] - row[best]) / temperature).exp();
    if top_p < 1.0 {
        let target = top_p * order.iter().map(|&i| weight(i)).sum::<f64>();
        let mut sum = 0.0;
        let short = order.iter().take_while(|&&i| {
            sum += weight(i);
            sum < target
        });
        let count = short.count() + 1;
        keep_ties(&mut order, count);
    }
    let min_p = f64::from(f32::from_bits(s[27]));
    order.retain(|&i| weight(i) >= min_p);
    // The kernel lines the classes up lane by lane.
    order.sort_by_key(|i| (i % LANES, *i));
    let uniform = (f64::from(pcg4d(key)[0] >> 8) + 0.5) / 16_777_216.0;
    let mut left = uniform * order.iter().map(|&i| weight(i)).sum::<f64>();
    let drawn = order.iter().find(|&&i| {
        left -= weight(i);
        left < 0.0
    });
    drawn.copied().unwrap_or(best) as u32
}
