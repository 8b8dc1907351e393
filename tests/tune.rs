//! Choosing kernels by measurement: what is kept, what is ignored, and that results stay right whatever is chosen.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{Scratch, gpu, weights_and_moments};
use t5_wgpu::batch::BatchShape;
use t5_wgpu::data::TaskConfig;
use t5_wgpu::data::task::Files;
use t5_wgpu::gpu::{Caps, Gpu};
use t5_wgpu::graph::{Choices, Dtype, Fill, Graph, Question, Tensor64, Trial, ValueId, interpret, questions};
use t5_wgpu::model::{Builder, Model, T5Config};
use t5_wgpu::ops::{Activation, Function, Matmul, MatmulLayout};
use t5_wgpu::plan::{Plan, PlanOptions, SlotPool};
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::train::engine::{Pass, Regularization, graph};
use t5_wgpu::train::{Hooks, Outcome, Settings, Trainer};
use t5_wgpu::tune::cache::{Cache, CacheEntry, Identity};
use t5_wgpu::tune::{DecisionSource, Mode, TuneBudget, Tuner};
use t5_wgpu::verify::{KERNEL_TOLERANCE, relative_error};

const SHAPE: BatchShape = BatchShape { batch: 4, src_len: 8, tgt_len: 8, packed: false };

fn model(gpu: &Gpu) -> Model {
    let text = r#"{"model_type": "t5", "vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1,
                   "num_heads": 4, "feed_forward_proj": "gated-gelu"}"#;
    Model::init(gpu, T5Config::from_json(text, "config.json").unwrap(), 1).unwrap()
}

/// The graph of a training pass.
fn training(model: &Model) -> Graph {
    graph(model, Regularization::default(), SHAPE, Pass::Training { recompute: false }).0
}

fn entry(variant: &str) -> CacheEntry {
    CacheEntry { sources: "0".into(), variant: variant.into(), ms: BTreeMap::from([("tile".into(), 1.5)]) }
}

fn of_one(class: &str, variant: &str) -> BTreeMap<String, CacheEntry> {
    BTreeMap::from([(class.into(), entry(variant))])
}

/// A cache in which each class of the model's training has the last of its candidates, with any fingerprint that `gpu` gives.
fn cache_of_last_candidates(gpu: &Gpu, model: &Model, folder: &Path) -> Cache {
    let cache = Cache::new(folder, Identity::of(gpu));
    let graph = training(model);
    Tuner::new(Mode::On, TuneBudget::thorough(), Some(cache.clone())).choices(gpu, &graph, &[]).unwrap();
    let (mut entries, _) = cache.load();
    for question in questions(gpu.caps(), &graph, &[], &Choices::none()) {
        let last = question.candidates.last().unwrap().name;
        entries.get_mut(&question.class).expect("every class was measured").variant = last.into();
    }
    cache.add(&entries).unwrap();
    cache
}

#[test]
fn the_file_keeps_what_it_is_given() {
    let scratch = Scratch::new("tune-file");
    let identity = |driver: &str| Identity {
        adapter: "Some GPU (TM) 2".into(),
        backend: "vulkan".into(),
        driver: driver.into(),
        checked: false,
    };
    let cache = Cache::new(&scratch.path("not/yet/there"), identity("1.0"));
    assert_eq!(cache.load(), (BTreeMap::new(), None));
    cache.add(&of_one("a", "tile")).unwrap();
    cache.add(&of_one("b", "rows")).unwrap();
    let (entries, warning) = cache.load();
    assert_eq!(warning, None);
    assert_eq!(entries, BTreeMap::from([("a".into(), entry("tile")), ("b".into(), entry("rows"))]));

    let newer = Cache::new(&scratch.path("not/yet/there"), identity("1.1"));
    assert_eq!(newer.path(), cache.path());
    assert_eq!(newer.load(), (BTreeMap::new(), None), "another driver");
    newer.add(&of_one("c", "rows")).unwrap();
    assert_eq!(newer.load().0.len(), 1, "timings of two drivers were mixed");

    for rubbish in ["", "{", "[1, 2]", "{\"format\": 1}", "\u{0}"] {
        fs::write(cache.path(), rubbish).unwrap();
        let (entries, warning) = cache.load();
        assert!(entries.is_empty());
        let warning = warning.expect("a warning");
        assert!(warning.contains(".json") && warning.contains("will be replaced"), "{warning}");
        cache.add(&of_one("d", "tile")).unwrap();
        assert_eq!(cache.load(), (of_one("d", "tile"), None));
    }
}

#[test]
fn writers_at_the_same_time_lose_nothing() {
    let (gpu, scratch) = (gpu(), Scratch::new("tune-writers"));
    let cache = Cache::new(&scratch.path("cache"), Identity::of(&gpu));
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let cache = cache.clone();
            scope.spawn(move || {
                for i in 0..10 {
                    cache.add(&of_one(&format!("{writer} {i}"), "tile")).unwrap();
                    assert_eq!(cache.load().1, None, "a reader saw a file half written");
                }
            });
        }
    });
    assert_eq!(cache.load().0.len(), 80);
}

#[test]
fn off_is_what_the_rules_say() {
    let (gpu, scratch) = (gpu(), Scratch::new("tune-off"));
    let model = model(&gpu);
    let cache = cache_of_last_candidates(&gpu, &model, &scratch.path("cache"));
    let graph = training(&model);
    let compile = |choices: &Choices| {
        let options = PlanOptions { bind: &|_| None, pool: &SlotPool::new() };
        Plan::compile_with(&gpu, &graph, &[], &options, choices).unwrap().kernels().to_vec()
    };
    let by_rule = compile(&Choices::none());
    for tuner in [Tuner::off(), Tuner::new(Mode::Off, TuneBudget::thorough(), Some(cache.clone()))] {
        assert_eq!(compile(&tuner.choices(&gpu, &graph, &[]).unwrap()), by_rule);
        assert!(tuner.decisions().is_empty() && tuner.spent().is_zero());
    }
    let from_cache = Tuner::new(Mode::Cache, TuneBudget::thorough(), Some(cache));
    let choices = from_cache.choices(&gpu, &graph, &[]).unwrap();
    assert!(from_cache.spent().is_zero() && from_cache.decisions().iter().all(|d| d.source == DecisionSource::Cache));
    assert_ne!(compile(&choices), by_rule, "the cache was not asked");
}

#[test]
fn timings_of_other_kernels_are_ignored() {
    let (gpu, scratch) = (gpu(), Scratch::new("tune-sources"));
    let model = model(&gpu);
    let cache = cache_of_last_candidates(&gpu, &model, &scratch.path("cache"));
    let (mut entries, _) = cache.load();
    entries.values_mut().for_each(|entry| entry.sources = "0123456789abcdef".into());
    cache.add(&entries).unwrap();
    let graph = training(&model);
    let tuner = Tuner::new(Mode::Cache, TuneBudget::thorough(), Some(cache.clone()));
    tuner.choices(&gpu, &graph, &[]).unwrap();
    assert!(tuner.decisions().iter().all(|d| d.source == DecisionSource::Rule && d.variant == d.rule));
    let tuner = Tuner::new(Mode::On, TuneBudget::thorough(), Some(cache.clone()));
    tuner.choices(&gpu, &graph, &[]).unwrap();
    assert!(tuner.decisions().iter().all(|d| d.source == DecisionSource::Measured && d.ms.len() > 1));
    assert_ne!(cache.load().0, entries, "the file was not brought up to date");
}

#[test]
fn a_budget_is_kept() {
    let gpu = gpu();
    let model = model(&gpu);
    let graph = training(&model);
    let with = |total, least_share| {
        let tuner = Tuner::new(Mode::On, TuneBudget { total, least_share }, None);
        tuner.choices(&gpu, &graph, &[]).unwrap();
        tuner
    };
    let none = with(Duration::ZERO, 0.0);
    assert!(none.spent().is_zero() && none.decisions().iter().all(|d| d.source == DecisionSource::Rule));
    // Warm: compiling kernels is what cannot be interrupted.
    let all = with(Duration::from_secs(60), 0.0);
    let some = with(all.spent() / 4, 0.0);
    assert!(some.spent() < all.spent() / 4 + Duration::from_secs(1), "{:?} of {:?}", some.spent(), all.spent());
    assert!(some.decisions().iter().any(|d| d.source == DecisionSource::Rule));
    let large_only = with(Duration::from_secs(60), 0.2);
    assert!(large_only.decisions().iter().filter(|d| d.source == DecisionSource::Measured).count() <= 5);
}

#[test]
fn tuned_products_match_the_oracle() {
    let gpu = gpu();
    let (m, n, k) = (24, 40, 36);
    for layout in [MatmulLayout::Nn, MatmulLayout::Nt, MatmulLayout::Tn] {
        let mut graph = Graph::new();
        let a_shape = if layout == MatmulLayout::Tn { [k, m] } else { [m, k] };
        let b_shape = if layout == MatmulLayout::Nt { [n, k] } else { [k, n] };
        let leaves = [("a", a_shape), ("b", b_shape), ("r", [m, n])];
        let values = leaves.map(|(name, shape)| graph.leaf(name, &shape, Dtype::F32));
        let plain = graph.push1(Matmul::new(layout), &values[..2]);
        let added = graph.push1(Matmul::new(layout).with_residual(), &values);
        let data: HashMap<String, Tensor64> = leaves
            .iter()
            .map(|(name, shape)| {
                let number = |i: usize| f64::from(((i * 7919 + name.len()) % 997) as f32 / 997.0 - 0.5);
                ((*name).into(), Tensor64::new(shape, (0..shape[0] * shape[1]).map(number).collect()))
            })
            .collect();
        let outputs = [("plain", plain), ("added", added)];
        let wanted = outputs.map(|(_, value)| value);
        let reference = interpret(&graph, &wanted, &mut data.clone());
        let tuned = Tuner::new(Mode::On, TuneBudget::thorough(), None).choices(&gpu, &graph, &wanted).unwrap();
        assert!(tuned.by_class.len() == 2 || questions(gpu.caps(), &graph, &wanted, &tuned).is_empty());
        for choices in every_choice(gpu.caps(), &graph, &wanted).into_iter().chain([tuned]) {
            let options = PlanOptions { bind: &|_| None, pool: &SlotPool::new() };
            let plan = Plan::compile_with(&gpu, &graph, &outputs, &options, &choices).unwrap();
            for (name, tensor) in &data {
                plan.write(name, &tensor.data.iter().map(|&x| x as f32).collect::<Vec<_>>());
            }
            plan.run().unwrap();
            for ((name, _), reference) in outputs.iter().zip(&reference) {
                let found: Vec<f32> = pollster::block_on(plan.read(name)).unwrap();
                let error = relative_error(&found, &reference.data);
                assert!(error < KERNEL_TOLERANCE, "{layout:?} {name} {choices:?}: {error:.1e}");
            }
        }
    }
}

/// For each candidate of any class, choices that name it wherever they can.
fn every_choice(caps: &Caps, graph: &Graph, outputs: &[ValueId]) -> Vec<Choices> {
    let questions = questions(caps, graph, outputs, &Choices::none());
    let most = questions.iter().map(|q| q.candidates.len()).max().unwrap_or(0);
    let choose = |i: usize| {
        let by_class =
            questions.iter().map(|q| (q.class.clone(), q.candidates[i.min(q.candidates.len() - 1)].name.into()));
        Choices { by_class: by_class.collect(), ..Choices::none() }
    };
    (0..most).map(choose).collect()
}

/// On a graphics card attention has a choice, too. Whatever the adapter at hand, its trials must agree with each other.
#[test]
fn trials_for_a_card_agree() {
    let gpu = gpu();
    let model = model(&gpu);
    let card = Caps { kind: "discrete GPU", ..gpu.caps().clone() };
    let graph = graph(
        &model,
        Regularization { dropout: 0.1, ..Regularization::default() },
        SHAPE,
        Pass::Training { recompute: false },
    )
    .0;
    let mut seen = BTreeMap::new();
    for question in questions(&card, &graph, &[], &Choices::none()) {
        seen.entry(question.class.clone()).or_insert(question);
    }
    let attention = seen.iter().filter(|(class, _)| class.starts_with("attention"));
    assert_eq!(attention.clone().count(), 6, "encoder, decoder, cross; forward and backward: {:?}", seen.keys());
    attention.for_each(|(_, question)| assert_trials_agree(&gpu, question));
}

/// A norm in front and a gated activation behind belong to the class and to its trials.
#[test]
fn trials_of_fused_products_agree() {
    let gpu = gpu();
    let mut graph = Graph::new();
    let leaves = [("a", vec![16, 32]), ("b", vec![96, 32]), ("scale", vec![32])];
    let inputs = leaves.map(|(name, shape)| graph.leaf(name, &shape, Dtype::F32));
    let activation = Some(Activation { function: Function::GeluTanh, gated: true });
    let y = graph.push1(Matmul { norm: Some(1e-6), activation, ..Matmul::new(MatmulLayout::Nt) }, &inputs);
    let asked = questions(gpu.caps(), &graph, &[y], &Choices::none());
    assert_eq!(asked[0].class, "matmul nt f32 norm gated gelutanh m16 n48 k32");
    assert_trials_agree(&gpu, &asked[0]);
}

#[track_caller]
fn assert_trials_agree(gpu: &Gpu, question: &Question) {
    let results: Vec<Vec<f32>> = question.candidates.iter().map(|candidate| run(gpu, &candidate.trial)).collect();
    let reference: Vec<f64> = results[0].iter().map(|&x| x.into()).collect();
    assert!(reference.iter().any(|&x| x != 0.0), "{}", question.class);
    for (result, candidate) in results.iter().zip(&question.candidates) {
        let error = relative_error(result, &reference);
        assert!(error < KERNEL_TOLERANCE, "{} {}: {error:.1e}", question.class, candidate.name);
    }
}

fn run(gpu: &Gpu, trial: &Trial) -> Vec<f32> {
    let (graph, outputs) = trial.graph();
    let options = PlanOptions { bind: &|_| None, pool: &SlotPool::new() };
    let plan = Plan::compile(gpu, &graph, &[("out", outputs[0])], &options).unwrap();
    for (i, (shape, fill)) in trial.inputs.iter().enumerate() {
        let number = |j: usize| ((j * 31 + i) % 101) as f32 / 101.0 - 0.5;
        match fill {
            Fill::Random => {
                plan.write(&Trial::leaf(i), &(0..shape.iter().product()).map(number).collect::<Vec<f32>>());
            }
            Fill::Number(n) => {
                plan.write(&Trial::leaf(i), &vec![*n; shape.iter().product()]);
            }
        }
    }
    plan.run().unwrap();
    pollster::block_on(plan.read("out")).unwrap()
}

/// Generation asks for all batches at once, so that a source's answer does not depend on its neighbours.
#[test]
fn one_answer_serves_all_batches() {
    let gpu = gpu();
    let model = model(&gpu);
    let classes = |batch: usize, any_batch: bool| {
        let mut b = Builder::new(&model, BatchShape { batch, src_len: 16, tgt_len: 8, packed: false }, 0.0);
        b.prepare_decoding(1);
        let choices = Choices { any_batch, ..Choices::none() };
        let asked = questions(gpu.caps(), &b.graph, &[], &choices);
        asked.into_iter().map(|q| (q.class, q.candidates[0].trial.flops.to_bits())).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(classes(1, true), classes(8, true));
    assert!(classes(1, false) != classes(8, false) || classes(1, false).is_empty());
}

#[test]
fn a_resumed_run_keeps_its_kernels() {
    let (gpu, scratch) = (gpu(), Scratch::new("tune-resume"));
    let shaders = |trainer: &Trainer| {
        let used = trainer.engine().plan(SHAPE).expect("every pair fits this shape").kernels();
        used.iter().map(|k| k.shader).collect::<Vec<_>>()
    };
    let settings = Settings {
        steps: 10,
        batch_size: 4,
        dropout: 0.1,
        ..Settings::on_task(
            "pairs",
            TaskConfig {
                train: Some(Files::Together(vec![scratch.pairs(16).to_string_lossy().into_owned()])),
                columns: Some(vec!["source".into(), "target".into()]),
                ..TaskConfig::default()
            },
        )
    };
    // Every class that this run meets is in the file, at its last candidate.
    let cache = Cache::new(&scratch.path("cache"), Identity::of(&gpu));
    let create = |tuner: Tuner, name: &str| {
        let mut model = model(&gpu);
        model.tuner = tuner;
        Trainer::create(model, Tokenizer::bytes(), settings.clone(), &scratch.path(name), false).unwrap()
    };
    let mut first = create(Tuner::new(Mode::On, TuneBudget::thorough(), Some(cache.clone())), "first");
    let by_rule = shaders(&create(Tuner::off(), "off"));
    run_until(&mut first, 100);
    let (mut entries, _) = cache.load();
    for entry in entries.values_mut() {
        entry.variant = entry.ms.keys().max().unwrap().clone();
    }
    cache.add(&entries).unwrap();

    let from_cache = || Tuner::new(Mode::Cache, TuneBudget::thorough(), Some(cache.clone()));
    let mut whole = create(from_cache(), "whole");
    assert_ne!(shaders(&whole), by_rule, "nothing to tell the runs apart by");
    assert_eq!(run_until(&mut whole, 100), Outcome::Finished);
    let mut parts = create(from_cache(), "parts");
    assert_eq!(run_until(&mut parts, 5), Outcome::Stopped { step: 5 });
    drop(parts);
    // What the file says by then must not matter.
    fs::remove_file(cache.path()).unwrap();
    let out = scratch.path("parts");
    for forget_log in [false, true] {
        if forget_log {
            fs::remove_file(out.join("log.jsonl")).unwrap();
        }
        let state = Trainer::load_state(&out).unwrap().unwrap();
        assert!(!state.kernels.clone().unwrap().is_empty());
        let resumed = Trainer::resume(&gpu, &Tuner::off(), state, &out).unwrap();
        assert_eq!(shaders(&resumed), shaders(&whole), "log forgotten: {forget_log}");
        drop(resumed);
    }
    let state = Trainer::load_state(&out).unwrap().unwrap();
    let mut resumed = Trainer::resume(&gpu, &Tuner::off(), state, &out).unwrap();
    assert_eq!(run_until(&mut resumed, 100), Outcome::Finished);
    assert!(weights_and_moments(&scratch.path("whole")) == weights_and_moments(&out), "not bit for bit");

    let log = fs::read_to_string(scratch.path("whole").join("log.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let kernels: Vec<_> = lines.filter(|line| line["event"] == "kernels").collect();
    let choice = &kernels[0]["choices"][0];
    assert!(choice["class"].is_string() && choice["variant"].is_string() && choice["ms"].is_object(), "{choice}");
}

fn run_until(trainer: &mut Trainer, stop_after: u64) -> Outcome {
    let step = std::cell::Cell::new(trainer.step());
    let is_late = || {
        step.set(step.get() + 1);
        step.get() >= stop_after
    };
    trainer.run(Hooks { observe: &mut |_| {}, should_stop: &|| false, is_late: &is_late }).unwrap()
}
