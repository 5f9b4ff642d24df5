//! Mishaps beside a crash: a second daemon on the same folders, a swarm left too early, a damaged
//! file, a proxy that cannot be started for a while, many writers on a full disk.

use std::process::Stdio;
use std::time::Duration;

use crate::node::{Node, must};
use crate::service::{kill, task_pid};

fn web(node: &Node) -> serde_json::Value {
    node.ok(&["service", "create", "-q", "-d", "--name", "web", "-p", "8080:80", "skep/hello"]);
    let task = node.wait_running("web", 1).remove(0);
    node.wait("an answer", || node.get("127.0.0.1:8080"));
    task
}

#[test]
fn a_second_daemon_on_an_exec_root_is_refused_and_touches_nothing() {
    let node = Node::swarm();
    let task = web(&node);
    let said = node
        .command(crate::node::SKEP)
        .args(["daemon", "--data-root"])
        .arg(node.dir.join("other"))
        .arg("--exec-root")
        .arg(node.exec_root())
        .output()
        .expect("daemon");
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.status.success(), "{text}");
    assert!(text.contains("another skep daemon") && text.contains("--exec-root"), "{text}");
    assert_eq!(task_pid(&node.wait_running("web", 1)[0]), task_pid(&task));
    assert!(node.get("127.0.0.1:8080").is_some());
}

#[test]
fn a_swarm_is_left_while_its_tasks_are_being_made() {
    for wait in ["0.1", "0.5", "1"] {
        let node = Node::swarm();
        node.ok(&[
            "service",
            "create",
            "-q",
            "-d",
            "--name",
            "many",
            "--replicas",
            "30",
            "skep/hello",
        ]);
        must(std::process::Command::new("sleep").arg(wait));
        node.ok(&["leave", "--force"]);
        // What is left would be found when the node is dropped; this is what a user sees.
        let tasks = std::fs::read_dir(node.exec_root().join("tasks")).expect("tasks").count();
        assert_eq!(tasks, 0, "after {wait} s");
    }
}

#[test]
fn a_damaged_task_record_is_made_again_and_the_container_goes_on() {
    let mut node = Node::swarm();
    let task = web(&node);
    let record = node.data_root().join("tasks").join(task["ID"].as_str().expect("id")).join("task");
    let whole = std::fs::read(&record).expect("record");
    for damage in ["flipped", "cut", "gone"] {
        node.stop_daemon();
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
        match damage {
            "flipped" => std::fs::write(&record, &bytes).expect("record"),
            "cut" => std::fs::write(&record, &whole[..middle]).expect("record"),
            _ => std::fs::remove_file(&record).expect("record"),
        }
        node.start_daemon();
        assert_eq!(task_pid(&node.wait_running("web", 1)[0]), task_pid(&task), "{damage}");
        assert!(node.daemon_log().contains("is made again from the log"), "{}", node.daemon_log());
        assert!(std::fs::metadata(&record).is_ok_and(|meta| meta.len() > 100), "{damage}");
        assert!(node.get("127.0.0.1:8080").is_some());
    }
}

#[test]
fn a_log_without_an_identity_is_not_touched() {
    let mut node = Node::swarm();
    let task = web(&node);
    node.stop_daemon();
    let (identity, aside) =
        (node.data_root().join("node/identity"), node.data_root().join("node/aside"));
    std::fs::rename(&identity, &aside).expect("rename");
    node.spawn_daemon(&[]);
    node.wait("the daemon ends", || node.daemon_has_ended().then_some(()));
    node.kill_daemon();
    assert!(node.daemon_log().contains("node/identity is missing"), "{}", node.daemon_log());
    std::fs::rename(&aside, &identity).expect("rename");
    node.start_daemon();
    assert_eq!(task_pid(&node.wait_running("web", 1)[0]), task_pid(&task));
}

#[test]
fn a_proxy_that_cannot_be_started_is_tried_again() {
    let mut node = Node::swarm();
    node.stop_daemon();
    let (program, aside) = (node.dir.join("skep-copy"), node.dir.join("skep-aside"));
    std::fs::copy(crate::node::SKEP, &program).expect("copy");
    node.program.clone_from(&program);
    node.start_daemon();
    web(&node);
    std::fs::rename(&program, &aside).expect("rename");
    kill(node.proxy_pid());
    node.wait("the proxy cannot be started", || {
        node.daemon_log().contains("cannot run").then_some(())
    });
    std::fs::rename(&aside, &program).expect("rename");
    node.wait("the port answers again", || node.get("127.0.0.1:8080"));
    assert_eq!(node.wait_running("web", 1)[0]["Status"]["Err"], serde_json::Value::Null);
}

#[test]
fn many_writers_on_a_full_disk_leave_a_log_that_goes_on() {
    let node = Node::start_on_small_disk(60 << 20);
    node.ok(&["init", "--advertise-addr", "127.0.0.1"]);
    let ballast = node.data_root().join("ballast");
    // Specs of some KB, so that the log soon needs another block.
    let label = "x".repeat(6_000);
    for round in 0..4 {
        node.fill(&ballast);
        let names: Vec<String> = (0..20).map(|n| format!("r{round}n{n}")).collect();
        let mut writers: Vec<_> = names
            .iter()
            .map(|name| {
                node.command("sh")
                    .args(["-c", r#"for i in 1 2 3 4 5 6; do "$0" service create -q -d --replicas 0 --label "a=$1" --name "$2-$i" skep/hello; done; exit 0"#])
                    .args([crate::node::SKEP, &label, name])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("sh")
            })
            .collect();
        // Space comes back while they are at it.
        std::thread::sleep(Duration::from_millis(300));
        std::fs::remove_file(&ballast).expect("ballast");
        for writer in &mut writers {
            writer.wait().expect("sh");
        }
        node.ok(&[
            "service",
            "create",
            "-q",
            "-d",
            "--replicas",
            "0",
            "--name",
            &format!("after{round}"),
            "skep/hello",
        ]);
    }
    assert!(node.daemon_log().contains("no space left"), "the disk was full");
    assert!(!node.daemon_log().contains("does not follow the log"), "{}", node.daemon_log());
}

#[test]
fn the_daemon_may_open_as_many_files_as_it_can_and_containers_have_the_usual_limit() {
    let mut node = Node::swarm();
    node.load_busybox("busybox:test");
    node.stop_daemon();
    // As from a shell with limits of its own.
    let wrapper = node.dir.join("limited");
    let text = format!("#!/bin/sh\nexec prlimit --nofile=600:5000 {} \"$@\"\n", crate::node::SKEP);
    std::fs::write(&wrapper, text).expect("a script");
    must(std::process::Command::new("chmod").arg("755").arg(&wrapper));
    node.program = wrapper;
    node.start_daemon();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.daemon_pid()));
    let limits = limits.expect("limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let words: Vec<_> = files.split_whitespace().collect();
    assert_eq!(words[3..5], ["5000", "5000"], "{files}");
    let script = "echo $(ulimit -Sn) $(ulimit -Hn); exec sleep 1000";
    let create = ["service", "create", "-q", "-d", "--name", "app", "busybox:test"];
    node.ok(&[&create[..], &["sh", "-c", script]].concat());
    node.wait_running("app", 1);
    let said = node.wait("its limits", || {
        let logs = node.ok(&["service", "logs", "--raw", "app"]);
        Some(logs).filter(|logs| !logs.is_empty())
    });
    assert_eq!(said, "1024 5000");
}
