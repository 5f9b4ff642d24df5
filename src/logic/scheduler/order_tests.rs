//! Which of the nodes that fit a task gets: spread, preferences, failures, memory, home.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::tests::{Lab, node, placed};
use super::{FAILURES_MAX, FAILURES_WINDOW, MemoryUse, Nodes, Overlay};
use crate::base::id::{NodeId, TaskId};
use crate::base::time::Wall;
use crate::logic::fixture;
use crate::logic::store::Effect;
use crate::model::node::{Availability, Node};
use crate::model::task::{Task, TaskState};

const NOW: Wall = Wall(1_000_000_000_000);

/// Places so many tasks of service 1, which spreads over these; how many each node got.
fn place(nodes: &Nodes, spread: &[&str], count: u128) -> BTreeMap<u128, u64> {
    let mut overlay = Overlay::new(nodes, NOW);
    let mut got = BTreeMap::new();
    for id in 1..=count {
        let mut task = fixture::task(id, 1);
        task.spec.placement.spread = spread.iter().map(|over| (*over).to_owned()).collect();
        if let Ok(node) = overlay.place(&mut task, None) {
            *got.entry(node.0.0).or_default() += 1;
        }
    }
    got
}

/// Nodes numbered from 1 with these values of the labels `dc` and `rack`; `-` is none.
fn labelled(labels: &[(&str, &str)]) -> Vec<Node> {
    let mut nodes: Vec<Node> = (1..).zip(labels).map(|(id, _)| node(id)).collect();
    for (node, (dc, rack)) in nodes.iter_mut().zip(labels) {
        let labels = [("dc", dc), ("rack", rack)].into_iter().filter(|(_, value)| **value != "-");
        node.spec.labels =
            labels.map(|(key, value)| (key.to_owned(), (*value).to_owned())).collect();
    }
    nodes
}

fn got(counts: &[(u128, u64)]) -> BTreeMap<u128, u64> {
    counts.iter().copied().collect()
}

#[test]
fn a_preference_evens_out_its_branches_not_its_nodes() {
    let nodes = Lab::new(labelled(&[("a", "-"), ("a", "-"), ("a", "-"), ("b", "-")]), vec![]);
    assert_eq!(place(&nodes.nodes(), &[], 4), got(&[(1, 1), (2, 1), (3, 1), (4, 1)]));
    let over = ["node.labels.dc"];
    assert_eq!(place(&nodes.nodes(), &over, 6), got(&[(1, 1), (2, 1), (3, 1), (4, 3)]));
    assert_eq!(place(&nodes.nodes(), &["NODE.labels.dc"], 2), got(&[(1, 1), (4, 1)]));
    assert_eq!(place(&nodes.nodes(), &["node.labels.DC"], 2), got(&[(1, 1), (2, 1)]));
    // What cannot be spread over is skipped.
    let over = ["node.hostname", "node.labels.", "x", "node.labels.dc"];
    assert_eq!(place(&nodes.nodes(), &over, 6), got(&[(1, 1), (2, 1), (3, 1), (4, 3)]));
}

#[test]
fn nodes_without_the_label_are_one_branch() {
    let nodes = Lab::new(labelled(&[("a", "-"), ("-", "-"), ("-", "-"), ("b", "-")]), vec![]);
    let spread = place(&nodes.nodes(), &["node.labels.dc"], 6);
    assert_eq!(spread, got(&[(1, 2), (2, 1), (3, 1), (4, 2)]));
}

#[test]
fn preferences_are_nested() {
    let labels = [("a", "1"), ("a", "2"), ("a", "2"), ("b", "1"), ("b", "1"), ("b", "2")];
    let nodes = Lab::new(labelled(&labels), vec![]).nodes();
    let spread = place(&nodes, &["node.labels.dc", "node.labels.rack"], 8);
    assert_eq!(spread, got(&[(1, 2), (2, 1), (3, 1), (4, 1), (5, 1), (6, 2)]));
}

#[test]
fn tasks_that_are_there_count_in_their_branch_even_on_a_node_that_takes_no_more() {
    let mut nodes = labelled(&[("a", "-"), ("a", "-"), ("b", "-")]);
    nodes[0].spec.availability = Availability::Pause;
    let lab = Lab::new(nodes, vec![placed(1, 1), placed(1, 1), placed(2, 3), placed(2, 3)]);
    let spread = place(&lab.nodes(), &["node.labels.dc"], 4);
    assert_eq!(spread, got(&[(2, 1), (3, 3)]), "two more before the branches are even");
}

#[test]
fn a_full_branch_leaves_the_rest_to_the_others() {
    let mut nodes = labelled(&[("a", "-"), ("b", "-"), ("b", "-")]);
    nodes[0].description.memory_bytes = 30;
    let lab = Lab::new(nodes, vec![]).nodes();
    let mut overlay = Overlay::new(&lab, NOW);
    let mut task = fixture::task(0, 1);
    task.spec.placement.spread = vec!["node.labels.dc".to_owned()];
    task.spec.resources.reserve_memory_bytes = 10;
    let mut counts = BTreeMap::new();
    for id in 1..=203 {
        let mut task = Task { id: TaskId::new(id), ..task.clone() };
        let placed = overlay.place(&mut task, None);
        let text = "no suitable node (insufficient resources on 3 nodes)";
        match placed {
            Ok(node) => *counts.entry(node.0.0).or_default() += 1,
            Err(error) => assert_eq!(error, text),
        }
    }
    assert_eq!(counts, got(&[(1, 3), (2, 100), (3, 100)]));
}

#[test]
fn branches_that_are_even_are_taken_by_their_best_node() {
    let labels = [("a", "-"), ("b", "-")];
    let lab = Lab::new(labelled(&labels), vec![placed(2, 1), placed(3, 1), placed(2, 2)]);
    // Many services of one task do not all come to the first branch.
    assert_eq!(place(&lab.nodes(), &["node.labels.dc"], 1), got(&[(2, 1)]));
}

fn failed(id: u128, on: u128, at: Wall) -> Task {
    let mut task = placed(1, on);
    task.id = TaskId::new(id);
    task.status.state = TaskState::Failed;
    task.meta.updated = at;
    task
}

#[test]
fn a_node_where_the_service_failed_often_goes_last_for_a_while() {
    let count = u128::try_from(FAILURES_MAX).unwrap();
    let all = |nodes: &mut Nodes, count: u128, change: fn(&mut Task)| {
        for id in 0..count {
            let mut task = failed(id, 1, NOW);
            change(&mut task);
            nodes.note(&Effect::Task(Arc::new(task)));
        }
    };
    let table = |count, change| {
        let mut nodes = Lab::new(vec![node(1), node(2)], vec![placed(1, 2), placed(2, 2)]).nodes();
        all(&mut nodes, count, change);
        nodes
    };
    let choose = |nodes: &Nodes, now: Wall| {
        let node = Overlay::new(nodes, now).place(&mut fixture::task(99, 1), None);
        node.map(|node| node.0.0)
    };
    assert_eq!(choose(&table(count, |_| {}), NOW), Ok(2));
    assert_eq!(choose(&table(count - 1, |_| {}), NOW), Ok(1), "too few");
    let rejected = |task: &mut Task| task.status.state = TaskState::Rejected;
    assert_eq!(choose(&table(count, rejected), NOW), Ok(2));
    let others: [fn(&mut Task); 5] = [
        |task| task.status.state = TaskState::Shutdown,
        |task| task.status.state = TaskState::Complete,
        |task| task.spec_version = 0,
        |task| task.service = fixture::task(1, 2).service,
        |task| task.slot = 0,
    ];
    for (at, change) in others.into_iter().enumerate() {
        assert_eq!(choose(&table(count, change), NOW), Ok(1), "{at}");
    }
    let mut nodes = table(count - 1, |_| {});
    for id in 0..count - 1 {
        let mut later = failed(id, 1, NOW);
        later.addresses.clear();
        nodes.note(&Effect::Task(Arc::new(later)));
    }
    assert_eq!(choose(&nodes, NOW), Ok(1), "what is written of a failed task later is no failure");
    let nodes = table(count, |_| {});
    assert_eq!(choose(&nodes, Wall(NOW.0 + FAILURES_WINDOW.0 - 1)), Ok(2));
    assert_eq!(choose(&nodes, Wall(NOW.0 + FAILURES_WINDOW.0)), Ok(1));
    assert_eq!(choose(&nodes, Wall(0)), Ok(1), "the clock was set back");
    // It is last, not out.
    let mut nodes = table(count, |_| {});
    let mut gone = node(2);
    gone.spec.availability = Availability::Drain;
    nodes.note(&Effect::Node(Arc::new(gone)));
    assert_eq!(choose(&nodes, NOW), Ok(1));
}

#[test]
fn memory_in_use_decides_among_equals_and_is_no_reason_to_refuse() {
    let mut nodes = Lab::new(vec![node(1), node(2)], vec![]).nodes();
    let memory = |used_bytes| MemoryUse { used_bytes, total_bytes: 1_000 };
    nodes.set_memory(NodeId::new(1), memory(450));
    assert_eq!(place(&nodes, &[], 1), got(&[(2, 1)]));
    nodes.set_memory(NodeId::new(2), memory(420));
    assert_eq!(place(&nodes, &[], 1), got(&[(1, 1)]), "a little less is no less");
    nodes.set_memory(NodeId::new(1), memory(2_000));
    assert_eq!(place(&nodes, &[], 2), got(&[(1, 1), (2, 1)]), "fewer tasks come first");
    nodes.set_memory(NodeId::new(1), MemoryUse::default());
    assert_eq!(place(&nodes, &[], 1), got(&[(1, 1)]));
}

#[test]
fn a_task_goes_home_if_it_can() {
    let tasks = || vec![placed(1, 2), placed(1, 2)];
    let place = |nodes: &Nodes| {
        let mut task = fixture::task(9, 1);
        Overlay::new(nodes, NOW).place(&mut task, Some(NodeId::new(2))).map(|node| node.0.0)
    };
    let nodes = Lab::new(vec![node(1), node(2)], tasks()).nodes();
    assert_eq!(place(&nodes), Ok(2));
    let mut gone = vec![node(1), node(2)];
    gone[1].spec.availability = Availability::Drain;
    assert_eq!(place(&Lab::new(gone, tasks()).nodes()), Ok(1));
    assert_eq!(place(&Lab::new(vec![node(1)], tasks()).nodes()), Ok(1));
    let mut nodes = Lab::new(vec![node(1), node(2)], tasks()).nodes();
    for id in 0..u128::try_from(FAILURES_MAX).unwrap() {
        nodes.note(&Effect::Task(Arc::new(failed(id, 2, NOW))));
    }
    assert_eq!(place(&nodes), Ok(1), "not where it fails");
}
