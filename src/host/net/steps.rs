//! The steps that run on the helper thread: namespace, veth, both ends, routes.
//!
//! The thread has a socket of the host's namespace, then moves into the task's and opens another.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use super::names::{GATEWAY_MAC, task_mac};
use super::{NetError, ROUTE_PROTOCOL, Result, Step, TaskEndpoint, TaskNet, netns, sysctl};
use crate::host::failpoint::{self, Point};
use crate::host::netlink::{Link, NetlinkError, Route, RouteKind, Socket, VethPair};

/// Name of the task's end of the veth.
const TASK_LINK: &str = "eth0";

/// What a task's set-up needs to know.
pub(super) struct Setup<'a> {
    pub(super) task: &'a TaskNet,
    pub(super) endpoint: &'a TaskEndpoint,
    pub(super) mtu: u32,
    pub(super) last: Step,
}

/// Largest packet that the links of the default routes take.
pub(super) fn uplink_mtu(host: &mut Socket) -> std::result::Result<u32, NetlinkError> {
    let links = host.links()?;
    let routes = host.routes()?;
    let uplinks = routes.iter().filter(|route| route.prefix == 0).filter_map(|route| route.link);
    let mtus = uplinks.filter_map(|index| links.iter().find(|link| link.index == index));
    Ok(mtus.map(|link| link.mtu).min().unwrap_or(u32::MAX))
}

impl Setup<'_> {
    /// The steps in the task's namespace, where the thread stays: it must end. `host` is a socket
    /// of the host's.
    pub(super) fn run_inside(&self, mut host: Socket) -> Result<()> {
        let task = self.task.task;
        let netns = netns::enter_or_create(&self.endpoint.netns)
            .map_err(|source| NetError::Netns { task, source })?;
        failpoint::hit(Point::NetPinned);
        if self.last < Step::Linked {
            return Ok(());
        }
        let mut inner = self.tried(Socket::open())?;
        let link = self.link(&mut host, &mut inner, netns.as_fd())?;
        failpoint::hit(Point::NetLinked);
        if self.last < Step::Configured {
            return Ok(());
        }
        // The namespace's own settings are those of the thread that is in it.
        configure_namespace().map_err(NetError::Sysctl)?;
        self.configure_inside(&mut inner, &link)?;
        failpoint::hit(Point::NetInside);
        Ok(())
    }

    /// The steps in the host's namespace, which the calling thread is in.
    pub(super) fn run_outside(&self, host: &mut Socket) -> Result<()> {
        if self.last < Step::Configured {
            return Ok(());
        }
        let name = &self.endpoint.link;
        let link = self.tried(host.link(name)).and_then(|link| self.must(name, link))?;
        self.configure_outside(host, &link)?;
        failpoint::hit(Point::NetOutside);
        if self.last < Step::Routed {
            return Ok(());
        }
        self.route(host, &link)?;
        failpoint::hit(Point::NetRouted);
        Ok(())
    }

    /// Makes the veth, unless it is there; a half that lost its other end is made again. Gives the
    /// task's end.
    fn link(
        &self,
        host: &mut Socket,
        inner: &mut Socket,
        netns: BorrowedFd<'_>,
    ) -> Result<Link> {
        let task = self.task.task;
        let name = &self.endpoint.link;
        if let Some(outside) = self.tried(host.link(name))? {
            if let Some(owner) = outside.alias.clone().filter(|a| *a != task.to_string()) {
                return Err(NetError::LinkTaken { task, link: name.clone(), owner });
            }
            let inside = self.tried(inner.link(TASK_LINK))?;
            match inside.filter(|inside| inside.peer == Some(outside.index)) {
                Some(inside) => return Ok(inside),
                None => self.tried(host.delete_link(name))?,
            };
        }
        let pair = VethPair {
            name,
            mac: GATEWAY_MAC,
            peer_name: TASK_LINK,
            peer_mac: task_mac(self.task.addresses[0].address),
            peer_netns: netns,
            mtu: self.mtu,
        };
        match host.create_veth(&pair) {
            Err(error) if error.errno() == Some(nix::errno::Errno::EOPNOTSUPP) => {
                return Err(NetError::NoVeth);
            }
            done => self.tried(done)?,
        }
        self.tried(inner.link(TASK_LINK)).and_then(|link| self.must(TASK_LINK, link))
    }

    /// The task's end: addresses, the way to the gateway, and one route for each network so that a
    /// packet has the source of the network it goes to.
    fn configure_inside(&self, inner: &mut Socket, link: &Link) -> Result<()> {
        sysctl::set_if_known(&format!("ipv6/conf/{TASK_LINK}/disable_ipv6"), "1")
            .map_err(NetError::Sysctl)?;
        let lo = self.tried(inner.link("lo")).and_then(|lo| self.must("lo", lo))?;
        self.tried(inner.set_up(&lo))?;
        for address in &self.task.addresses {
            self.tried(inner.add_address(link, address.address, false))?;
        }
        self.tried(inner.set_up(link))?;
        let gateway = self.endpoint.gateway;
        self.tried(inner.set_neighbour(link, gateway, GATEWAY_MAC))?;
        let route = |to, prefix, kind, source| Route {
            to,
            prefix,
            kind,
            link: Some(link.index),
            source: Some(source),
            metric: 0,
            protocol: ROUTE_PROTOCOL,
        };
        let first = self.task.addresses[0].address;
        self.tried(inner.add_route(&route(gateway, 32, RouteKind::Link, first)))?;
        let by_gateway = RouteKind::Gateway(gateway);
        self.tried(inner.add_route(&route([0, 0, 0, 0].into(), 0, by_gateway, first)))?;
        for address in &self.task.addresses {
            let subnet = address.subnet;
            let route = route(subnet.base, subnet.prefix, by_gateway, address.address);
            self.tried(inner.add_route(&route))?;
        }
        Ok(())
    }

    /// The host's end. No IPv6, not even a link-local address; no reverse path filter, because the
    /// table knows the sources exactly and the proxy may answer for others.
    fn configure_outside(&self, host: &mut Socket, link: &Link) -> Result<()> {
        let task = self.task.task;
        self.tried(host.set_alias(link, &task.to_string()))?;
        for (setting, value) in [("rp_filter", "0"), ("accept_redirects", "0")] {
            sysctl::set(&format!("ipv4/conf/{}/{setting}", link.name), value)
                .map_err(NetError::Sysctl)?;
        }
        sysctl::set_if_known(&format!("ipv6/conf/{}/disable_ipv6", link.name), "1")
            .map_err(NetError::Sysctl)?;
        self.tried(host.add_address(link, self.endpoint.gateway, true))?;
        self.tried(host.set_up(link))?;
        let mac = task_mac(self.task.addresses[0].address);
        for address in &self.task.addresses {
            self.tried(host.set_neighbour(link, address.address, mac))?;
        }
        Ok(())
    }

    /// The host's routes to the addresses.
    fn route(&self, host: &mut Socket, link: &Link) -> Result<()> {
        let task = self.task.task;
        for address in self.task.addresses.iter().map(|a| a.address) {
            let route = Route {
                to: address,
                prefix: 32,
                kind: RouteKind::Link,
                link: Some(link.index),
                source: Some(self.endpoint.gateway),
                metric: 0,
                protocol: ROUTE_PROTOCOL,
            };
            if !self.tried(host.add_route(&route))?
                && !self.tried(host.routes())?.contains(&route)
            {
                return Err(NetError::AddressTaken { task, address });
            }
        }
        Ok(())
    }

    fn tried<T>(&self, done: std::result::Result<T, NetlinkError>) -> Result<T> {
        done.map_err(|source| NetError::Task { task: self.task.task, source })
    }

    fn must(&self, name: &str, link: Option<Link>) -> Result<Link> {
        let gone = || NetlinkError::Refused {
            doing: format!("use the link {name}, which another program has taken away"),
            explanation: None,
            source: io::Error::from(io::ErrorKind::NotFound),
        };
        link.ok_or_else(|| NetError::Task { task: self.task.task, source: gone() })
    }
}

/// Docker's defaults for a container's own namespace: ports below 1024 and ping for everybody.
fn configure_namespace() -> std::result::Result<(), sysctl::SysctlError> {
    sysctl::set_if_known("ipv4/ip_unprivileged_port_start", "0")?;
    sysctl::set_if_known("ipv4/ping_group_range", "0\t2147483647")
}
