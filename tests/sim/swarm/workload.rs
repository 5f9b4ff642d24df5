//! What clients ask for: every action of the API, on whatever is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep::base::time::Span;
use skep::logic::manager::io::{Command, Payload};
use skep::model::name::Name;
use skep::model::node::{Availability, Node, NodeSpec, Role};
use skep::model::service::{
    ContainerSpec, EndpointSpec, FailureAction, Health, Mode, OnDisconnect, Placement, Port,
    Protocol, PublishMode, Resources, RestartCondition, RestartPolicy, Service, ServiceSpec,
    TaskSpec, UpdateConfig, UpdateOrder,
};

use super::World;

const IMAGES: [&str; 13] = [
    "run",
    "run",
    "run",
    "run",
    "stubborn",
    "exit-1-700",
    "exit-0-15000",
    "nostart",
    "noimage",
    "well",
    "well",
    "flaps",
    "sick",
];

/// Images of jobs: most come to an end.
const JOB_IMAGES: [&str; 5] = ["exit-0-700", "exit-0-700", "exit-0-15000", "exit-1-700", "noimage"];

/// Most services at a time.
const SERVICES_MAX: usize = 6;

impl World {
    fn pick<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        let at = usize::try_from(self.rng.below(all.len() as u64)).unwrap();
        all.get(at).cloned()
    }

    /// What a client asks for next.
    pub(super) fn next_command(&mut self, client: usize) -> Option<Command> {
        if !self.faults {
            return self.tidy_up(client);
        }
        let first = if client == 0 { self.old_node() } else { None };
        if first.is_some() && self.rng.one_in(2) {
            return first;
        }
        let services: Vec<Arc<Service>> = self.truth.store.services().cloned().collect();
        match self.rng.below(24) {
            0..=4 if services.len() < SERVICES_MAX => Some(self.create()),
            0..=7 => self.pick(&services).map(|it| self.scale(&it)),
            8..=10 => self.pick(&services).map(|it| self.change(&it)),
            11 => self.pick(&services).map(|it| Command::UpdateService {
                id: it.id,
                version: it.meta.version,
                spec: None,
            }),
            12 => self.pick(&services).map(|it| Command::RemoveService { id: it.id }),
            13..=15 => Some(Command::Read),
            16 | 17 => self.update_node(),
            18 => self.change_role(),
            19 => {
                let any = self.machines.iter().map(|it| it.id).collect::<Vec<_>>();
                let to = if self.rng.one_in(2) { self.pick(&any) } else { None };
                Some(Command::Transfer { to })
            }
            20 => Some(self.make_payload()),
            21 => self.remove_payload(),
            22 => self.change_history(),
            _ => Some(Command::Read),
        }
    }

    fn image(&mut self, mode: Mode) -> &'static str {
        let images: &[&'static str] = if mode.is_job() { &JOB_IMAGES } else { &IMAGES };
        self.pick(images).unwrap_or("run")
    }

    fn create(&mut self) -> Command {
        let number = self.rng.below(2 * SERVICES_MAX as u64);
        let mode = match self.rng.below(16) {
            0..=3 => Mode::Global,
            4 => Mode::GlobalJob,
            5 | 6 => {
                let total = 1 + self.rng.below(5);
                Mode::ReplicatedJob { max_concurrent: 1 + self.rng.below(total), total }
            }
            _ => Mode::Replicated { replicas: 1 + self.rng.below(4) },
        };
        let image = self.image(mode);
        let port = if self.rng.one_in(3) { 8_000 + u16::try_from(number).unwrap() } else { 0 };
        let mut spec = spec(&format!("s{number}"), image, mode, port);
        if self.rng.one_in(4) {
            spec.endpoint.ports.iter_mut().for_each(|port| port.mode = PublishMode::Host);
        }
        if self.rng.one_in(5) {
            let zone = self.rng.below(3);
            spec.task.placement.constraints = vec![format!("node.labels.zone==z{zone}")];
        }
        if mode.is_job() {
            spec.task.restart.condition = RestartCondition::OnFailure;
            return Command::CreateService { spec: Box::new(spec.validate().unwrap()) };
        }
        if self.rng.one_in(3) {
            spec.task.on_disconnect = OnDisconnect::Stop;
        }
        let order =
            if self.rng.one_in(4) { UpdateOrder::StartFirst } else { UpdateOrder::StopFirst };
        let on_failure = [FailureAction::Pause, FailureAction::Continue, FailureAction::Rollback]
            [usize::try_from(self.rng.below(3)).unwrap()];
        spec.update = Some(UpdateConfig {
            parallelism: self.rng.below(3),
            order,
            on_failure,
            ..UpdateConfig::default()
        });
        Command::CreateService { spec: Box::new(spec.validate().unwrap()) }
    }

    /// How many ended tasks a slot keeps; no draw, so that earlier seeds stay what they were.
    fn change_history(&self) -> Option<Command> {
        let cluster = self.truth.store.cluster()?;
        let mut spec = cluster.spec();
        spec.task_history_limit = i64::try_from(self.requests % 7).unwrap() - 1;
        Some(Command::UpdateCluster { version: cluster.meta.version, spec: Box::new(spec) })
    }

    fn scale(&mut self, service: &Service) -> Command {
        let replicas = self.rng.below(6);
        update(service, |spec| {
            if let Mode::Replicated { replicas: old } = &mut spec.mode {
                *old = replicas;
            } else {
                spec.task.force_update += 1;
            }
        })
    }

    fn change(&mut self, service: &Service) -> Command {
        let image = self.image(service.spec.mode);
        let force = self.rng.one_in(2);
        update(service, |spec| {
            if force {
                spec.task.force_update += 1;
            } else {
                image.clone_into(&mut spec.task.container.image);
                spec.task.container.health = health(image);
            }
        })
    }

    fn any_node(&mut self) -> Option<Arc<Node>> {
        let nodes: Vec<Arc<Node>> = self.truth.store.nodes().cloned().collect();
        self.pick(&nodes)
    }

    fn update_node(&mut self) -> Option<Command> {
        let node = self.any_node()?;
        let availability = [Availability::Active, Availability::Pause, Availability::Drain]
            [usize::try_from(self.rng.below(3)).unwrap()];
        let mut spec = node.spec.clone();
        spec.availability = availability;
        spec.labels.insert("zone".to_owned(), format!("z{}", self.rng.below(3)));
        Some(Command::UpdateNode { id: node.id, version: node.meta.version, spec })
    }

    /// A manager becomes a worker, or one that was is a manager again.
    fn change_role(&mut self) -> Option<Command> {
        let node = self.any_node()?;
        let is_machine = self.machines.iter().any(|it| it.id == node.id && it.can_manage);
        let cut = self.machines.iter().any(|it| it.disk.is_cut());
        if !is_machine
            || self.lost
            || cut
            || self.machines.iter().filter(|it| it.can_manage).count() < 3
        {
            return None;
        }
        let role = if node.spec.role == Role::Manager { Role::Worker } else { Role::Manager };
        let spec = NodeSpec { role, ..node.spec.clone() };
        Some(Command::UpdateNode { id: node.id, version: node.meta.version, spec })
    }

    pub(super) fn managers(&self) -> usize {
        self.machines.iter().filter(|it| it.is_manager).count()
    }

    /// A node whose machine came back as another one is demoted, then removed.
    fn old_node(&self) -> Option<Command> {
        let known = |id| self.machines.iter().any(|it| it.id == id);
        let node = self.truth.store.nodes().find(|node| !known(node.id))?;
        if node.spec.role == Role::Manager {
            let spec = NodeSpec { role: Role::Worker, ..node.spec.clone() };
            return Some(Command::UpdateNode { id: node.id, version: node.meta.version, spec });
        }
        Some(Command::RemoveNode { id: node.id, force: true })
    }

    fn make_payload(&mut self) -> Command {
        let payload = Box::new(Payload {
            name: format!("p{}", self.rng.below(4)),
            labels: BTreeMap::new(),
            data: vec![1; 10],
            templating: false,
        });
        if self.rng.one_in(2) {
            Command::CreateSecret(payload)
        } else {
            Command::CreateConfig(payload)
        }
    }

    fn remove_payload(&mut self) -> Option<Command> {
        let secrets: Vec<_> = self.truth.store.secrets().map(|it| it.id).collect();
        let configs: Vec<_> = self.truth.store.configs().map(|it| it.id).collect();
        if self.rng.one_in(2) {
            self.pick(&secrets).map(|id| Command::RemoveSecret { id })
        } else {
            self.pick(&configs).map(|id| Command::RemoveConfig { id })
        }
    }

    /// Faults are over: every node is active again, nodes that are no more are removed, and when all
    /// is to go every service is.
    fn tidy_up(&mut self, client: usize) -> Option<Command> {
        if client != 0 {
            return None;
        }
        if let Some(command) = self.old_node() {
            return Some(command);
        }
        let idle = |node: &&Arc<Node>| node.spec.availability != Availability::Active;
        if let Some(node) = self.truth.store.nodes().find(idle) {
            let spec = NodeSpec { availability: Availability::Active, ..node.spec.clone() };
            return Some(Command::UpdateNode { id: node.id, version: node.meta.version, spec });
        }
        if !self.removing {
            return None;
        }
        let service = self.truth.store.services().next();
        service.map(|service| Command::RemoveService { id: service.id })
    }

    /// Whether nothing is left for the clients to do.
    pub(super) fn clients_are_done(&self) -> bool {
        let known = |id| self.machines.iter().any(|it| it.id == id);
        self.clients.iter().all(|client| client.current.is_none())
            && self
                .truth
                .store
                .nodes()
                .all(|node| known(node.id) && node.spec.availability == Availability::Active)
    }

    /// A command of a machine that joins.
    pub(super) fn join_command(&self, machine: usize) -> Command {
        let it = &self.machines[machine];
        Command::AddNode {
            id: it.id,
            description: Box::new(it.description()),
            role: if it.is_manager { Role::Manager } else { Role::Worker },
            address: format!("10.9.0.{}", machine + 1),
            manager: it.is_manager.then(|| it.advertise()),
        }
    }
}

fn update(service: &Service, change: impl FnOnce(&mut ServiceSpec)) -> Command {
    let mut spec = service.spec.clone();
    change(&mut spec);
    let spec = Some(Box::new(spec.validate().unwrap()));
    Command::UpdateService { id: service.id, version: service.meta.version, spec }
}

/// The health check of those that have one.
fn health(image: &str) -> Option<Health> {
    let check = Health {
        test: vec!["CMD".to_owned(), "look".to_owned()],
        interval: Some(Span::from_secs(2)),
        timeout: Some(Span::from_secs(3)),
        retries: Some(2),
        start_period: None,
        start_interval: None,
    };
    matches!(image, "well" | "flaps" | "sick").then_some(check)
}

fn spec(name: &str, image: &str, mode: Mode, port: u16) -> ServiceSpec {
    let published = |published| Port {
        name: String::new(),
        protocol: Protocol::Tcp,
        target: 80,
        published,
        mode: PublishMode::Ingress,
        host_ip: None,
    };
    ServiceSpec {
        name: Name::new(name).unwrap(),
        labels: BTreeMap::new(),
        task: TaskSpec {
            container: ContainerSpec {
                image: image.to_owned(),
                health: health(image),
                ..ContainerSpec::default()
            },
            resources: Resources::default(),
            restart: RestartPolicy { delay: Span::from_secs(1), ..RestartPolicy::default() },
            placement: Placement::default(),
            log: None,
            networks: Vec::new(),
            force_update: 0,
            on_disconnect: OnDisconnect::Keep,
        },
        mode,
        update: None,
        rollback: None,
        endpoint: EndpointSpec {
            ports: if port == 0 { Vec::new() } else { vec![published(port)] },
            ..EndpointSpec::default()
        },
    }
}
