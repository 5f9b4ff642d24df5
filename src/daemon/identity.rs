//! Who this node is: the one small file that decides, at start, whether it is in a swarm.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::handle::InitRequest;
use crate::base::id::{ClusterId, NodeId};
use crate::host::address;
use crate::host::disk::ledger;
use crate::model::wire::{self, Kind};

/// Version of the record below. The first one did not have `foreign`.
const IDENTITY_VERSION: u16 = 2;

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
    /// What is advertised was no address of this machine when it was given: a router passes on what
    /// comes there, and whatever address this machine gets does not change that.
    pub(super) foreign: bool,
}

/// The first version.
#[derive(Deserialize)]
struct First {
    node: NodeId,
    cluster: ClusterId,
    advertise: String,
    listen: String,
    leaving: bool,
}

impl Identity {
    pub(super) fn path(data_root: &Path) -> PathBuf {
        data_root.join("node/identity")
    }

    /// Reads it; `None` when the node is in no swarm.
    pub(super) fn read(data_root: &Path) -> Result<Option<Self>, ledger::LedgerError> {
        let path = Self::path(data_root);
        let Some((1, payload)) = ledger::load(&path, Kind::NODE)? else {
            return ledger::read(&path, Kind::NODE, IDENTITY_VERSION);
        };
        let frame = wire::Frame { kind: Kind::NODE, version: 1, payload: &payload };
        let first = frame.decode(Kind::NODE, 1);
        let First { node, cluster, advertise, listen, leaving } =
            first.map_err(|source| ledger::LedgerError::Decode { path, source })?;
        Ok(Some(Self { node, cluster, advertise, listen, leaving, foreign: false }))
    }

    /// Makes it durable.
    pub(super) fn write(&self, data_root: &Path) -> Result<(), ledger::LedgerError> {
        ledger::write(&Self::path(data_root), Kind::NODE, IDENTITY_VERSION, self)
    }
}

/// Whether an address that is advertised is one of another machine.
pub(super) fn is_foreign(advertise: &str) -> bool {
    let ip = advertise.parse::<SocketAddr>().map(|address| address.ip());
    ip.is_ok_and(|ip| !address::is_own(ip))
}

/// The addresses of an `init`, checked and completed.
///
/// # Errors
/// With Docker's text for an address that is none, or when none can be chosen.
pub(super) fn addresses(request: &InitRequest) -> Result<(String, String), String> {
    let (advertise, listen) = address::choose(&request.advertise, &request.listen)?;
    address::check_free(&listen)?;
    Ok((advertise, listen))
}

/// The addresses of a `join`, checked. Where none is to be advertised, only a port is: the manager
/// sees the rest.
///
/// # Errors
/// As [`addresses`].
pub(super) fn join_addresses(advertise: &str, listen: &str) -> Result<(String, String), String> {
    if !advertise.is_empty() {
        let (advertise, listen) = address::choose(advertise, listen)?;
        address::check_free(&listen)?;
        return Ok((advertise, listen));
    }
    // What it chooses is not taken: it may be another network's than the manager's.
    let (chosen, listen) = match address::choose("", listen) {
        Ok(chosen) => chosen,
        Err(_) => address::choose("127.0.0.1", listen)?,
    };
    address::check_free(&listen)?;
    let port = chosen.rsplit_once(':').map_or(chosen.as_str(), |(_, port)| port);
    Ok((format!(":{port}"), listen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_first_release_wrote_is_read() {
        let dir = std::env::temp_dir().join(format!("skep-identity-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("node")).unwrap();
        let (node, cluster) = (NodeId::new(1), ClusterId::new(2));
        let first = (node, cluster, "10.0.0.1:2377", "0.0.0.0:2377", true);
        ledger::write(&Identity::path(&dir), Kind::NODE, 1, &first).unwrap();
        let read = Identity::read(&dir).unwrap().unwrap();
        assert_eq!((read.node, read.leaving, read.foreign), (node, true, false));
        let next = Identity { foreign: true, leaving: false, ..read };
        next.write(&dir).unwrap();
        assert_eq!(Identity::read(&dir).unwrap(), Some(next));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(is_foreign("192.0.2.1:2377"));
        assert!(!is_foreign("127.0.0.1:2377") && !is_foreign(":2377"));
    }
}
