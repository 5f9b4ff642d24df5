//! Where a service's image comes from: a registry when it is not here, and nowhere when it is.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::busybox::busybox_archive;
use crate::node::{Node, must};
use crate::pushed::{Registry, push};

/// An image of a web server that says `greeting`, pushed.
fn build_and_push(node: &Node, name: &str, greeting: &str) {
    busybox_archive(&node.dir.join("unused.tar"), "unused", &node.dir);
    let root = node.dir.join("busybox-root");
    std::fs::write(root.join("www/index.html"), greeting).expect("index");
    let command = r#"["httpd", "-f", "-p", "80", "-h", "/www"]"#;
    push(node, name, &root, &["--cmd", command, "--env", "PATH=/bin"]);
}

#[test]
fn an_image_that_is_not_here_is_pulled_and_then_no_registry_is_needed() {
    let mut node = Node::swarm();
    let registry = Registry::start(&node);
    build_and_push(&node, "web:v1", "first\n");
    let said =
        node.ok(&["service", "create", "--name", "web", "-p", "8080:80", "127.0.0.1:5000/web:v1"]);
    assert!(said.contains("converged"), "{said}");
    assert_eq!(node.get("127.0.0.1:8080").as_deref(), Some("first\n"));
    let image = node.api("/services/web")["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"].clone();
    let image = image.as_str().expect("image").to_owned();
    assert!(image.starts_with("127.0.0.1:5000/web:v1@sha256:"), "pinned: {image}");
    assert!(node.ok(&["service", "ls"]).contains(" 127.0.0.1:5000/web:v1 "));

    // The same tag again, with something else behind it.
    build_and_push(&node, "web:v1", "second\n");
    node.ok(&["service", "update", "--image", "127.0.0.1:5000/web:v1", "web"]);
    assert_eq!(node.get("127.0.0.1:8080").as_deref(), Some("second\n"));

    drop(registry);
    node.kill_daemon();
    node.start_daemon();
    node.ok(&["service", "scale", "web=2"]);
    let victim = crate::service::task_pid(&node.wait_running("web", 2)[0]);
    crate::service::kill(victim);
    node.wait("a successor runs without a registry", || {
        let running = node.tasks("web", "running");
        let fresh = running.iter().all(|task| crate::service::task_pid(task) != victim);
        (running.len() == 2 && fresh).then_some(())
    });
    let said = node.fails(&["image", "rm", &image]);
    assert!(said.err.contains("conflict"), "{said:?}");
}

#[test]
fn an_image_that_cannot_be_had_is_told_and_comes_by_itself_later() {
    let node = Node::swarm();
    let said = node.skep(&[
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--restart-delay",
        "1s",
        "-p",
        "8080:80",
        "127.0.0.1:5000/web:v1",
    ]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("could not be accessed on a registry to record"), "{said:?}");
    let rejected = node.wait("the task is rejected", || node.tasks("web", "rejected").pop());
    let why = rejected["Status"]["Err"].as_str().unwrap_or_default().to_owned();
    assert!(why.starts_with("No such image: 127.0.0.1:5000/web:v1: "), "{why}");
    assert!(node.ok(&["service", "ps", "--no-trunc", "web"]).contains(&why));

    let _registry = Registry::start(&node);
    // Reachable, but without the image.
    node.wait("the registry is asked", || {
        let tasks = node.tasks("web", "rejected");
        let told = |task: &serde_json::Value| {
            task["Status"]["Err"].as_str().is_some_and(|err| err.contains("manifest unknown"))
        };
        tasks.iter().any(told).then_some(())
    });
    build_and_push(&node, "web:v1", "late\n");
    node.wait("it runs", || node.get("127.0.0.1:8080").filter(|body| body == "late\n"));
}

/// A registry inside a node's network that takes connections, by its backlog, and never answers.
fn dead_registry(node: &Node) -> TcpListener {
    let netns = format!("/run/netns/{}", node.netns);
    // Only the thread that makes the socket changes its network.
    let made = std::thread::spawn(move || {
        let netns = std::fs::File::open(netns).expect("netns");
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
        TcpListener::bind("127.0.0.1:5000").expect("bind")
    });
    made.join().expect("a listener")
}

#[test]
fn a_registry_that_never_answers_holds_up_nothing_but_its_own_tasks() {
    let node = Node::swarm();
    node.load_busybox("busybox:test");
    let dead = dead_registry(&node);
    for n in 0..8 {
        let (name, image) = (format!("dead{n}"), format!("127.0.0.1:5000/nothing{n}:1"));
        node.ok(&["service", "create", "-q", "-d", "--no-resolve-image", "--name", &name, &image]);
    }
    node.wait("all of them are being prepared", || {
        (0..8).all(|n| node.tasks(&format!("dead{n}"), "preparing").len() == 1).then_some(())
    });
    let begun = Instant::now();
    node.ok(&["service", "create", "-q", "-d", "--name", "live", "busybox:test", "sleep", "1000"]);
    node.wait_running("live", 1);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(node.tasks("dead0", "preparing").len(), 1, "its pull goes on meanwhile");
    drop(dead);
}

#[test]
fn credentials_that_come_with_a_service_serve_its_tasks_and_are_kept_nowhere() {
    let mut node = Node::swarm();
    let open = Registry::start(&node);
    build_and_push(&node, "web:v1", "private\n");
    drop(open);
    let users = node.dir.join("users").display().to_string();
    must(std::process::Command::new("htpasswd").args(["-Bbc", &users, "user", "swordfish"]));
    let auth = format!("auth:\n  htpasswd:\n    realm: own\n    path: {users}");
    let _registry = Registry::start_with(&node, &auth);
    let create = |name: &str, port: u16, auth: &str| {
        let spec = serde_json::json!({
            "Name": name,
            "TaskTemplate": { "ContainerSpec": { "Image": "127.0.0.1:5000/web:v1" } },
            "EndpointSpec": { "Ports": [{ "TargetPort": 80, "PublishedPort": port }] },
        });
        let mut curl = node.command("curl");
        curl.args(["-s", "--unix-socket"]).arg(node.socket());
        curl.args(["-H", "Content-Type: application/json", "-d", &spec.to_string()]);
        curl.args(["-H", &format!("X-Registry-Auth: {auth}")]);
        let output = must(curl.arg("http://localhost/services/create"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = create("without", 8081, "");
    assert!(said.contains("\"ID\""), "{said}");
    let rejected = node.wait("the task is rejected", || node.tasks("without", "rejected").pop());
    let why = rejected["Status"]["Err"].as_str().unwrap_or_default();
    assert!(why.contains("pull access denied for 127.0.0.1:5000/web"), "{why}");
    // {"username":"user","password":"swordfish"}
    let said = create("with", 8080, "eyJ1c2VybmFtZSI6InVzZXIiLCJwYXNzd29yZCI6InN3b3JkZmlzaCJ9");
    assert!(said.contains("\"ID\"") && !said.contains("stay on this node"), "alone: {said}");
    node.wait("it runs", || node.get("127.0.0.1:8080").filter(|body| body == "private\n"));
    assert!(create("bad", 8082, "!").contains("invalid X-Registry-Auth header"));

    // A start of the daemon later they are gone, and the image that they brought is here.
    node.stop_daemon();
    node.start_daemon();
    node.wait_running("with", 1);
    let mut grep = std::process::Command::new("grep");
    let found = grep.args(["-rl", "swordfish"]).arg(node.data_root()).output().expect("grep");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    let shown = node.ok(&["service", "inspect", "with"]) + &node.daemon_log();
    assert!(!shown.contains("swordfish"));
}
