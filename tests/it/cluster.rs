//! Several machines: three daemons in three network namespaces on one bridge.

mod chapter;
mod faults;
mod history;

use std::process::Command;
use std::time::{Duration, Instant};

use super::node::{Node, must};

mod logs;
mod recovery;
mod shutdown;

/// Machines whose networks are joined. The bridge goes with them.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    bridge: String,
}

impl Cluster {
    /// Machines that reach each other at 10.9.0.1, 10.9.0.2, …; none is in a swarm.
    pub(crate) fn new(count: usize) -> Self {
        Self::of((0..count).map(|_| Node::start()).collect())
    }

    /// The same with machines that are there.
    pub(crate) fn of(nodes: Vec<Node>) -> Self {
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
    pub(crate) fn swarm(roles: &[&str]) -> Self {
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
    pub(crate) fn link(&self, n: usize, state: &str) {
        let port = format!("p{n}");
        must(Command::new("ip").args(["-n", &self.bridge, "link", "set", &port, state]));
    }

    /// Address and state of each node, as a machine shows them.
    pub(crate) fn states(&self, n: usize) -> Vec<(String, String)> {
        let nodes = self.nodes[n].api("/nodes");
        let nodes = nodes.as_array().cloned().unwrap_or_default();
        let text = |node: &serde_json::Value, key: &str| {
            node["Status"][key].as_str().unwrap_or_default().to_owned()
        };
        nodes.iter().map(|node| (text(node, "Addr"), text(node, "State"))).collect()
    }

    pub(crate) fn id(&self, n: usize) -> String {
        self.nodes[n].api("/info")["Swarm"]["NodeID"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a machine shows another one in a state; how long that took.
    pub(crate) fn wait_state(&self, seen_by: usize, of: usize, state: &str) -> Duration {
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

impl Cluster {
    /// Gives a machine another address, as DHCP does.
    fn move_to(&self, n: usize, from: &str, to: &str) {
        let ns = self.nodes[n].netns.as_str();
        let ip = |words: &[&str]| must(Command::new("ip").args(["-n", ns]).args(words));
        ip(&["addr", "del", &format!("{from}/24"), "dev", "eth0"]);
        ip(&["addr", "add", &format!("{to}/24"), "dev", "eth0"]);
        ip(&["route", "replace", "default", "via", "10.9.0.254"]);
    }

    /// Waits until a machine shows a node at an address as ready.
    pub(crate) fn wait_ready_at(&self, seen_by: usize, at: &str) {
        let wanted = (at.to_owned(), "ready".to_owned());
        self.nodes[seen_by]
            .wait(&format!("{wanted:?}"), || self.states(seen_by).contains(&wanted).then_some(()));
    }
}

pub(crate) fn address(n: usize) -> String {
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

#[test]
fn nodes_whose_addresses_change_are_found_again() {
    let mut cluster = Cluster::swarm(&["worker", "worker"]);
    let create =
        ["service", "create", "--detach", "--name", "web", "--mode", "global", "skep/hello"];
    cluster.nodes[0].ok(&create);
    cluster.nodes[0].wait_running("web", 3);
    // A worker tells its new address itself.
    cluster.move_to(1, "10.9.0.2", "10.9.0.102");
    cluster.wait_ready_at(0, "10.9.0.102");
    // The one manager: the workers know of no other place to look than what gossip says.
    cluster.move_to(0, "10.9.0.1", "10.9.0.101");
    for at in ["10.9.0.101", "10.9.0.102", "10.9.0.3"] {
        cluster.wait_ready_at(0, at);
    }
    let manager =
        cluster.nodes[0].ok(&["node", "inspect", "--format", "{{.ManagerStatus.Addr}}", "self"]);
    assert_eq!(manager, "10.9.0.101:2377");
    // Also one that was off while the manager moved, and has moved itself: it knows where another
    // node was heard.
    let file = cluster.nodes[2].data_root().join("node/gossip");
    cluster.nodes[2].wait("where the other worker is", || {
        let kept = std::fs::read(&file).ok()?;
        kept.windows(4).any(|it| it == [10, 9, 0, 102]).then_some(())
    });
    cluster.nodes[2].stop_daemon();
    cluster.move_to(0, "10.9.0.101", "10.9.0.111");
    cluster.wait_ready_at(0, "10.9.0.102");
    cluster.move_to(2, "10.9.0.3", "10.9.0.103");
    cluster.nodes[2].start_daemon();
    cluster.wait_ready_at(0, "10.9.0.103");
    assert_eq!(cluster.states(0).len(), 3, "none was removed or joined anew");
    cluster.nodes[0].wait_running("web", 3);
}

#[test]
fn a_manager_among_several_moves_and_who_leads_does_not_matter() {
    let cluster = Cluster::swarm(&["manager", "manager"]);
    for n in 0..3 {
        let (from, to) = (address(n), format!("10.9.0.10{}", n + 1));
        cluster.move_to(n, &from, &to);
        let other = (n + 1) % 3;
        cluster.wait_ready_at(other, &to);
        cluster.nodes[n].ok(&[
            "service",
            "create",
            "--detach",
            "--name",
            &format!("s{n}"),
            "skep/hello",
        ]);
    }
}

#[test]
fn a_node_that_others_hear_is_not_down_although_its_leader_does_not() {
    let cluster = Cluster::swarm(&["worker", "worker"]);
    let [first, ..] = &cluster.nodes[..] else { panic!("three nodes") };
    // Both workers have kept two addresses: gossip has gone all ways.
    for node in &cluster.nodes[1..] {
        let file = node.data_root().join("node/gossip");
        node.wait("two addresses", || {
            std::fs::metadata(&file).is_ok_and(|file| file.len() >= 90).then_some(())
        });
    }
    let rules = "add table inet cut
        add chain inet cut in { type filter hook input priority -10; }
        add rule inet cut in ip saddr 10.9.0.3 drop
        add chain inet cut out { type filter hook output priority -10; }
        add rule inet cut out ip daddr 10.9.0.3 drop";
    must(first.command("nft").arg(rules));
    let begun = Instant::now();
    cluster.wait_state(0, 2, "unknown");
    cluster.wait_state(0, 2, "down");
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(8), "down after {took:?}: only its own link is cut");
    must(first.command("nft").args(["delete", "table", "inet", "cut"]));
    cluster.wait_state(0, 2, "ready");
}

#[test]
fn a_node_that_leaves_is_down_at_once() {
    let cluster = Cluster::swarm(&["worker"]);
    let [first, second] = &cluster.nodes[..] else { panic!("two nodes") };
    second.ok(&["leave"]);
    assert!(!cluster.states(0).contains(&(address(1), "unknown".to_owned())));
    cluster.wait_state(0, 1, "down");
    let log = first.daemon_log();
    let (_, after) = log.rsplit_once("has a session").expect("it had one");
    assert!(after.contains("is Down") && !after.contains("is Unknown"), "{log}");
}

#[test]
fn a_daemon_that_joins_can_be_stopped() {
    let mut cluster = Cluster::new(1);
    // It takes connections and says nothing.
    let netns =
        std::fs::File::open(format!("/run/netns/{}", cluster.nodes[0].netns)).expect("netns");
    let listen = std::thread::spawn(move || {
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
        std::net::TcpListener::bind("10.9.0.1:2377").expect("listener")
    });
    let silent = listen.join().expect("listener");
    let token = format!("SWMTKN-1-{}-{}", "0".repeat(50), "0".repeat(25));
    let mut join = cluster.nodes[0]
        .command(super::node::SKEP)
        .args(["join", "--token", &token, "--listen-addr", "10.9.0.1:2378", "10.9.0.1:2377"])
        .spawn()
        .expect("join");
    cluster.nodes[0].wait("it joins", || {
        let refused = cluster.nodes[0].skep(&["init", "--advertise-addr", "10.9.0.1:2379"]);
        refused.err.contains("joins a swarm just now").then_some(())
    });
    let begun = Instant::now();
    cluster.nodes[0].stop_daemon();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    join.wait().expect("join");
    drop(silent);
}
