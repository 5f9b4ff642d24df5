//! Several machines: three daemons in three network namespaces on one bridge.

use std::process::Command;
use std::time::{Duration, Instant};

use super::node::{Node, must};

mod logs;
mod recovery;
mod shutdown;

/// Machines whose networks are joined. The bridge goes with them.
struct Cluster {
    nodes: Vec<Node>,
    bridge: String,
}

impl Cluster {
    /// Machines that reach each other at 10.9.0.1, 10.9.0.2, …; none is in a swarm.
    fn new(count: usize) -> Self {
        let nodes: Vec<Node> = (0..count).map(|_| Node::start()).collect();
        let bridge = format!("{}b", nodes[0].netns);
        let ip = |words: &[&str]| must(Command::new("ip").args(words));
        ip(&["netns", "add", &bridge]);
        ip(&["-n", &bridge, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &bridge, "link", "set", "br0", "up"]);
        for (n, node) in nodes.iter().enumerate() {
            let (ns, port, address) =
                (node.netns.as_str(), format!("p{n}"), format!("{}/24", address(n)));
            ip(&[
                "-n", ns, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns",
                &bridge,
            ]);
            ip(&["-n", ns, "addr", "add", &address, "dev", "eth0"]);
            ip(&["-n", ns, "link", "set", "eth0", "up"]);
            ip(&["-n", ns, "route", "add", "default", "via", "10.9.0.254"]);
            ip(&["-n", &bridge, "link", "set", &port, "master", "br0"]);
            ip(&["-n", &bridge, "link", "set", &port, "up"]);
        }
        Self { nodes, bridge }
    }

    /// The first makes a swarm, the others join it as `roles` says.
    fn swarm(roles: &[&str]) -> Self {
        let cluster = Self::new(roles.len() + 1);
        let first = &cluster.nodes[0];
        let said = first.ok(&["init", "--advertise-addr", &address(0)]);
        assert!(said.contains("skep join --token SWMTKN-1-"), "{said}");
        for (n, role) in roles.iter().enumerate() {
            let token = first.ok(&["join-token", "-q", role]);
            let said = cluster.nodes[n + 1].ok(&["join", "--token", &token, &address(0)]);
            assert_eq!(said, format!("This node joined a swarm as a {role}."));
        }
        first.wait("all are ready", || {
            (cluster.states(0).iter().filter(|(_, state)| state == "ready").count()
                == roles.len() + 1)
                .then_some(())
        });
        cluster
    }

    /// Cuts a machine's link, or joins it again.
    fn link(&self, n: usize, state: &str) {
        let port = format!("p{n}");
        must(Command::new("ip").args(["-n", &self.bridge, "link", "set", &port, state]));
    }

    /// Address and state of each node, as a machine shows them.
    fn states(&self, n: usize) -> Vec<(String, String)> {
        let nodes = self.nodes[n].api("/nodes");
        let nodes = nodes.as_array().cloned().unwrap_or_default();
        let text = |node: &serde_json::Value, key: &str| {
            node["Status"][key].as_str().unwrap_or_default().to_owned()
        };
        nodes.iter().map(|node| (text(node, "Addr"), text(node, "State"))).collect()
    }

    fn id(&self, n: usize) -> String {
        self.nodes[n].api("/info")["Swarm"]["NodeID"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a machine shows another one in a state; how long that took.
    fn wait_state(&self, seen_by: usize, of: usize, state: &str) -> Duration {
        let begun = Instant::now();
        let wanted = (address(of), state.to_owned());
        self.nodes[seen_by]
            .wait(&format!("{wanted:?}"), || self.states(seen_by).contains(&wanted).then_some(()));
        begun.elapsed()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        let gone = Command::new("ip").args(["netns", "del", &self.bridge]).status();
        if !gone.is_ok_and(|status| status.success()) {
            eprintln!("the bridge {} is left", self.bridge);
        }
    }
}

fn address(n: usize) -> String {
    format!("10.9.0.{}", n + 1)
}

/// The nodes that tasks run on, without those that are told to stop.
fn homes(node: &Node, service: &str) -> Vec<String> {
    let tasks = node.tasks(service, "running").into_iter();
    let wanted = tasks.filter(|task| task["DesiredState"] == "running");
    wanted.map(|task| task["NodeID"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_service_spreads_over_three_nodes_and_leaves_one_that_is_cut_off() {
    let cluster = Cluster::swarm(&["worker", "worker"]);
    let first = &cluster.nodes[0];
    first.ok(&["service", "create", "--detach", "--name", "web", "--replicas", "6", "skep/hello"]);
    first.wait_running("web", 6);
    let mut homes_then = homes(first, "web");
    homes_then.sort();
    let mut ids: Vec<String> = (0..3).flat_map(|n| [cluster.id(n), cluster.id(n)]).collect();
    ids.sort();
    assert_eq!(homes_then, ids, "two on each");
    let refused = cluster.nodes[1].fails(&["node", "ls"]);
    assert!(refused.err.contains("Worker nodes can't be used to view"), "{refused:?}");

    cluster.link(2, "down");
    let took = cluster.wait_state(0, 2, "down");
    assert!(took < Duration::from_secs(10), "{took:?}");
    let cut = cluster.id(2);
    first.wait("six run elsewhere", || {
        let homes = homes(first, "web");
        (homes.len() == 6 && !homes.contains(&cut)).then_some(())
    });
    cluster.link(2, "up");
    cluster.wait_state(0, 2, "ready");
    first.wait("no slot is taken twice", || {
        (first.tasks("web", "running").len() == 6).then_some(())
    });
}

#[test]
fn three_managers_go_on_without_their_leader_and_any_of_them_takes_a_write() {
    let mut cluster = Cluster::swarm(&["manager", "manager"]);
    let create = ["service", "create", "--detach", "--name", "web", "skep/hello"];
    // A follower passes it on.
    cluster.nodes[2].ok(&create);
    cluster.nodes[0].wait_running("web", 1);
    cluster.nodes[0].kill_daemon();
    let begun = Instant::now();
    cluster.nodes[1].ok(&["service", "update", "--detach", "--label-add", "a=b", "web"]);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let seen = cluster.nodes[2].ok(&["service", "inspect", "--format", "{{.Spec.Labels}}", "web"]);
    assert!(seen.contains("a:b"), "{seen}");
    cluster.nodes[0].start_daemon();
    cluster.wait_state(0, 0, "ready");

    // A leader that is stopped in order hands over, and the node is not held for down.
    let leader = (0..3).find(|n| {
        let nodes = cluster.nodes[1].api("/nodes");
        let nodes = nodes.as_array().cloned().unwrap_or_default();
        nodes.iter().any(|node| {
            node["ManagerStatus"]["Leader"] == true && node["Status"]["Addr"] == address(*n)
        })
    });
    let leader = leader.expect("one leads");
    let other = (leader + 1) % 3;
    cluster.nodes[leader].stop_daemon();
    cluster.nodes[other].ok(&["service", "update", "--detach", "--label-add", "a=c", "web"]);
    cluster.wait_state(other, leader, "unknown");
    cluster.nodes[leader].start_daemon();
    cluster.wait_state(other, leader, "ready");
}

#[test]
fn a_node_becomes_a_manager_and_a_worker_again() {
    let cluster = Cluster::swarm(&["worker"]);
    let [first, second] = &cluster.nodes[..] else { panic!("two nodes") };
    let id = cluster.id(1);
    first.ok(&["service", "create", "--detach", "--name", "web", "--mode", "global", "skep/hello"]);
    let running = first.wait_running("web", 2);
    for _round in 0..2 {
        let said = first.ok(&["node", "promote", &id]);
        assert_eq!(said, format!("Node {id} promoted to a manager in the swarm."));
        second.wait("it is a manager", || {
            (second.api("/info")["Swarm"]["ControlAvailable"] == true
                && second.skep(&["node", "ls"]).code == 0)
                .then_some(())
        });
        first.wait("it may be demoted", || {
            (first.skep(&["node", "demote", &id]).code == 0).then_some(())
        });
        second.wait("it is a worker", || {
            (second.api("/info")["Swarm"]["ControlAvailable"] != true).then_some(())
        });
    }
    let ids = |tasks: &[serde_json::Value]| {
        let mut ids: Vec<String> = tasks.iter().map(|task| task["ID"].to_string()).collect();
        ids.sort();
        ids
    };
    let after = first.wait_running("web", 2);
    assert_eq!(ids(&running), ids(&after), "no task was touched");
}

#[test]
fn a_join_that_cannot_be_says_why_and_leaves_nothing() {
    let cluster = Cluster::new(2);
    let [first, second] = &cluster.nodes[..] else { panic!("two nodes") };
    first.ok(&["init", "--advertise-addr", &address(0)]);
    let token = first.ok(&["join-token", "-q", "worker"]);
    let other = if token.ends_with('0') { '1' } else { '0' };
    let wrong = format!("{}{other}", &token[..token.len() - 1]);
    let cut = &token[..40];
    let nobody = "10.9.0.77:2377";
    let closed = format!("{}:2378", address(0));
    let first_at = address(0);
    for (token, at, why) in [
        (cut, first_at.as_str(), "its end is missing"),
        (wrong.as_str(), first_at.as_str(), "the join token is not valid any more"),
        (token.as_str(), nobody, "does not answer"),
        (token.as_str(), closed.as_str(), "cannot connect"),
        (token.as_str(), "no such host", "invalid address"),
    ] {
        let begun = Instant::now();
        let said = second.fails(&["join", "--token", token, at]);
        assert!(said.err.contains(why), "{said:?}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        for file in ["identity", "certificate", "managers"] {
            assert!(!second.data_root().join("node").join(file).exists(), "{file}");
        }
    }
    first.ok(&["join-token", "--rotate", "-q", "worker"]);
    let said = second.fails(&["join", "--token", &token, &address(0)]);
    assert!(said.err.contains("not valid any more"), "{said:?}");
    assert_eq!(cluster.states(0).len(), 1, "nothing is left at the manager");
    let token = first.ok(&["join-token", "-q", "worker"]);
    second.ok(&["join", "--token", &token, &address(0)]);
    cluster.wait_state(0, 1, "ready");
}
