//! A daemon made of canned answers: a real unix socket, one request per connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// `GET /v1.51/services`, with the query.
    pub(super) line: String,
    /// The whole body, chunks joined.
    pub(super) body: Vec<u8>,
}

/// Answers requests whose line contains the first text with status and body; the first that fits.
pub(super) struct Mock {
    socket: PathBuf,
    seen: Arc<Mutex<Vec<Request>>>,
    thread: Option<JoinHandle<()>>,
}

/// What is answered.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// A status and a JSON body.
    Json(u16, String),
    /// Bytes in chunks of three, then the end.
    Chunks(Vec<u8>),
    /// These bytes and nothing else.
    Raw(Vec<u8>),
}

impl Mock {
    pub(super) fn start(routes: Vec<(&'static str, Answer)>) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("skep-cli-{}-{number}.sock", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&socket).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            let routes = Arc::new(routes);
            for connection in listener.incoming() {
                let Ok(connection) = connection else { return };
                let Some(request) = read_request(&connection) else { return };
                let (routes, log) = (Arc::clone(&routes), Arc::clone(&log));
                // Of its own thread: a client may ask for more while it reads a stream.
                std::thread::spawn(move || answer(connection, request, &routes, &log));
            }
        });
        Self { socket, seen, thread: Some(thread) }
    }

    pub(super) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// A command that talks to this daemon.
    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = skep(args);
        command.env("SKEP_HOST", self.host());
        command
    }

    /// Runs a command to its end.
    pub(super) fn run(&self, args: &[&str]) -> String {
        shown(&self.command(args).stdin(Stdio::null()).output().unwrap())
    }

    /// What was asked so far.
    pub(super) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// The body of the only request whose line contains `text`, as JSON.
    pub(super) fn sent(&self, text: &str) -> serde_json::Value {
        let seen = self.seen();
        let mut found = seen.iter().filter(|request| request.line.contains(text));
        let request = found.next().unwrap_or_else(|| panic!("no {text} in {seen:?}"));
        assert!(found.next().is_none(), "{text} was sent twice");
        serde_json::from_slice(&request.body).unwrap()
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let stopped = UnixStream::connect(&self.socket).map(|mut s| s.write_all(b"STOP\r\n\r\n"));
        if stopped.is_ok()
            && let Some(thread) = self.thread.take()
        {
            thread.join().unwrap();
        }
        std::fs::remove_file(&self.socket).unwrap();
    }
}

/// The program without a daemon.
pub(super) fn skep(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skep"));
    command.args(args).env_remove("SKEP_HOST").env_remove("COLUMNS");
    command
}

/// Both outputs and the exit code, as the transcripts show them.
pub(super) fn shown(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        text.push_str(&format!("[stderr] {line}\n"));
    }
    text + &format!("[rc={}]\n", output.status.code().unwrap_or(-1))
}

/// The next request; none when the mock is to stop.
fn read_request(connection: &UnixStream) -> Option<Request> {
    let mut from = BufReader::new(connection.try_clone().unwrap());
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let line = head.lines().next().unwrap_or("").trim_end_matches(" HTTP/1.1").to_owned();
    if line == "STOP" {
        return None;
    }
    let mut body = Vec::new();
    if head.contains("Transfer-Encoding: chunked") {
        read_chunks(&mut from, &mut body);
    } else if let Some(length) = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")) {
        body.resize(length.trim().parse().unwrap(), 0);
        from.read_exact(&mut body).unwrap();
    }
    Some(Request { line, body })
}

fn answer(
    mut out: UnixStream,
    request: Request,
    routes: &[(&'static str, Answer)],
    log: &Mutex<Vec<Request>>,
) {
    let found = routes.iter().find(|(text, _)| request.line.contains(text));
    let none = Answer::Json(404, r#"{"message":"page not found"}"#.to_owned());
    let answer = found.map_or(none, |(_, answer)| answer.clone());
    log.lock().unwrap().push(request);
    // A client that went away is its own business.
    drop(write_answer(&mut out, &answer));
}

fn write_answer(out: &mut UnixStream, answer: &Answer) -> std::io::Result<()> {
    match answer {
        Answer::Json(status, body) => write!(
            out,
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
        Answer::Chunks(bytes) => {
            write!(out, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for chunk in bytes.chunks(3) {
                write!(out, "{:x}\r\n", chunk.len())?;
                out.write_all(chunk)?;
                write!(out, "\r\n")?;
            }
            write!(out, "0\r\n\r\n")
        }
        Answer::Raw(bytes) => out.write_all(bytes),
    }
}

fn read_chunks(from: &mut impl BufRead, body: &mut Vec<u8>) {
    loop {
        let mut size = String::new();
        if from.read_line(&mut size).unwrap() == 0 {
            // The client could not read what it was to send.
            return;
        }
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        from.read_exact(&mut chunk).unwrap();
        if size == 0 {
            return;
        }
        body.extend_from_slice(&chunk[..size]);
    }
}
