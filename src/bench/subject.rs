//! The model that is timed: a published size with made-up weights, or a folder.

use std::fmt;
use std::path::{Path, PathBuf};

use super::machine::memory;
use super::workload;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::{Model, T5Config};

/// Which model.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Made-up weights; the name is for the report.
    Random {
        name: String,
        config: Box<T5Config>,
    },
    Folder(PathBuf),
}

impl Subject {
    /// A model folder, a `config.json`, or the name of a published size.
    ///
    /// # Errors
    /// `Input` for an unknown name: the message lists the known ones.
    pub fn parse(text: &str) -> Result<Subject> {
        let path = Path::new(text);
        if path.is_dir() || path.is_file() && path.extension().is_some_and(|extension| extension != "json") {
            return Ok(Subject::Folder(path.to_path_buf()));
        }
        let config = if path.extension().is_some_and(|e| e == "json") {
            T5Config::from_file(path)?
        } else if text.contains(['/', '\\']) {
            return Err(Error::Input(format!("there is no model folder {text}")));
        } else {
            T5Config::preset(text)?
        };
        config.validate()?;
        Ok(Subject::Random { name: text.to_owned(), config: Box::new(config) })
    }

    /// The configuration, without opening any weights.
    pub fn config(&self) -> Result<T5Config> {
        match self {
            Subject::Random { config, .. } => Ok((**config).clone()),
            Subject::Folder(dir) => T5Config::from_dir(dir),
        }
    }

    /// Whether the model can fit, as far as that is known before anything is tried: a software adapter's memory is the
    /// host's.
    ///
    /// # Errors
    /// `OutOfMemory` with the sizes of what does not fit.
    pub fn check(&self, gpu: &Gpu, training: bool) -> Result<()> {
        let config = self.config()?;
        config.validate()?;
        let needed = Needed::of(&config, training);
        if let Some(available) = memory("MemAvailable:").filter(|_| gpu.caps().is_cpu())
            && needed.total() > available
        {
            let what = format!("{self} {needed}; this machine has {} MiB available", available >> 20);
            return Err(Error::OutOfMemory(format!("{what}; choose a smaller --model or fewer sections")));
        }
        Ok(())
    }

    /// Puts the model on the device.
    ///
    /// # Errors
    /// `OutOfMemory` with the sizes of what does not fit.
    pub fn open(&self, gpu: &Gpu, training: bool) -> Result<Model> {
        let config = self.config()?;
        let needed = Needed::of(&config, training);
        let opened = match self {
            Subject::Random { .. } => workload::model(gpu, config),
            Subject::Folder(dir) => Model::load(gpu, dir).map(|(model, _)| model),
        };
        opened.map_err(|e| needed.explain(self, e))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Random { name, .. } => write!(f, "{name}"),
            Subject::Folder(dir) => write!(f, "{}", dir.display()),
        }
    }
}

/// Bytes of a model in f32; activations come on top.
pub(super) struct Needed {
    parameters: u64,
    training: bool,
}

impl Needed {
    pub fn of(config: &T5Config, training: bool) -> Needed {
        Needed { parameters: config.param_count().saturating_mul(4), training }
    }

    pub fn total(&self) -> u64 {
        self.parameters.saturating_mul(if self.training { 4 } else { 1 })
    }

    /// Adds the memory that the model needs to an error about lacking memory.
    pub fn explain(&self, subject: &Subject, error: Error) -> Error {
        match error {
            Error::OutOfMemory(what) => Error::OutOfMemory(format!("{what} ({subject} {self})")),
            other => other,
        }
    }
}

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "needs {} MiB for its parameters", self.parameters >> 20)?;
        if self.training {
            let rest = (self.parameters >> 20).saturating_mul(3);
            write!(f, ", {rest} MiB for gradients and moments")?;
        }
        write!(f, ", and activations")
    }
}
