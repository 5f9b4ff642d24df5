//! The cluster's state: typed tables and their indexes.
//!
//! Only [`Store::apply`] (an entry) and [`Store::install`] (what another store's `apply` made of
//! the same entry) change it, so two stores that applied the same entries are equal. Objects are
//! shared; cloning a store copies no object.
//!
//! **Invariant:** every index holds exactly what a walk over the tables would find.

mod apply;
mod feed;
#[cfg(test)]
mod golden;
mod index;
#[cfg(test)]
mod random_tests;
mod snapshot;
mod stored;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;

pub use self::apply::{Applied, ApplyResult, Effect};
pub use self::feed::{Event, FEED_EVENTS_MAX, FEED_PAYLOAD_BYTES_MAX, Feed, Lagged};
use self::index::Index;
pub use self::snapshot::SnapshotError;
pub use self::stored::Stored;

use crate::base::id::{
    ConfigId, NetworkId, NodeId, RequestId, ResourceId, SecretId, ServiceId, TaskId,
};
use crate::model::cluster::Cluster;
use crate::model::name::Name;
use crate::model::network::Network;
use crate::model::node::Node;
use crate::model::object::ObjectId;
use crate::model::payload::{Config, Secret};
use crate::model::resource::Resource;
use crate::model::service::Service;
use crate::model::task::Task;

/// Requests whose answer is kept; an older one that is retried is taken for a new one.
pub const REQUESTS_KEPT_MAX: usize = 4_096;

/// The request of an entry that nobody asked for: the manager's own work. Its answer is not kept.
pub const OWN_REQUEST: RequestId = RequestId::new(0);

/// Typed tables and their indexes.
#[derive(Clone, Debug, Default)]
pub struct Store {
    index: u64,
    cluster: Option<Arc<Cluster>>,
    nodes: BTreeMap<NodeId, Arc<Node>>,
    networks: BTreeMap<NetworkId, Arc<Network>>,
    services: BTreeMap<ServiceId, Arc<Service>>,
    tasks: BTreeMap<TaskId, Arc<Task>>,
    secrets: BTreeMap<SecretId, Arc<Secret>>,
    configs: BTreeMap<ConfigId, Arc<Config>>,
    resources: BTreeMap<ResourceId, Arc<Resource>>,
    answers: Answers,
    indexes: Indexes,
}

/// All of it follows from the tables.
#[derive(Clone, Debug, Default)]
struct Indexes {
    network_names: Index<String, NetworkId>,
    service_names: Index<Name, ServiceId>,
    secret_names: Index<String, SecretId>,
    config_names: Index<String, ConfigId>,
    /// By kind and name.
    resource_names: Index<(String, String), ResourceId>,
    /// Services by the networks, secrets and configs that their spec names.
    users: Index<ObjectId, ServiceId>,
    tasks_by_service: Index<ServiceId, TaskId>,
    tasks_by_node: Index<NodeId, TaskId>,
    tasks_by_slot: Index<Slot, TaskId>,
    /// An address may be there twice only between two changes of one entry.
    leases: BTreeMap<(NetworkId, Ipv4Addr), TaskId>,
}

/// Where a service has its tasks: the slot's number, or 0 and the node in a global service.
type Slot = (ServiceId, u64, Option<NodeId>);

/// The first answers to the last [`REQUESTS_KEPT_MAX`] requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Answers {
    order: VecDeque<RequestId>,
    by_request: BTreeMap<RequestId, ApplyResult>,
}

impl Answers {
    fn note(&mut self, request: RequestId, result: ApplyResult) {
        if request == OWN_REQUEST || self.by_request.insert(request, result).is_some() {
            return;
        }
        self.order.push_back(request);
        if self.order.len() > REQUESTS_KEPT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_request.remove(&oldest);
        }
    }
}

impl Store {
    /// Index of the last applied entry.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// The cluster, once there is one.
    #[must_use]
    pub const fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// One node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    /// All nodes in id order.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// One network.
    #[must_use]
    pub fn network(&self, id: NetworkId) -> Option<&Arc<Network>> {
        self.networks.get(&id)
    }

    /// The network of this name.
    #[must_use]
    pub fn network_named(&self, name: &str) -> Option<&Arc<Network>> {
        self.indexes.network_names.of(name).find_map(|id| self.networks.get(&id))
    }

    /// All networks in id order.
    pub fn networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.networks.values()
    }

    /// One service.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.services.get(&id)
    }

    /// The service of this name.
    #[must_use]
    pub fn service_named(&self, name: &Name) -> Option<&Arc<Service>> {
        self.indexes.service_names.of(name).find_map(|id| self.services.get(&id))
    }

    /// The services whose spec names this network, secret or config, in id order: while there are
    /// some it is not removed. What a service had before its last update does not count.
    pub fn services_with(&self, id: ObjectId) -> impl Iterator<Item = &Arc<Service>> {
        self.indexes.users.of(&id).filter_map(|service| self.services.get(&service))
    }

    /// All services in id order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// One task.
    #[must_use]
    pub fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.tasks.get(&id)
    }

    /// All tasks in id order.
    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values()
    }

    /// Number of tasks, finished ones included.
    #[must_use]
    pub fn tasks_len(&self) -> usize {
        self.tasks.len()
    }

    /// The tasks of a service in id order.
    pub fn tasks_of_service(&self, id: ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        self.indexes.tasks_by_service.of(&id).filter_map(|task| self.tasks.get(&task))
    }

    /// The tasks in a replicated service's slot in id order.
    pub fn tasks_of_slot(&self, id: ServiceId, slot: u64) -> impl Iterator<Item = &Arc<Task>> {
        let slot: Slot = (id, slot, None);
        self.indexes.tasks_by_slot.of(&slot).filter_map(|task| self.tasks.get(&task))
    }

    /// The tasks of a global service on a node in id order.
    pub fn tasks_of_global(&self, id: ServiceId, on: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        let slot: Slot = (id, 0, Some(on));
        self.indexes.tasks_by_slot.of(&slot).filter_map(|task| self.tasks.get(&task))
    }

    /// The tasks on a node in id order.
    pub fn tasks_of_node(&self, id: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        self.indexes.tasks_by_node.of(&id).filter_map(|task| self.tasks.get(&task))
    }

    /// One secret.
    #[must_use]
    pub fn secret(&self, id: SecretId) -> Option<&Arc<Secret>> {
        self.secrets.get(&id)
    }

    /// The secret of this name.
    #[must_use]
    pub fn secret_named(&self, name: &str) -> Option<&Arc<Secret>> {
        self.indexes.secret_names.of(name).find_map(|id| self.secrets.get(&id))
    }

    /// All secrets in id order.
    pub fn secrets(&self) -> impl Iterator<Item = &Arc<Secret>> {
        self.secrets.values()
    }

    /// One config.
    #[must_use]
    pub fn config(&self, id: ConfigId) -> Option<&Arc<Config>> {
        self.configs.get(&id)
    }

    /// The config of this name.
    #[must_use]
    pub fn config_named(&self, name: &str) -> Option<&Arc<Config>> {
        self.indexes.config_names.of(name).find_map(|id| self.configs.get(&id))
    }

    /// All configs in id order.
    pub fn configs(&self) -> impl Iterator<Item = &Arc<Config>> {
        self.configs.values()
    }

    /// One resource.
    #[must_use]
    pub fn resource(&self, id: ResourceId) -> Option<&Arc<Resource>> {
        self.resources.get(&id)
    }

    /// The resource of this kind and name.
    #[must_use]
    pub fn resource_named(&self, kind: &str, name: &str) -> Option<&Arc<Resource>> {
        let key = (kind.to_owned(), name.to_owned());
        self.indexes.resource_names.of(&key).find_map(|id| self.resources.get(&id))
    }

    /// All resources in id order.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// The task that holds an address.
    #[must_use]
    pub fn lease(&self, network: NetworkId, address: Ipv4Addr) -> Option<TaskId> {
        self.indexes.leases.get(&(network, address)).copied()
    }

    /// What a request was answered, if it is among the last [`REQUESTS_KEPT_MAX`].
    #[must_use]
    pub fn answer(&self, request: RequestId) -> Option<ApplyResult> {
        self.answers.by_request.get(&request).copied()
    }
}
