//! Commands of a follower's users, passed on to the leader.
//!
//! A command is answered or fails within its deadline; nothing says whether a failed one was
//! carried out, so commands carry a request id and are repeated with the same one.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::connection::{Connection, ConnectionError};
use super::dial::{DialError, Expected, broken};
use super::endpoint::Endpoint;
use super::{FORWARD_IDLE_MAX, within};
use crate::base::id::NodeId;
use crate::model::peer::{Call, Message};

/// Connections to the leader that are kept without a command; further ones are closed.
const IDLE_MAX: usize = 4;

/// The longest that one is kept: the leader keeps it for longer.
const IDLE_FOR: Duration = Duration::from_secs(FORWARD_IDLE_MAX.as_secs() / 2);

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The leader cannot be called.
    #[error("cannot reach the leader")]
    Dial(#[from] DialError),
    /// The deadline has passed.
    #[error("the leader did not answer in time")]
    Late,
}

/// Passes commands on, each over a connection that no other one uses at the time.
#[derive(Debug)]
pub struct Forwarder {
    endpoint: Endpoint,
    idle: Mutex<VecDeque<Idle>>,
}

#[derive(Debug)]
struct Idle {
    leader: NodeId,
    since: Instant,
    connection: Connection,
}

impl Forwarder {
    /// Without a connection.
    #[must_use]
    pub const fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, idle: Mutex::new(VecDeque::new()) }
    }

    /// Passes a command on, in the store's codec, and gives the leader's answer.
    ///
    /// # Errors
    /// When there is none within `deadline`. The command may have been carried out.
    pub async fn call(
        &self,
        leader: NodeId,
        address: SocketAddr,
        command: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, ForwardError> {
        let command = Message::Forward(command);
        let work = async {
            // One that was kept may be closed at the other end by now.
            if let Some(kept) = self.take(leader) {
                match self.ask(leader, kept, &command).await {
                    Ok(answer) => return Ok(answer),
                    Err(ConnectionError::Refused(refusal)) => {
                        return Err(DialError::Refused { address, refusal }.into());
                    }
                    Err(err) => log::debug!("a kept connection to the leader failed: {err}"),
                }
            }
            let dial = self.endpoint.dial(address, Expected::Node(leader), Call::Forward);
            let dialled = Box::pin(dial).await?;
            let asked = self.ask(leader, dialled.connection, &command).await;
            asked.map_err(|err| broken(address, err).into())
        };
        within(deadline, work).await.unwrap_or(Err(ForwardError::Late))
    }

    async fn ask(
        &self,
        leader: NodeId,
        mut connection: Connection,
        command: &Message,
    ) -> Result<Vec<u8>, ConnectionError> {
        // The deadline is the whole call's: a late answer is no reason to dial anew.
        match connection.ask(command, Duration::MAX).await? {
            Message::Forwarded(answer) => {
                self.keep(leader, connection);
                Ok(answer)
            }
            other => Err(ConnectionError::Unexpected(other.kind())),
        }
    }

    /// The one that was used last; those of another leader, or too old, are closed.
    fn take(&self, leader: NodeId) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|it| it.leader == leader && it.since.elapsed() < IDLE_FOR);
        idle.pop_back().map(|it| it.connection)
    }

    fn keep(&self, leader: NodeId, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= IDLE_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle { leader, since: Instant::now(), connection });
    }
}
