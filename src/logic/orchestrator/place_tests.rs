//! What a draft gives a task besides its place: addresses, virtual ones for the service, pieces of
//! named resources, and the way back to its volume.

use std::collections::BTreeMap;

use super::{Draft, Memory, reconcile};
use crate::base::id::{NetworkId, NodeId, ServiceId, TaskId};
use crate::base::rng::Rng;
use crate::base::time::{Now, Time, Wall};
use crate::logic::fixture;
use crate::logic::scheduler::Nodes;
use crate::logic::store::{OWN_REQUEST, Store};
use crate::model::entry::{Change, Entry};
use crate::model::network::GWBRIDGE;
use crate::model::node::NodeState;
use crate::model::object::Object;
use crate::model::resource::Generic;
use crate::model::service::{Mode, Mount, MountKind, NetworkAttachment, Service};
use crate::model::task::{Task, TaskState};

const SERVICE: ServiceId = ServiceId::new(1);

struct Lab {
    store: Store,
    nodes: Nodes,
    memory: Memory,
}

impl Lab {
    /// Three nodes and the service, looked at once.
    fn new(change: impl FnOnce(&mut Service)) -> Self {
        let mut objects = vec![
            Object::Network(Box::new(fixture::network(1, GWBRIDGE, 24))),
            Object::Network(Box::new(fixture::network(2, "a", 29))),
        ];
        for id in 1..=3 {
            let mut node = fixture::node(id);
            let piece = |value: &str| Generic::Named { kind: "gpu".into(), value: value.into() };
            node.description.generic = vec![piece("x"), piece("y")];
            objects.push(Object::Node(Box::new(node)));
        }
        let mut service = fixture::service(1, "web");
        change(&mut service);
        objects.push(Object::Service(Box::new(service)));
        let store = fixture::store(objects);
        let states: BTreeMap<NodeId, NodeState> =
            (1..=3).map(|id| (NodeId::new(id), NodeState::Ready)).collect();
        let nodes = Nodes::new(&store, &states);
        let mut lab = Self { store, nodes, memory: Memory::default() };
        lab.look();
        lab
    }

    fn write(&mut self, changes: Vec<Change>) {
        let (time, preconditions) = (Wall(1), Vec::new());
        let entry = Entry { request: OWN_REQUEST, time, preconditions, changes };
        for effect in self.store.apply(self.store.index() + 1, &entry).effects {
            self.nodes.note(&effect);
        }
    }

    fn look(&mut self) {
        let (now, mut rng) = (Now { mono: Time(1), wall: Wall(1) }, Rng::new(self.store.index()));
        let service = self.store.service(SERVICE).unwrap();
        let mut draft = Draft::new(&self.store, &self.nodes, &mut rng, now);
        reconcile(&mut draft, service, &mut self.memory);
        let changes = draft.into_changes();
        self.write(changes);
    }

    fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.store.tasks().map(AsRef::as_ref)
    }

    /// Node of each slot's newest task that is wanted.
    fn slots(&self) -> BTreeMap<u64, u128> {
        let wanted = self.tasks().filter(|task| task.is_active());
        wanted.map(|task| (task.slot, task.node.unwrap().0.0)).collect()
    }

    /// The tasks have ended.
    fn fail(&mut self) {
        let tasks: Vec<TaskId> = self.tasks().map(|task| task.id).collect();
        for id in tasks {
            let mut task = self.store.task(id).unwrap().as_ref().clone();
            task.status.state = TaskState::Failed;
            self.write(vec![Change::Put(Object::Task(Box::new(task)))]);
        }
    }
}

fn volume(service: &mut Service, name: &str) {
    let (name, labels) = (name.to_owned(), BTreeMap::new());
    let kind = MountKind::Volume { name, labels, no_copy: false, subpath: String::new() };
    let mount = Mount { target: "/data".to_owned(), read_only: false, kind };
    service.spec.task.container.mounts = vec![mount];
}

#[test]
fn a_task_with_a_named_volume_comes_back_to_its_slots_node() {
    // Without one they come to the nodes with fewest tasks.
    for (name, comes_back) in [("data", true), ("", false)] {
        let mut lab = Lab::new(|service| {
            volume(service, name);
            service.spec.mode = Mode::Replicated { replicas: 3 };
        });
        let before: Vec<(u64, u128)> = lab.slots().into_iter().collect();
        let mut others: Vec<u128> = before.iter().map(|(_, node)| *node).collect();
        others.sort_unstable();
        assert_eq!(others, [1, 2, 3]);
        lab.fail();
        let home = |slot: u64| before.iter().find(|(it, _)| *it == slot).unwrap().1;
        // The home of slot 1 is the fullest node by far, that of slot 3 the emptiest.
        for (count, slot) in [(4, 1), (2, 2)] {
            for n in 0..count {
                let mut other = fixture::task(u128::from(100 * slot + n), 2);
                other.node = Some(NodeId::new(home(slot)));
                other.status.state = TaskState::Running;
                lab.write(vec![Change::Put(Object::Task(Box::new(other)))]);
            }
        }
        lab.look();
        let after = lab.slots();
        assert_eq!(after.len(), 3);
        let back = before.iter().filter(|(slot, node)| after[slot] == *node).count();
        assert_eq!(back == 3, comes_back, "{name}: {before:?} {after:?}");
    }
}

#[test]
fn a_service_on_a_network_has_a_virtual_address_and_its_tasks_one_each() {
    let mut lab = Lab::new(|service| {
        let network = NetworkId::new(2);
        service.spec.task.networks = vec![NetworkAttachment { network, aliases: Vec::new() }];
        service.spec.mode = Mode::Replicated { replicas: 2 };
    });
    let service = lab.store.service(SERVICE).unwrap();
    let on_a: Vec<_> = service.vips.iter().map(|it| it.address.octets()[3]).collect();
    assert_eq!(on_a, [2]);
    let mut given: Vec<(u128, u8)> = lab
        .tasks()
        .flat_map(|task| &task.addresses)
        .map(|it| (it.network.0.0, it.address.octets()[3]))
        .collect();
    given.sort_unstable();
    assert_eq!(given, [(1, 2), (1, 3), (2, 3), (2, 4)]);
    let version = service.meta.version;
    lab.look();
    assert_eq!(lab.store.service(SERVICE).unwrap().meta.version, version, "nothing new");
}

#[test]
fn a_task_waits_in_new_until_its_service_has_its_address() {
    let lab = Lab::new(|service| {
        let network = NetworkId::new(9);
        service.spec.task.networks = vec![NetworkAttachment { network, aliases: Vec::new() }];
    });
    let task = lab.tasks().next().unwrap();
    assert_eq!((task.status.state, task.node), (TaskState::New, None));
    assert_eq!(task.status.err, format!("network {} not found", NetworkId::new(9)));
}

#[test]
fn pieces_of_a_named_resource_are_written_to_the_task() {
    let lab = Lab::new(|service| {
        service.spec.task.resources.reserve_generic = vec![("gpu".to_owned(), 1)];
        service.spec.mode = Mode::Replicated { replicas: 7 };
    });
    let placed = lab.tasks().filter(|task| task.node.is_some());
    let mut given: Vec<_> =
        placed.map(|task| (task.node.unwrap().0.0, task.generic.clone())).collect();
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 6, "two on each of three nodes, each once: {given:?}");
    let left = lab.tasks().find(|task| task.node.is_none()).unwrap();
    assert_eq!(left.status.err, "no suitable node (insufficient resources on 3 nodes)");
}
