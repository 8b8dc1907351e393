//! What works behind a [`T5`]: a loop over the calls of all its handles.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use futures_channel::{mpsc, oneshot};
use futures_core::Stream as _;

use super::load::OnProgress;
use super::{Answer, AnswerPiece, Canceller, LoadProgress, LoadStep, MemoryUse, Shared, State, T5, T5Builder};
use crate::batch::Example;
use crate::error::{Error, Result};
use crate::forward::{Classifier, Embeddings, Encoder, LabelScores, Pooling, SentenceHead, TargetScore, TargetScorer};
use crate::generate::{Decoding, Generation, Generator};
use crate::gpu::Gpu;
use crate::model::{Model, ModelParts, Storage};
use crate::tokenizer::Tokenizer;

type Reply<T> = oneshot::Sender<Result<T>>;

/// A call, and where its result goes.
pub(super) enum Job {
    Generate {
        text: String,
        reply: Reply<String>,
        canceller: Canceller,
    },
    Answer {
        texts: Vec<String>,
        decoding: Decoding,
        reply: Reply<Vec<Answer>>,
        canceller: Canceller,
    },
    NBest {
        texts: Vec<String>,
        decoding: Decoding,
        reply: Reply<Vec<Vec<Answer>>>,
        canceller: Canceller,
    },
    Stream {
        text: String,
        decoding: Decoding,
        pieces: mpsc::UnboundedSender<Result<AnswerPiece>>,
        canceller: Canceller,
    },
    Embed {
        texts: Vec<String>,
        pooling: Pooling,
        reply: Reply<Embeddings>,
        canceller: Canceller,
    },
    Score {
        pairs: Vec<(String, String)>,
        reply: Reply<Vec<TargetScore>>,
        canceller: Canceller,
    },
    Classify {
        texts: Vec<String>,
        reply: Reply<Vec<LabelScores>>,
        canceller: Canceller,
    },
    Unload {
        reply: Reply<()>,
    },
    Reopen {
        gpu: Option<Gpu>,
        reply: Reply<()>,
        canceller: Canceller,
    },
}

/// Starts the worker, which loads the model and then answers calls until the last handle is dropped.
pub(super) fn spawn(builder: T5Builder, reply: Reply<T5>, canceller: Canceller) {
    #[cfg(target_arch = "wasm32")]
    wasm_bindgen_futures::spawn_local(run(builder, reply, canceller));
    #[cfg(not(target_arch = "wasm32"))]
    {
        let work = move || pollster::block_on(run(builder, reply, canceller));
        // Where no thread can be started the reply is dropped with the closure, which its `Pending` tells.
        let _ = std::thread::Builder::new().name("t5".into()).spawn(work);
    }
}

async fn run(mut builder: T5Builder, reply: Reply<T5>, canceller: Canceller) {
    let (mut worker, mut queue) = match Worker::open(&mut builder, &canceller).await {
        Ok((engine, shared)) => {
            let (jobs, queue) = mpsc::unbounded();
            let worker = Worker { builder, engine: Some(engine), shared: shared.clone() };
            // If nobody waits for the handle any more, it is dropped here, and the queue ends at once.
            worker.finish(reply, Ok(T5 { jobs, shared }));
            (worker, queue)
        }
        Err(error) => {
            let _ = reply.send(Err(error));
            return;
        }
    };
    while let Some(job) = std::future::poll_fn(|context| std::pin::Pin::new(&mut queue).poll_next(context)).await {
        worker.answer(job).await;
    }
}

/// The model on the device.
pub(super) struct Engine {
    generator: Generator,
    encoder: Encoder,
    scorer: TargetScorer,
    /// Made when it is first asked for, of a model that has the head.
    classifier: Option<Classifier>,
}

impl Engine {
    pub fn load(
        gpu: &Gpu,
        parts: &ModelParts,
        head: Option<SentenceHead>,
        storage: Storage,
        on_progress: &mut OnProgress,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<Engine> {
        let mut tell = |done, total| {
            on_progress(LoadProgress { step: LoadStep::Uploading, done, total });
            if is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let (model, _) = Model::upload(gpu, parts, storage, &mut tell)?;
        let (encoder, scorer) = (Encoder::new(model.clone(), head)?, TargetScorer::new(model.clone()));
        Ok(Engine { generator: Generator::new(model), encoder, scorer, classifier: None })
    }
}

struct Worker {
    /// Loads the model again.
    builder: T5Builder,
    /// `None` while the model is unloaded.
    engine: Option<Engine>,
    shared: Arc<Shared>,
}

impl Worker {
    async fn open(builder: &mut T5Builder, canceller: &Canceller) -> Result<(Engine, Arc<Shared>)> {
        #[cfg(feature = "hub")]
        builder.find(&|| canceller.is_cancelled())?;
        let (parts, tokenizer) = builder.source.open()?;
        parts.config.check_vocabulary(tokenizer.vocab_size())?;
        let gpu = builder.open_gpu().await?;
        let engine = builder.engine(&gpu, &parts, &|| canceller.is_cancelled())?;
        let state = Mutex::new(State { gpu, memory: MemoryUse::default() });
        let decoding = Decoding::of_model(&engine.generator.model, None)?;
        Ok((engine, Arc::new(Shared { tokenizer, config: parts.config.clone(), decoding, state })))
    }

    /// Hands a result out, after the handles can see what the model now holds.
    fn finish<T>(&self, reply: Reply<T>, result: Result<T>) {
        self.publish();
        // Whoever dropped the other end does not want it.
        let _ = reply.send(result);
    }

    fn publish(&self) {
        let memory = self.engine.as_ref().map(|Engine { generator, encoder, scorer, classifier }| MemoryUse {
            weights: generator.model.layout.bytes(),
            working: generator.bytes()
                + encoder.bytes()
                + scorer.bytes()
                + classifier.as_ref().map_or(0, Classifier::bytes),
        });
        self.shared.state().memory = memory.unwrap_or_default();
    }

    async fn answer(&mut self, job: Job) {
        match job {
            Job::Generate { text, reply, canceller } => {
                let decoding = self.shared.decoding.clone();
                let answers = self.best(&[text], &decoding, &canceller, &mut |_| ()).await;
                let text = answers.map(|mut answers| answers.pop().map(|answer| answer.text).unwrap_or_default());
                self.finish(reply, text);
            }
            Job::Answer { texts, decoding, reply, canceller } => {
                let answers = self.best(&texts, &decoding, &canceller, &mut |_| ()).await;
                self.finish(reply, answers);
            }
            Job::NBest { texts, decoding, reply, canceller } => {
                let answers = self.answers(&texts, &decoding, &canceller, &mut |_| ()).await;
                self.finish(reply, answers);
            }
            Job::Stream { text, decoding, pieces, canceller } => {
                let mut shown = decoding.text_stream(&self.shared.tokenizer);
                let mut on_ids = |ids: &[u32]| {
                    let text = ids.iter().map(|&id| shown.push(id)).collect();
                    let _ = pieces.unbounded_send(Ok(AnswerPiece { text, ids: ids.to_vec() }));
                };
                let made = self.best(&[text], &decoding, &canceller, &mut on_ids).await;
                self.publish();
                let text = shown.finish();
                let last = (!text.is_empty()).then(|| Ok(AnswerPiece { text, ids: Vec::new() }));
                if let Some(last) = made.map_or_else(|error| Some(Err(error)), |_| last) {
                    let _ = pieces.unbounded_send(last);
                }
            }
            Job::Embed { texts, pooling, reply, canceller } => {
                let vectors = self.embed(&texts, pooling, &canceller).await;
                self.finish(reply, vectors);
            }
            Job::Score { pairs, reply, canceller } => {
                let scores = self.score(&pairs, &canceller).await;
                self.finish(reply, scores);
            }
            Job::Classify { texts, reply, canceller } => {
                let scores = self.classify(&texts, &canceller).await;
                self.finish(reply, scores);
            }
            Job::Unload { reply } => {
                self.engine = None;
                // wgpu frees what was dropped when the device is next polled.
                let freed = self.shared.state().gpu.flush();
                self.finish(reply, freed);
            }
            Job::Reopen { gpu, reply, canceller } => {
                let opened = self.reopen(gpu, &canceller).await;
                self.finish(reply, opened);
            }
        }
    }

    fn engine(&mut self) -> Result<&mut Engine> {
        self.engine.as_mut().ok_or(Error::Unloaded)
    }

    async fn embed(&mut self, texts: &[String], pooling: Pooling, canceller: &Canceller) -> Result<Embeddings> {
        let ids = encoded(&self.shared.tokenizer, texts)?;
        self.engine()?.encoder.embed(&ids, pooling, &|| canceller.is_cancelled()).await
    }

    async fn score(&mut self, pairs: &[(String, String)], canceller: &Canceller) -> Result<Vec<TargetScore>> {
        let tokenizer = &self.shared.tokenizer;
        let example = |(source, target): &(String, String)| {
            Ok(Example { source: tokenizer.encode_with_eos(source)?, target: tokenizer.encode_with_eos(target)? })
        };
        let examples: Vec<Example> = pairs.iter().map(example).collect::<Result<_>>()?;
        self.engine()?.scorer.score(&examples, &|| canceller.is_cancelled()).await
    }

    async fn classify(&mut self, texts: &[String], canceller: &Canceller) -> Result<Vec<LabelScores>> {
        let ids = encoded(&self.shared.tokenizer, texts)?;
        let engine = self.engine()?;
        let classifier = match &mut engine.classifier {
            Some(classifier) => classifier,
            // Says that there is no head.
            none => none.insert(Classifier::new(engine.generator.model.clone())?),
        };
        classifier.classify(&ids, &|| canceller.is_cancelled()).await
    }

    /// The best answer to each text.
    async fn best(
        &mut self,
        texts: &[String],
        decoding: &Decoding,
        canceller: &Canceller,
        on_ids: &mut (dyn FnMut(&[u32]) + Send),
    ) -> Result<Vec<Answer>> {
        let answers = self.answers(texts, decoding, canceller, on_ids).await?;
        Ok(answers.into_iter().filter_map(|answers| answers.into_iter().next()).collect())
    }

    async fn answers(
        &mut self,
        texts: &[String],
        decoding: &Decoding,
        canceller: &Canceller,
        on_ids: &mut (dyn FnMut(&[u32]) + Send),
    ) -> Result<Vec<Vec<Answer>>> {
        let tokenizer = &self.shared.tokenizer;
        let ids = encoded(tokenizer, texts)?;
        let generator = &mut self.engine.as_mut().ok_or(Error::Unloaded)?.generator;
        generator.model.expect_decoder()?;
        generator.tokenizer.get_or_insert_with(|| tokenizer.clone());
        let mut on_tokens = |_: usize, ids: &[u32]| {
            on_ids(ids);
            ControlFlow::Continue(())
        };
        // What the tokenizer has no piece for is never written.
        let limit = decoding.limit.or(Some(tokenizer.vocab_size()));
        let decoding = Decoding { limit, ..decoding.clone() };
        let made = generator.generate(&ids, &decoding, &mut on_tokens, &|| canceller.is_cancelled()).await?;
        if canceller.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let answer = |generation: Generation| Answer { text: decoding.text(tokenizer, &generation.ids), generation };
        Ok(made.into_iter().map(|found| found.into_iter().map(answer).collect()).collect())
    }

    async fn reopen(&mut self, gpu: Option<Gpu>, canceller: &Canceller) -> Result<()> {
        // The memory of the old model is free before the new one takes its own.
        self.engine = None;
        let old = self.shared.state().gpu.clone();
        let gpu = match (gpu, old.check()) {
            (Some(gpu), _) => gpu,
            (None, Err(error @ Error::DeviceLost(_))) if old.is_shared() => return Err(error),
            (None, Err(Error::DeviceLost(_))) => Gpu::open(old.options()).await?,
            (None, _) => old,
        };
        let (parts, _): (_, Tokenizer) = self.builder.source.open()?;
        self.engine = Some(self.builder.engine(&gpu, &parts, &|| canceller.is_cancelled())?);
        self.shared.state().gpu = gpu;
        Ok(())
    }
}

fn encoded(tokenizer: &Tokenizer, texts: &[String]) -> Result<Vec<Vec<u32>>> {
    texts.iter().map(|text| tokenizer.encode_with_eos(text)).collect()
}
