//! The filters, in swarm's order, with swarm's explanations (swarmkit `manager/scheduler/filter.go`).
//!
//! Swarm's filters for plugins and for volumes of the cluster have nothing to ask here: there are
//! neither. That of devices is ours: Docker's services have none.

use super::constraint::Constraint;
use super::{NodeInfo, TASKS_PER_NODE_MAX, platform};
use crate::model::node::{Availability, Node, NodeState};
use crate::model::service::{MountKind, TaskSpec};
use crate::model::task::Task;

/// One reason why a node cannot run a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    Ready,
    Resource,
    Device,
    Constraint,
    Platform,
    HostPort,
    MaxReplicas,
    TaskLimit,
}

impl Filter {
    const ALL: [Self; 8] = [
        Self::Ready,
        Self::Resource,
        Self::Device,
        Self::Constraint,
        Self::Platform,
        Self::HostPort,
        Self::MaxReplicas,
        Self::TaskLimit,
    ];

    /// Whether the node, with so many active tasks of the service, may have the task.
    fn passes(self, info: &NodeInfo, of_service: u64, task: &Task) -> bool {
        match self {
            Self::Ready => {
                info.state == NodeState::Ready
                    && info.node.spec.availability == Availability::Active
            }
            Self::Resource => info.has_room(task),
            Self::Device => devices_there(&info.node, &task.spec),
            Self::Constraint => constraints_hold(&info.node, &task.spec),
            Self::Platform => platform_fits(&info.node, &task.spec),
            Self::HostPort => info.ports_free(task),
            Self::MaxReplicas => {
                let max = task.spec.placement.max_replicas;
                max == 0 || of_service < max
            }
            Self::TaskLimit => info.tasks < TASKS_PER_NODE_MAX,
        }
    }

    fn explain(self, nodes: usize) -> String {
        let on = |what: &str| match nodes {
            1 => format!("{what} on 1 node"),
            n => format!("{what} on {n} nodes"),
        };
        match self {
            Self::Ready if nodes == 1 => "1 node not available for new tasks".to_owned(),
            Self::Ready => format!("{nodes} nodes not available for new tasks"),
            Self::Resource => on("insufficient resources"),
            Self::Device => on("device not available"),
            Self::Constraint => on("scheduling constraints not satisfied"),
            Self::Platform => on("unsupported platform"),
            Self::HostPort => on("host-mode port already in use"),
            Self::MaxReplicas => "max replicas per node limit exceed".to_owned(),
            Self::TaskLimit => on(&format!("limit of {TASKS_PER_NODE_MAX} tasks reached")),
        }
    }
}

/// Whether the node may have the task.
pub(super) fn passes(info: &NodeInfo, of_service: u64, task: &Task) -> bool {
    Filter::ALL.iter().all(|filter| filter.passes(info, of_service, task))
}

/// Which filter refused how many nodes.
#[derive(Debug, Default)]
pub(super) struct Refusals([usize; Filter::ALL.len()]);

impl Refusals {
    /// Counts the filter that refuses the node, if one does.
    pub(super) fn note(&mut self, info: &NodeInfo, of_service: u64, task: &Task) {
        let at = Filter::ALL.iter().position(|filter| !filter.passes(info, of_service, task));
        if let Some(count) = at.and_then(|at| self.0.get_mut(at)) {
            *count += 1;
        }
    }

    /// `no suitable node (a; b)`, what refused most nodes first.
    pub(super) fn explain(&self) -> String {
        let mut reasons: Vec<(usize, Filter)> =
            self.0.iter().copied().zip(Filter::ALL).filter(|(count, _)| *count > 0).collect();
        reasons.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        if reasons.is_empty() {
            return "no suitable node".to_owned();
        }
        let texts: Vec<String> =
            reasons.into_iter().map(|(count, filter)| filter.explain(count)).collect();
        format!("no suitable node ({})", texts.join("; "))
    }
}

/// What a global service asks of a node; `pause` keeps what is there. A service with a device runs
/// on every node that has it.
pub(super) fn eligible(info: &NodeInfo, task: &TaskSpec) -> bool {
    info.state != NodeState::Down
        && info.node.spec.availability != Availability::Drain
        && constraints_hold(&info.node, task)
        && platform_fits(&info.node, task)
        && devices_there(&info.node, task)
}

/// The tasks write to a volume that is there under its name when they come again: they are better
/// off where they were.
#[must_use]
pub fn stays_at_home(task: &TaskSpec) -> bool {
    task.container.mounts.iter().any(|mount| match &mount.kind {
        MountKind::Volume { name, .. } => !name.is_empty() && !mount.read_only,
        MountKind::Bind { .. } | MountKind::BindReadOnly { .. } | MountKind::Tmpfs { .. } => false,
    })
}

fn constraints_hold(node: &Node, task: &TaskSpec) -> bool {
    let mut constraints = task.placement.constraints.iter();
    constraints.all(|text| Constraint::parse(text).is_ok_and(|it| it.matches(node)))
}

fn platform_fits(node: &Node, task: &TaskSpec) -> bool {
    let platforms = &task.placement.platforms;
    let has = &node.description.platform;
    platforms.is_empty() || platforms.iter().any(|wanted| platform::runs(has, wanted))
}

/// Every device is listed by the node, or in a folder that is.
fn devices_there(node: &Node, task: &TaskSpec) -> bool {
    let there = |wanted: &str| {
        node.description.devices.iter().any(|listed| {
            let rest = wanted.strip_prefix(listed.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    let wanted = task.container.devices.iter();
    wanted.map(|device| device.path_on_host.trim_end_matches('/')).all(there)
}
