//! Embeddings and scores against PyTorch's results, and that nothing but the text itself changes a bit of them.

mod common;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Scratch, gpu};
use t5_wgpu::batch::Example;
use t5_wgpu::checkpoint::{Dtype, Weights};
use t5_wgpu::forward::{EncodeOptions, Encoder, Pooling, SentenceHead, TargetScorer};
use t5_wgpu::gpu::Gpu;
use t5_wgpu::model::{Model, ModelParts, Storage};
use t5_wgpu::{Error, Result, T5};

const FOLDERS: [&str; 5] = ["t5v10", "flan", "byt5", "mt5", "umt5"];

/// Shared blocks, and models of one stack.
const ARCHITECTURES: [&str; 3] =
    ["architectures/umt5-shared", "architectures/language-model", "architectures/umt5-prefix-lm"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// PyTorch's results for a model.
struct Golden {
    tensors: Weights,
    noise: serde_json::Value,
    sources: Vec<Vec<u32>>,
    targets: Vec<Vec<u32>>,
    /// Padded lengths.
    src_len: usize,
    tgt_len: usize,
}

impl Golden {
    fn open(name: &str) -> Golden {
        let tensors = Weights::open_file(folder(name).join("golden.safetensors")).unwrap();
        let text = std::fs::read_to_string(folder(name).join("golden.json")).unwrap();
        let noise = serde_json::from_str::<serde_json::Value>(&text).unwrap()["float32_noise"].clone();
        let ints = |name: &str| -> (usize, Vec<i64>) {
            let shape = tensors.shape(name).unwrap().to_vec();
            let bytes = tensors.read_bytes(name, Dtype::I64, &shape).unwrap();
            (shape[1], bytes.as_chunks().0.iter().map(|c| i64::from_le_bytes(*c)).collect())
        };
        let ((src_len, ids), (_, mask), (tgt_len, labels)) =
            (ints("input_ids"), ints("attention_mask"), ints("labels"));
        let rows = |ids: &[i64], len: usize, is_real: &dyn Fn(usize) -> bool| -> Vec<Vec<u32>> {
            let row = |b: usize| (b * len..(b + 1) * len).filter(|&i| is_real(i)).map(|i| ids[i] as u32).collect();
            (0..ids.len() / len).map(row).collect()
        };
        let sources = rows(&ids, src_len, &|i| mask[i] == 1);
        let targets = rows(&labels, tgt_len, &|i| labels[i] >= 0);
        Golden { tensors, noise, sources, targets, src_len, tgt_len }
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.tensors.read_f32(name, self.tensors.shape(name).unwrap()).unwrap()
    }

    /// Four times what PyTorch itself is off by in f32.
    fn tolerance(&self, what: &str) -> f64 {
        4.0 * self.noise[what].as_f64().unwrap()
    }

    fn examples(&self) -> Vec<Example> {
        let pair = |(s, t): (&Vec<u32>, &Vec<u32>)| Example { source: s.clone(), target: t.clone() };
        self.sources.iter().zip(&self.targets).map(pair).collect()
    }
}

fn model(gpu: &Gpu, name: &str) -> Model {
    Model::load(gpu, &folder(name)).unwrap().0
}

fn never() -> bool {
    false
}

fn states(encoder: &mut Encoder, sources: &[Vec<u32>], options: &EncodeOptions) -> Vec<Vec<f32>> {
    let states = pollster::block_on(encoder.hidden_states(sources, options, &never)).unwrap();
    states.into_iter().map(|s| s.values).collect()
}

fn embed(encoder: &mut Encoder, sources: &[Vec<u32>], pooling: Pooling) -> Vec<Vec<f32>> {
    let vectors = pollster::block_on(encoder.embed(sources, pooling, &never)).unwrap();
    vectors.rows().map(<[f32]>::to_vec).collect()
}

fn worst(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max)
}

#[test]
fn states_and_means_are_those_of_pytorch() {
    let gpu = gpu();
    for name in FOLDERS {
        let golden = Golden::open(name);
        let reference = golden.floats("encoder_last_hidden_state");
        let mut encoder = Encoder::new(model(&gpu, name), None).unwrap();
        let width = encoder.model.config.d_model;
        let found = states(&mut encoder, &golden.sources, &EncodeOptions::default());
        let means = embed(&mut encoder, &golden.sources, Pooling::Mean);
        let units = embed(&mut encoder, &golden.sources, Pooling::MeanNormalized);
        let tolerance = golden.tolerance("encoder_last_hidden_state_max_abs");
        for (b, source) in golden.sources.iter().enumerate() {
            let rows = &reference[b * golden.src_len * width..][..source.len() * width];
            let expected: Vec<f64> = rows.iter().map(|&x| x.into()).collect();
            assert!(worst(&found[b], &expected) <= tolerance, "{name} {b}");
            let mean = |c: usize| expected.iter().skip(c).step_by(width).sum::<f64>() / source.len() as f64;
            let expected: Vec<f64> = (0..width).map(mean).collect();
            assert!(worst(&means[b], &expected) <= tolerance, "{name} {b}");
            let norm = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
            let expected: Vec<f64> = expected.iter().map(|x| x / norm).collect();
            assert!(worst(&units[b], &expected) <= tolerance, "{name} {b}");
        }
    }
}

#[test]
fn log_probabilities_are_those_of_pytorch() {
    let gpu = gpu();
    for name in FOLDERS.into_iter().chain(ARCHITECTURES) {
        let golden = Golden::open(name);
        let logits = golden.floats("logits");
        let mut scorer = TargetScorer::new(model(&gpu, name));
        let vocab = scorer.model.config.vocab_size;
        let scores = pollster::block_on(scorer.score(&golden.examples(), &never)).unwrap();
        for (b, target) in golden.targets.iter().enumerate() {
            let row = |t: usize| logits[(b * golden.tgt_len + t) * vocab..][..vocab].iter().map(|&x| f64::from(x));
            let log_prob = |t: usize| {
                let top = row(t).fold(f64::MIN, f64::max);
                row(t).nth(target[t] as usize).unwrap() - top - row(t).map(|x| (x - top).exp()).sum::<f64>().ln()
            };
            let expected: Vec<f64> = (0..target.len()).map(log_prob).collect();
            // The label's logit is off by as much as a logit may be, and so is the sum of all.
            let error = worst(&scores[b].log_probs, &expected);
            assert!(error <= 2.0 * golden.tolerance("logits_max_abs"), "{name} {b}: {error:e}");
            assert!((scores[b].sum() - expected.iter().sum::<f64>()).abs() < 1e-3);
            let likeliest = (0..target.len()).filter(|&t| row(t).all(|x| x <= row(t).nth(target[t] as usize).unwrap()));
            assert_eq!(scores[b].likeliest, likeliest.count());
        }
    }
}

/// Texts of 1 to 100 tokens, each a little different.
fn unequal(n: usize, vocab: u32) -> Vec<Vec<u32>> {
    let source = |i: usize| (0..1 + i * 37 % 100).map(|p| 3 + (i * 31 + p * 7) as u32 % (vocab - 3)).collect();
    (0..n).map(source).collect()
}

#[test]
fn neighbours_order_and_padding_change_no_bit() {
    let gpu = gpu();
    for name in ["flan", "umt5", "families/longt5-tglobal"] {
        let mut encoder = Encoder::new(model(&gpu, name), None).unwrap();
        let vocab = encoder.model.config.vocab_size as u32;
        let sources = unequal(23, vocab);
        let options = EncodeOptions::default();
        let together =
            (states(&mut encoder, &sources, &options), embed(&mut encoder, &sources, Pooling::MeanNormalized));
        let backwards: Vec<_> = sources.iter().rev().cloned().collect();
        let mut turned =
            (states(&mut encoder, &backwards, &options), embed(&mut encoder, &backwards, Pooling::MeanNormalized));
        turned.0.reverse();
        turned.1.reverse();
        assert_eq!(together, turned);
        let examples: Vec<Example> = (sources.iter().zip(backwards.iter()))
            .map(|(source, target)| Example { source: source.clone(), target: target.clone() })
            .collect();
        let mut scorer = TargetScorer::new(model(&gpu, name));
        let scores = pollster::block_on(scorer.score(&examples, &never)).unwrap();
        for (i, source) in sources.iter().enumerate() {
            let alone = std::slice::from_ref(source);
            assert_eq!(states(&mut encoder, alone, &options)[0], together.0[i], "{name} {i}");
            assert_eq!(embed(&mut encoder, alone, Pooling::MeanNormalized)[0], together.1[i], "{name} {i}");
            let alone = pollster::block_on(scorer.score(&examples[i..i + 1], &never)).unwrap();
            assert_eq!(alone[0], scores[i], "{name} {i}");
        }
    }
}

/// Scores of a model whose sources and targets share a row. It has no states of a text by itself.
#[test]
fn rows_of_source_and_target_are_scored_and_not_embedded() {
    let gpu = gpu();
    for name in ["architectures/language-model", "architectures/prefix-lm"] {
        let mut scorer = TargetScorer::new(model(&gpu, name));
        let sources = unequal(23, scorer.model.config.vocab_size as u32);
        let examples: Vec<Example> = (sources.iter().zip(sources.iter().rev()))
            .map(|(source, target)| Example { source: source.clone(), target: target.clone() })
            .collect();
        let scores = pollster::block_on(scorer.score(&examples, &never)).unwrap();
        for (i, score) in scores.iter().enumerate() {
            let alone = pollster::block_on(scorer.score(&examples[i..i + 1], &never)).unwrap();
            assert_eq!(alone[0], *score, "{name} {i}");
        }
        let mut encoder = Encoder::new(model(&gpu, name), None).unwrap();
        let refused = pollster::block_on(encoder.embed(&sources, Pooling::Mean, &never)).unwrap_err().to_string();
        assert!(refused.contains("one stack of blocks without an encoder"), "{refused}");
    }
}

/// Image generators take states of a fixed length: with a mask, padding is zero; without, it takes part.
#[test]
fn padding_takes_part_where_that_is_asked_for() {
    let gpu = gpu();
    let mut encoder = Encoder::new(model(&gpu, "flan"), None).unwrap();
    let width = encoder.model.config.d_model;
    let sources = vec![vec![5, 6, 7, 1], vec![8, 1]];
    let plain = states(&mut encoder, &sources, &EncodeOptions::default());
    let masked = states(&mut encoder, &sources, &EncodeOptions { pad_to: Some(10), unmasked: false });
    let unmasked = states(&mut encoder, &sources, &EncodeOptions { pad_to: Some(10), unmasked: true });
    let longer: Vec<Vec<u32>> = sources.iter().map(|s| [s.clone(), vec![0; 10 - s.len()]].concat()).collect();
    assert_eq!(unmasked, states(&mut encoder, &longer, &EncodeOptions::default()));
    for (plain, masked) in plain.iter().zip(&masked) {
        assert_eq!(masked[..plain.len()], plain[..]);
        assert!(masked.len() == 10 * width && masked[plain.len()..].iter().all(|&x| x == 0.0));
    }
    let short = EncodeOptions { pad_to: Some(3), unmasked: false };
    let error = pollster::block_on(encoder.hidden_states(&sources, &short, &never)).unwrap_err().to_string();
    assert!(error.contains("source 0 has 4 tokens, more than 3"), "{error}");
}

/// An encoder alone embeds as the whole model does, in less memory, and refuses the rest.
#[test]
fn an_encoder_needs_no_decoder() {
    let gpu = gpu();
    let (whole, _) = Model::load(&gpu, &folder("flan")).unwrap();
    let parts = ModelParts::open(&folder("flan")).unwrap().encoder_only();
    let (half, _) = Model::upload(&gpu, &parts, Storage::F32, &mut |_, _| std::ops::ControlFlow::Continue(())).unwrap();
    assert!(half.layout.bytes() < 2 * whole.layout.bytes() / 3);
    let sources = unequal(5, 100);
    let [mut a, mut b] = [half.clone(), whole].map(|m| Encoder::new(m, None).unwrap());
    assert_eq!(embed(&mut a, &sources, Pooling::Mean), embed(&mut b, &sources, Pooling::Mean));
    let example = Example { source: vec![3, 1], target: vec![4, 1] };
    let error = pollster::block_on(TargetScorer::new(half).score(&[example], &never)).unwrap_err();
    assert!(matches!(&error, Error::Input(what) if what.contains("without a decoder")), "{error}");
}

/// A folder as sentence-transformers writes it.
fn sentence_folder(scratch: &Scratch, dense: &[f32], width: usize) -> PathBuf {
    let dir = scratch.path("sentence");
    std::fs::create_dir_all(dir.join("1_Pooling")).unwrap();
    std::fs::create_dir_all(dir.join("2_Dense")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    write(
        "modules.json",
        r#"[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
            {"idx": 3, "name": "3", "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}]"#,
    );
    write("1_Pooling/config.json", r#"{"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}"#);
    let rows = dense.len() / width;
    let config = format!(
        r#"{{"in_features": {width}, "out_features": {rows}, "bias": false,
             "activation_function": "torch.nn.modules.linear.Identity"}}"#
    );
    write("2_Dense/config.json", &config);
    let tensors = [("linear.weight".to_owned(), vec![rows, width])];
    t5_wgpu::checkpoint::write_model(dir.join("2_Dense/model.safetensors"), &tensors, |_| Ok(dense.to_vec())).unwrap();
    dir
}

#[test]
fn sentence_embeddings_go_through_the_modules_of_the_folder() {
    let gpu = gpu();
    let model = model(&gpu, "flan");
    let width = model.config.d_model;
    let dense: Vec<f32> = (0..20 * width).map(|i| ((i * 37 % 101) as f32 - 50.0) / 100.0).collect();
    let scratch = Scratch::new("sentence");
    let dir = sentence_folder(&scratch, &dense, width);
    let head = SentenceHead::open(&gpu, &dir, width).unwrap().expect("modules.json");
    let mut encoder = Encoder::new(model, Some(head)).unwrap();
    let sources = unequal(7, 100);
    let means = embed(&mut encoder, &sources, Pooling::Mean);
    let found = embed(&mut encoder, &sources, Pooling::Sentence);
    for (mean, found) in means.iter().zip(&found) {
        let dot = |row: &[f32]| row.iter().zip(mean).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>();
        let projected: Vec<f64> = dense.chunks(width).map(dot).collect();
        let norm = projected.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!(worst(found, &projected.iter().map(|x| x / norm).collect::<Vec<_>>()) < 1e-6);
    }
    for (i, source) in sources.iter().enumerate() {
        assert_eq!(embed(&mut encoder, std::slice::from_ref(source), Pooling::Sentence)[0], found[i]);
    }

    let refused = |name: &str, text: &str| -> String {
        let before = std::fs::read(dir.join(name)).unwrap();
        std::fs::write(dir.join(name), text).unwrap();
        let error = SentenceHead::open(&gpu, &dir, width).err().expect("refused").to_string();
        std::fs::write(dir.join(name), before).unwrap();
        error
    };
    let error = refused("2_Dense/config.json", r#"{"in_features": 8, "out_features": 8, "bias": false}"#);
    assert!(error.contains("2_Dense") && error.contains("does not fit"), "{error}");
    let error = refused("2_Dense/config.json", r#"{"in_features": 8, "out_features": 8, "bias": true}"#);
    assert!(error.contains("without bias"), "{error}");
    let error = refused("1_Pooling/config.json", r#"{"pooling_mode_cls_token": true}"#);
    assert!(error.contains("1_Pooling") && error.contains("mean"), "{error}");
    let elsewhere = r#"[{"path": "", "type": "x.Transformer"}, {"path": "../secret", "type": "x.Pooling"}]"#;
    let error = refused("modules.json", elsewhere);
    assert!(error.contains("no plain name"), "{error}");
    assert!(refused("modules.json", "[]").contains("no Pooling"));
}

/// A device that is lost in the middle of encoding or scoring is said to be.
#[test]
fn a_lost_device_ends_encoding_and_scoring() {
    for scoring in [false, true] {
        let gpu = gpu();
        let model = model(&gpu, "flan");
        gpu.set_submit_budget(Duration::from_millis(1));
        let lose = || {
            gpu.destroy();
            false
        };
        let error = if scoring {
            let example = Example { source: vec![3; 200], target: vec![4; 100] };
            pollster::block_on(TargetScorer::new(model).score(&[example], &lose)).unwrap_err()
        } else {
            let mut encoder = Encoder::new(model, None).unwrap();
            pollster::block_on(encoder.embed(&vec![vec![3; 200]; 16], Pooling::Mean, &lose)).unwrap_err()
        };
        assert!(matches!(error, Error::DeviceLost(_)), "{error:?}");
    }
}

/// Long work goes out in several submits, which changes no bit; between two of them it can be stopped.
#[test]
fn who_no_longer_wants_a_result_stops_it() {
    let gpu = gpu();
    let mut encoder = Encoder::new(model(&gpu, "flan"), None).unwrap();
    let sources: Vec<Vec<u32>> = (0..16).map(|i| vec![3 + i; 200]).collect();
    let asked = AtomicUsize::new(0);
    let run = |encoder: &mut Encoder, budget: Duration, stop_at: usize| -> Result<_> {
        gpu.set_submit_budget(budget);
        asked.store(0, Ordering::Relaxed);
        let should_stop = || asked.fetch_add(1, Ordering::Relaxed) + 1 == stop_at;
        pollster::block_on(encoder.embed(&sources, Pooling::Mean, &should_stop))
    };
    let whole = run(&mut encoder, Duration::from_secs(100), 0).unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let cut = run(&mut encoder, Duration::from_millis(1), 0).unwrap();
    let pieces = asked.load(Ordering::Relaxed);
    assert!(cut == whole && pieces > 4, "{pieces} pieces");
    assert!(matches!(run(&mut encoder, Duration::from_millis(1), 3), Err(Error::Cancelled)));
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    assert_eq!(run(&mut encoder, Duration::from_millis(1), 0).unwrap(), whole);
}

/// The handle gives what the parts give.
#[test]
fn the_handle_embeds_and_scores() {
    let t5 =
        T5::builder(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny-model")).gpu(&gpu()).load().wait().unwrap();
    let texts = ["one", "another text"];
    let vectors = t5.embed(&texts, Pooling::Mean).wait().unwrap();
    assert_eq!((vectors.width, vectors.rows().len()), (16, 2));
    let mut encoder = Encoder::new(
        Model::load(&t5.gpu(), concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny-model").as_ref()).unwrap().0,
        None,
    )
    .unwrap();
    let ids: Vec<_> = texts.iter().map(|text| t5.tokenizer().encode_with_eos(text).unwrap()).collect();
    assert_eq!(vectors.rows().map(<[f32]>::to_vec).collect::<Vec<_>>(), embed(&mut encoder, &ids, Pooling::Mean));
    let scores = t5.score(&[("one", "two"), ("one", "twofold")]).wait().unwrap();
    assert_eq!(scores[1].log_probs.len(), "twofold".len() + 1);
    assert_eq!(scores[0].log_probs[..3], scores[1].log_probs[..3]);
    let error = t5.embed(&texts, Pooling::Sentence).wait().unwrap_err();
    assert!(error.to_string().contains("modules.json"), "{error}");
}
