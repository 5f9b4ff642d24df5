//! The control socket of the proxy: tables in, answers and counters out.
//!
//! Whoever sends what is not a message loses its connection and changes nothing. Answers that the
//! other side does not take are kept, up to a limit, then its connection ends.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use crate::host::seqpacket::{Channel, ControlError, accept_at};
use crate::model::control::parts::{BadGather, Gather, stats};
use crate::model::control::{Message, Reason, Refused, Shutdown, Welcome};
use crate::proxy::engine::{Engine, Tag};
use crate::proxy::slab::{Key, Slab};

/// The daemon's, the one after its restart, and somebody who looks.
const CHANNELS_MAX: usize = 8;

/// Answers kept for one connection.
const OUTBOX_MAX: usize = 64;

/// Messages taken before others go on.
const MESSAGES_MAX: usize = 64;

/// All that is about the control socket.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) listener: Option<OwnedFd>,
    /// Where it listens; to be removed at the end, unless another proxy took over.
    pub(super) path: Option<PathBuf>,
    /// Holds the exec root.
    pub(super) lock: Option<OwnedFd>,
    pub(super) build: String,
    pub(super) channels: Slab<Talk>,
    /// To the proxies whose place this one took, while they drain.
    pub(super) predecessors: Vec<Channel>,
    refused: u64,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) channel: Channel,
    gather: Gather,
    outbox: VecDeque<Message>,
    /// It got the listeners' sockets.
    pub(super) takes_over: bool,
}

impl Control {
    pub(super) const fn new() -> Self {
        Self {
            listener: None,
            path: None,
            lock: None,
            build: String::new(),
            channels: Slab::new(),
            predecessors: Vec::new(),
            refused: 0,
        }
    }

    pub(super) const fn refused(&self) -> u64 {
        self.refused
    }
}

impl Engine {
    /// Takes connections.
    pub(super) fn control_accept(&mut self) {
        while let Some(listener) = &self.control.listener {
            let channel = match accept_at(listener.as_fd()) {
                Ok(Some(channel)) => channel,
                Ok(None) => return,
                Err(e) => {
                    log::warn!("control connection: {e}");
                    if matches!(e, ControlError::Stranger { .. }) {
                        continue;
                    }
                    return;
                }
            };
            if self.control.channels.len() >= CHANNELS_MAX {
                self.control.refused += 1;
                let busy = Message::Refused(Refused { reason: Reason::Busy, version: self.version });
                if let Err(e) = channel.try_send(&busy, &[]) {
                    log::debug!("control connection: {e}");
                }
                continue;
            }
            let talk = Talk {
                channel,
                gather: Gather::default(),
                outbox: VecDeque::new(),
                takes_over: false,
            };
            let key = self.control.channels.insert(talk);
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
            let event = EpollEvent::new(flags, Tag::Channel(key).into());
            if let Some(talk) = self.control.channels.get(key)
                && self.epoll.add(&talk.channel, event).is_err()
            {
                self.control.channels.remove(key);
            }
        }
    }

    /// Messages came, or answers can go.
    pub(super) fn control_event(&mut self, key: Key) {
        let mut taken = 0;
        loop {
            if !self.flush_outbox(key) {
                return;
            }
            let Some(talk) = self.control.channels.get(key) else { return };
            let received = match talk.channel.try_recv() {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(ControlError::Message(bad)) => {
                    log::warn!("control connection: {bad}");
                    self.refuse(key, Reason::Malformed);
                    self.control.channels.remove(key);
                    return;
                }
                Err(_) => {
                    self.control.channels.remove(key);
                    return;
                }
            };
            self.control_message(key, received.message);
            taken += 1;
            if taken >= MESSAGES_MAX
                && let Some(talk) = self.control.channels.get(key)
            {
                // Look again after the others: an edge-triggered event is told once.
                let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
                let mut event = EpollEvent::new(flags, Tag::Channel(key).into());
                if self.epoll.modify(&talk.channel, &mut event).is_err() {
                    self.control.channels.remove(key);
                }
                return;
            }
        }
    }

    fn control_message(&mut self, key: Key, message: Message) {
        match message {
            Message::Hello(_) => {
                let welcome = Welcome {
                    build: self.control.build.clone(),
                    pid: std::process::id(),
                    version: self.version,
                };
                self.answer(key, Message::Welcome(welcome));
            }
            Message::Change(_) if self.draining => self.refuse(key, Reason::Leaving),
            Message::Change(change) => {
                let Some(talk) = self.control.channels.get_mut(key) else { return };
                match talk.gather.take(change, self.version, &self.table) {
                    Ok(None) => {}
                    Ok(Some((table, version))) => {
                        let applied = self.apply(table, version);
                        self.answer(key, Message::Applied(applied));
                    }
                    Err(bad) => {
                        log::warn!("routes refused: {bad}");
                        let other = matches!(bad, BadGather::Base { .. });
                        let reason = if other { Reason::OtherVersion } else { Reason::Malformed };
                        self.refuse(key, reason);
                    }
                }
            }
            Message::Query => {
                for part in stats(self.totals(), &self.route_stats()) {
                    self.answer(key, Message::Stats(part));
                }
            }
            Message::Shutdown(how) => {
                self.answer(key, Message::Bye);
                self.shut_down(how);
            }
            Message::TakeOver(_) => self.hand_over(key),
            Message::TookOver => self.took_over(key),
            Message::Welcome(_)
            | Message::Applied(_)
            | Message::Refused(_)
            | Message::Stats(_)
            | Message::Bye
            | Message::Handed(_) => {
                self.refuse(key, Reason::Malformed);
                self.control.channels.remove(key);
            }
        }
    }

    fn shut_down(&mut self, how: Shutdown) {
        for predecessor in &self.control.predecessors {
            if let Err(e) = predecessor.try_send(&Message::Shutdown(how), &[]) {
                log::debug!("the proxy before this one: {e}");
            }
        }
        if how.drain {
            self.drain();
        } else {
            self.over = true;
        }
    }

    pub(super) fn refuse(&mut self, key: Key, reason: Reason) {
        self.control.refused += 1;
        let version = self.version;
        self.answer(key, Message::Refused(Refused { reason, version }));
    }

    /// Sends now or keeps for later.
    pub(super) fn answer(&mut self, key: Key, message: Message) {
        let Some(talk) = self.control.channels.get_mut(key) else { return };
        talk.outbox.push_back(message);
        self.flush_outbox(key);
    }

    /// False when the connection has ended.
    fn flush_outbox(&mut self, key: Key) -> bool {
        let Some(talk) = self.control.channels.get_mut(key) else { return false };
        while let Some(message) = talk.outbox.front() {
            match talk.channel.try_send(message, &[]) {
                Ok(true) => {
                    talk.outbox.pop_front();
                }
                Ok(false) if talk.outbox.len() <= OUTBOX_MAX => return true,
                Ok(false) | Err(_) => {
                    self.control.channels.remove(key);
                    return false;
                }
            }
        }
        true
    }
}
