//! `t5 train`: trains on text or on pairs, from scratch or from a folder: a recipe of one stage, said in flags.

mod args;
mod start;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use t5_wgpu::recipe::run::{Conductor, drive};
use t5_wgpu::train::{Outcome, Trainer};

pub use args::Args;

use super::progress::{INTERRUPTED, Renderer, interrupted, listen_for_interrupts, tuner};

pub fn run(args: &Args) -> Result<ExitCode> {
    let gpu = args.gpu.open(!args.look.is_human())?;
    let begin = gpu.stopwatch();
    let mut trainer = start::open(args, &gpu)?;
    let mut renderer = Renderer::new(args.look);
    let limit = args.minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes));
    let limit = limit.filter(|_| trainer.step() == 0);
    listen_for_interrupts()?;
    let mut conductor = Conductor {
        watch: &mut renderer,
        should_stop: &interrupted,
        tuner: &|gpu, passes, limit| tuner(&args.tune, gpu, passes, limit),
    };
    let outcome = drive(&mut trainer, "train", limit, begin, &mut conductor);
    renderer.end();
    let resume = format!("t5 train --resume --out {}", args.out.display());
    match outcome {
        Ok(Outcome::Finished | Outcome::EndedEarly { .. }) => Ok(ExitCode::SUCCESS),
        Ok(Outcome::Stopped { .. }) => {
            eprintln!("continue with: {resume}");
            Ok(if interrupted() { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
        }
        Err(error) if Trainer::load_state(&args.out).is_ok_and(|state| state.is_some()) => {
            Err(error).with_context(|| format!("training stopped; its last checkpoint continues with `{resume}`"))
        }
        Err(error) => Err(error.into()),
    }
}
