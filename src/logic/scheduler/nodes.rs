//! The table of nodes: it follows the store's effects, one by one.
//!
//! **Invariants:** [`Nodes::note`] of each effect in order gives the table that [`Nodes::new`]
//! makes of the store, but for failures, which a new leader knows only as far as the store still
//! holds their tasks. An effect that is noted twice changes nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::info::{MemoryUse, NodeInfo};
use super::{FAILURES_MAX, FAILURES_WINDOW};
use crate::base::id::{NodeId, ServiceId, TaskId};
use crate::base::time::Wall;
use crate::logic::store::{Effect, Store};
use crate::model::node::{Node, NodeState};
use crate::model::object::ObjectId;
use crate::model::task::{Task, TaskState};

/// Failures of one version of a service on one node that are kept; more make the node no worse.
const FAILURES_KEPT: usize = 4 * FAILURES_MAX;

/// All nodes with what is taken of them.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    infos: BTreeMap<NodeId, NodeInfo>,
    states: BTreeMap<NodeId, NodeState>,
    memory: BTreeMap<NodeId, MemoryUse>,
    /// Active tasks of each service on each node; none is no entry.
    active: BTreeMap<(ServiceId, NodeId), u64>,
    /// What was counted, to be taken back when it changes: tasks that are placed.
    counted: BTreeMap<TaskId, Arc<Task>>,
    failures: BTreeMap<(ServiceId, NodeId), Failures>,
}

/// When the newest version of a service that failed on a node did so.
#[derive(Clone, Debug, Default)]
struct Failures {
    version: u64,
    /// Each task once, whatever is written of it later.
    at: VecDeque<(TaskId, Wall)>,
}

impl Nodes {
    /// The store's nodes with its tasks on them.
    #[must_use]
    pub fn new(store: &Store, states: &BTreeMap<NodeId, NodeState>) -> Self {
        let mut nodes = Self { states: states.clone(), ..Self::default() };
        nodes.follow(store);
        nodes
    }

    /// Another store is followed from now on: what was in flight was refused, or a snapshot came.
    /// Who is heard of and how much memory is used stays.
    pub fn reset(&mut self, store: &Store) {
        let (states, memory) = (std::mem::take(&mut self.states), std::mem::take(&mut self.memory));
        *self = Self { states, memory, ..Self::default() };
        self.follow(store);
    }

    fn follow(&mut self, store: &Store) {
        for node in store.nodes() {
            self.put_node(node);
        }
        for task in store.tasks() {
            self.put_task(task);
        }
    }

    /// Follows one write.
    pub fn note(&mut self, effect: &Effect) {
        match effect {
            Effect::Node(node) => self.put_node(node),
            Effect::Task(task) => self.put_task(task),
            Effect::Remove(ObjectId::Node(id)) => self.remove_node(*id),
            Effect::Remove(ObjectId::Task(id)) => self.take_back(*id),
            Effect::Remove(ObjectId::Service(id)) => {
                self.failures.retain(|(service, _), _| service != id);
            }
            Effect::Cluster(_)
            | Effect::Network(_)
            | Effect::Service(_)
            | Effect::Secret(_)
            | Effect::Config(_)
            | Effect::Resource(_)
            | Effect::Remove(
                ObjectId::Cluster(_)
                | ObjectId::Network(_)
                | ObjectId::Secret(_)
                | ObjectId::Config(_)
                | ObjectId::Resource(_),
            ) => {}
        }
    }

    /// Whether the node is heard of. A node that is not in the store yet is remembered, too.
    pub fn set_state(&mut self, id: NodeId, state: NodeState) {
        self.states.insert(id, state);
        if let Some(info) = self.infos.get_mut(&id) {
            info.state = state;
        }
    }

    /// Whether the node is heard of; what was never said is unknown.
    #[must_use]
    pub fn state(&self, id: NodeId) -> NodeState {
        self.states.get(&id).copied().unwrap_or(NodeState::Unknown)
    }

    /// All states that were set, by node.
    #[must_use]
    pub const fn states(&self) -> &BTreeMap<NodeId, NodeState> {
        &self.states
    }

    /// How much memory the node says it uses.
    pub fn set_memory(&mut self, id: NodeId, memory: MemoryUse) {
        self.memory.insert(id, memory);
        if let Some(info) = self.infos.get_mut(&id) {
            info.set_memory(memory);
        }
    }

    fn put_node(&mut self, node: &Arc<Node>) {
        if let Some(info) = self.infos.get_mut(&node.id) {
            info.node = Arc::clone(node);
            return;
        }
        let mut info = NodeInfo::new(Arc::clone(node), self.state(node.id));
        info.set_memory(self.memory.get(&node.id).copied().unwrap_or_default());
        // A node that comes after its tasks: seldom, and never many.
        for task in self.counted.values().filter(|task| task.node == Some(node.id)) {
            info.add(task);
        }
        self.infos.insert(node.id, info);
    }

    fn remove_node(&mut self, id: NodeId) {
        self.infos.remove(&id);
        self.states.remove(&id);
        self.memory.remove(&id);
        self.failures.retain(|(_, node), _| *node != id);
    }

    fn put_task(&mut self, task: &Arc<Task>) {
        self.take_back(task.id);
        let Some(node) = task.node else { return };
        if task.status.state.is_terminal() {
            return self.note_failure(node, task);
        }
        if !is_placed(task) {
            return;
        }
        if let Some(info) = self.infos.get_mut(&node) {
            info.add(task);
        }
        if is_active(task) {
            *self.active.entry((task.service, node)).or_default() += 1;
        }
        self.counted.insert(task.id, Arc::clone(task));
    }

    fn take_back(&mut self, id: TaskId) {
        let Some(task) = self.counted.remove(&id) else { return };
        let Some(node) = task.node else { return };
        if let Some(info) = self.infos.get_mut(&node) {
            info.remove(&task);
        }
        let key = (task.service, node);
        if is_active(&task)
            && let Some(count) = self.active.get_mut(&key)
        {
            *count -= 1;
            if *count == 0 {
                self.active.remove(&key);
            }
        }
    }

    /// A task that failed by itself counts against its node; a global service has no choice of it.
    fn note_failure(&mut self, node: NodeId, task: &Task) {
        let failed = matches!(task.status.state, TaskState::Failed | TaskState::Rejected);
        if !failed || task.slot == 0 {
            return;
        }
        let failures = self.failures.entry((task.service, node)).or_default();
        if task.spec_version > failures.version {
            *failures = Failures { version: task.spec_version, at: VecDeque::new() };
        }
        let known = failures.at.iter().any(|(id, _)| *id == task.id);
        if known || task.spec_version < failures.version {
            return;
        }
        failures.at.push_back((task.id, task.meta.updated));
        if failures.at.len() > FAILURES_KEPT {
            failures.at.pop_front();
        }
    }

    /// Failures of the task's version of its service on the node in the last [`FAILURES_WINDOW`];
    /// 0 when they are fewer than [`FAILURES_MAX`]. A clock that was set back makes none of them
    /// count for longer than that.
    pub(super) fn failures(&self, node: NodeId, task: &Task, now: Wall) -> usize {
        let Some(failures) = self.failures.get(&(task.service, node)) else { return 0 };
        if failures.version != task.spec_version {
            return 0;
        }
        let recent = |(_, at): &&(TaskId, Wall)| now.0.abs_diff(at.0) < FAILURES_WINDOW.0;
        let count = failures.at.iter().filter(recent).count();
        if count >= FAILURES_MAX { count } else { 0 }
    }

    /// Everything but failures, for comparison.
    #[cfg(test)]
    pub(super) fn shown(&self) -> String {
        let Self { infos, states, memory, active, counted, failures: _ } = self;
        format!("{infos:#?} {states:#?} {memory:#?} {active:#?} {:#?}", counted.keys())
    }

    pub(super) const fn infos(&self) -> &BTreeMap<NodeId, NodeInfo> {
        &self.infos
    }

    pub(super) fn active(&self, service: ServiceId, node: NodeId) -> u64 {
        self.active.get(&(service, node)).copied().unwrap_or(0)
    }

    pub(super) fn counted(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.counted.get(&id)
    }
}

/// Whether the task takes what it reserves on its node: from when that is decided until it ends. A
/// task of a global service that still waits for its node takes nothing.
pub(super) fn is_placed(task: &Task) -> bool {
    task.status.state >= TaskState::Assigned && !task.status.state.is_terminal()
}

/// Whether a task that is placed counts for the spread: it is to run, or to run to its end.
pub(super) fn is_active(task: &Task) -> bool {
    task.is_wanted()
}
