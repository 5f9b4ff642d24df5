//! Makes a service's tasks what its spec wants: slots, restarts, updates, nodes, history.
//!
//! [`reconcile`] is level-triggered: it looks at what is there, not at what happened, so that a
//! new leader, a refused write or a missed event needs nothing of its own. Its result has no
//! choices left: a list of changes and the time to look again. What must survive a restart of the
//! manager is in the store; [`Memory`] holds only monotonic times that are made anew from it.
//!
//! **Invariant:** outside a start-first update at most one task of a slot is wanted running, but
//! for one on a node that is not heard of: [`nodes`] has the exact rule.

mod adopt;
mod draft;
mod global;
pub mod jobs;
mod nodes;
#[cfg(test)]
mod place_tests;
mod reaper;
mod replicated;
mod restart;
#[cfg(test)]
mod tests;
mod update;
#[cfg(test)]
mod walk_tests;

use std::collections::{BTreeMap, BTreeSet};

pub use self::adopt::{Chain, adopt};
#[cfg(test)]
pub(crate) use self::draft::status;
pub use self::draft::{Draft, SlotKey};
pub use self::nodes::{ORPHAN_AFTER, concerned, move_task, orphan_all};
pub use self::restart::{BACKOFF_MAX, STABLE_AFTER};

use crate::base::id::{ServiceId, TaskId};
use crate::base::time::Time;
use crate::model::service::{Mode, Service};
use crate::model::task::TaskState;

/// What is known of one service besides the store.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// When a task that is wanted `Ready` may be wanted `Running`.
    starts: BTreeMap<TaskId, Time>,
    /// Since when the node of a task is known to be down that its worker stops by itself.
    down: BTreeMap<TaskId, Time>,
    /// Tasks on nodes that are down to which a replacement was made.
    replaced: BTreeSet<TaskId>,
    /// Tasks that were made to move one to another node, and that one.
    moving: BTreeMap<TaskId, TaskId>,
    /// The update under way.
    update: Option<update::Update>,
}

impl Memory {
    /// Forgets the update: it is made anew from the store.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// When to look again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake(Option<Time>);

impl Wake {
    /// Not later than this.
    pub fn at(&mut self, time: Time) {
        self.0 = Some(self.0.map_or(time, |old| old.min(time)));
    }

    /// The time, if there is one.
    #[must_use]
    pub const fn time(self) -> Option<Time> {
        self.0
    }
}

/// What a look at a service gave.
#[derive(Clone, Copy, Debug, Default)]
pub struct Looked {
    /// When to look again even if nothing happens.
    pub wake: Wake,
    /// A task waits for a node or an address: look again when something is freed.
    pub waits: bool,
}

/// Makes the service's tasks what its spec wants, in the draft.
pub fn reconcile(draft: &mut Draft<'_>, service: &Service, memory: &mut Memory) -> Looked {
    let mut looked = Looked::default();
    let wake = &mut looked.wake;
    draft.set_service(service.clone());
    memory.starts.retain(|id, _| draft.task(*id).is_some());
    jobs::end_old_runs(draft);
    nodes::leave(draft);
    nodes::end_moves(draft, memory);
    nodes::settle(draft, memory);
    restart::replace_ended(draft, memory, wake);
    match service.spec.mode {
        Mode::Replicated { replicas } => replicated::scale(draft, replicas),
        Mode::Global => global::spread(draft),
        Mode::ReplicatedJob { max_concurrent, total } => jobs::run(draft, max_concurrent, total),
        Mode::GlobalJob => jobs::run_everywhere(draft),
    }
    if !service.spec.mode.is_job() {
        update::advance(draft, &mut memory.update, wake);
        restart::retry(draft);
    }
    restart::promote(draft, memory, wake);
    looked.waits = draft.place_tasks();
    nodes::end_moves(draft, memory);
    reaper::reap(draft);
    draft.finish_removed(service.id);
    looked
}

/// Takes away the tasks of a service that is no more.
pub fn remove_all(draft: &mut Draft<'_>, service: ServiceId) {
    for id in draft.tasks_of(service) {
        draft.want(id, TaskState::Remove);
        if draft.task(id).is_some_and(|task| nodes::is_gone(draft, task)) {
            draft.orphan(id);
        }
    }
    draft.finish_removed(service);
}
