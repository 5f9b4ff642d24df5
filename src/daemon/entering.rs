//! How a machine enters a swarm: it waits until it is told to make or to join one, and does what
//! comes before the node begins.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use async_channel::Receiver;
use smol::future::or;

use super::brain::reply;
use super::handle::{Event, Failure, InitRequest};
use super::identity::Identity;
use super::node::Host;
use super::waiting;
use crate::base::id::NodeId;
use crate::base::time::Span;
use crate::model::cluster::Founding;
use crate::model::node::Role;

/// How the node came to be, and who waits for it.
pub(super) enum Entry {
    /// It makes a swarm; told when that is durable.
    Made {
        founding: Founding,
        certificate_life: Option<Span>,
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
            Event::Init { request, answer } => match host.make_identity(&request) {
                Ok(made) => {
                    let InitRequest { founding, certificate_life, .. } = request;
                    return Some((made, Entry::Made { founding, certificate_life, answer }));
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
