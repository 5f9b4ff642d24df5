//! From a service's object to its tasks with nodes and addresses, on 1,000 nodes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use skep::base::id::{NetworkId, NodeId, ServiceId};
use skep::base::rng::Rng;
use skep::base::time::{Now, Time, Wall};
use skep::logic::orchestrator::{Draft, Memory, reconcile};
use skep::logic::scheduler::Nodes;
use skep::logic::store::{OWN_REQUEST, Store};
use skep::model::entry::{Change, Entry};
use skep::model::name::Name;
use skep::model::network::{GWBRIDGE, Network, Subnet};
use skep::model::node::{Node, NodeDescription, NodeSpec, NodeState};
use skep::model::object::{Meta, Object};
use skep::model::service::{
    ContainerSpec, EndpointSpec, Labels, Mode, Placement, Resources, RestartPolicy, Service,
    ServiceSpec, TaskSpec,
};

const NODES: u128 = 1_000;
const TASKS: u64 = 10_000;
/// All tasks placed and written to the store, on one core.
const BUDGET: Duration = Duration::from_secs(1);

struct Lab {
    store: Store,
    nodes: Nodes,
    rng: Rng,
    memories: BTreeMap<ServiceId, Memory>,
}

impl Lab {
    fn new() -> Self {
        let network = Network {
            id: NetworkId::new(1),
            meta: Meta::default(),
            name: GWBRIDGE.to_owned(),
            labels: Labels::new(),
            subnet: Subnet { base: [10, 255, 0, 0].into(), prefix: 16 },
            ingress: false,
        };
        let mut lab = Self {
            store: Store::default(),
            nodes: Nodes::default(),
            rng: Rng::new(1),
            memories: BTreeMap::new(),
        };
        lab.write(vec![Change::Put(Object::Network(Box::new(network)))]);
        for id in 1..=NODES {
            let label = |key: &str, of: u128| (key.to_owned(), format!("{key}{}", id % of));
            let node = Node {
                id: NodeId::new(id),
                meta: Meta::default(),
                spec: NodeSpec { labels: [label("zone", 7)].into(), ..NodeSpec::default() },
                description: NodeDescription {
                    hostname: format!("node{id}"),
                    nano_cpus: 4_000_000_000,
                    memory_bytes: 8 << 30,
                    ..NodeDescription::default()
                },
                address: "10.0.0.1".to_owned(),
                manager: None,
            };
            lab.write(vec![Change::Put(Object::Node(Box::new(node)))]);
            lab.nodes.set_state(NodeId::new(id), NodeState::Ready);
        }
        lab
    }

    fn write(&mut self, changes: Vec<Change>) {
        let (time, preconditions) = (Wall(1), Vec::new());
        let entry = Entry { request: OWN_REQUEST, time, preconditions, changes };
        for effect in self.store.apply(self.store.index() + 1, &entry).effects {
            self.nodes.note(&effect);
        }
    }

    fn service(&mut self, id: u128, replicas: u64, placement: Placement) {
        let container = ContainerSpec {
            image: "registry.example.com/team/image:1.2.3".to_owned(),
            env: vec!["A=b".to_owned(), "C=d".to_owned()],
            ..ContainerSpec::default()
        };
        let resources = Resources { reserve_memory_bytes: 1 << 20, ..Resources::default() };
        let spec = ServiceSpec {
            name: Name::new(&format!("service-{id}")).unwrap(),
            labels: Labels::new(),
            task: TaskSpec {
                container,
                resources,
                restart: RestartPolicy::default(),
                placement,
                log: None,
                networks: Vec::new(),
                force_update: 0,
                on_disconnect: Default::default(),
            },
            mode: Mode::Replicated { replicas },
            update: None,
            rollback: None,
            endpoint: EndpointSpec::default(),
        };
        let service = Service {
            id: ServiceId::new(id),
            meta: Meta::default(),
            spec,
            previous_spec: None,
            spec_version: 1,
            ports: Vec::new(),
            update_status: None,
            job: None,
            vips: Vec::new(),
        };
        self.write(vec![Change::Put(Object::Service(Box::new(service)))]);
    }

    /// One look at each service; how many changes it made.
    fn look(&mut self) -> usize {
        let mut count = 0;
        let services: Vec<ServiceId> = self.store.services().map(|it| it.id).collect();
        for id in services {
            let now = Now { mono: Time(1), wall: Wall(1) };
            let service = self.store.service(id).unwrap().clone();
            let mut draft = Draft::new(&self.store, &self.nodes, &mut self.rng, now);
            reconcile(&mut draft, &service, self.memories.entry(id).or_default());
            let changes = draft.into_changes();
            count += changes.len();
            if !changes.is_empty() {
                self.write(changes);
            }
        }
        count
    }

    /// Fewest and most tasks on a node.
    fn spread(&self) -> (u64, u64) {
        let mut counts: BTreeMap<NodeId, u64> =
            self.store.nodes().map(|node| (node.id, 0)).collect();
        for task in self.store.tasks() {
            *counts.get_mut(&task.node.expect("placed")).unwrap() += 1;
        }
        (*counts.values().min().unwrap(), *counts.values().max().unwrap())
    }
}

/// Places all tasks, then looks once more at the cluster in which nothing changes.
fn measure(name: &str, services: u64, placement: &Placement) -> (u64, u64) {
    let mut lab = Lab::new();
    for id in 1..=services {
        lab.service(id.into(), TASKS / services, placement.clone());
    }
    let begin = Instant::now();
    assert_eq!(lab.look(), usize::try_from(TASKS).unwrap());
    let placing = begin.elapsed();
    let begin = Instant::now();
    assert_eq!(lab.look(), 0, "nothing is left to do");
    let idle = begin.elapsed();
    println!("schedule {name}: {TASKS} tasks on {NODES} nodes in {placing:?}, again {idle:?}");
    assert!(placing < BUDGET, "{name}: {placing:?} for {TASKS} tasks");
    lab.spread()
}

#[test]
#[ignore = "a benchmark: tests/bench/schedule.sh"]
fn one_service() {
    assert_eq!(measure("one service", 1, &Placement::default()), (10, 10));
}

#[test]
#[ignore = "a benchmark: tests/bench/schedule.sh"]
fn a_hundred_services() {
    assert_eq!(measure("100 services", 100, &Placement::default()), (10, 10));
}

#[test]
#[ignore = "a benchmark: tests/bench/schedule.sh"]
fn one_service_with_a_preference_and_a_constraint() {
    let constraints = vec!["node.hostname!=node7".to_owned()];
    let spread = vec!["node.labels.zone".to_owned()];
    let placement = Placement { constraints, spread, ..Placement::default() };
    let (least, most) = measure("spread", 1, &placement);
    assert!(least == 0 && most <= 11, "{least} to {most} on a node");
}
