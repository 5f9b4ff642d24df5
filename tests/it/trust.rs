//! What a cluster trusts as time goes by: its root, certificates, keys, and clocks that are wrong.

use std::path::PathBuf;

use super::cluster::{Cluster, address};
use super::node::Node;

/// Where the keys of a node's gossip are kept, behind the head of the file and their number.
const KEYS: std::ops::Range<usize> = 21..53;

/// The number of these keys, and the one that seals.
fn gossip_keys(node: &Node) -> Option<(u8, Vec<u8>)> {
    let file = std::fs::read(node.data_root().join("node/gossip")).ok()?;
    Some((*file.get(KEYS.start - 1)?, file.get(KEYS)?.to_owned()))
}

fn certificate(node: &Node) -> Vec<u8> {
    std::fs::read(node.data_root().join("node/certificate")).expect("a certificate")
}

#[test]
fn a_new_root_takes_the_place_of_the_old_one_when_every_node_has_it() {
    let mut cluster = Cluster::new(4);
    let first = &cluster.nodes[0];
    first.ok(&["init", "--advertise-addr", &address(0), "--cert-expiry", "2h"]);
    for (n, role) in [(1, "manager"), (2, "worker")] {
        let token = first.ok(&["join-token", "-q", role]);
        cluster.nodes[n].ok(&["join", "--token", &token, &address(0)]);
        cluster.wait_state(0, n, "ready");
    }
    let old_root = first.ok(&["ca"]);
    assert!(old_root.starts_with("-----BEGIN CERTIFICATE-----"), "{old_root}");
    let old_token = first.ok(&["join-token", "-q", "worker"]);
    let refused = first.fails(&["ca", "--cert-expiry", "1h"]);
    assert!(refused.err.contains("requires the `--rotate` flag"), "{refused:?}");
    let refused = first.fails(&["ca", "--rotate", "--cert-expiry", "59m"]);
    assert!(refused.err.contains("minimum certificate expiry time"), "{refused:?}");

    // One that is off holds it up, and is not locked out.
    cluster.nodes[2].stop_daemon();
    let first = &cluster.nodes[0];
    first.ok(&["ca", "--rotate", "--detach", "--cert-expiry", "3h"]);
    let swarm = first.api("/swarm");
    assert_eq!(swarm["RootRotationInProgress"], true);
    assert_eq!(swarm["Spec"]["CAConfig"]["NodeCertExpiry"], 3_u64 * 3_600_000_000_000);
    cluster.nodes[2].start_daemon();
    let first = &cluster.nodes[0];
    first.wait("the new root alone is trusted", || {
        (first.api("/swarm")["RootRotationInProgress"] != true).then_some(())
    });
    let new_root = first.ok(&["ca"]);
    assert!(new_root.starts_with("-----BEGIN CERTIFICATE-----") && new_root != old_root);
    for n in 1..3 {
        cluster.wait_state(0, n, "ready");
    }
    cluster.nodes[1].wait("the other manager serves", || {
        (cluster.nodes[1].skep(&["node", "ls"]).code == 0).then_some(())
    });
    let refused = cluster.nodes[3].fails(&["join", "--token", &old_token, &address(0)]);
    assert!(refused.err.contains("the join token is not of the swarm"), "{refused:?}");
    let token = first.ok(&["join-token", "-q", "worker"]);
    cluster.nodes[3].ok(&["join", "--token", &token, &address(0)]);
    cluster.wait_state(0, 3, "ready");
    // A second time, waiting for it.
    let third_root = cluster.nodes[1].ok(&["ca", "--rotate", "-q"]);
    assert!(third_root.starts_with("-----BEGIN CERTIFICATE-----") && third_root != new_root);
}

#[test]
fn the_key_of_gossip_is_another_one_when_a_node_was_removed() {
    let cluster = Cluster::swarm(&["worker", "worker"]);
    let [first, second, third] = &cluster.nodes[..] else { panic!("three nodes") };
    let before = second.wait("keys", || gossip_keys(second));
    assert_eq!(first.wait("keys", || gossip_keys(first)), before);
    let id = cluster.id(2);
    third.ok(&["leave"]);
    cluster.wait_state(0, 2, "down");
    first.ok(&["node", "rm", &id]);
    for node in [first, second] {
        node.wait("another key", || {
            let (count, key) = gossip_keys(node)?;
            (count == 1 && key != before.1).then_some(())
        });
    }
    assert_eq!(gossip_keys(first), gossip_keys(second));
}

/// Machines whose clocks are wrong by what is written into files.
struct Clocks {
    files: Vec<PathBuf>,
}

impl Clocks {
    fn new(count: usize, of: &str) -> (Self, Vec<Node>) {
        let name = |n| format!("skep-clock-{}-{of}-{n}", std::process::id());
        let files: Vec<_> = (0..count).map(|n| std::env::temp_dir().join(name(n))).collect();
        let start = |file: &PathBuf| {
            std::fs::write(file, "0").expect("clock");
            Node::start_with(&["--clock-offset", &file.display().to_string()])
        };
        let nodes = files.iter().map(start).collect();
        (Self { files }, nodes)
    }

    fn set(&self, n: usize, days: i64) {
        self.set_secs(n, days * 86_400);
    }

    fn set_secs(&self, n: usize, secs: i64) {
        // Whole or not at all, as a clock is set.
        let file = &self.files[n];
        let new = file.with_extension("new");
        std::fs::write(&new, secs.to_string()).expect("clock");
        std::fs::rename(&new, file).expect("clock");
    }
}

impl Drop for Clocks {
    fn drop(&mut self) {
        for file in &self.files {
            drop(std::fs::remove_file(file));
        }
    }
}

/// Back beyond 1970.
const TO_1970: i64 = -40_000;

fn join(cluster: &Cluster, n: usize, role: &str) {
    let token = cluster.nodes[0].ok(&["join-token", "-q", role]);
    cluster.nodes[n].ok(&["join", "--token", &token, &address(0)]);
    cluster.wait_state(0, n, "ready");
}

#[test]
fn clocks_in_1970_at_init_and_at_join() {
    let (clocks, nodes) = Clocks::new(3, "1970");
    let cluster = Cluster::of(nodes);
    clocks.set(0, TO_1970);
    cluster.nodes[0].ok(&["init", "--advertise-addr", &address(0)]);
    join(&cluster, 1, "worker");
    clocks.set(2, TO_1970);
    join(&cluster, 2, "worker");
    // The manager learns what time it is: nothing that it issued is void by that.
    let before = certificate(&cluster.nodes[1]);
    clocks.set(0, 0);
    cluster.nodes[1].wait("it has another certificate", || {
        (certificate(&cluster.nodes[1]) != before).then_some(())
    });
    for n in 1..3 {
        cluster.wait_state(0, n, "ready");
    }
    let create =
        ["service", "create", "--detach", "--name", "web", "--mode", "global", "skep/hello"];
    cluster.nodes[0].ok(&create);
    cluster.nodes[0].wait_running("web", 3);
}

#[test]
fn a_board_that_was_off_for_120_days_renews_and_serves() {
    let (clocks, nodes) = Clocks::new(3, "120");
    let mut cluster = Cluster::of(nodes);
    cluster.nodes[0].ok(&["init", "--advertise-addr", &address(0)]);
    join(&cluster, 1, "manager");
    join(&cluster, 2, "worker");
    // All of them were in the drawer: no certificate is good any more.
    let before: Vec<_> = cluster.nodes.iter().map(certificate).collect();
    for n in [2, 1, 0] {
        cluster.nodes[n].stop_daemon();
        clocks.set(n, 120);
    }
    for node in &mut cluster.nodes {
        node.start_daemon();
    }
    for (n, before) in before.iter().enumerate() {
        cluster.wait_state(0, n, "ready");
        let node = &cluster.nodes[n];
        node.wait("it has renewed", || (certificate(node) != *before).then_some(()));
    }
    let create =
        ["service", "create", "--detach", "--name", "web", "--mode", "global", "skep/hello"];
    cluster.nodes[1].ok(&create);
    cluster.nodes[0].wait_running("web", 3);
}

#[test]
fn a_clock_that_goes_14_years_ahead_and_comes_back() {
    let (clocks, nodes) = Clocks::new(3, "14y");
    let mut cluster = Cluster::of(nodes);
    cluster.nodes[0].ok(&["init", "--advertise-addr", &address(0)]);
    join(&cluster, 1, "worker");
    for days in [14 * 365, 0] {
        let before = certificate(&cluster.nodes[1]);
        clocks.set(0, days);
        cluster.nodes[1].wait("all is issued anew", || {
            (certificate(&cluster.nodes[1]) != before).then_some(())
        });
        cluster.nodes[1].stop_daemon();
        cluster.nodes[1].start_daemon();
        cluster.wait_state(0, 1, "ready");
    }
    join(&cluster, 2, "worker");
    // The same at a worker: what it holds seems to be long over, and it may renew it.
    cluster.nodes[2].stop_daemon();
    clocks.set(2, 14 * 365);
    cluster.nodes[2].start_daemon();
    cluster.wait_state(0, 2, "ready");
    clocks.set(2, 0);
    cluster.nodes[2].stop_daemon();
    cluster.nodes[2].start_daemon();
    cluster.wait_state(0, 2, "ready");
}

#[test]
fn a_certificate_is_renewed_after_half_of_its_life_and_before_its_end() {
    let (clocks, nodes) = Clocks::new(2, "life");
    let mut cluster = Cluster::of(nodes);
    cluster.nodes[0].ok(&["init", "--advertise-addr", &address(0)]);
    assert_eq!(cluster.nodes[0].ok(&["update", "--cert-expiry", "1h"]), "Swarm updated.");
    let refused = cluster.nodes[0].fails(&["swarm", "update", "--cert-expiry", "59m"]);
    assert!(refused.err.contains("minimum certificate expiry time"), "{refused:?}");
    cluster.nodes[0].ok(&["swarm", "update", "--task-history-limit", "3"]);
    let spec = cluster.nodes[0].api("/swarm")["Spec"].clone();
    assert_eq!(spec["CAConfig"]["NodeCertExpiry"], 3_600_000_000_000_u64);
    assert_eq!(spec["Orchestration"]["TaskHistoryRetentionLimit"], 3);
    join(&cluster, 1, "worker");
    let first = certificate(&cluster.nodes[1]);
    for (minutes, renewed) in [(28, false), (50, true)] {
        for n in 0..2 {
            clocks.set_secs(n, minutes * 60);
        }
        // It looks when it starts, and every ten minutes.
        cluster.nodes[1].stop_daemon();
        cluster.nodes[1].start_daemon();
        cluster.wait_state(0, 1, "ready");
        let node = &cluster.nodes[1];
        if renewed {
            node.wait("it has renewed", || (certificate(node) != first).then_some(()));
        } else {
            assert!(certificate(node) == first, "after {minutes} minutes of 60");
        }
    }
}
