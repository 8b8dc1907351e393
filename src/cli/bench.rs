//! `t5 bench`: how fast the engine is on an adapter.

mod suite;
mod table;

use std::path::{Path, PathBuf};
use std::time::Instant;

use t5_wgpu::bench::{
    self, BenchOptions, ResultsFolder, Saved, Section, SuiteResult, chrome_trace, read_results, render,
    render_comparison, render_prediction,
};
use t5_wgpu::files;
use t5_wgpu::recipe::checkpoint::tokenizer_of_run;

use super::console::{duration, end_progress, note, print, print_note, say, show_progress};
use super::exit_code::ExitCode;
use super::{GpuArgs, subject};

const EXAMPLES: &str = "\
Examples:
  Everything, for T5 small (two to four minutes on two processor cores):
    t5 bench
  Before and after a change:
    t5 bench --json > old.json
    t5 bench --compare old.json
  A larger model's generation, with a trace for https://ui.perfetto.dev:
    t5 bench decode --model flan-t5-base --trace decode.json
  Whether text and tokenizer of your own keep up with the training step:
    t5 bench train --text corpus.txt.gz --tokenizer spiece.model
  What cards that you do not have should need:
    t5 bench --predict --model flan-t5-xl
  Figures that can be compared with those of other cards, each checked:
    t5 bench suite --submit";

/// Measure how fast the engine is on this adapter
///
/// Measures first what the adapter itself can do (matrix products, bandwidth, the cost of dispatches and transfers), then
/// each op at T5's shapes, the encoder, generation and a training step, and says how much of the adapter's ceilings each
/// of them reaches. What is to be compared is timed in turn; figures are medians, with quartiles. `t5 bench suite` measures
/// workloads of fixed names instead, so that results of different cards can be laid side by side with `t5 bench table`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// What to measure: ceilings, ops, encoder, decode, train, or all; ceilings always are [default: all]
    #[arg(value_name = "SECTION", value_parser = section)]
    sections: Vec<Choice>,
    /// The model: a published size by its plain name, with random weights; or a model's or a run's folder; or with its owner a model
    /// of the hub, as google/flan-t5-small
    #[arg(long, value_name = "SIZE|DIR|OWNER/MODEL", default_value = "t5-small")]
    model: String,
    /// Sequences [default: 8, or 1 on a software adapter; in decoding 1 and 16]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Source tokens [default: 512; in decoding 64]
    #[arg(long, value_name = "N")]
    source_len: Option<usize>,
    /// Target tokens [default: 114 in training; 64 in decoding, 32 on a software adapter]
    #[arg(long, value_name = "N")]
    target_len: Option<usize>,
    /// Measuring time of each figure [default: 0.5, or 0.05 with --quick]
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Smaller sizes and fewer rounds: an impression, no measurement
    #[arg(long)]
    quick: bool,
    /// Print one JSON document: save it for --compare
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print one line a figure, comma-separated
    #[arg(long)]
    csv: bool,
    /// Show the ratios to an earlier run that was saved with --json
    #[arg(long, value_name = "OLD.JSON")]
    compare: Option<PathBuf>,
    /// Write the dispatches of a decoding and of a training step as a trace for Chrome or Perfetto
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Text that the data's rate is measured on, its first MiB [default: words that are made up]
    #[arg(long, value_name = "FILE")]
    text: Vec<PathBuf>,
    /// The tokenizer of that: a file, the folder of a model or a run, or "bytes" [default: the model folder's, or else bytes]
    #[arg(long, value_name = "FILE|DIR|bytes")]
    tokenizer: Option<String>,
    /// Measure nothing; say what named graphics cards should need for this model
    #[arg(long, conflicts_with_all = ["compare", "trace", "csv", "sections"])]
    predict: bool,
    /// Results of `t5 bench suite` that --predict learns from [default: the folder results, if there is one]
    #[arg(long, value_name = "DIR", requires = "predict")]
    results: Option<PathBuf>,
    #[command(flatten)]
    gpu: GpuArgs,
}

#[derive(clap::Subcommand)]
enum Action {
    Suite(suite::Args),
    Table(table::Args),
}

/// Where results lie in a clone of the repository.
const RESULTS: &str = "results";

#[derive(Clone, Copy)]
enum Choice {
    All,
    One(Section),
}

fn section(text: &str) -> t5_wgpu::Result<Choice> {
    if text == "all" { Ok(Choice::All) } else { text.parse().map(Choice::One) }
}

impl Args {
    fn options(&self) -> t5_wgpu::Result<BenchOptions> {
        let chosen = |choice: &Choice| match choice {
            Choice::All => Section::ALL.to_vec(),
            Choice::One(section) => vec![*section],
        };
        let subject = subject(&self.model, self.json)?;
        Ok(BenchOptions {
            sections: self.sections.iter().flat_map(chosen).collect(),
            batch: self.batch,
            source_len: self.source_len,
            target_len: self.target_len,
            seconds: self.seconds.unwrap_or(if self.quick { 0.05 } else { 0.5 }),
            quick: self.quick,
            trace: self.trace.is_some(),
            text: self.text.clone(),
            tokenizer: self.tokenizer.as_deref().map(tokenizer_of_run).transpose()?,
            ..BenchOptions::new(subject)
        })
    }
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.action {
        Some(Action::Suite(suite)) => return suite::run(suite, &args.gpu),
        Some(Action::Table(table)) => return table::run(table),
        None => {}
    }
    let options = args.options()?;
    if args.predict {
        return predict(args, &options);
    }
    // Before minutes of measuring.
    let old = args.compare.as_deref().map(Saved::read).transpose()?;
    let gpu = args.gpu.open(false)?;
    let start = Instant::now();
    let (report, traces) = bench::run(&gpu, &options, &mut |what| {
        show_progress(0, 0, &format!("{what}, {} in all", duration(start.elapsed().as_secs_f64())));
    })?;
    end_progress();
    if let Some(path) = &args.trace {
        let text = chrome_trace(gpu.caps(), &traces).to_string();
        files::write_atomic(path, text.as_bytes())?;
        note!("wrote {}: open it in https://ui.perfetto.dev", path.display());
    }
    if args.json {
        say!("{}", serde_json::to_string_pretty(&report)?)?;
    } else if args.csv {
        print(&report.csv())?;
    } else {
        print(&render(&report))?;
    }
    if let Some(old) = &old {
        let mut text = format!("\ncompared with version {} of {}", old.version, old.date);
        for difference in old.differences(&report) {
            text += &format!("\nwarning: {difference}");
        }
        text += &format!("\n{}", render_comparison(&old.compare(&report)));
        // Standard output stays one document.
        if args.json || args.csv { print_note(&text) } else { print(&text)? }
    } else if !args.json && !args.csv {
        say!(
            "\nNext: `t5 bench --json > old.json`, change something, `t5 bench --compare old.json`. Where a kernel is far \
             below\nits ceiling there is something to gain; `--trace FILE` shows a step dispatch by dispatch."
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn predict(args: &Args, options: &BenchOptions) -> anyhow::Result<ExitCode> {
    let results = match &args.results {
        Some(folder) => results_in(folder)?,
        None if Path::new(RESULTS).is_dir() => results_in(Path::new(RESULTS))?,
        None => Vec::new(),
    };
    let prediction = bench::predict(options, &results)?;
    if args.json {
        let mut report = serde_json::json!({
            "schema": bench::SCHEMA, "prediction": true, "guess": prediction.learned_from.is_empty(),
            "model": options.subject.to_string(),
        });
        if let (Some(report), serde_json::Value::Object(found)) =
            (report.as_object_mut(), serde_json::to_value(&prediction)?)
        {
            report.extend(found);
        }
        say!("{report:#}")?;
    } else {
        print(&render_prediction(&options.subject.to_string(), &prediction))?;
        say!("\nNext: `t5 bench --model {}` measures this machine's adapter.", options.subject)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The results below a folder; those that cannot be read are named.
fn results_in(folder: &Path) -> t5_wgpu::Result<Vec<SuiteResult>> {
    let ResultsFolder { results, bad } = read_results(folder)?;
    for bad in bad {
        note!("warning: not read: {}", bad.error);
    }
    Ok(results.into_iter().map(|(_, result)| result).collect())
}
