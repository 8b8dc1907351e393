//! `t5 forecast`: what may follow time series, with Chronos.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use t5_wgpu::data::lines::Lines;
use t5_wgpu::forecast::{Forecast, ForecastOptions, Forecaster};
use t5_wgpu::model::ModelParts;

use super::console::{Data, end_progress, note, show_progress};
use super::model_args::{DeviceArgs, WeightsArg};
use super::model_folder;

const EXAMPLES: &str = "\
Examples:
  What may follow some numbers:
    t5 forecast --model models/chronos-t5-small 112 118 132 129 121 135 148 148 136 119 104 118
  A column of a table, 24 steps ahead, with more quantiles:
    t5 forecast --model models/chronos-t5-small --file sales.csv --column units --length 24 --quantiles 0.05,0.5,0.95
  A Chronos-Bolt by its name on the hub, which draws no paths and takes a fraction of the time:
    t5 forecast --model amazon/chronos-bolt-small --file sales.csv --column units
  Each line a series, [1, 2, null, 4] or 1,2,4; every drawn path as JSON:
    t5 forecast --model models/chronos-t5-small --file series.jsonl --paths 100 --json > forecasts.jsonl";

/// Forecast time series with a Chronos-T5 or a Chronos-Bolt
///
/// A series comes as numbers on the command line, as a line (JSON list, or numbers parted by commas or spaces), or as a column
/// of a table. A Chronos-T5 draws paths of what may follow; of these, mean and quantiles at each step are printed as CSV. A
/// Chronos-Bolt knows quantiles of what may follow; its mean is the median.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Model folder with the config.json and the weights of a Chronos
    #[arg(long, short, value_name = "DIR")]
    model: PathBuf,
    /// Read series from this file, one a line; plain, .gz, .xz or .zst ("-": standard input)
    #[arg(long, short, value_name = "FILE", conflicts_with = "values")]
    file: Option<PathBuf>,
    /// The file is a CSV table with a header, and this column is a series; give it once for each. Empty cells are unknown
    #[arg(long, value_name = "NAME", requires = "file")]
    column: Vec<String>,
    /// Values to forecast [default: as many as the model was trained to]
    #[arg(long, value_name = "N")]
    length: Option<usize>,
    /// Chronos-T5: paths to draw for each series [default: as the model's config.json says, usually 20]
    #[arg(long, value_name = "N")]
    paths: Option<usize>,
    /// Quantiles to print
    #[arg(long, value_name = "LEVELS", value_delimiter = ',', default_value = "0.1,0.5,0.9", value_parser = level)]
    quantiles: Vec<f64>,
    /// Chronos-T5: draw at this temperature [default: the model's]
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Chronos-T5: draw among the K likeliest values [default: the model's]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Chronos-T5: draw among the fewest values whose probabilities reach P [default: the model's]
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Chronos-T5: the same seed draws the same paths
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How weights are held in the adapter's memory
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = WeightsArg::Auto)]
    weights: WeightsArg,
    /// Print one JSON object a series, with all paths if there are any
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// The values of one series
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    values: Vec<f32>,
}

/// Series that are forecast before results are written.
const WINDOW: usize = 16;

/// A series and what it is called in the results.
struct Series {
    name: String,
    values: Vec<f32>,
}

pub fn run(args: &Args) -> Result<()> {
    let mut input = Input::open(args)?;
    let folder = model_folder(&args.model, args.device.quiet)?;
    let gpu = args.device.open()?;
    let mut forecaster = Forecaster::new(args.device.load(&gpu, &ModelParts::open_any(&folder)?, args.weights)?)?;
    let options = ForecastOptions {
        length: args.length,
        paths: args.paths,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
        first_series: 0,
    };
    let trained = forecaster.prediction_length();
    if args.length.is_some_and(|length| length > trained) && !args.device.quiet {
        note!("the model was trained to forecast {trained} values: what lies beyond goes on from its own forecast");
    }
    if !args.json {
        let levels: Vec<String> = args.quantiles.iter().map(f64::to_string).collect();
        writeln!(Data::new(), "series,step,mean,{}", levels.join(","))?;
    }
    let mut done = 0;
    loop {
        let window = input.take(WINDOW)?;
        if window.is_empty() {
            break;
        }
        let values: Vec<Vec<f32>> = window.iter().map(|series| series.values.clone()).collect();
        // Each window has draws of its own, which its place among all series alone decides.
        let options = ForecastOptions { first_series: done, ..options.clone() };
        let forecasts = pollster::block_on(forecaster.forecast(&values, &options, &|| false))?;
        let mut out = Data::new();
        for (series, forecast) in window.iter().zip(&forecasts) {
            args.print(&mut out, &series.name, forecast)?;
        }
        out.flush()?;
        drop(out);
        done += window.len();
        if !args.device.quiet {
            show_progress(done as u64, 0, &format!("{done} series forecast"));
        }
    }
    end_progress();
    Ok(())
}

impl Args {
    fn print(&self, out: &mut impl Write, name: &str, forecast: &Forecast) -> Result<()> {
        let mean = forecast.mean();
        let quantiles: Vec<Vec<f32>> = self.quantiles.iter().map(|&level| forecast.quantile(level)).collect();
        if self.json {
            let levels = self.quantiles.iter().map(f64::to_string);
            let named: serde_json::Map<_, _> =
                levels.zip(quantiles.iter().map(|values| values.clone().into())).collect();
            let mut object = serde_json::json!({ "series": name, "mean": mean, "quantiles": named });
            if let Forecast::Paths(paths) = forecast {
                object["paths"] = serde_json::json!(paths);
            }
            writeln!(out, "{object}")?;
            return Ok(());
        }
        for (step, mean) in mean.iter().enumerate() {
            let levels: Vec<String> = quantiles.iter().map(|values| values[step].to_string()).collect();
            writeln!(out, "{},{},{mean},{}", cell(name), step + 1, levels.join(","))?;
        }
        Ok(())
    }
}

/// Where series come from.
enum Input {
    Given(Vec<Series>),
    Lines { lines: Lines, place: String },
}

impl Input {
    fn open(args: &Args) -> Result<Input> {
        if !args.values.is_empty() {
            return Ok(Input::Given(vec![Series { name: "1".into(), values: args.values.clone() }]));
        }
        let named = args.file.as_deref().filter(|path| path.as_os_str() != "-");
        let lines = named.map_or_else(|| Ok(Lines::stdin()), Lines::open)?;
        let place = named.map_or("stdin".into(), |path| path.display().to_string());
        if args.column.is_empty() {
            return Ok(Input::Lines { lines, place });
        }
        let mut series = columns(lines, &place, &args.column)?;
        series.reverse();
        Ok(Input::Given(series))
    }

    /// Up to `count` series; none at the end.
    fn take(&mut self, count: usize) -> Result<Vec<Series>> {
        let mut taken = Vec::new();
        while taken.len() < count {
            match self {
                Input::Given(series) => match series.pop() {
                    Some(series) => taken.push(series),
                    None => break,
                },
                Input::Lines { lines, place } => {
                    let Some((number, line)) = lines.next_text()? else { break };
                    if line.trim().is_empty() {
                        continue;
                    }
                    let values = values_of(line).with_context(|| format!("{place}:{number}"))?;
                    taken.push(Series { name: number.to_string(), values });
                }
            }
        }
        Ok(taken)
    }
}

/// The columns of a table.
fn columns(mut lines: Lines, place: &str, wanted: &[String]) -> Result<Vec<Series>> {
    let cells = |line: &str| -> Result<Vec<String>> {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(line.as_bytes());
        let record = reader.records().next().transpose()?;
        Ok(record.map(|record| record.iter().map(|cell| cell.trim().to_owned()).collect()).unwrap_or_default())
    };
    let header = lines.next_text()?.map(|(_, line)| cells(line)).transpose()?.unwrap_or_default();
    let position = |name: &String| {
        let at = header.iter().position(|cell| cell == name);
        at.ok_or_else(|| anyhow!("{place}: there is no column {name:?}; there are {}", header.join(", ")))
    };
    let places: Vec<usize> = wanted.iter().map(position).collect::<Result<_>>()?;
    let mut series: Vec<Series> = wanted.iter().map(|name| Series { name: name.clone(), values: Vec::new() }).collect();
    while let Some((number, line)) = lines.next_text()? {
        if line.trim().is_empty() {
            continue;
        }
        let row = cells(line).with_context(|| format!("{place}:{number}"))?;
        for (series, &at) in series.iter_mut().zip(&places) {
            let cell = row.get(at).with_context(|| format!("{place}:{number}: the row has {} cells", row.len()))?;
            series.values.push(value_of(cell).with_context(|| format!("{place}:{number}"))?);
        }
    }
    Ok(series)
}

/// `[1, null, 3]`, `1,,3` or `1 3`.
fn values_of(line: &str) -> Result<Vec<f32>> {
    if line.trim_start().starts_with('[') {
        let values: Vec<Option<f32>> = serde_json::from_str(line).context("not a list of numbers")?;
        return Ok(values.into_iter().map(|value| value.unwrap_or(f32::NAN)).collect());
    }
    match line.contains(',') {
        true => line.split(',').map(value_of).collect(),
        false => line.split_whitespace().map(value_of).collect(),
    }
}

/// A number; NaN where it is not known.
fn value_of(cell: &str) -> Result<f32> {
    let cell = cell.trim();
    if ["", "nan", "null", "na"].contains(&cell.to_lowercase().as_str()) {
        return Ok(f32::NAN);
    }
    match cell.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => bail!("{cell:?} is no number"),
    }
}

fn cell(name: &str) -> String {
    match name.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", name.replace('"', "\"\"")),
        false => name.to_owned(),
    }
}

fn level(text: &str) -> Result<f64> {
    match text.trim().parse::<f64>() {
        Ok(level) if (0.0..=1.0).contains(&level) => Ok(level),
        _ => bail!("{text:?} does not lie between 0 and 1"),
    }
}
