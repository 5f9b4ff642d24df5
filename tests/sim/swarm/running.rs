//! What must hold of the containers that run, on all machines together, whatever the managers
//! believe.

use std::collections::{BTreeMap, BTreeSet};

use skep::base::id::{ServiceId, TaskId};
use skep::base::time::Time;
use skep::model::service::{OnDisconnect, UpdateOrder};
use skep::model::task::{Address, Task, TaskState};

use super::truth::place;
use super::{HEALED, World};

/// The containers that run.
#[derive(Debug, Default)]
pub(crate) struct Running {
    /// Machine and task of each, as its machine has it.
    all: BTreeMap<TaskId, (usize, Task)>,
    /// What was looked at last: changes of containers, and of the cluster.
    changes: u64,
    looked: (u64, u64),
    /// Slots with two that are still excused, looked at again until they are not.
    doubled: BTreeMap<(ServiceId, u64), Time>,
}

impl World {
    /// Something was done to a machine's containers.
    pub(super) fn note_running(&mut self, machine: usize) {
        let running = &mut self.running;
        running.all.retain(|_, (of, _)| *of != machine);
        for (id, task) in self.machines[machine].host.running() {
            running.all.insert(id, (machine, task.clone()));
        }
        running.changes += 1;
        self.invariant_no_two_containers_share_an_address();
    }

    fn invariant_no_two_containers_share_an_address(&self) {
        let mut taken: BTreeMap<(u128, u32), TaskId> = BTreeMap::new();
        for (id, (machine, task)) in &self.running.all {
            // A node that was removed, or is no more, may still run what it is not asked for.
            let node = self.machines[*machine].id;
            if self.truth.store.node(node).is_none() {
                continue;
            }
            for Address { network, address } in &task.addresses {
                let other = taken.insert((network.0.0, u32::from(*address)), *id);
                assert!(
                    other.is_none(),
                    "invariant_no_two_containers_share_an_address: {address} {other:?} {id}"
                );
            }
        }
    }

    /// Two containers run in a slot only while one of their machines is cut off from the leader, or
    /// was a moment ago; never with `on-disconnect=stop`.
    pub(super) fn invariant_one_container_runs_in_a_slot(&mut self) {
        let this = (self.running.changes, self.truth.changed);
        if self.running.looked == this && self.running.doubled.is_empty() {
            return;
        }
        self.running.looked = this;
        let mut slots: BTreeMap<(ServiceId, u64, Option<u128>), Vec<TaskId>> = BTreeMap::new();
        for (id, (_, task)) in &self.running.all {
            let Some(service) = self.truth.store.service(task.service) else { continue };
            let starts_first = [service.spec.update, service.spec.rollback]
                .into_iter()
                .chain([service.previous_spec.as_ref().and_then(|spec| spec.update)])
                .flatten()
                .any(|config| config.order == UpdateOrder::StartFirst);
            if starts_first {
                continue;
            }
            let (service, slot, node) = place(service, task);
            slots.entry((service, slot, node.map(|node| node.0.0))).or_default().push(*id);
        }
        let mut doubled = BTreeSet::new();
        for ((service, slot, _), ids) in slots {
            let all: Vec<_> = ids.iter().map(|id| &self.running.all[id]).collect();
            if all.len() < 2 {
                continue;
            }
            let stops = all.iter().all(|(_, task)| task.spec.on_disconnect == OnDisconnect::Stop);
            let alive = all.iter().all(|(machine, _)| self.daemon_could_stop(*machine));
            let removed = ids.iter().any(|id| !self.is_of_a_living_slot(*id));
            assert!(
                !stops || !alive || removed,
                "invariant_never_two_with_on_disconnect_stop: {}",
                self.doubles(&ids)
            );
            // One that is told to stop has its grace for it.
            let wanted = ids.iter().filter(|id| self.is_wanted_to_run(**id)).count();
            let excused = all.iter().any(|(machine, _)| self.is_excused(*machine));
            if wanted > 1 {
                doubled.insert((service, slot));
                assert!(excused, "invariant_one_container_runs_in_a_slot: {}", self.doubles(&ids));
            }
        }
        let now = self.now;
        self.running.doubled.retain(|key, _| doubled.contains(key));
        for key in doubled {
            self.running.doubled.entry(key).or_insert(now);
        }
    }

    /// The worker's daemon has run for long enough to end what its lease did not cover. A daemon that
    /// is dead or frozen ends nothing: the promise of `on-disconnect=stop` is its own.
    fn daemon_could_stop(&self, machine: usize) -> bool {
        let it = &self.machines[machine];
        let lease = skep::model::task::LEASE + skep::model::task::LEASE_MARGIN;
        it.is_up() && self.now.since(it.running_since) > lease
    }

    /// Its slot was not taken away: a service that is scaled down and up makes a new task while the
    /// one before still stops.
    fn is_of_a_living_slot(&self, id: TaskId) -> bool {
        self.truth.store.task(id).is_some_and(|task| task.desired < TaskState::Remove)
    }

    /// The machine has no session with the leader, or has not had it for long.
    fn is_excused(&self, machine: usize) -> bool {
        self.session_for(machine).is_none_or(|span| span < HEALED)
    }

    /// Whether the cluster wants this one to run; of one that it does not know its worker says so.
    fn is_wanted_to_run(&self, id: TaskId) -> bool {
        let signalled = || {
            let machine = self.running.all.get(&id).map(|(machine, _)| *machine);
            machine.is_some_and(|it| self.machines[it].host.signalled.contains(&id))
        };
        match self.truth.store.task(id) {
            Some(task) => task.desired == TaskState::Running,
            None => !signalled(),
        }
    }

    fn doubles(&self, ids: &[TaskId]) -> String {
        let one = |id: &TaskId| {
            let (machine, task) = &self.running.all[id];
            let stored = self.truth.store.task(*id);
            let stored = stored.map(|task| (task.desired, task.status.state));
            let session = self.session_for(*machine);
            format!(
                "{id} of {}.{} on {machine} (session for {session:?}), stored {stored:?}",
                task.service_name, task.slot
            )
        };
        ids.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    /// Containers that run, for those who wait until all is well.
    pub(super) fn runs(&self, id: TaskId) -> bool {
        self.running.all.contains_key(&id)
    }

    pub(super) fn runs_len(&self) -> usize {
        self.running.all.len()
    }
}
