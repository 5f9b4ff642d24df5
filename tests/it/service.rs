//! A service's life on one node, from the command line to the kernel.

use crate::node::Node;

#[test]
fn the_packed_image_runs_answers_scales_and_heals() {
    let node = Node::swarm();
    let id = node.ok(&[
        "service",
        "create",
        "-q",
        "-d",
        "--name",
        "website",
        "-p",
        "8080:80",
        "skep/hello",
    ]);
    assert_eq!(id.len(), 25, "{id}");
    let first = node.wait("an answer", || node.get("127.0.0.1:8080"));
    assert!(first.starts_with("Hello from "), "{first}");
    assert_eq!(node.get("[::1]:8080"), Some(first), "IPv6 reaches the same task");

    assert!(node.ok(&["service", "scale", "-d", "website=3"]).contains("website scaled to 3"));
    let tasks = node.wait_running("website", 3);
    let names = node.wait("three host names", || {
        let mut names: Vec<_> = (0..12).filter_map(|_| node.get("127.0.0.1:8080")).collect();
        names.sort();
        names.dedup();
        (names.len() == 3).then_some(names)
    });
    assert_eq!(names.len(), 3);

    let victim = tasks.first().expect("a task");
    let (victim_id, pid) = (victim["ID"].clone(), task_pid(victim));
    kill(pid);
    let after = node.wait("the killed one's successor runs", || {
        let running = node.tasks("website", "running");
        let replaced = running.len() == 3 && running.iter().all(|task| task["ID"] != victim_id);
        replaced.then_some(running)
    });
    let slots: std::collections::BTreeSet<u64> =
        after.iter().filter_map(|task| task["Slot"].as_u64()).collect();
    assert_eq!(slots, [1, 2, 3].into(), "the successor has the slot of the dead one");
    let failed = node.tasks("website", "failed");
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["Status"]["Err"], "task: non-zero exit (137)");
    let ps = node.ok(&["service", "ps", "website"]);
    assert!(ps.contains("\\_ website."), "history hangs below its slot:\n{ps}");

    node.ok(&["service", "rm", "website"]);
    node.wait("no task is left", || {
        node.api("/tasks").as_array().is_some_and(Vec::is_empty).then_some(())
    });
    assert_eq!(node.get("127.0.0.1:8080"), None);
    let folders = std::fs::read_dir(node.data_root().join("tasks")).expect("tasks").count();
    assert_eq!(folders, 0, "task folders are gone");
}

#[test]
fn a_port_that_another_program_holds_is_told() {
    let node = Node::swarm();
    let mut squatter =
        node.command("busybox").args(["nc", "-ll", "-p", "9090", "-e", "cat"]).spawn().expect("nc");
    node.wait("the port is taken", || {
        let listening = node.command("ss").args(["-ltn"]).output().expect("ss");
        String::from_utf8_lossy(&listening.stdout).contains(":9090").then_some(())
    });
    node.ok(&["service", "create", "-q", "-d", "--name", "blocked", "-p", "9090:80", "skep/hello"]);
    let err = node.wait("the task is rejected", || {
        let rejected = node.tasks("blocked", "rejected");
        rejected.first().map(|task| task["Status"]["Err"].as_str().unwrap_or("").to_owned())
    });
    assert!(err.contains("9090") && err.contains("in use"), "{err}");
    assert!(node.ok(&["service", "ps", "--no-trunc", "blocked"]).contains("9090"));
    squatter.kill().expect("kill");
    squatter.wait().expect("wait");
    node.wait("it recovers by itself", || node.get("127.0.0.1:9090"));
}

#[test]
fn a_container_that_cannot_be_started_failed_and_was_not_rejected() {
    let node = Node::swarm();
    let create = ["service", "create", "-q", "-d", "--name", "nope", "--restart-condition", "none"];
    node.ok(&[&create[..], &["--entrypoint", "/nope", "skep/hello"]].concat());
    let err = node.wait("the task failed", || {
        let failed = node.tasks("nope", "failed");
        failed.first().map(|task| task["Status"]["Err"].as_str().unwrap_or("").to_owned())
    });
    assert!(err.starts_with("starting container failed: ") && err.contains("/nope"), "{err}");
}

#[test]
fn an_update_replaces_the_tasks_and_keeps_the_port() {
    let node = Node::swarm();
    node.load_busybox("busybox:test");
    node.ok(&[
        "service",
        "create",
        "-q",
        "-d",
        "--name",
        "web",
        "--replicas",
        "2",
        "--update-monitor",
        "1s",
        "-p",
        "8081:80",
        "-e",
        "A=1",
        "busybox:test",
        "sh",
        "-c",
        "echo version-$A > /www/index.html; exec httpd -f -p 80 -h /www",
    ]);
    node.wait_running("web", 2);
    node.wait("the first version", || {
        node.get("127.0.0.1:8081").filter(|body| body == "version-1\n")
    });
    let said = node.ok(&["service", "update", "--env-add", "A=2", "web"]);
    assert!(said.contains("verify: Service web converged") || said.contains("converged"), "{said}");
    for _ in 0..8 {
        assert_eq!(node.get("127.0.0.1:8081").as_deref(), Some("version-2\n"));
    }
    let service = node.api("/services/web");
    assert_eq!(service["UpdateStatus"]["State"], "completed", "{service}");
    assert_eq!(service["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]["Env"][0], "A=1");
}

#[test]
fn bad_input_changes_nothing() {
    let node = Node::swarm();
    node.ok(&["service", "create", "-q", "-d", "--name", "taken", "-p", "8082:80", "skep/hello"]);
    let before = node.api("/services");
    let table: &[(&[&str], &str)] = &[
        (&["service", "create", "Not A Reference"], "is not a valid repository/tag"),
        (
            &["service", "create", "--name", "taken", "skep/hello"],
            "name conflicts with an existing object: service taken already exists",
        ),
        (
            &["service", "create", "--name", "-bad", "skep/hello"],
            "name must be valid as a DNS name component",
        ),
        (
            &["service", "create", "-p", "8082:80", "skep/hello"],
            "port '8082' is already in use by service 'taken'",
        ),
        (&["service", "create", "-p", "99999:80", "skep/hello"], "99999"),
        (
            &["service", "create", "--mount", "type=bind,source=relative,target=/x", "skep/hello"],
            "absolute",
        ),
        (&["service", "create", "--limit-memory", "1x", "skep/hello"], "invalid"),
        (&["service", "create", "--limit-cpu", "0.0001", "skep/hello"], "invalid cpu value"),
        (&["service", "create", "--restart-delay", "soon", "skep/hello"], "invalid"),
        (&["service", "create", "--nope", "skep/hello"], "unknown flag: --nope"),
        (&["service", "scale", "taken=minus"], "invalid"),
        (&["service", "scale", "missing=1"], "No such service: missing"),
        (&["service", "rm", "missing"], "No such service: missing"),
        (&["service", "inspect", "missing"], "no such service: missing"),
        (&["service", "ps", "missing"], "no such service: missing"),
        (&["service", "update", "--image", "UPPER CASE", "taken"], "is not a valid repository/tag"),
        (&["init"], "This node is already part of a swarm"),
        (&["leave"], "--force"),
    ];
    for (args, expected) in table {
        let said = node.fails(args);
        let text = format!("{}{}", said.out, said.err);
        assert!(
            text.to_lowercase().contains(&expected.to_lowercase()),
            "skep {args:?} said {text:?}, not {expected:?}"
        );
    }
    assert_eq!(node.api("/services"), before);
}

#[test]
fn several_daemons_do_not_touch_each_other() {
    let (one, two) = (Node::swarm(), Node::swarm());
    for node in [&one, &two] {
        node.ok(&["service", "create", "-q", "-d", "--name", "web", "-p", "8080:80", "skep/hello"]);
        node.wait_running("web", 1);
    }
    one.ok(&["leave", "--force"]);
    assert!(two.get("127.0.0.1:8080").is_some());
    assert_eq!(two.tasks("web", "running").len(), 1);
    assert_eq!(one.get("127.0.0.1:8080"), None);
    assert!(one.fails(&["service", "ls"]).err.contains("This node is not a swarm manager"));
    one.ok(&["init", "--advertise-addr", "127.0.0.1"]);
    assert_eq!(one.api("/services").as_array().map(Vec::len), Some(0));
}

#[test]
fn packet_rules_that_another_program_flushes_are_put_back() {
    let node = Node::swarm();
    node.ok(&["service", "create", "-q", "-d", "--name", "web", "skep/hello"]);
    node.wait_running("web", 1);
    let rules = || {
        let output = crate::node::must(node.command("nft").args(["list", "ruleset"]));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let before = rules();
    assert!(before.contains("masquerade"), "{before}");
    crate::node::must(node.command("nft").args(["flush", "ruleset"]));
    node.wait("the rules are back", || (rules() == before).then_some(()));
    node.ok(&["leave", "--force"]);
    assert_eq!(rules(), "", "leave takes them away, and nobody puts them back");
}

#[test]
fn a_second_daemon_on_a_data_root_is_refused() {
    let node = Node::start();
    let said = node
        .command(crate::node::SKEP)
        .args(["daemon", "--data-root"])
        .arg(node.data_root())
        .arg("--exec-root")
        .arg(node.dir.join("other"))
        .output()
        .expect("daemon");
    assert!(!said.status.success());
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(
        text.contains("another skep daemon") && text.contains(&node.daemon_pid().to_string()),
        "{text}"
    );
}

/// Process id of a task's first process.
pub(crate) fn task_pid(task: &serde_json::Value) -> i32 {
    let pid = task["Status"]["ContainerStatus"]["PID"].as_i64().expect("a running task has a PID");
    i32::try_from(pid).expect("pid")
}

/// SIGKILL.
pub(crate) fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("kill");
}

#[test]
fn processes_that_the_kernel_kills_for_memory_are_told() {
    let node = Node::swarm();
    node.load_busybox("busybox:test");
    for (name, code) in [("coped", 0), ("gave-up", 3)] {
        let script = format!("sh -c 'x=a; while :; do x=$x$x; done'; exit {code}");
        let create = ["service", "create", "-q", "-d", "--restart-condition", "none"];
        let rest = ["--limit-memory", "16m", "--name", name, "busybox:test", "sh", "-c", &script];
        node.ok(&[&create[..], &rest[..]].concat());
    }
    node.wait("one ends well", || (node.tasks("coped", "complete").len() == 1).then_some(()));
    let failed = node.wait("one fails", || node.tasks("gave-up", "failed").pop());
    assert_eq!(failed["Status"]["Err"], "task: non-zero exit (3): OOM killed");
}

#[test]
fn a_task_that_stops_leaves_the_rotation_and_gets_its_time() {
    let node = Node::swarm();
    node.load_busybox("busybox:test");
    // In hundredths of a second since the machine's start, as the loop below counts too.
    let script = "now() { read up rest < /proc/uptime; echo $1 $up; }; \
        trap 'now term' TERM; httpd -f -p 80 -h /www & now ready; while :; do sleep 0.05; now beat; done";
    let create = ["service", "create", "-q", "-d", "--name", "web", "-p", "8083:80"];
    let rest = ["--stop-grace-period", "3s", "busybox:test", "sh", "-c", script];
    node.ok(&[&create[..], &rest[..]].concat());
    let task = node.wait_running("web", 1).remove(0);
    node.wait("an answer", || node.get("127.0.0.1:8083"));
    let log =
        node.data_root().join(format!("tasks/{}/log/json.log", task["ID"].as_str().expect("id")));
    let pid = task_pid(&task);
    node.ok(&["service", "scale", "-d", "web=0"]);
    // Its last words, read for as long as they are there.
    let (mut answered, mut text) = (0.0, String::new());
    node.wait("its end", || {
        let asked = uptime();
        let mut get = node.command("curl");
        get.args(["-sf", "-m", "0.3", "-o", "/dev/null", "http://127.0.0.1:8083/"]);
        if get.status().expect("curl").success() {
            answered = asked;
        }
        text = std::fs::read_to_string(&log).unwrap_or(std::mem::take(&mut text));
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    let ended = uptime();
    let times = |word: &str| -> Vec<f64> {
        let lines =
            text.lines().filter_map(|line| line.split(&format!("\"log\":\"{word} ")).nth(1));
        let numbers = lines.filter_map(|rest| rest.split('\\').next()?.parse().ok());
        numbers.collect()
    };
    let terms = times("term");
    assert_eq!(terms.len(), 1, "{text}");
    // The signal comes after it has left the rotation: no request that begins then is answered.
    assert!(answered <= terms[0], "a request of {answered}, the signal at {}", terms[0]);
    let last = times("beat").pop().expect("beats");
    assert!(last - terms[0] > 2.5, "killed {} s after its signal", last - terms[0]);
    assert!(ended - terms[0] < 20.0, "killed at {ended}, signal at {}", terms[0]);
}

fn uptime() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").expect("uptime");
    text.split(' ').next().expect("a number").parse().expect("a number")
}
