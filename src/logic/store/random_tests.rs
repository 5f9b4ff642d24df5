//! Random entries: the store against a plain model, and stores that came to the same index in
//! different ways against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{OWN_REQUEST, Store};
use crate::base::id::{
    ClusterId, ConfigId, NetworkId, NodeId, RequestId, ResourceId, SecretId, ServiceId, TaskId,
};
use crate::base::time::Wall;
use crate::logic::{codec, fixture};
use crate::model::entry::{Change, Entry, Precondition};
use crate::model::object::{Object, ObjectId};
use crate::model::payload::{Config, FileRef, Secret};
use crate::model::resource::Resource;
use crate::model::sample;
use crate::model::service::{NetworkAttachment, Service};
use crate::model::task::{Address, Task};

/// Ids are below this, so that writes meet each other; so are names.
const IDS: u128 = 4;

fn name(n: u128) -> String {
    format!("n{n}")
}

fn file<Id>(id: Id) -> FileRef<Id> {
    FileRef { id, name: String::new(), file: String::new(), uid: 0, gid: 0, mode: 0 }
}

fn a_task() -> impl Strategy<Value = Object> {
    (0..IDS * 2, 0..IDS, 0..IDS, 0..3u64, 0..8u8).prop_map(|(id, service, node, slot, host)| {
        let mut task = fixture::task(id, service);
        task.node = (node > 0).then(|| NodeId::new(node));
        task.slot = slot;
        if host > 0 {
            let address = Ipv4Addr::new(10, 0, 0, host);
            task.addresses.push(Address { network: NetworkId::new(1), address });
        }
        Object::Task(Box::new(task))
    })
}

fn a_service() -> impl Strategy<Value = Object> {
    let used = || proptest::option::of(0..IDS);
    (0..IDS, 0..IDS, used(), used(), used()).prop_map(|(id, n, network, secret, config)| {
        let mut service = fixture::service(id, &name(n));
        let task = &mut service.spec.task;
        let attach = |id| NetworkAttachment { network: NetworkId::new(id), aliases: Vec::new() };
        task.networks.extend(network.map(attach));
        task.container.secrets.extend(secret.map(SecretId::new).map(file));
        task.container.configs.extend(config.map(ConfigId::new).map(file));
        Object::Service(Box::new(service))
    })
}

/// An object of one of the other kinds.
fn another() -> impl Strategy<Value = Object> {
    (0..6u8, 0..IDS, 0..IDS).prop_map(|(kind, id, n)| {
        let (name, data) = (name(n), vec![1, 2, 3]);
        let (meta, labels, templating) = Default::default();
        match kind {
            0 => Object::Cluster(Box::new(fixture::cluster(5))),
            1 => Object::Node(Box::new(fixture::node(id))),
            2 => Object::Network(Box::new(fixture::network(id, &name, 24))),
            3 => {
                let id = SecretId::new(id);
                Object::Secret(Box::new(Secret { id, meta, name, labels, data, templating }))
            }
            4 => {
                let id = ConfigId::new(id);
                Object::Config(Box::new(Config { id, meta, name, labels, data, templating }))
            }
            _ => {
                let (id, kind, payload) = (ResourceId::new(id), format!("k{}", n % 2), data);
                Object::Resource(Box::new(Resource { id, meta, kind, name, labels, payload }))
            }
        }
    })
}

fn an_id() -> impl Strategy<Value = ObjectId> {
    (0..8u8, 0..IDS).prop_map(|(kind, id)| match kind {
        0 => ObjectId::Cluster(ClusterId::new(id)),
        1 => ObjectId::Node(NodeId::new(id)),
        2 => ObjectId::Network(NetworkId::new(id)),
        3 => ObjectId::Service(ServiceId::new(id)),
        4 => ObjectId::Secret(SecretId::new(id)),
        5 => ObjectId::Config(ConfigId::new(id)),
        6 => ObjectId::Resource(ResourceId::new(id)),
        _ => ObjectId::Task(TaskId::new(id)),
    })
}

fn an_entry() -> impl Strategy<Value = Entry> {
    let change = prop_oneof![
        3 => a_task().prop_map(Change::Put),
        2 => a_service().prop_map(Change::Put),
        3 => another().prop_map(Change::Put),
        3 => an_id().prop_map(Change::Remove),
    ];
    let precondition = prop_oneof![
        an_id().prop_map(Precondition::Absent),
        (an_id(), 0..20u64).prop_map(|(id, version)| Precondition::Version(id, version)),
    ];
    // Some requests come again.
    (0..30u128, vec(precondition, 0..2), vec(change, 0..5)).prop_map(
        |(request, preconditions, changes)| {
            let request = RequestId::new(request);
            Entry { request, time: Wall(5), preconditions, changes }
        },
    )
}

/// What the store should hold: objects by id with the index that wrote them.
#[derive(Default)]
struct Model {
    objects: BTreeMap<ObjectId, (u64, Object)>,
    requests: BTreeSet<RequestId>,
}

impl Model {
    fn apply(&mut self, index: u64, entry: &Entry) {
        let objects = &mut self.objects;
        let holds = |precondition: &Precondition| match precondition {
            Precondition::Absent(id) => !objects.contains_key(id),
            Precondition::Version(id, version) => {
                objects.get(id).is_some_and(|(at, _)| at == version)
            }
        };
        let new = entry.request == OWN_REQUEST || self.requests.insert(entry.request);
        if !new || !entry.preconditions.iter().all(holds) {
            return;
        }
        for change in &entry.changes {
            match change {
                Change::Put(object) => {
                    objects.insert(object.id(), (index, object.clone()));
                }
                Change::Remove(id) => {
                    objects.remove(id);
                }
            }
        }
    }

    /// The ids of the objects for which `key` says this, in order.
    fn ids(&self, is: impl Fn(&Object) -> bool) -> Vec<ObjectId> {
        let found = self.objects.iter().filter(|(_, (_, object))| is(object));
        found.map(|(id, _)| *id).collect()
    }

    fn tasks(&self, is: impl Fn(&Task) -> bool) -> Vec<ObjectId> {
        self.ids(|object| matches!(object, Object::Task(task) if is(task)))
    }

    fn services(&self, is: impl Fn(&Service) -> bool) -> Vec<ObjectId> {
        self.ids(|object| matches!(object, Object::Service(service) if is(service)))
    }
}

fn tasks<'a>(found: impl Iterator<Item = &'a std::sync::Arc<Task>>) -> Vec<ObjectId> {
    found.map(|task| ObjectId::Task(task.id)).collect()
}

fn services<'a>(found: impl Iterator<Item = &'a std::sync::Arc<Service>>) -> Vec<ObjectId> {
    found.map(|service| ObjectId::Service(service.id)).collect()
}

/// The tables.
fn check_tables(store: &Store, model: &Model) {
    for (id, (version, _)) in &model.objects {
        assert_eq!(store.version(*id), Some(*version));
        assert_eq!(store.get(*id).map(|stored| stored.id()), Some(*id));
    }
    let mut all = tasks(store.tasks());
    all.extend(services(store.services()));
    all.extend(store.cluster().map(|it| ObjectId::Cluster(it.id)));
    all.extend(store.nodes().map(|it| ObjectId::Node(it.id)));
    all.extend(store.networks().map(|it| ObjectId::Network(it.id)));
    all.extend(store.secrets().map(|it| ObjectId::Secret(it.id)));
    all.extend(store.configs().map(|it| ObjectId::Config(it.id)));
    all.extend(store.resources().map(|it| ObjectId::Resource(it.id)));
    all.sort_unstable();
    assert_eq!(all, model.ids(|_| true), "nothing else is there");
    assert_eq!(store.tasks_len(), model.tasks(|_| true).len());
}

/// The indexes, as a walk over the tables would find them.
fn check_indexes(store: &Store, model: &Model) {
    for n in 0..IDS {
        let (service, node) = (ServiceId::new(n), NodeId::new(n));
        let of = |task: &Task| task.service == service;
        assert_eq!(tasks(store.tasks_of_service(service)), model.tasks(of));
        assert_eq!(tasks(store.tasks_of_node(node)), model.tasks(|it| it.node == Some(node)));
        for slot in 1..3 {
            let found = tasks(store.tasks_of_slot(service, slot));
            assert_eq!(found, model.tasks(|it| of(it) && it.slot == slot));
        }
        for on in (0..IDS).map(NodeId::new) {
            let found = tasks(store.tasks_of_global(service, on));
            assert_eq!(found, model.tasks(|it| of(it) && it.slot == 0 && it.node == Some(on)));
        }
        let network = NetworkId::new(n);
        let with = |it: &Service| it.spec.task.networks.iter().any(|at| at.network == network);
        let found = services(store.services_with(ObjectId::Network(network)));
        assert_eq!(found, model.services(with));
        let secret = SecretId::new(n);
        let with = |it: &Service| it.spec.task.container.secrets.iter().any(|at| at.id == secret);
        let found = services(store.services_with(ObjectId::Secret(secret)));
        assert_eq!(found, model.services(with));
        let config = ConfigId::new(n);
        let with = |it: &Service| it.spec.task.container.configs.iter().any(|at| at.id == config);
        let found = services(store.services_with(ObjectId::Config(config)));
        assert_eq!(found, model.services(with));
        check_names(store, model, &name(n));
    }
    for host in 1..8 {
        let address = Ipv4Addr::new(10, 0, 0, host);
        let holds = |it: &Task| it.addresses.iter().any(|lease| lease.address == address);
        let (holder, holders) = (store.lease(NetworkId::new(1), address), model.tasks(holds));
        assert!(holder.is_none_or(|id| holders.contains(&ObjectId::Task(id))), "{address}");
        assert!(holders.len() != 1 || holder.is_none_or(|id| ObjectId::Task(id) == holders[0]));
    }
}

/// A name that two have, which the manager does not allow, finds the first of them.
fn check_names(store: &Store, model: &Model, name: &str) {
    let first = |is: &dyn Fn(&Object) -> bool| model.ids(is).first().copied();
    let found = store.networks().find(|it| it.name == name).map(|it| it.id);
    assert_eq!(store.network_named(name).map(|it| it.id), found);
    let found = first(&|it| matches!(it, Object::Service(it) if it.spec.name.as_str() == name));
    let by_name = store.service_named(&crate::model::name::Name::new(name).unwrap());
    assert_eq!(by_name.map(|it| ObjectId::Service(it.id)), found);
    let found = first(&|it| matches!(it, Object::Secret(it) if it.name == name));
    assert_eq!(store.secret_named(name).map(|it| ObjectId::Secret(it.id)), found);
    let found = first(&|it| matches!(it, Object::Config(it) if it.name == name));
    assert_eq!(store.config_named(name).map(|it| ObjectId::Config(it.id)), found);
    for kind in ["k0", "k1"] {
        let found =
            first(&|it| matches!(it, Object::Resource(it) if it.name == name && it.kind == kind));
        let by_name = store.resource_named(kind, name);
        assert_eq!(by_name.map(|it| ObjectId::Resource(it.id)), found);
    }
}

proptest! {
    /// One store applies, one follows it, one is restored at every entry and one at some entry and
    /// applies from there on: all are the model.
    #[test]
    fn the_store_is_the_model_whichever_way_it_came_there(
        entries in vec(an_entry(), 0..24), restart in 0..24usize,
    ) {
        let (mut store, mut follower, mut restarted, mut model) =
            (Store::default(), Store::default(), Store::default(), Model::default());
        for (at, entry) in entries.iter().enumerate() {
            let index = store.index() + 1;
            let bytes = codec::encode_entry(entry).unwrap();
            prop_assert_eq!(&codec::decode_entry(&bytes).unwrap(), entry);
            if at == restart {
                restarted = Store::restore(&store.snapshot().unwrap()).unwrap();
            }
            let applied = store.apply(index, entry);
            follower.install(index, entry, &applied);
            restarted.apply(index, entry);
            model.apply(index, entry);
            let restored = Store::restore(&store.snapshot().unwrap()).unwrap();
            check_tables(&store, &model);
            check_indexes(&store, &model);
            for other in [&follower, &restarted, &restored] {
                prop_assert_eq!(other.hash(), store.hash());
            }
        }
        for other in [&follower, &restarted] {
            check_indexes(other, &model);
        }
        check_indexes(&Store::restore(&store.snapshot().unwrap()).unwrap(), &model);
    }
}

#[test]
fn the_hash_sees_every_table() {
    let all = fixture::store(sample::objects());
    let mut hashes = BTreeSet::from([all.hash()]);
    for (at, left_out) in sample::objects().iter().enumerate() {
        let mut objects = sample::objects();
        objects.remove(at);
        let store = fixture::store(objects);
        assert!(hashes.insert(store.hash()), "{:?}", left_out.id());
    }
}
