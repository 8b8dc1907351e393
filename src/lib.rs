//! T5 on any GPU through wgpu: a model that an application can ask, and everything to train one.
//!
//! Text goes in, text comes out: translation, summaries, classification, pronunciation, whatever a T5 was trained for.
//! Everything numeric is computed by WGSL shaders through Vulkan, Metal or DirectX 12; no CUDA, no Python.
//!
//! ```
//! use t5_wgpu::forward::Pooling;
//! use t5_wgpu::{Result, T5};
//!
//! async fn ask(folder: &str) -> Result<()> {
//!     let t5 = T5::load(folder).await?;
//!     let answer = t5.generate("translate English to German: Hello").await?;
//!
//!     // Piece by piece, as it is made. Dropping the stream stops the work.
//!     let mut stream = t5.stream("summarize: a long text", &t5.decoding());
//!     while let Some(piece) = stream.next().await {
//!         print!("{}", piece?.text);
//!     }
//!
//!     let vectors = t5.embed(&["one", "two"], Pooling::Mean).await?; // [2, d_model]
//!     let scores = t5.score(&[("a source", "its target")]).await?; // a log-probability for each token
//!     println!("{answer} {} {}", vectors.width, scores[0].sum());
//!     Ok(())
//! }
//!
//! // Every call can also be waited for, without an executor.
//! # // The folder is a tiny model with random weights. A real one is 77 million parameters or more.
//! let t5 = T5::load("tests/data/tiny-model").wait()?;
//! let answer = t5.generate("translate English to German: Hello").wait()?;
//! # let _ = (answer, pollster::block_on(ask("tests/data/tiny-model"))?);
//! # Ok::<(), t5_wgpu::Error>(())
//! ```
//!
//! A [`T5`] is a handle: clone it, send it to other threads, ask it from all of them. It works on the device of its own or on that
//! of an application ([`gpu::Gpu::from_wgpu`]), says what memory it holds, and answers again after a lost device
//! ([`T5::reopen`]). The crate prints nothing and reads no environment variable.
//!
//! # Rings
//!
//! - **The core**, without features: [`T5`]; below it [`generate`] (decoding), [`forward`] (embeddings, scores, labels), [`model`],
//!   [`tokenizer`], [`checkpoint`]; [`forecast`] (Chronos); and the engine: [`ops`], [`graph`], [`plan`], [`gpu`].
//! - **`train`**: `train`, `data`, `recipe` (whole experiments as files), `report`, `bench`, `verify` (the proofs).
//! - **`cli`**, the default: the program `t5`. Applications say `default-features = false`.
//!
//! Beside the rings, **`hub`** loads models by their names on a hub, **`pytorch`** and **`flax`** read more formats of weights. Without
//! `hub` nothing touches the network.
//!
//! `ARCHITECTURE.md` beside the sources is the map of the engine; `examples/` has programs that ask, stream, search and serve.

pub mod batch;
#[cfg(feature = "train")]
pub mod bench;
pub mod checkpoint;
#[cfg(feature = "train")]
pub mod convert;
#[cfg(feature = "train")]
pub mod data;
pub mod error;
pub mod files;
pub mod forecast;
pub mod forward;
pub mod generate;
pub mod gpu;
pub mod graph;
#[cfg(feature = "hub")]
pub mod hub;
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
#[cfg(feature = "train")]
pub mod study;
pub mod t5;
pub mod tokenizer;
#[cfg(feature = "train")]
pub mod train;
pub mod tune;
#[cfg(feature = "train")]
pub mod verify;

pub use error::{Error, HubProblem, Result};
pub use t5::T5;
