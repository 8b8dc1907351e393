//! Trains a small byte-level T5 on pairs for 200 steps, and leaves a HuggingFace folder in OUT/last.
//!
//! t5 data cmudict --out runs/cmudict
//! cargo run --release --example train -- runs/cmudict/train.tsv runs/example

use std::path::Path;

use t5_wgpu::data::TaskConfig;
use t5_wgpu::data::task::Files;
use t5_wgpu::gpu::{Gpu, GpuOptions};
use t5_wgpu::model::{Model, T5Config};
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::train::{Event, Hooks, Settings, Trainer};

fn main() -> t5_wgpu::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, pairs, out] = arguments.as_slice() else {
        return Err(t5_wgpu::Error::Input("two arguments are needed: PAIRS.tsv OUT".into()));
    };
    let gpu = pollster::block_on(Gpu::open(&GpuOptions::default()))?;
    let config = T5Config { vocab_size: 384, tie_word_embeddings: true, ..T5Config::preset("tiny")? };
    let model = Model::init(&gpu, config, 0)?;

    let task = TaskConfig {
        train: Some(Files::Together(vec![pairs.clone()])),
        held_out: Some(0.02),
        columns: Some(vec!["word".into(), "pronunciation".into()]),
        ..TaskConfig::default()
    };
    let mut settings = Settings::on_task("pronounce", task);
    settings.steps = 200;
    settings.lr = 3e-3;
    let mut trainer = Trainer::create(model, Tokenizer::bytes(), settings, Path::new(out), true)?;
    trainer.run(Hooks {
        observe: &mut |event| match event {
            Event::Step(step) => println!("step {} loss {:.3}", step.step, step.loss),
            Event::Evaluation { step, metric, value, .. } => println!("step {step} {metric} {value:.3}"),
            _ => {}
        },
        should_stop: &|| false,
        is_late: &|| false,
    })?;
    Ok(())
}
