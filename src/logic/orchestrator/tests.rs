//! One service on a few nodes as a conversation: each file under `tests/data/logic/orchestrator` is
//! a script and what it gives.
//!
//! A line that begins with `> ` is a command, the lines after it are what was changed;
//! `UPDATE_EXPECT=1` writes them anew. Nodes have one letter, tasks are numbered as they are made.
//! After each command the service is looked at until nothing changes, as the manager does.
//!
//! ```text
//! nodes a b c | history N
//! node a active|pause|drain|small (memory)|label (disk=ssd)|ready|unknown|down|gone|orphan
//! service replicas=2 image=i mode=global condition=none|on-failure delay=5 attempts=3 window=60
//!         parallelism=1 wait=5 monitor=5 action=pause|continue|rollback ratio=50 (%) order=start-first
//!         back=pause|continue (action of a rollback) constraint=a==b max=1 memory=N
//!         job=2/5 (at once/in all) mode=global-job disconnect=stop
//! adopt N failed running (task N failed and its successor, made by its worker, runs)
//! move N (to a better node)
//! rollback | remove | forget (what is held in memory) | clock SECONDS (wall clock, ahead or back)
//! is N… starting|running|complete|failed|rejected|shutdown | hold N… failed (its address is not yet free)
//! run (all that are wanted) | stop (all that are to stop) | advance SECONDS | ps
//! ```

mod invariants;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use expect_test::expect_file;

use self::words::{seconds, set, state};
use super::{
    Chain, Draft, Memory, adopt, jobs, move_task, orphan_all, reconcile, remove_all, status,
};
use crate::base::id::{NodeId, ServiceId, TaskId};
use crate::base::rng::Rng;
use crate::base::time::{Now, Span, Time, Wall};
use crate::logic::fixture;
use crate::logic::scheduler::Nodes;
use crate::logic::store::{OWN_REQUEST, Store};
use crate::model::entry::{Change, Entry};
use crate::model::node::{Availability, NodeState};
use crate::model::object::{Object, ObjectId};
use crate::model::service::{UpdateState, UpdateStatus};
use crate::model::task::{LEASE, Task, TaskState};

const SERVICE: ServiceId = ServiceId::new(1);

pub(super) struct Lab {
    pub(super) store: Store,
    states: BTreeMap<NodeId, NodeState>,
    /// What runs completes at once.
    pub(super) complete: bool,
    /// What workers stopped by themselves.
    dead: BTreeSet<TaskId>,
    /// Since when nodes are down.
    down: BTreeMap<NodeId, Time>,
    rng: Rng,
    memory: Memory,
    now: Time,
    wall: u64,
    wake: Option<Time>,
    pub(super) numbers: BTreeMap<TaskId, usize>,
    pub(super) text: String,
}

fn node_id(name: &str) -> NodeId {
    let letter = name.bytes().next().expect("a name");
    NodeId::new(u128::from(letter - b'a' + 1))
}

fn letter(id: NodeId) -> char {
    char::from(b'a' + u8::try_from(id.0.0).unwrap() - 1)
}

impl Lab {
    pub(super) fn new() -> Self {
        let objects = vec![
            Object::Cluster(Box::new(fixture::cluster(2))),
            Object::Network(Box::new(fixture::network(1, "ingress", 24))),
        ];
        Self {
            store: fixture::store(objects),
            states: BTreeMap::new(),
            complete: false,
            dead: BTreeSet::new(),
            down: BTreeMap::new(),
            rng: Rng::new(1),
            memory: Memory::default(),
            now: Time(0),
            wall: 1_000_000_000,
            wake: None,
            numbers: BTreeMap::new(),
            text: String::new(),
        }
    }

    fn now(&self) -> Now {
        Now { mono: self.now, wall: Wall(self.wall + self.now.0) }
    }

    fn write(&mut self, changes: Vec<Change>) {
        let (request, time) = (OWN_REQUEST, self.now().wall);
        let entry = Entry { request, time, preconditions: Vec::new(), changes };
        self.store.apply(self.store.index() + 1, &entry);
    }

    fn put(&mut self, object: Object) {
        self.write(vec![Change::Put(object)]);
    }

    /// Looks at the service until nothing changes.
    fn look(&mut self) {
        for _ in 0..20 {
            let now = self.now();
            let nodes = Nodes::new(&self.store, &self.states);
            let mut draft = Draft::new(&self.store, &nodes, &mut self.rng, now);
            match self.store.service(SERVICE) {
                Some(service) => {
                    self.wake = reconcile(&mut draft, service, &mut self.memory).wake.time();
                }
                None => {
                    remove_all(&mut draft, SERVICE);
                    self.wake = None;
                }
            }
            let changes = draft.into_changes();
            if changes.is_empty() {
                return self.check();
            }
            self.show(&changes);
            self.write(changes);
        }
        panic!("the service does not come to rest: {}", self.text);
    }

    pub(super) fn hears(&self, task: &Task) -> bool {
        hears(&self.states, task)
    }

    pub(super) fn is_global(&self) -> bool {
        self.store.service(SERVICE).is_some_and(|service| service.spec.mode.is_global())
    }

    fn check(&self) {
        self.invariant_one_task_holds_a_slot();
        self.invariant_addresses_are_leased();
        self.invariant_jobs_are_bounded();
    }

    fn show(&mut self, changes: &[Change]) {
        let mut tasks: Vec<&Task> = Vec::new();
        for change in changes {
            match change {
                Change::Put(Object::Task(task)) => tasks.push(task),
                Change::Put(Object::Service(service)) => {
                    let status = service.update_status.as_ref().expect("only that is changed");
                    let because = status.message.rfind("of task ").map(|at| {
                        let id: TaskId = status.message[at + 8..].parse().unwrap();
                        (&status.message[..at + 8], self.numbers[&id])
                    });
                    let image = &service.spec.task.container.image;
                    let text = match because {
                        Some((text, number)) => format!("{text}{number}"),
                        None => status.message.clone(),
                    };
                    writeln!(self.text, "{:?} to {image}: {text}", status.state).unwrap();
                }
                Change::Remove(ObjectId::Task(id)) => {
                    writeln!(self.text, "-{}", self.numbers[id]).unwrap();
                }
                other => panic!("the orchestrator does not write {other:?}"),
            }
        }
        tasks.sort_by_key(|task| (self.numbers.get(&task.id), task.slot, task.node, task.id));
        for task in tasks {
            let next = self.numbers.len() + 1;
            let number = *self.numbers.entry(task.id).or_insert(next);
            let line = line(number, task);
            writeln!(self.text, "{}{line}", if number == next { "+" } else { " " }).unwrap();
        }
    }

    fn service(&mut self, text: &str) {
        let index = self.store.index() + 1;
        let Some(old) = self.store.service(SERVICE) else {
            let mut service = fixture::service(1, "web");
            service.spec_version = index;
            set(&mut service.spec, text);
            service.job = jobs::next_run(service.spec.mode, None, self.now().wall);
            return self.put(Object::Service(Box::new(service)));
        };
        let mut service = old.as_ref().clone();
        set(&mut service.spec, text);
        let (new, old) = (&service.spec, &old.spec);
        if (&new.task.container, &new.task.restart) != (&old.task.container, &old.task.restart) {
            service.spec_version = index;
        }
        if service.spec.mode.is_job() {
            service.spec_version = index;
            service.job = jobs::next_run(service.spec.mode, service.job, self.now().wall);
        }
        service.previous_spec = Some(Box::new(old.clone()));
        service.update_status = None;
        self.put(Object::Service(Box::new(service)));
    }

    fn rollback(&mut self) {
        let mut service = self.store.service(SERVICE).unwrap().as_ref().clone();
        service.spec = *service.previous_spec.take().expect("a previous spec");
        service.spec_version = self.store.index() + 1;
        service.update_status = Some(UpdateStatus {
            state: UpdateState::RollbackStarted,
            started: Some(self.now().wall),
            completed: None,
            message: "manually requested rollback".to_owned(),
        });
        self.put(Object::Service(Box::new(service)));
    }

    fn node(&mut self, name: &str, word: &str) {
        let id = node_id(name);
        let mut node = fixture::node(id.0.0);
        node.description.memory_bytes = 100;
        node.spec.labels = [("name".to_owned(), name.to_owned())].into();
        match word {
            "gone" => return self.write(vec![Change::Remove(ObjectId::Node(id))]),
            "orphan" => {
                let now = self.now();
                let nodes = Nodes::new(&self.store, &self.states);
                let mut draft = Draft::new(&self.store, &nodes, &mut self.rng, now);
                orphan_all(&mut draft, id);
                let changes = draft.into_changes();
                self.show(&changes);
                return self.write(changes);
            }
            "down" => {
                self.states.insert(id, NodeState::Down);
                self.down.entry(id).or_insert(self.now);
                return;
            }
            "unknown" => {
                self.states.insert(id, NodeState::Unknown);
                return self.heard(id);
            }
            "ready" => {
                self.states.insert(id, NodeState::Ready);
                self.heard(id);
                if self.store.node(id).is_some() {
                    return;
                }
            }
            "small" => node.description.memory_bytes = 10,
            "label" => _ = node.spec.labels.insert("disk".to_owned(), "ssd".to_owned()),
            "pause" => node.spec.availability = Availability::Pause,
            "drain" => node.spec.availability = Availability::Drain,
            "active" => {}
            _ => panic!("a node cannot be {word}"),
        }
        self.put(Object::Node(Box::new(node)));
    }

    /// A node is not down any more; if it was for too long, its worker has stopped what it had to.
    fn heard(&mut self, id: NodeId) {
        if self.down.remove(&id).is_some_and(|since| self.now >= since + LEASE) {
            self.dead.extend(self.store.tasks_of_node(id).map(|task| task.id));
        }
    }

    /// A worker tells of tasks; what has ended gives its address back, unless it is held.
    fn tell(&mut self, which: impl Fn(usize, &Task) -> bool, state: TaskState, held: bool) {
        let now = self.now().wall;
        let mut changes = Vec::new();
        for task in self.store.tasks().filter(|task| which(self.numbers[&task.id], task)) {
            if state == TaskState::Running {
                self.invariant_one_runs_with_a_lease(task);
            }
            let mut task = task.as_ref().clone();
            task.status = status(state, now, "told");
            if state.is_terminal() && !held {
                task.addresses.clear();
            }
            changes.push(Change::Put(Object::Task(Box::new(task))));
        }
        self.write(changes);
    }

    fn advance(&mut self, end: Time) {
        for _ in 0..1_000 {
            let Some(at) = self.wake.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            let before = self.text.len();
            self.look();
            if self.text.len() > before {
                let at = format!("[{:.1} s]\n", self.now.0 as f64 / 1e6);
                self.text.insert_str(before, &at);
            }
        }
        assert!(self.wake.is_none_or(|at| at > end), "a deadline that stays in the past");
        self.now = end;
    }

    pub(super) fn run(&mut self, command: &str) {
        // Two things never happen at one time.
        self.wall += 1;
        let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
        match word {
            "nodes" => rest.split(' ').for_each(|name| self.node(name, "ready")),
            "node" => {
                let (name, what) = rest.split_once(' ').expect("a node and what it is");
                self.node(name, what);
            }
            "history" => {
                let limit = rest.parse().unwrap();
                self.put(Object::Cluster(Box::new(fixture::cluster(limit))));
            }
            "service" => self.service(rest),
            "rollback" => self.rollback(),
            "remove" => self.write(vec![Change::Remove(ObjectId::Service(SERVICE))]),
            "forget" => self.memory = Memory::default(),
            "clock" => self.wall = self.wall.saturating_add_signed(seconds(rest)),
            "is" | "hold" => {
                let mut words: Vec<&str> = rest.split(' ').collect();
                let state = state(words.pop().expect("a state"));
                let numbers: Vec<usize> = words.iter().map(|word| word.parse().unwrap()).collect();
                self.tell(|number, _| numbers.contains(&number), state, word == "hold");
            }
            "run" => {
                let states = self.states.clone();
                let which = |_, task: &Task| waits(task) && hears(&states, task);
                self.tell(which, TaskState::Running, false);
                if self.complete {
                    let runs = |task: &Task| task.status.state == TaskState::Running;
                    let which = |_, task: &Task| runs(task) && hears(&states, task);
                    self.tell(which, TaskState::Complete, false);
                }
            }
            "stop" => {
                let states = self.states.clone();
                let which = |_, task: &Task| stops(task) && hears(&states, task);
                self.tell(which, TaskState::Shutdown, false);
            }
            "adopt" => self.adopt(rest),
            "move" => self.move_task(rest.parse().unwrap()),
            "advance" => return self.advance(self.now + Span::from_secs(rest.parse().unwrap())),
            "ps" => return self.ps(),
            _ => panic!("unknown command {command:?}"),
        }
        self.look();
    }

    /// `3 failed running`: task 3 failed and its successor runs; one more for each word.
    fn adopt(&mut self, text: &str) {
        let mut words = text.split(' ');
        let number: usize = words.next().and_then(|word| word.parse().ok()).expect("a task");
        let found = self.numbers.iter().find(|(_, it)| **it == number);
        let base = *found.expect("a task of that number").0;
        let now = self.now();
        let mut states = words.map(|word| status(state(word), now.wall, "told"));
        let status = states.next();
        let mut ended: Vec<_> =
            (1..).zip(states).map(|(n, status)| (base.successor(n), status)).collect();
        let last = ended.pop().expect("a successor");
        let nodes = Nodes::new(&self.store, &self.states);
        let mut draft = Draft::new(&self.store, &nodes, &mut self.rng, now);
        if !adopt(&mut draft, &Chain { base, status, ended, last }) {
            self.text.push_str("not wanted\n");
        }
        let changes = draft.into_changes();
        self.show(&changes);
        self.write(changes);
    }

    fn move_task(&mut self, number: usize) {
        let found = self.numbers.iter().find(|(_, it)| **it == number);
        let id = *found.expect("a task of that number").0;
        let now = self.now();
        let service = self.store.service(SERVICE).expect("the service");
        let nodes = Nodes::new(&self.store, &self.states);
        let mut draft = Draft::new(&self.store, &nodes, &mut self.rng, now);
        if !move_task(&mut draft, service, &mut self.memory, id) {
            self.text.push_str("not moved\n");
        }
        reconcile(&mut draft, service, &mut self.memory);
        let changes = draft.into_changes();
        self.show(&changes);
        self.write(changes);
    }

    fn ps(&mut self) {
        let mut tasks: Vec<(usize, String)> = Vec::new();
        for task in self.store.tasks() {
            let number = self.numbers[&task.id];
            tasks.push((number, line(number, task)));
        }
        tasks.sort();
        for (_, line) in tasks {
            writeln!(self.text, " {line}").unwrap();
        }
    }
}

/// Its worker can tell.
fn hears(states: &BTreeMap<NodeId, NodeState>, task: &Task) -> bool {
    task.node.is_some_and(|node| states.get(&node) == Some(&NodeState::Ready))
}

fn waits(task: &Task) -> bool {
    let placed = task.status.state >= TaskState::Assigned;
    let may = matches!(task.desired, TaskState::Running | TaskState::Complete);
    may && placed && task.status.state < TaskState::Running
}

fn stops(task: &Task) -> bool {
    !task.is_wanted() && !task.status.state.is_terminal()
}

fn line(number: usize, task: &Task) -> String {
    let (image, state) = (&task.spec.container.image, task.status.state.as_str());
    let on = task.node.map_or("nowhere".to_owned(), |node| format!("on {}", letter(node)));
    let mut line = format!("{number}: slot {} {on} {image}", task.slot);
    write!(line, ", wanted {}, {state}", task.desired.as_str()).unwrap();
    if !task.status.err.is_empty() {
        write!(line, ": {}", task.status.err).unwrap();
    }
    line
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
            let path = concat!("../../../tests/data/logic/orchestrator/", stringify!($name), ".txt");
            check(include_str!(concat!("../../../tests/data/logic/orchestrator/", stringify!($name), ".txt")), &expect_file![path]);
        }
    )* };
}

scripts! {
    adoption, attempts, failure, global, history, jobs, lease, nodes, rollout, scale, update_health,
    update_nodes
}
