//! What the tests of trainings of a part of the parameters share.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use t5_wgpu::data::TaskConfig;
use t5_wgpu::data::task::Files;
use t5_wgpu::gpu::Gpu;
use t5_wgpu::model::{Learns, Model, T5Config, write_span};
use t5_wgpu::rng::{Purpose, Rng};
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::train::{Hooks, Outcome, Settings, Trainer};

use super::Scratch;

pub fn learns(text: &str) -> Learns {
    serde_json::from_str(text).unwrap()
}

/// Fills what is added, so that it changes the model.
pub fn stir(model: &Model) {
    let mut rng = Rng::new(2, Purpose::Examples, &[1]);
    for tensor in model.layout.tensors() {
        let at_first = match tensor.name.as_str() {
            name if name.contains("lora_B") || name.contains("Adapter.up") => 0.0,
            name if name.contains("ia3_l") => 1.0,
            _ => continue,
        };
        let values: Vec<f32> = (0..tensor.len()).map(|_| (at_first + rng.normal() * 0.3) as f32).collect();
        write_span(&model.gpu, tensor, &model.params, &values);
    }
}

/// A model in files, of which an adapter can be trained.
pub fn base(gpu: &Gpu, scratch: &Scratch) -> PathBuf {
    let text = r#"{"model_type": "t5", "vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2,
        "num_heads": 4, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false}"#;
    let model = Model::init(gpu, T5Config::from_json(text, "config.json").unwrap(), 1).unwrap();
    let folder = scratch.path("base");
    fs::create_dir_all(&folder).unwrap();
    model.save(&folder).unwrap();
    Tokenizer::bytes().save(&folder).unwrap();
    folder
}

pub fn settings(pairs: &Path, learns: &Learns) -> Settings {
    let files = Files::Together(vec![pairs.to_string_lossy().into_owned()]);
    let columns = Some(vec!["source".to_owned(), "target".to_owned()]);
    let task = TaskConfig { train: Some(files), columns, held_out: Some(0.2), ..TaskConfig::default() };
    Settings {
        steps: 12,
        batch_size: 4,
        accumulate: 2,
        dropout: 0.1,
        lr: 3e-3,
        eval_every: Some(3),
        learns: learns.clone(),
        ..Settings::on_task("pairs", task)
    }
}

pub fn run(trainer: &mut Trainer, until: u64) -> Outcome {
    let step = Cell::new(trainer.step());
    let is_late = || {
        step.set(step.get() + 1);
        step.get() >= until
    };
    trainer.run(Hooks { observe: &mut |_| (), should_stop: &|| false, is_late: &is_late }).unwrap()
}
