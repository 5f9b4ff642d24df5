//! A TCP connection from a client to a task: accept, dial, pass on, end.
//!
//! A flow is `Dialing` (nothing of the client has been read, so that any task can still take it),
//! then `Open`, and `Resetting` when one side failed and the other has not yet taken what came
//! before. Half-close and reset go through both ways. An idle flow has no time-out; keepalive
//! reaps the dead.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::socket::{Shutdown, shutdown};

use crate::proxy::balance::{Picked, Place};
use crate::proxy::engine::{Engine, Tag};
use crate::proxy::pump::{Half, Step};
use crate::proxy::slab::{Key, Linked, Links};
use crate::proxy::socket;

/// A task that has not answered a dial after this is given up for the next one.
const DIAL_US: u64 = 1_000_000;

/// The last one to try gets longer: the kernel repeats a lost request after 1, 3 and 7 seconds.
const DIAL_LAST_US: u64 = 10_000_000;

/// Tasks that one client is offered to before it is reset.
const DIALS_MAX: usize = 16;

/// How often a flow that was reset looks whether the other side has taken what came before, and
/// how often at most.
const RESET_LOOK_US: u64 = 20_000;
const RESET_LOOKS_MAX: u8 = 50;

/// How often a client waits for a second because this host is short of descriptors or memory.
const ROOM_LOOKS_MAX: u8 = 10;

/// The task's side of a connection gets its keepalive when it has lived that long: most have not.
const KEEPALIVE_AFTER_US: u64 = 10_000_000;

/// Clients accepted before others go on.
const ACCEPTS_MAX: usize = 64;

/// How long accepting pauses when the kernel has no descriptor or memory for it.
const PAUSE_US: u64 = 100_000;

/// One connection.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) port: Key,
    place: Place,
    phase: Phase,
    client: OwnedFd,
    server: Option<OwnedFd>,
    /// Client to server.
    pub(super) up: Half,
    /// Server to client.
    pub(super) down: Half,
    links: Links,
    tried: Vec<Place>,
    /// It is the last task's turn.
    patient: bool,
    /// The client's socket tells when it is writable; most are never full.
    client_tells: bool,
    /// In the list of those that go on after the others.
    pub(super) again: bool,
    looks: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
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
    /// Takes waiting clients and dials for each of them.
    pub(super) fn accept_clients(&mut self, port: Key) {
        let Some(burst) = self.ports.get(port).map(|port| port.burst) else { return };
        for count in 0..burst {
            if self.flows.len() >= self.limits.flows {
                self.pause(None);
                return;
            }
            let Some(listener) = self.ports.get(port).and_then(|port| port.socket.as_ref()) else {
                return;
            };
            match socket::accept(listener.as_fd()) {
                Ok(client) => self.begin(port, client),
                Err(Errno::EAGAIN) => {
                    self.set_burst(port, count);
                    return;
                }
                Err(errno) if is_shortage(errno) => {
                    self.pause(Some(self.now + PAUSE_US));
                    return;
                }
                // The client has gone already, or a signal came.
                Err(Errno::ECONNABORTED | Errno::EINTR | Errno::EPROTO) => {}
                Err(errno) => {
                    log::warn!("clients cannot be accepted: {errno}");
                    self.pause(Some(self.now + PAUSE_US));
                    return;
                }
            }
        }
        let next = if self.crowded(port) { burst * 2 } else { burst };
        self.set_burst(port, next);
    }

    /// How many clients to expect next time: asking once more, to hear that there are no more, is
    /// worth its call only when they come in crowds.
    fn set_burst(&mut self, port: Key, count: usize) {
        if let Some(port) = self.ports.get_mut(port) {
            port.burst = count.clamp(1, ACCEPTS_MAX);
        }
    }

    /// Whether the listener's last turn was the one before this one.
    fn crowded(&mut self, port: Key) -> bool {
        let turn = self.turn;
        let last = self.ports.get_mut(port).map(|port| std::mem::replace(&mut port.last_turn, turn));
        last.is_some_and(|last| last + 1 == turn)
    }

    fn begin(&mut self, port: Key, client: OwnedFd) {
        let flow = Flow {
            port,
            place: Place(0),
            phase: Phase::Dialing,
            client,
            server: None,
            up: Half::default(),
            down: Half::default(),
            links: Links::new(),
            tried: Vec::new(),
            patient: false,
            client_tells: false,
            again: false,
            looks: 0,
        };
        if let Some(port) = self.ports.get_mut(port) {
            port.active += 1;
            port.total += 1;
        }
        let key = self.flows.insert(flow);
        self.dial(key);
    }

    /// Dials the next task, and the next, until one takes the call; resets the client when none
    /// is left.
    fn dial(&mut self, key: Key) {
        loop {
            let now = self.now;
            let Some(flow) = self.flows.get_mut(key) else { return };
            let port = self.ports.get_mut(flow.port);
            let picked = port.and_then(|port| {
                if flow.tried.len() < DIALS_MAX { port.balance.pick(&flow.tried, now) } else { None }
            });
            let Some(Picked { place, addr, last }) = picked else {
                if let Some(port) = self.ports.get_mut(flow.port) {
                    port.unserved += 1;
                }
                self.cut(key);
                return;
            };
            flow.place = place;
            let dialled = socket::dial(addr).and_then(|fd| {
                let flags = EpollFlags::EPOLLIN
                    | EpollFlags::EPOLLOUT
                    | EpollFlags::EPOLLRDHUP
                    | EpollFlags::EPOLLET;
                self.epoll.add(&fd, EpollEvent::new(flags, Tag::Server(key).into()))?;
                Ok(fd)
            });
            match dialled {
                Ok(fd) => {
                    flow.server = Some(fd);
                    flow.patient = last;
                    if last {
                        self.patient.push(&mut self.flows, key, now + DIAL_LAST_US);
                    } else {
                        self.dialing.push(&mut self.flows, key, now + DIAL_US);
                    }
                    return;
                }
                Err(errno) if is_shortage(errno) => {
                    self.wait_for_room(key);
                    return;
                }
                // No free port of this host towards that task: not its fault.
                Err(Errno::EADDRNOTAVAIL) => {
                    flow.tried.push(place);
                    if let Some(port) = self.ports.get_mut(flow.port) {
                        port.dial_failures += 1;
                        port.balance.ended(place);
                    }
                }
                Err(_) => self.note_failed_dial(key),
            }
        }
    }

    fn note_failed_dial(&mut self, key: Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        flow.tried.push(flow.place);
        flow.server = None;
        if let Some(port) = self.ports.get_mut(flow.port) {
            port.dial_failures += 1;
            port.balance.failed(flow.place, self.now);
        }
    }

    /// It is this host that is short of something, not the task: later, and no new clients until
    /// then.
    fn wait_for_room(&mut self, key: Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        (flow.server, flow.patient) = (None, false);
        flow.looks += 1;
        if let Some(port) = self.ports.get_mut(flow.port) {
            port.balance.ended(flow.place);
        }
        if flow.looks > ROOM_LOOKS_MAX {
            self.cut(key);
            return;
        }
        self.dialing.push(&mut self.flows, key, self.now + DIAL_US);
        self.pause(Some(self.now + PAUSE_US));
    }

    /// The task refused, or did not answer in time; or there may be room by this time.
    fn dial_next(&mut self, key: Key) {
        self.leave_queue(key);
        if self.flows.get(key).is_some_and(|flow| flow.server.is_some()) {
            self.note_failed_dial(key);
        }
        self.dial(key);
    }

    /// The task took the call: from here on the client is heard.
    fn open(&mut self, key: Key) {
        self.leave_queue(key);
        let Some(flow) = self.flows.get_mut(key) else { return };
        if let Some(port) = self.ports.get_mut(flow.port) {
            port.balance.answered(flow.place);
        }
        (flow.phase, flow.looks) = (Phase::Open, 0);
        flow.tried = Vec::new();
        // The request is most often there already; the task may have spoken first.
        flow.up.readable = true;
        self.run(key, None);
        let Some(flow) = self.flows.get_mut(key) else { return };
        flow.client_tells = flow.down.blocked;
        let event = EpollEvent::new(client_flags(flow.client_tells), Tag::Client(key).into());
        if self.epoll.add(&flow.client, event).is_err() {
            self.cut(key);
            return;
        }
        let young = self.now + KEEPALIVE_AFTER_US;
        self.young.push(&mut self.flows, key, young);
    }

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

    fn leave_queue(&mut self, key: Key) {
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

const fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
}

fn client_flags(writable_too: bool) -> EpollFlags {
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    if writable_too { flags | EpollFlags::EPOLLOUT } else { flags }
}
