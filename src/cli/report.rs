//! `t5 report`: one page about one or several runs.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use t5_wgpu::files::{self, LARGE_LIMIT};
use t5_wgpu::report::{ReportOptions, report};
use t5_wgpu::study::run::StudyRun;
use t5_wgpu::study::{STUDY, page};

use super::console::{note, say};

const EXAMPLES: &str = "\
Examples:
  A page about a run:
    t5 report runs/pronounce
  Two runs, their curves laid over each other:
    t5 report runs/small runs/large --out compare.html --title \"Small against large\"
  The stages of one run, laid over each other:
    t5 report runs/transfer --stages
  A study: intervals, tables, curves with bands over the seeds:
    t5 report runs/objectives
  Two evaluations:
    t5 report runs/small/test runs/large/test";

/// Write an HTML page about one or several runs: curves, results, cost, settings that differ, predictions.
///
/// A run is a folder that `t5 train` or `t5 run` wrote, finished or not, a stage's folder in it, or one of `t5 eval --out`; one that
/// `t5 study` wrote stands alone.
/// What was measured on different splits of a task stands in different tables. The page is one file that needs no network; it shows
/// light or dark as the reader's system does, and prints. The pointer shows values; the legend hides runs.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folders of runs; their order gives the colours
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// The page
    #[arg(long, short, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
    /// Its title [default: the names of the runs]
    #[arg(long)]
    title: Option<String>,
    /// Lay the stages of each run over each other, as if each were a run
    #[arg(long)]
    stages: bool,
    /// Predictions shown of each task
    #[arg(long, value_name = "N", default_value_t = ReportOptions::default().samples)]
    samples: usize,
}

/// Bytes with which every page begins.
const HEAD: usize = 40;

pub fn run(args: Args) -> Result<()> {
    let made = match &args.runs[..] {
        [one] if one.join(STUDY).is_file() => page::report(&StudyRun::open(one)?)?,
        runs => report(runs, &ReportOptions { title: args.title, samples: args.samples, stages: args.stages })?,
    };
    for remark in &made.remarks {
        note!("note: {remark}");
    }
    let head = files::read(&args.out, LARGE_LIMIT).unwrap_or_default();
    if args.out.is_file() && !head.is_empty() && !head.starts_with(&made.html.as_bytes()[..HEAD]) {
        bail!("{} is there and is no page of `t5 report`: choose another name with --out", args.out.display());
    }
    if let Some(folder) = args.out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
    }
    files::write_atomic(&args.out, made.html.as_bytes())?;
    say!("{}: {} kB; open it in a browser", args.out.display(), made.html.len().div_ceil(1000))?;
    Ok(())
}
