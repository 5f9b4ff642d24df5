//! Three managers with something broken in them, while users write and containers run.
//!
//! `SEED=` chooses what is broken when; `FAULT_ROUNDS=` how many faults one after the other (`tests/long.sh
//! faults` has many). At the end, `history` says whether an acknowledged write was lost, a read told
//! of the past, or a slot was run twice without an excuse.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skep::base::rng::Rng;

use super::history::{Cut, Told, Watch, Writer, ask, doubles, look};
use super::{Cluster, address, must};
use crate::node::{Node, sweep};
use std::process::Command;

/// Replicas of the service whose containers are watched.
const REPLICAS: usize = 6;

/// Bytes of a disk that a test fills.
const SMALL_DISK: u64 = 400 << 20;

/// Faults in the tests that land with every change.
const ROUNDS: usize = 7;

/// A swarm under trial.
struct Trial {
    cluster: Cluster,
    sockets: Arc<Mutex<Vec<PathBuf>>>,
    writers: Vec<Writer>,
    watch: Watch,
    cuts: Vec<Cut>,
    rng: Rng,
}

/// What is broken.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A machine's cable is pulled.
    Link,
    /// It hears and is not heard.
    Mute,
    /// It is heard and does not hear.
    Deaf,
    /// Each machine is alone.
    All,
    /// kill -9 of its daemon.
    Kill,
    /// kill -9 of all daemons at once.
    KillAll,
    /// Its daemon stands still.
    Stop,
    /// Its disk is full.
    Disk,
    /// All machines lose their power, and come back in any order.
    Power,
}

/// Those that a machine with an ordinary disk suffers.
const FAULTS: [Fault; 8] = [
    Fault::Link,
    Fault::Mute,
    Fault::Deaf,
    Fault::All,
    Fault::Kill,
    Fault::KillAll,
    Fault::Stop,
    Fault::Power,
];

fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("SEED={seed}");
    seed
}

fn rounds() -> usize {
    std::env::var("FAULT_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

fn sockets(cluster: &Cluster) -> Vec<PathBuf> {
    cluster.nodes.iter().map(Node::socket).collect()
}

impl Trial {
    fn begin(cluster: Cluster, seed: u64) -> Self {
        let managers = cluster.nodes.len();
        Self::begin_with(cluster, seed, managers)
    }

    /// The first of the machines are managers, the others in no swarm yet.
    fn begin_with(cluster: Cluster, seed: u64, managers: usize) -> Self {
        let first = &cluster.nodes[0];
        let all = REPLICAS.to_string();
        let web = ["service", "create", "-d", "--name", "web", "--replicas", &all, "skep/hello"];
        first.ok(&web);
        for n in 0..2 {
            let name = format!("count{n}");
            let words =
                ["service", "create", "-d", "--replicas", "0", "--label", "v=0", "--name", &name];
            first.ok(&[&words[..], &["skep/hello"]].concat());
        }
        first.wait_running("web", REPLICAS);
        let exec_roots = cluster.nodes.iter().map(Node::exec_root).collect();
        let sockets = sockets(&cluster)[..managers].to_vec();
        let sockets = Arc::new(Mutex::new(sockets));
        let writers = (0..2).map(|n| Writer::start(n, Arc::clone(&sockets))).collect();
        let watch = Watch::start(exec_roots);
        let trial =
            Self { cluster, sockets, writers, watch, cuts: Vec::new(), rng: Rng::new(seed) };
        trial.votes(0, managers);
        trial
    }

    fn below(&mut self, end: u64) -> u64 {
        self.rng.next_u64() % end
    }

    /// The leader half of the time, else any.
    fn victim(&mut self) -> usize {
        let any = usize::try_from(self.below(self.cluster.nodes.len() as u64)).expect("small");
        if self.below(2) == 0 { self.leader().unwrap_or(any) } else { any }
    }

    fn leader(&self) -> Option<usize> {
        let count = self.cluster.nodes.len();
        (0..count).find(|n| {
            let words = ["node", "inspect", "--format", "{{.ManagerStatus.Leader}}", "self"];
            ask(&self.cluster.nodes[*n].socket(), &words).out.trim() == "true"
        })
    }

    /// As many faults of these as there are rounds, each about as often.
    fn suffer_all(&mut self, faults: &[Fault]) {
        let mut left = Vec::new();
        for _round in 0..rounds() {
            if left.is_empty() {
                left = faults.to_vec();
            }
            let next = usize::try_from(self.below(left.len() as u64)).expect("small");
            self.suffer(left.swap_remove(next));
        }
    }

    /// Breaks something for a while and mends it; waits until the swarm is whole again.
    fn suffer(&mut self, fault: Fault) {
        let victim = self.victim();
        let last = Duration::from_millis(1_000 + self.below(4_000));
        eprintln!("{fault:?} of machine {victim} for {last:?}");
        match fault {
            Fault::Link => {
                self.cut(&[victim], last, |cluster, n| cluster.link(n, "down"));
                self.cluster.link(victim, "up");
            }
            Fault::Mute | Fault::Deaf | Fault::All => self.filter(fault, victim, last),
            Fault::Kill => {
                self.cluster.nodes[victim].kill_daemon();
                thread::sleep(last / 2);
                self.cluster.nodes[victim].start_daemon();
            }
            Fault::KillAll => {
                self.cluster.nodes.iter_mut().for_each(Node::kill_daemon);
                thread::sleep(last / 4);
                self.cluster.nodes.iter_mut().for_each(|node| node.spawn_daemon(&[]));
                self.cluster.nodes.iter_mut().for_each(Node::wait_ready);
            }
            Fault::Stop => {
                let pid = Pid::from_raw(self.cluster.nodes[victim].daemon_pid());
                kill(pid, Signal::SIGSTOP).expect("stop");
                thread::sleep(last);
                kill(pid, Signal::SIGCONT).expect("go on");
            }
            Fault::Disk => {
                let node = &self.cluster.nodes[victim];
                let ballast = node.data_root().join("ballast");
                node.fill(&ballast);
                thread::sleep(last);
                fs::remove_file(ballast).expect("ballast");
            }
            Fault::Power => {
                for node in &mut self.cluster.nodes {
                    node.kill_daemon();
                    sweep(&node.dir);
                    fs::remove_dir_all(node.exec_root()).expect("exec root");
                }
                let first = usize::try_from(self.below(3)).expect("small");
                for n in 0..3 {
                    self.cluster.nodes[(first + n) % 3].spawn_daemon(&[]);
                    thread::sleep(last / 4);
                }
                self.cluster.nodes.iter_mut().for_each(Node::wait_ready);
            }
        }
        self.whole();
    }

    /// Machines are cut off for a while.
    fn cut(&mut self, machines: &[usize], last: Duration, how: impl Fn(&Cluster, usize)) {
        let from = Instant::now();
        machines.iter().for_each(|n| how(&self.cluster, *n));
        thread::sleep(last);
        let to = Some(Instant::now());
        self.cuts.extend(machines.iter().map(|machine| Cut { machine: *machine, from, to }));
    }

    /// Frames are dropped on the bridge.
    fn filter(&mut self, fault: Fault, victim: usize, last: Duration) {
        let port = format!("\"p{victim}\"");
        let (cut, rule) = match fault {
            Fault::Mute => (vec![victim], format!("iifname {port} drop")),
            Fault::Deaf => (vec![victim], format!("oifname {port} drop")),
            _all => (vec![0, 1, 2], "drop".to_owned()),
        };
        let rules = format!(
            "table bridge cut {{ chain c {{ type filter hook forward priority 0; {rule}; }}; }}"
        );
        let nft = |words: &[&str]| {
            let bridge = format!("--net=/run/netns/{}", self.cluster.bridge);
            must(Command::new("nsenter").args([&bridge, "--", "nft"]).args(words));
        };
        nft(&[&rules]);
        self.cut(&cut, last, |_, _| {});
        let bridge = format!("--net=/run/netns/{}", self.cluster.bridge);
        must(Command::new("nsenter").args([&bridge, "--", "nft", "delete table bridge cut"]));
    }

    /// Waits until every manager shows all nodes ready and every replica running, once.
    fn whole(&self) {
        let managers = self.managers();
        for node in self.cluster.nodes.iter().filter(|node| managers.contains(&node.socket())) {
            node.wait(&format!("{} shows a whole swarm", node.netns), || {
                let nodes = ask(&node.socket(), &["node", "ls", "--format", "{{.Status}}"]);
                let all = nodes.out.lines().filter(|state| *state == "Ready").count();
                let words = ["service", "ls", "--filter", "name=web", "--format", "{{.Replicas}}"];
                let replicas = ask(&node.socket(), &words);
                (all == self.cluster.nodes.len()
                    && replicas.out.trim() == format!("{REPLICAS}/{REPLICAS}"))
                .then_some(())
            });
        }
    }

    fn managers(&self) -> Vec<PathBuf> {
        self.sockets.lock().expect("sockets").clone()
    }

    /// From here on these machines are asked.
    fn set_managers(&self, machines: impl Iterator<Item = usize>) {
        let sockets = machines.map(|n| self.cluster.nodes[n].socket()).collect();
        *self.sockets.lock().expect("sockets") = sockets;
    }

    /// Waits until this many managers have a vote, by one of them.
    fn votes(&self, by: usize, count: usize) {
        self.cluster.nodes[by].wait(&format!("{count} managers have a vote"), || {
            let words = ["node", "ls", "--format", "{{.ManagerStatus}}"];
            let all = ask(&self.cluster.nodes[by].socket(), &words).out;
            let votes = all.lines().filter(|it| ["Leader", "Reachable"].contains(it)).count();
            let known = all.lines().filter(|it| !it.is_empty()).count();
            (votes == count && known == count).then_some(())
        });
    }

    /// Ends the trial and judges what was seen.
    fn judge(self) {
        self.whole();
        let sockets = self.managers();
        let told: Vec<(String, Told)> = self.writers.into_iter().map(Writer::finish).collect();
        let seen = self.watch.finish();
        let manager = self.cluster.nodes.iter().find(|node| node.socket() == sockets[0]);
        let slots = slots(manager.expect("a manager"));
        let mut wrong = doubles(&seen, &slots, &self.cuts);
        for (counter, told) in &told {
            eprintln!(
                "{counter}: {} changes and {} services acknowledged, {} refused, at most {:?} without",
                told.counted,
                told.created.len(),
                told.refused,
                told.longest
            );
            wrong.extend(told.stale.iter().map(|stale| format!("{counter}: read {stale}")));
            if told.counted == 0 || told.created.is_empty() {
                wrong.push(format!("{counter}: nothing was ever acknowledged"));
            }
        }
        for socket in &sockets {
            let services = ask(socket, &["service", "ls", "--format", "{{.Name}}"]).out;
            let there: Vec<&str> = services.lines().collect();
            for (counter, told) in &told {
                let lost = told.created.iter().filter(|name| !there.contains(&name.as_str()));
                wrong.extend(lost.map(|name| format!("{name} was acknowledged and is lost")));
                let words = ["service", "inspect", "--format", "{{.Spec.Labels.v}}", counter];
                let value = ask(socket, &words).out;
                let value = value.trim().parse::<u64>();
                if !value.as_ref().is_ok_and(|it| (told.counted..=told.tried).contains(it)) {
                    wrong.push(format!(
                        "{counter} is {value:?}; {} was acknowledged, {} tried",
                        told.counted, told.tried
                    ));
                }
            }
        }
        let exec_roots: Vec<PathBuf> = self.cluster.nodes.iter().map(Node::exec_root).collect();
        let now = look(&exec_roots);
        let running = now.iter().filter(|(_, task)| slots.contains_key(task)).count();
        if running != REPLICAS {
            wrong.push(format!("{running} containers run and not {REPLICAS}: {now:?}"));
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// The slot of each task of the watched service.
fn slots(node: &Node) -> BTreeMap<String, String> {
    let filter = "%7B%22service%22%3A%5B%22web%22%5D%7D";
    let tasks = node.api(&format!("/tasks?filters={filter}"));
    let tasks = tasks.as_array().cloned().unwrap_or_default();
    let slot = |task: &serde_json::Value| {
        Some((task["ID"].as_str()?.to_owned(), format!("web.{}", task["Slot"].as_i64()?)))
    };
    tasks.iter().filter_map(slot).collect()
}

/// Three managers that remember every task.
fn three(cluster: Cluster) -> Cluster {
    let first = &cluster.nodes[0];
    first.ok(&["init", "--advertise-addr", &address(0), "--task-history-limit", "1000"]);
    let token = first.ok(&["join-token", "-q", "manager"]);
    for node in &cluster.nodes[1..] {
        node.ok(&["join", "--token", &token, &address(0)]);
    }
    cluster
}

#[test]
fn nothing_is_lost_and_no_slot_runs_twice_whatever_breaks() {
    let seed = seed();
    let mut trial = Trial::begin(three(Cluster::new(3)), seed);
    trial.suffer_all(&FAULTS);
    trial.judge();
}

#[test]
fn nothing_is_lost_where_disks_are_full() {
    let seed = seed();
    let nodes = (0..3).map(|_| Node::start_on_small_disk(SMALL_DISK)).collect();
    let mut trial = Trial::begin(three(Cluster::of(nodes)), seed);
    trial.suffer_all(&[Fault::Disk, Fault::Kill, Fault::Disk, Fault::Link, Fault::Disk]);
    trial.judge();
}

/// Machines that join at once; 20 in `tests/long.sh faults`.
fn storm() -> usize {
    std::env::var("STORM").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

#[test]
fn managers_come_and_go_under_load() {
    let seed = seed();
    let cluster = Cluster::new(5);
    let first = &cluster.nodes[0];
    first.ok(&["init", "--advertise-addr", &address(0), "--task-history-limit", "1000"]);
    let trial = Trial::begin_with(cluster, seed, 1);
    let nodes = &trial.cluster.nodes;
    let token = nodes[0].ok(&["join-token", "-q", "manager"]);
    for (from, to) in [(1, 3), (3, 5)] {
        for node in &nodes[from..to] {
            node.ok(&["join", "--token", &token, &address(0)]);
        }
        trial.votes(0, to);
        trial.set_managers(0..to);
    }
    // The leader is among those that go.
    for (from, left) in [(0, 3), (2, 1)] {
        let ids: Vec<String> = (from..from + 2).map(|n| trial.cluster.id(n)).collect();
        trial.set_managers(from + 2..5);
        for id in &ids {
            nodes[4].wait(&format!("{id} is no manager"), || {
                let said = nodes[4].skep(&["node", "demote", id]);
                (said.code == 0 || said.err.contains("already a worker")).then_some(())
            });
        }
        trial.votes(4, left);
    }
    trial.judge();
}

#[test]
fn a_storm_of_joins() {
    let cluster = Cluster::new(1 + storm());
    let first = &cluster.nodes[0];
    first.ok(&["init", "--advertise-addr", &address(0)]);
    let token = first.ok(&["join-token", "-q", "worker"]);
    thread::scope(|scope| {
        for node in &cluster.nodes[1..] {
            scope.spawn(|| node.ok(&["join", "--token", &token, &address(0)]));
        }
    });
    let ids: BTreeSet<String> = (0..cluster.nodes.len()).map(|n| cluster.id(n)).collect();
    assert_eq!(ids.len(), cluster.nodes.len(), "each has an id of its own");
    let ready = ids.into_iter().map(|id| (id, "ready".to_owned())).collect::<BTreeSet<_>>();
    first.wait("all are ready", || {
        let nodes = first.api("/nodes").as_array().cloned().unwrap_or_default();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let now = nodes.iter().map(|node| (text(&node["ID"]), text(&node["Status"]["State"])));
        (now.collect::<BTreeSet<_>>() == ready).then_some(())
    });
}

#[test]
fn a_daemon_that_stands_still_and_a_bad_link_move_no_task() {
    let cluster = Cluster::swarm(&["worker", "worker"]);
    let [first, second, _third] = &cluster.nodes[..] else { panic!("three nodes") };
    first.ok(&["service", "create", "-d", "--name", "web", "--replicas", "6", "skep/hello"]);
    let ids = |tasks: Vec<serde_json::Value>| {
        tasks.iter().map(|task| task["ID"].to_string()).collect::<BTreeSet<_>>()
    };
    let before = ids(first.wait_running("web", 6));
    let exec_roots: Vec<PathBuf> = cluster.nodes.iter().map(Node::exec_root).collect();
    let containers = look(&exec_roots);
    assert_eq!(containers.len(), 6);
    let bridge = format!("--net=/run/netns/{}", cluster.bridge);
    let nft = |rules: &str| must(Command::new("nsenter").args([&bridge, "--", "nft", rules]));
    nft("table bridge lossy { chain c { type filter hook forward priority 0; \
         iifname \"p2\" numgen random mod 100 < 10 drop; \
         oifname \"p2\" numgen random mod 100 < 10 drop; }; }");
    let pid = Pid::from_raw(second.daemon_pid());
    kill(pid, Signal::SIGSTOP).expect("stop");
    let noted = Instant::now();
    cluster.wait_state(0, 1, "unknown");
    // What is measured is that nothing happens for this long.
    thread::sleep(Duration::from_secs(5).saturating_sub(noted.elapsed()));
    kill(pid, Signal::SIGCONT).expect("go on");
    cluster.wait_state(0, 1, "ready");
    cluster.wait_state(0, 2, "ready");
    nft("delete table bridge lossy");
    assert_eq!(ids(first.wait_running("web", 6)), before, "no task was replaced");
    assert_eq!(look(&exec_roots), containers, "no container was touched");
    assert!(!first.daemon_log().contains("is Down"), "{}", first.daemon_log());
}
