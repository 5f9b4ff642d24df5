//! Addresses over whole lives of services: none is leaked, none has two holders, and none is given
//! on before its worker has let go of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::INGRESS;
use crate::base::id::{NetworkId, NodeId, ServiceId, TaskId};
use crate::base::rng::Rng;
use crate::base::time::{Now, Time, Wall};
use crate::logic::fixture;
use crate::logic::orchestrator::{Draft, Memory, reconcile, remove_all, status};
use crate::logic::scheduler::Nodes;
use crate::logic::store::{Lease, OWN_REQUEST, Store};
use crate::model::entry::{Change, Entry};
use crate::model::network::GWBRIDGE;
use crate::model::node::NodeState;
use crate::model::object::{Object, ObjectId};
use crate::model::service::{EndpointMode, Mode, NetworkAttachment, PublishMode};
use crate::model::task::{Address, Task, TaskState};

const NETWORKS: u128 = 4;

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    /// A service is made or changed.
    Service {
        id: u128,
        replicas: u64,
        networks: Vec<u128>,
        dnsrr: bool,
        publish: bool,
        image: u8,
    },
    Remove(u128),
    /// Tasks of a service run.
    Run(u128),
    /// Those that are to stop have ended.
    Stop(u128),
    /// One task ends by itself.
    Fail(u128),
    /// The worker lets go of what it holds for a task that has ended.
    Clean(u128),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let id = || 1..4u128;
    let networks = proptest::sample::subsequence(vec![3, 4], 0..=2);
    let put = (id(), 0..6u64, networks, any::<bool>(), any::<bool>(), 0..2u8);
    prop_oneof![
        3 => put.prop_map(|(id, replicas, networks, dnsrr, publish, image)| {
            Event::Service { id, replicas, networks, dnsrr, publish, image }
        }),
        1 => id().prop_map(Event::Remove),
        3 => id().prop_map(Event::Run),
        3 => id().prop_map(Event::Stop),
        1 => id().prop_map(Event::Fail),
        4 => id().prop_map(Event::Clean),
        2 => (1..20u64).prop_map(Event::Wait),
    ]
}

struct Lab {
    store: Store,
    nodes: Nodes,
    rng: Rng,
    memories: BTreeMap<u128, Memory>,
    seconds: u64,
    /// What workers hold: they were told of it and have not let go of it.
    held: BTreeMap<(NetworkId, Ipv4Addr), TaskId>,
}

impl Lab {
    fn new() -> Self {
        let networks = [(1, INGRESS), (2, GWBRIDGE), (3, "a"), (4, "b")];
        let network = |(id, name)| {
            // The first one of a task does not run out before the others.
            fixture::network(id, name, if id == 2 { 26 } else { 28 })
        };
        let networks = networks.map(network);
        let mut objects: Vec<Object> =
            networks.into_iter().map(|network| Object::Network(Box::new(network))).collect();
        objects.push(Object::Cluster(Box::new(fixture::cluster(1))));
        objects.push(Object::Node(Box::new(fixture::node(1))));
        let store = fixture::store(objects);
        let states = [(NodeId::new(1), NodeState::Ready)].into();
        let nodes = Nodes::new(&store, &states);
        let (memories, held) = (BTreeMap::new(), BTreeMap::new());
        Self { store, nodes, rng: Rng::new(1), memories, seconds: 1, held }
    }

    fn now(&self) -> Now {
        let micros = self.seconds * 1_000_000;
        Now { mono: Time(micros), wall: Wall(micros) }
    }

    fn write(&mut self, changes: Vec<Change>) {
        let time = self.now().wall;
        let entry = Entry { request: OWN_REQUEST, time, preconditions: Vec::new(), changes };
        for effect in self.store.apply(self.store.index() + 1, &entry).effects {
            self.nodes.note(&effect);
        }
        self.check();
    }

    /// Each address has one holder, who is the one that the index knows; what a worker holds is
    /// nobody else's.
    fn check(&mut self) {
        let tasks = self.store.tasks();
        let tasks =
            tasks.flat_map(|task| task.addresses.iter().map(|it| (Lease::Task(task.id), *it)));
        let services = self.store.services();
        let vips = services.flat_map(|it| it.vips.iter().map(|vip| (Lease::Service(it.id), *vip)));
        let mut holders: BTreeMap<(NetworkId, Ipv4Addr), Lease> = BTreeMap::new();
        for (holder, Address { network, address }) in tasks.chain(vips) {
            let subnet = self.store.network(network).unwrap().subnet;
            let host = u32::from(address) - u32::from(subnet.base);
            assert!((2..subnet.len() - 1).contains(&host), "{address} is nobody's to give");
            let other = holders.insert((network, address), holder);
            assert_eq!(other, None, "{address} has two holders");
            assert_eq!(self.store.lease(network, address), Some(holder));
        }
        let leased = (1..=NETWORKS).map(|id| self.leased(id).count()).sum::<usize>();
        assert_eq!(leased, holders.len(), "the index knows a lease that nobody holds");
        for task in self.store.tasks().filter(|task| task.status.state >= TaskState::Assigned) {
            for Address { network, address } in &task.addresses {
                let holder = *self.held.entry((*network, *address)).or_insert(task.id);
                assert_eq!(holder, task.id, "{address} is still on a node");
            }
        }
    }

    fn leased(&self, network: u128) -> impl Iterator<Item = Ipv4Addr> {
        self.store.leases_from(NetworkId::new(network), Ipv4Addr::UNSPECIFIED)
    }

    /// Looks at all services until nothing changes.
    fn look(&mut self) {
        for _ in 0..20 {
            let mut any = false;
            for id in 1..4 {
                let now = self.now();
                let mut draft = Draft::new(&self.store, &self.nodes, &mut self.rng, now);
                match self.store.service(ServiceId::new(id)) {
                    Some(service) => {
                        reconcile(&mut draft, service, self.memories.entry(id).or_default());
                    }
                    None => remove_all(&mut draft, ServiceId::new(id)),
                }
                let changes = draft.into_changes();
                any |= !changes.is_empty();
                self.write(changes);
            }
            if !any {
                return;
            }
        }
        panic!("the services do not come to rest");
    }

    /// Changes the first tasks of a service that are like this.
    fn edit(&mut self, id: u128, most: usize, is: fn(&Task) -> bool, change: impl Fn(&mut Task)) {
        let tasks = self.store.tasks_of_service(ServiceId::new(id));
        let found = tasks.filter(|task| task.status.state >= TaskState::Assigned && is(task));
        let changes = found.take(most).map(|task| {
            let mut task = task.as_ref().clone();
            change(&mut task);
            Change::Put(Object::Task(Box::new(task)))
        });
        let changes = changes.collect();
        self.write(changes);
    }

    fn to(&mut self, id: u128, most: usize, state: TaskState, is: fn(&Task) -> bool) {
        let wall = self.now().wall;
        self.edit(id, most, is, |task| task.status = status(state, wall, ""));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Service { id, replicas, networks, dnsrr, publish, image } => {
                let mut service = fixture::service(id, &format!("s{id}"));
                let spec = &mut service.spec;
                spec.mode = Mode::Replicated { replicas };
                spec.task.container.image = format!("i{image}");
                spec.task.networks = networks
                    .into_iter()
                    .map(|id| NetworkAttachment {
                        network: NetworkId::new(id),
                        aliases: Vec::new(),
                    })
                    .collect();
                spec.endpoint.mode = if dnsrr { EndpointMode::Dnsrr } else { EndpointMode::Vip };
                let port = fixture::port(u16::try_from(id).unwrap(), PublishMode::Ingress);
                service.ports = publish.then_some(port).into_iter().collect();
                service.spec_version = self.store.index() + 1;
                let old = self.store.service(service.id);
                service.vips = old.map(|old| old.vips.clone()).unwrap_or_default();
                self.write(vec![Change::Put(Object::Service(Box::new(service)))]);
            }
            Event::Remove(id) => {
                self.write(vec![Change::Remove(ObjectId::Service(ServiceId::new(id)))]);
            }
            Event::Run(id) => self.to(id, usize::MAX, TaskState::Running, |task| {
                task.desired == TaskState::Running && task.status.state < TaskState::Running
            }),
            Event::Stop(id) => self.to(id, usize::MAX, TaskState::Shutdown, |task| {
                task.desired > TaskState::Running && !task.status.state.is_terminal()
            }),
            Event::Fail(id) => {
                self.to(id, 1, TaskState::Failed, |task| !task.status.state.is_terminal())
            }
            Event::Clean(id) => {
                let ended = |task: &Task| task.status.state.is_terminal();
                let tasks = self.store.tasks_of_service(ServiceId::new(id));
                let gone: Vec<TaskId> =
                    tasks.filter(|task| ended(task)).map(|task| task.id).collect();
                self.held.retain(|_, task| !gone.contains(task));
                self.edit(id, usize::MAX, ended, |task| task.addresses.clear());
            }
            Event::Wait(seconds) => self.seconds += seconds,
        }
        self.look();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_address_is_leaked_or_has_two_holders(
        events in proptest::collection::vec(event(), 0..60)
    ) {
        let mut lab = Lab::new();
        for event in events {
            lab.happen(event);
        }
        for id in 1..4 {
            lab.happen(Event::Remove(id));
            lab.happen(Event::Stop(id));
            lab.happen(Event::Clean(id));
        }
        prop_assert_eq!(lab.store.tasks_len(), 0);
        for id in 1..=NETWORKS {
            prop_assert_eq!(lab.leased(id).next(), None);
        }
    }

    #[test]
    fn what_waits_for_an_address_gets_it_when_one_is_free(replicas in 10..30u64) {
        let mut lab = Lab::new();
        let networks = vec![3];
        let service = |id, replicas| Event::Service {
            id, replicas, networks: networks.clone(), dnsrr: false, publish: false, image: 0,
        };
        lab.happen(service(1, replicas));
        // 13 addresses, one of them virtual.
        let placed = |lab: &Lab, id| lab.store.tasks_of_service(ServiceId::new(id)).filter(|task| {
            task.status.state == TaskState::Assigned
        }).count();
        let wanted = usize::try_from(replicas).unwrap();
        prop_assert_eq!(placed(&lab, 1), wanted.min(12));
        for task in lab.store.tasks().filter(|task| task.status.state == TaskState::New) {
            prop_assert_eq!(&task.status.err, "no address is free in network a");
            prop_assert!(task.addresses.is_empty(), "all of them or none");
        }
        lab.happen(service(2, 1));
        let full = replicas >= 12;
        let vips = lab.store.service(ServiceId::new(2)).unwrap().vips.len();
        prop_assert_eq!((vips, placed(&lab, 2)), if full { (0, 0) } else { (1, usize::from(replicas < 11)) });
        for event in [service(1, 1), Event::Stop(1)] {
            lab.happen(event);
        }
        prop_assert!(!full || placed(&lab, 2) == 0, "ended is not let go of");
        lab.happen(Event::Clean(1));
        prop_assert_eq!(placed(&lab, 2), 1);
    }
}
