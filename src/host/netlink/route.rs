//! Addresses, routes and neighbours of IPv4. Verbs on [`Socket`]; IPv6 has none here because the
//! tasks' network is IPv4.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Link, Mac, Result, Socket};

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends it straight out of a link.
    Link,
    /// Sends it to a gateway.
    Gateway(Ipv4Addr),
    /// Answers "unreachable".
    Unreachable,
    /// Anything else; only read, never written.
    Other,
}

/// An IPv4 route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to; with `prefix` 0 it is the default route.
    pub to: Ipv4Addr,
    /// Length of the prefix of `to`.
    pub prefix: u8,
    /// What it does.
    pub kind: RouteKind,
    /// Number of the link it leaves by.
    pub link: Option<u32>,
    /// The source address of what starts here.
    pub source: Option<Ipv4Addr>,
    /// Among routes to the same place the lowest wins.
    pub metric: u32,
    /// Who made it (`RTPROT_*`).
    pub protocol: u8,
}

impl Socket {
    /// Puts an address on a link; nothing happens if it is there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_address(&mut self, link: &Link, address: Ipv4Addr, local: bool) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = 32;
        message.header.index = link.index;
        message.header.scope = if local { AddressScope::Link } else { AddressScope::Universe };
        message.attributes = vec![
            AddressAttribute::Address(IpAddr::V4(address)),
            AddressAttribute::Local(IpAddr::V4(address)),
        ];
        let doing = format!("put the address {address} on {}", link.name);
        let message = RouteNetlinkMessage::NewAddress(message);
        match self.change(&doing, message, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.is_exists() => Ok(()),
            done => done,
        }
    }

    /// Makes a route; false if there is one with the same destination and metric, whatever it does.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_route(&mut self, route: &Route) -> Result<bool> {
        let doing = format!("add the route to {}/{}", route.to, route.prefix);
        let message = RouteNetlinkMessage::NewRoute(route_message(route));
        match self.change(&doing, message, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => Ok(true),
            Err(error) if error.is_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a route; false if there was none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn delete_route(&mut self, route: &Route) -> Result<bool> {
        let doing = format!("remove the route to {}/{}", route.to, route.prefix);
        match self.change(&doing, RouteNetlinkMessage::DelRoute(route_message(route)), 0) {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The IPv4 routes of the main table.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let found = self.dump("list the routes", &RouteNetlinkMessage::GetRoute(message))?;
        Ok(found.iter().filter_map(route_of).collect())
    }

    /// Fixes the hardware address behind an address of a link.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_neighbour(&mut self, link: &Link, address: Ipv4Addr, mac: Mac) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = link.index;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        let doing = format!("set the neighbour {address} of {}", link.name);
        let message = RouteNetlinkMessage::NewNeighbour(message);
        self.change(&doing, message, NLM_F_CREATE | NLM_F_REPLACE)
    }
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = route.prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(route.protocol);
    (message.header.kind, message.header.scope) = match route.kind {
        RouteKind::Link => (RouteType::Unicast, RouteScope::Link),
        RouteKind::Gateway(_) => (RouteType::Unicast, RouteScope::Universe),
        RouteKind::Unreachable => (RouteType::Unreachable, RouteScope::Universe),
        RouteKind::Other => (RouteType::Unspec, RouteScope::Universe),
    };
    let attributes = &mut message.attributes;
    if route.prefix > 0 {
        attributes.push(RouteAttribute::Destination(RouteAddress::Inet(route.to)));
    }
    if let RouteKind::Gateway(gateway) = route.kind {
        attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
    }
    if let Some(source) = route.source {
        attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(source)));
    }
    if let Some(link) = route.link {
        attributes.push(RouteAttribute::Oif(link));
    }
    if route.metric > 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    message
}

fn route_of(message: &RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let header = &message.header;
    if header.address_family != AddressFamily::Inet || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut route = Route {
        to: Ipv4Addr::UNSPECIFIED,
        prefix: header.destination_prefix_length,
        kind: match header.kind {
            RouteType::Unicast => RouteKind::Link,
            RouteType::Unreachable => RouteKind::Unreachable,
            _ => RouteKind::Other,
        },
        link: None,
        source: None,
        metric: 0,
        protocol: header.protocol.into(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(to)) => route.to = *to,
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => {
                route.kind = RouteKind::Gateway(*gateway);
            }
            RouteAttribute::PrefSource(RouteAddress::Inet(source)) => route.source = Some(*source),
            RouteAttribute::Oif(link) => route.link = Some(*link),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            _ => {}
        }
    }
    Some(route)
}
