//! Three members of one kind as processes, and what the kernel tells of them.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::wire::{self, Figures};
use super::{json, load::Way};

pub(crate) const MEMBERS: usize = 3;

/// How long a cluster may take until it has a leader and all its members.
const START_WAIT: Duration = Duration::from_secs(60);

/// Processes of three members; they are killed with it.
pub(crate) struct Cluster {
    is_etcd: bool,
    processes: Vec<Child>,
    clients: Vec<SocketAddr>,
}

/// What three processes have cost so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Time on a processor, in hundredths of a second.
    pub(crate) ticks: u64,
    /// Bytes that went to the disk (`write_bytes` of `/proc/PID/io`), whole pages.
    pub(crate) disk_bytes: u64,
    /// Of the log; of etcd not known.
    pub(crate) log_bytes: u64,
    pub(crate) syncs: u64,
}

impl Cost {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            ticks: self.ticks - before.ticks,
            disk_bytes: self.disk_bytes - before.disk_bytes,
            log_bytes: self.log_bytes - before.log_bytes,
            syncs: self.syncs - before.syncs,
        }
    }
}

/// Ports that are free now.
fn ports(count: usize) -> Vec<SocketAddr> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|it| it.local_addr().unwrap()).collect()
}

fn spawn(command: &mut Command, said: &Path) -> Child {
    let log = || fs::File::create(said).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log()).spawn().unwrap()
}

impl Cluster {
    /// Three members of skep: the first makes the cluster, the others become members as a user
    /// would have it.
    pub(crate) fn skep(dir: &Path) -> Result<Self, String> {
        let (clients, peers) = (ports(MEMBERS), ports(MEMBERS));
        let all: Vec<String> = peers.iter().map(ToString::to_string).collect();
        let start = |at: usize| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["member", &(at + 1).to_string()]);
            command.arg(dir.join(format!("skep{at}"))).arg(clients[at].to_string()).args(&all);
            spawn(&mut command, &dir.join(format!("skep{at}.log")))
        };
        let processes = (0..MEMBERS).map(start).collect();
        let cluster = Self { is_etcd: false, processes, clients };
        let leader = cluster.leader()?;
        for (at, address) in all.iter().enumerate().skip(1) {
            let mut body = u128::try_from(at + 1).unwrap().to_le_bytes().to_vec();
            body.extend_from_slice(address.as_bytes());
            let mut stream = TcpStream::connect(leader).map_err(|e| e.to_string())?;
            wire::ask(&mut stream, wire::ADD, &body)?;
        }
        let end = Instant::now() + START_WAIT;
        let whole = |it: &SocketAddr| figures(*it).is_ok_and(|it| it.voters == 3);
        while !cluster.clients.iter().all(whole) {
            if Instant::now() > end {
                return Err("the members of skep do not become three".to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(cluster)
    }

    /// Three members of etcd with its own settings.
    pub(crate) fn etcd(program: &str, dir: &Path) -> Result<Self, String> {
        let (clients, peers) = (ports(MEMBERS), ports(MEMBERS));
        let all: Vec<String> =
            (0..MEMBERS).map(|at| format!("e{at}=http://{}", peers[at])).collect();
        let all = all.join(",");
        let start = |at: usize| {
            let (mine, client) =
                (format!("http://{}", peers[at]), format!("http://{}", clients[at]));
            let mut command = Command::new(program);
            command.arg("--name").arg(format!("e{at}"));
            command.arg("--data-dir").arg(dir.join(format!("etcd{at}")));
            for name in ["--listen-peer-urls", "--initial-advertise-peer-urls"] {
                command.arg(name).arg(&mine);
            }
            for name in ["--listen-client-urls", "--advertise-client-urls"] {
                command.arg(name).arg(&client);
            }
            command.arg("--initial-cluster").arg(&all).args(["--log-level", "error"]);
            spawn(&mut command, &dir.join(format!("etcd{at}.log")))
        };
        let processes = (0..MEMBERS).map(start).collect();
        let cluster = Self { is_etcd: true, processes, clients };
        cluster.leader()?;
        Ok(cluster)
    }

    /// Whoever leads now: the load goes there.
    pub(crate) fn leader(&self) -> Result<SocketAddr, String> {
        let end = Instant::now() + START_WAIT;
        loop {
            let leads = |at: &&SocketAddr| {
                if self.is_etcd {
                    json::leads(**at).unwrap_or(false)
                } else {
                    figures(**at).is_ok_and(|it| it.leads == 1)
                }
            };
            if let Some(at) = self.clients.iter().find(leads) {
                return Ok(*at);
            }
            if Instant::now() > end {
                return Err("no leader".to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn ways(&self) -> &'static [Way] {
        if self.is_etcd { &[Way::Grpc, Way::Json] } else { &[Way::Frames] }
    }

    pub(crate) fn cost(&self) -> Result<Cost, String> {
        let mut cost = Cost::default();
        for (process, at) in self.processes.iter().zip(&self.clients) {
            let stat = proc_file(process, "stat")?;
            let after = stat.rsplit(')').next().unwrap_or_default();
            // Fields 14 and 15; the first behind the name is the third.
            cost.ticks += after.split_whitespace().skip(11).take(2).map(number).sum::<u64>();
            cost.disk_bytes += value(&proc_file(process, "io")?, "write_bytes:");
            if !self.is_etcd {
                let figures = figures(*at)?;
                cost.log_bytes += figures.bytes;
                cost.syncs += figures.syncs;
            }
        }
        Ok(cost)
    }

    /// `VmRSS` and `VmHWM` of each process, in KiB.
    pub(crate) fn memory(&self) -> Result<Vec<(u64, u64)>, String> {
        let one = |process| {
            let status = proc_file(process, "status")?;
            Ok((value(&status, "VmRSS:"), value(&status, "VmHWM:")))
        };
        self.processes.iter().map(one).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let killed = process.kill().and_then(|()| process.wait());
            if let Err(error) = killed {
                eprintln!("cannot end process {}: {error}", process.id());
            }
        }
    }
}

fn figures(at: SocketAddr) -> Result<Figures, String> {
    let mut stream = TcpStream::connect(at).map_err(|e| e.to_string())?;
    Ok(Figures::decode(&wire::ask(&mut stream, wire::FIGURES, &[])?))
}

fn proc_file(process: &Child, name: &str) -> Result<String, String> {
    let path = format!("/proc/{}/{name}", process.id());
    fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// The number behind a name at the start of a line.
fn value(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|it| it.split_whitespace().next()).map_or(0, number)
}
