//! Hears when addresses or routes of this machine come or go (DHCP, a cable), without a timer.
//!
//! What changed is not read: who waits looks at the addresses there are.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use async_io::Async;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// `RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE`: the routes that go
/// with an address may come long after it.
const GROUPS: u32 = 0x10 | 0x40 | 0x100 | 0x400;

/// A socket that hears such changes in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct AddressEvents {
    socket: Async<OwnedFd>,
}

impl AddressEvents {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self { socket: Async::new(socket)? })
    }

    /// Waits until something has changed.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn changed(&self) -> io::Result<()> {
        self.socket.readable().await?;
        // All that is there stands for one change; messages that do not fit are cut.
        let mut buffer = [0; 4096];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                // The kernel drops what is not read in time, and says so.
                Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
