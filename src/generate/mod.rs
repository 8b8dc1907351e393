//! Text generation: cached decoding that lives on the device, greedy or sampled.

mod generator;
mod session;

use std::path::Path;

pub use generator::{Generation, Generator};

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::Model;
use crate::ops::{MAX_EOS, SampleSettings};

/// How targets are generated.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Tokens after which a target ends, if no end token did it before.
    pub max_new_tokens: usize,
    pub strategy: Strategy,
    /// Sources that are decoded side by side.
    pub max_batch: usize,
    /// Ids from here on are never chosen; `None`: all rows of the vocabulary's table count. A table often has more rows
    /// than the tokenizer has pieces (T5: 32,128 and 32,100).
    pub limit: Option<usize>,
    /// Number of the first source among all that share a seed: the draws of a source depend on its number.
    pub first_source: usize,
}

/// How a token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strategy {
    /// The likeliest token, the first of equals.
    Greedy,
    Sample {
        /// Divides the logits; 0 is greedy.
        temperature: f32,
        /// Draw among the k likeliest; 0: among all.
        top_k: usize,
        /// Draw among the fewest tokens whose probabilities reach this sum, in (0, 1].
        top_p: f32,
        /// The draws depend on the seed, the source's number and the position alone.
        seed: u64,
    },
}

/// The most that [`GenerateOptions::max_new_tokens`] can be: beyond any answer, and no product of sizes overflows.
pub const MOST_NEW_TOKENS: usize = 1_000_000;

impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions { max_new_tokens: 128, strategy: Strategy::Greedy, max_batch: 16, limit: None, first_source: 0 }
    }
}

impl GenerateOptions {
    /// The settings as the sampling kernel reads them.
    ///
    /// # Errors
    /// `Input` where a setting makes no sense.
    fn settings(&self, model: &Model) -> Result<SampleSettings> {
        let (config, end_tokens) = (&model.config, model.end_tokens());
        if self.max_new_tokens == 0 || self.max_batch == 0 {
            return Err(Error::Input("nothing to generate: max_new_tokens and max_batch start at 1".into()));
        }
        if self.max_new_tokens > MOST_NEW_TOKENS {
            return Err(Error::Input("a target has at most a million tokens: lower max_new_tokens".into()));
        }
        let n_eos = end_tokens.len();
        if n_eos > MAX_EOS {
            return Err(Error::Input(format!(
                "the model's eos_token_id lists {n_eos} ids, at most {MAX_EOS} are supported"
            )));
        }
        let (temperature, top_k, top_p, seed) = match self.strategy {
            Strategy::Greedy => (0.0, 0, 1.0, 0),
            Strategy::Sample { temperature, top_k, top_p, seed } => (temperature, top_k, top_p, seed),
        };
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(Error::Input(format!("temperature {temperature} is not a number of 0 or more")));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(Error::Input(format!("top_p {top_p} does not lie above 0 and up to 1")));
        }
        let limit = self.limit.unwrap_or(config.vocab_size).min(config.vocab_size);
        if limit == 0 {
            return Err(Error::Input("the limit of token ids leaves none to choose from".into()));
        }
        let mut eos = [0; MAX_EOS];
        eos[..n_eos].copy_from_slice(end_tokens);
        Ok(SampleSettings {
            temperature,
            top_k: top_k.min(config.vocab_size) as u32,
            top_p,
            limit: limit as u32,
            seed: [seed as u32, (seed >> 32) as u32],
            pad: config.pad_token_id,
            n_eos: n_eos as u32,
            eos,
        })
    }
}

/// Greedy targets of a model folder as transformers' `generate` gives them: each row begins with the start token, holds
/// the end token, and is padded to the longest.
pub async fn greedy_ids(gpu: &Gpu, dir: &Path, sources: &[Vec<u32>], max_new_tokens: usize) -> Result<Vec<Vec<u32>>> {
    let (model, _) = Model::load(gpu, dir)?;
    let (start, pad) = (model.config.decoder_start_token_id, model.config.pad_token_id);
    let options = GenerateOptions { max_new_tokens, ..GenerateOptions::default() };
    let generations = Generator::new(model).generate_all(sources, &options).await?;
    let row = |g: Generation| [start].into_iter().chain(g.ids).chain(g.stopped_at).collect();
    let mut rows: Vec<Vec<u32>> = generations.into_iter().map(row).collect();
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    rows.iter_mut().for_each(|row| row.resize(longest, pad));
    Ok(rows)
}
