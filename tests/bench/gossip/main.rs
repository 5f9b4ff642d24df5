//! What gossip costs and how fast it is: members as processes of their own on loopback addresses.
//! `tests/bench/gossip.sh` runs it: `gossip run FOLDER ROUNDS SECONDS COUNT…`.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark acts on the machine and tells what it measured; what fails ends it"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use skep::base::rng::Rng;
use skep::host::clock::Clock;
use skep::host::gossip::{Config, Counter, Gossip, Key, Keys};

/// Anything takes less, or the benchmark fails.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of the heads of UDP and IP.
const HEADS: f64 = 28.0;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["member", folder, host] => member(Path::new(folder), host.parse().unwrap()),
        ["run", folder, rounds, seconds, ref counts @ ..] => {
            println!(
                "| N | converged s | value spread s | heart stops s | dead seen s | rejoined s | \
                 CPU % | datagrams/s | bytes/s | with heads | PSS KiB |\n|{}",
                "---|".repeat(11)
            );
            for count in counts {
                let (rounds, seconds) = (rounds.parse().unwrap(), seconds.parse().unwrap());
                run(Path::new(folder), count.parse().unwrap(), rounds, seconds);
            }
        }
        _ => panic!("usage: gossip run FOLDER ROUNDS SECONDS COUNT…"),
    }
}

fn address(host: u8) -> SocketAddr {
    ([127, 0, 9, host], 7946).into()
}

/// An id as long as a real one.
fn name(host: u8) -> String {
    let mut rng = Rng::new(u64::from(host));
    let digit = |_| char::from_digit(u32::try_from(rng.below(36)).unwrap(), 36).unwrap();
    (0..25).map(digit).collect()
}

/// One member, which tells what it sees and does what it reads.
fn member(folder: &Path, host: u8) {
    let clock = Clock::new();
    let config = Config {
        node: name(host),
        cluster: "bench".into(),
        listen: address(host),
        advertise: address(host),
        seeds: vec![address(1)],
        folder: folder.join(host.to_string()),
        clock,
    };
    let keys = Keys { seal: Key { number: 1, secret: [1; 32] }, also: None };
    let gossip = Arc::new(Gossip::start(config, keys).unwrap());
    gossip.set("addr", "10.0.0.1:2377").unwrap();
    gossip.set("load", "0.25 412 1024").unwrap();
    let told = Arc::clone(&gossip);
    thread::spawn(move || tell(&told));
    for line in std::io::stdin().lines() {
        match line.unwrap().split_once(' ') {
            Some(("set", value)) => gossip.set("bench", value).unwrap(),
            Some(("heard", node)) => {
                let members = gossip.members();
                let heard = members.iter().find(|member| member.node == node);
                let heard = heard.and_then(|member| member.heard);
                let since = heard.map_or(0, |heard| clock.mono().since(heard).0 / 1_000);
                println!("heard {since}");
            }
            Some(_) | None => {
                let sent = gossip.counters().get(Counter::Sent);
                println!("sent {sent} {}", gossip.counters().get(Counter::SentBytes));
            }
        }
    }
}

/// Tells each change of who is alive.
fn tell(gossip: &Gossip) {
    let changes = gossip.changes();
    while changes.recv_blocking().is_ok() {
        let members = gossip.members();
        let alive = members.iter().filter(|member| member.alive);
        let seen: Vec<String> = alive
            .map(|member| {
                let value = member.values.get("bench").map_or("-", String::as_str);
                format!("{}={value}", member.node)
            })
            .collect();
        println!("seen {}", seen.join(" "));
    }
}

/// The members, as the driver sees them.
struct Cluster {
    folder: PathBuf,
    members: BTreeMap<u8, (Child, ChildStdin)>,
    lines: Receiver<(u8, String)>,
    sender: Sender<(u8, String)>,
    /// Who is alive to whom, and with what value.
    seen: BTreeMap<u8, BTreeMap<String, String>>,
}

impl Cluster {
    fn new(folder: PathBuf) -> Self {
        let (sender, lines) = channel();
        Self { folder, members: BTreeMap::new(), lines, sender, seen: BTreeMap::new() }
    }

    fn start(&mut self, host: u8) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["member", self.folder.to_str().unwrap(), &host.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let sender = self.sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send((host, line)).is_err() {
                    return;
                }
            }
        });
        self.members.insert(host, (child, stdin));
    }

    fn tell(&mut self, host: u8, line: &str) {
        writeln!(self.members.get_mut(&host).unwrap().1, "{line}").unwrap();
    }

    /// Reads what members see until `done`, and gives how long that took.
    fn wait(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> f64 {
        let start = Instant::now();
        while !done(self) {
            let left = LIMIT.checked_sub(start.elapsed()).unwrap_or_else(|| panic!("{what}"));
            let Ok((host, line)) = self.lines.recv_timeout(left) else { panic!("{what}") };
            if let Some(seen) = line.strip_prefix("seen ") {
                let seen = seen.split_whitespace().filter_map(|entry| entry.split_once('='));
                let seen = seen.map(|(node, value)| (node.to_owned(), value.to_owned()));
                self.seen.insert(host, seen.collect());
            }
        }
        start.elapsed().as_secs_f64()
    }

    /// What a member answers.
    fn ask(&mut self, host: u8, line: &str, answer: &str) -> Vec<f64> {
        self.tell(host, line);
        loop {
            let (_, line) = self.lines.recv_timeout(LIMIT).unwrap();
            if let Some(numbers) = line.strip_prefix(answer) {
                return numbers.split_whitespace().map(|number| number.parse().unwrap()).collect();
            }
        }
    }

    fn all_see(&self, test: impl Fn(u8, &BTreeMap<String, String>) -> bool) -> bool {
        let empty = BTreeMap::new();
        self.members.keys().all(|host| test(*host, self.seen.get(host).unwrap_or(&empty)))
    }

    fn pid(&self, host: u8) -> u32 {
        self.members[&host].0.id()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (child, _) in self.members.values_mut() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// Seconds of processor time, and KiB of memory, of a process.
fn usage(pid: u32) -> (f64, f64) {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let all: f64 = threads
        .map(|thread| {
            let stat = fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
            stat.split_whitespace().next().unwrap().parse::<f64>().unwrap()
        })
        .sum();
    let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let pss = memory.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    let pss = pss.split_whitespace().next().unwrap().parse().unwrap();
    (all / 1e9, pss)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn run(folder: &Path, count: u8, rounds: u32, seconds: u64) {
    let mut cluster = Cluster::new(folder.join(format!("of-{count}")));
    let others = usize::from(count) - 1;
    for host in 1..=count {
        cluster.start(host);
    }
    let converged = cluster.wait("all see all", |it| it.all_see(|_, seen| seen.len() == others));
    // At rest, before anyone has died: the dead are spoken of for a while.
    let measured: Vec<u8> = (1..count).collect();
    let snapshot = |cluster: &mut Cluster| -> Vec<(f64, f64, f64, f64)> {
        let one = |host: &u8| {
            let sent = cluster.ask(*host, "sent", "sent ");
            let (cpu, pss) = usage(cluster.pid(*host));
            (sent[0], sent[1], cpu, pss)
        };
        measured.iter().map(one).collect()
    };
    thread::sleep(Duration::from_secs(3));
    let before = snapshot(&mut cluster);
    thread::sleep(Duration::from_secs(seconds));
    let after = snapshot(&mut cluster);
    let (nodes, time) = (measured.len() as f64, seconds as f64);
    let mean = |part: fn(&(f64, f64, f64, f64)) -> f64| {
        let all = before.iter().zip(&after).map(|(before, after)| part(after) - part(before));
        all.sum::<f64>() / nodes / time
    };
    let (datagrams, bytes, cpu) = (mean(|it| it.0), mean(|it| it.1), mean(|it| it.2));
    let pss = median(after.iter().map(|it| it.3).collect());
    let (mut spread, mut stopped, mut dead, mut back) = (vec![], vec![], vec![], vec![]);
    let victim = count;
    let (first, name) = (name(1), name(victim));
    for round in 0..rounds {
        let value = format!("v{round}");
        cluster.tell(1, &format!("set {value}"));
        spread.push(cluster.wait("the value spreads", |it| {
            it.all_see(|host, seen| host == 1 || seen.get(&first) == Some(&value))
        }));
        let (mut child, _) = cluster.members.remove(&victim).unwrap();
        child.kill().unwrap();
        let died = Instant::now();
        child.wait().unwrap();
        cluster.seen.remove(&victim);
        dead.push(
            cluster.wait("the death is seen", |it| it.all_see(|_, seen| !seen.contains_key(&name))),
        );
        let since = cluster.ask(1, &format!("heard {name}"), "heard ")[0] / 1_000.0;
        stopped.push((died.elapsed().as_secs_f64() - since).max(0.0));
        cluster.start(victim);
        back.push(cluster.wait("it is back", |it| it.all_see(|_, seen| seen.len() == others)));
    }
    println!(
        "| {count} | {converged:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {datagrams:.1} | \
         {bytes:.0} | {:.0} | {pss:.0} |",
        median(spread),
        median(stopped),
        median(dead),
        median(back),
        cpu * 100.0,
        bytes + datagrams * HEADS,
    );
}
