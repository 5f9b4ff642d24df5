//! UDP: a session for each client of a listener, so that its datagrams reach one task and the
//! answers come from the address that the client asked.
//!
//! A session ends after a while without datagrams in either direction; at the limit the least
//! recently used one ends. One whose task left the table ends with the client's next datagram,
//! which begins another. Datagrams are never queued: what cannot be sent at once is dropped.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recv, recvmsg,
    send, sendmsg,
};

use crate::proxy::balance::{Picked, Place};
use crate::proxy::engine::{Engine, Tag};
use crate::proxy::slab::{Key, Linked, Links, Queue, Slab};
use crate::proxy::socket;

/// A client that has asked once is forgotten after this.
const IDLE_US: u64 = 30_000_000;

/// One that goes on asking and is answered, after this.
const IDLE_STREAM_US: u64 = 90_000_000;

/// Answered datagrams that make a stream.
const STREAM_ANSWERS: u8 = 2;

/// Datagrams taken before others go on.
const DATAGRAMS_MAX: usize = 64;

/// The longest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// One client and the task that answers it.
#[derive(Debug)]
pub(super) struct Session {
    port: Key,
    place: Place,
    from: From,
    server: OwnedFd,
    links: Links,
    answers: u8,
}

/// Where datagrams come from and which of our addresses they went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct From {
    client: SocketAddr,
    local: IpAddr,
    /// Interface, told only where the address means nothing without it.
    interface: u32,
}

/// All sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    all: Slab<Session>,
    by_client: HashMap<(u32, From), Key>,
    brief: Queue,
    streams: Queue,
    /// One datagram; empty until the first.
    buffer: Vec<u8>,
    control: Vec<u8>,
}

impl Linked for Session {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self {
            all: Slab::new(),
            by_client: HashMap::new(),
            brief: Queue::new(),
            streams: Queue::new(),
            buffer: Vec::new(),
            control: Vec::new(),
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.all.len()
    }

    /// When the first session ends if nothing comes.
    pub(super) fn next_due(&mut self) -> Option<u64> {
        let brief = self.brief.first(&mut self.all).map(|(_, due)| due);
        let stream = self.streams.first(&mut self.all).map(|(_, due)| due);
        brief.into_iter().chain(stream).min()
    }

    /// The one that was not used for the longest time.
    fn oldest(&mut self) -> Option<Key> {
        let brief = self.brief.first(&mut self.all).map(|(key, due)| (due - IDLE_US, key));
        let stream = self.streams.first(&mut self.all).map(|(key, due)| (due - IDLE_STREAM_US, key));
        brief.into_iter().chain(stream).min_by_key(|(used, _)| *used).map(|(_, key)| key)
    }

    fn unqueue(&mut self, key: Key) {
        let Some(session) = self.all.get(key) else { return };
        let queue =
            if session.is_stream() { &mut self.streams } else { &mut self.brief };
        queue.remove(&mut self.all, key);
    }

    fn enqueue(&mut self, key: Key, now: u64) {
        let Some(session) = self.all.get(key) else { return };
        if session.is_stream() {
            self.streams.push(&mut self.all, key, now + IDLE_STREAM_US);
        } else {
            self.brief.push(&mut self.all, key, now + IDLE_US);
        }
    }
}

impl Session {
    const fn is_stream(&self) -> bool {
        self.answers >= STREAM_ANSWERS
    }
}

impl Engine {
    /// Datagrams from clients.
    pub(super) fn datagrams_in(&mut self, port: Key) {
        let mut buffer = self.take_buffer();
        let mut control = std::mem::take(&mut self.sessions.control);
        for _ in 0..DATAGRAMS_MAX {
            let Some(fd) = self.port_socket(port) else { break };
            match receive(fd, &mut buffer, &mut control) {
                Ok(Some((length, from))) => self.pass_to_task(port, from, &buffer[..length]),
                Ok(None) | Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        (self.sessions.buffer, self.sessions.control) = (buffer, control);
    }

    fn take_buffer(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.sessions.buffer);
        buffer.resize(DATAGRAM_BYTES_MAX, 0);
        if self.sessions.control.is_empty() {
            self.sessions.control = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
        }
        buffer
    }

    fn port_socket(&self, port: Key) -> Option<RawFd> {
        Some(self.ports.get(port)?.socket.as_ref()?.as_raw_fd())
    }

    fn pass_to_task(&mut self, port: Key, from: From, datagram: &[u8]) {
        let Some(key) = self.session_for(port, from) else {
            if let Some(port) = self.ports.get_mut(port) {
                port.unserved += 1;
            }
            return;
        };
        self.sessions.unqueue(key);
        self.sessions.enqueue(key, self.now);
        let Some(session) = self.sessions.all.get(key) else { return };
        match send(session.server.as_raw_fd(), datagram, MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => {
                if let Some(port) = self.ports.get_mut(port) {
                    port.bytes_in += datagram.len() as u64;
                }
            }
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EMSGSIZE | Errno::EINTR) => {}
            Err(_) => self.session_failed(key),
        }
    }

    /// The client's session, a new one where there is none or its task has left.
    fn session_for(&mut self, port: Key, from: From) -> Option<Key> {
        if let Some(key) = self.sessions.by_client.get(&(port.index, from)).copied() {
            let session = self.sessions.all.get(key)?;
            if session.port == port && self.ports.get(port)?.balance.is_listed(session.place) {
                return Some(key);
            }
            self.end_session(key);
        }
        if self.sessions.len() >= self.limits.sessions
            && let Some(oldest) = self.sessions.oldest()
        {
            self.end_session(oldest);
        }
        let mut tried = Vec::new();
        loop {
            let balance = &mut self.ports.get_mut(port)?.balance;
            let Picked { place, addr, .. } = balance.pick(&tried, self.now)?;
            match socket::dial_datagram(addr) {
                Ok(server) => return self.begin_session(port, place, from, server),
                Err(_) => {
                    tried.push(place);
                    let listener = self.ports.get_mut(port)?;
                    listener.dial_failures += 1;
                    listener.balance.failed(place, self.now);
                }
            }
        }
    }

    fn begin_session(
        &mut self,
        port: Key,
        place: Place,
        from: From,
        server: OwnedFd,
    ) -> Option<Key> {
        let session = Session { port, place, from, server, links: Links::new(), answers: 0 };
        let key = self.sessions.all.insert(session);
        self.sessions.by_client.insert((port.index, from), key);
        self.sessions.enqueue(key, self.now);
        let listener = self.ports.get_mut(port)?;
        listener.active += 1;
        listener.total += 1;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Tag::Session(key).into());
        if self.epoll.add(&self.sessions.all.get(key)?.server, event).is_err() {
            self.end_session(key);
            return None;
        }
        Some(key)
    }

    /// Datagrams from a task.
    pub(super) fn datagrams_out(&mut self, key: Key) {
        let mut buffer = self.take_buffer();
        for _ in 0..DATAGRAMS_MAX {
            let Some(session) = self.sessions.all.get(key) else { break };
            match recv(session.server.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => self.pass_to_client(key, &buffer[..length]),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => self.session_failed(key),
            }
        }
        self.sessions.buffer = buffer;
    }

    fn pass_to_client(&mut self, key: Key, datagram: &[u8]) {
        self.sessions.unqueue(key);
        let Some(session) = self.sessions.all.get_mut(key) else { return };
        session.answers = session.answers.saturating_add(1);
        let (port, place, from) = (session.port, session.place, session.from);
        let first = session.answers == 1;
        self.sessions.enqueue(key, self.now);
        let Some(port) = self.ports.get_mut(port) else { return };
        if first {
            port.balance.answered(place);
        }
        let Some(socket) = &port.socket else { return };
        match answer(socket.as_raw_fd(), datagram, from) {
            Ok(_) => port.bytes_out += datagram.len() as u64,
            Err(errno) => log::debug!("port {}: answer to {} dropped: {errno}", port.key, from.client),
        }
    }

    /// The task's host says that nobody listens there.
    fn session_failed(&mut self, key: Key) {
        let Some(session) = self.remove_session(key) else { return };
        if let Some(port) = self.ports.get_mut(session.port) {
            port.dial_failures += 1;
            port.balance.failed(session.place, self.now);
        }
    }

    fn end_session(&mut self, key: Key) {
        let Some(session) = self.remove_session(key) else { return };
        if let Some(port) = self.ports.get_mut(session.port) {
            port.balance.ended(session.place);
        }
    }

    fn remove_session(&mut self, key: Key) -> Option<Session> {
        self.sessions.unqueue(key);
        let session = self.sessions.all.remove(key)?;
        self.sessions.by_client.remove(&(session.port.index, session.from));
        if let Some(port) = self.ports.get_mut(session.port) {
            port.active -= 1;
        }
        if self.sessions.len() == 0 {
            // Nothing passes: give the room back.
            self.sessions.by_client = HashMap::new();
        }
        Some(session)
    }

    /// Ends those that have been idle for long enough.
    pub(super) fn session_timers(&mut self) {
        loop {
            let sessions = &mut self.sessions;
            let due = sessions.brief.pop(&mut sessions.all, self.now);
            let due = due.or_else(|| sessions.streams.pop(&mut sessions.all, self.now));
            let Some(key) = due else { return };
            self.end_session(key);
        }
    }

    /// Ends all of a listener.
    pub(super) fn forget_sessions(&mut self, port: Key) {
        if self.ports.get(port).is_none_or(|port| port.active == 0) {
            return;
        }
        for key in self.sessions.all.keys() {
            if self.sessions.all.get(key).is_some_and(|session| session.port == port) {
                self.end_session(key);
            }
        }
    }
}

/// One datagram and where it came from; `None` when that cannot be told.
fn receive(
    fd: RawFd,
    buffer: &mut [u8],
    control: &mut [u8],
) -> nix::Result<Option<(usize, From)>> {
    let mut iov = [IoSliceMut::new(buffer)];
    let got = recvmsg::<SockaddrStorage>(fd, &mut iov, Some(control), MsgFlags::empty())?;
    let Some(client) = got.address.as_ref().and_then(socket_addr) else { return Ok(None) };
    let mut from = From { client, local: Ipv6Addr::UNSPECIFIED.into(), interface: 0 };
    for cmsg in got.cmsgs()? {
        match cmsg {
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let local = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                from.local = local.into();
                if local.is_unicast_link_local() {
                    from.interface = info.ipi6_ifindex;
                }
            }
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                from.local = IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes());
            }
            _ => {}
        }
    }
    Ok(Some((got.bytes, from)))
}

/// Sends to the client from the address that it used.
fn answer(fd: RawFd, datagram: &[u8], from: From) -> nix::Result<usize> {
    let iov = [IoSlice::new(datagram)];
    let client = SockaddrStorage::from(from.client);
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let send = |cmsgs: &[ControlMessage<'_>]| sendmsg(fd, &iov, cmsgs, flags, Some(&client));
    match from.local {
        local if local.is_unspecified() || is_multicast(local) => send(&[]),
        IpAddr::V4(local) => send(&[ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(local.octets()) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        })]),
        IpAddr::V6(local) => send(&[ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo {
            ipi6_addr: libc::in6_addr { s6_addr: local.octets() },
            ipi6_ifindex: from.interface,
        })]),
    }
}

/// No address to answer from.
fn is_multicast(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    }
}

fn socket_addr(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddrV4::from(*v4).into());
    }
    storage.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into())
}
