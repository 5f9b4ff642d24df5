//! The control socket: whole messages over a Unix seqpacket socket, descriptors beside them.
//!
//! Blocking with a deadline (the daemon's side) or not at all (the proxy's loop). Only processes
//! of the same user, or root, are listened to. No threads.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr, accept4, bind, connect, getsockopt, listen, recvmsg, sendmsg, setsockopt, socket,
    sockopt,
};

use crate::model::control::{BadMessage, Message, PACKET_BYTES_MAX};

/// Descriptors that the kernel passes with one packet (`SCM_MAX_FD`): with room for all of them
/// none is ever cut off and lost.
const DESCRIPTORS_MAX: usize = 253;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// The kernel must take a few packets of the largest size.
const SEND_BUFFER_BYTES: usize = 8 * PACKET_BYTES_MAX;

/// What failed on a control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The path does not fit into a socket address or is not reachable.
    #[error("cannot use the control socket {path}")]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        source: Errno,
    },
    /// Nobody listens there.
    #[error("nobody listens on the control socket {path}")]
    Nobody {
        /// The path.
        path: PathBuf,
        /// Why.
        source: Errno,
    },
    /// The other side belongs to another user.
    #[error("the control socket's other side runs as user {uid}; it is not listened to")]
    Stranger {
        /// Its user.
        uid: u32,
    },
    /// A system call failed.
    #[error("cannot {doing} on the control socket")]
    Io {
        /// Which.
        doing: &'static str,
        /// Why.
        source: Errno,
    },
    /// The other side is gone.
    #[error("the other side of the control socket is gone")]
    Gone,
    /// It did not answer in time.
    #[error("no answer on the control socket within {0:?}")]
    Late(Duration),
    /// It sent what is not a message.
    #[error("the other side of the control socket sent what is not a message")]
    Message(#[source] BadMessage),
    /// Its answer is a message, but not to what was asked.
    #[error("unexpected answer on the control socket: {0}")]
    Unexpected(String),
}

/// One end of a connection.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

/// A message and what travelled beside it.
#[derive(Debug)]
pub struct Received {
    /// The message.
    pub message: Message,
    /// The descriptors, in order.
    pub descriptors: Vec<OwnedFd>,
}

/// Opens a listening control socket at `path`, in one step and over whatever was there: whoever
/// holds the exec root's lock owns the path.
///
/// # Errors
/// When the path cannot be used.
pub fn listen_at(path: &Path) -> Result<OwnedFd, ControlError> {
    let at = |source: Errno| ControlError::Path { path: path.to_owned(), source };
    let fresh = path.with_extension(format!("sock.{}", std::process::id()));
    remove(&fresh).map_err(at)?;
    let fd = seqpacket(SockFlag::SOCK_NONBLOCK).map_err(at)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(&fresh).map_err(at)?).map_err(at)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    let placed = std::fs::set_permissions(&fresh, mode)
        .map_err(|e| errno_of(&e))
        .and_then(|()| listen(&fd, Backlog::new(BACKLOG)?))
        .and_then(|()| std::fs::rename(&fresh, path).map_err(|e| errno_of(&e)));
    if let Err(errno) = placed {
        remove(&fresh).map_err(at)?;
        return Err(at(errno));
    }
    Ok(fd)
}

/// Takes one waiting connection; `None` when there is none.
///
/// # Errors
/// When it cannot be taken, or belongs to another user (it is closed then).
pub fn accept_at(listener: BorrowedFd<'_>) -> Result<Option<Channel>, ControlError> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    match accept4(listener.as_raw_fd(), flags) {
        Ok(raw) => {
            // SAFETY: the kernel has just made this descriptor and nobody else knows it.
            let fd = unsafe { OwnedFd::from_raw_fd(raw) };
            Channel::checked(fd).map(Some)
        }
        Err(Errno::EAGAIN | Errno::ECONNABORTED | Errno::EINTR) => Ok(None),
        Err(source) => Err(ControlError::Io { doing: "accept a connection", source }),
    }
}

impl Channel {
    /// Connects to whoever listens at `path`.
    ///
    /// # Errors
    /// [`ControlError::Nobody`] when nobody listens there.
    pub fn connect(path: &Path) -> Result<Self, ControlError> {
        let at = |source: Errno| ControlError::Path { path: path.to_owned(), source };
        let fd = seqpacket(SockFlag::SOCK_NONBLOCK).map_err(at)?;
        let addr = UnixAddr::new(path).map_err(at)?;
        match connect(fd.as_raw_fd(), &addr) {
            Ok(()) => Self::checked(fd),
            Err(source @ (Errno::ENOENT | Errno::ECONNREFUSED)) => {
                Err(ControlError::Nobody { path: path.to_owned(), source })
            }
            Err(source) => Err(at(source)),
        }
    }

    fn checked(fd: OwnedFd) -> Result<Self, ControlError> {
        let failed = |doing| move |source| ControlError::Io { doing, source };
        let peer = getsockopt(&fd, sockopt::PeerCredentials).map_err(failed("ask who connects"))?;
        let own = nix::unistd::geteuid().as_raw();
        if peer.uid() != 0 && peer.uid() != own {
            return Err(ControlError::Stranger { uid: peer.uid() });
        }
        let room = failed("make room");
        setsockopt(&fd, sockopt::SndBuf, &SEND_BUFFER_BYTES).map_err(room)?;
        Ok(Self { fd })
    }

    /// Sends without waiting; false when the other side does not keep up.
    ///
    /// # Errors
    /// [`ControlError::Gone`] when the other side is gone.
    pub fn try_send(
        &self,
        message: &Message,
        beside: &[BorrowedFd<'_>],
    ) -> Result<bool, ControlError> {
        let packet = message.encode().map_err(ControlError::Message)?;
        let raw: Vec<RawFd> = beside.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let cmsgs = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        let iov = [IoSlice::new(&packet)];
        match sendmsg::<()>(self.fd.as_raw_fd(), &iov, cmsgs, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Err(ControlError::Gone),
            Err(source) => Err(ControlError::Io { doing: "send", source }),
        }
    }

    /// Receives without waiting; `None` when nothing is there.
    ///
    /// # Errors
    /// [`ControlError::Gone`] at the end, [`ControlError::Message`] when it is not a message.
    pub fn try_recv(&self) -> Result<Option<Received>, ControlError> {
        let mut packet = vec![0u8; PACKET_BYTES_MAX + 1];
        let mut space = cmsg_space!([RawFd; DESCRIPTORS_MAX]);
        let (length, flags, descriptors) = {
            let mut iov = [IoSliceMut::new(&mut packet)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.fd.as_raw_fd(), &mut iov, Some(&mut space), flags) {
                Ok(got) => (got.bytes, got.flags, owned(&got)?),
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
                Err(Errno::ECONNRESET | Errno::ENOTCONN) => return Err(ControlError::Gone),
                Err(source) => return Err(ControlError::Io { doing: "receive", source }),
            }
        };
        if length == 0 {
            return Err(ControlError::Gone);
        }
        if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
            return Err(ControlError::Message(BadMessage::Long(length)));
        }
        let message = Message::decode(&packet[..length]).map_err(ControlError::Message)?;
        Ok(Some(Received { message, descriptors }))
    }

    /// Sends and waits until the other side keeps up.
    ///
    /// # Errors
    /// [`ControlError::Late`] at `deadline`.
    pub fn send(&self, message: &Message, until: Deadline) -> Result<(), ControlError> {
        self.send_beside(message, &[], until)
    }

    /// Sends with descriptors and waits until the other side keeps up.
    ///
    /// # Errors
    /// [`ControlError::Late`] at `deadline`.
    pub fn send_beside(
        &self,
        message: &Message,
        beside: &[BorrowedFd<'_>],
        until: Deadline,
    ) -> Result<(), ControlError> {
        while !self.try_send(message, beside)? {
            self.wait(PollFlags::POLLOUT, until)?;
        }
        Ok(())
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// [`ControlError::Late`] at `deadline`.
    pub fn recv(&self, until: Deadline) -> Result<Received, ControlError> {
        loop {
            if let Some(received) = self.try_recv()? {
                return Ok(received);
            }
            self.wait(PollFlags::POLLIN, until)?;
        }
    }

    fn wait(&self, flags: PollFlags, until: Deadline) -> Result<(), ControlError> {
        let left = until.at.saturating_duration_since(Instant::now());
        // Rounded up, so that the last part of a millisecond is slept and not spun.
        let millis = u16::try_from(left.as_micros().div_ceil(1_000)).unwrap_or(u16::MAX);
        match poll(&mut [PollFd::new(self.fd.as_fd(), flags)], PollTimeout::from(millis)) {
            Ok(0) if left.is_zero() => Err(ControlError::Late(until.span)),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(source) => Err(ControlError::Io { doing: "wait", source }),
        }
    }
}

/// A connection that another process made and handed over.
impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// When to stop waiting, and for how long it was, to tell so.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    span: Duration,
}

impl Deadline {
    /// This long from now.
    #[must_use]
    pub fn after(span: Duration) -> Self {
        Self { at: Instant::now() + span, span }
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.at
    }

    /// What is left, zero when it is over.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// The error that says so.
    #[must_use]
    pub const fn late(&self) -> ControlError {
        ControlError::Late(self.span)
    }
}

fn owned(
    got: &nix::sys::socket::RecvMsg<'_, '_, ()>,
) -> Result<Vec<OwnedFd>, ControlError> {
    let mut descriptors = Vec::new();
    let failed = |source| ControlError::Io { doing: "receive descriptors", source };
    for cmsg in got.cmsgs().map_err(failed)? {
        if let ControlMessageOwned::ScmRights(raw) = cmsg {
            // SAFETY: the kernel has just made these descriptors for this process.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(descriptors)
}

fn seqpacket(extra: SockFlag) -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | extra, None)
}

fn remove(path: &Path) -> nix::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(errno_of(&e)),
        _ => Ok(()),
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))
}
