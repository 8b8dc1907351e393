//! Finds the lines of a file that are nearest to a query:
//! `cargo run --release --example embed_search -- MODEL_FOLDER lines.txt "what is looked for"`.
//!
//! Any T5 has vectors; those of sentence-t5 and gtr models are trained for this.

use t5_wgpu::forward::Pooling;
use t5_wgpu::{Error, Result, T5};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, file, query] = arguments.as_slice() else {
        return Err(Error::Input("three arguments are needed: MODEL_FOLDER FILE QUERY".into()));
    };
    let text = std::fs::read_to_string(file).map_err(Error::io("read", file))?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let t5 = T5::load(folder).wait()?;

    // Vectors of length 1: a dot product is the cosine of the angle between two.
    let of_lines = t5.embed(&lines, Pooling::MeanNormalized).wait()?;
    let of_query = t5.embed(&[query], Pooling::MeanNormalized).wait()?;
    let cosine = |row: &[f32]| -> f32 { row.iter().zip(&of_query.values).map(|(a, b)| a * b).sum() };
    let mut nearest: Vec<(f32, &str)> = of_lines.rows().map(cosine).zip(lines).collect();
    nearest.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (cosine, line) in nearest.iter().take(5) {
        println!("{cosine:.4}  {line}");
    }
    Ok(())
}
