//! The demo's machines: their namespaces, cables and daemons. Making them is refused where something
//! of that name is there; removing them may be repeated.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, sethostname};

use super::{Result, failed};
use crate::host::net::{enter_or_create, unpin};
use crate::host::netlink::{NetlinkError, Route, RouteKind, Socket, VethPair};
use crate::host::start::{self, DaemonOptions};

/// Where `ip netns` looks for namespaces too.
const NETNS: &str = "/run/netns";

/// How many machines there are.
pub(super) const COUNT: u8 = 3;

/// The end of every cable that is not in a machine.
const SWITCH: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 254);

/// How long a daemon may take to end: it stops containers when the node leaves.
const END_WAIT: Duration = Duration::from_secs(30);

/// The largest packet of a cable.
const MTU: u32 = 1500;

/// Who made the demo's routes (`RTPROT_STATIC`).
const STATIC: u8 = 4;

/// Names and places of all that the demo makes.
#[derive(Debug)]
pub(super) struct Machines {
    name: String,
    /// The binary.
    pub(super) exe: PathBuf,
}

impl Machines {
    pub(super) fn new(name: &str) -> io::Result<Self> {
        Ok(Self { name: name.to_owned(), exe: std::env::current_exe()? })
    }

    /// The address of a machine.
    pub(super) const fn address(machine: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, 0, machine)
    }

    /// The name that a machine has for itself and in the swarm.
    pub(super) fn host_name(machine: u8) -> String {
        format!("pi-{machine}")
    }

    /// The socket of a machine's daemon, as `-H` takes it.
    pub(super) fn socket(&self, machine: u8) -> String {
        format!("unix://{}", self.exec_root(machine).join("skep.sock").display())
    }

    /// The namespace of a machine.
    pub(super) fn netns(&self, machine: u8) -> PathBuf {
        Path::new(NETNS).join(format!("{}-{machine}", self.name))
    }

    /// The namespace in which the cables meet, and from which clients call.
    pub(super) fn switch(&self) -> PathBuf {
        Path::new(NETNS).join(format!("{}-switch", self.name))
    }

    /// The demo's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn run_root(&self) -> PathBuf {
        Path::new("/run").join(&self.name)
    }

    fn exec_root(&self, machine: u8) -> PathBuf {
        self.run_root().join(machine.to_string())
    }

    fn data(&self) -> PathBuf {
        Path::new("/var/lib").join(&self.name)
    }

    fn data_root(&self, machine: u8) -> PathBuf {
        self.data().join(machine.to_string())
    }

    /// Makes namespaces and cables and starts the daemons; none is in a swarm.
    pub(super) fn make(&self) -> Result<()> {
        let ours = (1..=COUNT).map(|machine| self.netns(machine));
        let ours = ours.chain([self.switch(), self.run_root(), self.data()]);
        if let Some(there) = ours.into_iter().find(|path| path.exists()) {
            let why = format!(
                "{} is there already (remove an earlier demo: skep demo --name {} --clean)",
                there.display(),
                self.name
            );
            return Err(failed("make the machines")(why));
        }
        for folder in [Path::new(NETNS), &self.run_root(), &self.data()] {
            fs::create_dir_all(folder).map_err(failed(format!("create {}", folder.display())))?;
        }
        inside(&self.switch(), || {
            loopback_up()?;
            let path = "/proc/sys/net/ipv4/ip_forward";
            fs::write(path, "1").map_err(failed(format!("write {path}")))
        })?;
        for machine in 1..=COUNT {
            self.lay_cable(machine)?;
            self.start(machine)?;
        }
        Ok(())
    }

    fn lay_cable(&self, machine: u8) -> Result<()> {
        let netns = self.netns(machine);
        inside(&netns, loopback_up)?;
        let there = fs::File::open(&netns).map_err(failed(format!("open {}", netns.display())))?;
        let doing = || format!("lay the cable of machine {machine}");
        let address = Self::address(machine);
        inside(&self.switch(), || {
            let mut socket = Socket::open().map_err(failed(doing()))?;
            let port = port(machine);
            let pair = VethPair {
                name: &port,
                mac: [2, 0x73, 0x6b, 0, 0, machine],
                peer_name: "eth0",
                peer_mac: [2, 0x73, 0x6b, 0, 1, machine],
                peer_netns: there.as_fd(),
                mtu: MTU,
            };
            socket.create_veth(&pair).map_err(failed(doing()))?;
            plug(&mut socket, &port, SWITCH, &[route(address, 32, RouteKind::Link)])
                .map_err(failed(doing()))
        })?;
        inside(&netns, || {
            let mut socket = Socket::open().map_err(failed(doing()))?;
            let all = Ipv4Addr::UNSPECIFIED;
            let routes =
                [route(SWITCH, 32, RouteKind::Link), route(all, 0, RouteKind::Gateway(SWITCH))];
            plug(&mut socket, "eth0", address, &routes).map_err(failed(doing()))
        })
    }

    /// Pulls a machine's cable out of the switch, or puts it in again.
    pub(super) fn cable(&self, machine: u8, plugged: bool) -> Result<()> {
        let doing = || format!("change the cable of machine {machine}");
        inside(&self.switch(), || {
            let mut socket = Socket::open().map_err(failed(doing()))?;
            let port = port(machine);
            if plugged {
                let routes = [route(Self::address(machine), 32, RouteKind::Link)];
                return plug(&mut socket, &port, SWITCH, &routes).map_err(failed(doing()));
            }
            let link = socket.link(&port).map_err(failed(doing()))?;
            let link = link.ok_or("there is none").map_err(failed(doing()))?;
            socket.set_down(&link).map_err(failed(doing()))
        })
    }

    /// Starts a machine's daemon and waits until it is ready.
    pub(super) fn start(&self, machine: u8) -> Result<()> {
        let options = DaemonOptions {
            exe: self.exe.clone(),
            host: self.socket(machine),
            data_root: Some(self.data_root(machine)),
            exec_root: Some(self.exec_root(machine)),
        };
        let name = Self::host_name(machine);
        inside(&self.netns(machine), || {
            unshare(CloneFlags::CLONE_NEWUTS)
                .and_then(|()| sethostname(&name))
                .map_err(failed(format!("name the machine {name}")))?;
            start::start_detached(&options).map_err(failed(format!("start the daemon of {name}")))
        })
    }

    /// Ends a machine's daemon; false when none runs.
    pub(super) fn end(&self, machine: u8, signal: Signal) -> Result<bool> {
        let Some(pid) = self.daemon(machine) else { return Ok(false) };
        let doing = || format!("end the daemon of {}", Self::host_name(machine));
        kill(pid, signal).map_err(failed(doing()))?;
        let begun = Instant::now();
        while self.daemon(machine) == Some(pid) {
            if begun.elapsed() > END_WAIT {
                let why = format!("process {pid} is there after {} s", END_WAIT.as_secs());
                return Err(failed(doing())(why));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(true)
    }

    /// The process of a machine's daemon.
    fn daemon(&self, machine: u8) -> Option<Pid> {
        let root = self.data_root(machine);
        let pid: i32 = fs::read_to_string(root.join("lock")).ok()?.trim().parse().ok()?;
        // Its number may be another process's by now.
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let root = root.as_os_str().as_encoded_bytes();
        let ours = words.split(|byte| *byte == 0).any(|word| word == root);
        ours.then(|| Pid::from_raw(pid))
    }

    /// Removes the machines and all that is theirs.
    pub(super) fn remove(&self) -> Result<()> {
        for machine in 1..=COUNT {
            if self.daemon(machine).is_none() && self.data_root(machine).exists() {
                // Only a daemon can end the containers that it left.
                self.start(machine)?;
            }
            if self.daemon(machine).is_some() {
                self.leave(machine)?;
                self.end(machine, Signal::SIGTERM)?;
            }
        }
        for machine in 1..=COUNT {
            let netns = self.netns(machine);
            unpin(&netns).map_err(failed(format!("remove {}", netns.display())))?;
        }
        let switch = self.switch();
        unpin(&switch).map_err(failed(format!("remove {}", switch.display())))?;
        for folder in [self.run_root(), self.data()] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(format!("remove {}", folder.display()))(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn leave(&self, machine: u8) -> Result<()> {
        let doing = || format!("let {} leave the swarm", Self::host_name(machine));
        let mut command = std::process::Command::new(&self.exe);
        command.args(["-H", &self.socket(machine), "leave", "--force"]);
        let output = command.output().map_err(failed(doing()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() || said.contains("not part of a swarm") {
            return Ok(());
        }
        Err(failed(doing())(said.trim().to_owned()))
    }
}

/// Runs something on a thread inside a namespace, which is made if it is not there.
pub(super) fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let entered = || {
        enter_or_create(netns).map_err(failed(format!("enter {}", netns.display())))?;
        work()
    };
    let ended = thread::scope(|scope| scope.spawn(entered).join());
    ended.unwrap_or_else(|_panic| Err(failed("work inside a namespace")("the thread ended badly")))
}

fn port(machine: u8) -> String {
    format!("port{machine}")
}

const fn route(to: Ipv4Addr, prefix: u8, kind: RouteKind) -> Route {
    Route { to, prefix, kind, link: None, source: None, metric: 0, protocol: STATIC }
}

fn loopback_up() -> Result<()> {
    let up = || {
        let mut socket = Socket::open()?;
        match socket.link("lo")? {
            Some(link) => socket.set_up(&link),
            None => Ok(()),
        }
    };
    up().map_err(failed("bring the loopback up"))
}

/// Brings an end of a cable up, with its address and routes.
fn plug(
    socket: &mut Socket,
    name: &str,
    address: Ipv4Addr,
    routes: &[Route],
) -> std::result::Result<(), NetlinkError> {
    let Some(link) = socket.link(name)? else { return Ok(()) };
    socket.add_address(&link, address, false)?;
    socket.set_up(&link)?;
    for route in routes {
        socket.add_route(&Route { link: Some(link.index), ..route.clone() })?;
    }
    Ok(())
}
