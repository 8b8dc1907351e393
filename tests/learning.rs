//! Which parameters learn: gradients of each way by finite differences in float64, what stays as it is, runs that go on, generation; and
//! LoRA against PyPI's peft.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::objective::{Objective, batch, config};
use common::{Scratch, gpu};
use t5_wgpu::batch::{Batch, BatchShape, Example, IGNORE};
use t5_wgpu::checkpoint::{Dtype, LoraFolder, Weights};
use t5_wgpu::data::TaskConfig;
use t5_wgpu::data::task::Files;
use t5_wgpu::forward::TargetScorer;
use t5_wgpu::generate::{Decoding, Generator};
use t5_wgpu::gpu::{Gpu, Sequence};
use t5_wgpu::model::{Architecture, Builder, Learns, Lora, Model, ModelParts, Storage, T5Config, write_span};
use t5_wgpu::plan::{Plan, PlanOptions, SlotPool};
use t5_wgpu::rng::{Purpose, Rng};
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::train::engine::{Engine, Regularization};
use t5_wgpu::train::inputs::Inputs;
use t5_wgpu::train::optimizer::OptimizerConfig;
use t5_wgpu::train::settings::with_weight_decay;
use t5_wgpu::train::{Hooks, Outcome, Settings, Trainer};
use t5_wgpu::tune::Tuner;

fn learns(text: &str) -> Learns {
    serde_json::from_str(text).unwrap()
}

/// Every way, with all that LoRA can be added to.
fn ways(gated: bool) -> Vec<Learns> {
    let targets = if gated { r#"["q","k","v","o","wi_0","wi_1","wo"]"# } else { r#"["q","k","v","o","wi","wo"]"# };
    let lora = format!(r#"{{"lora": {{"rank": 3, "alpha": 5, "targets": {targets}, "rs": true}}}}"#);
    [r#""norms""#, r#""last-1""#, r#"{"adapters": 5}"#, r#""gradual""#, r#""lora""#, &lora].map(learns).to_vec()
}

fn is_zero_at_first(tensor: &str) -> bool {
    tensor.contains("lora_B") || tensor.contains("Adapter.up")
}

/// Fills what an adapter adds, so that it changes the model.
fn stir(model: &Model) {
    let mut rng = Rng::new(2, Purpose::Examples, &[1]);
    for tensor in model.layout.tensors().iter().filter(|tensor| is_zero_at_first(&tensor.name)) {
        let values: Vec<f32> = (0..tensor.len()).map(|_| rng.normal() as f32 * 0.3).collect();
        write_span(&model.gpu, tensor, &model.params, &values);
    }
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
            engine.micro_batch(&batch, [0; 4]).unwrap();
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
    ] {
        let error = refused(learns);
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

/// A model in files, of which an adapter can be trained.
fn base(gpu: &Gpu, scratch: &Scratch) -> PathBuf {
    let text = r#"{"model_type": "t5", "vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2,
        "num_heads": 4, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false}"#;
    let model = Model::init(gpu, T5Config::from_json(text, "config.json").unwrap(), 1).unwrap();
    let folder = scratch.path("base");
    fs::create_dir_all(&folder).unwrap();
    model.save(&folder).unwrap();
    Tokenizer::bytes().save(&folder).unwrap();
    folder
}

fn settings(pairs: &Path, learns: &Learns) -> Settings {
    let files = Files::Together(vec![pairs.to_string_lossy().into_owned()]);
    let columns = Some(vec!["source".to_owned(), "target".to_owned()]);
    let task = TaskConfig { train: Some(files), columns, held_out: Some(0.2), ..TaskConfig::default() };
    Settings {
        steps: 12,
        batch_size: 4,
        accumulate: 2,
        dropout: 0.1,
        lr: 3e-3,
        eval_every: Some(3),
        learns: learns.clone(),
        ..Settings::on_task("pairs", task)
    }
}

fn run(trainer: &mut Trainer, until: u64) -> Outcome {
    let step = std::cell::Cell::new(trainer.step());
    let is_late = || {
        step.set(step.get() + 1);
        step.get() >= until
    };
    trainer.run(Hooks { observe: &mut |_| (), should_stop: &|| false, is_late: &is_late }).unwrap()
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
        let weights = if matches!(learns, Learns::Lora(_)) { "adapter_model.safetensors" } else { "model.safetensors" };
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
        assert_eq!(out.join("model.safetensors").exists(), !matches!(learns, Learns::Lora(_)));
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

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The batch of the golden LoRA, and PyTorch's logits.
fn golden_batch() -> (Batch, Vec<f64>) {
    let tensors = Weights::open_file(golden("lora/golden.safetensors")).unwrap();
    let ints = |name: &str| -> (Vec<u32>, usize) {
        let shape = tensors.shape(name).unwrap().to_vec();
        let bytes = tensors.read_bytes(name, Dtype::I64, &shape).unwrap();
        (bytes.as_chunks().0.iter().map(|c| i64::from_le_bytes(*c) as u32).collect(), shape[1])
    };
    let ((src_ids, src_len), (mask, _), (tgt_in, tgt_len)) =
        (ints("input_ids"), ints("attention_mask"), ints("decoder_input_ids"));
    let rows = src_ids.len() / src_len;
    let batch = Batch {
        shape: BatchShape { batch: rows, src_len, tgt_len, packed: false },
        src_lens: mask.chunks(src_len).map(|row| row.iter().sum()).collect(),
        labels: vec![IGNORE; tgt_in.len()],
        tgt_lens: vec![tgt_len as u32; rows],
        src_ids,
        tgt_in,
        segments: None,
    };
    let logits = tensors.read_f32("logits", tensors.shape("logits").unwrap()).unwrap();
    (batch, logits.into_iter().map(f64::from).collect())
}

fn logits(model: &Model, batch: &Batch) -> Vec<f32> {
    let mut b = Builder::new(model, batch.shape, 0.0);
    let hidden = b.states();
    let logits = b.logits(hidden, None);
    // What reads the labels, which are written with the rest.
    let stats = b.loss(hidden, 0.0, 0.0);
    let options = PlanOptions { bind: &|name| model.bind(name), pool: &SlotPool::new() };
    let plan = Plan::compile(&model.gpu, &b.graph, &[("logits", logits), ("stats", stats)], &options).unwrap();
    let mut sequence = Sequence::new(&model.gpu);
    Inputs::new(batch, &model.config).unwrap().write(&plan, &mut sequence);
    plan.run_in(&mut sequence).unwrap();
    sequence.submit().unwrap();
    pollster::block_on(plan.read("logits")).unwrap()
}

/// The largest difference, as a share of the largest reference.
fn error(found: &[f32], reference: &[f64]) -> f64 {
    assert_eq!(found.len(), reference.len());
    let largest = reference.iter().fold(0f64, |most, x| most.max(x.abs()));
    found.iter().zip(reference).map(|(&f, r)| (f64::from(f) - r).abs()).fold(0.0, f64::max) / largest
}

/// Merged into the weights, and beside them as it is trained.
#[test]
fn a_folder_of_peft_gives_the_logits_of_pytorch() {
    let gpu = gpu();
    let (batch, reference) = golden_batch();
    let parts = || ModelParts::open(&golden("flan")).unwrap();
    let upload = |parts: &ModelParts, storage| {
        Model::upload(&gpu, parts, storage, &mut |_, _| ControlFlow::Continue(())).unwrap().0
    };
    let plain = error(&logits(&upload(&parts(), Storage::F32), &batch), &reference);
    assert!(plain > 1e-2, "the adapter changes the logits by {plain} only");
    let merged = upload(&parts().with_lora(&golden("lora")).unwrap(), Storage::F32);
    let merged = error(&logits(&merged, &batch), &reference);

    let targets = ["q", "v", "wi_1", "wo"].map(str::to_owned).to_vec();
    let lora = Learns::Lora(Lora { rank: 3, alpha: 5.0, targets, rs: true });
    let beside = upload(&parts(), Storage::F32).learning(&lora, 0).unwrap();
    beside.read_lora(&LoraFolder::open(&golden("lora")).unwrap()).unwrap();
    let found = error(&logits(&beside, &batch), &reference);
    eprintln!("merged {merged:.1e}, beside {found:.1e}");
    // A few times what lavapipe errs by: other adapters add up in another order.
    assert!(merged < 5e-6 && found < 5e-6, "merged {merged:.1e}, beside {found:.1e}");

    // What tests/golden/lora.py checks with peft.
    if let Ok(out) = std::env::var("T5_LORA_OUT") {
        let out = PathBuf::from(out);
        fs::create_dir_all(&out).unwrap();
        stir(&beside);
        beside.save(&out).unwrap();
        let ints = |ids: &[u32]| -> Vec<f32> { ids.iter().map(|&id| id as f32).collect() };
        let BatchShape { batch: rows, src_len, tgt_len, .. } = batch.shape;
        let mask = (0..rows * src_len).map(|i| u32::from((i % src_len) < batch.src_lens[i / src_len] as usize));
        let tensors = [
            ("input_ids", vec![rows, src_len], ints(&batch.src_ids)),
            ("attention_mask", vec![rows, src_len], ints(&mask.collect::<Vec<_>>())),
            ("decoder_input_ids", vec![rows, tgt_len], ints(&batch.tgt_in)),
            ("logits", vec![rows, tgt_len, beside.config.vocab_size], logits(&beside, &batch)),
        ];
        let shapes: Vec<_> = tensors.iter().map(|(name, shape, _)| ((*name).to_owned(), shape.clone())).collect();
        let values = |wanted: &str| Ok(tensors.iter().find(|(name, ..)| *name == wanted).unwrap().2.clone());
        t5_wgpu::checkpoint::write_model(out.join("logits.safetensors"), &shapes, values).unwrap();
    }
}

/// A copy of the golden LoRA with other settings.
fn changed(scratch: &Scratch, name: &str, change: impl Fn(&mut serde_json::Value)) -> PathBuf {
    let folder = scratch.path(name);
    fs::create_dir_all(&folder).unwrap();
    fs::copy(golden("lora/adapter_model.safetensors"), folder.join("adapter_model.safetensors")).unwrap();
    let mut settings: serde_json::Value =
        serde_json::from_slice(&fs::read(golden("lora/adapter_config.json")).unwrap()).unwrap();
    settings["base_model_name_or_path"] = golden("flan").to_string_lossy().into();
    change(&mut settings);
    fs::write(folder.join("adapter_config.json"), settings.to_string()).unwrap();
    folder
}

#[test]
fn a_folder_stands_for_its_base_with_it() {
    let (gpu, scratch) = (gpu(), Scratch::new("lora-folder"));
    let (batch, reference) = golden_batch();
    let folder = changed(&scratch, "whole", |_| ());
    let model = Model::load(&gpu, &folder).unwrap().0;
    assert!(error(&logits(&model, &batch), &reference) < 5e-6);
    // Of the other weights nothing is rounded.
    let parts = ModelParts::open(&folder).unwrap();
    let plain = Weights::open(golden("flan")).unwrap();
    for name in plain.names().filter(|name| !name.contains("Attention") && !name.contains("Dense")) {
        let shape = plain.shape(name).unwrap();
        assert!(parts.weights.read_f32(name, shape).unwrap() == plain.read_f32(name, shape).unwrap(), "{name}");
    }
}

#[test]
fn damaged_and_foreign_adapters_are_refused() {
    let scratch = Scratch::new("lora-refused");
    let base = || ModelParts::open(&golden("flan")).unwrap();
    let refused = |folder: &Path| base().with_lora(folder).err().unwrap().to_string();
    let set = |key: &'static str, value: serde_json::Value| {
        refused(&changed(&scratch, key, |settings| settings[key] = value.clone()))
    };
    let holds = |error: String, part: &str| assert!(error.contains(part), "`{part}` is not in: {error}");
    holds(set("peft_type", "IA3".into()), "an adapter of the kind IA3; only LORA is read");
    holds(set("r", 4.into()), "but the rank is 4");
    holds(set("r", 0.into()), "has the rank 0");
    holds(set("use_dora", true.into()), "sets use_dora, which is not supported");
    holds(set("rank_pattern", serde_json::json!({"q": 2})), "sets rank_pattern");
    holds(set("bias", "all".into()), "sets bias");
    holds(set("modules_to_save", serde_json::json!(["lm_head"])), "sets modules_to_save");
    holds(set("fan_in_fan_out", true.into()), "fan_in_fan_out, which no T5 has");
    holds(set("lora_alpha", "much".into()), "not the settings of an adapter");
    holds(refused(&golden("flan")), "adapter_config.json");

    // Files of one pair each.
    let pair = |name: &str, tensors: &[(&str, [usize; 2], f32)]| {
        let folder = changed(&scratch, name, |settings| settings["r"] = 2.into());
        let named: Vec<(String, Vec<usize>)> =
            tensors.iter().map(|(name, shape, _)| (format!("base_model.model.{name}"), shape.to_vec())).collect();
        let mut header = serde_json::Map::new();
        let mut bytes = Vec::new();
        for ((name, shape), (.., value)) in named.iter().zip(tensors) {
            let from = bytes.len();
            (0..shape.iter().product::<usize>()).for_each(|_| bytes.extend(value.to_le_bytes()));
            let info = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [from, bytes.len()]});
            header.insert(name.clone(), info);
        }
        let header = serde_json::Value::Object(header).to_string();
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes].concat();
        fs::write(folder.join("adapter_model.safetensors"), file).unwrap();
        folder
    };
    let q = "encoder.block.0.layer.0.SelfAttention.q";
    let (a, b) = (format!("{q}.lora_A.weight"), format!("{q}.lora_B.weight"));
    holds(refused(&pair("half", &[(&a, [2, 48], 0.5)])), "one is missing");
    holds(refused(&pair("none", &[])), "there are no tensors");
    holds(refused(&pair("other", &[(&a, [2, 40], 0.5), (&b, [36, 2], 0.5)])), "the model has one of shape [36, 48]");
    let foreign = [("x.lora_A.weight", [2, 48], 0.5), ("x.lora_B.weight", [36, 2], 0.5)];
    holds(refused(&pair("foreign", &foreign)), "to x.weight; the model has no such tensor");
    holds(refused(&pair("strange", &[("x.lora_C.weight", [2, 48], 0.5)])), "no part of a LoRA");
    let numbers = pair("numbers", &[(&a, [2, 48], f32::NAN), (&b, [36, 2], 0.5)]);
    let read = base().with_lora(&numbers).unwrap().weights.read_f32(&format!("{q}.weight"), &[36, 48]);
    holds(read.unwrap_err().to_string(), "holds NaN");

    // As models of their own.
    let opened = |folder: &Path| ModelParts::open(folder).err().unwrap().to_string();
    let key = "base_model_name_or_path";
    holds(
        opened(&changed(&scratch, "lost", |s| s[key] = "nowhere/at-all".into())),
        "nowhere/at-all, which is not there",
    );
    holds(opened(&changed(&scratch, "silent", |s| s[key] = serde_json::Value::Null)), "does not say which model");
    let itself = scratch.path("itself").to_string_lossy().into_owned();
    holds(opened(&changed(&scratch, "itself", |s| s[key] = itself.clone().into())), "is an adapter itself");
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
