//! The training loop on the adapter at hand: what it learns, and that it goes on as if never stopped.

mod common;

use std::cell::Cell;
use std::fs;
use std::path::Path;

use common::{Scratch, logged_steps, weights_and_moments};
use t5_wgpu::data::{ExampleSource, PairOptions, SpanCorruption};
use t5_wgpu::gpu::{Gpu, GpuOptions};
use t5_wgpu::model::{Model, T5Config};
use t5_wgpu::rng::{Purpose, Rng};
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::train::examples::Examples;
use t5_wgpu::train::{Event, HeldOut, Hooks, Outcome, Settings, StepLog, Task, Trainer};
use t5_wgpu::tune::Tuner;

fn gpu() -> Gpu {
    pollster::block_on(Gpu::open(&GpuOptions::from_env())).expect("an adapter")
}

fn config(tied: bool) -> T5Config {
    let text = format!(
        r#"{{"model_type": "t5", "vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1,
            "num_heads": 4, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": {tied}}}"#
    );
    T5Config::from_json(&text, "config.json").unwrap()
}

fn pairs(file: &Path) -> Settings {
    let mut settings = Settings::new(Task::Pairs { file: file.to_owned(), options: PairOptions::default() });
    settings.log_every = 1;
    settings
}

fn trainer(gpu: &Gpu, settings: Settings, tied: bool, out: &Path) -> t5_wgpu::Result<Trainer> {
    let model = Model::init(gpu, config(tied), settings.seed).unwrap();
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
        should_stop: &|| {
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
    let mut by_pairs = pairs(&scratch.pairs(50));
    by_pairs.held_out = HeldOut::Share(0.2);
    let objective = SpanCorruption::default();
    let mut by_text = Settings { task: Task::Text { files: vec![text], seq_len: 32, objective }, ..by_pairs.clone() };
    by_text.optimizer = "adafactor".parse().unwrap();
    for (name, settings) in [("pairs", by_pairs), ("text", by_text)] {
        let settings =
            Settings { steps: 12, batch_size: 4, accumulate: 2, dropout: 0.1, eval_every: Some(3), ..settings };
        let (whole, parts) = (scratch.path(&format!("{name}-whole")), scratch.path(&format!("{name}-parts")));
        let (outcome, _) = run(&mut trainer(&gpu, settings.clone(), true, &whole).unwrap(), 100).unwrap();
        assert_eq!(outcome, Outcome::Finished);
        let (outcome, _) = run(&mut trainer(&gpu, settings, true, &parts).unwrap(), 7).unwrap();
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
fn a_small_set_is_learnt_by_heart() {
    let (gpu, scratch) = (gpu(), Scratch::new("train-overfit"));
    let file = scratch.pairs(8);
    let settings = Settings {
        steps: 200,
        batch_size: 8,
        lr: 1e-2,
        held_out: HeldOut::File(file.clone()),
        eval_every: Some(100),
        ..pairs(&file)
    };
    let mut trainer = trainer(&gpu, settings, true, &scratch.path("run")).unwrap();
    let (_, lines) = run(&mut trainer, 1000).unwrap();
    let last = lines.last().unwrap();
    assert!(last.loss < 0.05 && last.accuracy == 1.0, "{last:?}");
    let best = trainer.best().unwrap();
    assert!(best.metric == "unit_error_rate" && best.value == 0.0, "{best:?}");
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
    let (gpu, scratch) = (gpu(), Scratch::new("train-accumulate"));
    let file = scratch.pairs(8);
    // With 8 examples, both see all of them in the first step.
    let gradients = |batch_size, accumulate| {
        let settings = Settings { steps: 1, batch_size, accumulate, ..pairs(&file) };
        let out = scratch.path(&format!("run-{batch_size}"));
        let mut trainer = trainer(&gpu, settings, true, &out).unwrap();
        let line = run(&mut trainer, 9).unwrap().1[0];
        let arenas = trainer.engine().gradients();
        let read = |arena| pollster::block_on(gpu.read::<f32>(arena, 0..arena.bytes())).unwrap();
        (line, arenas.iter().flat_map(read).collect::<Vec<f32>>())
    };
    let ((one, whole), (two, parts)) = (gradients(8, 1), gradients(4, 2));
    assert_eq!(one.tokens, two.tokens);
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    let off = norm(&mut whole.iter().zip(&parts).map(|(a, b)| f64::from(a - b)));
    let size = norm(&mut whole.iter().map(|&a| f64::from(a)));
    assert!(size > 0.0 && off < 1e-5 * size, "{off} of {size}");
    assert!((one.loss - two.loss).abs() < 1e-5 * one.loss, "{} {}", one.loss, two.loss);
}

#[test]
fn span_corruption_learns() {
    let (gpu, scratch) = (gpu(), Scratch::new("train-text"));
    let text = scratch.file("text.txt", "the cat sat on the mat and the dog sat on the log\n".repeat(100));
    let task = Task::Text { files: vec![text], seq_len: 48, objective: SpanCorruption::default() };
    let settings = Settings {
        steps: 120,
        batch_size: 8,
        lr: 5e-3,
        held_out: HeldOut::Share(0.1),
        eval_every: Some(120),
        log_every: 10,
        ..Settings::new(task)
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
    let settings = Settings { steps: 150, batch_size: 2, held_out: HeldOut::File(asked), ..pairs(&learnt) };
    let mut scores = Vec::new();
    let mut trainer = trainer(&gpu, settings, true, &scratch.path("run")).unwrap();
    trainer
        .run(Hooks {
            observe: &mut |event| {
                if let Event::Evaluation { evaluation, .. } = event {
                    scores.push(evaluation.scores.unwrap());
                }
            },
            should_stop: &|| false,
        })
        .unwrap();
    let last = scores.last().unwrap();
    assert_eq!((last.predictions, last.exact), (3, 2), "{last:?}");
    assert!(last.unit_edits > 0);
    assert_eq!(trainer.best().unwrap().metric, "unit_error_rate");
}

#[test]
fn numbers_that_are_none_end_the_run() {
    let (gpu, scratch) = (gpu(), Scratch::new("train-nan"));
    let settings = Settings { steps: 50, batch_size: 4, ..pairs(&scratch.pairs(8)) };
    // The z-loss overflows in the gradient, not in the loss that is reported.
    let skipping = Settings { z_loss: 3e38, ..settings.clone() };
    let out = scratch.path("skipping");
    let error = run(&mut trainer(&gpu, skipping, true, &out).unwrap(), 100).unwrap_err().to_string();
    assert!(error.contains("step 20: the gradient was not finite for 20 steps"), "{error}");
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

#[test]
fn held_out_sources_are_not_trained_on() {
    let scratch = Scratch::new("train-split");
    let text: String = (0..60).map(|i| format!("word {}\tanswer {i}\n", i % 20)).collect();
    let settings = Settings { held_out: HeldOut::Share(0.25), ..pairs(&scratch.file("p.tsv", text)) };
    let opened = Examples::open(&settings, &Tokenizer::bytes()).unwrap();
    let sources = |examples: &Examples| {
        let all = 0..examples.len_per_epoch();
        all.map(|i| examples.example(0, i).unwrap().source).collect::<std::collections::BTreeSet<_>>()
    };
    let (training, held_out) = (sources(&opened.training), sources(&opened.held_out.unwrap()));
    assert_eq!((training.len(), held_out.len()), (15, 5));
    assert!(training.is_disjoint(&held_out));
}
