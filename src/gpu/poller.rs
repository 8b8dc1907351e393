//! Who waits for the device: on native systems wgpu calls back only while somebody polls it.
//!
//! [`Poller`] is one thread for each device that somebody awaits. So an awaited readback blocks no thread of the caller.
//! A browser polls by itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// A buffer that is being mapped: `true` once it is, `false` if it cannot be. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Mapping(Arc<(Mutex<MappingState>, Condvar)>);

#[derive(Default)]
struct MappingState {
    mapped: Option<bool>,
    waker: Option<Waker>,
}

impl Mapping {
    fn state(&self) -> MutexGuard<'_, MappingState> {
        self.0.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Says how it ended, if nobody has said so before.
    pub fn end(&self, mapped: bool) {
        let mut state = self.state();
        state.mapped.get_or_insert(mapped);
        self.0.1.notify_all();
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Mapping {
    /// Blocks until it has ended, at most so long.
    fn wait(&self, patience: std::time::Duration) {
        let _ = self.0.1.wait_timeout_while(self.state(), patience, |state| state.mapped.is_none());
    }
}

impl Future for Mapping {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.state();
        match state.mapped {
            Some(mapped) => Poll::Ready(mapped),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(super) use native::Poller;

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc::{Sender, channel};
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use super::Mapping;

    /// How long a callback may take once its submission has ended. Where an application polls the same device, its thread may be
    /// the one that calls back, and may be held up on the way. A callback that never comes means a lost device.
    const PATIENCE: Duration = Duration::from_secs(2);

    /// A thread that polls a device up to the submissions that it is told of, in turn. It starts with the first, and ends
    /// when the `Poller` is dropped.
    #[derive(Default)]
    pub struct Poller(Mutex<Option<Sender<Watched>>>);

    struct Watched {
        submission: wgpu::SubmissionIndex,
        mapping: Mapping,
        /// Whether wgpu calls `mapping` back by itself.
        has_callback: bool,
    }

    impl Poller {
        /// Has `mapping` end once the device has done everything up to `submission`; with `has_callback`, by wgpu itself.
        pub fn watch(
            &self,
            device: &wgpu::Device,
            submission: wgpu::SubmissionIndex,
            mapping: Mapping,
            has_callback: bool,
        ) {
            let mut sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let sender = sender.get_or_insert_with(|| Poller::start(device.clone()));
            if let Err(unsent) = sender.send(Watched { submission, mapping, has_callback }) {
                unsent.0.mapping.end(false);
            }
        }

        fn start(device: wgpu::Device) -> Sender<Watched> {
            let (sender, receiver) = channel::<Watched>();
            let poll = move || {
                for Watched { submission, mapping, has_callback } in receiver {
                    let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
                    // wgpu panics if the device is lost while it waits. It has told why before.
                    let polled = catch_unwind(AssertUnwindSafe(|| device.poll(wait)));
                    let ended = matches!(polled, Ok(Ok(_)));
                    if ended && has_callback {
                        mapping.wait(PATIENCE);
                    }
                    mapping.end(ended && !has_callback);
                }
            };
            // Where no thread can be started, the receiver is dropped with the closure, and `watch` says that nothing came.
            let _ = std::thread::Builder::new().name("t5-poller".into()).spawn(poll);
            sender
        }
    }
}
