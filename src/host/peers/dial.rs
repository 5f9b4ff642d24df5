//! The calling end: to a node that is expected, or to any manager.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use async_io::Async;
use futures_rustls::{TlsConnector, TlsStream};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig};

use super::connection::{Connection, ConnectionError, Watch};
use super::endpoint::Endpoint;
use super::tls::ANY_NAME;
use super::{DIAL_MAX, HANDSHAKE_MAX, SILENCE_MAX, within};
use crate::base::id::NodeId;
use crate::host::pki::PkiError;
use crate::model::node::Role;
use crate::model::peer::{Call, Caller, End, Hello, Message, Refusal};

/// Who must answer. Every call but that for logs needs a manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This manager; that it was last reached at an address does not make it that node.
    Node(NodeId),
    /// This node, be it a manager or a worker.
    Member(NodeId),
    /// Any manager of the cluster.
    AnyManager,
}

/// A call that the other end has welcomed.
#[derive(Debug)]
pub struct Dialled {
    /// Who answers.
    pub answerer: Caller,
    /// The connection.
    pub connection: Connection,
}

/// Why a call did not come about. Each names the address.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nothing answers.
    #[error(
        "{address} does not answer (is it a manager, and is {}/tcp open on the way to it?)",
        address.port()
    )]
    NoAnswer {
        /// Where.
        address: SocketAddr,
    },
    /// The connection is refused, or there is no way to it.
    #[error("cannot connect to {address} (is a manager running there?)")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something answers, but not as a node does.
    #[error("what answers at {address} is not a manager of a skep swarm")]
    NotANode {
        /// Where.
        address: SocketAddr,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The other end took the connection and went silent.
    #[error("{address} took the connection, but did not answer in time")]
    Silent {
        /// Where.
        address: SocketAddr,
    },
    /// It is of another cluster, or this node is, in its eyes.
    #[error("the node at {address} is of another swarm")]
    OtherCluster {
        /// Where.
        address: SocketAddr,
    },
    /// Nothing there hangs on the root that the join token names.
    #[error(
        "the join token is not of the swarm at {address} (use the token that a manager of that \
         swarm prints, and that manager's address)"
    )]
    OtherRoot {
        /// Where.
        address: SocketAddr,
    },
    /// Another node answers at this address.
    #[error("at {address} answers node {found}, not {expected}")]
    OtherNode {
        /// Where.
        address: SocketAddr,
        /// Whose address it was taken for.
        expected: NodeId,
        /// Who answers.
        found: NodeId,
    },
    /// A worker answers.
    #[error("node {node} at {address} is a worker (call a manager)")]
    NotAManager {
        /// Where.
        address: SocketAddr,
        /// Who answers.
        node: NodeId,
    },
    /// Whoever answers was removed from the cluster.
    #[error("node {node} at {address} was removed from the swarm")]
    Removed {
        /// Where.
        address: SocketAddr,
        /// Who answers.
        node: NodeId,
    },
    /// The other end refuses, and says why.
    #[error("{address} refuses: {refusal}")]
    Refused {
        /// Where.
        address: SocketAddr,
        /// Its words.
        refusal: Refusal,
    },
    /// The connection broke.
    #[error("the call to {address} failed")]
    Connection {
        /// Where.
        address: SocketAddr,
        /// How.
        #[source]
        source: ConnectionError,
    },
    /// A key or a certificate cannot be used.
    #[error("the call to {address} failed")]
    Pki {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: PkiError,
    },
}

impl Endpoint {
    /// Calls whoever is at `address`, if it is who is expected. Ends within the sum of
    /// [`DIAL_MAX`] and twice [`HANDSHAKE_MAX`].
    ///
    /// Dates of the answerer's certificate are not judged: a manager holds the root's key, so its
    /// certificate's end protects nobody, and a caller whose clock is ahead must be able to renew.
    ///
    /// # Errors
    /// As [`DialError`] says.
    pub async fn dial(
        &self,
        address: SocketAddr,
        expected: Expected,
        call: Call,
    ) -> Result<Dialled, DialError> {
        let config = Arc::clone(&self.current().client);
        let name = match expected {
            // Sessions to be resumed are kept by name; digits alone are none.
            Expected::Node(node) | Expected::Member(node) => format!("node-{node}"),
            Expected::AnyManager => ANY_NAME.to_owned(),
        };
        let stream = tls(address, config, name).await?;
        let shown = stream.get_ref().1.peer_certificates();
        let answerer = match self.caller(shown) {
            Ok(Some(answerer)) => answerer,
            Ok(None) | Err(PkiError::Untrusted) => return Err(DialError::OtherCluster { address }),
            Err(source) => return Err(DialError::Pki { address, source }),
        };
        let node = answerer.identity.node;
        check(address, expected, &answerer)?;
        let trust = self.trust().clone();
        let watch = Some(Watch { trust, node, issued: answerer.certified.issued });
        let connection = Connection::new(TlsStream::Client(stream), End::Answerer, watch);
        let connection = greet(address, connection, call).await?;
        Ok(Dialled { answerer, connection })
    }
}

fn check(address: SocketAddr, expected: Expected, answerer: &Caller) -> Result<(), DialError> {
    let node = answerer.identity.node;
    match expected {
        Expected::Node(expected) | Expected::Member(expected) if expected != node => {
            return Err(DialError::OtherNode { address, expected, found: node });
        }
        Expected::Node(_) | Expected::Member(_) | Expected::AnyManager => {}
    }
    if answerer.removed {
        return Err(DialError::Removed { address, node });
    }
    match (answerer.identity.role, expected) {
        (Role::Manager, _) | (Role::Worker, Expected::Member(_)) => Ok(()),
        (Role::Worker, Expected::Node(_) | Expected::AnyManager) => Err(DialError::NotAManager { address, node }),
    }
}

pub(super) type ClientStream = futures_rustls::client::TlsStream<Async<TcpStream>>;

/// TCP and TLS to an address.
pub(super) async fn tls(
    address: SocketAddr,
    config: Arc<ClientConfig>,
    name: String,
) -> Result<ClientStream, DialError> {
    let connected = within(DIAL_MAX, Async::<TcpStream>::connect(address)).await;
    let socket = connected.ok_or(DialError::NoAnswer { address })?;
    let socket = socket.and_then(|socket| tune(socket.get_ref()).map(|()| socket));
    let socket = socket.map_err(|source| DialError::Connect { address, source })?;
    let name = ServerName::try_from(name).map_err(|err| DialError::NotANode {
        address,
        source: io::Error::other(err),
    })?;
    // TLS in the making is large: on the heap, so that futures that hold this one are not.
    let connecting = Box::pin(TlsConnector::from(config).connect(name, socket));
    let stream = within(HANDSHAKE_MAX, connecting).await;
    let stream = stream.ok_or(DialError::Silent { address })?;
    stream.map_err(|source| failed(address, source))
}

/// Says what the call is for, and waits until it may begin.
pub(super) async fn greet(
    address: SocketAddr,
    mut connection: Connection,
    call: Call,
) -> Result<Connection, DialError> {
    let hello = Message::Hello(Hello::new(call));
    match connection.ask(&hello, HANDSHAKE_MAX).await {
        Ok(Message::Welcome(_)) => {
            connection.begin(call);
            Ok(connection)
        }
        Ok(other) => {
            let source = ConnectionError::Unexpected(other.kind());
            Err(DialError::Connection { address, source })
        }
        Err(err) => Err(broken(address, err)),
    }
}

/// What went wrong on a connection, in the words of a call.
pub(super) fn broken(address: SocketAddr, err: ConnectionError) -> DialError {
    match err {
        ConnectionError::Refused(refusal) => DialError::Refused { address, refusal },
        ConnectionError::Silent(_) => DialError::Silent { address },
        // The answerer judges the caller's certificate after the caller's end of TLS is up.
        ConnectionError::Io(source) => match failed(address, source) {
            DialError::NotANode { source, .. } => {
                DialError::Connection { address, source: ConnectionError::Io(source) }
            }
            other => other,
        },
        source @ (ConnectionError::Closed
        | ConnectionError::Wire(_)
        | ConnectionError::Unexpected(_)) => DialError::Connection { address, source },
    }
}

/// Why TLS failed.
fn failed(address: SocketAddr, source: io::Error) -> DialError {
    let tls = source.get_ref().and_then(|err| err.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(_))) => {
            DialError::OtherRoot { address }
        }
        Some(
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)
            | rustls::Error::AlertReceived(AlertDescription::UnknownCA),
        ) => DialError::OtherCluster { address },
        Some(_) | None => DialError::NotANode { address, source },
    }
}

/// Small messages go out at once, and what is not acknowledged ends the connection.
pub(super) fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let millis = u32::try_from(SILENCE_MAX.as_millis()).unwrap_or(u32::MAX);
    Ok(setsockopt(socket, sockopt::TcpUserTimeout, &millis)?)
}

/// Whether the kernel at an address answers: it connects, or says that nobody listens. Tells
/// nothing of a node.
pub async fn answers(address: SocketAddr, limit: Duration) -> bool {
    match within(limit, Async::<TcpStream>::connect(address)).await {
        Some(Ok(_connected)) => true,
        Some(Err(err)) => err.kind() == io::ErrorKind::ConnectionRefused,
        None => false,
    }
}

/// Whether a peer showed any of these certificates.
pub(super) fn shown(stream: &ClientStream) -> &[CertificateDer<'static>] {
    stream.get_ref().1.peer_certificates().unwrap_or_default()
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) | Self::Member(node) => write!(f, "node {node}"),
            Self::AnyManager => f.write_str("any manager"),
        }
    }
}
