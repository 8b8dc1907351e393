//! `t5 bench suite`: workloads of fixed names, each behind its gate.

use std::path::PathBuf;
use std::time::Instant;

use t5_wgpu::bench::{
    FrozenWorkload, MachineFacts, SuiteOptions, WorkloadResult, recorded_results, render_suite, run_suite,
    submission_path,
};
use t5_wgpu::tune::{Mode, TuneBudget};

use super::RESULTS;
use crate::cli::console::{duration, end_progress, note, print, say, show_progress};
use crate::cli::exit_code::ExitCode;
use crate::cli::{GpuArgs, TuneArgs};

const EXAMPLES: &str = "\
Examples:
  Everything that fits five minutes:
    t5 bench suite
  The same, as a file that can be sent to the project:
    t5 bench suite --submit
  One model, or one workload, however long it takes:
    t5 bench suite t5-base
    t5 bench suite t5-large/dec-b1-s512-n64

Workloads: for each of t5-small, t5-base and t5-large
  enc-512x8         the encoder over 8 sources of 512 tokens
  dec-b1-s512-n64   64 tokens, greedy, one source of 512 tokens
  train-8x512+114   a training step with AdamW, 8 sources of 512 tokens, targets of 114
and tiny/enc-64x4, tiny/dec-b1-s64-n16, tiny/train-4x64+24 to try the suite out.";

/// Measure workloads of fixed names, so that cards can be compared
///
/// Weights and token ids are made up from fixed seeds: nothing is downloaded, and a name means the same numbers everywhere.
/// Each workload is a measurement and a proof: what it computed is held against results recorded in float64. Where they
/// disagree, its figures are struck out and the exit code is 1. Without names, workloads go from small to large for five
/// minutes; what would not fit is left out, which the result says. docs/benchmarks.md explains figures and files.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Workloads, with or without their model, or models [default: all that fit the time]
    #[arg(value_name = "WORKLOAD|MODEL")]
    workloads: Vec<String>,
    /// Measuring time of each figure
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    seconds: f64,
    /// How long one workload, the first training or else the last, runs without a pause, to see whether the speed lasts; 0: not at all
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    sustained: f64,
    /// Begin nothing that would end later than this, although it was named [default: 5, or no limit for what is named]
    #[arg(long, value_name = "MIN")]
    minutes: Option<f64>,
    /// Write VENDOR/GPU/DRIVER.json into this folder
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = RESULTS, require_equals = true)]
    submit: Option<PathBuf>,
    /// Replace such a file
    #[arg(long, requires = "submit")]
    force: bool,
    /// Print the result as JSON, as it is written by --submit
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tune: TuneArgs,
}

/// Minutes of a suite whose workloads nobody named.
const MINUTES: f64 = 5.0;

pub fn run(args: &Args, gpu: &GpuArgs) -> anyhow::Result<ExitCode> {
    let workloads = FrozenWorkload::named(&args.workloads)?;
    let start = Instant::now();
    let gpu = gpu.open(false)?;
    let adapter_seconds = start.elapsed().as_secs_f64();
    if let Some(folder) = &args.submit {
        // Before minutes of measuring.
        submission_path(folder, &MachineFacts::of(gpu.caps()), args.force)?;
    }
    let tune = args.tune.tune.unwrap_or(Mode::On);
    let limit = args.minutes.or(args.workloads.is_empty().then_some(MINUTES));
    let options = SuiteOptions {
        workloads,
        seconds: args.seconds,
        sustained: args.sustained,
        limit: limit.map(|minutes| 60.0 * minutes),
        tuner: args.tune.open(&gpu, tune, TuneBudget::for_run()),
        tune,
        adapter_seconds,
        expected: recorded_results()?,
    };
    let result = run_suite(&gpu, &options, &mut |progress| {
        if progress.is_result {
            note!("{}", progress.what);
            return;
        }
        let left = progress.seconds_left.map(|left| format!(", about {} left", duration(left))).unwrap_or_default();
        show_progress(0, 0, &format!("{}{left}", progress.what));
    })?;
    end_progress();
    for warning in options.tuner.warnings() {
        note!("warning: {warning}");
    }
    if args.json {
        say!("{}", result.json())?
    } else {
        print(&render_suite(&result))?
    }
    let passed = result.passed();
    if let Some(folder) = &args.submit {
        let path = result.submit(folder, args.force)?;
        note!("\nwrote {}", path.display());
        if passed {
            note!(
                "To have it compared with others, add this file to the project's folder {RESULTS} in a pull request, or attach it to an \
                 issue.\nIt names the adapter, the driver, the processor and the system, and nothing else about this machine."
            );
        }
        note!("`t5 bench table {}` shows it beside the others.", folder.display());
    } else if !args.json {
        say!("\nNext: `t5 bench suite --submit` writes a file to be compared with other cards' by `t5 bench table`.")?;
    }
    let is_wrong = |workload: &&WorkloadResult| workload.gate.as_ref().is_some_and(|gate| !gate.passed);
    if !passed {
        note!("error: {}", failure(result.workloads.iter().filter(is_wrong).count()));
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is wrong with a suite that has not passed.
fn failure(failed: usize) -> String {
    match failed {
        0 => "no workload was measured: name one that fits, such as t5-small/dec-b1-s512-n64".into(),
        failed => format!(
            "the results of {failed} workloads are wrong: their figures do not count. `t5 verify` finds the kernel; its output is the bug \
             report we would like to have"
        ),
    }
}
