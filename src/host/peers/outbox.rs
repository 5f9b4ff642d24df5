//! What one manager has to tell another: a bounded queue in front of a `Raft` call.
//!
//! Consensus sends again what is lost, so what does not fit is dropped, and what waited for a
//! connection that broke is thrown away: it would only tell what is old.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::connection::{Connection, ConnectionError};
use super::within;
use crate::model::peer::Message;

/// Messages that wait; further ones are dropped.
pub const OUTBOX_FRAMES_MAX: usize = 1_024;

/// Bytes that wait; a message that would exceed them is dropped.
pub const OUTBOX_BYTES_MAX: usize = 8 << 20;

/// Messages are put together into one write up to about this size.
const WRITE_BYTES: usize = 64 << 10;

/// After this long without a message, a ping says that somebody is there.
const PING_AFTER: Duration = Duration::from_secs(2);

/// Where messages go in. Clones are one.
#[derive(Clone, Debug)]
pub struct Outbox {
    queue: async_channel::Sender<Vec<u8>>,
    bytes: Arc<AtomicUsize>,
}

/// Where they come out; one for each outbox.
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

    /// Queues what consensus says, in its codec. False when it was dropped: the queue is full, or
    /// its drain is gone.
    #[must_use]
    pub fn push(&self, message: Vec<u8>) -> bool {
        let length = message.len();
        let before = self.bytes.fetch_add(length, Ordering::Relaxed);
        let fits = before.saturating_add(length) <= OUTBOX_BYTES_MAX;
        if fits && self.queue.try_send(message).is_ok() {
            return true;
        }
        self.bytes.fetch_sub(length, Ordering::Relaxed);
        false
    }
}

impl Drain {
    /// Throws away what waits.
    pub fn clear(&self) {
        while let Some(message) = self.try_take() {
            drop(message);
        }
    }

    fn try_take(&self) -> Option<Vec<u8>> {
        let message = self.queue.try_recv().ok()?;
        self.bytes.fetch_sub(message.len(), Ordering::Relaxed);
        Some(message)
    }

    async fn take(&self) -> Option<Vec<u8>> {
        let message = self.queue.recv().await.ok()?;
        self.bytes.fetch_sub(message.len(), Ordering::Relaxed);
        Some(message)
    }

    /// Sends what waits and what comes, until the connection breaks or the outbox is gone.
    ///
    /// # Errors
    /// Why the connection is of no use any more.
    pub async fn run(&self, connection: Connection) -> Result<(), ConnectionError> {
        let Connection { mut sender, mut receiver } = connection;
        let say = async {
            let mut pings = 0;
            loop {
                match within(PING_AFTER, self.take()).await {
                    Some(Some(message)) => sender.queue(&Message::Raft(message))?,
                    Some(None) => return Ok(()),
                    None => {
                        pings += 1;
                        sender.queue(&Message::Ping(pings))?;
                    }
                }
                while sender.queued() < WRITE_BYTES {
                    let Some(message) = self.try_take() else { break };
                    sender.queue(&Message::Raft(message))?;
                }
                sender.flush().await?;
            }
        };
        // The other end says nothing; that it is gone is heard at once.
        let hear = async { receiver.receive_within(Duration::MAX).await.map(|_message| ()) };
        smol::future::or(say, hear).await
    }
}
