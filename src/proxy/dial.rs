//! How a TCP flow begins: a client is accepted and a task is dialled for it.
//!
//! Nothing of the client is read until a task has taken the call, so that any other can still have
//! it. At the limit of flows, and when the kernel is short of something, accepting pauses: clients
//! wait in the kernel's queue.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};

use crate::proxy::balance::{Picked, Place};
use crate::proxy::engine::{Engine, Tag};
use crate::proxy::flow::{Flow, Phase, client_flags};
use crate::proxy::pump::Half;
use crate::proxy::slab::{Key, Links};
use crate::proxy::socket;

/// A task that has not answered a dial after this is given up for the next one.
const DIAL_US: u64 = 1_000_000;

/// The last one to try gets longer: the kernel repeats a lost request after 1, 3 and 7 seconds.
const DIAL_LAST_US: u64 = 10_000_000;

/// Tasks that one client is offered to before it is reset.
const DIALS_MAX: usize = 16;

/// How often a client waits for a second because this host is short of descriptors or memory.
const ROOM_LOOKS_MAX: u8 = 10;

/// Clients accepted before others go on.
const ACCEPTS_MAX: usize = 64;

/// How long accepting pauses when the kernel has no descriptor or memory for it.
const PAUSE_US: u64 = 100_000;

/// The task's side of a connection gets its keepalive when it has lived that long: most have not.
const KEEPALIVE_AFTER_US: u64 = 10_000_000;

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
    pub(super) fn dial_next(&mut self, key: Key) {
        self.leave_queue(key);
        if self.flows.get(key).is_some_and(|flow| flow.server.is_some()) {
            self.note_failed_dial(key);
        }
        self.dial(key);
    }

    /// The task took the call: from here on the client is heard.
    pub(super) fn open(&mut self, key: Key) {
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
        if flow.phase != Phase::Open {
            // The client failed at once: the flow waits for its end in another queue by now.
            return;
        }
        let young = self.now + KEEPALIVE_AFTER_US;
        self.young.push(&mut self.flows, key, young);
    }
}

const fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use nix::poll::{PollFd, PollFlags, poll};
    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;
    use crate::proxy::engine::Limits;
    use crate::proxy::flow::Side;
    use crate::proxy::pump::COPY_BYTES;

    /// Both ends of a connection; the accepted one has room for `room` bytes, if that is told.
    fn connection(room: Option<usize>) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        if let Some(room) = room {
            setsockopt(&listener, sockopt::RcvBuf, &room).unwrap();
        }
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (dialled, listener.accept().unwrap().0)
    }

    /// A client that resets after a full read's worth of bytes, before a task has taken the call,
    /// and a task that is slow to read them: the flow is resetting before it was ever young.
    #[test]
    fn a_flow_that_fails_while_it_opens_is_in_one_queue() {
        let mut engine = Engine::new(Limits { flows: 4, sessions: 4 }).unwrap();
        let (mut sender, client) = connection(None);
        sender.write_all(&[7; COPY_BYTES]).unwrap();
        while socket::unacknowledged(sender.as_fd()) > 0 {
            std::thread::yield_now();
        }
        socket::reset(sender.into());
        let mut failed = [PollFd::new(client.as_fd(), PollFlags::empty())];
        assert_eq!(poll(&mut failed, 60_000u16), Ok(1));
        let (server, task) = connection(Some(2_048));
        setsockopt(&server, sockopt::SndBuf, &(8 * COPY_BYTES)).unwrap();
        for socket in [&client, &server] {
            socket.set_nonblocking(true).unwrap();
        }
        let key = engine.flows.insert(Flow {
            port: Key { index: 0, generation: 0 },
            place: Place(0),
            phase: Phase::Dialing,
            client: client.into(),
            server: Some(server.into()),
            up: Half::default(),
            down: Half::default(),
            links: Links::new(),
            tried: Vec::new(),
            patient: false,
            client_tells: false,
            again: false,
            looks: 0,
        });
        engine.open(key);
        let phase = engine.flows.get(key).map(|flow| flow.phase);
        assert_eq!(phase, Some(Phase::Resetting(Side::Client)));
        assert_eq!(engine.young.first(&mut engine.flows), None);
        engine.cut(key);
        assert_eq!(engine.resetting.first(&mut engine.flows), None);
        drop(task);
    }
}
