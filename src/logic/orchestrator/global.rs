//! Global services: one task on every node that may run it.

use super::draft::{Draft, SlotKey};
use crate::base::id::{NodeId, TaskId};
use crate::base::time::Span;
use crate::model::task::{Task, TaskState};

/// One task on each eligible node; on others none is wanted.
pub(super) fn spread(draft: &mut Draft<'_>) {
    let slots = draft.slots();
    let nodes: Vec<_> = draft.nodes().ids().collect();
    for (key, ids) in &slots {
        let gone = match key {
            SlotKey::Node(node) => !nodes.contains(node),
            SlotKey::Slot(_) => true,
        };
        if gone {
            for id in ids {
                draft.want(*id, TaskState::Remove);
            }
        }
    }
    let task = probe(draft);
    for node in nodes {
        let key = SlotKey::Node(node);
        let eligible = draft.nodes().eligible(node, &task.spec);
        let open = draft.nodes().is_active(node);
        match (eligible, slots.get(&key)) {
            (true, None) if open => {
                draft.create(key, TaskState::Running, Span::ZERO);
            }
            (false, Some(ids)) => {
                for id in ids {
                    draft.want(*id, TaskState::Shutdown);
                }
            }
            // The node was not eligible for a while: what was there was asked to stop.
            (true, Some(ids)) if open && stopped(draft, ids) => {
                draft.create(key, TaskState::Running, Span::ZERO);
            }
            (true, Some(_) | None) | (false, None) => {}
        }
    }
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

/// None of them is wanted, and the last one ended because it was asked to.
fn stopped(draft: &Draft<'_>, ids: &[TaskId]) -> bool {
    let tasks = || ids.iter().filter_map(|id| draft.task(*id));
    tasks().all(|task| task.desired > TaskState::Running)
        && tasks().next_back().is_some_and(|task| task.status.state == TaskState::Shutdown)
}
