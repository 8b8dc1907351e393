//! Results that are on their way: futures that can be waited for, and that stop the work when nobody wants it any more.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_channel::{mpsc, oneshot};
use futures_core::Stream;

use crate::error::{Error, Result};

/// A result on its way: await it, or [`wait`](Pending::wait) for it. The work goes on by itself, and stops soon after a `Pending`
/// is dropped.
#[must_use = "dropping it stops the work"]
pub struct Pending<T> {
    result: oneshot::Receiver<Result<T>>,
    canceller: Canceller,
}

/// Stops a piece of work from elsewhere, such as a button of a window. Clones are for the same work.
#[derive(Clone, Default)]
pub struct Canceller(Arc<AtomicBool>);

impl Canceller {
    /// The work ends with [`Error::Cancelled`] as soon as the kernels that are on the device have run.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`Canceller::cancel`] was called, or the result dropped.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<T> Pending<T> {
    /// A result and the two ends that it needs: where it is put, and what says that it is no longer wanted.
    pub(super) fn new() -> (oneshot::Sender<Result<T>>, Canceller, Pending<T>) {
        let (sender, result) = oneshot::channel();
        let canceller = Canceller::default();
        (sender, canceller.clone(), Pending { result, canceller })
    }

    /// Blocks the calling thread until the result is there.
    pub fn wait(self) -> Result<T> {
        pollster::block_on(self)
    }

    /// Something that stops the work and can be kept elsewhere.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        Pin::new(&mut self.result).poll(context).map(|result| result.unwrap_or_else(|_| Err(gone())))
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        self.canceller.cancel();
    }
}

/// The worker ended in the middle of the work, by a panic.
pub(super) fn gone() -> Error {
    Error::Driver("the thread that works for this model has ended".into())
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerPiece {
    /// What the text goes on with; never half a character, nor what may become a stop string. All pieces joined are the answer.
    pub text: String,
    /// The tokens that have come since the last piece, also those of a stop string, of which there is no text.
    pub ids: Vec<u32>,
}

/// An answer piece by piece: a [`Stream`], and for threads an iterator: [`AnswerStream::blocking`]. Work goes on by itself,
/// whether or not somebody takes the pieces, and stops soon after the stream is dropped.
#[must_use = "dropping it stops the work"]
pub struct AnswerStream {
    pieces: mpsc::UnboundedReceiver<Result<AnswerPiece>>,
    canceller: Canceller,
}

impl AnswerStream {
    pub(super) fn new() -> (mpsc::UnboundedSender<Result<AnswerPiece>>, Canceller, AnswerStream) {
        let (sender, pieces) = mpsc::unbounded();
        let canceller = Canceller::default();
        (sender, canceller.clone(), AnswerStream { pieces, canceller })
    }

    /// The next piece; `None` at the end of the answer.
    pub async fn next(&mut self) -> Option<Result<AnswerPiece>> {
        std::future::poll_fn(|context| Pin::new(&mut self.pieces).poll_next(context)).await
    }

    /// The pieces as an iterator that blocks the calling thread.
    pub fn blocking(mut self) -> impl Iterator<Item = Result<AnswerPiece>> {
        std::iter::from_fn(move || pollster::block_on(self.next()))
    }

    /// Something that stops the work and can be kept elsewhere.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }
}

impl Stream for AnswerStream {
    type Item = Result<AnswerPiece>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<AnswerPiece>>> {
        Pin::new(&mut self.pieces).poll_next(context)
    }
}

impl Drop for AnswerStream {
    fn drop(&mut self) {
        self.canceller.cancel();
    }
}
