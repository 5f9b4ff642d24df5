//! What is to be said on a connection: a queue that is bounded in messages and bytes.
//!
//! Who pushes never waits. What does not fit is dropped and the pusher is told: consensus says it
//! again, a session is ended and begun anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::model::peer::Message;

/// Messages that wait; further ones are dropped.
pub const OUTBOX_FRAMES_MAX: usize = 1_024;

/// Bytes that wait; a message that would exceed them is dropped.
pub const OUTBOX_BYTES_MAX: usize = 8 << 20;

/// Where messages go in. Clones are one; with the last one the connection is closed in order.
#[derive(Clone, Debug)]
pub struct Outbox {
    queue: async_channel::Sender<Vec<u8>>,
    bytes: Arc<AtomicUsize>,
}

/// Where their frames come out; one for each outbox. It outlives connections.
#[derive(Debug)]
pub struct Drain {
    queue: async_channel::Receiver<Vec<u8>>,
    bytes: Arc<AtomicUsize>,
}

impl Outbox {
    /// Both ends.
    #[must_use]
    pub fn new() -> (Self, Drain) {
        let (sender, receiver) = async_channel::bounded(OUTBOX_FRAMES_MAX);
        let bytes = Arc::new(AtomicUsize::new(0));
        (Self { queue: sender, bytes: Arc::clone(&bytes) }, Drain { queue: receiver, bytes })
    }

    /// Queues a message. False when it was dropped: the queue is full, its drain is gone, or the
    /// message is above the limit of its kind.
    #[must_use]
    pub fn push(&self, message: &Message) -> bool {
        let mut frame = Vec::new();
        if let Err(err) = message.encode_into(&mut frame) {
            log::error!("a message to another node is dropped: {err}");
            return false;
        }
        let length = frame.len();
        let before = self.bytes.fetch_add(length, Ordering::Relaxed);
        let fits = before.saturating_add(length) <= OUTBOX_BYTES_MAX;
        if fits && self.queue.try_send(frame).is_ok() {
            return true;
        }
        self.bytes.fetch_sub(length, Ordering::Relaxed);
        false
    }
}

impl Drain {
    /// Throws away what waits: after a connection broke, it would only tell what is old.
    pub fn clear(&self) {
        while let Some(frame) = self.try_take() {
            drop(frame);
        }
    }

    /// The next frame, if one is there.
    pub(super) fn try_take(&self) -> Option<Vec<u8>> {
        let frame = self.queue.try_recv().ok()?;
        self.bytes.fetch_sub(frame.len(), Ordering::Relaxed);
        Some(frame)
    }

    /// The next frame; `None` when the outbox is gone.
    pub(super) async fn take(&self) -> Option<Vec<u8>> {
        let frame = self.queue.recv().await.ok()?;
        self.bytes.fetch_sub(frame.len(), Ordering::Relaxed);
        Some(frame)
    }
}
