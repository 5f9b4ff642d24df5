//! The network of this node's tasks: a pinned namespace, one veth and its addresses for each task,
//! and one nft table for all.
//!
//! It is not the allocator (addresses come in) and not the data plane (published ports are the
//! proxy's). The kernel is the only memory: what a daemon owns is found again by the names of its
//! links and the mark on its routes, so that a crash between two steps leaves nothing that
//! [`Net::list_tasks`] and [`Net::retain`] do not find.
//!
//! - The steps of a task, in order: pin the namespace, make the veth, configure both ends, route
//!   its addresses to it, let it through the table. Each is idempotent; taking away goes backwards.
//! - Until the last step every packet of the task is dropped: the table knows links by the
//!   daemon's prefix and sources by name.
//! - The host gives each link the same gateway address, link-local and fixed as a neighbour, so a
//!   task needs no ARP and learns nothing of its neighbours. Tasks reach the host by it, as in
//!   Docker; what listens on the host's loopback stays out of reach.
//! - A `drop` in another program's table is final. Docker's iptables rules set the policy of
//!   FORWARD to DROP: then tasks cannot reach the outside until that program lets them
//!   ([`Net::warnings`] says how); published ports are not forwarded and go on.
//!
//! Threads: any, one call for one task at a time. Each task's set-up runs on a helper thread that
//! ends with the call; changes of the table are made one after the other behind a lock. The calling
//! thread must be in the daemon's own network namespace.

mod error;
pub mod files;
mod names;
mod netns;
mod nft;
mod ruleset;
mod steps;
mod sysctl;
mod table;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, io, thread};

pub use error::NetError;
pub use files::{
    NAMESERVERS_DEFAULT, RESOLVED_FILE, Resolver, only_loopback_servers, render_hosts,
    render_resolv_conf,
};
pub use names::{DATA_ROOT_DEFAULT, Names};
pub use netns::{NetnsError, enter_or_create, unpin};
pub use nft::NftError;
pub use ruleset::{Elements, NetState, render, render_add, render_remove, render_teardown};
pub use sysctl::SysctlError;

use self::nft::Nft;
use crate::base::id::{NetworkId, TaskId};
use crate::host::failpoint::{self, Point};
use crate::host::netlink::{Link, Socket};
use crate::model::network::Subnet;

/// Networks that one task may be on.
pub const ADDRESSES_MAX: usize = 64;

/// Who made a route: our number among the `RTPROT_*`, of which 0–63 are given to others.
const ROUTE_PROTOCOL: u8 = 83;

/// Largest packet on a task's link where the way to the outside takes as much.
const MTU_MAX: u32 = 1500;

type Result<T> = std::result::Result<T, NetError>;

/// What the network of a daemon depends on.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Names of links, table and gateway come from this.
    pub data_root: PathBuf,
    /// Holds `netns/TASK`.
    pub exec_root: PathBuf,
    /// The blocks that the cluster's networks are cut from.
    pub pools: Vec<Subnet>,
}

/// One address of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskAddress {
    /// The network it is on.
    pub network: NetworkId,
    /// The address.
    pub address: Ipv4Addr,
    /// The network's subnet.
    pub subnet: Subnet,
}

/// The network that a task wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskNet {
    /// Whose.
    pub task: TaskId,
    /// At least one; the first is the source of what leaves the cluster.
    pub addresses: Vec<TaskAddress>,
}

/// The network that a task has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEndpoint {
    /// The pinned namespace, for the bundle.
    pub netns: PathBuf,
    /// The host's end of the veth.
    pub link: String,
    /// The host as the task sees it.
    pub gateway: Ipv4Addr,
}

/// How far a set-up has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The namespace is pinned.
    Pinned,
    /// The veth is made.
    Linked,
    /// Both ends are configured and up.
    Configured,
    /// The host has routes to the addresses.
    Routed,
    /// The table lets the task through.
    Ruled,
}

/// What is known of the table beside what the kernel has.
#[derive(Debug, Default)]
struct Table {
    /// It was made and not taken away by this daemon: where it is gone, another program did it.
    wanted: bool,
}

/// The network of one daemon's tasks.
#[derive(Debug)]
pub struct Net {
    config: NetConfig,
    names: Names,
    nft: Nft,
    mtu: u32,
    warnings: Vec<String>,
    /// Held while table and guard routes change.
    table: Mutex<Table>,
}

impl Net {
    /// Opens the network: replaces the table by one made from what the kernel holds, so that tasks
    /// that run go on running.
    ///
    /// # Errors
    /// When nft or a part of the kernel is missing, which the error names.
    pub fn open(config: NetConfig) -> Result<Self> {
        let nft = Nft::find().map_err(NetError::Nft)?;
        let names = Names::new(&config.data_root);
        for dir in ["netns", "net"] {
            let path = config.exec_root.join(dir);
            fs::create_dir_all(&path)
                .map_err(|source| NetError::File { doing: "create", path, source })?;
        }
        let mut socket = Socket::open().map_err(NetError::Host)?;
        let mtu = steps::uplink_mtu(&mut socket).map_err(NetError::Host)?.min(MTU_MAX);
        let chains = nft.list(&["chains"]).map_err(NetError::Nft)?;
        let warnings = nft::forward_drops(&chains).iter().map(|c| drop_warning(c, &names)).collect();
        let net = Self { config, names, nft, mtu, warnings, table: Mutex::default() };
        net.replace_table(&mut socket, &mut net.lock())?;
        Ok(net)
    }

    /// What the user should know of other programs' rules.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The names this daemon uses.
    #[must_use]
    pub const fn names(&self) -> &Names {
        &self.names
    }

    /// Path of a task's pinned namespace.
    #[must_use]
    pub fn netns_path(&self, task: TaskId) -> PathBuf {
        self.config.exec_root.join("netns").join(task.to_string())
    }

    /// Gives a task its network but for the packet rules; what is there already stays. The container
    /// can be made, and must not be started before [`Net::open_task`]. What a failure leaves,
    /// [`Net::remove_task`] takes away.
    ///
    /// # Errors
    /// What failed, and for which task.
    pub fn link_task(&self, task: &TaskNet) -> Result<TaskEndpoint> {
        self.ensure_until(task, Step::Routed)
    }

    /// Lets a task's packets through the rules.
    ///
    /// # Errors
    /// What failed, and for which task.
    pub fn open_task(&self, task: &TaskNet) -> Result<()> {
        self.let_through(task, &self.names.link(task.task))?;
        failpoint::hit(Point::NetLetThrough);
        Ok(())
    }

    /// The steps up to and with `last`: what a crash behind that step leaves.
    ///
    /// # Errors
    /// What failed, and for which task.
    pub fn ensure_until(&self, task: &TaskNet, last: Step) -> Result<TaskEndpoint> {
        check(task)?;
        self.forward_packets()?;
        let endpoint = TaskEndpoint {
            netns: self.netns_path(task.task),
            link: self.names.link(task.task),
            gateway: self.names.gateway,
        };
        let mut host = Socket::open().map_err(NetError::Host)?;
        let setup = steps::Setup { task, endpoint: &endpoint, mtu: self.mtu, last };
        let from_inside = Socket::open().map_err(NetError::Host)?;
        thread::scope(|scope| {
            let helper = thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, || setup.run_inside(from_inside))
                .map_err(|source| NetError::Thread { task: task.task, source })?;
            helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        setup.run_outside(&mut host)?;
        if last >= Step::Ruled {
            self.let_through(task, &endpoint.link)?;
            failpoint::hit(Point::NetLetThrough);
        }
        Ok(endpoint)
    }

    /// Takes a task's network away; what is not there is no error.
    ///
    /// # Errors
    /// The first failure; the later steps are done all the same.
    pub fn remove_task(&self, task: TaskId) -> Result<()> {
        let link = self.names.link(task);
        let mut socket = Socket::open().map_err(NetError::Host)?;
        let found = socket.link(&link).map_err(|source| NetError::Task { task, source })?;
        let unlinked = match found.filter(|link| self.is_own(link)) {
            Some(link) => self.delete(&mut socket, &link),
            None if self.netns_path(task).exists() => self.sweep(&mut socket),
            None => Ok(()),
        };
        failpoint::hit(Point::NetUnlinked);
        let pinned = unpin(&self.netns_path(task))
            .map_err(|source| NetError::Netns { task, source });
        failpoint::hit(Point::NetUnpinned);
        unlinked.and(pinned.map(|_| ()))
    }

    /// The tasks that have a network here, whole or in part.
    ///
    /// # Errors
    /// When links or pins cannot be listed.
    pub fn list_tasks(&self) -> Result<BTreeSet<TaskId>> {
        let path = self.config.exec_root.join("netns");
        let failed = |source| NetError::File { doing: "list", path: path.clone(), source };
        let mut tasks = BTreeSet::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            tasks.extend(name.to_str().and_then(|name| name.parse::<TaskId>().ok()));
        }
        let mut socket = Socket::open().map_err(NetError::Host)?;
        for link in self.own_links(&mut socket)? {
            tasks.extend(link.alias.and_then(|alias| alias.parse::<TaskId>().ok()));
        }
        Ok(tasks)
    }

    /// Takes away the network of every task that is not in `keep`, and what has no task at all;
    /// says what it took.
    ///
    /// # Errors
    /// The first failure; the others are taken away all the same.
    pub fn retain(&self, keep: &BTreeSet<TaskId>) -> Result<Vec<String>> {
        let mut gone = Vec::new();
        let mut result = Ok(());
        for task in self.list_tasks()?.difference(keep) {
            result = result.and(self.remove_task(*task));
            gone.push(task.to_string());
        }
        let names: BTreeSet<String> = keep.iter().map(|task| self.names.link(*task)).collect();
        let mut socket = Socket::open().map_err(NetError::Host)?;
        for link in self.own_links(&mut socket)? {
            if !names.contains(&link.name) {
                result = result.and(self.delete(&mut socket, &link));
                gone.push(link.name);
            }
        }
        result.map(|()| gone)
    }

    /// Takes away everything this daemon has made: the tasks' networks, the table, the routes, and
    /// packet forwarding if it was off before and no other daemon of this kind is here.
    ///
    /// # Errors
    /// The first failure; the others are taken away all the same.
    pub fn teardown_all(&self) -> Result<()> {
        let tasks = self.retain(&BTreeSet::new()).map(|_| ());
        let mut socket = Socket::open().map_err(NetError::Host)?;
        let mut table = self.lock();
        table.wanted = false;
        let mut routes = Ok(());
        for route in socket.routes().map_err(NetError::Host)?.iter().filter(|r| self.is_guard(r)) {
            routes = routes.and(socket.delete_route(route).map(|_| ()).map_err(NetError::Host));
        }
        let text = render_teardown(&self.names);
        let removed = self.nft.apply("remove the table", &text).map_err(NetError::Nft);
        tasks.and(routes).and(removed).and_then(|()| self.restore_forwarding())
    }

    /// Puts the table back if another program has flushed it; true if it was gone.
    ///
    /// # Errors
    /// When nft fails.
    pub fn repair_table(&self) -> Result<bool> {
        let mut table = self.lock();
        if !table.wanted {
            return Ok(false);
        }
        let shown = self.nft.list(&["table", "inet", &self.names.table]).map_err(NetError::Nft)?;
        if shown.contains("chain forward") {
            return Ok(false);
        }
        let mut socket = Socket::open().map_err(NetError::Host)?;
        self.replace_table(&mut socket, &mut table)?;
        Ok(true)
    }

    /// The host's routes that overlap a block, other than this daemon's: a pool should have none.
    ///
    /// # Errors
    /// When routes cannot be listed.
    pub fn overlapping_routes(&self, pool: Subnet) -> Result<Vec<Subnet>> {
        let mut socket = Socket::open().map_err(NetError::Host)?;
        let routes = socket.routes().map_err(NetError::Host)?;
        let foreign = routes.iter().filter(|r| r.protocol != ROUTE_PROTOCOL && r.prefix > 0);
        let blocks = foreign.map(|r| Subnet { base: r.to, prefix: r.prefix });
        Ok(blocks.filter(|b| pool.contains(b.base) || b.contains(pool.base)).collect())
    }

    /// Deletes a link of ours and what the table holds for it. Nobody makes the table anew from the
    /// kernel's routes in between: it would hold the link again, for ever.
    fn delete(&self, socket: &mut Socket, link: &Link) -> Result<()> {
        let table = self.lock();
        let ruled = self.shut_out(socket, &table, link);
        failpoint::hit(Point::NetShutOut);
        let deleted = socket.delete_link(&link.name).map_err(NetError::Host);
        ruled.and(deleted.map(|_| ()))
    }

    /// Turns packet forwarding on and remembers what it was. The one setting that is not of our own
    /// links: replies come in by the host's uplink, and the kernel asks that link.
    fn forward_packets(&self) -> Result<()> {
        let previous = sysctl::read("ipv4/ip_forward").map_err(NetError::Sysctl)?;
        if previous == "1" {
            return Ok(());
        }
        let path = self.forwarding_file();
        fs::write(&path, &previous)
            .map_err(|source| NetError::File { doing: "write", path, source })?;
        sysctl::set("ipv4/ip_forward", "1").map_err(NetError::Sysctl)
    }

    fn restore_forwarding(&self) -> Result<()> {
        let path = self.forwarding_file();
        let previous = match fs::read_to_string(&path) {
            Ok(previous) => previous,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(NetError::File { doing: "read", path, source }),
        };
        let tables = self.nft.list(&["tables"]).map_err(NetError::Nft)?;
        if !tables.lines().any(|line| line.starts_with("table inet skep")) {
            sysctl::set("ipv4/ip_forward", &previous).map_err(NetError::Sysctl)?;
        }
        fs::remove_file(&path).map_err(|source| NetError::File { doing: "remove", path, source })
    }

    fn forwarding_file(&self) -> PathBuf {
        self.config.exec_root.join("net").join("ip_forward")
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // The kernel's state is whole after each call.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(task: &TaskNet) -> Result<()> {
    let bad = |detail: String| Err(NetError::BadTask { task: task.task, detail });
    if task.addresses.is_empty() || task.addresses.len() > ADDRESSES_MAX {
        return bad(format!("{} addresses, not 1 to {ADDRESSES_MAX}", task.addresses.len()));
    }
    match task.addresses.iter().find(|a| !a.subnet.contains(a.address)) {
        Some(a) => bad(format!("an address outside its network's subnet: {}", a.address)),
        None => Ok(()),
    }
}

fn drop_warning(chain: &str, names: &Names) -> String {
    let prefix = &names.link_prefix;
    format!(
        "the nft chain \"{chain}\" of another program drops forwarded packets: tasks cannot reach \
         the outside (let them: iptables -I DOCKER-USER -i {prefix}+ -j ACCEPT and iptables -I \
         DOCKER-USER -o {prefix}+ -j ACCEPT, or with FORWARD where there is no DOCKER-USER)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_needs_addresses_of_its_networks() {
        let subnet = Subnet { base: Ipv4Addr::new(10, 0, 1, 0), prefix: 24 };
        let network = NetworkId::new(1);
        let address = |d| TaskAddress { network, address: Ipv4Addr::new(10, 0, d, 9), subnet };
        let task = |addresses| check(&TaskNet { task: TaskId::new(1), addresses });
        assert!(task(vec![address(1)]).is_ok());
        assert!(task(vec![]).is_err());
        assert!(task(vec![address(1), address(2)]).is_err());
        assert!(task(vec![address(1); ADDRESSES_MAX + 1]).is_err());
    }
}
