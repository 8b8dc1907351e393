//! What the ops that choose tokens share: their settings, and parts of their kernels.

/// How tokens are chosen, as it lies on the device: one plan serves all settings.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ChoiceSettings {
    /// Divides the logits of draws; 0 takes the likeliest token, the first of equals.
    pub temperature: f32,
    /// Draw among the k likeliest; 0: among all. Ties with the last are kept.
    pub top_k: u32,
    /// Draw among the fewest tokens whose probabilities reach this sum; 1: among all.
    pub top_p: f32,
    /// Ids from here on are never chosen: rows that only fill up the table.
    pub limit: u32,
    pub seed: [u32; 2],
    /// What a finished sequence emits.
    pub pad: u32,
    pub n_eos: u32,
    /// Tokens that finish a sequence.
    pub eos: [u32; MAX_EOS],
    /// Tokens that a target may get after its prompt. Beams end there.
    pub max_new: u32,
    /// Tokens that a target has from the start, beyond the start token.
    pub prompt: u32,
    /// When beam search stops: see [`super::BeamSearch`].
    pub early_stopping: u32,
    /// Share of the likeliest token's probability that a token must have to be drawn; 0: none.
    pub min_p: f32,
    /// Of [`super::AdjustLogits`], which the other ops do not read: divides the positive scores of tokens that are there
    /// already, and multiplies the negative.
    pub repetition_penalty: f32,
    /// Length of the sequences of tokens of which none may come twice; 0: any may.
    pub no_repeat_ngram: u32,
    /// New tokens before which there is no end token.
    pub min_new: u32,
    /// The token that comes last where there are `max_new`; [`NO_TOKEN`]: any.
    pub forced_last: u32,
    /// Tokens that are never chosen, at the beginning of the rules.
    pub n_suppress: u32,
    /// Tokens that are not chosen behind `begin` new ones, next in the rules.
    pub n_begin: u32,
    pub begin: u32,
    /// Bad words, next in the rules: where each begins and how many tokens it has.
    pub n_words: u32,
    /// Where the root of the trie of answers lies in the rules; 0: any answer.
    pub trie: u32,
    /// Where the bits of allowed tokens begin in the rules; 0: any token.
    pub mask: u32,
    pub reserved: [u32; 2],
}

/// No token in particular.
pub const NO_TOKEN: u32 = u32::MAX;

impl Default for ChoiceSettings {
    /// Greedy, without end tokens.
    fn default() -> ChoiceSettings {
        ChoiceSettings {
            top_p: 1.0,
            limit: u32::MAX,
            max_new: u32::MAX,
            repetition_penalty: 1.0,
            forced_last: NO_TOKEN,
            ..bytemuck::Zeroable::zeroed()
        }
    }
}

/// What a row emits whose logits are all NaN.
pub const BAD_TOKEN: u32 = u32::MAX;

/// Number of end tokens that [`ChoiceSettings`] holds.
pub const MAX_EOS: usize = 16;

/// Number of u32s in [`ChoiceSettings`].
pub const SETTINGS_LEN: usize = size_of::<ChoiceSettings>() / 4;

/// Invocations that go over a row of logits together.
pub(super) const LANES: usize = 256;

pub(super) const SETTINGS: &str = include_str!("../../shaders/token_settings.wgsl");
pub(super) const REDUCE: &str = include_str!("../../shaders/token_reduce.wgsl");
pub(super) const TOP: &str = include_str!("../../shaders/token_top.wgsl");

/// The log-probability where a row has no more tokens.
pub const UNCHOOSABLE: f32 = -1e30;

/// Rounds of the loops that look for the `keep` likeliest of a row: a lane may hold all of them, and looks for two at a time.
pub(super) fn top_iterations(vocab: usize, keep: usize) -> usize {
    vocab.div_ceil(LANES) * (4 + keep / 2) + 33 * (keep + 2)
}

/// Of an oracle: the logarithm of the sum of a row's exponentials; NaN counts as no class.
pub(super) fn log_sum(row: &[f64]) -> f64 {
    let numbers = || row.iter().copied().filter(|x| !x.is_nan());
    let highest = numbers().fold(f64::MIN, f64::max);
    highest + numbers().map(|x| (x - highest).exp()).sum::<f64>().ln()
}

/// Of an oracle: the `keep` likeliest of a row below `limit`, each as its logit less `log_sum` and its id, in descending order, and
/// what kernels write where there are fewer.
pub(super) fn likeliest(row: &[f64], limit: usize, keep: usize, log_sum: f64) -> impl Iterator<Item = [f64; 2]> {
    let mut order: Vec<usize> = (0..row.len().min(limit)).filter(|&i| !row[i].is_nan()).collect();
    order.sort_by(|&i, &j| row[j].total_cmp(&row[i]).then(i.cmp(&j)));
    (0..keep).map(move |k| order.get(k).map_or([f64::from(UNCHOOSABLE), -1.0], |&i| [row[i] - log_sum, i as f64]))
}
