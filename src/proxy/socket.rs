//! The sockets of the data plane: how they are opened, dialled and cut.
//!
//! Nothing waits here. Options that a listener has are inherited by what it accepts, so a new
//! client costs no call but the accept.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, accept4, bind, connect, listen,
    setsockopt, socket, sockopt,
};

use crate::model::control::PortFault;
use crate::model::route::ListenKey;
use crate::model::service::Protocol;

/// Clients that wait in the kernel for their accept.
const BACKLOG: i32 = 4_096;

/// A silent peer is asked after this, that often, and is gone when it never answers.
const KEEPALIVE_IDLE_S: u32 = 60;
const KEEPALIVE_INTERVAL_S: u32 = 15;
const KEEPALIVE_PROBES: u32 = 4;

/// Opens the socket of a listener. Every address of the host is one IPv6 socket that takes IPv4
/// too, or an IPv4 socket where the kernel has no IPv6.
pub(super) fn open(key: &ListenKey) -> Result<OwnedFd, PortFault> {
    let opened = match key.ip {
        Some(ip) => open_at(SocketAddr::new(ip, key.port), key.protocol, true),
        None => {
            let all = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), key.port);
            match open_at(all, key.protocol, false) {
                Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => {
                    let all = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), key.port);
                    open_at(all, key.protocol, true)
                }
                opened => opened,
            }
        }
    };
    opened.map_err(|errno| match errno {
        Errno::EADDRINUSE => PortFault::InUse,
        Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT => PortFault::NoSuchAddress,
        Errno::EACCES | Errno::EPERM => PortFault::Forbidden,
        other => PortFault::Errno(other as i32),
    })
}

fn open_at(addr: SocketAddr, protocol: Protocol, only: bool) -> nix::Result<OwnedFd> {
    let (kind, family) = match protocol {
        Protocol::Tcp => (SockType::Stream, family_of(addr)),
        Protocol::Udp => (SockType::Datagram, family_of(addr)),
    };
    let fd = socket(family, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    if addr.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &only)?;
    }
    match protocol {
        Protocol::Tcp => {
            // Only against the remains of closed connections: two listeners still exclude
            // each other.
            setsockopt(&fd, sockopt::ReuseAddr, &true)?;
            prepare_stream(fd.as_fd())?;
            keep_alive(fd.as_fd())?;
        }
        Protocol::Udp if addr.is_ipv6() => setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?,
        Protocol::Udp => setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?,
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(addr))?;
    if protocol == Protocol::Tcp {
        listen(&fd, Backlog::new(BACKLOG)?)?;
    }
    Ok(fd)
}

fn family_of(addr: SocketAddr) -> AddressFamily {
    if addr.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// What was written is sent: the peer's own batching has already been decided.
fn prepare_stream(fd: BorrowedFd<'_>) -> nix::Result<()> {
    setsockopt(&fd, sockopt::TcpNoDelay, &true)
}

/// Finds out when the peer of an idle connection is dead.
pub(super) fn keep_alive(fd: BorrowedFd<'_>) -> nix::Result<()> {
    setsockopt(&fd, sockopt::KeepAlive, &true)?;
    setsockopt(&fd, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(&fd, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(&fd, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)
}

/// One waiting client.
pub(super) fn accept(listener: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let raw = accept4(listener.as_raw_fd(), SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the kernel has just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Begins a connection; whether it succeeds is told by the socket becoming writable.
pub(super) fn dial(addr: SocketAddr) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family_of(addr), SockType::Stream, flags, None)?;
    prepare_stream(fd.as_fd())?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(addr)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(errno) => Err(errno),
    }
}

/// A UDP socket that talks to `addr` only.
pub(super) fn dial_datagram(addr: SocketAddr) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family_of(addr), SockType::Datagram, flags, None)?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(addr))?;
    Ok(fd)
}

/// Closes a connection so that the peer sees a reset.
pub(super) fn reset(fd: OwnedFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    if let Err(errno) = setsockopt(&fd, sockopt::Linger, &linger) {
        log::debug!("a connection is closed instead of reset: {errno}");
    }
}

/// Bytes that the peer has not yet acknowledged.
pub(super) fn unacknowledged(fd: BorrowedFd<'_>) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int to the address given, which lives through the call.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
}
