//! Data: texts and pairs in, batches of token ids out, and the metrics that compare texts.
//!
//! Everything random is a function of the seed and of indices: no generator runs along, so that the same seed gives the same
//! batches whatever the number of threads, and a run goes on from a short description of its place ([`stream::BatchPosition`]).

pub mod batches;
mod bounded;
pub mod cmudict;
pub mod lines;
pub mod metrics;
pub mod mixture;
pub mod objective;
pub mod packing;
pub mod prefetch;
pub mod stream;
pub mod task;
pub mod text;

mod unpack;

pub use crate::rng::Rng;
pub use batches::{Batch, IGNORE};
pub use lines::text_lines;
pub use metrics::{Metric, Score};
pub use mixture::Mixing;
pub use objective::{Lengths, Markers, Objective, SpanCorruption};
pub use packing::{Packer, Segments, next_fit};
pub use task::{Split, TaskConfig, TaskExample, TaskSet, TooLong};
pub use text::{TextOptions, TextPosition, TextStream};

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
