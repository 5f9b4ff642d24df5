//! A working copy of one service's tasks: reads see the store with the draft's own writes on top.
//!
//! Not here: any decision. A draft that changed nothing gives no changes. Nodes are gone through
//! only when a task needs one; what is asked of all slots at once is kept until something changes.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::jobs;
use crate::base::id::{NodeId, ServiceId, TaskId};
use crate::base::rng::Rng;
use crate::base::time::{Now, Span, Time, Wall};
use crate::logic::allocator::{self, Picker};
use crate::logic::scheduler::constraint::Constraint;
use crate::logic::scheduler::{self, Nodes, Overlay};
use crate::logic::store::Store;
use crate::model::entry::Change;
use crate::model::node::{Node, NodeState};
use crate::model::object::{Meta, Object, ObjectId};
use crate::model::service::{Mode, Service};
use crate::model::task::{Task, TaskState, TaskStatus};

/// One place for a task of a service: a slot number, or a node in a global service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SlotKey {
    /// Of a replicated service.
    Slot(u64),
    /// Of a global service.
    Node(NodeId),
}

/// The tasks of the service by place, oldest first.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Without those that are to be removed.
    pub(super) held: BTreeMap<SlotKey, Vec<TaskId>>,
    /// Those that are to be removed and have not ended.
    pub(super) leaving: BTreeMap<SlotKey, Vec<TaskId>>,
}

/// The working copy.
#[derive(Debug)]
pub struct Draft<'a> {
    pub(super) store: &'a Store,
    pub(super) now: Now,
    table: &'a Nodes,
    last_heard: Option<&'a BTreeMap<NodeId, Time>>,
    rng: &'a mut Rng,
    /// Index of the entry that the draft becomes.
    pub(super) index: u64,
    /// `None`: removed.
    tasks: BTreeMap<TaskId, Option<Task>>,
    service: Option<Service>,
    nodes: Option<Overlay<'a>>,
    picker: Picker,
    /// Until a task is changed.
    slots: Option<Rc<Slots>>,
}

impl<'a> Draft<'a> {
    /// Nothing changed yet. The nodes follow the store.
    pub fn new(store: &'a Store, nodes: &'a Nodes, rng: &'a mut Rng, now: Now) -> Self {
        Self {
            store,
            now,
            table: nodes,
            last_heard: None,
            rng,
            index: store.index() + 1,
            tasks: BTreeMap::new(),
            service: None,
            nodes: None,
            picker: Picker::default(),
            slots: None,
        }
    }

    /// When each node was last heard of. For one that is not in it, or without this, the time when
    /// it was first seen to be down counts: that is later, so it is safe, too.
    #[must_use]
    pub const fn with_last_heard(mut self, last_heard: &'a BTreeMap<NodeId, Time>) -> Self {
        self.last_heard = Some(last_heard);
        self
    }

    pub(super) fn last_heard(&self, node: NodeId) -> Option<Time> {
        self.last_heard.and_then(|heard| heard.get(&node).copied())
    }

    /// Whether a node is heard of.
    pub(super) fn state(&self, node: NodeId) -> NodeState {
        self.table.state(node)
    }

    /// Whether the task's node is known to be gone.
    pub(super) fn is_lost(&self, task: &Task) -> bool {
        let placed = task.status.state >= TaskState::Assigned;
        placed && task.node.is_some_and(|node| self.state(node) == NodeState::Down)
    }

    pub(super) fn set_service(&mut self, service: Service) {
        self.service = Some(service);
    }

    /// The service that is worked on.
    pub(super) fn service(&self) -> &Service {
        self.service.as_ref().expect("reconcile sets the service first")
    }

    pub(super) fn service_mut(&mut self) -> &mut Service {
        self.service.as_mut().expect("reconcile sets the service first")
    }

    /// A task as the draft has it.
    #[must_use]
    pub fn task(&self, id: TaskId) -> Option<&Task> {
        match self.tasks.get(&id) {
            Some(own) => own.as_ref(),
            None => self.store.task(id).map(AsRef::as_ref),
        }
    }

    /// A task to be changed.
    pub fn edit(&mut self, id: TaskId) -> Option<&mut Task> {
        let store = self.store;
        self.slots = None;
        self.tasks
            .entry(id)
            .or_insert_with(|| store.task(id).map(|task| task.as_ref().clone()))
            .as_mut()
    }

    /// Sets how far a task may go; it never goes back.
    pub(super) fn want(&mut self, id: TaskId, desired: TaskState) {
        if self.task(id).is_some_and(|task| task.desired < desired)
            && let Some(task) = self.edit(id)
        {
            task.desired = desired;
        }
    }

    /// Whether the service wants another task than this one, or has it elsewhere: another placement
    /// alone makes a task outdated only where its node does not fulfil it (swarmkit
    /// `orchestrator.IsTaskDirty`).
    pub(super) fn is_outdated(&self, task: &Task) -> bool {
        let service = self.service();
        let wanted = &service.spec.task.placement.constraints;
        if task.is_outdated(service) {
            return true;
        }
        let placed = task.status.state >= TaskState::Assigned;
        // A global service looks at the constraints of each node by itself.
        if !placed || service.spec.mode.is_global() || &task.spec.placement.constraints == wanted {
            return false;
        }
        let node = task.node.and_then(|node| self.store.node(node));
        node.is_some_and(|node| !fulfils(node, wanted))
    }

    /// How far a task of the service may go by itself.
    pub(super) fn furthest(&self) -> TaskState {
        if self.service().spec.mode.is_job() { TaskState::Complete } else { TaskState::Running }
    }

    /// Puts a task in, whole.
    pub(super) fn insert(&mut self, task: Task) {
        self.put(task.id, Some(task));
    }

    /// Takes a task out of the store.
    pub(super) fn remove(&mut self, id: TaskId) {
        self.put(id, None);
    }

    fn put(&mut self, id: TaskId, task: Option<Task>) {
        self.slots = None;
        self.tasks.insert(id, task);
    }

    /// Ids of a service's tasks.
    pub(super) fn tasks_of(&self, service: ServiceId) -> Vec<TaskId> {
        let stored = self.store.tasks_of_service(service).map(|task| task.id);
        if self.tasks.is_empty() {
            return stored.collect();
        }
        let own = self.tasks.values().flatten().filter(|task| task.service == service);
        let mut ids: Vec<TaskId> = stored.chain(own.map(|task| task.id)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| self.task(*id).is_some());
        ids
    }

    /// The service's tasks by slot.
    pub(super) fn slots(&mut self) -> Rc<Slots> {
        if let Some(slots) = &self.slots {
            return Rc::clone(slots);
        }
        let mut slots = Slots::default();
        for id in self.tasks_of(self.service().id) {
            let Some(task) = self.task(id) else { continue };
            let removed = task.desired == TaskState::Remove;
            if removed && task.status.state.is_terminal() {
                continue;
            }
            let key = match (self.service().spec.mode, task.node) {
                (Mode::Global | Mode::GlobalJob, Some(node)) => SlotKey::Node(node),
                (Mode::Global | Mode::GlobalJob, None)
                | (Mode::Replicated { .. } | Mode::ReplicatedJob { .. }, _) => {
                    SlotKey::Slot(task.slot)
                }
            };
            let of = if removed { &mut slots.leaving } else { &mut slots.held };
            of.entry(key).or_default().push(id);
        }
        for ids in slots.held.values_mut().filter(|ids| ids.len() > 1) {
            ids.sort_by_key(|id| self.task(*id).map(age));
        }
        Rc::clone(self.slots.insert(Rc::new(slots)))
    }

    /// A new task of the service in a slot. With a delay it waits in `Ready`.
    pub(super) fn create(&mut self, key: SlotKey, desired: TaskState, delay: Span) -> TaskId {
        let task = self.new_task(key, desired, delay);
        let id = task.id;
        self.put(id, Some(task));
        id
    }

    /// The same, not in the draft.
    pub(super) fn new_task(&mut self, key: SlotKey, desired: TaskState, delay: Span) -> Task {
        let id = TaskId::new(self.rng.next_u128());
        let (wall, service) = (self.now.wall, self.service());
        let (slot, node) = match key {
            SlotKey::Slot(slot) => (slot, None),
            SlotKey::Node(node) => (0, Some(node)),
        };
        Task {
            id,
            meta: Meta { version: 0, created: wall, updated: wall },
            service: service.id,
            service_name: service.spec.name.clone(),
            slot,
            node,
            spec: service.spec.task.clone(),
            spec_version: service.spec_version,
            service_labels: service.spec.labels.clone(),
            ports: service.ports.clone(),
            addresses: Vec::new(),
            desired,
            status: status(TaskState::New, wall, "created"),
            job_iteration: jobs::iteration(service),
            not_before: (delay > Span::ZERO).then(|| Wall(wall.0.saturating_add(delay.0))),
            generic: Vec::new(),
            adopted_from: None,
        }
    }

    /// The nodes with the draft's tasks on them, as they were when this was first asked, or tasks
    /// were placed.
    pub(super) fn nodes(&mut self) -> &mut Overlay<'a> {
        let (table, tasks, wall) = (self.table, &self.tasks, self.now.wall);
        self.nodes.get_or_insert_with(|| {
            let mut nodes = Overlay::new(table, wall);
            for (id, task) in tasks {
                match task {
                    Some(task) => nodes.put(task),
                    None => nodes.take_back(*id),
                }
            }
            nodes
        })
    }

    /// Gives addresses and nodes to the service's tasks that have none; true when one still waits.
    pub(super) fn place_tasks(&mut self) -> bool {
        let slots = self.slots();
        let all = || slots.held.values().flatten().copied();
        let waiting = |task: &Task| task.status.state < TaskState::Assigned && task.is_wanted();
        let mut ids: Vec<TaskId> = all().filter(|id| self.task(*id).is_some_and(waiting)).collect();
        ids.sort_by_key(|id| self.task(*id).map(age));
        if let Err(err) = self.lease_vips() {
            for id in &ids {
                self.wait(*id, TaskState::New, "created", err.clone());
            }
            return true;
        }
        if ids.is_empty() {
            return false;
        }
        let mut homes: BTreeMap<u64, NodeId> = BTreeMap::new();
        if scheduler::stays_at_home(&self.service().spec.task) {
            let tasks = all().filter_map(|id| self.task(id));
            homes.extend(tasks.filter_map(|task| Some((task.slot, task.node?))));
        }
        // Desired states have changed since the nodes were last counted.
        self.nodes = None;
        let mut waits = false;
        for id in ids {
            waits |= !self.place(id, &homes);
        }
        waits
    }

    /// The service's virtual addresses, one for each network that it is on.
    fn lease_vips(&mut self) -> Result<(), String> {
        let mut picker = self.picker.clone();
        let vips = allocator::vips(self.store, &mut picker, self.service());
        let vips = vips.map_err(|error| error.to_string())?;
        self.picker = picker;
        if self.service().vips != vips {
            self.service_mut().vips = vips;
        }
        Ok(())
    }

    fn place(&mut self, id: TaskId, homes: &BTreeMap<u64, NodeId>) -> bool {
        let Some(mut task) = self.task(id).cloned() else { return true };
        let wall = self.now.wall;
        if let Err(error) = allocator::addresses(self.store, &mut self.picker, &mut task) {
            self.wait(id, TaskState::New, "created", error.to_string());
            return false;
        }
        let placed = match task.node {
            Some(node) => {
                let placed = self.nodes().confirm(node, &mut task);
                placed.map(|_| scheduler::MESSAGE_CONFIRMED)
            }
            None => {
                let home = homes.get(&task.slot).copied();
                let placed = self.nodes().place(&mut task, home);
                placed.map(|_| scheduler::MESSAGE_ASSIGNED)
            }
        };
        let ok = placed.is_ok();
        match placed {
            Ok(message) => task.status = status(TaskState::Assigned, wall, message),
            Err(err) => wait(&mut task, TaskState::Pending, scheduler::MESSAGE_PENDING, err, wall),
        }
        self.put(id, Some(task));
        ok
    }

    fn wait(&mut self, id: TaskId, state: TaskState, message: &str, err: String) {
        let wall = self.now.wall;
        if let Some(task) = self.edit(id) {
            wait(task, state, message, err, wall);
        }
    }

    /// Drops the tasks to be removed of which a worker holds nothing but perhaps a log, and those
    /// that no worker was told of and that are not wanted any more.
    pub(super) fn finish_removed(&mut self, service: ServiceId) {
        for id in self.tasks_of(service) {
            let gone = self.task(id).is_some_and(|task| {
                let ended = task.status.state.is_terminal() && task.addresses.is_empty();
                let unknown = task.status.state < TaskState::Assigned;
                (task.desired == TaskState::Remove && ended) || (!task.is_wanted() && unknown)
            });
            if gone {
                self.remove(id);
            }
        }
    }

    /// Gives a task up whose node will not tell of it any more; what it held is free again.
    pub(super) fn orphan(&mut self, id: TaskId) {
        let wall = self.now.wall;
        let held = |task: &Task| !task.status.state.is_terminal() || !task.addresses.is_empty();
        if !self.task(id).is_some_and(held) {
            return;
        }
        let Some(task) = self.edit(id) else { return };
        task.addresses.clear();
        if !task.status.state.is_terminal() {
            task.status = status(TaskState::Orphaned, wall, &task.status.message);
        }
    }

    /// What is to be written: the service first, then tasks, without what is as it was.
    #[must_use]
    pub fn into_changes(self) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Some(service) = self.service
            && let Some(stored) = self.store.service(service.id)
            && stored.as_ref() != &service
        {
            changes.push(Change::Put(Object::Service(Box::new(service))));
        }
        for (id, task) in self.tasks {
            match (task, self.store.task(id)) {
                (Some(task), Some(stored)) if stored.as_ref() == &task => {}
                (Some(task), _) => changes.push(Change::Put(Object::Task(Box::new(task)))),
                (None, Some(_)) => changes.push(Change::Remove(ObjectId::Task(id))),
                (None, None) => {}
            }
        }
        changes
    }
}

/// Whether the node fulfils all constraints.
pub(super) fn fulfils(node: &Node, constraints: &[String]) -> bool {
    constraints.iter().all(|text| Constraint::parse(text).is_ok_and(|it| it.matches(node)))
}

/// The order in which tasks of a slot were made; those of an older spec are older whatever the
/// wall clock did in between.
fn age(task: &Task) -> (u64, Wall, Option<Wall>) {
    (task.spec_version, task.meta.created, task.not_before)
}

/// Says why a task waits, unless it says so already.
fn wait(task: &mut Task, state: TaskState, message: &str, err: String, wall: Wall) {
    if task.status.state != state || task.status.err != err {
        task.status = status(state, wall, message);
        task.status.err = err;
    }
}

/// A status without anything special.
pub(crate) fn status(state: TaskState, timestamp: Wall, message: &str) -> TaskStatus {
    TaskStatus {
        state,
        timestamp,
        message: message.to_owned(),
        err: String::new(),
        pid: 0,
        exit_code: None,
        ports: Vec::new(),
    }
}
