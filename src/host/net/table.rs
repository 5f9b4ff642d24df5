//! The table and what belongs to it: what one task adds and takes away, and the guard routes. The
//! kernel's links and routes are the memory from which the whole table can be made again.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;

use super::nft::NftError;
use super::ruleset::{Elements, NetState, render, render_add, render_remove};
use super::{Net, NetError, ROUTE_PROTOCOL, Result, Table, TaskNet};
use crate::base::id::TaskId;
use crate::host::failpoint::{self, Point};
use crate::host::netlink::{Link, NftEvents, Route, RouteKind, Socket};
use crate::model::network::Subnet;

impl Net {
    /// Lets a task through the table.
    pub(super) fn let_through(&self, task: &TaskNet, link: &str) -> Result<()> {
        let mut socket = Socket::open().map_err(NetError::Host)?;
        let mut table = self.lock();
        for address in &task.addresses {
            // What is sent to an address of the network that no task has must not leave by the
            // default route.
            let guard = self.guard(address.subnet);
            socket.add_route(&guard).map_err(|source| NetError::Task { task: task.task, source })?;
        }
        failpoint::hit(Point::NetGuarded);
        let elements = Elements {
            sources: task.addresses.iter().map(|a| (link.to_owned(), a.address)).collect(),
            networks: task.addresses.iter().map(|a| a.subnet).collect(),
        };
        match self.nft.apply("let a task through", &render_add(&self.names, &elements)) {
            Err(NftError::TableGone) => {
                if table.wanted {
                    log::warn!("another program has flushed the nft table; it is made again");
                }
                self.replace_table(&mut socket, &mut table)
            }
            done => done.map_err(NetError::Nft),
        }
    }

    /// Starts a thread that puts the table back whenever another program flushes it, as a restart of
    /// nftables.service does: until then tasks would be neither kept apart nor masked. The thread
    /// ends with the process.
    ///
    /// # Errors
    /// When the kernel gives no socket, or no thread.
    pub fn keep_table(self: &Arc<Self>) -> Result<()> {
        let events = NftEvents::open().map_err(NetError::Host)?;
        let net = Arc::clone(self);
        let keep = move || loop {
            let repaired = events
                .wait_removed(&net.names.table)
                .map_err(NetError::Host)
                .and_then(|()| net.repair_table());
            match repaired {
                Ok(true) => log::warn!("another program has removed the nft table; it is back"),
                Ok(false) => {}
                Err(NetError::Host(error)) => {
                    log::error!("nobody watches the nft table any more: {error}");
                    return;
                }
                Err(error) => log::error!("the nft table is gone and cannot be made: {error}"),
            }
        };
        let thread = thread::Builder::new().name("nft".to_owned()).spawn(keep);
        thread.map(|_| ()).map_err(NetError::Watch)
    }

    /// Takes a link's sources out of the table, and the networks that no other link is on.
    pub(super) fn shut_out(&self, socket: &mut Socket, _held: &Table, link: &Link) -> Result<()> {
        let routes = socket.routes().map_err(NetError::Host)?;
        let unused = self.unused_guards(socket, &routes, Some(link.index))?;
        let own = routes.iter().filter(|r| is_task_route(r) && r.link == Some(link.index));
        let elements = Elements {
            sources: own.map(|r| (link.name.clone(), r.to)).collect(),
            networks: unused.iter().map(|r| subnet_of(r)).collect(),
        };
        match self.nft.apply("shut a task out", &render_remove(&self.names, &elements)) {
            Err(NftError::TableGone) => {}
            done => done.map_err(NetError::Nft)?,
        }
        delete_all(socket, unused)
    }

    /// Clears what a link left that is gone by itself: its namespace has ended.
    pub(super) fn sweep(&self, socket: &mut Socket) -> Result<()> {
        let mut table = self.lock();
        let routes = socket.routes().map_err(NetError::Host)?;
        let unused = self.unused_guards(socket, &routes, None)?;
        delete_all(socket, unused)?;
        self.replace_table(socket, &mut table)
    }

    /// The guard routes of networks on which no task of this daemon is, save those of `leaving`.
    fn unused_guards<'a>(
        &self,
        socket: &mut Socket,
        routes: &'a [Route],
        leaving: Option<u32>,
    ) -> Result<Vec<&'a Route>> {
        let links: BTreeSet<u32> = self.own_links(socket)?.iter().map(|l| l.index).collect();
        let stays = |r: &&Route| {
            r.link != leaving && r.link.is_some_and(|link| links.contains(&link))
        };
        let tasks: Vec<Ipv4Addr> =
            routes.iter().filter(|r| is_task_route(r) && stays(r)).map(|r| r.to).collect();
        let used = |guard: &Route| tasks.iter().any(|task| subnet_of(guard).contains(*task));
        Ok(routes.iter().filter(|r| self.is_guard(r) && !used(r)).collect())
    }

    /// Replaces the table by one made from the kernel's links and routes.
    pub(super) fn replace_table(&self, socket: &mut Socket, table: &mut Table) -> Result<()> {
        let mut state = NetState { pools: self.config.pools.clone(), ..NetState::default() };
        let links = self.own_links(socket)?;
        for route in socket.routes().map_err(NetError::Host)? {
            if self.is_guard(&route) {
                state.networks.insert(subnet_of(&route));
            } else if is_task_route(&route) {
                let link = links.iter().find(|link| Some(link.index) == route.link);
                state.sources.extend(link.map(|link| (link.name.clone(), route.to)));
            }
        }
        let text = render(&self.names, &state);
        table.wanted = true;
        self.nft.apply("make the table", &text).map_err(NetError::Nft)
    }

    /// The links that are this daemon's: by their name, and not labelled as something else's.
    pub(super) fn own_links(&self, socket: &mut Socket) -> Result<Vec<Link>> {
        let mut links = socket.links().map_err(NetError::Host)?;
        links.retain(|link| self.is_own(link));
        Ok(links)
    }

    /// Whether the link is this daemon's. One without a label is: a crash came before it.
    pub(super) fn is_own(&self, link: &Link) -> bool {
        let label = link.alias.as_deref().map(str::parse::<TaskId>);
        self.names.owns(&link.name)
            && label.is_none_or(|task| task.is_ok_and(|task| self.names.link(task) == link.name))
    }

    const fn guard(&self, subnet: Subnet) -> Route {
        Route {
            to: subnet.base,
            prefix: subnet.prefix,
            kind: RouteKind::Unreachable,
            link: None,
            source: None,
            metric: self.names.guard_metric,
            protocol: ROUTE_PROTOCOL,
        }
    }

    pub(super) fn is_guard(&self, route: &Route) -> bool {
        route.kind == RouteKind::Unreachable
            && route.metric == self.names.guard_metric
            && route.protocol == ROUTE_PROTOCOL
    }
}

const fn subnet_of(route: &Route) -> Subnet {
    Subnet { base: route.to, prefix: route.prefix }
}

const fn is_task_route(route: &Route) -> bool {
    route.protocol == ROUTE_PROTOCOL && route.prefix == 32 && matches!(route.kind, RouteKind::Link)
}

fn delete_all(socket: &mut Socket, routes: Vec<&Route>) -> Result<()> {
    for route in routes {
        socket.delete_route(route).map_err(NetError::Host)?;
    }
    Ok(())
}
