//! Routing netlink over one blocking socket: links, addresses, routes, neighbours.
//!
//! A socket belongs to the network namespace of the thread that opened it and stays there when the
//! thread moves on. It is not a cache: every question goes to the kernel. One socket serves one
//! thread at a time; opening one costs a few microseconds, so nobody shares.

mod address_events;
mod link;
mod nft_events;
mod route;

use std::io;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket as RawSocket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

pub use address_events::AddressEvents;
pub use link::{Link, Mac, VethPair};
pub use nft_events::NftEvents;
pub use route::{Route, RouteKind};

/// The kernel answers a request at once; a socket that stays silent this long is broken.
const ANSWER_SECS_MAX: i64 = 10;

/// How often a dump is begun again because the table changed while it was read.
const DUMP_TRIES_MAX: usize = 16;

/// `NLM_F_DUMP_INTR`: the dump is not of one moment.
const DUMP_INTERRUPTED: u16 = 16;

/// Length of the request's header that the kernel puts before its explanation.
const CAPPED_HEADER_LEN: usize = 16;

/// `NLMSGERR_ATTR_MSG`: the explanation as text.
const EXPLANATION_ATTR: u16 = 1;

/// The upper bits of an attribute's kind are flags (`NLA_TYPE_MASK`).
const ATTR_KIND_MASK: u16 = 0x3fff;

/// What may go wrong between us and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The request did not leave.
    #[error("cannot ask the kernel to {doing}")]
    Send {
        /// What was asked.
        doing: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer did not come.
    #[error("no answer from the kernel to: {doing}")]
    Receive {
        /// What was asked.
        doing: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer is not netlink.
    #[error("cannot read the kernel's answer to: {doing} ({detail})")]
    Decode {
        /// What was asked.
        doing: String,
        /// Where it is wrong.
        detail: String,
    },
    /// The kernel said no.
    #[error("cannot {doing}{}", explain(.explanation))]
    Refused {
        /// What was asked.
        doing: String,
        /// The kernel's own words, where it has some.
        explanation: Option<String>,
        /// The error number.
        #[source]
        source: io::Error,
    },
}

impl NetlinkError {
    /// The error number of a refusal.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::Open(_) | Self::Send { .. } | Self::Receive { .. } | Self::Decode { .. } => None,
        }
    }

    /// Whether what was named is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL)
        )
    }

    /// Whether it is there already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }
}

fn explain(text: &Option<String>) -> String {
    text.as_ref().map(|text| format!(" (the kernel says: {text})")).unwrap_or_default()
}

type Result<T> = std::result::Result<T, NetlinkError>;

/// A blocking routing netlink socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    raw: RawSocket,
    sequence: u32,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self> {
        let mut raw = RawSocket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        raw.bind_auto().map_err(NetlinkError::Open)?;
        let limit = TimeVal::new(ANSWER_SECS_MAX, 0);
        setsockopt(&raw, sockopt::ReceiveTimeout, &limit).map_err(|e| NetlinkError::Open(e.into()))?;
        // Niceties of newer kernels: filtered dumps and errors with an explanation.
        for (what, set) in [
            ("strict checks", raw.set_netlink_get_strict_chk(true)),
            ("short errors", raw.set_cap_ack(true)),
            ("explained errors", raw.set_ext_ack(true)),
        ] {
            if let Err(error) = set {
                log::debug!("netlink without {what}: {error}");
            }
        }
        Ok(Self { raw, sequence: 0 })
    }

    /// Asks for a change and waits until the kernel has made it.
    fn change(&mut self, doing: &str, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.send(doing, message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.answers(doing, false).map(|_| ())
    }

    /// Asks for one object.
    fn question(
        &mut self,
        doing: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        self.send(doing, message, NLM_F_REQUEST | NLM_F_ACK)?;
        self.answers(doing, false).map(|(found, _)| found)
    }

    /// Asks for a whole table, again when it changed meanwhile.
    fn dump(
        &mut self,
        doing: &str,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        let mut found = Vec::new();
        for _ in 0..DUMP_TRIES_MAX {
            self.send(doing, message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            let interrupted;
            (found, interrupted) = self.answers(doing, true)?;
            if !interrupted {
                break;
            }
        }
        Ok(found)
    }

    fn send(&mut self, doing: &str, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let kernel = SocketAddr::new(0, 0);
        self.raw
            .send_to(&bytes, &kernel, 0)
            .map(|_| ())
            .map_err(|source| NetlinkError::Send { doing: doing.to_owned(), source })
    }

    /// Reads until the answer is complete; says whether the kernel marked it as interrupted.
    fn answers(&self, doing: &str, dump: bool) -> Result<(Vec<RouteNetlinkMessage>, bool)> {
        let mut found = Vec::new();
        let mut interrupted = false;
        loop {
            let (bytes, _) = self
                .raw
                .recv_from_full()
                .map_err(|source| NetlinkError::Receive { doing: doing.to_owned(), source })?;
            for chunk in messages(&bytes) {
                let parsed = NetlinkMessage::<RouteNetlinkMessage>::deserialize(chunk);
                let message = match parsed {
                    Ok(message) => message,
                    // One foreign link of a kind we cannot read must not hide the others.
                    Err(error) if dump => {
                        log::debug!("skipped an answer to {doing}: {error}");
                        continue;
                    }
                    Err(error) => {
                        let (doing, detail) = (doing.to_owned(), error.to_string());
                        return Err(NetlinkError::Decode { doing, detail });
                    }
                };
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= dump && message.header.flags & DUMP_INTERRUPTED != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Done(_) => return Ok((found, interrupted)),
                    NetlinkPayload::Error(error) if error.code.is_none() => {
                        return Ok((found, interrupted));
                    }
                    NetlinkPayload::Error(error) => return Err(refused(doing, &error)),
                    _ => {}
                }
            }
        }
    }
}

/// Splits a datagram into its messages; what is cut short is left out.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let head = bytes.first_chunk::<4>()?;
        let len = usize::try_from(u32::from_ne_bytes(*head)).unwrap_or(0);
        if len < CAPPED_HEADER_LEN || len > bytes.len() {
            return None;
        }
        let message = &bytes[..len];
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
        Some(message)
    })
}

fn refused(doing: &str, error: &ErrorMessage) -> NetlinkError {
    NetlinkError::Refused {
        doing: doing.to_owned(),
        explanation: explanation(&error.header),
        source: error.to_io(),
    }
}

/// The kernel's words behind the header of the refused request.
fn explanation(tail: &[u8]) -> Option<String> {
    let (_, value) = attributes(tail.get(CAPPED_HEADER_LEN..)?)
        .find(|(kind, _)| *kind == EXPLANATION_ATTR)?;
    let text = value.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Kind and value of each attribute; ends at the first that is cut short.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = bytes.first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & ATTR_KIND_MASK;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_datagram_ends_the_iteration() {
        let mut bytes = vec![0u8; 16];
        bytes[..4].copy_from_slice(&16u32.to_ne_bytes());
        let whole = bytes.clone();
        bytes.extend_from_slice(&20u32.to_ne_bytes());
        assert_eq!(messages(&bytes).collect::<Vec<_>>(), [&whole[..]]);
        assert_eq!(messages(&[1, 2]).count(), 0);
        assert_eq!(messages(&[0; 64]).count(), 0);
    }

    #[test]
    fn the_kernels_words_are_found_and_rubbish_is_not() {
        let mut tail = vec![0u8; CAPPED_HEADER_LEN];
        tail.extend_from_slice(&8u16.to_ne_bytes());
        tail.extend_from_slice(&2u16.to_ne_bytes());
        tail.extend_from_slice(&[0; 4]);
        tail.extend_from_slice(&9u16.to_ne_bytes());
        tail.extend_from_slice(&1u16.to_ne_bytes());
        tail.extend_from_slice(b"nope\0");
        assert_eq!(explanation(&tail).as_deref(), Some("nope"));
        for len in 0..tail.len() {
            assert_eq!(explanation(&tail[..len.min(tail.len() - 6)]), None);
        }
        assert_eq!(explanation(&[0; 40]), None);
    }
}
