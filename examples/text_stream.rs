//! Examples from files of text, as training gets them, and how fast they come:
//! `cargo run --release --example text_stream -- bytes span_corruption data/books_sample.txt.gz`.

use std::path::PathBuf;
use std::time::Instant;

use t5_wgpu::data::{Documents, TextOptions, TextPosition, TextStream};
use t5_wgpu::tokenizer::Tokenizer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(tokenizer), Some(objective)) = (args.next(), args.next()) else {
        return Err("usage: text_stream TOKENIZER OBJECTIVE FILE...".into());
    };
    let files: Vec<PathBuf> = args.map(PathBuf::from).collect();
    let tokenizer = Tokenizer::open(&tokenizer)?;
    let objective = objective.parse()?;
    let documents = Documents::default();
    let options = TextOptions { objective, inputs_len: 512, targets_len: None, seed: 0, documents, held_out: None };
    let mut stream = TextStream::open(&files, tokenizer.clone().into(), options, TextPosition::default())?;
    println!("{:?}", stream.lengths());

    let first = stream.next()?;
    println!("source: {}\ntarget: {}", tokenizer.decode(&first.source), tokenizer.decode(&first.target));
    let (start, mut tokens) = (Instant::now(), 0);
    while stream.passes() < 3.0 {
        let (source, target) = stream.next()?.lengths();
        tokens += source + target;
    }
    let rate = tokens as f64 / start.elapsed().as_secs_f64();
    println!("{tokens} tokens, {rate:.0} a second, up to {:?}", stream.position());
    Ok(())
}
