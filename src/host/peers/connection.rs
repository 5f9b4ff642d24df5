//! An open connection: whole messages both ways, bounded and with an end to every wait.
//!
//! [`Receiver::receive`] may be dropped while it waits and called again: nothing is lost. A
//! [`Sender`] that was dropped in the middle of a message has broken the connection.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use async_io::Async;
use futures_rustls::TlsStream;
use rustls::HandshakeKind;
use smol::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::{SILENCE_MAX, within};
use crate::base::id::NodeId;
use crate::base::time::Wall;
use crate::host::pki::Trust;
use crate::model::peer::{Call, End, Message, Refusal, limit};
use crate::model::wire::{self, HEADER_BYTES, Kind, WireError};

/// TLS over a socket of the loop.
pub(super) type Stream = TlsStream<Async<TcpStream>>;

/// Bytes that are asked for at once.
const CHUNK_BYTES: usize = 8 << 10;

/// A buffer that grew beyond this is given back after its message.
const BUFFER_BYTES_KEPT: usize = 64 << 10;

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The other end closed it.
    #[error("the other node closed the connection")]
    Closed,
    /// Nothing came, or nothing was taken, for this long.
    #[error("the other node was silent for {} s", .0.as_secs())]
    Silent(Duration),
    /// The network or TLS failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// A message that is too long, or none.
    #[error("the message cannot be used")]
    Wire(#[from] WireError),
    /// A message that does not belong to the call.
    #[error("a message of kind {} does not belong to this call", .0.0)]
    Unexpected(Kind),
    /// The other end refused the call, or this one does.
    #[error(transparent)]
    Refused(Refusal),
}

/// Both halves of a connection.
#[derive(Debug)]
pub struct Connection {
    /// What is said.
    pub sender: Sender,
    /// What is heard.
    pub receiver: Receiver,
}

/// Says messages.
pub struct Sender {
    half: WriteHalf<Stream>,
    queued: Vec<u8>,
}

/// Hears messages.
pub struct Receiver {
    half: ReadHalf<Stream>,
    /// What has come and was not taken is in its first `filled` bytes; a read that is dropped
    /// leaves something behind them that does not count.
    buffer: Vec<u8>,
    filled: usize,
    expects: Expects,
    watch: Option<Watch>,
    resumed: bool,
}

/// Whose words are heard: they are, as long as the node may make the call.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) trust: Trust,
    pub(super) node: NodeId,
    /// The first moment of its certificate.
    pub(super) issued: Wall,
}

impl Watch {
    /// Why nothing more is heard from it in this call.
    fn refuse(&self, expects: Expects) -> Option<Refusal> {
        if self.trust.is_removed(self.node) {
            return Some(Refusal::Removed);
        }
        let managers_only =
            matches!(expects, Expects::Call(Call::Raft | Call::Forward | Call::Logs, End::Caller));
        let demoted = managers_only && self.trust.is_demoted(self.node, self.issued);
        demoted.then_some(Refusal::ManagerNeeded)
    }
}

/// What may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    /// The greeting of that end.
    Greeting(End),
    /// What that end says in a call.
    Call(Call, End),
}

impl Expects {
    fn allows(self, kind: Kind) -> bool {
        match self {
            Self::Greeting(End::Caller) => kind == Kind::PEER_HELLO,
            Self::Greeting(End::Answerer) => {
                matches!(kind, Kind::PEER_WELCOME | Kind::PEER_REFUSED)
            }
            Self::Call(call, from) => call.carries(kind, from),
        }
    }
}

impl Expects {
    /// One small message is expected, perhaps of somebody who has proved nothing: the time is for
    /// all of it, so that nobody holds a seat byte by byte.
    const fn is_brief(self) -> bool {
        match self {
            Self::Greeting(_) | Self::Call(Call::Join | Call::Renew, _) => true,
            Self::Call(Call::Raft | Call::Session | Call::Forward | Call::Logs, _) => false,
        }
    }
}

impl Connection {
    /// Over TLS that is up; `other` is who is at the other end of it. `watch` names the node, if
    /// that is known: once it is removed, nothing more is heard from it, and once it is no manager,
    /// nothing of what only managers say.
    pub(super) fn new(stream: Stream, other: End, watch: Option<Watch>) -> Self {
        let resumed = match stream.get_ref().1.handshake_kind() {
            Some(HandshakeKind::Resumed) => true,
            Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) | None => false,
        };
        let (read, write) = smol::io::split(stream);
        let expects = Expects::Greeting(other);
        Self {
            sender: Sender { half: write, queued: Vec::new() },
            receiver: Receiver { half: read, buffer: Vec::new(), filled: 0, expects, watch, resumed },
        }
    }

    /// TLS took up an earlier session, so that no signature was made.
    #[must_use]
    pub const fn is_resumed(&self) -> bool {
        self.receiver.resumed
    }

    /// The call that has begun, and who is at the other end.
    pub(super) const fn call(&self) -> Option<(Call, End)> {
        match self.receiver.expects {
            Expects::Greeting(_) => None,
            Expects::Call(call, other) => Some((call, other)),
        }
    }

    /// The greeting is over.
    pub(super) fn begin(&mut self, call: Call) {
        let (Expects::Greeting(from) | Expects::Call(_, from)) = self.receiver.expects;
        self.receiver.expects = Expects::Call(call, from);
    }

    /// Says one message and hears the next, within `limit` in all.
    ///
    /// # Errors
    /// When the connection breaks, or the other end refuses.
    pub async fn ask(
        &mut self,
        question: &Message,
        limit: Duration,
    ) -> Result<Message, ConnectionError> {
        let asked = async {
            let sent = self.sender.send(question).await;
            let heard = self.receiver.receive_within(limit).await;
            match (sent, heard) {
                (Ok(()), heard) => heard,
                // The other end may have said why before it closed.
                (Err(_), Err(why @ (ConnectionError::Refused(_) | ConnectionError::Io(_)))) => {
                    Err(why)
                }
                (Err(broken), _) => Err(broken),
            }
        };
        within(limit, asked).await.unwrap_or(Err(ConnectionError::Silent(limit)))
    }
}

impl Sender {
    /// Says a message.
    ///
    /// # Errors
    /// When it is too long (the connection is still good then), or the connection breaks.
    pub async fn send(&mut self, message: &Message) -> Result<(), ConnectionError> {
        self.queue(message)?;
        self.flush().await
    }

    /// Puts a message behind those that are to be sent.
    ///
    /// # Errors
    /// When it is too long; then it is not sent.
    pub fn queue(&mut self, message: &Message) -> Result<(), WireError> {
        message.encode_into(&mut self.queued)
    }

    /// Puts a frame of an outbox behind those that are to be sent.
    pub(super) fn queue_frame(&mut self, frame: &[u8]) {
        self.queued.extend_from_slice(frame);
    }

    /// Bytes that are queued.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued.len()
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn flush(&mut self) -> Result<(), ConnectionError> {
        // Each piece has the whole time: a slow link is not a silent one.
        for piece in self.queued.chunks(BUFFER_BYTES_KEPT) {
            let sent = async {
                self.half.write_all(piece).await?;
                self.half.flush().await
            };
            let sent = within(SILENCE_MAX, sent).await;
            sent.ok_or(ConnectionError::Silent(SILENCE_MAX))?.map_err(broken)?;
        }
        self.queued.clear();
        self.queued.shrink_to(BUFFER_BYTES_KEPT);
        Ok(())
    }

    /// Says that nothing follows, so that the other end has heard all that was said.
    pub async fn close(mut self) {
        let closed = within(SILENCE_MAX, self.half.close()).await;
        if let Some(Err(err)) = closed {
            log::trace!("cannot close a connection in order: {err}");
        }
    }
}

impl Receiver {
    /// Whether a ping that comes here wants an answer: only sessions measure.
    pub(super) fn answers_pings(&self) -> bool {
        self.expects == Expects::Call(Call::Session, End::Answerer)
    }

    /// The next message, within [`SILENCE_MAX`].
    ///
    /// # Errors
    /// When there is none in time, the connection breaks, or the other end refuses.
    pub async fn receive(&mut self) -> Result<Message, ConnectionError> {
        self.receive_within(SILENCE_MAX).await
    }

    /// The next message. Where a member may say much, each part of it has the whole time.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub async fn receive_within(&mut self, limit: Duration) -> Result<Message, ConnectionError> {
        let silent = || ConnectionError::Silent(limit);
        if self.expects.is_brief() {
            return within(limit, self.whole(Duration::MAX)).await.ok_or_else(silent)?;
        }
        self.whole(limit).await
    }

    async fn whole(&mut self, part_max: Duration) -> Result<Message, ConnectionError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            let read = within(part_max, self.read()).await;
            read.ok_or(ConnectionError::Silent(part_max))??;
        }
    }

    /// Takes the first message out of the buffer, if it is whole.
    fn take(&mut self) -> Result<Option<Message>, ConnectionError> {
        let have = self.buffer.get(..self.filled).unwrap_or_default();
        let Some((head, _)) = have.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let kind = Kind(u16::from_le_bytes([head[0], head[1]]));
        if !self.expects.allows(kind) {
            return Err(ConnectionError::Unexpected(kind));
        }
        // Before anything of its length is kept.
        let (message, length) = match wire::split(have, limit(kind)) {
            Ok((frame, rest)) => (Message::decode(&frame)?, have.len() - rest.len()),
            Err(WireError::Short { .. }) => return Ok(None),
            Err(err) => return Err(err.into()),
        };
        self.buffer.drain(..length);
        self.filled -= length;
        if self.filled == 0 {
            self.buffer.clear();
            self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        }
        if let Some(refusal) = self.watch.as_ref().and_then(|it| it.refuse(self.expects)) {
            return Err(ConnectionError::Refused(refusal));
        }
        match message {
            Message::Refused(refusal) => Err(ConnectionError::Refused(refusal)),
            message => Ok(Some(message)),
        }
    }

    async fn read(&mut self) -> Result<(), ConnectionError> {
        self.buffer.resize(self.filled + CHUNK_BYTES, 0);
        match self.half.read(&mut self.buffer[self.filled..]).await {
            Ok(0) => Err(ConnectionError::Closed),
            Ok(count) => {
                self.filled += count;
                Ok(())
            }
            Err(err) => Err(broken(err)),
        }
    }
}

fn broken(err: io::Error) -> ConnectionError {
    match err.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => ConnectionError::Closed,
        _ => ConnectionError::Io(err),
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("queued", &self.queued.len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("expects", &self.expects).finish_non_exhaustive()
    }
}
