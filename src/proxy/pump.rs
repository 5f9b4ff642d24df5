//! Moves bytes one way through a flow: by copying while little passes, by splicing when much does.
//!
//! Edge-triggered: a source is read until the kernel has said, by a short read or by EAGAIN, that
//! nothing is left; a sink that is full is left alone until an event says otherwise. A flow that
//! passes small answers holds no buffer and no pipe: both are taken from a pool for as long as a
//! slow sink holds up bytes.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::libc;
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::pipe2;

/// Read at once while copying.
pub(super) const COPY_BYTES: usize = 32 * 1024;

/// Wanted in one pipe; the kernel may give less. Measured with 1 MB bodies: 64 KiB takes more calls,
/// from 256 KiB on the pages leave the cache before they are sent.
const PIPE_BYTES: usize = 128 * 1024;

/// Pipes in use at once; above it flows are copied.
pub(super) const PIPES_MAX: usize = 512;

/// Pipes that wait for the next bulk flow.
const PIPES_SPARE: usize = 16;

/// Buffers that wait for the next slow sink.
const KEPT_SPARE: usize = 16;

/// A flow lets the others go on after this many bytes.
const TURN_BYTES: usize = 1024 * 1024;

/// Splicing ends when the source has run dry after less than this.
const BULK_BYTES: usize = 16 * 1024;

/// One direction of a flow.
#[derive(Debug, Default)]
pub(super) struct Half {
    /// The source may hold bytes.
    pub(super) readable: bool,
    /// The source's end or failure has been announced: a short read is not the last.
    pub(super) ending: bool,
    /// The source has ended.
    pub(super) ended: bool,
    /// The sink has been told so.
    pub(super) shut: bool,
    /// The sink is full.
    pub(super) blocked: bool,
    /// Much passes: splice.
    bulk: bool,
    /// Spliced since the source was last dry.
    burst: usize,
    /// Bytes in the pipe.
    piped: usize,
    pipe: Option<Pipe>,
    kept: Option<Kept>,
    /// Passed since the flow began.
    pub(super) bytes: u64,
}

/// What is left of a read that the sink did not take.
#[derive(Debug)]
struct Kept {
    bytes: Box<[u8]>,
    from: usize,
    to: usize,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    bytes: usize,
}

/// What all flows share.
#[derive(Debug)]
pub(super) struct Tools {
    scratch: Box<[u8]>,
    pipes: Vec<Pipe>,
    pipes_out: usize,
    kept: Vec<Box<[u8]>>,
    /// Times a flow began to be spliced.
    pub(super) spliced: u64,
}

/// How far a direction came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing can be done until an event.
    Wait,
    /// More could be done; others first.
    Again,
    /// All has passed and the source has ended.
    End,
    /// The source failed: its peer reset the connection, or is dead.
    SourceFailed,
    /// The sink failed.
    SinkFailed,
}

impl Half {
    /// Whether bytes wait for the sink.
    pub(super) const fn holds_bytes(&self) -> bool {
        self.piped > 0 || self.kept.is_some()
    }

    /// Gives back what it holds.
    pub(super) fn release(&mut self, tools: &mut Tools) {
        if let Some(pipe) = self.pipe.take() {
            tools.give_pipe(pipe, self.piped == 0);
        }
        self.piped = 0;
        if let Some(kept) = self.kept.take() {
            tools.give_kept(kept.bytes);
        }
    }

    /// Moves what can be moved.
    pub(super) fn pump(
        &mut self,
        tools: &mut Tools,
        source: BorrowedFd<'_>,
        sink: BorrowedFd<'_>,
    ) -> Step {
        let step = self.run(tools, source, sink);
        if self.piped == 0
            && let Some(pipe) = self.pipe.take()
        {
            tools.give_pipe(pipe, true);
        }
        step
    }

    fn run(&mut self, tools: &mut Tools, source: BorrowedFd<'_>, sink: BorrowedFd<'_>) -> Step {
        let mut left = TURN_BYTES;
        loop {
            match self.flush(tools, sink) {
                Ok(()) => self.blocked = false,
                Err(Errno::EAGAIN) => {
                    self.blocked = true;
                    return Step::Wait;
                }
                Err(_) => return Step::SinkFailed,
            }
            if self.ended {
                return Step::End;
            }
            if !self.readable {
                return Step::Wait;
            }
            if left == 0 {
                return Step::Again;
            }
            let moved = if self.bulk && self.take_pipe(tools) {
                self.fill_pipe(source)
            } else {
                self.copy(tools, source, sink)
            };
            match moved {
                Ok(0) if !self.blocked => {}
                Ok(bytes) => left = left.saturating_sub(bytes),
                Err(Moved::Source) => return Step::SourceFailed,
                Err(Moved::Sink) => return Step::SinkFailed,
            }
            if self.blocked {
                return Step::Wait;
            }
        }
    }

    /// Writes what earlier turns left.
    fn flush(&mut self, tools: &mut Tools, sink: BorrowedFd<'_>) -> nix::Result<()> {
        while self.piped > 0 {
            let Some(pipe) = &self.pipe else { break };
            match splice_some(&pipe.read, sink, self.piped) {
                Ok(0) => return Err(Errno::EPIPE),
                Ok(bytes) => self.piped -= bytes,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        while let Some(kept) = &mut self.kept {
            match send(sink.as_raw_fd(), &kept.bytes[kept.from..kept.to], MsgFlags::MSG_NOSIGNAL) {
                Ok(bytes) => kept.from += bytes,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
            if kept.from == kept.to
                && let Some(kept) = self.kept.take()
            {
                tools.give_kept(kept.bytes);
            }
        }
        Ok(())
    }

    /// One read and one write through the shared buffer.
    fn copy(
        &mut self,
        tools: &mut Tools,
        source: BorrowedFd<'_>,
        sink: BorrowedFd<'_>,
    ) -> Result<usize, Moved> {
        let bytes = match recv(source.as_raw_fd(), &mut tools.scratch, MsgFlags::empty()) {
            Ok(0) => {
                self.ended = true;
                return Ok(0);
            }
            Ok(bytes) => bytes,
            Err(Errno::EAGAIN) => {
                self.readable = false;
                return Ok(0);
            }
            Err(Errno::EINTR) => return Ok(0),
            Err(_) => return Err(Moved::Source),
        };
        self.bytes += bytes as u64;
        if bytes < COPY_BYTES {
            self.readable = self.ending;
        } else if !self.bulk {
            self.bulk = true;
            tools.spliced += 1;
        }
        let mut sent = 0;
        while sent < bytes {
            match send(sink.as_raw_fd(), &tools.scratch[sent..bytes], MsgFlags::MSG_NOSIGNAL) {
                Ok(n) => sent += n,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.kept = Some(tools.keep(sent, bytes));
                    self.blocked = true;
                    break;
                }
                Err(_) => return Err(Moved::Sink),
            }
        }
        Ok(bytes)
    }

    /// From the source into the empty pipe.
    fn fill_pipe(&mut self, source: BorrowedFd<'_>) -> Result<usize, Moved> {
        let Some(pipe) = &self.pipe else { return Ok(0) };
        match splice_some(source, &pipe.write, pipe.bytes) {
            Ok(0) => {
                self.ended = true;
                Ok(0)
            }
            Ok(bytes) => {
                self.bytes += bytes as u64;
                self.piped = bytes;
                self.burst = self.burst.saturating_add(bytes);
                Ok(bytes)
            }
            // The pipe is empty, so it is the source that has nothing.
            Err(Errno::EAGAIN) => {
                self.readable = false;
                // An event without bytes says nothing about what passes.
                self.bulk = self.burst == 0 || self.burst >= BULK_BYTES;
                self.burst = 0;
                Ok(0)
            }
            Err(Errno::EINTR) => Ok(0),
            Err(_) => Err(Moved::Source),
        }
    }

    fn take_pipe(&mut self, tools: &mut Tools) -> bool {
        if self.pipe.is_none() {
            self.pipe = tools.take_pipe();
        }
        self.pipe.is_some()
    }
}

enum Moved {
    Source,
    Sink,
}

fn splice_some(
    from: impl std::os::fd::AsFd,
    to: impl std::os::fd::AsFd,
    bytes: usize,
) -> nix::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    splice(from, None, to, None, bytes, flags)
}

impl Tools {
    pub(super) fn new() -> Self {
        Self {
            scratch: vec![0; COPY_BYTES].into_boxed_slice(),
            pipes: Vec::new(),
            pipes_out: 0,
            kept: Vec::new(),
            spliced: 0,
        }
    }

    fn keep(&mut self, from: usize, to: usize) -> Kept {
        let mut bytes =
            self.kept.pop().unwrap_or_else(|| vec![0; COPY_BYTES].into_boxed_slice());
        let left = to - from;
        bytes[..left].copy_from_slice(&self.scratch[from..to]);
        Kept { bytes, from: 0, to: left }
    }

    fn give_kept(&mut self, bytes: Box<[u8]>) {
        if self.kept.len() < KEPT_SPARE {
            self.kept.push(bytes);
        }
    }

    fn take_pipe(&mut self) -> Option<Pipe> {
        let pipe = match self.pipes.pop() {
            Some(pipe) => pipe,
            None if self.pipes_out >= PIPES_MAX => return None,
            None => Pipe::open()?,
        };
        self.pipes_out += 1;
        Some(pipe)
    }

    fn give_pipe(&mut self, pipe: Pipe, empty: bool) {
        self.pipes_out -= 1;
        if empty && self.pipes.len() < PIPES_SPARE {
            self.pipes.push(pipe);
        }
    }
}

impl Pipe {
    /// `None` when the kernel has none to give: the flow is copied then.
    fn open() -> Option<Self> {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).ok()?;
        let wanted = libc::c_int::try_from(PIPE_BYTES).unwrap_or(libc::c_int::MAX);
        let given = match fcntl(&write, FcntlArg::F_SETPIPE_SZ(wanted)) {
            Ok(bytes) => bytes,
            Err(_) => fcntl(&write, FcntlArg::F_GETPIPE_SZ).ok()?,
        };
        Some(Self { read, write, bytes: usize::try_from(given).ok()? })
    }
}
