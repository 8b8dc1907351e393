//! `t5 run --dry-run`: what a recipe's run would do, and the memory and the time that it would need on this adapter.

use anyhow::{Result, bail};
use serde::Serialize;
use t5_wgpu::gpu::Gpu;
use t5_wgpu::recipe::Recipe;
use t5_wgpu::recipe::estimate::{Estimate, estimate};
use t5_wgpu::recipe::standing::Standing;

use super::console::{duration, say};

#[derive(Serialize)]
struct Report<'a> {
    recipe: &'a str,
    parts: Vec<Part<'a>>,
    stages: &'a [Estimate],
}

#[derive(Serialize)]
struct Part<'a> {
    name: &'a str,
    #[serde(flatten)]
    standing: &'a Standing,
}

/// Prints how the parts of the run stand, and what those would need that are not done.
///
/// # Errors
/// A part would be refused, and so would the run.
pub fn print(recipe: &Recipe, standings: &[(String, Standing)], gpu: &Gpu, json: bool) -> Result<()> {
    let of = |part: &str| standings.iter().find(|(name, _)| name == part).map(|(_, standing)| standing);
    let is_left = |stage: &str| !matches!(of(stage), Some(Standing::Done | Standing::Refused { .. }));
    let stages = estimate(recipe, gpu, is_left)?;
    let name = recipe.name.as_deref().unwrap_or("run");
    if json {
        let parts = standings.iter().map(|(name, standing)| Part { name, standing }).collect();
        say!("{}", serde_json::to_string(&Report { recipe: name, parts, stages: &stages })?)?;
    } else {
        say!("{name}")?;
        for (part, standing) in standings {
            say!("  {part:<17} {}", words(standing))?;
        }
        for stage in &stages {
            print_estimate(stage, of(&stage.stage))?;
        }
    }
    match standings.iter().find(|(_, standing)| matches!(standing, Standing::Refused { .. })) {
        Some((part, _)) => bail!("`t5 run` would refuse to go on with this recipe, because of {part}"),
        None => Ok(()),
    }
}

fn words(standing: &Standing) -> String {
    match standing {
        Standing::New => "to be made".into(),
        Standing::Done => "done".into(),
        Standing::GoesOn { step, steps } => format!("goes on after step {step} of {steps}"),
        Standing::Again { why } => format!("evaluated again: {why}"),
        Standing::Refused { why } => format!("refused: {why}"),
    }
}

fn print_estimate(stage: &Estimate, standing: Option<&Standing>) -> Result<()> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let Estimate { parameters, learning, weights, gradients, moments, activations, .. } = *stage;
    say!("\n{}", stage.stage)?;
    let learn = match learning == parameters {
        true => String::new(),
        false => format!(", of which {:.4} million learn", learning as f64 / 1e6),
    };
    say!("  parameters        {:.2} million{learn}", parameters as f64 / 1e6)?;
    say!(
        "  memory            {:.0} MiB: {:.0} weights, {:.0} gradients, {:.0} moments, {:.0} activations",
        mib(weights + gradients + moments + activations),
        mib(weights),
        mib(gradients),
        mib(moments),
        mib(activations)
    )?;
    let [batch, source, target] = stage.largest_batch;
    say!("  largest batch     {batch} rows of {source} + {target} tokens")?;
    say!("  tokens a step     {:.0} ({:.1} % padding)", stage.tokens_per_step, 100.0 * stage.padding)?;
    say!(
        "  speed             {:.0} tokens/s, {:.3} s a step (measured)",
        stage.tokens_per_second,
        stage.seconds_per_step
    )?;
    let (steps, minutes) = match standing {
        Some(Standing::GoesOn { step, steps }) => (steps - step, None),
        _ => (stage.steps, stage.minutes),
    };
    match minutes {
        Some(minutes) => say!("  time              {minutes} minutes, about {steps} steps")?,
        None => say!(
            "  steps             {steps}: {:.2} million tokens, {:.3e} operations, about {} without evaluations",
            stage.tokens_per_step * steps as f64 / 1e6,
            stage.flops_per_step * steps as f64,
            duration(stage.seconds_per_step * steps as f64)
        )?,
    }
    Ok(())
}
