//! Queues with many senders and one receiver, on async-channel.

use std::fmt;

use async_channel::TrySendError as Refused;

/// A queue of at most `capacity` values.
#[must_use]
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = async_channel::bounded(capacity);
    (Sender(sender), Receiver(receiver))
}

/// A queue without a limit: what fills it must have one.
#[must_use]
pub fn unbounded_channel<T>() -> (UnboundedSender<T>, UnboundedReceiver<T>) {
    let (sender, receiver) = async_channel::unbounded();
    (UnboundedSender(sender), UnboundedReceiver(receiver))
}

/// The sending side of [`channel`].
#[derive(Debug)]
pub struct Sender<T>(async_channel::Sender<T>);

impl<T> Sender<T> {
    /// Puts a value in if there is room.
    ///
    /// # Errors
    /// Gives the value back when the queue is full or its receiver is gone.
    pub fn try_send(&self, value: T) -> Result<(), SendError<T>> {
        self.0.try_send(value).map_err(SendError::from)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The receiving side of [`channel`].
#[derive(Debug)]
pub struct Receiver<T>(async_channel::Receiver<T>);

impl<T> Receiver<T> {
    /// The next value; `None` when there is none and all senders are gone.
    pub async fn recv(&mut self) -> Option<T> {
        self.0.recv().await.ok()
    }
}

/// The sending side of [`unbounded_channel`].
#[derive(Debug)]
pub struct UnboundedSender<T>(async_channel::Sender<T>);

impl<T> UnboundedSender<T> {
    /// Puts a value in.
    ///
    /// # Errors
    /// Gives the value back when the receiver is gone.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.0.try_send(value).map_err(SendError::from)
    }
}

impl<T> Clone for UnboundedSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The receiving side of [`unbounded_channel`].
#[derive(Debug)]
pub struct UnboundedReceiver<T>(async_channel::Receiver<T>);

impl<T> UnboundedReceiver<T> {
    /// The next value; `None` when there is none and all senders are gone.
    pub async fn recv(&mut self) -> Option<T> {
        self.0.recv().await.ok()
    }
}

/// A value that could not be put into a queue.
pub struct SendError<T>(pub T);

impl<T> From<Refused<T>> for SendError<T> {
    fn from(refused: Refused<T>) -> Self {
        Self(refused.into_inner())
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendError")
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the channel is closed or full")
    }
}

impl<T> std::error::Error for SendError<T> {}
