//! The table and its overlay against plain models, at random.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::node;
use super::{Nodes, Overlay};
use crate::base::id::{NodeId, TaskId};
use crate::base::time::Wall;
use crate::logic::fixture;
use crate::logic::store::{OWN_REQUEST, Store};
use crate::model::entry::{Change, Entry};
use crate::model::node::{Availability, Node, NodeState};
use crate::model::object::{Object, ObjectId};
use crate::model::resource::Generic;
use crate::model::service::PublishMode;
use crate::model::task::{Task, TaskState};

const STATES: [TaskState; 7] = [
    TaskState::New,
    TaskState::Pending,
    TaskState::Assigned,
    TaskState::Running,
    TaskState::Complete,
    TaskState::Failed,
    TaskState::Shutdown,
];

fn some_node() -> impl Strategy<Value = Node> {
    let paused = proptest::bool::weighted(0.2);
    (1..6u128, paused, 0..3u8, 0..200u64).prop_map(|(id, paused, zone, memory)| {
        let mut node = node(id);
        if paused {
            node.spec.availability = Availability::Pause;
        }
        let zone = (zone > 0).then(|| ("zone".to_owned(), zone.to_string()));
        node.spec.labels = zone.into_iter().collect();
        node.description.memory_bytes = memory;
        node.description.generic =
            ["a", "b"].map(|it| Generic::Named { kind: "gpu".into(), value: it.into() }).to_vec();
        node
    })
}

/// A task that may be on a node.
fn some_task() -> impl Strategy<Value = Task> {
    let place = (1..12u128, 1..3u128, proptest::option::of(1..6u128));
    let states = (proptest::sample::select(&STATES), proptest::sample::select(&STATES));
    let wants = (0..40u64, proptest::option::of(80..82u16), proptest::option::of(0..2usize));
    (place, states, wants).prop_map(|((id, service, on), (state, desired), (memory, port, gpu))| {
        let mut task = fixture::task(id, service);
        task.node = on.map(NodeId::new);
        (task.status.state, task.desired) = (state, desired);
        task.spec.resources.reserve_memory_bytes = memory;
        task.ports = port.map(|port| fixture::port(port, PublishMode::Host)).into_iter().collect();
        let pieces = ["a", "b"].map(|it| Generic::Named { kind: "gpu".into(), value: it.into() });
        task.generic = gpu.map(|at| pieces[at].clone()).into_iter().collect();
        task
    })
}

/// What happens to the table.
#[derive(Clone, Debug)]
enum Event {
    Write(Change),
    State(u128, NodeState),
}

fn event() -> impl Strategy<Value = Event> {
    let put = |object| Event::Write(Change::Put(object));
    let remove = |id| Event::Write(Change::Remove(id));
    let states =
        proptest::sample::select(vec![NodeState::Ready, NodeState::Unknown, NodeState::Down]);
    prop_oneof![
        3 => some_node().prop_map(move |node| put(Object::Node(Box::new(node)))),
        6 => some_task().prop_map(move |task| put(Object::Task(Box::new(task)))),
        1 => (1..6u128).prop_map(move |id| remove(ObjectId::Node(NodeId::new(id)))),
        2 => (1..12u128).prop_map(move |id| remove(ObjectId::Task(TaskId::new(id)))),
        2 => (1..6u128, states).prop_map(|(id, state)| Event::State(id, state)),
    ]
}

/// A store and the table that follows it.
#[derive(Default)]
struct Lab {
    store: Store,
    nodes: Nodes,
}

impl Lab {
    fn write(&mut self, change: Change) {
        let time = Wall(1);
        let changes = vec![change];
        let entry = Entry { request: OWN_REQUEST, time, preconditions: Vec::new(), changes };
        for effect in self.store.apply(self.store.index() + 1, &entry).effects {
            self.nodes.note(&effect);
            self.nodes.note(&effect);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Write(change) => self.write(change),
            // The manager sets states of nodes that are there.
            Event::State(id, state) => {
                if self.store.node(NodeId::new(id)).is_some() {
                    self.nodes.set_state(NodeId::new(id), state);
                }
            }
        }
    }
}

/// The node for the task by the rules as they are written, from tables made anew.
fn slow(lab: &Lab, task: &Task) -> Option<NodeId> {
    let fresh = Nodes::new(&lab.store, lab.nodes.states());
    let live = || {
        lab.store.tasks().filter(|task| {
            !task.status.state.is_terminal() && task.status.state >= TaskState::Assigned
        })
    };
    let count = |of: &dyn Fn(&Task) -> bool| live().filter(|task| of(task)).count();
    let of_service =
        |other: &Task| other.service == task.service && other.desired <= TaskState::Complete;
    let zone = |node: &Node| node.spec.labels.get("zone").cloned().unwrap_or_default();
    let fits = lab.store.nodes().filter(|node| {
        let mut task = task.clone();
        Overlay::new(&fresh, Wall(0)).confirm(node.id, &mut task).is_ok()
    });
    let best = fits.min_by_key(|node| {
        let on = |task: &Task| task.node == Some(node.id);
        let in_zone = |task: &Task| {
            let other = task.node.and_then(|other| lab.store.node(other));
            other.is_some_and(|other| zone(other) == zone(node))
        };
        let branch = if task.spec.placement.spread.is_empty() {
            0
        } else {
            count(&|task| of_service(task) && in_zone(task))
        };
        (branch, count(&|task| of_service(task) && on(task)), count(&on), node.id)
    });
    best.map(|node| node.id)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_table_is_what_a_walk_over_the_store_would_make_of_it(
        events in proptest::collection::vec(event(), 0..60)
    ) {
        let mut lab = Lab::default();
        let mut early = Store::default();
        for (n, event) in events.into_iter().enumerate() {
            lab.happen(event);
            if n < 20 {
                early = lab.store.clone();
            }
            let anew = Nodes::new(&lab.store, lab.nodes.states());
            prop_assert_eq!(lab.nodes.shown(), anew.shown());
        }
        // What came after is refused.
        lab.nodes.reset(&early);
        prop_assert_eq!(lab.nodes.shown(), Nodes::new(&early, lab.nodes.states()).shown());
    }

    #[test]
    fn many_tasks_come_where_each_would_come_by_itself(
        events in proptest::collection::vec(event(), 0..40),
        wants in proptest::collection::vec((0..3u8, 1..3u128, 0..12u64), 1..8),
        changed in proptest::collection::vec(some_task(), 0..4),
    ) {
        let mut lab = Lab::default();
        for event in events {
            lab.happen(event);
        }
        let nodes = lab.nodes.clone();
        let mut overlay = Overlay::new(&nodes, Wall(0));
        for task in changed {
            overlay.put(&task);
            lab.write(Change::Put(Object::Task(Box::new(task))));
        }
        let mut id = 100;
        for (kind, service, memory) in wants {
            let mut task = fixture::task(0, service);
            task.spec.resources.reserve_memory_bytes = memory;
            match kind {
                1 => task.spec.resources.reserve_generic = vec![("gpu".to_owned(), 1)],
                2 => task.ports = vec![fixture::port(80, PublishMode::Host)],
                _ => {}
            }
            if memory % 2 == 1 {
                task.spec.placement.spread = vec!["node.labels.zone".to_owned()];
            }
            task.spec.placement.max_replicas = memory % 3 * 2;
            for _ in 0..4 {
                id += 1;
                task.id = TaskId::new(id);
                let mut placed = task.clone();
                let wanted = slow(&lab, &task);
                prop_assert_eq!(overlay.place(&mut placed, None).ok(), wanted);
                prop_assert_eq!(placed.node, wanted);
                placed.status.state = TaskState::Assigned;
                lab.write(Change::Put(Object::Task(Box::new(placed))));
            }
        }
        // A named piece is given once, unless it was given twice before.
        let mut pieces: BTreeMap<(NodeId, &Generic), usize> = BTreeMap::new();
        let new = lab.store.tasks().filter(|task| task.id >= TaskId::new(100));
        for task in new {
            for piece in &task.generic {
                *pieces.entry((task.node.unwrap(), piece)).or_default() += 1;
            }
        }
        prop_assert!(pieces.values().all(|count| *count == 1), "{:?}", pieces);
    }
}
