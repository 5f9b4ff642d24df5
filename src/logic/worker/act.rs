//! What is done to tasks: the next action of each, and what an action that ended means.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Worker;
use super::io::{Action, Config, Outcome, Output, Prepare, Record};
use super::machine::{Doing, Host, Machine};
use super::next::{Step, next};
use crate::base::id::{NetworkId, TaskId};
use crate::base::time::{Now, Time};
use crate::logic::manager::io::Fence;
use crate::logic::template;
use crate::model::network::Network;
use crate::model::task::{Task, TaskState};

impl Worker {
    /// Issues what is to be done next to each task; true when one could not be issued.
    pub(super) fn act(&mut self, now: Now, out: &mut Vec<Output>) -> bool {
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
                            let by = self.session.lease_over(machine);
                            Some(start(machine, now, by))
                        }
                        Doing::Stop => Some(stop(machine, now)),
                        Doing::Kill => Some(kill(machine, now)),
                        Doing::Clean => Some(Action::Clean),
                        Doing::Remove => Some(Action::Remove),
                        Doing::Remember => Some(Action::Remember),
                    };
                    match action {
                        Some(action) => {
                            machine.doing = Some(doing);
                            machine.kept_before = machine.kept;
                            let record = record(machine, doing, &self.networks, self.fence);
                            out.push(Output::Act { task: *id, action, record });
                        }
                        None => again = true,
                    }
                }
            }
        }
        for id in gone {
            let own = self.tasks.remove(&id).is_some_and(|machine| machine.own.is_some());
            // While something of its chain is left, that has its addresses.
            if !own && !self.chains.contains_key(&id) {
                self.report.removed.push(id);
            }
        }
        again
    }

    /// An action ended.
    pub(super) fn acted(&mut self, now: Now, id: TaskId, outcome: Outcome) {
        let Some(machine) = self.tasks.get_mut(&id) else { return };
        let Some(doing) = machine.doing.take() else { return };
        match outcome {
            Outcome::Prepared { check } => {
                machine.check = check;
                machine.retry = None;
                machine.host = Host::Made;
                machine.set(TaskState::Ready, now.wall, "prepared", String::new());
            }
            Outcome::Started { pid } => {
                machine.retry = None;
                machine.started(now, pid);
                if machine.exit.is_some() {
                    // It ended before its start was told: both are told, in order.
                    if machine.own.is_none() {
                        self.report.statuses.push((id, machine.status.clone()));
                    }
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
                machine.kept = None;
            }
            Outcome::Remembered => machine.retry = None,
            Outcome::Late => {}
            Outcome::Failed { err, temporary, starting } => {
                failed(machine, now, doing, err, temporary, starting);
            }
        }
    }
}

fn start(machine: &mut Machine, now: Now, by: Option<Time>) -> Action {
    if machine.status.state < TaskState::Starting {
        machine.set(TaskState::Starting, now.wall, "starting", String::new());
    }
    machine.exit = None;
    Action::Start { by }
}

fn stop(machine: &mut Machine, now: Now) -> Action {
    if let Some(stopping) = &mut machine.stopping {
        stopping.signalled = Some(now.mono);
    }
    Action::Stop
}

fn kill(machine: &mut Machine, now: Now) -> Action {
    if let Some(stopping) = &mut machine.stopping {
        let times = stopping.killed.map_or(0, |(_, times)| times);
        stopping.killed = Some((now.mono, times.saturating_add(1)));
    }
    Action::Kill
}

/// The record that goes along with an action, where it says something new. No signal waits for a
/// slow card: another may have the slot already, and a lease may run out at any time. What is stopped
/// is recorded when it has ended, before its address is told to be free.
fn record(
    machine: &mut Machine,
    doing: Doing,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
    fence: Fence,
) -> Option<Box<Record>> {
    let along = match doing {
        Doing::Clean | Doing::Remember => true,
        Doing::Start => !machine.is_leased(),
        Doing::Prepare | Doing::Stop | Doing::Kill | Doing::Remove => false,
    };
    let task = along.then(|| machine.record()).flatten()?;
    let networks = networks_of(&task, networks);
    Some(Box::new(Record { networks, own: machine.own, fence, task }))
}

fn networks_of(task: &Task, networks: &BTreeMap<NetworkId, Arc<Network>>) -> Vec<Network> {
    let leased = task.addresses.iter().filter_map(|lease| networks.get(&lease.network));
    leased.map(|network| network.as_ref().clone()).collect()
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
    machine.kept = Some(machine.keeps());
    Some(Action::Prepare(Box::new(Prepare {
        networks: networks_of(&task, networks),
        task: task.as_ref().clone(),
        container,
        fence,
        own: machine.own,
    })))
}

/// An action did not work.
fn failed(
    machine: &mut Machine,
    now: Now,
    doing: Doing,
    err: String,
    temporary: bool,
    starting: bool,
) {
    match doing {
        Doing::Prepare => {
            machine.host = Host::Parts;
            if temporary {
                machine.try_again(now);
                machine.set_err(TaskState::Preparing, now.wall, "preparing", err);
            } else if starting {
                machine.set(TaskState::Failed, now.wall, "starting", err);
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
        // Perhaps it was the record that could not be written: what it says is not known.
        Doing::Clean | Doing::Remember => {
            machine.kept = machine.kept_before;
            machine.try_again(now);
        }
        Doing::Remove => machine.try_again(now),
    }
}
