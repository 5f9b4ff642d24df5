//! The worker as a conversation: each file under `tests/data/logic/worker` is a script and what it
//! gives.
//!
//! A line that begins with `> ` is a command, the lines after it are what it printed;
//! `UPDATE_EXPECT=1` writes them anew. Tasks have one letter. The lab keeps each task as a manager
//! has it: what is reported of it goes into the next assignment. Commands:
//!
//! ```text
//! assign T desired=ready port=80 hostport=8080 open=1 grace=3 env=K=V state=orphaned
//! all [T…]                     everything that is to be on the node, all tasks without names
//! removed T                    | fence N (of the assignments that follow)
//! did T prepared|started|signalled|cleaned|removed
//! failed T text                | temporary T text
//! exited T CODE [oom|lost]     | applied N [PORT text]
//! advance SECONDS              | deadline
//! restart T=none|created|running|exited:CODE [rebooted]
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use expect_test::expect_file;

use super::Worker;
use super::io::{
    Action, Config, Exit, Found, FoundContainer, Input, Outcome, Output, PortRoute, RefusedPort,
};
use crate::base::id::{NetworkId, NodeId, TaskId};
use crate::base::time::{Now, Span, Time, Wall};
use crate::logic::fixture;
use crate::logic::manager::io::{Assignments, Fence, Report};
use crate::logic::orchestrator::status;
use crate::model::network::Network;
use crate::model::node::NodeDescription;
use crate::model::service::{Port, Protocol, PublishMode};
use crate::model::task::{Address, Task, TaskState};

const NETWORK: NetworkId = NetworkId::new(1);

struct Lab {
    worker: Worker,
    now: Time,
    /// As a manager has them.
    tasks: BTreeMap<TaskId, Task>,
    fence: u64,
    under_way: BTreeSet<TaskId>,
    generation: u64,
    /// As it was sent last.
    table: Vec<PortRoute>,
    text: String,
}

pub(super) fn config(found: Vec<Found>, fence: Fence) -> Config {
    let description = NodeDescription { hostname: "pi".to_owned(), ..Default::default() };
    Config { node: NodeId::new(7), description, seed: [0; 32], found, fence }
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
    task.addresses = vec![Address { network: NETWORK, address: Ipv4Addr::new(10, 0, 0, n) }];
    task.status.state = TaskState::Assigned;
    task
}

fn id(name: &str) -> TaskId {
    let letter = name.bytes().next().expect("a name");
    TaskId::new(u128::from(letter - b'a' + 1))
}

fn name(id: TaskId) -> char {
    char::from(b'a' + u8::try_from(id.0.0).unwrap() - 1)
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
        let now = Time(0);
        let worker = Worker::new(config(Vec::new(), Fence::default()), Now::default());
        let (tasks, under_way) = (BTreeMap::new(), BTreeSet::new());
        let (fence, generation, table, text) = (0, 0, Vec::new(), String::new());
        Self { worker, now, tasks, fence, under_way, generation, table, text }
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
                Output::Act { task, action } => {
                    assert!(self.under_way.insert(task), "two actions of task {}", name(task));
                    writeln!(self.text, "{}: {}", name(task), shown(&action)).unwrap();
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
        let fence = fence(self.fence);
        let assignments = Assignments { fence, complete, tasks, removed, networks };
        self.step(Input::Assignments(assignments));
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
            let task = &self.tasks[&id(who)];
            // The folder holds the task as it was when its container was made.
            let status = status(TaskState::Assigned, Wall(0), "");
            let task = Task { status, ..task.clone() };
            let container = match how.split_once(':').unwrap_or((how, "0")) {
                ("created", _) => FoundContainer::Created,
                ("running", _) => FoundContainer::Running { pid: 100 },
                ("exited", code) => FoundContainer::Exited(self.exit(code, "")),
                _ => FoundContainer::None,
            };
            found.push(Found { task, container, rebooted });
        }
        self.worker = Worker::new(config(found, self.worker.fence()), self.now());
        self.under_way.clear();
        (self.generation, self.table) = (0, Vec::new());
    }

    fn exit(&self, code: &str, how: &str) -> Exit {
        let (oom, shim_lost) = (how == "oom", how == "lost");
        Exit { code: code.parse().unwrap(), oom, shim_lost, at: self.now().wall }
    }

    fn run(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (target, text) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "assign" => {
                let id = id(target);
                let number = u8::try_from(id.0.0).unwrap();
                set(self.tasks.entry(id).or_insert_with(|| task(number)), text);
                self.assign(false, &[id], Vec::new());
            }
            "all" => {
                let named: Vec<TaskId> = rest.split_whitespace().map(id).collect();
                let all = self.tasks.keys().copied().collect();
                let tasks = if named.is_empty() { all } else { named };
                self.assign(true, &tasks, Vec::new());
            }
            "removed" => self.assign(false, &[], vec![id(target)]),
            "fence" => self.fence = target.parse().unwrap(),
            "did" => self.acted(
                id(target),
                match text {
                    "prepared" => Outcome::Prepared,
                    "started" => Outcome::Started { pid: 42 },
                    "signalled" => Outcome::Signalled,
                    "cleaned" => Outcome::Cleaned,
                    "removed" => Outcome::Removed,
                    _ => panic!("unknown outcome {text:?}"),
                },
            ),
            "failed" | "temporary" => {
                let (err, temporary) = (text.to_owned(), word == "temporary");
                self.acted(id(target), Outcome::Failed { err, temporary });
            }
            "exited" => {
                let (code, how) = text.split_once(' ').unwrap_or((text, ""));
                let exit = self.exit(code, how);
                self.step(Input::Exited { task: id(target), exit });
            }
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
        Action::Start => "start".to_owned(),
        Action::Stop => "stop".to_owned(),
        Action::Kill => "kill".to_owned(),
        Action::Clean => "clean".to_owned(),
        Action::Remove => "remove".to_owned(),
    }
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

scripts! { adopt, exits, life, ports, retries, stop }

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
