//! What somebody asks for: checked on the planned store, then written.

use std::sync::Arc;

use super::Manager;
use super::io::{Command, CommandError, Output, Reply, View};
use super::write::reply;
use crate::base::id::{NetworkId, RequestId, ServiceId};
use crate::base::time::Now;
use crate::logic::allocator;
use crate::logic::scheduler::TASKS_PER_NODE_MAX;
use crate::logic::scheduler::constraint::Constraint;
use crate::logic::template;
use crate::model::cluster::Cluster;
use crate::model::entry::{Change, Precondition};
use crate::model::network::{GWBRIDGE, Network, Subnet};
use crate::model::node::{Availability, Node, NodeDescription, NodeSpec, Role};
use crate::model::object::{Meta, Object, ObjectId};
use crate::model::route::LISTENERS_MAX;
use crate::model::service::{Labels, Mode, Port, Service, ServiceSpec, UpdateState, UpdateStatus};
use crate::model::spec_check::ValidSpec;

/// Ended tasks that are kept for each slot, unless the cluster says otherwise.
const TASK_HISTORY_LIMIT: i64 = 5;

/// A command is answered, or its entry is on its way.
type Asked = Result<Option<Reply>, CommandError>;

impl Manager {
    pub(super) fn command(
        &mut self,
        now: Now,
        request: RequestId,
        command: Command,
        out: &mut Vec<Output>,
    ) {
        let write = !matches!(command, Command::Read);
        if write && let Some(result) = self.committed.answer(request) {
            return out.push(Output::Reply { request, reply: reply(result) });
        }
        if write && self.log.wait_too(request) {
            return;
        }
        let asked = match command {
            Command::CreateService { spec } => self.create_service(now, request, *spec),
            Command::UpdateService { id, version, spec } => {
                self.update_service(now, request, id, version, spec.map(|spec| *spec))
            }
            Command::RemoveService { id } => self.remove_service(now, request, id),
            Command::Read => Ok(Some(Reply::View(Arc::new(self.view())))),
        };
        match asked {
            Ok(None) => {}
            Ok(Some(reply)) => out.push(Output::Reply { request, reply: Ok(reply) }),
            Err(error) => out.push(Output::Reply { request, reply: Err(error) }),
        }
    }

    /// Makes the cluster with this node as its manager, its networks and their addresses; without
    /// effect when there is one.
    pub fn bootstrap(&mut self, now: Now, description: NodeDescription, out: &mut Vec<Output>) {
        if self.planned.cluster().is_some() {
            return;
        }
        let pool = Subnet { base: [10, 0, 0, 0].into(), prefix: 8 };
        let cluster = Cluster {
            id: self.config.cluster,
            meta: Meta::default(),
            name: "default".to_owned(),
            labels: Labels::new(),
            task_history_limit: TASK_HISTORY_LIMIT,
            pools: vec![pool],
            subnet_prefix: 24,
            epoch: 1,
            feature_level: 1,
            rebalance: false,
        };
        let spec = NodeSpec {
            labels: Labels::new(),
            role: Role::Manager,
            availability: Availability::Active,
        };
        let advertise = &self.config.advertise;
        let address = advertise.rsplit_once(':').map_or(advertise.as_str(), |(host, _)| host);
        let node = Node {
            id: self.config.node,
            meta: Meta::default(),
            spec,
            description,
            address: address.to_owned(),
            manager: Some(advertise.clone()),
        };
        // The last /16 of the pool: nothing is likely to be there already.
        let gwbridge = Subnet { base: [10, 255, 0, 0].into(), prefix: 16 };
        let ingress = Subnet { base: pool.base, prefix: cluster.subnet_prefix };
        let objects = [
            Object::Cluster(Box::new(cluster)),
            Object::Node(Box::new(node)),
            Object::Network(Box::new(self.network(allocator::INGRESS, ingress, true))),
            Object::Network(Box::new(self.network(GWBRIDGE, gwbridge, false))),
        ];
        self.write_own(now, objects.into_iter().map(Change::Put).collect());
        self.write_out(out);
    }

    fn network(&mut self, name: &str, subnet: Subnet, ingress: bool) -> Network {
        Network {
            id: NetworkId::new(self.rng.next_u128()),
            meta: Meta::default(),
            name: name.to_owned(),
            labels: Labels::new(),
            subnet,
            ingress,
        }
    }

    fn create_service(&mut self, now: Now, request: RequestId, spec: ValidSpec) -> Asked {
        let spec = spec.into_spec();
        if self.planned.service_named(&spec.name).is_some() {
            return Err(CommandError::Conflict(format!(
                "rpc error: code = AlreadyExists desc = name conflicts with an existing object: \
                 service {} already exists",
                spec.name
            )));
        }
        let id = ServiceId::new(self.rng.next_u128());
        self.check_spec(&spec, id)?;
        let ports = self.lease_ports(&spec, id, &[])?;
        let service = Service {
            id,
            meta: Meta::default(),
            spec,
            previous_spec: None,
            spec_version: self.log.next_index(),
            ports,
            update_status: None,
            job: None,
            vips: Vec::new(),
        };
        let absent = Precondition::Absent(ObjectId::Service(id));
        let put = Change::Put(Object::Service(Box::new(service)));
        self.write_asked(now, request, vec![absent], vec![put])?;
        Ok(None)
    }

    fn update_service(
        &mut self,
        now: Now,
        request: RequestId,
        id: ServiceId,
        version: u64,
        spec: Option<ValidSpec>,
    ) -> Asked {
        let old = self.planned.service(id).ok_or_else(|| no_service(id))?;
        if old.meta.version != version {
            return Err(CommandError::OutOfSequence);
        }
        let mut service = old.as_ref().clone();
        service.update_status = None;
        let spec = match spec {
            Some(spec) => spec.into_spec(),
            None => {
                service.update_status = Some(UpdateStatus {
                    state: UpdateState::RollbackStarted,
                    started: Some(now.wall),
                    completed: None,
                    message: "manually requested rollback".to_owned(),
                });
                let previous = service.previous_spec.take();
                *previous.ok_or_else(|| {
                    CommandError::Invalid(format!(
                        "rpc error: code = FailedPrecondition desc = service {id} does not have a \
                         previous spec"
                    ))
                })?
            }
        };
        check_change(&service.spec, &spec)?;
        self.check_spec(&spec, id)?;
        let ports = self.lease_ports(&spec, id, &service.ports)?;
        if changes_tasks(&service.spec, &spec) || ports != service.ports {
            service.spec_version = self.log.next_index();
        }
        service.previous_spec = Some(Box::new(std::mem::replace(&mut service.spec, spec)));
        service.ports = ports;
        let current = Precondition::Version(ObjectId::Service(id), version);
        let put = Change::Put(Object::Service(Box::new(service)));
        self.write_asked(now, request, vec![current], vec![put])?;
        Ok(None)
    }

    fn remove_service(&mut self, now: Now, request: RequestId, id: ServiceId) -> Asked {
        let service = self.planned.service(id).ok_or_else(|| no_service(id))?;
        let version = service.meta.version;
        let current = Precondition::Version(ObjectId::Service(id), version);
        let remove = Change::Remove(ObjectId::Service(id));
        self.write_asked(now, request, vec![current], vec![remove])?;
        Ok(None)
    }

    /// What can only be checked with the rest of the cluster.
    fn check_spec(&self, spec: &ServiceSpec, id: ServiceId) -> Result<(), CommandError> {
        for text in &spec.task.placement.constraints {
            Constraint::parse(text).map_err(|error| {
                CommandError::Invalid(format!("rpc error: code = Unknown desc = {error}"))
            })?;
        }
        template::expand_container(&spec.task.container, None).map_err(|text| {
            CommandError::Invalid(format!("rpc error: code = InvalidArgument desc = {text}"))
        })?;
        let replicas = |spec: &ServiceSpec| match spec.mode {
            Mode::Replicated { replicas } => Ok(replicas),
            Mode::Global => Ok(0),
            Mode::ReplicatedJob { .. } => Err("replicated-job"),
            Mode::GlobalJob => Err("global-job"),
        };
        let wanted = replicas(spec).map_err(|mode| {
            CommandError::Unimplemented(format!("mode {mode} is not supported yet"))
        })?;
        let others = self.planned.services().filter(|other| other.id != id);
        let all: u64 = others.filter_map(|other| replicas(&other.spec).ok()).sum();
        let nodes = u64::try_from(self.planned.nodes().count()).unwrap_or(1).max(1);
        let limit = TASKS_PER_NODE_MAX.saturating_mul(nodes);
        if wanted > 0 && all.saturating_add(wanted) > limit {
            return Err(CommandError::Busy(format!(
                "{wanted} replicas besides {all} of other services are more than the {limit} that \
                 {nodes} nodes can hold"
            )));
        }
        self.check_ports(spec, id)
    }

    /// Whether one node can listen on what all services publish together. What was accepted once
    /// may be changed as long as it does not grow.
    fn check_ports(&self, spec: &ServiceSpec, id: ServiceId) -> Result<(), CommandError> {
        let wanted = spec.endpoint.ports.len();
        let had = self.planned.service(id).map_or(0, |service| service.spec.endpoint.ports.len());
        let others = self.planned.services().filter(|other| other.id != id);
        let all: usize = others.map(|other| other.spec.endpoint.ports.len()).sum();
        if wanted > had && all + wanted > LISTENERS_MAX {
            return Err(CommandError::Busy(format!(
                "{wanted} published ports besides {all} of other services are more than the \
                 {LISTENERS_MAX} that a node can listen on"
            )));
        }
        Ok(())
    }

    fn lease_ports(
        &self,
        spec: &ServiceSpec,
        id: ServiceId,
        old: &[Port],
    ) -> Result<Vec<Port>, CommandError> {
        allocator::ports(&self.planned, spec, id, old).map_err(|error| {
            CommandError::Invalid(format!("rpc error: code = InvalidArgument desc = {error}"))
        })
    }

    pub(super) fn view(&self) -> View {
        let store = &self.committed;
        let state = |id| self.nodes.state(id);
        View {
            index: store.index(),
            cluster: store.cluster().cloned(),
            node: Some(self.config.node),
            nodes: store.nodes().map(|node| (Arc::clone(node), state(node.id))).collect(),
            networks: store.networks().cloned().collect(),
            services: store.services().cloned().collect(),
            tasks: store.tasks().map(|task| self.reports.newest(task)).collect(),
        }
    }
}

fn no_service(id: ServiceId) -> CommandError {
    CommandError::NotFound(format!("service {id} not found"))
}

/// What an update may not change.
fn check_change(old: &ServiceSpec, new: &ServiceSpec) -> Result<(), CommandError> {
    let refuse = |text: &str| {
        Err(CommandError::Unimplemented(format!("rpc error: code = Unimplemented desc = {text}")))
    };
    if old.name != new.name {
        return refuse("renaming services is not supported");
    }
    let same_mode = match (old.mode, new.mode) {
        (Mode::Replicated { .. }, Mode::Replicated { .. })
        | (Mode::Global, Mode::Global)
        | (Mode::ReplicatedJob { .. }, Mode::ReplicatedJob { .. })
        | (Mode::GlobalJob, Mode::GlobalJob) => true,
        (
            Mode::Replicated { .. } | Mode::Global | Mode::ReplicatedJob { .. } | Mode::GlobalJob,
            _,
        ) => false,
    };
    if same_mode { Ok(()) } else { refuse("service mode change is not allowed") }
}

/// Whether tasks of the old spec are not what the new one wants. Where tasks run alone does not
/// count.
fn changes_tasks(old: &ServiceSpec, new: &ServiceSpec) -> bool {
    let (a, b) = (&old.task, &new.task);
    a.container != b.container
        || a.resources != b.resources
        || a.restart != b.restart
        || a.log != b.log
        || a.networks != b.networks
        || a.force_update != b.force_update
        || old.endpoint != new.endpoint
}
