//! Which node a task gets, or why none: filter by filter, and at random.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Nodes, Overlay, TASKS_PER_NODE_MAX};
use crate::base::id::{NodeId, TaskId};
use crate::base::time::Wall;
use crate::logic::fixture;
use crate::logic::store::{Effect, Store};
use crate::model::node::{Availability, Node, NodeState, Platform};
use crate::model::object::Object;
use crate::model::resource::Generic;
use crate::model::service::{Device, Port, Protocol, PublishMode};
use crate::model::task::{Task, TaskState};

/// Nodes of 4 CPUs and 1000 bytes, numbered from 1, all ready.
pub(super) struct Lab {
    store: Store,
    states: BTreeMap<NodeId, NodeState>,
    tasks: Vec<Task>,
}

pub(super) fn node(id: u128) -> Node {
    let mut node = fixture::node(id);
    let description = &mut node.description;
    (description.nano_cpus, description.memory_bytes) = (4_000_000_000, 1_000);
    description.generic = vec![count("gpu", 2)];
    description.platform = platform("linux", "arm64");
    node.spec.labels = [("zone".to_owned(), format!("z{id}"))].into();
    node
}

fn count(kind: &str, count: u64) -> Generic {
    Generic::Count { kind: kind.to_owned(), count }
}

fn named(kind: &str, value: &str) -> Generic {
    Generic::Named { kind: kind.to_owned(), value: value.to_owned() }
}

fn platform(os: &str, arch: &str) -> Platform {
    Platform { os: os.to_owned(), arch: arch.to_owned(), variant: String::new() }
}

/// A task of this service that has a node.
pub(super) fn placed(service: u128, on: u128) -> Task {
    let mut task = fixture::task(0, service);
    task.node = Some(NodeId::new(on));
    task.status.state = TaskState::Running;
    task
}

impl Lab {
    /// The tasks are numbered from 1000.
    pub(super) fn new(nodes: Vec<Node>, mut tasks: Vec<Task>) -> Self {
        for (id, task) in (1_000..).zip(&mut tasks) {
            task.id = TaskId::new(id);
        }
        let states = nodes.iter().map(|node| (node.id, NodeState::Ready)).collect();
        let objects = nodes.into_iter().map(|node| Object::Node(Box::new(node))).collect();
        Self { store: fixture::store(objects), states, tasks }
    }

    pub(super) fn nodes(&self) -> Nodes {
        let mut nodes = Nodes::new(&self.store, &self.states);
        for task in &self.tasks {
            nodes.note(&Effect::Task(Arc::new(task.clone())));
        }
        nodes
    }

    /// The number of the node, or the reason.
    pub(super) fn place(&self, task: &Task) -> Result<u128, String> {
        self.give(task).map(|task| task.node.unwrap().0.0)
    }

    /// The task with its node and what it gets of it.
    fn give(&self, task: &Task) -> Result<Task, String> {
        let mut task = task.clone();
        Overlay::new(&self.nodes(), Wall(0)).place(&mut task, None)?;
        Ok(task)
    }
}

fn host_port(published: u16, protocol: Protocol) -> Port {
    Port { protocol, ..fixture::port(published, PublishMode::Host) }
}

type Change<T> = fn(&mut T);

/// What is changed of node and task, and the reason that is given, if any.
type Case = (Change<Node>, Change<Task>, Option<&'static str>);

fn check(cases: &[Case]) {
    for (at, (change_node, change_task, reason)) in cases.iter().enumerate() {
        let (mut node, mut task) = (node(1), fixture::task(1, 1));
        change_node(&mut node);
        change_task(&mut task);
        let wanted = reason.map_or(Ok(1), |text| Err(format!("no suitable node ({text})")));
        assert_eq!(Lab::new(vec![node], Vec::new()).place(&task), wanted, "case {at}");
    }
}

fn gpus(task: &mut Task, kind: &str, count: u64) {
    task.spec.resources.reserve_generic = vec![(kind.to_owned(), count)];
}

fn named_gpus(node: &mut Node) {
    node.description.generic = vec![named("gpu", "b"), named("gpu", "a"), count("ssd", 1)];
}

fn device(path: &str) -> Device {
    let path = path.to_owned();
    Device { path_on_host: path.clone(), path_in_container: path, permissions: "rwm".to_owned() }
}

fn devices(task: &mut Task, paths: &[&str]) {
    task.spec.container.devices = paths.iter().map(|path| device(path)).collect();
}

fn with_devices(node: &mut Node) {
    node.description.devices = ["/dev/bus", "/dev/ttyUSB0"].map(str::to_owned).to_vec();
}

fn constrain(task: &mut Task, constraints: &[&str]) {
    task.spec.placement.constraints = constraints.iter().map(|text| text.to_string()).collect();
}

fn platforms(task: &mut Task, platforms: &[(&str, &str)]) {
    let platforms = platforms.iter().map(|(os, arch)| platform(os, arch));
    task.spec.placement.platforms = platforms.collect();
}

const BUSY: Option<&str> = Some("1 node not available for new tasks");
const SMALL: Option<&str> = Some("insufficient resources on 1 node");
const CONSTRAINED: Option<&str> = Some("scheduling constraints not satisfied on 1 node");
const FOREIGN: Option<&str> = Some("unsupported platform on 1 node");

#[test]
fn a_node_that_is_paused_drained_or_too_small_is_refused_in_dockers_words() {
    check(&[
        (|_| {}, |_| {}, None),
        (|node| node.spec.availability = Availability::Pause, |_| {}, BUSY),
        (|node| node.spec.availability = Availability::Drain, |_| {}, BUSY),
        (|_| {}, |task| task.spec.resources.reserve_memory_bytes = 1_000, None),
        (|_| {}, |task| task.spec.resources.reserve_memory_bytes = 1_001, SMALL),
        (|_| {}, |task| task.spec.resources.reserve_nano_cpus = 4_000_000_000, None),
        (|_| {}, |task| task.spec.resources.reserve_nano_cpus = u64::MAX, SMALL),
        (|_| {}, |task| gpus(task, "gpu", 2), None),
        (|_| {}, |task| gpus(task, "gpu", 3), SMALL),
        (|_| {}, |task| gpus(task, "fpga", 1), SMALL),
        (|_| {}, |task| gpus(task, "fpga", 0), None),
        (named_gpus, |task| gpus(task, "gpu", 2), None),
        (named_gpus, |task| gpus(task, "gpu", 3), SMALL),
        // A limit is no reservation.
        (|_| {}, |task| task.spec.resources.limit_memory_bytes = u64::MAX, None),
        // Filters are asked in swarm's order: the first that refuses is the reason.
        (|node| node.spec.availability = Availability::Drain, |task| gpus(task, "fpga", 1), BUSY),
    ]);
}

#[test]
fn a_node_that_is_not_the_kind_that_is_wanted_is_refused_in_dockers_words() {
    check(&[
        (|_| {}, |task| constrain(task, &["node.labels.zone==z1"]), None),
        (|_| {}, |task| constrain(task, &["node.labels.zone!=z1"]), CONSTRAINED),
        // All of them are to hold.
        (|_| {}, |task| constrain(task, &["node.labels.zone==z1", "node.id!=x"]), None),
        (|_| {}, |task| constrain(task, &["node.labels.zone==z1", "node.id==x"]), CONSTRAINED),
        // One of these is enough.
        (|_| {}, |task| platforms(task, &[("linux", "aarch64")]), None),
        (|_| {}, |task| platforms(task, &[("linux", "amd64"), ("linux", "arm64")]), None),
        (|_| {}, |task| platforms(task, &[("", "")]), None),
        (|_| {}, |task| platforms(task, &[("linux", "x86_64")]), FOREIGN),
        (|_| {}, |task| platforms(task, &[("windows", "arm64")]), FOREIGN),
        (
            |_| {},
            |task| {
                constrain(task, &["node.id==x"]);
                platforms(task, &[("windows", "arm64")]);
            },
            CONSTRAINED,
        ),
    ]);
}

#[test]
fn a_node_without_the_device_is_refused() {
    let missing = Some("device not available on 1 node");
    check(&[
        (|_| {}, |task| devices(task, &["/dev/ttyUSB0"]), missing),
        (with_devices, |task| devices(task, &["/dev/ttyUSB0"]), None),
        (with_devices, |task| devices(task, &["/dev/ttyUSB0/"]), None),
        (with_devices, |task| devices(task, &["/dev/ttyUSB1"]), missing),
        (with_devices, |task| devices(task, &["/dev/ttyUSB01"]), missing),
        // All of them are to be there; a folder that is listed covers what is in it.
        (with_devices, |task| devices(task, &["/dev/ttyUSB0", "/dev/bus/usb/001/004"]), None),
        (with_devices, |task| devices(task, &["/dev/ttyUSB0", "/dev/bus2/usb"]), missing),
        (with_devices, |task| devices(task, &["/dev"]), missing),
        // Asked before the constraints, after what is reserved.
        (
            |_| {},
            |task| {
                constrain(task, &["node.id==x"]);
                devices(task, &["/dev/ttyUSB0"]);
            },
            missing,
        ),
        (
            |_| {},
            |task| {
                gpus(task, "fpga", 1);
                devices(task, &["/dev/ttyUSB0"]);
            },
            SMALL,
        ),
    ]);
}

#[test]
fn a_task_gets_pieces_of_a_named_resource_that_no_other_has() {
    let mut node = node(1);
    node.description.generic = vec![named("gpu", "c"), named("gpu", "a"), named("gpu", "b")];
    node.description.generic.push(count("ssd", 3));
    let mut task = fixture::task(1, 1);
    task.spec.resources.reserve_generic = vec![("ssd".to_owned(), 2), ("gpu".to_owned(), 2)];
    let first = Lab::new(vec![node.clone()], Vec::new()).give(&task).unwrap();
    let got = vec![named("gpu", "a"), named("gpu", "b"), count("ssd", 2)];
    assert_eq!(first.generic, got);

    let mut holder = Task { generic: got, ..placed(2, 1) };
    gpus(&mut task, "gpu", 1);
    let lab = |holder: &Task| Lab::new(vec![node.clone()], vec![holder.clone()]);
    assert_eq!(lab(&holder).give(&task).unwrap().generic, [named("gpu", "c")]);
    gpus(&mut task, "gpu", 2);
    assert!(lab(&holder).give(&task).is_err());
    gpus(&mut task, "ssd", 2);
    assert!(lab(&holder).give(&task).is_err());
    gpus(&mut task, "ssd", 1);
    assert!(lab(&holder).give(&task).is_ok());
    holder.status.state = TaskState::Failed;
    gpus(&mut task, "gpu", 3);
    assert!(lab(&holder).give(&task).is_ok(), "released when it has ended");

    // Placed by a release that assigned none: it holds what it reserves.
    let mut old = placed(2, 1);
    gpus(&mut old, "ssd", 2);
    gpus(&mut task, "ssd", 2);
    assert!(lab(&old).give(&task).is_err());
    gpus(&mut task, "ssd", 1);
    assert!(lab(&old).give(&task).is_ok());
}

#[test]
fn a_host_port_on_every_address_is_in_the_way_of_one_on_a_single_address() {
    let on = |ip: Option<[u8; 4]>| {
        let host_ip = ip.map(std::net::IpAddr::from);
        vec![Port { host_ip, ..host_port(80, Protocol::Tcp) }]
    };
    let (all, a, b) = (None, Some([10, 0, 0, 1]), Some([10, 0, 0, 2]));
    for (held, wanted, free) in
        [(all, all, false), (all, a, false), (a, all, false), (a, a, false), (a, b, true)]
    {
        let holder = Task { ports: on(held), ..placed(2, 1) };
        let task = Task { ports: on(wanted), ..fixture::task(1, 1) };
        let got = Lab::new(vec![node(1)], vec![holder]).place(&task);
        assert_eq!(got.is_ok(), free, "{held:?} {wanted:?}");
    }
}

#[test]
fn only_a_node_that_is_heard_of_gets_tasks() {
    let mut lab = Lab::new(vec![node(1)], Vec::new());
    let refused = Err("no suitable node (1 node not available for new tasks)".to_owned());
    for (state, wanted) in [
        (Some(NodeState::Ready), Ok(1)),
        (Some(NodeState::Unknown), refused.clone()),
        (Some(NodeState::Down), refused.clone()),
        (None, refused),
    ] {
        lab.states = state.map(|state| (NodeId::new(1), state)).into_iter().collect();
        assert_eq!(lab.place(&fixture::task(1, 1)), wanted, "{state:?}");
    }
    let none = Lab::new(Vec::new(), Vec::new()).place(&fixture::task(1, 1));
    assert_eq!(none, Err("no suitable node".to_owned()));
}

#[test]
fn reasons_of_several_nodes_are_joined_most_frequent_first() {
    let mut nodes: Vec<Node> = (1..=6).map(node).collect();
    nodes[0].spec.availability = Availability::Drain;
    for node in &mut nodes[1..=2] {
        node.description.memory_bytes = 10;
    }
    for node in &mut nodes[3..] {
        node.spec.labels.clear();
    }
    let mut task = fixture::task(1, 1);
    task.spec.resources.reserve_memory_bytes = 100;
    constrain(&mut task, &["node.labels.zone!=none", "node.labels.zone==z1"]);
    let text = "no suitable node (scheduling constraints not satisfied on 3 nodes; insufficient \
                resources on 2 nodes; 1 node not available for new tasks)";
    assert_eq!(Lab::new(nodes.clone(), Vec::new()).place(&task), Err(text.to_owned()));
    for node in &mut nodes {
        node.spec.availability = Availability::Pause;
    }
    let text = "no suitable node (6 nodes not available for new tasks)";
    assert_eq!(Lab::new(nodes, Vec::new()).place(&task), Err(text.to_owned()));
}

#[test]
fn a_task_takes_what_it_reserves_until_it_has_ended() {
    let mut holder = placed(2, 1);
    holder.spec.resources.reserve_memory_bytes = 900;
    holder.spec.resources.reserve_nano_cpus = 3_500_000_000;
    holder.spec.resources.reserve_generic = vec![("gpu".to_owned(), 1)];
    holder.ports = vec![host_port(80, Protocol::Tcp)];
    let wants: [Change<Task>; 4] = [
        |task| task.spec.resources.reserve_memory_bytes = 101,
        |task| task.spec.resources.reserve_nano_cpus = 500_000_001,
        |task| task.spec.resources.reserve_generic = vec![("gpu".to_owned(), 2)],
        |task| task.ports = vec![host_port(80, Protocol::Tcp)],
    ];
    for (want, on) in wants.iter().zip(["resources", "resources", "resources", "port"]) {
        let mut task = fixture::task(1, 1);
        want(&mut task);
        for (state, desired, free) in [
            (TaskState::Assigned, TaskState::Running, false),
            (TaskState::Running, TaskState::Running, false),
            // Asked to stop is not stopped.
            (TaskState::Running, TaskState::Shutdown, false),
            (TaskState::Shutdown, TaskState::Shutdown, true),
            (TaskState::Failed, TaskState::Running, true),
            (TaskState::Rejected, TaskState::Running, true),
        ] {
            (holder.status.state, holder.desired) = (state, desired);
            let result = Lab::new(vec![node(1)], vec![holder.clone()]).place(&task);
            assert_eq!(result.is_ok(), free, "{on} {state:?} {result:?}");
        }
    }
    (holder.status.state, holder.desired) = (TaskState::Running, TaskState::Running);
    let lab = Lab::new(vec![node(1)], vec![holder]);
    let mut task = fixture::task(1, 1);
    task.spec.resources.reserve_memory_bytes = 100;
    task.spec.resources.reserve_nano_cpus = 500_000_000;
    task.spec.resources.reserve_generic = vec![("gpu".to_owned(), 1)];
    for port in
        [host_port(80, Protocol::Udp), host_port(81, Protocol::Tcp), host_port(0, Protocol::Tcp)]
    {
        task.ports = vec![port];
        assert_eq!(lab.place(&task), Ok(1), "the rest is there");
    }
    task.ports = vec![host_port(80, Protocol::Tcp)];
    let text = "no suitable node (host-mode port already in use on 1 node)";
    assert_eq!(lab.place(&task), Err(text.to_owned()));
}

#[test]
fn a_node_holds_so_many_tasks_of_a_service_and_so_many_at_all() {
    let mut task = fixture::task(1, 1);
    task.spec.placement.max_replicas = 2;
    let mut stops = placed(1, 1);
    stops.desired = TaskState::Shutdown;
    let lab = Lab::new(vec![node(1)], vec![placed(1, 1), placed(2, 1), stops]);
    assert_eq!(lab.place(&task), Ok(1), "another service's and one that is to stop do not count");
    let lab = Lab::new(vec![node(1)], vec![placed(1, 1), placed(1, 1)]);
    let text = "no suitable node (max replicas per node limit exceed)";
    assert_eq!(lab.place(&task), Err(text.to_owned()));
    let full = usize::try_from(TASKS_PER_NODE_MAX).unwrap();
    task.spec.placement.max_replicas = 0;
    let lab = Lab::new(vec![node(1)], vec![placed(2, 1); full]);
    let text = "no suitable node (limit of 1000 tasks reached on 1 node)";
    assert_eq!(lab.place(&task), Err(text.to_owned()));
    let lab = Lab::new(vec![node(1)], vec![placed(2, 1); full - 1]);
    assert_eq!(lab.place(&task), Ok(1));
}

#[test]
fn the_node_with_fewest_tasks_of_the_service_then_fewest_at_all_then_the_lowest() {
    let nodes = || (1..=3).map(node).collect::<Vec<_>>();
    for (tasks, wanted) in [
        (vec![], 1),
        (vec![placed(1, 1)], 2),
        (vec![placed(1, 1), placed(2, 2)], 3),
        (vec![placed(1, 1), placed(2, 2), placed(2, 2), placed(2, 3)], 3),
        // The service's own tasks count first.
        (vec![placed(1, 1), placed(1, 2), placed(2, 3), placed(2, 3), placed(2, 3)], 3),
        (vec![placed(1, 1), placed(1, 2), placed(1, 3), placed(2, 1), placed(2, 2)], 3),
    ] {
        let counts = tasks.len();
        assert_eq!(Lab::new(nodes(), tasks).place(&fixture::task(9, 1)), Ok(wanted), "{counts}");
    }
}

#[test]
fn a_global_service_wants_every_node_that_is_not_drained_or_gone() {
    let eligible = |change: Change<Node>, state, constraint: &str| {
        let mut node = node(1);
        change(&mut node);
        let mut lab = Lab::new(vec![node], Vec::new());
        lab.states.insert(NodeId::new(1), state);
        let mut task = fixture::task(1, 1);
        constrain(&mut task, &[constraint]);
        // What a node has left is not asked: the task waits there.
        task.spec.resources.reserve_memory_bytes = u64::MAX;
        Overlay::new(&lab.nodes(), Wall(0)).eligible(NodeId::new(1), &task.spec)
    };
    use NodeState::{Down, Ready, Unknown};
    assert!(eligible(|_| {}, Ready, "node.labels.zone==z1"));
    assert!(eligible(|_| {}, Unknown, "node.labels.zone==z1"));
    assert!(eligible(|node| node.spec.availability = Availability::Pause, Ready, "node.id!=x"));
    assert!(!eligible(|node| node.spec.availability = Availability::Drain, Ready, "node.id!=x"));
    assert!(!eligible(|_| {}, Down, "node.id!=x"));
    assert!(!eligible(|_| {}, Ready, "node.id==x"));
    let lab = Lab::new(vec![node(1)], Vec::new());
    let (nodes, mut task) = (lab.nodes(), fixture::task(1, 1));
    let mut overlay = Overlay::new(&nodes, Wall(0));
    assert!(!overlay.eligible(NodeId::new(2), &task.spec), "no such node");
    let text = Err("no suitable node".to_owned());
    assert_eq!(overlay.confirm(NodeId::new(2), &mut task), text);
    task.spec.container.devices = vec![device("/dev/ttyUSB0")];
    assert!(!overlay.eligible(NodeId::new(1), &task.spec), "a node without the device");
}
