//! Trains and runs T5 on any GPU through wgpu. ARCHITECTURE.md is the map.
//!
//! Without features the crate holds a model and asks it. `train` adds data, training, recipes, reports, benchmarks and proofs;
//! `cli`, the default, the program `t5`.

pub mod batch;
#[cfg(feature = "train")]
pub mod bench;
pub mod checkpoint;
#[cfg(feature = "train")]
pub mod data;
pub mod error;
pub mod files;
pub mod forward;
pub mod generate;
pub mod gpu;
pub mod graph;
pub mod model;
pub mod ops;
pub mod plan;
#[cfg(feature = "train")]
pub mod recipe;
#[cfg(feature = "train")]
pub mod report;
pub mod rng;
#[cfg(feature = "train")]
pub mod run_folder;
pub mod t5;
pub mod tokenizer;
#[cfg(feature = "train")]
pub mod train;
pub mod tune;
#[cfg(feature = "train")]
pub mod verify;

pub use error::{Error, Result};
pub use t5::T5;
