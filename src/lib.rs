//! T5 trained and run on any GPU through wgpu: see ARCHITECTURE.md for the map.

pub mod error;
pub mod gpu;
pub mod graph;
pub mod ops;
pub mod plan;
pub mod verify;

pub use error::{Error, Result};
