//! Who is there: the real chitchat, on a thread of its own, with every datagram sealed.
//!
//! ```text
//! chitchat (crate)      who is there, values: anti-entropy, phi-accrual failure detector
//! compat/tokio          the items it calls, on smol
//! carrier               wire, compact: short messages; check: what of them chitchat may see
//! link                  salts, windows, parts: which datagrams are a member's, and new
//! seal                  ChaCha20-Poly1305 under the cluster's key
//! UDP
//! ```
//! Gossip is a hint: it decides nothing alone (DESIGN, section 6). Who does not know the key can do
//! no more than who can cut the cable; who knows it can lie in good form, but ends no process and
//! fills no memory (`check`).
//!
//! Not here: whether a node is Down, what an address or a route is. A node counts once, by its
//! newest start that is alive.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_channel::Receiver;
use async_io::Async;

use crate::base::time::Time;
use crate::host::clock::Clock;

mod carrier;
mod check;
mod compact;
mod counters;
mod generation;
pub mod link;
mod parts;
mod run;
mod seal;
mod shared;
mod window;
mod wire;

pub use counters::{Counter, Counters};
pub use seal::{KEY_BYTES, Key, Keys, Salt};
pub use shared::Nodes;
use shared::Shared;

/// Bytes of a message of chitchat's (its own limit).
pub const MESSAGE_BYTES_MAX: usize = 65_507;
/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 64;
/// Bytes of a value.
pub const VALUE_BYTES_MAX: usize = 16 << 10;
/// Keys that a node sets.
pub const KEYS_MAX: usize = 32;
/// Bytes of keys and values that a node sets.
pub const STATE_BYTES_MAX: usize = 32 << 10;

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's id: letters and digits, at most 32.
    pub node: String,
    /// The cluster's id: who has another is not spoken with.
    pub cluster: String,
    /// Where datagrams are received.
    pub listen: SocketAddr,
    /// Where others send theirs; not `0.0.0.0`.
    pub advertise: SocketAddr,
    /// Who is asked first. Others may be given later, by [`Gossip::call`].
    pub seeds: Vec<SocketAddr>,
    /// The folder of the file that counts the starts; made if it is not there.
    pub folder: PathBuf,
    /// What [`Member::heard`] is measured with.
    pub clock: Clock,
}

/// Why gossip cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be had.
    #[error("cannot listen on {address}/udp for gossip")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The others could not reach this node, or would not believe in it.
    #[error("gossip cannot start: {0}")]
    Config(&'static str),
    /// No thread or no random bytes.
    #[error("gossip cannot start")]
    System(#[source] io::Error),
}

/// Why a value is not set. What was there stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// Keys are letters, digits and `._-/:`.
    #[error("a key has 1 to {KEY_BYTES_MAX} letters, digits and ._-/:")]
    Key,
    /// The value is too long.
    #[error("a value has at most {VALUE_BYTES_MAX} bytes")]
    Value,
    /// All values together are too long, or too many.
    #[error("a node sets at most {KEYS_MAX} values of {STATE_BYTES_MAX} bytes in all")]
    Full,
}

/// A node that gossip has heard of; never the one that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub node: String,
    /// Where it says it receives datagrams. A hint: no proof of anything.
    pub address: SocketAddr,
    /// Whether the failure detector takes it for alive.
    pub alive: bool,
    /// When its heart was last seen to go on beating, whoever told it; `None` before the second
    /// beat. Finer than `alive`, which waits for several beats that did not come: a live member's
    /// is less than a second or two ago.
    pub heard: Option<Time>,
    /// What it set.
    pub values: BTreeMap<String, String>,
    /// How often it has started.
    pub generation: u64,
}

/// Gossip of one node. Dropping it stops it.
pub struct Gossip {
    shared: Arc<Shared>,
    changes: Receiver<()>,
    local: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Gossip {
    /// Counts a start, and takes part from now on.
    ///
    /// # Errors
    /// When the address cannot be had, or the configuration is of no use.
    pub fn start(config: Config, keys: Keys) -> Result<Self, StartError> {
        if !check::is_node(&config.node) {
            return Err(StartError::Config("the node's id is not of letters and digits"));
        }
        if !check::is_reachable(config.advertise) {
            return Err(StartError::Config("the advertised address is not one of a host"));
        }
        let listen = |source| StartError::Listen { address: config.listen, source };
        let socket = Async::<UdpSocket>::bind(config.listen).map_err(listen)?;
        let local = socket.get_ref().local_addr().map_err(listen)?;
        let (shared, nudged, changes) = Shared::new(config, keys);
        let shared = Arc::new(shared);
        let thread = run::spawn(Arc::clone(&shared), socket, nudged);
        let thread = thread.map_err(StartError::System)?;
        Ok(Self { shared, changes, local, thread: Some(thread) })
    }

    /// The address that it listens on.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Sets a value, which all members then see.
    ///
    /// # Errors
    /// When a limit is met; nothing is changed then.
    pub fn set(&self, key: &str, value: &str) -> Result<(), SetError> {
        if !check::is_key(key) {
            return Err(SetError::Key);
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(SetError::Value);
        }
        self.shared.change_values(|values| {
            if values.get(key).is_some_and(|before| before == value) {
                return Ok(false);
            }
            let others = values.iter().filter(|(other, _)| *other != key);
            let (count, bytes) =
                others.fold((1, key.len() + value.len()), |(count, bytes), (key, value)| {
                    (count + 1, bytes + key.len() + value.len())
                });
            if count > KEYS_MAX || bytes > STATE_BYTES_MAX {
                return Err(SetError::Full);
            }
            values.insert(key.to_owned(), value.to_owned());
            Ok(true)
        })
    }

    /// Takes a value away.
    pub fn remove(&self, key: &str) {
        let removed: Result<(), SetError> =
            self.shared.change_values(|values| Ok(values.remove(key).is_some()));
        debug_assert!(removed.is_ok());
    }

    /// Who is there, each node once, in the order of their ids. A node that is gone is told as not
    /// alive for half a minute, and then no more.
    #[must_use]
    pub fn members(&self) -> Arc<Vec<Member>> {
        self.shared.members()
    }

    /// Gets one message for any number of changes of what [`Gossip::members`] tells, apart from
    /// [`Member::heard`].
    #[must_use]
    pub fn changes(&self) -> Receiver<()> {
        self.changes.clone()
    }

    /// Puts other keys in use; see [`Keys`] for how to do so without a gap.
    pub fn rotate(&self, keys: Keys) {
        self.shared.set_keys(keys);
    }

    /// Says who may be spoken of. Others are neither told nor taken over any more.
    pub fn admit(&self, nodes: Nodes) {
        self.shared.set_nodes(nodes);
    }

    /// Says where nodes may be, in the place of the seeds: those that are not seen there are called
    /// now and then. This is how two halves of a cluster find each other after they had forgotten
    /// each other.
    pub fn call(&self, addresses: Vec<SocketAddr>) {
        self.shared.set_addresses(addresses);
    }

    /// What was sent, received and not taken.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Is silent from now on. The others find out by themselves: gossip knows no farewell.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell, and what it panicked with is in the log.
            drop(thread.join());
        }
    }
}

impl Drop for Gossip {
    fn drop(&mut self) {
        self.end();
    }
}

impl std::fmt::Debug for Gossip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gossip").field("config", &self.shared.config).finish_non_exhaustive()
    }
}
