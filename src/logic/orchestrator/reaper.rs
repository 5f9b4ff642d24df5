//! History: how many ended tasks of a slot are kept.

use super::draft::Draft;
use super::jobs;
use crate::model::service::Service;
use crate::model::task::{Task, TaskState};

/// Ended tasks that a slot keeps; `None` keeps all (swarmkit `orchestrator/taskreaper`).
pub(super) fn limit(service: &Service, cluster_limit: i64) -> Option<usize> {
    let attempts = service.spec.task.restart.max_attempts;
    if attempts > 0 {
        return usize::try_from(attempts.saturating_add(1)).ok();
    }
    usize::try_from(cluster_limit).ok()
}

/// Removes the oldest ended tasks above the limit, once their worker has given their addresses
/// back. What a job's run has completed is its result, so it stays until the next run.
pub(super) fn reap(draft: &mut Draft<'_>) {
    let cluster_limit = draft.store.cluster().map_or(0, |cluster| cluster.task_history_limit);
    let Some(limit) = limit(draft.service(), cluster_limit) else { return };
    let slots = draft.slots();
    for ids in slots.held.values().filter(|ids| ids.len() > limit) {
        let service = draft.service();
        let ended = |task: &Task| {
            // Also of one that was told to stop, on a node that was drained, and completed first.
            let result = service.spec.mode.is_job() && task.status.state == TaskState::Complete;
            let kept = (task.is_wanted() || result) && jobs::is_of_run(task, service);
            task.status.state.is_terminal() && !kept
        };
        let ended: Vec<_> =
            ids.iter().copied().filter(|id| draft.task(*id).is_some_and(ended)).collect();
        let surplus = ended.len().saturating_sub(limit);
        for id in ended.into_iter().take(surplus) {
            if draft.task(id).is_some_and(|task| task.addresses.is_empty()) {
                draft.remove(id);
            }
        }
    }
}
