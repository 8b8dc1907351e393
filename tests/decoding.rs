//! Settings that change the scores of tokens, against what transformers makes of the same models: `tests/decoding/make.py`.

#[path = "common/gpu.rs"]
mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::Value;
use t5_wgpu::checkpoint::{Dtype, Weights};
use t5_wgpu::generate::{AllowedTokens, Alternative, Decoding, EarlyStopping, Generation, Generator, LengthPenalty};
use t5_wgpu::model::Model;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// The sources of the golden folder's generation results, without padding.
fn sources(name: &str) -> Vec<Vec<u32>> {
    let file = Weights::open_file(folder("golden").join(name).join("golden.safetensors")).unwrap();
    let read = |tensor: &str| -> Vec<Vec<u32>> {
        let shape = file.shape(tensor).unwrap().to_vec();
        let bytes = file.read_bytes(tensor, Dtype::I64, &shape).unwrap();
        let ids: Vec<u32> = bytes.as_chunks().0.iter().map(|c| i64::from_le_bytes(*c) as u32).collect();
        ids.chunks(shape[1]).map(<[u32]>::to_vec).collect()
    };
    let masks = read("generate.attention_mask");
    let real = |(row, mask): (Vec<u32>, &Vec<u32>)| row[..mask.iter().sum::<u32>() as usize].to_vec();
    read("generate.input_ids").into_iter().zip(&masks).map(real).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().into_iter().flatten().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The rule of `allowed_by_rule` in make.py.
fn rule(modulus: usize, vocab: usize) -> impl Fn(usize, &[u32]) -> Vec<u32> {
    move |source, made| {
        let last = made.last().map_or(source, |&id| id as usize);
        let fits = |id: &usize| (id + last + made.len()).is_multiple_of(modulus);
        let end = if made.len() >= 3 { Some(1) } else { None };
        (2..vocab).filter(fits).map(|id| id as u32).chain(end).collect()
    }
}

/// What continues one of the answers, then the end token: `allowed_by` in make.py.
fn continuing(answers: Vec<Vec<u32>>) -> impl Fn(usize, &[u32]) -> Vec<u32> {
    move |_, made| {
        let next = |answer: &Vec<u32>| Some(*answer.strip_prefix(made)?.first().unwrap_or(&1));
        let found: Vec<u32> = answers.iter().filter_map(next).collect();
        if found.is_empty() { vec![1] } else { found }
    }
}

/// The settings of a vector, which bear transformers' names.
fn decoding(settings: &Value, beams: usize, vocab: usize) -> Decoding {
    let lists = |key: &str| settings[key].as_array().into_iter().flatten().map(ids).collect::<Vec<_>>();
    let number = |key: &str| settings[key].as_u64().map(|n| n as usize);
    let token = |key: &str| number(key).map(|id| id as u32);
    let allowed = number("allowed").map(|modulus| AllowedTokens::new(rule(modulus, vocab)));
    Decoding {
        allowed,
        n_best: beams,
        max_new_tokens: number("max_new_tokens").or(Some(20)),
        repetition_penalty: settings["repetition_penalty"].as_f64().unwrap_or(1.0) as f32,
        no_repeat_ngram: number("no_repeat_ngram_size").unwrap_or(0),
        min_new_tokens: number("min_new_tokens").or(number("min_length").map(|n| n - 1)).unwrap_or(0),
        suppress: ids(&settings["suppress_tokens"]),
        begin_suppress: ids(&settings["begin_suppress_tokens"]),
        forced_first: token("forced_bos_token_id"),
        forced_last: token("forced_eos_token_id"),
        bad_words: lists("bad_words_ids"),
        answers: lists("answers"),
        decoder_prefix: ids(&settings["prompt"]),
        length_penalty: LengthPenalty::Power(settings["length_penalty"].as_f64().unwrap_or(1.0) as f32),
        log_probs: true,
        alternatives: 3,
        early_stopping: if settings["early_stopping"] == true { EarlyStopping::Yes } else { EarlyStopping::No },
        ..Decoding::beam(beams)
    }
}

/// Whether log-probabilities and alternatives are those of a row, up to the rounding of f32 logits.
fn is_told(found: &Generation, log_probs: &Value, alternatives: &Value) -> bool {
    let close = |found: f32, expected: &Value| {
        let expected = expected.as_f64().unwrap();
        (f64::from(found) - expected).abs() <= 1e-5 * expected.abs().max(1.0)
    };
    // What cannot be scores -1e30 here and minus infinity there, which no vector has.
    let expected = log_probs.as_array().unwrap();
    let same = found.log_probs.len() == expected.len()
        && found.log_probs.iter().zip(expected).all(|(&found, expected)| close(found, expected));
    let place = |(found, expected): (&Vec<Alternative>, &Value)| {
        let expected = expected.as_array().unwrap();
        // Of near equals, the order hangs on rounding.
        let known = |one: &Alternative| {
            let near = |e: &&Value| close(one.log_prob, &e[1]);
            expected.iter().any(|e| e[0] == one.id) || expected.last().is_some_and(|last| near(&last))
        };
        found.len() == expected.len()
            && found.iter().zip(expected).all(|(found, expected)| close(found.log_prob, &expected[1]) && known(found))
    };
    let places = alternatives.as_array();
    same && found.alternatives.len() == expected.len()
        && places.is_none_or(|places| found.alternatives.iter().zip(places).all(place))
}

fn check(model: &str) {
    let text = std::fs::read_to_string(folder("decoding/vectors.json")).unwrap();
    let vectors: Value = serde_json::from_str(&text).unwrap();
    let gpu = common::gpu();
    let mut generator = Generator::new(Model::load(&gpu, &folder("golden").join(model)).unwrap().0);
    let sources = sources(model);
    let mut failed = Vec::new();
    let all = vectors["vectors"].as_array().unwrap();
    let of_model: Vec<&Value> = all.iter().filter(|vector| vector["model"] == model).collect();
    assert!(of_model.len() >= 48, "{}", of_model.len());
    for vector in of_model {
        let beams = vector["beams"].as_u64().unwrap() as usize;
        let decoding = decoding(&vector["settings"], beams, generator.model.config.vocab_size);
        let mut generate = |decoding: &Decoding| {
            let go_on = &mut |_: usize, _: &[u32]| ControlFlow::Continue(());
            pollster::block_on(generator.generate(&sources, decoding, go_on, &|| false)).expect("it runs")
        };
        let found = generate(&decoding);
        if !decoding.answers.is_empty() {
            let answers = decoding.answers.clone();
            let asking = Decoding { answers: Vec::new(), ..decoding.clone() }.allow(continuing(answers));
            assert_eq!(generate(&asking), found, "{}: by a function and by the device", vector["name"]);
        }
        let rows: Vec<Vec<u32>> = vector["rows"].as_array().unwrap().iter().map(ids).collect();
        for (source, found) in found.iter().enumerate() {
            // Places that no answer fills have scores of -1e9 over their length there, and no generation here.
            let scores = vector["scores"].as_array().map(|scores| &scores[source * beams..][..beams]);
            let real = scores.map_or(1, |scores| scores.iter().filter(|score| score.as_f64().unwrap() > -1e6).count());
            let expected = &rows[source * beams..][..real];
            let same = |(found, expected): (&Generation, &Vec<u32>)| {
                let ids: Vec<u32> = found.tokens().collect();
                // The rest is filled up with padding or the end token.
                expected.starts_with(&ids) && expected[ids.len()..].iter().all(|id| *id < 2)
            };
            let close = |(found, score): (&Generation, &Value)| {
                let (found, expected) = (f64::from(found.score.unwrap()), score.as_f64().unwrap());
                (found - expected).abs() <= 1e-4 * expected.abs()
            };
            let told = |(i, found): (usize, &Generation)| {
                let row = source * beams + i;
                is_told(found, &vector["log_probs"][row], &vector["alternatives"][row])
            };
            // A beam's score is what its tokens add up to.
            let penalty = |found: &Generation| decoding.length_penalty.of(found.log_probs.len());
            let sums = |found: &Generation| {
                let sum: f32 = found.log_probs.iter().sum::<f32>() / penalty(found);
                found.score.is_none_or(|score| (sum - score).abs() <= 1e-5 * score.abs().max(1.0))
            };
            let right = found.len() == real
                && found.iter().enumerate().all(told)
                && found.iter().all(sums)
                && found.iter().zip(expected).all(same)
                && scores.is_none_or(|scores| found.iter().zip(scores).all(close));
            if !right {
                failed.push(format!("{} beams {beams} source {source}:\n{found:?}\n{expected:?}", vector["name"]));
            }
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn flan_obeys_as_in_transformers() {
    check("flan");
}

#[test]
fn t5_v1_0_obeys_as_in_transformers() {
    check("t5v10");
}
