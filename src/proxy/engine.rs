//! The proxy's one thread: waits for events, and does what they ask for.
//!
//! Owns every socket, flow and session. Nothing in it waits except `epoll_wait`, which has no
//! time-out while nothing is due: an idle proxy does not wake up. State lives in this process
//! only; what the daemon told last stays in force while the daemon is away.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::model::control::{Applied, PortError, PortFault, RouteStats, Totals};
use crate::model::route::{ListenKey, RouteTable};
use crate::model::service::Protocol;
use crate::proxy::balance::Balance;
use crate::proxy::control::Control;
use crate::proxy::datagram::Sessions;
use crate::proxy::flow::{Flow, Side};
use crate::proxy::pump::Tools;
use crate::proxy::slab::{Key, Queue, Slab};
use crate::proxy::socket;

/// Events taken at once.
const EVENTS_MAX: usize = 256;

/// What this process may hold at once. At the limit of flows accepting pauses (clients wait in the
/// kernel's queue); at the limit of sessions the least recently used one is forgotten.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) flows: usize,
    pub(super) sessions: usize,
}

/// One listener.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) key: ListenKey,
    pub(super) socket: Option<OwnedFd>,
    pub(super) fault: Option<PortFault>,
    pub(super) balance: Balance,
    pub(super) active: u64,
    pub(super) total: u64,
    /// Of flows that have ended; those of open ones are with the flow.
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) dial_failures: u64,
    pub(super) unserved: u64,
    /// Clients to accept at once, and the turn in which that was last done.
    pub(super) burst: usize,
    pub(super) last_turn: u64,
}

/// What an event belongs to, packed into the 64 bits that the kernel gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Port(Key),
    Client(Key),
    Server(Key),
    Session(Key),
    /// The control socket.
    Control,
    /// A connection to it.
    Channel(Key),
}

/// All that the process is.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) epoll: Epoll,
    pub(super) limits: Limits,
    pub(super) tools: Tools,
    pub(super) flows: Slab<Flow>,
    pub(super) dialing: Queue,
    pub(super) patient: Queue,
    pub(super) young: Queue,
    pub(super) resetting: Queue,
    pub(super) again: VecDeque<Key>,
    pub(super) ports: Slab<Port>,
    pub(super) by_key: BTreeMap<ListenKey, Key>,
    pub(super) sessions: Sessions,
    pub(super) control: Control,
    pub(super) table: RouteTable,
    pub(super) version: u64,
    /// Microseconds since the start, read once per turn.
    pub(super) now: u64,
    /// Counts the turns.
    pub(super) turn: u64,
    /// No new connections: end with the last one.
    pub(super) draining: bool,
    /// End at the end of this turn.
    pub(super) over: bool,
    pause: Pause,
    pauses: u64,
    began: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    No,
    /// Until flows have ended.
    Full,
    /// Until then.
    Till(u64),
}

impl Engine {
    pub(super) fn new(limits: Limits) -> nix::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            limits,
            tools: Tools::new(),
            flows: Slab::new(),
            dialing: Queue::new(),
            patient: Queue::new(),
            young: Queue::new(),
            resetting: Queue::new(),
            again: VecDeque::new(),
            ports: Slab::new(),
            by_key: BTreeMap::new(),
            sessions: Sessions::new(),
            control: Control::new(),
            table: RouteTable::new(),
            version: 0,
            now: 0,
            turn: 0,
            draining: false,
            over: false,
            pause: Pause::No,
            pauses: 0,
            began: Instant::now(),
        })
    }

    /// Until the end of the process.
    pub(super) fn run_loop(&mut self) -> nix::Result<()> {
        let mut events = vec![EpollEvent::empty(); EVENTS_MAX];
        while !self.is_over() {
            let timeout = self.timeout();
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(errno) => return Err(errno),
            };
            self.turn += 1;
            self.now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
            for event in &events[..count] {
                self.dispatch(Tag::from(event.data()), event.events());
            }
            for _ in 0..self.again.len() {
                if let Some(key) = self.again.pop_front()
                    && let Some(flow) = self.flows.get_mut(key)
                {
                    flow.again = false;
                    self.run(key, None);
                }
            }
            self.timers();
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.over || (self.draining && self.flows.len() == 0 && self.sessions.len() == 0)
    }

    fn dispatch(&mut self, tag: Tag, events: EpollFlags) {
        match tag {
            Tag::Client(key) => self.flow_event(key, Side::Client, events),
            Tag::Server(key) => self.flow_event(key, Side::Server, events),
            Tag::Port(key) => match self.ports.get(key).map(|port| port.key.protocol) {
                Some(Protocol::Tcp) => self.accept_clients(key),
                Some(Protocol::Udp) => self.datagrams_in(key),
                None => {}
            },
            Tag::Session(key) => self.datagrams_out(key),
            Tag::Control => self.control_accept(),
            Tag::Channel(key) => self.control_event(key),
        }
    }

    fn timers(&mut self) {
        self.flow_timers();
        self.session_timers();
        if matches!(self.pause, Pause::Till(due) if due <= self.now) {
            self.resume();
        }
    }

    /// Until the next thing is due.
    fn timeout(&mut self) -> EpollTimeout {
        if !self.again.is_empty() {
            return EpollTimeout::ZERO;
        }
        let queues = [&self.dialing, &self.patient, &self.young, &self.resetting];
        let mut due = self.sessions.next_due();
        for queue in queues {
            due = earlier(due, queue.first(&mut self.flows).map(|(_, due)| due));
        }
        if let Pause::Till(till) = self.pause {
            due = earlier(due, Some(till));
        }
        let Some(due) = due else { return EpollTimeout::NONE };
        let millis = due.saturating_sub(self.now).div_ceil(1_000);
        EpollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX))
    }

    /// Stops accepting, until a time or until flows have ended.
    pub(super) fn pause(&mut self, till: Option<u64>) {
        if self.pause == Pause::No {
            self.pauses += 1;
            self.listen_for(EpollFlags::empty());
        }
        self.pause = till.map_or(Pause::Full, Pause::Till);
    }

    /// A little below the limit, so that a full proxy does not pause for each single client.
    pub(super) fn resume_below_limit(&mut self) {
        if self.pause == Pause::Full && self.flows.len() <= self.limits.flows - self.limits.flows / 64
            && self.flows.len() < self.limits.flows
        {
            self.resume();
        }
    }

    fn resume(&mut self) {
        self.pause = Pause::No;
        self.listen_for(EpollFlags::EPOLLIN);
    }

    fn listen_for(&mut self, flags: EpollFlags) {
        for (key, port) in self.ports.iter() {
            if port.key.protocol != Protocol::Tcp {
                continue;
            }
            let Some(socket) = &port.socket else { continue };
            let mut event = EpollEvent::new(flags, Tag::Port(key).into());
            if let Err(errno) = self.epoll.modify(socket, &mut event) {
                log::error!("port {}: cannot watch its socket: {errno}", port.key);
            }
        }
    }

    /// Puts a table in force: listeners that stay and their connections are not touched.
    pub(super) fn apply(&mut self, table: RouteTable, version: u64) -> Applied {
        let gone: Vec<ListenKey> =
            self.by_key.keys().filter(|key| table.listener(key).is_none()).copied().collect();
        for key in gone {
            self.close_port(&key);
        }
        for listener in table.listeners() {
            let port = match self.by_key.get(&listener.key) {
                Some(port) => *port,
                None => self.add_port(listener.key, None),
            };
            if let Some(port) = self.ports.get_mut(port) {
                port.balance.update(&listener.backends);
            }
            self.open_port(port);
        }
        (self.table, self.version) = (table, version);
        let faults = |(_, port): (Key, &Port)| port.fault.map(|fault| (port.key, fault));
        let mut errors: Vec<PortError> =
            self.ports.iter().filter_map(faults).map(|(key, fault)| PortError { key, fault }).collect();
        errors.sort_by_key(|error| error.key);
        let omitted = errors.len().saturating_sub(Applied::ERRORS_MAX);
        errors.truncate(Applied::ERRORS_MAX);
        Applied { version, errors, omitted: u32::try_from(omitted).unwrap_or(u32::MAX) }
    }

    /// Adds a listener, with its socket when another proxy has opened it before.
    pub(super) fn add_port(&mut self, key: ListenKey, socket: Option<OwnedFd>) -> Key {
        let opened = socket.is_some();
        let port = self.ports.insert(Port {
            key,
            socket,
            fault: None,
            balance: Balance::default(),
            active: 0,
            total: 0,
            bytes_in: 0,
            bytes_out: 0,
            dial_failures: 0,
            unserved: 0,
            burst: 1,
            last_turn: 0,
        });
        self.by_key.insert(key, port);
        if opened {
            self.watch_port(port);
        }
        port
    }

    fn open_port(&mut self, key: Key) {
        let Some(port) = self.ports.get_mut(key) else { return };
        if port.socket.is_some() {
            return;
        }
        match socket::open(&port.key) {
            Ok(fd) => {
                (port.socket, port.fault) = (Some(fd), None);
                self.watch_port(key);
            }
            Err(fault) => port.fault = Some(fault),
        }
    }

    fn watch_port(&mut self, key: Key) {
        let Some(port) = self.ports.get_mut(key) else { return };
        let Some(socket) = &port.socket else { return };
        let paused = self.pause != Pause::No && port.key.protocol == Protocol::Tcp;
        let flags = if paused { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
        if let Err(errno) = self.epoll.add(socket, EpollEvent::new(flags, Tag::Port(key).into())) {
            (port.socket, port.fault) = (None, Some(PortFault::Errno(errno as i32)));
        }
    }

    /// Closes a listener; its TCP connections go on.
    fn close_port(&mut self, key: &ListenKey) {
        let Some(port) = self.by_key.remove(key) else { return };
        self.forget_sessions(port);
        if let Some(port) = self.ports.remove(port) {
            unwatch(&self.epoll, &port);
        }
    }

    /// Closes all listeners; the process ends with the last connection. What UDP clients still
    /// await is passed back through the sockets kept for it.
    pub(super) fn drain(&mut self) {
        self.draining = true;
        for key in self.ports.keys() {
            let Some(port) = self.ports.get_mut(key) else { continue };
            unwatch(&self.epoll, port);
            if port.key.protocol == Protocol::Tcp {
                port.socket = None;
            }
        }
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            flows: self.flows.len() as u64,
            sessions: self.sessions.len() as u64,
            pauses: self.pauses,
            spliced: self.tools.spliced,
            refused: self.control.refused(),
        }
    }

    pub(super) fn route_stats(&self) -> Vec<RouteStats> {
        let mut open: BTreeMap<(u32, u32), (u64, u64)> = BTreeMap::new();
        for (_, flow) in self.flows.iter() {
            let sums = open.entry((flow.port.index, flow.port.generation)).or_default();
            sums.0 += flow.up.bytes;
            sums.1 += flow.down.bytes;
        }
        let stats = |key: &Key| {
            let port = self.ports.get(*key)?;
            let (bytes_in, bytes_out) = open.get(&(key.index, key.generation)).copied().unwrap_or_default();
            Some(RouteStats {
                key: port.key,
                fault: port.fault,
                active: port.active,
                total: port.total,
                bytes_in: port.bytes_in + bytes_in,
                bytes_out: port.bytes_out + bytes_out,
                dial_failures: port.dial_failures,
                unserved: port.unserved,
            })
        };
        self.by_key.values().filter_map(stats).collect()
    }
}

/// Needed before a listener is closed: a socket that another process holds too would go on telling
/// events.
fn unwatch(epoll: &Epoll, port: &Port) {
    if let Some(socket) = &port.socket
        && let Err(errno) = epoll.delete(socket.as_fd())
    {
        log::debug!("port {}: {errno}", port.key);
    }
}

fn earlier(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

const TAG_SHIFT: u32 = 61;
const INDEX_MAX: u32 = (1 << 29) - 1;

impl From<Tag> for u64 {
    fn from(tag: Tag) -> Self {
        let none = Key { index: 0, generation: 0 };
        let (kind, key) = match tag {
            Tag::Port(key) => (0, key),
            Tag::Client(key) => (1, key),
            Tag::Server(key) => (2, key),
            Tag::Session(key) => (3, key),
            Tag::Control => (4, none),
            Tag::Channel(key) => (5, key),
        };
        kind << TAG_SHIFT | Self::from(key.index & INDEX_MAX) << 32 | Self::from(key.generation)
    }
}

impl From<u64> for Tag {
    #[allow(clippy::cast_possible_truncation, reason = "the halves of 64 bits are what is wanted")]
    fn from(data: u64) -> Self {
        let key = Key { index: (data >> 32) as u32 & INDEX_MAX, generation: data as u32 };
        match data >> TAG_SHIFT {
            0 => Self::Port(key),
            1 => Self::Client(key),
            2 => Self::Server(key),
            3 => Self::Session(key),
            4 => Self::Control,
            _ => Self::Channel(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_survive_the_kernel() {
        let key = Key { index: INDEX_MAX, generation: u32::MAX };
        for tag in [
            Tag::Port(key),
            Tag::Client(key),
            Tag::Server(key),
            Tag::Session(key),
            Tag::Control,
            Tag::Channel(key),
        ] {
            assert_eq!(Tag::from(u64::from(tag)), tag);
        }
    }
}
