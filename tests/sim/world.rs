//! One node: two machines, a disk, a host, a proxy and a user, driven by one queue of events.

mod settled;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use skep::base::id::{ClusterId, NodeId, TaskId};
use skep::base::rng::Rng;
use skep::base::time::{Now, Span, Time, Wall};
use skep::logic::manager::Manager;
use skep::logic::manager::io::{self as mio};
use skep::logic::worker::Worker;
use skep::logic::worker::io::{self as wio, Action};
use skep::model::node::NodeDescription;

use crate::check::Seen;
use crate::client::Client;
use crate::disk::{Disk, Wrote};
use crate::host::{Fate, Host};

const NODE: NodeId = NodeId::new(7);

/// Faults stop and the node gets this long to be as it should: longer than the longest back-off.
const HEAL: Span = Span::from_secs(15 * 60);

/// Most events of one run.
const EVENTS_MAX: u64 = 200_000;

/// When the node crashes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Crash {
    /// Never: counts the outputs.
    Count,
    /// Once, instead of this output, as a killed process or a power cut; nothing else goes wrong.
    At { output: u64, power: bool },
    /// Again and again, with all other faults.
    Random { one_in: u64 },
}

#[derive(Debug)]
enum Event {
    DiskWrote,
    DiskRefused(u64),
    SnapshotSaved,
    Act(TaskId, Box<Action>),
    Acted(TaskId, wio::Outcome),
    Exit(TaskId, u32, i32),
    ToWorker(Box<wio::Input>),
    ToManager(Box<mio::Input>),
    Client,
    DiskFull(bool),
    Up,
}

struct Queued {
    at: Time,
    order: u64,
    /// Life of the process that it is for; `None`: the machine's own.
    life: Option<u64>,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

pub(crate) struct World {
    rng: Rng,
    crash: Crash,
    now: Time,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    life: u64,
    manager: Option<Manager>,
    worker: Option<Worker>,
    disk: Disk,
    host: Host,
    client: Client,
    seen: Seen,
    outputs: u64,
    faults: bool,
    /// Ports that another program holds.
    foreign: BTreeSet<u16>,
    /// Tasks that connections go to, by the newest table.
    rotation: BTreeSet<TaskId>,
}

impl World {
    pub(crate) fn new(seed: u64, crash: Crash) -> Self {
        let mut rng = Rng::new(seed);
        let random = matches!(crash, Crash::Random { .. });
        let length = if random { 4 + rng.below(8) } else { 2 + seed % 3 };
        let client = Client::new(&mut rng, length);
        let foreign =
            if random && rng.one_in(3) { (8_000..8_004).collect() } else { BTreeSet::new() };
        let mut world = Self {
            rng,
            crash,
            now: Time(1_000),
            queue: BinaryHeap::new(),
            order: 0,
            life: 0,
            manager: None,
            worker: None,
            disk: Disk::default(),
            host: Host::default(),
            client,
            seen: Seen::default(),
            outputs: 0,
            faults: random,
            foreign,
            rotation: BTreeSet::new(),
        };
        world.after(Span(0), None, Event::Up);
        world.after(Span(1), None, Event::Client);
        if random && world.rng.one_in(2) {
            let from = Span::from_millis(world.rng.below(20_000));
            let long = Span::from_millis(world.rng.below(60_000));
            world.after(from, None, Event::DiskFull(true));
            world.after(from + long, None, Event::DiskFull(false));
        }
        world
    }

    pub(crate) const fn outputs(&self) -> u64 {
        self.outputs
    }

    pub(crate) fn state_hash(&self) -> u64 {
        self.manager.as_ref().map_or(0, |manager| manager.store().hash())
    }

    /// The whole life: work under faults, healing, removal of everything, idling.
    pub(crate) fn run(&mut self) {
        let end = self.now + Span::from_secs(if self.faults { 120 } else { 30 });
        self.until(end, |world| world.client.is_done());
        self.faults = false;
        self.foreign.clear();
        self.disk.full = false;
        if let Crash::Random { .. } = self.crash {
            self.crash = Crash::Count;
        }
        self.until(self.now + HEAL, Self::is_settled);
        assert!(self.client.is_done(), "liveness: every request is answered: {:?}", self.client);
        assert!(self.is_settled(), "liveness: every slot runs: {}", self.describe());
        self.client.remove_all();
        self.after(Span(1), None, Event::Client);
        self.until(self.now + HEAL, Self::is_empty);
        assert!(self.is_empty(), "liveness: everything removed is gone: {}", self.describe());
        self.invariant_idle_is_silent();
    }

    fn until(&mut self, end: Time, done: impl Fn(&Self) -> bool) {
        let mut events = 0;
        while !done(self) {
            let Some(at) = self.next_time().filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            self.turn();
            events += 1;
            assert!(events < EVENTS_MAX, "liveness: the node spins: {}", self.describe());
        }
        if !done(self) {
            self.now = self.now.max(end);
        }
    }

    fn next_time(&self) -> Option<Time> {
        let queued = self.queue.peek().map(|Reverse(queued)| queued.at);
        let manager = self.manager.as_ref().and_then(Manager::deadline);
        let worker = self.worker.as_ref().and_then(Worker::deadline);
        [queued, manager, worker].into_iter().flatten().min()
    }

    fn wall(&self) -> Now {
        Now { mono: self.now, wall: Wall(1_700_000_000_000_000 + self.now.0) }
    }

    fn after(&mut self, span: Span, life: Option<u64>, event: Event) {
        self.order += 1;
        let queued = Queued { at: self.now + span, order: self.order, life, event };
        self.queue.push(Reverse(queued));
    }

    fn soon(&mut self, millis: u64) -> Span {
        Span(1 + self.rng.below(millis * 1_000))
    }

    /// One event, or a deadline.
    fn turn(&mut self) {
        let due = |at: Option<Time>, now| at.is_some_and(|at| at <= now);
        if self.queue.peek().is_some_and(|Reverse(queued)| queued.at <= self.now) {
            let Some(Reverse(queued)) = self.queue.pop() else { return };
            if queued.life.is_none_or(|life| life == self.life) {
                self.happen(queued.event);
            }
        } else if due(self.manager.as_ref().and_then(Manager::deadline), self.now) {
            self.tell_manager(mio::Input::Tick);
        } else if due(self.worker.as_ref().and_then(Worker::deadline), self.now) {
            self.tell_worker(wio::Input::Tick);
        }
        if let Some(manager) = &self.manager {
            self.seen.check(manager.store(), false);
            self.client.invariant_acknowledged_is_kept(manager.store());
        }
        self.invariant_one_container_per_slot();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::DiskWrote => {
                let (wrote, more) = self.disk.wrote();
                if more {
                    self.disk_writes();
                }
                match wrote {
                    Wrote::Through(index) => self.tell_manager(mio::Input::Persisted { index }),
                    Wrote::Refused(index) => {
                        // The manager goes on for a while with what it does not know.
                        let (wait, life) = (self.soon(50), Some(self.life));
                        self.after(wait, life, Event::DiskRefused(index));
                    }
                    Wrote::Nothing => {}
                }
            }
            Event::DiskRefused(index) => {
                self.disk.resume();
                let reason = "no space left on device".to_owned();
                self.tell_manager(mio::Input::PersistRefused { index, reason });
            }
            Event::SnapshotSaved => {
                if let Some(index) = self.disk.saved() {
                    self.tell_manager(mio::Input::SnapshotSaved { index });
                }
            }
            Event::Act(task, action) => self.act(task, &action, true),
            Event::Acted(task, outcome) => self.tell_worker(wio::Input::Acted { task, outcome }),
            Event::Exit(task, pid, code) => {
                if let Some(exit) = self.host.exit(task, pid, code, self.wall().wall) {
                    self.tell_worker(wio::Input::Exited { task, exit });
                }
            }
            Event::ToWorker(input) => self.tell_worker(*input),
            Event::ToManager(input) => self.tell_manager(*input),
            Event::Client => self.ask(),
            Event::DiskFull(full) => self.disk.full = full && self.faults,
            Event::Up => self.up(),
        }
    }

    fn ask(&mut self) {
        if let Some(manager) = self.manager.as_ref().filter(|manager| manager.is_bootstrapped())
            && let Some((request, command)) = self.client.ask(manager.store())
        {
            self.tell_manager(mio::Input::Command { request, command });
        }
        if !self.client.is_done() {
            let wait = Span::from_millis(1 + self.rng.below(3_000));
            self.after(wait, None, Event::Client);
        }
    }

    fn up(&mut self) {
        let seed = std::array::from_fn(|_| u8::try_from(self.rng.below(256)).unwrap());
        let description = NodeDescription { hostname: "pi".to_owned(), ..Default::default() };
        let config = mio::Config {
            node: NODE,
            cluster: ClusterId::new(1),
            seed,
            report_batch: Span::from_millis(100),
            snapshot_after_bytes: 20_000,
            advertise: "10.1.2.3:2377".to_owned(),
        };
        let now = self.wall();
        let manager = Manager::new(config, self.disk.recover(), now).expect("the log can be read");
        self.seen.check(manager.store(), true);
        self.client.invariant_acknowledged_is_kept(manager.store());
        self.manager = Some(manager);
        let config = wio::Config {
            node: NODE,
            description: description.clone(),
            seed,
            found: self.host.found(),
            fence: self.host.fence(),
            alone: true,
        };
        self.worker = Some(Worker::new(config, now));
        let mut out = Vec::new();
        if let Some(manager) = &mut self.manager {
            manager.bootstrap(now, description.clone(), &mut out);
        }
        self.manager_outputs(out);
        if self.manager.as_ref().is_some_and(Manager::is_bootstrapped) {
            self.tell_manager(mio::Input::WorkerJoined { node: NODE, description });
        } else {
            let input = Box::new(mio::Input::WorkerJoined { node: NODE, description });
            let life = Some(self.life);
            self.after(Span::from_millis(500), life, Event::ToManager(input));
        }
    }

    fn tell_manager(&mut self, input: mio::Input) {
        let mut out = Vec::new();
        let now = self.wall();
        if let Some(manager) = &mut self.manager {
            manager.step(now, input, &mut out);
        }
        self.manager_outputs(out);
    }

    fn tell_worker(&mut self, input: wio::Input) {
        let mut out = Vec::new();
        let now = self.wall();
        if let Some(worker) = &mut self.worker {
            worker.step(now, input, &mut out);
        }
        self.worker_outputs(out);
    }

    /// Counts an output; true when the node crashes instead.
    fn crashes(&mut self) -> bool {
        let this = self.outputs;
        self.outputs += 1;
        let power = match self.crash {
            Crash::Count => return false,
            Crash::At { output, power } if output == this => power,
            Crash::At { .. } => return false,
            Crash::Random { one_in } => {
                if !self.rng.one_in(one_in) {
                    return false;
                }
                self.rng.one_in(2)
            }
        };
        self.crash_now(power);
        true
    }

    fn crash_now(&mut self, power: bool) {
        self.disk.crash(&mut self.rng);
        let under_way: Vec<Queued> =
            std::mem::take(&mut self.queue).into_iter().map(|Reverse(queued)| queued).collect();
        self.manager = None;
        self.worker = None;
        let mut sorted = under_way;
        sorted.sort();
        for queued in sorted {
            match queued.event {
                // What was under way was done, or was not.
                Event::Act(task, action) if queued.life == Some(self.life) => {
                    if self.rng.one_in(2) {
                        self.act(task, &action, false);
                    }
                }
                _ if queued.life.is_some() => {}
                _ => self.queue.push(Reverse(queued)),
            }
        }
        self.life += 1;
        if power {
            let in_order = self.rng.one_in(3);
            self.host.reboot(in_order, self.wall().wall);
        }
        let down = self.soon(3_000);
        self.after(down, None, Event::Up);
    }

    fn disk_writes(&mut self) {
        let millis = if self.faults && self.rng.one_in(20) { 3_000 } else { 20 };
        let (wait, life) = (self.soon(millis), Some(self.life));
        self.after(wait, life, Event::DiskWrote);
    }

    fn manager_outputs(&mut self, out: Vec<mio::Output>) {
        for output in out {
            if self.crashes() {
                return;
            }
            let life = Some(self.life);
            match output {
                mio::Output::Persist { entries } => {
                    if self.disk.persist(entries) {
                        self.disk_writes();
                    }
                }
                mio::Output::SaveSnapshot { index, term, data } => {
                    self.disk.save((index, term, data));
                    let wait = self.soon(50);
                    self.after(wait, life, Event::SnapshotSaved);
                }
                mio::Output::Reply { request, reply } => {
                    if let Some(manager) = &self.manager {
                        self.client.answered(request, reply, manager.store());
                    }
                }
                mio::Output::Assign { node, assignments } => {
                    assert_eq!(node, NODE);
                    let input = Box::new(wio::Input::Assignments(assignments));
                    self.after(Span(1), life, Event::ToWorker(input));
                }
            }
        }
    }

    fn worker_outputs(&mut self, out: Vec<wio::Output>) {
        for output in out {
            if self.crashes() {
                return;
            }
            let life = Some(self.life);
            match output {
                wio::Output::KeepFence { .. } => {}
                wio::Output::Act { task, action, record } => {
                    if let Some(record) = record {
                        self.host.remember(task, *record);
                    }
                    let hangs = self.faults && self.rng.one_in(60);
                    let wait = self.soon(if hangs { 100_000 } else { 50 });
                    self.after(wait, life, Event::Act(task, Box::new(action)));
                }
                wio::Output::Routes { generation, ports } => {
                    self.note_rotation(&ports);
                    let refused =
                        ports.iter().filter(|port| self.foreign.contains(&port.published));
                    let refused = refused
                        .map(|port| wio::RefusedPort {
                            protocol: port.protocol,
                            published: port.published,
                            host_ip: port.host_ip,
                            reason: "address already in use".to_owned(),
                        })
                        .collect();
                    let input = Box::new(wio::Input::RoutesApplied { generation, refused });
                    let slow = self.faults && self.rng.one_in(20);
                    let wait = self.soon(if slow { 3_000 } else { 10 });
                    self.after(wait, life, Event::ToWorker(input));
                }
                wio::Output::Report(report) => {
                    let input = Box::new(mio::Input::Report { node: NODE, report });
                    self.after(Span(1), life, Event::ToManager(input));
                }
            }
        }
    }

    fn note_rotation(&mut self, ports: &[wio::PortRoute]) {
        let tasks = ports.iter().flat_map(|port| &port.backends).map(|backend| backend.task);
        self.rotation = tasks.collect();
    }

    fn act(&mut self, task: TaskId, action: &Action, alive: bool) {
        if alive && matches!(action, Action::Stop) {
            let in_table = self.rotation.contains(&task);
            assert!(!in_table, "invariant: a task leaves the rotation before it is stopped");
        }
        let faults = self.faults;
        let (outcome, fate) = self.host.act(task, action, faults.then_some(&mut self.rng));
        if let Some(pid) = self.host.pid(task) {
            match (action, fate) {
                (Action::Start, Some(Fate::Exits { after, code })) => {
                    self.after(after, None, Event::Exit(task, pid, code));
                }
                (Action::Start, Some(Fate::RunsOn)) if faults && self.rng.one_in(8) => {
                    let after = self.soon(60_000);
                    self.after(after, None, Event::Exit(task, pid, 1));
                }
                (Action::Stop, _) => {
                    let folder = &self.host.folders[&task];
                    if folder.task.spec.container.image != "stubborn" {
                        let after = self.soon(200);
                        self.after(after, None, Event::Exit(task, pid, 0));
                    }
                }
                (Action::Kill, _) => {
                    let after = self.soon(5);
                    self.after(after, None, Event::Exit(task, pid, 137));
                }
                _ => {}
            }
        }
        if alive {
            let life = Some(self.life);
            self.after(Span(1), life, Event::Acted(task, outcome));
        }
    }
}
