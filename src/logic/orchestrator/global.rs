//! Global services: one task on every node that may run it.
//!
//! A node that is down keeps its task, unless that is outdated: it has nowhere else to go, and may
//! still run when the node is back.

use super::draft::{Draft, SlotKey};
use super::restart;
use crate::base::id::{NodeId, TaskId};
use crate::base::time::Span;
use crate::model::node::{Availability, Node, NodeState};
use crate::model::task::{Task, TaskState};

/// One task on each eligible node; on others none is wanted.
pub(super) fn spread(draft: &mut Draft<'_>) {
    remove_gone(draft);
    let slots = draft.slots();
    let nodes: Vec<_> = draft.nodes().ids().collect();
    let task = probe(draft);
    for node in nodes {
        let key = SlotKey::Node(node);
        let eligible = draft.nodes().eligible(node, &task.spec);
        let open = draft.nodes().is_active(node);
        let down = draft.state(node) == NodeState::Down;
        match (eligible, slots.held.get(&key)) {
            (true, None) if open => {
                draft.create(key, TaskState::Ready, Span::ZERO);
            }
            (false, Some(_)) if down && !is_drained(draft, node) => {}
            (false, Some(ids)) => {
                for id in ids {
                    draft.want(*id, TaskState::Shutdown);
                }
            }
            // The node was not eligible for a while: what was there was asked to stop.
            (true, Some(ids)) if open && stopped(draft, ids) => {
                draft.create(key, TaskState::Ready, Span::ZERO);
            }
            (true, Some(_) | None) | (false, None) => {}
        }
    }
}

/// Nothing is wanted on nodes that are no more.
pub(super) fn remove_gone(draft: &mut Draft<'_>) {
    let slots = draft.slots();
    for (key, ids) in &slots.held {
        let gone = match key {
            SlotKey::Node(node) => draft.store.node(*node).is_none(),
            SlotKey::Slot(_) => true,
        };
        for id in ids.iter().filter(|_| gone) {
            draft.want(*id, TaskState::Remove);
        }
    }
}

fn is_drained(draft: &Draft<'_>, node: NodeId) -> bool {
    let drained = |node: &Node| node.spec.availability == Availability::Drain;
    draft.store.node(node).is_some_and(|node| drained(node))
}

/// Nodes on which the service may get a new task; a paused one only keeps what it has.
pub(super) fn open_nodes(draft: &mut Draft<'_>) -> Vec<NodeId> {
    let task = probe(draft);
    let nodes = draft.nodes();
    let fits = |node: &NodeId| nodes.eligible(*node, &task.spec) && nodes.is_active(*node);
    nodes.ids().filter(fits).collect()
}

/// A task of the service that is never written: what the eligibility of a node depends on is in
/// its spec.
fn probe(draft: &mut Draft<'_>) -> Task {
    draft.new_task(SlotKey::Slot(0), TaskState::Running, Span::ZERO)
}

/// None of them is wanted, and the last one ended because it was asked to, or by itself in the
/// middle of that: then the policy still wants a successor, and none was made.
fn stopped(draft: &Draft<'_>, ids: &[TaskId]) -> bool {
    let tasks = || ids.iter().filter_map(|id| draft.task(*id));
    let asked = |task: &Task| match task.status.state {
        TaskState::Shutdown | TaskState::Orphaned => true,
        state => state.is_terminal() && restart::wanted(draft, task, ids),
    };
    tasks().all(|task| !task.is_wanted()) && tasks().next_back().is_some_and(asked)
}
