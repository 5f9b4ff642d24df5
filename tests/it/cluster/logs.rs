//! `service logs` from a manager: lines of all nodes, and what cannot be had.

use std::fs::{self, File};
use std::process::Stdio;

use super::{Cluster, homes};
use crate::node::{Node, SKEP};

/// Writes a line ten times a second.
const TALKS: &str = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done";

/// The nodes that lines came from, and whether the lines are in order of their time. Lines are
/// `TIME talk.SLOT.TASK@NODE    | line N`.
fn told(text: &str) -> (Vec<&str>, bool) {
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("| line ")).collect();
    let times: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    let mut from: Vec<&str> =
        lines.iter().filter_map(|line| line.split(' ').nth(1)?.split('@').next()).collect();
    from.sort_unstable();
    from.dedup();
    (from, times.is_sorted())
}

fn talking() -> Cluster {
    let cluster = Cluster::swarm(&["worker", "worker"]);
    for node in &cluster.nodes {
        node.load_busybox("busybox:test");
    }
    let first = &cluster.nodes[0];
    first.ok(&[
        "service",
        "create",
        "--detach",
        "--name",
        "talk",
        "--mode",
        "global",
        "busybox:test",
        "sh",
        "-c",
        TALKS,
    ]);
    first.wait_running("talk", 3);
    cluster
}

/// Lines of the tasks of a node.
fn of(text: &str, task: &str) -> Vec<String> {
    let name = format!(".{}@", &task[..12.min(task.len())]);
    let lines = text.lines().filter(|line| line.contains(&name) && line.contains("| line "));
    lines.filter_map(|line| Some(line.rsplit_once("| ")?.1.to_owned())).collect()
}

fn task_on(node: &Node, home: &str) -> String {
    let tasks = node.tasks("talk", "running");
    let task = tasks.iter().find(|task| task["NodeID"] == home).expect("a task there");
    task["ID"].as_str().expect("id").to_owned()
}

#[test]
fn logs_of_all_nodes_are_merged_and_what_is_missing_is_told() {
    let cluster = talking();
    let [first, second, _] = &cluster.nodes[..] else { panic!("three nodes") };
    assert_eq!(homes(first, "talk").len(), 3);
    let all = first.wait("all three have said something", || {
        let all = first.ok(&["service", "logs", "--timestamps", "talk"]);
        (told(&all).0.len() == 3).then_some(all)
    });
    assert!(told(&all).1, "not in order:\n{all}");
    let far = task_on(first, &cluster.id(2));
    first.wait("its last two are two", || {
        let one = first.ok(&["service", "logs", "--tail", "2", &far]);
        assert!(of(&one, &far).len() <= 2, "{one}");
        (of(&one, &far).len() == 2).then_some(())
    });
    let refused = second.fails(&["service", "logs", "talk"]);
    assert!(refused.err.contains("Worker nodes can't be used to view"), "{refused:?}");

    let gone = cluster.id(2);
    cluster.link(2, "down");
    cluster.wait_state(0, 2, "down");
    let said = first.fails(&["service", "logs", "--timestamps", "talk"]);
    let why = format!(
        "incomplete log stream. some logs could not be retrieved for the following \
        reasons: node {gone} is not available"
    );
    assert!(said.err.contains(&why), "{said:?}");
    let (from, sorted) = told(&said.out);
    assert!(from.len() == 2 && sorted, "{from:?} {sorted}");
    cluster.link(2, "up");
    cluster.wait_state(0, 2, "ready");
}

#[test]
fn who_follows_hears_on_while_a_node_is_away_and_of_it_again_afterwards() {
    let mut cluster = talking();
    let first = &cluster.nodes[0];
    let [near, far] = [task_on(first, &cluster.id(1)), task_on(first, &cluster.id(2))];
    let path = first.dir.join("follow");
    let file = File::create(&path).expect("file");
    let mut follow = first.command(SKEP);
    follow.args(["service", "logs", "--follow", "talk"]).stdin(Stdio::null());
    follow.stdout(file.try_clone().expect("file")).stderr(file);
    let mut follow = follow.spawn().expect("skep");
    let read = || fs::read_to_string(&path).expect("output");
    first.wait("both are heard", || {
        let text = read();
        (!of(&text, &near).is_empty() && !of(&text, &far).is_empty()).then_some(())
    });
    // Its container goes on.
    cluster.nodes[2].kill_daemon();
    let first = &cluster.nodes[0];
    first.wait("it is told", || read().contains("this log cannot be read now").then_some(()));
    let (then_near, then_far) = (of(&read(), &near).len(), of(&read(), &far).len());
    first.wait("the other goes on", || (of(&read(), &near).len() > then_near + 3).then_some(()));
    assert_eq!(of(&read(), &far).len(), then_far);
    cluster.nodes[2].start_daemon();
    let first = &cluster.nodes[0];
    let lines = first.wait("it is heard again", || {
        let lines = of(&read(), &far);
        (lines.len() > then_far + 3).then_some(lines)
    });
    let numbers = lines.iter().filter_map(|line| line.strip_prefix("line ")?.parse::<usize>().ok());
    let numbers: Vec<usize> = numbers.collect();
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "no line twice, none missing: {numbers:?}"
    );
    follow.kill().expect("kill");
    follow.wait().expect("wait");
    cluster.wait_state(0, 2, "ready");
}
