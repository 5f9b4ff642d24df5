//! History: how many ended tasks of a slot are kept.

use super::draft::Draft;
use crate::model::service::Service;
use crate::model::task::TaskState;

/// Ended tasks that a slot keeps; `None` keeps all (swarmkit `orchestrator/taskreaper`).
pub(super) fn limit(service: &Service, cluster_limit: i64) -> Option<usize> {
    let attempts = service.spec.task.restart.max_attempts;
    if attempts > 0 {
        return usize::try_from(attempts.saturating_add(1)).ok();
    }
    usize::try_from(cluster_limit).ok()
}

/// Removes the oldest ended tasks above the limit, once their worker has given their addresses
/// back.
pub(super) fn reap(draft: &mut Draft<'_>) {
    let cluster_limit = draft.store.cluster().map_or(0, |cluster| cluster.task_history_limit);
    let Some(limit) = limit(draft.service(), cluster_limit) else { return };
    for ids in draft.slots().into_values() {
        let ended = |task: &crate::model::task::Task| {
            task.desired > TaskState::Running && task.status.state.is_terminal()
        };
        let ended: Vec<_> =
            ids.into_iter().filter(|id| draft.task(*id).is_some_and(ended)).collect();
        let surplus = ended.len().saturating_sub(limit);
        for id in ended.into_iter().take(surplus) {
            if draft.task(id).is_some_and(|task| task.addresses.is_empty()) {
                draft.drop_task(id);
            }
        }
    }
}
