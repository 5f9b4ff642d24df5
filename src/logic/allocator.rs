//! Addresses of tasks and published ports of services.
//!
//! A lease is what the store's objects say: an address is taken while any task holds it or any
//! service has it as its virtual one, a port while any service does. Nothing is remembered here, so
//! nothing can be leaked or undone wrongly.
//!
//! Every task has an address on the `ingress` network when it publishes a port through it, else on
//! `docker_gwbridge`, which Docker, too, gives every task that needs a way out; and one more on each
//! network that it is attached to. A task keeps its addresses when it has ended, until its worker
//! says that nothing of it is left on the node: only then may another task have them.

use std::collections::BTreeMap;

use super::store::Store;
use crate::base::id::{NetworkId, ServiceId};
use crate::model::network::{GWBRIDGE, Network};
use crate::model::service::{EndpointMode, Port, PublishMode, Service, ServiceSpec};
use crate::model::task::{Address, Task};

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

/// An address cannot be had. `Display` is for the task's status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// All of the network's are taken.
    #[error("no address is free in network {0}")]
    Exhausted(String),
    /// The network is no more.
    #[error("network {0} not found")]
    NoNetwork(NetworkId),
}

/// The network on which a task with these ports gets its first address.
#[must_use]
pub fn network_for<'a>(store: &'a Store, ports: &[Port]) -> Option<&'a Network> {
    let published = ports.iter().any(|port| port.mode == PublishMode::Ingress);
    let networks = || store.networks().map(AsRef::as_ref);
    networks()
        .find(|network| if published { network.ingress } else { network.name == GWBRIDGE })
        .or_else(|| networks().next())
}

/// Gives the task an address on each of its networks where it has none, the first one first; all
/// of them or none.
///
/// # Errors
/// When a network is not there or has no free address; the task is as it was.
pub fn addresses(store: &Store, picker: &mut Picker, task: &mut Task) -> Result<(), AddressError> {
    let first = network_for(store, &task.ports).map(|network| network.id);
    let attached = task.spec.networks.iter().map(|attachment| attachment.network);
    let wanted: Vec<NetworkId> = first.into_iter().chain(attached).collect();
    let mut tried = picker.clone();
    task.addresses = on_each(store, &mut tried, &wanted, &task.addresses)?;
    // What was picked for a task that cannot have all is there for the next one.
    *picker = tried;
    Ok(())
}

/// The service's virtual addresses: one on each network that its tasks are attached to, none where
/// it is reached by names only. Those that it has stay. The ingress network needs none: published
/// ports are listeners of the nodes.
///
/// # Errors
/// When a network is not there or has no free address.
pub fn vips(
    store: &Store,
    picker: &mut Picker,
    service: &Service,
) -> Result<Vec<Address>, AddressError> {
    let attached = match service.spec.endpoint.mode {
        EndpointMode::Vip => &service.spec.task.networks[..],
        EndpointMode::Dnsrr => &[],
    };
    let wanted: Vec<NetworkId> = attached.iter().map(|attachment| attachment.network).collect();
    on_each(store, picker, &wanted, &service.vips)
}

/// One address on each of these networks, those of `had` where there is one.
fn on_each(
    store: &Store,
    picker: &mut Picker,
    wanted: &[NetworkId],
    had: &[Address],
) -> Result<Vec<Address>, AddressError> {
    let mut addresses: Vec<Address> = Vec::with_capacity(wanted.len());
    for id in wanted {
        if addresses.iter().any(|address| address.network == *id) {
            continue;
        }
        let old = had.iter().find(|address| address.network == *id).copied();
        addresses.push(match old {
            Some(address) => address,
            None => {
                let network = store.network(*id).ok_or(AddressError::NoNetwork(*id))?;
                let address = picker.pick(store, network);
                address.ok_or_else(|| AddressError::Exhausted(network.name.clone()))?
            }
        });
    }
    Ok(addresses)
}

/// Picks addresses for one batch of changes; knows what it has already picked.
#[derive(Clone, Debug, Default)]
pub struct Picker {
    /// Where the search goes on, so that a batch neither picks an address twice nor walks over its
    /// own again.
    next: BTreeMap<NetworkId, u32>,
}

impl Picker {
    /// The lowest free address of the network; `None` when there is none.
    pub fn pick(&mut self, store: &Store, network: &Network) -> Option<Address> {
        let first = self.next.get(&network.id).copied().unwrap_or(RESERVED_AT_START);
        let last = network.subnet.len().checked_sub(2)?;
        let mut leased = store.leases_from(network.id, network.subnet.nth(first)?).peekable();
        for n in first..=last {
            let address = network.subnet.nth(n)?;
            if leased.next_if_eq(&address).is_none() {
                self.next.insert(network.id, n + 1);
                return Some(Address { network: network.id, address });
            }
        }
        self.next.insert(network.id, last.saturating_add(1));
        None
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod walk_tests;
