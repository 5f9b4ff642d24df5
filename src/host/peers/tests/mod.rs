//! Calls between nodes over real TLS on the loopback: each proof, each refusal, each hostile peer.

mod carry;
mod hostile;
mod papers;
mod proof;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::base::id::{ClusterId, NodeId};
use crate::base::time::Wall;
use crate::host::pki::{Authority, Credentials, NodeKey, Request, Trust};
use crate::model::node::Role;
use crate::model::peer::{Call, Message, Refusal};
use crate::model::validity::{CERTIFICATE_LIFE, Validity};

const DAY: u64 = 86_400_000_000;
const YEAR: u64 = 365 * DAY;
/// When the program of these tests was built.
const BUILD: Wall = Wall(56 * YEAR);
/// Right now, where a clock is right.
const NOW: Wall = Wall(BUILD.0 + 10 * DAY);

const MANAGER: NodeId = NodeId::new(1);
const OTHER_MANAGER: NodeId = NodeId::new(2);
const WORKER: NodeId = NodeId::new(3);

/// A cluster.
struct Cluster {
    authority: Authority,
}

/// A node with a clock of its own.
struct Node {
    endpoint: Endpoint,
    credentials: Credentials,
    clock: Arc<AtomicU64>,
}

impl Cluster {
    fn new(id: u128) -> Self {
        Self { authority: Authority::generate(ClusterId::new(id), BUILD).unwrap() }
    }

    fn credentials(&self, id: NodeId, role: Role, base: Wall) -> Credentials {
        let key = NodeKey::generate().unwrap();
        let request = Request::parse(&key.request().unwrap()).unwrap();
        let validity = Validity::from_base(base, CERTIFICATE_LIFE);
        let der = self.authority.issue(&request, id, role, validity).unwrap();
        Credentials::new(key, der, vec![self.authority.root().clone()], NOW).unwrap()
    }

    fn node(&self, id: NodeId, role: Role) -> Node {
        Node::new(self.credentials(id, role, NOW))
    }
}

impl Node {
    fn new(credentials: Credentials) -> Self {
        let clock = Arc::new(AtomicU64::new(NOW.0));
        let read = Arc::clone(&clock);
        let system = Arc::new(move || Wall(read.load(Ordering::Relaxed)));
        let trust = Trust::new(credentials.roots().to_vec()).unwrap();
        let clocks = Clocks { system, build: BUILD };
        let endpoint = Endpoint::new(&credentials, trust, clocks).unwrap();
        Self { endpoint, credentials, clock }
    }

    fn set_clock(&self, wall: u64) {
        self.clock.store(wall, Ordering::Relaxed);
    }

    fn listen(&self) -> (Listener, SocketAddr) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Listener::bind(address, self.endpoint.clone()).unwrap();
        let address = listener.address().unwrap();
        (listener, address)
    }
}

/// Both at once, to the end of both.
fn both<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    smol::block_on(smol::future::zip(one, other))
}

/// Greets the next one.
async fn greet(listener: &Listener) -> Result<Accepted, GreetError> {
    listener.accept().await.greet().await
}

/// Greets the next one, and begins its call.
async fn welcome(listener: &Listener) -> Result<Welcomed, GreetError> {
    Ok(greet(listener).await?.welcome().await?)
}

/// `caller` calls `answerer`, who welcomes it if it may.
fn call(
    answerer: &Node,
    caller: &Node,
    expected: Expected,
    call: Call,
) -> (Result<Welcomed, GreetError>, Result<Dialled, DialError>) {
    let (listener, address) = answerer.listen();
    both(welcome(&listener), caller.endpoint.dial(address, expected, call))
}

/// The refusal that a call ends with.
fn refusal(answerer: &Node, caller: &Node, kind: Call) -> Option<Refusal> {
    match call(answerer, caller, Expected::AnyManager, kind) {
        (Err(GreetError::Refused(here)), Err(DialError::Refused { refusal, .. })) => {
            assert_eq!(here, refusal);
            Some(refusal)
        }
        (Ok(_), Ok(_)) => None,
        other => panic!("{other:?}"),
    }
}
