//! The filters, in swarm's order, with swarm's explanations (swarmkit `manager/scheduler/filter.go`).

use super::constraint::{Constraint, normal_arch};
use super::{NodeInfo, TASKS_PER_NODE_MAX};
use crate::model::node::{Availability, NodeState};
use crate::model::resource::Generic;
use crate::model::service::PublishMode;
use crate::model::task::Task;

/// One reason why a node cannot run a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    Ready,
    Resource,
    Constraint,
    Platform,
    HostPort,
    MaxReplicas,
    TaskLimit,
}

impl Filter {
    const ALL: [Self; 7] = [
        Self::Ready,
        Self::Resource,
        Self::Constraint,
        Self::Platform,
        Self::HostPort,
        Self::MaxReplicas,
        Self::TaskLimit,
    ];

    fn passes(self, info: &NodeInfo, task: &Task) -> bool {
        match self {
            Self::Ready => {
                info.state == NodeState::Ready
                    && info.node.spec.availability == Availability::Active
            }
            Self::Resource => resources_fit(info, task),
            Self::Constraint => task
                .spec
                .placement
                .constraints
                .iter()
                .all(|text| Constraint::parse(text).is_ok_and(|it| it.matches(&info.node))),
            Self::Platform => platform_fits(info, task),
            Self::HostPort => !task.ports.iter().any(|port| {
                port.mode == PublishMode::Host
                    && port.published != 0
                    && info.host_ports.contains(&(port.published, port.protocol))
            }),
            Self::MaxReplicas => {
                let max = task.spec.placement.max_replicas;
                max == 0 || info.active(task.service) < max
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
            Self::Constraint => on("scheduling constraints not satisfied"),
            Self::Platform => on("unsupported platform"),
            Self::HostPort => on("host-mode port already in use"),
            Self::MaxReplicas => "max replicas per node limit exceed".to_owned(),
            Self::TaskLimit => on(&format!("limit of {TASKS_PER_NODE_MAX} tasks reached")),
        }
    }
}

/// Which filter refused how many nodes.
#[derive(Debug, Default)]
pub(super) struct Refusals([usize; Filter::ALL.len()]);

impl Refusals {
    /// True, and counted, when a filter refuses the node.
    pub(super) fn note(&mut self, info: &NodeInfo, task: &Task) -> bool {
        let at = Filter::ALL.iter().position(|filter| !filter.passes(info, task));
        if let Some(count) = at.and_then(|at| self.0.get_mut(at)) {
            *count += 1;
        }
        at.is_some()
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

/// What a global service asks of a node; `pause` keeps what is there.
pub(super) fn eligible(info: &NodeInfo, task: &Task) -> bool {
    info.state != NodeState::Down
        && info.node.spec.availability != Availability::Drain
        && Filter::Constraint.passes(info, task)
        && Filter::Platform.passes(info, task)
}

fn resources_fit(info: &NodeInfo, task: &Task) -> bool {
    let (wanted, has) = (&task.spec.resources, &info.node.description);
    let fits =
        |wanted: u64, taken: u64, all: u64| wanted == 0 || taken.saturating_add(wanted) <= all;
    fits(wanted.reserve_nano_cpus, info.nano_cpus, has.nano_cpus)
        && fits(wanted.reserve_memory_bytes, info.memory_bytes, has.memory_bytes)
        && wanted.reserve_generic.iter().all(|(kind, count)| {
            let all = has.generic.iter().filter(|it| it.kind() == kind).map(Generic::count).sum();
            fits(*count, info.generic.get(kind).copied().unwrap_or(0), all)
        })
}

fn platform_fits(info: &NodeInfo, task: &Task) -> bool {
    let platforms = &task.spec.placement.platforms;
    let has = &info.node.description.platform;
    let same = |wanted: &str, has: &str| wanted.is_empty() || wanted == has;
    platforms.is_empty()
        || platforms.iter().any(|wanted| {
            same(&wanted.os, &has.os) && same(normal_arch(&wanted.arch), normal_arch(&has.arch))
        })
}
