//! Norms of single tensors, and the noise of gradients: what a training logs of itself on request.

use std::collections::BTreeMap;

use serde::Serialize;

use super::optimizer::Arenas;
use super::tiles::Tiles;
use crate::error::Result;
use crate::gpu::{Buffer, Program, ProgramBuilder, Sequence, Slice};

/// What was measured of one step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Norms {
    /// Of each tensor: the norm of its parameters behind the step, and of its gradient per target token, before clipping.
    pub tensors: BTreeMap<String, [f64; 2]>,
    /// Where a step has several passes.
    #[serde(flatten)]
    pub noise: Option<GradientNoise>,
}

/// How much gradients differ from batch to batch: unbiased estimates from a step's first pass and from the whole step (McCandlish et
/// al. 2018, "An Empirical Model of Large-Batch Training", appendix A.1). The mean of `noise` over many steps, divided by
/// that of `signal`, is the gradient noise scale: the target tokens a batch from which on more of them gain little.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GradientNoise {
    /// Sum over the parameters of the variance of the gradient of one target token.
    pub noise: f64,
    /// Squared norm of the gradient over all the data. Of a single step it may come out negative.
    pub signal: f64,
}

impl GradientNoise {
    /// From the squared norms of the mean gradient over `small` tokens and over `large` ones, of which these are a part.
    pub fn of([small, small_square]: [f64; 2], [large, large_square]: [f64; 2]) -> Option<GradientNoise> {
        (large > small && small > 0.0).then(|| GradientNoise {
            noise: (small_square - large_square) / (1.0 / small - 1.0 / large),
            signal: (large * large_square - small * small_square) / (large - small),
        })
    }
}

/// Measures the arenas of a training.
pub(super) struct Meter {
    names: Vec<String>,
    tiles: Tiles,
    /// Sums over tiles: of the gradients behind the first pass, of those of the whole step, of the parameters.
    sums: [Buffer; 3],
    first: Program,
    whole: Program,
}

impl Meter {
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(arenas: &Arenas<'_>) -> Result<Meter> {
        let gpu = arenas.gpu;
        let tiles = Tiles::new(arenas, &|_| false)?;
        let buffer = |label| gpu.buffer(label, 4 * tiles.count() as u64);
        let sums = [buffer("squares, first pass")?, buffer("squares, gradients")?, buffer("squares, parameters")?];
        let mut builder = ProgramBuilder::new(gpu);
        tiles.squares(&mut builder, arenas.grads, &sums[0]);
        let first = builder.finish()?;
        let mut builder = ProgramBuilder::new(gpu);
        tiles.squares(&mut builder, arenas.grads, &sums[1]);
        tiles.squares(&mut builder, arenas.params, &sums[2]);
        let whole = builder.finish()?;
        let names = arenas.spans.iter().map(|span| span.name.clone()).collect();
        Ok(Meter { names, tiles, sums, first, whole })
    }

    /// To be recorded behind a step's first pass.
    pub fn first_in(&self, sequence: &mut Sequence) {
        sequence.run(&self.first);
    }

    /// Measures behind a step, whose first pass had `small` target tokens; 0: only one pass. `stats`: those of the step.
    pub async fn read(&self, mut sequence: Sequence, stats: Slice, small: u64) -> Result<Norms> {
        sequence.run(&self.whole);
        let count = self.tiles.count();
        // A buffer may be larger than was asked for.
        let [first, grads, params] = self.sums.each_ref().map(|sums| sums.slice(0, 4 * count as u64));
        let values = sequence.submit_reading::<f32>(&[stats, first, grads, params])?.finish().await?;
        let (stats, sums) = values.split_at(4);
        let sum = |which: usize, range: &std::ops::Range<usize>| -> f64 {
            sums[which * count..][range.clone()].iter().map(|&square| f64::from(square)).sum()
        };
        let tokens = f64::from(stats[1]).max(1.0);
        let tensors = self.names.iter().zip(self.tiles.ranges());
        let tensors =
            tensors.map(|(name, range)| (name.clone(), [sum(2, range).sqrt(), sum(1, range).sqrt() / tokens]));
        let square = |which: usize, tokens: f64| sum(which, &(0..count)) / (tokens * tokens);
        let small = small as f64;
        let noise = GradientNoise::of([small, square(0, small.max(1.0))], [tokens, square(1, tokens)]);
        Ok(Norms { tensors: tensors.collect(), noise })
    }
}
