//! Values as tokens: `MeanScaleUniformBins` of chronos-forecasting.

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::model::T5Config;

/// `chronos_config` in `config.json`: how the model was trained.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ChronosConfig {
    /// Values of a series that the model sees: the last.
    pub context_length: usize,
    /// Values that it forecasts at once.
    pub prediction_length: usize,
    /// Tokens, special ones included.
    pub n_tokens: usize,
    /// Tokens before the first bin's.
    pub n_special_tokens: usize,
    pub eos_token_id: u32,
    pub use_eos_token: bool,
    /// Paths that are drawn unless someone asks for another number.
    pub num_samples: usize,
    pub temperature: f32,
    pub top_k: usize,
    pub top_p: f32,
    model_type: String,
    tokenizer_class: String,
    tokenizer_kwargs: Limits,
}

/// The centres of the first and the last bin.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Limits {
    low_limit: f32,
    high_limit: f32,
}

impl ChronosConfig {
    /// # Errors
    /// `Input`: there is none, or it is of another kind of Chronos.
    pub fn of(config: &T5Config) -> Result<ChronosConfig> {
        let wrong = |what: String| Error::Input(format!("config.json: {what}"));
        let Some(value) = config.extra.get("chronos_config") else {
            let what = "there is no chronos_config: forecasts are made with a Chronos-T5 or a Chronos-Bolt (amazon/chronos-bolt-small)";
            return Err(wrong(what.into()));
        };
        let config: ChronosConfig = serde_json::from_value(value.clone())
            .map_err(|e| wrong(format!("chronos_config is not that of a Chronos-T5: {e}")))?;
        let ChronosConfig { tokenizer_class, model_type, .. } = &config;
        if tokenizer_class != "MeanScaleUniformBins" || model_type != "seq2seq" {
            let what =
                format!("a {model_type} model with {tokenizer_class}; known is seq2seq with MeanScaleUniformBins");
            return Err(wrong(format!("chronos_config names {what}")));
        }
        Ok(config)
    }
}

/// The bins that values fall into.
pub struct ValueBins {
    config: ChronosConfig,
    centers: Vec<f32>,
    /// Between neighbouring centres.
    boundaries: Vec<f32>,
}

impl ValueBins {
    /// # Errors
    /// `Input`: sizes that contradict each other, or a model with another number of tokens.
    pub fn new(config: ChronosConfig, vocab_size: usize) -> Result<ValueBins> {
        let Limits { low_limit, high_limit } = config.tokenizer_kwargs;
        let wrong = |what: String| Err(Error::Input(format!("config.json: chronos_config: {what}")));
        if config.n_tokens > vocab_size || config.n_tokens < config.n_special_tokens.saturating_add(3) {
            let (tokens, special) = (config.n_tokens, config.n_special_tokens);
            return wrong(format!("{tokens} tokens, {special} of them special, of a model with {vocab_size}"));
        }
        if !(low_limit.is_finite() && high_limit.is_finite() && low_limit < high_limit) {
            return wrong(format!("bins from {low_limit} to {high_limit}"));
        }
        if config.context_length == 0 || config.prediction_length == 0 || config.eos_token_id as usize >= vocab_size {
            return wrong("context_length and prediction_length start at 1, eos_token_id is one of the tokens".into());
        }
        // As torch.linspace has it: counted from either end, so that the middle is not off.
        let n = config.n_tokens - config.n_special_tokens - 1;
        let step = (high_limit - low_limit) / (n - 1) as f32;
        let center = |i: usize| match i < n / 2 {
            true => low_limit + step * i as f32,
            false => high_limit - step * (n - 1 - i) as f32,
        };
        let centers: Vec<f32> = (0..n).map(center).collect();
        let boundaries = centers.windows(2).map(|pair| (pair[1] + pair[0]) / 2.0).collect();
        Ok(ValueBins { config, centers, boundaries })
    }

    pub fn config(&self) -> &ChronosConfig {
        &self.config
    }

    /// The tokens of the last [`ChronosConfig::context_length`] values, and the scale that they were divided by. NaN stands for
    /// what is not known, at the beginning.
    ///
    /// # Errors
    /// A sentence: there is no value, or one is missing behind the first.
    pub fn tokens(&self, values: &[f32]) -> Result<(Vec<u32>, f32), String> {
        let values = &values[values.len().saturating_sub(self.config.context_length)..];
        let first = values.iter().position(|v| !v.is_nan()).ok_or("it has no value that is known")?;
        let values = &values[first..];
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let what = format!("value {} of those that the model sees is missing or infinite", first + at + 1);
            return Err(format!("{what}: fill gaps first, with the value before or the mean of both sides"));
        }
        let sum: f64 = values.iter().map(|&v| f64::from(v.abs())).sum();
        let mean = (sum / values.len() as f64) as f32;
        let scale = if mean > 0.0 { mean } else { 1.0 };
        let mut ids: Vec<u32> = values.iter().map(|value| self.token(value / scale)).collect();
        if self.config.use_eos_token {
            ids.push(self.config.eos_token_id);
        }
        Ok((ids, scale))
    }

    /// The token of a scaled value. A boundary belongs to the bin above it.
    fn token(&self, scaled: f32) -> u32 {
        // Beyond all bins there is a boundary at either end, too.
        let above = self.boundaries.partition_point(|&boundary| boundary <= scaled)
            + usize::from(scaled >= -BEYOND)
            + usize::from(scaled >= BEYOND);
        (above + self.config.n_special_tokens).min(self.config.n_tokens - 1) as u32
    }

    /// The value that a token stands for.
    pub fn value(&self, token: u32, scale: f32) -> f32 {
        let bin = (token as usize).saturating_sub(self.config.n_special_tokens + 1);
        self.centers[bin.min(self.centers.len() - 1)] * scale
    }
}

/// Scaled values beyond are in no bin.
const BEYOND: f32 = 1e20;
