//! The one thread that tasks run on.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_executor::Executor;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Executor<'static>>>> = const { RefCell::new(None) };
}

/// Tasks, and the thread that calls [`Runtime::block_on`] to run them. Unlike tokio's it has no
/// threads of its own. Dropping it drops all its tasks.
#[derive(Default)]
pub struct Runtime(Arc<Executor<'static>>);

impl Runtime {
    /// No tasks yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` and the tasks that are spawned meanwhile on this thread, until `future` ends.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let _entered = Entered(CURRENT.replace(Some(Arc::clone(&self.0))));
        async_io::block_on(self.0.run(future))
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

/// Puts back what the thread ran before, also when a task panics.
struct Entered(Option<Arc<Executor<'static>>>);

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Gives a future to the runtime that this thread runs.
///
/// # Panics
/// When this thread runs none, as tokio does.
pub(crate) fn run(future: impl Future<Output = ()> + Send + 'static) {
    let current = CURRENT.with_borrow(Option::clone);
    current.expect("spawn is called on a thread that runs a Runtime").spawn(future).detach();
}
