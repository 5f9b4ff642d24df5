//! One member: the product's manager and log, wired as `daemon::brain` wires them (one loop, one
//! thread for the log), with plain TCP in place of the RPC between managers.
//!
//! A turn of the loop: what is readable becomes inputs, each is a step, then messages leave, writes
//! go to the log's thread as one batch, answers leave.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use skep::base::id::{ClusterId, NodeId, RequestId};
use skep::base::rng::Rng;
use skep::base::time::Span;
use skep::host::clock::Clock;
use skep::host::disk::wal::WalFigures;
use skep::host::disk::{Wal, load_or_create_key};
use skep::host::entropy;
use skep::logic::manager::Manager;
use skep::logic::manager::io::{Command, Config, Input, Output};
use skep::logic::raft::codec;
use skep::logic::raft::io::{Recovered, Ticket, Timing, Write as LogWrite};
use skep::model::node::{NodeDescription, Role};

use super::log::{LogThread, Wanted};
use super::wire::{self, Figures};

/// As in `daemon::node`.
const SNAPSHOT_AFTER_BYTES: u64 = 4 << 20;

/// Bytes before the payload of a message between members: its last four are the length.
const HEAD_BYTES: usize = 8;

/// Bytes that wait for a slow peer; above it messages are lost, as they may be.
const UNSENT_BYTES_MAX: usize = 16 << 20;

/// How long the members wait for each other at the start.
const START_WAIT: Duration = Duration::from_secs(30);

const READ_BYTES: usize = 64 << 10;

const BELL: u64 = 0;
const PEERS: u64 = 1;
const CLIENTS: u64 = 2;
const FIRST: u64 = 3;

/// What a member is told on its command line.
pub(crate) struct Options {
    /// 1, 2, …
    pub(crate) id: u128,
    /// Makes the cluster.
    pub(crate) founds: bool,
    pub(crate) dir: PathBuf,
    /// Where clients come to.
    pub(crate) clients: SocketAddr,
    /// All members, this one included, by id.
    pub(crate) peers: Vec<SocketAddr>,
}

enum Who {
    /// Has not said yet which member it is.
    Stranger,
    Peer(NodeId),
    Client,
}

struct Link {
    stream: TcpStream,
    who: Who,
    input: Vec<u8>,
    output: Vec<u8>,
}

struct Member {
    clock: Clock,
    manager: Manager,
    log: LogThread,
    epoll: Epoll,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    /// The ways to the others.
    ways: BTreeMap<NodeId, u64>,
    requests: Rng,
    waiting: BTreeMap<RequestId, u64>,
    inputs: Vec<Input>,
    writes: Vec<(Ticket, LogWrite)>,
    figures: WalFigures,
    buffer: Vec<u8>,
}

/// Runs until it is killed.
pub(crate) fn run(options: &Options) -> ! {
    let clock = Clock::new();
    std::fs::create_dir_all(&options.dir).unwrap();
    let key = load_or_create_key(&options.dir).unwrap();
    let (wal, _empty) = Wal::open(&options.dir, &key).unwrap();
    let config = Config {
        node: NodeId::new(options.id),
        cluster: ClusterId::new(1),
        seed: entropy::bytes32().unwrap(),
        report_batch: Span::from_millis(100),
        snapshot_after_bytes: SNAPSHOT_AFTER_BYTES,
        advertise: "127.0.0.1".to_owned(),
        timing: Timing::default(),
    };
    let manager = Manager::new(config, Recovered::default(), clock.now()).unwrap();
    let log = LogThread::start(wal);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let mine = options.peers[usize::try_from(options.id - 1).unwrap()];
    let listeners = [(PEERS, listen(mine)), (CLIENTS, listen(options.clients))];
    for (token, listener) in &listeners {
        epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, *token)).unwrap();
    }
    epoll.add(log.bell.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, BELL)).unwrap();
    let mut member = Member {
        clock,
        manager,
        log,
        epoll,
        links: BTreeMap::new(),
        next_link: FIRST,
        ways: BTreeMap::new(),
        requests: Rng::from_entropy(entropy::bytes32().unwrap()),
        waiting: BTreeMap::new(),
        inputs: Vec::new(),
        writes: Vec::new(),
        figures: WalFigures::default(),
        buffer: vec![0; READ_BYTES],
    };
    member.reach_others(options);
    if options.founds {
        let description = description(options.id);
        let mut outputs = Vec::new();
        member.manager.bootstrap(member.clock.now(), description, &mut outputs);
        member.perform(outputs);
    }
    let [peers, clients] = listeners;
    loop {
        member.turn(&peers.1, &clients.1);
    }
}

fn listen(at: SocketAddr) -> TcpListener {
    let listener = TcpListener::bind(at).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn description(id: u128) -> NodeDescription {
    NodeDescription { hostname: format!("member{id}"), ..NodeDescription::default() }
}

impl Member {
    /// Connects to all others, which start at the same time.
    fn reach_others(&mut self, options: &Options) {
        let end = Instant::now() + START_WAIT;
        for (id, at) in (1..).zip(&options.peers).filter(|(id, _)| *id != options.id) {
            let mut stream = loop {
                match TcpStream::connect(at) {
                    Ok(stream) => break stream,
                    Err(error) => assert!(Instant::now() < end, "member {id} at {at}: {error}"),
                }
                std::thread::sleep(Duration::from_millis(20));
            };
            stream.write_all(&options.id.to_le_bytes()).unwrap();
            let peer = NodeId::new(id);
            let token = self.link(stream, Who::Peer(peer));
            self.ways.insert(peer, token);
            self.inputs.push(Input::Reachable { peer });
        }
    }

    fn link(&mut self, stream: TcpStream, who: Who) -> u64 {
        let token = self.next_link;
        self.next_link += 1;
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.epoll.add(&stream, EpollEvent::new(flags, token)).unwrap();
        self.links.insert(token, Link { stream, who, input: Vec::new(), output: Vec::new() });
        token
    }

    fn turn(&mut self, peers: &TcpListener, clients: &TcpListener) {
        let mut events = [EpollEvent::empty(); 256];
        let count = self.epoll.wait(&mut events, self.timeout()).unwrap_or(0);
        for event in &events[..count] {
            match event.data() {
                BELL => self.hear_log(),
                PEERS => self.accept(peers, || Who::Stranger),
                CLIENTS => self.accept(clients, || Who::Client),
                token => self.serve(token),
            }
        }
        let now = self.clock.now();
        if self.manager.deadline().is_some_and(|at| at <= now.mono) {
            self.inputs.push(Input::Tick);
        }
        let mut outputs = Vec::new();
        for input in std::mem::take(&mut self.inputs) {
            self.manager.step(now, input, &mut outputs);
        }
        self.perform(outputs);
    }

    /// Whole milliseconds, upwards; none while nothing is due.
    fn timeout(&self) -> EpollTimeout {
        if !self.inputs.is_empty() {
            return EpollTimeout::ZERO;
        }
        let Some(at) = self.manager.deadline() else { return EpollTimeout::NONE };
        let left = at.since(self.clock.now().mono).0.div_ceil(1_000);
        EpollTimeout::try_from(left.min(60_000)).unwrap()
    }

    fn hear_log(&mut self) {
        let _rings = self.log.bell.read();
        let told = self.log.told();
        self.figures = told.figures;
        self.inputs.extend(told.ticket.map(|ticket| Input::Persisted { ticket }));
        self.inputs.extend(told.snapshot.map(|index| Input::SnapshotSaved { index }));
    }

    fn accept(&mut self, listener: &TcpListener, who: impl Fn() -> Who) {
        while let Ok((stream, _from)) = listener.accept() {
            self.link(stream, who());
        }
    }

    /// Reads what is there and writes what could not be written before.
    fn serve(&mut self, token: u64) {
        let Some(mut link) = self.links.remove(&token) else { return };
        send(&mut link);
        loop {
            match link.stream.read(&mut self.buffer) {
                Ok(0) => return assert!(matches!(link.who, Who::Client), "a member is gone"),
                Ok(count) => {
                    link.input.extend_from_slice(&self.buffer[..count]);
                    if count < self.buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return assert!(matches!(link.who, Who::Client), "{error}"),
            }
        }
        let used = self.understand(token, &mut link);
        link.input.drain(..used);
        self.links.insert(token, link);
    }

    /// Turns whole frames into inputs; returns how many bytes they took.
    fn understand(&mut self, token: u64, link: &mut Link) -> usize {
        let mut used = 0;
        if let (Who::Stranger, Some(id)) = (&link.who, link.input.first_chunk()) {
            link.who = Who::Peer(NodeId::new(u128::from_le_bytes(*id)));
            used = 16;
        }
        match link.who {
            Who::Stranger => {}
            Who::Peer(from) => {
                while let Some(frame) = message(&link.input[used..]) {
                    used += frame.len();
                    let message = codec::decode_message(frame).unwrap();
                    self.inputs.push(Input::Peer { from, message });
                }
            }
            Who::Client => {
                while let Some((body, bytes)) = wire::take(&link.input[used..]) {
                    used += bytes;
                    match command(body) {
                        Some(command) => {
                            let request = RequestId::new(self.requests.next_u128());
                            self.waiting.insert(request, token);
                            self.inputs.push(Input::Command { request, command });
                        }
                        None => {
                            wire::put(&mut link.output, wire::OK, &self.own_figures().encode());
                            send(link);
                        }
                    }
                }
            }
        }
        used
    }

    fn own_figures(&self) -> Figures {
        let raft = self.manager.raft();
        let WalFigures { bytes, syncs, appends } = self.figures;
        let leads = u64::from(self.manager.is_leader());
        let voters = u64::try_from(raft.members().voters.len()).unwrap();
        Figures { leads, voters, commit: raft.commit(), bytes, syncs, appends }
    }

    /// Messages first, then the log: their way is the longer one.
    fn perform(&mut self, outputs: Vec<Output>) {
        let mut touched = Vec::new();
        let mut answers = Vec::new();
        let mut snapshots = Vec::new();
        for output in outputs {
            match output {
                Output::Persist { ticket, write, urgent: _ } => self.writes.push((ticket, write)),
                Output::SaveSnapshot { snapshot } => snapshots.push(snapshot),
                Output::Send { to, message } => {
                    let Some(token) = self.ways.get(&to) else { continue };
                    let Some(link) = self.links.get_mut(token) else { continue };
                    if link.output.len() < UNSENT_BYTES_MAX {
                        link.output.extend(codec::encode_message(&message).unwrap());
                        touched.push(*token);
                    }
                }
                Output::Reply { request, reply } => {
                    if let Some(token) = self.waiting.remove(&request) {
                        answers.push((token, reply.map(drop)));
                    }
                }
                Output::Leader { term, leader } => eprintln!("term {term}: leader {leader:?}"),
                Output::Assign { .. } => {}
                Output::Removed => panic!("this member was given up"),
                Output::Broken { reason } => panic!("{reason}"),
            }
        }
        touched.dedup();
        for token in touched {
            self.links.get_mut(&token).into_iter().for_each(send);
        }
        if !self.writes.is_empty() {
            self.log.want(Wanted::Batch(std::mem::take(&mut self.writes)));
        }
        snapshots.into_iter().for_each(|snapshot| self.log.want(Wanted::Snapshot(snapshot)));
        for (token, reply) in answers {
            let Some(link) = self.links.get_mut(&token) else { continue };
            match reply {
                Ok(()) => wire::put(&mut link.output, wire::OK, &[]),
                Err(error) => {
                    wire::put(&mut link.output, wire::REFUSED, error.to_string().as_bytes());
                }
            }
            send(link);
        }
    }
}

/// Writes what the socket takes; the rest leaves when it is writable again.
fn send(link: &mut Link) {
    let mut sent = 0;
    while sent < link.output.len() {
        match link.stream.write(&link.output[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => {
                assert!(matches!(link.who, Who::Client), "{error}");
                sent = link.output.len();
            }
        }
    }
    link.output.drain(..sent);
}

/// The first message, if it is whole.
fn message(bytes: &[u8]) -> Option<&[u8]> {
    let (head, _rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
    let [.., a, b, c, d] = *head;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap();
    assert!(length <= codec::MESSAGE_FRAME_BYTES_MAX, "a message of {length} bytes");
    bytes.get(..HEAD_BYTES + length)
}

/// What a client asks for; `None`: the figures.
fn command(body: &[u8]) -> Option<Command> {
    let (what, rest) = body.split_first().unwrap();
    match *what {
        wire::SET => {
            let (length, rest) = rest.split_first().unwrap();
            let (name, payload) = rest.split_at(usize::from(*length));
            let name = String::from_utf8(name.to_vec()).unwrap();
            let payload = payload.to_vec();
            Some(Command::SetResource { kind: "bench".to_owned(), name, payload })
        }
        wire::ADD => {
            let (id, address) = rest.split_first_chunk().unwrap();
            let id = u128::from_le_bytes(*id);
            Some(Command::AddNode {
                id: NodeId::new(id),
                description: Box::new(description(id)),
                role: Role::Manager,
                address: "127.0.0.1".to_owned(),
                manager: Some(String::from_utf8(address.to_vec()).unwrap()),
            })
        }
        wire::FIGURES => None,
        other => panic!("nothing is known of question {other}"),
    }
}
