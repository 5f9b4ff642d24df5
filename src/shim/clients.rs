//! The shim's socket and the daemons connected to it.
//!
//! Nothing here waits: a client that does not read its messages is cut off.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, listen, recv,
    send, socket,
};

use crate::base::shim_wire::{PACKET_BYTES_MAX, Reply, Request, State};

/// Connections at a time; one more is closed at once. A daemon needs two.
const CLIENTS_MAX: usize = 6;

/// Requests taken from one client before the others have their turn.
const REQUESTS_MAX: usize = 8;

#[derive(Debug)]
struct Client {
    fd: OwnedFd,
    /// It said hello and hears of every change.
    subscribed: bool,
}

/// The listening socket and its connections.
#[derive(Debug)]
pub(super) struct Clients {
    listener: OwnedFd,
    clients: Vec<(u32, Client)>,
    next: u32,
    /// Somebody was connected at some time.
    pub(super) had_one: bool,
}

impl Clients {
    /// Listens at `dir/shim.sock`, which appears only when connections are taken.
    pub(super) fn listen(dir: &Path) -> nix::Result<Self> {
        let dir = nix::fcntl::open(
            dir,
            nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        )?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        let (early, path) =
            (super::short_path(&dir, "shim.sock.new"), super::short_path(&dir, "shim.sock"));
        match nix::unistd::unlink(early.as_str()) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(err) => return Err(err),
        }
        bind(listener.as_raw_fd(), &UnixAddr::new(early.as_str())?)?;
        listen(&listener, Backlog::new(16)?)?;
        nix::fcntl::renameat(nix::fcntl::AT_FDCWD, early.as_str(), nix::fcntl::AT_FDCWD, path.as_str())?;
        Ok(Self { listener, clients: Vec::with_capacity(CLIENTS_MAX), next: 0, had_one: false })
    }

    /// What to poll for reading: the listener first.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let clients = self.clients.iter().map(|(_, client)| client.fd.as_fd());
        std::iter::once(self.listener.as_fd()).chain(clients)
    }

    pub(super) fn none_left(&self) -> bool {
        self.clients.is_empty()
    }

    /// Takes new connections.
    pub(super) fn accept(&mut self) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        while let Ok(fd) = accept4(self.listener.as_raw_fd(), flags) {
            // SAFETY: accept4 just made the descriptor and nothing else owns it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            self.had_one = true;
            if self.clients.len() < CLIENTS_MAX {
                self.clients.push((self.next, Client { fd, subscribed: false }));
                self.next = self.next.wrapping_add(1);
            }
        }
    }

    /// The requests that have come in, each with its client. A client that closed or sent
    /// nonsense is gone.
    pub(super) fn requests(&mut self, out: &mut Vec<(u32, Request)>) {
        self.clients.retain_mut(|(id, client)| {
            for _ in 0..REQUESTS_MAX {
                let mut buf = [0; PACKET_BYTES_MAX];
                match recv(client.fd.as_raw_fd(), &mut buf, MsgFlags::empty()) {
                    Ok(0) => return false,
                    Ok(n) => match Request::decode(&buf[..n]) {
                        Ok(request) => {
                            client.subscribed |= matches!(request, Request::Hello { .. });
                            out.push((*id, request));
                        }
                        Err(_) => return false,
                    },
                    Err(Errno::EAGAIN) => return true,
                    Err(Errno::EINTR) => {}
                    Err(_) => return false,
                }
            }
            true
        });
    }

    /// Answers one client.
    pub(super) fn reply(&mut self, to: u32, reply: &Reply) {
        let packet = reply.encode();
        self.clients.retain(|(id, client)| *id != to || deliver(client, packet.as_bytes()));
    }

    /// Tells every subscriber.
    pub(super) fn publish(&mut self, state: &State) {
        let packet = Reply::State(*state).encode();
        self.clients.retain(|(_, client)| !client.subscribed || deliver(client, packet.as_bytes()));
    }
}

/// False when the client must go.
fn deliver(client: &Client, packet: &[u8]) -> bool {
    send(client.fd.as_raw_fd(), packet, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT).is_ok()
}
