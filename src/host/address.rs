//! The addresses that a node of a swarm listens at and is reached at.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

/// Port that managers and peers talk to each other on.
const PORT_DEFAULT: u16 = 2377;

/// The addresses of an `init`, checked and completed.
///
/// # Errors
/// With Docker's text for an address that is none, or when none can be chosen.
pub fn choose(advertise: &str, listen: &str) -> Result<(String, String), String> {
    let listen = match listen {
        "" => SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT_DEFAULT)),
        text => parse(text).ok_or("ListenAddr must be an IP address or network interface (with optional port number)")?,
    };
    check_local(listen)?;
    let advertise = match advertise {
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

/// Refuses to listen at what is no address of this machine. What is advertised may be another's: a
/// router that passes connections on.
fn check_local(listen: SocketAddr) -> Result<(), String> {
    // A datagram socket takes the address without taking the port from anybody.
    match UdpSocket::bind((listen.ip(), 0)) {
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Err(format!(
            "failed to listen on remote API address: listen tcp {listen}: bind: cannot assign \
             requested address - --listen-addr must be an address of this machine"
        )),
        // Whether the port is free is known when it is taken.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Whether nobody else listens at an address that was chosen: a node that could not listen must not
/// begin to be one.
///
/// # Errors
/// With Docker's text.
pub fn check_free(listen: &str) -> Result<(), String> {
    match TcpListener::bind(listen) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(format!("failed to listen on remote API address: listen tcp {listen}: bind: {error}"))
        }
    }
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

/// Whether an address is one of this machine's interfaces.
#[must_use]
pub fn is_own(ip: IpAddr) -> bool {
    let Ok(mut found) = nix::ifaddrs::getifaddrs() else { return false };
    found.any(|entry| {
        let Some(address) = entry.address else { return false };
        match ip {
            IpAddr::V4(ip) => address.as_sockaddr_in().is_some_and(|it| it.ip() == ip),
            IpAddr::V6(ip) => address.as_sockaddr_in6().is_some_and(|it| it.ip() == ip),
        }
    })
}

/// The address of this machine that speaks with the first of these hosts to which there is a way, or
/// else with the outside. None while there is no network but loopback.
#[must_use]
pub fn towards(hosts: impl IntoIterator<Item = IpAddr>) -> Option<IpAddr> {
    let of_use = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_unicast_link_local(),
    };
    let way = |host: IpAddr| {
        let any: IpAddr = match host {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        // Connecting a datagram socket sends nothing.
        socket.connect((host, PORT_DEFAULT)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let ways = hosts.into_iter().filter(of_use).filter_map(way);
    ways.chain(outward()).find(of_use)
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

    #[test]
    fn an_address_that_is_taken_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        assert!(check_free(&address).unwrap_err().contains(&address));
        drop(taken);
        assert_eq!(check_free(&address), Ok(()));
    }

    fn check(advertise: &str, listen: &str) -> Result<(String, String), String> {
        choose(advertise, listen)
    }

    #[test]
    fn given_addresses_are_completed() {
        assert_eq!(
            check("10.0.0.5", ""),
            Ok(("10.0.0.5:2377".to_owned(), "0.0.0.0:2377".to_owned()))
        );
        assert_eq!(
            check("", "127.0.0.1:99"),
            Ok(("127.0.0.1:99".to_owned(), "127.0.0.1:99".to_owned()))
        );
        assert_eq!(check("::1", "").map(|both| both.0), Ok("[::1]:2377".to_owned()));
    }

    #[test]
    fn own_addresses_are_told_from_others() {
        for own in ["127.0.0.1", "::1"] {
            assert!(is_own(own.parse().unwrap()), "{own}");
        }
        for other in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_own(other.parse().unwrap()), "{other}");
        }
        let loopback = ["127.0.0.1".parse().unwrap()];
        assert!(towards(loopback).is_none_or(|ip| !ip.is_loopback()), "nobody else is there");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in ["0.0.0.0", "no-such-interface", "1.2.3.4:x", "1.2.3.4.5", "::"] {
            assert!(check(bad, "").is_err(), "{bad}");
        }
        assert!(check("", "nope:1").is_err());
    }

    #[test]
    fn only_addresses_of_this_machine_are_listened_at() {
        // For documentation, so nobody has it.
        let refused = check("", "192.0.2.1:2377").unwrap_err();
        assert!(refused.contains("listen tcp 192.0.2.1:2377: bind: cannot assign"), "{refused}");
        for own in ["0.0.0.0:2377", "[::]:2377", "127.0.0.1", "lo:99"] {
            check("10.0.0.5", own).unwrap();
        }
        assert_eq!(check("192.0.2.1", "").unwrap().0, "192.0.2.1:2377");
    }
}
