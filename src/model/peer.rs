//! What nodes say to each other over TLS: who they are, which calls there are, and who may make one.
//!
//! A connection is one call. The caller begins with [`Hello`]; the answer is [`Welcome`], or a
//! [`Refusal`] in words. These three keep their shape for ever, so that any two releases can say
//! why they cannot talk. Everything else has the version that both have agreed on. What consensus,
//! dispatch and commands say is bytes here: their machines have codecs of their own.
//!
//! **Invariant:** every kind of frame has a limit, and each call carries only its own kinds
//! ([`Call::carries`]); so nobody who proved nothing can make a node hold more than a join needs.

use serde::{Deserialize, Serialize};

use super::node::{Availability, Role};
use super::validity::Standing;
use super::wire::{self, Frame, Kind, WireError};
use crate::base::id::{ClusterId, NodeId, RequestId};
use crate::base::time::Wall;

/// The newest version of the protocol that this release speaks.
pub const PROTOCOL_NEWEST: u16 = 1;

/// The oldest: that of the release before.
pub const PROTOCOL_OLDEST: u16 = 1;

/// The version of what keeps its shape for ever.
const FIRST: u16 = 1;

/// Bytes of frames that are a few numbers or a refusal.
const SMALL_BYTES_MAX: usize = 4 << 10;

/// Bytes of a frame with a node's description, or with certificates and addresses.
const JOIN_BYTES_MAX: usize = 128 << 10;

/// Bytes of a frame that only members send: consensus (the largest proposal travels alone),
/// assignments, reports and commands.
pub const MEMBER_BYTES_MAX: usize = 2 << 20;

/// Managers that a node is told of; more would not be useful to it.
pub const MANAGERS_MAX: usize = 64;

/// What a certificate of a node says once its chain is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Which node.
    pub node: NodeId,
    /// What it may do.
    pub role: Role,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// When the certificate ends.
    pub expires: Wall,
}

/// Who calls, as far as it is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whom its certificate names.
    pub identity: PeerIdentity,
    /// How the certificate stands in time.
    pub standing: Standing,
    /// The node was removed from the cluster.
    pub removed: bool,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A machine that has no certificate asks for one, with a join token's secret.
    Join,
    /// A node asks for its next certificate.
    Renew,
    /// A manager tells another what consensus says: one way, in order.
    Raft,
    /// A node is told its assignments and tells its reports.
    Session,
    /// A manager passes commands on to the leader, one after the other.
    Forward,
}

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Who dialled.
    Caller,
    /// Who listens.
    Answerer,
}

impl Call {
    const ALL: [Self; 5] = [Self::Join, Self::Renew, Self::Raft, Self::Session, Self::Forward];

    /// Its number in [`Hello`], given once and never again.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Join => 1,
            Self::Renew => 2,
            Self::Raft => 3,
            Self::Session => 4,
            Self::Forward => 5,
        }
    }

    /// The call of a number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|call| call.number() == number)
    }

    /// Whether somebody may make this call. Asked for each connection anew.
    ///
    /// # Errors
    /// With what the caller is to be told.
    pub fn permit(self, caller: Option<&Caller>) -> Result<(), Refusal> {
        // Who has the secret may join, whatever it was before.
        if matches!(self, Self::Join) {
            return Ok(());
        }
        let caller = caller.ok_or(Refusal::CertificateNeeded)?;
        if caller.removed {
            return Err(Refusal::Removed);
        }
        match self {
            Self::Join | Self::Renew => return Ok(()),
            Self::Raft | Self::Session | Self::Forward => {}
        }
        match caller.standing {
            Standing::Expired => return Err(Refusal::Expired),
            Standing::Current | Standing::Unjudged => {}
        }
        match (self, caller.identity.role) {
            (Self::Raft | Self::Forward, Role::Worker) => Err(Refusal::ManagerNeeded),
            (Self::Join | Self::Renew | Self::Session, Role::Worker | Role::Manager)
            | (Self::Raft | Self::Forward, Role::Manager) => Ok(()),
        }
    }

    /// Whether a frame of this kind from this end belongs to this call. A refusal ends any call.
    #[must_use]
    pub fn carries(self, kind: Kind, from: End) -> bool {
        let kinds: &[Kind] = match (self, from) {
            (Self::Join, End::Caller) => &[Kind::PEER_JOIN],
            (Self::Join, End::Answerer) => &[Kind::PEER_REFUSED, Kind::PEER_JOINED],
            (Self::Renew, End::Caller) => &[Kind::PEER_RENEW],
            (Self::Renew, End::Answerer) => &[Kind::PEER_REFUSED, Kind::PEER_RENEWED],
            (Self::Raft, End::Caller) => &[Kind::PEER_RAFT, Kind::PEER_PING],
            (Self::Raft, End::Answerer) => &[Kind::PEER_REFUSED],
            (Self::Session, End::Caller) => &[Kind::PEER_REPORT, Kind::PEER_PONG],
            (Self::Session, End::Answerer) => {
                &[Kind::PEER_REFUSED, Kind::PEER_ASSIGN, Kind::PEER_TOLD, Kind::PEER_PING]
            }
            (Self::Forward, End::Caller) => &[Kind::PEER_FORWARD],
            (Self::Forward, End::Answerer) => &[Kind::PEER_REFUSED, Kind::PEER_FORWARDED],
        };
        kinds.contains(&kind)
    }
}

/// The caller's first frame. Its shape never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest version of the protocol that it speaks.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
    /// [`Call::number`].
    pub call: u16,
}

impl Hello {
    /// This release's.
    #[must_use]
    pub const fn new(call: Call) -> Self {
        Self { oldest: PROTOCOL_OLDEST, newest: PROTOCOL_NEWEST, call: call.number() }
    }

    /// The newest version that both speak.
    ///
    /// # Errors
    /// When there is none.
    pub fn agree(&self) -> Result<Welcome, Refusal> {
        let version = self.newest.min(PROTOCOL_NEWEST);
        if version < self.oldest.max(PROTOCOL_OLDEST) {
            return Err(Refusal::Version { oldest: PROTOCOL_OLDEST, newest: PROTOCOL_NEWEST });
        }
        Ok(Welcome { version })
    }
}

/// The call may begin. Its shape never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version of all that follows.
    pub version: u16,
}

/// A manager and where it was last reached. The address is a hint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerAddress {
    /// Which node: what its certificate must say.
    pub node: NodeId,
    /// `host:port`.
    pub address: String,
}

/// Why a call is refused. Its shape never changes: what is new is [`Self::Other`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No version of the protocol that both speak.
    #[error(
        "the other node speaks versions {oldest} to {newest} of the protocol, this one \
         {PROTOCOL_OLDEST} to {PROTOCOL_NEWEST} (upgrade the older of the two)"
    )]
    Version {
        /// The oldest that the answerer speaks.
        oldest: u16,
        /// The newest.
        newest: u16,
    },
    /// The answerer does not know this call.
    #[error("the other node does not know this call (upgrade it)")]
    NoSuchCall,
    /// Only members may do this.
    #[error("this needs a certificate of the cluster (join it first)")]
    CertificateNeeded,
    /// Only managers may do this.
    #[error("this needs a manager's certificate")]
    ManagerNeeded,
    /// The caller was removed from the cluster.
    #[error("this node was removed from the swarm (leave it here too, and join again)")]
    Removed,
    /// The caller's certificate has expired: it may renew it and nothing else.
    #[error("the certificate of this node has expired (it is renewed)")]
    Expired,
    /// The join token's secret is not the cluster's, or not any more.
    #[error(
        "the join token is not valid any more (print the current one with `skep join-token worker` \
         or `skep join-token manager` on a manager)"
    )]
    WrongSecret,
    /// Only the leader can do this.
    #[error("the other node is not the leader")]
    NotLeader {
        /// Who is, if that is known.
        leader: Option<ManagerAddress>,
    },
    /// A limit was reached, or there is no leader at the moment: the same may work later.
    #[error("the other node cannot do this now: {0}")]
    Busy(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// What a machine without a certificate asks for. The token's secret says as what it joins.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The same one in each retry, so that one machine becomes one node.
    pub request: RequestId,
    /// The join token's secret.
    pub secret: u128,
    /// Certificate request (PKCS#10, DER).
    pub csr: Vec<u8>,
    /// `host:port` that others reach it at; an empty host is the one that the manager sees.
    pub advertise: String,
    /// Whether tasks may run there.
    pub availability: Availability,
    /// What it says of itself, in the store's codec.
    pub description: Vec<u8>,
}

impl std::fmt::Debug for Join {
    /// Without the secret: what is logged is read by others.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Join")
            .field("request", &self.request)
            .field("advertise", &self.advertise)
            .finish_non_exhaustive()
    }
}

/// A new member's papers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Its certificate (DER), which says which node it is, in which role, of which cluster.
    pub certificate: Vec<u8>,
    /// The roots to trust (DER), the one that issues first.
    pub roots: Vec<Vec<u8>>,
    /// Where managers are; at most [`MANAGERS_MAX`].
    pub managers: Vec<ManagerAddress>,
    /// Keys of the gossip, the one to seal with first.
    pub gossip_keys: Vec<[u8; 32]>,
}

impl std::fmt::Debug for Joined {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joined").field("managers", &self.managers).finish_non_exhaustive()
    }
}

/// A node's next certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// The certificate (DER).
    pub certificate: Vec<u8>,
    /// The roots to trust (DER), the one that issues first.
    pub roots: Vec<Vec<u8>>,
}

/// What a node is told in its session besides assignments.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// Where managers are; at most [`MANAGERS_MAX`].
    Managers(Vec<ManagerAddress>),
    /// The roots to trust (DER), the one that issues first.
    Roots(Vec<Vec<u8>>),
    /// Keys of the gossip, the one to seal with first.
    GossipKeys(Vec<[u8; 32]>),
    /// Its role or the root has changed: it renews its certificate now.
    Renew,
}

impl std::fmt::Debug for Told {
    /// Without keys and certificates.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Managers(managers) => f.debug_tuple("Managers").field(managers).finish(),
            Self::Roots(roots) => write!(f, "Roots({})", roots.len()),
            Self::GossipKeys(keys) => write!(f, "GossipKeys({})", keys.len()),
            Self::Renew => f.write_str("Renew"),
        }
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Begins every connection.
    Hello(Hello),
    /// The call may begin.
    Welcome(Welcome),
    /// The call is over.
    Refused(Refusal),
    /// Answered by `Joined`.
    Join(Join),
    /// A member's papers.
    Joined(Joined),
    /// A certificate request (PKCS#10, DER), answered by `Renewed`.
    Renew(Vec<u8>),
    /// The next certificate.
    Renewed(Renewed),
    /// What consensus says, in its codec.
    Raft(Vec<u8>),
    /// Assignments, in dispatch's codec.
    Assign(Vec<u8>),
    /// A worker's report, in dispatch's codec.
    Report(Vec<u8>),
    /// What else a node is told.
    Told(Told),
    /// Answered by a `Pong` of the same number, where it is answered.
    Ping(u64),
    /// Says that the ping has come.
    Pong(u64),
    /// A command for the leader, in the store's codec; answered by `Forwarded`.
    Forward(Vec<u8>),
    /// The leader's answer.
    Forwarded(Vec<u8>),
}

/// The most bytes that a frame of this kind may have; 0 for what nodes do not say to each other.
#[must_use]
pub const fn limit(kind: Kind) -> usize {
    match kind {
        Kind::PEER_HELLO
        | Kind::PEER_WELCOME
        | Kind::PEER_REFUSED
        | Kind::PEER_RENEW
        | Kind::PEER_PING
        | Kind::PEER_PONG => SMALL_BYTES_MAX,
        Kind::PEER_JOIN | Kind::PEER_JOINED | Kind::PEER_RENEWED | Kind::PEER_TOLD => {
            JOIN_BYTES_MAX
        }
        Kind::PEER_RAFT
        | Kind::PEER_ASSIGN
        | Kind::PEER_REPORT
        | Kind::PEER_FORWARD
        | Kind::PEER_FORWARDED => MEMBER_BYTES_MAX,
        _ => 0,
    }
}

impl Message {
    /// Which kind of frame it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::PEER_HELLO,
            Self::Welcome(_) => Kind::PEER_WELCOME,
            Self::Refused(_) => Kind::PEER_REFUSED,
            Self::Join(_) => Kind::PEER_JOIN,
            Self::Joined(_) => Kind::PEER_JOINED,
            Self::Renew(_) => Kind::PEER_RENEW,
            Self::Renewed(_) => Kind::PEER_RENEWED,
            Self::Raft(_) => Kind::PEER_RAFT,
            Self::Assign(_) => Kind::PEER_ASSIGN,
            Self::Report(_) => Kind::PEER_REPORT,
            Self::Told(_) => Kind::PEER_TOLD,
            Self::Ping(_) => Kind::PEER_PING,
            Self::Pong(_) => Kind::PEER_PONG,
            Self::Forward(_) => Kind::PEER_FORWARD,
            Self::Forwarded(_) => Kind::PEER_FORWARDED,
        }
    }

    /// Appends the message's frame to `out`; leaves `out` as it was on an error.
    ///
    /// # Errors
    /// When it is above the limit of its kind.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let kind = self.kind();
        let max = limit(kind);
        match self {
            Self::Hello(it) => wire::encode_into(kind, FIRST, it, max, out),
            Self::Welcome(it) => wire::encode_into(kind, FIRST, it, max, out),
            Self::Refused(it) => wire::encode_into(kind, FIRST, it, max, out),
            Self::Join(it) => wire::encode_into(kind, FIRST, it, max, out),
            Self::Joined(it) => wire::encode_into(kind, FIRST, it, max, out),
            Self::Renewed(it) => wire::encode_into(kind, FIRST, it, max, out),
            Self::Told(it) => wire::encode_into(kind, FIRST, it, max, out),
            Self::Ping(it) | Self::Pong(it) => wire::encode_into(kind, FIRST, it, max, out),
            Self::Renew(bytes)
            | Self::Raft(bytes)
            | Self::Assign(bytes)
            | Self::Report(bytes)
            | Self::Forward(bytes)
            | Self::Forwarded(bytes) => wire::encode_raw_into(kind, FIRST, bytes, max, out),
        }
    }

    /// The message of a frame.
    ///
    /// # Errors
    /// When this release does not know its kind or version, or it has another shape.
    pub fn decode(frame: &Frame<'_>) -> Result<Self, WireError> {
        let kind = frame.kind;
        let raw = || frame.raw(kind, FIRST).map(<[u8]>::to_vec);
        match kind {
            Kind::PEER_HELLO => frame.decode(kind, FIRST).map(Self::Hello),
            Kind::PEER_WELCOME => frame.decode(kind, FIRST).map(Self::Welcome),
            Kind::PEER_REFUSED => frame.decode(kind, FIRST).map(Self::Refused),
            Kind::PEER_JOIN => frame.decode(kind, FIRST).map(Self::Join),
            Kind::PEER_JOINED => frame.decode(kind, FIRST).map(Self::Joined),
            Kind::PEER_RENEW => raw().map(Self::Renew),
            Kind::PEER_RENEWED => frame.decode(kind, FIRST).map(Self::Renewed),
            Kind::PEER_RAFT => raw().map(Self::Raft),
            Kind::PEER_ASSIGN => raw().map(Self::Assign),
            Kind::PEER_REPORT => raw().map(Self::Report),
            Kind::PEER_TOLD => frame.decode(kind, FIRST).map(Self::Told),
            Kind::PEER_PING => frame.decode(kind, FIRST).map(Self::Ping),
            Kind::PEER_PONG => frame.decode(kind, FIRST).map(Self::Pong),
            Kind::PEER_FORWARD => raw().map(Self::Forward),
            Kind::PEER_FORWARDED => raw().map(Self::Forwarded),
            _ => Err(WireError::Unknown { kind, version: frame.version }),
        }
    }
}

#[cfg(test)]
mod tests;
