//! The architectures beside encoder and decoder, as a user meets them, and every gradient of each by finite differences in float64.
//! Against PyTorch: tests/golden.rs. Packed rows, cached decoding, resumed runs: the tests of these.

mod common;

use common::gpu;
use common::objective::{Objective, batch, config};
use t5_wgpu::model::{Architecture, Model};
use t5_wgpu::train::engine::{Engine, Regularization};
use t5_wgpu::train::optimizer::OptimizerConfig;

#[test]
fn every_gradient_is_that_of_finite_differences() {
    const STEP: f64 = 1e-6;
    let gpu = gpu();
    for (family, architecture, gated, packed) in [
        ("t5", Architecture::EncoderDecoder, true, false),
        ("t5", Architecture::Shared, true, true),
        ("umt5", Architecture::Shared, false, false),
        ("umt5", Architecture::LanguageModel, true, false),
        ("t5", Architecture::LanguageModel, false, true),
        ("t5", Architecture::PrefixLm, true, true),
        ("umt5", Architecture::PrefixLm, false, false),
    ] {
        let model = Model::init(&gpu, config(family, architecture, gated), 3).unwrap();
        let batch = batch(packed);
        let mut objective = Objective::new(&model, &batch);
        let mut engine = Engine::new(model, Regularization::default(), &OptimizerConfig::adamw(), 0.0).unwrap();
        engine.begin_step();
        engine.micro_batch(&batch, [0; 4]).unwrap();
        pollster::block_on(engine.finish_gradients().unwrap().finish()).unwrap();
        let names: Vec<String> = objective.leaves.keys().filter(|name| name.contains(".weight")).cloned().collect();
        assert!(names.len() >= 10, "{names:?}");
        for name in names {
            let slice = engine.model.layout.slice(&name, engine.gradients()).unwrap();
            let range = slice.offset..slice.offset + slice.bytes;
            let found: Vec<f32> = pollster::block_on(gpu.read(&slice.buffer, range)).unwrap();
            let largest = found.iter().fold(0f64, |most, &x| most.max(f64::from(x).abs()));
            assert!(largest > 0.0, "{architecture:?}: {name} has no gradient");
            for index in (0..found.len()).step_by(1 + found.len() / 4) {
                let expected = (objective.at(&name, index, STEP) - objective.at(&name, index, -STEP)) / (2.0 * STEP);
                let error = (f64::from(found[index]) - expected).abs() / largest;
                assert!(
                    error < 1e-4,
                    "{family} {architecture:?}, packed {packed}: {name}[{index}] is {} and not {expected}",
                    found[index]
                );
            }
        }
    }
}

/// One set of blocks is there once, and one stack has no cross-attention.
#[test]
fn parameters_are_those_of_the_architecture() {
    let names = |architecture| -> Vec<String> {
        let shapes = config("t5", architecture, true).tensor_shapes(true);
        shapes.into_iter().map(|(name, _)| name).collect()
    };
    let count = |architecture| config("t5", architecture, true).param_count();
    let (whole, shared) = (names(Architecture::EncoderDecoder), names(Architecture::Shared));
    assert!(shared.iter().all(|name| whole.contains(name)));
    let of_decoder: Vec<&String> = shared.iter().filter(|name| name.starts_with("decoder.")).collect();
    assert!(of_decoder.len() == 2 * 5 && of_decoder.iter().all(|name| name.contains(".layer.1.")), "{of_decoder:?}");
    for architecture in [Architecture::LanguageModel, Architecture::PrefixLm] {
        let names = names(architecture);
        assert!(names.iter().all(|name| !name.contains("EncDec") && !name.starts_with("encoder.")), "{names:?}");
        assert!(names.contains(&"decoder.block.1.layer.1.DenseReluDense.wo.weight".to_owned()));
        assert_eq!(count(architecture), count(Architecture::LanguageModel));
    }
    // Two blocks of attention (4 x 8 x 6), feed-forward (3 x 8 x 12) and two norms, a table, a norm; embedding and head.
    let blocks = 2 * (192 + 288 + 16);
    assert_eq!(count(Architecture::LanguageModel), blocks + 16 + 8 + 2 * 23 * 8);
    assert_eq!(count(Architecture::Shared), count(Architecture::LanguageModel) + 2 * (192 + 8));
    assert_eq!(count(Architecture::EncoderDecoder), count(Architecture::Shared) + blocks + 16 + 8);
}

#[cfg(feature = "cli")]
mod cli {
    use std::path::Path;
    use std::process::Command;

    use super::common::{Scratch, TINY, outcome, train};

    fn t5(args: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_t5")).args(args).env("T5_TUNE", "off").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[track_caller]
    fn does(args: &[&str]) -> String {
        let (code, out, said) = t5(args);
        assert_eq!(code, Some(0), "{args:?}: {said}");
        out
    }

    #[track_caller]
    fn refuses(args: &[&str], part: &str) {
        let (code, _, said) = t5(args);
        assert!(code == Some(1) && said.contains(part), "`{part}` is not in: {said}");
    }

    fn text(path: &Path) -> &str {
        path.to_str().unwrap()
    }

    #[test]
    fn each_is_trained_asked_scored_and_converted() {
        let scratch = Scratch::new("architectures");
        let pairs = scratch.pairs(30);
        for architecture in ["shared", "language-model", "prefix-lm"] {
            let out = scratch.path(architecture);
            let flags = ["--architecture", architecture, "--steps", "6", "--batch-size", "4", "--dropout", "0.1"];
            let paths = ["--pairs", text(&pairs), "--eval", text(&pairs), "--out", text(&out)];
            let more = if architecture == "prefix-lm" { &["--recompute"][..] } else { &[] };
            let output = train(&[&TINY[..], &flags, &paths, more].concat()).output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{}", outcome(&output).1);
            let config = std::fs::read_to_string(out.join("last/config.json")).unwrap();
            assert!(config.contains(&format!("\"architecture\": \"{architecture}\"")), "{config}");
            assert!(config.contains("\"model_type\": \"t5-wgpu\""), "{config}");

            let model = ["--model", text(&out)];
            let ask = |more: &[&str]| {
                does(&[&["generate"], &model[..], &["--max-new-tokens", "8", "w12", "w7"], more].concat())
            };
            let ids = |lines: &str| -> Vec<serde_json::Value> {
                let id = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["ids"].clone();
                lines.lines().map(id).collect()
            };
            let greedy = ids(&ask(&["--json"]));
            assert_eq!(greedy.len(), 2);
            assert_eq!(ids(&ask(&["--json", "--speculate", "3"])), greedy);
            ask(&["--beams", "3"]);
            does(&[&["score", "--pairs", text(&pairs)], &model[..]].concat());
            does(&[&["eval", "--pairs", text(&pairs), "--max-new-tokens", "4"], &model[..]].concat());

            let (folder, gguf) = (scratch.path(&format!("{architecture}-f16")), scratch.path("model.gguf"));
            let best = out.join("best");
            does(&["convert", text(&best), text(&folder), "--weights", "f16"]);
            does(&["generate", "--model", text(&folder), "--max-new-tokens", "3", "w12"]);
            refuses(
                &["convert", text(&best), text(&gguf)],
                &format!("cannot say that the architecture is {architecture}"),
            );
            let embed = ["embed", "--model", text(&out), "w12"];
            if architecture == "shared" {
                does(&embed);
            } else {
                let said =
                    format!("the model's architecture is {architecture}, one stack of blocks without an encoder");
                refuses(&embed, &said);
                refuses(&["bench", "--quick", "encoder", "--model", text(&best)], &said);
            }
        }
    }

    #[test]
    fn every_objective_is_learned_by_each() {
        let scratch = Scratch::new("architectures-objectives");
        let lines = "The quick brown fox jumps over the lazy dog, and the dog sleeps on.\n".repeat(40);
        let file = scratch.file("text.txt", lines);
        for architecture in ["encoder-decoder", "shared", "language-model", "prefix-lm"] {
            for objective in ["span_corruption", "lm", "prefix_lm"] {
                let out = scratch.path(&format!("{architecture}-{objective}"));
                let flags = ["--architecture", architecture, "--objective", objective, "--seq-len", "24"];
                let paths = ["--text", text(&file), "--held-out", "0.2", "--out", text(&out)];
                let steps = ["--steps", "2", "--batch-size", "3"];
                let output = train(&[&TINY[..], &flags, &paths, &steps].concat()).output().unwrap();
                assert_eq!(output.status.code(), Some(0), "{architecture} {objective}: {}", outcome(&output).1);
                let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
                assert!(log.contains("bits_per_byte"), "{log}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let scratch = Scratch::new("architectures-refused");
        let (pairs, out) = (scratch.pairs(8), scratch.path("out"));
        let refused = |more: &[&str], parts: &[&str]| {
            let paths = ["--pairs", text(&pairs), "--out", text(&out), "--steps", "1"];
            let output = train(&[&paths[..], more].concat()).output().unwrap();
            let (code, said) = outcome(&output);
            assert_ne!(code, Some(0));
            parts.iter().for_each(|part| assert!(said.contains(part), "`{part}` is not in: {said}"));
        };
        let names = "known are encoder-decoder, shared, language-model, prefix-lm";
        refused(&["--architecture", "decoder"], &["--architecture: is \"decoder\"", names]);
        let depths = ["--architecture", "shared", "--layers", "2", "--decoder-layers", "1"];
        refused(&depths, &["--decoder-layers: is 1 beside 2 layers; shared has one set of blocks"]);
    }
}
