//! Tasks of the [`Runtime`](crate::runtime::Runtime) that this thread runs.

use std::fmt;
use std::future::{Future, pending};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_channel::{Receiver, Sender, bounded};
use futures_lite::{FutureExt as _, Stream as _};

use crate::runtime;

/// Runs `future` beside the caller.
///
/// # Panics
/// When this thread runs no [`Runtime`](crate::runtime::Runtime).
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (done, result) = bounded(1);
    let (abort, aborted) = bounded::<()>(1);
    runtime::run(async move {
        let aborted = async {
            if aborted.recv().await.is_ok() {
                return Err(JoinError::Aborted);
            }
            // The handle was dropped: nobody can abort this any more.
            pending().await
        };
        let ran = async {
            let ran = AssertUnwindSafe(future).catch_unwind().await;
            ran.map_err(|_panic| JoinError::Panicked)
        };
        let outcome = aborted.or(ran).await;
        // Nobody waits if the handle was dropped.
        drop(done.try_send(outcome));
    });
    JoinHandle { abort, result: Box::pin(result) }
}

/// A task that was spawned. Dropping it lets the task run on; awaiting it gives what it ended with.
pub struct JoinHandle<T> {
    abort: Sender<()>,
    result: Pin<Box<Receiver<Result<T, JoinError>>>>,
}

impl<T> JoinHandle<T> {
    /// Drops the task at its next turn, if it has not ended by then.
    pub fn abort(&self) {
        // Refused when it was aborted before, or has ended.
        match self.abort.try_send(()) {
            Ok(()) | Err(_) => {}
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = self.result.as_mut().poll_next(cx);
        // The channel ends without a result when the runtime was dropped with the task.
        result.map(|result| result.unwrap_or(Err(JoinError::Aborted)))
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinHandle")
    }
}

/// Why a task has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinError {
    /// It was dropped before its end.
    Aborted,
    /// It panicked.
    Panicked,
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aborted => "the task was aborted",
            Self::Panicked => "the task panicked",
        })
    }
}

impl std::error::Error for JoinError {}
