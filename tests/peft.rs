//! Folders of PyPI's peft: a LoRA and an IA3 against PyTorch's logits, trainings that go on with them, and what is refused.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::learning::{base, learns, run, settings, stir};
use common::objective::batch;
use common::{Scratch, gpu};
use serde_json::Value;
use t5_wgpu::batch::{Batch, BatchShape, IGNORE};
use t5_wgpu::checkpoint::{Dtype, Weights};
use t5_wgpu::gpu::{Gpu, Sequence};
use t5_wgpu::model::{Builder, Learns, Model, ModelParts, Storage};
use t5_wgpu::plan::{Plan, PlanOptions, SlotPool};
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::train::engine::Scorer;
use t5_wgpu::train::inputs::Inputs;
use t5_wgpu::train::{Outcome, Trainer};
use t5_wgpu::tune::Tuner;

/// The golden folders, and what trains them on.
const KINDS: [(&str, &str); 2] = [("lora", r#""lora""#), ("ia3", r#""ia3""#)];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The batch of a golden folder, and PyTorch's logits.
fn golden_batch(kind: &str) -> (Batch, Vec<f64>) {
    let tensors = Weights::open_file(golden(kind).join("golden.safetensors")).unwrap();
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

fn upload(gpu: &Gpu, parts: &ModelParts) -> Model {
    Model::upload(gpu, parts, Storage::F32, &mut |_, _| ControlFlow::Continue(())).unwrap().0
}

/// Merged into the weights, and beside them as it is trained.
#[test]
fn a_folder_of_peft_gives_the_logits_of_pytorch() {
    let gpu = gpu();
    for (kind, name) in KINDS {
        let (batch, reference) = golden_batch(kind);
        let parts = || ModelParts::open(&golden("flan")).unwrap();
        let plain = error(&logits(&upload(&gpu, &parts()), &batch), &reference);
        assert!(plain > 1e-2, "the adapter changes the logits by {plain} only");
        let merged = upload(&gpu, &parts().with_peft(&golden(kind)).unwrap());
        assert_eq!(*merged.layout.learns(), Learns::All);
        let merged = error(&logits(&merged, &batch), &reference);
        let parts = ModelParts::open_to_train(&golden("flan"), Some(&golden(kind)), &learns(name)).unwrap();
        let beside = upload(&gpu, &parts);
        assert!(beside.layout.learns().adds());
        let found = error(&logits(&beside, &batch), &reference);
        eprintln!("{kind}: merged {merged:.1e}, beside {found:.1e}");
        // A few times what lavapipe errs by: other adapters add up in another order.
        assert!(merged < 5e-6 && found < 5e-6, "{kind}: merged {merged:.1e}, beside {found:.1e}");

        // What tests/golden/adapters.py checks with peft.
        let Ok(out) = std::env::var("T5_PEFT_OUT") else { continue };
        let out = PathBuf::from(out).join(kind);
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

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A copy of a golden folder with other settings.
fn changed(scratch: &Scratch, kind: &str, name: &str, change: impl Fn(&mut Value)) -> PathBuf {
    let folder = scratch.path(name);
    fs::create_dir_all(&folder).unwrap();
    fs::copy(golden(kind).join("adapter_model.safetensors"), folder.join("adapter_model.safetensors")).unwrap();
    let mut settings = json(&golden(kind).join("adapter_config.json"));
    settings["base_model_name_or_path"] = golden("flan").to_string_lossy().into();
    change(&mut settings);
    fs::write(folder.join("adapter_config.json"), settings.to_string()).unwrap();
    folder
}

#[test]
fn a_folder_stands_for_its_base_with_it() {
    let (gpu, scratch) = (gpu(), Scratch::new("peft-folder"));
    for (kind, _) in KINDS {
        let (batch, reference) = golden_batch(kind);
        let folder = changed(&scratch, kind, kind, |_| ());
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
}

#[test]
fn damaged_and_foreign_adapters_are_refused() {
    let scratch = Scratch::new("lora-refused");
    let base = || ModelParts::open(&golden("flan")).unwrap();
    let refused = |folder: &Path| base().with_peft(folder).err().unwrap().to_string();
    let set = |key: &'static str, value: Value| {
        refused(&changed(&scratch, "lora", key, |settings| settings[key] = value.clone()))
    };
    let holds = |error: String, part: &str| assert!(error.contains(part), "`{part}` is not in: {error}");
    holds(set("peft_type", "LOHA".into()), "an adapter of the kind LOHA; only LORA and IA3 are read");
    holds(set("lora_dropout", 1.into()), "has the dropout 1");
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
        let folder = changed(&scratch, "lora", name, |settings| settings["r"] = 2.into());
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
        let header = Value::Object(header).to_string();
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
    let factors = |name: &str, shape: [usize; 2]| {
        let folder = pair(name, &[(&format!("{q}.ia3_l"), shape, 0.5)]);
        let settings = Value::Object([("peft_type".to_owned(), "IA3".into())].into_iter().collect());
        fs::write(folder.join("adapter_config.json"), settings.to_string()).unwrap();
        refused(&folder)
    };
    holds(factors("wide", [2, 2]), "neither a row nor a column");
    holds(factors("long", [35, 1]), "by factors [35, 1]; the model has one of shape [36, 48]");
    holds(factors("short", [1, 1]), "by factors [1, 1]; the model has");
    holds(refused(&changed(&scratch, "lora", "kind", |s| s["peft_type"] = "IA3".into())), "is no part of an IA3");
    let numbers = pair("numbers", &[(&a, [2, 48], f32::NAN), (&b, [36, 2], 0.5)]);
    let read = base().with_peft(&numbers).unwrap().weights.read_f32(&format!("{q}.weight"), &[36, 48]);
    holds(read.unwrap_err().to_string(), "holds NaN");

    // As models of their own.
    let opened = |folder: &Path| ModelParts::open(folder).err().unwrap().to_string();
    let key = "base_model_name_or_path";
    holds(
        opened(&changed(&scratch, "lora", "lost", |s| s[key] = "nowhere/at-all".into())),
        "nowhere/at-all, which is not there",
    );
    holds(opened(&changed(&scratch, "lora", "silent", |s| s[key] = Value::Null)), "does not say which model");
    let itself = scratch.path("itself").to_string_lossy().into_owned();
    holds(opened(&changed(&scratch, "lora", "itself", |s| s[key] = itself.clone().into())), "is an adapter itself");
}

/// The mean loss of a batch.
fn loss(model: Model) -> f64 {
    pollster::block_on(Scorer::new(model).score(&batch(false))).unwrap().mean_loss()
}

/// What a run has saved: the settings, and the numbers.
fn saved(out: &Path) -> (Value, Vec<u8>) {
    let last = out.join("last");
    (json(&last.join("adapter_config.json")), fs::read(last.join("adapter_model.safetensors")).unwrap())
}

/// A run that begins with the model of a run goes on with what that has added to it.
#[test]
fn training_goes_on_with_what_was_added() {
    let (gpu, scratch) = (gpu(), Scratch::new("peft-going-on"));
    let (folder, pairs) = (base(&gpu, &scratch), scratch.pairs(50));
    let weights = fs::read(folder.join("model.safetensors")).unwrap();
    let lora = r#"{"lora": {"rank": 4, "alpha": 3, "dropout": 0.1, "targets": ["v", "wo"]}}"#;
    for (kind, first, then) in [("LORA", lora, r#""lora""#), ("IA3", r#""ia3""#, r#""ia3""#)] {
        let create = |model: Model, name: &str, learned: &str| {
            let settings = settings(&pairs, &learns(learned));
            Trainer::create(model, Tokenizer::bytes(), settings, &scratch.path(&format!("{kind}-{name}")), false)
        };
        let mut trainer = create(Model::load(&gpu, &folder).unwrap().0, "first", first).unwrap();
        assert_eq!(run(&mut trainer, 100), Outcome::Finished);
        let out = scratch.path(&format!("{kind}-first"));
        let (last, before) = (out.join("last"), saved(&out));

        // Merged and beside, and with the folder named beside its base.
        let merged = loss(Model::load(&gpu, &last).unwrap().0);
        let open = || Model::load_to_train(&gpu, &last, &learns(then), Storage::F32).unwrap().0;
        let named = ModelParts::open_to_train(&folder, Some(&last), &learns(then)).unwrap();
        for model in [open(), upload(&gpu, &named)] {
            assert!(model.layout.learns().adds());
            let beside = loss(model);
            assert!((beside - merged).abs() < 1e-5 * merged, "{kind}: {beside} and {merged}");
        }
        assert!((loss(Model::load(&gpu, &folder).unwrap().0) - merged).abs() > 1e-3, "{kind} changes nothing");

        let mut whole = create(open(), "whole", then).unwrap();
        assert_eq!(run(&mut whole, 100), Outcome::Finished);
        let (settings, numbers) = saved(&scratch.path(&format!("{kind}-whole")));
        let mut parts = create(open(), "parts", then).unwrap();
        assert_eq!(run(&mut parts, 5), Outcome::Stopped { step: 5 });
        drop(parts);
        let out = scratch.path(&format!("{kind}-parts"));
        let state = Trainer::load_state(&out).unwrap().unwrap();
        assert_eq!(run(&mut Trainer::resume(&gpu, &Tuner::off(), state, &out).unwrap(), 100), Outcome::Finished);
        assert!(saved(&out) == (settings.clone(), numbers.clone()), "{kind}: a resumed run differs");

        // The same settings, of which the base is the first, and other numbers.
        assert_eq!(settings, before.0);
        assert_eq!(settings["peft_type"], kind);
        assert_eq!(Path::new(settings["base_model_name_or_path"].as_str().unwrap()), folder);
        let new = Weights::open_file(scratch.path(&format!("{kind}-whole/last/adapter_model.safetensors"))).unwrap();
        let old = Weights::open_file(last.join("adapter_model.safetensors")).unwrap();
        for name in new.names() {
            let read = |weights: &Weights| weights.read_f32(name, new.shape(name).unwrap()).unwrap();
            assert!(read(&new) != read(&old), "{kind}: {name} did not learn");
        }
        assert!(fs::read(folder.join("model.safetensors")).unwrap() == weights, "{kind} changed its base");

        // What would lose it is refused; with all parameters it is merged.
        let opened = |learned: &str| Model::load_to_train(&gpu, &last, &learns(learned), Storage::F32);
        let refused = |learned: &str| opened(learned).err().unwrap().to_string();
        let holds = |error: String, part: &str| assert!(error.contains(part), "`{part}` is not in: {error}");
        match kind {
            "LORA" => {
                let others =
                    [r#"{"lora": {"rank": 5}}"#, r#"{"lora": {"alpha": 4}}"#, r#"{"lora": {"targets": ["wo"]}}"#];
                for other in others {
                    holds(refused(other), "has a LoRA of rank 4 and scale 0.75 on v, wo, and asked is one of rank");
                }
                holds(refused(r#""ia3""#), "has a LoRA, which these settings do not train");
                let model = opened(r#"{"lora": {"dropout": 0, "alpha": 3}}"#);
                let Learns::Lora(there) = model.unwrap().0.layout.learns().clone() else { panic!("no LoRA") };
                assert_eq!((there.rank(), there.dropout(), there.targets()), (4, 0.0, vec!["v", "wo"]));
            }
            _ => holds(refused(r#""lora""#), "has an IA3, which these settings do not train"),
        }
        holds(open().learning(&Learns::All, 0).err().unwrap().to_string(), "merge it into the model first");
        let all = Model::load_to_train(&gpu, &last, &Learns::All, Storage::F32).unwrap().0;
        assert!((loss(all.clone()) - merged).abs() < 1e-6 * merged);
        holds(create(all, "other", first).err().unwrap().to_string(), "had another adapter merged into them");
    }
}

/// Flags, and stages of a recipe.
#[test]
fn commands_go_on_with_what_was_added() {
    let (gpu, scratch) = (gpu(), Scratch::new("peft-commands"));
    let (folder, pairs) = (base(&gpu, &scratch), scratch.pairs(40));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let t5 = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_t5")).args(args).env("T5_TUNE", "off").output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let train = |out: &str, rest: &[&str]| {
        let (pairs, out) = (text(&pairs), text(&scratch.path(out)));
        let args =
            ["train", "--pairs", &pairs, "--held-out", "0.2", "--steps", "3", "--batch-size", "4", "--out", &out];
        t5(&[&args[..], rest].concat())
    };
    let fine = |(success, stderr): (bool, String)| assert!(success, "{stderr}");
    let lora = "{ lora = { rank = 3, targets = [\"k\"], dropout = 0.05 } }";
    let (base, first) = (text(&folder), text(&scratch.path("first")));
    fine(train("first", &["--model", &base, "--learns", lora]));
    fine(train("second", &["--model", &first, "--learns", "lora"]));
    fine(train("third", &["--model", &base, "--peft", &first, "--learns", "lora"]));
    let before = saved(&scratch.path("first"));
    assert_eq!((&before.0["r"], &before.0["lora_dropout"]), (&3.into(), &0.05.into()));
    for out in ["second", "third"] {
        let (settings, numbers) = saved(&scratch.path(out));
        assert!(settings == before.0 && numbers != before.1, "{out}: {settings}");
    }
    let (success, stderr) = train("fourth", &["--model", &first, "--learns", "{ lora = { rank = 2 } }"]);
    assert!(!success && stderr.contains("--learns: the model has a LoRA of rank 3"), "{stderr}");
    fine(train("merged", &["--model", &base, "--peft", &first, "--learns", "norms"]));
    assert!(scratch.path("merged/last/model.safetensors").exists());

    // Beside a packed base: trained, evaluated, resumed.
    fine(train("packed", &["--model", &base, "--learns", "lora", "--frozen-weights", "int8"]));
    let packed = scratch.path("packed");
    let before = saved(&packed);
    fine(t5(&["train", "--resume", "--steps", "5", "--out", &text(&packed)]));
    assert!(saved(&packed).0 == before.0 && saved(&packed).1 != before.1);
    let state = json(&packed.join("last/training_state/state.json"));
    assert_eq!(state["settings"]["frozen_weights"], "int8");
    for (rest, part) in [
        (["--learns", "norms", "--frozen-weights", "int8"], "--frozen-weights: only what \"lora\" and \"ia3\" add to"),
        (["--learns", "lora", "--frozen-weights", "fitting"], "fitting"),
    ] {
        let (success, stderr) = train("refused", &[&["--model", &base][..], &rest].concat());
        assert!(!success && stderr.contains(part), "{stderr}");
    }

    let recipe = |name: &str, second: &str| {
        let text = format!(
            "[model]\nfrom = {base:?}\n[tasks.pairs]\ntrain = {:?}\nheld_out = 0.2\ncolumns = [\"source\", \"target\"]\n\
             [[stage]]\nname = \"one\"\ntrain = [\"pairs\"]\nsteps = 3\nlearns = {lora}\n\
             [[stage]]\nname = \"two\"\ntrain = [\"pairs\"]\nsteps = 3\nlearns = {second}\n\
             [[stage]]\nname = \"test\"\nevaluate = [\"pairs\"]\n",
            text(&pairs)
        );
        let file = scratch.file(name, text);
        t5(&["run", file.to_str().unwrap(), "--out", scratch.path("recipe").to_str().unwrap()])
    };
    let (success, stderr) = recipe("wrong.toml", "{ lora = { rank = 2 } }");
    assert!(!success && stderr.contains("wrong.toml:16: stage.two.learns: the model has a LoRA of rank 3"), "{stderr}");
    fine(recipe("right.toml", "\"lora\""));
    let [one, two] = ["recipe/one", "recipe/two"].map(|stage| saved(&scratch.path(stage)));
    assert!(one.0 == two.0 && one.1 != two.1, "{}", two.0);
    assert_eq!(Path::new(two.0["base_model_name_or_path"].as_str().unwrap()), folder);
}
