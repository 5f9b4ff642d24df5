//! The way to another manager's consensus: dialled anew whenever it breaks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_io::Timer;

use super::{Heard, Shared};
use crate::base::chain;
use crate::base::id::NodeId;
use crate::host::peers::{Connection, DialError, Drain, Expected, ResolveError, resolve};
use crate::model::peer::{Call, ManagerAddress};

/// The wait before a manager that could not be called is called again; it doubles.
const RETRY_MIN: Duration = Duration::from_millis(100);

/// The longest.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Carries what the drain gives, until its outbox is gone.
pub(super) async fn keep(shared: Arc<Shared>, node: NodeId, drain: Drain) {
    let mut wait = RETRY_MIN;
    while !drain.is_over() {
        let address = shared.book().managers.get(&node).cloned();
        let Some(address) = address else { return };
        match dial(&shared, &ManagerAddress { node, address }, Call::Raft).await {
            Ok(connection) => {
                wait = RETRY_MIN;
                drain.clear();
                log::info!("connected to the manager of node {node}");
                shared.tell(Heard::Reachable { peer: node }).await;
                match connection.carry(&drain, |_nothing| {}).await {
                    Ok(()) => return,
                    Err(err) => log::info!("the manager of node {node}: {}", chain::text(&err)),
                }
            }
            Err(err) => log::debug!("the manager of node {node}: {}", chain::text(&err)),
        }
        // What waits is old by then.
        drain.clear();
        Timer::after(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

/// Where a manager was reached last, and where gossip says that it is.
pub(super) async fn addresses(
    shared: &Shared,
    manager: &ManagerAddress,
) -> Result<Vec<SocketAddr>, ResolveError> {
    let hint = shared.book().hints.addresses.get(&manager.node).copied();
    let known = resolve(&manager.address).await;
    let Some(hint) = hint else { return known };
    let mut addresses = known.unwrap_or_default();
    if !addresses.contains(&hint) {
        addresses.push(hint);
    }
    Ok(addresses)
}

/// Calls a manager where it may be.
pub(super) async fn dial(
    shared: &Shared,
    manager: &ManagerAddress,
    call: Call,
) -> Result<Connection, CallError> {
    let mut failed = CallError::NoAddress;
    for address in addresses(shared, manager).await? {
        let dialled = shared.endpoint.dial(address, Expected::Node(manager.node), call);
        match Box::pin(dialled).await {
            Ok(dialled) => return Ok(dialled.connection),
            Err(err) => failed = err.into(),
        }
    }
    Err(failed)
}

/// Why a manager cannot be called.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// Its address cannot be used.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The call failed.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// No manager is known.
    #[error("no manager is known that could be called")]
    NoAddress,
}
