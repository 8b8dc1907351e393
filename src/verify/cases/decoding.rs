//! Cases of the ops that only decoding uses: no gradients, state in leaves.

use super::{Case, CaseBuilder};
use crate::generate::Rules;
use crate::graph::{Dtype, ValueId};
use crate::ops::{
    AdjustLogits, AttentionDecode, BeamSearch, ChoiceSettings, NO_TOKEN, SETTINGS_LEN, Sample, TokenScores, TopTokens,
};

pub(super) fn push(cases: &mut Vec<Case>) {
    attention_decode(cases);
    sample(cases);
    adjust_logits(cases);
    top_tokens(cases);
    token_scores(cases);
    beam_search(cases);
}

fn attention_decode(cases: &mut Vec<Case>) {
    let sizes = [
        [1, 1, 1, 1],
        [3, 2, 5, 9],
        [3, 3, 8, 70],
        [2, 2, 64, 200],
        [1, 2, 36, 64],
        [3, 1, 260, 65],
        [70, 1, 4, 3],
        [4, 2, 6, 1100],
        [3, 1, 64, 513],
    ];
    for [rows, heads, d_kv, kv_len] in sizes {
        for causal in [false, true] {
            for (wide, scale) in [(false, 1.0), (false, 6.0), (true, 1.0)] {
                let size = format!("[{rows} {heads} {d_kv} {kv_len}]");
                let name = format!("attention_decode {size} causal={causal} wide={wide} x{scale}");
                let case = Case::new(name, move |b| {
                    let (inner, reach) = (heads * d_kv, 6);
                    // Causal attention writes: the cache's other windows must stay as they were.
                    let (windows, window) = if kv_len % 2 == 1 { (3, 1) } else { (1, 0) };
                    // Sources that several rows read, and one that none does.
                    let homes = if causal { rows } else { rows / 2 + 1 };
                    let wide = Some(wide);
                    let stores = causal;
                    let op = AttentionDecode {
                        rows,
                        homes,
                        heads,
                        d_kv,
                        kv_len,
                        windows,
                        window,
                        causal,
                        stores,
                        reach,
                        wide,
                    };
                    let row = windows * 2 * inner;
                    // Full, half, and only the first key, or none; the fourth of four is past the end of its cache.
                    let lens = [kv_len - usize::from(causal), kv_len / 2, 0, kv_len];
                    let len = |i: usize| lens[i % 4];
                    let lens = b.ids("lens", &(0..homes).map(|i| len(i) as u32).collect::<Vec<_>>());
                    if causal {
                        let qkv = b.constant("qkv", &[rows, 3 * inner], scale);
                        let bias = b.constant("bias", &[heads, 2 * reach + 1], 1.0);
                        let memory = b.constant("cache", &[rows * kv_len, row], scale);
                        // Keys in the rows of others, also shared, but never where this step writes.
                        let home = |r: usize, j: usize| {
                            let other = (r + j * j / 3) % rows;
                            if j >= len(r) || len(other) == j { r } else { other }
                        };
                        let table = (0..rows * kv_len).map(|i| home(i / kv_len, i % kv_len) as f64).collect();
                        let table = b.leaf("table", &[rows, kv_len], Dtype::U32, table);
                        let made = b.graph.push(op, &[qkv, lens, bias, table]);
                        b.graph.store_in(made[1], memory);
                        b.output_constant("out", made[0]);
                        b.output_constant("cache", memory);
                    } else {
                        let q = b.constant("q", &[rows, inner], scale);
                        let kv = b.constant("kv", &[homes * kv_len, row], scale);
                        let table = b.ids("table", &(0..rows).map(|r| (r * 5 % homes) as u32).collect::<Vec<_>>());
                        let out = b.graph.push1(op, &[q, kv, lens, table]);
                        b.output_constant("out", out);
                    }
                });
                // exp of a score s in f32 errs by s units in the last place: scores reach 6^2 * 260 there.
                cases.push(if scale > 1.0 { case.slack(100.0) } else { case });
            }
        }
    }
}

fn sample(cases: &mut Vec<Case>) {
    let eos = std::array::from_fn(|i| 1 + i as u32);
    let greedy = ChoiceSettings { seed: [3, 5], n_eos: 2, eos, ..ChoiceSettings::default() };
    let warm = ChoiceSettings { temperature: 0.8, ..greedy };
    let settings = [
        ("greedy", greedy),
        ("limited", ChoiceSettings { limit: 3, ..greedy }),
        ("drawn", warm),
        ("top_k", ChoiceSettings { top_k: 4, ..warm }),
        ("top_k 1", ChoiceSettings { top_k: 1, ..warm }),
        ("top_k of more than there are", ChoiceSettings { top_k: 1 << 20, ..warm }),
        ("top_p", ChoiceSettings { top_p: 0.6, ..warm }),
        ("top_p 0", ChoiceSettings { top_p: 0.0, ..warm }),
        ("min_p", ChoiceSettings { min_p: 0.05, ..warm }),
        ("min_p top_k", ChoiceSettings { min_p: 0.2, top_k: 5, ..warm }),
        ("both", ChoiceSettings { top_k: 9, top_p: 0.9, temperature: 2.5, ..greedy }),
    ];
    for (what, settings) in settings {
        for (batch, vocab, shared) in [(1, 1, false), (5, 7, true), (9, 300, false), (6, 5003, false), (6, 5003, true)]
        {
            cases.push(Case::new(format!("sample {what} [{batch} {vocab}] shared={shared}"), move |b| {
                let mut logits = b.noise(batch * vocab, 8.0);
                special_rows(&mut logits, vocab);
                let logits = b.leaf("logits", &[batch, vocab], Dtype::F32, logits);
                push_sample(b, logits, &settings, shared);
            }));
        }
    }
}

/// Ties for the first place in row 1, one NaN in row 2, nothing but NaN in row 3.
fn special_rows(logits: &mut [f64], vocab: usize) {
    for (r, row) in logits.chunks_mut(vocab).enumerate() {
        match r {
            1 => [vocab / 2, vocab - 1].iter().for_each(|&i| row[i] = 9.0),
            2 => row[vocab / 3] = f64::NAN,
            3 => row.fill(f64::NAN),
            _ => {}
        }
    }
}

fn push_sample(b: &mut CaseBuilder, logits: ValueId, settings: &ChoiceSettings, shared: bool) {
    const LEN: usize = 6;
    let batch = b.graph.shape(logits)[0];
    let words: [u32; SETTINGS_LEN] = bytemuck::cast(*settings);
    let settings = b.ids("settings", &words);
    let sequences = b.ids("sequences", &(10..10 + batch as u32).collect::<Vec<_>>());
    let rows = |f: fn(u32) -> u32| (0..batch as u32).map(f).collect::<Vec<_>>();
    // The fifth sequence is finished, the sixth at its last position.
    let state = [
        b.ids("ids", &rows(|i| i)),
        b.leaf("tokens", &[LEN, batch], Dtype::U32, vec![0.0; LEN * batch]),
        b.ids("finished", &rows(|i| u32::from(i == 4))),
        b.ids("pos", &rows(|i| if i == 5 { 5 } else { i % 5 })),
    ];
    let made = b.graph.push(Sample { len: LEN, shared: Some(shared) }, &[logits, settings, sequences]);
    for (value, leaf) in made.into_iter().zip(state) {
        b.graph.store_in(value, leaf);
        let name = b.graph.value(leaf).label.clone();
        b.output_constant(&name, leaf);
    }
}

fn adjust_logits(cases: &mut Vec<Case>) {
    let eos = std::array::from_fn(|i| 1 + 3 * i as u32);
    let plain = ChoiceSettings { n_eos: 2, eos, prompt: 1, max_new: 21, ..ChoiceSettings::default() };
    let repeated = ChoiceSettings { repetition_penalty: 1.5, ..plain };
    let answers = vec![vec![2], vec![3, 5], vec![3, 5, 6, 7], vec![3, 2, 0], vec![6, 0, 1], vec![0; 30]];
    let none = Rules::default();
    let masked = |mut rules: Rules| {
        rules.has_mask = true;
        rules
    };
    let settings = [
        ("nothing", plain, none.clone()),
        ("repetition", repeated, none.clone()),
        ("repetition below 1", ChoiceSettings { repetition_penalty: 0.7, ..plain }, none.clone()),
        ("1-grams", ChoiceSettings { no_repeat_ngram: 1, ..plain }, none.clone()),
        ("2-grams", ChoiceSettings { no_repeat_ngram: 2, ..plain }, none.clone()),
        ("3-grams", ChoiceSettings { no_repeat_ngram: 3, ..plain }, none.clone()),
        ("least length", ChoiceSettings { min_new: 20, ..plain }, none.clone()),
        ("forced end", ChoiceSettings { forced_last: 5, no_repeat_ngram: 1, min_new: 9, ..repeated }, none),
        ("suppressed", plain, Rules::new(&[0, 6], &[2, 3], &[], &[], 1)),
        ("bad words", plain, Rules::new(&[], &[], &[vec![2], vec![0, 3], vec![5, 4, 6], vec![6; 40]], &[], 1)),
        ("mask", plain, masked(Rules::new(&[], &[], &[], &[], 1))),
        ("mask and more", repeated, masked(Rules::new(&[6], &[2, 3], &[vec![0, 3]], &[], 1))),
        ("answers", plain, Rules::new(&[], &[], &[], &answers, 1)),
        (
            "all",
            ChoiceSettings { no_repeat_ngram: 2, min_new: 3, forced_last: 1, begin: 1, ..repeated },
            Rules::new(&[6], &[2, 3], &[vec![0, 3], vec![4]], &answers, 1),
        ),
    ];
    for (what, settings, rules) in settings {
        for (rows, vocab, len, normalize) in [(1, 7, 3, false), (9, 7, 40, true), (5, 700, 600, false)] {
            let rules = rules.clone();
            let name = format!("adjust_logits {what} [{rows} {vocab}] of {len} normalize={normalize}");
            cases.push(Case::new(name, move |b| {
                let mut settings = settings;
                rules.describe(&mut settings);
                let words: [u32; SETTINGS_LEN] = bytemuck::cast(settings);
                let mut lists = rules.words.clone();
                if rules.has_mask {
                    let words = rows * usize::div_ceil(vocab, 32);
                    // The first ids, which are the likeliest, and others.
                    lists.extend((0..words).map(|_| (b.uniform() * f64::from(u32::MAX)) as u32 | 0b1_0010));
                }
                lists.resize(lists.len() + 3, 0);
                // Few ids, so that they repeat. Positions just behind the prompt, at the end, and between.
                let tokens = (0..rows * len).map(|_| (b.uniform() * 7.0).floor()).collect();
                let at = |row: usize| [1, 2, len - 1, 21, 3, 4, 5, 20, 1][row].min(len - 1);
                let home = |i: usize| {
                    let (row, position) = (i / len, i % len);
                    (if position < at(row) { (row + position * position) % rows } else { row }) as f64
                };
                let inputs = [
                    b.ids("settings", &words),
                    b.leaf("tokens", &[len, rows], Dtype::U32, tokens),
                    b.leaf("cache_row", &[rows, len], Dtype::U32, (0..rows * len).map(home).collect()),
                    b.ids("pos", &(0..rows).map(|row| at(row) as u32).collect::<Vec<_>>()),
                    b.ids("rules", &lists),
                ];
                let mut logits = b.noise(rows * vocab, 8.0);
                // The ids of the history are the likeliest, so that what happens to them shows in the choice.
                logits.iter_mut().enumerate().filter(|(i, _)| i % vocab < 7).for_each(|(_, x)| *x += 8.0);
                let memory = b.leaf("logits", &[rows, vocab], Dtype::F32, logits);
                let made = b.graph.push1(AdjustLogits { vocab, normalize }, &inputs);
                b.graph.store_in(made, memory);
                // Beside -1e30 nothing else could be seen: only what is left is compared.
                let keep =
                    if settings.trie > 0 || settings.mask > 0 || settings.forced_last != NO_TOKEN { 1 } else { 3 };
                let top = b.graph.push1(TopTokens { keep, normalized: true }, &[made, inputs[0]]);
                b.output_constant("top", top);
            }));
        }
    }
}

fn top_tokens(cases: &mut Vec<Case>) {
    // More than there are, more than a lane has, and as many as the most beams take.
    for (rows, vocab, keep) in [(1, 1, 2), (5, 7, 8), (5, 300, 8), (4, 5003, 40), (5, 40_000, 272)] {
        for (limit, normalized) in [(u32::MAX, false), (u32::MAX, true), (6, false)] {
            let name = format!("top_tokens {keep} of [{rows} {vocab}] limit={limit} normalized={normalized}");
            cases.push(Case::new(name, move |b| {
                let mut logits = b.noise(rows * vocab, 8.0);
                special_rows(&mut logits, vocab);
                if rows > 4 {
                    // All of the best in one lane.
                    logits[4 * vocab..].iter_mut().step_by(256).for_each(|x| *x = x.abs() + 9.0);
                }
                let logits = b.leaf("logits", &[rows, vocab], Dtype::F32, logits);
                let words: [u32; SETTINGS_LEN] = bytemuck::cast(ChoiceSettings { limit, ..Default::default() });
                let settings = b.ids("settings", &words);
                let top = b.graph.push1(TopTokens { keep, normalized }, &[logits, settings]);
                b.output_constant("top", top);
            }));
        }
    }
}

/// Rows at the beginning and at the last position, where nothing can follow.
fn token_scores(cases: &mut Vec<Case>) {
    const LEN: usize = 5;
    for (rows, vocab, keep) in [(1, 1, 1), (5, 7, 8), (5, 300, 0), (4, 5003, 40)] {
        for (chosen, normalized, limit) in
            [(true, false, u32::MAX), (true, true, u32::MAX), (false, false, 6), (false, true, u32::MAX)]
        {
            if keep == 0 && !chosen {
                continue;
            }
            let name = format!(
                "token_scores {keep} of [{rows} {vocab}] chosen={chosen} limit={limit} normalized={normalized}"
            );
            cases.push(Case::new(name, move |b| {
                let mut logits = b.noise(rows * vocab, 8.0);
                special_rows(&mut logits, vocab);
                let words: [u32; SETTINGS_LEN] = bytemuck::cast(ChoiceSettings { limit, ..Default::default() });
                let tokens = (0..LEN * rows).map(|_| (b.uniform() * vocab as f64).floor()).collect();
                let op = TokenScores { keep, chosen, normalized };
                let memory = vec![0.5; LEN * rows * 2 * op.width()];
                let memory = b.leaf("scores", &[LEN, rows, 2 * op.width()], Dtype::F32, memory);
                let inputs = [
                    b.leaf("logits", &[rows, vocab], Dtype::F32, logits),
                    b.ids("settings", &words),
                    b.leaf("tokens", &[LEN, rows], Dtype::U32, tokens),
                    b.ids("pos", &(0..rows as u32).collect::<Vec<_>>()),
                ];
                let made = b.graph.push1(op, &inputs);
                b.graph.store_in(made, memory);
                b.output_constant("scores", memory);
            }));
        }
    }
}

fn beam_search(cases: &mut Vec<Case>) {
    for (batch, beams, keep) in [(1, 1, 2), (6, 2, 4), (7, 4, 8), (3, 16, 48), (2, 32, 544)] {
        for early_stopping in [0, BeamSearch::EARLY, BeamSearch::NEVER] {
            for power in [0.0, 1.0, -1.0] {
                for real in [true, false] {
                    let name = format!(
                        "beam_search [{batch} {beams} {keep}] early={early_stopping} length^{power} all real={real}"
                    );
                    let make = move |b: &mut CaseBuilder| {
                        push_beam_search(b, [batch, beams, keep], early_stopping, power, real);
                    };
                    cases.push(Case::new(name, make));
                }
            }
        }
    }
}

/// Sources at several positions; one is done, one has a beam without numbers, one is at its last position. `real`: no score
/// is as large as those of what is out of the race, beside which the others could not be compared. Else some sources have
/// places for hypotheses left, beams that are not real, or their last token to choose.
fn push_beam_search(
    b: &mut CaseBuilder,
    [batch, beams, keep]: [usize; 3],
    early_stopping: u32,
    power: f64,
    real: bool,
) {
    const LEN: usize = 70;
    const MAX_NEW: u32 = 67;
    let rows = batch * beams;
    let eos = std::array::from_fn(|i| 1 + i as u32);
    let settings =
        ChoiceSettings { n_eos: 2, eos, prompt: 1, max_new: MAX_NEW, early_stopping, ..ChoiceSettings::default() };
    let mut top = Vec::new();
    for row in 0..rows {
        let mut score = -0.1;
        for k in 0..keep {
            // Few ids, so that many of them end; equal neighbours.
            score -= if k % 5 == 2 { 0.0 } else { b.uniform() };
            let fails = row / beams == 2 && row % beams == 0;
            let nothing = fails || (row % 3 == 2 && k + 1 == keep);
            let id = (b.uniform() * 9.0).floor();
            top.extend(if nothing { [-1e30, -1.0] } else { [f64::from(score as f32), id] });
        }
    }
    let at = |source: usize| [2, 65, 3, if real { 50 } else { 67 }, 40, LEN as u32 - 1, 1][source % 7];
    let mut state = Vec::new();
    for source in 0..batch {
        state.push(if source == 1 { f64::from(BeamSearch::DONE) } else { 0.0 });
        let first = source % 7 == 6 && !real;
        let score = |k: usize| if first && k > 0 { -1e9 } else { -f64::from(at(source)) - 0.75 * k as f64 };
        state.extend((0..beams).map(score));
        let ended = if source % 2 == 0 || real { beams } else { beams / 2 };
        for k in 0..beams {
            let hypothesis = [-1.25 - 0.5 * k as f64, f64::from(1 + k as u32), (source * beams) as f64, 1.0];
            state.extend(if k < ended { hypothesis } else { [-1e9, 0.0, 0.0, 0.0] });
        }
    }
    let words: [u32; SETTINGS_LEN] = bytemuck::cast(settings);
    let penalties = (0..LEN).map(|n| f64::from((n as f64).powf(power) as f32)).collect();
    let inputs = [
        b.leaf("top", &[rows, 2 * keep], Dtype::F32, top),
        b.ids("settings", &words),
        b.leaf("penalties", &[LEN], Dtype::F32, penalties),
    ];
    // Each position by itself in some row of the same source.
    let home = |i: usize| (i / LEN / beams * beams + (i / LEN + i * i) % beams) as f64;
    let state = [
        b.ids("ids", &vec![7; rows]),
        b.leaf("tokens", &[LEN, rows], Dtype::U32, vec![0.0; LEN * rows]),
        b.leaf("parents", &[LEN, rows], Dtype::U32, vec![0.0; LEN * rows]),
        b.ids("pos", &(0..rows).map(|row| at(row / beams)).collect::<Vec<_>>()),
        b.leaf("cache_row", &[rows, LEN], Dtype::U32, (0..rows * LEN).map(home).collect()),
        b.leaf("beams", &[batch, 1 + 5 * beams], Dtype::F32, state),
    ];
    let made = b.graph.push(BeamSearch { beams, len: LEN }, &inputs);
    for (value, leaf) in made.into_iter().zip(state) {
        b.graph.store_in(value, leaf);
        let name = b.graph.value(leaf).label.clone();
        b.output_constant(&name, leaf);
    }
}
