//! Jobs: tasks that run to completion, counted by runs (swarmkit `orchestrator/jobs`).
//!
//! Every update of a job's service begins a new run: its tasks carry the run's number. A slot is
//! done with when one of the run's tasks there has completed. A task that failed is followed as
//! the restart policy says, where `any` means `on-failure`; a slot whose policy is exhausted stays
//! empty until the next run (Swarm would begin it anew without end).
//!
//! **Invariant:** of a replicated job's run, at most `max_concurrent` slots hold a wanted,
//! unfinished task, and every slot is below `total`.

use std::collections::BTreeSet;

use super::draft::{Draft, SlotKey};
use super::global;
use crate::base::id::TaskId;
use crate::base::time::{Span, Wall};
use crate::model::service::{JobStatus, Mode, Service};
use crate::model::task::{Task, TaskState};

/// The status of a service of this mode when it is made, or when its spec is written again: that
/// begins a job's next run.
#[must_use]
pub fn next_run(mode: Mode, last: Option<JobStatus>, now: Wall) -> Option<JobStatus> {
    let iteration = last.map_or(0, |last| last.iteration + 1);
    mode.is_job().then_some(JobStatus { iteration, last_execution: now })
}

/// The run that a job's new tasks are of; 0 for other services.
pub(super) fn iteration(service: &Service) -> u64 {
    service.job.map_or(0, |job| job.iteration)
}

/// Whether the task is of the service's present run; always when it is no job.
pub(super) fn is_of_run(task: &Task, service: &Service) -> bool {
    !service.spec.mode.is_job() || task.job_iteration == iteration(service)
}

/// Stops what is left of earlier runs.
pub(super) fn end_old_runs(draft: &mut Draft<'_>) {
    let end =
        if draft.service().spec.mode.is_global() { TaskState::Shutdown } else { TaskState::Remove };
    let slots = draft.slots();
    for id in slots.held.values().flatten() {
        let old = |task: &&Task| task.is_wanted() && !is_of_run(task, draft.service());
        let Some(task) = draft.task(*id).filter(old) else { continue };
        if !task.status.state.is_terminal() {
            draft.want(*id, end);
        } else if task.status.state != TaskState::Complete {
            draft.want(*id, TaskState::Shutdown);
        }
    }
}

/// A replicated job: begins free slots, the lowest first.
pub(super) fn run(draft: &mut Draft<'_>, max_concurrent: u64, total: u64) {
    let slots = draft.slots();
    let mut active = 0;
    let mut begun = BTreeSet::new();
    for (key, ids) in &slots.held {
        if of_run(draft, ids).next().is_none() {
            continue;
        }
        begun.insert(*key);
        if !complete(draft, ids) && of_run(draft, ids).any(Task::is_wanted) {
            active += 1;
        }
    }
    let free = (0..total).map(SlotKey::Slot).filter(|key| !begun.contains(key));
    let count = usize::try_from(max_concurrent.saturating_sub(active)).unwrap_or(usize::MAX);
    for key in free.take(count) {
        draft.create(key, TaskState::Ready, Span::ZERO);
    }
}

/// A global job: one completion on each node that may run it, also on those that come later.
pub(super) fn run_everywhere(draft: &mut Draft<'_>) {
    global::remove_gone(draft);
    let slots = draft.slots();
    for ids in slots.held.values() {
        complete(draft, ids);
    }
    for node in global::open_nodes(draft) {
        let key = SlotKey::Node(node);
        let ids = slots.held.get(&key).map_or(&[][..], Vec::as_slice);
        // What was asked to stop there, because the node was drained, is begun again.
        let last = of_run(draft, ids).next_back().map(|task| task.status.state);
        let stopped = last == Some(TaskState::Shutdown);
        if (last.is_none() || stopped) && !of_run(draft, ids).any(Task::is_wanted) {
            draft.create(key, TaskState::Ready, Span::ZERO);
        }
    }
}

fn of_run<'a>(
    draft: &'a Draft<'_>,
    ids: &'a [TaskId],
) -> impl DoubleEndedIterator<Item = &'a Task> {
    let tasks = ids.iter().filter_map(|id| draft.task(*id));
    tasks.filter(|task| is_of_run(task, draft.service()))
}

/// Whether a slot is done with; then nothing else runs there.
fn complete(draft: &mut Draft<'_>, ids: &[TaskId]) -> bool {
    let complete = of_run(draft, ids).any(|task| task.status.state == TaskState::Complete);
    for id in ids.iter().filter(|_| complete) {
        if draft.task(*id).is_some_and(Task::is_active) {
            draft.want(*id, TaskState::Shutdown);
        }
    }
    complete
}
