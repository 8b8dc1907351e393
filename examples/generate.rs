//! Answers a text with a model folder, token by token as they come.
//!
//! cargo run --release --example generate -- runs/example/last "hello"

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use t5_wgpu::generate::{Decoding, Generator};
use t5_wgpu::gpu::{Gpu, GpuOptions};
use t5_wgpu::model::Model;
use t5_wgpu::tokenizer::Tokenizer;

fn main() -> t5_wgpu::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, text] = arguments.as_slice() else {
        return Err(t5_wgpu::Error::Input("two arguments are needed: MODEL_FOLDER TEXT".into()));
    };
    let gpu = pollster::block_on(Gpu::open(&GpuOptions::from_env()))?;
    let (model, _) = Model::load(&gpu, Path::new(folder))?;
    let tokenizer = Tokenizer::from_dir(Path::new(folder))?;

    let source = tokenizer.encode_with_eos(text)?;
    let decoding = Decoding { limit: Some(tokenizer.vocab_size()), ..Decoding::greedy() };
    let mut stream = tokenizer.stream();
    let mut generator = Generator::new(model);
    let show = &mut |_, ids: &[u32]| {
        ids.iter().for_each(|&id| print!("{}", stream.push(id)));
        let _ = std::io::stdout().flush();
        ControlFlow::Continue(())
    };
    pollster::block_on(generator.generate(&[source], &decoding, show, &|| false))?;
    println!("{}", stream.finish());
    Ok(())
}
