//! `t5 run`: carries a recipe out.

use std::path::PathBuf;

use anyhow::{Context, Result};
use t5_wgpu::recipe::checkpoint::model_of_run;
use t5_wgpu::recipe::conductor::Conductor;
use t5_wgpu::recipe::run::{Run, RunOutcome};
use t5_wgpu::recipe::standing::standings;
use t5_wgpu::report::summary;

use super::console::{note, say};
use super::exit_code::ExitCode;
use super::progress::{LookArgs, Renderer, tuner};
use super::{GpuArgs, TuneArgs, dry_run, read_recipe, signals};

const EXAMPLES: &str = "\
Examples:
  A minute of pre-training, a minute of fine-tuning, and an evaluation:
    t5 run recipes/quickstart.toml
  What it would take, without doing it:
    t5 run recipes/pronounce.toml --dry-run
  Another size, another folder:
    t5 run recipes/pronounce.toml --set model.d_model=256 --set train.steps=40000 --out runs/wide
  After a crash, a kill or Ctrl-C, the same command goes on as if nothing had happened. After a change of the recipe it
  evaluates again or trains on for more steps; other changes of what has been trained are refused.

A recipe is a TOML file with [model], [tokenizer], [texts.NAME], [tasks.NAME] and [[stage]]: see docs/recipes.md. The folder
receives recipe.toml with everything spelled out and a folder for each stage: last, best and log.jsonl of training,
metrics.json and predictions of an evaluation.";

/// Carry out a recipe: tokenizer, pre-training, fine-tuning, evaluation
///
/// Goes on after any stop where it was, bit for bit. Unknown keys, impossible sizes and missing files are refused before
/// anything runs, with the line.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The recipe
    #[arg(value_name = "RECIPE")]
    recipe: PathBuf,
    /// Replace a value: stage.key, as in finetune.lr=1e-3, or section.key, as in model.d_model=128
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// The run's folder [default: the recipe's `out`, else runs/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace the run in that folder, as soon as tokenizer, data and model of this one are known to fit. What no run has
    /// made is never removed
    #[arg(long)]
    overwrite: bool,
    /// Print what is done, what is left and what would be refused, and for what is left parameters, memory, tokens, steps and
    /// an estimate of the time on this adapter; do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    look: LookArgs,
    #[command(flatten)]
    tune: TuneArgs,
    #[command(flatten)]
    gpu: GpuArgs,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    signals::listen()?;
    let recipe = read_recipe(&args.recipe, &args.overrides, !args.look.is_human())?;
    let gpu = args.gpu.open(!args.look.is_human())?;
    if args.dry_run {
        let standings = standings(recipe.clone(), args.out.clone(), args.overwrite)?;
        return dry_run::print(&recipe, &standings, &gpu, args.look.json).map(|()| ExitCode::SUCCESS);
    }
    if let (Some(about), false) = (&recipe.about, !args.look.is_human()) {
        note!("{}", about.trim());
    }
    let mut run = Run::open(recipe, args.out.clone(), args.overwrite)?;
    let mut renderer = Renderer::new(args.look);
    let mut conductor = Conductor {
        watch: &mut renderer,
        should_stop: &signals::interrupted,
        tuner: &|gpu, passes, limit| tuner(&args.tune, gpu, passes, limit),
    };
    let outcome = run.execute(&gpu, &mut conductor);
    renderer.end();
    let again = format!("t5 run {}", args.recipe.display());
    match outcome.with_context(|| {
        format!(
            "the run stopped; what is done stays, and once the cause is mended the same command (`{again}`) goes on"
        )
    })? {
        RunOutcome::Finished => {
            renderer.printed()?;
            if args.look.is_human() {
                say!("{}: done", run.out.display())?;
                let results = summary(&run.out)?;
                if !results.is_empty() {
                    say!("{results}")?;
                }
                if model_of_run(&run.out).is_ok_and(|found| found.is_some()) {
                    say!("  t5 generate --model {} \"your text\"", run.out.display())?;
                }
                say!("  t5 report {}", run.out.display())?;
            }
            Ok(ExitCode::SUCCESS)
        }
        RunOutcome::Stopped { stage } => {
            note!("stopped in stage {stage}; continue with the same command: {again}");
            Ok(signals::exit_code())
        }
    }
}
