//! Carries a call that stays open, both ways, until it ends: what an outbox says, what the other end
//! says, and the pings that tell each end of the other.
//!
//! | call, end | pings | is silent when |
//! |---|---|---|
//! | `Raft`, caller | each [`RAFT_PING`] | never: the other end says nothing, the kernel tells its end |
//! | `Raft`, answerer | – | nothing for [`SILENCE_MAX`] |
//! | `Session`, answerer (the leader) | each [`SESSION_PING`] | no pong for [`SESSION_SILENCE`] |
//! | `Session`, caller | answers each | no ping for [`SESSION_SILENCE`] |
//!
//! A ping has the number of the last one until that is answered. So a higher number tells the
//! caller of a session that its answer to the last one was heard: leases count from that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_io::Timer;
use smol::future::or;
use smol::stream::StreamExt;

use super::SILENCE_MAX;
use super::connection::{Connection, ConnectionError, Sender};
use super::outbox::Drain;
use crate::model::peer::{Call, End, Message};

/// How often a leader pings a node in its session: three without an answer are evidence that it is
/// down.
pub const SESSION_PING: Duration = Duration::from_millis(400);

/// A session in which nothing is heard for this long is over.
pub const SESSION_SILENCE: Duration = Duration::from_millis(1_200);

/// How often a manager that has nothing to say to another tells that it is there.
pub const RAFT_PING: Duration = Duration::from_secs(2);

/// Frames are put together into one write up to about this size.
const WRITE_BYTES: usize = 64 << 10;

/// Pings that wait for their answer to be written; the answer to the newest tells as much.
const PONGS_MAX: usize = 4;

/// Something to be written.
enum Next {
    Frame(Vec<u8>),
    Ping,
    Pong(u64),
    End,
}

impl Connection {
    /// Carries the call until it breaks, or the outbox is gone. `hear` is told every message, pings
    /// and pongs included: each says that the other end is there. Pings are sent and answered here.
    ///
    /// # Errors
    /// Why the connection is of no use any more.
    pub async fn carry(
        self,
        drain: &Drain,
        mut hear: impl FnMut(Message),
    ) -> Result<(), ConnectionError> {
        let (ping, silence) = match self.call() {
            Some((Call::Raft, End::Answerer)) => (Some(RAFT_PING), Duration::MAX),
            Some((Call::Session, End::Caller)) => (Some(SESSION_PING), SESSION_SILENCE),
            Some((Call::Session, End::Answerer)) => (None, SESSION_SILENCE),
            Some((Call::Raft | Call::Join | Call::Renew | Call::Forward | Call::Logs, _)) | None => {
                (None, SILENCE_MAX)
            }
        };
        let measures = matches!(self.call(), Some((Call::Session, _)));
        let Self { mut sender, mut receiver } = self;
        let answered = AtomicU64::new(0);
        let (pongs, asked) = async_channel::bounded(PONGS_MAX);
        let hearing = async {
            loop {
                let message = receiver.receive_within(silence).await?;
                if let Message::Ping(number) = message
                    && receiver.answers_pings()
                    && pongs.try_send(number).is_err()
                {
                    log::trace!("pings come faster than their answers go");
                }
                if let Message::Pong(number) = message {
                    answered.fetch_max(number, Ordering::Relaxed);
                }
                hear(message);
            }
        };
        let answered = measures.then_some(&answered);
        or(say(&mut sender, drain, ping, answered, &asked), hearing).await?;
        sender.close().await;
        Ok(())
    }
}

async fn say(
    sender: &mut Sender,
    drain: &Drain,
    ping: Option<Duration>,
    answered: Option<&AtomicU64>,
    asked: &async_channel::Receiver<u64>,
) -> Result<(), ConnectionError> {
    let mut timer = ping.map_or_else(Timer::never, Timer::interval);
    let mut pings = 0;
    loop {
        let pong = async {
            match asked.recv().await {
                Ok(number) => Next::Pong(number),
                Err(async_channel::RecvError) => Next::End,
            }
        };
        let due = async {
            timer.next().await;
            Next::Ping
        };
        let frame = async { drain.take().await.map_or(Next::End, Next::Frame) };
        // Signs of life first: a full queue must not look like a dead node.
        match or(or(pong, due), frame).await {
            Next::Pong(number) => sender.queue(&Message::Pong(number))?,
            Next::Ping => {
                if answered.is_none_or(|answered| answered.load(Ordering::Relaxed) >= pings) {
                    pings += 1;
                }
                sender.queue(&Message::Ping(pings))?;
            }
            Next::Frame(frame) => {
                sender.queue_frame(&frame);
                while sender.queued() < WRITE_BYTES {
                    let Some(frame) = drain.try_take() else { break };
                    sender.queue_frame(&frame);
                }
            }
            Next::End => return Ok(()),
        }
        sender.flush().await?;
    }
}
