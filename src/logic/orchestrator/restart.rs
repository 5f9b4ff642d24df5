//! What follows a task that has ended: nothing, or a successor in its slot.
//!
//! The successor is made at once, wanted `Ready`, so that image and container are made while the
//! delay runs; it is wanted `Running` when the delay is over and what was in its slot has stopped
//! (swarmkit `orchestrator/restart`).
//!
//! Swarm's delay is constant. Here a slot whose tasks fail one after the other soon after their
//! start backs off: after [`PLAIN_FAILURES`] the delay doubles with each up to [`BACKOFF_MAX`], so
//! that an image that cannot run does not wear out a card.
//!
//! Attempts are counted in the slot's history, which is kept long enough for that; so they survive
//! a restart of the manager. A window is measured with the wall clock of the tasks' ends: a jump
//! of the clock can only forget attempts.

use super::draft::{Draft, SlotKey};
use super::nodes::{self, Before};
use super::{Memory, Wake, jobs, reaper, update};
use crate::base::id::TaskId;
use crate::base::time::{Span, Time};
use crate::model::service::{RestartCondition, Service};
use crate::model::task::{Task, TaskState};

/// A successor does not wait longer for the task before it to stop.
pub(super) const OLD_TASK_WAIT: Span = Span::from_secs(60);

/// A task that ran this long after it was wanted running did not fail at its start.
pub const STABLE_AFTER: Span = Span::from_secs(10);

/// Failures in a row that get the policy's own delay.
pub(super) const PLAIN_FAILURES: usize = 3;

/// Shortest delay that is doubled.
pub(super) const BACKOFF_MIN: Span = Span::from_secs(1);

/// Longest delay, unless the policy's own is longer.
pub const BACKOFF_MAX: Span = Span::from_secs(300);

/// Whether the policy lets tasks run again that did not end by themselves. As in Swarm, one that
/// is never to be replaced does not follow its service to another node either; a job has to be
/// completed.
pub(super) fn may_move(service: &Service) -> bool {
    service.spec.mode.is_job()
        || match service.spec.task.restart.condition {
            RestartCondition::None => false,
            RestartCondition::OnFailure | RestartCondition::Any => true,
        }
}

/// Gives a successor to each ended task that is to have one.
pub(super) fn replace_ended(draft: &mut Draft<'_>, memory: &mut Memory, wake: &mut Wake) {
    let slots = draft.slots();
    for (key, ids) in &slots.held {
        for id in ids {
            let ended = |task: &&Task| task.is_wanted() && task.status.state.is_terminal();
            let Some(task) = draft.task(*id).filter(ended) else { continue };
            if draft.service().spec.mode.is_job() && task.status.state == TaskState::Complete {
                continue;
            }
            let task = task.clone();
            // One that fails while it waits for its own delay is followed after that delay.
            if task.desired < TaskState::Running {
                let due = due(draft, memory, &task);
                if draft.now.mono < due {
                    wake.at(due);
                    continue;
                }
            }
            draft.want(*id, TaskState::Shutdown);
            let other = |other: &Task| other.is_active() && !draft.is_lost(other);
            let other = ids.iter().any(|id| draft.task(*id).is_some_and(other));
            if !other {
                succeed(draft, *key, &task, ids);
            }
        }
    }
}

/// Goes on with slots in which the new task of a start-first update has ended and the old one is
/// still there.
pub(super) fn retry(draft: &mut Draft<'_>) {
    if update::is_paused(draft.service()) {
        return;
    }
    let slots = draft.slots();
    for (key, ids) in slots.held.iter().filter(|(_, ids)| ids.len() > 1) {
        let tasks = || ids.iter().filter_map(|id| draft.task(*id));
        let mut active = tasks().filter(|task| task.is_active()).peekable();
        let old = active.peek().is_some() && active.all(|task| draft.is_outdated(task));
        let newest = tasks().next_back().filter(|task| {
            !task.is_wanted() && task.status.state.is_terminal() && !draft.is_outdated(task)
        });
        if let Some(task) = newest.filter(|_| old).cloned() {
            succeed(draft, *key, &task, ids);
        }
    }
}

/// Makes the successor of an ended task, if the policy lets it have one.
fn succeed(draft: &mut Draft<'_>, key: SlotKey, task: &Task, ids: &[TaskId]) {
    // Its node was removed: that is no fault of the task.
    if task.status.state == TaskState::Orphaned {
        if may_move(draft.service()) {
            draft.create(key, TaskState::Ready, Span::ZERO);
        }
    } else if wanted(draft, task, ids) {
        let delay = delay(draft, task, ids);
        draft.create(key, TaskState::Ready, delay);
    }
}

/// Whether the policy lets the task have a successor.
pub(super) fn wanted(draft: &Draft<'_>, task: &Task, slot: &[TaskId]) -> bool {
    let service = draft.service();
    let policy = &service.spec.task.restart;
    let condition = match policy.condition {
        RestartCondition::Any => true,
        RestartCondition::OnFailure => task.status.state != TaskState::Complete,
        RestartCondition::None => false,
    };
    if !condition || policy.max_attempts == 0 {
        return condition;
    }
    let recent = |other: &Task| {
        let age = draft.now.wall.0.saturating_sub(other.status.timestamp.0);
        policy.window == Span::ZERO || age <= policy.window.0
    };
    let ended = slot.iter().filter_map(|id| draft.task(*id)).filter(|other| {
        let mine = !other.is_outdated(service) && jobs::is_of_run(other, service);
        mine && ended_by_itself(other) && recent(other)
    });
    u64::try_from(ended.count()).unwrap_or(u64::MAX) <= policy.max_attempts
}

/// It ended, and not because it was asked to.
pub(super) fn ended_by_itself(task: &Task) -> bool {
    match task.status.state {
        TaskState::Complete | TaskState::Failed | TaskState::Rejected => true,
        TaskState::New
        | TaskState::Pending
        | TaskState::Assigned
        | TaskState::Accepted
        | TaskState::Preparing
        | TaskState::Ready
        | TaskState::Starting
        | TaskState::Running
        | TaskState::Shutdown
        | TaskState::Remove
        | TaskState::Orphaned => false,
    }
}

/// How long a successor waits.
fn delay(draft: &Draft<'_>, task: &Task, slot: &[TaskId]) -> Span {
    let service = draft.service();
    let plain = service.spec.task.restart.delay;
    let tasks = slot.iter().rev().filter_map(|id| draft.task(*id));
    let failures = tasks
        .filter(|task| task.status.state.is_terminal())
        .take_while(|task| failed_early(task, service))
        .count();
    let cluster_limit = draft.store.cluster().map_or(0, |cluster| cluster.task_history_limit);
    let kept = reaper::limit(service, cluster_limit).unwrap_or(PLAIN_FAILURES);
    if failures <= PLAIN_FAILURES.min(kept) {
        return plain;
    }
    let last = waited(task).max(plain).max(BACKOFF_MIN);
    Span(last.0.saturating_mul(2)).min(BACKOFF_MAX.max(plain))
}

fn failed_early(task: &Task, service: &Service) -> bool {
    if task.is_outdated(service) {
        return false;
    }
    let wanted_from = task.not_before.unwrap_or_default().max(task.meta.created);
    let ran = task.status.timestamp.0.saturating_sub(wanted_from.0);
    match task.status.state {
        TaskState::Rejected => true,
        TaskState::Failed => ran < STABLE_AFTER.0,
        TaskState::New
        | TaskState::Pending
        | TaskState::Assigned
        | TaskState::Accepted
        | TaskState::Preparing
        | TaskState::Ready
        | TaskState::Starting
        | TaskState::Running
        | TaskState::Complete
        | TaskState::Shutdown
        | TaskState::Remove
        | TaskState::Orphaned => false,
    }
}

/// The delay that a task was made with.
fn waited(task: &Task) -> Span {
    let until = task.not_before.unwrap_or_default();
    Span(until.0.saturating_sub(task.meta.created.0))
}

/// When a task that is wanted `Ready` may start. What is left of its delay is counted anew by a
/// manager that did not make it; a wall clock that jumped cannot make it longer.
fn due(draft: &Draft<'_>, memory: &mut Memory, task: &Task) -> Time {
    let left = || {
        let until = task.not_before.unwrap_or_default();
        Span(until.0.saturating_sub(draft.now.wall.0)).min(waited(task))
    };
    *memory.starts.entry(task.id).or_insert_with(|| draft.now.mono + left())
}

/// Lets successors run whose delay is over.
pub(super) fn promote(draft: &mut Draft<'_>, memory: &mut Memory, wake: &mut Wake) {
    let slots = draft.slots();
    for (key, ids) in &slots.held {
        for id in ids {
            let waits = |task: &&Task| {
                let ended = task.status.state.is_terminal();
                task.desired < TaskState::Running && !ended && !draft.is_lost(task)
            };
            let Some(task) = draft.task(*id).filter(waits).cloned() else { continue };
            let due = due(draft, memory, &task);
            let now = draft.now.mono;
            if now < due {
                wake.at(due);
                continue;
            }
            let leaving = slots.leaving.get(key).into_iter().flatten();
            let others: Vec<TaskId> = leaving.chain(ids).copied().collect();
            match nodes::before(draft, memory, &others) {
                Before::Stops { alone: true } => {}
                Before::Stops { alone: false } if now < due + OLD_TASK_WAIT => {
                    wake.at(due + OLD_TASK_WAIT);
                }
                Before::Lease(end) => wake.at(end),
                Before::Nothing | Before::Stops { alone: false } => {
                    draft.want(*id, draft.furthest());
                    memory.starts.remove(id);
                }
            }
        }
    }
}
