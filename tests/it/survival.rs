//! What a crash of the daemon, a reboot and a full disk may not break.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use skep::base::rng::Rng;

use crate::node::{Node, PATIENCE, must};
use crate::service::task_pid;

/// Kills of the daemon at random moments.
const KILLS: usize = 50;

fn pids(node: &Node, service: &str) -> Vec<i32> {
    let mut pids: Vec<i32> = node.tasks(service, "running").iter().map(task_pid).collect();
    pids.sort_unstable();
    pids
}

fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("SEED={seed}");
    seed
}

/// What a node has of the kernel: counted before and after.
fn belongings(node: &Node) -> Vec<String> {
    let mut all = Vec::new();
    let mounts = std::fs::read_to_string("/proc/mounts").expect("mounts");
    let root = node.dir.display().to_string();
    all.extend(
        mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|path| path.starts_with(&root))
            .map(|path| format!("mount {path}")),
    );
    let links = must(Command::new("ip").args(["-n", &node.netns, "-o", "link"]));
    for line in String::from_utf8_lossy(&links.stdout).lines() {
        let name = line.split(": ").nth(1).unwrap_or_default();
        all.push(format!("link {}", name.split('@').next().unwrap_or_default()));
    }
    let sets = must(node.command("nft").args(["list", "ruleset"]));
    let text = String::from_utf8_lossy(&sets.stdout).into_owned();
    all.push(format!("nft {}", text.matches("10.0.").count()));
    for entry in std::fs::read_dir(node.data_root().join("tasks")).expect("tasks").flatten() {
        all.push(format!("task {}", entry.file_name().to_string_lossy()));
    }
    all.sort();
    all
}

#[test]
fn kills_at_random_moments_lose_and_duplicate_nothing() {
    let mut rng = Rng::new(seed());
    let mut node = Node::swarm();
    node.ok(&[
        "service",
        "create",
        "-q",
        "-d",
        "--name",
        "steady",
        "--replicas",
        "2",
        "-p",
        "8080:80",
        "skep/hello",
    ]);
    node.wait_running("steady", 2);
    let steady = pids(&node, "steady");
    let before = belongings(&node);
    let mut acknowledged = 2_u64;
    for round in 0..KILLS {
        // A scale of a second service is under way when the daemon dies, now and then.
        let target = 1 + rng.below(4);
        if round == 0 {
            node.ok(&["service", "create", "-q", "-d", "--name", "busy", "skep/hello"]);
        }
        let mut scale = node
            .command(crate::node::SKEP)
            .args(["service", "scale", "-d", &format!("busy={target}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("scale");
        let patience = Duration::from_micros(rng.below(300_000));
        let until = Instant::now() + patience;
        while Instant::now() < until {
            std::thread::yield_now();
        }
        node.kill_daemon();
        if scale.wait().expect("scale").success() {
            acknowledged = target;
        }
        assert!(node.get("127.0.0.1:8080").is_some(), "the port answers without a daemon");
        node.start_daemon();
        assert_eq!(pids(&node, "steady"), steady, "round {round}: the same processes go on");
        let spec = node.api("/services/busy");
        let replicas = spec["Spec"]["Mode"]["Replicated"]["Replicas"].as_u64();
        assert!(
            replicas == Some(acknowledged) || replicas == Some(target),
            "round {round}: an acknowledged scale to {acknowledged} became {replicas:?}"
        );
        acknowledged = replicas.unwrap_or(0);
    }
    let wanted = usize::try_from(acknowledged).expect("small");
    node.wait_running("busy", wanted);
    node.ok(&["service", "rm", "busy"]);
    node.wait("only the steady tasks are left", || (belongings(&node) == before).then_some(()));
    assert_eq!(pids(&node, "steady"), steady);
}

#[test]
fn every_fail_point_is_survived() {
    let mut node = Node::swarm();
    node.ok(&["service", "create", "-q", "-d", "--name", "steady", "-p", "8080:80", "skep/hello"]);
    node.wait_running("steady", 1);
    let steady = pids(&node, "steady");
    let before = belongings(&node);
    for point in skep::host::failpoint::Point::ALL {
        node.stop_daemon();
        node.spawn_daemon(&[("SKEP_FAILPOINT", point.name())]);
        // Some points are passed at start, others by the work below, some by neither.
        let mut create = node
            .command("sh")
            .args(["-c", "for i in $(seq 100); do [ -S \"$1\" ] && break; sleep 0.05; done; \"$2\" service create -q -d --name tried skep/hello; \"$2\" service scale -d tried=2; sleep 1; \"$2\" service rm tried", "sh"])
            .arg(node.socket())
            .arg(crate::node::SKEP)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        let died = node.wait_daemon_end(Duration::from_secs(8));
        eprintln!("{}: {}", point.name(), if died.is_some() { "hit" } else { "not passed" });
        create.wait().expect("sh");
        node.kill_daemon();
        node.start_daemon();
        assert_eq!(pids(&node, "steady"), steady, "after {}", point.name());
        node.skep(&["service", "rm", "tried"]);
        node.wait(&format!("nothing is left after {}", point.name()), || {
            (belongings(&node) == before).then_some(())
        });
    }
}

#[test]
fn load_sees_no_error_over_kills_and_an_upgrade() {
    let mut node = Node::swarm();
    node.ok(&[
        "service",
        "create",
        "-q",
        "-d",
        "--name",
        "web",
        "--replicas",
        "2",
        "-p",
        "8080:80",
        "skep/hello",
    ]);
    node.wait_running("web", 2);
    node.wait("an answer", || node.get("127.0.0.1:8080"));
    let load = node
        .command("wrk")
        .args(["-c50", "-t2", "-d40s", "http://127.0.0.1:8080/"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("wrk");
    for _ in 0..20 {
        node.kill_daemon();
        node.start_daemon();
    }
    // An upgrade: another file with the same program and another build id.
    let upgraded = node.dir.join("skep-upgraded");
    std::fs::copy(crate::node::SKEP, &upgraded).expect("copy");
    node.stop_daemon();
    node.program = upgraded;
    node.start_daemon();
    let output = load.wait_with_output().expect("wrk");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("requests in"), "{text}");
    assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
}

#[test]
fn a_clean_stop_is_quick_and_leaves_containers_running() {
    let mut node = Node::swarm();
    node.ok(&["service", "create", "-q", "-d", "--name", "web", "-p", "8080:80", "skep/hello"]);
    node.wait_running("web", 1);
    let before = pids(&node, "web");
    let took = node.stop_daemon();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(node.get("127.0.0.1:8080").is_some());
    node.start_daemon();
    assert_eq!(pids(&node, "web"), before);
}

#[test]
fn a_container_that_ends_while_the_daemon_is_away_is_replaced() {
    let mut node = Node::swarm();
    node.ok(&[
        "service",
        "create",
        "-q",
        "-d",
        "--name",
        "web",
        "--restart-delay",
        "0s",
        "skep/hello",
    ]);
    let old = node.wait_running("web", 1);
    node.kill_daemon();
    crate::service::kill(task_pid(&old[0]));
    node.start_daemon();
    node.wait("a successor runs", || {
        let running = node.tasks("web", "running");
        (running.len() == 1 && running[0]["ID"] != old[0]["ID"]).then_some(())
    });
    let failed = node.tasks("web", "failed");
    assert_eq!(failed[0]["Status"]["Err"], "task: non-zero exit (137)");
}

/// Ends every process of the node and takes its exec root away, as a power cut does.
fn power_cut(node: &mut Node) {
    node.kill_daemon();
    crate::node::sweep(&node.dir);
    must(Command::new("ip").args(["netns", "del", &node.netns]));
    must(Command::new("ip").args(["netns", "add", &node.netns]));
    must(Command::new("ip").args(["-n", &node.netns, "link", "set", "lo", "up"]));
    std::fs::remove_dir_all(node.exec_root()).expect("exec root");
}

#[test]
fn after_a_reboot_the_last_known_set_runs_again() {
    let mut node = Node::swarm();
    node.ok(&[
        "service",
        "create",
        "-q",
        "-d",
        "--name",
        "web",
        "--replicas",
        "10",
        "-p",
        "8080:80",
        "skep/hello",
    ]);
    node.wait_running("web", 10);
    power_cut(&mut node);
    let begun = Instant::now();
    node.start_daemon();
    node.wait("all run again", || {
        let running = node.tasks("web", "running");
        let alive = running
            .iter()
            .filter(|task| std::path::Path::new(&format!("/proc/{}", task_pid(task))).exists());
        (alive.count() == 10).then_some(())
    });
    eprintln!("ten tasks run {:?} after the daemon's start", begun.elapsed());
    node.wait("an answer", || node.get("127.0.0.1:8080"));
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn a_full_disk_refuses_writes_and_recovers() {
    let mut node = Node::start_on_small_disk(400 << 20);
    node.ok(&["init", "--advertise-addr", "127.0.0.1"]);
    node.ok(&["service", "create", "-q", "-d", "--name", "web", "-p", "8080:80", "skep/hello"]);
    node.wait_running("web", 1);
    let before = pids(&node, "web");
    let ballast = node.data_root().join("ballast");
    node.fill(&ballast);
    let said = node.wait("a write is refused", || {
        let said = node.skep(&["service", "create", "-q", "-d", "skep/hello"]);
        (said.code != 0).then_some(said)
    });
    assert!(said.err.contains("no space left"), "{said:?}");
    assert_eq!(pids(&node, "web"), before);
    assert!(node.get("127.0.0.1:8080").is_some());
    node.kill_daemon();
    node.start_daemon();
    assert_eq!(pids(&node, "web"), before, "a daemon starts on a full disk");
    std::fs::remove_file(&ballast).expect("ballast");
    node.ok(&["service", "scale", "-d", "web=2"]);
    node.wait_running("web", 2);
}
