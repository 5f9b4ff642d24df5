//! How a machine becomes a node, and how a node gets its next certificate.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_rustls::TlsStream;

use super::connection::Connection;
use super::dial::{self, DialError, Expected, broken, greet};
use super::endpoint::Endpoint;
use super::tls::{self, ANY_NAME, Accept};
use super::ANSWER_MAX;
use crate::base::id::RequestId;
use crate::base::time::Wall;
use crate::host::pki::{Credentials, NodeKey, PkiError, Root};
use crate::model::join_token::JoinToken;
use crate::model::node::{Availability, Role};
use crate::model::peer::{Call, End, Join, ManagerAddress, Message};

/// What a machine says when it joins. A retry says the same, with the same key.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// The same one in each retry.
    pub request: RequestId,
    /// `host:port` that others reach it at; an empty host is the one that the manager sees.
    pub advertise: String,
    /// Whether tasks may run there.
    pub availability: Availability,
    /// What it says of itself, in the store's codec.
    pub description: Vec<u8>,
}

/// What a new member has.
#[derive(Clone)]
pub struct Papers {
    /// What it proves itself with from now on; checked.
    pub credentials: Credentials,
    /// Where managers are.
    pub managers: Vec<ManagerAddress>,
    /// Keys of the gossip, the one to seal with first.
    pub gossip_keys: Vec<[u8; 32]>,
}

impl std::fmt::Debug for Papers {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Papers").field("managers", &self.managers).finish_non_exhaustive()
    }
}

/// Joins the cluster whose root the token names, at the manager at `address`. The secret is said
/// only to a manager whose certificate hangs on that root. `now` is what the system's clock says.
///
/// # Errors
/// As [`DialError`] says; nothing is left behind here. A refusal is the manager's.
pub async fn join(
    address: SocketAddr,
    token: &JoinToken,
    key: &NodeKey,
    request: JoinRequest,
    now: Wall,
) -> Result<Papers, DialError> {
    let pki = |source| DialError::Pki { address, source };
    let config = tls::client(Accept::Pinned(token.root), None)
        .map_err(|err| pki(PkiError::Make { what: "a TLS setup", why: err.to_string() }))?;
    let stream = dial::tls(address, Arc::new(config), ANY_NAME.to_owned()).await?;
    let shown = dial::shown(&stream);
    let root = tls::pinned(token.root, shown).map_err(pki)?;
    let leaf = shown.first().ok_or(DialError::OtherRoot { address })?;
    let answerer = root.verify(leaf).map_err(pki)?.identity;
    match answerer.role {
        Role::Manager => {}
        Role::Worker => return Err(DialError::NotAManager { address, node: answerer.node }),
    }
    let connection = Connection::new(TlsStream::Client(stream), End::Answerer, None);
    let mut connection = greet(address, connection, Call::Join).await?;
    let question = Message::Join(Join {
        request: request.request,
        secret: token.secret.0,
        csr: key.request().map_err(pki)?,
        advertise: request.advertise,
        availability: request.availability,
        description: request.description,
    });
    match connection.ask(&question, ANSWER_MAX).await.map_err(|err| broken(address, err))? {
        Message::Joined(joined) => {
            let credentials = credentials(key, joined.certificate, joined.roots, now);
            let credentials = credentials.map_err(pki)?;
            if credentials.verified().identity.cluster != root.cluster() {
                return Err(pki(PkiError::Untrusted));
            }
            let (managers, gossip_keys) = (joined.managers, joined.gossip_keys);
            Ok(Papers { credentials, managers, gossip_keys })
        }
        other => Err(unexpected(address, &other)),
    }
}

/// Gets the next certificate, for a new `key`, from the manager at `address`. The caller makes the
/// answer durable before it uses it ([`Credentials::write`], [`Endpoint::replace`]) and trusts its
/// roots ([`Trust::set_roots`](crate::host::pki::Trust::set_roots)).
///
/// # Errors
/// As [`DialError`] says.
pub async fn renew(
    endpoint: &Endpoint,
    address: SocketAddr,
    expected: Expected,
    key: &NodeKey,
    now: Wall,
) -> Result<Credentials, DialError> {
    let pki = |source| DialError::Pki { address, source };
    let request = key.request().map_err(pki)?;
    let mut connection = endpoint.dial(address, expected, Call::Renew).await?.connection;
    let asked = connection.ask(&Message::Renew(request), ANSWER_MAX).await;
    match asked.map_err(|err| broken(address, err))? {
        Message::Renewed(renewed) => {
            let made = credentials(key, renewed.certificate, renewed.roots, now).map_err(pki)?;
            if made.verified().identity.node != endpoint.node() {
                return Err(pki(PkiError::Malformed { what: "certificate of this node" }));
            }
            Ok(made)
        }
        other => Err(unexpected(address, &other)),
    }
}

fn credentials(
    key: &NodeKey,
    certificate: Vec<u8>,
    roots: Vec<Vec<u8>>,
    now: Wall,
) -> Result<Credentials, PkiError> {
    let roots = roots.into_iter().map(Root::parse).collect::<Result<_, _>>()?;
    Credentials::new(key.clone(), certificate, roots, now)
}

fn unexpected(address: SocketAddr, message: &Message) -> DialError {
    broken(address, super::ConnectionError::Unexpected(message.kind()))
}
