//! The manager as a conversation: each file under `tests/data/logic` is a script and what it gives.
//!
//! A line that begins with `> ` is a command, the lines after it are what it printed;
//! `UPDATE_EXPECT=1` writes them anew. Commands (`S.N` is the newest wanted task of slot N, or
//! with `old S.N` the newest one that is to stop):
//!
//! ```text
//! create S replicas=2 image=i port=80 hostport=90 ports=N|80-90 delay=5 attempts=3 condition=none|on-failure
//!        parallelism=1 order=start-first action=pause|continue|rollback constraint=a==b memory=N
//!        retried=true mode=global env=K=V
//! update S … | scale S N | rollback S | rm S
//! run all | run S.N | early S.N | crash S.N (nothing is cleaned) | cleaned all
//! fail S.N text | reject S.N text | exit S.N | stop S.N | gone all
//! advance SECONDS | ps S | service S | full | space | restart | leases
//! history LIMIT [stale|rebalance] (with an old version; with moves for the spread)
//! ```

use std::fmt::Write as _;

use expect_test::expect_file;

use super::Manager;
use super::io::{Command, Config, Input, Output, Report};
use crate::base::id::{ClusterId, NodeId, RequestId, TaskId};
use crate::base::time::{Now, Span, Time, Wall};
use crate::logic::fixture;
use crate::logic::orchestrator::status;
use crate::logic::raft::io::{Entry, Recovered, Ticket, Timing, Write};
use crate::model::name::Name;
use crate::model::node::NodeDescription;
use crate::model::service::{
    FailureAction, Mode, PublishMode, RestartCondition, ServiceSpec, UpdateOrder,
};
use crate::model::task::{Task, TaskState, TaskStatus};
use crate::model::wire::HardState;

const NODE: NodeId = NodeId::new(7);

struct Lab {
    manager: Manager,
    now: Time,
    log: Vec<Entry>,
    hard_state: HardState,
    full: bool,
    requests: u128,
    text: String,
}

fn description() -> NodeDescription {
    NodeDescription { hostname: "pi".to_owned(), memory_bytes: 1 << 30, ..Default::default() }
}

fn manager(log: &[Entry], hard_state: HardState, now: Now) -> Manager {
    let config = Config {
        node: NODE,
        cluster: ClusterId::new(1),
        // A manager that is started again must not make the same ids.
        seed: [u8::try_from(log.len()).unwrap_or(0); 32],
        report_batch: Span::from_millis(100),
        snapshot_after_bytes: 1 << 20,
        advertise: "10.1.2.3:2377".to_owned(),
        timing: Timing::default(),
    };
    let recovered = Recovered { hard_state, entries: log.to_vec(), ..Recovered::default() };
    Manager::new(config, recovered, now).unwrap()
}

impl Lab {
    fn new() -> Self {
        let now = Time(0);
        let hard_state = HardState::default();
        let manager = manager(&[], hard_state, Now { mono: now, wall: Wall(0) });
        let (log, text) = (Vec::new(), String::new());
        let mut lab = Self { manager, now, log, hard_state, full: false, requests: 0, text };
        let mut out = Vec::new();
        lab.manager.bootstrap(lab.wall(), description(), &mut out);
        lab.outputs(out);
        lab.step(Input::WorkerJoined { node: NODE, description: description() });
        lab.text.clear();
        lab
    }

    fn wall(&self) -> Now {
        Now { mono: self.now, wall: Wall(1_000_000_000 + self.now.0) }
    }

    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.manager.step(self.wall(), input, &mut out);
        self.outputs(out);
    }

    fn outputs(&mut self, out: Vec<Output>) {
        let mut next = None;
        for output in out {
            match output {
                Output::Persist { ticket, write, .. } => {
                    let Write::Log { hard_state, entries, .. } = write else {
                        unreachable!("nobody sends a snapshot")
                    };
                    writeln!(self.text, "persist {}", entries.len()).unwrap();
                    let reason = "no space left on device".to_owned();
                    next = Some(if self.full {
                        Input::PersistRefused { ticket, reason }
                    } else {
                        self.hard_state = hard_state.unwrap_or(self.hard_state);
                        if let Some(first) = entries.first() {
                            self.log.retain(|entry| entry.index < first.index);
                        }
                        self.log.extend(entries);
                        Input::Persisted { ticket }
                    });
                }
                Output::SaveSnapshot { snapshot } => {
                    writeln!(self.text, "snapshot {}", snapshot.index).unwrap();
                }
                Output::Reply { reply, .. } => match reply {
                    Ok(_) => self.text.push_str("ok\n"),
                    Err(error) => writeln!(self.text, "error: {error}").unwrap(),
                },
                Output::Assign { assignments, .. } => {
                    let all = if assignments.complete { " all" } else { "" };
                    let mut names: Vec<String> =
                        assignments.tasks.iter().map(|t| name(t)).collect();
                    names.sort();
                    let removed = assignments.removed.len();
                    writeln!(self.text, "assign{all} {names:?} removed {removed}").unwrap();
                }
                Output::Leader { .. } => {}
                Output::Send { .. } | Output::Removed | Output::Broken { .. } => {
                    panic!("one manager alone: {output:?}")
                }
            }
        }
        if let Some(input) = next {
            self.step(input);
        }
    }

    fn advance(&mut self, seconds: u64) {
        let end = self.now + Span::from_secs(seconds);
        for _ in 0..1_000 {
            let Some(at) = self.manager.deadline().filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            let before = self.text.len();
            self.step(Input::Tick);
            if self.text.len() > before {
                let at = format!("[{:.1} s] ", self.now.0 as f64 / 1e6);
                self.text.insert_str(before, &at);
            }
        }
        self.now = end;
    }

    fn tasks(&self, service: &str) -> Vec<Task> {
        let name = Name::new(service).unwrap();
        let tasks = self.manager.view().tasks;
        let mut tasks: Vec<Task> = tasks
            .iter()
            .filter(|task| task.service_name == name)
            .map(|task| task.as_ref().clone())
            .collect();
        tasks.sort_by_key(|task| {
            (task.slot, std::cmp::Reverse((task.meta.created, task.not_before)))
        });
        tasks
    }

    /// `S.N` or `old S.N`.
    fn task(&self, text: &str) -> Task {
        let (old, text) = match text.strip_prefix("old ") {
            Some(text) => (true, text),
            None => (false, text),
        };
        let (service, slot) = text.split_once('.').expect("service.slot");
        let slot: u64 = slot.parse().unwrap();
        let over = |task: &Task| task.status.state.is_terminal();
        let fits = |task: &&Task| {
            task.slot == slot && !over(task) && (task.desired > TaskState::Running) == old
        };
        self.tasks(service)
            .iter()
            .find(fits)
            .unwrap_or_else(|| panic!("no task {text} {:#?}", self.tasks(service)))
            .clone()
    }

    fn told(&mut self, id: TaskId, state: TaskState, message: &str, err: &str) {
        let mut status: TaskStatus = status(state, self.wall().wall, message);
        err.clone_into(&mut status.err);
        let cleaned = if state.is_terminal() { vec![id] } else { Vec::new() };
        self.tell_all(Report { statuses: vec![(id, status)], cleaned, ..Report::default() });
    }

    fn tell_all(&mut self, report: Report) {
        self.step(Input::Report { node: NODE, report });
        self.now = self.now + Span::from_millis(100);
        self.step(Input::Tick);
    }

    fn ask(&mut self, command: Command) {
        self.requests += 1;
        let request = RequestId::new(self.requests);
        self.step(Input::Command { request, command });
    }

    fn change(&mut self, service: &str, change: impl Fn(&mut ServiceSpec)) {
        let name = Name::new(service).unwrap();
        let service = self.manager.store().service_named(&name).expect("a service").clone();
        let mut spec = service.spec.clone();
        change(&mut spec);
        let spec = Some(Box::new(spec.validate().unwrap()));
        let (id, version) = (service.id, service.meta.version);
        self.ask(Command::UpdateService { id, version, spec });
    }

    fn run(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (target, text) = match rest.strip_prefix("old ") {
            Some(old) => {
                let (target, text) = old.split_once(' ').unwrap_or((old, ""));
                (format!("old {target}"), text)
            }
            None => {
                let (target, text) = rest.split_once(' ').unwrap_or((rest, ""));
                (target.to_owned(), text)
            }
        };
        match (word, target.as_str()) {
            ("create", name) => {
                let mut spec = fixture::spec(name, "image", 1);
                set(&mut spec, text);
                let spec = Box::new(spec.validate().unwrap());
                self.ask(Command::CreateService { spec: spec.clone() });
                if text.contains("retried=true") {
                    self.requests -= 1;
                    self.ask(Command::CreateService { spec });
                }
            }
            ("update", name) => self.change(name, |spec| set(spec, text)),
            ("scale", name) => self.change(name, |spec| set(spec, &format!("replicas={text}"))),
            ("rollback" | "rm", name) => {
                let name = Name::new(name).unwrap();
                let service = self.manager.store().service_named(&name).expect("a service");
                let (id, version) = (service.id, service.meta.version);
                self.ask(match word {
                    "rm" => Command::RemoveService { id },
                    _ => Command::UpdateService { id, version, spec: None },
                });
            }
            ("advance", seconds) => self.advance(seconds.parse().unwrap()),
            ("ps", name) => self.ps(name),
            ("service", name) => {
                let name = Name::new(name).unwrap();
                let service = self.manager.store().service_named(&name).expect("a service");
                let (image, status) = (&service.spec.task.container.image, &service.update_status);
                let status = status.as_ref().map(|it| (it.state, &it.message));
                writeln!(self.text, "{image} {status:?} {:?}", service.spec.mode).unwrap();
            }
            ("history", limit) => {
                let cluster = self.manager.store().cluster().expect("a cluster");
                let version = cluster.meta.version - u64::from(text == "stale");
                let mut spec = cluster.spec();
                spec.task_history_limit = limit.parse().unwrap();
                spec.rebalance |= text == "rebalance";
                self.ask(Command::UpdateCluster { version, spec: Box::new(spec) });
            }
            ("full", _) => self.full = true,
            ("space", _) => self.full = false,
            ("restart", _) => {
                self.manager = manager(&self.log, self.hard_state, self.wall());
                self.step(Input::WorkerJoined { node: NODE, description: description() });
            }
            ("deadline", _) => {
                let left = self.manager.deadline().map(|at| at.since(self.now).0 / 1_000);
                writeln!(self.text, "{left:?} ms").unwrap();
            }
            ("leases", _) => {
                let leases = self.manager.store().tasks().map(|task| task.addresses.len());
                writeln!(self.text, "{}", leases.sum::<usize>()).unwrap();
            }
            _ => assert!(self.told_by_worker(word, &target, text), "unknown command {line:?}"),
        }
    }

    /// Whether it is something that a worker tells.
    fn told_by_worker(&mut self, word: &str, target: &str, text: &str) -> bool {
        match (word, target) {
            ("run", "all") => self.run_all(),
            ("gone", "all") => self.gone_all(),
            ("early", task) => self.report(task, TaskState::Preparing, "preparing", ""),
            ("crash", task) => {
                let status = status(TaskState::Failed, self.wall().wall, "started");
                let statuses = vec![(self.task(task).id, status)];
                self.tell_all(Report { statuses, ..Report::default() });
            }
            ("cleaned", "all") => {
                let tasks = self.manager.view().tasks;
                let ended = tasks.iter().filter(|task| task.status.state.is_terminal());
                let cleaned = ended.map(|task| task.id).collect();
                self.tell_all(Report { cleaned, ..Report::default() });
            }
            ("run", task) => self.report(task, TaskState::Running, "started", ""),
            ("fail", task) => self.report(task, TaskState::Failed, "started", text),
            ("reject", task) => self.report(task, TaskState::Rejected, "preparing", text),
            ("exit", task) => self.report(task, TaskState::Complete, "finished", ""),
            ("stop", task) => self.report(task, TaskState::Shutdown, "shutdown", ""),
            _ => return false,
        }
        true
    }

    fn run_all(&mut self) {
        for task in self.manager.view().tasks {
            if task.desired == TaskState::Running && task.status.state < TaskState::Running {
                self.told(task.id, TaskState::Running, "started", "");
            }
        }
    }

    fn gone_all(&mut self) {
        let tasks = self.manager.view().tasks;
        let removed = tasks.iter().filter(|task| task.desired == TaskState::Remove);
        let removed = removed.map(|task| task.id).collect();
        let report = Report { removed, ..Report::default() };
        self.step(Input::Report { node: NODE, report });
        self.advance(1);
    }

    fn report(&mut self, task: &str, state: TaskState, message: &str, err: &str) {
        let id = self.task(task).id;
        self.told(id, state, message, err);
    }

    fn ps(&mut self, service: &str) {
        for task in self.tasks(service) {
            let (state, image) = (task.status.state.as_str(), &task.spec.container.image);
            let desired = task.desired.as_str();
            let line = format!("{} {image} wanted {desired} is {state}", name(&task));
            let err = if task.status.err.is_empty() { "" } else { ": " };
            writeln!(self.text, "{line}, {}{err}{}", task.status.message, task.status.err).unwrap();
        }
    }
}

fn name(task: &Task) -> String {
    format!("{}.{}", task.service_name, task.slot)
}

fn set(spec: &mut ServiceSpec, text: &str) {
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=').expect("key=value");
        let number = || value.parse::<u64>().expect("a number");
        let mut update = spec.update.unwrap_or_default();
        match key {
            "image" => value.clone_into(&mut spec.task.container.image),
            "replicas" => spec.mode = Mode::Replicated { replicas: number() },
            "mode" => spec.mode = Mode::Global,
            "port" | "hostport" => {
                let host = key == "hostport";
                let mode = if host { PublishMode::Host } else { PublishMode::Ingress };
                let published = value.parse().expect("a port");
                spec.endpoint.ports = vec![fixture::port(published, mode)];
            }
            "ports" => {
                // A count from 1000 on, or a range.
                let number = |text: &str| text.parse::<u16>().expect("a port");
                let (first, last) = match value.split_once('-') {
                    Some((first, last)) => (number(first), number(last)),
                    None => (1_000, 999 + number(value)),
                };
                let publish = |published| fixture::port(published, PublishMode::Ingress);
                spec.endpoint.ports = (first..=last).map(publish).collect();
            }
            "delay" => spec.task.restart.delay = Span::from_secs(number()),
            "attempts" => spec.task.restart.max_attempts = number(),
            "condition" if value == "none" => spec.task.restart.condition = RestartCondition::None,
            "condition" => spec.task.restart.condition = RestartCondition::OnFailure,
            "constraint" => spec.task.placement.constraints = vec![value.to_owned()],
            "memory" => spec.task.resources.reserve_memory_bytes = number(),
            "env" => spec.task.container.env.push(value.to_owned()),
            "parallelism" => update.parallelism = number(),
            "order" => update.order = UpdateOrder::StartFirst,
            "action" => {
                update.on_failure = match value {
                    "pause" => FailureAction::Pause,
                    "continue" => FailureAction::Continue,
                    _ => FailureAction::Rollback,
                }
            }
            "retried" => {}
            _ => panic!("unknown key {key}"),
        }
        if matches!(key, "parallelism" | "order" | "action") {
            spec.update = Some(update);
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
            writeln!(all, "{line}\n{}", lab.text.trim_end()).unwrap();
            if lab.text.is_empty() {
                all.pop();
            }
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
            let path = concat!("../../../tests/data/logic/", stringify!($name), ".txt");
            check(include_str!(concat!("../../../tests/data/logic/", stringify!($name), ".txt")), &expect_file![path]);
        }
    )* };
}

scripts! { service, restart, update, placement, disk_full, states, cluster }

#[test]
fn a_network_without_a_free_address_is_told_and_what_is_freed_goes_to_who_waits() {
    let mut lab = Lab::new();
    lab.run("create web replicas=253 port=80 condition=none");
    assert!(lab.tasks("web").iter().all(|task| task.status.state == TaskState::Assigned));
    lab.run("create other port=81");
    lab.run("create inside");
    let state = |lab: &Lab, name: &str| {
        let status = lab.tasks(name)[0].status.clone();
        (status.state, status.err)
    };
    let full = "no address is free in network ingress".to_owned();
    assert_eq!(state(&lab, "other"), (TaskState::New, full));
    assert_eq!(state(&lab, "inside"), (TaskState::Assigned, String::new()), "another network");
    assert_eq!(lab.manager.deadline(), None, "it does not ask again and again");
    lab.run("crash web.1");
    lab.run("advance 6");
    assert_eq!(state(&lab, "other").0, TaskState::New, "one that ended still holds its address");
    lab.run("cleaned all");
    assert_eq!(state(&lab, "other"), (TaskState::Assigned, String::new()));
    let mut addresses: Vec<_> =
        lab.manager.store().tasks().flat_map(|task| task.addresses.clone()).collect();
    addresses.sort_by_key(|lease| (lease.network, lease.address));
    addresses.dedup();
    assert_eq!(addresses.len(), 254, "each has one holder, and all are leased");
}

#[test]
fn at_the_limit_of_entries_that_wait_for_the_disk_a_command_is_refused() {
    let mut lab = Lab::new();
    let (mut replies, mut last) = (Vec::new(), Ticket::default());
    let now = lab.wall();
    let mut step = |lab: &mut Lab, input| {
        let mut out = Vec::new();
        lab.manager.step(now, input, &mut out);
        for output in out {
            match output {
                Output::Persist { ticket, .. } => last = ticket,
                Output::Reply { reply, .. } => replies.push(reply.map(|_| ())),
                _ => {}
            }
        }
        last
    };
    let asked = 1_200;
    for n in 1..=asked {
        let spec = fixture::spec(&format!("s{n}"), "image", 0);
        let command = Command::CreateService { spec: Box::new(spec.validate().unwrap()) };
        step(&mut lab, Input::Command { request: RequestId::new(n), command });
    }
    let ticket = step(&mut lab, Input::Tick);
    step(&mut lab, Input::Persisted { ticket });
    let busy = "too many changes wait for the disk; try again in a moment";
    let refused = replies.iter().filter_map(|reply| reply.as_ref().err());
    let refused: Vec<String> = refused.map(ToString::to_string).collect();
    assert_eq!(refused, vec![busy; 1_200 - 1_024]);
    assert_eq!(replies.len(), 1_200);
    assert_eq!(lab.manager.store().services().count(), 1_024);
    assert_eq!(lab.manager.deadline(), None);
}
