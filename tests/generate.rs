//! Cached decoding against PyTorch's greedy ids, and the properties of batches and of sampling.

mod common;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::gpu;
use t5_wgpu::batch::{Batch, BatchShape, IGNORE};
use t5_wgpu::checkpoint::{Dtype, Weights};
use t5_wgpu::generate::{Decoding, EarlyStopping, Generation, Generator, LengthPenalty, StoppedAt, greedy_ids};
use t5_wgpu::gpu::Slice;
use t5_wgpu::model::{Builder, DecodeShape, Model, T5Config};
use t5_wgpu::plan::{Plan, PlanOptions, SlotPool};
use t5_wgpu::tokenizer::Tokenizer;

/// Encoder and decoder with the same blocks; and one stack, causal, and with sources that see all of themselves.
const ARCHITECTURES: [&str; 4] = [
    "architectures/umt5-shared",
    "architectures/language-model",
    "architectures/prefix-lm",
    "architectures/umt5-prefix-lm",
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn integers(tensors: &Weights, name: &str) -> Vec<Vec<u32>> {
    let shape = tensors.shape(name).expect("the tensor is there").to_vec();
    let bytes = tensors.read_bytes(name, Dtype::I64, &shape).expect("it is I64");
    let numbers: Vec<u32> = bytes.as_chunks().0.iter().map(|c| i64::from_le_bytes(*c) as u32).collect();
    numbers.chunks(shape[1]).map(<[u32]>::to_vec).collect()
}

/// The sources of the generation results, without padding, and the greedy rows.
fn golden(name: &str) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let tensors = Weights::open_file(folder(name).join("golden.safetensors")).expect("the golden file opens");
    let ids = integers(&tensors, "generate.input_ids");
    let masks = integers(&tensors, "generate.attention_mask");
    let real = |(row, mask): (Vec<u32>, &Vec<u32>)| row[..mask.iter().sum::<u32>() as usize].to_vec();
    let sources = ids.into_iter().zip(&masks).map(real).collect();
    (sources, integers(&tensors, "generate.greedy"))
}

fn generator(name: &str) -> Generator {
    Generator::new(Model::load(&gpu(), &folder(name)).expect("the model loads").0)
}

fn run(generator: &mut Generator, sources: &[Vec<u32>], options: &Decoding) -> Vec<Generation> {
    pollster::block_on(generator.generate_best(sources, options)).expect("generation runs")
}

fn all(generator: &mut Generator, sources: &[Vec<u32>], decoding: &Decoding) -> Vec<Vec<Generation>> {
    let go_on = &mut |_: usize, _: &[u32]| ControlFlow::Continue(());
    pollster::block_on(generator.generate(sources, decoding, go_on, &|| false)).expect("generation runs")
}

fn greedy(max_new_tokens: usize) -> Decoding {
    Decoding::greedy().max_new_tokens(max_new_tokens)
}

fn sampled(temperature: f32, top_k: usize, top_p: f32, seed: u64) -> Decoding {
    Decoding { top_k, top_p, ..Decoding::sample(temperature, seed).max_new_tokens(12) }
}

#[test]
fn greedy_ids_are_pytorchs() {
    for name in ["t5v10", "flan", "byt5"] {
        let (sources, expected) = golden(name);
        let found = pollster::block_on(greedy_ids(&gpu(), &folder(name), &sources, 20)).expect("generation runs");
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn neighbours_and_padding_change_nothing() {
    for name in ["flan", "architectures/language-model", "architectures/prefix-lm"] {
        let (sources, _) = golden(name);
        let mut generator = generator(name);
        // Of many lengths, more than the few-row kernels take at once, and no power of two.
        let mut many: Vec<Vec<u32>> = (0..11).map(|i| sources[i % sources.len()].repeat(1 + i % 4)).collect();
        many.push(vec![1]);
        // Longer than what one workgroup attends to: beside it, the others' attention is put together from parts.
        many.push([7, 9, 11].repeat(200));
        let beams = Decoding { n_best: 4, ..Decoding::beam(4).max_new_tokens(20) };
        let told = [sampled(1.5, 0, 0.95, 7).log_probs(true), beams.clone().alternatives(3)];
        for options in [greedy(20), sampled(1.5, 0, 0.95, 7), beams].into_iter().chain(told) {
            let together = all(&mut generator, &many, &options);
            for max_batch in [1, 5] {
                let options = Decoding { max_batch, ..options.clone() };
                assert_eq!(all(&mut generator, &many, &options), together, "{name} {options:?}");
            }
        }
    }
}

/// The score is the sum of log-probabilities over the length penalty, whichever that is.
#[test]
fn length_penalties_divide_the_same_sums() {
    let (sources, _) = golden("flan");
    let mut generator = generator("flan");
    let mut search = |length_penalty| {
        let early_stopping = EarlyStopping::Never;
        let beams = Decoding { n_best: 8, length_penalty, early_stopping, ..Decoding::beam(8).max_new_tokens(20) };
        all(&mut generator, &sources, &beams)
    };
    let sums = search(LengthPenalty::Power(0.0));
    let mut compared = 0;
    for (penalty, by_hand) in [
        (LengthPenalty::Gnmt(0.6), (|n| ((5.0 + n) / 6.0).powf(0.6)) as fn(f64) -> f64),
        (LengthPenalty::Power(1.5), |n| n.powf(1.5)),
    ] {
        for (sums, scores) in sums.iter().zip(search(penalty)) {
            assert!(scores.is_sorted_by(|a, b| a.score >= b.score));
            for scored in scores {
                let Some(summed) = sums.iter().find(|summed| summed.ids == scored.ids) else { continue };
                let length = scored.ids.len() + usize::from(scored.is_finished());
                let expected = f64::from(summed.score.unwrap()) / by_hand(length as f64);
                assert!((f64::from(scored.score.unwrap()) / expected - 1.0).abs() < 1e-5, "{scored:?} {expected}");
                compared += 1;
            }
        }
    }
    assert!(compared > sources.len(), "{compared}");
}

/// A search with as many beams as there can be, over and over in the same memory.
#[test]
fn many_beams_find_no_worse_than_few() {
    let (sources, _) = golden("t5v10");
    let mut generator = generator("t5v10");
    let mut best = |beams| {
        let decoding = Decoding {
            length_penalty: LengthPenalty::Power(0.0),
            early_stopping: EarlyStopping::Never,
            ..Decoding::beam(beams).max_new_tokens(12)
        };
        let found = run(&mut generator, &sources, &decoding);
        assert_eq!(run(&mut generator, &sources, &decoding), found);
        found.iter().map(|g| g.score.unwrap()).sum::<f32>()
    };
    // Not a law of beam search, but true of these sources; a table of caches that mixes beams up would break it.
    assert!(best(32) >= best(16) - 1e-4 && best(16) >= best(2) - 1e-4);
}

#[test]
fn draws_depend_on_the_seed_alone() {
    let (sources, _) = golden("t5v10");
    let mut generator = generator("t5v10");
    let first = run(&mut generator, &sources, &sampled(3.0, 0, 1.0, 1));
    assert_eq!(run(&mut generator, &sources, &sampled(3.0, 0, 1.0, 1)), first);
    assert_ne!(run(&mut generator, &sources, &sampled(3.0, 0, 1.0, 2)), first);
    let likeliest = run(&mut generator, &sources, &greedy(12));
    assert_eq!(run(&mut generator, &sources, &sampled(3.0, 1, 1.0, 1)), likeliest);
    assert_eq!(run(&mut generator, &sources, &sampled(3.0, 0, 1e-6, 1)), likeliest);
    assert_eq!(run(&mut generator, &sources, &sampled(0.0, 0, 1.0, 1)), likeliest);
}

/// Targets of one text share what the encoder made of it, whichever of them are decoded side by side.
#[test]
fn a_repeated_source_is_read_once() {
    let (sources, _) = golden("t5v10");
    let mut generator = generator("t5v10");
    let repeated: Vec<Vec<u32>> = [0, 1, 0, 2, 0, 1, 1, 0].iter().map(|&i| sources[i].clone()).collect();
    for options in [sampled(3.0, 0, 1.0, 1), Decoding::beam(3).max_new_tokens(12), greedy(12)] {
        let together = run(&mut generator, &repeated, &options);
        for (i, source) in repeated.iter().enumerate() {
            let alone = Decoding { first_source: i, ..options.clone() };
            assert_eq!(run(&mut generator, std::slice::from_ref(source), &alone)[0], together[i], "{i}");
        }
    }
    let bytes = |sources: &[Vec<u32>]| {
        let mut generator = self::generator("t5v10");
        run(&mut generator, sources, &greedy(12));
        generator.bytes()
    };
    let alike = vec![sources[0].clone(); 8];
    let mut others = alike.clone();
    // As long, and not the same.
    others.iter_mut().enumerate().for_each(|(i, source)| source[0] = 3 + i as u32);
    assert!(bytes(&alike) < bytes(&others));
}

#[test]
fn draws_follow_the_softmax() {
    // The first token of many equal sources: counts must follow the model's own distribution.
    let (sources, _) = golden("t5v10");
    let mut generator = generator("t5v10");
    let config = &generator.model.config;
    let (vocab, draws) = (config.vocab_size, 4096);
    let logits = first_logits(&generator.model, &sources[0]);
    let temperature = 4.0;
    let top = logits.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = logits.iter().map(|l| ((l - top) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    let options = Decoding { max_batch: 512, ..sampled(temperature as f32, 0, 1.0, 11).max_new_tokens(1) };
    let made = run(&mut generator, &vec![sources[0].clone(); draws], &options);
    let mut counts = vec![0.0; vocab];
    for generation in &made {
        let token = generation.tokens().next();
        counts[token.expect("one token each") as usize] += 1.0;
    }
    // Classes expected less than five times are taken together, as is usual for a chi-square test.
    let (mut chi, mut classes, mut rare) = (0.0, 0, (0.0, 0.0));
    for (count, weight) in counts.iter().zip(&weights) {
        let expected = draws as f64 * weight / total;
        if expected < 5.0 {
            rare = (rare.0 + count, rare.1 + expected);
        } else {
            chi += (count - expected).powi(2) / expected;
            classes += 1;
        }
    }
    if rare.1 > 0.0 {
        chi += (rare.0 - rare.1).powi(2) / rare.1;
        classes += 1;
    }
    assert!(classes > 5, "only {classes} classes: the temperature is too low for this test");
    let freedom = f64::from(classes - 1);
    assert!(
        (chi - freedom).abs() < 5.0 * (2.0 * freedom).sqrt(),
        "chi-square {chi:.1} at {freedom} degrees of freedom"
    );
}

/// Logits after the start token, by the uncached graph.
fn first_logits(model: &Model, source: &[u32]) -> Vec<f64> {
    full_logits(model, source, &[])
}

/// Logits after the start token and after each of these tokens, by the uncached graph: `[1 + tokens, vocab]`.
fn full_logits(model: &Model, source: &[u32], tokens: &[u32]) -> Vec<f64> {
    let target = [&[model.config.decoder_start_token_id], tokens].concat();
    let shape = BatchShape { batch: 1, src_len: source.len(), tgt_len: target.len(), packed: false };
    let batch = Batch {
        shape,
        src_ids: source.to_vec(),
        src_lens: vec![source.len() as u32],
        labels: vec![IGNORE; target.len()],
        tgt_lens: vec![target.len() as u32],
        tgt_in: target,
        segments: None,
    };
    let mut b = Builder::new(model, shape, 0.0);
    let hidden = b.states();
    let logits = b.logits(hidden, None);
    let options = PlanOptions { bind: &|name| model.bind(name), pool: &SlotPool::new() };
    let plan = Plan::compile(&model.gpu, &b.graph, &[("logits", logits)], &options).expect("the plan compiles");
    for (name, data) in model.config.batch_leaves(&batch).iter().filter(|(name, _)| *name != "labels") {
        plan.write(name, data);
    }
    plan.run().expect("the plan runs");
    let logits = pollster::block_on(plan.read::<f32>("logits")).expect("it is read");
    logits.into_iter().map(f64::from).collect()
}

/// Log-probabilities of all tokens at every place of a target, by the uncached graph.
fn full_log_probs(model: &Model, source: &[u32], target: &Generation) -> Vec<Vec<f64>> {
    let tokens: Vec<u32> = target.tokens().collect();
    let logits = full_logits(model, source, &tokens[..tokens.len() - 1]);
    let of_place = |logits: &[f64]| -> Vec<f64> {
        let top = logits.iter().copied().fold(f64::MIN, f64::max);
        let log_sum = top + logits.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
        logits.iter().map(|x| x - log_sum).collect()
    };
    logits.chunks(model.config.vocab_size).map(of_place).collect()
}

/// Sum of the log-probabilities of a target's tokens, by the uncached graph.
fn full_score(model: &Model, source: &[u32], target: &Generation) -> f64 {
    let tokens = target.tokens();
    full_log_probs(model, source, target).iter().zip(tokens).map(|(place, token)| place[token as usize]).sum()
}

/// Of every token, however it was chosen: what is told is the model's own opinion, and changes no token.
#[test]
fn log_probs_are_those_of_the_whole_target() {
    for name in ["t5v10", "flan", "architectures/umt5-prefix-lm"] {
        let mut generator = generator(name);
        let (sources, _) = golden(name);
        let beams = Decoding { n_best: 3, ..Decoding::beam(5).max_new_tokens(24) };
        let mut compared = 0;
        for decoding in [greedy(24), sampled(1.7, 30, 0.9, 5), beams] {
            let untold = all(&mut generator, &sources, &decoding);
            for asked in [decoding.clone().log_probs(true), decoding.clone().alternatives(4)] {
                let told = all(&mut generator, &sources, &asked);
                for (source, (told, untold)) in sources.iter().zip(told.iter().zip(&untold)) {
                    for (target, untold) in told.iter().zip(untold) {
                        assert_eq!((&target.ids, target.score), (&untold.ids, untold.score), "{asked:?}");
                        compared += compare(&generator.model, source, target, asked.alternatives);
                    }
                }
            }
        }
        assert!(compared > 200, "{compared}");
    }
}

/// Compares what is told of a target with the uncached graph; gives the number of its tokens.
fn compare(model: &Model, source: &[u32], target: &Generation, alternatives: usize) -> usize {
    let places = full_log_probs(model, source, target);
    let tokens = target.tokens();
    assert_eq!(target.log_probs.len(), places.len());
    assert_eq!(target.alternatives.len(), if alternatives > 0 { places.len() } else { 0 });
    let close = |found: f32, expected: f64| (f64::from(found) - expected).abs() < 1e-5 * expected.abs().max(1.0);
    for ((place, token), &found) in places.iter().zip(tokens).zip(&target.log_probs) {
        assert!(close(found, place[token as usize]), "{found} {}", place[token as usize]);
    }
    for (place, found) in places.iter().zip(&target.alternatives) {
        let mut sorted = place.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(found.len(), alternatives);
        for (one, expected) in found.iter().zip(sorted) {
            assert!(close(one.log_prob, expected) && close(one.log_prob, place[one.id as usize]), "{one:?} {expected}");
        }
        assert!(found.is_sorted_by(|a, b| a.log_prob >= b.log_prob && a.id != b.id));
    }
    places.len()
}

/// The plans of cached decoding with the state in the hands of a test, which chooses the tokens and who goes on from whom.
struct Stepper {
    state: HashMap<String, Slice>,
    model: Model,
    shape: DecodeShape,
    step: Plan,
}

impl Stepper {
    /// One source, `rows` rows, `len` positions.
    fn new(model: &Model, source: &[u32], rows: usize, len: usize) -> Stepper {
        // Products of few rows round otherwise: not what a session has either.
        let src_len = source.len().next_multiple_of(16);
        let shape = DecodeShape { sources: 1, batch: 1, beams: rows, drafts: 0, src_len, max_len: len };
        let mut state = HashMap::new();
        for leaf in shape.state(&model.config, &model.layout) {
            let bytes = leaf.dtype.bytes(&leaf.shape);
            let buffer = model.gpu.buffer(&leaf.name, bytes).expect("it fits");
            state.insert(leaf.name, buffer.slice(0, bytes));
        }
        let compile = |write_down: &dyn Fn(&mut Builder<'_>)| {
            let mut b = Builder::new(model, BatchShape { batch: 1, src_len, tgt_len: len, packed: false }, 0.0);
            write_down(&mut b);
            let bind = |name: &str| state.get(name).cloned().or_else(|| model.bind(name));
            let options = PlanOptions { bind: &bind, pool: &SlotPool::new() };
            Plan::compile(&model.gpu, &b.graph, &[], &options).expect("the plan compiles")
        };
        let prepare = compile(&|b| {
            b.rows_alike();
            b.prepare_decoding(rows);
        });
        let step = compile(&|b| b.decode_step(rows, 0));
        let mut padded = source.to_vec();
        padded.resize(src_len, 0);
        let stepper = Stepper { state, model: model.clone(), shape, step };
        stepper.write("src_ids", &padded);
        stepper.write("src_lens", &[source.len() as u32]);
        stepper.write("source_of", &vec![0; rows]);
        if stepper.state.contains_key("src_pos") {
            stepper.write("src_pos", &(0..src_len as u32).collect::<Vec<_>>());
        }
        prepare.run().expect("the plan runs");
        stepper
    }

    fn write(&self, name: &str, data: &[u32]) {
        self.model.gpu.write(&self.state[name].buffer, 0, data);
    }

    /// The logits behind these tokens at position `at`, `[rows, vocab]`; `table`: in which row each earlier key lies.
    fn logits(&self, at: usize, tokens: &[u32], table: &[u32]) -> Vec<f64> {
        self.write("tgt_ids", tokens);
        self.write("pos", &vec![at as u32; self.shape.rows()]);
        self.write("cache_row", table);
        self.step.run().expect("the plan runs");
        let Slice { buffer, bytes, .. } = &self.state["logits"];
        let logits = pollster::block_on(self.model.gpu.read::<f32>(buffer, 0..*bytes)).expect("it is read");
        logits.into_iter().map(f64::from).collect()
    }
}

/// A few times what rounding makes of the logits of these models, which lie within about 10; a wrong key, bias or position is
/// thousands of times as much.
const NOISE: f64 = 2e-5;

#[track_caller]
fn assert_noise(found: &[f64], expected: &[f64], what: std::fmt::Arguments<'_>) -> f64 {
    assert_eq!(found.len(), expected.len());
    let error = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(error < NOISE, "{what}: logits differ by {error}");
    error
}

/// Logit by logit at every position to 600, for both kinds of models: one table of position biases of 32 buckets, and tables
/// that reach further than the target.
#[test]
fn every_cached_logit_is_that_of_the_whole_target() {
    for name in ["t5v10", "flan", "umt5"].into_iter().chain(ARCHITECTURES) {
        let model = Model::load(&gpu(), &folder(name)).expect("the model loads").0;
        let (source, vocab, len) = (&golden(name).0[0], model.config.vocab_size, 600);
        let tokens: Vec<u32> = (0..len as u32 - 1).map(|i| 2 + (i * i + 7 * i) % (vocab as u32 - 2)).collect();
        let expected = full_logits(&model, source, &tokens);
        let stepper = Stepper::new(&model, source, 1, len);
        let target = [&[model.config.decoder_start_token_id], &tokens[..]].concat();
        let mut worst = 0f64;
        for (at, (&token, expected)) in target.iter().zip(expected.chunks(vocab)).enumerate() {
            let found = stepper.logits(at, &[token], &vec![0; len]);
            worst = worst.max(assert_noise(&found, expected, format_args!("{name}, position {at}")));
        }
        eprintln!("{name}: at most {worst:e}");
    }
}

/// Rows that go on from other rows at every step, as beams do: each one's logits are those of its own history.
#[test]
fn every_logit_of_a_reordered_beam_is_that_of_its_history() {
    for name in ["t5v10", "flan"].into_iter().chain(ARCHITECTURES) {
        let model = Model::load(&gpu(), &folder(name)).expect("the model loads").0;
        let (source, vocab, rows, len) = (&golden(name).0[1], model.config.vocab_size, 5, 64);
        let stepper = Stepper::new(&model, source, rows, len);
        let mut random = (1u64..).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize);
        let mut below = |n: usize| random.next().unwrap() % n;
        let mut table: Vec<u32> = (0..rows * len).map(|i| (i / len) as u32).collect();
        let mut histories = vec![vec![model.config.decoder_start_token_id]; rows];
        let mut seen = vec![Vec::new(); rows];
        for at in 0..len {
            let newest: Vec<u32> = histories.iter().map(|history| history[at]).collect();
            let logits = stepper.logits(at, &newest, &table);
            let of_row = |row: usize| logits[row * vocab..][..vocab].to_vec();
            (0..rows).for_each(|row| seen[row].push(of_row(row)));
            let parents: Vec<usize> = (0..rows).map(|_| below(rows)).collect();
            let (known, lines, logits) = (histories.clone(), table.clone(), seen.clone());
            for (row, &parent) in parents.iter().enumerate() {
                histories[row] = [&known[parent][..], &[2 + below(vocab - 2) as u32]].concat();
                table[row * len..][..=at].copy_from_slice(&lines[parent * len..][..=at]);
                seen[row].clone_from(&logits[parent]);
            }
        }
        for (history, seen) in histories.iter().zip(&seen) {
            let expected = full_logits(&model, source, &history[1..len]);
            for (at, (found, expected)) in seen.iter().zip(expected.chunks(vocab)).enumerate() {
                assert_noise(found, expected, format_args!("{name}, position {at} of {history:?}"));
            }
        }
    }
}

/// 600 tokens, and with a wide bias of positions: each is the likeliest by the uncached graph, too, up to rounding.
#[test]
fn cached_logits_are_those_of_the_whole_target() {
    for name in ["t5v10", "flan"] {
        let mut generator = generator(name);
        generator.model.config.eos_token_id.clear();
        let (sources, _) = golden(name);
        let ids = run(&mut generator, &sources[..1], &greedy(600)).remove(0).ids;
        assert_eq!(ids.len(), 600);
        let logits = full_logits(&generator.model, &sources[0], &ids[..599]);
        for (position, (logits, &id)) in logits.chunks(generator.model.config.vocab_size).zip(&ids).enumerate() {
            let top = logits.iter().copied().fold(f64::MIN, f64::max);
            let below = top - logits[id as usize];
            assert!(below < 1e-4, "{name}, position {position}: {id} is {below} below the likeliest");
        }
    }
}

/// The score of a hypothesis is a sum over cached logits: every token of every beam's ancestors, wherever the table says that
/// their keys lie.
#[test]
fn scores_of_beams_are_those_of_the_whole_target() {
    let one_stack = [("architectures/language-model", 24), ("architectures/prefix-lm", 300)];
    for (name, tokens) in [("t5v10", 24), ("flan", 24), ("flan", 300)].into_iter().chain(one_stack) {
        let mut generator = generator(name);
        if tokens > 100 {
            generator.model.config.eos_token_id.clear();
        }
        let (sources, _) = golden(name);
        let sources = &sources[..if tokens > 100 { 1 } else { 3 }];
        let length_penalty = LengthPenalty::Power(0.0);
        let beams = Decoding { n_best: 6, length_penalty, ..Decoding::beam(6).max_new_tokens(tokens) };
        for (source, found) in sources.iter().zip(all(&mut generator, sources, &beams)) {
            assert_eq!(found.len(), 6);
            for target in found {
                let expected = full_score(&generator.model, source, &target);
                let score = f64::from(target.score.unwrap());
                assert!((score - expected).abs() < 1e-5 * expected.abs().max(1.0), "{score} {expected} {target:?}");
            }
        }
    }
}

/// Sixteen sources of different lengths, side by side and alone, in every way of choosing.
#[test]
fn a_batch_is_its_sources_alone() {
    let (sources, _) = golden("t5v10");
    let mut generator = generator("t5v10");
    let many: Vec<Vec<u32>> =
        (0..16).map(|i| sources[i % sources.len()][..].repeat(1 + i % 3)[i / 6..].to_vec()).collect();
    let answers = vec![vec![7, 8, 9], vec![7, 8], vec![20, 21], vec![30], vec![31, 5, 6, 7]];
    let rules = Decoding { repetition_penalty: 1.4, no_repeat_ngram: 2, min_new_tokens: 5, ..greedy(20) };
    for decoding in [
        greedy(20),
        sampled(1.5, 20, 0.95, 3),
        Decoding { min_p: 0.02, ..sampled(2.0, 0, 1.0, 3) },
        Decoding { n_best: 4, ..Decoding::beam(4).max_new_tokens(20) },
        greedy(20).log_probs(true),
        sampled(1.5, 20, 0.95, 3).alternatives(5),
        Decoding { n_best: 4, ..Decoding::beam(4).max_new_tokens(20) }.alternatives(2),
        sampled(2.0, 0, 1.0, 3).allow(|_, made| vec![1 + (made.len() as u32 + 7) % 5, 30, 31, 40 + made.len() as u32]),
        Decoding { answers: answers.clone(), ..greedy(20) },
        Decoding { num_beams: 4, n_best: 2, answers, ..greedy(20) },
        rules.clone(),
        Decoding { num_beams: 4, n_best: 4, ..rules },
    ] {
        let together = all(&mut generator, &many, &decoding);
        for (first, source) in many.iter().enumerate() {
            let alone = Decoding { first_source: first, ..decoding.clone() };
            let found = all(&mut generator, std::slice::from_ref(source), &alone).remove(0);
            assert_eq!(found, together[first], "source {first}, {decoding:?}");
        }
    }
}

/// Each row ends where its text has one of these strings, whatever the rest of its submit holds.
/// Guessed tokens change no token, wherever targets end, and in no batch. Untrained models repeat themselves, so that guesses are
/// often right; what sources look like is guessed from, too.
#[test]
fn guesses_change_no_token() {
    for name in ["t5v10", "flan", "byt5", "architectures/prefix-lm"] {
        let (mut sources, _) = golden(name);
        let mut generator = generator(name);
        let longer: Vec<_> = (0..5).map(|i| sources[i % sources.len()].repeat(1 + i % 4)).collect();
        sources.extend(longer.into_iter().chain([vec![1]]));
        let plain = run(&mut generator, &sources, &greedy(40));
        // Another end token, so that targets end in the middle of what is guessed.
        let mut end_tokens = vec![generator.model.end_tokens().to_vec()];
        end_tokens.extend(plain.iter().map(|g| g.ids[g.ids.len() / 2..][..1].to_vec()).take(1));
        let (mut guessed, mut ended) = (0, 0);
        for ends in end_tokens {
            generator.model.generation.eos_token_id = Some(ends);
            for (prefix, max_new_tokens) in [(vec![], 40), (vec![], 1), (vec![5, 9, 5], 31)] {
                let plain = Decoding { decoder_prefix: prefix, ..greedy(max_new_tokens) };
                let expected = run(&mut generator, &sources, &plain);
                for (drafts, max_batch) in [(1, 16), (3, 5), (Decoding::MOST_DRAFTS, 1)] {
                    let decoding = Decoding { max_batch, ..plain.clone().speculate(drafts) };
                    let mut heard = vec![Vec::new(); sources.len()];
                    let mut hear = |source: usize, new: &[u32]| {
                        heard[source].extend_from_slice(new);
                        ControlFlow::Continue(())
                    };
                    let found = pollster::block_on(generator.generate(&sources, &decoding, &mut hear, &|| false));
                    for (source, found) in found.expect("generation runs").into_iter().enumerate() {
                        let [found] = &found[..] else { panic!("one target a source") };
                        assert_eq!(heard[source], found.ids, "{name} {source} {decoding:?}");
                        assert!(found.guessed <= found.tokens().count() && expected[source].guessed == 0);
                        guessed += found.guessed;
                        ended += usize::from(found.guessed > 0 && found.is_finished());
                        let without = Generation { guessed: 0, ..found.clone() };
                        assert_eq!(without, expected[source], "{name} {source} {decoding:?}");
                    }
                }
            }
        }
        assert!(guessed > 300 && ended > 3, "{name}: {guessed} right guesses, {ended} targets with some ended");
    }
}

#[test]
fn guesses_are_for_plain_greedy_decoding() {
    let mut generator = generator("flan");
    let plain = greedy(4).speculate(3);
    let refused = [
        Decoding { num_beams: 2, ..plain.clone() },
        Decoding { temperature: 1.0, ..plain.clone() },
        Decoding { min_new_tokens: 2, ..plain.clone() },
        plain.clone().log_probs(true),
        plain.clone().allow(|_, _| vec![5]),
        greedy(4).speculate(Decoding::MOST_DRAFTS + 1),
    ];
    for decoding in refused {
        let error = pollster::block_on(generator.generate_best(&[vec![4, 1]], &decoding)).expect_err("refused");
        assert!(error.to_string().starts_with("speculate "), "{error}");
    }
}

#[test]
fn stop_strings_end_a_target() {
    let (sources, _) = golden("byt5");
    let tokenizer = Tokenizer::bytes();
    let mut generator = generator("byt5").with_tokenizer(&tokenizer);
    for decoding in [sampled(2.0, 0, 1.0, 3).max_new_tokens(40), greedy(40)] {
        let whole = run(&mut generator, &sources, &decoding);
        let texts: Vec<String> = whole.iter().map(|g| tokenizer.decode(&g.ids)).collect();
        for (first, length) in [(0, 1), (3, 1), (4, 2), (5, 3)] {
            let stop: String = texts[0].chars().skip(first).take(length).collect();
            let stopping = Decoding { stop_strings: vec!["never there".into(), stop.clone()], ..decoding.clone() };
            assert_eq!(stop.chars().count(), length, "{texts:?}");
            for ((found, whole), text) in run(&mut generator, &sources, &stopping).iter().zip(&whole).zip(&texts) {
                let Some(at) = text.find(&stop) else {
                    assert_eq!(found, whole);
                    continue;
                };
                let stopped_at = StoppedAt::StopString(stop.clone());
                assert_eq!((found.stopped_at.as_ref(), found.end_token()), (Some(&stopped_at), None));
                assert_eq!(stopping.text(&tokenizer, &found.ids), text[..at]);
                assert!(whole.ids.starts_with(&found.ids));
                // No token less, and none more but what may complete a character.
                assert!(tokenizer.decode(&found.ids).contains(&stop));
                assert!(!tokenizer.decode(&found.ids[..found.ids.len() - 4.min(found.ids.len())]).contains(&stop));
            }
        }
    }
}

/// A function is asked with what its own source has made, once a token, and not when a target is done.
#[test]
fn a_function_of_the_caller_decides_what_may_come() {
    use std::sync::{Arc, Mutex};
    let (sources, _) = golden("t5v10");
    let mut generator = generator("t5v10");
    let free = run(&mut generator, &sources, &greedy(12));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let any = move |source: usize, made: &[u32]| {
        seen.lock().unwrap().push((source, made.to_vec()));
        (0..128).collect()
    };
    assert_eq!(run(&mut generator, &sources, &greedy(12).allow(any)), free);
    let asked = asked.lock().unwrap();
    for (source, target) in free.iter().enumerate() {
        let of_source: Vec<&[u32]> = asked.iter().filter(|(s, _)| *s == source).map(|(_, made)| &made[..]).collect();
        assert_eq!(of_source.len(), target.tokens().count());
        assert!(of_source.iter().enumerate().all(|(n, made)| *made == &target.ids[..n]), "{of_source:?}");
    }

    // Drawn tokens keep to it, too, and a stop from outside is obeyed between two tokens.
    let even = |_: usize, made: &[u32]| if made.len() < 6 { (10..128).step_by(2).collect() } else { vec![1] };
    let drawn = run(&mut generator, &sources, &sampled(3.0, 0, 1.0, 3).allow(even));
    assert!(drawn.iter().all(|g| g.ids.len() == 6 && g.is_finished() && g.ids.iter().all(|id| id % 2 == 0)));
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let should_stop = || calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 4;
    let go_on = &mut |_: usize, _: &[u32]| ControlFlow::Continue(());
    let cut = pollster::block_on(generator.generate(&sources, &greedy(12).allow(even), go_on, &should_stop)).unwrap();
    assert!(cut.concat().iter().all(|g| g.ids.len() < 6 && !g.is_finished()), "{cut:?}");

    for decoding in [greedy(12), Decoding::beam(3).max_new_tokens(12)] {
        let mut refusal = |decoding: &Decoding| {
            let refused = pollster::block_on(generator.generate_best(&sources, decoding));
            refused.expect_err("refused").to_string()
        };
        let nothing = |_: usize, made: &[u32]| if made.len() < 2 { vec![20, 21, 22, 23] } else { vec![] };
        let error = refusal(&decoding.clone().allow(nothing));
        assert!(error.contains("no token is allowed for source") && error.contains("behind its 2 tokens"), "{error}");
        let limited = Decoding { limit: Some(100), ..decoding.clone() }.allow(|_, _| vec![100, 120]);
        assert!(refusal(&limited).contains("no token is allowed"));
        assert!(refusal(&decoding.clone().allow(|_, _| vec![128])).contains("the token 128"));
        let both = Decoding { answers: vec![vec![7]], ..decoding.clone() };
        assert!(refusal(&both.allow(|_, _| vec![1])).contains("choose one of the two"));
    }
}

#[test]
fn any_end_token_stops() {
    let (sources, _) = golden("byt5");
    let mut generator = generator("byt5");
    let before = run(&mut generator, &sources, &greedy(20));
    let second = before.iter().map(|g| g.ids[1]).collect::<Vec<_>>();
    generator.model.config.eos_token_id.push(second[0]);
    for (before, after) in before.iter().zip(run(&mut generator, &sources, &greedy(20))) {
        match before.ids.iter().position(|&id| id == second[0]) {
            Some(at) => {
                assert_eq!(after.ids, before.ids[..at]);
                assert_eq!(after.end_token(), Some(second[0]));
            }
            None => assert_eq!(after, *before),
        }
    }
}

#[test]
fn tokens_arrive_in_pieces_and_can_be_cut_short() {
    let (sources, _) = golden("flan");
    let mut generator = generator("flan");
    let all = run(&mut generator, &sources, &greedy(20));
    let mut seen = vec![Vec::new(); sources.len()];
    let mut collect = |row: usize, ids: &[u32]| {
        seen[row].extend_from_slice(ids);
        ControlFlow::Continue(())
    };
    let again =
        pollster::block_on(generator.generate(&sources, &greedy(20), &mut collect, &|| false)).expect("it runs");
    assert_eq!(again.concat(), all);
    assert_eq!(seen, all.iter().map(|g| g.ids.clone()).collect::<Vec<_>>());

    let mut calls = 0;
    let mut stop = |_: usize, _: &[u32]| {
        calls += 1;
        ControlFlow::Break(())
    };
    let cut = pollster::block_on(generator.generate(&sources, &greedy(20), &mut stop, &|| false)).expect("it runs");
    assert_eq!((calls, cut.len()), (1, sources.len()));

    // The whole generation can also be ended from outside, between two submits: the encoder's is the first.
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let should_stop = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 2;
    let go_on = &mut |_: usize, _: &[u32]| ControlFlow::Continue(());
    let cut = pollster::block_on(generator.generate(&sources, &greedy(20), go_on, &should_stop)).expect("it runs");
    for (cut, all) in cut.concat().iter().zip(&all) {
        assert!(!cut.ids.is_empty() && cut.ids.len() < all.ids.len() && all.ids.starts_with(&cut.ids), "{cut:?}");
    }
}

/// An application may generate on an executor of several threads.
#[test]
fn a_generation_may_move_between_threads() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let (sources, expected) = golden("t5v10");
    let mut generator = generator("t5v10");
    let made = std::thread::spawn(move || {
        let decoding = greedy(20);
        let mut go_on = |_: usize, _: &[u32]| ControlFlow::Continue(());
        pollster::block_on(is_send(generator.generate(&sources, &decoding, &mut go_on, &|| false)))
    });
    let made = made.join().expect("the thread ends").expect("it runs").concat();
    assert!(made.iter().zip(&expected).all(|(made, row)| row[1..].starts_with(&made.ids)));
}

/// What is given to the decoder is not among what it makes, and what follows is what it would have made itself.
#[test]
fn a_prompt_of_the_decoder_is_gone_on_with() {
    let (sources, _) = golden("flan");
    let mut generator = generator("flan");
    for decoding in [greedy(8), Decoding { n_best: 3, ..Decoding::beam(3).max_new_tokens(8) }] {
        for source in &sources {
            let source = std::slice::from_ref(source);
            let whole = run(&mut generator, source, &decoding).remove(0);
            let forced = Decoding { forced_first: Some(whole.ids[0]), ..decoding.clone() };
            assert_eq!(run(&mut generator, source, &forced)[0].ids, whole.ids);
            if decoding.num_beams == 1 {
                let (prompt, rest) = whole.ids.split_at(2);
                let prompted = Decoding { decoder_prefix: prompt.to_vec(), ..decoding.clone().max_new_tokens(6) };
                assert_eq!(run(&mut generator, source, &prompted)[0].ids, rest);
            }
            let elsewhere = Decoding { decoder_prefix: vec![5, 6], forced_first: Some(7), ..decoding.clone() };
            let found = all(&mut generator, source, &elsewhere).remove(0);
            assert!(found.len() == decoding.n_best && found.iter().all(|g| g.ids[0] == 7), "{found:?}");
        }
    }
}

#[test]
fn limits_are_kept() {
    let (sources, _) = golden("t5v10");
    let mut generator = generator("t5v10");
    let options = Decoding { limit: Some(5), ..greedy(3) };
    let made = run(&mut generator, &sources, &options);
    assert!(made.iter().all(|g| g.ids.len() <= 3 && g.ids.iter().all(|&id| id < 5)));
}

#[test]
fn long_sources_and_targets_work() {
    let mut generator = generator("t5v10");
    let source: Vec<u32> = (0..700).map(|i| 2 + i % 100).chain([1]).collect();
    generator.model.config.eos_token_id.clear();
    let made = run(&mut generator, &[source], &greedy(150));
    assert_eq!(made[0].ids.len(), 150);
    assert!(!made[0].is_finished());
}

#[test]
fn what_cannot_be_generated_is_refused() {
    let mut generator = generator("t5v10");
    let mut refusal = |sources: &[Vec<u32>], options: &Decoding| {
        pollster::block_on(generator.generate_best(sources, options)).expect_err("refused").to_string()
    };
    assert!(refusal(&[vec![5, 1], vec![]], &greedy(4)).contains("source 1 has no token"));
    assert!(refusal(&[vec![5, 128, 1]], &greedy(4)).contains("token id 128 is outside"));
    assert!(refusal(&[vec![1]], &greedy(0)).contains("max_new_tokens"));
    assert!(refusal(&[vec![1]], &sampled(f32::NAN, 0, 1.0, 0)).contains("temperature"));
    assert!(refusal(&[vec![1]], &sampled(1.0, 0, 1.5, 0)).contains("top_p"));
    assert!(refusal(&[vec![1]], &greedy(4).alternatives(65)).contains("at most 64"));
    let stopping = |text: &str, decoding| Decoding { stop_strings: vec![text.into()], ..decoding };
    assert!(refusal(&[vec![1]], &stopping("a", greedy(4))).contains("tokenizer"));
    assert!(refusal(&[vec![1]], &stopping("", greedy(4))).contains("a stop string is empty"));
    assert!(refusal(&[vec![1]], &stopping("a", Decoding::beam(4))).contains("choose one of the two"));
    assert!(refusal(&[vec![1]], &Decoding::beam(0)).contains("num_beams 0"));
    assert!(refusal(&[vec![1]], &Decoding::beam(33)).contains("between 1 and 32"));
    assert!(refusal(&[vec![1]], &Decoding { n_best: 5, ..Decoding::beam(4) }).contains("n_best 5"));
    assert!(refusal(&[vec![1]], &Decoding { temperature: 1.0, ..Decoding::beam(4) }).contains("not drawn"));
    assert!(refusal(&[vec![1]], &Decoding { decoder_prefix: vec![128], ..greedy(4) }).contains("token 128 is outside"));
    assert!(refusal(&[vec![1]], &greedy(usize::MAX)).contains("at most a million tokens"));
}

#[test]
fn nan_is_an_error() {
    let gpu = gpu();
    let config = T5Config::preset("tiny").expect("a preset");
    let model = Model::init(&gpu, config, 1).expect("the model fits");
    for buffer in &model.params {
        gpu.write(buffer, 0, &vec![f32::NAN; buffer.bytes() as usize / 4]);
    }
    let mut generator = Generator::new(model);
    for decoding in [greedy(4), Decoding::beam(3)] {
        let refused = pollster::block_on(generator.generate_best(&[vec![4, 1]], &decoding));
        assert!(refused.expect_err("NaN").to_string().contains("logits are NaN"));
    }
}

/// A step of T5-small, whatever its vocabulary: every dispatch costs, and on a GPU they are most of a small model's step.
#[test]
fn a_step_has_few_dispatches() {
    for (preset, most) in [("t5-small", 52), ("flan-t5-small", 68)] {
        let mut config = T5Config::preset(preset).unwrap();
        config.vocab_size = 512;
        let model = Model::init(&gpu(), config, 1).unwrap();
        let mut generator = Generator::new(model);
        for batch in [1, 16] {
            let shape = DecodeShape { sources: batch, batch, beams: 1, drafts: 0, src_len: 64, max_len: 64 };
            let dispatches: usize = generator.step_plans(shape).unwrap().iter().map(|plan| plan.dispatches()).sum();
            assert!(dispatches <= most, "{preset}, batch {batch}: {dispatches} dispatches");
        }
    }
}
