//! Updates and rollbacks: outdated slots are replaced a few at a time and the new tasks watched
//! (swarmkit `orchestrator/update`).
//!
//! Which slots are outdated is seen from the store each time; what is held in memory is which of
//! them are being replaced, and since when the new tasks run. A new leader begins the watch anew.

use std::collections::{BTreeMap, BTreeSet};

use super::draft::{Draft, SlotKey};
use super::restart::ended_by_itself;
use super::{Wake, global};
use crate::base::id::TaskId;
use crate::base::time::{Span, Time};
use crate::logic::allocator;
use crate::model::service::{
    FailureAction, Mode, Service, UpdateConfig, UpdateOrder, UpdateState, UpdateStatus,
};
use crate::model::task::{Task, TaskState};

/// Added to a delay that is longer than the watch.
const WATCH_AFTER_DELAY: Span = Span::from_secs(1);

/// An update under way.
#[derive(Clone, Debug)]
pub(super) struct Update {
    spec_version: u64,
    /// Slots that were outdated when it began.
    total: u64,
    /// Slots being replaced.
    active: BTreeMap<SlotKey, Active>,
    /// Slots that were taken on: each is, once.
    taken: BTreeSet<SlotKey>,
    /// Tasks that it made, and since when each runs.
    made: BTreeMap<TaskId, Option<Time>>,
    failed: BTreeSet<TaskId>,
    /// When the last slot was done.
    last_done: Time,
}

/// A slot being replaced.
#[derive(Clone, Copy, Debug)]
struct Active {
    task: TaskId,
    done: Option<Time>,
}

/// Goes on with the service's update, if it has one.
pub(super) fn advance(draft: &mut Draft<'_>, update: &mut Option<Update>, wake: &mut Wake) {
    let state = draft.service().update_status.as_ref().map(|status| status.state);
    let back = match state {
        Some(UpdateState::Paused | UpdateState::RollbackPaused) => {
            *update = None;
            return;
        }
        Some(UpdateState::RollbackStarted) => true,
        Some(UpdateState::Updating | UpdateState::Completed | UpdateState::RollbackCompleted)
        | None => false,
    };
    let config = config(draft, back);
    update.take_if(|update| update.spec_version != draft.service().spec_version);
    let outdated = outdated(draft);
    let under_way = matches!(state, Some(UpdateState::Updating | UpdateState::RollbackStarted));
    if update.is_none() {
        if outdated.is_empty() {
            if under_way {
                complete(draft, back);
            }
            return;
        }
        if state.is_some() && !under_way {
            // What is left over of a finished update waits for the next one.
            return;
        }
        *update = Some(Update::new(draft, outdated.len()));
        if !under_way {
            set_status(draft, UpdateState::Updating, "update in progress".to_owned());
        }
    } else if !under_way {
        // The service was written for something else: the update goes on all the same.
        set_status(draft, UpdateState::Updating, "update in progress".to_owned());
    }
    let Some(current) = update else { return };
    if let Some(task) = current.watch(draft, config) {
        *update = None;
        let gone_back = fail(draft, config, back, task);
        if gone_back {
            advance(draft, update, wake);
        }
        return;
    }
    current.finish_slots(draft, config, wake);
    current.replace_slots(draft, config, outdated);
    if current.active.is_empty() {
        let watch = if config.delay >= config.monitor {
            config.delay + WATCH_AFTER_DELAY
        } else {
            config.monitor
        };
        let end = current.last_done + watch;
        if draft.now.mono >= end {
            *update = None;
            complete(draft, back);
        } else {
            wake.at(end);
        }
    }
}

impl Update {
    /// One that begins, or that another manager began: then the slots whose new task does not run
    /// yet are under way.
    fn new(draft: &mut Draft<'_>, outdated: usize) -> Self {
        let mut update = Self {
            spec_version: draft.service().spec_version,
            total: 0,
            active: BTreeMap::new(),
            taken: BTreeSet::new(),
            made: BTreeMap::new(),
            failed: BTreeSet::new(),
            last_done: draft.now.mono,
        };
        let slots = draft.slots();
        let begun = |task: &&Task| {
            task.is_wanted() && task.status.state < TaskState::Running && !draft.is_outdated(task)
        };
        let mut total = outdated.max(1);
        let taken_over = is_under_way(draft);
        for (key, ids) in slots.held.iter().filter(|(_, ids)| taken_over && ids.len() > 1) {
            let tasks = || ids.iter().filter_map(|id| draft.task(*id));
            if let Some(task) = tasks().find(begun) {
                update.made.insert(task.id, None);
                update.active.insert(*key, Active { task: task.id, done: None });
                update.taken.insert(*key);
                total += 1;
            } else if tasks().any(|task| draft.is_outdated(task))
                && tasks().next_back().is_some_and(|task| !draft.is_outdated(task))
            {
                // Replaced before.
                total += 1;
            }
        }
        update.total = u64::try_from(total).unwrap_or(u64::MAX);
        update
    }

    /// Notes what became of the tasks it made; names one when too many failed.
    fn watch(&mut self, draft: &Draft<'_>, config: UpdateConfig) -> Option<TaskId> {
        let now = draft.now.mono;
        let mut newest = None;
        self.made.retain(|id, since| {
            let Some(task) = draft.task(*id) else { return false };
            if task.status.state == TaskState::Running {
                since.get_or_insert(now);
            }
            let early = since.is_none_or(|since| now.since(since) <= config.monitor);
            if ended_by_itself(task) && early && self.failed.insert(*id) {
                newest = Some(*id);
            }
            true
        });
        let failed = u64::try_from(self.failed.len()).unwrap_or(u64::MAX);
        let limit = self.total.saturating_mul(u64::from(config.max_failure_ppm));
        match config.on_failure {
            FailureAction::Continue => None,
            FailureAction::Pause | FailureAction::Rollback => {
                newest.filter(|_| failed.saturating_mul(1_000_000) > limit)
            }
        }
    }

    /// Lets go of slots whose new task runs or has ended, after the delay.
    fn finish_slots(&mut self, draft: &mut Draft<'_>, config: UpdateConfig, wake: &mut Wake) {
        let now = draft.now.mono;
        let slots = draft.slots();
        for (key, active) in &mut self.active {
            if let Some(task) = moved(draft, active.task, slots.held.get(key)) {
                active.task = task;
                self.made.insert(task, None);
            }
            let done = draft
                .task(active.task)
                .is_none_or(|task| task.status.state >= TaskState::Running || !task.is_wanted());
            if !done || active.done.is_some() {
                continue;
            }
            active.done = Some(now);
            self.last_done = now;
            let runs = |task: &Task| task.status.state == TaskState::Running;
            if draft.task(active.task).is_some_and(runs) {
                for id in slots.held.get(key).into_iter().flatten().filter(|id| **id != active.task)
                {
                    draft.want(*id, TaskState::Shutdown);
                }
            }
        }
        self.active.retain(|_, active| match active.done {
            Some(done) if now >= done + config.delay => false,
            Some(done) => {
                wake.at(done + config.delay);
                true
            }
            None => true,
        });
    }

    /// Takes on as many slots as the parallelism allows.
    fn replace_slots(
        &mut self,
        draft: &mut Draft<'_>,
        config: UpdateConfig,
        outdated: BTreeMap<SlotKey, Vec<TaskId>>,
    ) {
        let parallelism = match usize::try_from(config.parallelism) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(n) => n,
        };
        for (key, ids) in outdated {
            if self.taken.contains(&key) {
                continue;
            }
            if self.active.len() >= parallelism {
                break;
            }
            let good = |task: &Task| task.is_wanted() && !draft.is_outdated(task);
            let good = ids.iter().any(|id| draft.task(*id).is_some_and(good));
            if good || config.order == UpdateOrder::StopFirst {
                for id in &ids {
                    if draft.task(*id).is_some_and(|task| draft.is_outdated(task)) {
                        draft.want(*id, TaskState::Shutdown);
                    }
                }
            }
            self.taken.insert(key);
            if good {
                self.last_done = draft.now.mono;
                continue;
            }
            let desired = match config.order {
                UpdateOrder::StopFirst => TaskState::Ready,
                UpdateOrder::StartFirst => TaskState::Running,
            };
            let task = draft.create(key, desired, Span::ZERO);
            self.made.insert(task, None);
            self.active.insert(key, Active { task, done: None });
        }
    }
}

/// The task that took the place of one that lost its node, or had to leave it.
fn moved(draft: &Draft<'_>, task: TaskId, slot: Option<&Vec<TaskId>>) -> Option<TaskId> {
    let stays = |task: &Task| ended_by_itself(task) || (task.is_active() && !draft.is_lost(task));
    if draft.task(task).is_some_and(stays) {
        return None;
    }
    let other = |other: &Task| {
        other.id != task && other.is_active() && !draft.is_lost(other) && !draft.is_outdated(other)
    };
    slot?.iter().copied().rfind(|id| draft.task(*id).is_some_and(other))
}

/// Slots with an outdated task that is wanted, or whose last task is outdated and was not replaced;
/// of a global service only where a new task may come.
fn outdated(draft: &mut Draft<'_>) -> BTreeMap<SlotKey, Vec<TaskId>> {
    let slots = draft.slots();
    let is_outdated = |ids: &[TaskId]| {
        let tasks = || ids.iter().filter_map(|id| draft.task(*id));
        let wanted = || tasks().filter(|task| task.is_wanted());
        if wanted().next().is_some() {
            wanted().any(|task| draft.is_outdated(task))
        } else {
            tasks().next_back().is_some_and(|task| draft.is_outdated(task))
        }
    };
    let outdated = slots.held.iter().filter(|(_, ids)| is_outdated(ids));
    let mut outdated: BTreeMap<_, _> = outdated.map(|(key, ids)| (*key, ids.clone())).collect();
    if !outdated.is_empty() && draft.service().spec.mode == Mode::Global {
        let open: BTreeSet<_> = global::open_nodes(draft).into_iter().map(SlotKey::Node).collect();
        outdated.retain(|key, _| open.contains(key));
    }
    outdated
}

/// It waits for the user.
pub(super) fn is_paused(service: &Service) -> bool {
    let status = service.update_status.as_ref();
    status.is_some_and(|status| match status.state {
        UpdateState::Paused | UpdateState::RollbackPaused => true,
        UpdateState::Updating
        | UpdateState::Completed
        | UpdateState::RollbackStarted
        | UpdateState::RollbackCompleted => false,
    })
}

fn is_under_way(draft: &Draft<'_>) -> bool {
    let status = draft.service().update_status.as_ref();
    status.is_some_and(|status| match status.state {
        UpdateState::Updating | UpdateState::RollbackStarted => true,
        UpdateState::Paused
        | UpdateState::Completed
        | UpdateState::RollbackPaused
        | UpdateState::RollbackCompleted => false,
    })
}

fn config(draft: &Draft<'_>, back: bool) -> UpdateConfig {
    let spec = &draft.service().spec;
    if back { spec.rollback } else { spec.update }.unwrap_or_default()
}

/// Pauses or goes back; true when the service's spec is the previous one again.
fn fail(draft: &mut Draft<'_>, config: UpdateConfig, back: bool, task: TaskId) -> bool {
    let because = format!("due to failure or early termination of task {task}");
    if !back && config.on_failure == FailureAction::Rollback && go_back(draft) {
        let message = format!("update rolled back {because}");
        set_status(draft, UpdateState::RollbackStarted, message);
        return true;
    }
    if back {
        set_status(draft, UpdateState::RollbackPaused, format!("rollback paused {because}"));
    } else {
        set_status(draft, UpdateState::Paused, format!("update paused {because}"));
    }
    false
}

/// Makes the previous spec the service's spec; false when there is none or its ports are taken.
fn go_back(draft: &mut Draft<'_>) -> bool {
    let service = draft.service();
    let Some(spec) = service.previous_spec.clone() else { return false };
    let Ok(ports) = allocator::ports(draft.store, &spec, service.id, &service.ports) else {
        return false;
    };
    let index = draft.index;
    let service = draft.service_mut();
    service.spec = *spec;
    service.previous_spec = None;
    service.ports = ports;
    service.spec_version = index;
    true
}

fn complete(draft: &mut Draft<'_>, back: bool) {
    let (state, message) = if back {
        (UpdateState::RollbackCompleted, "rollback completed")
    } else {
        (UpdateState::Completed, "update completed")
    };
    set_status(draft, state, message.to_owned());
}

fn set_status(draft: &mut Draft<'_>, state: UpdateState, message: String) {
    let wall = draft.now.wall;
    let service = draft.service_mut();
    let begins = matches!(state, UpdateState::Updating | UpdateState::RollbackStarted);
    let ends = matches!(state, UpdateState::Completed | UpdateState::RollbackCompleted);
    let old = service.update_status.as_ref().and_then(|status| status.started);
    let started = if begins { Some(wall) } else { old };
    let completed = ends.then_some(wall);
    service.update_status = Some(UpdateStatus { state, started, completed, message });
}
