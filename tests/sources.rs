//! Where weights come from: variants, shards and single files; names and formats of other programs.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::Scratch;
use safetensors::tensor::TensorView;
use t5_wgpu::checkpoint::{Dtype, Encoding, TensorInfo, WeightSource, Weights, write_model};
use t5_wgpu::model::ModelParts;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A safetensors file in which each of these names is one number.
fn write(path: impl AsRef<Path>, tensors: &[(&str, f32)]) {
    let shapes: Vec<_> = tensors.iter().map(|(name, _)| (name.to_string(), vec![1])).collect();
    let value = |wanted: &str| tensors.iter().find(|(name, _)| *name == wanted).map(|&(_, value)| vec![value]);
    write_model(path, &shapes, |name| Ok(value(name).unwrap())).unwrap();
}

fn error(path: &Path) -> String {
    Weights::open(path).unwrap_err().to_string()
}

fn value(weights: &Weights, name: &str) -> f32 {
    weights.read_f32(name, &[1]).unwrap()[0]
}

#[test]
fn the_only_variant_stands_in_for_a_plain_file() {
    let scratch = Scratch::new("sources-variant");
    let dir = scratch.path("");
    write(scratch.path("model.fp16.safetensors"), &[("a", 16.0)]);
    let weights = Weights::open(&dir).unwrap();
    assert_eq!(value(&weights, "a"), 16.0);
    assert_eq!(weights.remark(), Some("the weights are those of model.fp16.safetensors"));

    write(scratch.path("model.fp32-00001-of-00002.safetensors"), &[("a", 32.0)]);
    assert!(error(&dir).contains("shard 2 of 2 is missing beside model.fp32-00001"), "{}", error(&dir));
    write(scratch.path("model.fp32-00002-of-00002.safetensors"), &[("b", 33.0)]);
    let refused = error(&dir);
    assert!(
        refused.contains("several variants") && refused.contains("model.fp16.safetensors, model.fp32-"),
        "{refused}"
    );
    assert_eq!(value(&Weights::open(scratch.path("model.fp16.safetensors")).unwrap(), "a"), 16.0, "one of them, named");

    fs::remove_file(scratch.path("model.fp16.safetensors")).unwrap();
    let weights = Weights::open(&dir).unwrap();
    assert_eq!([value(&weights, "a"), value(&weights, "b")], [32.0, 33.0], "shards without an index");

    let index = r#"{"weight_map": {"a": "model.fp32-00001-of-00002.safetensors"}}"#;
    fs::write(scratch.path("model.safetensors.index.fp32.json"), index).unwrap();
    assert!(!Weights::open(&dir).unwrap().contains("b"), "an index says what belongs to the model");

    write(scratch.path("model.safetensors"), &[("a", 1.0)]);
    let weights = Weights::open(&dir).unwrap();
    assert_eq!((value(&weights, "a"), weights.remark()), (1.0, None), "the plain file goes before all variants");
}

#[test]
fn shards_without_an_index_are_complete_and_disjoint() {
    let scratch = Scratch::new("sources-shards");
    let dir = scratch.path("");
    write(scratch.path("model-00001-of-00003.safetensors"), &[("a", 1.0)]);
    write(scratch.path("model-00003-of-00003.safetensors"), &[("a", 3.0)]);
    let refused = error(&dir);
    assert!(refused.contains("shard 2 of 3 is missing beside model-00001-of-00003.safetensors"), "{refused}");
    write(scratch.path("model-00002-of-00003.safetensors"), &[("b", 2.0)]);
    let refused = error(&dir);
    let expected = "model-00003-of-00003.safetensors: tensor a is also in model-00001-of-00003.safetensors";
    assert!(refused.contains(expected), "{refused}");
    write(scratch.path("model-00003-of-00003.safetensors"), &[("c", 3.0)]);
    assert_eq!(Weights::open(&dir).unwrap().names().collect::<Vec<_>>(), ["a", "b", "c"]);
    fs::write(scratch.path("model-00002-of-00003.safetensors"), "version https://git-lfs.github.com/spec/v1\n")
        .unwrap();
    assert!(error(&dir).contains("model-00002-of-00003.safetensors: this is a Git LFS pointer"), "{}", error(&dir));
}

#[test]
fn a_file_of_weights_is_a_model_with_the_settings_beside_it() {
    let scratch = Scratch::new("sources-file");
    for name in ["config.json", "model.safetensors"] {
        fs::copy(golden("flan").join(name), scratch.path(name)).unwrap();
    }
    let file = scratch.path("renamed.safetensors");
    fs::rename(scratch.path("model.safetensors"), &file).unwrap();
    let parts = ModelParts::open(&file).unwrap();
    assert_eq!((parts.config.d_model, parts.weights.shape("shared.weight")), (48, Some(&[160, 48][..])));
    let refused = ModelParts::open(&scratch.path("")).unwrap_err().to_string();
    assert!(refused.contains("renamed.safetensors") && refused.contains("name the file"), "{refused}");
}

#[test]
fn what_wraps_a_model_leaves_its_names() {
    let scratch = Scratch::new("sources-wrapped");
    write(scratch.path("model.safetensors"), &[("module._orig_mod.shared.weight", 1.0), ("module._orig_mod.b", 2.0)]);
    let weights = Weights::open(scratch.path("")).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["b", "shared.weight"]);
    assert_eq!(value(&weights, "shared.weight"), 1.0);
    let missing = weights.read_f32("shared.weight", &[2]).unwrap_err().to_string();
    assert!(missing.contains("model.safetensors: tensor shared.weight has shape [1]"), "{missing}");
}

/// A source in memory with the names and the orientation of T5X.
struct T5x(Vec<u8>);

impl WeightSource for T5x {
    fn tensors(&self) -> std::collections::BTreeMap<String, TensorInfo> {
        let matrix =
            |name: &str| (name.to_owned(), TensorInfo { encoding: Encoding::Plain(Dtype::F16), shape: vec![2, 3] });
        ["target/token_embedder/embedding", "target/decoder/layers_7/encoder_decoder_attention/key/kernel"]
            .map(matrix)
            .into()
    }

    fn read(&self, _: &str) -> t5_wgpu::Result<std::borrow::Cow<'_, [u8]>> {
        Ok((&self.0[..]).into())
    }

    fn place(&self, _: Option<&str>) -> PathBuf {
        "memory".into()
    }
}

#[test]
fn matrices_of_t5x_are_turned_to_huggingfaces_orientation() {
    let numbers = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    let bytes = numbers.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
    let weights = Weights::of(T5x(bytes)).unwrap();
    assert_eq!(weights.read_f32("shared.weight", &[2, 3]).unwrap(), numbers);
    let name = "decoder.block.7.layer.1.EncDecAttention.k.weight";
    assert_eq!(weights.shape(name), Some(&[3, 2][..]));
    assert_eq!(weights.read_f32(name, &[3, 2]).unwrap(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    assert_eq!(weights.read_bytes(name, Dtype::F16, &[3, 2]).unwrap().len(), 12);
}

#[test]
fn values_are_the_same_from_memory_and_wherever_they_lie() {
    let numbers: Vec<u8> = [0.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let bytes: Vec<u8> = [7u8].into_iter().chain(numbers.iter().copied()).collect();
    let tensors = [
        ("a", TensorView::new(Dtype::U8, vec![1], &bytes[..1]).unwrap()),
        ("b", TensorView::new(Dtype::F32, vec![2], &bytes[1..]).unwrap()),
    ];
    // Whatever comes first, f32 is read from any address.
    let file = safetensors::serialize(tensors, None).unwrap();
    for shift in 0..4 {
        let mut moved = file.clone();
        let header = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
        moved.splice(8 + header..8 + header, vec![b' '; shift]);
        moved[..8].copy_from_slice(&((header + shift) as u64).to_le_bytes());
        let weights = Weights::from_bytes("memory.safetensors", moved).unwrap();
        assert_eq!(weights.read_f32("b", &[2]).unwrap(), [0.5, -2.0]);
        assert_eq!(weights.look_f32("b", &[2], <[f32]>::to_vec).unwrap(), [0.5, -2.0]);
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sources").join(name)
}

/// The weights of a golden model in another format are the same numbers under the same names.
#[track_caller]
fn same_as_golden(model: &str, path: &Path) {
    let (expected, found) = (Weights::open(golden(model)).unwrap(), Weights::open(path).unwrap());
    assert_eq!(found.names().collect::<Vec<_>>(), expected.names().collect::<Vec<_>>());
    for name in expected.names() {
        let shape = expected.shape(name).unwrap();
        assert_eq!(found.read_f32(name, shape).unwrap(), expected.read_f32(name, shape).unwrap(), "{name}");
    }
}

#[test]
fn pytorch_files_hold_the_same_model() {
    same_as_golden("mt5", &data("mt5-bin"));
    same_as_golden("mt5", &data("mt5-bin/pytorch_model.bin"));
    same_as_golden("mt5", &data("mt5-shards"));
}

#[test]
fn every_tensor_of_pytorch_is_read_whatever_its_strides() {
    let ramp: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let transposed: Vec<f32> = (0..24).map(|i| (i % 4 * 6 + i / 4) as f32).collect();
    let thirds: Vec<f32> =
        ramp.iter().map(|&x| half::bf16::from_f32(half::bf16::from_f32(x).to_f32() / 3.0).to_f32()).collect();
    let sevenths: Vec<f32> = (0..24).map(|i| (f64::from(i) / 7.0) as f32).collect();
    for file in ["views.bin", "nested.bin", "unchecked.bin", "legacy.bin"] {
        let weights = Weights::open_file(data("views").join(file)).unwrap();
        let read = |name: &str, shape: &[usize]| weights.read_f32(name, shape).unwrap();
        assert_eq!(weights.names().count(), 13, "{file}");
        assert_eq!(read("shared.weight", &[4, 6]), ramp);
        assert_eq!(read("lm_head.weight", &[4, 6]), ramp, "one storage, two tensors");
        assert_eq!(read("transposed", &[6, 4]), transposed);
        assert_eq!(read("columns", &[4, 3]), [1.0, 2.0, 3.0, 7.0, 8.0, 9.0, 13.0, 14.0, 15.0, 19.0, 20.0, 21.0]);
        assert_eq!(read("offset", &[6]), ramp[12..18]);
        assert_eq!(read("every_second", &[12]), (0..12).map(|i| 2.0 * i as f32).collect::<Vec<_>>());
        assert_eq!(read("expanded", &[2, 3]), [1.5, 1.5, 1.5, 2.5, 2.5, 2.5]);
        assert_eq!(read("half", &[4, 6]), ramp);
        assert_eq!(read("bf16", &[4, 6]), thirds);
        assert_eq!(read("double", &[4, 6]), sevenths);
        assert_eq!(read("scalar", &[]), [-1.25]);
        assert_eq!(read("parameter", &[1, 6]), ramp[..6]);
        let ids = weights.read_bytes("ids", Dtype::I64, &[2]).unwrap();
        assert_eq!(*ids, [7i64, -100].map(i64::to_le_bytes).concat());
    }
}

#[test]
fn pytorch_files_that_hold_something_else_are_refused_by_name() {
    let refused = |name: &str| Weights::open_file(data("views").join(name)).unwrap_err().to_string();
    for (file, part) in [("sparse.bin", "sparse"), ("quantized.bin", "quant")] {
        let what = refused(file);
        assert!(what.contains(file) && what.contains(part) && what.contains("torch.save(model.state_dict()"), "{what}");
    }
    // Objects of other classes are skipped: nothing of them is made.
    let weights = Weights::open_file(data("views/object.bin")).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["b"]);

    let scratch = Scratch::new("sources-damaged");
    let whole = fs::read(data("views/views.bin")).unwrap();
    let mut changed = whole.clone();
    let at =
        whole.windows(8).position(|window| window == [1.0f32.to_le_bytes(), 2.0f32.to_le_bytes()].concat()).unwrap();
    changed[at] ^= 1;
    let weights = Weights::open_file(scratch.file("changed.bin", changed)).unwrap();
    let what = weights.read_f32("shared.weight", &[4, 6]).unwrap_err().to_string();
    assert!(what.contains("changed.bin") && what.contains("checksum") && what.contains("shared.weight"), "{what}");
    for (bytes, part) in [
        (&whole[..whole.len() / 2], "fetch it again"),
        (b"<!DOCTYPE html><html>Access to this model is restricted", "not a PyTorch file"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"", "the file is empty"),
    ] {
        let what = Weights::open_file(scratch.file("pytorch_model.bin", bytes)).unwrap_err().to_string();
        assert!(what.contains("pytorch_model.bin: ") && what.contains(part), "{what}");
    }
    let memory = Weights::from_bytes("memory.bin", whole).unwrap_err().to_string();
    assert!(memory.contains("memory.bin: ") && memory.contains("safetensors"), "{memory}");
}

#[test]
fn safetensors_go_before_files_of_pytorch_and_plain_names_before_variants() {
    let scratch = Scratch::new("sources-order");
    fs::copy(data("mt5-bin/pytorch_model.bin"), scratch.path("pytorch_model.bin")).unwrap();
    write(scratch.path("model.fp16.safetensors"), &[("a", 16.0)]);
    assert!(Weights::open(scratch.path("")).unwrap().contains("shared.weight"));
    write(scratch.path("model.safetensors"), &[("a", 32.0)]);
    assert_eq!(value(&Weights::open(scratch.path("")).unwrap(), "a"), 32.0);
}

#[test]
fn msgpack_of_flax_and_t5x_holds_the_same_model() {
    same_as_golden("mt5", &data("mt5-flax"));
    same_as_golden("mt5", &data("mt5-t5x"));
    assert_eq!(Weights::open(data("mt5-t5x")).unwrap().remark(), Some("the weights are those of checkpoint"));
}

#[test]
fn damaged_and_hostile_msgpack_is_refused_with_what_is_wrong() {
    let open = |bytes: &[u8]| Weights::from_bytes("m.msgpack", bytes.to_vec());
    let refused = |bytes: &[u8]| open(bytes).unwrap_err().to_string();
    // {"a": an array}
    let array = |payload: &[u8]| [&b"\x81\xa1a\xc7"[..], &[payload.len() as u8, 1], payload].concat();
    let good = array(b"\x93\x91\x02\xa7float32\xc4\x08\0\0\x80\x3f\0\0\0\x40");
    assert_eq!(open(&good).unwrap().read_f32("a", &[2]).unwrap(), [1.0, 2.0]);
    for len in 0..good.len() {
        assert!(open(&good[..len]).is_err(), "{len} of {}", good.len());
    }
    let deep: Vec<u8> = b"\x81\xa1a".repeat(100_000);
    let long = [b"\x81\xda\x03\x00".to_vec(), vec![b'a'; 0x300], vec![0xc0]].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"\xdf\xff\xff\xff\xff".to_vec(), "cut short"),
        (b"\xdd\xff\xff\xff\xff\xc0".to_vec(), "cut short"),
        (b"\x81\xdb\xff\xff\xff\xff".to_vec(), "cut short"),
        (b"\x81\x01\xc0".to_vec(), "a key is no text"),
        (b"\x81\xa1\xff\xc0".to_vec(), "no UTF-8"),
        (b"\xc1".to_vec(), "means nothing"),
        (b"\x80\x80".to_vec(), "1 bytes follow its end"),
        (deep, "too deep"),
        (long, "too long"),
        (array(b"\x92\x91\x02\xa7float32"), "no shape, type and bytes"),
        (array(b"\x93\x91\x02\xa9complex64\xc4\x00"), "array a: its type is complex64"),
        (
            array(b"\x93\x91\x03\xa7float32\xc4\x08\0\0\0\0\0\0\0\0"),
            "array a: its 8 bytes are not those of the shape [3]",
        ),
        (
            array(b"\x93\x92\xcf\xff\xff\xff\xff\xff\xff\xff\xff\x02\xa7float32\xc4\x00"),
            "array a: its 0 bytes are not those of the shape",
        ),
        (array(b"\x93\x91\xff\xa7float32\xc4\x00"), "a length is none"),
        (b"\x81\xb9__msgpack_chunked_array__\xc3".to_vec(), "has no chunks"),
        (b"\x81\xa1a\x81\xa7kvstore\x81\xa4path\xa1x".to_vec(), "TensorStore"),
    ];
    for (bytes, part) in cases {
        let what = refused(&bytes);
        assert!(what.starts_with("m.msgpack: not a checkpoint of Flax") && what.contains(part), "{part}: {what}");
    }
    let both = [&b"\x82"[..], &good[1..], &good[1..]].concat();
    assert!(refused(&both).contains("two arrays a"), "{}", refused(&both));
}
