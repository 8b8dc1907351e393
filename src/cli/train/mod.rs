//! `t5 train`: trains on text or on pairs, from scratch or from a folder.

mod args;
mod render;
mod start;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use t5_wgpu::train::{Event, Hooks, Outcome, Trainer};

pub use args::Args;
use render::Renderer;

/// Exit code of a run that Ctrl-C stopped, as shells expect it.
const INTERRUPTED: u8 = 130;

/// A run of `--minutes` stops when training takes this much longer than was asked for.
const PATIENCE: f64 = 1.15;

static STOP: AtomicBool = AtomicBool::new(false);

pub fn run(args: &Args) -> Result<ExitCode> {
    let begin = Instant::now();
    let gpu = args.gpu.open(args.quiet || args.json)?;
    let mut trainer = start::open(args, &gpu)?;
    let mut renderer = Renderer::new(args.quiet, args.json);
    trainer.remarks().iter().for_each(|remark| renderer.remark(remark));
    let limit = args.minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes));
    let limit = limit.filter(|_| trainer.step() == 0);
    if let Some(time) = limit {
        renderer.remark("measuring the speed of training to fix the number of steps");
        trainer.fit_steps(time.saturating_sub(begin.elapsed()), None)?;
    }
    renderer.begin(&trainer);
    listen_for_interrupts()?;
    let training = Instant::now();
    let late = || limit.is_some_and(|time| training.elapsed() > time.mul_f64(PATIENCE));
    let outcome = trainer.run(Hooks {
        observe: &mut |event: &Event| renderer.show(event),
        should_stop: &|| STOP.load(Ordering::Relaxed) || late(),
        answerer: None,
    });
    renderer.end();
    let resume = format!("t5 train --resume --out {}", args.out.display());
    match outcome {
        Ok(Outcome::Finished) => {
            renderer.finished(&trainer, &args.out);
            Ok(ExitCode::SUCCESS)
        }
        Ok(Outcome::Stopped { step }) => {
            let interrupted = STOP.load(Ordering::Relaxed);
            let why = if interrupted { "stopped" } else { "the time is up" };
            eprintln!("{why} after step {step} of {}; continue with: {resume}", trainer.settings().steps);
            Ok(if interrupted { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
        }
        Err(error) if Trainer::load_state(&args.out).is_ok_and(|state| state.is_some()) => {
            Err(error).with_context(|| format!("training stopped; its last checkpoint continues with `{resume}`"))
        }
        Err(error) => Err(error.into()),
    }
}

/// The first Ctrl-C lets the step finish and the checkpoint be written, the second quits at once.
fn listen_for_interrupts() -> Result<()> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
        eprintln!("stopping after this step (Ctrl-C again quits at once, back to the last checkpoint)");
    })
    .context("cannot listen for Ctrl-C")
}
