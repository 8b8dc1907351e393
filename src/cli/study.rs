//! `t5 study`: one recipe at several settings with several seeds, and what follows.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use t5_wgpu::recipe::conductor::Conductor;
use t5_wgpu::recipe::estimate::estimate;
use t5_wgpu::study::Study;
use t5_wgpu::study::run::{Sample, SampleState, StudyOutcome, StudyRun};
use t5_wgpu::study::table::StudyTable;

use super::console::{duration, note, say};
use super::exit_code::ExitCode;
use super::progress::{LookArgs, Renderer, tuner};
use super::{GpuArgs, TuneArgs, signals};

const EXAMPLES: &str = "\
Examples:
  Run what is missing of a study, and print its table:
    t5 study studies/objectives.toml
  What it would take, without doing it:
    t5 study studies/objectives.toml --dry-run
  The table of what is done, as Markdown; nothing is run:
    t5 study studies/objectives.toml --table --markdown
  A page with intervals and curves:
    t5 report runs/objectives --out objectives.html

A study is a TOML file with a base recipe, [[factor]] with levels, and seeds: see
docs/studies.md. Each combination of levels is, for each seed, a run of the recipe in a folder
of its own. After a crash, a kill or Ctrl-C the same command goes on. The same command in a
second terminal shares the work.";

/// Compare settings of a recipe over several seeds, with statistics
///
/// Runs a recipe at every combination of levels, seed after seed, and prints means, standard deviations, differences from the baseline
/// in sigma, cost, and whether the signs are those of a paper.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The study
    #[arg(value_name = "STUDY")]
    study: PathBuf,
    /// The study's folder [default: the study's `out`, else runs/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the table of what is done; run nothing
    #[arg(long, conflicts_with = "dry_run")]
    table: bool,
    /// Print the table as Markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Print which runs are done and what the others would take on this adapter; run nothing
    #[arg(long)]
    dry_run: bool,
    /// Take stages that the runs of another study have made from the same, instead of making them again; may be given several times
    #[arg(long, value_name = "DIR", conflicts_with_all = ["table", "dry_run"])]
    reuse: Vec<PathBuf>,
    /// Make at most so many runs, then print the table
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    most: Option<u64>,
    #[command(flatten)]
    look: LookArgs,
    #[command(flatten)]
    tune: TuneArgs,
    #[command(flatten)]
    gpu: GpuArgs,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let run = StudyRun::new(Study::read(&args.study)?, args.out.clone())?;
    let run = StudyRun { reuse: args.reuse.clone(), ..run };
    if args.table {
        return print_table(args, &run).map(|()| ExitCode::SUCCESS);
    }
    signals::listen()?;
    let gpu = args.gpu.open(!args.look.is_human())?;
    if args.dry_run {
        return dry_run(args, &run, &gpu).map(|()| ExitCode::SUCCESS);
    }
    if let (Some(about), true) = (&run.study.about, args.look.is_human()) {
        note!("{}", about.trim());
    }
    let mut renderer = Renderer::new(args.look);
    let mut conductor = Conductor {
        watch: &mut renderer,
        should_stop: &signals::interrupted,
        tuner: &|gpu, passes, limit| tuner(&args.tune, gpu, passes, limit),
    };
    let (start, mut done_then) = (Instant::now(), None);
    let most = args.most.map_or(usize::MAX, |most| most as usize);
    let outcome = run.execute(&gpu, most, &mut conductor, &mut |samples, sample| {
        let done = samples.iter().filter(|sample| matches!(sample.state, SampleState::Done(_))).count();
        let made = done - *done_then.get_or_insert(done);
        if args.look.is_human() {
            announce(&run.study.described(&sample.cell), sample.seed, [done, samples.len(), made], start.elapsed());
        }
    });
    renderer.end();
    let again = format!("t5 study {}", args.study.display());
    let outcome = outcome.with_context(|| {
        format!(
            "the study stopped; what is done stays, and once the cause is mended the same command (`{again}`) goes on"
        )
    })?;
    if signals::interrupted() {
        note!("stopped; continue with the same command: {again}");
        return Ok(signals::exit_code());
    }
    renderer.printed()?;
    if !args.look.quiet {
        print_table(args, &run)?;
    }
    match outcome {
        StudyOutcome::Failed(why) => bail!("{} runs failed: {}", why.len(), why.join("; ")),
        StudyOutcome::Stopped if args.look.is_human() => note!("the other runs: {again}"),
        StudyOutcome::Finished if args.look.is_human() => say!("\n  t5 report {}", run.out.display())?,
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Says which run begins, and how long the others would take if all took as long as those that were `made` since the start.
fn announce(cell: &str, seed: u64, [done, runs, made]: [usize; 3], since: Duration) {
    let left = match made {
        0 => String::new(),
        _ => format!("; about {} left", duration(since.as_secs_f64() / made as f64 * (runs - done) as f64)),
    };
    note!("{done} of {runs} runs are done{left}; now {cell}, seed {seed}");
}

fn print_table(args: &Args, run: &StudyRun) -> Result<()> {
    let table = StudyTable::new(&run.study, &run.samples()?);
    if args.look.json {
        say!("{}", serde_json::to_string(&table)?)?;
    } else if args.markdown {
        say!("{}", table.to_markdown().trim_end())?;
    } else {
        say!("{}", table.to_string().trim_end())?;
    }
    Ok(())
}

/// What is left of each cell, measured on a few steps of each of its stages.
fn dry_run(args: &Args, run: &StudyRun, gpu: &t5_wgpu::gpu::Gpu) -> Result<()> {
    let samples = run.samples()?;
    let mut rows = Vec::new();
    for cell in run.study.cells() {
        let of_cell = || samples.iter().filter(|sample| sample.cell == cell);
        let left: Vec<&Sample> = of_cell().filter(|sample| !matches!(sample.state, SampleState::Done(_))).collect();
        let refused = left.iter().find_map(|sample| match &sample.state {
            SampleState::Refused(why) => Some(why.clone()),
            _ => None,
        });
        let mut seconds = 0.0;
        if refused.is_none() && !left.is_empty() {
            let stages = estimate(&run.study.recipe_of(&cell, run.study.seeds[0])?, gpu, |_| true)?;
            let time = |stage: &t5_wgpu::recipe::estimate::Estimate| match stage.minutes {
                Some(minutes) => 60.0 * minutes,
                None => stage.seconds_per_step * stage.steps as f64,
            };
            seconds = left.len() as f64 * stages.iter().map(time).sum::<f64>();
        }
        let done = of_cell().count() - left.len();
        rows.push(serde_json::json!({
            "cell": cell.name, "done": done, "left": left.len(), "seconds": seconds, "refused": refused,
        }));
        if !args.look.json {
            let what = refused.map_or_else(
                || format!("{done} done, {} left: about {} without evaluations", left.len(), duration(seconds)),
                |why| format!("refused: {why}"),
            );
            say!("{:<40} {what}", cell.name)?;
        }
    }
    let total: f64 = rows.iter().filter_map(|row| row["seconds"].as_f64()).sum();
    match args.look.json {
        true => say!("{}", serde_json::json!({"study": run.study.title(), "cells": rows, "seconds": total}))?,
        false => {
            say!("{}: at most about {} in all: what cells share is made once", run.study.title(), duration(total))?
        }
    }
    Ok(())
}
