//! The nodes' calls to each other: mutual TLS 1.3 over TCP, one call for each connection.
//!
//! `model::peer` says what is said; here it is carried. Who a peer is, its certificate says: an
//! address is only where to look. What arrives is bounded by kind and by call, every wait has an
//! end, and who has proved nothing takes one of few seats. Nothing here starts a task or a thread:
//! [`Listener::accept`] and [`Incoming::greet`] are separate, so that the caller runs one task for
//! each peer and a slow one holds up nobody.
//!
//! **Invariant:** certificates are verified, and roles, removal and dates looked at, after every
//! handshake. A resumed TLS session brings its certificate along, and that one may be out by now.
//! **Invariant:** nothing but [`Message::Hello`](crate::model::peer::Message) is sent to a peer
//! before it is known who it is; a join's secret is not sent before the token's root was seen.

mod carry;
mod connection;
mod dial;
mod endpoint;
mod forward;
mod join;
mod listen;
mod outbox;
mod resolve;
mod seats;
mod tls;

use std::future::Future;
use std::time::Duration;

use async_io::Timer;

pub use self::carry::{RAFT_PING, SESSION_PING};
pub use self::connection::{Connection, ConnectionError, Receiver, Sender};
pub use self::dial::{DialError, Dialled, Expected};
pub use self::endpoint::{Clocks, Endpoint};
pub use self::forward::{ForwardError, Forwarder};
pub use self::join::{JoinRequest, Papers, join, renew};
pub use self::listen::{Accepted, GreetError, Incoming, Listener, Welcomed};
pub use self::outbox::{Drain, OUTBOX_BYTES_MAX, OUTBOX_FRAMES_MAX, Outbox};
pub use self::resolve::{RESOLVE_MAX, ResolveError, resolve};

/// The port of managers, where an address names none.
pub const PORT: u16 = 2377;

/// The longest that a TCP connection may take.
pub const DIAL_MAX: Duration = Duration::from_secs(3);

/// The longest that TLS may take; and after it the greeting.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(3);

/// The longest that an open connection may be silent, or take nothing, before it is given up.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The longest that a manager may take to answer a join or a renewal: it writes to the log first.
/// With look-up, dial, TLS and greeting this stays within the 20 s that a user waits.
pub const ANSWER_MAX: Duration = Duration::from_secs(7);

/// The longest that a connection for forwarded commands is kept by the leader without one.
pub const FORWARD_IDLE_MAX: Duration = Duration::from_secs(60);

/// What the future gives, or nothing after `limit`.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let late = async {
        Timer::after(limit).await;
        None
    };
    smol::future::or(async { Some(work.await) }, late).await
}

#[cfg(test)]
mod tests;
