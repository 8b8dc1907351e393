//! Which parameters learn: gradients of each way by finite differences in float64, what stays as it is, runs that go on, generation.

mod common;

use std::fs;
use std::path::Path;

use common::learning::{base, learns, run, settings, stir};
use common::objective::{KEY, Objective, batch, config};
use common::{Scratch, gpu};
use t5_wgpu::batch::Example;
use t5_wgpu::forward::TargetScorer;
use t5_wgpu::generate::{Decoding, Generator};
use t5_wgpu::model::{Architecture, Learns, Model, Storage, T5Config, TensorSpan, read_span};
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::train::engine::{Engine, Regularization};
use t5_wgpu::train::optimizer::OptimizerConfig;
use t5_wgpu::train::settings::with_weight_decay;
use t5_wgpu::train::{Outcome, Settings, Trainer};
use t5_wgpu::tune::Tuner;

/// Every way, with all that LoRA can be added to.
fn ways(gated: bool) -> Vec<Learns> {
    let targets = if gated { r#"["q","k","v","o","wi_0","wi_1","wo"]"# } else { r#"["q","k","v","o","wi","wo"]"# };
    let lora = format!(r#"{{"lora": {{"rank": 3, "alpha": 5, "dropout": 0.3, "targets": {targets}, "rs": true}}}}"#);
    [r#""norms""#, r#""last-1""#, r#"{"adapters": 5}"#, r#""gradual""#, r#""ia3""#, r#""lora""#, &lora]
        .map(learns)
        .to_vec()
}

fn engine(model: Model) -> Engine {
    Engine::new(model, Regularization::default(), &OptimizerConfig::adamw(), 0.0).unwrap()
}

#[test]
fn every_gradient_is_that_of_finite_differences() {
    const STEP: f64 = 1e-6;
    let gpu = gpu();
    for (family, architecture, gated, packed) in [
        ("t5", Architecture::EncoderDecoder, true, true),
        ("umt5", Architecture::EncoderDecoder, false, false),
        ("t5", Architecture::Shared, true, false),
        ("t5", Architecture::PrefixLm, false, true),
    ] {
        for learns in ways(gated) {
            let model =
                Model::init(&gpu, config(family, architecture, gated), 3).unwrap().learning(&learns, 4).unwrap();
            stir(&model);
            let batch = batch(packed);
            let mut objective = Objective::new(&model, &batch);
            let mut engine = engine(model);
            engine.unfreeze(1);
            engine.begin_step();
            engine.micro_batch(&batch, KEY).unwrap();
            pollster::block_on(engine.finish_gradients().unwrap().finish()).unwrap();
            let layout = &engine.model.layout;
            let names: Vec<String> = objective.leaves.keys().filter(|name| layout.learns_now(name)).cloned().collect();
            assert!(names.len() >= 4, "{learns:?}: {names:?}");
            for name in names {
                let slice = layout.slice(&name, engine.gradients()).unwrap();
                let range = slice.offset..slice.offset + slice.bytes;
                let found: Vec<f32> = pollster::block_on(gpu.read(&slice.buffer, range)).unwrap();
                let largest = found.iter().fold(0f64, |most, &x| most.max(f64::from(x).abs()));
                assert!(largest > 0.0, "{architecture:?} {learns:?}: {name} has no gradient");
                for index in (0..found.len()).step_by(1 + found.len() / 4) {
                    let expected =
                        (objective.at(&name, index, STEP) - objective.at(&name, index, -STEP)) / (2.0 * STEP);
                    let error = (f64::from(found[index]) - expected).abs() / largest;
                    assert!(
                        error < 1e-4,
                        "{family} {architecture:?} {learns:?}, packed {packed}: {name}[{index}] is {} and not {expected}",
                        found[index]
                    );
                }
            }
        }
    }
}

/// Of everything that learns, by the names of its tensors.
fn gradients(model: Model) -> Vec<(String, Vec<f32>)> {
    let mut engine = engine(model);
    engine.begin_step();
    engine.micro_batch(&batch(false), KEY).unwrap();
    pollster::block_on(engine.finish_gradients().unwrap().finish()).unwrap();
    let read =
        |tensor: &TensorSpan| pollster::block_on(read_span(&engine.model.gpu, tensor, engine.gradients())).unwrap();
    engine.model.layout.learning_tensors().iter().map(|tensor| (tensor.name.clone(), read(tensor))).collect()
}

/// A packed base is the model whose numbers are what it unpacks to.
#[test]
fn gradients_beside_packed_weights_are_those_beside_their_numbers() {
    let gpu = gpu();
    let text = |rest: &str| {
        let sizes = r#""vocab_size": 61, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 2"#;
        T5Config::from_json(&format!(r#"{{"model_type": "t5", {sizes}, {rest}}}"#), "test").unwrap()
    };
    let gated = text(r#""feed_forward_proj": "gated-gelu", "tie_word_embeddings": false"#);
    let tied = text(r#""feed_forward_proj": "relu", "tie_word_embeddings": true"#);
    let lora = |targets: &str| learns(&format!(r#"{{"lora": {{"rank": 3, "targets": {targets}}}}}"#));
    let way = |config: &T5Config, all: &str| if config.tie_word_embeddings { learns(r#""ia3""#) } else { lora(all) };
    for config in [gated, tied] {
        let learns = way(&config, r#"["q","k","v","o","wi_0","wi_1","wo"]"#);
        for storage in [Storage::F16, Storage::Bf16, Storage::Int8, Storage::Int4] {
            let base = Model::init_as(&gpu, config.clone(), 3, storage).unwrap();
            let numbers =
                |_: &T5Config, tensor: &TensorSpan| pollster::block_on(base.read_tensor(&tensor.name)).unwrap();
            let plain = Model::filled(&gpu, config.clone(), &numbers).unwrap();
            assert!(base.layout.bytes() * 10 < plain.layout.bytes() * 6, "{storage:?} is not packed");
            let [packed, plain] = [base.clone(), plain].map(|model| {
                let model = model.learning(&learns, 4).unwrap();
                stir(&model);
                gradients(model)
            });
            for ((name, found), (_, expected)) in packed.iter().zip(&plain) {
                let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
                let error = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0f32, f32::max) / largest;
                assert!(largest > 0.0 && error < 1e-5, "{storage:?} {learns:?}: {name} errs by {error:.1e}");
            }
            let error = Engine::new(base, Regularization::default(), &OptimizerConfig::adamw(), 0.0).err().unwrap();
            assert!(error.to_string().contains("only weights in f32 learn"), "{error}");
        }
    }
}

/// Of a batch in training, and evaluated.
fn losses(engine: &mut Engine, key: [u32; 4]) -> (f64, f64) {
    engine.begin_step();
    engine.micro_batch(&batch(false), key).unwrap();
    let (stats, _) = pollster::block_on(engine.finish_gradients().unwrap().finish()).unwrap();
    (stats.loss, pollster::block_on(engine.evaluate(&batch(false))).unwrap().loss)
}

/// On the input of A alone, in training alone, by the key of the step.
#[test]
fn dropout_of_lora_is_on_what_is_added() {
    let gpu = gpu();
    let learns = learns(r#"{"lora": {"rank": 3, "dropout": 0.5}}"#);
    let plain = Model::init(&gpu, config("t5", Architecture::EncoderDecoder, true), 3).unwrap();
    let model = plain.learning(&learns, 4).unwrap();
    let mut engine = engine(model);
    // B is 0: nothing else loses anything.
    let (trained, evaluated) = losses(&mut engine, KEY);
    assert!((trained - evaluated).abs() < 1e-5 * evaluated, "{trained} and {evaluated}");
    stir(&engine.model);
    let [(one, evaluated), (other, again)] = [KEY, [9; 4]].map(|key| losses(&mut engine, key));
    assert_eq!(evaluated, again);
    let differ = |a: f64, b: f64| (a - b).abs() > 1e-4 * evaluated;
    assert!(differ(one, other) && differ(one, evaluated) && differ(other, evaluated), "{one}, {other}, {evaluated}");
    assert_eq!(losses(&mut engine, KEY).0, one);
}

#[test]
fn what_is_frozen_stays_and_takes_no_memory() {
    let gpu = gpu();
    let plain = Model::init(&gpu, config("t5", Architecture::EncoderDecoder, true), 3).unwrap();
    let names: Vec<String> = plain.layout.tensors().iter().map(|tensor| tensor.name.clone()).collect();
    let read = |model: &Model, name: &str| pollster::block_on(model.read_tensor(name)).unwrap();
    for learns in [vec![Learns::All], ways(true)].concat() {
        // Decay would change what waits: settings refuse it under gradual unfreezing.
        let adamw = with_weight_decay(OptimizerConfig::adamw(), 0.0);
        for optimizer in [adamw, OptimizerConfig::adafactor_paper()] {
            let model = plain.clone().learning(&learns, 4).unwrap();
            // The copy is a copy: two trainings of one model share nothing but what is the same layout.
            let before: Vec<Vec<f32>> = names.iter().map(|name| read(&model, name)).collect();
            assert!(before == names.iter().map(|name| read(&plain, name)).collect::<Vec<_>>(), "{learns:?}");
            if learns == Learns::All {
                continue;
            }
            stir(&model);
            let of_last = |name: &String| !name.contains(".block.0.");
            let learning: Vec<String> =
                model.layout.learning_tensors().iter().map(|tensor| tensor.name.clone()).collect();
            let mut engine = Engine::new(model, Regularization::default(), &optimizer, 1.0).unwrap();
            engine.unfreeze(1);
            let [_, gradients, moments, _] = engine.memory();
            let most = 4 * engine.model.layout.n_learning() as u64 + 256 * learning.len() as u64;
            assert!(gradients <= most && moments <= 2 * most, "{learns:?}: {gradients} and {moments} bytes");
            engine.begin_step();
            engine.micro_batch(&batch(false), [0; 4]).unwrap();
            pollster::block_on(engine.finish_step(1e-2, 0).unwrap().finish()).unwrap();
            for (name, before) in names.iter().zip(&before) {
                let changed = read(&engine.model, name) != *before;
                let now = learns != Learns::Gradual || of_last(name);
                assert_eq!(changed, now && learning.contains(name), "{learns:?}: {name}");
            }
            if learns == Learns::Gradual {
                engine.unfreeze(2);
                engine.begin_step();
                engine.micro_batch(&batch(false), [0; 4]).unwrap();
                pollster::block_on(engine.finish_step(1e-2, 1).unwrap().finish()).unwrap();
                for (name, before) in names.iter().zip(&before) {
                    assert!(read(&engine.model, name) != *before, "{name} is not unfrozen");
                }
            }
        }
    }
}

/// Norms, and in blocks only the last: those of the paper's names.
#[test]
fn names_say_what_learns() {
    let config = config("t5", Architecture::EncoderDecoder, true);
    let model = Model::init(&gpu(), config, 3).unwrap();
    let of = |learns: &str| -> Vec<String> {
        let model = model.clone().learning(&self::learns(learns), 0).unwrap();
        model.layout.learning_tensors().into_iter().map(|tensor| tensor.name).collect()
    };
    let norms = of(r#""norms""#);
    assert_eq!(norms.len(), 2 * 2 + 2 * 3 + 2);
    assert!(norms.iter().all(|name| name.ends_with("layer_norm.weight")));
    let last = of(r#""last-1""#);
    assert_eq!(last.len(), (4 + 1 + 3 + 1) + (4 + 1 + 4 + 1 + 3 + 1) + 2, "{last:?}");
    assert!(last.iter().all(|name| name.contains(".block.1.") || name.contains("final_layer_norm")), "{last:?}");
    assert_eq!(of(r#""lora""#).len(), 2 * 2 * (2 + 4));
    let factors = of(r#""ia3""#);
    assert_eq!(factors.len(), 2 * (3 + 5));
    assert!(factors.iter().all(|name| [".k.ia3_l", ".v.ia3_l", ".wo.ia3_l"].iter().any(|end| name.ends_with(end))));
    let adapters = of(r#"{"adapters": 5}"#);
    assert_eq!(adapters.len(), norms.len() + 2 * 4);
    assert_eq!(of(r#""gradual""#).len(), model.layout.tensors().len());
    let refused = |learns: &str| model.clone().learning(&self::learns(learns), 0).err().unwrap().to_string();
    for (learns, part) in [
        (r#"{"adapters": 0}"#, "adapters have a width of 1 or more"),
        (r#""last-3""#, "the model has 2 blocks in a stack, not 3"),
        (r#"{"lora": {"targets": ["wi"]}}"#, "no projection `wi`; LoRA's targets are of k, o, q, v, wi_0, wi_1, wo"),
        (r#"{"lora": {"targets": []}}"#, "LoRA needs targets"),
        (r#"{"lora": {"rank": 0}}"#, "must lie between 1 and"),
        (r#"{"lora": {"alpha": -1}}"#, "alpha of LoRA must be a positive number"),
        (r#"{"lora": {"dropout": 1}}"#, "the dropout of LoRA lies between 0 and 1, not at 1"),
    ] {
        let error = refused(learns);
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn a_resumed_run_equals_an_undisturbed_one() {
    let (gpu, scratch) = (gpu(), Scratch::new("learning-resume"));
    let (folder, pairs) = (base(&gpu, &scratch), scratch.pairs(50));
    for (n, learns) in ways(true).iter().enumerate() {
        let (whole, parts) = (scratch.path(&format!("whole-{n}")), scratch.path(&format!("parts-{n}")));
        let open = |out: &Path| {
            let model = Model::load(&gpu, &folder).unwrap().0;
            Trainer::create(model, Tokenizer::bytes(), settings(&pairs, learns), out, false).unwrap()
        };
        let mut undisturbed = open(&whole);
        assert!(undisturbed.remarks().iter().any(|remark| remark.contains("parameters learn")));
        assert_eq!(run(&mut undisturbed, 100), Outcome::Finished);
        assert_eq!(run(&mut open(&parts), 7), Outcome::Stopped { step: 7 });
        let state = Trainer::load_state(&parts).unwrap().unwrap();
        let mut resumed = Trainer::resume(&gpu, &Tuner::off(), state, &parts).unwrap();
        assert_eq!(run(&mut resumed, 100), Outcome::Finished);
        let weights = if learns.adds() { "adapter_model.safetensors" } else { "model.safetensors" };
        for file in
            [&format!("last/{weights}"), "last/training_state/optimizer.safetensors", &format!("best/{weights}")]
        {
            let read = |out: &Path| fs::read(out.join(file)).unwrap();
            assert!(read(&whole) == read(&parts), "{learns:?}: {file} differs");
        }
    }
}

#[test]
fn an_adapter_of_random_weights_is_refused() {
    let (gpu, scratch) = (gpu(), Scratch::new("learning-random"));
    let model = Model::load(&gpu, &base(&gpu, &scratch)).unwrap().0;
    let fresh = Model::init(&gpu, model.config, 1).unwrap();
    let settings = settings(&scratch.pairs(20), &learns(r#""lora""#));
    let refused = Trainer::create(fresh, Tokenizer::bytes(), settings, &scratch.path("run"), false).err().unwrap();
    assert!(refused.to_string().contains("an adapter names the model in files"), "{refused}");
}

/// Token by token with caches, all at once, and merged: the same probabilities.
#[test]
fn generation_is_the_full_forward_pass() {
    let (gpu, scratch) = (gpu(), Scratch::new("learning-generation"));
    let folder = base(&gpu, &scratch);
    for learns in ways(true) {
        let model = Model::load(&gpu, &folder).unwrap().0.learning(&learns, 5).unwrap();
        stir(&model);
        let out = scratch.path("adapted");
        let _ = fs::remove_dir_all(&out);
        fs::create_dir_all(&out).unwrap();
        model.save(&out).unwrap();
        assert_eq!(out.join("model.safetensors").exists(), !learns.adds());
        let saved = Model::load(&gpu, &out).unwrap().0;
        let sources: Vec<Vec<u32>> = vec![vec![70, 80, 90, 1], vec![100, 101, 102, 103, 104, 105, 1]];
        let decoding = Decoding { log_probs: true, ..Decoding::greedy().max_new_tokens(9) };
        let made = pollster::block_on(Generator::new(model.clone()).generate_best(&sources, &decoding)).unwrap();
        let examples: Vec<Example> = sources
            .iter()
            .zip(&made)
            .map(|(source, made)| Example { source: source.clone(), target: made.tokens().collect() })
            .collect();
        for (what, model) in [("forward", model), ("saved", saved)] {
            let scores = pollster::block_on(TargetScorer::new(model).score(&examples, &|| false)).unwrap();
            for (made, score) in made.iter().zip(&scores) {
                assert_eq!(made.log_probs.len(), score.log_probs.len());
                for (a, b) in made.log_probs.iter().zip(&score.log_probs) {
                    assert!((a - b).abs() < 2e-5, "{learns:?} {what}: {a} and {b}");
                }
            }
        }
    }
}

#[test]
fn blocks_are_unfrozen_in_equal_episodes() {
    let settings = Settings { steps: 12, unfreeze_every: Some(4), ..Settings::new() };
    assert_eq!([0, 3, 4, 7, 8, 11].map(|step| settings.unfrozen(step)), [1, 1, 2, 2, 3, 3]);
    let scratch = Scratch::new("learning-gradual");
    let mut gradual = settings_of_gradual(&scratch);
    gradual.unfreeze_every = Some(0);
    assert!(gradual.check().unwrap_err().to_string().contains("must be at least 1"));
    gradual.unfreeze_every = None;
    gradual.optimizer = with_weight_decay(gradual.optimizer, 0.1);
    assert!(gradual.check().unwrap_err().to_string().contains("weights that do not learn yet"));
    let plain = Settings { learns: Learns::All, unfreeze_every: Some(3), ..settings_of_gradual(&scratch) };
    assert!(plain.check().unwrap_err().to_string().contains("it needs learns = \"gradual\""));
}

fn settings_of_gradual(scratch: &Scratch) -> Settings {
    settings(&scratch.pairs(10), &Learns::Gradual)
}
