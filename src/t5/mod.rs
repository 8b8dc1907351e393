//! The front door: a T5 that an application can hold, ask and rely on.
//!
//! A [`T5`] is a handle. Behind it a thread of its own (in a browser: a task) reads files, compiles kernels and waits for the
//! device, so that no call blocks the thread or the executor of the caller. Calls are answered in the order in which they come.
//! Every call gives a [`Pending`]: await it, or wait for it.

mod load;
mod pending;
mod worker;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_channel::mpsc;

pub use load::{LoadProgress, LoadStep, ModelSource, T5Builder};
pub use pending::{AnswerPiece, AnswerStream, Canceller, Pending};

use crate::forward::{Embeddings, LabelScores, Pooling, TargetScore};
use crate::generate::{Decoding, Generation};
use crate::gpu::Gpu;
use crate::model::T5Config;
use crate::tokenizer::Tokenizer;
use worker::Job;

/// A model on a device, with its tokenizer. Clones are the same model; it is freed with the last.
#[derive(Clone)]
pub struct T5 {
    jobs: mpsc::UnboundedSender<Job>,
    shared: Arc<Shared>,
}

/// What handles and worker both see.
struct Shared {
    tokenizer: Tokenizer,
    config: T5Config,
    decoding: Decoding,
    state: Mutex<State>,
}

struct State {
    gpu: Gpu,
    memory: MemoryUse,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Parameters.
    pub weights: u64,
    /// Activations, caches and state, kept for the next call.
    pub working: u64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Up to the stop string, if one ended it.
    pub text: String,
    /// Its tokens, how it ended, and log-probabilities if the [`Decoding`] asks for them.
    pub generation: Generation,
}

impl T5 {
    /// Loads a HuggingFace model folder or a GGUF file onto the best adapter of this machine. With the feature `hub` also a model by its
    /// name on the hub, `google/flan-t5-small`, which is then kept in the cache of huggingface_hub. [`T5::builder`] has choices.
    ///
    /// # Errors
    /// `Io`, `File`: a file cannot be read; `Hub`: it cannot be had from the hub; `Adapter`: there is no GPU driver; `OutOfMemory`.
    pub fn load(model: impl AsRef<std::path::Path>) -> Pending<T5> {
        T5::builder(model.as_ref()).load()
    }

    /// Loads with choices: the device, the type of the weights, who hears of the progress.
    pub fn builder(source: impl Into<ModelSource>) -> T5Builder {
        T5Builder::new(source.into())
    }

    /// The answer to a text: the likeliest tokens, or as the model's `generation_config.json` says.
    ///
    /// # Errors
    /// See [`T5::answer`].
    pub fn generate(&self, text: impl Into<String>) -> Pending<String> {
        let (reply, canceller, pending) = Pending::new();
        self.send(Job::Generate { text: text.into(), reply, canceller });
        pending
    }

    /// The answers to texts, in their order. What a text's answer is does not depend on the others, which are decoded side
    /// by side.
    ///
    /// # Errors
    /// `Input`: an impossible setting; `OutOfMemory`; `Numeric`: the model gives NaN; `DeviceLost`: see [`T5::reopen`];
    /// `Unloaded`; `Cancelled`.
    pub fn answer(&self, texts: &[impl AsRef<str>], decoding: &Decoding) -> Pending<Vec<Answer>> {
        let (reply, canceller, pending) = Pending::new();
        self.send(Job::Answer { texts: owned(texts), decoding: decoding.clone(), reply, canceller });
        pending
    }

    /// [`T5::answer`] with [`Decoding::n_best`] answers for each text, the best first.
    ///
    /// # Errors
    /// See [`T5::answer`].
    pub fn n_best(&self, texts: &[impl AsRef<str>], decoding: &Decoding) -> Pending<Vec<Vec<Answer>>> {
        let (reply, canceller, pending) = Pending::new();
        self.send(Job::NBest { texts: owned(texts), decoding: decoding.clone(), reply, canceller });
        pending
    }

    /// The answer to a text piece by piece, as it is made; that of beam search comes as one piece at the end.
    ///
    /// # Errors
    /// Those of [`T5::answer`], as the last item.
    pub fn stream(&self, text: impl Into<String>, decoding: &Decoding) -> AnswerStream {
        let (pieces, canceller, stream) = AnswerStream::new();
        self.send(Job::Stream { text: text.into(), decoding: decoding.clone(), pieces, canceller });
        stream
    }

    /// One vector for each text, in their order: of like texts, vectors with a large dot product, if the model was trained for
    /// that. A text's vector does not depend on the others.
    ///
    /// # Errors
    /// See [`T5::answer`]; `Input` if the model's folder does not say how [`Pooling::Sentence`] is made.
    pub fn embed(&self, texts: &[impl AsRef<str>], pooling: Pooling) -> Pending<Embeddings> {
        let (reply, canceller, pending) = Pending::new();
        self.send(Job::Embed { texts: owned(texts), pooling, reply, canceller });
        pending
    }

    /// How likely the model finds each target as the answer to its source: pairs of source and target, scores in their order.
    ///
    /// # Errors
    /// See [`T5::answer`].
    pub fn score(&self, pairs: &[(impl AsRef<str>, impl AsRef<str>)]) -> Pending<Vec<TargetScore>> {
        let (reply, canceller, pending) = Pending::new();
        let pairs =
            pairs.iter().map(|(source, target)| (source.as_ref().to_owned(), target.as_ref().to_owned())).collect();
        self.send(Job::Score { pairs, reply, canceller });
        pending
    }

    /// The scores of a classifier's labels for each text, in their order: of the text, or of each of its tokens.
    /// [`T5Config::classifier`] names the labels and says what scores mean.
    ///
    /// # Errors
    /// See [`T5::answer`]; `Input` if the model has no head for classification.
    pub fn classify(&self, texts: &[impl AsRef<str>]) -> Pending<Vec<LabelScores>> {
        let (reply, canceller, pending) = Pending::new();
        self.send(Job::Classify { texts: owned(texts), reply, canceller });
        pending
    }

    /// How [`T5::generate`] decodes: as the model's `generation_config.json` says, else greedily.
    pub fn decoding(&self) -> Decoding {
        self.shared.decoding.clone()
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.shared.tokenizer
    }

    /// The model's sizes and settings.
    pub fn config(&self) -> &T5Config {
        &self.shared.config
    }

    /// The device that the model is on.
    pub fn gpu(&self) -> Gpu {
        self.shared.state().gpu.clone()
    }

    /// What the model holds on the device; nothing while it is unloaded.
    pub fn memory(&self) -> MemoryUse {
        self.shared.state().memory
    }

    /// Frees the model's memory on the device, after the calls that were made before. Later calls fail with `Unloaded`, until
    /// [`T5::reopen`].
    pub fn unload(&self) -> Pending<()> {
        let (reply, _, pending) = Pending::new();
        self.send(Job::Unload { reply });
        pending
    }

    /// Loads the model again: after [`T5::unload`], or after its device was lost, which opens the device anew. The same text
    /// then has the same answer.
    ///
    /// # Errors
    /// Those of [`T5::load`]. `DeviceLost` if the lost device is an application's: see [`T5::reopen_on`].
    pub fn reopen(&self) -> Pending<()> {
        self.reopen_as(None)
    }

    /// Loads the model onto another device.
    pub fn reopen_on(&self, gpu: Gpu) -> Pending<()> {
        self.reopen_as(Some(gpu))
    }

    fn reopen_as(&self, gpu: Option<Gpu>) -> Pending<()> {
        let (reply, canceller, pending) = Pending::new();
        self.send(Job::Reopen { gpu, reply, canceller });
        pending
    }

    fn send(&self, job: Job) {
        // A job that cannot be sent is dropped, and its result then says that the worker is gone.
        let _ = self.jobs.unbounded_send(job);
    }
}

fn owned(texts: &[impl AsRef<str>]) -> Vec<String> {
    texts.iter().map(|text| text.as_ref().to_owned()).collect()
}

impl std::fmt::Debug for T5 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let State { gpu, memory } = &*self.shared.state();
        write!(f, "T5 on {} ({memory:?})", gpu.caps())
    }
}
