//! One service to which anything happens: it always comes to rest, and to what its spec wants.

use proptest::prelude::*;

use super::tests::Lab;
use super::{jobs, restart};
use crate::model::service::OnDisconnect;
use crate::model::task::{Task, TaskState};

/// What happens next; tasks by the number of one that is there.
#[derive(Clone, Debug)]
enum Event {
    Command(String),
    Is { task: usize, state: &'static str },
    Adopt { task: usize, n: usize },
}

const NODES: [&str; 3] = ["a", "b", "c"];

fn command(text: &str) -> impl Strategy<Value = Event> + use<> {
    let text = text.to_owned();
    Just(Event::Command(text))
}

fn event(service: BoxedStrategy<String>) -> impl Strategy<Value = Event> {
    let states = proptest::sample::select(vec!["complete", "failed", "rejected"]);
    let node = proptest::sample::select(NODES.to_vec());
    let becomes = vec!["drain", "active", "pause", "down", "down", "ready", "unknown", "orphan"];
    prop_oneof![
        2 => service.prop_map(Event::Command),
        4 => command("run"),
        3 => command("stop"),
        3 => (0..12u8).prop_map(|seconds| Event::Command(format!("advance {seconds}"))),
        3 => (0..8usize, states).prop_map(|(task, state)| Event::Is { task, state }),
        1 => (0..8usize, 1..3usize).prop_map(|(task, n)| Event::Adopt { task, n }),
        1 => command("forget"),
        1 => (-90..90i8).prop_map(|seconds| Event::Command(format!("clock {seconds}"))),
        4 => (node, proptest::sample::select(becomes))
            .prop_map(|(node, state)| Event::Command(format!("node {node} {state}"))),
    ]
}

/// A service with slots.
fn slots(more: &'static str) -> BoxedStrategy<String> {
    let text =
        move |(replicas, image)| format!("service replicas={replicas} image=i{image} {more}");
    (0..4u8, 0..3u8).prop_map(text).boxed()
}

/// A job; each is another run.
fn job() -> BoxedStrategy<String> {
    let text = |(at_once, total)| format!("service job={at_once}/{total}");
    (0..3u8, 0..4u8).prop_map(text).boxed()
}

fn happen(lab: &mut Lab, event: Event) {
    match event {
        Event::Command(text) => lab.run(&text),
        Event::Is { task, state } => {
            let live = |task: &Task| {
                let placed = task.status.state >= TaskState::Assigned;
                placed && !task.status.state.is_terminal() && lab.hears(task)
            };
            let live = lab.store.tasks().filter(|task| live(task)).nth(task);
            if let Some(number) = live.map(|task| lab.numbers[&task.id]) {
                lab.run(&format!("is {number} {state}"));
            }
        }
        // Only what ran can have been restarted; its worker is heard of again.
        Event::Adopt { task, n } => {
            let ran = |task: &Task| {
                let state = task.status.state;
                let stops = task.spec.on_disconnect == OnDisconnect::Stop;
                let runs = state == TaskState::Running || restart::ended_by_itself(task);
                let held = runs && !task.addresses.is_empty();
                !stops && held && lab.hears(task)
            };
            let ran = lab.store.tasks().filter(|task| ran(task)).nth(task);
            if let Some(number) = ran.map(|task| lab.numbers[&task.id]) {
                lab.run(&format!("adopt {number}{} running", " failed".repeat(n)));
            }
        }
    }
}

/// From now on everything works: after a while nothing is to be done any more.
fn end(lab: &mut Lab, service: &str) {
    for node in NODES {
        lab.run(&format!("node {node} active"));
        lab.run(&format!("node {node} ready"));
    }
    lab.run(service);
    for _ in 0..20 {
        lab.run("stop");
        lab.run("run");
        lab.run("advance 400");
    }
    lab.text.clear();
    lab.run("advance 10000");
    assert_eq!(lab.text, "", "something is still to be done");
    let left = lab.store.tasks().filter(|task| task.desired == TaskState::Remove).count();
    assert_eq!(left, 0, "what was to be removed is there");
}

/// The newest spec runs, so many times.
fn invariant_the_newest_spec_runs(lab: &Lab, count: usize) {
    let wanted = lab.store.tasks().filter(|task| task.is_wanted());
    let wanted: Vec<_> = wanted
        .map(|task| (task.slot, task.status.state, task.spec.container.image.clone()))
        .collect();
    let runs = |(_, state, image): &(u64, TaskState, String)| {
        *state == TaskState::Running && image == "last"
    };
    assert!(wanted.iter().all(runs) && wanted.len() == count, "{wanted:#?}");
}

/// What has ended is kept within the limit.
fn invariant_history_is_bounded(lab: &Lab) {
    let mut slots = std::collections::BTreeMap::new();
    for task in lab.store.tasks().filter(|task| !task.is_wanted()) {
        let node = task.node.filter(|_| lab.is_global());
        *slots.entry((task.slot, node)).or_insert(0) += 1;
    }
    assert!(slots.values().all(|ended| *ended <= 2), "too much is kept: {slots:?}");
}

fn lab(service: &str, events: Vec<Event>) -> Lab {
    let mut lab = Lab::new();
    lab.run("nodes a b c");
    lab.run(service);
    for event in events {
        happen(&mut lab, event);
    }
    lab
}

fn walk(events: Vec<Event>, replicas: usize, order: &str) {
    let mut lab = lab(&format!("service action=continue delay=3 {order}"), events);
    end(&mut lab, &format!("service replicas={replicas} image=last"));
    invariant_the_newest_spec_runs(&lab, replicas);
    invariant_history_is_bounded(&lab);
}

fn events(service: BoxedStrategy<String>) -> impl Strategy<Value = Vec<Event>> {
    proptest::collection::vec(event(service), 0..50)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_stop_first_it_comes_to_what_is_wanted(
        events in events(slots("")),
        replicas in 0..4usize,
    ) {
        walk(events, replicas, "");
    }

    #[test]
    fn whatever_happens_start_first_it_comes_to_what_is_wanted(
        events in events(slots("order=start-first")),
        replicas in 0..4usize,
    ) {
        walk(events, replicas, "order=start-first");
    }

    #[test]
    fn whatever_happens_what_stops_alone_never_runs_twice(
        events in events(slots("disconnect=stop")),
        replicas in 0..4usize,
    ) {
        walk(events, replicas, "disconnect=stop");
    }

    #[test]
    fn whatever_happens_a_global_service_comes_to_what_is_wanted(
        events in events((0..3u8).prop_map(|image| format!("service image=i{image}")).boxed()),
    ) {
        let mut lab = lab("service mode=global action=continue delay=3", events);
        end(&mut lab, "service image=last");
        invariant_the_newest_spec_runs(&lab, NODES.len());
        invariant_history_is_bounded(&lab);
    }

    #[test]
    fn whatever_happens_a_job_runs_to_its_end(events in events(job())) {
        let mut lab = lab("service job=2/3 delay=3", events);
        lab.complete = true;
        end(&mut lab, "service job=2/3");
        let service = lab.store.services().next().expect("the service");
        let complete = |task: &&std::sync::Arc<Task>| {
            jobs::is_of_run(task, service) && task.status.state == TaskState::Complete
        };
        let complete: Vec<u64> = lab.store.tasks().filter(complete).map(|task| task.slot).collect();
        assert!(complete.len() >= 3 && (0..3).all(|slot| complete.contains(&slot)));
    }
}
