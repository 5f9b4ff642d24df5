//! What is asked of other nodes once: a command passed on, a certificate, whether a kernel answers.

use std::sync::Arc;
use std::time::Duration;

use async_io::Timer;

use super::peer::{self, CallError};
use super::{Heard, Shared};
use crate::base::chain;
use crate::base::id::{NodeId, RequestId};
use crate::base::time::Span;
use crate::host::clock;
use crate::host::peers::{self, DialError, Expected, answers, resolve};
use crate::host::pki::{Credentials, CredentialsError, NodeKey, PkiError, Root};
use crate::model::peer::{ManagerAddress, Refusal};
use crate::model::validity::{Held, Times, renewal_due};

/// The longest that a command may take on its way to the leader and back. The brain repeats it.
const FORWARD_MAX: Duration = Duration::from_secs(10);

/// The longest that a kernel may take to answer.
const PROBE_MAX: Duration = Duration::from_millis(400);

/// Between two looks at whether the certificate is to be renewed.
const RENEWAL_EVERY: Duration = Duration::from_secs(600);

/// After a renewal that failed: there may be a leader by then.
const RENEWAL_AGAIN: Duration = Duration::from_secs(10);

/// Managers that one may be sent on to.
const HOPS_MAX: usize = 4;

/// Passes a command on.
pub(super) async fn forward(
    shared: Arc<Shared>,
    request: RequestId,
    leader: NodeId,
    bytes: Vec<u8>,
) {
    let address = shared.book().managers.get(&leader).cloned();
    let mut answer = None;
    if let Some(address) = address {
        let manager = ManagerAddress { node: leader, address };
        match peer::addresses(&shared, &manager).await {
            Ok(addresses) => {
                for address in addresses {
                    let call = shared.forwarder.call(leader, address, bytes.clone(), FORWARD_MAX);
                    match Box::pin(call).await {
                        Ok(bytes) => {
                            answer = Some(bytes);
                            break;
                        }
                        Err(err) => log::debug!("a command: {}", chain::text(&err)),
                    }
                }
            }
            Err(err) => log::debug!("a command: {}", chain::text(&err)),
        }
    }
    shared.tell(Heard::Forwarded { request, answer }).await;
}

/// Looks whether a kernel answers.
pub(super) async fn probe(shared: Arc<Shared>, node: NodeId, address: String) {
    let Ok(addresses) = resolve(&address).await else { return };
    if let Some(address) = addresses.first()
        && answers(*address, PROBE_MAX).await
    {
        shared.tell(Heard::Host { node }).await;
    }
}

/// Renews the certificate when a good part of its life is over, as long as the thread runs.
pub(super) async fn renew_in_time(shared: Arc<Shared>) {
    let began = shared.clock.mono();
    let mut had = None;
    loop {
        let held = {
            let credentials = shared.credentials();
            let (validity, received) = (credentials.verified().validity, credentials.received());
            Held { validity, received, elapsed: Span::ZERO }
        };
        let now = shared.clock.mono();
        let since = match had {
            Some((last, since)) if last == held => since,
            Some(_) => now,
            None => began,
        };
        had = Some((held, since));
        let times = Times { system: clock::wall(), build: clock::build(), ..Times::default() };
        let seed = u64::try_from(shared.node.0.0 & u128::from(u64::MAX)).unwrap_or_default();
        if renewal_due(&Held { elapsed: now.since(since), ..held }, seed, &times) {
            let renewed = renew_now(&shared).await;
            Timer::after(if renewed { RENEWAL_EVERY } else { RENEWAL_AGAIN }).await;
        } else {
            Timer::after(RENEWAL_EVERY).await;
        }
    }
}

/// Renews the certificate.
pub(super) async fn renew(shared: Arc<Shared>) {
    renew_now(&shared).await;
}

/// Renews the certificate; what goes wrong is told in the log, and tried again by who wants it.
/// Whether there is a new one.
pub(super) async fn renew_now(shared: &Shared) -> bool {
    match Box::pin(renewed(shared)).await {
        Ok(role) => {
            log::info!("this node has a new certificate");
            shared.book().renewals += 1;
            shared.wake();
            shared.tell(Heard::Renewed { role }).await;
            true
        }
        Err(err) => {
            log::warn!("cannot renew the certificate: {}", chain::text(&err));
            false
        }
    }
}

async fn renewed(shared: &Shared) -> Result<crate::model::node::Role, RenewError> {
    let key = NodeKey::generate()?;
    let leads = shared.book().leads;
    let credentials = if leads {
        let csr = key.request()?;
        let (answer, comes) = async_channel::bounded(1);
        shared.tell(Heard::RenewAsked { node: shared.node, csr, answer }).await;
        let renewed = comes.recv().await.map_err(|_gone| RenewError::Gone)??;
        let roots = renewed.roots.into_iter().map(Root::parse).collect::<Result<_, _>>()?;
        Credentials::new(key, renewed.certificate, roots, clock::wall())?
    } else {
        called(shared, &key).await?
    };
    // Durable first: the old one may be refused from the next moment on.
    shared.vault.keep(&credentials)?;
    shared.endpoint.trust().set_roots(credentials.roots().to_vec())?;
    shared.endpoint.replace(&credentials)?;
    let role = credentials.verified().identity.role;
    *shared.credentials() = credentials;
    Ok(role)
}

/// Asks the leader, or any manager for it.
async fn called(shared: &Shared, key: &NodeKey) -> Result<Credentials, RenewError> {
    let book = shared.book().clone();
    let all = book.managers.iter();
    let all = all.map(|(node, address)| ManagerAddress { node: *node, address: address.clone() });
    let mut failed = RenewError::Call(CallError::NoAddress);
    for first in book.leader().into_iter().chain(all) {
        let mut next = Some(first);
        for _hop in 0..HOPS_MAX {
            let Some(manager) = next.take() else { break };
            match call(shared, &manager, key).await {
                Ok(credentials) => return Ok(credentials),
                Err(CallError::Dial(DialError::Refused {
                    refusal: Refusal::NotLeader { leader },
                    ..
                })) => next = leader,
                Err(err) => failed = err.into(),
            }
        }
    }
    Err(failed)
}

async fn call(
    shared: &Shared,
    manager: &ManagerAddress,
    key: &NodeKey,
) -> Result<Credentials, CallError> {
    let mut failed = CallError::NoAddress;
    for address in peer::addresses(shared, manager).await? {
        let expected = Expected::Node(manager.node);
        match peers::renew(&shared.endpoint, address, expected, key, clock::wall()).await {
            Ok(credentials) => return Ok(credentials),
            Err(err) => failed = err.into(),
        }
    }
    Err(failed)
}

/// Why there is no other certificate.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    /// The leader cannot be called, or refuses.
    #[error(transparent)]
    Call(#[from] CallError),
    /// This node's own manager refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It leads no more.
    #[error("the manager of this node has just stopped being the leader")]
    Gone,
    /// A key or a certificate cannot be used.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] CredentialsError),
}
