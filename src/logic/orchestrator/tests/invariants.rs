//! What holds after each look, whatever happened.

use std::collections::BTreeMap;

use super::{Lab, SERVICE};
use crate::base::id::NodeId;
use crate::logic::orchestrator::{jobs, restart};
use crate::logic::store::Lease;
use crate::model::node::NodeState;
use crate::model::service::{Mode, OnDisconnect, RestartCondition, UpdateOrder};
use crate::model::task::{LEASE, Task, TaskState};

impl Lab {
    fn is(&self, task: &Task, states: &[NodeState]) -> bool {
        let node = task.node.filter(|_| task.status.state >= TaskState::Assigned);
        let state = |id| self.states.get(&id).copied().unwrap_or(NodeState::Unknown);
        node.is_some_and(|id| states.contains(&state(id)))
    }

    fn in_slots(&self) -> BTreeMap<(u64, Option<NodeId>), Vec<&Task>> {
        let mut slots: BTreeMap<_, Vec<&Task>> = BTreeMap::new();
        let Some(service) = self.store.service(SERVICE) else { return slots };
        for task in self.store.tasks() {
            let node = task.node.filter(|_| service.spec.mode.is_global());
            slots.entry((task.slot, node)).or_default().push(task.as_ref());
        }
        slots
    }

    /// The rule of [`super::nodes`].
    pub(super) fn invariant_one_task_holds_a_slot(&self) {
        let Some(service) = self.store.service(SERVICE) else { return };
        let configs = [service.spec.update, service.spec.rollback];
        let first = configs.iter().flatten().any(|it| it.order == UpdateOrder::StartFirst);
        for (slot, tasks) in self.in_slots() {
            let active = || tasks.iter().filter(|task| task.is_active());
            let fresh = || active().filter(|task| !task.is_outdated(service));
            let away = |task: &&&Task| self.is(task, &[NodeState::Unknown, NodeState::Down]);
            let moves = self.memory.moving.values();
            let moves = moves.filter(|id| active().any(|task| task.id == **id)).count();
            let here = fresh().filter(|task| !away(task)).count() - moves;
            let old = active().filter(|task| task.is_outdated(service)).count();
            assert!(here <= 1, "{here} wanted in slot {slot:?}: {tasks:#?}");
            assert!(fresh().count() <= 2, "too many wanted in slot {slot:?}: {tasks:#?}");
            let both = old + fresh().count().min(1);
            assert!(both <= 1 || (first && old <= 1), "old and new in slot {slot:?}: {tasks:#?}");
            let lost = active().filter(|task| self.is(task, &[NodeState::Down])).count();
            let moves = !service.spec.mode.is_global() && fresh().count() > 0;
            let stays = service.spec.task.restart.condition == RestartCondition::None;
            let given_up = tasks.iter().any(|task| restart::ended_by_itself(task));
            assert!(
                lost == 0 || !moves || stays || fresh().count() > lost || given_up,
                "a lost task is not replaced in slot {slot:?}: {tasks:#?}"
            );
        }
    }

    pub(super) fn invariant_addresses_are_leased(&self) {
        for task in self.store.tasks() {
            for lease in &task.addresses {
                let holder = self.store.lease(lease.network, lease.address);
                assert_eq!(holder, Some(Lease::Task(task.id)));
            }
        }
    }

    /// The rule of [`super::jobs`], and nothing runs where the run has completed.
    pub(super) fn invariant_jobs_are_bounded(&self) {
        let Some(service) = self.store.service(SERVICE) else { return };
        let Mode::ReplicatedJob { max_concurrent, total } = service.spec.mode else { return };
        let mut busy = 0;
        for ((slot, _), tasks) in self.in_slots() {
            let active = tasks.iter().any(|task| task.is_active());
            let of_run = |task: &&&Task| jobs::is_of_run(task, service);
            let mut done = tasks.iter().filter(of_run).map(|task| task.status.state);
            assert!(!active || slot < total, "slot {slot} of {total}");
            assert!(!active || !done.any(|state| state == TaskState::Complete), "{tasks:#?}");
            busy += u64::from(active);
        }
        assert!(busy <= max_concurrent, "{busy} of {max_concurrent} run");
    }

    /// Two tasks that their workers stop when they are cut off never run at once.
    pub(super) fn invariant_one_runs_with_a_lease(&self, starts: &Task) {
        if starts.spec.on_disconnect == OnDisconnect::Keep {
            return;
        }
        for other in self.store.tasks().filter(|it| it.slot == starts.slot && it.id != starts.id) {
            let state = other.status.state;
            let same = starts.slot != 0 || other.node == starts.node;
            let began = state >= TaskState::Starting && !state.is_terminal();
            let keeps = other.spec.on_disconnect == OnDisconnect::Keep;
            if !same || !began || keeps || self.dead.contains(&other.id) {
                continue;
            }
            let down = other.node.and_then(|node| self.down.get(&node));
            assert!(
                down.is_some_and(|since| self.now >= *since + LEASE),
                "two run: {starts:#?} {other:#?}"
            );
        }
    }
}
