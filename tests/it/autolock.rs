//! Managers that lock themselves: what runs goes on, and nothing else does, until the key is there.

use std::io::Write;
use std::process::Stdio;

use super::cluster::Cluster;
use super::node::{Node, SKEP, Said};

/// `skep unlock` with a line on standard input.
fn unlock(node: &Node, key: &str) -> Said {
    let mut command = node.command(SKEP);
    command.arg("unlock").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("skep unlock");
    writeln!(child.stdin.take().expect("stdin"), "{key}").expect("a line");
    Said::of(child.wait_with_output().expect("skep unlock"))
}

fn unlocks(node: &Node, key: &str) {
    let said = unlock(node, key);
    assert_eq!((said.code, said.out.as_str()), (0, ""), "{said:?}\n{}", node.daemon_log());
    node.wait("it is a manager", || (node.skep(&["node", "ls"]).code == 0).then_some(()));
}

fn state(node: &Node) -> String {
    node.api("/info")["Swarm"]["LocalNodeState"].as_str().unwrap_or_default().to_owned()
}

/// The key in what a command printed.
fn key_in(said: &str) -> String {
    let mut words = said.split_whitespace();
    words.find(|word| word.starts_with("SWMKEY-1-")).expect("an unlock key").to_owned()
}

fn containers(node: &Node, service: &str) -> Vec<(String, String)> {
    let shown = |task: &serde_json::Value| {
        (task["ID"].to_string(), task["Status"]["ContainerStatus"]["PID"].to_string())
    };
    node.tasks(service, "running").iter().map(shown).collect()
}

const VAULT: &str = "node/vault";

#[test]
fn a_locked_manager_runs_its_tasks_and_is_unlocked_by_its_key_alone() {
    let mut node = Node::start();
    let said = node.ok(&["init", "--advertise-addr", "127.0.0.1", "--autolock"]);
    let key = key_in(&said);
    assert!(node.data_root().join(VAULT).exists(), "it is locked when init is answered");
    assert_eq!(node.ok(&["unlock-key", "-q"]), key);
    assert!(node.fails(&["unlock"]).err.contains("Error: swarm is not locked"));
    node.ok(&["service", "create", "-d", "--name", "web", "-p", "8080:80", "skep/hello"]);
    node.wait_running("web", 1);
    let before = containers(&node, "web");
    node.wait("the service answers", || node.get("127.0.0.1:8080"));

    node.kill_daemon();
    node.start_daemon();
    assert_eq!(state(&node), "locked");
    assert!(node.ok(&["info"]).contains("Swarm: locked"));
    assert!(node.get("127.0.0.1:8080").is_some(), "a locked manager serves");
    let locked = "Swarm is encrypted and needs to be unlocked before it can be used.";
    for words in
        [&["service", "ls"][..], &["node", "ls"], &["unlock-key"], &["join-token", "worker"]]
    {
        let said = node.fails(words);
        assert!(said.err.contains(locked), "{words:?}: {said:?}");
    }
    assert!(node.fails(&["leave"]).err.contains("Swarm is encrypted and locked."));
    assert!(node.fails(&["init"]).err.contains("already part of a swarm"));
    let other = format!("SWMKEY-1-{}", "A".repeat(43));
    for wrong in [other.as_str(), "hunter2", ""] {
        let said = unlock(&node, wrong);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("swarm could not be unlocked: invalid key provided"), "{said:?}");
        assert_eq!(state(&node), "locked");
    }
    unlocks(&node, &key);
    assert_eq!(node.wait_running("web", 1).len(), 1);
    assert_eq!(containers(&node, "web"), before, "no container was touched");
    node.ok(&["service", "create", "-d", "--name", "more", "skep/hello"]);
    node.wait_running("more", 1);

    // Another key; the first one opens nothing any more.
    let said = node.ok(&["unlock-key", "--rotate"]);
    assert!(said.starts_with("Successfully rotated manager unlock key."), "{said}");
    let next = key_in(&said);
    assert_ne!(next, key);
    node.stop_daemon();
    node.start_daemon();
    assert!(unlock(&node, &key).err.contains("invalid key provided"));
    unlocks(&node, &next);
    assert_eq!(containers(&node, "web"), before);

    // Off, and on again.
    assert_eq!(node.ok(&["update", "--autolock=false"]), "Swarm updated.");
    assert!(node.fails(&["unlock-key"]).err.contains("no unlock key is set"));
    assert!(node.fails(&["unlock-key", "--rotate"]).err.contains("autolock is not turned on"));
    node.stop_daemon();
    node.start_daemon();
    assert_eq!(state(&node), "active");
    let said = node.ok(&["swarm", "update", "--autolock"]);
    assert!(said.starts_with("Swarm updated.\n\nTo unlock a swarm manager"), "{said}");
    node.stop_daemon();
    node.start_daemon();
    assert_eq!(state(&node), "locked");
    // It may leave without its key.
    node.ok(&["leave", "--force"]);
    assert_eq!(state(&node), "inactive");
    assert!(!node.data_root().join(VAULT).exists());
    node.ok(&["init", "--advertise-addr", "127.0.0.1"]);
}

#[test]
fn each_of_three_managers_locks_itself_and_one_that_was_away_hears_of_the_next_key() {
    let mut cluster = Cluster::swarm(&["manager", "manager"]);
    let key = key_in(&cluster.nodes[0].ok(&["update", "--autolock=true"]));
    for node in &cluster.nodes {
        node.wait("it is locked", || node.data_root().join(VAULT).exists().then_some(()));
    }
    // On a follower as well.
    assert_eq!(cluster.nodes[1].ok(&["unlock-key", "-q"]), key);
    cluster.nodes[0].ok(&[
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--mode",
        "global",
        "skep/hello",
    ]);
    cluster.nodes[0].wait_running("web", 3);
    let mut before = containers(&cluster.nodes[0], "web");
    before.sort();

    cluster.nodes[2].stop_daemon();
    let next = key_in(&cluster.nodes[1].ok(&["unlock-key", "--rotate"]));
    cluster.nodes[2].start_daemon();
    assert_eq!(state(&cluster.nodes[2]), "locked");
    assert!(unlock(&cluster.nodes[2], &next).err.contains("invalid key provided"));
    let old = std::fs::read(cluster.nodes[2].data_root().join(VAULT)).expect("a vault");
    unlocks(&cluster.nodes[2], &key);
    let third = &cluster.nodes[2];
    third.wait("it has heard of the next key", || {
        (std::fs::read(third.data_root().join(VAULT)).expect("a vault") != old).then_some(())
    });
    for n in 0..3 {
        cluster.nodes[n].stop_daemon();
    }
    for n in 0..3 {
        cluster.nodes[n].start_daemon();
        assert_eq!(state(&cluster.nodes[n]), "locked");
    }
    for node in &cluster.nodes[..2] {
        assert_eq!(unlock(node, &next).code, 0);
    }
    unlocks(&cluster.nodes[2], &next);
    for n in 0..3 {
        cluster.wait_state(0, n, "ready");
    }
    let mut after = containers(&cluster.nodes[0], "web");
    after.sort();
    assert_eq!(after, before, "no container was touched");

    // A worker needs no key, and neither does one that was a manager.
    let id = cluster.id(2);
    cluster.nodes[0].ok(&["node", "demote", &id]);
    let third = &cluster.nodes[2];
    third.wait("it is no manager", || (!third.data_root().join(VAULT).exists()).then_some(()));
    cluster.nodes[2].stop_daemon();
    cluster.nodes[2].start_daemon();
    assert_eq!(state(&cluster.nodes[2]), "active");
    cluster.wait_state(0, 2, "ready");
}
