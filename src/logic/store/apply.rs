//! How an entry changes the store: all of it or nothing, the same on every manager.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Slot, Store, Stored};
use crate::base::id::{ConfigId, NetworkId, ResourceId, SecretId, ServiceId, TaskId};
use crate::base::time::Wall;
use crate::model::cluster::Cluster;
use crate::model::entry::{Change, Entry, Precondition};
use crate::model::network::Network;
use crate::model::node::Node;
use crate::model::object::{Meta, Object, ObjectId};
use crate::model::payload::{Config, Secret};
use crate::model::resource::Resource;
use crate::model::service::Service;
use crate::model::task::Task;

/// What became of an entry. Kept as the answer to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApplyResult {
    /// It was applied.
    Done,
    /// It was applied, and its first change made this object.
    Created(ObjectId),
    /// A precondition did not hold: nothing was changed.
    Stale,
}

impl Applied {
    const fn nothing(result: ApplyResult) -> Self {
        Self { result, effects: Vec::new(), before: Vec::new() }
    }
}

/// What one entry did to a store, to be done to another one that is to follow it.
#[derive(Clone, Debug)]
pub struct Applied {
    /// For whoever asked.
    pub result: ApplyResult,
    /// Writes in order.
    pub effects: Vec<Effect>,
    /// What each of them took the place of.
    pub before: Vec<Option<Stored>>,
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
            Some(result) => Applied::nothing(result),
            None if !self.holds(&entry.preconditions) => Applied::nothing(ApplyResult::Stale),
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
        if let Some(Change::Put(object)) = entry.changes.first()
            && self.get(object.id()).is_none()
        {
            result = ApplyResult::Created(object.id());
        }
        let mut effects = Vec::with_capacity(entry.changes.len());
        let mut before = Vec::with_capacity(entry.changes.len());
        for change in &entry.changes {
            let effect = match change {
                Change::Put(object) => self.resolve(index, entry.time, object.clone()),
                Change::Remove(id) => Effect::Remove(*id),
            };
            before.push(self.write(&effect));
            effects.push(effect);
        }
        Applied { result, effects, before }
    }

    /// The object with version and times.
    fn resolve(&self, index: u64, time: Wall, mut object: Object) -> Effect {
        let id = object.id();
        let created = self.get(id).map_or(time, |old| old.meta().created);
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

    /// Does one write, keeps the indexes and hands back what was there.
    pub(super) fn write(&mut self, effect: &Effect) -> Option<Stored> {
        match effect {
            Effect::Cluster(cluster) => {
                self.cluster.replace(Arc::clone(cluster)).map(Stored::Cluster)
            }
            Effect::Node(node) => self.nodes.insert(node.id, Arc::clone(node)).map(Stored::Node),
            Effect::Network(network) => {
                let old = self.forget_network(network.id);
                self.indexes.network_names.insert(network.name.clone(), network.id);
                self.networks.insert(network.id, Arc::clone(network));
                old
            }
            Effect::Service(service) => self.write_service(service),
            Effect::Task(task) => self.write_task(task),
            Effect::Secret(secret) => {
                let old = self.forget_secret(secret.id);
                self.indexes.secret_names.insert(secret.name.clone(), secret.id);
                self.secrets.insert(secret.id, Arc::clone(secret));
                old
            }
            Effect::Config(config) => {
                let old = self.forget_config(config.id);
                self.indexes.config_names.insert(config.name.clone(), config.id);
                self.configs.insert(config.id, Arc::clone(config));
                old
            }
            Effect::Resource(resource) => {
                let old = self.forget_resource(resource.id);
                let key = (resource.kind.clone(), resource.name.clone());
                self.indexes.resource_names.insert(key, resource.id);
                self.resources.insert(resource.id, Arc::clone(resource));
                old
            }
            Effect::Remove(id) => self.forget(*id),
        }
    }

    fn write_service(&mut self, service: &Arc<Service>) -> Option<Stored> {
        let old = self.forget_service(service.id);
        self.indexes.service_names.insert(service.spec.name.clone(), service.id);
        for used in uses(service) {
            self.indexes.users.insert(used, service.id);
        }
        self.services.insert(service.id, Arc::clone(service));
        old
    }

    fn write_task(&mut self, task: &Arc<Task>) -> Option<Stored> {
        let old = self.forget_task(task.id);
        self.indexes.tasks_by_service.insert(task.service, task.id);
        self.indexes.tasks_by_slot.insert(slot(task), task.id);
        if let Some(node) = task.node {
            self.indexes.tasks_by_node.insert(node, task.id);
        }
        for lease in &task.addresses {
            self.indexes.leases.insert((lease.network, lease.address), task.id);
        }
        self.tasks.insert(task.id, Arc::clone(task));
        old
    }

    fn forget(&mut self, id: ObjectId) -> Option<Stored> {
        match id {
            ObjectId::Cluster(id) => {
                self.cluster.take_if(|cluster| cluster.id == id).map(Stored::Cluster)
            }
            ObjectId::Node(id) => self.nodes.remove(&id).map(Stored::Node),
            ObjectId::Network(id) => self.forget_network(id),
            ObjectId::Service(id) => self.forget_service(id),
            ObjectId::Task(id) => self.forget_task(id),
            ObjectId::Secret(id) => self.forget_secret(id),
            ObjectId::Config(id) => self.forget_config(id),
            ObjectId::Resource(id) => self.forget_resource(id),
        }
    }

    fn forget_network(&mut self, id: NetworkId) -> Option<Stored> {
        let old = self.networks.remove(&id)?;
        self.indexes.network_names.remove(&old.name, id);
        Some(Stored::Network(old))
    }

    fn forget_service(&mut self, id: ServiceId) -> Option<Stored> {
        let old = self.services.remove(&id)?;
        self.indexes.service_names.remove(&old.spec.name, id);
        for used in uses(&old) {
            self.indexes.users.remove(&used, id);
        }
        Some(Stored::Service(old))
    }

    fn forget_task(&mut self, id: TaskId) -> Option<Stored> {
        let old = self.tasks.remove(&id)?;
        self.indexes.tasks_by_service.remove(&old.service, id);
        self.indexes.tasks_by_slot.remove(&slot(&old), id);
        if let Some(node) = old.node {
            self.indexes.tasks_by_node.remove(&node, id);
        }
        for lease in &old.addresses {
            let key = (lease.network, lease.address);
            if self.indexes.leases.get(&key) == Some(&id) {
                self.indexes.leases.remove(&key);
            }
        }
        Some(Stored::Task(old))
    }

    fn forget_secret(&mut self, id: SecretId) -> Option<Stored> {
        let old = self.secrets.remove(&id)?;
        self.indexes.secret_names.remove(&old.name, id);
        Some(Stored::Secret(old))
    }

    fn forget_config(&mut self, id: ConfigId) -> Option<Stored> {
        let old = self.configs.remove(&id)?;
        self.indexes.config_names.remove(&old.name, id);
        Some(Stored::Config(old))
    }

    fn forget_resource(&mut self, id: ResourceId) -> Option<Stored> {
        let old = self.resources.remove(&id)?;
        self.indexes.resource_names.remove(&(old.kind.clone(), old.name.clone()), id);
        Some(Stored::Resource(old))
    }
}

/// What a service's spec names.
fn uses(service: &Service) -> impl Iterator<Item = ObjectId> {
    let task = &service.spec.task;
    let networks = task.networks.iter().map(|it| ObjectId::Network(it.network));
    let secrets = task.container.secrets.iter().map(|it| ObjectId::Secret(it.id));
    let configs = task.container.configs.iter().map(|it| ObjectId::Config(it.id));
    networks.chain(secrets).chain(configs)
}

/// Where it is among its service's tasks.
fn slot(task: &Task) -> Slot {
    (task.service, task.slot, task.node.filter(|_| task.slot == 0))
}
