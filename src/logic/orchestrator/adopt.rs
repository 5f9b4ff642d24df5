//! Taking over what a worker did while no manager heard of it.
//!
//! A worker that is cut off follows the restart policy by itself: a task that ends there gets a
//! successor in its slot, with its address, and an id that both sides would give it
//! ([`TaskId::successor`]). When the worker is back it tells of the whole chain. The ancestors
//! become the slot's history and the newest its task, or, where a replacement runs by now, one
//! that is to stop: in either case it is in the store, and its address is free when its worker
//! says so.

use super::draft::Draft;
use crate::base::id::TaskId;
use crate::model::object::Meta;
use crate::model::task::{Task, TaskState, TaskStatus};

/// What a worker made of one task by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The task that the managers know.
    pub base: TaskId,
    /// How that one ended.
    pub status: TaskStatus,
    /// Its successors that have ended, too, oldest first; the worker keeps the last few.
    pub ended: Vec<(TaskId, TaskStatus)>,
    /// The newest one.
    pub last: (TaskId, TaskStatus),
}

/// Puts a chain into the store, once; false when its base is not known: then nothing of it is
/// wanted, and the worker is to remove it.
pub fn adopt(draft: &mut Draft<'_>, chain: &Chain) -> bool {
    let (id, status) = &chain.last;
    if draft.task(*id).is_some() {
        return true;
    }
    let Some(base) = draft.task(chain.base).cloned() else { return false };
    let mut last = Task {
        id: *id,
        meta: Meta::default(),
        desired: desired(draft, &base),
        status: status.clone(),
        not_before: None,
        adopted_from: Some(base.id),
        ..base.clone()
    };
    // A worker never tells less of a task than it told before.
    last.status.state = last.status.state.max(TaskState::Assigned);
    let mut ancestors = chain.ended.iter();
    if let Some(base) = draft.edit(base.id) {
        base.desired = base.desired.max(TaskState::Shutdown);
        base.addresses.clear();
        base.generic.clear();
        if !base.status.state.is_terminal() {
            base.status = chain.status.clone();
        }
    }
    // Each follows the one before it.
    let mut before = chain.base;
    for (id, status) in ancestors.by_ref() {
        let ended = Task {
            id: *id,
            desired: TaskState::Shutdown,
            status: status.clone(),
            addresses: Vec::new(),
            generic: Vec::new(),
            adopted_from: Some(before),
            ..last.clone()
        };
        before = *id;
        draft.insert(ended);
    }
    last.adopted_from = Some(before);
    draft.insert(last);
    true
}

/// How far the newest of a chain may go: as far as its base, unless a replacement runs.
fn desired(draft: &Draft<'_>, base: &Task) -> TaskState {
    let Some(service) = draft.store.service(base.service) else { return TaskState::Remove };
    let global = service.spec.mode.is_global();
    let same_slot = |other: &Task| {
        let same = if global { other.node == base.node } else { other.slot == base.slot };
        same && other.id != base.id && other.job_iteration == base.job_iteration
    };
    let all = draft.tasks_of(base.service);
    let others = || all.iter().filter_map(|id| draft.task(*id)).filter(|task| same_slot(task));
    let keeps = |other: &Task| {
        let runs = other.status.state == TaskState::Running && !draft.is_lost(other);
        other.is_active() && runs && !other.is_outdated(service)
    };
    if others().any(keeps) {
        return base.desired.max(TaskState::Shutdown);
    }
    if base.is_wanted() {
        return base.desired;
    }
    // Its end was told, and the successor that the managers made of it does not run yet.
    let follows = |other: &Task| other.is_active() && other.spec_version == base.spec_version;
    match others().find(|other| base.status.state.is_terminal() && follows(other)) {
        Some(_) if base.desired == TaskState::Shutdown => {
            if service.spec.mode.is_job() {
                TaskState::Complete
            } else {
                TaskState::Running
            }
        }
        Some(_) | None => base.desired,
    }
}
