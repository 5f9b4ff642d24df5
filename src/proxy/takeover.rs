//! A new proxy takes the place of a running one: no client is refused meanwhile.
//!
//! The new one asks; the old one sends its table, the lock of the exec root and its listeners'
//! sockets, and goes on accepting; the new one listens, says so, and the old one stops accepting
//! and ends with its last connection. When either dies in between, the other one carries on.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::host::seqpacket::{Channel, ControlError, Deadline};
use crate::model::control::parts::{Gather, changes};
use crate::model::control::{HANDED_MAX, Handed, Hello, Message, Reason};
use crate::model::route::{ListenKey, RouteTable};
use crate::proxy::engine::Engine;
use crate::proxy::slab::Key;

/// Proxies that drain and can still be told to end.
const PREDECESSORS_MAX: usize = 32;

/// What the old proxy hands over.
#[derive(Debug)]
pub(super) struct Inheritance {
    pub(super) channel: Channel,
    /// To those that drain already.
    pub(super) predecessors: Vec<Channel>,
    pub(super) lock: OwnedFd,
    pub(super) sockets: BTreeMap<ListenKey, OwnedFd>,
    pub(super) table: RouteTable,
    pub(super) version: u64,
}

/// Asks the proxy that listens at `path` for all it has.
pub(super) fn ask(path: &Path, build: &str, until: Deadline) -> Result<Inheritance, ControlError> {
    let unexpected = |what: &str| ControlError::Unexpected(what.to_owned());
    let channel = Channel::connect(path)?;
    channel.send(&Message::TakeOver(Hello { build: build.to_owned() }), until)?;
    let mut gather = Gather::default();
    let mut routes = None;
    let mut lock = None;
    let mut sockets = BTreeMap::new();
    let mut predecessors = Vec::new();
    loop {
        let received = channel.recv(until)?;
        match received.message {
            Message::Change(change) => {
                let empty = RouteTable::new();
                routes = gather.take(change, 0, &empty).map_err(|e| unexpected(&e.to_string()))?;
            }
            Message::Handed(handed) => {
                let mut descriptors = received.descriptors.into_iter();
                if handed.part == 0 {
                    lock = descriptors.next();
                }
                if descriptors.len() < handed.keys.len() {
                    return Err(unexpected("sockets are missing"));
                }
                sockets.extend(handed.keys.into_iter().zip(descriptors.by_ref()));
                predecessors.extend(descriptors.map(Channel::from));
                if handed.part + 1 == handed.parts {
                    break;
                }
            }
            Message::Refused(refused) => return Err(unexpected(&refused.reason.to_string())),
            other => return Err(unexpected(&format!("{other:?}"))),
        }
    }
    let (table, version) = routes.ok_or_else(|| unexpected("the routes are missing"))?;
    let lock = lock.ok_or_else(|| unexpected("the lock is missing"))?;
    Ok(Inheritance { channel, predecessors, lock, sockets, table, version })
}

impl Engine {
    /// The new proxy: begins with what the old one had.
    pub(super) fn inherit(&mut self, inheritance: Inheritance) -> Channel {
        for (key, socket) in inheritance.sockets {
            self.add_port(key, Some(socket));
        }
        self.control.lock = Some(inheritance.lock);
        self.control.predecessors = inheritance.predecessors;
        for error in self.apply(inheritance.table, inheritance.version).errors {
            log::warn!("{error}");
        }
        inheritance.channel
    }

    /// The old proxy: sends all it has, and goes on.
    pub(super) fn hand_over(&mut self, key: Key) {
        if self.draining || self.control.lock.is_none() {
            self.refuse(key, Reason::Leaving);
            return;
        }
        match self.send_all(key) {
            Ok(()) => {
                if let Some(talk) = self.control.channels.get_mut(key) {
                    talk.takes_over = true;
                }
            }
            Err(e) => {
                log::warn!("handing over: {e}");
                self.control.channels.remove(key);
            }
        }
    }

    fn send_all(&self, key: Key) -> Result<(), ControlError> {
        let Some(talk) = self.control.channels.get(key) else { return Err(ControlError::Gone) };
        let Some(lock) = &self.control.lock else { return Err(ControlError::Gone) };
        let send = |message: &Message, beside: &[BorrowedFd<'_>]| {
            match talk.channel.try_send(message, beside)? {
                true => Ok(()),
                // It is empty at this point; whoever does not read it is not a proxy.
                false => Err(ControlError::Unexpected("it does not listen".to_owned())),
            }
        };
        let delta = self.table.since(&RouteTable::new());
        for change in changes(true, 0, self.version, delta) {
            send(&Message::Change(change), &[])?;
        }
        let open: Vec<(ListenKey, BorrowedFd<'_>)> = self
            .ports
            .iter()
            .filter_map(|(_, port)| Some((port.key, port.socket.as_ref()?.as_fd())))
            .collect();
        let parts = u32::try_from(open.len().div_ceil(HANDED_MAX).max(1)).unwrap_or(u32::MAX);
        let mut chunks = open.chunks(HANDED_MAX);
        for part in 0..parts {
            let chunk = chunks.next().unwrap_or_default();
            let keys = chunk.iter().map(|(key, _)| *key).collect();
            let mut beside: Vec<BorrowedFd<'_>> = Vec::new();
            if part == 0 {
                beside.push(lock.as_fd());
            }
            beside.extend(chunk.iter().map(|(_, fd)| *fd));
            if part + 1 == parts {
                let newest = self.control.predecessors.iter().rev().take(PREDECESSORS_MAX);
                beside.extend(newest.map(AsFd::as_fd));
            }
            send(&Message::Handed(Handed { part, parts, keys }), &beside)?;
        }
        Ok(())
    }

    /// The old proxy: the new one listens.
    pub(super) fn took_over(&mut self, key: Key) {
        if !self.control.channels.get(key).is_some_and(|talk| talk.takes_over) {
            self.refuse(key, Reason::Malformed);
            return;
        }
        self.answer(key, Message::Bye);
        (self.control.listener, self.control.path, self.control.lock) = (None, None, None);
        for other in self.control.channels.keys() {
            if other != key {
                self.control.channels.remove(other);
            }
        }
        self.drain();
    }
}
