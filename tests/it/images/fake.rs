//! A registry that does what the test says: breaks off, refuses, asks for tokens, lies.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// One request as it came.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) line: String,
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, String>,
}

/// One answer; `send` cuts the body, the head tells of all of it.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) send: usize,
    /// The body comes slowly.
    pub(super) trickle: Option<Trickle>,
}

/// How a body comes slowly.
#[derive(Clone, Debug)]
pub(super) struct Trickle {
    pub(super) bytes: usize,
    pub(super) pause: Duration,
    /// From here on it comes as fast as it can.
    pub(super) until: Arc<AtomicBool>,
}

impl Answer {
    pub(super) fn new(status: u16, body: &[u8]) -> Self {
        Self { status, headers: Vec::new(), body: body.to_vec(), send: usize::MAX, trickle: None }
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl Answer {
    pub(super) fn trickle(self, trickle: &Trickle) -> Self {
        Self { trickle: Some(trickle.clone()), ..self }
    }
}

type Handler = dyn Fn(&Request, usize) -> Answer + Send + Sync;

/// Answers on loopback, a thread per connection, until the process ends.
pub(super) struct Fake {
    pub(super) address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    /// `handler` gets the request and how many with the same line came before.
    pub(super) fn start(
        handler: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (handler, shared): (Arc<Handler>, _) = (Arc::new(handler), log.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (handler, log) = (handler.clone(), shared.clone());
                thread::spawn(move || talk(stream.unwrap(), &*handler, &log));
            }
        });
        Self { address, log }
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }
}

/// One request per connection; what does not look like HTTP (a TLS hello) is cut off.
fn talk(mut stream: TcpStream, handler: &Handler, log: &Mutex<Vec<Request>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let request = Request { line: line.trim().to_owned(), path, headers };
    let before = {
        let mut log = log.lock().unwrap();
        let before = log.iter().filter(|other| other.line == request.line).count();
        log.push(request.clone());
        before
    };
    let answer = handler(&request, before);
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
    head += &format!("Content-Length: {}\r\n", answer.body.len());
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    let mut body = &answer.body[..answer.send.min(answer.body.len())];
    if let Some(trickle) = &answer.trickle {
        stream.set_nodelay(true).ok()?;
        while !body.is_empty() && !trickle.until.load(Ordering::SeqCst) {
            let (piece, rest) = body.split_at(trickle.bytes.min(body.len()));
            stream.write_all(piece).ok()?;
            thread::sleep(trickle.pause);
            body = rest;
        }
    }
    stream.write_all(body).ok()
}
