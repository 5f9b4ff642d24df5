//! The worker as a conversation: each file under `tests/data/logic/worker` is a script and what it
//! gives.
//!
//! A line that begins with `> ` is a command, the lines after it are what it printed;
//! `UPDATE_EXPECT=1` writes them anew. Tasks have one letter and a slot each; `a+2` is the second
//! successor of `a` that the worker makes itself. The lab keeps each task as a manager has it: what
//! is reported of it goes into the next assignment. A session is open at first, and the leader was
//! heard at 0. Commands:
//!
//! ```text
//! assign T desired=ready port=80 hostport=8080 open=1 grace=3 env=K=V state=orphaned slot=2
//!          health=INTERVAL,TIMEOUT,RETRIES[,START PERIOD] leased=1 restart=none|on-failure|any delay=5 attempts=3 window=60
//! decided T key=value…          the same, not yet told to the worker
//! all [T…]                     everything that is to be on the node, all tasks without names
//! removed T                    | fence [TERM.]INDEX (of the assignments that follow)
//! adopt T                      the last report's chain becomes history, its newest is assigned
//! lost                         | heard [alone]
//! did T prepared|started|signalled|cleaned|removed|remembered|late
//! failed T text                | temporary T text | nostart T text (while it is prepared)
//! exited T CODE [oom|lost]     | applied N [PORT text]
//! probed T CODE [text]|late|notrun
//! advance SECONDS              | deadline
//! restart T=none|created|running|exited:CODE [rebooted]   with what was recorded
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use expect_test::expect_file;

use super::io::{
    Action, Config, Exit, Found, FoundContainer, Input, Outcome, Output, PortRoute, Prepare, Probe,
    Probed, Record, RefusedPort,
};
use super::{Check, Worker};
use crate::base::id::{NetworkId, NodeId, TaskId};
use crate::base::time::{Now, Span, Time, Wall};
use crate::logic::fixture;
use crate::logic::manager::io::{Adopted, Assignments, Fence, Report};
use crate::model::network::Network;
use crate::model::node::NodeDescription;
use crate::model::service::{Health, OnDisconnect, Port, Protocol, PublishMode, RestartCondition};
use crate::model::task::{Address, Task, TaskState, TaskStatus};

const NETWORK: NetworkId = NetworkId::new(1);

struct Lab {
    worker: Worker,
    now: Time,
    /// As a manager has them.
    tasks: BTreeMap<TaskId, Task>,
    fence: Fence,
    records: BTreeMap<TaskId, Record>,
    /// As they were told last, by base.
    chains: BTreeMap<TaskId, Adopted>,
    under_way: BTreeSet<TaskId>,
    generation: u64,
    /// As it was sent last.
    table: Vec<PortRoute>,
    text: String,
}

pub(super) fn config(found: Vec<Found>, fence: Fence) -> Config {
    let description = NodeDescription { hostname: "pi".to_owned(), ..Default::default() };
    Config { node: NodeId::new(7), description, seed: [0; 32], found, fence, alone: false }
}

pub(super) fn fence(index: u64) -> Fence {
    Fence { epoch: 1, term: 1, index }
}

/// The only network.
pub(super) fn network() -> Network {
    fixture::network(1, "ingress", 24)
}

/// A task on this node, with an address.
pub(super) fn task(n: u8) -> Task {
    let mut task = fixture::task(u128::from(n), 1);
    task.node = Some(NodeId::new(7));
    task.slot = u64::from(n);
    task.addresses = vec![Address { network: NETWORK, address: Ipv4Addr::new(10, 0, 0, n) }];
    task.status.state = TaskState::Assigned;
    task
}

fn id(name: &str) -> TaskId {
    let mut parts = name.split('+');
    let letter = parts.next().and_then(|letter| letter.bytes().next()).expect("a name");
    let base = TaskId::new(u128::from(letter - b'a' + 1));
    parts.fold(base, |task, n| task.successor(n.parse().unwrap()))
}

fn name(id: TaskId) -> String {
    let letters: Vec<String> = (b'a'..=b'z').map(|it| char::from(it).to_string()).collect();
    let next = |name: &String| (1..20).map(|n| format!("{name}+{n}")).collect::<Vec<_>>();
    let own: Vec<String> = letters.iter().flat_map(next).collect();
    let after: Vec<String> = own.iter().flat_map(next).collect();
    let mut all = letters.into_iter().chain(own).chain(after);
    all.find(|name| self::id(name) == id).expect("a name")
}

fn state(text: &str) -> TaskState {
    let all = [
        TaskState::Assigned,
        TaskState::Ready,
        TaskState::Running,
        TaskState::Complete,
        TaskState::Shutdown,
        TaskState::Failed,
        TaskState::Remove,
        TaskState::Orphaned,
    ];
    all.into_iter().find(|state| state.as_str() == text).expect("a state")
}

impl Lab {
    fn new() -> Self {
        let mut lab = Self {
            worker: Worker::new(config(Vec::new(), Fence::default()), Now::default()),
            now: Time(0),
            tasks: BTreeMap::new(),
            fence: fence(0),
            records: BTreeMap::new(),
            chains: BTreeMap::new(),
            under_way: BTreeSet::new(),
            generation: 0,
            table: Vec::new(),
            text: String::new(),
        };
        lab.assign(true, &[], Vec::new());
        lab
    }

    fn now(&self) -> Now {
        Now { mono: self.now, wall: Wall(1_000_000_000 + self.now.0) }
    }

    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        let now = self.now();
        self.worker.step(now, input, &mut out);
        for output in out {
            match output {
                Output::Act { task, action, record } => {
                    assert!(self.under_way.insert(task), "two actions of task {}", name(task));
                    write!(self.text, "{}: {}", name(task), shown(&action)).unwrap();
                    if let Some(record) = record {
                        let task = &record.task;
                        let (wanted, is) = (task.desired.as_str(), task.status.state.as_str());
                        write!(self.text, " (record: wanted {wanted}, {is}").unwrap();
                        self.text.push_str(if record.own.is_some() { ", own)" } else { ")" });
                        self.records.insert(task.id, *record);
                    }
                    if let Action::Prepare(prepare) = action {
                        let Prepare { task, networks, own, fence, .. } = *prepare;
                        self.records.insert(task.id, Record { task, networks, own, fence });
                    }
                    self.text.push('\n');
                }
                Output::Probe { task, probe } => {
                    let Probe { argv, timeout } = probe;
                    let (name, seconds) = (name(task), timeout.0 as f64 / 1e6);
                    writeln!(self.text, "{name}: probe {argv:?} for {seconds} s").unwrap();
                }
                Output::KeepFence { fence } => {
                    writeln!(self.text, "keep fence {}.{}", fence.epoch, fence.term).unwrap();
                }
                Output::Routes { generation, ports } => {
                    assert!(generation > self.generation, "generations grow");
                    let again = generation > 1 && ports == self.table;
                    assert!(!again, "a table is sent when it changed");
                    let shown: Vec<String> = ports.iter().map(route).collect();
                    writeln!(self.text, "routes {generation}: {}", shown.join(", ")).unwrap();
                    (self.generation, self.table) = (generation, ports);
                }
                Output::Report(report) => self.report(report),
            }
        }
    }

    fn report(&mut self, report: Report) {
        for (id, status) in report.statuses {
            let (state, message) = (status.state.as_str(), &status.message);
            write!(self.text, "{} is {state}, {message}", name(id)).unwrap();
            if !status.err.is_empty() {
                write!(self.text, ": {}", status.err).unwrap();
            }
            if status.pid != 0 {
                write!(self.text, " (pid {})", status.pid).unwrap();
            }
            for port in &status.ports {
                write!(self.text, " (port {} is {})", port.target, port.published).unwrap();
            }
            self.text.push('\n');
            if let Some(task) = self.tasks.get_mut(&id) {
                assert!(status.state >= task.status.state, "what is told only grows");
                task.status = status;
            }
        }
        for chain in report.adopted {
            let told = |status: &TaskStatus| format!("{}: {}", status.state.as_str(), status.err);
            write!(self.text, "chain of {}", name(chain.base)).unwrap();
            write!(self.text, " ({})", chain.status.as_ref().map(told).unwrap_or_default())
                .unwrap();
            for (id, status) in &chain.ended {
                write!(self.text, ", {} ({})", name(*id), told(status)).unwrap();
            }
            let (task, status) = (name(chain.task.id), &chain.task.status);
            writeln!(self.text, ", {task} is {}, {}", told(status), status.message).unwrap();
            self.chains.insert(chain.base, chain);
        }
        for id in report.cleaned {
            writeln!(self.text, "{}: address is free", name(id)).unwrap();
            self.tasks.get_mut(&id).expect("a task that is known").addresses.clear();
        }
        for id in report.removed {
            writeln!(self.text, "{} is gone", name(id)).unwrap();
            self.tasks.remove(&id);
        }
    }

    fn assign(&mut self, complete: bool, tasks: &[TaskId], removed: Vec<TaskId>) {
        let tasks = tasks.iter().map(|id| Arc::new(self.tasks[id].clone())).collect();
        let networks = vec![Arc::new(network())];
        let fence = self.fence;
        let assignments = Assignments { fence, complete, tasks, removed, networks };
        self.step(Input::Assignments(assignments));
    }

    /// As a manager does in one entry: history for what ended, the newest is the slot's task.
    fn adopt(&mut self, base: TaskId) {
        let chain = self.chains[&base].clone();
        let mut ids = vec![base, chain.task.id];
        let known = self.tasks.get_mut(&base).expect("a task that is known");
        known.status = chain.status.expect("how it ended");
        known.desired = TaskState::Shutdown;
        known.addresses.clear();
        for (id, status) in chain.ended {
            let (desired, addresses) = (TaskState::Shutdown, Vec::new());
            let task = Task { id, status, desired, addresses, ..chain.task.clone() };
            self.tasks.insert(id, task);
            ids.push(id);
        }
        self.tasks.insert(chain.task.id, chain.task);
        self.assign(false, &ids, Vec::new());
    }

    fn acted(&mut self, task: TaskId, outcome: Outcome) {
        self.under_way.remove(&task);
        self.step(Input::Acted { task, outcome });
    }

    fn advance(&mut self, end: Time) {
        for _ in 0..100 {
            let Some(at) = self.worker.deadline().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            let before = self.text.len();
            self.step(Input::Tick);
            if self.text.len() > before {
                let at = format!("[{:.1} s] ", self.now.0 as f64 / 1e6);
                self.text.insert_str(before, &at);
            }
        }
        panic!("the worker does not come to rest: {}", self.text);
    }

    fn restart(&mut self, words: &str) {
        let rebooted = words.contains("rebooted");
        let mut found = Vec::new();
        for (who, how) in words.split_whitespace().filter_map(|word| word.split_once('=')) {
            let Record { task, networks, own, .. } = self.records[&id(who)].clone();
            let container = match how.split_once(':').unwrap_or((how, "0")) {
                ("created", _) => FoundContainer::Created,
                ("running", _) => FoundContainer::Running { pid: 100 },
                ("exited", code) => FoundContainer::Exited(self.exit(code, "")),
                _ => FoundContainer::None,
            };
            let check = Check::resolve(task.spec.container.health.as_ref(), None);
            found.push(Found { task, networks, own, container, rebooted, check });
        }
        self.worker = Worker::new(config(found, self.worker.fence()), self.now());
        self.under_way.clear();
        (self.generation, self.table) = (0, Vec::new());
    }

    fn exit(&self, code: &str, how: &str) -> Exit {
        let (oom, shim_lost) = (how == "oom", how == "lost");
        Exit { code: code.parse().unwrap(), oom, shim_lost, at: self.now().wall }
    }

    fn did(&mut self, task: TaskId, text: &str) {
        let outcome = match text {
            "prepared" => {
                let known = self.tasks.get(&task);
                let health = known.and_then(|task| task.spec.container.health.as_ref());
                Outcome::Prepared { check: Check::resolve(health, None) }
            }
            "started" => Outcome::Started { pid: 42 },
            "signalled" => Outcome::Signalled,
            "cleaned" => Outcome::Cleaned,
            "removed" => Outcome::Removed,
            "remembered" => Outcome::Remembered,
            "late" => Outcome::Late,
            _ => panic!("unknown outcome {text:?}"),
        };
        self.acted(task, outcome);
    }

    fn probed(&mut self, task: TaskId, text: &str) {
        let (code, output) = text.split_once(' ').unwrap_or((text, ""));
        let probed = match code {
            "late" => Probed::Late,
            "notrun" => Probed::NotRun,
            code => Probed::Exited { code: code.parse().unwrap(), output: output.to_owned() },
        };
        self.step(Input::Probed { task, probed });
    }

    fn run(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (target, text) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "assign" => {
                let id = id(target);
                let new = || task(u8::try_from(id.0.0).unwrap());
                set(self.tasks.entry(id).or_insert_with(new), text);
                self.assign(false, &[id], Vec::new());
            }
            "decided" => set(self.tasks.get_mut(&id(target)).expect("a task"), text),
            "all" => {
                let named: Vec<TaskId> = rest.split_whitespace().map(id).collect();
                let all = self.tasks.keys().copied().collect();
                let tasks = if named.is_empty() { all } else { named };
                self.assign(true, &tasks, Vec::new());
            }
            "removed" => self.assign(false, &[], vec![id(target)]),
            "fence" => {
                let (term, index) = target.split_once('.').unwrap_or(("1", target));
                self.fence.term = term.parse().unwrap();
                self.fence.index = index.parse().unwrap();
            }
            "adopt" => self.adopt(id(target)),
            "lost" => self.step(Input::SessionLost),
            "heard" => {
                let before = self.text.len();
                self.step(Input::LeaderHeard { at: self.now, alone: rest == "alone" });
                assert_eq!(self.text.len(), before, "a ping costs nothing");
            }
            "did" => self.did(id(target), text),
            "failed" | "temporary" | "nostart" => {
                let (err, temporary) = (text.to_owned(), word == "temporary");
                let starting = word == "nostart";
                self.acted(id(target), Outcome::Failed { err, temporary, starting });
            }
            "exited" => {
                let (code, how) = text.split_once(' ').unwrap_or((text, ""));
                let exit = self.exit(code, how);
                self.step(Input::Exited { task: id(target), exit });
            }
            "probed" => self.probed(id(target), text),
            "applied" => {
                let refused = text.split_once(' ').map(|(port, reason)| RefusedPort {
                    protocol: Protocol::Tcp,
                    published: port.parse().unwrap(),
                    host_ip: None,
                    reason: reason.to_owned(),
                });
                let generation = target.parse().unwrap();
                let refused = refused.into_iter().collect();
                self.step(Input::RoutesApplied { generation, refused });
            }
            "advance" => self.advance(self.now + Span::from_secs(target.parse().unwrap())),
            "deadline" => {
                let left = self.worker.deadline().map(|at| at.since(self.now).0 / 1_000);
                writeln!(self.text, "{left:?} ms").unwrap();
            }
            "restart" => self.restart(rest),
            _ => panic!("unknown command {line:?}"),
        }
    }
}

fn shown(action: &Action) -> String {
    match action {
        Action::Prepare(prepare) => {
            let (env, networks) = (&prepare.container.env, prepare.networks.len());
            assert_eq!(networks, prepare.task.addresses.len());
            if env.is_empty() { "prepare".to_owned() } else { format!("prepare {env:?}") }
        }
        Action::Start { by: None } => "start".to_owned(),
        Action::Start { by: Some(by) } => format!("start by {:.1} s", by.0 as f64 / 1e6),
        Action::Stop => "stop".to_owned(),
        Action::Kill => "kill".to_owned(),
        Action::Clean => "clean".to_owned(),
        Action::Remove => "remove".to_owned(),
        Action::Remember => "remember".to_owned(),
    }
}

/// INTERVAL,TIMEOUT,RETRIES[,START PERIOD] of the check `look`.
fn look(text: &str) -> Health {
    let mut all = text.split(',').map(|number| number.parse::<u64>().unwrap());
    let mut next = || all.next().map(Span::from_secs);
    let test = vec!["CMD".to_owned(), "look".to_owned()];
    let (interval, timeout) = (next(), next());
    let retries = next().map(|count| u32::try_from(count.0 / 1_000_000).unwrap());
    Health { test, interval, timeout, retries, start_period: next(), start_interval: None }
}

fn route(port: &PortRoute) -> String {
    let backends = port.backends.iter();
    let backends: Vec<String> =
        backends.map(|it| format!("{}({}:{})", name(it.task), it.address, it.port)).collect();
    format!("{} to [{}]", port.published, backends.join(" "))
}

fn set(task: &mut Task, text: &str) {
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=').expect("key=value");
        let port = |mode| Port {
            published: if key == "open" { 0 } else { value.parse().unwrap() },
            ..fixture::port(0, mode)
        };
        match key {
            "desired" => task.desired = state(value),
            "state" => task.status.state = state(value),
            "port" => task.ports = vec![port(PublishMode::Ingress)],
            "hostport" | "open" => task.ports = vec![port(PublishMode::Host)],
            "grace" => {
                task.spec.container.stop_grace = Some(Span::from_secs(value.parse().unwrap()));
            }
            "env" => task.spec.container.env.push(value.to_owned()),
            "slot" => task.slot = value.parse().unwrap(),
            "leased" => task.spec.on_disconnect = OnDisconnect::Stop,
            "restart" => {
                task.spec.restart.condition = match value {
                    "none" => RestartCondition::None,
                    "on-failure" => RestartCondition::OnFailure,
                    _ => RestartCondition::Any,
                };
            }
            "delay" => task.spec.restart.delay = Span::from_secs(value.parse().unwrap()),
            "attempts" => task.spec.restart.max_attempts = value.parse().unwrap(),
            "window" => task.spec.restart.window = Span::from_secs(value.parse().unwrap()),
            "health" => task.spec.container.health = Some(look(value)),
            _ => panic!("unknown key {key}"),
        }
    }
}

fn check(script: &str, file: &expect_test::ExpectFile) {
    let mut lab = Lab::new();
    let mut all = String::new();
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            lab.text.clear();
            lab.run(command);
            writeln!(all, "{line}").unwrap();
            all.push_str(&lab.text);
        } else if line.is_empty() || line.starts_with('#') {
            writeln!(all, "{line}").unwrap();
        }
    }
    file.assert_eq(&all);
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => { $(
        #[test]
        fn $name() {
            let path = concat!("../../../tests/data/logic/worker/", stringify!($name), ".txt");
            check(include_str!(concat!("../../../tests/data/logic/worker/", stringify!($name), ".txt")), &expect_file![path]);
        }
    )* };
}

scripts! {
    adopt, chain, cutoff, exits, fencing, health, health_found, lease, life, offline, policy, ports, retries, stop
}

#[test]
fn an_open_port_is_tried_a_few_times_with_another_number_each() {
    let mut lab = Lab::new();
    lab.run("assign a open=1");
    let mut numbers = BTreeSet::new();
    while let Some(port) = lab.table.first().map(|route| route.published) {
        assert!(super::OPEN_PORTS.contains(&port));
        assert!(numbers.insert(port), "{port} was refused before");
        lab.run(&format!("applied {} {port} is taken", lab.generation));
    }
    let tries = usize::try_from(super::OPEN_PORTS_TRIES_MAX).unwrap();
    assert_eq!(numbers.len(), tries + 1);
    assert!(lab.text.contains("a is rejected"), "{}", lab.text);
}
