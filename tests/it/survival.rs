//! What a crash of the daemon, a reboot and a full disk may not break.

use std::collections::BTreeMap;
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

/// More descriptors of one kind than before that are no leak: connections that are just served.
const OPEN_MORE_MAX: usize = 6;

/// What a node has of the kernel: counted before and after.
#[derive(Debug, PartialEq, Eq)]
struct Belongings {
    all: Vec<String>,
    /// The daemon's descriptors by kind.
    open: BTreeMap<String, usize>,
}

fn descriptors(node: &Node) -> BTreeMap<String, usize> {
    let mut open = BTreeMap::new();
    let folder = format!("/proc/{}/fd", node.daemon_pid());
    for entry in std::fs::read_dir(folder).expect("descriptors").flatten() {
        // One may be closed meanwhile.
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let target = target.display().to_string();
        let kind = match target.split_once(":[") {
            Some((kind, _)) if !target.starts_with('/') && kind != "anon_inode" => kind.to_owned(),
            _ if target.starts_with('/') => "file".to_owned(),
            _ => target,
        };
        *open.entry(kind).or_default() += 1;
    }
    open
}

fn cgroups(node: &Node) -> Vec<String> {
    let name = format!("skep-{}", skep::host::net::Names::new(&node.data_root()).tag);
    let root = std::path::PathBuf::from("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(&root).expect("cgroups").flatten().map(|it| it.path());
    let mut folders: Vec<_> = hierarchies
        .chain([root])
        .map(|path| path.join(&name))
        .filter(|path| path.is_dir())
        .collect();
    let mut at = 0;
    while at < folders.len() {
        let below = std::fs::read_dir(&folders[at]).into_iter().flatten().flatten();
        folders.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()));
        at += 1;
    }
    folders.iter().map(|path| format!("cgroup {}", path.display())).collect()
}

fn belongings(node: &Node) -> Belongings {
    let mut all = cgroups(node);
    for entry in std::fs::read_dir(node.exec_root().join("runc")).expect("runc").flatten() {
        all.push(format!("runc {}", entry.file_name().to_string_lossy()));
    }
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
    Belongings { all, open: descriptors(node) }
}

/// Waits until the node has what it had before: nothing lost, nothing leaked.
fn wait_for_belongings(node: &Node, before: &Belongings, when: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = belongings(node);
        let allowed = |kind| before.open.get(kind).copied().unwrap_or(0) + OPEN_MORE_MAX;
        let open = now.open.iter().all(|(kind, count)| *count <= allowed(kind));
        if now.all == before.all && open {
            return;
        }
        if Instant::now() > deadline {
            let leaked: Vec<_> = now.all.iter().filter(|item| !before.all.contains(item)).collect();
            let lost: Vec<_> = before.all.iter().filter(|item| !now.all.contains(item)).collect();
            panic!(
                "{when}: leaked {leaked:#?}, lost {lost:#?}, open {:#?} and now {:#?}",
                before.open, now.open
            );
        }
        crate::node::pause();
    }
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
    let mut acknowledged = 1;
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
    wait_for_belongings(&node, &before, "when only the steady tasks are left");
    assert_eq!(pids(&node, "steady"), steady);
}

/// What passes the fail points, while the daemon may die at any of them: `$1` is the program, `$2`
/// the daemon's socket, `$3` an archive with the image `tried:1`, `$4` the fail point.
const WORK: &str = r#"
until curl -sf --unix-socket "$2" http://localhost/_ping >/dev/null; do sleep 0.02; done
set -e
"$1" image load -q -i "$3"
"$1" service create -q -d --name tried --stop-grace-period 500ms -p 8090:80 --mount type=volume,target=/www tried:1 httpd -f -p 80 -h /www
"$1" service scale -d tried=2
case $4 in
snapshot.* | wal.between_removes)
  # Some MiB of log, twice: then there is something to compact.
  "$1" service scale -d tried=0
  big=$(head -c 100000 /dev/zero | tr '\0' x)
  for i in $(seq 60); do "$1" service update -q -d --label-add "big=$i$big" tried; done
  ;;
*)
  until [ "$("$1" service ls --filter name=tried --format '{{.Replicas}}')" = 2/2 ]; do sleep 0.05; done
  ;;
esac
"$1" service rm tried
until [ -z "$(curl -sf --unix-socket "$2" http://localhost/tasks | grep tried:1)" ]; do sleep 0.05; done
until "$1" image rm tried:1; do sleep 0.05; done
"#;

#[test]
fn every_fail_point_is_survived() {
    let mut node = Node::swarm();
    node.ok(&["service", "create", "-q", "-d", "--name", "steady", "-p", "8080:80", "skep/hello"]);
    node.wait_running("steady", 1);
    let archive = node.dir.join("tried.tar");
    crate::busybox::busybox_archive(&archive, "tried:1", &node.dir);
    let steady = pids(&node, "steady");
    let before = belongings(&node);
    let mut unpassed = Vec::new();
    let only = std::env::var("POINT").ok();
    for point in skep::host::failpoint::Point::ALL {
        if only.as_ref().is_some_and(|only| only != point.name()) {
            continue;
        }
        node.stop_daemon();
        node.spawn_daemon(&[("SKEP_FAILPOINT", point.name())]);
        let mut work = node
            .command("sh")
            .args(["-c", WORK, "sh", crate::node::SKEP])
            .args([&node.socket(), &archive])
            .arg(point.name())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        // Work that fails did so because the daemon died, or is about to be seen dead.
        let died = node.wait("the work is done or the daemon dies", || {
            let done = work.try_wait().expect("sh").is_some_and(|status| status.success());
            let died = node.daemon_has_ended();
            (died || done).then_some(died)
        });
        if !died {
            unpassed.push(point.name());
        }
        // It may wait for a daemon that is gone.
        work.kill().expect("kill");
        work.wait().expect("sh");
        node.kill_daemon();
        node.start_daemon();
        assert_eq!(pids(&node, "steady"), steady, "after {}", point.name());
        assert!(node.get("127.0.0.1:8080").is_some(), "after {}", point.name());
        node.skep(&["service", "rm", "tried"]);
        wait_for_belongings(&node, &before, &format!("after {}", point.name()));
        node.skep(&["image", "rm", "tried:1"]);
        node.ok(&["volume", "prune", "-f", "--all"]);
    }
    // The proxy runs all the time here; its start has a test of its own.
    if only.is_some() {
        return;
    }
    assert_eq!(unpassed, ["proxy.started"], "fail points that the work above does not pass");
}

#[test]
fn a_daemon_that_dies_as_its_proxy_starts_goes_on() {
    let mut node = Node::swarm();
    node.stop_daemon();
    node.spawn_daemon(&[("SKEP_FAILPOINT", "proxy.started")]);
    node.wait_ready();
    node.skep(&["service", "create", "-q", "-d", "--name", "web", "-p", "8080:80", "skep/hello"]);
    node.wait("the daemon dies", || node.daemon_has_ended().then_some(()));
    node.kill_daemon();
    node.start_daemon();
    node.wait("an answer", || node.get("127.0.0.1:8080"));
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
    let spare = node.ok(&["service", "create", "-q", "-d", "--name", "spare", "skep/hello"]);
    node.wait_running("web", 1);
    node.wait_running("spare", 1);
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
    // What makes room is possible, though not together with what the node itself has to write.
    node.wait("a service can be removed", || {
        let said = node.skep(&["service", "rm", "spare"]);
        (said.code == 0).then_some(())
    });
    node.wait("its task is gone", || {
        let all = node.api("/tasks");
        let of_spare = |task: &serde_json::Value| task["ServiceID"] == spare;
        all.as_array().is_some_and(|tasks| !tasks.iter().any(of_spare)).then_some(())
    });
    node.fill(&ballast);
    std::fs::remove_file(&ballast).expect("ballast");
    node.ok(&["service", "scale", "-d", "web=2"]);
    node.wait_running("web", 2);
}

#[test]
fn a_shim_that_stands_still_keeps_neither_the_daemon_nor_its_task() {
    let mut node = Node::swarm();
    node.ok(&["service", "create", "-q", "-d", "--name", "web", "-p", "8080:80", "skep/hello"]);
    let create = ["service", "create", "-q", "-d", "--stop-grace-period", "1s", "--name", "stuck"];
    node.ok(&[&create[..], &["skep/hello"]].concat());
    node.wait_running("web", 1);
    let stuck = node.wait_running("stuck", 1);
    let web = pids(&node, "web");
    let dir = format!("/tasks/{} ", stuck[0]["ID"].as_str().expect("id"));
    let shim = crate::node::process_with(&["shim task ", &dir, &node.dir.display().to_string()]);
    let shim = nix::unistd::Pid::from_raw(shim.expect("a shim"));
    node.kill_daemon();
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGSTOP).expect("stop");
    let begun = Instant::now();
    node.start_daemon();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(pids(&node, "web"), web);
    node.wait_running("stuck", 1);
    node.ok(&["service", "rm", "stuck"]);
    node.wait("its shim and its task are gone", || {
        let gone = !std::path::Path::new(&format!("/proc/{shim}")).exists();
        let tasks = node.api("/tasks");
        let left = tasks.as_array().is_some_and(|tasks| tasks.len() == 1);
        (gone && left).then_some(())
    });
}
