//! What is true of the cluster: every entry that a manager held for committed, applied once to a
//! store of the simulator's own, and what must hold of it.

use std::collections::{BTreeMap, BTreeSet};

use skep::base::id::{NodeId, RequestId, ServiceId, TaskId};
use skep::logic::codec;
use skep::logic::raft::io::{Entry, Payload};
use skep::logic::store::{ApplyResult, Effect, Lease, OWN_REQUEST, Store};
use skep::model::object::ObjectId;
use skep::model::service::{Mode, PublishMode, Service, UpdateOrder};
use skep::model::task::{Task, TaskState};

/// Of so many states one is compared between the managers.
const HASH_EACH: u64 = 16;

/// The cluster as the simulator knows it.
#[derive(Default)]
pub(crate) struct Truth {
    pub store: Store,
    /// Last committed index and its term.
    pub last: (u64, u64),
    /// Terms of the committed entries from index 1, and hashes of what they hold.
    entries: Vec<(u64, u64)>,
    /// Hashes of the store at some indexes.
    hashes: BTreeMap<u64, u64>,
    /// Where each request was applied.
    pub applied: BTreeMap<RequestId, (u64, ApplyResult)>,
    tasks: BTreeMap<TaskId, (TaskState, TaskState)>,
    /// Nodes that were shaky when an entry (index, term) that is not committed was first written.
    proposed: BTreeMap<(u64, u64), BTreeSet<NodeId>>,
    /// Changed since it was looked at.
    pub changed: u64,
}

fn mix(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

fn hash_of(entry: &Entry) -> u64 {
    match &entry.payload {
        Payload::Nothing => 1,
        Payload::Members(members) => mix(2, format!("{members:?}").as_bytes()),
        Payload::Command(data) => mix(3, data),
    }
}

impl Truth {
    /// A manager writes this entry, perhaps the first to do so.
    pub(crate) fn note_proposed(&mut self, entry: &Entry, shaky: &BTreeSet<NodeId>) {
        if entry.index > self.last.0 {
            self.proposed.entry((entry.index, entry.term)).or_insert_with(|| shaky.clone());
        }
    }

    /// A manager holds this entry for committed. `shaky` tells the nodes that are not, or were not a
    /// moment ago, in a session with the leader.
    pub(crate) fn invariant_committed_entries_never_change(
        &mut self,
        entry: &Entry,
        shaky: &dyn Fn(NodeId) -> bool,
    ) {
        let at = usize::try_from(entry.index).unwrap() - 1;
        let this = (entry.term, hash_of(entry));
        if let Some(known) = self.entries.get(at) {
            let index = entry.index;
            assert_eq!(*known, this, "invariant_committed_entries_never_change: {index}");
            return;
        }
        assert_eq!(at, self.entries.len(), "invariant_committed_in_order: {}", entry.index);
        assert!(entry.term >= self.last.1, "invariant_committed_terms_grow: {}", entry.index);
        self.entries.push(this);
        self.last = (entry.index, entry.term);
        // A disk that stalls may commit late what was decided while a node was away, and what ends
        // that behind it.
        let then = self.proposed.remove(&(entry.index, entry.term)).unwrap_or_default();
        self.proposed.retain(|(index, _), _| *index > entry.index);
        self.apply(entry, &|node| then.contains(&node) || shaky(node));
        if entry.index.is_multiple_of(HASH_EACH) {
            self.hashes.insert(entry.index, self.store.hash());
        }
    }

    fn apply(&mut self, entry: &Entry, shaky: &dyn Fn(NodeId) -> bool) {
        let Payload::Command(data) = &entry.payload else {
            self.store.skip(entry.index);
            return;
        };
        let decoded = codec::decode_entry(data).expect("a committed entry can be read");
        let before = self.store.clone();
        let known = self.store.answer(decoded.request);
        let applied = self.store.apply(entry.index, &decoded);
        if decoded.request != OWN_REQUEST {
            self.invariant_a_request_is_applied_once(
                decoded.request,
                entry.index,
                known,
                applied.result,
            );
        }
        self.changed += 1;
        for effect in &applied.effects {
            match effect {
                Effect::Task(task) => {
                    self.invariant_states_only_move_forward(task);
                    self.invariant_leases(task, &before);
                    self.invariant_one_wanted_per_slot(task, shaky);
                }
                Effect::Service(service) => self.invariant_no_port_or_vip_twice(service),
                Effect::Remove(ObjectId::Task(id)) => {
                    self.invariant_no_task_is_lost(*id, &before);
                }
                Effect::Remove(_)
                | Effect::Cluster(_)
                | Effect::Node(_)
                | Effect::Network(_)
                | Effect::Secret(_)
                | Effect::Config(_)
                | Effect::Resource(_) => {}
            }
        }
    }

    fn invariant_a_request_is_applied_once(
        &mut self,
        request: RequestId,
        index: u64,
        known: Option<ApplyResult>,
        result: ApplyResult,
    ) {
        match self.applied.get(&request) {
            Some((_, first)) => {
                assert_eq!(known, Some(*first), "invariant_a_request_is_applied_once: {request:?}");
                assert_eq!(result, *first, "invariant_a_request_is_applied_once: {request:?}");
            }
            None => {
                self.applied.insert(request, (index, result));
            }
        }
    }

    fn invariant_states_only_move_forward(&mut self, task: &Task) {
        let now = (task.desired, task.status.state);
        let before = self.tasks.insert(task.id, now).unwrap_or((TaskState::New, TaskState::New));
        let desired = now.0 >= before.0;
        assert!(
            desired,
            "invariant_desired_state_only_moves_forward: {} {before:?} {now:?}",
            task.id
        );
        let observed = now.1 >= before.1;
        assert!(
            observed,
            "invariant_observed_state_only_moves_forward: {} {before:?} {now:?}",
            task.id
        );
    }

    /// An address belongs to one task or one service.
    fn invariant_leases(&self, task: &Task, before: &Store) {
        for lease in &task.addresses {
            let (network, address) = (lease.network, lease.address);
            if let Some(Lease::Task(other)) = before.lease(network, address)
                && other != task.id
            {
                // One entry may hand an address on: then the other one has let go of it.
                let holds = self.store.task(other).is_some_and(|it| it.addresses.contains(lease));
                let id = task.id;
                assert!(!holds, "invariant_no_address_is_leased_twice: {address} {other} {id}");
            }
            let taken = self.store.services().find(|service| service.vips.contains(lease));
            assert!(taken.is_none(), "invariant_no_vip_is_a_tasks_address: {address}");
        }
    }

    /// In a slot one unfinished, up-to-date task is wanted; two only where one of them was on a node
    /// that was not heard of when that was decided, or a start-first update is under way.
    fn invariant_one_wanted_per_slot(&self, task: &Task, shaky: &dyn Fn(NodeId) -> bool) {
        if !is_wanted(task) {
            return;
        }
        let Some(service) = self.store.service(task.service) else { return };
        let starts_first = [service.spec.update, service.spec.rollback]
            .iter()
            .flatten()
            .any(|config| config.order == UpdateOrder::StartFirst);
        if starts_first || self.is_any_spec_start_first(service) {
            return;
        }
        let same = |other: &&std::sync::Arc<Task>| {
            other.id != task.id && is_wanted(other) && place(service, other) == place(service, task)
        };
        if let Some(other) = self.store.tasks_of_service(task.service).find(same) {
            let excused = [task.node, other.node].into_iter().flatten().any(shaky);
            assert!(excused, "invariant_one_wanted_per_slot: {} and {}", shown(task), shown(other));
        }
    }

    fn is_any_spec_start_first(&self, service: &Service) -> bool {
        let previous = service.previous_spec.as_ref();
        previous.and_then(|spec| spec.update).is_some_and(|it| it.order == UpdateOrder::StartFirst)
    }

    /// No two services publish one port, none has an address of another.
    fn invariant_no_port_or_vip_twice(&self, service: &Service) {
        for other in self.store.services().filter(|other| other.id != service.id) {
            for port in service.ports.iter().filter(|port| port.mode == PublishMode::Ingress) {
                let twice = other.ports.iter().any(|theirs| {
                    theirs.mode == PublishMode::Ingress
                        && (theirs.published, theirs.protocol) == (port.published, port.protocol)
                });
                assert!(!twice, "invariant_no_port_twice: {}", port.published);
            }
            let vip = service.vips.iter().find(|vip| other.vips.contains(vip));
            assert!(vip.is_none(), "invariant_no_vip_twice: {vip:?}");
            assert_ne!(other.spec.name, service.spec.name, "invariant_names_are_unique");
        }
        for vip in &service.vips {
            let lease = self.store.lease(vip.network, vip.address);
            let task = matches!(lease, Some(Lease::Task(_)));
            assert!(!task, "invariant_no_vip_is_a_tasks_address: {vip:?} {lease:?}");
        }
    }

    /// A task's record goes only when it has ended, was told to, or never had a node.
    fn invariant_no_task_is_lost(&self, id: TaskId, before: &Store) {
        let Some(task) = before.task(id) else { return };
        let gone = task.node.is_none_or(|node| self.store.node(node).is_none());
        let ended = task.status.state.is_terminal() || task.desired > TaskState::Running;
        // Before it is assigned no worker knows of it.
        let ended = ended || task.status.state < TaskState::Assigned;
        assert!(gone || ended, "invariant_no_task_is_lost: {}", shown(task));
    }

    /// At one index all managers hold the same.
    pub(crate) fn invariant_same_index_same_state(&self, store: &Store) {
        if let Some(hash) = self.hashes.get(&store.index()) {
            let index = store.index();
            assert_eq!(store.hash(), *hash, "invariant_same_index_same_state: {index}");
        }
    }

    /// In the end, when all have applied the same.
    pub(crate) fn invariant_all_end_the_same(&self, store: &Store) {
        if store.index() == self.store.index() {
            assert_eq!(store.hash(), self.store.hash(), "invariant_same_index_same_state: end");
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// A new leader holds what was committed in earlier terms.
    pub(crate) fn invariant_a_leader_holds_what_was_committed(&self, term: u64, last: u64) {
        let below = self.entries.partition_point(|(of, _)| *of < term) as u64;
        assert!(last >= below, "invariant_a_leader_holds_what_was_committed: {last} of {below}");
    }
}

/// A task in a line.
fn shown(task: &Task) -> String {
    format!(
        "{}.{} {} on {:?} of spec {} wanted {:?} is {:?}",
        task.service_name,
        task.slot,
        task.id,
        task.node,
        task.spec_version,
        task.desired,
        task.status.state
    )
}

/// It is wanted running and may still do so.
pub(crate) fn is_wanted(task: &Task) -> bool {
    task.desired == TaskState::Running && !task.status.state.is_terminal()
}

/// A task's place in its service: its slot, or its node.
pub(crate) fn place(service: &Service, task: &Task) -> (ServiceId, u64, Option<NodeId>) {
    match service.spec.mode {
        Mode::Replicated { .. } | Mode::ReplicatedJob { .. } => (service.id, task.slot, None),
        Mode::Global | Mode::GlobalJob => (service.id, 0, task.node),
    }
}
