//! Version 1 of the records that hold objects, as release 0.1 wrote them. Frozen: only read, and
//! turned at once into what they are now.
//!
//! Only shapes that have changed since are here; the others are those of today. A name of an object
//! that came later cannot be in a record of version 1 and is not looked for.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::entry::Precondition;
use super::name::Name;
use super::network::{Network, Subnet};
use super::node::{NodeSpec, Platform};
use super::object::{Meta, ObjectId};
use super::resource::Generic;
use super::service::{
    Device, Dns, EndpointSpec, Health, Labels, LogDriver, Mode, Mount, NetworkAttachment,
    OnDisconnect, Placement, Port, Resources, RestartPolicy, Ulimit, UpdateConfig, UpdateStatus,
};
use super::task::{Address, TaskState, TaskStatus};
use crate::base::id::{ClusterId, NodeId, RequestId, ServiceId, TaskId};
use crate::base::time::{Span, Wall};

/// The shapes of today.
mod now {
    pub(super) use crate::model::cluster::Cluster;
    pub(super) use crate::model::entry::{Change, Entry};
    pub(super) use crate::model::node::{Node, NodeDescription};
    pub(super) use crate::model::object::Object;
    pub(super) use crate::model::service::{ContainerSpec, Service, ServiceSpec, TaskSpec};
    pub(super) use crate::model::task::Task;
}

/// [`now::Entry`].
#[derive(Deserialize)]
pub(crate) struct Entry {
    request: RequestId,
    time: Wall,
    preconditions: Vec<Precondition>,
    changes: Vec<Change>,
}

impl From<Entry> for now::Entry {
    fn from(old: Entry) -> Self {
        Self {
            request: old.request,
            time: old.time,
            preconditions: old.preconditions,
            changes: old.changes.into_iter().map(Into::into).collect(),
        }
    }
}

/// [`now::Change`].
#[derive(Deserialize)]
pub(crate) enum Change {
    Put(Object),
    Remove(ObjectId),
}

/// [`now::Object`].
#[derive(Deserialize)]
pub(crate) enum Object {
    Cluster(Box<Cluster>),
    Node(Box<Node>),
    Network(Box<Network>),
    Service(Box<Service>),
    Task(Box<Task>),
}

/// [`now::Cluster`].
#[derive(Deserialize)]
pub(crate) struct Cluster {
    pub(crate) id: ClusterId,
    pub(crate) meta: Meta,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) task_history_limit: i64,
    pub(crate) pools: Vec<Subnet>,
    pub(crate) subnet_prefix: u8,
    pub(crate) epoch: u64,
    pub(crate) feature_level: u32,
}

impl From<Cluster> for now::Cluster {
    fn from(old: Cluster) -> Self {
        Self {
            id: old.id,
            meta: old.meta,
            name: old.name,
            labels: old.labels,
            task_history_limit: old.task_history_limit,
            pools: old.pools,
            subnet_prefix: old.subnet_prefix,
            epoch: old.epoch,
            feature_level: old.feature_level,
            rebalance: false,
        }
    }
}

/// [`now::Node`].
#[derive(Deserialize)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) meta: Meta,
    pub(crate) spec: NodeSpec,
    pub(crate) description: NodeDescription,
    pub(crate) address: String,
    pub(crate) manager: Option<String>,
}

impl From<Node> for now::Node {
    fn from(old: Node) -> Self {
        Self {
            id: old.id,
            meta: old.meta,
            spec: old.spec,
            description: old.description.into(),
            address: old.address,
            manager: old.manager,
        }
    }
}

/// [`now::NodeDescription`].
#[derive(Deserialize)]
pub(crate) struct NodeDescription {
    hostname: String,
    platform: Platform,
    nano_cpus: u64,
    memory_bytes: u64,
    generic: Vec<(String, u64)>,
    engine_labels: Labels,
    engine_version: String,
}

impl From<NodeDescription> for now::NodeDescription {
    fn from(old: NodeDescription) -> Self {
        Self {
            hostname: old.hostname,
            platform: old.platform,
            nano_cpus: old.nano_cpus,
            memory_bytes: old.memory_bytes,
            generic: old
                .generic
                .into_iter()
                .map(|(kind, count)| Generic::Count { kind, count })
                .collect(),
            engine_labels: old.engine_labels,
            engine_version: old.engine_version,
            devices: Vec::new(),
        }
    }
}

/// [`now::Service`].
#[derive(Deserialize)]
pub(crate) struct Service {
    pub(crate) id: ServiceId,
    pub(crate) meta: Meta,
    pub(crate) spec: ServiceSpec,
    pub(crate) previous_spec: Option<Box<ServiceSpec>>,
    pub(crate) spec_version: u64,
    pub(crate) ports: Vec<Port>,
    pub(crate) update_status: Option<UpdateStatus>,
}

impl From<Service> for now::Service {
    fn from(old: Service) -> Self {
        Self {
            id: old.id,
            meta: old.meta,
            spec: old.spec.into(),
            previous_spec: old.previous_spec.map(|spec| Box::new((*spec).into())),
            spec_version: old.spec_version,
            ports: old.ports,
            update_status: old.update_status,
            job: None,
            vips: Vec::new(),
        }
    }
}

/// [`now::ServiceSpec`].
#[derive(Deserialize)]
pub(crate) struct ServiceSpec {
    name: Name,
    labels: Labels,
    task: TaskSpec,
    mode: Mode,
    update: Option<UpdateConfig>,
    rollback: Option<UpdateConfig>,
    endpoint: EndpointSpec,
}

impl From<ServiceSpec> for now::ServiceSpec {
    fn from(old: ServiceSpec) -> Self {
        Self {
            name: old.name,
            labels: old.labels,
            task: old.task.into(),
            mode: old.mode,
            update: old.update,
            rollback: old.rollback,
            endpoint: old.endpoint,
        }
    }
}

/// [`now::TaskSpec`].
#[derive(Deserialize)]
pub(crate) struct TaskSpec {
    container: ContainerSpec,
    resources: Resources,
    restart: RestartPolicy,
    placement: Placement,
    log: Option<LogDriver>,
    networks: Vec<NetworkAttachment>,
    force_update: u64,
}

impl From<TaskSpec> for now::TaskSpec {
    fn from(old: TaskSpec) -> Self {
        Self {
            container: old.container.into(),
            resources: old.resources,
            restart: old.restart,
            placement: old.placement,
            log: old.log,
            networks: old.networks,
            force_update: old.force_update,
            on_disconnect: OnDisconnect::Keep,
        }
    }
}

/// [`now::ContainerSpec`].
#[derive(Deserialize)]
pub(crate) struct ContainerSpec {
    image: String,
    labels: Labels,
    command: Vec<String>,
    args: Vec<String>,
    hostname: String,
    env: Vec<String>,
    dir: String,
    user: String,
    groups: Vec<String>,
    tty: bool,
    open_stdin: bool,
    read_only: bool,
    init: Option<bool>,
    stop_signal: String,
    stop_grace: Option<Span>,
    mounts: Vec<Mount>,
    hosts: Vec<String>,
    dns: Option<Dns>,
    sysctls: BTreeMap<String, String>,
    cap_add: Vec<String>,
    cap_drop: Vec<String>,
    ulimits: Vec<Ulimit>,
    devices: Vec<Device>,
    no_new_privileges: bool,
    oom_score_adj: i32,
    health: Option<Health>,
}

impl From<ContainerSpec> for now::ContainerSpec {
    fn from(old: ContainerSpec) -> Self {
        Self {
            image: old.image,
            labels: old.labels,
            command: old.command,
            args: old.args,
            hostname: old.hostname,
            env: old.env,
            dir: old.dir,
            user: old.user,
            groups: old.groups,
            tty: old.tty,
            open_stdin: old.open_stdin,
            read_only: old.read_only,
            init: old.init,
            stop_signal: old.stop_signal,
            stop_grace: old.stop_grace,
            mounts: old.mounts,
            hosts: old.hosts,
            dns: old.dns,
            sysctls: old.sysctls,
            cap_add: old.cap_add,
            cap_drop: old.cap_drop,
            ulimits: old.ulimits,
            devices: old.devices,
            no_new_privileges: old.no_new_privileges,
            oom_score_adj: old.oom_score_adj,
            health: old.health,
            secrets: Vec::new(),
            configs: Vec::new(),
        }
    }
}

/// [`now::Task`].
#[derive(Deserialize)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    pub(crate) meta: Meta,
    pub(crate) service: ServiceId,
    pub(crate) service_name: Name,
    pub(crate) slot: u64,
    pub(crate) node: Option<NodeId>,
    pub(crate) spec: TaskSpec,
    pub(crate) spec_version: u64,
    pub(crate) service_labels: Labels,
    pub(crate) ports: Vec<Port>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) desired: TaskState,
    pub(crate) status: TaskStatus,
    pub(crate) job_iteration: u64,
    pub(crate) not_before: Option<Wall>,
}

impl From<Task> for now::Task {
    fn from(old: Task) -> Self {
        Self {
            id: old.id,
            meta: old.meta,
            service: old.service,
            service_name: old.service_name,
            slot: old.slot,
            node: old.node,
            spec: old.spec.into(),
            spec_version: old.spec_version,
            service_labels: old.service_labels,
            ports: old.ports,
            addresses: old.addresses,
            desired: old.desired,
            status: old.status,
            job_iteration: old.job_iteration,
            not_before: old.not_before,
            generic: Vec::new(),
            adopted_from: None,
        }
    }
}

impl From<Change> for now::Change {
    fn from(old: Change) -> Self {
        match old {
            Change::Put(object) => Self::Put(object.into()),
            Change::Remove(id) => Self::Remove(id),
        }
    }
}

impl From<Object> for now::Object {
    fn from(old: Object) -> Self {
        match old {
            Object::Cluster(cluster) => Self::Cluster(Box::new((*cluster).into())),
            Object::Node(node) => Self::Node(Box::new((*node).into())),
            Object::Network(network) => Self::Network(network),
            Object::Service(service) => Self::Service(Box::new((*service).into())),
            Object::Task(task) => Self::Task(Box::new((*task).into())),
        }
    }
}
