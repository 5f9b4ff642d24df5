//! A TCP connection from a client to a task: passing on and ending. How it begins is in
//! [`crate::proxy::dial`].
//!
//! A flow is `Dialing` (nothing of the client has been read, so that any task can still take it),
//! then `Open`, and `Resetting` when one side failed and the other has not yet taken what came
//! before. Half-close and reset go through both ways. An idle flow has no time-out; keepalive
//! reaps the dead.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::socket::{Shutdown, shutdown};

use crate::proxy::balance::Place;
use crate::proxy::engine::{Engine, Tag};
use crate::proxy::pump::{Half, Step};
use crate::proxy::slab::{Key, Linked, Links};
use crate::proxy::socket;

/// How often a flow that was reset looks whether the other side has taken what came before, and
/// how often at most.
const RESET_LOOK_US: u64 = 20_000;
const RESET_LOOKS_MAX: u8 = 50;

/// One connection.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) port: Key,
    pub(super) place: Place,
    pub(super) phase: Phase,
    pub(super) client: OwnedFd,
    pub(super) server: Option<OwnedFd>,
    /// Client to server.
    pub(super) up: Half,
    /// Server to client.
    pub(super) down: Half,
    pub(super) links: Links,
    pub(super) tried: Vec<Place>,
    /// It is the last task's turn.
    pub(super) patient: bool,
    /// The client's socket tells when it is writable; most are never full.
    pub(super) client_tells: bool,
    /// In the list of those that go on after the others.
    pub(super) again: bool,
    pub(super) looks: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Dialing,
    Open,
    /// This side failed.
    Resetting(Side),
}

/// One of the two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

impl Linked for Flow {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl Engine {
    /// An event of the client's or the server's socket.
    pub(super) fn flow_event(&mut self, key: Key, side: Side, events: EpollFlags) {
        let ending = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let failed = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let Some(flow) = self.flows.get_mut(key) else { return };
        if flow.phase == Phase::Dialing {
            if events.intersects(failed) {
                self.dial_next(key);
                return;
            }
            if !events.contains(EpollFlags::EPOLLOUT) {
                return;
            }
        }
        let (from, into) = match side {
            Side::Client => (&mut flow.up, &mut flow.down),
            Side::Server => (&mut flow.down, &mut flow.up),
        };
        if events.intersects(ending) {
            (from.readable, from.ending) = (true, true);
        }
        if events.contains(EpollFlags::EPOLLIN) {
            from.readable = true;
        }
        let unblocked = into.blocked && events.intersects(EpollFlags::EPOLLOUT | failed);
        let readable = from.readable && !from.blocked;
        if flow.phase == Phase::Dialing {
            self.open(key);
            return;
        }
        match (readable, unblocked) {
            (true, false) => self.run(key, Some(side)),
            (false, true) => self.run(key, Some(side.other())),
            (true, true) => self.run(key, None),
            (false, false) => {}
        }
    }

    /// Moves what `from` has (or both) until nothing more can be done now.
    pub(super) fn run(&mut self, key: Key, from: Option<Side>) {
        if let Some(Phase::Resetting(failed)) = self.flows.get(key).map(|flow| flow.phase) {
            self.drain_failed(key, failed);
            return;
        }
        for side in [Side::Client, Side::Server] {
            if from.is_none_or(|only| only == side) && !self.run_half(key, side) {
                return;
            }
        }
        self.watch_client(key);
    }

    /// One direction; false when the flow has ended.
    fn run_half(&mut self, key: Key, from: Side) -> bool {
        let Some(flow) = self.flows.get_mut(key) else { return false };
        let Some(server) = &flow.server else { return true };
        let (client, server) = (flow.client.as_fd(), server.as_fd());
        let (half, source, sink) = match from {
            Side::Client => (&mut flow.up, client, server),
            Side::Server => (&mut flow.down, server, client),
        };
        if half.shut {
            return true;
        }
        match half.pump(&mut self.tools, source, sink) {
            Step::Wait => true,
            Step::Again => {
                if !std::mem::replace(&mut flow.again, true) {
                    self.again.push_back(key);
                }
                true
            }
            Step::End => {
                half.shut = true;
                if flow.up.shut && flow.down.shut {
                    self.take_out(key);
                    return false;
                }
                if let Err(errno) = shutdown(sink.as_raw_fd(), Shutdown::Write) {
                    // It has failed meanwhile, which an event will tell.
                    log::debug!("half-close of a connection: {errno}");
                }
                true
            }
            Step::SourceFailed => self.fail(key, from),
            Step::SinkFailed => self.fail(key, from.other()),
        }
    }

    /// The client's socket tells when it is writable only from the first time that it is full.
    fn watch_client(&mut self, key: Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        if !flow.down.blocked || flow.client_tells || flow.phase == Phase::Dialing {
            return;
        }
        flow.client_tells = true;
        let mut event = EpollEvent::new(client_flags(true), Tag::Client(key).into());
        match self.epoll.modify(&flow.client, &mut event) {
            // It is about to be added.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(_) => self.cut(key),
        }
    }
}

impl Engine {
    /// One side failed: the other gets what came before, then a reset. False when that is done.
    fn fail(&mut self, key: Key, failed: Side) -> bool {
        let Some(flow) = self.flows.get_mut(key) else { return false };
        if flow.phase != Phase::Open {
            if flow.phase != Phase::Resetting(failed) {
                self.cut(key);
                return false;
            }
            return self.flows.get(key).is_some();
        }
        self.young.remove(&mut self.flows, key);
        let Some(flow) = self.flows.get_mut(key) else { return false };
        flow.phase = Phase::Resetting(failed);
        let half = match failed {
            Side::Client => &mut flow.up,
            Side::Server => &mut flow.down,
        };
        (half.readable, half.ending) = (true, true);
        self.drain_failed(key, failed)
    }

    /// Passes on what the failed side had sent; false when the flow has ended.
    fn drain_failed(&mut self, key: Key, failed: Side) -> bool {
        let Some(flow) = self.flows.get_mut(key) else { return false };
        let Some(server) = &flow.server else { return true };
        let (client, server) = (flow.client.as_fd(), server.as_fd());
        let (half, source, sink) = match failed {
            Side::Client => (&mut flow.up, client, server),
            Side::Server => (&mut flow.down, server, client),
        };
        let over = match half.pump(&mut self.tools, source, sink) {
            Step::Wait | Step::Again => false,
            Step::End | Step::SourceFailed => {
                // What it holds must still arrive, but there will not be more.
                (half.ended, half.shut) = (true, !half.holds_bytes());
                half.shut && socket::unacknowledged(sink) == 0
            }
            Step::SinkFailed => true,
        };
        if over || flow.looks >= RESET_LOOKS_MAX {
            self.cut(key);
            return false;
        }
        let due = self.now + RESET_LOOK_US;
        self.resetting.remove(&mut self.flows, key);
        self.resetting.push(&mut self.flows, key, due);
        self.watch_client(key);
        true
    }

    /// What time brings: dials that take too long, resets that waited, flows that are no longer
    /// young.
    pub(super) fn flow_timers(&mut self) {
        while let Some(key) = self.dialing.pop(&mut self.flows, self.now) {
            self.dial_next(key);
        }
        while let Some(key) = self.patient.pop(&mut self.flows, self.now) {
            self.dial_next(key);
        }
        while let Some(key) = self.young.pop(&mut self.flows, self.now) {
            if let Some(server) = self.flows.get(key).and_then(|flow| flow.server.as_ref())
                && let Err(errno) = socket::keep_alive(server.as_fd())
            {
                log::debug!("no keepalive on a connection: {errno}");
            }
        }
        while let Some(key) = self.resetting.pop(&mut self.flows, self.now) {
            if let Some(flow) = self.flows.get_mut(key)
                && let Phase::Resetting(failed) = flow.phase
            {
                flow.looks += 1;
                self.drain_failed(key, failed);
            }
        }
    }

    /// Resets whatever side there is.
    pub(super) fn cut(&mut self, key: Key) {
        let Some(flow) = self.take_out(key) else { return };
        if let Some(server) = flow.server {
            socket::reset(server);
        }
        socket::reset(flow.client);
    }

    fn take_out(&mut self, key: Key) -> Option<Flow> {
        self.leave_queue(key);
        let mut flow = self.flows.remove(key)?;
        flow.up.release(&mut self.tools);
        flow.down.release(&mut self.tools);
        if let Some(port) = self.ports.get_mut(flow.port) {
            port.active -= 1;
            port.bytes_in += flow.up.bytes;
            port.bytes_out += flow.down.bytes;
            if flow.server.is_some() {
                port.balance.ended(flow.place);
            }
        }
        self.resume_below_limit();
        Some(flow)
    }

    pub(super) fn leave_queue(&mut self, key: Key) {
        let Some(flow) = self.flows.get(key) else { return };
        let queue = match flow.phase {
            Phase::Dialing if flow.patient => &mut self.patient,
            Phase::Dialing => &mut self.dialing,
            Phase::Open => &mut self.young,
            Phase::Resetting(_) => &mut self.resetting,
        };
        queue.remove(&mut self.flows, key);
    }
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

pub(super) fn client_flags(writable_too: bool) -> EpollFlags {
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    if writable_too { flags | EpollFlags::EPOLLOUT } else { flags }
}
