//! Where weights come from: variants, shards and single files; names of other programs.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::Scratch;
use safetensors::tensor::TensorView;
use t5_wgpu::checkpoint::{Dtype, TensorInfo, WeightSource, Weights, write_model};
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
        let matrix = |name: &str| (name.to_owned(), TensorInfo { dtype: Dtype::F16, shape: vec![2, 3] });
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
