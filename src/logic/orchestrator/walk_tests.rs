//! One service to which anything happens: it always comes to rest, and to what its spec wants.

use proptest::prelude::*;

use super::tests::Lab;
use crate::model::task::{Task, TaskState};

/// What happens next; tasks by the number of one that is there.
#[derive(Clone, Debug)]
enum Event {
    Command(String),
    Is { task: usize, state: &'static str },
}

fn event(order: &'static str) -> impl Strategy<Value = Event> {
    let command = |text: &str| Just(Event::Command(text.to_owned()));
    let states = proptest::sample::select(vec!["complete", "failed", "rejected"]);
    prop_oneof![
        2 => (0..4u8, 0..3u8).prop_map(move |(replicas, image)| {
            Event::Command(format!("service replicas={replicas} image=i{image} {order}"))
        }),
        3 => command("run"),
        3 => command("stop"),
        3 => (0..12u8).prop_map(|seconds| Event::Command(format!("advance {seconds}"))),
        3 => (0..8usize, states).prop_map(|(task, state)| Event::Is { task, state }),
        1 => command("forget"),
        1 => (-90..90i8).prop_map(|seconds| Event::Command(format!("clock {seconds}"))),
        1 => proptest::sample::select(vec!["node a drain", "node a active", "node a down"])
            .prop_map(|text| Event::Command(text.to_owned())),
    ]
}

fn happen(lab: &mut Lab, event: Event) {
    match event {
        Event::Command(text) => lab.run(&text),
        Event::Is { task, state } => {
            let live = |task: &Task| {
                let placed = task.status.state >= TaskState::Assigned;
                placed && !task.status.state.is_terminal()
            };
            let live = lab.store.tasks().filter(|task| live(task)).nth(task);
            if let Some(number) = live.map(|task| lab.numbers[&task.id]) {
                lab.run(&format!("is {number} {state}"));
            }
        }
    }
}

/// From now on everything works: after a while the newest spec runs, so many times, and there is
/// nothing to be done.
fn end(lab: &mut Lab, replicas: usize) {
    lab.run("node a active");
    lab.run("node a ready");
    lab.run(&format!("service replicas={replicas} image=last"));
    for _ in 0..20 {
        lab.run("stop");
        lab.run("run");
        lab.run("advance 400");
    }
    lab.text.clear();
    lab.run("advance 10000");
    assert_eq!(lab.text, "", "something is still to be done");
    let wanted = lab.store.tasks().filter(|task| task.desired <= TaskState::Running);
    let wanted: Vec<_> = wanted
        .map(|task| (task.slot, task.status.state, task.spec.container.image.clone()))
        .collect();
    let runs = |(_, state, image): &(u64, TaskState, String)| {
        *state == TaskState::Running && image == "last"
    };
    assert!(wanted.iter().all(runs) && wanted.len() == replicas, "{wanted:#?}");
    let left = lab.store.tasks().filter(|task| task.desired == TaskState::Remove).count();
    assert_eq!(left, 0, "what was to be removed is there");
    let ended = lab.store.tasks_len() - replicas;
    assert!(ended <= 2 * replicas, "{ended} ended tasks are kept");
}

fn walk(events: Vec<Event>, replicas: usize, order: &str) {
    let mut lab = Lab::new();
    lab.run("nodes a");
    lab.run(&format!("service action=continue delay=3 {order}"));
    for event in events {
        happen(&mut lab, event);
    }
    end(&mut lab, replicas);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_stop_first_it_comes_to_what_is_wanted(
        events in proptest::collection::vec(event(""), 0..40),
        replicas in 0..4usize,
    ) {
        walk(events, replicas, "");
    }

    #[test]
    fn whatever_happens_start_first_it_comes_to_what_is_wanted(
        events in proptest::collection::vec(event("order=start-first"), 0..40),
        replicas in 0..4usize,
    ) {
        walk(events, replicas, "order=start-first");
    }
}
