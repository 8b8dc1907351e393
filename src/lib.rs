//! Trains and runs T5 on any GPU through wgpu. ARCHITECTURE.md is the map.

pub mod batch;
pub mod bench;
pub mod checkpoint;
pub mod data;
pub mod error;
pub mod files;
pub mod generate;
pub mod gpu;
pub mod graph;
pub mod model;
pub mod ops;
pub mod plan;
pub mod recipe;
pub mod report;
pub mod rng;
pub mod t5;
pub mod tokenizer;
pub mod train;
pub mod tune;
pub mod verify;

pub use error::{Error, Result};
pub use t5::T5;
