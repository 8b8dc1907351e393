//! `t5 convert`: what is written reads back as what it was made from, and rounds as llama.cpp's own tools do.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::Scratch;
use t5_wgpu::Error;
use t5_wgpu::checkpoint::{BlockFormat, Dtype, Encoding, Weights, write_model};
use t5_wgpu::convert::{Conversion, Converted, Format};
use t5_wgpu::model::{ModelParts, T5Config};
use t5_wgpu::tokenizer::Tokenizer;

fn tests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn golden(name: &str) -> PathBuf {
    tests("golden").join(name)
}

/// Converts a model, and gives what was said of its tensors.
fn convert(model: &Path, out: &Path, format: Format, encoding: Option<Encoding>) -> Result<Vec<Converted>, Error> {
    let conversion = Conversion::new(ModelParts::open_any(model)?, Tokenizer::from_dir(model).ok(), format, encoding)?;
    let (mut said, mut last) = (Vec::new(), 0);
    conversion.write(out, &mut |tensor, done| {
        last = done;
        said.push(tensor.clone());
        ControlFlow::Continue(())
    })?;
    assert_eq!(last, conversion.bytes());
    Ok(said)
}

fn encodings(weights: &Weights) -> Vec<Encoding> {
    weights.names().map(|name| weights.encoding(name).unwrap()).collect()
}

#[test]
fn there_and_back_is_the_same_model() {
    let scratch = Scratch::new("there-and-back");
    for name in ["t5v10", "flan", "mt5"] {
        let (file, folder) = (scratch.path(&format!("{name}.gguf")), scratch.path(name));
        let said = convert(&golden(name), &file, Format::Gguf, None).unwrap();
        assert!(said.iter().all(|t| t.relative_error == 0.0 && t.largest_error == 0.0));
        convert(&file, &folder, Format::Folder, None).unwrap();
        let [before, between, after] = [&golden(name), &file, &folder].map(|path| ModelParts::open(path).unwrap());
        for parts in [&between, &after] {
            let untied = |parts: &ModelParts| parts.weights.contains("lm_head.weight");
            // mT5's head is the embedding, but not scaled: GGUF cannot say so, and has it twice.
            assert_eq!(untied(parts), untied(&before) || name == "mt5", "{name}");
            assert_eq!(parts.config.output_scale(untied(parts)).0, before.config.output_scale(untied(&before)).0);
            assert_eq!(parts.config.feed_forward_proj, before.config.feed_forward_proj);
            assert_eq!(parts.config.num_decoder_layers, before.config.num_decoder_layers);
            for (tensor, shape) in before.config.tensor_shapes(untied(&before)) {
                let read = |parts: &ModelParts| parts.weights.read_f32(&tensor, &shape).unwrap();
                assert_eq!(read(parts), read(&before), "{name} {tensor}");
            }
        }
    }
}

/// GGUF cannot say that this head is the embedding and not scaled, so that the embedding is written twice.
#[test]
fn a_head_that_files_cannot_describe_is_written_out() {
    let scratch = Scratch::new("written-out");
    let dir = scratch.path("model");
    fs::create_dir_all(&dir).unwrap();
    let config = fs::read_to_string(golden("t5v10").join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["scale_decoder_outputs"] = false.into();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::copy(golden("t5v10").join("model.safetensors"), dir.join("model.safetensors")).unwrap();
    let file = scratch.path("model.gguf");
    convert(&dir, &file, Format::Gguf, None).unwrap();
    let parts = ModelParts::open(&file).unwrap();
    let read = |name: &str| parts.weights.read_f32(name, &[128, 32]).unwrap();
    assert_eq!(read("lm_head.weight"), read("shared.weight"));
    assert_eq!(parts.config.output_scale(true).0, 1.0);
}

#[test]
fn what_files_cannot_say_is_refused() {
    let scratch = Scratch::new("cannot-say");
    for (key, value, what) in [
        ("feed_forward_proj", "gated-silu".into(), "activation is gated-silu"),
        ("relative_attention_max_distance", 256.into(), "distance is 256"),
    ] {
        let dir = scratch.path(key);
        fs::create_dir_all(&dir).unwrap();
        let config = fs::read_to_string(golden("flan").join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        config[key] = value;
        // The settings that stand over the first.
        config.as_object_mut().unwrap().retain(|key, _| key != "dense_act_fn" && key != "is_gated_act");
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
        fs::copy(golden("flan").join("model.safetensors"), dir.join("model.safetensors")).unwrap();
        let refused = convert(&dir, &scratch.path("x.gguf"), Format::Gguf, None).unwrap_err().to_string();
        assert!(refused.contains(what), "{refused}");
    }
    let q8 = Some(Encoding::Blocks(BlockFormat::Q8_0));
    let refused = convert(&golden("t5v10"), &scratch.path("q8"), Format::Folder, q8).unwrap_err().to_string();
    assert!(refused.contains("Q8_0") && refused.contains(".gguf"), "{refused}");
    // Not even where no row is a whole number of blocks.
    assert!(convert(&golden("flan"), &scratch.path("q8"), Format::Folder, q8).is_err());
    assert!(!scratch.path("q8").exists() && !scratch.path("x.gguf").exists());
}

/// Blocks are those of the Python package `gguf`, byte for byte (tests/golden/formats.py, quantized).
#[test]
fn blocks_are_those_of_llama_cpp() {
    let numbers = Weights::open_file(tests("data/sources/gguf/quantized.safetensors")).unwrap();
    let expected = Weights::open_file(tests("data/sources/gguf/quantized.gguf")).unwrap();
    let shape = numbers.shape("numbers").unwrap().to_vec();
    let numbers = numbers.read_f32("numbers", &shape).unwrap();
    for format in [BlockFormat::Q8_0, BlockFormat::Q4_0, BlockFormat::Q4_1] {
        let found = format.encode(&numbers).unwrap();
        let expected = expected.read_blocks(format.name(), format, &shape).unwrap();
        let differing = found.chunks(format.bytes()).zip(expected.chunks(format.bytes())).filter(|(f, e)| f != e);
        assert_eq!(differing.count(), 0, "{}", format.name());
    }
    assert!(matches!(BlockFormat::Q6K.encode(&numbers), Err(Error::Input(_))));
    assert!(matches!(BlockFormat::Q8_0.encode(&[f32::NAN; 32]), Err(Error::Numeric(_))));
    assert!(matches!(BlockFormat::Q8_0.encode(&[1e9; 32]), Err(Error::Numeric(_))));
}

#[test]
fn errors_are_those_of_the_type() {
    let scratch = Scratch::new("errors");
    for (encoding, least, most) in [
        (Encoding::Plain(Dtype::F16), 1e-4, 3e-4),
        (Encoding::Plain(Dtype::BF16), 1e-3, 2e-3),
        (Encoding::Blocks(BlockFormat::Q8_0), 3e-3, 7e-3),
        (Encoding::Blocks(BlockFormat::Q4_1), 5e-2, 1.1e-1),
        (Encoding::Blocks(BlockFormat::Q4_0), 5e-2, 1.3e-1),
    ] {
        let file = scratch.path("model.gguf");
        let said = convert(&golden("t5v10"), &file, Format::Gguf, Some(encoding)).unwrap();
        let weights = Weights::open(&file).unwrap();
        for tensor in &said {
            let is_matrix = tensor.shape.len() == 2 && !tensor.name.contains("relative_attention_bias");
            assert_eq!(
                weights.encoding(&tensor.name),
                Some(if is_matrix { encoding } else { Encoding::Plain(Dtype::F32) })
            );
            let range = if is_matrix { least..most } else { 0.0..1e-300 };
            assert!(range.contains(&tensor.relative_error), "{encoding}: {tensor:?}");
            assert!(tensor.largest_error >= tensor.relative_error * 1e-3 || !is_matrix);
        }
        // As it is, none of it is rounded again.
        let copy = scratch.path("copy.gguf");
        convert(&file, &copy, Format::Gguf, None).unwrap();
        assert_eq!(encodings(&Weights::open(&copy).unwrap()), encodings(&weights));
        for tensor in &said {
            let read = |path: &Path| Weights::open(path).unwrap().read_f32(&tensor.name, &tensor.shape).unwrap();
            assert_eq!(read(&copy), read(&file));
        }
    }
}

#[test]
fn vocabularies_go_along() {
    let scratch = Scratch::new("vocabularies");
    for name in ["sp_test_model.model", "byte_fallback.spiece.model", "t5-small.tokenizer.json"] {
        let before = Tokenizer::open(tests("data/tokenizers").join(name).to_str().unwrap()).unwrap();
        let file = scratch.path("model.gguf");
        // A model with as many rows as the vocabulary has ids.
        let dir = scratch.path("model");
        fs::create_dir_all(&dir).unwrap();
        let mut config = T5Config::from_dir(&golden("t5v10")).unwrap();
        config.vocab_size = before.vocab_size();
        fs::write(dir.join("config.json"), config.to_json()).unwrap();
        let shapes = config.tensor_shapes(false);
        let zeros =
            |tensor: &str| Ok(vec![0.0; shapes.iter().find(|(name, _)| name == tensor).unwrap().1.iter().product()]);
        write_model(dir.join("model.safetensors"), &shapes, zeros).unwrap();
        let parts = ModelParts::open(&dir).unwrap();
        let conversion = Conversion::new(parts, Some(before.clone()), Format::Gguf, None).unwrap();
        conversion.write(&file, &mut |_, _| ControlFlow::Continue(())).unwrap();
        let after = Tokenizer::from_dir(&file).unwrap();
        assert_eq!(after.vocab_size(), before.vocab_size(), "{name}");
        for text in ["that is good.", "  A B\u{2003}C ", "½ ﬁne <extra_id_0> x"] {
            assert_eq!(before.encode(text).unwrap(), after.encode(text).unwrap(), "{name}: {text}");
        }
    }
}

#[test]
fn what_is_stopped_or_fails_leaves_nothing() {
    let scratch = Scratch::new("stopped");
    let folder = scratch.path("");
    for (format, out) in [(Format::Gguf, scratch.path("x.gguf")), (Format::Folder, scratch.path("x"))] {
        let parts = ModelParts::open(&golden("flan")).unwrap();
        let conversion = Conversion::new(parts, None, format, None).unwrap();
        let mut left = 3;
        let stopped = conversion.write(&out, &mut |_, _| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(stopped, Err(Error::Cancelled)));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "{format:?}");
    }
    // A folder with something in it is no place.
    fs::create_dir_all(scratch.path("mine")).unwrap();
    fs::write(scratch.path("mine/poem.txt"), "x").unwrap();
    convert(&golden("flan"), &scratch.path("mine"), Format::Folder, None).unwrap_err();
    assert_eq!(fs::read_dir(scratch.path("mine")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

/// Encoders, and heads over labels: a folder says which, a GGUF file has a place for encoders alone.
#[test]
fn models_that_write_no_text_stay_so() {
    let scratch = Scratch::new("no-text");
    let classifiers = ["sequence-classifier", "mt5-sequence-classifier", "token-classifier"];
    for name in ["umt5-encoder", "prott5", "chronos-bolt"].into_iter().chain(classifiers) {
        let model = golden("families").join(name);
        let before = ModelParts::open_any(&model).unwrap();
        let dir = scratch.path(name);
        convert(&model, &dir, Format::Folder, None).unwrap();
        let after = ModelParts::open_any(&dir).unwrap();
        let without_extra = |parts: &ModelParts| T5Config { extra: Default::default(), ..parts.config.clone() };
        assert_eq!(without_extra(&after), without_extra(&before), "{name}");
        for (tensor, shape) in before.config.tensor_shapes(false) {
            let read = |parts: &ModelParts| parts.weights.read_f32(&tensor, &shape);
            // The embedding has several names in files.
            if let Ok(values) = read(&before) {
                assert_eq!(read(&after).unwrap(), values, "{name} {tensor}");
            }
        }
        let class = |dir: &Path| {
            let text = fs::read_to_string(dir.join("config.json")).unwrap();
            serde_json::from_str::<serde_json::Value>(&text).unwrap()["architectures"][0].clone()
        };
        assert_eq!(class(&dir), class(&model), "{name}");
        if before.config.classifier.is_some() {
            let refused = convert(&model, &scratch.path("x.gguf"), Format::Gguf, None).unwrap_err().to_string();
            assert!(refused.contains("classifies"), "{refused}");
        }
        if before.config.patches.is_some() {
            let refused = convert(&model, &scratch.path("x.gguf"), Format::Gguf, None).unwrap_err().to_string();
            assert!(refused.contains("patches"), "{refused}");
        }
    }
    let parts = ModelParts::open_any(&golden("t5v10")).unwrap().encoder_only();
    let file = scratch.path("encoder.gguf");
    Conversion::new(parts, None, Format::Gguf, None)
        .unwrap()
        .write(&file, &mut |_, _| ControlFlow::Continue(()))
        .unwrap();
    let parts = ModelParts::open_any(&file).unwrap();
    let expected = T5Config::from_dir(&golden("t5v10")).unwrap();
    assert_eq!((parts.config.num_decoder_layers, parts.config.num_layers), (0, expected.num_layers));
}

/// Both kinds of LongT5: the names of its modules and what its encoder sees come back; a GGUF file cannot say the latter.
#[test]
fn longt5_stays_so() {
    let scratch = Scratch::new("longt5");
    for name in ["longt5-local", "longt5-tglobal"] {
        let model = golden("families").join(name);
        let dir = scratch.path(name);
        convert(&model, &dir, Format::Folder, None).unwrap();
        let (before, after) = (ModelParts::open(&model).unwrap(), ModelParts::open(&dir).unwrap());
        assert_eq!(after.config, T5Config { extra: after.config.extra.clone(), ..before.config.clone() }, "{name}");
        let read = |folder: &Path| -> serde_json::Value {
            serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap()
        };
        let (old, new) = (read(&model), read(&dir));
        for key in ["architectures", "model_type", "encoder_attention_type", "local_radius", "global_block_size"] {
            assert_eq!(new[key], old[key], "{name} {key}");
        }
        let mut names: Vec<&str> = before.weights.names().collect();
        let mut again: Vec<&str> = after.weights.names().collect();
        names.sort_unstable();
        again.sort_unstable();
        assert_eq!(again, names, "{name}");
        for (tensor, shape) in before.config.tensor_shapes(true) {
            let values = |parts: &ModelParts| parts.weights.read_f32(&tensor, &shape).unwrap();
            assert_eq!(values(&after), values(&before), "{name} {tensor}");
        }
        let refused = convert(&model, &scratch.path("x.gguf"), Format::Gguf, None).unwrap_err().to_string();
        assert!(refused.contains("sees only what is near"), "{refused}");
    }
}
