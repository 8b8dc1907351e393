//! GGUF: models, blocks and vocabularies against the Python package that defines the format; damaged and hostile files.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::Scratch;
use serde_json::Value;
use t5_wgpu::checkpoint::{BlockFormat, Dtype, Encoding, Weights};
use t5_wgpu::model::config::Family;
use t5_wgpu::model::{ModelParts, T5Config};
use t5_wgpu::tokenizer::Tokenizer;

fn tests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn source(name: &str) -> PathBuf {
    tests("data/sources").join(name)
}

const FORMATS: [BlockFormat; 8] = [
    BlockFormat::Q4_0,
    BlockFormat::Q4_1,
    BlockFormat::Q5_0,
    BlockFormat::Q5_1,
    BlockFormat::Q8_0,
    BlockFormat::Q4K,
    BlockFormat::Q5K,
    BlockFormat::Q6K,
];

#[test]
fn blocks_stand_for_the_numbers_that_numpy_finds() {
    let weights = Weights::open_file(source("gguf/blocks.gguf")).unwrap();
    let expected = Weights::open_file(source("gguf/blocks.safetensors")).unwrap();
    assert_eq!(weights.names().count(), 12);
    for name in expected.names() {
        let shape = expected.shape(name).unwrap();
        assert_eq!(weights.shape(name), Some(shape), "{name}");
        assert_eq!(weights.read_f32(name, shape).unwrap(), expected.read_f32(name, shape).unwrap(), "{name}");
    }
    for format in FORMATS {
        let name = format.name();
        assert_eq!((weights.encoding(name), weights.dtype(name)), (Some(Encoding::Blocks(format)), None));
        let blocks = weights.read_blocks(name, format, &[3, 512]).unwrap();
        assert_eq!(blocks.len(), 3 * 512 / format.elements() * format.bytes());
        let mut one = vec![0.0; format.elements()];
        format.decode(&blocks[..format.bytes()], &mut one);
        assert_eq!(one, expected.read_f32(name, &[3, 512]).unwrap()[..format.elements()]);
        let refused = weights.read_bytes(name, Dtype::F32, &[3, 512]).unwrap_err().to_string();
        assert!(refused.contains(&format!("tensor {name} is stored as {name}, expected F32")), "{refused}");
    }
    let refused = weights.read_blocks("f16", BlockFormat::Q8_0, &[2, 5]).unwrap_err().to_string();
    assert!(refused.contains("tensor f16 is stored as F16, expected Q8_0"), "{refused}");
}

#[test]
fn the_settings_of_a_file_and_its_tensors_tell_the_configuration() {
    for name in ["t5v10", "flan"] {
        let expected = T5Config::from_dir(&tests("golden").join(name)).unwrap();
        for path in [source(&format!("{name}-gguf")), source(&format!("{name}-gguf/model.gguf"))] {
            let parts = ModelParts::open(&path).unwrap();
            let found = T5Config { extra: expected.extra.clone(), ..parts.config };
            assert_eq!(found, expected, "{name}");
            assert_eq!(T5Config::from_dir(&path).unwrap().feed_forward_proj, expected.feed_forward_proj);
            let remark = parts.remarks.last().unwrap();
            for part in ["model.gguf: not said there", "activation", "the head is", "distance is 128"] {
                assert!(remark.contains(part), "{remark}");
            }
        }
    }
}

#[test]
fn weights_of_both_namings_are_those_of_the_folder() {
    for (model, path) in [("t5v10", "t5v10-gguf"), ("flan", "flan-gguf"), ("mt5", "mt5-hf-gguf")] {
        let (expected, found) =
            (Weights::open(tests("golden").join(model)).unwrap(), Weights::open(source(path)).unwrap());
        assert_eq!(found.names().collect::<Vec<_>>(), expected.names().collect::<Vec<_>>());
        for name in expected.names() {
            let shape = expected.shape(name).unwrap();
            let mut values = expected.read_f32(name, shape).unwrap();
            if found.dtype(name) == Some(Dtype::F16) {
                values.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32());
            }
            assert_eq!(found.read_f32(name, shape).unwrap(), values, "{name}");
        }
    }
    // Without settings of its own, a file needs those beside it.
    let scratch = Scratch::new("gguf-beside");
    fs::copy(source("mt5-hf-gguf/model.gguf"), scratch.path("a.gguf")).unwrap();
    let refused = ModelParts::open(&scratch.path("a.gguf")).unwrap_err().to_string();
    assert!(refused.contains("config.json"), "{refused}");
    fs::copy(tests("golden/mt5/config.json"), scratch.path("config.json")).unwrap();
    assert_eq!(ModelParts::open(&scratch.path("a.gguf")).unwrap().config.model_type, Family::Mt5);
    // In a folder, config.json goes before what a file says itself.
    let (both, flan) = (Scratch::new("gguf-both"), source("flan-gguf/model.gguf"));
    fs::copy(&flan, both.path("a.gguf")).unwrap();
    let config = fs::read_to_string(tests("golden/flan/config.json")).unwrap().replace("gelu_new", "silu");
    fs::write(both.path("config.json"), config.replace("gated-gelu", "gated-silu")).unwrap();
    let activation = |path: &Path| ModelParts::open(path).unwrap().config.feed_forward_proj.config_name();
    assert_eq!([activation(&both.path("")), activation(&both.path("a.gguf"))], ["gated-silu", "gated-gelu"]);
    fs::copy(flan, scratch.path("b.gguf")).unwrap();
    let refused = ModelParts::open(&scratch.path("")).unwrap_err().to_string();
    assert!(refused.contains("several GGUF files: a.gguf, b.gguf; name one of them"), "{refused}");
}

#[test]
fn a_vocabulary_in_a_file_gives_the_ids_of_the_one_that_it_was_made_from() {
    let scratch = Scratch::new("gguf-vocabulary");
    // The rows behind the pieces are not tokens, but room for sentinels: of 128 as many as T5 has; 8 are only filling.
    let cases =
        [("vocabulary", "sp_test_model", (100, Some(1099), 1100)), ("vocabulary-small", "rules", (0, None, 160))];
    for (file, pieces, counts) in cases {
        let tokenizer = Tokenizer::open(source(&format!("gguf/{file}.gguf")).to_str().unwrap()).unwrap();
        let golden = fs::read_to_string(tests(&format!("data/tokenizers/{pieces}.golden_encodings.jsonl"))).unwrap();
        let rows: Vec<Value> = golden.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(rows.len() > 50);
        let saved = scratch.path(file);
        tokenizer.save(&saved).unwrap();
        for tokenizer in [&tokenizer, &Tokenizer::from_dir(&saved).unwrap()] {
            for row in &rows {
                let ids: Vec<Value> =
                    tokenizer.encode(row["text"].as_str().unwrap()).unwrap().into_iter().map(Value::from).collect();
                assert_eq!(&ids, row["ids"].as_array().unwrap(), "{file}: {row}");
            }
            assert_eq!((tokenizer.n_sentinels(), tokenizer.sentinel(0), tokenizer.vocab_size()), counts);
        }
    }
    let refused = Tokenizer::from_dir(&source("t5v10-gguf")).err().unwrap().to_string();
    assert!(refused.contains("the folder has no tokenizer"), "{refused}");
}

/// A GGUF file: settings as bytes of their type and value, tensors with their type, shape (innermost first), offset.
fn gguf(version: u32, settings: &[(&str, Vec<u8>)], tensors: &[(&str, u32, &[u64], u64)], data: usize) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((settings.len() as u64).to_le_bytes());
    for (key, value) in settings {
        bytes.extend(text(key));
        bytes.extend(value);
    }
    for (name, kind, shape, offset) in tensors {
        bytes.extend(text(name));
        bytes.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn number(number: u32) -> Vec<u8> {
    [4u32.to_le_bytes(), number.to_le_bytes()].concat()
}

fn word(word: &str) -> Vec<u8> {
    [8u32.to_le_bytes().to_vec(), text(word)].concat()
}

/// A list that says it has `n` values of a type, and is followed by these bytes.
fn list(kind: u32, n: u64, values: &[u8]) -> Vec<u8> {
    [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &n.to_le_bytes(), values].concat()
}

#[test]
fn damaged_and_hostile_files_are_refused_with_what_is_wrong() {
    let f32s = |offset| ("a", 0u32, &[4u64][..], offset);
    let whole = gguf(3, &[("general.alignment", number(32))], &[f32s(0), ("b", 0, &[2, 2], 32)], 48);
    for version in [2, 3] {
        let whole = gguf(version, &[], &[f32s(0)], 16);
        assert_eq!(Weights::from_bytes("a.gguf", whole).unwrap().read_f32("a", &[4]).unwrap(), [0.0; 4]);
    }
    let mut big_endian = whole.clone();
    big_endian[4..8].reverse();
    let huge = u64::MAX / 2;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"GGML".to_vec(), "does not begin with GGUF"),
        (whole[..20].to_vec(), "cut short"),
        (whole[..whole.len() - 33].to_vec(), "is not within the file"),
        (big_endian, "big-endian"),
        (gguf(1, &[], &[], 0), "version 1"),
        (gguf(9, &[], &[], 0), "version 9"),
        (gguf(3, &[], &[f32s(0), f32s(32)], 64), "two tensors a"),
        (gguf(3, &[("k", number(1)), ("k", number(1))], &[], 0), "two settings k"),
        (gguf(3, &[], &[f32s(0), ("b", 0, &[16], 0)], 64), "a and b overlap"),
        (gguf(3, &[], &[f32s(4)], 64), "is not within the file"),
        (gguf(3, &[], &[f32s(huge)], 64), "is not within the file"),
        (gguf(3, &[], &[("a", 0, &[huge, huge], 0)], 64), "has the shape"),
        (gguf(3, &[], &[("a", 0, &[1; 5], 0)], 64), "has 5 dimensions"),
        (gguf(3, &[], &[("a", 8, &[33], 0)], 64), "which Q8_0 cannot have"),
        (gguf(3, &[], &[("a", 12, &[128, 2], 0)], 512), "which Q4_K cannot have"),
        (gguf(3, &[], &[("a", 10, &[256], 0)], 512), "type 10 Q2_K"),
        (gguf(3, &[], &[("a", 18, &[256], 0)], 512), "of the IQ family"),
        (gguf(3, &[], &[("a", 99, &[256], 0)], 512), "type 99"),
        (gguf(3, &[("general.alignment", number(0))], &[f32s(0)], 16), "no power of two"),
        (gguf(3, &[("general.alignment", number(24))], &[f32s(0)], 16), "no power of two"),
        (gguf(3, &[("k", 13u32.to_le_bytes().to_vec())], &[], 64), "setting k: the type 13"),
        (gguf(3, &[("k", list(4, 1 << 40, &[]))], &[], 64), "more than there can be"),
        (gguf(3, &[("k", list(9, 1, &[]))], &[], 64), "a list of values of the type 9"),
        (gguf(3, &[("k", list(8, 3, &u64::MAX.to_le_bytes()))], &[], 64), "setting k: it "),
        (
            gguf(3, &[("k", [8u32.to_le_bytes().to_vec(), vec![1, 0, 0, 0, 0, 0, 0, 0, 0xff]].concat())], &[], 64),
            "no UTF-8",
        ),
    ];
    for (bytes, part) in cases {
        let refused = Weights::from_bytes("some.gguf", bytes).unwrap_err().to_string();
        assert!(refused.starts_with("some.gguf: ") && refused.contains(part), "{part}: {refused}");
    }
    for len in 0..whole.len() {
        assert!(Weights::from_bytes("cut.gguf", whole[..len].to_vec()).is_err(), "{len} of {}", whole.len());
    }
}

/// The settings of a small T5, without what `leave` names.
fn settings(leave: &str) -> Vec<(&'static str, Vec<u8>)> {
    let eps = [6u32.to_le_bytes(), 1e-6f32.to_le_bytes()].concat();
    let mut all = vec![
        ("general.architecture", word("t5")),
        ("t5.embedding_length", number(8)),
        ("t5.feed_forward_length", number(16)),
        ("t5.block_count", number(2)),
        ("t5.attention.head_count", number(2)),
        ("t5.attention.layer_norm_rms_epsilon", eps),
    ];
    all.retain(|(key, _)| *key != leave);
    all
}

#[test]
fn what_settings_lack_is_inferred_or_named() {
    let scratch = Scratch::new("gguf-inferred");
    let table: &[u64] = &[2, 4];
    // Offsets of nothing: the values do not matter here.
    let tensors = [
        ("token_embd.weight", 0, &[8u64, 24][..], 0),
        ("enc.blk.0.attn_q.weight", 0, &[8, 12], 768),
        ("dec.blk.0.attn_q.weight", 0, &[8, 12], 1152),
        ("dec.blk.1.attn_q.weight", 0, &[8, 12], 1536),
        ("dec.blk.2.attn_q.weight", 0, &[8, 12], 1920),
        ("enc.blk.0.attn_rel_b.weight", 0, table, 2304),
        ("enc.blk.1.attn_rel_b.weight", 0, table, 2336),
    ];
    let open = |settings: &[(&str, Vec<u8>)], n: usize| {
        ModelParts::open(&scratch.file("m.gguf", gguf(3, settings, &tensors[..n], 2400)))
    };
    let umt5 = open(&settings(""), 7).unwrap().config;
    assert_eq!((umt5.model_type, umt5.num_decoder_layers, umt5.d_kv), (Family::Umt5, 3, 6));
    assert_eq!((umt5.relative_attention_num_buckets, umt5.vocab_size), (4, 24));
    assert_eq!(umt5.layer_norm_epsilon, 1e-6);
    assert!(umt5.tie_word_embeddings && !umt5.feed_forward_proj.gated);
    assert_eq!(open(&settings(""), 6).unwrap().config.model_type, Family::T5);
    for key in ["t5.embedding_length", "t5.block_count", "t5.attention.head_count"] {
        let refused = open(&settings(key), 7).unwrap_err().to_string();
        assert!(
            refused.contains("m.gguf: ") && refused.contains(&format!("the setting {key} is missing")),
            "{refused}"
        );
    }
    let mut other = settings("general.architecture");
    other.push(("general.architecture", word("llama")));
    let refused = open(&other, 7).unwrap_err().to_string();
    assert!(refused.contains("m.gguf: this is a model of the kind llama, not a T5"), "{refused}");
    let mut odd = settings("t5.block_count");
    odd.push(("t5.block_count", word("two")));
    let refused = open(&odd, 7).unwrap_err().to_string();
    assert!(refused.contains("the setting t5.block_count is no size"), "{refused}");
    let mut bpe = settings("");
    bpe.push(("tokenizer.ggml.model", word("gpt2")));
    let path = scratch.file("bpe.gguf", gguf(3, &bpe, &tensors, 2400));
    let refused = Tokenizer::from_dir(&path).err().unwrap().to_string();
    assert!(refused.contains("bpe.gguf: ") && refused.contains("of the kind gpt2"), "{refused}");
}
