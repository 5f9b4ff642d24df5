//! This node's session with the leader: it looks for the leader, and hears what it is to run.
//!
//! While this node's own manager leads, there is none: its worker is told directly.

use std::sync::Arc;
use std::time::Duration;

use async_channel::Receiver;
use async_io::Timer;
use smol::future::or;

use super::peer::{self, CallError};
use super::{Book, Heard, Shared};
use crate::base::chain;
use crate::base::id::NodeId;
use crate::base::time::Time;
use crate::host::peers::{Connection, ConnectionError, DialError, Outbox};
use crate::logic::manager::wire::ASSIGNMENTS_BYTES_MAX;
use crate::model::peer::{Call, ManagerAddress, Message, Present, Refusal};

/// Between two tries to find the leader.
const RETRY: Duration = Duration::from_millis(300);

/// The wait after a session that ended in order: there is a new one to be had.
const RETRY_SOON: Duration = Duration::from_millis(20);

/// The wait after the leader said that this node has no session to expect.
const RETRY_REFUSED: Duration = Duration::from_secs(10);

/// Managers that one may be sent on to before it waits.
const HOPS_MAX: usize = 4;

/// Finds the leader and stays in touch with it, until the thread ends.
pub(super) async fn keep(shared: Arc<Shared>, changes: Receiver<()>) {
    let mut turn = 0;
    loop {
        let book = shared.book().clone();
        if book.parting || book.leads || book.managers.is_empty() {
            if changes.recv().await.is_err() {
                return;
            }
            continue;
        }
        let mut wait = RETRY;
        if let Some((leader, connection)) = find(&shared, &book, &mut turn).await {
            let number = shared.number();
            let (outbox, drain) = Outbox::new();
            let present = Present {
                description: shared.description.clone(),
                advertise: book.advertise.clone(),
            };
            if outbox.push(&Message::Present(present)) {
                shared.tell(Heard::Opened { number, outbox }).await;
                let (ended, end) = async_channel::bounded(1);
                let mut ears = Ears::new(&shared, number, ended);
                let carried = connection.carry(&drain, |message| ears.hear(message));
                match or(carried, until_stale(&shared, leader, book.renewals, &changes, &end)).await {
                    Ok(()) => {
                        log::info!("the session with the leader is over");
                        wait = RETRY_SOON;
                    }
                    Err(ConnectionError::Refused(refusal)) => {
                        log::warn!("the leader refuses this node's session: {refusal}");
                        wait = RETRY_REFUSED;
                    }
                    Err(err) => {
                        log::info!("the session with the leader is over: {}", chain::text(&err));
                    }
                }
                shared.tell(Heard::Lost { number }).await;
            }
        }
        or(
            async {
                Timer::after(wait).await;
            },
            async {
                // Another leader is known: it is called at once.
                while changes.recv().await.is_ok() {
                    let now = shared.book();
                    if now.leads || now.leader != book.leader || now.hints != book.hints {
                        return;
                    }
                }
            },
        )
        .await;
    }
}

/// The leader, by its own manager's word, or by any manager's.
async fn find(shared: &Shared, book: &Book, turn: &mut usize) -> Option<(NodeId, Connection)> {
    let any = || {
        let (node, address) = book.managers.iter().nth(*turn % book.managers.len().max(1))?;
        Some(ManagerAddress { node: *node, address: address.clone() })
    };
    // Who says that it leads is asked every other time: it may lie, or not be reached.
    let said = book.hints.leader.filter(|_| turn.is_multiple_of(2));
    let said = said.and_then(|node| {
        Some(ManagerAddress { node, address: book.managers.get(&node)?.clone() })
    });
    let mut next = book.leader().or(said).or_else(any);
    *turn = turn.wrapping_add(1);
    for _hop in 0..HOPS_MAX {
        let manager = next.take()?;
        match peer::dial(shared, &manager, Call::Session).await {
            Ok(connection) => {
                log::info!("a session with the leader, node {}", manager.node);
                return Some((manager.node, connection));
            }
            Err(CallError::Dial(DialError::Refused {
                refusal: Refusal::NotLeader { leader },
                ..
            })) => next = leader.filter(|it| it.node != manager.node && it.node != shared.node),
            Err(CallError::Dial(DialError::Refused { refusal: Refusal::Expired, .. })) => {
                log::warn!("this node's certificate has expired; it is renewed");
                super::ask::renew_now(shared).await;
            }
            Err(err) => log::debug!("node {}: {}", manager.node, chain::text(&err)),
        }
    }
    None
}

/// Ends the session when another one is to be begun.
async fn until_stale(
    shared: &Shared,
    with: NodeId,
    renewals: u64,
    changes: &Receiver<()>,
    end: &Receiver<()>,
) -> Result<(), ConnectionError> {
    let stale = async {
        while changes.recv().await.is_ok() {
            let book = shared.book();
            let other = book.is_manager && book.leader.is_some_and(|leader| leader != with);
            if book.leads || book.renewals != renewals || other {
                return;
            }
        }
    };
    let overrun = async {
        if end.recv().await.is_ok() {
            log::warn!("the daemon is too busy for its session; it is begun anew");
        }
    };
    or(stale, overrun).await;
    Ok(())
}

/// What is heard in a session.
struct Ears<'a> {
    shared: &'a Shared,
    number: u64,
    /// The last ping, and when its answer was sent first.
    ping: Option<(u64, Time)>,
    /// Beginning of assignments.
    parts: Vec<u8>,
    /// Says that the session cannot go on.
    ended: async_channel::Sender<()>,
}

impl<'a> Ears<'a> {
    const fn new(shared: &'a Shared, number: u64, ended: async_channel::Sender<()>) -> Self {
        Self { shared, number, ping: None, parts: Vec::new(), ended }
    }

    fn hear(&mut self, message: Message) {
        let number = self.number;
        let heard = match message {
            Message::Ping(ping) => {
                let now = self.shared.clock.mono();
                let before = self.ping.filter(|(last, _)| *last < ping);
                if self.ping.is_none_or(|(last, _)| last < ping) {
                    self.ping = Some((ping, now));
                }
                // A higher number: the answer to the one before was heard.
                before.map(|(_, at)| Heard::Leader { number, at })
            }
            Message::Part(bytes) => {
                if self.parts.len() + bytes.len() > ASSIGNMENTS_BYTES_MAX {
                    return self.end();
                }
                self.parts.extend_from_slice(&bytes);
                None
            }
            Message::Assign(bytes) => {
                let mut whole = std::mem::take(&mut self.parts);
                whole.extend_from_slice(&bytes);
                Some(Heard::Assigned { number, bytes: whole })
            }
            Message::Told(told) => Some(Heard::Told { number, told }),
            // The call does not carry these.
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::Refused(_)
            | Message::Join(_)
            | Message::Joined(_)
            | Message::Renew(_)
            | Message::Renewed(_)
            | Message::Raft(_)
            | Message::Present(_)
            | Message::Report(_)
            | Message::Ending
            | Message::GoingDown
            | Message::Pong(_)
            | Message::Forward(_)
            | Message::Forwarded(_)
            | Message::AskLogs(_)
            | Message::Logs(_)
            | Message::LogsOver => None,
        };
        if heard.is_some_and(|heard| !self.shared.try_tell(heard)) {
            self.end();
        }
    }

    fn end(&self) {
        if self.ended.try_send(()).is_err() {
            log::trace!("the session ends already");
        }
    }
}
