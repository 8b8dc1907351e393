//! Data: texts and pairs in, batches of token ids out, and the metrics that compare texts.
//!
//! Everything here is a pure function of (seed, epoch, index), or (seed, position) for text that is streamed: there is no
//! random state that runs along, and the same seed gives a bit-identical stream of batches.

pub mod batches;
pub mod cmudict;
pub mod corpus;
pub mod denoising;
pub mod lines;
pub mod metrics;
pub mod objective;
pub mod pairs;
pub mod task;
pub mod text;

mod unpack;

pub use crate::rng::Rng;
pub use batches::{Batch, BatchOptions, BatchOrder, BatchStream, EpochBatches, IGNORE};
pub use corpus::TextCorpus;
pub use denoising::Denoising;
pub use metrics::{Metric, Score, ScoreReport, Scores};
pub use objective::{Lengths, Markers, Objective, SpanCorruption};
pub use pairs::{PairFormat, PairOptions, PairSet, TooLong};
pub use task::{Split, TaskConfig, TaskExample, TaskSet};
pub use text::{TextOptions, TextPosition, TextStream};

use crate::Result;

/// One source and its target as token ids; both end with EOS, neither holds padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub source: Vec<u32>,
    pub target: Vec<u32>,
}

impl Example {
    /// (source tokens, target tokens), EOS included.
    pub fn lengths(&self) -> (usize, usize) {
        (self.source.len(), self.target.len())
    }
}

/// A set of examples that can be visited for any number of epochs.
///
/// Implementations are pure: the same (epoch, index) always gives the same example.
pub trait ExampleSource {
    /// Examples in an epoch, the same for every epoch.
    fn len_per_epoch(&self) -> usize;

    /// (source tokens, target tokens) of every example of an epoch, EOS included: `[len_per_epoch]`.
    fn lengths(&self, epoch: u64) -> Vec<(usize, usize)>;

    /// One example; `index < len_per_epoch`.
    fn example(&self, epoch: u64, index: usize) -> Result<Example>;
}

impl<S: ExampleSource + ?Sized> ExampleSource for &S {
    fn len_per_epoch(&self) -> usize {
        (**self).len_per_epoch()
    }

    fn lengths(&self, epoch: u64) -> Vec<(usize, usize)> {
        (**self).lengths(epoch)
    }

    fn example(&self, epoch: u64, index: usize) -> Result<Example> {
        (**self).example(epoch, index)
    }
}

impl<S: ExampleSource + ?Sized> ExampleSource for Box<S> {
    fn len_per_epoch(&self) -> usize {
        (**self).len_per_epoch()
    }

    fn lengths(&self, epoch: u64) -> Vec<(usize, usize)> {
        (**self).lengths(epoch)
    }

    fn example(&self, epoch: u64, index: usize) -> Result<Example> {
        (**self).example(epoch, index)
    }
}
