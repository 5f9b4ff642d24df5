//! How an entry changes the store: all of it or nothing, the same on every manager.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Lease, Store};
use crate::base::id::{ServiceId, TaskId};
use crate::base::time::Wall;
use crate::model::cluster::Cluster;
use crate::model::entry::{Change, Entry, Precondition};
use crate::model::network::Network;
use crate::model::node::Node;
use crate::model::object::{Meta, Object, ObjectId};
use crate::model::payload::{Config, Secret};
use crate::model::resource::Resource;
use crate::model::service::Service;
use crate::model::task::{Address, Task};

/// What became of an entry. Kept as the answer to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApplyResult {
    /// It was applied.
    Done,
    /// It was applied and made this service.
    Created(ServiceId),
    /// A precondition did not hold: nothing was changed.
    Stale,
}

/// What one entry did to a store, to be done to another one that is to follow it.
#[derive(Clone, Debug)]
pub struct Applied {
    /// For whoever asked.
    pub result: ApplyResult,
    /// Writes in order.
    pub effects: Vec<Effect>,
}

/// One write as it was done, version and times included.
#[derive(Clone, Debug)]
pub enum Effect {
    /// The cluster was written.
    Cluster(Arc<Cluster>),
    /// A node was.
    Node(Arc<Node>),
    /// A network was.
    Network(Arc<Network>),
    /// A service was.
    Service(Arc<Service>),
    /// A task was.
    Task(Arc<Task>),
    /// A secret was.
    Secret(Arc<Secret>),
    /// A config was.
    Config(Arc<Config>),
    /// A resource was.
    Resource(Arc<Resource>),
    /// An object was removed.
    Remove(ObjectId),
}

impl Store {
    /// Applies the entry at `index`, which must be the one after [`Store::index`].
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Applied {
        debug_assert_eq!(index, self.index + 1, "entries are applied in order");
        let repeated = self.answer(entry.request);
        let applied = match repeated {
            Some(result) => Applied { result, effects: Vec::new() },
            None if !self.holds(&entry.preconditions) => {
                Applied { result: ApplyResult::Stale, effects: Vec::new() }
            }
            None => self.change(index, entry),
        };
        self.index = index;
        self.answers.note(entry.request, applied.result);
        applied
    }

    /// Follows another store that applied the entry at `index`.
    pub fn install(&mut self, index: u64, entry: &Entry, applied: &Applied) {
        debug_assert_eq!(index, self.index + 1, "entries are applied in order");
        for effect in &applied.effects {
            self.write(effect);
        }
        self.index = index;
        self.answers.note(entry.request, applied.result);
    }

    fn holds(&self, preconditions: &[Precondition]) -> bool {
        preconditions.iter().all(|precondition| match precondition {
            Precondition::Version(id, version) => self.version(*id) == Some(*version),
            Precondition::Absent(id) => self.version(*id).is_none(),
        })
    }

    fn change(&mut self, index: u64, entry: &Entry) -> Applied {
        let mut result = ApplyResult::Done;
        if let Some(Change::Put(Object::Service(service))) = entry.changes.first()
            && !self.services.contains_key(&service.id)
        {
            result = ApplyResult::Created(service.id);
        }
        let mut effects = Vec::with_capacity(entry.changes.len());
        for change in &entry.changes {
            let effect = match change {
                Change::Put(object) => self.resolve(index, entry.time, object.clone()),
                Change::Remove(id) => Effect::Remove(*id),
            };
            self.write(&effect);
            effects.push(effect);
        }
        Applied { result, effects }
    }

    /// The object with version and times.
    fn resolve(&self, index: u64, time: Wall, mut object: Object) -> Effect {
        let id = object.id();
        let created = self.created(id).unwrap_or(time);
        *object.meta_mut() = Meta { version: index, created, updated: time };
        match object {
            Object::Cluster(cluster) => Effect::Cluster(Arc::from(cluster)),
            Object::Node(node) => Effect::Node(Arc::from(node)),
            Object::Network(network) => Effect::Network(Arc::from(network)),
            Object::Service(service) => Effect::Service(Arc::from(service)),
            Object::Task(task) => Effect::Task(Arc::from(task)),
            Object::Secret(secret) => Effect::Secret(Arc::from(secret)),
            Object::Config(config) => Effect::Config(Arc::from(config)),
            Object::Resource(resource) => Effect::Resource(Arc::from(resource)),
        }
    }

    fn created(&self, id: ObjectId) -> Option<Wall> {
        match id {
            ObjectId::Cluster(_) => self.cluster.as_ref().map(|cluster| cluster.meta.created),
            ObjectId::Node(id) => self.nodes.get(&id).map(|node| node.meta.created),
            ObjectId::Network(id) => self.networks.get(&id).map(|network| network.meta.created),
            ObjectId::Service(id) => self.services.get(&id).map(|service| service.meta.created),
            ObjectId::Task(id) => self.tasks.get(&id).map(|task| task.meta.created),
            ObjectId::Secret(id) => self.secrets.get(&id).map(|secret| secret.meta.created),
            ObjectId::Config(id) => self.configs.get(&id).map(|config| config.meta.created),
            ObjectId::Resource(id) => self.resources.get(&id).map(|it| it.meta.created),
        }
    }

    /// Does one write and keeps the indexes.
    pub(super) fn write(&mut self, effect: &Effect) {
        match effect {
            Effect::Cluster(cluster) => self.cluster = Some(Arc::clone(cluster)),
            Effect::Node(node) => {
                self.nodes.insert(node.id, Arc::clone(node));
            }
            Effect::Network(network) => {
                self.networks.insert(network.id, Arc::clone(network));
            }
            Effect::Service(service) => {
                self.forget_service(service.id);
                self.service_names.insert(service.spec.name.clone(), service.id);
                self.hold(&service.vips, Lease::Service(service.id));
                self.services.insert(service.id, Arc::clone(service));
            }
            Effect::Task(task) => self.write_task(task),
            Effect::Secret(secret) => {
                self.secrets.insert(secret.id, Arc::clone(secret));
            }
            Effect::Config(config) => {
                self.configs.insert(config.id, Arc::clone(config));
            }
            Effect::Resource(resource) => {
                self.resources.insert(resource.id, Arc::clone(resource));
            }
            Effect::Remove(id) => match *id {
                ObjectId::Cluster(_) => self.cluster = None,
                ObjectId::Node(id) => {
                    self.nodes.remove(&id);
                }
                ObjectId::Network(id) => {
                    self.networks.remove(&id);
                }
                ObjectId::Service(id) => self.forget_service(id),
                ObjectId::Task(id) => self.forget_task(id),
                ObjectId::Secret(id) => {
                    self.secrets.remove(&id);
                }
                ObjectId::Config(id) => {
                    self.configs.remove(&id);
                }
                ObjectId::Resource(id) => {
                    self.resources.remove(&id);
                }
            },
        }
    }

    fn write_task(&mut self, task: &Arc<Task>) {
        self.forget_task(task.id);
        self.tasks_by_service.insert((task.service, task.id));
        if let Some(node) = task.node {
            self.tasks_by_node.insert((node, task.id));
        }
        self.hold(&task.addresses, Lease::Task(task.id));
        self.tasks.insert(task.id, Arc::clone(task));
    }

    fn forget_task(&mut self, id: TaskId) {
        let Some(old) = self.tasks.remove(&id) else { return };
        self.tasks_by_service.remove(&(old.service, id));
        if let Some(node) = old.node {
            self.tasks_by_node.remove(&(node, id));
        }
        self.free(&old.addresses, Lease::Task(id));
    }

    fn hold(&mut self, addresses: &[Address], holder: Lease) {
        let keys = addresses.iter().map(|address| ((address.network, address.address), holder));
        self.leases.extend(keys);
    }

    fn free(&mut self, addresses: &[Address], holder: Lease) {
        for address in addresses {
            let key = (address.network, address.address);
            if self.leases.get(&key) == Some(&holder) {
                self.leases.remove(&key);
            }
        }
    }

    fn forget_service(&mut self, id: ServiceId) {
        let Some(old) = self.services.remove(&id) else { return };
        self.free(&old.vips, Lease::Service(id));
        if self.service_names.get(&old.spec.name) == Some(&id) {
            self.service_names.remove(&old.spec.name);
        }
    }
}
