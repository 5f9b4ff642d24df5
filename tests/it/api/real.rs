//! Debian's docker client against a real node: containers run, ports answer, logs are read.

use std::io::{BufRead, BufReader};

use serde_json::{Value, json};

use crate::client::{Docker, cells, row};
use crate::node::Node;

const MACHINE: &str = "{{.Description.Hostname}}";

/// A node in a swarm of its own, and the client for it.
fn start() -> (Node, Docker) {
    let node = Node::swarm();
    let docker = Docker::on(&node);
    (node, docker)
}

/// Creates a service of the packed image and waits until the client says that it is stable.
fn create(docker: &Docker, arguments: &[&str]) -> String {
    let common = ["service", "create", "--no-resolve-image", "--update-monitor", "300ms"];
    docker.ok(&[&common[..], arguments, &["skep/hello"]].concat())
}

/// What `inspect` prints of one object.
fn object(docker: &Docker, arguments: &[&str]) -> Value {
    let text = docker.ok(arguments);
    let all: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|err| panic!("{err}: {text}"));
    let [one] = <[Value; 1]>::try_from(all).expect("one object");
    one
}

#[test]
fn version_and_info_of_a_real_node() {
    let (node, docker) = start();
    let version = docker.ok(&["version"]);
    for wanted in ["Server: skep", " Engine:", "(minimum version 1.24)", " runc:\n  Version: "] {
        assert!(version.contains(wanted), "{wanted} is missing in\n{version}");
    }
    let ours = docker.ok(&["version", "--format", "{{.Server.Version}} {{.Server.Os}}"]);
    assert_eq!(ours, format!("{} linux\n", env!("CARGO_PKG_VERSION")));

    create(&docker, &["-q", "--name", "web"]);
    let info = docker.run(&["info"]);
    assert_eq!((info.code, &*info.err), (0, ""), "it warns of nothing");
    for wanted in [
        " Containers: 1\n  Running: 1\n",
        " Images: 1\n",
        " Swarm: active\n",
        "  Is Manager: true\n",
        "  Managers: 1\n  Nodes: 1\n",
        "  Node Address: 127.0.0.1\n",
        "  Manager Addresses:\n   127.0.0.1:2377\n",
        "  Volume: local\n",
        " Default Runtime: runc\n",
    ] {
        assert!(info.out.contains(wanted), "{wanted:?} is missing in\n{}", info.out);
    }
    assert!(!info.out.contains("(expected:"), "runc is as it should be:\n{}", info.out);
    let root = docker.ok(&["info", "--format", "{{.DockerRootDir}} {{.Swarm.LocalNodeState}}"]);
    assert_eq!(root, format!("{} active\n", node.data_root().display()));
}

#[test]
fn a_real_node_is_listed_and_inspected() {
    let (_node, docker) = start();
    let name = docker.ok(&["node", "inspect", "self", "--format", MACHINE]).trim().to_owned();
    let id = docker.ok(&["node", "ls", "-q"]).trim().to_owned();
    assert_eq!(id.len(), 25, "{id}");

    let table = docker.ok(&["node", "ls"]);
    let mut lines = table.lines().map(cells);
    let heading = ["ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ENGINE VERSION"];
    assert_eq!(lines.next().expect("a heading"), heading);
    let own = format!("{id} *");
    let version = env!("CARGO_PKG_VERSION");
    let line = [&own, &name, "Ready", "Active", "Leader", version];
    assert_eq!(lines.next().expect("a node"), line);
    assert_eq!(lines.next(), None);

    let pretty = docker.ok(&["node", "inspect", "--pretty", "self"]);
    for wanted in [
        format!("ID:\t\t\t{id}\n"),
        format!("Hostname:              \t{name}\n"),
        "Status:\n State:\t\t\tReady\n Availability:         \tActive\n".to_owned(),
        "Manager Status:\n Address:\t\t127.0.0.1:2377\n Raft Status:\t\tReachable\n".to_owned(),
        " Leader:\t\tYes\n".to_owned(),
        "Platform:\n Operating System:\tlinux\n".to_owned(),
        format!("Engine Version:\t\t{version}\n"),
    ] {
        assert!(pretty.contains(&wanted), "{wanted:?} is missing in\n{pretty}");
    }
    // The same drivers by both ways to ask.
    let networks = docker.ok(&["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"]);
    let known = [
        "docker_gwbridge bridge local",
        "host host local",
        "ingress overlay swarm",
        "none null local",
    ];
    assert_eq!(networks.lines().collect::<Vec<_>>(), known);
    for kind in ["Log", "Network", "Volume"] {
        let each = format!("{{{{range .Plugins.{kind}}}}}{{{{.}}}} {{{{end}}}}");
        let known = docker.ok(&["info", "--format", &each]);
        let known: Vec<&str> = known.split_whitespace().collect();
        let line = format!(" {kind}:\t\t{}\n", known.join(", "));
        assert!(!known.is_empty() && pretty.contains(&line), "{line:?} is missing in\n{pretty}");
    }
}

#[test]
fn a_service_is_created_attached_and_answers() {
    let (node, docker) = start();
    let out = create(
        &docker,
        &["--name", "web", "--replicas", "2", "-p", "8080:80", "-e", "A=1", "-e", "B=two words"],
    );
    let mut lines = out.lines();
    let id = lines.next().expect("an id");
    assert_eq!(id.len(), 25, "{out}");
    assert!(out.contains("overall progress: 2 out of 2 tasks\n"), "{out}");
    let last = lines.next_back().expect("a verdict");
    assert!(last.starts_with("verify: Service ") && last.ends_with("converged"), "{out}");
    assert!(node.get("127.0.0.1:8080").is_some_and(|body| body.starts_with("Hello from ")));

    let table = docker.ok(&["service", "ls"]);
    let mut lines = table.lines().map(cells);
    let heading = ["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"];
    assert_eq!(lines.next().expect("a heading"), heading);
    let line = [&id[..12], "web", "replicated", "2/2", "skep/hello:latest", "*:8080->80/tcp"];
    assert_eq!(lines.next().expect("a service"), line);
    assert_eq!(lines.next(), None);

    let machine = docker.ok(&["node", "inspect", "self", "--format", MACHINE]).trim().to_owned();
    let table = docker.ok(&["service", "ps", "web"]);
    let heading = cells(table.lines().next().expect("a heading"));
    let columns =
        ["ID", "NAME", "IMAGE", "NODE", "DESIRED STATE", "CURRENT STATE", "ERROR", "PORTS"];
    assert_eq!(heading, columns);
    assert_eq!(table.lines().count(), 3, "{table}");
    for name in ["web.1", "web.2"] {
        let cells = row(&table, 1, name);
        assert_eq!(cells[2..5], ["skep/hello:latest", &machine, "Running"], "{table}");
        assert!(cells[5].starts_with("Running ") && cells[5].ends_with(" ago"), "{table}");
        assert_eq!(cells.len(), 6, "neither an error nor a port of its own:\n{table}");
    }

    let service = object(&docker, &["service", "inspect", "web"]);
    assert_eq!(service["ID"], id);
    assert_eq!(service["Spec"]["Mode"], json!({"Replicated": {"Replicas": 2}}));
    let container = &service["Spec"]["TaskTemplate"]["ContainerSpec"];
    assert_eq!(container["Image"], "skep/hello:latest");
    assert_eq!(container["Env"], json!(["A=1", "B=two words"]));
    let port = json!([{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080,
        "PublishMode": "ingress"}]);
    assert_eq!(service["Endpoint"]["Ports"], port);
    let pretty = docker.ok(&["service", "inspect", "--pretty", "web"]);
    for wanted in [
        &*format!("\nID:\t\t{id}\nName:\t\tweb\n"),
        "Service Mode:\tReplicated\n Replicas:\t2\n",
        "UpdateConfig:\n Parallelism:\t1\n On failure:\tpause\n Monitoring Period: 300ms\n",
        "ContainerSpec:\n Image:\t\tskep/hello:latest\n",
        " Env:\t\tA=1 B=two words \n",
        "Endpoint Mode:\tvip\nPorts:\n PublishedPort = 8080\n  Protocol = tcp\n",
    ] {
        assert!(pretty.contains(wanted), "{wanted:?} is missing in\n{pretty}");
    }
}

#[test]
fn a_service_is_scaled_updated_and_removed() {
    let (node, docker) = start();
    create(&docker, &["-q", "--name", "web", "-p", "8080:80", "-e", "A=1"]);
    let out = docker.ok(&["service", "scale", "web=3"]);
    assert!(out.starts_with("web scaled to 3\n"), "{out}");
    assert!(out.contains("overall progress: 3 out of 3 tasks\n"), "{out}");
    assert_eq!(row(&docker.ok(&["service", "ls"]), 1, "web")[3], "3/3");
    assert_eq!(docker.ok(&["service", "scale", "-d", "web=1"]), "web scaled to 1\n");
    let before = node.wait_running("web", 1);

    let out = docker.ok(&["service", "update", "--env-add", "B=2", "web"]);
    assert!(out.starts_with("web\n") && out.contains("1 out of 1 tasks"), "{out}");
    // The client and the manager each watch the new task for a time of their own.
    let env = "{{.Spec.TaskTemplate.ContainerSpec.Env}} {{.UpdateStatus.State}}";
    node.wait("the update is completed", || {
        let now = docker.ok(&["service", "inspect", "-f", env, "web"]);
        // Docker's client puts the two in any order.
        matches!(now.as_str(), "[A=1 B=2] completed\n" | "[B=2 A=1] completed\n").then_some(())
    });
    assert_ne!(node.wait_running("web", 1)[0]["ID"], before[0]["ID"], "the task was replaced");
    let pretty = docker.ok(&["service", "inspect", "--pretty", "web"]);
    for wanted in
        ["UpdateStatus:\n State:\t\tcompleted\n Started:\t", " Message:\tupdate completed\n"]
    {
        assert!(pretty.contains(wanted), "{wanted:?} is missing in\n{pretty}");
    }
    let table = docker.ok(&["service", "ps", "-f", "desired-state=shutdown", "web"]);
    let old = row(&table, 4, "Shutdown");
    assert!(old[5].starts_with("Shutdown "), "{table}");
    let table = docker.ok(&["service", "ps", "web"]);
    assert!(table.contains("  \\_ web.1  "), "history hangs below its slot:\n{table}");

    let out = docker.ok(&["service", "rollback", "-d", "web"]);
    assert_eq!(out, "web\n");
    let env = "{{.Spec.TaskTemplate.ContainerSpec.Env}}";
    assert_eq!(docker.ok(&["service", "inspect", "-f", env, "web"]), "[A=1]\n");
    assert_eq!(docker.ok(&["service", "rm", "web"]), "web\n");
    assert_eq!(docker.ok(&["service", "ls", "-q"]), "");
    node.wait("no task is left", || {
        node.api("/tasks").as_array().is_some_and(Vec::is_empty).then_some(())
    });
}

#[test]
fn the_logs_of_real_containers() {
    let (node, docker) = start();
    node.load_busybox("busybox:test");
    let script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done";
    docker.ok(&[
        "service",
        "create",
        "-d",
        "--no-resolve-image",
        "--name",
        "talk",
        "busybox:test",
        "sh",
        "-c",
        script,
    ]);
    let task = node.wait_running("talk", 1);
    let task = task[0]["ID"].as_str().expect("an id");
    let machine = docker.ok(&["node", "inspect", "self", "--format", MACHINE]).trim().to_owned();
    let prefix = format!("talk.1.{}@{machine}    | ", &task[..12]);
    let logs = node.wait("three lines", || {
        let logs = docker.ok(&["service", "logs", "talk"]);
        (logs.lines().count() >= 3).then_some(logs)
    });
    for (line, number) in logs.lines().zip(1..) {
        assert_eq!(line, format!("{prefix}line {number}"));
    }
    let tail = docker.ok(&["service", "logs", "--tail", "2", "talk"]);
    assert_eq!(tail.lines().count(), 2, "{tail}");
    assert!(tail.lines().all(|line| line.starts_with(&prefix)), "{tail}");
    assert_eq!(
        docker.ok(&["service", "logs", "--raw", "-t", task]).split(' ').nth(1),
        Some("line")
    );

    // Followed, it goes on until it is ended; what is written meanwhile arrives.
    let mut follow = docker.begin(&["service", "logs", "-f", "--tail", "1", "talk"]);
    let mut lines = BufReader::new(follow.stdout.take().expect("a pipe")).lines();
    let mut number = || {
        let line = lines.next().expect("more lines").expect("text");
        let number = line.strip_prefix(&prefix).and_then(|line| line.strip_prefix("line "));
        number.and_then(|text| text.parse::<u64>().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    let first = number();
    assert!(first > 1, "only the tail is shown: {first}");
    for next in first + 1..first + 4 {
        assert_eq!(number(), next);
    }
    follow.kill().expect("kill");
    follow.wait().expect("wait");
    assert_eq!(docker.ok(&["service", "rm", "talk"]), "talk\n");
}

#[test]
fn what_a_real_node_refuses() {
    let (_node, docker) = start();
    create(&docker, &["-q", "--name", "web", "-p", "8080:80"]);
    let before = docker.ok(&["service", "inspect", "web"]);
    let refusal = "Error response from daemon: rpc error: code = ";
    for (arguments, wanted) in [
        (&["service", "ps", "missing"][..], "no such service: missing\n".to_owned()),
        (
            &["service", "create", "--no-resolve-image", "--name", "web", "skep/hello"],
            format!(
                "{refusal}AlreadyExists desc = name conflicts with an existing object: service \
                 web already exists\n"
            ),
        ),
        (
            &["service", "create", "--no-resolve-image", "--name", "a b", "skep/hello"],
            format!("{refusal}InvalidArgument desc = name must be valid as a DNS name component\n"),
        ),
        (&["service", "logs", "missing"], "no such task or service: missing\n".to_owned()),
        (
            &["service", "ls", "-f", "bogus=1"],
            "Error response from daemon: invalid filter 'bogus'\n".to_owned(),
        ),
        (
            &["swarm", "init"],
            "Error response from daemon: This node is already part of a swarm. Use \"skep leave\" \
             to leave this swarm and join another one.\n"
                .to_owned(),
        ),
    ] {
        assert_eq!(docker.fails(arguments), wanted, "{arguments:?}");
    }
    // Of these, other versions of the client have other words around the name.
    for arguments in [
        &["service", "rm", "missing"][..],
        &["service", "scale", "missing=1"],
        &["service", "update", "missing"],
        &["service", "inspect", "missing"],
        &["service", "rollback", "missing"],
        &["node", "inspect", "missing"],
    ] {
        let error = docker.fails(arguments);
        let told = error.contains("missing") && !error.contains("rpc error");
        assert!(told, "{arguments:?}: {error}");
    }
    let table = docker.run(&["service", "ps", "web", "missing"]);
    assert_eq!((table.code, &*table.err), (1, "no such service: missing\n"));
    assert_eq!(row(&table.out, 1, "web.1")[4], "Running", "what is there is shown all the same");
    assert_eq!(docker.ok(&["service", "inspect", "web"]), before, "nothing was changed");
}
