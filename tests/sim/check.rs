//! What must hold after every event.

use std::collections::BTreeMap;

use skep::base::id::TaskId;
use skep::logic::store::Store;
use skep::model::task::{Task, TaskState};

/// What was seen before.
#[derive(Default)]
pub(crate) struct Seen {
    tasks: BTreeMap<TaskId, (TaskState, TaskState)>,
    /// The durable state as it was seen last.
    last: Store,
}

impl Seen {
    /// The durable state may have grown, or was `recovered`.
    pub(crate) fn check(&mut self, store: &Store, recovered: bool) {
        assert!(store.index() >= self.last.index(), "invariant: what is durable is not lost");
        if recovered && store.index() == self.last.index() {
            let same = store.hash() == self.last.hash();
            assert!(same, "invariant: the same index is the same state");
        }
        if store.index() == self.last.index() {
            return;
        }
        self.last = store.clone();
        self.invariant_states_only_grow(store);
        invariant_one_wanted_per_slot(store);
        invariant_addresses_are_leased_once(store);
    }

    fn invariant_states_only_grow(&mut self, store: &Store) {
        for task in store.tasks() {
            let now = (task.desired, task.status.state);
            let before =
                self.tasks.insert(task.id, now).unwrap_or((TaskState::New, TaskState::New));
            assert!(now.0 >= before.0 && now.1 >= before.1, "{}: {before:?} {now:?}", task.id);
        }
        self.tasks.retain(|id, _| store.task(*id).is_some());
    }
}

fn invariant_one_wanted_per_slot(store: &Store) {
    let mut slots: BTreeMap<_, &Task> = BTreeMap::new();
    for task in store.tasks() {
        let wanted = task.desired == TaskState::Running && !task.status.state.is_terminal();
        if !wanted {
            continue;
        }
        let other = slots.insert((task.service, task.slot), task);
        assert!(
            other.is_none(),
            "two tasks are wanted in slot {}: {other:#?} {task:#?}",
            task.slot
        );
    }
}

fn invariant_addresses_are_leased_once(store: &Store) {
    let mut leases = BTreeMap::new();
    for task in store.tasks() {
        for lease in &task.addresses {
            let other = leases.insert((lease.network, lease.address), task.id);
            assert!(other.is_none(), "{} is leased to {other:?} and {}", lease.address, task.id);
        }
    }
}
