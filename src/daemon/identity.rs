//! Who this node is: the one small file that decides, at start, whether it is in a swarm.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::handle::InitRequest;
use crate::base::id::{ClusterId, NodeId};
use crate::host::disk::ledger;
use crate::model::wire::Kind;

/// Port that managers and peers talk to each other on.
const PORT_DEFAULT: u16 = 2377;

/// Version of the record below.
const IDENTITY_VERSION: u16 = 1;

/// A node's identity, as `node/identity` holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) node: NodeId,
    pub(super) cluster: ClusterId,
    /// `address:port` that other nodes reach this one at.
    pub(super) advertise: String,
    /// `address:port` to listen at.
    pub(super) listen: String,
    /// The node was told to leave and has not finished: whatever is left is removed at start.
    pub(super) leaving: bool,
}

impl Identity {
    pub(super) fn path(data_root: &Path) -> PathBuf {
        data_root.join("node/identity")
    }

    /// Reads it; `None` when the node is in no swarm.
    pub(super) fn read(data_root: &Path) -> Result<Option<Self>, ledger::LedgerError> {
        ledger::read(&Self::path(data_root), Kind::NODE, IDENTITY_VERSION)
    }

    /// Makes it durable.
    pub(super) fn write(&self, data_root: &Path) -> Result<(), ledger::LedgerError> {
        ledger::write(&Self::path(data_root), Kind::NODE, IDENTITY_VERSION, self)
    }
}

/// The addresses of an `init`, checked and completed.
///
/// # Errors
/// With Docker's text for an address that is none, or when none can be chosen.
pub(super) fn addresses(request: &InitRequest) -> Result<(String, String), String> {
    let listen = match request.listen.as_str() {
        "" => SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT_DEFAULT)),
        text => parse(text).ok_or("ListenAddr must be an IP address or network interface (with optional port number)")?,
    };
    let advertise = match request.advertise.as_str() {
        "" if !listen.ip().is_unspecified() => listen,
        "" => SocketAddr::from((outward().ok_or(
            "could not find the system's IP address - specify one with --advertise-addr",
        )?, listen.port())),
        text => parse(text)
            .filter(|address| !address.ip().is_unspecified())
            .ok_or("advertise address must be a non-zero IP address or network interface (with optional port number)")?,
    };
    Ok((advertise.to_string(), listen.to_string()))
}

/// `address[:port]` or `interface[:port]`.
fn parse(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(SocketAddr::from((ip, PORT_DEFAULT)));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok()?),
        None => (text, PORT_DEFAULT),
    };
    let mut found = nix::ifaddrs::getifaddrs().ok()?.filter(|entry| entry.interface_name == name);
    found.find_map(|entry| Some(SocketAddr::from((entry.address?.as_sockaddr_in()?.ip(), port))))
}

/// The address that this machine would be seen with from outside. Connecting a datagram socket
/// sends nothing; without a default route, the first address that is not loopback, else loopback.
fn outward() -> Option<IpAddr> {
    let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).map(|()| socket))
        .and_then(|socket| socket.local_addr());
    if let Ok(address) = routed {
        return Some(address.ip());
    }
    let addresses: Vec<Ipv4Addr> = nix::ifaddrs::getifaddrs()
        .ok()?
        .filter_map(|entry| Some(entry.address?.as_sockaddr_in()?.ip()))
        .collect();
    let outer = addresses.iter().find(|ip| !ip.is_loopback() && !ip.is_link_local());
    outer.or_else(|| addresses.first()).map(|ip| IpAddr::V4(*ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(advertise: &str, listen: &str) -> Result<(String, String), String> {
        addresses(&InitRequest { advertise: advertise.to_owned(), listen: listen.to_owned() })
    }

    #[test]
    fn given_addresses_are_completed() {
        assert_eq!(
            check("10.0.0.5", ""),
            Ok(("10.0.0.5:2377".to_owned(), "0.0.0.0:2377".to_owned()))
        );
        assert_eq!(
            check("", "10.0.0.5:99"),
            Ok(("10.0.0.5:99".to_owned(), "10.0.0.5:99".to_owned()))
        );
        assert_eq!(check("::1", "").map(|both| both.0), Ok("[::1]:2377".to_owned()));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in ["0.0.0.0", "no-such-interface", "1.2.3.4:x", "1.2.3.4.5", "::"] {
            assert!(check(bad, "").is_err(), "{bad}");
        }
        assert!(check("", "nope:1").is_err());
    }
}
