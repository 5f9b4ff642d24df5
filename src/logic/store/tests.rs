//! `apply` case by case.

use super::{ApplyResult, Lease, OWN_REQUEST, REQUESTS_KEPT_MAX, Store};
use crate::base::id::{ClusterId, NetworkId, RequestId, ServiceId, TaskId};
use crate::base::time::Wall;
use crate::logic::fixture;
use crate::model::entry::{Change, Entry, Precondition};
use crate::model::object::{Object, ObjectId};
use crate::model::sample;
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
    assert_eq!(made.result, ApplyResult::Created(ObjectId::Service(ServiceId::new(1))));
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
    assert_eq!(again.result, ApplyResult::Created(ObjectId::Service(ServiceId::new(1))));
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
        assert_eq!(new.result, ApplyResult::Created(ObjectId::Service(ServiceId::new(1))));
        assert_eq!(store.answer(RequestId::new(3)), None);
    }
    assert_eq!(store.hash(), restored.hash());
}

#[test]
fn each_precondition_is_of_its_kind_and_version() {
    let objects = sample::objects();
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
        assert_eq!(made, ApplyResult::Created(id));
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

#[test]
fn an_entry_tells_what_each_write_took_the_place_of() {
    let mut store = Store::default();
    let id = ObjectId::Service(ServiceId::new(1));
    let changes = vec![Change::Remove(id), put_service(1, "web"), put_service(1, "db")];
    let made = store.apply(1, &entry(1, Vec::new(), changes));
    let first = made.effects[1].stored();
    assert_eq!(made.before, [None, None, first]);
    let last = store.get(id);
    let removed = store.apply(2, &entry(2, Vec::new(), vec![Change::Remove(id)]));
    assert_eq!((removed.before, store.get(id)), (vec![last], None));
}

#[test]
fn the_cluster_is_removed_by_its_own_id_only() {
    let mut store = fixture::store(vec![Object::Cluster(Box::new(fixture::cluster(5)))]);
    for (index, id, left) in [(2, 2, true), (3, 1, false)] {
        let remove = vec![Change::Remove(ObjectId::Cluster(ClusterId::new(id)))];
        store.apply(index, &entry(u128::from(index), Vec::new(), remove));
        assert_eq!(store.cluster().is_some(), left, "{id}");
    }
}

#[test]
fn an_address_that_is_given_on_in_one_entry_is_its_new_holders() {
    let (network, address) = (NetworkId::new(1), [10, 0, 0, 2].into());
    let addresses = vec![Address { network, address }];
    let old = Task { addresses: addresses.clone(), ..fixture::task(1, 1) };
    let mut new = fixture::service(2, "db");
    new.vips = addresses;
    let mut store = fixture::store(vec![Object::Task(Box::new(old))]);
    assert_eq!(store.lease(network, address), Some(Lease::Task(fixture::task(1, 1).id)));
    // Taken before it is given back.
    let changes = vec![Change::Put(Object::Service(Box::new(new))), put_task(fixture::task(1, 1))];
    store.apply(2, &entry(1, Vec::new(), changes));
    assert_eq!(store.lease(network, address), Some(Lease::Service(ServiceId::new(2))));
    let removed = vec![Change::Remove(ObjectId::Service(ServiceId::new(2)))];
    store.apply(3, &entry(2, Vec::new(), removed));
    assert_eq!(store.lease(network, address), None);
}
