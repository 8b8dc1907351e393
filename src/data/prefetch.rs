//! Makes batches ahead of time on threads. The stream of batches is the same for any number of threads.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::stream::{BatchPosition, Batches};
use crate::batch::Batch;
use crate::{Error, Result};

/// Batches that wait for the device, at most.
const AHEAD: usize = 8;

/// The batches of a [`Batches`], made when they are asked for, or ahead of time by threads, and prepared by a function there.
pub enum Prefetch<T> {
    /// Made when they are asked for.
    Inline(Box<Batches>, Box<Prepare<T>>),
    Threads(Receiver<Result<Ready<T>>>),
}

/// What makes a `T` of each batch.
type Prepare<T> = dyn Fn(Batch) -> Result<T> + Send + Sync;

/// A batch and what goes with it.
pub struct Ready<T> {
    pub batch: T,
    /// Where the batch after it begins.
    pub next: BatchPosition,
    /// Passes over the data once it is used.
    pub passes: f64,
}

impl<T: Send + 'static> Prefetch<T> {
    /// With 0 `threads` batches are made in [`Prefetch::next_batch`]; else one thread makes them in order, and shares the
    /// tokenising of text with the others.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn new(
        batches: Batches,
        threads: usize,
        prepare: impl Fn(Batch) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Prefetch<T>> {
        if threads == 0 {
            return Ok(Prefetch::Inline(Box::new(batches), Box::new(prepare)));
        }
        let (sender, receiver) = sync_channel(AHEAD);
        let no_thread = |e: String| Error::Input(format!("cannot start {threads} threads for the data: {e}"));
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("data-{index}"))
            .build()
            .map_err(|e| no_thread(e.to_string()))?;
        thread::Builder::new()
            .name("data".into())
            .spawn(move || pool.install(|| produce(batches, &prepare, &sender)))
            .map_err(|e| no_thread(e.to_string()))?;
        Ok(Prefetch::Threads(receiver))
    }

    /// The next batch.
    ///
    /// # Errors
    /// What making it gave; the stream ends with its first error.
    pub fn next_batch(&mut self) -> Result<Ready<T>> {
        match self {
            Prefetch::Inline(batches, prepare) => ready(batches, prepare),
            Prefetch::Threads(receiver) => receiver
                .recv()
                .unwrap_or_else(|_| Err(Error::Input("the threads that make batches ended after an error".into()))),
        }
    }
}

fn ready<T>(batches: &mut Batches, prepare: &Prepare<T>) -> Result<Ready<T>> {
    let batch = prepare(batches.next_batch()?)?;
    Ok(Ready { batch, next: batches.position(), passes: batches.passes() })
}

/// Makes batches until one fails or the receiver is gone.
fn produce<T>(mut batches: Batches, prepare: &Prepare<T>, sender: &SyncSender<Result<Ready<T>>>) {
    loop {
        let made = ready(&mut batches, prepare);
        let failed = made.is_err();
        if sender.send(made).is_err() || failed {
            return;
        }
    }
}
