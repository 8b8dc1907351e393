//! What the program does with a tiny model whose right values are known: ids by transformers 4.57.6, losses by a computation
//! in float64.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Scratch, outcome, train};
use serde_json::Value;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny-model")
}

/// A copy of the model.
fn copy(scratch: &Scratch, name: &str) -> PathBuf {
    let folder = scratch.path(name);
    fs::create_dir_all(&folder).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer_config.json"] {
        fs::copy(tiny().join(file), folder.join(file)).unwrap();
    }
    folder
}

fn t5(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_t5")).args(args).env("T5_TUNE", "off").output().unwrap()
}

fn generate(model: &Path, args: &[&str]) -> (Vec<Value>, String) {
    let output = t5(&[&["generate", "--model", model.to_str().unwrap(), "--json"], args].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let lines = String::from_utf8(output.stdout).unwrap();
    (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), said)
}

/// What the program says about a model folder that it cannot use.
#[track_caller]
fn refused(model: &Path, parts: &[&str]) {
    let (code, said) = outcome(&t5(&["generate", "--model", model.to_str().unwrap(), "x"]));
    assert_eq!(code, Some(1), "{said}");
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

#[test]
fn every_step_on_a_small_set_has_all_of_it() {
    let scratch = Scratch::new("tiny-four");
    let four = scratch.file("four.tsv", "abc\tx\nhello\tyyyyyyyyyyyyyyyyyy\nq\tzz\nmore text here\tabcdefghijk\n");
    let out = scratch.path("out");
    let fixed = ["--lr", "1e-9", "--warmup", "0", "--dropout", "0", "--clip", "0", "--steps", "2", "--batch-size", "4"];
    let model = tiny();
    let paths = ["--model", model.to_str().unwrap(), "--pairs", four.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let output = train(&[&paths[..], &fixed, &["--log-every", "1", "--tune", "off"]].concat()).output().unwrap();
    assert!(output.status.success(), "{}", outcome(&output).1);
    let log = fs::read_to_string(out.join("log.jsonl")).unwrap();
    let steps: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<&Value> = steps.iter().filter(|line| line["event"] == "step").collect();
    for (step, epoch) in steps.iter().zip([1.0, 2.0]) {
        assert!((step["loss"].as_f64().unwrap() - 6.6686).abs() < 1e-3, "{step}");
        assert_eq!(step["epoch"], epoch, "{step}");
    }
    assert_eq!(steps.len(), 2);
}

#[test]
fn answers_that_are_cut_are_counted() {
    let (answers, said) = generate(&tiny(), &["--max-new-tokens", "3", "hello", "xyzzy"]);
    assert!(answers.iter().all(|answer| answer["finished"] == false), "{answers:?}");
    assert!(said.contains("2 of 2 answers did not end by themselves and were cut at --max-new-tokens 3"), "{said}");
    let scratch = Scratch::new("tiny-cut");
    let pairs = scratch.file("pairs.tsv", "hello\tx\nxyzzy\ty\n");
    let model = tiny();
    let args =
        ["eval", "--model", model.to_str().unwrap(), "--max-new-tokens", "3", "--pairs", pairs.to_str().unwrap()];
    let (code, said) = outcome(&t5(&args));
    assert!(code == Some(0) && said.contains("2 of 2 answers did not end by themselves and were cut at 3"), "{said}");
    assert!(said.contains("answers: greedy, at most 3 tokens\n"), "{said}");
}

#[test]
fn a_configuration_that_says_its_activation_twice_is_read_as_transformers_does() {
    let scratch = Scratch::new("tiny-activation");
    for (name, from, to, text, ids) in [
        (
            "relu",
            "\"feed_forward_proj\": \"gated-gelu\"",
            "\"feed_forward_proj\": \"gated-gelu\", \"dense_act_fn\": \"relu\"",
            "T5",
            [153, 43, 43, 43, 43, 43],
        ),
        (
            "gelu",
            "\"feed_forward_proj\": \"gated-gelu\"",
            "\"feed_forward_proj\": \"gelu\", \"dense_act_fn\": \"gelu_new\", \"is_gated_act\": true",
            "hello",
            [153, 193, 228, 193, 228, 43],
        ),
    ] {
        let folder = copy(&scratch, name);
        let config = fs::read_to_string(folder.join("config.json")).unwrap();
        let map: serde_json::Map<String, Value> = serde_json::from_str(&config).unwrap();
        let keep = |key: &str| !["dense_act_fn", "is_gated_act"].contains(&key);
        let plain: serde_json::Map<String, Value> = map.into_iter().filter(|(key, _)| keep(key)).collect();
        let config = serde_json::to_string_pretty(&plain).unwrap();
        assert!(config.contains(from), "{config}");
        fs::write(folder.join("config.json"), config.replace(from, to)).unwrap();
        let (answers, _) = generate(&folder, &["--max-new-tokens", "6", text]);
        assert_eq!(answers[0]["ids"], serde_json::json!(ids), "{name}");
    }
    let folder = copy(&scratch, "unknown");
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    fs::write(folder.join("config.json"), config.replacen('{', "{\"dense_act_fn\": \"tanhish\",", 1)).unwrap();
    refused(&folder, &["dense_act_fn is \"tanhish\"; known are relu"]);
}

#[test]
fn generation_settings_of_the_folder_are_obeyed_and_kept() {
    let scratch = Scratch::new("tiny-generation");
    let folder = copy(&scratch, "model");
    let (plain, _) = generate(&folder, &["--max-new-tokens", "6", "hello"]);
    let (answered, _) = generate(&folder, &["--answer", "yes", "--answer", "no", "hello", "T5"]);
    assert!(answered.iter().all(|answer| ["yes", "no"].contains(&answer["text"].as_str().unwrap())), "{answered:?}");
    let settings = r#"{
        "_from_model_config": false, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": [1, 193],
        "forced_bos_token_id": 72, "max_length": 32, "num_beams": 4, "no_repeat_ngram_size": 2, "num_beam_groups": 2,
        "length_penalty": 1.0
    }"#;
    fs::write(folder.join("generation_config.json"), settings).unwrap();
    let (answers, said) = generate(&folder, &["hello", "T5", "a longer text than the others"]);
    assert!(said.contains("generation_config.json: not obeyed: num_beam_groups = 2\n"), "{said}");
    for answer in &answers {
        let ids: Vec<u64> = answer["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
        assert_eq!(ids[0], 72);
        assert!(!ids.contains(&193) && !ids.contains(&1), "{ids:?}");
        // 32 with the start token.
        assert!(answer["finished"] == true || ids.len() == 31, "{ids:?}");
    }
    for answer in &answers {
        let ids: Vec<u64> = answer["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
        let pairs: Vec<&[u64]> = ids.windows(2).collect();
        assert!((0..pairs.len()).all(|i| !pairs[..i].contains(&pairs[i])), "{ids:?}");
        assert!(answer["score"].as_f64().unwrap() < 0.0);
    }
    // Flags go before the file.
    let (greedy, _) = generate(&folder, &["--beams", "1", "hello"]);
    assert!(greedy[0].get("score").is_none());
    // A task's settings go before the file's, and its prefix comes with them.
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let task = r#"{"task_specific_params": {"say": {"prefix": "say: ", "num_beams": 2, "max_length": 5, "top_a": 3}},"#;
    fs::write(folder.join("config.json"), config.replacen('{', task, 1)).unwrap();
    let (of_task, said) = generate(&folder, &["--task", "say", "--n-best", "2", "hello"]);
    assert!(said.contains("task_specific_params of say: not obeyed: top_a = 3\n"), "{said}");
    assert_eq!(of_task[0]["n_best"].as_array().unwrap().len(), 2);
    assert!(of_task[0]["ids"].as_array().unwrap().len() <= 4);
    fs::write(folder.join("config.json"), config).unwrap();
    // What follows the forced token is what the model says after it, alone as in a batch.
    let (alone, _) = generate(&folder, &["hello"]);
    assert_eq!(alone[0]["ids"], answers[0]["ids"]);
    assert_ne!(plain[0]["ids"][0], 72);
    // The end token may be the first one that the model would have chosen.
    let ends_at_once = format!("{{\"eos_token_id\": [1, {}], \"forced_bos_token_id\": 72}}", plain[0]["ids"][0]);
    fs::write(folder.join("generation_config.json"), ends_at_once).unwrap();
    assert_eq!(generate(&folder, &["--max-new-tokens", "4", "hello"]).0[0]["ids"][0], 72);
    fs::write(folder.join("generation_config.json"), settings).unwrap();

    let (pairs, out) = (scratch.file("pairs.tsv", "hello\tworld\n"), scratch.path("out"));
    let paths =
        ["--model", folder.to_str().unwrap(), "--pairs", pairs.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let output = train(&[&paths[..], &["--steps", "1"]].concat()).output().unwrap();
    assert!(output.status.success(), "{}", outcome(&output).1);
    assert_eq!(fs::read_to_string(out.join("last/generation_config.json")).unwrap(), settings);

    fs::write(folder.join("generation_config.json"), "{\"forced_bos_token_id\": 264}").unwrap();
    refused(&folder, &["generation_config.json: the id 264 is outside of the model's vocabulary of 264"]);
}

#[test]
fn folders_in_other_formats_are_named_as_what_they_are() {
    let scratch = Scratch::new("tiny-formats");
    for (name, part) in [
        ("pytorch_model.bin", "the file is empty"),
        ("tf_model.h5", "convert it once with: python"),
        ("model.gguf", "the file is empty"),
        ("rust_model.ot", "rust-bert"),
        ("model.onnx", "ONNX"),
        ("model.bin", "CTranslate2"),
        ("model.ckpt-1000000.index", "TensorFlow"),
        ("checkpoint", "the file is empty"),
        ("model.fp16.safetensors", "the file is empty"),
        ("t5xxl_fp16.safetensors", "an encoder alone"),
    ] {
        let folder = copy(&scratch, name);
        fs::remove_file(folder.join("model.safetensors")).unwrap();
        fs::write(folder.join(name), "").unwrap();
        refused(&folder, &[name, part]);
    }
    let adapter = scratch.path("adapter");
    fs::create_dir_all(&adapter).unwrap();
    fs::copy(tiny().join("tokenizer_config.json"), adapter.join("tokenizer_config.json")).unwrap();
    fs::write(adapter.join("adapter_config.json"), "{\"peft_type\": \"LOHA\"}").unwrap();
    fs::write(adapter.join("adapter_model.safetensors"), "").unwrap();
    refused(&adapter, &["adapter_config.json", "is an adapter of the kind LOHA; only LORA and IA3 are read"]);
}

#[test]
fn parts_of_a_model_are_named_as_what_they_are() {
    let scratch = Scratch::new("tiny-parts");
    let bytes = fs::read(tiny().join("model.safetensors")).unwrap();
    let whole = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let is_decoder = |name: &str| name.starts_with("decoder.");
    let encoder = whole.tensors().into_iter().filter(|(name, _)| !is_decoder(name));
    let classifier = whole.tensors().into_iter().map(|(name, tensor)| match name == "shared.weight" {
        true => ("classification_head.out_proj.weight".to_owned(), tensor),
        false => (format!("transformer.{name}"), tensor),
    });
    let parts = ["an encoder without a decoder", "take the whole T5"];
    let folder = copy(&scratch, "encoder");
    fs::write(folder.join("model.safetensors"), safetensors::serialize(encoder, None).unwrap()).unwrap();
    refused(&folder, &parts);
    let folder = copy(&scratch, "classifier");
    fs::write(folder.join("model.safetensors"), safetensors::serialize(classifier, None).unwrap()).unwrap();
    refused(&folder, &["a head for classification", "train it to write the labels as words"]);
    let folder = copy(&scratch, "unconfigured");
    fs::remove_file(folder.join("config.json")).unwrap();
    refused(&folder, &["unconfigured", "there is no config.json in this folder"]);
}

#[test]
fn a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused_with_a_way_out() {
    let scratch = Scratch::new("tiny-grown");
    let (pairs, out) = (scratch.file("pairs.tsv", "hello\tworld\n"), scratch.path("out"));
    let model = tiny();
    let paths =
        ["--model", model.to_str().unwrap(), "--pairs", pairs.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let (code, said) =
        outcome(&train(&[&paths[..], &["--steps", "1", "--tokenizer", "bytes"]].concat()).output().unwrap());
    assert!(code == Some(1) && said.contains("resize_token_embeddings(384)"), "{said}");
}

#[test]
fn all_commands_read_lines_alike() {
    let scratch = Scratch::new("tiny-lines");
    let plain = scratch.file("plain.txt", "\u{feff}a b\r\nc\n");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &fs::read(&plain).unwrap()).unwrap();
    let packed = scratch.file("packed.txt", packed.finish().unwrap());
    let tokenize = ["tokenize", "--tokenizer", "bytes", "--json", "--file"];
    let model = tiny();
    let generate = ["generate", "--model", model.to_str().unwrap(), "--max-new-tokens", "1", "--json", "--file"];
    for file in [plain.to_str().unwrap(), packed.to_str().unwrap()] {
        let output = t5(&[&tokenize[..], &[file]].concat());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "[100,35,101,1]\n[102,1]\n");
        let lines = String::from_utf8(t5(&[&generate[..], &[file]].concat()).stdout).unwrap();
        let sources: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["source"].clone()).collect();
        assert_eq!(sources, ["a b", "c"]);
    }
    // Through a pipe as well.
    let stdin = fs::File::open(&packed).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_t5")).args(&tokenize[..4]).stdin(stdin).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "[100,35,101,1]\n[102,1]\n");
}
