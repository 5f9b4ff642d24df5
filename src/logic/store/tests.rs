//! The store against a plain model, and `apply` case by case.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::{ApplyResult, Lease, OWN_REQUEST, REQUESTS_KEPT_MAX, Store};
use crate::base::id::{ClusterId, NetworkId, NodeId, RequestId, ServiceId, TaskId};
use crate::base::time::Wall;
use crate::logic::codec;
use crate::logic::fixture;
use crate::model::entry::{Change, Entry, Precondition};
use crate::model::object::{Object, ObjectId};
use crate::model::task::{Address, Task};

fn entry(request: u128, preconditions: Vec<Precondition>, changes: Vec<Change>) -> Entry {
    Entry { request: RequestId::new(request), time: Wall(5), preconditions, changes }
}

fn put_service(id: u128, name: &str) -> Change {
    Change::Put(Object::Service(Box::new(fixture::service(id, name))))
}

fn put_task(task: Task) -> Change {
    Change::Put(Object::Task(Box::new(task)))
}

#[test]
fn an_entry_is_applied_whole_or_not_at_all() {
    let mut store = Store::default();
    let id = ObjectId::Service(ServiceId::new(1));
    let absent = vec![Precondition::Absent(id)];
    let made = store.apply(1, &entry(1, absent.clone(), vec![put_service(1, "web")]));
    assert_eq!(made.result, ApplyResult::Created(ServiceId::new(1)));
    assert_eq!(store.version(id), Some(1));

    let stale = vec![Precondition::Version(id, 1), absent[0]];
    let nothing = store.apply(2, &entry(2, stale, vec![put_service(2, "db")]));
    assert_eq!(nothing.result, ApplyResult::Stale);
    assert!(nothing.effects.is_empty());
    assert_eq!((store.index(), store.services().count()), (2, 1));

    let current = vec![Precondition::Version(id, 1)];
    let done =
        store.apply(3, &entry(3, current, vec![put_service(1, "web"), put_service(2, "db")]));
    assert_eq!(done.result, ApplyResult::Done);
    assert_eq!(store.version(id), Some(3), "the index becomes the version");
}

#[test]
fn a_retried_request_gets_its_first_answer_and_changes_nothing() {
    let mut store = Store::default();
    let create = entry(9, Vec::new(), vec![put_service(1, "web")]);
    store.apply(1, &create);
    store.apply(
        2,
        &entry(10, Vec::new(), vec![Change::Remove(ObjectId::Service(ServiceId::new(1)))]),
    );
    let again = store.apply(3, &create);
    assert_eq!(again.result, ApplyResult::Created(ServiceId::new(1)));
    assert_eq!(store.services().count(), 0);
}

#[test]
fn the_oldest_answers_are_forgotten_and_own_work_is_not_kept() {
    let mut store = Store::default();
    let kept = u64::try_from(REQUESTS_KEPT_MAX).unwrap();
    for index in 1..=kept + 1 {
        store.apply(index, &entry(u128::from(index), Vec::new(), Vec::new()));
    }
    assert_eq!(store.answer(RequestId::new(1)), None);
    assert_eq!(store.answer(RequestId::new(2)), Some(ApplyResult::Done));
    let own = Entry { request: OWN_REQUEST, ..entry(0, Vec::new(), Vec::new()) };
    store.apply(kept + 2, &own);
    assert_eq!(store.answer(OWN_REQUEST), None);
    assert_eq!(store.answer(RequestId::new(2)), Some(ApplyResult::Done));
}

#[test]
fn a_snapshot_that_is_damaged_is_refused() {
    let mut store = Store::default();
    store.apply(1, &entry(1, Vec::new(), vec![put_service(1, "web")]));
    let bytes = store.snapshot().unwrap();
    assert_eq!(Store::restore(&bytes).unwrap().hash(), store.hash());
    for cut in 0..bytes.len() {
        assert!(Store::restore(&bytes[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn a_request_is_not_repeated_after_a_restart_either() {
    let mut store = Store::default();
    let kept = u64::try_from(REQUESTS_KEPT_MAX).unwrap();
    for index in 1..=kept {
        store.apply(index, &entry(u128::from(index), Vec::new(), Vec::new()));
    }
    let stale = vec![Precondition::Version(ObjectId::Task(TaskId::new(1)), 1)];
    store.apply(kept + 1, &entry(900_000, stale.clone(), vec![put_service(1, "web")]));
    let mut restored = Store::restore(&store.snapshot().unwrap()).unwrap();
    for store in [&mut store, &mut restored] {
        // What did not hold does not hold for the retry, even if it would now.
        store.apply(kept + 2, &entry(900_001, Vec::new(), vec![put_task(fixture::task(1, 1))]));
        assert_eq!(store.answer(RequestId::new(900_000)), Some(ApplyResult::Stale));
        let again = store.apply(kept + 3, &entry(900_000, stale.clone(), Vec::new()));
        assert_eq!(again.result, ApplyResult::Stale);
        // The oldest ones made room, in the order in which they came.
        let answers = [1, 2, 3, 4].map(|n| store.answer(RequestId::new(n)).is_some());
        assert_eq!(answers, [false, false, true, true]);
        // One that is forgotten is taken for a new one, and its answer is kept again.
        let new = store.apply(kept + 4, &entry(1, Vec::new(), vec![put_service(1, "web")]));
        assert_eq!(new.result, ApplyResult::Created(ServiceId::new(1)));
        assert_eq!(store.answer(RequestId::new(3)), None);
    }
    assert_eq!(store.hash(), restored.hash());
}

#[test]
fn each_precondition_is_of_its_kind_and_version() {
    let (node, network) = (fixture::node(1), fixture::network(1, "n", 24));
    let objects = vec![
        Object::Cluster(Box::new(fixture::cluster(5))),
        Object::Node(Box::new(node)),
        Object::Network(Box::new(network)),
        Object::Service(Box::new(fixture::service(1, "web"))),
        Object::Task(Box::new(fixture::task(1, 1))),
    ];
    for object in &objects {
        let id = object.id();
        let mut store = fixture::store(objects.clone());
        assert_eq!(store.version(id), Some(1));
        for (precondition, holds) in [
            (Precondition::Version(id, 1), true),
            (Precondition::Version(id, 0), false),
            (Precondition::Version(id, 2), false),
            (Precondition::Absent(id), false),
        ] {
            let request = u128::from(store.index()) + 10;
            let entry = entry(request, vec![precondition], Vec::new());
            let applied = store.apply(store.index() + 1, &entry);
            assert_eq!(applied.result == ApplyResult::Done, holds, "{precondition:?}");
        }
        // Written again it has another version, the time when it was made stays.
        let index = store.index() + 1;
        let again =
            Entry { time: Wall(9), ..entry(50, Vec::new(), vec![Change::Put(object.clone())]) };
        store.apply(index, &again);
        assert_eq!(store.version(id), Some(index));
        store.apply(index + 1, &entry(51, Vec::new(), vec![Change::Remove(id)]));
        assert_eq!(store.version(id), None);
        let absent = entry(52, vec![Precondition::Absent(id)], vec![Change::Put(object.clone())]);
        let made = store.apply(index + 2, &absent).result;
        assert_ne!(made, ApplyResult::Stale, "{id:?}");
        assert_eq!(store.version(id), Some(index + 2));
    }
    let other = ObjectId::Cluster(ClusterId::new(2));
    assert_eq!(fixture::store(objects).version(other), None);
}

#[test]
fn times_are_those_of_the_first_and_the_last_write() {
    let mut store = Store::default();
    for (index, time) in [(1, 5), (2, 9)] {
        let put = vec![put_service(1, "web")];
        let entry = Entry { time: Wall(time), ..entry(u128::from(index), Vec::new(), put) };
        store.apply(index, &entry);
    }
    let meta = store.service(ServiceId::new(1)).unwrap().meta;
    assert_eq!((meta.version, meta.created, meta.updated), (2, Wall(5), Wall(9)));
}

/// A few ids, so that writes meet each other.
fn change() -> impl Strategy<Value = Change> {
    let task = (1..6u128, 1..4u128, 0..3u128, 0..8u8).prop_map(|(id, service, node, address)| {
        let mut task = fixture::task(id, service);
        task.node = (node > 0).then(|| NodeId::new(node));
        if address > 0 {
            let address = Ipv4Addr::new(10, 0, 0, address);
            task.addresses.push(Address { network: NetworkId::new(1), address });
        }
        put_task(task)
    });
    prop_oneof![
        task,
        (1..4u128, 0..3u8, 0..8u8).prop_map(|(id, name, vip)| {
            let mut service = fixture::service(id, &format!("s{id}-{name}"));
            if vip > 0 {
                let address = Ipv4Addr::new(10, 0, 0, vip);
                service.vips.push(Address { network: NetworkId::new(1), address });
            }
            Change::Put(Object::Service(Box::new(service)))
        }),
        (1..3u128).prop_map(|id| Change::Put(Object::Node(Box::new(fixture::node(id))))),
        (1..3u128, 24..26u8).prop_map(|(id, prefix)| {
            Change::Put(Object::Network(Box::new(fixture::network(id, "n", prefix))))
        }),
        (0..6i64).prop_map(|limit| Change::Put(Object::Cluster(Box::new(fixture::cluster(limit))))),
        (1..6u128).prop_map(|id| Change::Remove(ObjectId::Task(TaskId::new(id)))),
        (1..3u128).prop_map(|id| Change::Remove(ObjectId::Node(NodeId::new(id)))),
        (1..3u128).prop_map(|id| Change::Remove(ObjectId::Network(NetworkId::new(id)))),
        Just(Change::Remove(ObjectId::Cluster(ClusterId::new(1)))),
        (1..4u128).prop_map(|id| Change::Remove(ObjectId::Service(ServiceId::new(id)))),
    ]
}

fn precondition() -> impl Strategy<Value = Precondition> {
    let id = (1..6u128).prop_map(|id| ObjectId::Task(TaskId::new(id)));
    prop_oneof![
        id.clone().prop_map(Precondition::Absent),
        (id, 0..20u64).prop_map(|(id, version)| Precondition::Version(id, version)),
    ]
}

/// What the store should hold: objects by id with the index that wrote them.
type Model = BTreeMap<ObjectId, (u64, Object)>;

fn apply_to_model(model: &mut Model, index: u64, entry: &Entry) {
    let holds = |precondition: &Precondition| match precondition {
        Precondition::Absent(id) => !model.contains_key(id),
        Precondition::Version(id, version) => model.get(id).is_some_and(|(at, _)| at == version),
    };
    if !entry.preconditions.iter().all(holds) {
        return;
    }
    for change in &entry.changes {
        match change {
            Change::Put(object) => {
                model.insert(object.id(), (index, object.clone()));
            }
            Change::Remove(id) => {
                model.remove(id);
            }
        }
    }
}

/// The tables, and the indexes as a walk over the tables would find them.
fn check(store: &Store, model: &Model) {
    let tasks: BTreeMap<TaskId, &Task> = model
        .values()
        .filter_map(|(_, object)| match object {
            Object::Task(task) => Some((task.id, task.as_ref())),
            _ => None,
        })
        .collect();
    assert_eq!(store.tasks_len(), tasks.len());
    let kind = |is: fn(&ObjectId) -> bool| model.keys().filter(|id| is(id)).count();
    assert_eq!(store.services().count(), kind(|id| matches!(id, ObjectId::Service(_))));
    assert_eq!(store.nodes().count(), kind(|id| matches!(id, ObjectId::Node(_))));
    assert_eq!(store.networks().count(), kind(|id| matches!(id, ObjectId::Network(_))));
    assert_eq!(store.cluster().is_some(), kind(|id| matches!(id, ObjectId::Cluster(_))) == 1);
    for (id, (version, _)) in model {
        assert_eq!(store.version(*id), Some(*version));
    }
    for owner in 1..4 {
        let service = ServiceId::new(owner);
        let found: Vec<TaskId> = store.tasks_of_service(service).map(|task| task.id).collect();
        let of = |task: &&&Task| task.service == service;
        assert_eq!(found, tasks.values().filter(of).map(|task| task.id).collect::<Vec<_>>());
        let node = NodeId::new(owner);
        let found: Vec<TaskId> = store.tasks_of_node(node).map(|task| task.id).collect();
        let on = |task: &&&Task| task.node == Some(node);
        assert_eq!(found, tasks.values().filter(on).map(|task| task.id).collect::<Vec<_>>());
    }
    for service in store.services() {
        let named = store.service_named(&service.spec.name);
        assert_eq!(named.map(|it| it.id), Some(service.id));
    }
    for host in 1..8 {
        let address = Ipv4Addr::new(10, 0, 0, host);
        let holder = store.lease(NetworkId::new(1), address);
        let there = |leases: &[Address]| leases.iter().any(|lease| lease.address == address);
        let held = tasks.values().filter(|task| there(&task.addresses));
        let vips = store.services().filter(|service| there(&service.vips));
        let holders: Vec<Lease> = held
            .map(|task| Lease::Task(task.id))
            .chain(vips.map(|service| Lease::Service(service.id)))
            .collect();
        let leased = store.leases_from(NetworkId::new(1), address).next() == Some(address);
        assert_eq!(leased, holder.is_some());
        assert!(holder.is_none_or(|id| holders.contains(&id)), "{address} {holder:?}");
        assert!(holders.len() != 1 || holder == Some(holders[0]) || holder.is_none());
    }
}

proptest! {
    #[test]
    fn the_store_is_the_model_and_follows_itself(
        entries in proptest::collection::vec(
            (
                proptest::collection::vec(precondition(), 0..2),
                proptest::collection::vec(change(), 0..5),
            ),
            0..20,
        )
    ) {
        let (mut store, mut follower, mut model) =
            (Store::default(), Store::default(), Model::new());
        for (index, (preconditions, changes)) in (1..).zip(entries) {
            let entry = entry(u128::from(index) + 100, preconditions, changes);
            let bytes = codec::encode_entry(&entry).unwrap();
            prop_assert_eq!(&codec::decode_entry(&bytes).unwrap(), &entry);
            let applied = store.apply(index, &entry);
            follower.install(index, &entry, &applied);
            apply_to_model(&mut model, index, &entry);
            check(&store, &model);
            check(&follower, &model);
            prop_assert_eq!(store.hash(), follower.hash());
            let restored = Store::restore(&store.snapshot().unwrap()).unwrap();
            prop_assert_eq!(restored.hash(), store.hash());
        }
    }
}
