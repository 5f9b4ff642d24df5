//! Which task is to move, and that moving comes to an end.

use std::sync::Arc;

use proptest::prelude::*;

use super::rebalance::{Moved, REBALANCE_EVERY, REBALANCE_PATIENCE, Rebalance, rebalance};
use super::tests::node;
use super::{Nodes, Overlay};
use crate::base::id::{NodeId, ServiceId, TaskId};
use crate::base::time::{Now, Span, Time, Wall};
use crate::logic::fixture;
use crate::logic::store::{OWN_REQUEST, Store};
use crate::model::entry::{Change, Entry};
use crate::model::node::NodeState;
use crate::model::object::Object;
use crate::model::service::{
    Mode, Mount, MountKind, OnDisconnect, Propagation, Service, UpdateState, UpdateStatus,
};
use crate::model::task::{Task, TaskState};

const SERVICE: ServiceId = ServiceId::new(1);

fn now(seconds: u64) -> Now {
    Now { mono: Time(Span::from_secs(seconds).0), wall: Wall(0) }
}

/// A cluster that wants to be rebalanced.
struct Lab {
    store: Store,
    nodes: Nodes,
}

impl Lab {
    /// Service 1 with one task on each of these nodes, in slots from 1; nodes from 1 to 4.
    fn new(on: &[u128]) -> Self {
        let mut lab = Self { store: Store::default(), nodes: Nodes::default() };
        let mut cluster = fixture::cluster(1);
        cluster.rebalance = true;
        lab.put(Object::Cluster(Box::new(cluster)));
        for id in 1..=4 {
            lab.put(Object::Node(Box::new(node(id))));
            lab.nodes.set_state(NodeId::new(id), NodeState::Ready);
        }
        let mut service = fixture::service(1, "web");
        service.spec.mode = Mode::Replicated { replicas: u64::try_from(on.len()).unwrap() };
        lab.put(Object::Service(Box::new(service)));
        for (slot, on) in (1..).zip(on) {
            let mut task = fixture::task(u128::from(slot), 1);
            (task.slot, task.node) = (slot, Some(NodeId::new(*on)));
            task.status.state = TaskState::Running;
            lab.put(Object::Task(Box::new(task)));
        }
        lab
    }

    fn put(&mut self, object: Object) {
        let (preconditions, changes) = (Vec::new(), vec![Change::Put(object)]);
        let entry = Entry { request: OWN_REQUEST, time: Wall(0), preconditions, changes };
        for effect in self.store.apply(self.store.index() + 1, &entry).effects {
            self.nodes.note(&effect);
        }
    }

    fn edit_service(&mut self, change: impl FnOnce(&mut Service)) {
        let mut service = Arc::unwrap_or_clone(Arc::clone(self.store.service(SERVICE).unwrap()));
        change(&mut service);
        // A new placement alone makes no task an old one.
        self.put(Object::Service(Box::new(service)));
    }

    fn edit_task(&mut self, id: u128, change: impl FnOnce(&mut Task)) {
        let task = self.store.task(TaskId::new(id)).unwrap();
        let mut task = task.as_ref().clone();
        change(&mut task);
        self.put(Object::Task(Box::new(task)));
    }

    /// The number of the task that is to move.
    fn moves(&self) -> Option<u128> {
        rebalance(&self.store, &self.nodes, now(0), None).task.map(|(service, task)| {
            assert_eq!(service, SERVICE);
            task.0.0
        })
    }
}

#[test]
fn a_task_moves_from_the_fullest_to_the_emptiest_node_where_two_are_between() {
    for (on, moves) in [
        (&[1, 2, 3, 4][..], None),
        (&[1, 1, 2, 3], Some(2)),
        (&[1, 2, 3, 1], Some(4)),
        // Four nodes, five tasks: as even as it can be.
        (&[1, 1, 2, 3, 4], None),
        (&[1, 1, 2, 2, 3, 3], Some(6)),
        (&[1, 1, 2, 2, 2, 3], Some(5)),
        (&[1, 1], Some(2)),
        (&[1, 2], None),
        (&[1], None),
        (&[], None),
    ] {
        assert_eq!(Lab::new(on).moves(), moves, "{on:?}");
    }
}

#[test]
fn where_the_cluster_does_not_ask_for_it_nothing_moves() {
    let mut lab = Lab::new(&[1, 1, 1]);
    lab.put(Object::Cluster(Box::new(fixture::cluster(1))));
    let nothing = Rebalance::default();
    assert_eq!(rebalance(&lab.store, &lab.nodes, now(0), None), nothing);
}

fn mount(kind: MountKind, read_only: bool) -> Mount {
    Mount { target: "/data".to_owned(), read_only, kind }
}

fn volume(name: &str) -> MountKind {
    let (name, labels) = (name.to_owned(), Default::default());
    MountKind::Volume { name, labels, no_copy: false, subpath: String::new() }
}

fn bind() -> MountKind {
    let source = "/srv".to_owned();
    MountKind::Bind { source, propagation: Propagation::Rprivate, non_recursive: false }
}

/// What is changed of the service, and whether a task of it moves.
type Case = (fn(&mut Service), bool);

#[test]
fn what_leaves_something_behind_or_is_no_replicated_service_stays() {
    fn update(service: &mut Service, state: UpdateState) {
        let (started, completed, message) = (None, None, String::new());
        service.update_status = Some(UpdateStatus { state, started, completed, message });
    }
    let cases: [Case; 14] = [
        (|_| {}, true),
        (|it| it.spec.task.container.mounts = vec![mount(volume("data"), false)], false),
        (|it| it.spec.task.container.mounts = vec![mount(volume("data"), true)], true),
        (|it| it.spec.task.container.mounts = vec![mount(volume(""), false)], true),
        (|it| it.spec.task.container.mounts = vec![mount(bind(), false)], false),
        (|it| it.spec.task.container.mounts = vec![mount(bind(), true)], true),
        (|it| it.spec.mode = Mode::Global, false),
        (|it| it.spec.mode = Mode::ReplicatedJob { max_concurrent: 3, total: 3 }, false),
        (|it| it.spec.task.on_disconnect = OnDisconnect::Stop, false),
        (|it| update(it, UpdateState::Updating), false),
        (|it| update(it, UpdateState::Paused), false),
        (|it| update(it, UpdateState::Completed), true),
        // As many tasks as wanted, none of an older spec.
        (|it| it.spec.mode = Mode::Replicated { replicas: 4 }, false),
        (
            |it| {
                it.spec_version = 2;
                it.spec.task.force_update = 1;
            },
            false,
        ),
    ];
    for (at, (change, moves)) in cases.into_iter().enumerate() {
        let mut lab = Lab::new(&[1, 1, 1]);
        lab.edit_service(change);
        assert_eq!(lab.moves().is_some(), moves, "{at}");
    }
}

#[test]
fn a_service_that_is_not_at_rest_is_looked_at_later() {
    let changes: [fn(&mut Task); 4] = [
        |task| task.status.state = TaskState::Preparing,
        |task| task.desired = TaskState::Ready,
        |task| task.desired = TaskState::Shutdown,
        |task| task.status.state = TaskState::Failed,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut lab = Lab::new(&[1, 1, 1]);
        lab.edit_task(1, change);
        let looked = rebalance(&lab.store, &lab.nodes, now(0), None);
        let again = Some(Time(REBALANCE_EVERY.0));
        assert_eq!(looked, Rebalance { task: None, again }, "{at}");
    }
    let even = Lab::new(&[1, 2, 3]);
    let looked = rebalance(&even.store, &even.nodes, now(0), None);
    assert_eq!(looked, Rebalance::default(), "nothing to wait for");
}

#[test]
fn one_task_at_a_time_and_seldom() {
    let mut lab = Lab::new(&[1, 1, 1]);
    let mut other = fixture::service(2, "other");
    other.spec.mode = Mode::Replicated { replicas: 1 };
    lab.put(Object::Service(Box::new(other)));
    let last = Some(Moved { service: ServiceId::new(2), at: Time(0) });
    let look = |lab: &Lab, seconds| rebalance(&lab.store, &lab.nodes, now(seconds), last);
    assert_eq!(look(&lab, 59), Rebalance { task: None, again: Some(Time(REBALANCE_EVERY.0)) });
    // The service of the last move is not at rest: it has no task.
    assert_eq!(look(&lab, 60).task, None);
    assert_eq!(look(&lab, REBALANCE_PATIENCE.0 / 1_000_000 - 1).task, None);
    assert!(look(&lab, REBALANCE_PATIENCE.0 / 1_000_000).task.is_some());
    let mut task = fixture::task(9, 2);
    (task.node, task.status.state) = (Some(NodeId::new(1)), TaskState::Running);
    lab.put(Object::Task(Box::new(task)));
    assert!(look(&lab, 60).task.is_some());
    assert_eq!(look(&lab, 60).again, Some(Time(2 * REBALANCE_EVERY.0)));
}

#[test]
fn services_take_turns() {
    let mut lab = Lab::new(&[1, 1]);
    let mut other = fixture::service(2, "other");
    other.spec.mode = Mode::Replicated { replicas: 2 };
    lab.put(Object::Service(Box::new(other)));
    for slot in 1..=2 {
        let mut task = fixture::task(u128::from(10 + slot), 2);
        (task.slot, task.node) = (slot, Some(NodeId::new(1)));
        task.status.state = TaskState::Running;
        lab.put(Object::Task(Box::new(task)));
    }
    let next = |last: Option<u128>| {
        let last = last.map(|id| Moved { service: ServiceId::new(id), at: Time(0) });
        let looked = rebalance(&lab.store, &lab.nodes, now(60), last);
        looked.task.map(|(service, _)| service.0.0)
    };
    assert_eq!([next(None), next(Some(1)), next(Some(2))], [Some(1), Some(2), Some(1)]);
}

#[test]
fn nothing_moves_to_where_the_scheduler_would_not_place_it() {
    let mut lab = Lab::new(&[1, 1, 1]);
    lab.edit_service(|it| it.spec.task.placement.constraints = vec!["node.labels.zone==z1".into()]);
    assert_eq!(lab.moves(), None);
    lab.edit_service(|it| {
        it.spec.task.placement.constraints = vec!["node.labels.zone!=z2".into()];
    });
    assert_eq!(lab.moves(), Some(3));
    for id in 2..=4 {
        lab.nodes.set_state(NodeId::new(id), NodeState::Down);
    }
    assert_eq!(lab.moves(), None);
}

#[test]
fn branches_of_a_preference_are_evened_out_first() {
    // Nodes 1 and 2 in one branch, 3 and 4 in another.
    let lab = |on: &[u128]| {
        let mut lab = Lab::new(on);
        for id in 1..=4 {
            let mut node = node(id);
            node.spec.labels = [("dc".to_owned(), (id / 3).to_string())].into();
            lab.put(Object::Node(Box::new(node)));
        }
        lab.edit_service(|it| it.spec.task.placement.spread = vec!["node.labels.dc".into()]);
        lab
    };
    assert_eq!(lab(&[1, 2, 3, 4]).moves(), None);
    assert_eq!(lab(&[1, 2, 1, 3, 4]).moves(), None);
    assert_eq!(lab(&[1, 2, 1, 3]).moves(), Some(3));
    // Inside a branch, too.
    assert_eq!(lab(&[1, 1, 3, 4]).moves(), Some(2));
    assert_eq!(lab(&[1, 1, 3]).moves(), Some(2));
    // One more in a branch is even, though the other one has the emptier nodes.
    let mut even = lab(&[1, 2, 3]);
    for id in 1..=2 {
        let mut other = fixture::task(100 + id, 2);
        (other.node, other.status.state) = (Some(NodeId::new(id)), TaskState::Running);
        even.put(Object::Task(Box::new(other)));
    }
    assert_eq!(even.moves(), None);
}

proptest! {
    #[test]
    fn moves_come_to_an_end_at_an_even_spread(on in proptest::collection::vec(1..5u128, 2..14)) {
        let mut lab = Lab::new(&on);
        let mut moves = 0;
        while let Some(id) = lab.moves() {
            moves += 1;
            prop_assert!(moves <= on.len(), "moved to and fro");
            let mut task = lab.store.task(TaskId::new(id)).unwrap().as_ref().clone();
            task.node = None;
            let nodes = lab.nodes.clone();
            prop_assert!(Overlay::new(&nodes, Wall(0)).place(&mut task, None).is_ok());
            lab.put(Object::Task(Box::new(task)));
        }
        let mut counts = [0usize; 4];
        for task in lab.store.tasks() {
            counts[usize::try_from(task.node.unwrap().0.0 - 1).unwrap()] += 1;
        }
        prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
    }
}
