//! Which task would be better off elsewhere: opt-in, slow, one at a time.
//!
//! Swarm never moves a running task, so a node that comes back stays empty. Where the cluster asks
//! for it, the manager lets [`rebalance`] name one task, moves it, and asks again later. A task
//! is named only if the scheduler, asked now, would put its successor where the service has at
//! least two tasks less (on the node, or in the branch of a placement preference). Each move
//! so evens the spread out and none is undone by a later one.
//!
//! Left alone are: global services and jobs; services with one replica, under an update, or with a
//! task that does not run; tasks that stop when they are cut off; tasks that write to a named volume
//! or a bind mount, because what they wrote stays behind.

use super::info::NodeInfo;
use super::nodes::Nodes;
use super::overlay::Overlay;
use crate::base::id::{NodeId, ServiceId, TaskId};
use crate::base::time::{Now, Span, Time};
use crate::logic::store::Store;
use crate::model::node::{Availability, NodeState};
use crate::model::service::{Mode, MountKind, OnDisconnect, Service, TaskSpec, UpdateState};
use crate::model::task::{Task, TaskState};

/// Between two moves, and between two looks while a service is not at rest.
pub const REBALANCE_EVERY: Span = Span::from_secs(60);

/// A moved task whose successor does not run holds up other moves for this long.
pub const REBALANCE_PATIENCE: Span = Span::from_secs(600);

/// The last move, as the manager remembers it. A new leader remembers none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The service of the task.
    pub service: ServiceId,
    /// When it was named.
    pub at: Time,
}

/// What a look gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rebalance {
    /// To be replaced now.
    pub task: Option<(ServiceId, TaskId)>,
    /// When to look again; `None` when nothing is to be gained until a node or a service changes.
    pub again: Option<Time>,
}

/// Names the task that is to move now, if any.
#[must_use]
pub fn rebalance(store: &Store, nodes: &Nodes, now: Now, last: Option<Moved>) -> Rebalance {
    if !store.cluster().is_some_and(|cluster| cluster.rebalance) {
        return Rebalance::default();
    }
    let again = Some(now.mono + REBALANCE_EVERY);
    if let Some(last) = last {
        let next = last.at + REBALANCE_EVERY;
        if now.mono < next {
            return Rebalance { task: None, again: Some(next) };
        }
        let rests = store.service(last.service).is_none_or(|it| is_at_rest(store, it));
        if !rests && now.mono < last.at + REBALANCE_PATIENCE {
            return Rebalance { task: None, again };
        }
    }
    let mut unsettled = false;
    // The next service comes next: one whose moves come to nothing holds up no other.
    let done = |service: &Service| last.is_some_and(|last| service.id <= last.service);
    let mut services: Vec<&Service> =
        store.services().map(AsRef::as_ref).filter(|service| is_movable(service)).collect();
    services.sort_by_key(|service| done(service));
    for service in services {
        if !is_at_rest(store, service) {
            unsettled = true;
            continue;
        }
        if let Some(task) = candidate(store, nodes, service, now) {
            return Rebalance { task: Some((service.id, task)), again };
        }
    }
    Rebalance { task: None, again: again.filter(|_| unsettled) }
}

/// A kind of service whose tasks may be moved at all.
fn is_movable(service: &Service) -> bool {
    let several = match service.spec.mode {
        Mode::Replicated { replicas } => replicas > 1,
        Mode::Global | Mode::ReplicatedJob { .. } | Mode::GlobalJob => false,
    };
    let updating = match service.update_status.as_ref().map(|status| status.state) {
        None | Some(UpdateState::Completed | UpdateState::RollbackCompleted) => false,
        Some(
            UpdateState::Updating
            | UpdateState::Paused
            | UpdateState::RollbackStarted
            | UpdateState::RollbackPaused,
        ) => true,
    };
    // While it moves, two of a slot run: no task that must not may be moved.
    let task = &service.spec.task;
    let alone = task.on_disconnect == OnDisconnect::Stop;
    several && !updating && !alone && !leaves_behind(task)
}

/// The tasks write to what stays on the node.
fn leaves_behind(task: &TaskSpec) -> bool {
    task.container.mounts.iter().filter(|mount| !mount.read_only).any(|mount| match &mount.kind {
        MountKind::Bind { .. } | MountKind::BindReadOnly { .. } => true,
        MountKind::Volume { name, .. } => !name.is_empty(),
        MountKind::Tmpfs { .. } => false,
    })
}

/// Every task that is wanted runs, there are as many as wanted, and none is to stop.
fn is_at_rest(store: &Store, service: &Service) -> bool {
    let Mode::Replicated { replicas } = service.spec.mode else { return true };
    let live = || store.tasks_of_service(service.id).filter(|it| !it.status.state.is_terminal());
    let at_rest = |task: &Task| {
        let runs = task.status.state == TaskState::Running && task.desired == TaskState::Running;
        runs && task.node.is_some() && !task.is_outdated(service)
    };
    live().all(|task| at_rest(task)) && u64::try_from(live().count()).is_ok_and(|n| n == replicas)
}

/// A task of the service whose successor would come to where at least two tasks less are: on the
/// fullest node, the one in the highest slot.
fn candidate(store: &Store, nodes: &Nodes, service: &Service, now: Now) -> Option<TaskId> {
    let live = || store.tasks_of_service(service.id).filter(|it| !it.status.state.is_terminal());
    // Where a task of the newest spec would come to.
    let mut probe = live().next()?.as_ref().clone();
    (probe.spec, probe.spec_version) = (service.spec.task.clone(), service.spec_version);
    if probe.spec.placement.spread.is_empty() && !could_gain(nodes, service.id) {
        return None;
    }
    let mut overlay = Overlay::new(nodes, now.wall);
    let from = live()
        .filter_map(|task| Some((overlay.spread_counts(&probe, task.node?), task.slot, task.id)))
        .max_by_key(|(counts, slot, _)| {
            (counts.iter().map(|(_, count)| *count).collect::<Vec<u64>>(), *slot)
        });
    let (before, _, id) = from?;
    (probe.id, probe.node, probe.generic) = (id, None, Vec::new());
    let to = overlay.place(&mut probe, None).ok()?;
    overlay.take_back(id);
    // Without the task on either node: one less where it is than before.
    let there = overlay.spread_counts(&probe, to);
    let fork = before.iter().zip(&there).find(|((from, _), (to, _))| from != to);
    fork.filter(|((_, from), (_, to))| *from >= to + 2).map(|_| id)
}

/// A quick look at numbers alone: some node that may take tasks has two less than another one.
fn could_gain(nodes: &Nodes, service: ServiceId) -> bool {
    let open = |info: &&NodeInfo| {
        info.state == NodeState::Ready && info.node.spec.availability == Availability::Active
    };
    let count = |id: &NodeId| nodes.active(service, *id);
    let most = nodes.infos().keys().map(count).max().unwrap_or(0);
    let least = nodes.infos().iter().filter(|(_, info)| open(info)).map(|(id, _)| count(id)).min();
    least.is_some_and(|least| most >= least + 2)
}
