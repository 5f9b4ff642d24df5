//! Objects of the store, their names and their versions.

use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::network::Network;
use super::node::Node;
use super::payload::{Config, Secret};
use super::resource::Resource;
use super::service::Service;
use super::task::Task;
use crate::base::id::{
    ClusterId, ConfigId, Id, NetworkId, NodeId, ResourceId, SecretId, ServiceId, TaskId,
};
use crate::base::time::Wall;

/// Version and times of an object. `apply` writes all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Index of the entry that last wrote the object; 0 before it is applied.
    pub version: u64,
    /// When it was made.
    pub created: Wall,
    /// When it was last written.
    pub updated: Wall,
}

/// Names one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectId {
    /// The cluster.
    Cluster(ClusterId),
    /// A node.
    Node(NodeId),
    /// A network.
    Network(NetworkId),
    /// A service.
    Service(ServiceId),
    /// A task.
    Task(TaskId),
    /// A secret.
    Secret(SecretId),
    /// A config.
    Config(ConfigId),
    /// A resource.
    Resource(ResourceId),
}

impl ObjectId {
    /// The bare id.
    #[must_use]
    pub const fn id(self) -> Id {
        match self {
            Self::Cluster(id) => id.0,
            Self::Node(id) => id.0,
            Self::Network(id) => id.0,
            Self::Service(id) => id.0,
            Self::Task(id) => id.0,
            Self::Secret(id) => id.0,
            Self::Config(id) => id.0,
            Self::Resource(id) => id.0,
        }
    }
}

/// One object, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// The cluster.
    Cluster(Box<Cluster>),
    /// A node.
    Node(Box<Node>),
    /// A network.
    Network(Box<Network>),
    /// A service.
    Service(Box<Service>),
    /// A task.
    Task(Box<Task>),
    /// A secret.
    Secret(Box<Secret>),
    /// A config.
    Config(Box<Config>),
    /// A resource.
    Resource(Box<Resource>),
}

impl Object {
    /// The object's name.
    #[must_use]
    pub const fn id(&self) -> ObjectId {
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

    /// Version and times, to be written by `apply`.
    pub const fn meta_mut(&mut self) -> &mut Meta {
        match self {
            Self::Cluster(cluster) => &mut cluster.meta,
            Self::Node(node) => &mut node.meta,
            Self::Network(network) => &mut network.meta,
            Self::Service(service) => &mut service.meta,
            Self::Task(task) => &mut task.meta,
            Self::Secret(secret) => &mut secret.meta,
            Self::Config(config) => &mut config.meta,
            Self::Resource(resource) => &mut resource.meta,
        }
    }
}
