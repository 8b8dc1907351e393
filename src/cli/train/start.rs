//! From flags to a trainer: a new run, or one that goes on.

use std::ops::ControlFlow;

use anyhow::{Result, bail};
use t5_wgpu::gpu::Gpu;
use t5_wgpu::model::{Model, ModelParts};
use t5_wgpu::recipe::stage::Budget;
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::train::{Settings, Trainer};

use super::Args;
use super::args::named_by_flag;
use crate::cli::console::note;
use crate::cli::open_tokenizer;
use crate::cli::progress::tuner;

/// Opens what the flags name. Errors about settings name the flags.
pub fn open(args: &Args, gpu: &Gpu) -> Result<Trainer> {
    open_run(args, gpu).map_err(|error| match error.downcast() {
        Ok(error) => named_by_flag(error),
        Err(other) => other,
    })
}

fn open_run(args: &Args, gpu: &Gpu) -> Result<Trainer> {
    if args.resume
        && let Some(trainer) = resume(args, gpu)?
    {
        return Ok(trainer);
    }
    create(args, gpu)
}

/// `None` if there is no checkpoint yet but the flags name data to begin with.
fn resume(args: &Args, gpu: &Gpu) -> Result<Option<Trainer>> {
    let Some(mut state) = Trainer::load_state(&args.out)? else {
        if !args.names_data() {
            bail!(
                "{}: there is no run to resume (no checkpoint in `last`); name data with --text or --pairs to begin one",
                args.out.display()
            );
        }
        note!("{}: no checkpoint yet, starting from the beginning", args.out.display());
        return Ok(None);
    };
    let mut asked = state.settings.clone();
    args.apply(&mut asked)?;
    let differences = asked.differences(&state.settings);
    if !differences.is_empty() {
        bail!(
            "{}: a run resumes with the settings it began with; the command line says otherwise:\n  {}",
            args.out.display(),
            differences.join("\n  ")
        );
    }
    if asked.steps < state.step {
        bail!("{}: the run is at step {} already, beyond --steps {}", args.out.display(), state.step, asked.steps);
    }
    let tuner = tuner(&args.tune, gpu, asked.steps.saturating_mul(asked.accumulate as u64), None);
    state.settings = asked;
    Ok(Some(Trainer::resume(gpu, &tuner, state, &args.out)?))
}

fn create(args: &Args, gpu: &Gpu) -> Result<Trainer> {
    if !args.names_data() {
        bail!("nothing to train on: name text with --text or pairs with --pairs (see `t5 train --help`)");
    }
    let (stage, spec) = (&args.keys.stage, args.model());
    let fine_tuning = spec.from.is_some();
    let known = tokenizer(args)?;
    let tokens: Vec<String> = args.add_token.iter().map(|token| unescaped(token)).collect();
    let tokenizer = if tokens.is_empty() { known.clone() } else { known.with_added(&tokens)? };
    let config = spec.config(&tokenizer)?;
    let (none, no_text) = (Default::default(), Default::default());
    let mut settings: Settings = stage.settings(&no_text, &none, 0, fine_tuning, Some(config.dropout_rate as f32))?;
    args.apply(&mut settings)?;
    // Before a model is made, which may take long.
    settings.check()?;
    Trainer::refuse_run(&args.out, args.overwrite || args.resume)?;
    let mut model = match &spec.from {
        Some(dir) => {
            let mut parts = ModelParts::open_to_train(dir, args.peft.as_deref(), &settings.learns)?;
            if !tokens.is_empty() {
                parts = parts.with_rows(known.vocab_size(), tokenizer.vocab_size())?;
            }
            let frozen = settings.frozen_weights;
            let (model, remarks) = Model::upload(gpu, &parts, frozen, &mut |_, _| ControlFlow::Continue(()))?;
            if args.look.is_human() {
                remarks.iter().for_each(|remark| note!("{remark}"));
            }
            model
        }
        None => Model::init(gpu, config, settings.seed)?,
    };
    let limit = stage.budget().and_then(Budget::time);
    model.tuner = tuner(&args.tune, gpu, settings.steps.saturating_mul(settings.accumulate as u64), limit);
    Ok(Trainer::create(model, tokenizer, settings, &args.out, args.overwrite || args.resume)?)
}

/// A token as a shell can say it.
fn unescaped(token: &str) -> String {
    token.replace("\\n", "\n").replace("\\t", "\t")
}

fn tokenizer(args: &Args) -> Result<Tokenizer> {
    Ok(match (&args.tokenizer, &args.model) {
        (Some(spec), _) => open_tokenizer(spec)?,
        (None, Some(dir)) => Tokenizer::from_dir(dir)?,
        (None, None) => Tokenizer::bytes(),
    })
}
