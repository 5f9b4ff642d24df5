//! The worker machine: assignments, one task machine each, and the table of published ports.
//!
//! **After a restart of the daemon** running containers are adopted as they are, ended ones are
//! told, half-made ones are gone on with. Nothing is done to a task before a manager named it in
//! this run; where none does within [`START_HOLD`], tasks go on as their records say.
//!
//! **After a reboot** no container is left. A task that a manager still wants running is prepared
//! and started again under its own id, with its slot, address and mounts and without asking a
//! registry. States only grow, so it stays `Running` meanwhile, out of the rotation; when it runs
//! it is told with its new process id and the message `restarted after reboot`.
//!
//! **Cut off** from the managers everything goes on; after [`AUTONOMY_AFTER`] the worker also makes
//! successors by itself (`chain`), and before that it stops what must not run twice (`session`).
//! While a session is open it never restarts a task.
//!
//! **Health.** A container with a health check is in the rotation, and `Running`, only while it is
//! well; one that is not is stopped and has failed (`health`).
//!
//! **Fencing.** Assignments below the highest fence that was accepted are refused, unless this node
//! is the only manager. The fence is in each record, and kept by itself when a newer leader is
//! heard; that write is not waited for.
//!
//! **Images** are fetched only when they are not there: the digest was resolved when the service
//! was made.
//!
//! **Invariants:** one action of a task at a time; what is told of a task only grows; nothing is
//! sent while nothing changes, and no report without a session.

mod act;
mod chain;
mod health;
pub mod io;
mod machine;
mod next;
mod routes;
mod session;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod walk_host;
#[cfg(test)]
mod walk_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::chain::Chain;
use self::io::{Config, Input, Output, RefusedPort};
use self::machine::{Doing, Host, Machine, Stopping, Wanted};
use self::routes::Routes;
use self::session::Session;
use crate::base::id::{NetworkId, TaskId};
use crate::base::time::{Now, Span, Time};
use crate::logic::manager::io::{Assignments, Fence, Report};
use crate::model::network::Network;
use crate::model::task::TaskState;

pub use self::chain::{CHAIN_MAX, MESSAGE_SUCCESSOR};
pub use self::health::Check;
pub use self::machine::{ERR_CUT_OFF, MESSAGE_RESTARTED, RETRY_MAX, RETRY_MIN};
pub use self::next::{KILL_AGAIN, LEAVE_WAIT, PORTS_WAIT, STOP_GRACE};
pub use self::routes::{OPEN_PORTS, OPEN_PORTS_TRIES_MAX};
pub use self::session::{AUTONOMY_AFTER, LEASE_GRACE_MAX, START_HOLD};

/// After a start the proxy keeps the table it has until a manager spoke, but not longer.
pub const TABLE_HOLD: Span = Span::from_secs(1);

/// The worker.
#[derive(Debug)]
pub struct Worker {
    config: Config,
    tasks: BTreeMap<TaskId, Machine>,
    networks: BTreeMap<NetworkId, Arc<Network>>,
    session: Session,
    /// By the task that the managers know.
    chains: BTreeMap<TaskId, Chain>,
    /// When a successor is to be made.
    succeed_at: Option<Time>,
    fence: Fence,
    /// Epoch and term of the highest fence that was kept.
    kept_fence: (u64, u64),
    routes: Routes,
    /// The table is not sent before this time or the first assignments.
    hold: Option<Time>,
    report: Report,
}

impl Worker {
    /// With what was found at start.
    #[must_use]
    pub fn new(mut config: Config, now: Now) -> Self {
        let found = std::mem::take(&mut config.found);
        let held = !found.is_empty();
        let networks = found.iter().flat_map(|found| &found.networks);
        let networks = networks.map(|network| (network.id, Arc::new(network.clone()))).collect();
        let mut tasks =
            found.iter().map(|found| (found.task.id, Machine::found(found, now.mono))).collect();
        Self {
            session: Session::new(now.mono, config.alone),
            chains: chain::found(&mut tasks, now),
            succeed_at: None,
            fence: config.fence,
            kept_fence: (config.fence.epoch, config.fence.term),
            tasks,
            networks,
            routes: Routes::new(held),
            hold: held.then(|| now.mono + TABLE_HOLD),
            report: Report::default(),
            config,
        }
    }

    /// Takes an input in. Never blocks, never fails.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Tick => {}
            Input::Assignments(assignments) => self.assignments(now, assignments, out),
            Input::SessionLost => self.session.lose(now.mono),
            Input::LeaderHeard { at, alone } => return self.session.hear(at, alone),
            Input::Acted { task, outcome } => self.acted(now, task, outcome),
            Input::Probed { task, probed } => self.probed(now, task, &probed),
            Input::Exited { task, exit } => {
                if let Some(machine) = self.tasks.get_mut(&task) {
                    machine.exited(exit);
                }
            }
            Input::RoutesApplied { generation, refused } => {
                self.routes.note_applied(generation);
                self.refused_ports(now, generation, &refused);
            }
        }
        self.attend(now);
        self.settle(now);
        self.succeed(now);
        self.free_ended();
        self.route(now, out);
        // A task that turns out to be impossible is cleaned up in a second pass.
        if self.act(now, out) {
            self.route(now, out);
            self.act(now, out);
        }
        self.probe(now, out);
        self.tell(out);
    }

    /// When to call [`Worker::step`] with [`Input::Tick`] even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let wake = self.tasks.values().filter_map(|machine| machine.wake);
        let session = self.session.deadline(self.tasks.values());
        wake.chain(self.hold).chain(self.succeed_at).chain(session).min()
    }

    /// The highest fence that was accepted.
    #[must_use]
    pub const fn fence(&self) -> Fence {
        self.fence
    }

    fn assignments(&mut self, now: Now, assignments: Assignments, out: &mut Vec<Output>) {
        // The only manager cannot be behind another; after a full disk its term may be behind what
        // it said before.
        if assignments.fence < self.fence && !self.session.is_alone() {
            return;
        }
        self.fence = assignments.fence;
        let leader = (self.fence.epoch, self.fence.term);
        // Where no other manager is, there is none to be refused.
        if leader > self.kept_fence && !self.session.is_alone() {
            self.kept_fence = leader;
            out.push(Output::KeepFence { fence: self.fence });
        }
        // All that there are; of those that went what a task here still holds stays known.
        let networks = assignments.networks.into_iter().map(|network| (network.id, network));
        let tasks = self.tasks.values();
        let held: BTreeSet<_> =
            tasks.flat_map(|it| &it.task.addresses).map(|lease| lease.network).collect();
        self.networks.retain(|id, _| held.contains(id));
        self.networks.extend(networks);
        if assignments.complete {
            self.session.begin();
            self.hold = None;
            for machine in self.tasks.values_mut().filter(|machine| machine.own.is_none()) {
                machine.gone = true;
            }
        }
        for task in &assignments.tasks {
            match self.tasks.get_mut(&task.id) {
                Some(machine) => machine.assign(now, task, assignments.complete),
                None => {
                    self.tasks.insert(task.id, Machine::assigned(task));
                }
            }
        }
        if assignments.complete {
            for machine in self.tasks.values_mut().filter(|machine| machine.own.is_none()) {
                machine.assigned = true;
            }
        }
        for id in assignments.removed {
            match self.tasks.get_mut(&id) {
                Some(machine) => machine.gone = true,
                // What is left of its chain is not wanted either; the addresses are told then.
                None => match self.chains.get_mut(&id) {
                    Some(chain) => chain.refused = true,
                    None => self.report.removed.push(id),
                },
            }
        }
        self.decide(now, assignments.complete);
        self.cover(now);
    }

    /// Ports that the proxy could not have.
    fn refused_ports(&mut self, now: Now, generation: u64, refused: &[RefusedPort]) {
        for machine in self.tasks.values_mut() {
            let asked = machine.ports_in.is_some_and(|(first, _)| first <= generation);
            if !asked || !routes::holds_ports(machine) {
                continue;
            }
            let hit = routes::port_keys(machine).find_map(|(key, _)| {
                refused.iter().find(|it| (it.protocol, it.published, it.host_ip) == key)
            });
            let early = machine.host == Host::Running && machine.status.state < TaskState::Running;
            let starts = early || machine.doing == Some(Doing::Start);
            let open = |number: u16| machine.open_ports.iter().any(|(_, taken)| *taken == number);
            match hit {
                None if machine.host == Host::Running && !early => machine.status.err.clear(),
                None => machine.port_err.clear(),
                Some(port) if machine.host == Host::Running && !early => {
                    machine.status.err = routes::refusal(port);
                }
                // It can run before its start is told, or its health: told when it does.
                Some(port) if starts => machine.port_err = routes::refusal(port),
                Some(port)
                    if open(port.published) && machine.open_ports_tried < OPEN_PORTS_TRIES_MAX =>
                {
                    machine.open_ports.retain(|(_, taken)| *taken != port.published);
                    machine.open_ports_tried += 1;
                    machine.ports_in = None;
                }
                Some(port) => {
                    let err = routes::refusal(port);
                    machine.set(TaskState::Rejected, now.wall, "preparing", err);
                }
            }
        }
    }

    /// States that follow from what is wanted alone.
    fn settle(&mut self, now: Now) {
        for machine in self.tasks.values_mut().filter(|machine| machine.assigned) {
            if machine.is_over() && machine.ended_at.is_none() {
                machine.ended_at = Some(now.mono);
            }
            let early = machine.host == Host::Running && machine.status.state < TaskState::Running;
            let starts = early || machine.doing == Some(Doing::Start);
            let stops = machine.wanted() <= Wanted::Stopped || machine.is_over();
            if machine.host == Host::Running {
                if stops && machine.stopping.is_none() {
                    machine.stopping = Some(Stopping {
                        since: now.mono,
                        generation: None,
                        signalled: None,
                        killed: None,
                    });
                }
            } else if stops && !machine.is_over() && !starts {
                let err = machine.stop_err();
                machine.set(TaskState::Shutdown, now.wall, "shutdown", err);
            } else if machine.host == Host::Empty
                && machine.status.state >= TaskState::Running
                && !machine.is_over()
            {
                let err = "its folder on the node is gone".to_owned();
                machine.set(TaskState::Failed, now.wall, "started", err);
            }
        }
    }

    /// The table of ports, and who waits for which table.
    fn route(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.hold.is_some_and(|until| now.mono < until) {
            return;
        }
        self.hold = None;
        for machine in self.tasks.values_mut().filter(|machine| routes::holds_ports(machine)) {
            self.routes.take_open_ports(machine);
        }
        self.routes.update(&self.tasks, out);
        let generation = self.routes.generation();
        for machine in self.tasks.values_mut() {
            if let Some(stopping) = &mut machine.stopping
                && stopping.generation.is_none()
            {
                let has_ports = !machine.task.ports.is_empty();
                stopping.generation = Some(if has_ports { generation } else { 0 });
            }
            if machine.ports_in.is_none()
                && !machine.task.ports.is_empty()
                && routes::holds_ports(machine)
            {
                machine.ports_in = Some((generation, now.mono));
            }
        }
    }

    /// What has ended and holds no address any more is the manager's to replace, once it is told.
    fn free_ended(&mut self) {
        if !self.session.is_open() || self.session.is_alone() {
            return;
        }
        let Self { tasks, chains, .. } = self;
        for (id, machine) in tasks.iter_mut() {
            let told = machine.assigned && machine.own.is_none() && !chains.contains_key(id);
            if told && machine.is_cleaned() {
                machine.free();
            }
        }
    }

    /// Tells what changed, when there is somebody to tell it.
    fn tell(&mut self, out: &mut Vec<Output>) {
        if !self.session.is_open() {
            // Whoever opens the next session is told of everything.
            self.report = Report::default();
            return;
        }
        self.tell_chains();
        let told = |machine: &Machine| {
            machine.assigned && machine.own.is_none() && machine.wanted() != Wanted::Gone
        };
        let bases = self.bases();
        for (id, machine) in self.tasks.iter_mut().filter(|(_, machine)| told(machine)) {
            if bases.contains(id) {
                continue;
            }
            if machine.told.as_ref() != Some(&machine.status) {
                machine.told = Some(machine.status.clone());
                self.report.statuses.push((*id, machine.status.clone()));
            }
            // Its record says so first: a crash behind this must not bring it back.
            if machine.is_cleaned() && !machine.told_cleaned && !machine.is_to_remember() {
                machine.told_cleaned = true;
                self.report.cleaned.push(*id);
            }
        }
        // A session begins with a report, if with nothing in it: from then on what is not told of is
        // as the manager has it.
        if self.session.take_fresh() || self.report != Report::default() {
            out.push(Output::Report(std::mem::take(&mut self.report)));
        }
    }
}

#[cfg(test)]
mod network_tests {
    use super::*;
    use crate::base::id::NodeId;
    use crate::base::time::Wall;
    use crate::logic::fixture;
    use crate::model::node::NodeDescription;
    use crate::model::task::{Address, Task};

    #[test]
    fn a_network_that_is_no_more_is_known_while_a_task_here_is_on_it() {
        let (node, description) = (NodeId::new(1), NodeDescription::default());
        let (found, fence) = (Vec::new(), Fence::default());
        let config = Config { node, description, seed: [0; 32], found, fence, alone: false };
        let now = Now { mono: Time(1), wall: Wall(1) };
        let mut worker = Worker::new(config, now);
        let mut assign = |networks: &[u128], tasks: Vec<Task>| {
            let networks = networks.iter().map(|id| fixture::network(*id, "net", 24));
            worker.step(
                now,
                Input::Assignments(Assignments {
                    fence,
                    complete: true,
                    tasks: tasks.into_iter().map(Arc::new).collect(),
                    removed: Vec::new(),
                    networks: networks.map(Arc::new).collect(),
                }),
                &mut Vec::new(),
            );
            worker.networks.keys().map(|id| id.0.0).collect::<Vec<_>>()
        };
        let mut task = fixture::task(1, 2);
        let address = Address { network: NetworkId::new(3), address: [10, 0, 0, 3].into() };
        // One that is not to run is made of nothing, and gone at once.
        (task.desired, task.addresses) = (TaskState::Shutdown, vec![address]);
        assert_eq!(assign(&[3, 4], vec![task]), [3, 4]);
        assert_eq!(assign(&[5], Vec::new()), [3, 5], "the task is not gone yet");
        assert_eq!(assign(&[5], Vec::new()), [5]);
    }
}
