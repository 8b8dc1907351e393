//! Weights in and out: the golden models, other storage types, damaged and hostile files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use t5_wgpu::checkpoint::{Dtype, Weights, write_model};
use t5_wgpu::model::config::T5Config;

const GOLDEN: [(&str, bool); 3] = [("t5v10", false), ("flan", true), ("byt5", true)];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// An empty folder of this test's own, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("t5-checkpoint-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A safetensors file with this header and so many bytes of data.
fn safetensors(header: &Value, data: usize) -> Vec<u8> {
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn tensor<'a>(name: &'a str, dtype: Dtype, shape: &[usize], bytes: &'a [u8]) -> (&'a str, TensorView<'a>) {
    (name, TensorView::new(dtype, shape.to_vec(), bytes).unwrap())
}

fn write_tensors<'a>(path: &Path, tensors: impl IntoIterator<Item = (&'a str, TensorView<'a>)>) {
    safetensors::serialize_to_file(tensors, None, path).unwrap();
}

fn open_error(dir: &Path) -> String {
    Weights::open(dir).unwrap_err().to_string()
}

#[test]
fn golden_models_hold_exactly_the_expected_tensors() {
    for (name, untied) in GOLDEN {
        let config = T5Config::from_file(golden(name).join("config.json")).unwrap();
        let weights = Weights::open(golden(name)).unwrap();
        let expected: BTreeMap<String, Vec<usize>> = config.tensor_shapes(untied).into_iter().collect();
        let found: BTreeMap<String, Vec<usize>> =
            weights.names().map(|name| (name.to_owned(), weights.shape(name).unwrap().to_vec())).collect();
        assert_eq!(found, expected, "{name}");
        assert_eq!(weights.embedding_name().unwrap(), "shared.weight");
        assert_eq!(weights.contains("lm_head.weight"), untied);
        assert!(weights.unused(expected.keys().map(String::as_str)).is_empty());
        assert_eq!(config.tie_word_embeddings, !untied);
        let values: usize = expected.values().map(|shape| shape.iter().product::<usize>()).sum();
        assert_eq!(values as u64, config.param_count());
    }
}

#[test]
fn golden_models_round_trip_byte_for_byte() {
    let scratch = Scratch::new("round-trip");
    for (name, untied) in GOLDEN {
        let config = T5Config::from_file(golden(name).join("config.json")).unwrap();
        let weights = Weights::open(golden(name)).unwrap();
        let shapes = config.tensor_shapes(untied);
        let path = scratch.0.join("model.safetensors");
        write_model(&path, &shapes, |name| weights.read_f32(name, weights.shape(name).unwrap())).unwrap();
        assert!(fs::read(&path).unwrap() == fs::read(golden(name).join("model.safetensors")).unwrap(), "{name}");

        let saved = T5Config::from_json(&config.for_head(untied).to_json(), "saved").unwrap();
        assert_eq!(saved, config);
        // Every key of the original is there with its value, but for the derived ones.
        let original: BTreeMap<String, Value> =
            serde_json::from_slice(&fs::read(golden(name).join("config.json")).unwrap()).unwrap();
        let written: BTreeMap<String, Value> = serde_json::from_str(&saved.to_json()).unwrap();
        for (key, value) in original {
            if !["dense_act_fn", "is_gated_act"].contains(&key.as_str()) {
                assert_eq!(written.get(&key), Some(&value), "{name} {key}");
            }
        }
    }
}

#[test]
fn reads_every_float_type_and_refuses_others() {
    let scratch = Scratch::new("types");
    let values = [0.0f32, -1.5, 65504.0, 2.0f32.powi(-14)];
    let f64s: Vec<u8> = values.iter().flat_map(|&v| (v as f64).to_le_bytes()).collect();
    let f32s: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let f16s: Vec<u8> = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
    let bf16s: Vec<u8> = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
    let ids: Vec<u8> = [7i64, -100].iter().flat_map(|v| v.to_le_bytes()).collect();
    let raw = tensor;
    let path = scratch.0.join("model.safetensors");
    let tensors = [
        raw("half", Dtype::F16, &[2, 2], &f16s),
        raw("double", Dtype::F64, &[2, 2], &f64s),
        raw("brain", Dtype::BF16, &[2, 2], &bf16s),
        raw("ids", Dtype::I64, &[2], &ids),
        raw("single", Dtype::F32, &[2, 2], &f32s),
        raw("none", Dtype::F32, &[0, 2], &[]),
        raw("scalar", Dtype::F32, &[], &f32s[4..8]),
    ];
    write_tensors(&path, tensors);
    let weights = Weights::open(&scratch.0).unwrap();
    for name in ["single", "half", "double"] {
        assert_eq!(weights.read_f32(name, &[2, 2]).unwrap(), values, "{name}");
    }
    let brain = values.map(|v| bf16::from_f32(v).to_f32());
    assert_eq!(weights.read_f32("brain", &[2, 2]).unwrap(), brain);
    assert_eq!(weights.read_f32("none", &[0, 2]).unwrap(), [0.0; 0]);
    assert_eq!(weights.read_f32("scalar", &[]).unwrap(), [-1.5]);
    assert_eq!(weights.read_bytes("ids", Dtype::I64, &[2]).unwrap(), ids);
    let refused = weights.read_f32("ids", &[2]).unwrap_err().to_string();
    assert!(refused.contains("model.safetensors: tensor ids is stored as I64; only F32"), "{refused}");
    let refused = weights.read_bytes("ids", Dtype::U64, &[2]).unwrap_err().to_string();
    assert!(refused.contains("tensor ids is stored as I64, expected U64"), "{refused}");
}

#[test]
fn read_errors_name_tensor_and_shapes() {
    let weights = Weights::open(golden("flan")).unwrap();
    let error = weights.read_f32("shared.weight", &[48, 160]).unwrap_err().to_string();
    assert!(error.contains("model.safetensors: tensor shared.weight has shape [160, 48]"), "{error}");
    assert!(error.contains("asks for [48, 160]"), "{error}");
    let error = weights.read_f32("encoder.nothing", &[3]).unwrap_err().to_string();
    assert!(error.contains("model.safetensors: tensor encoder.nothing with shape [3] is missing"), "{error}");
}

#[test]
fn values_that_are_not_finite_are_refused_both_ways() {
    let scratch = Scratch::new("finite");
    for (value, dtype) in [(f64::NAN, Dtype::F32), (f64::INFINITY, Dtype::F32), (1e300, Dtype::F64)] {
        let bytes = match dtype {
            Dtype::F64 => [0.0, value].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
            _ => [0.0, value as f32].iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        let path = scratch.0.join("model.safetensors");
        write_tensors(&path, [tensor("bad.weight", dtype, &[2], &bytes)]);
        let error = Weights::open(&scratch.0).unwrap().read_f32("bad.weight", &[2]).unwrap_err().to_string();
        assert!(error.contains("tensor bad.weight holds") && error.contains("at element 1"), "{error}");
        let shapes = [("bad.weight".to_owned(), vec![2])];
        let error = write_model(&path, &shapes, |_| Ok(vec![0.0, value as f32])).unwrap_err().to_string();
        assert!(error.contains("parameter bad.weight is"), "{error}");
    }
}

#[test]
fn damaged_and_hostile_files_are_refused() {
    let scratch = Scratch::new("hostile");
    let whole = fs::read(golden("t5v10").join("model.safetensors")).unwrap();
    let f32_at = |shape: Value, range: [usize; 2]| json!({"dtype": "F32", "shape": shape, "data_offsets": range});
    let mut longer = whole.clone();
    longer.push(0);
    let mut header_too_long = whole.clone();
    header_too_long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut header_past_end = whole.clone();
    header_past_end[..8].copy_from_slice(&99_000_000u64.to_le_bytes());
    let huge = usize::MAX / 2;
    let cases = [
        ("empty", Vec::new()),
        ("seven bytes", whole[..7].to_vec()),
        ("cut in the header", whole[..100].to_vec()),
        ("cut in the data", whole[..whole.len() - 1].to_vec()),
        ("too long", longer),
        ("header of 2^64 bytes", header_too_long),
        ("header beyond the end", header_past_end),
        ("not UTF-8", [&4u64.to_le_bytes()[..], &[0xff; 4]].concat()),
        ("not JSON", [&4u64.to_le_bytes()[..], b"{a:1"].concat()),
        ("overlap", safetensors(&json!({"a": f32_at(json!([2]), [0, 8]), "b": f32_at(json!([2]), [4, 12])}), 12)),
        ("gap", safetensors(&json!({"a": f32_at(json!([1]), [0, 4]), "b": f32_at(json!([1]), [8, 12])}), 12)),
        ("backwards", safetensors(&json!({"a": f32_at(json!([1]), [4, 0])}), 4)),
        ("beyond the end", safetensors(&json!({"a": f32_at(json!([9]), [0, 36])}), 4)),
        ("shape against length", safetensors(&json!({"a": f32_at(json!([3]), [0, 8])}), 8)),
        ("overflowing shape", safetensors(&json!({"a": f32_at(json!([huge, huge]), [0, 8])}), 8)),
        ("negative shape", safetensors(&json!({"a": f32_at(json!([-1]), [0, 4])}), 4)),
        ("deep nesting", {
            let deep = "[".repeat(100_000);
            [&(deep.len() as u64).to_le_bytes()[..], deep.as_bytes()].concat()
        }),
    ];
    for (what, bytes) in cases {
        scratch.file("model.safetensors", bytes);
        let error = open_error(&scratch.0);
        assert!(error.contains("model.safetensors: "), "{what}: {error}");
        assert!(error.contains("again"), "{what} names no remedy: {error}");
    }
}

#[test]
fn every_truncation_of_the_header_is_an_error() {
    let scratch = Scratch::new("truncated");
    let header = json!({"a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}});
    let bytes = safetensors(&header, 8);
    for len in 0..bytes.len() {
        let path = scratch.file("cut.safetensors", &bytes[..len]);
        assert!(Weights::open_file(path).is_err(), "{len} of {} bytes", bytes.len());
    }
    assert_eq!(Weights::open_file(scratch.file("whole", &bytes)).unwrap().read_f32("a", &[2, 1]).unwrap(), [0.0; 2]);
}

#[test]
fn folders_without_safetensors() {
    let scratch = Scratch::new("folders");
    assert!(open_error(&scratch.0).contains("holds no weights: neither model.safetensors nor pytorch_model.bin"));
    scratch.file("tf_model.h5", b"x");
    let error = open_error(&scratch.0);
    assert!(error.contains("has tf_model.h5, which cannot be read") && error.contains("save_pretrained"), "{error}");
    let error = open_error(&scratch.0.join("absent"));
    assert!(error.starts_with("cannot read ") && error.contains("absent"), "{error}");
}

#[test]
fn shards() {
    let scratch = Scratch::new("shards");
    let bytes = [1.0f32, 9.0, 2.0, 8.0].map(f32::to_le_bytes);
    let one = |name, at: usize| tensor(name, Dtype::F32, &[1], &bytes[at]);
    write_tensors(&scratch.0.join("m-1.safetensors"), [one("a", 0), one("stray", 1)]);
    write_tensors(&scratch.0.join("m-2.safetensors"), [one("b", 2), one("a", 3)]);
    let index = |map: Value| {
        scratch.file("model.safetensors.index.json", json!({"metadata": {}, "weight_map": map}).to_string());
    };
    index(json!({"a": "m-1.safetensors", "b": "m-2.safetensors"}));
    let weights = Weights::open(&scratch.0).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(weights.read_f32("a", &[1]).unwrap(), [1.0], "the index decides between two shards");
    assert_eq!(weights.read_f32("b", &[1]).unwrap(), [2.0]);

    fs::create_dir(scratch.0.join("sub")).unwrap();
    write_tensors(&scratch.0.join("sub/m-1.safetensors"), [one("a", 3)]);
    index(json!({"a": "sub/m-1.safetensors", "b": "m-2.safetensors"}));
    let weights = Weights::open(&scratch.0).unwrap();
    assert_eq!(weights.read_f32("a", &[1]).unwrap(), [8.0], "a shard in a folder below");
    let error = weights.read_f32("a", &[2]).unwrap_err().to_string();
    assert!(error.contains("sub/m-1.safetensors: tensor a has shape [1]"), "{error}");

    for outside in ["../m-1.safetensors", "/etc/passwd", "sub/../../m-1.safetensors", "..", ".", "", "\\\\host\\x"] {
        index(json!({"a": outside}));
        let error = open_error(&scratch.0);
        assert!(error.contains("index.json: shard") && error.contains("outside of this folder"), "{outside}: {error}");
    }
    index(json!({"a": "m-3.safetensors"}));
    assert!(open_error(&scratch.0).contains("shard m-3.safetensors is missing"));
    index(json!({"c": "m-1.safetensors"}));
    assert!(open_error(&scratch.0).contains("tensor c should be in shard m-1.safetensors, but is not there"));
    scratch.file("model.safetensors.index.json", "{\n\"weight_map\": 3}");
    assert!(open_error(&scratch.0).contains("index.json:2: not an index of shards"));
}

#[test]
fn embedding_names_and_unused_tensors() {
    let scratch = Scratch::new("names");
    let path = scratch.0.join("model.safetensors");
    let write = |names: &[&str]| {
        let shapes: Vec<_> = names.iter().map(|name| (name.to_string(), vec![1])).collect();
        write_model(&path, &shapes, |_| Ok(vec![0.5])).unwrap();
        Weights::open(&scratch.0).unwrap()
    };
    let old_t5 = write(&[
        "shared.weight",
        "encoder.embed_tokens.weight",
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        "adapter.weight",
    ]);
    assert_eq!(old_t5.embedding_name().unwrap(), "shared.weight");
    assert_eq!(old_t5.unused(["shared.weight"]), ["adapter.weight"]);
    let madlad = write(&["decoder.embed_tokens.weight", "lm_head.weight"]);
    assert_eq!(madlad.embedding_name().unwrap(), "decoder.embed_tokens.weight");
    let error = write(&["lm_head.weight"]).embedding_name().unwrap_err().to_string();
    assert!(error.contains("no embedding among the tensors (looked for shared.weight,"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_reported_with_its_remedy() {
    let shapes = [("a".to_owned(), vec![1 << 20])];
    let error = write_model("/dev/full", &shapes, |_| Ok(vec![1.0; 1 << 20])).unwrap_err().to_string();
    assert!(error.starts_with("cannot write /dev/full: No space left on device"), "{error}");
    assert!(error.contains("free some space"), "{error}");
}
