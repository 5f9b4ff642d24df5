//! The answering end: a listener, and the greeting of each connection that comes in.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use async_io::{Async, Timer};
use futures_rustls::{TlsAcceptor, TlsStream};

use super::connection::{Connection, ConnectionError, Watch};
use super::endpoint::Endpoint;
use super::seats::{Seat, Seats};
use super::{HANDSHAKE_MAX, within};
use crate::base::chain;
use crate::host::pki::PkiError;
use crate::model::peer::{Call, Caller, End, Hello, Message, Refusal, Welcome};

/// How long no connection is accepted after the kernel would not give one (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where other nodes call this one.
#[derive(Debug)]
pub struct Listener {
    socket: Async<TcpListener>,
    endpoint: Endpoint,
    seats: Seats,
}

/// A connection that has come in; nothing is known of who that is.
#[derive(Debug)]
pub struct Incoming {
    socket: Async<TcpStream>,
    address: SocketAddr,
    endpoint: Endpoint,
    seat: Seat,
}

/// A call that its caller may make. It is open until [`Self::welcome`] or [`Self::refuse`].
#[derive(Debug)]
pub struct Accepted {
    /// What for.
    pub call: Call,
    /// Who, as far as it is proved; a join is proved by its secret.
    pub caller: Option<Caller>,
    /// Where from. A hint.
    pub address: SocketAddr,
    connection: Connection,
    welcome: Welcome,
    seat: Seat,
}

/// A call that has begun, and the seat that it takes.
#[derive(Debug)]
pub struct Welcomed {
    /// The connection.
    pub connection: Connection,
    _seat: Seat,
}

/// Why a connection that came in is no call.
#[derive(Debug, thiserror::Error)]
pub enum GreetError {
    /// No TLS, or none in time.
    #[error("no TLS within {} s", HANDSHAKE_MAX.as_secs())]
    Slow,
    /// TLS failed: not a node, or one of another cluster.
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    /// The certificate is not, or no more, of the cluster.
    #[error(transparent)]
    Pki(PkiError),
    /// The greeting failed.
    #[error("the greeting failed")]
    Connection(#[from] ConnectionError),
    /// Refused in words.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The node has as many connections as it may have.
    #[error("the node has too many connections")]
    Full,
}

impl Listener {
    /// Listens at `address`.
    ///
    /// # Errors
    /// When the address is taken or not of this machine.
    pub fn bind(address: SocketAddr, endpoint: Endpoint) -> io::Result<Self> {
        let socket = Async::<TcpListener>::bind(address)?;
        Ok(Self { socket, endpoint, seats: Seats::default() })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.get_ref().local_addr()
    }

    /// The next connection for which there is a seat; others are closed.
    pub async fn accept(&self) -> Incoming {
        loop {
            let (socket, address) = match self.socket.accept().await {
                Ok(accepted) => accepted,
                Err(err) => {
                    log::warn!("cannot accept a connection from a node: {err}");
                    Timer::after(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // An address that IPv6 sockets show of IPv4 is that address.
            let Some(seat) = self.seats.stranger(address.ip().to_canonical()) else {
                log::debug!("{address}: closed, too many connections that prove nothing");
                continue;
            };
            if let Err(err) = super::dial::tune(socket.get_ref()) {
                log::debug!("{address}: {err}");
                continue;
            }
            return Incoming { socket, address, endpoint: self.endpoint.clone(), seat };
        }
    }
}

impl Incoming {
    /// Where from. A hint.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// TLS, the caller's identity, and what it calls for. Ends within twice [`HANDSHAKE_MAX`].
    ///
    /// # Errors
    /// When it is nobody who may make the call. The peer was told, where it can be.
    pub async fn greet(self) -> Result<Accepted, GreetError> {
        let Self { socket, address, endpoint, seat } = self;
        let config = endpoint.current().server.clone();
        // TLS in the making is large: on the heap, so that the futures that hold this one are not.
        let accepting = Box::pin(TlsAcceptor::from(config).accept(socket));
        let stream = within(HANDSHAKE_MAX, accepting).await;
        let stream = stream.ok_or(GreetError::Slow)?.map_err(GreetError::Tls)?;
        let shown = stream.get_ref().1.peer_certificates();
        let caller = endpoint.caller(shown).map_err(GreetError::Pki)?;
        // Who was removed is told so before anything else is heard from it.
        let watch = caller.filter(|it| !it.removed).map(|it| Watch {
            trust: endpoint.trust().clone(),
            node: it.identity.node,
            issued: it.certified.issued,
        });
        let mut connection = Connection::new(TlsStream::Server(stream), End::Caller, watch);
        let hello = match connection.receiver.receive_within(HANDSHAKE_MAX).await? {
            Message::Hello(hello) => hello,
            other => return Err(ConnectionError::Unexpected(other.kind()).into()),
        };
        let (call, welcome) = match permit(&hello, caller.as_ref()) {
            Ok(permitted) => permitted,
            Err(refusal) => {
                tell(connection, refusal.clone()).await;
                return Err(GreetError::Refused(refusal));
            }
        };
        let seat = match caller {
            Some(caller) => seat.known(caller.identity.node),
            None => Some(seat),
        };
        let Some(seat) = seat else {
            tell(connection, Refusal::Busy("this node has too many connections to it".into())).await;
            return Err(GreetError::Full);
        };
        Ok(Accepted { call, caller, address, connection, welcome, seat })
    }
}

fn permit(hello: &Hello, caller: Option<&Caller>) -> Result<(Call, Welcome), Refusal> {
    let welcome = hello.agree()?;
    let call = Call::from_number(hello.call).ok_or(Refusal::NoSuchCall)?;
    call.permit(caller)?;
    Ok((call, welcome))
}

/// Tells a refusal and closes.
async fn tell(mut connection: Connection, refusal: Refusal) {
    match connection.sender.send(&Message::Refused(refusal)).await {
        Ok(()) => connection.sender.close().await,
        Err(err) => log::debug!("cannot tell a refusal: {}", chain::text(&err)),
    }
}

impl Accepted {
    /// The version of the protocol that is spoken.
    #[must_use]
    pub const fn version(&self) -> u16 {
        self.welcome.version
    }

    /// Begins the call.
    ///
    /// # Errors
    /// When the connection has broken.
    pub async fn welcome(mut self) -> Result<Welcomed, ConnectionError> {
        self.connection.sender.send(&Message::Welcome(self.welcome)).await?;
        self.connection.begin(self.call);
        Ok(Welcomed { connection: self.connection, _seat: self.seat })
    }

    /// Refuses it in words.
    pub async fn refuse(self, refusal: Refusal) {
        tell(self.connection, refusal).await;
    }
}

impl Welcomed {
    /// The one question of a join or a renewal.
    ///
    /// # Errors
    /// When none comes in time, or something else.
    pub async fn question(&mut self) -> Result<Message, ConnectionError> {
        self.connection.receiver.receive().await
    }

    /// The answer to it. Ends the call.
    ///
    /// # Errors
    /// When the connection has broken: the caller may ask again.
    pub async fn answer(self, answer: &Message) -> Result<(), ConnectionError> {
        let Self { mut connection, _seat } = self;
        connection.sender.send(answer).await?;
        connection.sender.close().await;
        Ok(())
    }
}
