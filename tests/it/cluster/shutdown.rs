//! A machine that goes down in order: `skep system shutdown` is what its service manager calls.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Cluster, address, homes};
use crate::node::{Node, SKEP};

/// Waits for its signal, takes its time, says goodbye.
const SLOW: &str = "trap 'sleep 5; echo bye; exit 0' TERM; while :; do sleep 0.1; done";

/// Does not end on its signal.
const DEAF: &str = "trap '' TERM; while :; do sleep 0.1; done";

/// The logs of all containers that were ever on a node.
fn logs(node: &Node) -> Vec<String> {
    let tasks = std::fs::read_dir(node.data_root().join("tasks")).expect("tasks");
    let logs = tasks.flatten().map(|task| task.path().join("log/json.log"));
    logs.filter_map(|log| std::fs::read_to_string(log).ok()).collect()
}

fn image(cluster: &Cluster) {
    for node in &cluster.nodes {
        node.load_busybox("busybox:test");
    }
}

fn create(node: &Node, name: &str, more: &[&str], script: &str) {
    let words = ["service", "create", "--detach", "--name", name, "--replicas", "3"];
    node.ok(&[&words[..], more, &["busybox:test", "sh", "-c", script]].concat());
    node.wait_running(name, 3);
}

#[test]
fn who_goes_down_is_replaced_before_its_containers_have_ended() {
    let mut cluster = Cluster::swarm(&["worker", "worker"]);
    image(&cluster);
    create(&cluster.nodes[0], "slow", &["--stop-grace-period", "30s"], SLOW);
    create(&cluster.nodes[0], "deaf", &["--stop-grace-period", "1s"], DEAF);
    let web = ["service", "create", "--detach", "--name", "web", "--mode", "global"];
    cluster.nodes[0].ok(&[&web[..], &["--publish", "8080:80", "skep/hello"]].concat());
    cluster.nodes[0].wait_running("web", 3);
    let gone = cluster.id(2);

    // Where only the daemon is stopped or restarted, the same call does nothing.
    let [first, _, third] = &cluster.nodes[..] else { panic!("three nodes") };
    let before = first.wait_running("slow", 3);
    third.ok(&["system", "shutdown", "--if-stopping"]);
    assert!(!third.daemon_has_ended());
    assert!(third.get("127.0.0.1:8080").is_some());
    assert_eq!(first.wait_running("slow", 3), before);

    let begun = Instant::now();
    let mut going = third.command(SKEP);
    going.args(["system", "shutdown"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut going = going.spawn().expect("skep");
    cluster.wait_state(0, 2, "down");
    for service in ["slow", "deaf"] {
        first.wait("three run elsewhere", || {
            let homes = homes(first, service);
            (homes.len() == 3 && !homes.contains(&gone)).then_some(())
        });
    }
    assert!(third.get("127.0.0.1:8080").is_none(), "its tasks have left the mesh");
    assert!(going.try_wait().expect("skep").is_none(), "the old ones have their grace");
    assert!(!logs(third).concat().contains("bye"));
    let status = going.wait().expect("skep");
    assert!(status.success(), "{status}\n{}", third.daemon_log());
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert!(logs(third).concat().contains("bye"), "it was not killed");
    third.wait("the daemon ends", || third.daemon_has_ended().then_some(()));

    cluster.nodes[2].start_after_end();
    cluster.wait_state(0, 2, "ready");
    let [first, ..] = &cluster.nodes[..] else { panic!("three nodes") };
    for service in ["slow", "deaf"] {
        first.wait("no slot is taken twice", || {
            (first.tasks(service, "running").len() == 3).then_some(())
        });
    }
    first.wait_running("web", 3);
}

#[test]
fn a_leader_that_goes_down_hands_over_first() {
    let cluster = Cluster::swarm(&["manager", "manager"]);
    image(&cluster);
    create(&cluster.nodes[0], "slow", &[], SLOW);
    let gone = cluster.id(0);
    let [first, second, _third] = &cluster.nodes[..] else { panic!("three nodes") };
    let mut going = first.command(SKEP);
    going.args(["system", "shutdown"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut going = going.spawn().expect("skep");
    second.wait("three run elsewhere", || {
        let homes = homes(second, "slow");
        (homes.len() == 3 && !homes.contains(&gone)).then_some(())
    });
    assert!(going.try_wait().expect("skep").is_none(), "the old one has its grace");
    assert!(cluster.states(1).contains(&(address(0), "down".to_owned())));
    assert!(going.wait().expect("skep").success());
    first.wait("the daemon ends", || first.daemon_has_ended().then_some(()));
}

#[test]
fn a_machine_alone_and_one_in_no_swarm_go_down_too() {
    let node = Node::swarm();
    node.load_busybox("busybox:test");
    node.ok(&["service", "create", "--detach", "--name", "slow", "busybox:test", "sh", "-c", SLOW]);
    node.wait_running("slow", 1);
    node.ok(&["system", "shutdown"]);
    assert!(logs(&node).concat().contains("bye"));
    node.wait("the daemon ends", || node.daemon_has_ended().then_some(()));
    assert!(!node.socket().exists());

    let idle = Node::start();
    idle.ok(&["system", "shutdown"]);
    assert!(!idle.daemon_has_ended(), "nothing runs there, and it may still be used");
}
