//! The worker machine: assignments, one task machine each, and the table of published ports.
//!
//! **After a restart of the daemon** running containers are adopted as they are, ended ones are
//! told, half-made ones are gone on with. Nothing is done to a task before a manager named it in
//! this run; the manager of a single node does so at once.
//!
//! **After a reboot** no container is left. A task that a manager still wants running is prepared
//! and started again under its own id, with its slot, address and mounts and without asking a
//! registry. States only grow, so it stays `Running` meanwhile, out of the rotation; when it runs
//! it is told with its new process id and the message `restarted after reboot`.
//!
//! **Images** are fetched only when they are not there: the digest was resolved when the service
//! was made.
//!
//! **Invariants:** one action of a task at a time; what is told of a task only grows; nothing is
//! sent while nothing changes.

pub mod io;
mod machine;
mod next;
mod routes;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod walk_tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::io::{Action, Config, Input, Outcome, Output, Prepare, RefusedPort};
use self::machine::{Doing, Host, Machine, Stopping, Wanted};
use self::next::{Step, next};
use self::routes::Routes;
use crate::base::id::{NetworkId, TaskId};
use crate::base::time::{Now, Span, Time};
use crate::logic::manager::io::{Assignments, Fence, Report};
use crate::logic::template;
use crate::model::network::Network;
use crate::model::task::TaskState;

pub use self::machine::{MESSAGE_RESTARTED, RETRY_MAX, RETRY_MIN};
pub use self::next::{KILL_AGAIN, LEAVE_WAIT, PORTS_WAIT, STOP_GRACE};
pub use self::routes::{OPEN_PORTS, OPEN_PORTS_TRIES_MAX};

/// After a start the proxy keeps the table it has until a manager spoke, but not longer.
pub const TABLE_HOLD: Span = Span::from_secs(1);

/// The worker.
#[derive(Debug)]
pub struct Worker {
    config: Config,
    tasks: BTreeMap<TaskId, Machine>,
    networks: BTreeMap<NetworkId, Arc<Network>>,
    fence: Fence,
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
        Self {
            fence: config.fence,
            tasks: found.iter().map(|found| (found.task.id, Machine::found(found))).collect(),
            networks: BTreeMap::new(),
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
            Input::Assignments(assignments) => self.assignments(now, assignments),
            Input::Acted { task, outcome } => self.acted(now, task, outcome),
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
        self.settle(now);
        self.route(now, out);
        // A task that turns out to be impossible is cleaned up in a second pass.
        if self.act(now, out) {
            self.route(now, out);
            self.act(now, out);
        }
        self.tell(out);
    }

    /// When to call [`Worker::step`] with [`Input::Tick`] even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.tasks.values().filter_map(|machine| machine.wake).chain(self.hold).min()
    }

    /// The highest fence that was accepted.
    #[must_use]
    pub const fn fence(&self) -> Fence {
        self.fence
    }

    fn assignments(&mut self, now: Now, assignments: Assignments) {
        if assignments.fence < self.fence {
            return;
        }
        self.fence = assignments.fence;
        let networks = assignments.networks.into_iter().map(|network| (network.id, network));
        self.networks.extend(networks);
        if assignments.complete {
            self.hold = None;
            for machine in self.tasks.values_mut() {
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
            for machine in self.tasks.values_mut() {
                machine.assigned = true;
            }
        }
        for id in assignments.removed {
            match self.tasks.get_mut(&id) {
                Some(machine) => machine.gone = true,
                None => self.report.removed.push(id),
            }
        }
    }

    fn acted(&mut self, now: Now, id: TaskId, outcome: Outcome) {
        let Some(machine) = self.tasks.get_mut(&id) else { return };
        let Some(doing) = machine.doing.take() else { return };
        match outcome {
            Outcome::Prepared => {
                machine.retry = None;
                machine.host = Host::Made;
                machine.set(TaskState::Ready, now.wall, "prepared", String::new());
            }
            Outcome::Started { pid } => {
                machine.retry = None;
                machine.started(now, pid);
                if machine.exit.is_some() {
                    // It ended before its start was told: both are told, in order.
                    self.report.statuses.push((id, machine.status.clone()));
                    machine.host = Host::Ended;
                    machine.end_as_recorded();
                }
            }
            Outcome::Signalled => machine.retry = None,
            Outcome::Cleaned => {
                machine.retry = None;
                machine.host = Host::Cleaned;
                machine.exit = None;
                machine.stopping = None;
            }
            Outcome::Removed => {
                machine.retry = None;
                machine.host = Host::Empty;
            }
            Outcome::Failed { err, temporary } => failed(machine, now, doing, err, temporary),
        }
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
            let open = |number: u16| machine.open_ports.iter().any(|(_, taken)| *taken == number);
            match hit {
                None if machine.host == Host::Running => machine.status.err.clear(),
                None => {}
                Some(port) if machine.host == Host::Running => {
                    machine.status.err = routes::refusal(port);
                }
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
            let starts = machine.doing == Some(Doing::Start);
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
                machine.set(TaskState::Shutdown, now.wall, "shutdown", String::new());
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

    /// Issues what is to be done next to each task; true when one could not be issued.
    fn act(&mut self, now: Now, out: &mut Vec<Output>) -> bool {
        let (mut gone, mut again) = (Vec::new(), false);
        let applied = self.routes.applied();
        for (id, machine) in &mut self.tasks {
            machine.wake = None;
            match next(machine, now.mono, applied) {
                Step::Idle => {}
                Step::Wait(at) => machine.wake = Some(at),
                Step::Gone => gone.push(*id),
                Step::Act(doing) => {
                    let action = match doing {
                        Doing::Prepare => {
                            prepare(machine, now, &self.config, &self.networks, self.fence)
                        }
                        Doing::Start => {
                            if machine.status.state < TaskState::Starting {
                                machine.set(
                                    TaskState::Starting,
                                    now.wall,
                                    "starting",
                                    String::new(),
                                );
                            }
                            machine.exit = None;
                            Some(Action::Start)
                        }
                        Doing::Stop => {
                            if let Some(stopping) = &mut machine.stopping {
                                stopping.signalled = Some(now.mono);
                            }
                            Some(Action::Stop)
                        }
                        Doing::Kill => {
                            if let Some(stopping) = &mut machine.stopping {
                                let times = stopping.killed.map_or(0, |(_, times)| times);
                                stopping.killed = Some((now.mono, times.saturating_add(1)));
                            }
                            Some(Action::Kill)
                        }
                        Doing::Clean => Some(Action::Clean),
                        Doing::Remove => Some(Action::Remove),
                    };
                    match action {
                        Some(action) => {
                            machine.doing = Some(doing);
                            out.push(Output::Act { task: *id, action });
                        }
                        None => again = true,
                    }
                }
            }
        }
        for id in gone {
            self.tasks.remove(&id);
            self.report.removed.push(id);
        }
        again
    }

    /// Tells what changed.
    fn tell(&mut self, out: &mut Vec<Output>) {
        let told = |machine: &Machine| machine.assigned && machine.wanted() != Wanted::Gone;
        for (id, machine) in self.tasks.iter_mut().filter(|(_, machine)| told(machine)) {
            if machine.told.as_ref() != Some(&machine.status) {
                machine.told = Some(machine.status.clone());
                self.report.statuses.push((*id, machine.status.clone()));
            }
            if machine.is_cleaned() && !machine.told_cleaned {
                machine.told_cleaned = true;
                self.report.cleaned.push(*id);
            }
        }
        if self.report != Report::default() {
            out.push(Output::Report(std::mem::take(&mut self.report)));
        }
    }
}

/// What is needed to make the container, or the reason why it cannot be made.
fn prepare(
    machine: &mut Machine,
    now: Now,
    config: &Config,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
    fence: Fence,
) -> Option<Action> {
    let task = Arc::clone(&machine.task);
    let context =
        template::Context { task: &task, node: config.node, description: &config.description };
    let container = match template::expand_container(&task.spec.container, Some(&context)) {
        Ok(container) => container,
        Err(err) => {
            machine.set(TaskState::Rejected, now.wall, "preparing", err);
            return None;
        }
    };
    if machine.status.state < TaskState::Preparing {
        machine.set(TaskState::Preparing, now.wall, "preparing", String::new());
    }
    let leased = task.addresses.iter().filter_map(|lease| networks.get(&lease.network));
    Some(Action::Prepare(Box::new(Prepare {
        networks: leased.map(|network| network.as_ref().clone()).collect(),
        task: task.as_ref().clone(),
        container,
        fence,
    })))
}

/// An action did not work.
fn failed(machine: &mut Machine, now: Now, doing: Doing, err: String, temporary: bool) {
    match doing {
        Doing::Prepare => {
            machine.host = Host::Parts;
            if temporary {
                machine.try_again(now);
                machine.set_err(TaskState::Preparing, now.wall, "preparing", err);
            } else {
                machine.set(TaskState::Rejected, now.wall, "preparing", err);
            }
        }
        Doing::Start => {
            machine.host = Host::Made;
            if temporary {
                machine.try_again(now);
                machine.set_err(TaskState::Starting, now.wall, "starting", err);
            } else {
                machine.set(TaskState::Failed, now.wall, "starting", err);
            }
        }
        // The signal that was not sent is followed by SIGKILL, which is tried again.
        Doing::Stop | Doing::Kill => {}
        Doing::Clean | Doing::Remove => machine.try_again(now),
    }
}
