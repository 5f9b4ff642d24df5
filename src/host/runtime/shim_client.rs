//! The daemon's side of a shim's socket: blocking calls with time limits.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket,
};
use nix::sys::stat::Mode;

use super::error::RuntimeError;
use crate::base::shim_wire::{PACKET_BYTES_MAX, Phase, Reply, Request, State, VERSION};

/// A connection to one shim.
#[derive(Debug)]
pub(super) struct ShimClient {
    fd: OwnedFd,
}

fn failed(doing: &str, err: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::Shim(format!("does not answer ({doing}: {err})"))
}

impl ShimClient {
    /// None when nobody takes connections in the folder `dir`: nobody is there, or it is a shim
    /// that has not taken earlier ones for so long that no more can wait. Never blocks.
    pub(super) fn connect(dir: &Path) -> Result<Option<Self>, RuntimeError> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let dir = match nix::fcntl::open(dir, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            other => other.map_err(|err| failed("open its folder", err))?,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
            .map_err(|err| failed("make a socket", err))?;
        // Short whatever the exec root is: a socket's address has room for 107 bytes.
        let path = format!("/proc/self/fd/{}/shim.sock", dir.as_raw_fd());
        let address = UnixAddr::new(path.as_str()).map_err(|err| failed("make an address", err))?;
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => Ok(Some(Self { fd })),
            Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::EAGAIN) => Ok(None),
            Err(err) => Err(failed("connect", err)),
        }
    }

    /// Says hello: the shim answers with its state and tells of every change from here on.
    pub(super) fn hello(&self) -> Result<(), RuntimeError> {
        self.send(Request::Hello { version: VERSION })
    }

    /// That the shim has left meanwhile is no error here: the next `receive` tells it.
    pub(super) fn send(&self, request: Request) -> Result<(), RuntimeError> {
        let packet = request.encode();
        match send(self.fd.as_raw_fd(), packet.as_bytes(), MsgFlags::MSG_NOSIGNAL) {
            Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            Err(err) => Err(failed("send", err)),
        }
    }

    /// The next message, or none when the shim has gone or the time is up.
    pub(super) fn receive(&self, until: Instant) -> Result<Received, RuntimeError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut polls = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polls, timeout) {
                Ok(0) if left.is_zero() => return Ok(Received::Late),
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(err) => return Err(failed("poll", err)),
            }
            let mut buf = [0; PACKET_BYTES_MAX];
            return match recv(self.fd.as_raw_fd(), &mut buf, MsgFlags::MSG_DONTWAIT) {
                Ok(0) | Err(Errno::ECONNRESET | Errno::EPIPE) => Ok(Received::Gone),
                Ok(n) => {
                    Reply::decode(&buf[..n]).map(Received::Reply).map_err(|err| failed("read", err))
                }
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(err) => Err(failed("read", err)),
            };
        }
    }

    /// Waits until the shim's state satisfies `done`. None when the shim went before.
    pub(super) fn wait_state(
        &self,
        limit: Duration,
        done: impl Fn(&State) -> bool,
    ) -> Result<Option<State>, RuntimeError> {
        let until = Instant::now() + limit;
        loop {
            match self.receive(until)? {
                Received::Reply(Reply::State(state)) if done(&state) => return Ok(Some(state)),
                Received::Reply(_) => {}
                Received::Gone => return Ok(None),
                Received::Late => {
                    return Err(RuntimeError::Shim(format!(
                        "did not get on within {} s",
                        limit.as_secs()
                    )));
                }
            }
        }
    }

    /// Sends a request and waits for its own answer.
    pub(super) fn ask(&self, request: Request, limit: Duration) -> Result<Answer, RuntimeError> {
        self.send(request)?;
        let until = Instant::now() + limit;
        loop {
            match self.receive(until)? {
                Received::Reply(Reply::Done { errno: 0, .. }) => return Ok(Answer::Done),
                Received::Reply(Reply::Done { errno, text, .. }) => {
                    return Ok(Answer::Refused {
                        errno: Errno::from_raw(i32::from(errno)),
                        text: text.as_str().to_owned(),
                    });
                }
                Received::Reply(Reply::State(_)) => {}
                Received::Gone => return Ok(Answer::Gone),
                Received::Late => return Err(failed("wait", io::ErrorKind::TimedOut)),
            }
        }
    }
}

/// What came over the socket.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "lives on the stack for one turn")]
pub(super) enum Received {
    Reply(Reply),
    Gone,
    Late,
}

/// How a request went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    Refused { errno: Errno, text: String },
    /// There is no shim any more.
    Gone,
}

impl AsFd for ShimClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Nothing more will change.
pub(super) fn is_final(state: &State) -> bool {
    matches!(state.phase, Phase::Exited | Phase::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::socketpair;

    /// A container that ends at once is over, and its shim gone, before its start was asked about.
    #[test]
    fn a_shim_that_left_is_gone_and_no_error() {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (fd, shim) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("socketpair");
        let client = ShimClient { fd };
        drop(shim);
        client.hello().expect("not an error");
        let state = client.wait_state(Duration::from_secs(5), |_| true).expect("not an error");
        assert_eq!(state, None);
        assert_eq!(client.ask(Request::Start, Duration::from_secs(5)).expect("told"), Answer::Gone);
    }
}
