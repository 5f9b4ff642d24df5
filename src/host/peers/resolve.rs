//! From what a user types, or a manager tells, to where a socket can go.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{PORT, within};

/// The longest that a name may take to look up.
pub const RESOLVE_MAX: Duration = Duration::from_secs(3);

/// Addresses of one name that are of use; further ones are left out.
const ADDRESSES_MAX: usize = 4;

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The text has no form of an address.
    #[error("invalid address {0:?} (as in 192.168.1.10:2377 or pi-1:2377)")]
    Form(String),
    /// Nobody knows the name.
    #[error("cannot find a machine named {name}")]
    Unknown {
        /// The name.
        name: String,
        /// What the resolver says.
        #[source]
        source: io::Error,
    },
    /// The resolver does not answer.
    #[error("cannot find a machine named {name}: no answer within {} s", RESOLVE_MAX.as_secs())]
    Slow {
        /// The name.
        name: String,
    },
}

/// The addresses of `host`, `host:port`, an IPv4 or an IPv6 address; the port is [`PORT`] where none
/// is named. At least one, in the resolver's order.
///
/// # Errors
/// When the text is no address, or the name cannot be looked up within [`RESOLVE_MAX`].
pub async fn resolve(text: &str) -> Result<Vec<SocketAddr>, ResolveError> {
    let (host, port) = split(text).ok_or_else(|| ResolveError::Form(text.to_owned()))?;
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let name = host.to_owned();
    let Some(found) = within(RESOLVE_MAX, smol::net::resolve((host, port))).await else {
        return Err(ResolveError::Slow { name });
    };
    match found {
        Ok(mut addresses) if !addresses.is_empty() => {
            addresses.truncate(ADDRESSES_MAX);
            Ok(addresses)
        }
        Ok(_) => Err(ResolveError::Unknown { name, source: io::ErrorKind::NotFound.into() }),
        Err(source) => Err(ResolveError::Unknown { name, source }),
    }
}

/// Host and port of a text.
fn split(text: &str) -> Option<(&str, u16)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let ip: IpAddr = host.parse().ok()?;
        if ip.is_ipv4() {
            return None;
        }
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else if text.parse::<IpAddr>().is_ok() {
        // An IPv6 address has colons of its own.
        (text, None)
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(legal) {
        return None;
    }
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None => PORT,
    };
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        for (text, expected) in [
            ("pi-1", Some(("pi-1", 2377))),
            ("pi-1.lan:99", Some(("pi-1.lan", 99))),
            ("10.0.0.1", Some(("10.0.0.1", 2377))),
            ("10.0.0.1:1", Some(("10.0.0.1", 1))),
            ("::1", Some(("::1", 2377))),
            ("[::1]", Some(("::1", 2377))),
            ("[::1]:5", Some(("::1", 5))),
            ("", None),
            (":2377", None),
            ("pi-1:", None),
            ("pi-1:0", None),
            ("pi-1:65536", None),
            ("pi-1:1:2", None),
            ("[10.0.0.1]:5", None),
            ("[::1]5", None),
            ("[::1", None),
            ("http://pi-1", None),
            ("pi 1", None),
        ] {
            assert_eq!(split(text), expected, "{text}");
        }
    }

    #[test]
    fn addresses_need_no_resolver_and_a_bad_text_is_quoted() {
        let found = smol::block_on(resolve("[::1]:5")).unwrap();
        assert_eq!(found, ["[::1]:5".parse().unwrap()]);
        let err = smol::block_on(resolve("a b")).unwrap_err();
        assert!(err.to_string().contains("\"a b\""), "{err}");
    }
}
