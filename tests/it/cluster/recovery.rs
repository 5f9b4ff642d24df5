//! A lost majority: nothing is written without it, and one manager that is left goes on alone.

use std::collections::BTreeMap;

use super::{Cluster, address};
use crate::node::Node;

/// Process ids of a service's containers on a node, by task.
fn pids(node: &Node, service: &str, home: &str) -> BTreeMap<String, u64> {
    let tasks = node.tasks(service, "running").into_iter();
    let here = tasks.filter(|task| task["NodeID"] == home);
    let pid = |task: &serde_json::Value| task["Status"]["ContainerStatus"]["PID"].as_u64();
    here.map(|task| (task["ID"].to_string(), pid(&task).expect("a process"))).collect()
}

#[test]
fn one_manager_of_three_goes_on_alone_without_touching_a_container() {
    let mut cluster = Cluster::swarm(&["manager", "manager"]);
    let create = ["service", "create", "--detach", "--mode", "global", "--name"];
    let with = |name| [&create[..], &[name, "skep/hello"]].concat();
    cluster.nodes[0].ok(&with("web"));
    cluster.nodes[0].wait_running("web", 3);
    let own = cluster.id(0);
    let before = pids(&cluster.nodes[0], "web", &own);
    assert_eq!(before.len(), 1);
    let refused = cluster.nodes[0].fails(&["init", "--advertise-addr", &address(0)]);
    assert!(refused.err.contains("already part of a swarm"), "{refused:?}");

    // The two others are gone for good.
    for n in [1, 2] {
        cluster.link(n, "down");
        cluster.nodes[n].kill_daemon();
    }
    let refused = cluster.nodes[0].fails(&with("more"));
    let text = "The swarm does not have a leader. It's possible that too few managers are online. \
        Make sure more than half of the managers are online.";
    assert!(refused.err.contains(text), "{refused:?}");

    let said = cluster.nodes[0].ok(&["init", "--force-new-cluster"]);
    assert!(said.contains("is now a manager") && said.contains("skep join --token"), "{said}");
    let first = &cluster.nodes[0];
    first.ok(&with("more"));
    first.wait("it runs here", || (!pids(first, "more", &own).is_empty()).then_some(()));
    assert_eq!(pids(first, "web", &own), before, "the container is the same");
    let managers = first.ok(&["node", "ls", "--filter", "role=manager", "-q"]);
    assert_eq!(managers, own);

    // One of the others is back after all: it is told what it is now.
    cluster.link(1, "up");
    cluster.nodes[1].start_daemon();
    let [first, second, _third] = &cluster.nodes[..] else { panic!("three nodes") };
    second.wait("it is a worker", || {
        (second.api("/info")["Swarm"]["ControlAvailable"] == false).then_some(())
    });
    cluster.wait_state(0, 1, "ready");
    let back = cluster.id(1);
    first.wait("both services run there", || {
        let running = pids(first, "web", &back).len() + pids(first, "more", &back).len();
        (running == 2).then_some(())
    });
}
