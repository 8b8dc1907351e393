//! Forecasts of time series with Chronos-T5 ([Ansari et al. 2024](https://arxiv.org/abs/2403.07815)): a T5 whose tokens stand for
//! values. A series is divided by its mean absolute value, each value becomes the token of the bin that it lies in, and what
//! follows is drawn token by token, several times.

mod bins;

use std::ops::ControlFlow;

pub use bins::{ChronosConfig, ValueBins};

use crate::error::{Error, Result};
use crate::generate::{Decoding, Generator};
use crate::model::Model;

/// Forecasts with a Chronos-T5.
pub struct Forecaster {
    generator: Generator,
    bins: ValueBins,
}

/// How a forecast is made; what is `None` is as the model's `chronos_config` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForecastOptions {
    /// Values after a series' last. What the model was not trained to see at once is made in turns, each of which goes on
    /// from the median of the paths so far.
    pub length: Option<usize>,
    /// Paths that are drawn for each series.
    pub paths: Option<usize>,
    pub temperature: Option<f32>,
    /// Draw among the k likeliest bins.
    pub top_k: Option<usize>,
    /// Draw among the fewest bins whose probabilities reach this sum.
    pub top_p: Option<f32>,
    /// A series' paths depend on the seed, the series' number and the position alone.
    pub seed: u64,
    /// Number of the first series among all that share a seed.
    pub first_series: usize,
}

/// What may follow a series.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// Each as long as the forecast.
    pub paths: Vec<Vec<f32>>,
}

impl Forecast {
    /// The value at each step below which this share of the paths lies, between neighbours in proportion.
    pub fn quantile(&self, level: f64) -> Vec<f32> {
        self.each_step(|sorted| {
            let at = level.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
            let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
            (f64::from(low) + at.fract() * (f64::from(high) - f64::from(low))) as f32
        })
    }

    /// The mean of the paths at each step.
    pub fn mean(&self) -> Vec<f32> {
        self.each_step(|values| (values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64) as f32)
    }

    /// Of an even number of paths the lower one in the middle.
    fn lower_median(&self) -> Vec<f32> {
        self.each_step(|sorted| sorted[(sorted.len() - 1) / 2])
    }

    /// `of` the sorted values of the paths at each step.
    fn each_step(&self, of: impl Fn(&[f32]) -> f32) -> Vec<f32> {
        let steps = self.paths.first().map_or(0, Vec::len);
        let at = |step: usize| {
            let mut values: Vec<f32> = self.paths.iter().map(|path| path[step]).collect();
            values.sort_by(f32::total_cmp);
            of(&values)
        };
        (0..steps).map(at).collect()
    }
}

impl Forecaster {
    /// # Errors
    /// `Input`: the model's `config.json` has no `chronos_config`, or one of another kind.
    pub fn new(model: Model) -> Result<Forecaster> {
        model.expect_decoder()?;
        let config = ChronosConfig::of(&model.config)?;
        let bins = ValueBins::new(config, model.config.vocab_size)?;
        Ok(Forecaster { generator: Generator::new(model), bins })
    }

    /// How the model was trained: lengths, bins, how it draws.
    pub fn config(&self) -> &ChronosConfig {
        self.bins.config()
    }

    /// What may follow each series, in their order. Values that are not known are NaN, and stand at the beginning only.
    ///
    /// # Errors
    /// `Input`: a series without a value or with a gap, an impossible option; `OutOfMemory`; `Numeric`; `Cancelled`, once
    /// `should_stop` says so.
    pub async fn forecast(
        &mut self,
        series: &[Vec<f32>],
        options: &ForecastOptions,
        should_stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Forecast>> {
        let config = self.bins.config().clone();
        let length = options.length.unwrap_or(config.prediction_length);
        let n_paths = options.paths.unwrap_or(config.num_samples);
        if length == 0 || n_paths == 0 {
            return Err(Error::Input("nothing to forecast: length and paths start at 1".into()));
        }
        if length > MOST_VALUES || n_paths > MOST_PATHS {
            let what = format!("a forecast has at most {MOST_VALUES} values and {MOST_PATHS} paths");
            return Err(Error::Input(what));
        }
        let mut known = series.to_vec();
        let mut made = vec![Forecast { paths: vec![Vec::new(); n_paths] }; series.len()];
        let mut done = 0;
        while done < length {
            let turn = (length - done).min(config.prediction_length);
            // Every turn has draws of its own.
            let seed = options.seed.wrapping_add(((done / config.prediction_length) as u64) << 32);
            let (mut sources, mut scales) = (Vec::new(), Vec::new());
            for (number, values) in known.iter().enumerate() {
                let (ids, scale) =
                    self.bins.tokens(values).map_err(|e| Error::Input(format!("series {number}: {e}")))?;
                sources.extend(std::iter::repeat_n(ids, n_paths));
                scales.push(scale);
            }
            let decoding = Decoding {
                top_k: options.top_k.unwrap_or(config.top_k),
                top_p: options.top_p.unwrap_or(config.top_p),
                // A series as long as the forecast has no end in it.
                min_new_tokens: turn,
                first_source: options.first_series * n_paths,
                max_batch: 64,
                ..Decoding::sample(options.temperature.unwrap_or(config.temperature), seed)
            };
            let decoding = decoding.max_new_tokens(turn);
            let mut on_tokens = |_: usize, _: &[u32]| ControlFlow::Continue(());
            let found = self.generator.generate(&sources, &decoding, &mut on_tokens, should_stop).await?;
            if should_stop() {
                return Err(Error::Cancelled);
            }
            let mut found = found.into_iter();
            for ((forecast, values), scale) in made.iter_mut().zip(&mut known).zip(scales) {
                let mut new = Forecast { paths: Vec::new() };
                for generation in found.by_ref().take(n_paths).flatten() {
                    new.paths.push(generation.ids.iter().map(|&id| self.bins.value(id, scale)).collect());
                }
                values.extend(new.lower_median());
                forecast.paths.iter_mut().zip(new.paths).for_each(|(path, more)| path.extend(more));
            }
            done += turn;
        }
        Ok(made)
    }
}

/// Beyond any forecast, and no product of sizes overflows.
const MOST_VALUES: usize = 1 << 16;
const MOST_PATHS: usize = 1 << 12;
