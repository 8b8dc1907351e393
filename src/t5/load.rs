//! Opening a [`T5`]: what it is made of, on which device, and who hears of the progress.

#[cfg(feature = "hub")]
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::worker::{self, Engine};
use super::{Pending, T5};
use crate::error::Result;
use crate::forward::SentenceHead;
use crate::gpu::{Gpu, GpuOptions};
#[cfg(feature = "hub")]
use crate::hub::{DownloadProgress, Hub, HubOptions, ModelName};
use crate::model::{ModelParts, Storage};
use crate::tokenizer::Tokenizer;

/// What a [`T5`] is loaded from, at first and whenever it is opened again.
#[derive(Clone)]
pub enum ModelSource {
    /// A folder with `config.json`, weights and a tokenizer, or the file of weights in it; with the feature `hub` also a model's name on
    /// the hub, as `google/flan-t5-small` or `google/flan-t5-small@REVISION`, if there is neither a folder nor a file of this name.
    Folder(PathBuf),
    /// The parts, from wherever the application has them.
    Parts { parts: Arc<ModelParts>, tokenizer: Tokenizer },
}

impl<P: AsRef<Path> + ?Sized> From<&P> for ModelSource {
    fn from(folder: &P) -> ModelSource {
        ModelSource::Folder(folder.as_ref().to_path_buf())
    }
}

impl From<PathBuf> for ModelSource {
    fn from(folder: PathBuf) -> ModelSource {
        ModelSource::Folder(folder)
    }
}

impl ModelSource {
    pub(super) fn open(&self) -> Result<(Arc<ModelParts>, Tokenizer)> {
        Ok(match self {
            ModelSource::Folder(dir) => (Arc::new(ModelParts::open_any(dir)?), Tokenizer::from_dir(dir)?),
            ModelSource::Parts { parts, tokenizer } => (parts.clone(), tokenizer.clone()),
        })
    }
}

impl ModelSource {
    /// What sentence embeddings need behind the encoder, if the folder has it.
    fn sentence_head(&self, gpu: &Gpu, parts: &ModelParts) -> Result<Option<SentenceHead>> {
        match self {
            ModelSource::Folder(dir) => SentenceHead::open(gpu, dir, parts.config.d_model),
            ModelSource::Parts { .. } => Ok(None),
        }
    }
}

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    pub step: LoadStep,
    pub done: u64,
    pub total: u64,
}

/// The steps of loading, and what is counted in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadStep {
    /// Bytes of the model's files that are in the cache, if they come from a hub.
    Downloading,
    /// Numbers of the model that are on the device or on their way to it.
    Uploading,
}

/// Who hears of the progress.
pub(super) type OnProgress = Box<dyn FnMut(LoadProgress) + Send>;

/// Choices about how a [`T5`] is loaded: see [`T5::builder`].
pub struct T5Builder {
    pub(super) source: ModelSource,
    pub(super) gpu: Option<Gpu>,
    pub(super) gpu_options: GpuOptions,
    pub(super) storage: Storage,
    pub(super) on_progress: OnProgress,
    #[cfg(feature = "hub")]
    hub: HubOptions,
}

impl T5Builder {
    pub(super) fn new(source: ModelSource) -> T5Builder {
        T5Builder {
            source,
            gpu: None,
            gpu_options: GpuOptions::default(),
            storage: Storage::AsStored,
            on_progress: Box::new(|_| ()),
            #[cfg(feature = "hub")]
            hub: HubOptions::default(),
        }
    }

    /// Uses this device: one that other models use, too, or an application's own ([`Gpu::from_wgpu`]).
    #[must_use]
    pub fn gpu(mut self, gpu: &Gpu) -> T5Builder {
        self.gpu = Some(gpu.clone());
        self
    }

    /// Opens a device with these options, if none is given.
    #[must_use]
    pub fn gpu_options(mut self, options: GpuOptions) -> T5Builder {
        self.gpu_options = options;
        self
    }

    /// How the weights are held; [`Storage::AsStored`] unless said otherwise.
    #[must_use]
    pub fn storage(mut self, storage: Storage) -> T5Builder {
        self.storage = storage;
        self
    }

    /// Looks for models on this hub and in this cache, if they are named and not there as folders.
    #[cfg(feature = "hub")]
    #[must_use]
    pub fn hub(mut self, options: HubOptions) -> T5Builder {
        self.hub = options;
        self
    }

    /// Has `on_progress` told after each tensor, and now and then while files come from a hub, on the thread that loads.
    #[must_use]
    pub fn progress(mut self, on_progress: impl FnMut(LoadProgress) + Send + 'static) -> T5Builder {
        self.on_progress = Box::new(on_progress);
        self
    }

    /// Begins to load.
    ///
    /// # Errors
    /// Those of [`T5::load`].
    pub fn load(self) -> Pending<T5> {
        let (reply, canceller, pending) = Pending::new();
        worker::spawn(self, reply, canceller);
        pending
    }

    /// Puts a model's folder in the place of its name on the hub, from now on.
    #[cfg(feature = "hub")]
    pub(super) fn find(&mut self, is_cancelled: &dyn Fn() -> bool) -> Result<()> {
        let ModelSource::Folder(path) = &self.source else { return Ok(()) };
        let Some(name) = ModelName::in_place_of(path) else { return Ok(()) };
        let mut tell = |DownloadProgress { done, total, .. }: DownloadProgress<'_>| {
            (self.on_progress)(LoadProgress { step: LoadStep::Downloading, done, total });
            if is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let found = Hub::new(self.hub.clone())?.fetch(&name, &mut tell)?;
        self.source = ModelSource::Folder(found.folder);
        Ok(())
    }

    /// The device that was given, or a new one. This lets go of it: it may be lost one day.
    pub(super) async fn open_gpu(&mut self) -> Result<Gpu> {
        match self.gpu.take() {
            Some(gpu) => Ok(gpu),
            None => Gpu::open(&self.gpu_options).await,
        }
    }

    /// Loads the model onto a device.
    pub(super) fn engine(&mut self, gpu: &Gpu, parts: &ModelParts, wanted: &dyn Fn() -> bool) -> Result<Engine> {
        let head = self.source.sentence_head(gpu, parts)?;
        Engine::load(gpu, parts, head, self.storage, &mut self.on_progress, wanted)
    }
}
