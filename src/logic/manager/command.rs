//! What somebody asks for: checked on the planned store, then written.

use std::sync::Arc;

use super::io::{Command, CommandError, Output, Reply, View};
use super::nodes::NewNode;
use super::write::reply;
use super::{EARLY_MAX, Leads, Manager};
use crate::base::id::{NodeId, RequestId, ServiceId};
use crate::base::time::Now;
use crate::logic::allocator;
use crate::logic::orchestrator::jobs;
use crate::logic::scheduler::TASKS_PER_NODE_MAX;
use crate::logic::scheduler::constraint::Constraint;
use crate::logic::template;
use crate::model::entry::{Change, Precondition};
use crate::model::object::{Meta, Object, ObjectId};
use crate::model::route::LISTENERS_MAX;
use crate::model::service::{Mode, Port, Service, ServiceSpec, UpdateState, UpdateStatus};
use crate::model::spec_check::ValidSpec;

/// A command is answered, or its entry is on its way.
pub(super) type Asked = Result<Option<Reply>, CommandError>;

impl Manager {
    pub(super) fn command(
        &mut self,
        now: Now,
        request: RequestId,
        command: Command,
        out: &mut Vec<Output>,
    ) {
        if matches!(command, Command::Read) {
            return self.read(now, request, out);
        }
        match self.leads {
            Leads::Yes => {}
            Leads::From(_) if self.lead.early.len() < EARLY_MAX => {
                return self.lead.early.push_back((request, command));
            }
            Leads::From(_) => {
                let text = "this manager has just become the leader; try again in a moment";
                let reply = Err(CommandError::Busy(text.to_owned()));
                return out.push(Output::Reply { request, reply });
            }
            Leads::No => {
                let reply = Err(CommandError::NotLeader { leader: self.raft.leader() });
                return out.push(Output::Reply { request, reply });
            }
        }
        if let Some(result) = self.committed.answer(request) {
            return out.push(Output::Reply { request, reply: reply(result) });
        }
        if self.lead.flight.wait_too(request) {
            return;
        }
        let asked = match command {
            Command::CreateService { spec } => self.create_service(now, request, *spec),
            Command::UpdateService { id, version, spec } => {
                self.update_service(now, request, id, version, spec.map(|spec| *spec))
            }
            Command::RemoveService { id } => self.remove_service(now, request, id),
            Command::AddNode { id, description, role, address, manager } => {
                let description = *description;
                let new = NewNode { id, description, role, address, manager };
                self.add_node(now, request, new)
            }
            Command::UpdateNode { id, version, spec } => {
                self.update_node(now, request, id, version, spec)
            }
            Command::RemoveNode { id, force } => self.remove_node(now, request, id, force),
            Command::CreateSecret(new) => self.create_secret(now, request, *new),
            Command::CreateConfig(new) => self.create_config(now, request, *new),
            Command::LabelSecret { id, version, labels } => {
                self.label_secret(now, request, id, version, labels)
            }
            Command::LabelConfig { id, version, labels } => {
                self.label_config(now, request, id, version, labels)
            }
            Command::RemoveSecret { id } => self.remove_secret(now, request, id),
            Command::RemoveConfig { id } => self.remove_config(now, request, id),
            Command::SetResource { kind, name, payload } => {
                self.set_resource(now, request, kind, name, payload)
            }
            Command::RemoveResource { id } => self.remove_resource(now, request, id),
            Command::UpdateCluster { version, spec } => {
                self.update_cluster(now, request, version, *spec)
            }
            Command::Transfer { to } => self.transfer(now, to, out),
            Command::Read => Ok(None),
        };
        match asked {
            Ok(None) => {}
            Ok(Some(reply)) => out.push(Output::Reply { request, reply: Ok(reply) }),
            Err(error) => out.push(Output::Reply { request, reply: Err(error) }),
        }
    }

    /// Answered once this manager has heard from a majority that it knows the newest state.
    fn read(&mut self, now: Now, request: RequestId, out: &mut Vec<Output>) {
        let mut wants = Vec::new();
        self.raft.read(now.mono, request, &mut wants);
        self.obey(now, wants, out);
    }

    fn transfer(&mut self, now: Now, to: Option<NodeId>, out: &mut Vec<Output>) -> Asked {
        let mut wants = Vec::new();
        let asked = self.raft.transfer(now.mono, to, &mut wants);
        asked.map_err(|error| self.not_now(error))?;
        self.obey(now, wants, out);
        Ok(Some(Reply::Done))
    }

    fn create_service(&mut self, now: Now, request: RequestId, spec: ValidSpec) -> Asked {
        let spec = spec.into_spec();
        if self.lead.planned.service_named(&spec.name).is_some() {
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
            job: jobs::next_run(spec.mode, None, now.wall),
            spec,
            previous_spec: None,
            spec_version: self.raft.last_index() + 1,
            ports,
            update_status: None,
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
        let old = self.lead.planned.service(id).ok_or_else(|| no_service(id))?;
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
        let another_run = spec.mode.is_job();
        if another_run || changes_tasks(&service.spec, &spec) || ports != service.ports {
            service.spec_version = self.raft.last_index() + 1;
        }
        service.previous_spec = Some(Box::new(std::mem::replace(&mut service.spec, spec)));
        service.ports = ports;
        service.job = jobs::next_run(service.spec.mode, service.job, now.wall);
        let current = Precondition::Version(ObjectId::Service(id), version);
        let put = Change::Put(Object::Service(Box::new(service)));
        self.write_asked(now, request, vec![current], vec![put])?;
        Ok(None)
    }

    /// Writes one object.
    pub(super) fn put(
        &mut self,
        now: Now,
        request: RequestId,
        condition: Precondition,
        object: Object,
    ) -> Asked {
        self.write_asked(now, request, vec![condition], vec![Change::Put(object)])?;
        Ok(None)
    }

    /// Removes one object that is at this version.
    pub(super) fn remove(
        &mut self,
        now: Now,
        request: RequestId,
        id: ObjectId,
        version: u64,
    ) -> Asked {
        let current = Precondition::Version(id, version);
        self.write_asked(now, request, vec![current], vec![Change::Remove(id)])?;
        Ok(None)
    }

    fn remove_service(&mut self, now: Now, request: RequestId, id: ServiceId) -> Asked {
        let service = self.lead.planned.service(id).ok_or_else(|| no_service(id))?;
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
            Mode::Replicated { replicas } => replicas,
            Mode::ReplicatedJob { max_concurrent, total } => max_concurrent.min(total),
            Mode::Global | Mode::GlobalJob => 0,
        };
        let wanted = replicas(spec);
        let others = self.lead.planned.services().filter(|other| other.id != id);
        let all = others.fold(0u64, |all, other| all.saturating_add(replicas(&other.spec)));
        let nodes = u64::try_from(self.lead.planned.nodes().count()).unwrap_or(1).max(1);
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
        let had =
            self.lead.planned.service(id).map_or(0, |service| service.spec.endpoint.ports.len());
        let others = self.lead.planned.services().filter(|other| other.id != id);
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
        allocator::ports(&self.lead.planned, spec, id, old).map_err(|error| {
            CommandError::Invalid(format!("rpc error: code = InvalidArgument desc = {error}"))
        })
    }

    pub(super) fn view(&self) -> View {
        let store = &self.committed;
        let state = |id| self.lead.nodes.state(id);
        View {
            index: store.index(),
            cluster: store.cluster().cloned(),
            node: Some(self.config.node),
            leader: self.raft.leader(),
            voters: self.raft.members().voters.clone(),
            nodes: store.nodes().map(|node| (Arc::clone(node), state(node.id))).collect(),
            networks: store.networks().cloned().collect(),
            services: store.services().cloned().collect(),
            secrets: store.secrets().cloned().collect(),
            configs: store.configs().cloned().collect(),
            tasks: store.tasks().map(|task| self.lead.reports.newest(task)).collect(),
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
