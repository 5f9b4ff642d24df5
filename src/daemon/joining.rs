//! How this machine becomes a node of a cluster: it asks a manager, and keeps what it is given.
//!
//! **Invariant:** nothing is written before the answer; the identity, by which the next start knows
//! that the node is in a swarm, last. What fails leaves nothing behind.

use std::time::Duration;

use async_io::Timer;

use super::gossiping::Kept;
use super::handle::{Failure, JoinRequest};
use super::identity::{self, Identity};
use super::node::Host;
use super::papers;
use crate::base::chain;
use crate::base::id::RequestId;
use crate::host::peers::{
    self, Clocks, DialError, Endpoint, Expected, PORT, Papers, resolve,
};
use crate::host::pki::{Credentials, NodeKey, Trust};
use crate::host::{clock, entropy};
use crate::logic::manager::wire;
use crate::model::join_token::JoinToken;
use crate::model::node::Role;
use crate::model::peer::{Call, ManagerAddress, Message, Refusal};

/// The longest that a join may take (Docker's).
const JOIN_MAX: Duration = Duration::from_secs(20);

/// Managers that one may be sent on to before the next one named is asked.
const HOPS_MAX: usize = 4;

/// The longest that telling the cluster of a node that does not begin may take.
const WITHDRAW_MAX: Duration = Duration::from_secs(5);

/// Between two tries while the managers have no leader.
const BUSY_WAIT: Duration = Duration::from_millis(500);

impl Host {
    /// Joins a cluster.
    ///
    /// # Errors
    /// [`Failure::Invalid`] for what cannot be used, [`Failure::Join`] when no manager lets it join.
    pub(super) async fn join(&self, request: &JoinRequest) -> Result<(Identity, Role), Failure> {
        let token: JoinToken =
            request.token.parse().map_err(|err| Failure::Invalid(format!("{err}")))?;
        let (advertise, listen) = identity::join_addresses(&request.advertise, &request.listen)
            .map_err(Failure::Invalid)?;
        if request.managers.is_empty() {
            return Err(Failure::Invalid("name a manager to join, as HOST:PORT".to_owned()));
        }
        let host = |err: &dyn std::fmt::Display| Failure::Host(err.to_string());
        let key = NodeKey::generate().map_err(|err| host(&err))?;
        let asked = peers::JoinRequest {
            request: RequestId::new(entropy::u128().map_err(|err| host(&err))?),
            advertise: advertise.clone(),
            availability: request.availability,
            description: wire::encode_description(&self.facts.description)
                .map_err(|err| host(&err))?,
        };
        let ask = async { Ok(ask_all(&request.managers, &token, &key, &asked).await) };
        let late = async {
            Timer::after(JOIN_MAX).await;
            Err(Failure::Join(
                "Timeout was reached before node joined. Nothing was changed on this machine: try \
                 again"
                    .to_owned(),
            ))
        };
        let papers = smol::future::or(ask, late).await??;
        let verified = papers.credentials.verified().identity;
        if Identity::path(self.data.path()).exists() {
            // The removal that `leave` began has failed so far; its log must not become ours.
            self.remove_swarm().map_err(|err| Failure::Host(chain::text(&err)))?;
        }
        let made = Identity {
            node: verified.node,
            cluster: verified.cluster,
            listen,
            leaving: false,
            foreign: identity::is_foreign(&advertise),
            advertise,
        };
        if let Err(failure) = self.keep(&made, &papers) {
            if let Err(err) = papers::remove(&self.data) {
                log::warn!("cannot remove the papers of a join: {}", chain::text(&err));
            }
            withdraw(&papers.credentials, &papers.managers).await;
            return Err(failure);
        }
        Ok((made, verified.role))
    }

    /// Tells the cluster that this node, which has just joined, cannot begin.
    pub(super) async fn withdraw(&self) {
        let papers = Credentials::read(self.data.path(), None);
        match (papers, papers::read_managers(&self.data)) {
            (Ok(Some(credentials)), Ok(managers)) => withdraw(&credentials, &managers).await,
            (_, _) => log::warn!("the swarm cannot be told that this node does not join it"),
        }
    }

    fn keep(&self, made: &Identity, papers: &Papers) -> Result<(), Failure> {
        let failed = |err: &dyn std::error::Error| Failure::Host(chain::text(err));
        self.empty_log().map_err(|err| failed(&err))?;
        papers::write_managers(&self.data, &papers.managers).map_err(|err| failed(&err))?;
        let kept = Kept { keys: papers.gossip_keys.clone(), ..Kept::default() };
        papers::write_gossip(&self.data, &kept).map_err(|err| failed(&err))?;
        papers.credentials.write(self.data.path(), None).map_err(|err| failed(&err))?;
        made.write(self.data.path()).map_err(|err| failed(&err))
    }
}

/// Asks each manager in turn, and whoever they name as the leader.
async fn ask_all(
    managers: &[String],
    token: &JoinToken,
    key: &NodeKey,
    request: &peers::JoinRequest,
) -> Result<Papers, Failure> {
    loop {
        let (mut failed, mut busy) = (None, false);
        for manager in managers {
            match ask(manager, token, key, request).await {
                Ok(papers) => return Ok(papers),
                Err(AskError::Resolve(err)) => failed = failed.or(Some(chain::text(&err))),
                Err(AskError::Dial(err)) => {
                    busy |= matches!(
                        err,
                        DialError::Refused {
                            refusal: Refusal::Busy(_) | Refusal::NotLeader { .. },
                            ..
                        }
                    );
                    failed = Some(chain::text(&err));
                }
            }
        }
        if !busy {
            return Err(Failure::Join(failed.unwrap_or_default()));
        }
        Timer::after(BUSY_WAIT).await;
    }
}

/// Tells a leader that a node that has just joined cannot begin, so that nobody misses it. What
/// cannot be told is seen by an operator, who removes the node.
async fn withdraw(credentials: &Credentials, managers: &[ManagerAddress]) {
    let told = async {
        for manager in managers {
            match tell_leaving(credentials, manager).await {
                Ok(()) => return true,
                Err(err) => log::debug!("node {}: {err}", manager.node),
            }
        }
        false
    };
    let late = async {
        Timer::after(WITHDRAW_MAX).await;
        false
    };
    if !smol::future::or(told, late).await {
        log::warn!("the swarm cannot be told that this node does not join it: remove it there");
    }
}

async fn tell_leaving(credentials: &Credentials, manager: &ManagerAddress) -> Result<(), String> {
    let trust = Trust::new(credentials.roots().to_vec()).map_err(|err| chain::text(&err))?;
    let endpoint = Endpoint::new(credentials, trust, Clocks::default());
    let endpoint = endpoint.map_err(|err| chain::text(&err))?;
    let addresses = resolve(&manager.address).await.map_err(|err| chain::text(&err))?;
    let address = addresses.first().ok_or("no address")?;
    let dialled = endpoint.dial(*address, Expected::Node(manager.node), Call::Session);
    let mut connection = Box::pin(dialled).await.map_err(|err| chain::text(&err))?.connection;
    let sent = connection.sender.send(&Message::GoingDown).await;
    sent.map_err(|err| chain::text(&err))?;
    connection.sender.close().await;
    Ok(())
}

enum AskError {
    Resolve(peers::ResolveError),
    Dial(DialError),
}

async fn ask(
    manager: &str,
    token: &JoinToken,
    key: &NodeKey,
    request: &peers::JoinRequest,
) -> Result<Papers, AskError> {
    let mut addresses = resolve(manager).await.map_err(AskError::Resolve)?;
    let mut hops = 0;
    loop {
        let mut failed = None;
        let mut next = None;
        for address in &addresses {
            let joining = peers::join(*address, token, key, request.clone(), clock::wall());
            match Box::pin(joining).await {
                Ok(papers) => return Ok(papers),
                Err(DialError::Refused {
                    refusal: Refusal::NotLeader { leader: Some(leader) },
                    ..
                }) if hops < HOPS_MAX => {
                    next = Some(leader.address);
                    break;
                }
                Err(err) => failed = Some(err),
            }
        }
        match (next, failed) {
            (Some(leader), _) => {
                hops += 1;
                addresses = resolve(&leader).await.map_err(AskError::Resolve)?;
            }
            (None, Some(err)) => return Err(AskError::Dial(err)),
            (None, None) => {
                let name = format!("{manager} (port {PORT})");
                return Err(AskError::Resolve(peers::ResolveError::Form(name)));
            }
        }
    }
}
