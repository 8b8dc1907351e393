//! `t5 train`: trains on text or on pairs, from scratch or from a folder: a recipe of one stage, said in flags.

mod args;
mod start;

use anyhow::{Context, Result};
use t5_wgpu::recipe::conductor::{Conductor, drive};
use t5_wgpu::train::{Outcome, Trainer};

pub use args::Args;

use super::console::note;
use super::exit_code::ExitCode;
use super::progress::{Renderer, tuner};
use super::{model_folder, signals};

pub fn run(mut args: Args) -> Result<ExitCode> {
    signals::listen()?;
    for folder in [&mut args.model, &mut args.peft].into_iter().flatten() {
        *folder = model_folder(folder, !args.look.is_human())?;
    }
    let args = &args;
    let gpu = args.gpu.open(!args.look.is_human())?;
    let begin = gpu.stopwatch();
    let mut trainer = start::open(args, &gpu)?;
    let mut renderer = Renderer::new(args.look);
    let budget = args.keys.stage.budget().filter(|_| trainer.step() == 0);
    let mut conductor = Conductor {
        watch: &mut renderer,
        should_stop: &signals::interrupted,
        tuner: &|gpu, passes, limit| tuner(&args.tune, gpu, passes, limit),
    };
    let outcome = drive(&mut trainer, "train", budget, begin, &mut conductor);
    renderer.end();
    let resume = format!("t5 train --resume --out {}", args.out.display());
    match outcome {
        Ok(Outcome::Finished | Outcome::EndedEarly { .. }) => renderer.printed().map(|()| ExitCode::SUCCESS),
        Ok(Outcome::Stopped { .. }) => {
            note!("continue with: {resume}");
            if signals::interrupted() {
                return Ok(signals::exit_code());
            }
            renderer.printed().map(|()| ExitCode::SUCCESS)
        }
        Err(error) if Trainer::load_state(&args.out).is_ok_and(|state| state.is_some()) => {
            Err(error).with_context(|| format!("training stopped; its last checkpoint continues with `{resume}`"))
        }
        Err(error) => Err(error.into()),
    }
}
