//! One value that is replaced as a whole, and those who wait for its changes.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use event_listener::Event;

/// A value with one sender. The receiver has seen the first value.
#[must_use]
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        value: RwLock::new(value),
        version: AtomicU64::new(0),
        closed: AtomicBool::new(false),
        receivers: AtomicUsize::new(1),
        changed: Event::new(),
    });
    (Sender(Arc::clone(&shared)), Receiver { shared, seen: 0 })
}

struct Shared<T> {
    value: RwLock<T>,
    /// Changes so far. Written under the lock of `value`.
    version: AtomicU64,
    closed: AtomicBool,
    receivers: AtomicUsize,
    changed: Event,
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, T> {
        // A value is replaced by one assignment, so one that panicked left a whole one.
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
}

/// The one who replaces the value.
pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Sender<T> {
    /// Replaces the value and wakes all who wait.
    ///
    /// # Errors
    /// Gives the value back when no receiver is left.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(Ordering::Acquire) == 0 {
            return Err(SendError(value));
        }
        let before = {
            let mut place = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
            self.0.version.fetch_add(1, Ordering::AcqRel);
            std::mem::replace(&mut *place, value)
        };
        self.0.changed.notify(usize::MAX);
        // Behind the lock: what it takes with it may take long.
        drop(before);
        Ok(())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.changed.notify(usize::MAX);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("watch::Sender")
    }
}

/// One who looks at the value. It outlives the sender.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// The version that was looked at last.
    seen: u64,
}

impl<T> Receiver<T> {
    /// The value as it is now; a change stays unseen.
    #[must_use]
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.read())
    }

    /// The value as it is now, which is then seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.read();
        self.seen = self.shared.version();
        Ref(value)
    }

    /// Waits for a version that was not seen, and marks it seen.
    ///
    /// # Errors
    /// When the sender is gone and its last version was seen.
    pub async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            let changed = self.shared.changed.listen();
            // First: a version that was sent before the sender went is told.
            let closed = self.shared.closed.load(Ordering::Acquire);
            let version = self.shared.version();
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if closed {
                return Err(RecvError);
            }
            changed.await;
        }
    }

    /// Waits until the value is as wanted; looks at it before it asks whether the sender is there.
    ///
    /// # Errors
    /// When the sender is gone and its last value is not as wanted.
    pub async fn wait_for(
        &mut self,
        mut wanted: impl FnMut(&T) -> bool,
    ) -> Result<Ref<'_, T>, RecvError> {
        loop {
            let found = {
                let value = self.shared.read();
                self.seen = self.shared.version();
                wanted(&value)
            };
            if found {
                // Not the guard from above: one that is given back in a loop is borrowed for good.
                return Ok(Ref(self.shared.read()));
            }
            self.changed().await?;
        }
    }
}

/// The clone has seen what its origin has.
impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.fetch_add(1, Ordering::AcqRel);
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("watch::Receiver")
    }
}

/// The value while it is looked at; the sender waits as long.
#[derive(Debug)]
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A value that nobody can see any more.
pub struct SendError<T>(pub T);

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendError")
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no receiver is left")
    }
}

impl<T> std::error::Error for SendError<T> {}

/// The sender is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecvError;

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the sender is gone")
    }
}

impl std::error::Error for RecvError {}
