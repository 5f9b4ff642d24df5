//! One client's connection: request after request, each handed to the server behind.

use std::cell::Cell;
use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use smol::future::or;
use smol::io::AsyncWriteExt;

use super::Shared;
use super::chunk::ChunkDecoder;
use super::head::{self, Framing, RequestHead, ResponseHead};
use crate::api::respond;

/// Bytes moved at once.
const COPY_BYTES: usize = 16 << 10;

/// Largest head of a response.
const RESPONSE_HEAD_BYTES_MAX: usize = 64 << 10;

/// How often a client that only waits is looked at: is it still there?
const GONE_EVERY: Duration = Duration::from_secs(1);

/// After an early answer, how long the rest of what the client sends is swallowed, so that it gets
/// to read the answer.
const LINGER: Duration = Duration::from_secs(2);

/// What to do with the connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Next,
    Close,
    /// The client may still be sending.
    Linger,
}

/// An answer of the front's own; the connection ends with it.
struct Refusal {
    status: u16,
    message: String,
}

impl Refusal {
    fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

/// Writes the answer to one connection too many. Never waits: a client whose socket has no room
/// for it is not told.
pub(super) fn tell_full(stream: &Async<UnixStream>, limit: usize) -> bool {
    let message = format!("too many API connections: {limit} are open; try again later");
    let text = respond::plain_error(503, &message);
    match stream.get_ref().write_all(text.as_bytes()) {
        Ok(()) => true,
        Err(error) => {
            log::debug!("turning an API client away: {error}");
            false
        }
    }
}

/// Serves one client until either side ends.
pub(super) async fn serve(
    stream: Async<UnixStream>,
    id: u64,
    silent: &Cell<Option<Instant>>,
    shared: &Shared,
) {
    let mut buffer = Vec::new();
    loop {
        silent.set(Some(Instant::now()));
        let head = read_head(&stream, &mut buffer, shared).await;
        silent.set(None);
        let after = match head {
            Ok(None) => After::Close,
            Ok(Some(head)) => {
                shared.clients.enter(id);
                let result = exchange(&stream, &mut buffer, &head, id, shared).await;
                shared.clients.leave(id);
                match result {
                    Ok(after) => after,
                    Err(refusal) => refuse(&stream, &refusal, shared).await,
                }
            }
            Err(refusal) => refuse(&stream, &refusal, shared).await,
        };
        match after {
            After::Next => {}
            After::Close => return,
            After::Linger => return linger(&stream).await,
        }
    }
}

/// Reads up to the end of a head; `None` when the client left or stayed silent before it.
async fn read_head(
    stream: &Async<UnixStream>,
    buffer: &mut Vec<u8>,
    shared: &Shared,
) -> Result<Option<RequestHead>, Refusal> {
    let limits = &shared.limits;
    let mut deadline = Instant::now() + limits.idle_time;
    let (mut started, mut seen) = (false, 0);
    loop {
        if !buffer.is_empty() && !started {
            started = true;
            deadline = Instant::now() + limits.head_time;
        }
        // Parsing is tried on the first bytes, for garbage, and at a blank line: not on each byte.
        if started && (seen == 0 || blank_line(buffer, seen)) {
            match head::parse_request(buffer) {
                Ok(Some((head, len))) => {
                    buffer.drain(..len);
                    return Ok(Some(head));
                }
                Ok(None) => {}
                Err(error) => return Err(Refusal::new(error.status(), error.to_string())),
            }
        }
        seen = buffer.len();
        if seen >= limits.head_bytes {
            let text = format!("the request's head is larger than {} bytes", limits.head_bytes);
            return Err(Refusal::new(431, text));
        }
        let room = (limits.head_bytes - seen).min(COPY_BYTES);
        match before(deadline, read_more(stream, buffer, room)).await {
            Some(Ok(1..)) => {}
            Some(Ok(0) | Err(_)) => return Ok(None),
            None if started => {
                return Err(Refusal::new(408, "the request's head did not arrive in time"));
            }
            None => return Ok(None),
        }
    }
}

/// Whether a blank line ends at or after `from`.
fn blank_line(buffer: &[u8], from: usize) -> bool {
    let tail = &buffer[from.saturating_sub(3)..];
    tail.windows(2).any(|two| two == b"\n\n") || tail.windows(4).any(|four| four == b"\r\n\r\n")
}

/// One request and its answer.
async fn exchange(
    stream: &Async<UnixStream>,
    buffer: &mut Vec<u8>,
    head: &RequestHead,
    id: u64,
    shared: &Shared,
) -> Result<After, Refusal> {
    let path = head.plain_path();
    if head.upgrade && wants_duplex(path) {
        return Err(Refusal::new(501, format!("not implemented: {} {path}", head.method)));
    }
    let place = if head.lasts() { Some(shared.place()) } else { None };
    if matches!(place, Some(None)) {
        return Err(Refusal::new(503, too_many_streams(shared.limits.streams)));
    }
    let load = path == "/images/load";
    let limit = if load { shared.limits.load_bytes } else { shared.limits.body_bytes };
    if let Framing::Length(length) = head.framing
        && length > limit
    {
        return Err(too_large(limit));
    }
    // The server behind gets the length of an archive in chunks: it would make a buffer of the
    // announced size for what a handler leaves unread.
    let framing = match head.framing {
        Framing::Length(_) if load => Framing::Chunked,
        other => other,
    };
    let upstream = match Async::<UnixStream>::connect(&shared.upstream).await {
        Ok(upstream) => upstream,
        Err(error) => return Err(Refusal::new(500, format!("reaching the API server: {error}"))),
    };
    let text = head.to_upstream(id, framing);
    if let Err(error) = (&upstream).write_all(text.as_bytes()).await {
        return Err(Refusal::new(500, format!("passing the request on: {error}")));
    }

    let progress = Progress::default();
    let write_time = shared.limits.write_time;
    let mut answer = pin!(pass_answer(&upstream, stream, head, &progress, write_time));
    let body = async {
        let mut body = Body { stream, buffer, upstream: &upstream, shared, limit, load };
        let result = body.pass(head.framing, framing).await;
        progress.body_done.set(result.is_ok());
        First::Body(result)
    };
    // The body first: with it out of the way the connection can be kept.
    let first = or(body, async { First::Answer((&mut answer).await) }).await;
    match first {
        // The answer came before the body's end.
        First::Answer(Ok(_)) => Ok(After::Linger),
        First::Answer(Err(_)) => Ok(After::Close),
        First::Body(Ok(())) => {
            let watched = or(async { Some(answer.await) }, async {
                gone(stream).await;
                None
            });
            match watched.await {
                Some(Ok(true)) if head.keep_alive => Ok(After::Next),
                Some(Err(refusal)) if !progress.answering.get() => Err(refusal),
                Some(Ok(_) | Err(_)) | None => Ok(After::Close),
            }
        }
        First::Body(Err(Some(refusal))) if !progress.answering.get() => Err(refusal),
        First::Body(Err(_)) => Ok(After::Close),
    }
}

enum First {
    Answer(Result<bool, Refusal>),
    Body(Result<(), Option<Refusal>>),
}

/// How far an exchange is.
#[derive(Default)]
struct Progress {
    /// The whole body is passed on.
    body_done: Cell<bool>,
    /// Some of the answer is sent.
    answering: Cell<bool>,
}

/// Endpoints that talk in both directions at once.
fn wants_duplex(path: &str) -> bool {
    path.ends_with("/attach") || path.starts_with("/exec/") || path == "/session" || path == "/grpc"
}

fn too_many_streams(limit: usize) -> String {
    format!(
        "too many streams: {limit} followed logs, pulls and loads are under way; end one of them, \
         or try again later"
    )
}

fn too_large(limit: u64) -> Refusal {
    Refusal::new(413, format!("the request's body is too large: at most {limit} bytes are taken"))
}

/// A request's body on its way to the server behind.
struct Body<'a> {
    stream: &'a Async<UnixStream>,
    buffer: &'a mut Vec<u8>,
    upstream: &'a Async<UnixStream>,
    shared: &'a Shared,
    limit: u64,
    load: bool,
}

impl Body<'_> {
    /// Passes the whole body on. `Err(None)`: the client is gone.
    async fn pass(&mut self, from: Framing, to: Framing) -> Result<(), Option<Refusal>> {
        let mut deadline = Instant::now() + self.shared.limits.body_time;
        let (mut decoder, mut payload) = (ChunkDecoder::default(), Vec::new());
        let mut total = 0u64;
        loop {
            payload.clear();
            let done = match from {
                Framing::None => true,
                Framing::Length(length) => {
                    let left = usize::try_from(length - total).unwrap_or(usize::MAX);
                    payload.extend(self.buffer.drain(..left.min(self.buffer.len())));
                    total + payload.len() as u64 == length
                }
                Framing::Chunked => {
                    let used = decoder
                        .decode(self.buffer, &mut payload)
                        .map_err(|bad| Some(Refusal::new(400, bad.to_string())))?;
                    self.buffer.drain(..used);
                    decoder.is_done()
                }
            };
            total += payload.len() as u64;
            if total > self.limit {
                return Err(Some(too_large(self.limit)));
            }
            if !self.send(&payload, to, done).await || done {
                // Where the server behind does not want the rest, its answer says why.
                return if done { Ok(()) } else { std::future::pending().await };
            }
            if self.load {
                deadline = Instant::now() + self.shared.limits.body_time;
            }
            match before(deadline, read_more(self.stream, self.buffer, COPY_BYTES)).await {
                Some(Ok(1..)) => {}
                Some(Ok(0) | Err(_)) => return Err(None),
                None => {
                    let text = "the request's body did not arrive in time";
                    return Err(Some(Refusal::new(408, text)));
                }
            }
        }
    }

    /// Sends a piece; false when the server behind has stopped reading.
    async fn send(&self, payload: &[u8], to: Framing, last: bool) -> bool {
        let mut piece = Vec::with_capacity(payload.len() + 32);
        match to {
            Framing::None => {}
            Framing::Length(_) => piece.extend_from_slice(payload),
            Framing::Chunked => {
                if !payload.is_empty() {
                    piece.extend(format!("{:x}\r\n", payload.len()).bytes());
                    piece.extend_from_slice(payload);
                    piece.extend(b"\r\n");
                }
                if last {
                    piece.extend(b"0\r\n\r\n");
                }
            }
        }
        let mut upstream = self.upstream;
        upstream.write_all(&piece).await.is_ok()
    }
}

/// Passes the answer to the client. True when its end was clear, so that another may follow.
async fn pass_answer(
    upstream: &Async<UnixStream>,
    stream: &Async<UnixStream>,
    request: &RequestHead,
    progress: &Progress,
    write_time: Duration,
) -> Result<bool, Refusal> {
    let broken = || Refusal::new(500, "the API server ended without an answer");
    let mut buffer = Vec::new();
    let head: ResponseHead = loop {
        match head::parse_response(&buffer, &request.method) {
            Ok(Some((head, len))) => {
                buffer.drain(..len);
                if head.status >= 200 {
                    break head;
                }
                let text = head.to_client(true);
                write(stream, text.as_bytes(), write_time).await?;
                continue;
            }
            Ok(None) if buffer.len() < RESPONSE_HEAD_BYTES_MAX => {}
            Ok(None) | Err(_) => return Err(broken()),
        }
        match read_more(upstream, &mut buffer, COPY_BYTES).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Err(broken()),
        }
    };
    progress.answering.set(true);
    let keep = request.keep_alive && head.framing.is_some() && progress.body_done.get();
    write(stream, head.to_client(keep).as_bytes(), write_time).await?;
    let mut end = End::new(head.framing);
    loop {
        end.take(&buffer);
        write(stream, &buffer, write_time).await?;
        buffer.clear();
        if end.reached_early() {
            return Ok(true);
        }
        match read_more(upstream, &mut buffer, COPY_BYTES).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Ok(end.reached_at_close()),
        }
    }
}

/// Watches an answer go by for its end.
struct End {
    framing: Option<Framing>,
    total: u64,
    tail: Vec<u8>,
}

impl End {
    const LAST_CHUNK: &'static [u8] = b"0\r\n\r\n";

    const fn new(framing: Option<Framing>) -> Self {
        Self { framing, total: 0, tail: Vec::new() }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        self.tail.extend(&bytes[bytes.len().saturating_sub(Self::LAST_CHUNK.len())..]);
        let over = self.tail.len().saturating_sub(Self::LAST_CHUNK.len());
        self.tail.drain(..over);
    }

    fn reached_early(&self) -> bool {
        match self.framing {
            Some(Framing::None) => true,
            Some(Framing::Length(length)) => self.total >= length,
            Some(Framing::Chunked) | None => false,
        }
    }

    fn reached_at_close(&self) -> bool {
        self.framing == Some(Framing::Chunked) && self.tail == Self::LAST_CHUNK
    }
}

async fn refuse(stream: &Async<UnixStream>, refusal: &Refusal, shared: &Shared) -> After {
    let text = respond::plain_error(refusal.status, &refusal.message);
    match write(stream, text.as_bytes(), shared.limits.write_time).await {
        Ok(()) => After::Linger,
        Err(_) => After::Close,
    }
}

/// Writes it all, or fails when the client takes nothing for too long.
async fn write(stream: &Async<UnixStream>, bytes: &[u8], limit: Duration) -> Result<(), Refusal> {
    let gone = || Refusal::new(499, "the client is gone");
    let (mut rest, mut writer) = (bytes, stream);
    while !rest.is_empty() {
        let deadline = Instant::now() + limit;
        match before(deadline, writer.write(rest)).await {
            Some(Ok(n @ 1..)) => rest = &rest[n..],
            Some(Ok(0) | Err(_)) | None => return Err(gone()),
        }
    }
    Ok(())
}

/// Reads at most `room` bytes more; 0 at the end. Dropped while it waits, it has read nothing.
async fn read_more(
    stream: &Async<UnixStream>,
    buffer: &mut Vec<u8>,
    room: usize,
) -> io::Result<usize> {
    loop {
        match read_now(stream.get_ref(), buffer, room) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn read_now(mut stream: &UnixStream, buffer: &mut Vec<u8>, room: usize) -> io::Result<usize> {
    let mut piece = [0; COPY_BYTES];
    let room = room.min(COPY_BYTES);
    let n = stream.read(&mut piece[..room])?;
    buffer.extend_from_slice(&piece[..n]);
    Ok(n)
}

/// Returns when the client has closed its end for good. One that only stopped sending still
/// waits for its answer.
async fn gone(stream: &Async<UnixStream>) {
    loop {
        Timer::after(GONE_EVERY).await;
        let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(0) | Err(_) => {}
            Ok(_) => return,
        }
    }
}

/// Shuts the writing side and swallows what still comes, for a moment.
pub(super) async fn linger(stream: &Async<UnixStream>) {
    if stream.get_ref().shutdown(Shutdown::Write).is_err() {
        return;
    }
    let deadline = Instant::now() + LINGER;
    let mut buffer = Vec::new();
    while let Some(Ok(1..)) = before(deadline, read_more(stream, &mut buffer, COPY_BYTES)).await {
        buffer.clear();
    }
}

/// `None` when the deadline passes first.
async fn before<T>(deadline: Instant, work: impl Future<Output = T>) -> Option<T> {
    or(async { Some(work.await) }, async {
        Timer::at(deadline).await;
        None
    })
    .await
}
