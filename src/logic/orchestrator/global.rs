//! Global services: one task on every node that may run it.

use super::draft::{Draft, SlotKey};
use crate::base::id::TaskId;
use crate::base::time::Span;
use crate::model::task::TaskState;

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
    // What the eligibility of a node depends on is in the task's spec.
    let probe = draft.create(SlotKey::Slot(0), TaskState::Running, Span::ZERO);
    let Some(task) = draft.task(probe).cloned() else { return };
    draft.drop_task(probe);
    for node in nodes {
        let key = SlotKey::Node(node);
        let eligible = draft.nodes().eligible(node, &task);
        match (eligible, slots.get(&key)) {
            (true, None) => {
                draft.create(key, TaskState::Running, Span::ZERO);
            }
            (false, Some(ids)) => {
                for id in ids {
                    draft.want(*id, TaskState::Shutdown);
                }
            }
            // The node was not eligible for a while: what was there was asked to stop.
            (true, Some(ids)) if stopped(draft, ids) => {
                draft.create(key, TaskState::Running, Span::ZERO);
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
}

/// None of them is wanted, and the last one ended because it was asked to.
fn stopped(draft: &Draft<'_>, ids: &[TaskId]) -> bool {
    let tasks = || ids.iter().filter_map(|id| draft.task(*id));
    tasks().all(|task| task.desired > TaskState::Running)
        && tasks().next_back().is_some_and(|task| task.status.state == TaskState::Shutdown)
}
