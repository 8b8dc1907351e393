//! Data: texts and pairs in, batches of token ids out, and the metrics that compare texts.
//!
//! Everything random is a function of the seed and of indices: no generator runs along, so that the same seed gives the same
//! batches whatever the number of threads, and a run goes on from a short description of its place ([`stream::BatchPosition`]).

pub mod cmudict;
pub mod documents;
pub mod example;
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

pub use documents::Documents;
pub use example::{Split, TaskExample};
pub use metrics::{Metric, Score};
pub use mixture::Mixing;
pub use objective::{Lengths, Markers, Objective, SpanCorruption};
pub use packing::Packer;
pub use task::{TaskConfig, TaskSet, TooLong};
pub use text::{TextOptions, TextPosition, TextStream};
