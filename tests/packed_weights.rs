//! Whole models with packed weights against PyTorch's results in f32, against what the types' rounding explains.

use std::path::{Path, PathBuf};

use common::{gpu, gpu_options};
use half::f16;
use safetensors::tensor::TensorView;
use t5_wgpu::batch::BatchShape;
use t5_wgpu::checkpoint::{Dtype as FileDtype, Weights};
use t5_wgpu::generate::{Decoding, Generator};
use t5_wgpu::gpu::{Gpu, GpuOptions};
use t5_wgpu::graph::Dtype;
use t5_wgpu::model::{Builder, Model, Storage};
use t5_wgpu::plan::{Plan, PlanOptions, SlotPool};
use t5_wgpu::train::engine::{Engine, Regularization};
use t5_wgpu::train::optimizer::OptimizerConfig;

mod common;

const PACKED: [Storage; 4] = [Storage::F16, Storage::Bf16, Storage::Int8, Storage::Int4];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn load(gpu: &Gpu, name: &str, storage: Storage) -> Model {
    Model::load_as(gpu, &folder(name), storage).expect("the model loads").0
}

fn integers(tensors: &Weights, name: &str) -> (Vec<u32>, Vec<usize>) {
    let shape = tensors.shape(name).expect("the tensor is there").to_vec();
    let bytes = tensors.read_bytes(name, FileDtype::I64, &shape).expect("it is I64");
    (bytes.as_chunks().0.iter().map(|c| i64::from_le_bytes(*c).max(0) as u32).collect(), shape)
}

/// Encoder, decoder and head over the golden batch: logits, and PyTorch's.
fn logits(model: &Model, name: &str) -> (Vec<f32>, Vec<f32>) {
    let tensors = Weights::open_file(folder(name).join("golden.safetensors")).expect("the golden file opens");
    let (ids, src) = integers(&tensors, "input_ids");
    let (mask, _) = integers(&tensors, "attention_mask");
    let (labels, tgt) = integers(&tensors, "labels");
    let shape = BatchShape { batch: src[0], src_len: src[1], tgt_len: tgt[1], packed: false };
    let mut b = Builder::new(model, shape, 0.0);
    let encoded = b.encoder();
    let hidden = b.decoder(encoded);
    let value = b.logits(hidden, None);
    let options = PlanOptions { bind: &|leaf| model.bind(leaf), pool: &SlotPool::new() };
    let plan = Plan::compile(&model.gpu, &b.graph, &[("logits", value)], &options).expect("the graph compiles");
    let start = model.config.decoder_start_token_id;
    let shifted = |row: &[u32]| [&[start], &row[..row.len() - 1]].concat();
    plan.write("src_ids", &ids);
    plan.write("src_lens", &mask.chunks(src[1]).map(|row| row.iter().sum()).collect::<Vec<u32>>());
    plan.write("tgt_ids", &labels.chunks(tgt[1]).flat_map(shifted).collect::<Vec<u32>>());
    plan.run().expect("the plan runs");
    let found = pollster::block_on(plan.read("logits")).expect("it is read");
    let shape = tensors.shape("logits").expect("the tensor is there").to_vec();
    (found, tensors.read_f32("logits", &shape).expect("it is F32"))
}

/// Root mean square of the difference, relative to that of the reference.
fn relative_l2(found: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(found.len(), reference.len());
    let square = |x: f64| x * x;
    let difference: f64 = found.iter().zip(reference).map(|(f, r)| square(f64::from(f - r))).sum();
    (difference / reference.iter().map(|&r| square(f64::from(r))).sum::<f64>()).sqrt()
}

/// The relative error that rounding puts on a random weight, root mean square. f16 and bf16 have spacings of 2^-10 and 2^-7 of
/// the power of two below: a uniform error of that over sqrt(12), over a mantissa of 1.44 on average. In blocks of 32 normal
/// numbers the largest is about 2.1 deviations, so that the step is 2.1 / 127 deviations, again over sqrt(12).
fn rounding(storage: Storage) -> f64 {
    match storage {
        Storage::F32 | Storage::AsStored | Storage::Fitting => 6e-8,
        Storage::F16 => 2.0e-4,
        Storage::Bf16 => 1.6e-3,
        Storage::Int8 => 4.8e-3,
        // Their range is about 4.1 deviations, in 15 steps.
        Storage::Int4 => 7.9e-2,
    }
}

/// A product's relative error is that of its weights (the errors average out as the terms do), and the errors of the products
/// that follow one another add up like random steps: a logit lies behind some 4 products a layer of both stacks, the embedding
/// and the head. Sums that cancel, and a softmax of scores with a deviation above 1, amplify them: a factor of 1.5 allows for it.
fn tolerance(model: &Model, storage: Storage) -> f64 {
    let depth = 4 * (model.config.num_layers + model.config.num_decoder_layers) + 2;
    1.5 * (depth as f64).sqrt() * rounding(storage)
}

#[test]
fn logits_err_as_rounding_explains() {
    let gpu = gpu();
    for name in ["t5v10", "flan", "byt5", "umt5", "mt5"] {
        for storage in PACKED {
            let model = load(&gpu, name, storage);
            let (found, reference) = logits(&model, name);
            let (error, tolerance) = (relative_l2(&found, &reference), tolerance(&model, storage));
            eprintln!("{name} {storage:?}: {error:.1e}, at most {tolerance:.1e}");
            assert!(error <= tolerance, "{name} {storage:?}: {error:.1e} > {tolerance:.1e}");
            // Rounding must show, or nothing was packed. Rows of umt5 and mt5 are too short for blocks.
            let packs = matches!(storage, Storage::F16 | Storage::Bf16) || model.layout.learns_packed();
            assert!(!packs || error >= 0.02 * rounding(storage), "{name} {storage:?}: {error:.1e}");
        }
    }
}

#[test]
fn every_matrix_of_t5_is_packed() {
    let gpu = gpu();
    for (storage, dtype) in PACKED.into_iter().zip([Dtype::F16, Dtype::Bf16, Dtype::Q8, Dtype::Q4]) {
        let model = load(&gpu, "t5v10", storage);
        for tensor in model.layout.tensors() {
            let norm_or_bias = tensor.shape.len() == 1 || tensor.name.contains("relative_attention_bias");
            let expected = if norm_or_bias { Dtype::F32 } else { dtype };
            assert_eq!(model.layout.dtype(tensor), expected, "{}", tensor.name);
        }
    }
}

#[test]
fn f16_decodes_what_pytorch_decodes() {
    let gpu = gpu();
    for name in ["t5v10", "flan", "byt5", "umt5", "mt5"] {
        let tensors = Weights::open_file(folder(name).join("golden.safetensors")).expect("the golden file opens");
        let (ids, shape) = integers(&tensors, "generate.input_ids");
        let (mask, _) = integers(&tensors, "generate.attention_mask");
        let (expected, expected_shape) = integers(&tensors, "generate.greedy");
        let len = |mask: &[u32]| mask.iter().sum::<u32>() as usize;
        let rows = ids.chunks(shape[1]).zip(mask.chunks(shape[1]));
        let sources: Vec<Vec<u32>> = rows.map(|(row, mask)| row[..len(mask)].to_vec()).collect();
        let mut generator = Generator::new(load(&gpu, name, Storage::F16));
        let options = Decoding::greedy().max_new_tokens(expected_shape[1] - 1);
        let made = pollster::block_on(generator.generate_best(&sources, &options)).expect("generation runs");
        for (made, expected) in made.iter().zip(expected.chunks(expected_shape[1])) {
            let ids: Vec<u32> = made.tokens().collect();
            assert_eq!(ids, expected[1..=ids.len()], "{name}");
        }
    }
}

#[test]
fn sharded_tables_give_the_same_logits() {
    // 128 rows of 32 f16 are 8 KiB, of integers of 4 bits with their scales 2.5 KiB.
    let options = GpuOptions { table_bytes: Some(2 << 10), ..gpu_options() };
    let sharded = pollster::block_on(Gpu::open(&options)).expect("an adapter");
    for storage in PACKED {
        let model = load(&sharded, "t5v10", storage);
        assert!(model.layout.shards().len() > 1, "{:?}", model.layout.shards());
        assert_eq!(logits(&model, "t5v10").0, logits(&load(&gpu(), "t5v10", storage), "t5v10").0, "{storage:?}");
    }
}

#[test]
fn weights_read_back_are_those_held() {
    let gpu = gpu();
    let exact = load(&gpu, "t5v10", Storage::F32);
    for storage in PACKED {
        let model = load(&gpu, "t5v10", storage);
        for name in
            ["shared.weight", "decoder.block.1.layer.0.SelfAttention.k.weight", "encoder.final_layer_norm.weight"]
        {
            let read = |model: &Model| pollster::block_on(model.read_tensor(name)).expect("it is read");
            assert!(relative_l2(&read(&model), &read(&exact)) <= 2.0 * rounding(storage), "{name} {storage:?}");
        }
        let error =
            Engine::new(model, Regularization::default(), &OptimizerConfig::adamw(), 0.0).err().expect("refused");
        assert!(error.to_string().contains("f32"), "{error}");
    }
}

/// A copy of the model t5v10 whose file holds f16 or f32, with one weight set to `value`.
fn rewritten(scratch: &common::Scratch, dtype: FileDtype, value: f32) -> PathBuf {
    let dir = scratch.path("model");
    std::fs::create_dir_all(&dir).expect("space");
    std::fs::copy(folder("t5v10").join("config.json"), dir.join("config.json")).expect("space");
    let weights = Weights::open(folder("t5v10")).expect("the model opens");
    let read = |name: &str| {
        let shape = weights.shape(name).expect("it has one").to_vec();
        let mut data = weights.read_f32(name, &shape).expect("it is F32");
        if name == CHANGED {
            data[5] = value;
        }
        let bytes: Vec<u8> = match dtype {
            FileDtype::F16 => data.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            _ => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        (name.to_owned(), shape, bytes)
    };
    let tensors: Vec<_> = weights.names().map(read).collect();
    let view = |shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).expect("as many bytes");
    let views = tensors.iter().map(|(name, shape, bytes)| (name, view(shape, bytes)));
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).expect("space");
    dir
}

const CHANGED: &str = "encoder.block.0.layer.1.DenseReluDense.wo.weight";

#[test]
fn files_in_f16_stay_so_without_rounding() {
    let (gpu, scratch) = (gpu(), common::Scratch::new("stored-as-f16"));
    let dir = rewritten(&scratch, FileDtype::F16, 0.25);
    let (model, remarks) = Model::load_as(&gpu, &dir, Storage::AsStored).expect("the model loads");
    assert!(remarks.iter().any(|r| r.contains("weights held as f16")), "{remarks:?}");
    let (wide, remarks) = Model::load(&gpu, &dir).expect("the model loads");
    assert!(!remarks.iter().any(|r| r.contains("held as")), "{remarks:?}");
    assert!(10 * model.layout.bytes() < 6 * wide.layout.bytes());
    for tensor in wide.layout.tensors() {
        let read = |model: &Model| pollster::block_on(model.read_tensor(&tensor.name)).expect("it is read");
        assert_eq!(read(&model), read(&wide), "{}", tensor.name);
    }
}

#[test]
fn weights_beyond_f16_are_refused() {
    let (gpu, scratch) = (gpu(), common::Scratch::new("beyond-f16"));
    let dir = rewritten(&scratch, FileDtype::F32, 70_000.0);
    let error = Model::load_as(&gpu, &dir, Storage::F16).err().expect("refused").to_string();
    assert!(error.contains(CHANGED) && error.contains("70000") && error.contains("bf16"), "{error}");
    for storage in [Storage::Bf16, Storage::Int8] {
        Model::load_as(&gpu, &dir, storage).expect("the model loads");
    }
}

/// Matrices whose rows are no whole blocks stay f32, and the remarks name them.
#[test]
fn short_rows_are_named() {
    let (model, remarks) = Model::load_as(&gpu(), &folder("byt5"), Storage::Int8).expect("the model loads");
    let remark = remarks.iter().find(|r| r.contains("weights held as f32 and int8")).expect("it is told");
    assert!(remark.contains("shared.weight [384 x 40]") && remark.contains("more"), "{remark}");
    assert!(model.layout.learns_packed());
}

/// Memory that holds the weights as they are with an eighth more, or less, or not even bytes of them.
#[test]
fn weights_fit_the_memory_that_there_is() {
    let size = |storage| load(&gpu(), "t5v10", storage).layout.bytes();
    for (memory, expected) in [
        (2 * size(Storage::F32), Storage::F32),
        (size(Storage::F32) + size(Storage::F32) / 16, Storage::Int8),
        (size(Storage::Int8) + size(Storage::Int8) / 16, Storage::Int4),
    ] {
        // Besides weights there are two tables of buckets, of a kilobyte each.
        let options = GpuOptions { memory: Some(memory + 2304), ..gpu_options() };
        let small = pollster::block_on(Gpu::open(&options)).expect("an adapter");
        let (model, remarks) = Model::load_as(&small, &folder("t5v10"), Storage::Fitting).expect("the model loads");
        assert_eq!(model.layout.bytes(), size(expected), "{memory}");
        let said = remarks.iter().any(|remark| remark.contains("memory does not hold the weights as they are stored"));
        assert_eq!(said, expected != Storage::F32, "{remarks:?}");
    }
    let options = GpuOptions { memory: Some(1000), ..gpu_options() };
    let tiny = pollster::block_on(Gpu::open(&options)).expect("an adapter");
    let refused = Model::load_as(&tiny, &folder("t5v10"), Storage::Fitting).err().expect("there is no memory");
    assert!(matches!(refused, t5_wgpu::Error::OutOfMemory(_)), "{refused}");
}
