//! Trains the model in a folder on the batches that lie beside it, and prints the loss of each step. tests/parity/parity.py makes
//! the folder and trains the same in PyTorch.
//!
//! cargo run --release --example parity -- FOLDER adamw 1e-3

use std::path::Path;

use t5_wgpu::batch::{Batch, BatchShape, Example};
use t5_wgpu::checkpoint::Weights;
use t5_wgpu::gpu::{Gpu, GpuOptions};
use t5_wgpu::model::Model;
use t5_wgpu::train::engine::{Engine, Regularization};
use t5_wgpu::train::optimizer::OptimizerConfig;

fn main() -> t5_wgpu::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, optimizer, lr] = arguments.as_slice() else {
        return Err(t5_wgpu::Error::Input("three arguments are needed: FOLDER adamw|adafactor RATE".into()));
    };
    let lr: f64 = lr.parse().map_err(|_| t5_wgpu::Error::Input(format!("{lr} is no learning rate")))?;
    let mut config = match optimizer.as_str() {
        "adamw" => OptimizerConfig::adamw(),
        "adafactor" => OptimizerConfig::adafactor_hf(),
        other => return Err(t5_wgpu::Error::Input(format!("no optimizer `{other}`: there are adamw and adafactor"))),
    };
    if let OptimizerConfig::Adafactor { relative_step, .. } = &mut config {
        *relative_step = false;
    }
    let gpu = pollster::block_on(Gpu::open(&GpuOptions::default()))?;
    let (model, _) = Model::load(&gpu, Path::new(folder))?;
    let (pad, start) = (model.config.pad_token_id, model.config.decoder_start_token_id);
    let data = Weights::open_file(Path::new(folder).join("batches.safetensors"))?;
    // [steps, rows, length]
    let ids = |name: &str| -> t5_wgpu::Result<([usize; 3], Vec<u32>)> {
        let shape = data.shape(name).unwrap_or_default();
        let &[steps, rows, len] = shape else {
            return Err(t5_wgpu::Error::Input(format!("{name} has the shape {shape:?}")));
        };
        let numbers = data.read_f32(name, shape)?;
        Ok(([steps, rows, len], numbers.iter().map(|&id| id as u32).collect()))
    };
    let (([steps, rows, src_len], sources), ([.., tgt_len], targets)) = (ids("sources")?, ids("targets")?);
    let mut engine = Engine::new(model, Regularization::default(), &config, 0.0)?;
    for step in 0..steps {
        let row = |all: &[u32], len: usize, r: usize| {
            let ids = &all[(step * rows + r) * len..][..len];
            ids.iter().copied().take_while(|&id| id != pad).collect::<Vec<u32>>()
        };
        let examples: Vec<Example> = (0..rows)
            .map(|r| Example { source: row(&sources, src_len, r), target: row(&targets, tgt_len, r) })
            .collect();
        let shape = BatchShape { batch: rows, src_len, tgt_len, packed: false };
        let batch = Batch::collate(&examples.iter().map(|e| vec![e]).collect::<Vec<_>>(), shape, pad, start);
        engine.begin_step();
        engine.micro_batch(&batch, [0; 4])?;
        let (stats, _) = pollster::block_on(engine.finish_step(lr, step as u64)?.finish())?;
        println!("{}", stats.mean_loss());
    }
    Ok(())
}
