//! The load: clients in a closed loop, each on a connection of its own and with a key of its own that
//! it overwrites with 256 bytes. One thread serves all of them, whoever is measured, so that what the
//! load costs is the same for all.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{grpc, json, wire};

/// Bytes of a value.
pub(crate) const VALUE_BYTES: usize = 256;

/// No answer for this long: the run is void.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How a client talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// To a member of skep: [`wire`].
    Frames,
    /// To etcd as its own clients do: gRPC.
    Grpc,
    /// To etcd through its JSON gateway, connections kept.
    Json,
}

/// What a run brought.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) seconds: f64,
    /// Of each put, in microseconds, ascending.
    pub(crate) micros: Vec<u32>,
}

/// One of the clients.
pub(crate) struct Client {
    stream: TcpStream,
    key: Vec<u8>,
    value: Vec<u8>,
    input: Vec<u8>,
    output: Vec<u8>,
    grpc: grpc::State,
    since: Instant,
}

/// Puts for so long, counted after the first tenth of it.
pub(crate) fn run(way: Way, to: SocketAddr, count: usize, span: Duration) -> Result<Load, String> {
    let text = |error: &dyn std::fmt::Display| format!("{way:?} at {to}: {error}");
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| text(&e))?;
    let mut clients = Vec::new();
    for number in 0..count {
        let client = Client::new(way, to, number).map_err(|e| text(&e))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(number).unwrap());
        epoll.add(&client.stream, event).map_err(|e| text(&e))?;
        clients.push(client);
    }
    let begin = Instant::now();
    let (from, until) = (begin + span / 10, begin + span + span / 10);
    let mut micros = Vec::new();
    for client in &mut clients {
        client.put(way, begin).map_err(|e| text(&e))?;
    }
    let mut events = [EpollEvent::empty(); 128];
    loop {
        let wait = EpollTimeout::try_from(SILENCE_MAX).unwrap();
        let ready = epoll.wait(&mut events, wait).map_err(|e| text(&e))?;
        if ready == 0 {
            return Err(text(&"no answer"));
        }
        for event in &events[..ready] {
            let client = &mut clients[usize::try_from(event.data()).unwrap()];
            if !client.hear(way).map_err(|e| text(&e))? {
                continue;
            }
            let now = Instant::now();
            if now >= until {
                micros.sort_unstable();
                let seconds = (until - from).as_secs_f64();
                return Ok(Load { seconds, micros });
            }
            if now >= from {
                let took = now - client.since;
                micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
            }
            client.put(way, now).map_err(|e| text(&e))?;
        }
    }
}

impl Client {
    fn new(way: Way, to: SocketAddr, number: usize) -> std::io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        let mut client = Self {
            stream,
            key: format!("client-{number}").into_bytes(),
            value: vec![b'v'; VALUE_BYTES],
            input: Vec::new(),
            output: Vec::new(),
            grpc: grpc::State::default(),
            since: Instant::now(),
        };
        if way == Way::Grpc {
            client.stream.write_all(&grpc::hello())?;
        }
        client.stream.set_nonblocking(true)?;
        Ok(client)
    }

    /// Asks for the next put. What is asked is far shorter than what a socket takes at once.
    fn put(&mut self, way: Way, now: Instant) -> std::io::Result<()> {
        self.since = now;
        self.output.clear();
        match way {
            Way::Frames => {
                let mut body = vec![u8::try_from(self.key.len()).unwrap()];
                body.extend_from_slice(&self.key);
                body.extend_from_slice(&self.value);
                wire::put(&mut self.output, wire::SET, &body);
            }
            Way::Grpc => self.grpc.put(&mut self.output, &self.key, &self.value),
            Way::Json => json::put(&mut self.output, &self.key, &self.value),
        }
        self.stream.write_all(&self.output)
    }

    /// Reads what is there; true when the put is answered.
    fn hear(&mut self, way: Way) -> Result<bool, String> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err("the connection was closed".to_owned()),
            Ok(count) => self.input.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.to_string()),
        }
        let (used, done) = match way {
            Way::Frames => match wire::take(&self.input) {
                None => (0, false),
                Some((&[wire::OK], used)) => (used, true),
                Some((body, _)) => return Err(String::from_utf8_lossy(body).into_owned()),
            },
            Way::Grpc => {
                self.output.clear();
                let heard = self.grpc.hear(&self.input, &mut self.output)?;
                self.stream.write_all(&self.output).map_err(|e| e.to_string())?;
                heard
            }
            Way::Json => json::hear(&self.input)?,
        };
        self.input.drain(..used);
        Ok(done)
    }
}
