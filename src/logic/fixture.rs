//! Objects for the tests of this tree.

use std::collections::BTreeMap;

use crate::base::id::{ClusterId, NetworkId, NodeId, ServiceId, TaskId};
use crate::base::time::Wall;
use crate::logic::orchestrator::status;
use crate::logic::store::{OWN_REQUEST, Store};
use crate::model::cluster::Cluster;
use crate::model::entry::{Change, Entry};
use crate::model::name::Name;
use crate::model::network::{Network, Subnet};
use crate::model::node::{Node, NodeDescription, NodeSpec};
use crate::model::object::{Meta, Object};
use crate::model::service::{
    ContainerSpec, EndpointSpec, Labels, Mode, OnDisconnect, Placement, Port, Protocol,
    PublishMode, Resources, RestartPolicy, Service, ServiceSpec, TaskSpec,
};
use crate::model::task::{Task, TaskState};

pub(crate) fn spec(name: &str, image: &str, replicas: u64) -> ServiceSpec {
    ServiceSpec {
        name: Name::new(name).unwrap(),
        labels: Labels::new(),
        task: TaskSpec {
            container: ContainerSpec { image: image.to_owned(), ..ContainerSpec::default() },
            resources: Resources::default(),
            restart: RestartPolicy::default(),
            placement: Placement::default(),
            log: None,
            networks: Vec::new(),
            force_update: 0,
            on_disconnect: OnDisconnect::Keep,
        },
        mode: Mode::Replicated { replicas },
        update: None,
        rollback: None,
        endpoint: EndpointSpec::default(),
    }
}

pub(crate) fn port(published: u16, mode: PublishMode) -> Port {
    let (name, protocol) = (String::new(), Protocol::Tcp);
    Port { name, protocol, target: 80, published, mode, host_ip: None }
}

pub(crate) fn service(id: u128, name: &str) -> Service {
    Service {
        id: ServiceId::new(id),
        meta: Meta::default(),
        spec: spec(name, "image", 1),
        previous_spec: None,
        spec_version: 1,
        ports: Vec::new(),
        update_status: None,
        job: None,
        vips: Vec::new(),
    }
}

pub(crate) fn node(id: u128) -> Node {
    Node {
        id: NodeId::new(id),
        meta: Meta::default(),
        spec: NodeSpec::default(),
        description: NodeDescription::default(),
        address: String::new(),
        manager: None,
    }
}

pub(crate) fn network(id: u128, name: &str, prefix: u8) -> Network {
    Network {
        id: NetworkId::new(id),
        meta: Meta::default(),
        name: name.to_owned(),
        labels: Labels::new(),
        subnet: Subnet { base: [10, 0, 0, 0].into(), prefix },
        ingress: name == "ingress",
    }
}

pub(crate) fn cluster(task_history_limit: i64) -> Cluster {
    Cluster {
        id: ClusterId::new(1),
        meta: Meta::default(),
        name: "default".to_owned(),
        labels: Labels::new(),
        task_history_limit,
        pools: Vec::new(),
        subnet_prefix: 24,
        epoch: 1,
        feature_level: 1,
        rebalance: false,
    }
}

/// A store that holds these objects.
pub(crate) fn store(objects: Vec<Object>) -> Store {
    let changes = objects.into_iter().map(Change::Put).collect();
    let entry = Entry { request: OWN_REQUEST, time: Wall(1), preconditions: Vec::new(), changes };
    let mut store = Store::default();
    store.apply(1, &entry);
    store
}

pub(crate) fn task(id: u128, service: u128) -> Task {
    Task {
        id: TaskId::new(id),
        meta: Meta::default(),
        service: ServiceId::new(service),
        service_name: Name::new("web").unwrap(),
        slot: 1,
        node: None,
        spec: spec("web", "image", 1).task,
        spec_version: 1,
        service_labels: BTreeMap::new(),
        ports: Vec::new(),
        addresses: Vec::new(),
        desired: TaskState::Running,
        status: status(TaskState::New, Wall(0), "created"),
        job_iteration: 0,
        not_before: None,
        generic: Vec::new(),
        adopted_from: None,
    }
}
