//! The worker on a host that does anything at any time, with sessions that come and go: what must
//! hold after each step, and that everything is gone when everything was taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::io::{Action, Input, Output, Prepare, Record, RefusedPort};
use super::tests::{config, fence, network, task};
use super::walk_host::{Container, Folder};
use super::{AUTONOMY_AFTER, LEASE_GRACE_MAX, Worker};
use crate::base::id::TaskId;
use crate::base::time::{Now, Span, Time, Wall};
use crate::logic::fixture;
use crate::logic::manager::io::{Adopted, Assignments, Report};
use crate::model::service::{Health, OnDisconnect, PublishMode};
use crate::model::task::{LEASE, Task, TaskState};

/// What happens next; tasks by number, of a chain the newest.
#[derive(Clone, Debug)]
enum Event {
    Assign { task: u8, desired: usize },
    Removed { task: u8 },
    Acted { task: u8, result: Result<(), bool> },
    Exited { task: u8, code: i32 },
    Probed { task: u8, well: bool },
    Applied { refused: bool },
    Advance { seconds: u64 },
    Lost,
    Heard,
    Join,
    Decide { task: u8, adopt: bool },
    Restart { rebooted: bool, cut: bool, silent: bool },
}

const DESIRED: [TaskState; 4] =
    [TaskState::Ready, TaskState::Running, TaskState::Shutdown, TaskState::Remove];

pub(super) struct World {
    pub(super) worker: Worker,
    pub(super) now: Time,
    pub(super) index: u64,
    /// As the manager has them, and as this run of the daemon was told last.
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) sent: BTreeMap<TaskId, TaskState>,
    pub(super) chains: BTreeMap<TaskId, Adopted>,
    /// Under way.
    pub(super) probes: BTreeSet<TaskId>,
    pub(super) folders: BTreeMap<TaskId, Folder>,
    /// Successors that the worker has made.
    pub(super) own: BTreeSet<TaskId>,
    /// Told to have ended by this run of the daemon, or to it.
    pub(super) over: BTreeSet<TaskId>,
    pub(super) open: bool,
    pub(super) lost: Time,
    pub(super) heard: Time,
    pub(super) boot: u32,
    pub(super) generation: u64,
    pub(super) table: usize,
    pub(super) ticks: u32,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            worker: Worker::new(config(Vec::new(), fence(0)), Now::default()),
            now: Time(0),
            index: 1,
            tasks: BTreeMap::new(),
            sent: BTreeMap::new(),
            chains: BTreeMap::new(),
            probes: BTreeSet::new(),
            folders: BTreeMap::new(),
            own: BTreeSet::new(),
            over: BTreeSet::new(),
            open: false,
            lost: Time(0),
            heard: Time(0),
            boot: 0,
            generation: 0,
            table: 0,
            ticks: 0,
        };
        world.join();
        world
    }

    pub(super) fn now(&self) -> Now {
        Now { mono: self.now, wall: Wall(1_000_000_000 + self.now.0) }
    }

    pub(super) fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        let now = self.now();
        self.worker.step(now, input, &mut out);
        for output in out {
            match output {
                Output::Act { task, action, record } => {
                    self.begin(task, action);
                    if let (Some(record), Some(folder)) = (record, self.folders.get_mut(&task)) {
                        folder.record = *record;
                    }
                }
                Output::Routes { generation, ports } => {
                    assert!(generation > self.generation, "generations grow");
                    (self.generation, self.table) = (generation, ports.len());
                    for backend in ports.iter().flat_map(|port| &port.backends) {
                        let folder = &self.folders[&backend.task];
                        assert_eq!(folder.container, Container::Running, "{folder:#?}");
                        assert!(!folder.sick, "connections for one that is unhealthy: {folder:#?}");
                        let sent = self.sent.get(&backend.task);
                        assert!(sent.is_none_or(|it| *it <= TaskState::Running), "{folder:#?}");
                    }
                }
                Output::Report(report) => self.report(report),
                Output::Probe { task, .. } => self.probe(task),
                Output::KeepFence { fence } => assert!(fence.term <= 1, "{fence:?}"),
            }
        }
        self.invariant_one_of_a_chain_runs();
        self.invariant_a_lease_ends_it();
    }

    fn begin(&mut self, task: TaskId, action: Action) {
        if let Action::Prepare(prepare) = &action {
            self.invariant_nothing_is_made_by_itself_in_a_session(prepare);
            self.invariant_an_address_is_on_the_machine_once(prepare);
            let Prepare { task: as_told, networks, own, fence, .. } = prepare.as_ref().clone();
            let boot = self.boot;
            let folder = self.folders.entry(task).or_insert_with(|| Folder {
                record: Record { task: as_told.clone(), networks: Vec::new(), own, fence },
                container: Container::None,
                network: true,
                boot,
                code: 0,
                doing: None,
                signalled: false,
                sick: false,
                killed: false,
            });
            (folder.network, folder.boot) = (true, boot);
            folder.record = Record { task: as_told, networks, own, fence };
        }
        let sent = self.sent.get(&task).copied();
        let Some(folder) = self.folders.get_mut(&task) else {
            assert!(matches!(action, Action::Remove), "{action:?} for what is gone");
            return;
        };
        assert!(folder.doing.is_none(), "two actions at once: {folder:#?} {action:?}");
        let over = self.over.contains(&task);
        let container = folder.container;
        let fits = match &action {
            Action::Prepare(_) => container != Container::Running && !over,
            Action::Start { .. } => {
                let promoted = sent == Some(TaskState::Ready) && !self.open;
                let wanted = sent.is_none() || sent == Some(TaskState::Running) || promoted;
                container == Container::Made && wanted && !over
            }
            Action::Stop | Action::Kill => container == Container::Running,
            Action::Clean | Action::Remove => container != Container::Running,
            Action::Remember => true,
        };
        assert!(fits, "{action:?} does not fit {folder:#?}");
        if matches!(action, Action::Start { .. }) && leased(&folder.record.task) {
            assert!(self.now < self.heard + LEASE, "a start without a lease: {folder:#?}");
        }
        folder.killed |= matches!(action, Action::Kill);
        folder.doing = Some(action);
    }

    fn invariant_nothing_is_made_by_itself_in_a_session(&mut self, prepare: &Prepare) {
        let known = self.tasks.contains_key(&prepare.task.id);
        assert_eq!(known, prepare.own.is_none(), "{prepare:#?}");
        if !known && self.own.insert(prepare.task.id) {
            assert!(!self.open && self.now >= self.lost + AUTONOMY_AFTER, "{prepare:#?}");
            assert!(!leased(&prepare.task), "{prepare:#?}");
        }
    }

    fn invariant_an_address_is_on_the_machine_once(&self, prepare: &Prepare) {
        let mut others = self.folders.iter().filter(|(id, _)| **id != prepare.task.id);
        let twice = others.find(|(_, other)| {
            other.network && prepare.task.addresses[0] == network_of(&other.record.task)
        });
        assert!(twice.is_none(), "{prepare:#?}\n{twice:#?}");
    }

    fn invariant_one_of_a_chain_runs(&self) {
        let mut running = BTreeMap::new();
        for folder in self.folders.values().filter(|it| it.container == Container::Running) {
            let task = &folder.record.task;
            let twice = running.insert(task.slot, task.id);
            assert!(twice.is_none(), "{twice:?} and {:?} run", task.id);
        }
    }

    /// The worker has done what it can: SIGKILL is sent, or waits for the action under way.
    fn invariant_a_lease_ends_it(&self) {
        for folder in self.folders.values().filter(|folder| leased(&folder.record.task)) {
            let runs = folder.container == Container::Running && folder.doing.is_none();
            let over = runs && self.now >= self.heard + LEASE;
            assert!(!over || folder.killed, "{folder:#?}");
            let late = runs && self.now >= self.heard + LEASE - LEASE_GRACE_MAX;
            assert!(!late || folder.signalled, "{folder:#?}");
        }
    }

    fn report(&mut self, report: Report) {
        assert!(self.open, "a report that nobody hears: {report:#?}");
        for (id, status) in report.statuses {
            let Some(task) = self.tasks.get_mut(&id) else { continue };
            let before = task.status.state;
            assert!(status.state >= before, "told {:?} after {before:?}", status.state);
            let dead = status.state.is_terminal();
            assert!(!dead || status.pid == 0, "no process is left: {status:?}");
            self.over.extend(dead.then_some(id));
            task.status = status;
        }
        for id in report.cleaned {
            let task = &self.tasks[&id];
            assert!(task.status.state.is_terminal(), "{task:#?}");
            let held = self.folders.values().find(|folder| {
                folder.network && task.addresses.contains(&network_of(&folder.record.task))
            });
            assert!(held.is_none(), "an address is told to be free: {held:#?}");
        }
        for id in report.removed {
            self.tasks.remove(&id);
            self.sent.remove(&id);
            self.over.remove(&id);
            let left = self.folders.get(&id);
            assert!(left.is_none(), "removed: {left:#?}");
        }
        for chain in report.adopted {
            let ended = chain.ended.iter().all(|(_, status)| status.state.is_terminal());
            assert!(ended && chain.task.adopted_from == Some(chain.base), "{chain:#?}");
            assert!(chain.ended.len() <= super::CHAIN_MAX, "{chain:#?}");
            self.chains.insert(chain.base, chain);
        }
    }

    fn assign(&mut self, complete: bool, tasks: &[TaskId], removed: Vec<TaskId>) {
        if !self.open {
            return;
        }
        self.index += 1;
        let tasks: Vec<Arc<Task>> =
            tasks.iter().filter_map(|id| self.tasks.get(id).cloned().map(Arc::new)).collect();
        self.sent.extend(tasks.iter().map(|task| (task.id, task.desired)));
        let over = tasks.iter().filter(|task| task.status.state.is_terminal());
        self.over.extend(over.map(|task| task.id));
        let networks = vec![Arc::new(network())];
        let fence = fence(self.index);
        let assignments = Assignments { fence, complete, tasks, removed, networks };
        self.step(Input::Assignments(assignments));
    }

    pub(super) fn join(&mut self) {
        self.hear();
        self.open = true;
        self.chains.clear();
        let all: Vec<TaskId> = self.tasks.keys().copied().collect();
        self.assign(true, &all, Vec::new());
    }

    fn hear(&mut self) {
        self.heard = self.now;
        self.step(Input::LeaderHeard { at: self.now, alone: false });
    }

    fn lose(&mut self) {
        if std::mem::take(&mut self.open) {
            self.lost = self.now;
            self.step(Input::SessionLost);
        }
    }

    /// The manager takes in a chain that it was told, or gives its base up.
    fn decide(&mut self, base: TaskId, adopt: bool) {
        if !self.open {
            return;
        }
        let Some(chain) = self.chains.remove(&base) else { return };
        let Some(known) = self.tasks.get_mut(&base) else { return };
        let wanted = known.desired <= TaskState::Running;
        known.desired = known.desired.max(TaskState::Shutdown);
        let mut ids = vec![base];
        if adopt && wanted {
            known.status = chain.status.expect("how it ended");
            known.addresses.clear();
            for (id, status) in chain.ended {
                let (desired, addresses) = (TaskState::Shutdown, Vec::new());
                let task = Task { id, status, desired, addresses, ..chain.task.clone() };
                self.tasks.insert(id, task);
                ids.push(id);
            }
            ids.push(chain.task.id);
            self.tasks.insert(chain.task.id, chain.task);
        }
        self.assign(false, &ids, Vec::new());
    }

    fn advance(&mut self, span: Span) {
        let end = self.now + span;
        while let Some(at) = self.worker.deadline().filter(|at| *at <= end) {
            assert!(at > self.now || self.ticks < 3, "a deadline that has passed often");
            self.ticks = if at > self.now { 0 } else { self.ticks + 1 };
            self.now = self.now.max(at);
            self.step(Input::Tick);
        }
        self.now = end;
    }

    /// The newest of a task's chain that has a folder.
    fn newest(&self, number: u8) -> TaskId {
        let base = id(number);
        let of = |folder: &&Folder| folder.record.task.slot == u64::from(number);
        let busy = |folder: &&Folder| folder.container != Container::Ended || folder.network;
        let mut own = self.folders.values().filter(of).filter(busy);
        own.next_back().map_or(base, |folder| folder.record.task.id)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Assign { task: number, desired } => {
                // An address is given again when nothing has it.
                let slot = u64::from(number);
                let mut others = self.tasks.values().filter(|task| task.id != id(number));
                if others.any(|task| task.slot == slot) {
                    return;
                }
                let known = self.tasks.entry(id(number)).or_insert_with(|| new_task(number));
                known.desired = known.desired.max(DESIRED[desired]);
                self.assign(false, &[id(number)], Vec::new());
            }
            Event::Removed { task } => {
                if let Some(known) = self.tasks.get_mut(&id(task)) {
                    known.desired = TaskState::Remove;
                    self.assign(false, &[], vec![id(task)]);
                }
            }
            Event::Acted { task, result } => self.acted(self.newest(task), result),
            Event::Exited { task, code } => self.exited(self.newest(task), code),
            Event::Probed { task, well } => self.probed(self.newest(task), well),
            Event::Applied { refused } => {
                let (protocol, host_ip) = (Default::default(), None);
                let reason = "taken".to_owned();
                let port = RefusedPort { protocol, published: 80, host_ip, reason };
                let refused = if refused { vec![port] } else { Vec::new() };
                self.step(Input::RoutesApplied { generation: self.generation, refused });
            }
            Event::Advance { seconds } => self.advance(Span::from_secs(seconds)),
            Event::Lost => self.lose(),
            Event::Heard => self.hear(),
            Event::Join => self.join(),
            Event::Decide { task, adopt } => self.decide(id(task), adopt),
            Event::Restart { rebooted, cut, silent } => self.restart(rebooted, cut, silent),
        }
    }

    /// Takes everything away on a host where everything works.
    fn end(&mut self) {
        for task in self.tasks.values_mut() {
            task.desired = TaskState::Remove;
        }
        self.join();
        for _ in 0..40 {
            self.step(Input::RoutesApplied { generation: self.generation, refused: Vec::new() });
            let ids: Vec<TaskId> = self.folders.keys().chain(self.tasks.keys()).copied().collect();
            for id in ids {
                self.acted(id, Ok(()));
                if self.folders.get(&id).is_some_and(|folder| folder.signalled) {
                    self.exited(id, 143);
                }
            }
            self.advance(Span::from_secs(2));
        }
        assert!(self.tasks.is_empty(), "{:#?}", self.tasks);
        assert!(self.folders.is_empty(), "{:#?}", self.folders);
        assert_eq!((self.table, self.worker.deadline()), (0, None));
    }
}

fn id(number: u8) -> TaskId {
    TaskId::new(u128::from(number))
}

/// Two of one service, one with a port of its own, one without; one on a lease.
fn new_task(number: u8) -> Task {
    let mut task = task(number);
    task.desired = TaskState::New;
    let port = |number| fixture::port(number, PublishMode::Ingress);
    let published = [vec![], vec![port(80)], vec![port(80)], vec![port(81)]];
    task.ports = published[usize::from(number % 4)].clone();
    if number <= 2 {
        let (test, retries) = (vec!["CMD".to_owned(), "look".to_owned()], Some(1));
        let interval = Some(Span::from_secs(u64::from(number)));
        task.spec.container.health = Some(Health { test, retries, interval, ..Health::default() });
    }
    if number == 2 {
        task.spec.on_disconnect = OnDisconnect::Stop;
    }
    task
}

fn leased(task: &Task) -> bool {
    task.spec.on_disconnect == OnDisconnect::Stop
}

fn network_of(task: &Task) -> crate::model::task::Address {
    let last = u8::try_from(task.slot).unwrap();
    crate::model::task::Address { network: network().id, address: [10, 0, 0, last].into() }
}

fn event() -> impl Strategy<Value = Event> {
    let task = || 1..5u8;
    let result = prop_oneof![6 => Just(Ok(())), 1 => any::<bool>().prop_map(Err)];
    prop_oneof![
        6 => (task(), 0..4usize).prop_map(|(task, desired)| Event::Assign { task, desired }),
        1 => task().prop_map(|task| Event::Removed { task }),
        20 => (task(), result).prop_map(|(task, result)| Event::Acted { task, result }),
        5 => (task(), 0..2i32).prop_map(|(task, code)| Event::Exited { task, code }),
        4 => (task(), any::<bool>()).prop_map(|(task, well)| Event::Probed { task, well }),
        5 => proptest::bool::weighted(0.1).prop_map(|refused| Event::Applied { refused }),
        4 => (0..20u64).prop_map(|seconds| Event::Advance { seconds }),
        2 => Just(Event::Lost),
        2 => Just(Event::Heard),
        1 => Just(Event::Join),
        2 => (task(), any::<bool>()).prop_map(|(task, adopt)| Event::Decide { task, adopt }),
        1 => (any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(rebooted, cut, silent)| Event::Restart { rebooted, cut, silent }),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_rules_hold_and_everything_can_be_taken_away(
        events in proptest::collection::vec(event(), 0..120)
    ) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
        }
        world.end();
    }
}
