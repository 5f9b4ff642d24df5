//! Where a task runs: filters in swarm's order, each with its explanation, then an order of nodes.
//!
//! Not here: when to schedule, and what a task is. Invariant: the same nodes and task give the
//! same answer.

pub mod constraint;
mod filter;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::id::{NodeId, ServiceId};
use crate::logic::store::Store;
use crate::model::node::{Availability, Node, NodeState};
use crate::model::service::{Protocol, PublishMode};
use crate::model::task::Task;

/// Most tasks that one node is given, finished ones not counted.
pub const TASKS_PER_NODE_MAX: u64 = 1_000;

/// Message of a task that waits for a node.
pub const MESSAGE_PENDING: &str = "pending task scheduling";

/// Message of a task that was given a node.
pub const MESSAGE_ASSIGNED: &str = "scheduler assigned task to node";

/// Message of a global service's task that may run on its node.
pub const MESSAGE_CONFIRMED: &str = "scheduler confirmed task can run on preassigned node";

/// A node and what is taken of it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    node: Arc<Node>,
    state: NodeState,
    tasks: u64,
    of_service: BTreeMap<ServiceId, u64>,
    nano_cpus: u64,
    memory_bytes: u64,
    generic: BTreeMap<String, u64>,
    host_ports: BTreeSet<(u16, Protocol)>,
}

impl NodeInfo {
    fn new(node: &Arc<Node>, state: NodeState) -> Self {
        Self {
            node: Arc::clone(node),
            state,
            tasks: 0,
            of_service: BTreeMap::new(),
            nano_cpus: 0,
            memory_bytes: 0,
            generic: BTreeMap::new(),
            host_ports: BTreeSet::new(),
        }
    }

    /// A task takes what it reserves until it has ended.
    fn add(&mut self, task: &Task) {
        if task.status.state.is_terminal() {
            return;
        }
        let resources = &task.spec.resources;
        self.nano_cpus = self.nano_cpus.saturating_add(resources.reserve_nano_cpus);
        self.memory_bytes = self.memory_bytes.saturating_add(resources.reserve_memory_bytes);
        for (kind, count) in &resources.reserve_generic {
            let taken = self.generic.entry(kind.clone()).or_default();
            *taken = taken.saturating_add(*count);
        }
        let host = task.ports.iter().filter(|port| port.mode == PublishMode::Host);
        self.host_ports.extend(
            host.filter(|port| port.published != 0).map(|port| (port.published, port.protocol)),
        );
        self.tasks += 1;
        if task.is_wanted() {
            *self.of_service.entry(task.service).or_default() += 1;
        }
    }

    /// Active tasks of a service.
    fn active(&self, service: ServiceId) -> u64 {
        self.of_service.get(&service).copied().unwrap_or(0)
    }
}

/// All nodes with what is taken of them.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    nodes: BTreeMap<NodeId, NodeInfo>,
}

impl Nodes {
    /// The store's nodes with these tasks on them.
    pub fn new<'a>(
        store: &Store,
        states: &BTreeMap<NodeId, NodeState>,
        tasks: impl Iterator<Item = &'a Task>,
    ) -> Self {
        let state = |id| states.get(&id).copied().unwrap_or(NodeState::Unknown);
        let infos = store.nodes().map(|node| (node.id, NodeInfo::new(node, state(node.id))));
        let mut nodes = Self { nodes: infos.collect() };
        for task in tasks {
            nodes.add(task);
        }
        nodes
    }

    /// A task was placed.
    pub fn add(&mut self, task: &Task) {
        if let Some(info) = task.node.and_then(|id| self.nodes.get_mut(&id)) {
            info.add(task);
        }
    }

    /// The best node for the task, or why there is none, in swarm's words.
    ///
    /// # Errors
    /// The text for the task's status.
    pub fn place(&self, task: &Task) -> Result<NodeId, String> {
        self.choose(task, |_| true)
    }

    /// Whether the node may run the task, or why not.
    ///
    /// # Errors
    /// The text for the task's status.
    pub fn confirm(&self, node: NodeId, task: &Task) -> Result<NodeId, String> {
        self.choose(task, |info| info.node.id == node)
    }

    /// Whether the node is one that a global service wants to be on: it may run tasks and fulfils
    /// the constraints and platforms.
    #[must_use]
    pub fn eligible(&self, node: NodeId, task: &Task) -> bool {
        self.nodes.get(&node).is_some_and(|info| filter::eligible(info, task))
    }

    /// Whether the user lets new tasks come to the node.
    #[must_use]
    pub fn is_active(&self, node: NodeId) -> bool {
        let active = |info: &NodeInfo| info.node.spec.availability == Availability::Active;
        self.nodes.get(&node).is_some_and(active)
    }

    fn choose(&self, task: &Task, of: impl Fn(&NodeInfo) -> bool) -> Result<NodeId, String> {
        let mut refused = filter::Refusals::default();
        let mut best: Option<&NodeInfo> = None;
        let order = |info: &NodeInfo| (info.active(task.service), info.tasks, info.node.id);
        for info in self.nodes.values().filter(|info| of(info)) {
            if refused.note(info, task) {
                continue;
            }
            if best.is_none_or(|other| order(info) < order(other)) {
                best = Some(info);
            }
        }
        best.map(|info| info.node.id).ok_or_else(|| refused.explain())
    }

    /// Nodes by the number of a service's active tasks on them, most first.
    #[must_use]
    pub fn busiest(&self, service: ServiceId) -> Vec<(NodeId, u64)> {
        let mut nodes: Vec<(NodeId, u64)> =
            self.nodes.values().map(|info| (info.node.id, info.active(service))).collect();
        nodes.sort_by_key(|(_, count)| Reverse(*count));
        nodes
    }

    /// All nodes.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.keys().copied()
    }
}
