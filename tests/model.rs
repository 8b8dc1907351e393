//! The model as a whole: its graph as text, its parameters in arenas, tables split into shards.

mod common;

use std::path::{Path, PathBuf};

use common::gpu_options;
use t5_wgpu::batch::BatchShape;
use t5_wgpu::gpu::{Gpu, GpuOptions};
use t5_wgpu::model::{Builder, Model, T5Config};
use t5_wgpu::plan::{Plan, PlanOptions, SlotPool};
use t5_wgpu::verify::check_golden;

fn gpu(table_bytes: Option<u64>) -> Gpu {
    let options = GpuOptions { table_bytes, ..gpu_options() };
    pollster::block_on(Gpu::open(&options)).expect("an adapter")
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A change of the model's graph shows as a change of this file; `T5_BLESS=1` writes it anew.
#[test]
fn training_graph_is_as_recorded() {
    let (model, _) = Model::load(&gpu(None), &golden("t5v10")).unwrap();
    let shape = BatchShape { batch: 2, src_len: 5, tgt_len: 3, packed: false };
    let mut b = Builder::new(&model, shape, 0.1);
    let encoded = b.encoder();
    let hidden = b.decoder(encoded);
    let stats = b.loss(hidden, 0.0, 0.0);
    b.backward(stats);
    let text = b.graph.to_string();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/training_graph.txt");
    if std::env::var_os("T5_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let recorded = std::fs::read_to_string(&path).unwrap();
    for (now, before) in text.lines().zip(recorded.lines()) {
        assert_eq!(now, before);
    }
    assert_eq!(text.lines().count(), recorded.lines().count());
}

/// A vocabulary larger than one binding is split by rows; nothing else may change.
#[test]
fn sharded_tables_give_the_same_results() {
    // 160 rows of 48 floats are 30 KiB.
    let gpu = gpu(Some(16 << 10));
    let (model, _) = Model::load(&gpu, &golden("flan")).unwrap();
    assert_eq!(model.layout.shards(), [80, 80]);
    let rows = pollster::block_on(check_golden(&gpu, &golden("flan"))).unwrap();
    let failed: Vec<_> = rows.iter().filter(|r| !r.passed()).map(|r| &r.what).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn first_loss_is_that_of_guessing() {
    for preset in ["tied", "untied"] {
        let text = format!(
            r#"{{"model_type":"t5","vocab_size":500,"d_model":64,"d_kv":16,"d_ff":128,"num_layers":2,"num_heads":4,
                "tie_word_embeddings":{},"feed_forward_proj":"gated-gelu"}}"#,
            preset == "tied"
        );
        let config = T5Config::from_json(&text, "test").unwrap();
        let gpu = gpu(None);
        let model = Model::init(&gpu, config, 7).unwrap();
        let mut engine = t5_wgpu::train::engine::Engine::new(
            model,
            Default::default(),
            &t5_wgpu::train::optimizer::OptimizerConfig::adamw(),
            0.0,
        )
        .unwrap();
        let ids = |seed: u32, n: u32| (0..n).map(|i| 3 + (i * 7919 + seed) % 490).collect::<Vec<_>>();
        let batch = t5_wgpu::batch::Batch {
            shape: BatchShape { batch: 4, src_len: 16, tgt_len: 16, packed: false },
            src_ids: ids(1, 64),
            src_lens: vec![16; 4],
            tgt_in: ids(5, 64),
            labels: ids(77, 64),
            tgt_lens: vec![16; 4],
            segments: None,
        };
        let loss = pollster::block_on(engine.evaluate(&batch)).unwrap().mean_loss();
        let expected = 500f64.ln() + 0.5;
        assert!((loss - expected).abs() < 0.6, "{preset}: first loss {loss}, expected about {expected}");
    }
}

#[test]
fn a_plan_refuses_what_is_not_for_it() {
    let mut graph = t5_wgpu::graph::Graph::new();
    let [x, w, _unread] = ["x", "w", "unread"].map(|name| graph.leaf(name, &[2, 2], t5_wgpu::graph::Dtype::F32));
    let y = graph.push1(t5_wgpu::ops::Matmul::new(t5_wgpu::ops::MatmulLayout::Nt), &[x, w]);
    let gpu = gpu(None);
    let elsewhere = gpu.buffer("w", 16).unwrap().all();
    let bind = |name: &str| (name == "w").then(|| elsewhere.clone());
    let options = PlanOptions { bind: &bind, pool: &SlotPool::new() };
    let plan = Plan::compile(&gpu, &graph, &[("y", y)], &options).unwrap();
    plan.write("x", &[1f32; 4]);
    plan.write("unread", &[1f32; 4]);
    let message = |name: &str, len: usize| {
        let written = std::panic::AssertUnwindSafe(|| plan.write(name, &vec![1f32; len]));
        *std::panic::catch_unwind(written).unwrap_err().downcast::<String>().unwrap()
    };
    assert_eq!(message("X", 4), "the plan has no leaf `X` to write to");
    assert_eq!(message("w", 4), "the plan has no leaf `w` to write to");
    for name in ["x", "unread"] {
        assert!(message(name, 3).contains(&format!("bytes for the leaf `{name}`")), "{}", message(name, 3));
    }
}
