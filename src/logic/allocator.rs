//! Addresses of tasks and published ports of services.
//!
//! A lease is what the store's objects say: an address is taken while any task holds it, a port
//! while any service does. Nothing is remembered here, so nothing can be leaked or undone wrongly.
//!
//! Every task has one address: on the `ingress` network when it publishes a port through it, else
//! on `docker_gwbridge`, which Docker, too, gives every task that needs a way out. One address per
//! attached network joins when networks can be made.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::store::Store;
use crate::base::id::{NetworkId, ServiceId};
use crate::model::network::{GWBRIDGE, Network};
use crate::model::service::{Port, PublishMode, Service, ServiceSpec};
use crate::model::task::Address;

/// First and last port that are picked when the user names none (Docker's range).
pub const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// Name of the network of published ports.
pub const INGRESS: &str = "ingress";

/// Addresses at the start of a subnet that no task gets: the network's own and the gateway.
const RESERVED_AT_START: u32 = 2;

/// Why a port cannot be had. `Display` is swarm's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Another service holds it.
    #[error("port '{port}' is already in use by service '{name}' ({id}) as {kind}")]
    Taken {
        /// The port.
        port: u16,
        /// Name of its holder.
        name: String,
        /// Id of its holder.
        id: ServiceId,
        /// How it holds it.
        kind: &'static str,
    },
    /// All of [`DYNAMIC_PORTS`] are taken.
    #[error("no port is free between 30000 and 32767; publish a port by its number")]
    Exhausted,
}

/// The ports of a service as leased: those that `old` had stay, dynamic ones are picked.
///
/// # Errors
/// When a port is taken by another service, or none is left to pick.
pub fn ports(
    store: &Store,
    spec: &ServiceSpec,
    id: ServiceId,
    old: &[Port],
) -> Result<Vec<Port>, PortError> {
    let others = || store.services().filter(|service| service.id != id);
    let mut leased: Vec<Port> = Vec::with_capacity(spec.endpoint.ports.len());
    for port in &spec.endpoint.ports {
        if port.published != 0
            && let Some(error) = others().find_map(|service| conflict(port, service))
        {
            return Err(error);
        }
        leased.push(port.clone());
    }
    // Another service's host-mode port is taken, too: its tasks may come to any node.
    let taken = |leased: &[Port], wanted: &Port| {
        let same =
            |port: &Port| port.published == wanted.published && port.protocol == wanted.protocol;
        leased.iter().any(same) || others().any(|service| service.ports.iter().any(same))
    };
    // What was there goes first, so that no new port takes its number.
    for keep in [true, false] {
        for at in 0..leased.len() {
            let mut port = leased[at].clone();
            if port.published != 0 || port.mode == PublishMode::Host {
                continue;
            }
            let had = old.iter().filter(|had| {
                had.target == port.target
                    && had.protocol == port.protocol
                    && had.mode == port.mode
                    && DYNAMIC_PORTS.contains(&had.published)
            });
            let had = had.map(|had| had.published).filter(|_| keep);
            let picked = had.chain(DYNAMIC_PORTS.filter(|_| !keep)).find(|number| {
                let wanted = Port { published: *number, ..port.clone() };
                !taken(&leased, &wanted)
            });
            match picked {
                Some(number) => port.published = number,
                None if keep => {}
                None => return Err(PortError::Exhausted),
            }
            leased[at] = port;
        }
    }
    Ok(leased)
}

/// Two services cannot have a port when either publishes it on every node (swarmkit
/// `controlapi.checkPortConflicts`); two host-mode ports are the scheduler's business.
fn conflict(port: &Port, service: &Service) -> Option<PortError> {
    let same = |held: &&Port| held.published == port.published && held.protocol == port.protocol;
    let held = service
        .ports
        .iter()
        .filter(same)
        .find(|held| held.mode == PublishMode::Ingress || port.mode == PublishMode::Ingress)?;
    let kind = match held.mode {
        PublishMode::Ingress => "an ingress port",
        PublishMode::Host => "a host-published port",
    };
    let (name, id) = (service.spec.name.to_string(), service.id);
    Some(PortError::Taken { port: port.published, name, id, kind })
}

/// The network on which a task with these ports gets its address.
#[must_use]
pub fn network_for<'a>(store: &'a Store, ports: &[Port]) -> Option<&'a Network> {
    let published = ports.iter().any(|port| port.mode == PublishMode::Ingress);
    let networks = || store.networks().map(AsRef::as_ref);
    networks()
        .find(|network| if published { network.ingress } else { network.name == GWBRIDGE })
        .or_else(|| networks().next())
}

/// Picks addresses for one batch of new tasks; knows what it has already picked.
#[derive(Debug, Default)]
pub struct Picker {
    picked: BTreeSet<(NetworkId, Ipv4Addr)>,
    /// Where the search goes on, so that a batch does not walk over its own addresses again.
    next: Option<(NetworkId, u32)>,
}

impl Picker {
    /// The lowest free address of the network; `None` when there is none.
    pub fn pick(&mut self, store: &Store, network: &Network) -> Option<Address> {
        let first = match self.next {
            Some((id, n)) if id == network.id => n,
            Some(_) | None => RESERVED_AT_START,
        };
        let last = network.subnet.len().checked_sub(2)?;
        for n in first..=last {
            let address = network.subnet.nth(n)?;
            let key = (network.id, address);
            if store.lease(network.id, address).is_none() && self.picked.insert(key) {
                self.next = Some((network.id, n + 1));
                return Some(Address { network: network.id, address });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
