//! Text generation: cached decoding that lives on the device, greedy, sampled or by beam search.

mod answer_text;
mod beams;
mod constraint;
mod decoding;
mod generation;
mod generator;
mod rules;
mod session;

use std::path::Path;

pub use answer_text::AnswerText;
pub use constraint::AllowedTokens;
pub use decoding::{Decoding, LengthPenalty};
pub use generation::{Alternative, Generation, StoppedAt};
pub use generator::{Generator, OnTokens, ShouldStop};
#[cfg(feature = "train")]
pub(crate) use rules::Rules;

use crate::error::Result;
use crate::gpu::Gpu;
pub use crate::model::EarlyStopping;
use crate::model::Model;

/// Greedy targets of a model folder, as [`padded`] rows.
pub async fn greedy_ids(gpu: &Gpu, dir: &Path, sources: &[Vec<u32>], max_new_tokens: usize) -> Result<Vec<Vec<u32>>> {
    let (model, _) = Model::load(gpu, dir)?;
    let (start, pad) = (model.config.decoder_start_token_id, model.config.pad_token_id);
    let decoding = Decoding::greedy().max_new_tokens(max_new_tokens);
    let generations = Generator::new(model).generate_best(sources, &decoding).await?;
    Ok(padded(&generations, start, pad))
}

/// Targets as transformers' `generate` gives them: each begins with the start token, holds the end token, and is padded to
/// the longest.
pub fn padded(targets: &[Generation], start: u32, pad: u32) -> Vec<Vec<u32>> {
    let row = |g: &Generation| [start].into_iter().chain(g.tokens()).collect();
    let mut rows: Vec<Vec<u32>> = targets.iter().map(row).collect();
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    rows.iter_mut().for_each(|row| row.resize(longest, pad));
    rows
}
