//! Taking over what a worker did while no manager heard of it.
//!
//! A worker that is cut off follows the restart policy by itself: a task that ends there gets a
//! successor in its slot, with its address, and an id that both sides would give it
//! ([`TaskId::successor`]). When the worker is back it tells of the whole chain. Where the first
//! of it still has the slot, its ancestors become the slot's history and the newest the slot's
//! task, with the address. Where it has not, because a replacement runs or the slot is no more,
//! nothing of the chain is wanted: the worker sees that on its base, stops all of it, and tells
//! when the base's address is free.

use super::draft::Draft;
use crate::base::id::TaskId;
use crate::model::object::Meta;
use crate::model::task::{Task, TaskState, TaskStatus};

/// What is said of a task of which its worker has nothing left.
const UNKNOWN_END: &str = "how it ended is not known any more";

/// What a worker made of one task by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The task that the managers know.
    pub base: TaskId,
    /// How that one ended; `None` when the worker does not know any more.
    pub status: Option<TaskStatus>,
    /// Its successors that have ended, too, oldest first; the worker keeps the last few.
    pub ended: Vec<(TaskId, TaskStatus)>,
    /// The newest one.
    pub last: (TaskId, TaskStatus),
}

/// Puts a chain into the store, once; false when nothing of it is wanted. It may be told again.
pub fn adopt(draft: &mut Draft<'_>, chain: &Chain) -> bool {
    let (id, status) = &chain.last;
    if draft.task(*id).is_some() {
        return true;
    }
    let Some(base) = draft.task(chain.base).filter(|base| base.is_wanted()).cloned() else {
        return false;
    };
    if is_replaced(draft, &base) {
        draft.want(base.id, TaskState::Shutdown);
        return false;
    }
    let mut last = Task {
        id: *id,
        meta: Meta::default(),
        status: status.clone(),
        not_before: None,
        ..base.clone()
    };
    // Everything before that is the managers' to tell.
    last.status.state = last.status.state.max(TaskState::Assigned);
    let mut before = base.id;
    for (id, status) in &chain.ended {
        let ended =
            Task { id: *id, status: status.clone(), adopted_from: Some(before), ..last.clone() };
        before = *id;
        draft.insert(history(ended));
    }
    last.adopted_from = Some(before);
    draft.insert(last);
    let mut base = history(base);
    if !base.status.state.is_terminal() {
        let unknown = TaskStatus {
            state: TaskState::Failed,
            timestamp: draft.now.wall,
            err: UNKNOWN_END.to_owned(),
            ..base.status.clone()
        };
        base.status = chain.status.clone().unwrap_or(unknown);
    }
    draft.insert(base);
    true
}

/// The task as one that has ended and holds nothing.
fn history(mut task: Task) -> Task {
    task.desired = task.desired.max(TaskState::Shutdown);
    task.addresses.clear();
    task.generic.clear();
    task
}

/// Whether a task that runs elsewhere has the slot.
fn is_replaced(draft: &Draft<'_>, base: &Task) -> bool {
    let Some(service) = draft.store.service(base.service) else { return true };
    let keeps = |other: &Task| {
        let global = service.spec.mode.is_global();
        let same = if global { other.node == base.node } else { other.slot == base.slot };
        let runs = other.is_active() && other.status.state == TaskState::Running;
        let newer = other.id != base.id && !other.is_outdated(service);
        same && runs && newer && !draft.is_lost(other)
    };
    let tasks = draft.tasks_of(base.service);
    tasks.into_iter().any(|id| draft.task(id).is_some_and(keeps))
}
