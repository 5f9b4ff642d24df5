//! Networks of the cluster.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::object::Meta;
use super::service::Labels;
use crate::base::id::NetworkId;

/// The network of tasks without published ports, as Docker's bridge to outside is called.
pub const GWBRIDGE: &str = "docker_gwbridge";

/// A network as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The network's id.
    pub id: NetworkId,
    /// Version and times.
    pub meta: Meta,
    /// Unique in the cluster.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// Its addresses.
    pub subnet: Subnet,
    /// The network of published ports: every task with one is on it.
    pub ingress: bool,
}

/// A block of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subnet {
    /// First address of the block.
    pub base: Ipv4Addr,
    /// Length of the prefix, 8…30.
    pub prefix: u8,
}

impl Subnet {
    /// Number of addresses in the block, network and broadcast address included.
    #[must_use]
    pub const fn len(self) -> u32 {
        1u32 << (32 - self.prefix as u32)
    }

    /// A block is never empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }

    /// The `n`th address of the block, if it is in it.
    #[must_use]
    pub fn nth(self, n: u32) -> Option<Ipv4Addr> {
        (n < self.len()).then(|| Ipv4Addr::from(u32::from(self.base) + n))
    }

    /// Whether the block holds the address.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address).checked_sub(u32::from(self.base)).is_some_and(|n| n < self.len())
    }
}
