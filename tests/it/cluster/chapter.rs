//! What a book's chapter on swarm mode walks through, on three machines, with `skep` and with Docker's
//! own client.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::{Cluster, address, homes};
use crate::client::{Docker, cells};
use crate::node::{Node, SKEP, Said, sweep};

const CREATE: [&str; 5] = ["service", "create", "--detach", "--name", "website"];

/// How many tasks each node has, the most first.
fn spread(node: &Node, service: &str) -> Vec<usize> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for home in homes(node, service) {
        *counts.entry(home).or_default() += 1;
    }
    let mut counts: Vec<usize> = counts.into_values().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts
}

/// Waits until so many run, none of them on this node; each slot has one task then.
fn wait_elsewhere(node: &Node, service: &str, count: usize, gone: &str) {
    node.wait(&format!("{count} run elsewhere"), || {
        let homes = homes(node, service);
        (homes.len() == count && !homes.iter().any(|home| home == gone)).then_some(())
    });
}

/// Waits until exactly so many run, each in a slot of its own.
fn wait_slots(node: &Node, service: &str, count: usize) {
    node.wait("each slot has one task", || {
        let running = node.tasks(service, "running");
        let slots: BTreeSet<u64> = running.iter().filter_map(|it| it["Slot"].as_u64()).collect();
        (running.len() == count && slots.len() == count).then_some(())
    });
}

/// Task, process and the process's start time of each running container.
fn containers(node: &Node, service: &str) -> BTreeSet<(String, u64, String)> {
    let tasks = node.tasks(service, "running").into_iter();
    tasks
        .map(|task| {
            let pid = task["Status"]["ContainerStatus"]["PID"].as_u64().expect("a process");
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
            // Field 22, counted from behind the name, which may hold blanks.
            let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
            let started = after.split_whitespace().nth(19).unwrap_or_default().to_owned();
            (task["ID"].to_string(), pid, started)
        })
        .collect()
}

#[test]
fn the_walk_with_dockers_client_and_a_cable_that_is_pulled() {
    let cluster = Cluster::new(3);
    let [first, second, third] = &cluster.nodes[..] else { panic!("three nodes") };
    let said = first.ok(&["init", "--advertise-addr", &address(0)]);
    // What it prints is what is typed on the others.
    let line = said.lines().find(|line| line.contains("skep join --token")).expect("the line");
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    for node in [second, third] {
        assert_eq!(node.ok(&words), "This node joined a swarm as a worker.");
    }
    let docker = Docker::on(first);
    first.wait("three are ready", || {
        let table = docker.ok(&["node", "ls"]);
        (table.lines().filter(|line| cells(line).contains(&"Ready")).count() == 3).then_some(())
    });
    let table = docker.ok(&["node", "ls"]);
    assert_eq!(table.lines().filter(|line| line.contains("Leader")).count(), 1, "{table}");
    let on_worker = Docker::on(second);
    for words in [&["node", "ls"], &["service", "ls"]] {
        let said = on_worker.fails(words);
        let text = "Error response from daemon: This node is not a swarm manager. Worker nodes can't \
            be used to view or modify cluster state. Please run this command on a manager node or \
            promote the current node to a manager.";
        assert_eq!(said.trim_end(), text);
    }

    docker.ok(&[&CREATE[..], &["--publish", "80:80", "skep/hello"]].concat());
    first.wait_running("website", 1);
    docker.ok(&["service", "scale", "--detach", "website=5"]);
    first.wait_running("website", 5);
    assert_eq!(spread(first, "website"), [2, 2, 1]);
    for node in &cluster.nodes {
        node.wait("it answers", || node.get("127.0.0.1:80"));
    }
    let listed = docker.ok(&["service", "ls"]);
    assert!(listed.contains("5/5"), "{listed}");
    let gone = cluster.id(2);
    let on_third = docker.ok(&["node", "ps", "--filter", "desired-state=running", &gone]);
    let of_third = homes(first, "website").iter().filter(|home| **home == gone).count();
    assert_eq!(on_third.lines().skip(1).count(), of_third, "{on_third}");

    cluster.link(2, "down");
    cluster.wait_state(0, 2, "down");
    wait_elsewhere(first, "website", 5, &gone);
    let table = docker.ok(&["node", "ls"]);
    assert!(table.lines().any(|line| line.starts_with(&gone) && line.contains("Down")), "{table}");
    cluster.link(2, "up");
    cluster.wait_state(0, 2, "ready");
    wait_slots(first, "website", 5);
    docker.ok(&["service", "scale", "--detach", "website=2"]);
    wait_slots(first, "website", 2);
    docker.ok(&["service", "rm", "website"]);
}

#[test]
fn a_power_cut_is_survived_by_the_service_and_by_the_machine() {
    let mut cluster = Cluster::swarm(&["worker", "worker"]);
    cluster.nodes[0].ok(&[&CREATE[..], &["--replicas", "5", "skep/hello"]].concat());
    cluster.nodes[0].wait_running("website", 5);
    let gone = cluster.id(2);
    cluster.link(2, "down");
    cluster.nodes[2].kill_daemon();
    sweep(&cluster.nodes[2].dir);
    let took = cluster.wait_state(0, 2, "down");
    assert!(took < Duration::from_secs(10), "{took:?}");
    wait_elsewhere(&cluster.nodes[0], "website", 5, &gone);
    cluster.link(2, "up");
    cluster.nodes[2].start_daemon();
    cluster.wait_state(0, 2, "ready");
    wait_slots(&cluster.nodes[0], "website", 5);
}

#[test]
fn all_daemons_are_restarted_one_after_the_other_and_no_container_stops() {
    let mut cluster = Cluster::swarm(&["manager", "manager"]);
    cluster.nodes[0].ok(&[&CREATE[..], &["--replicas", "5", "skep/hello"]].concat());
    cluster.nodes[0].wait_running("website", 5);
    let before = containers(&cluster.nodes[0], "website");
    assert_eq!(before.len(), 5);
    for n in 0..3 {
        cluster.nodes[n].stop_daemon();
        cluster.nodes[n].start_daemon();
        for seen_by in 0..3 {
            cluster.wait_state(seen_by, n, "ready");
        }
        cluster.nodes[n].wait_running("website", 5);
        assert_eq!(containers(&cluster.nodes[n], "website"), before, "after {n}");
    }
}

#[test]
fn no_service_is_lost_that_was_acknowledged_while_the_leader_died() {
    let mut cluster = Cluster::swarm(&["manager", "manager"]);
    let stop = AtomicBool::new(false);
    let host = format!("unix://{}", cluster.nodes[1].socket().display());
    let made = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut made = Vec::new();
            for n in 0.. {
                let name = format!("s{n}");
                let mut create = Command::new(SKEP);
                create.env("SKEP_HOST", &host).args(["service", "create", "--detach", "--name"]);
                let said = create.args([&name, "--replicas", "0", "skep/hello"]).output();
                if Said::of(said.expect("skep")).code == 0 {
                    made.push(name);
                }
                if stop.load(Ordering::Acquire) {
                    break;
                }
            }
            made
        });
        let count = |node: &Node| node.api("/services").as_array().map_or(0, Vec::len);
        cluster.nodes[0].wait("some are made", || (count(&cluster.nodes[0]) > 2).then_some(()));
        cluster.nodes[0].kill_daemon();
        let other = &cluster.nodes[2];
        let then = other.wait("another one leads", || Some(count(other)).filter(|it| *it > 0));
        other.wait("more are made", || (count(other) > then + 2).then_some(()));
        stop.store(true, Ordering::Release);
        writer.join().expect("the writer")
    });
    assert!(made.len() > 1, "{made:?}");
    let services = cluster.nodes[2].api("/services");
    let services = services.as_array().cloned().unwrap_or_default();
    let name = |service: &Value| service["Spec"]["Name"].as_str().unwrap_or_default().to_owned();
    let there: BTreeSet<String> = services.iter().map(name).collect();
    let lost: Vec<&String> = made.iter().filter(|name| !there.contains(*name)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    cluster.nodes[0].start_daemon();
    cluster.wait_state(2, 0, "ready");
}
