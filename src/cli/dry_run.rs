//! `t5 run --dry-run`: the memory and the time that a recipe would need on this adapter.

use anyhow::Result;
use serde::Serialize;
use t5_wgpu::gpu::Gpu;
use t5_wgpu::recipe::Recipe;
use t5_wgpu::recipe::estimate::{Estimate, estimate};

use super::console::{duration, say};

#[derive(Serialize)]
struct Report<'a> {
    recipe: &'a str,
    stages: &'a [Estimate],
}

pub fn print(recipe: &Recipe, gpu: &Gpu, json: bool) -> Result<()> {
    let stages = estimate(recipe, gpu)?;
    let name = recipe.name.as_deref().unwrap_or("run");
    if json {
        say!("{}", serde_json::to_string(&Report { recipe: name, stages: &stages })?)?;
        return Ok(());
    }
    say!("{name}: {} stages that train", stages.len())?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for stage in &stages {
        let Estimate { parameters, weights, gradients, moments, activations, steps, .. } = *stage;
        say!("\n{}", stage.stage)?;
        say!("  parameters        {:.2} million", parameters as f64 / 1e6)?;
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
        match stage.minutes {
            Some(minutes) => say!("  time              {minutes} minutes, about {steps} steps")?,
            None => say!(
                "  steps             {steps}: {:.2} million tokens, about {} without evaluations",
                stage.tokens_per_step * steps as f64 / 1e6,
                duration(stage.seconds_per_step * steps as f64)
            )?,
        }
    }
    Ok(())
}
