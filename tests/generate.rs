//! Cached decoding against PyTorch's greedy ids, and the properties of batches and of sampling.

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::gpu;
use t5_wgpu::checkpoint::{Dtype, Weights};
use t5_wgpu::generate::{GenerateOptions, Generation, Generator, Strategy, greedy_ids};
use t5_wgpu::model::{DecodeShape, Model, T5Config};

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

fn run(generator: &mut Generator, sources: &[Vec<u32>], options: &GenerateOptions) -> Vec<Generation> {
    pollster::block_on(generator.generate_all(sources, options)).expect("generation runs")
}

fn greedy(max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens, ..GenerateOptions::default() }
}

fn sampled(temperature: f32, top_k: usize, top_p: f32, seed: u64) -> GenerateOptions {
    GenerateOptions { strategy: Strategy::Sample { temperature, top_k, top_p, seed }, ..greedy(12) }
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
    let (sources, _) = golden("flan");
    let mut generator = generator("flan");
    // Of many lengths, more than the few-row kernels take at once, and no power of two.
    let mut many: Vec<Vec<u32>> = (0..11).map(|i| sources[i % sources.len()].repeat(1 + i % 4)).collect();
    many.push(vec![1]);
    // Longer than what one workgroup attends to: beside it, the others' attention is put together from parts.
    many.push([7, 9, 11].repeat(200));
    for options in [greedy(20), sampled(1.5, 0, 0.95, 7)] {
        let together = run(&mut generator, &many, &options);
        for max_batch in [1, 5] {
            let options = GenerateOptions { max_batch, ..options.clone() };
            assert_eq!(run(&mut generator, &many, &options), together, "{options:?}");
        }
    }
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
    let options = GenerateOptions { max_new_tokens: 1, max_batch: 512, ..sampled(temperature as f32, 0, 1.0, 11) };
    let made = run(&mut generator, &vec![sources[0].clone(); draws], &options);
    let mut counts = vec![0.0; vocab];
    for generation in &made {
        let token = generation.ids.first().copied().or(generation.stopped_at);
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
    use t5_wgpu::batch::BatchShape;
    use t5_wgpu::model::Builder;
    use t5_wgpu::plan::{Plan, PlanOptions, SlotPool};
    let shape = BatchShape { batch: 1, src_len: source.len(), tgt_len: 1, packed: false };
    let mut b = Builder::new(model, shape, 0.0);
    let encoded = b.encoder();
    let hidden = b.decoder(encoded);
    let logits = b.logits(hidden, None);
    let options = PlanOptions { bind: &|name| model.bind(name), pool: &SlotPool::new() };
    let plan = Plan::compile(&model.gpu, &b.graph, &[("logits", logits)], &options).expect("the plan compiles");
    plan.write("src_ids", source);
    plan.write("src_lens", &[source.len() as u32]);
    plan.write("tgt_ids", &[model.config.decoder_start_token_id]);
    plan.run().expect("the plan runs");
    let logits = pollster::block_on(plan.read::<f32>("logits")).expect("it is read");
    logits.into_iter().map(f64::from).collect()
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
                assert_eq!(after.stopped_at, Some(second[0]));
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
    let again = pollster::block_on(generator.generate(&sources, &greedy(20), &mut collect)).expect("it runs");
    assert_eq!(again, all);
    assert_eq!(seen, all.iter().map(|g| g.ids.clone()).collect::<Vec<_>>());

    let mut calls = 0;
    let mut stop = |_: usize, _: &[u32]| {
        calls += 1;
        ControlFlow::Break(())
    };
    let cut = pollster::block_on(generator.generate(&sources, &greedy(20), &mut stop)).expect("it runs");
    assert_eq!((calls, cut.len()), (1, sources.len()));
}

#[test]
fn limits_are_kept() {
    let (sources, _) = golden("t5v10");
    let mut generator = generator("t5v10");
    let options = GenerateOptions { limit: Some(5), ..greedy(3) };
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
    assert!(!made[0].stopped_at_eos());
}

#[test]
fn what_cannot_be_generated_is_refused() {
    let mut generator = generator("t5v10");
    let mut refusal = |sources: &[Vec<u32>], options: &GenerateOptions| {
        pollster::block_on(generator.generate_all(sources, options)).expect_err("refused").to_string()
    };
    assert!(refusal(&[vec![5, 1], vec![]], &greedy(4)).contains("source 1 has no token"));
    assert!(refusal(&[vec![5, 128, 1]], &greedy(4)).contains("token id 128 is outside"));
    assert!(refusal(&[vec![1]], &greedy(0)).contains("max_new_tokens"));
    assert!(refusal(&[vec![1]], &sampled(f32::NAN, 0, 1.0, 0)).contains("temperature"));
    assert!(refusal(&[vec![1]], &sampled(1.0, 0, 1.5, 0)).contains("top_p"));
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
    let refused = pollster::block_on(Generator::new(model).generate_all(&[vec![4, 1]], &greedy(4)));
    assert!(refused.expect_err("NaN").to_string().contains("logits are NaN"));
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
            let shape = DecodeShape { batch, src_len: 64, max_len: 64 };
            let dispatches = generator.step_plan(shape).unwrap().dispatches();
            assert!(dispatches <= most, "{preset}, batch {batch}: {dispatches} dispatches");
        }
    }
}
