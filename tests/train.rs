//! The training loop on the adapter at hand: what it learns, and that it goes on as if never stopped.

mod common;

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Scratch, gpu, logged_steps, weights_and_moments};
use serde_json::Value;
use t5_wgpu::data::metrics::MetricKind;
use t5_wgpu::data::stream::Batching;
use t5_wgpu::data::task::Files;
use t5_wgpu::data::{Metric, Split, TaskConfig, TaskSet};
use t5_wgpu::gpu::Gpu;
use t5_wgpu::model::{Architecture, Model, T5Config};
use t5_wgpu::rng::{Purpose, Rng};
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::train::engine::{Engine, Regularization};
use t5_wgpu::train::settings::TextConfig;
use t5_wgpu::train::{Event, Hooks, Outcome, Settings, StepLog, Trainer};
use t5_wgpu::tune::Tuner;

fn config(tied: bool) -> T5Config {
    let text = format!(
        r#"{{"model_type": "t5", "vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1,
            "num_heads": 4, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": {tied}}}"#
    );
    T5Config::from_json(&text, "config.json").unwrap()
}

fn files(file: &Path) -> Files {
    Files::Together(vec![file.to_string_lossy().into_owned()])
}

fn task(file: &Path) -> TaskConfig {
    let columns = Some(vec!["source".to_owned(), "target".to_owned()]);
    TaskConfig {
        train: Some(files(file)),
        columns,
        metrics: Some(vec![Metric::new(MetricKind::Per)]),
        ..TaskConfig::default()
    }
}

fn on(task: TaskConfig) -> Settings {
    Settings { log_every: 1, ..Settings::on_task("pairs", task) }
}

fn pairs(file: &Path) -> Settings {
    on(task(file))
}

fn trainer(gpu: &Gpu, settings: Settings, tied: bool, out: &Path) -> t5_wgpu::Result<Trainer> {
    trainer_of(gpu, settings, config(tied), out)
}

fn trainer_of(gpu: &Gpu, settings: Settings, config: T5Config, out: &Path) -> t5_wgpu::Result<Trainer> {
    let model = Model::init(gpu, config, settings.seed).unwrap();
    Trainer::create(model, Tokenizer::bytes(), settings, out, false)
}

/// Runs until the end, or until `stop_after` steps are done; the steps' log lines.
fn run(trainer: &mut Trainer, stop_after: u64) -> t5_wgpu::Result<(Outcome, Vec<StepLog>)> {
    let step = Cell::new(trainer.step());
    let mut lines = Vec::new();
    let outcome = trainer.run(Hooks {
        observe: &mut |event| {
            if let Event::Step(line) = event {
                lines.push(*line);
            }
        },
        should_stop: &|| false,
        is_late: &|| {
            step.set(step.get() + 1);
            step.get() >= stop_after
        },
    })?;
    Ok((outcome, lines))
}

#[test]
fn a_resumed_run_equals_an_undisturbed_one() {
    let (gpu, scratch) = (gpu(), Scratch::new("train-resume"));
    let text =
        scratch.file("text.txt", "The quick brown fox jumps over the lazy dog. ".repeat(60).replace(". ", ".\n"));
    let by_pairs = on(TaskConfig { held_out: Some(0.2), ..task(&scratch.pairs(50)) });
    let text = TextConfig { inputs_len: 32, held_out: Some(0.2), examples: Some(50), ..TextConfig::new(files(&text)) };
    let mut by_text = Settings { log_every: 1, ..Settings::on_text("text", text) };
    by_text.optimizer = "adafactor".parse().unwrap();
    let mut mixed = by_pairs.clone();
    mixed.texts.clone_from(&by_text.texts);
    mixed.train.push("text".into());
    mixed.prefetch = 0;
    let averaged = Settings { average: 0.9, ..by_pairs.clone() };
    let mut packed = by_pairs.clone();
    packed.batching = Batching::Packed { source_len: 24, target_len: 24 };
    for (name, settings, architecture) in [
        ("pairs", by_pairs.clone(), Architecture::EncoderDecoder),
        ("text", by_text.clone(), Architecture::EncoderDecoder),
        ("mixed", mixed, Architecture::EncoderDecoder),
        ("averaged", averaged, Architecture::EncoderDecoder),
        ("shared", by_pairs, Architecture::Shared),
        ("language-model", by_text, Architecture::LanguageModel),
        ("prefix-lm", packed, Architecture::PrefixLm),
    ] {
        let config = T5Config { architecture, ..config(true) };
        let settings =
            Settings { steps: 12, batch_size: 4, accumulate: 2, dropout: 0.1, eval_every: Some(3), ..settings };
        let (whole, parts) = (scratch.path(&format!("{name}-whole")), scratch.path(&format!("{name}-parts")));
        let (outcome, _) = run(&mut trainer_of(&gpu, settings.clone(), config.clone(), &whole).unwrap(), 100).unwrap();
        assert_eq!(outcome, Outcome::Finished);
        let (outcome, _) = run(&mut trainer_of(&gpu, settings, config, &parts).unwrap(), 7).unwrap();
        assert_eq!(outcome, Outcome::Stopped { step: 7 });
        let state = Trainer::load_state(&parts).unwrap().unwrap();
        assert_eq!(state.step, 7);
        let mut resumed = Trainer::resume(&gpu, &Tuner::off(), state, &parts).unwrap();
        assert_eq!(run(&mut resumed, 100).unwrap().0, Outcome::Finished);
        assert!(weights_and_moments(&whole) == weights_and_moments(&parts), "{name}: not bit for bit");
        let best = |out: &Path| fs::read(out.join("best/model.safetensors")).unwrap();
        assert!(best(&whole) == best(&parts), "{name}: another best");
        for out in [whole, parts] {
            assert_eq!(logged_steps(&out, "step"), (1..=12).collect::<Vec<_>>());
            assert_eq!(logged_steps(&out, "evaluation"), [3, 6, 9, 12]);
        }
    }
}

#[test]
fn changed_data_do_not_resume() {
    let (gpu, scratch) = (gpu(), Scratch::new("train-changed"));
    let settings = Settings { steps: 4, batch_size: 4, ..pairs(&scratch.pairs(20)) };
    let out = scratch.path("run");
    run(&mut trainer(&gpu, settings, true, &out).unwrap(), 2).unwrap();
    scratch.pairs(21);
    let state = Trainer::load_state(&out).unwrap().unwrap();
    let error = Trainer::resume(&gpu, &Tuner::off(), state, &out).err().unwrap().to_string();
    assert!(error.contains("training data changed"), "{error}");
}

#[test]
fn runs_of_older_programs_go_on_if_they_have_no_tasks() {
    let (gpu, scratch) = (gpu(), Scratch::new("train-older"));
    let settings = Settings { steps: 4, batch_size: 4, ..pairs(&scratch.pairs(20)) };
    let out = scratch.path("run");
    run(&mut trainer(&gpu, settings, true, &out).unwrap(), 2).unwrap();
    let file = out.join("last/training_state/state.json");
    let mut state: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    state["format"] = 3.into();
    fs::write(&file, state.to_string()).unwrap();
    let error = Trainer::load_state(&out).err().unwrap().to_string();
    assert!(error.contains("drew the examples of tasks in another order: finish it with that program"), "{error}");
    state["settings"]["tasks"] = serde_json::json!({});
    state["position"].as_object_mut().unwrap().remove("passes");
    fs::write(&file, state.to_string()).unwrap();
    assert_eq!(Trainer::load_state(&out).unwrap().unwrap().format, 4);
}

#[test]
fn a_small_set_is_learnt_by_heart() {
    let (gpu, scratch) = (gpu(), Scratch::new("train-overfit"));
    let file = scratch.pairs(8);
    let task = TaskConfig { validation: Some(files(&file)), ..task(&file) };
    let settings = Settings { steps: 200, batch_size: 8, lr: 1e-2, eval_every: Some(100), ..on(task) };
    let mut trainer = trainer(&gpu, settings, true, &scratch.path("run")).unwrap();
    let (_, lines) = run(&mut trainer, 1000).unwrap();
    let last = lines.last().unwrap();
    assert!(last.loss < 0.05 && last.accuracy == 1.0, "{last:?}");
    let best = trainer.best().unwrap();
    assert!(best.metric == "pairs/loss" && best.value < 0.05, "{best:?}");
}

#[test]
fn equal_metrics_are_decided_by_the_loss() {
    let (gpu, scratch) = (gpu(), Scratch::new("train-ties"));
    let file = scratch.pairs(8);
    let metrics = Some(vec![Metric::new(MetricKind::ExactMatch)]);
    let task = TaskConfig { validation: Some(files(&file)), metrics, ..task(&file) };
    // Nothing is right so soon, but the loss falls.
    let settings = Settings { steps: 6, eval_every: Some(2), best: Some("pairs/exact_match".into()), ..on(task) };
    let mut trainer = trainer(&gpu, settings, true, &scratch.path("run")).unwrap();
    run(&mut trainer, 1000).unwrap();
    let best = trainer.best().unwrap();
    assert!(best.step == 6 && best.value == 0.0 && best.loss.is_some(), "{best:?}");
}

#[test]
fn the_first_loss_is_that_of_random_logits() {
    let (gpu, scratch) = (gpu(), Scratch::new("train-first"));
    let mut rng = Rng::new(0, Purpose::Examples, &[]);
    let mut word = || (0..20).map(|_| char::from(33 + rng.below(90) as u8)).collect::<String>();
    let random: String = (0..64).map(|_| format!("{}\t{}\n", word(), word())).collect();
    let random = scratch.file("random.tsv", random);
    // Logits of variance 1.
    let expected = 384f64.ln() + 0.5;
    for tied in [false, true] {
        let settings = Settings { steps: 1, batch_size: 64, ..pairs(&random) };
        let out = scratch.path(&format!("run-{tied}"));
        let loss = run(&mut trainer(&gpu, settings, tied, &out).unwrap(), 9).unwrap().1[0].loss;
        eprintln!("tied {tied}: first loss {loss:.3}, ln V + 1/2 = {expected:.3}");
        assert!((loss - expected).abs() < 0.35, "tied {tied}: {loss}");
    }
}

#[test]
fn accumulated_gradients_equal_those_of_one_batch() {
    let (gpu, examples) = (gpu(), (0..8u32));
    let example = |i: u32| t5_wgpu::batch::Example {
        source: (0..3 + i % 4).map(|k| 10 + i + k).chain([1]).collect(),
        target: (0..2 + i % 3).map(|k| 90 + 2 * i + k).chain([1]).collect(),
    };
    let examples: Vec<_> = examples.map(example).collect();
    let gradients = |rows: usize| {
        let model = Model::init(&gpu, config(true), 0).unwrap();
        let adamw = t5_wgpu::train::optimizer::OptimizerConfig::adamw();
        let mut engine = Engine::new(model, Regularization::default(), &adamw, 0.0).unwrap();
        engine.begin_step();
        for batch in t5_wgpu::data::stream::by_length(&examples, rows, 0, 0) {
            engine.micro_batch(&batch, [0; 4]).unwrap();
        }
        let report = engine.finish_step(0.0, 0).unwrap();
        let (stats, _) = pollster::block_on(report.finish()).unwrap();
        let read = |arena: &t5_wgpu::gpu::Buffer| pollster::block_on(gpu.read::<f32>(arena, 0..arena.bytes())).unwrap();
        (stats, engine.gradients().iter().flat_map(read).collect::<Vec<f32>>())
    };
    let (one, whole) = gradients(8);
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    let size = norm(&mut whole.iter().map(|&a| f64::from(a)));
    for rows in [1, 2, 3, 4] {
        let (parts, split) = gradients(rows);
        assert_eq!(one.tokens, parts.tokens);
        let off = norm(&mut whole.iter().zip(&split).map(|(a, b)| f64::from(a - b)));
        assert!(size > 0.0 && off < 1e-5 * size, "{rows} rows: {off} of {size}");
        assert!((one.loss - parts.loss).abs() < 1e-5 * one.loss, "{} {}", one.loss, parts.loss);
    }
}

/// The model of the average beside an average made here, in f64, of the weights after each step of a training without one.
#[test]
fn averages_of_weights_follow_their_formula() {
    const DECAY: f64 = 0.7;
    let gpu = gpu();
    let example = |i: u32| t5_wgpu::batch::Example { source: vec![9 + i, 40, 1], target: vec![70 + i, 80, 1] };
    let examples: Vec<_> = (0..4).map(example).collect();
    let batch = t5_wgpu::data::stream::by_length(&examples, 4, 0, 0).remove(0);
    let engine = |average: f64| {
        let model = Model::init(&gpu, config(true), 0).unwrap();
        Engine::new(model, Regularization { average, ..Regularization::default() }, &"adamw".parse().unwrap(), 0.0)
            .unwrap()
    };
    let step = |engine: &mut Engine, number: u64, batch: &t5_wgpu::batch::Batch| {
        engine.begin_step();
        engine.micro_batch(batch, [0; 4]).unwrap();
        let report = engine.finish_step(0.01, number).unwrap();
        pollster::block_on(report.finish()).unwrap().1
    };
    let read = |arena: &t5_wgpu::gpu::Buffer| pollster::block_on(gpu.read::<f32>(arena, 0..arena.bytes())).unwrap();
    let weights = |engine: &Engine| engine.model.params.iter().flat_map(read).collect::<Vec<f32>>();
    let (mut plain, mut averaging) = (engine(0.0), engine(DECAY));
    let start = weights(&plain);
    assert!(weights(&averaging) == start);
    let mut expected: Vec<f64> = start.iter().map(|&w| f64::from(w)).collect();
    for number in 0..12 {
        step(&mut plain, number, &batch);
        step(&mut averaging, number, &batch);
        // 0.1, 2/11, 3/12, ... until that is more than the decay.
        let decay = DECAY.min((1 + number) as f64 / (10 + number) as f64);
        let now = weights(&plain);
        expected.iter_mut().zip(&now).for_each(|(e, &w)| *e = decay * *e + (1.0 - decay) * f64::from(w));
        // What learns is the same, bit for bit.
        let trained: Vec<f32> = averaging.arenas()[plain.model.params.len()..].iter().flat_map(read).collect();
        assert!(trained == now, "step {number}: the average changes what is learnt");
    }
    let found = weights(&averaging);
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    let off = norm(&mut found.iter().zip(&expected).map(|(&a, b)| f64::from(a) - b));
    let moved = norm(&mut start.iter().zip(&expected).map(|(&a, b)| f64::from(a) - b));
    assert!(moved > 1.0 && off < 1e-5 * moved, "off by {off} of {moved}");
    // The loss of an evaluation is the average's.
    let scored = |model: &Model| {
        let mut scorer = t5_wgpu::train::engine::Scorer::new(model.clone());
        pollster::block_on(scorer.score(&batch)).unwrap().mean_loss()
    };
    let loss = pollster::block_on(averaging.evaluate(&batch)).unwrap().mean_loss();
    assert!(loss == scored(&averaging.model) && loss != scored(&plain.model), "{loss}");
    // Behind a step that is skipped nothing moves.
    averaging.begin_step();
    let report = averaging.finish_step(0.01, 12).unwrap();
    assert!(pollster::block_on(report.finish()).unwrap().1.skipped);
    assert!(weights(&averaging) == found);
}

/// The norms of a step of two passes beside those of the arrays themselves.
#[test]
fn norms_are_those_of_the_tensors() {
    let gpu = gpu();
    let batches: Vec<_> = [2u32, 5]
        .map(|rows| {
            let example =
                |i: u32| t5_wgpu::batch::Example { source: vec![9 + i, 40, 1], target: vec![70 + i, 80 + rows, 1] };
            t5_wgpu::data::stream::by_length(&(0..rows).map(example).collect::<Vec<_>>(), 8, 0, 0).remove(0)
        })
        .into();
    let stepped = |passes: usize| {
        let model = Model::init(&gpu, config(false), 0).unwrap();
        let engine = Engine::new(model, Regularization::default(), &"adamw".parse().unwrap(), 0.0).unwrap();
        let mut engine = engine.with_norms().unwrap();
        engine.begin_step();
        batches[..passes].iter().for_each(|batch| engine.micro_batch(batch, [0; 4]).unwrap());
        let report = engine.finish_step(0.01, 0).unwrap();
        let (stats, report) = pollster::block_on(report.finish()).unwrap();
        (stats.tokens, f64::from(report.grad_norm), engine)
    };
    let (small, small_norm, mut one) = stepped(1);
    let (large, large_norm, mut two) = stepped(2);
    assert_eq!((small, large), (6.0, 21.0));
    assert_eq!(pollster::block_on(one.norms()).unwrap().unwrap().noise, None);
    let norms = pollster::block_on(two.norms()).unwrap().unwrap();
    let is_near = |a: f64, b: f64| (a - b).abs() <= 1e-5 * a.abs().max(b.abs());
    let norm = |values: Vec<f32>| values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    let tensors = two.model.layout.tensors();
    assert_eq!(norms.tensors.len(), tensors.len());
    for tensor in tensors {
        let [weights, gradient] = norms.tensors[&tensor.name];
        let read = pollster::block_on(two.model.read_tensor(&tensor.name)).unwrap();
        assert!(is_near(weights, norm(read)), "{}: {weights}", tensor.name);
        let read = pollster::block_on(t5_wgpu::model::read_span(&gpu, tensor, two.gradients())).unwrap();
        assert!(is_near(gradient, norm(read) / large), "{}: {gradient}", tensor.name);
    }
    let squares: f64 = norms.tensors.values().map(|[_, gradient]| gradient * gradient).sum();
    assert!(is_near(squares.sqrt(), large_norm), "{squares} {large_norm}");
    // With G the gradient over all data and S the variance of a token's, |g|^2 over B tokens is |G|^2 + S / B on average.
    let noise = norms.noise.unwrap();
    for (tokens, norm) in [(small, small_norm), (large, large_norm)] {
        assert!(is_near(noise.signal + noise.noise / tokens, norm * norm), "{noise:?} {tokens} {norm}");
    }
}

#[test]
fn span_corruption_learns() {
    let (gpu, scratch) = (gpu(), Scratch::new("train-text"));
    let text = scratch.file("text.txt", "the cat sat on the mat and the dog sat on the log\n".repeat(100));
    let text = TextConfig { inputs_len: 48, held_out: Some(0.1), ..TextConfig::new(files(&text)) };
    let settings = Settings {
        steps: 120,
        batch_size: 8,
        lr: 5e-3,
        eval_every: Some(120),
        log_every: 10,
        ..Settings::on_text("text", text)
    };
    let (_, lines) = run(&mut trainer(&gpu, settings, true, &scratch.path("run")).unwrap(), 1000).unwrap();
    let (first, last) = (lines[0].loss, lines.last().unwrap().loss);
    assert!(last < 0.6 * first && last < 3.0, "{first} -> {last}");
}

#[test]
fn answers_are_scored_against_all_references() {
    let (gpu, scratch) = (gpu(), Scratch::new("train-answers"));
    let learnt = scratch.file("train.tsv", "read\tR IY D\nlive\tL AY V\n");
    // Held out: the same words, where what was learnt is only the second of two right answers; and a third word.
    let asked = scratch.file("dev.tsv", "read\tR EH D\nlive\tL IH V\nread\tR IY D\nlive\tL AY V\nx\tEH K S T\n");
    let task = TaskConfig {
        validation: Some(files(&asked)),
        metrics: Some([MetricKind::Per, MetricKind::ExactMatch].map(Metric::new).to_vec()),
        ..task(&learnt)
    };
    let settings = Settings { steps: 150, batch_size: 2, ..on(task) };
    let mut scores = Vec::new();
    let mut trainer = trainer(&gpu, settings, true, &scratch.path("run")).unwrap();
    trainer
        .run(Hooks {
            observe: &mut |event| {
                if let Event::Evaluation { evaluation, .. } = event {
                    scores.push(evaluation.tasks["pairs"].clone());
                }
            },
            should_stop: &|| false,
            is_late: &|| false,
        })
        .unwrap();
    let last = scores.last().unwrap();
    assert_eq!(last.predictions.len(), 3);
    assert_eq!(last.predictions.iter().filter(|p| p.correct).count(), 2, "{last:?}");
    assert!((last.metrics["exact_match"] - 200.0 / 3.0).abs() < 1e-9 && last.metrics["per"] > 0.0, "{last:?}");
    assert_eq!(trainer.best().unwrap().metric, "pairs/loss");
}

#[test]
fn numbers_that_are_none_end_the_run() {
    let (gpu, scratch) = (gpu(), Scratch::new("train-nan"));
    let settings = Settings { steps: 50, batch_size: 4, ..pairs(&scratch.pairs(8)) };
    // The z-loss overflows in the gradient, not in the loss that is reported.
    let skipping = Settings { z_loss: 3e38, ..settings.clone() };
    let out = scratch.path("skipping");
    let error = run(&mut trainer(&gpu, skipping, true, &out).unwrap(), 100).unwrap_err().to_string();
    assert!(error.contains("step 20: the gradient is not finite, for 20 steps now"), "{error}");
    assert_eq!(logged_steps(&out, "warning"), (1..20).collect::<Vec<_>>());
    let broken = Model::init(&gpu, config(true), 0).unwrap();
    for arena in &broken.params {
        gpu.write(arena, 0, &vec![f32::NAN; arena.bytes() as usize / 4]);
    }
    let out = scratch.path("broken");
    let mut trainer = Trainer::create(broken, Tokenizer::bytes(), settings, &out, false).unwrap();
    let error = run(&mut trainer, 100).unwrap_err().to_string();
    assert!(error.starts_with("step 1: the loss is NaN") && error.contains("--lr"), "{error}");
    assert!(!out.join("last").exists());
}

/// The device is lost in the middle of a run. Opened anew, the run goes on from its last checkpoint, and ends as if nothing had
/// been.
#[test]
fn a_lost_device_costs_the_steps_since_the_last_checkpoint() {
    let scratch = Scratch::new("train-lost");
    let task = TaskConfig { held_out: Some(0.2), ..task(&scratch.pairs(50)) };
    let settings = Settings { steps: 12, batch_size: 4, eval_every: Some(3), save_every: Some(2), ..on(task) };
    let (whole, parts) = (scratch.path("whole"), scratch.path("parts"));
    run(&mut trainer(&gpu(), settings.clone(), true, &whole).unwrap(), 100).unwrap();

    let lost = gpu();
    let steps = Cell::new(0);
    let error = trainer(&lost, settings, true, &parts).unwrap().run(Hooks {
        observe: &mut |_| {},
        should_stop: &|| false,
        is_late: &|| {
            steps.set(steps.get() + 1);
            if steps.get() == 7 {
                lost.destroy();
            }
            false
        },
    });
    assert!(matches!(error, Err(t5_wgpu::Error::DeviceLost(_))), "{error:?}");
    let state = Trainer::load_state(&parts).unwrap().unwrap();
    assert!((1..=7).contains(&state.step), "{}", state.step);
    let mut resumed = Trainer::resume(&gpu(), &Tuner::off(), state, &parts).unwrap();
    assert_eq!(run(&mut resumed, 100).unwrap().0, Outcome::Finished);
    assert!(weights_and_moments(&whole) == weights_and_moments(&parts), "not bit for bit");
}

#[test]
fn held_out_sources_are_not_trained_on() {
    let scratch = Scratch::new("train-split");
    let text: String = (0..600).map(|i| format!("word {}\tanswer {i}\n", i % 200)).collect();
    let task = TaskConfig { held_out: Some(0.25), ..task(&scratch.file("p.tsv", text)) };
    let sources = |split| {
        let set = TaskSet::open(&task, Path::new(""), split, &Tokenizer::bytes()).unwrap();
        set.texts().iter().map(|text| text.source.clone()).collect::<std::collections::BTreeSet<_>>()
    };
    let (training, held_out) = (sources(Split::Train), sources(Split::Validation));
    assert_eq!(training.len() + held_out.len(), 200);
    // 50 expected, deviation 6.
    assert!((30..70).contains(&held_out.len()), "{}", held_out.len());
    assert!(training.is_disjoint(&held_out));
}

#[test]
fn a_run_may_be_ended_where_it_stopped() {
    let (gpu, scratch) = (gpu(), Scratch::new("train-end"));
    let settings = Settings { steps: 9, batch_size: 2, ..pairs(&scratch.pairs(8)) };
    let out = scratch.path("run");
    let mut trainer = trainer(&gpu, settings, true, &out).unwrap();
    assert_eq!(run(&mut trainer, 4).unwrap().0, Outcome::Stopped { step: 4 });
    assert_eq!(
        trainer.end_here(Hooks { observe: &mut |_| {}, should_stop: &|| false, is_late: &|| false }).unwrap(),
        Outcome::EndedEarly { step: 4 }
    );
    drop(trainer);
    let state = Trainer::load_state(&out).unwrap().unwrap();
    assert!(state.ended_early && state.step == 4);
    let mut resumed = Trainer::resume(&gpu, &Tuner::off(), state, &out).unwrap();
    assert_eq!(run(&mut resumed, 100).unwrap().0, Outcome::EndedEarly { step: 4 });
}

#[test]
fn an_evaluation_that_a_stop_put_off_is_made_up_for() {
    let (gpu, scratch) = (gpu(), Scratch::new("train-put-off"));
    let file = scratch.pairs(8);
    let task = TaskConfig { validation: Some(files(&file)), ..task(&file) };
    let settings = Settings { steps: 6, batch_size: 2, eval_every: Some(2), ..on(task) };
    let evaluations = |out: &Path| -> Vec<Value> {
        let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
        let events = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let evaluations = events.filter(|event| event["event"] == "evaluation");
        evaluations.map(|event| serde_json::json!([event["step"], event["tasks"], event["best"]])).collect()
    };
    let (whole, stopped) = (scratch.path("whole"), scratch.path("stopped"));
    run(&mut trainer(&gpu, settings.clone(), true, &whole).unwrap(), 100).unwrap();
    assert_eq!(run(&mut trainer(&gpu, settings, true, &stopped).unwrap(), 4).unwrap().0, Outcome::Stopped { step: 4 });
    let state = Trainer::load_state(&stopped).unwrap().unwrap();
    run(&mut Trainer::resume(&gpu, &Tuner::off(), state, &stopped).unwrap(), 100).unwrap();
    assert_eq!(evaluations(&stopped), evaluations(&whole));
    assert_eq!(evaluations(&whole).len(), 3);
}

#[test]
fn a_stop_within_an_evaluation_loses_nothing() {
    let (gpu, scratch) = (gpu(), Scratch::new("train-stop-evaluation"));
    let file = scratch.pairs(12);
    let task = TaskConfig { validation: Some(files(&file)), ..task(&file) };
    let settings = Settings { steps: 4, batch_size: 2, eval_every: Some(2), eval_batch_size: 4, ..on(task) };
    let evaluations = |out: &Path| -> Vec<Value> {
        let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
        let events = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let evaluations = events.filter(|event| event["event"] == "evaluation");
        evaluations.map(|event| serde_json::json!([event["step"], event["tasks"], event["best"]])).collect()
    };
    // How often it is asked: after steps, between batches, while answers are made.
    let stopped_at = |out: &Path, nth: usize| {
        let asked = AtomicUsize::new(0);
        let should_stop = || asked.fetch_add(1, Ordering::Relaxed) + 1 == nth;
        let mut trainer = trainer(&gpu, settings.clone(), true, out).unwrap();
        let outcome =
            trainer.run(Hooks { observe: &mut |_| {}, should_stop: &should_stop, is_late: &|| false }).unwrap();
        (outcome, asked.into_inner())
    };
    let whole = scratch.path("whole");
    let (outcome, all) = stopped_at(&whole, 0);
    assert_eq!(outcome, Outcome::Finished);
    let (mut within, mut at_the_end) = (0, 0);
    for asked in (0..10).map(|tenth| 1 + tenth * (all - 1) / 9) {
        let out = scratch.path(&format!("stopped-{asked}"));
        let (outcome, _) = stopped_at(&out, asked);
        let state = Trainer::load_state(&out).unwrap().unwrap();
        // After the last step there is nothing left to stop but its evaluation.
        if outcome != Outcome::Finished {
            within += usize::from(state.step == 2 && state.evaluated == Some(0));
            at_the_end += usize::from(state.step == 4);
            assert!(!state.is_finished(), "{asked}");
        }
        run(&mut Trainer::resume(&gpu, &Tuner::off(), state, &out).unwrap(), 100).unwrap();
        assert_eq!(evaluations(&out), evaluations(&whole), "{asked}");
        for file in ["last/model.safetensors", "best/model.safetensors", "last/training_state/optimizer.safetensors"] {
            assert!(
                std::fs::read(out.join(file)).unwrap() == std::fs::read(whole.join(file)).unwrap(),
                "{asked}: {file}"
            );
        }
        assert!(Trainer::load_state(&out).unwrap().unwrap().is_finished());
    }
    assert!(within > 2 && at_the_end > 2, "{within} {at_the_end}");
}

#[test]
fn training_ends_early_when_nothing_gets_better() {
    let (gpu, scratch) = (gpu(), Scratch::new("train-early"));
    let file = scratch.pairs(8);
    let task = TaskConfig { validation: Some(files(&file)), ..task(&file) };
    // A learning rate of nearly nothing: no evaluation is better than the first.
    let settings = Settings { steps: 50, batch_size: 2, lr: 1e-30, eval_every: Some(2), patience: Some(3), ..on(task) };
    let out = scratch.path("run");
    let (outcome, _) = run(&mut trainer(&gpu, settings, true, &out).unwrap(), 100).unwrap();
    assert_eq!(outcome, Outcome::EndedEarly { step: 8 });
    let state = Trainer::load_state(&out).unwrap().unwrap();
    assert!(state.ended_early && state.step == 8);
    let mut resumed = Trainer::resume(&gpu, &Tuner::off(), state, &out).unwrap();
    assert_eq!(run(&mut resumed, 100).unwrap().0, Outcome::EndedEarly { step: 8 });
}
