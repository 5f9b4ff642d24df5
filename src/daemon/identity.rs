//! Who this node is: the one small file that decides, at start, whether it is in a swarm.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::handle::InitRequest;
use crate::base::id::{ClusterId, NodeId};
use crate::host::address;
use crate::host::disk::ledger;
use crate::model::wire::Kind;

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
