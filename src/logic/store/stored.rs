//! One object of the store, of whatever kind, shared.

use std::sync::Arc;

use serde::Serialize;

use super::{Effect, Store};
use crate::model::cluster::Cluster;
use crate::model::network::Network;
use crate::model::node::Node;
use crate::model::object::{Meta, ObjectId};
use crate::model::payload::{Config, Secret};
use crate::model::resource::Resource;
use crate::model::service::Service;
use crate::model::task::Task;

/// One object as it is or was stored. A clone copies no object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The cluster.
    Cluster(Arc<Cluster>),
    /// A node.
    Node(Arc<Node>),
    /// A network.
    Network(Arc<Network>),
    /// A service.
    Service(Arc<Service>),
    /// A task.
    Task(Arc<Task>),
    /// A secret.
    Secret(Arc<Secret>),
    /// A config.
    Config(Arc<Config>),
    /// A resource.
    Resource(Arc<Resource>),
}

impl Stored {
    /// The object's name.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        match self {
            Self::Cluster(cluster) => ObjectId::Cluster(cluster.id),
            Self::Node(node) => ObjectId::Node(node.id),
            Self::Network(network) => ObjectId::Network(network.id),
            Self::Service(service) => ObjectId::Service(service.id),
            Self::Task(task) => ObjectId::Task(task.id),
            Self::Secret(secret) => ObjectId::Secret(secret.id),
            Self::Config(config) => ObjectId::Config(config.id),
            Self::Resource(resource) => ObjectId::Resource(resource.id),
        }
    }

    /// Version and times.
    #[must_use]
    pub fn meta(&self) -> Meta {
        match self {
            Self::Cluster(cluster) => cluster.meta,
            Self::Node(node) => node.meta,
            Self::Network(network) => network.meta,
            Self::Service(service) => service.meta,
            Self::Task(task) => task.meta,
            Self::Secret(secret) => secret.meta,
            Self::Config(config) => config.meta,
            Self::Resource(resource) => resource.meta,
        }
    }

    /// Bytes of what users put into it; small ones count as none.
    pub(super) fn payload_bytes(&self) -> usize {
        match self {
            Self::Secret(secret) => secret.data.len(),
            Self::Config(config) => config.data.len(),
            Self::Resource(resource) => resource.payload.len(),
            Self::Service(service) => size(service.as_ref()),
            Self::Task(task) => size(task.as_ref()),
            Self::Cluster(_) | Self::Node(_) | Self::Network(_) => 0,
        }
    }
}

/// A spec may be as large as an entry, and each of its tasks holds one.
fn size<T: Serialize>(object: &T) -> usize {
    let size = postcard::ser_flavors::Size::default();
    postcard::serialize_with_flavor(object, size).unwrap_or(0)
}

impl Effect {
    /// What was written; `None` when it was removed.
    #[must_use]
    pub fn stored(&self) -> Option<Stored> {
        match self {
            Self::Cluster(cluster) => Some(Stored::Cluster(Arc::clone(cluster))),
            Self::Node(node) => Some(Stored::Node(Arc::clone(node))),
            Self::Network(network) => Some(Stored::Network(Arc::clone(network))),
            Self::Service(service) => Some(Stored::Service(Arc::clone(service))),
            Self::Task(task) => Some(Stored::Task(Arc::clone(task))),
            Self::Secret(secret) => Some(Stored::Secret(Arc::clone(secret))),
            Self::Config(config) => Some(Stored::Config(Arc::clone(config))),
            Self::Resource(resource) => Some(Stored::Resource(Arc::clone(resource))),
            Self::Remove(_) => None,
        }
    }
}

impl Store {
    /// One object; `None` when it is not there.
    #[must_use]
    pub fn get(&self, id: ObjectId) -> Option<Stored> {
        match id {
            ObjectId::Cluster(id) => {
                self.cluster.clone().filter(|cluster| cluster.id == id).map(Stored::Cluster)
            }
            ObjectId::Node(id) => self.nodes.get(&id).cloned().map(Stored::Node),
            ObjectId::Network(id) => self.networks.get(&id).cloned().map(Stored::Network),
            ObjectId::Service(id) => self.services.get(&id).cloned().map(Stored::Service),
            ObjectId::Task(id) => self.tasks.get(&id).cloned().map(Stored::Task),
            ObjectId::Secret(id) => self.secrets.get(&id).cloned().map(Stored::Secret),
            ObjectId::Config(id) => self.configs.get(&id).cloned().map(Stored::Config),
            ObjectId::Resource(id) => self.resources.get(&id).cloned().map(Stored::Resource),
        }
    }

    /// Version of an object; `None` when it is not there.
    #[must_use]
    pub fn version(&self, id: ObjectId) -> Option<u64> {
        self.get(id).map(|object| object.meta().version)
    }
}
