//! The messages between the daemon and the proxy, and between an old proxy and a new one.
//!
//! One packet of a seqpacket socket is one message: kind (u8), version (u8), length (u32, little
//! endian), then that many bytes of postcard. The shapes are frozen: a change is a new version, and
//! `tests/data/wire/control-v1.txt` holds the bytes. A message that does not decode, in full and
//! with nothing left over, ends the connection: nothing in it is believed.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::route::{LISTENERS_MAX, ListenKey, Listener};

pub mod parts;

/// The only version there is.
pub const VERSION: u8 = 1;

/// Kind, version and length.
pub const HEAD_BYTES: usize = 6;

/// No packet is longer. One listener with all its backends fits.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;

/// Listeners' sockets handed over with one packet; the kernel takes 253.
pub const HANDED_MAX: usize = 128;

/// Characters of a build's name.
pub const BUILD_CHARS_MAX: usize = 64;

/// What is said on the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Daemon to proxy, first: who asks.
    Hello(Hello),
    /// Proxy to daemon: who answers and what it holds.
    Welcome(Welcome),
    /// Daemon to proxy, or old proxy to new: a part of a table or of a delta.
    Change(Change),
    /// Proxy to daemon: the table is in force, apart from these ports.
    Applied(Applied),
    /// Proxy to daemon: nothing was done, and why.
    Refused(Refused),
    /// Daemon to proxy: tell the counters.
    Query,
    /// Proxy to daemon: a part of the counters.
    Stats(Stats),
    /// Daemon to proxy: end.
    Shutdown(Shutdown),
    /// Proxy to daemon: it ends.
    Bye,
    /// New proxy to old: give me your sockets.
    TakeOver(Hello),
    /// Old proxy to new: these sockets travel with this packet.
    Handed(Handed),
    /// New proxy to old: I listen, stop accepting and end when your connections have.
    TookOver,
}

/// Who is on the other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Name of the build; when it differs the daemon starts a new proxy that takes over.
    pub build: String,
}

/// What a proxy is and holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Name of its build.
    pub build: String,
    /// Its process.
    pub pid: u32,
    /// Version of the table in force, 0 before the first.
    pub version: u64,
}

/// A part of a table (`full`) or of what changed since the version `base`. Takes effect as a whole
/// when the last part is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The listeners not named are gone.
    pub full: bool,
    /// The version this is a delta to; means nothing when `full`.
    pub base: u64,
    /// The version after it.
    pub version: u64,
    /// Which part this is, from 0.
    pub part: u32,
    /// How many parts there are.
    pub parts: u32,
    /// Listeners to add or to change.
    pub set: Vec<Listener>,
    /// Listeners to close.
    pub remove: Vec<ListenKey>,
}

/// A table is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Its version.
    pub version: u64,
    /// Ports that could not be opened, at most [`Applied::ERRORS_MAX`] of them.
    pub errors: Vec<PortError>,
    /// How many more there are.
    pub omitted: u32,
}

impl Applied {
    /// Ports named in one answer.
    pub const ERRORS_MAX: usize = 512;
}

/// A port that is not open although it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortError {
    /// Which.
    pub key: ListenKey,
    /// Why.
    pub fault: PortFault,
}

/// Why a port is not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortFault {
    /// Another program listens there.
    InUse,
    /// The host does not have this address.
    NoSuchAddress,
    /// The kernel forbids it.
    Forbidden,
    /// Anything else, by its error number.
    Errno(i32),
}

impl fmt::Display for PortError {
    /// The sentence a user sees.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key;
        match self.fault {
            PortFault::InUse => write!(
                f,
                "port {key} is already in use by another program; stop it or publish another port"
            ),
            PortFault::NoSuchAddress => {
                write!(f, "port {key} cannot be opened: this host does not have the address")
            }
            PortFault::Forbidden => {
                write!(f, "port {key} cannot be opened: the kernel does not permit it")
            }
            PortFault::Errno(errno) => {
                write!(f, "port {key} cannot be opened: error {errno} of the kernel")
            }
        }
    }
}

/// Nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// The version of the table in force.
    pub version: u64,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The delta is to another version than the one in force: send the whole table.
    OtherVersion,
    /// The message does not decode or a listener in it is not legal.
    Malformed,
    /// This proxy is being taken over or drains.
    Leaving,
    /// Too many control connections.
    Busy,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherVersion => "it holds another version of the routes",
            Self::Malformed => "the message is not one it understands",
            Self::Leaving => "it is being replaced",
            Self::Busy => "it has too many control connections",
        })
    }
}

/// A part of the counters; the totals are the same in each part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Which part this is, from 0.
    pub part: u32,
    /// How many parts there are.
    pub parts: u32,
    /// Of the whole process.
    pub totals: Totals,
    /// Of each listener.
    pub routes: Vec<RouteStats>,
}

/// Counters of the whole proxy since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// TCP connections that are open.
    pub flows: u64,
    /// UDP clients that are remembered.
    pub sessions: u64,
    /// Times accepting paused because a limit was reached.
    pub pauses: u64,
    /// Times a flow began to be spliced.
    pub spliced: u64,
    /// Control messages that were refused.
    pub refused: u64,
}

/// Counters of one listener since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStats {
    /// Which.
    pub key: ListenKey,
    /// Why it is not open, when it is not.
    pub fault: Option<PortFault>,
    /// Open connections or remembered UDP clients.
    pub active: u64,
    /// Connections accepted or UDP clients seen.
    pub total: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Dials that failed.
    pub dial_failures: u64,
    /// Clients reset (or datagrams dropped) because no task answered.
    pub unserved: u64,
}

/// End of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// Close the listeners and wait for the connections to end; otherwise they are cut.
    pub drain: bool,
}

/// Sockets that travel with the packet, in this order. The first packet's first descriptor is the
/// lock of the exec root and has no key; what follows the sockets of the last packet are connections
/// to proxies that drain already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    /// Which part this is, from 0.
    pub part: u32,
    /// How many parts there are.
    pub parts: u32,
    /// Of which listener each socket is.
    pub keys: Vec<ListenKey>,
}

/// Why a packet is not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// Shorter than a head.
    #[error("a control message of {0} bytes is too short")]
    Short(usize),
    /// Longer than [`PACKET_BYTES_MAX`].
    #[error("a control message of {0} bytes is too long")]
    Long(usize),
    /// A kind nobody knows.
    #[error("control message of unknown kind {0}")]
    Kind(u8),
    /// A version this build does not speak.
    #[error("control message of version {0}, this build speaks {VERSION}")]
    Version(u8),
    /// The length in the head is not the packet's.
    #[error("control message tells another length than it has")]
    Length,
    /// The bytes are not that message.
    #[error("control message of kind {0} is malformed")]
    Body(u8),
}

impl Message {
    const fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Welcome(_) => 2,
            Self::Change(_) => 3,
            Self::Applied(_) => 4,
            Self::Refused(_) => 5,
            Self::Query => 6,
            Self::Stats(_) => 7,
            Self::Shutdown(_) => 8,
            Self::Bye => 9,
            Self::TakeOver(_) => 10,
            Self::Handed(_) => 11,
            Self::TookOver => 12,
        }
    }

    /// The packet.
    ///
    /// # Errors
    /// When it would be longer than [`PACKET_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, BadMessage> {
        let packet = vec![self.kind(), VERSION, 0, 0, 0, 0];
        let mut packet = match self {
            Self::Hello(body) | Self::TakeOver(body) => postcard::to_extend(body, packet),
            Self::Welcome(body) => postcard::to_extend(body, packet),
            Self::Change(body) => postcard::to_extend(body, packet),
            Self::Applied(body) => postcard::to_extend(body, packet),
            Self::Refused(body) => postcard::to_extend(body, packet),
            Self::Stats(body) => postcard::to_extend(body, packet),
            Self::Shutdown(body) => postcard::to_extend(body, packet),
            Self::Handed(body) => postcard::to_extend(body, packet),
            Self::Query | Self::Bye | Self::TookOver => Ok(packet),
        }
        .map_err(|_bad| BadMessage::Body(self.kind()))?;
        let total = packet.len();
        let length = u32::try_from(total - HEAD_BYTES).map_err(|_over| BadMessage::Long(total))?;
        if total > PACKET_BYTES_MAX {
            return Err(BadMessage::Long(total));
        }
        packet[2..HEAD_BYTES].copy_from_slice(&length.to_le_bytes());
        Ok(packet)
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(packet: &[u8]) -> Result<Self, BadMessage> {
        if packet.len() > PACKET_BYTES_MAX {
            return Err(BadMessage::Long(packet.len()));
        }
        let Some((&[kind, version, a, b, c, d], body)) = packet.split_first_chunk::<HEAD_BYTES>()
        else {
            return Err(BadMessage::Short(packet.len()));
        };
        if version != VERSION {
            return Err(BadMessage::Version(version));
        }
        if usize::try_from(u32::from_le_bytes([a, b, c, d])) != Ok(body.len()) {
            return Err(BadMessage::Length);
        }
        let message = match kind {
            1 => Self::Hello(read(kind, body)?),
            2 => Self::Welcome(read(kind, body)?),
            3 => Self::Change(read(kind, body)?),
            4 => Self::Applied(read(kind, body)?),
            5 => Self::Refused(read(kind, body)?),
            6 => read(kind, body).map(|()| Self::Query)?,
            7 => Self::Stats(read(kind, body)?),
            8 => Self::Shutdown(read(kind, body)?),
            9 => read(kind, body).map(|()| Self::Bye)?,
            10 => Self::TakeOver(read(kind, body)?),
            11 => Self::Handed(read(kind, body)?),
            12 => read(kind, body).map(|()| Self::TookOver)?,
            other => return Err(BadMessage::Kind(other)),
        };
        if message.is_legal() { Ok(message) } else { Err(BadMessage::Body(kind)) }
    }

    /// The limits that the types do not hold.
    fn is_legal(&self) -> bool {
        match self {
            Self::Hello(Hello { build })
            | Self::TakeOver(Hello { build })
            | Self::Welcome(Welcome { build, .. }) => build.chars().count() <= BUILD_CHARS_MAX,
            Self::Change(change) => {
                change.part < change.parts
                    && change.parts as usize <= LISTENERS_MAX * 2
                    && change.set.iter().all(|listener| listener.check().is_ok())
            }
            Self::Stats(stats) => stats.part < stats.parts,
            Self::Handed(handed) => handed.part < handed.parts && handed.keys.len() <= HANDED_MAX,
            Self::Applied(applied) => applied.errors.len() <= Applied::ERRORS_MAX,
            Self::Refused(_) | Self::Query | Self::Shutdown(_) | Self::Bye | Self::TookOver => true,
        }
    }
}

/// The whole of `body`, nothing left over.
fn read<T: DeserializeOwned>(kind: u8, body: &[u8]) -> Result<T, BadMessage> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => Err(BadMessage::Body(kind)),
    }
}

#[cfg(test)]
mod tests;
