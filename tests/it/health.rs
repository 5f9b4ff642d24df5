//! Health checks from the command line to the container.

use std::path::PathBuf;

use crate::busybox::busybox_archive_with;
use crate::node::{Node, process_with};

/// Where a task's file system is seen from outside.
fn root_of(node: &Node, task: &serde_json::Value) -> PathBuf {
    let id = task["ID"].as_str().expect("an id");
    node.exec_root().join("tasks").join(id).join("rootfs")
}

fn create(node: &Node, name: &str, flags: &[&str], command: &[&str]) {
    let head = ["service", "create", "-q", "-d", "--name", name, "--restart-delay", "1s"];
    node.ok(&[&head[..], flags, &["busybox:test"], command].concat());
}

fn err_of(task: &serde_json::Value) -> String {
    task["Status"]["Err"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_task_runs_and_serves_once_it_is_healthy_and_is_replaced_when_it_is_not() {
    let node = Node::swarm();
    node.load_busybox("busybox:test");
    let check = [
        "--health-cmd",
        "echo >> /tmp/probes; test -e /tmp/well || { echo it is not; exit 1; }",
        "--health-interval",
        "1s",
        "--health-retries",
        "2",
        "--health-start-period",
        "10m",
        "--health-start-interval",
        "500ms",
        "-p",
        "8080:80",
    ];
    create(&node, "web", &check, &["httpd", "-f", "-p", "80", "-h", "/www"]);
    let task = node.wait("it starts", || node.tasks("web", "starting").pop());
    node.wait("more probes have failed than make it unhealthy later", || {
        let probes = std::fs::read_to_string(root_of(&node, &task).join("tmp/probes"));
        (probes.unwrap_or_default().len() > 2).then_some(())
    });
    assert_eq!(node.tasks("web", "starting").len(), 1);
    assert_eq!(node.get("127.0.0.1:8080"), None, "not in the rotation");
    std::fs::write(root_of(&node, &task).join("tmp/well"), "").expect("a file");
    let running = node.wait_running("web", 1);
    assert_eq!(running[0]["ID"], task["ID"]);
    node.wait("it serves", || node.get("127.0.0.1:8080"));

    std::fs::remove_file(root_of(&node, &task).join("tmp/well")).expect("a file");
    let failed = node.wait("it failed", || node.tasks("web", "failed").pop());
    assert_eq!(failed["ID"], task["ID"]);
    let words = "dockerexec: unhealthy container (its health check exited with 1: it is not)";
    assert!(err_of(&failed).ends_with(words), "{failed}");
    let next = node.wait("its successor starts", || node.tasks("web", "starting").pop());
    std::fs::write(root_of(&node, &next).join("tmp/well"), "").expect("a file");
    node.wait("its successor serves", || node.get("127.0.0.1:8080"));
}

#[test]
fn a_probe_that_hangs_is_no_good_and_none_is_left_by_a_daemon_that_died() {
    let mut node = Node::swarm();
    node.load_busybox("busybox:test");
    let hangs = |seconds: &'static str| ["--health-cmd", seconds, "--health-interval", "1s"];
    let late = ["--health-timeout", "1s", "--health-retries", "1"];
    create(&node, "late", &[&hangs("sleep 5241")[..], &late].concat(), &["sleep", "1000"]);
    let failed = node.wait("it failed", || node.tasks("late", "failed").pop());
    let words = "dockerexec: unhealthy container (its health check took more than 1 s)";
    assert!(err_of(&failed).ends_with(words), "{failed}");
    node.ok(&["service", "rm", "late"]);

    create(
        &node,
        "long",
        &[&hangs("sleep 5242")[..], &["--health-timeout", "10m"]].concat(),
        &["sleep", "1000"],
    );
    let probe = node.wait("a probe", || process_with(&["sleep 5242"]));
    node.kill_daemon();
    node.start_daemon();
    let gone = || (!std::path::Path::new(&format!("/proc/{probe}")).exists()).then_some(());
    node.wait("the probe of the daemon that died is gone", gone);
    assert_eq!(node.tasks("long", "starting").len(), 1, "its container goes on");
    node.ok(&["service", "rm", "long"]);
    node.wait("no probe is left", || process_with(&["sleep 5242"]).is_none().then_some(()));
}

#[test]
fn the_images_check_is_run_unless_it_is_turned_off_or_replaced() {
    let node = Node::swarm();
    let tarball = node.dir.join("checked.tar");
    let second = 1_000_000_000;
    let check = serde_json::json!({
        "Test": ["CMD", "false"], "Interval": second, "Timeout": second, "Retries": 1,
    });
    busybox_archive_with(&tarball, "busybox:test", &node.dir, &check);
    node.ok(&["image", "load", "-q", "-i", tarball.to_str().expect("path")]);
    create(&node, "image", &[], &["sleep", "1000"]);
    let failed = node.wait("it failed", || node.tasks("image", "failed").pop());
    assert!(err_of(&failed).contains("unhealthy container"), "{failed}");
    create(&node, "own", &["--health-cmd", "true"], &["sleep", "1000"]);
    node.wait_running("own", 1);
    create(&node, "off", &["--no-healthcheck"], &["sleep", "1000"]);
    node.wait_running("off", 1);
}

#[test]
fn an_update_waits_until_what_it_started_is_healthy() {
    let node = Node::swarm();
    node.load_busybox("busybox:test");
    let flags = [
        "--health-cmd",
        "test -e /tmp/$WHAT",
        "--health-interval",
        "500ms",
        "--health-start-period",
        "10m",
        "--health-start-interval",
        "500ms",
        "--update-order",
        "start-first",
        "--update-monitor",
        "1s",
        "-e",
        "WHAT=one",
    ];
    create(&node, "web", &flags, &["sleep", "1000"]);
    let first = node.wait("it starts", || node.tasks("web", "starting").pop());
    std::fs::write(root_of(&node, &first).join("tmp/one"), "").expect("a file");
    node.wait_running("web", 1);
    node.ok(&["service", "update", "-q", "-d", "--env-add", "WHAT=two", "web"]);
    let second = node.wait("the new one starts", || node.tasks("web", "starting").pop());
    assert_eq!(node.wait_running("web", 1)[0]["ID"], first["ID"], "the old one runs on");
    assert_eq!(node.api("/services/web")["UpdateStatus"]["State"], "updating");
    std::fs::write(root_of(&node, &second).join("tmp/two"), "").expect("a file");
    node.wait("the update is done", || {
        (node.api("/services/web")["UpdateStatus"]["State"] == "completed").then_some(())
    });
    assert_eq!(node.wait_running("web", 1)[0]["ID"], second["ID"]);
}
