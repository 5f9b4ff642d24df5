//! How a machine enters a swarm: it waits until it is told to make or to join one, and does what
//! comes before the node begins.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use async_channel::Receiver;
use smol::future::or;

use super::brain::reply;
use super::handle::{Event, Failure, InitRequest};
use super::identity::Identity;
use super::locking::new_key;
use super::node::Host;
use super::waiting;
use crate::base::chain;
use crate::base::id::NodeId;
use crate::base::time::Span;
use crate::host::vault::{Found, Vault, VaultError};
use crate::model::cluster::Founding;
use crate::model::node::Role;
use crate::model::unlock_key::UnlockKey;

/// Below every version that a store has.
const FIRST: u64 = 1;

/// How the node came to be, and who waits for it.
pub(super) enum Entry {
    /// It makes a swarm; told when that is durable.
    Made {
        founding: Founding,
        certificate_life: Option<Span>,
        /// What unlocks it, where it locks itself; its keys are sealed already.
        unlock: Option<(Vault, UnlockKey)>,
        answer: SyncSender<Result<NodeId, Failure>>,
    },
    /// It has joined one as this role; told when it runs.
    Joined { role: Role, answer: SyncSender<Result<Role, Failure>> },
}

impl Entry {
    /// The node cannot begin.
    pub(super) fn refuse(self, failure: Failure) {
        match self {
            Self::Made { answer, .. } => reply(&answer, Err(failure)),
            Self::Joined { answer, .. } => reply(&answer, Err(failure)),
        }
    }
}

/// Waits until the machine has become a node; none when the daemon is to stop.
pub(super) async fn enter(
    host: &Arc<Host>,
    events: &Receiver<Event>,
) -> Option<(Identity, Entry)> {
    loop {
        match waiting::idle(events).await? {
            Event::Init { request, answer } => match make(host, &request) {
                Ok((made, unlock)) => {
                    let InitRequest { founding, certificate_life, .. } = request;
                    let entry = Entry::Made { founding, certificate_life, unlock, answer };
                    return Some((made, entry));
                }
                Err(failure) => reply(&answer, Err(failure)),
            },
            Event::Join { request, answer } => {
                let stopped = async {
                    waiting::joining(events).await;
                    None
                };
                match or(async { Some(host.join(&request).await) }, stopped).await {
                    Some(Ok((made, role))) => return Some((made, Entry::Joined { role, answer })),
                    Some(Err(failure)) => reply(&answer, Err(failure)),
                    // Nothing is written before the answer of a manager.
                    None => {
                        reply(&answer, Err(Failure::Stopping));
                        return None;
                    }
                }
            }
            // Those two alone end that wait.
            _other => {}
        }
    }
}

/// The identity of a new swarm's first node, and its lock: no key of it is ever on the disk in plain. Until
/// the store has the unlock key nobody knows it, and what is left of an init that was cut short then is
/// removed with `leave --force`.
fn make(
    host: &Host,
    request: &InitRequest,
) -> Result<(Identity, Option<(Vault, UnlockKey)>), Failure> {
    let key = request.autolock.then(new_key).transpose()?;
    let made = host.make_identity(request)?;
    let locked = key.map(|key| {
        let vault = match Vault::find(&host.data)? {
            Found::Open(vault) => vault,
            // It was removed just now.
            Found::Locked(_) => return Ok(None),
        };
        vault.turn(FIRST, Some(&key))?;
        Ok::<_, VaultError>(Some((vault, key)))
    });
    match locked.transpose() {
        Ok(unlock) => Ok((made, unlock.flatten())),
        Err(err) => {
            if let Err(err) = host.remove_swarm() {
                log::error!("{} (the next start tries again)", chain::text(&err));
            }
            Err(Failure::Host(chain::text(&err)))
        }
    }
}
