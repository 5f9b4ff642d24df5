//! A tiny web server that tells its host name: the face that runs inside the image `skep/hello`.
//!
//! One thread, one poll loop, a bounded number of connections with small buffers. HTTP/1.0 and
//! 1.1 with keep-alive and pipelining; every path gets the same answer. Ends on SIGTERM and
//! SIGINT, also as process 1, where signals without a handler are not delivered.

use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::gethostname;

/// The port when the variable `PORT` names none.
const DEFAULT_PORT: u16 = 80;

/// Connections at once; a further one takes the place of the longest idle one.
const CONNECTIONS_MAX: usize = 256;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Answers waiting for a client that does not read; beyond, its requests are not read either.
const PENDING_BYTES_MAX: usize = 16 * 1024;

/// A connection that neither asks nor reads for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(75);

/// Serves until a signal ends it.
#[must_use]
pub fn run() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // There is nobody to tell when even this fails.
            if writeln!(io::stderr(), "skep hello: {e}").is_err() {
                return ExitCode::from(2);
            }
            ExitCode::FAILURE
        }
    }
}

fn start() -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let stop = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let port = match env::var("PORT") {
        Ok(text) => text.parse().map_err(|_bad| {
            io::Error::new(ErrorKind::InvalidInput, format!("PORT={text} is not a port"))
        })?,
        Err(_not_set) => DEFAULT_PORT,
    };
    // [::] takes both kinds of addresses, unless the machine has no IPv6.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_no_ipv6| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on port {port}: {e}")))?;
    let name = gethostname()?.to_string_lossy().into_owned();
    writeln!(io::stderr(), "skep hello: {name} listens on port {port}")?;
    serve(&listener, &name, stop.as_fd())
}

/// Answers `Hello from NAME` on the listener until `stop` becomes readable.
///
/// # Errors
/// The poll loop itself fails; a connection's failure only ends that connection.
pub fn serve(listener: &TcpListener, name: &str, stop: BorrowedFd<'_>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let body = format!("Hello from {name}\n");
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let mut fds = Vec::with_capacity(connections.len() + 2);
        fds.push(PollFd::new(stop, PollFlags::POLLIN));
        fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        fds.extend(connections.iter().map(|c| PollFd::new(c.stream.as_fd(), c.interest())));
        let oldest = connections.iter().map(|c| c.last_use).min();
        let wait = oldest.map(|at| (at + IDLE_MAX).saturating_duration_since(Instant::now()));
        let timeout = wait.map_or(PollTimeout::NONE, |wait| {
            PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        if ready[0] {
            return Ok(());
        }
        let now = Instant::now();
        let mut index = 0;
        connections.retain_mut(|connection| {
            index += 1;
            let is_alive = !ready[index + 1] || connection.turn(&body, now);
            is_alive && now.saturating_duration_since(connection.last_use) < IDLE_MAX
        });
        if ready[1] {
            accept(listener, &mut connections, &body, now);
        }
    }
}

/// Takes what waits at the listener. Errors here are about one connection, or pass by themselves.
fn accept(listener: &TcpListener, connections: &mut Vec<Connection>, body: &str, now: Instant) {
    for _ in 0..CONNECTIONS_MAX {
        let Ok((stream, _)) = listener.accept() else { return };
        if stream.set_nonblocking(true).is_err() {
            continue;
        }
        if connections.len() >= CONNECTIONS_MAX
            && let Some((oldest, _)) = connections.iter().enumerate().min_by_key(|c| c.1.last_use)
        {
            connections.swap_remove(oldest);
        }
        let mut connection = Connection {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            body_left: 0,
            is_last: false,
            last_use: now,
        };
        if connection.turn(body, now) {
            connections.push(connection);
        }
    }
}

/// One client.
struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of a request's body that are still to be skipped.
    body_left: u64,
    /// Nothing more is read; closed once everything is written.
    is_last: bool,
    last_use: Instant,
}

impl Connection {
    fn interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::POLLIN, self.wants_input());
        interest.set(PollFlags::POLLOUT, !self.output.is_empty());
        interest
    }

    fn wants_input(&self) -> bool {
        !self.is_last && self.output.len() < PENDING_BYTES_MAX
    }

    /// Reads, answers and writes what can be; false when the connection is over.
    fn turn(&mut self, body: &str, now: Instant) -> bool {
        let mut buffer = [0u8; 4096];
        while self.wants_input() {
            match self.stream.read(&mut buffer) {
                // The client sends no more, but it may well read.
                Ok(0) => self.is_last = true,
                Ok(count) => {
                    self.last_use = now;
                    self.input.extend_from_slice(&buffer[..count]);
                    self.answer(body);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_gone) => return false,
            }
        }
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => {
                    self.last_use = now;
                    self.output.drain(..count);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_gone) => return false,
            }
        }
        !self.is_last
    }

    /// Answers every whole request in the input.
    fn answer(&mut self, body: &str) {
        while !self.is_last {
            let skipped = self.input.len().min(usize::try_from(self.body_left).unwrap_or(usize::MAX));
            self.input.drain(..skipped);
            self.body_left -= skipped as u64;
            let Some(end) = head_end(&self.input) else {
                if self.input.len() > HEAD_BYTES_MAX {
                    self.refuse("431 Request Header Fields Too Large");
                }
                return;
            };
            let head: Vec<u8> = self.input.drain(..end).collect();
            let Some(request) = Request::read(&head) else {
                self.refuse("400 Bad Request");
                return;
            };
            self.body_left = request.body_bytes;
            self.is_last = !request.keeps_alive;
            let connection = if request.keeps_alive { "keep-alive" } else { "close" };
            let content = if request.is_head { "" } else { body };
            self.output.extend_from_slice(
                format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\
                     Content-Length: {}\r\nConnection: {connection}\r\n\r\n{content}",
                    body.len()
                )
                .as_bytes(),
            );
        }
    }

    fn refuse(&mut self, status: &str) {
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        self.output.extend_from_slice(text.as_bytes());
        self.is_last = true;
    }
}

/// What of a request matters here.
struct Request {
    is_head: bool,
    keeps_alive: bool,
    body_bytes: u64,
}

impl Request {
    fn read(head: &[u8]) -> Option<Self> {
        let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let mut first = lines.next()?.split(|byte| *byte == b' ');
        let (method, _target, version) = (first.next()?, first.next()?, first.next()?);
        if first.next().is_some() || method.is_empty() || !version.starts_with(b"HTTP/1.") {
            return None;
        }
        let mut keeps_alive = version != b"HTTP/1.0";
        let (mut body_bytes, mut is_chunked) = (0, false);
        for line in lines.filter(|line| !line.is_empty()) {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = line[..colon].to_ascii_lowercase();
            let value = line[colon + 1..].trim_ascii().to_ascii_lowercase();
            match &name[..] {
                b"connection" if contains(&value, b"close") => keeps_alive = false,
                b"connection" if contains(&value, b"keep-alive") => keeps_alive = true,
                b"content-length" => body_bytes = std::str::from_utf8(&value).ok()?.parse().ok()?,
                b"transfer-encoding" => is_chunked = true,
                _ => {}
            }
        }
        // A body of unknown length is not read: the answer is the last one.
        keeps_alive &= !is_chunked;
        Some(Self { is_head: method == b"HEAD", keeps_alive, body_bytes })
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Where a request's head ends: after the first empty line.
fn head_end(input: &[u8]) -> Option<usize> {
    let crlf = input.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
    let lf = input.windows(2).position(|w| w == b"\n\n").map(|at| at + 2);
    match (crlf, lf) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, SocketAddr};
    use std::thread;

    use super::*;

    /// A server on a free port; ends when the second value is dropped or written to.
    fn server() -> (SocketAddr, io::PipeWriter, thread::JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let handle = thread::spawn(move || serve(&listener, "pi-1", reader.as_fd()));
        (address, writer, handle)
    }

    fn ask(address: SocketAddr, text: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn answers_all_kinds_of_clients_and_stops() {
        let (address, stop, handle) = server();
        let whole = ask(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(whole.starts_with("HTTP/1.1 200 OK\r\n"), "{whole}");
        assert!(whole.ends_with("Content-Length: 16\r\nConnection: keep-alive\r\n\r\nHello from pi-1\n"));
        let head = ask(address, "HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert!(head.contains("Content-Length: 16") && head.ends_with("\r\n\r\n"), "{head}");
        let two = ask(
            address,
            "POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.0\r\n\r\nGET /c HTTP/1.0\r\n\r\n",
        );
        assert_eq!(two.matches("Hello from pi-1").count(), 2, "the 1.0 request is the last: {two}");
        let kept = ask(address, "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        assert!(kept.contains("Connection: keep-alive"), "{kept}");
        assert!(ask(address, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
        assert!(ask(address, &"x".repeat(HEAD_BYTES_MAX + 1)).starts_with("HTTP/1.1 431"));
        drop(stop);
        handle.join().unwrap().unwrap();
    }

    #[test]
    fn slow_clients_and_many_clients_stall_nobody() {
        let (address, stop, handle) = server();
        let mut slow = TcpStream::connect(address).unwrap();
        slow.write_all(b"GET / HT").unwrap();
        let idle: Vec<_> =
            (0..CONNECTIONS_MAX * 2).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert!(ask(address, "GET / HTTP/1.1\r\n\r\n").contains("Hello from pi-1"));
        drop(idle);
        let mut greedy = TcpStream::connect(address).unwrap();
        greedy.set_nonblocking(true).unwrap();
        let request = b"GET / HTTP/1.1\r\n\r\n".repeat(1_000);
        let mut sent = 0;
        // Sends and never reads, until both ends' buffers are full or a bound is hit.
        while sent < 8 << 20 {
            match greedy.write(&request) {
                Ok(count) => sent += count,
                Err(_full) => break,
            }
        }
        assert!(ask(address, "GET / HTTP/1.1\r\n\r\n").contains("Hello from pi-1"));
        drop(stop);
        handle.join().unwrap().unwrap();
    }
}
