//! Waits, step by step.

use super::*;
use crate::model::engine::Empty;
use crate::model::engine::service::{ReplicatedService, ServiceMode, UpdateStatus};

fn replicated(replicas: u64, states: &[&str]) -> Seen {
    let mut seen = Seen::default();
    "svc".clone_into(&mut seen.service.id);
    seen.service.spec.mode.replicated = Some(ReplicatedService { replicas: Some(replicas) });
    for (at, state) in states.iter().enumerate() {
        let mut task = Task { slot: at as u64 + 1, ..Task::default() };
        "running".clone_into(&mut task.desired_state);
        match state.strip_prefix("error ") {
            Some(error) => {
                error.clone_into(&mut task.status.err);
                "rejected".clone_into(&mut task.status.state);
            }
            None => (*state).clone_into(&mut task.status.state),
        }
        seen.tasks.push(task);
    }
    seen
}

fn piped(watch: &Watch) -> String {
    watch.lines(false, 80).join("|")
}

#[test]
fn a_service_converges_after_five_stable_seconds() {
    let mut watch = Watch::new("svc");
    assert_eq!(watch.step(0, &replicated(2, &[])), None);
    assert_eq!(piped(&watch), "overall progress: 0 out of 2 tasks|1/2:  |2/2:  ");
    assert_eq!(watch.step(200, &replicated(2, &["running", "starting"])), None);
    assert_eq!(piped(&watch), "overall progress: 1 out of 2 tasks");
    let both = replicated(2, &["running", "running"]);
    assert_eq!(watch.step(400, &both), None);
    let waiting = "overall progress: 2 out of 2 tasks|verify: Waiting 5 seconds to verify that \
                   tasks are stable...";
    assert_eq!(piped(&watch), waiting);
    assert_eq!(watch.step(4_500, &both), None);
    assert!(piped(&watch).contains("Waiting 1 seconds"));
    assert_eq!(watch.step(5_400, &both), Some(End::Converged));
    assert_eq!(piped(&watch), "overall progress: 2 out of 2 tasks|verify: Service svc converged");
}

#[test]
fn a_failure_starts_the_wait_again() {
    let mut watch = Watch::new("svc");
    watch.step(0, &replicated(1, &["running"]));
    assert_eq!(watch.step(4_000, &replicated(1, &["ready"])), None);
    assert!(piped(&watch).contains("verify: Detected task failure"));
    watch.step(5_000, &replicated(1, &["running"]));
    assert_eq!(watch.step(9_900, &replicated(1, &["running"])), None);
    assert_eq!(watch.step(10_000, &replicated(1, &["running"])), Some(End::Converged));
}

#[test]
fn errors_are_shown_and_cut() {
    let mut watch = Watch::new("svc");
    let long = format!("error {}", "x".repeat(100));
    watch.step(0, &replicated(2, &["error No such image: a:1", &long]));
    let cut = format!("1/2: No such image: a:1|2/2: {}...", "x".repeat(72));
    assert_eq!(piped(&watch), format!("overall progress: 0 out of 2 tasks|{cut}"));
}

#[test]
fn a_successor_shows_why_its_predecessor_ended() {
    let mut seen = replicated(1, &["ready"]);
    let mut before = Task { slot: 1, ..Task::default() };
    "shutdown".clone_into(&mut before.desired_state);
    "failed".clone_into(&mut before.status.state);
    "task: non-zero exit (3)".clone_into(&mut before.status.err);
    seen.tasks.push(before);
    let mut watch = Watch::new("svc");
    watch.step(0, &seen);
    assert_eq!(piped(&watch), "overall progress: 0 out of 1 tasks|1/1: task: non-zero exit (3)");
    "running".clone_into(&mut seen.tasks[0].status.state);
    watch.step(0, &seen);
    assert!(piped(&watch).starts_with("overall progress: 1 out of 1 tasks|verify"));
}

#[test]
fn bars_are_dockers() {
    let mut watch = Watch::new("svc");
    watch.step(0, &replicated(3, &["running", "ready", "starting"]));
    let lines = watch.lines(true, 80);
    assert_eq!(lines[1], "1/3: running   [==================================================>]");
    assert_eq!(lines[2], "2/3: ready     [======================================>            ]");
    assert_eq!(lines[3], "3/3: starting  [============================================>      ]");
    assert_eq!(watch.lines(true, 40)[1], "1/3: running");
}

#[test]
fn zero_replicas_and_many_replicas() {
    let mut watch = Watch::new("svc");
    watch.step(0, &replicated(0, &[]));
    assert!(piped(&watch).starts_with("overall progress: 0 out of 0 tasks|verify: Waiting 5"));
    watch.step(0, &replicated(21, &[]));
    assert_eq!(watch.tasks.len(), 0);
}

#[test]
fn a_global_service_waits_for_its_nodes() {
    let mut seen = Seen::default();
    seen.service.spec.mode = ServiceMode { global: Some(Empty {}), ..ServiceMode::default() };
    let mut watch = Watch::new("svc");
    assert_eq!(watch.step(0, &seen), None);
    assert_eq!(piped(&watch), "overall progress: waiting for new tasks");
    for node in ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"] {
        let mut task = Task { node_id: node.to_owned(), ..Task::default() };
        "running".clone_into(&mut task.desired_state);
        "running".clone_into(&mut task.status.state);
        seen.tasks.push(task);
    }
    let mut down = Node { id: "bbbbbbbbbbbbbbbb".to_owned(), ..Node::default() };
    "down".clone_into(&mut down.status.state);
    seen.nodes.push(down);
    watch.step(0, &seen);
    assert!(watch.lines(true, 80)[0].ends_with("1 out of 1 tasks"));
    assert!(watch.lines(true, 80)[1].starts_with("aaaaaaaaaaaa: running "));
}

#[test]
fn updates_end_as_their_status_says() {
    let status = |state: &str, message: &str| {
        let mut seen = replicated(1, &["running"]);
        seen.service.update_status = Some(UpdateStatus {
            state: state.to_owned(),
            message: message.to_owned(),
            ..UpdateStatus::default()
        });
        seen
    };
    let mut watch = Watch::new("svc");
    assert_eq!(watch.step(0, &status("completed", "")), None, "an older update's");
    assert_eq!(watch.step(0, &status("updating", "")), None);
    assert_eq!(watch.step(0, &status("completed", "")), Some(End::Converged));
    let mut watch = Watch::new("svc");
    let why = "service update paused: task x failed".to_owned();
    assert_eq!(watch.step(0, &status("paused", "task x failed")), Some(End::Failed(why)));
    let mut watch = Watch::new("svc");
    watch.step(0, &status("rollback_started", "manually requested rollback"));
    let text = piped(&watch);
    assert!(text.starts_with("rollback: manually requested rollback|overall progress: rolling back"));
}

#[test]
fn the_newest_task_of_a_slot_counts_by_time_not_by_letters() {
    let mut seen = replicated(1, &["pending", "pending"]);
    for (task, (created, error)) in
        seen.tasks.iter_mut().zip([("00.51Z", "newer"), ("00.5Z", "older")])
    {
        task.slot = 1;
        task.created_at = format!("2026-11-22T10:00:{created}");
        error.clone_into(&mut task.status.err);
    }
    let mut watch = Watch::new("svc");
    watch.step(0, &seen);
    assert!(piped(&watch).contains("1/1: newer"), "{}", piped(&watch));
}
