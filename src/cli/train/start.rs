//! From flags to a trainer: a new run, or one that goes on.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use t5_wgpu::gpu::Gpu;
use t5_wgpu::model::config::FeedForward;
use t5_wgpu::model::{Model, T5Config};
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::train::{Settings, Trainer};
use t5_wgpu::tune::{Budget, Mode, Tuner};

use super::args::{Args, Sizes};

/// Passes over the device from which on a run measures kernels unless told otherwise.
const LEAST_PASSES: u64 = 200;

/// Largest share of `--minutes` that goes into measuring.
const SHARE_OF_TIME: f64 = 0.05;

/// Opens what the flags name.
pub fn open(args: &Args, gpu: &Gpu) -> Result<Trainer> {
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
        if args.text.is_empty() && args.pairs.is_none() {
            bail!(
                "{}: there is no run to resume (no checkpoint in `last`); name data with --text or --pairs to begin one",
                args.out.display()
            );
        }
        eprintln!("{}: no checkpoint yet, starting from the beginning", args.out.display());
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
    (state.settings.steps, state.settings.recompute) = (asked.steps, asked.recompute);
    let tuner = tuner(args, gpu, asked.steps * asked.accumulate as u64);
    Ok(Some(Trainer::resume(gpu, &tuner, state, &args.out)?))
}

fn create(args: &Args, gpu: &Gpu) -> Result<Trainer> {
    let Some(task) = args.task(None)? else {
        bail!("nothing to train on: name text with --text or pairs with --pairs (see `t5 train --help`)");
    };
    let mut settings = Settings::new(task);
    let fine_tuning = args.model.is_some();
    let adafactor = args.optimizer.as_deref().is_some_and(|name| name.starts_with("adafactor"));
    settings.lr = if adafactor { 1e-2 } else { 1e-3 } * if fine_tuning { 0.1 } else { 1.0 };
    let tokenizer = tokenizer(args)?;
    let config = match &args.model {
        Some(dir) => {
            t5_wgpu::checkpoint::recover(dir)?;
            T5Config::from_file(dir.join("config.json"))?
        }
        None => from_scratch(args, &tokenizer)?,
    };
    settings.dropout = config.dropout_rate as f32;
    args.apply(&mut settings)?;
    if args.minutes.is_some() {
        // Until it is measured how many there is time for.
        settings.steps = u64::from(u32::MAX);
    }
    // Before a model is made, which may take long.
    settings.check()?;
    Trainer::refuse_run(&args.out, args.overwrite || args.resume)?;
    let mut model = match &args.model {
        Some(dir) => {
            let (model, remarks) = Model::load(gpu, dir)?;
            if !args.quiet {
                remarks.iter().for_each(|remark| eprintln!("{remark}"));
            }
            model
        }
        None => Model::init(gpu, config, settings.seed)?,
    };
    model.tuner = tuner(args, gpu, settings.steps * settings.accumulate as u64);
    Ok(Trainer::create(model, tokenizer, settings, &args.out, args.overwrite || args.resume)?)
}

/// What chooses the kernels of a run of so many passes. Measuring takes seconds; a short run would not earn them back.
fn tuner(args: &Args, gpu: &Gpu, passes: u64) -> Tuner {
    let default = if passes < LEAST_PASSES { Mode::Cache } else { Mode::On };
    let mut budget = Budget::for_run();
    if let Some(minutes) = args.minutes {
        budget.total = budget.total.min(Duration::from_secs_f64(60.0 * minutes * SHARE_OF_TIME));
    }
    args.tune.open(gpu, default, budget)
}

fn tokenizer(args: &Args) -> Result<Tokenizer> {
    Ok(match (&args.tokenizer, &args.model) {
        (Some(spec), _) => Tokenizer::open(spec)?,
        (None, Some(dir)) => Tokenizer::from_dir(dir)?,
        (None, None) => Tokenizer::bytes(),
    })
}

fn from_scratch(args: &Args, tokenizer: &Tokenizer) -> Result<T5Config> {
    let mut config = match (&args.preset, &args.config) {
        (Some(name), _) => T5Config::preset(name)?,
        (None, Some(file)) => T5Config::from_file(file)?,
        (None, None) => default_config(tokenizer)?,
    };
    apply_sizes(&args.sizes, &mut config)?;
    config.validate()?;
    Ok(config)
}

/// A small T5 for the tokenizer.
fn default_config(tokenizer: &Tokenizer) -> Result<T5Config> {
    let mut config = T5Config::from_json(r#"{"model_type": "t5", "feed_forward_proj": "gated-gelu"}"#, Path::new(""))?;
    config.vocab_size = tokenizer.vocab_size().next_multiple_of(64);
    (config.d_model, config.d_kv, config.d_ff, config.num_heads) = (256, 64, 512, 4);
    (config.num_layers, config.num_decoder_layers) = (3, 3);
    config.pad_token_id = tokenizer.pad();
    config.decoder_start_token_id = tokenizer.pad();
    config.eos_token_id = vec![tokenizer.eos()];
    Ok(config)
}

fn apply_sizes(sizes: &Sizes, config: &mut T5Config) -> Result<()> {
    let set = |place: &mut usize, given: Option<usize>| *place = given.unwrap_or(*place);
    set(&mut config.d_model, sizes.d_model);
    set(&mut config.d_kv, sizes.d_kv);
    set(&mut config.d_ff, sizes.d_ff);
    set(&mut config.num_heads, sizes.heads);
    set(&mut config.num_layers, sizes.layers);
    set(&mut config.num_decoder_layers, sizes.decoder_layers.or(sizes.layers));
    set(&mut config.vocab_size, sizes.vocab);
    config.tie_word_embeddings = sizes.tie.unwrap_or(config.tie_word_embeddings);
    if let Some(name) = &sizes.activation {
        let Some(parsed) = FeedForward::parse(name) else {
            bail!("unknown activation `{name}`: use relu, gelu, gelu_new, silu, or one of them behind `gated-`");
        };
        config.feed_forward_proj = parsed;
    }
    Ok(())
}
