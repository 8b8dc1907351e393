//! Forecasts of time series with Chronos ([Ansari et al. 2024](https://arxiv.org/abs/2403.07815)), of which two kinds are T5s.
//!
//! Chronos-T5's tokens stand for values: a series is divided by its mean absolute value, each value becomes the token of the bin
//! that it lies in, and what follows is drawn token by token, several times. Chronos-Bolt reads patches of values and gives
//! quantiles of all values that follow at once.

mod bins;
mod patches;

use std::ops::ControlFlow;

pub use bins::{ChronosConfig, ValueBins};

use self::patches::patches;
use crate::error::{Error, Result};
use crate::forward::PatchReader;
use crate::generate::{Decoding, Generator};
use crate::model::Model;

/// Forecasts with a Chronos-T5 or a Chronos-Bolt.
pub struct Forecaster {
    kind: Kind,
}

enum Kind {
    /// Chronos-T5.
    Draws { generator: Box<Generator>, bins: ValueBins },
    /// Chronos-Bolt.
    Quantiles(Box<PatchReader>),
}

/// How a forecast is made; what is `None` is as the model's `chronos_config` says. A Chronos-Bolt draws nothing: it has use for the
/// length alone, and refuses what else is said of draws.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForecastOptions {
    /// Values after a series' last. What the model was not trained to see at once is made in turns: a Chronos-T5's go on from the
    /// median of the paths so far, a Chronos-Bolt's from each of its quantiles.
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
pub enum Forecast {
    /// Paths that a Chronos-T5 drew, each as long as the forecast.
    Paths(Vec<Vec<f32>>),
    /// What a Chronos-Bolt gives: for each level, the value at each step below which that share of all outcomes lies.
    Quantiles { levels: Vec<f64>, values: Vec<Vec<f32>> },
}

impl Forecast {
    /// The value at each step below which this share of the outcomes lies: of paths, between neighbours in proportion; of a
    /// Chronos-Bolt, which knows some levels, between these in proportion, and beyond the outer ones no further than they are.
    pub fn quantile(&self, level: f64) -> Vec<f32> {
        let level = level.clamp(0.0, 1.0);
        match self {
            Forecast::Paths(paths) => quantile(&paths.iter().collect::<Vec<_>>(), level),
            Forecast::Quantiles { levels, values } => match levels.iter().position(|&known| known == level) {
                Some(known) => values[known].clone(),
                None => {
                    let [first, last] = [values.first(), values.last()].map(Option::into_iter);
                    quantile(&first.chain(values).chain(last).collect::<Vec<_>>(), level)
                }
            },
        }
    }

    /// The mean of the paths at each step; of quantiles the median, as chronos-forecasting has it.
    pub fn mean(&self) -> Vec<f32> {
        match self {
            Forecast::Paths(paths) => each_step(&paths.iter().collect::<Vec<_>>(), |values| {
                (values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64) as f32
            }),
            Forecast::Quantiles { .. } => self.quantile(0.5),
        }
    }
}

/// Of the values at each step the one at this level of the sorted ones, between neighbours in proportion.
fn quantile(rows: &[&Vec<f32>], level: f64) -> Vec<f32> {
    each_step(rows, |sorted| {
        let at = level * (sorted.len() - 1) as f64;
        let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
        (f64::from(low) + at.fract() * (f64::from(high) - f64::from(low))) as f32
    })
}

/// `of` the sorted values of the rows at each step.
fn each_step(rows: &[&Vec<f32>], of: impl Fn(&[f32]) -> f32) -> Vec<f32> {
    let steps = rows.first().map_or(0, |row| row.len());
    let at = |step: usize| {
        let mut values: Vec<f32> = rows.iter().map(|row| row[step]).collect();
        values.sort_by(f32::total_cmp);
        of(&values)
    };
    (0..steps).map(at).collect()
}

impl Forecaster {
    /// # Errors
    /// `Input`: the model's `config.json` has no `chronos_config`, or one of another kind.
    pub fn new(model: Model) -> Result<Forecaster> {
        if model.config.patches.is_some() {
            return Ok(Forecaster { kind: Kind::Quantiles(Box::new(PatchReader::new(model)?)) });
        }
        model.expect_decoder()?;
        let config = ChronosConfig::of(&model.config)?;
        let bins = ValueBins::new(config, model.config.vocab_size)?;
        Ok(Forecaster { kind: Kind::Draws { generator: Box::new(Generator::new(model)), bins } })
    }

    /// Values that the model was trained to forecast at once.
    pub fn prediction_length(&self) -> usize {
        match &self.kind {
            Kind::Draws { bins, .. } => bins.config().prediction_length,
            Kind::Quantiles(reader) => reader.head().prediction_length,
        }
    }

    /// What may follow each series, in their order. Values that are not known are NaN: a Chronos-T5 takes them at the beginning
    /// only, a Chronos-Bolt everywhere.
    ///
    /// # Errors
    /// `Input`: a series without a value, or with a gap that the model does not take, an impossible option; `OutOfMemory`;
    /// `Numeric`; `Cancelled`, once `should_stop` says so.
    pub async fn forecast(
        &mut self,
        series: &[Vec<f32>],
        options: &ForecastOptions,
        should_stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Forecast>> {
        let length = options.length.unwrap_or_else(|| self.prediction_length());
        let paths = match &self.kind {
            Kind::Draws { bins, .. } => options.paths.unwrap_or(bins.config().num_samples),
            Kind::Quantiles(_) => options.paths.unwrap_or(1),
        };
        if length == 0 || paths == 0 {
            return Err(Error::Input("nothing to forecast: length and paths start at 1".into()));
        }
        if length > MOST_VALUES || paths > MOST_PATHS {
            let what = format!("a forecast has at most {MOST_VALUES} values and {MOST_PATHS} paths");
            return Err(Error::Input(what));
        }
        match &mut self.kind {
            Kind::Draws { generator, bins } => {
                draw(generator, bins, series, [length, paths], options, should_stop).await
            }
            Kind::Quantiles(reader) => {
                let ForecastOptions { paths, temperature, top_k, top_p, .. } = options;
                if paths.is_some() || temperature.is_some() || top_k.is_some() || top_p.is_some() {
                    let what = "a Chronos-Bolt draws no paths: leave out their number, temperature, top k and top p";
                    return Err(Error::Input(what.into()));
                }
                find_quantiles(reader, series, length, should_stop).await
            }
        }
    }
}

/// So many paths of so many values by a Chronos-T5.
async fn draw(
    generator: &mut Generator,
    bins: &ValueBins,
    series: &[Vec<f32>],
    [length, n_paths]: [usize; 2],
    options: &ForecastOptions,
    should_stop: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Forecast>> {
    let config = bins.config();
    let mut known = series.to_vec();
    let mut made = vec![vec![Vec::new(); n_paths]; series.len()];
    let mut done = 0;
    while done < length {
        let turn = (length - done).min(config.prediction_length);
        // Every turn has draws of its own.
        let seed = options.seed.wrapping_add(((done / config.prediction_length) as u64) << 32);
        let (mut sources, mut scales) = (Vec::new(), Vec::new());
        for (number, values) in known.iter().enumerate() {
            let (ids, scale) = bins.tokens(values).map_err(|e| Error::Input(format!("series {number}: {e}")))?;
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
        let found = generator.generate(&sources, &decoding, &mut on_tokens, should_stop).await?;
        if should_stop() {
            return Err(Error::Cancelled);
        }
        let mut found = found.into_iter();
        for ((paths, values), scale) in made.iter_mut().zip(&mut known).zip(scales) {
            let mut new = Vec::new();
            for generation in found.by_ref().take(n_paths).flatten() {
                new.push(generation.ids.iter().map(|&id| bins.value(id, scale)).collect::<Vec<f32>>());
            }
            // Of an even number of paths the lower one in the middle.
            values.extend(each_step(&new.iter().collect::<Vec<_>>(), |sorted| sorted[(sorted.len() - 1) / 2]));
            paths.iter_mut().zip(new).for_each(|(path, more)| path.extend(more));
        }
        done += turn;
    }
    Ok(made.into_iter().map(Forecast::Paths).collect())
}

/// Quantiles by a Chronos-Bolt. After the first turn each series goes on once for each of its quantiles, and the quantiles of all
/// that come of these are the next.
async fn find_quantiles(
    reader: &mut PatchReader,
    series: &[Vec<f32>],
    length: usize,
    should_stop: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Forecast>> {
    let head = reader.head().clone();
    let (levels, horizon) = (&head.quantiles, head.prediction_length);
    let mut made = vec![vec![Vec::new(); levels.len()]; series.len()];
    // Of each series what goes on: itself, then one for each quantile.
    let mut known: Vec<Vec<Vec<f32>>> = series.iter().map(|values| vec![values.clone()]).collect();
    let mut done = 0;
    while done < length {
        let (mut read, mut measures) = (Vec::new(), Vec::new());
        for (number, values) in known.iter().enumerate() {
            for values in values {
                let (patched, measure) =
                    patches(&head, values).map_err(|e| Error::Input(format!("series {number}: {e}")))?;
                read.push(patched);
                measures.push(measure);
            }
        }
        let found = reader.quantiles(&read, should_stop).await?;
        let mut found = found.into_iter().zip(measures);
        for (known, made) in known.iter_mut().zip(&mut made) {
            let of_all: Vec<Vec<f32>> = found
                .by_ref()
                .take(known.len())
                .flat_map(|(values, measure)| {
                    let row = |row: &[f32]| row.iter().map(|&x| measure.value(x)).collect::<Vec<f32>>();
                    values.chunks(horizon).map(row).collect::<Vec<_>>()
                })
                .collect();
            let new: Vec<Vec<f32>> = match known.len() {
                1 => of_all,
                _ => levels.iter().map(|&level| quantile(&of_all.iter().collect::<Vec<_>>(), level)).collect(),
            };
            if known.len() == 1 && levels.len() > 1 {
                *known = vec![known[0].clone(); levels.len()];
            }
            for ((known, made), new) in known.iter_mut().zip(made).zip(new) {
                known.extend(&new);
                made.extend(new);
            }
        }
        done += horizon;
    }
    let forecast = |mut values: Vec<Vec<f32>>| {
        values.iter_mut().for_each(|row| row.truncate(length));
        Forecast::Quantiles { levels: levels.clone(), values }
    };
    Ok(made.into_iter().map(forecast).collect())
}

/// Beyond any forecast, and no product of sizes overflows.
const MOST_VALUES: usize = 1 << 16;
const MOST_PATHS: usize = 1 << 12;
