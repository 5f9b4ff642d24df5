//! What nodes say to each other over TLS: who they are, which calls there are, and who may make one.
//!
//! A connection is one call. The caller begins with [`Hello`]; the answer is [`Welcome`], or a
//! [`Refusal`] in words. These three keep their shape for ever, so that any two releases can say
//! why they cannot talk. Everything else has the version that both have agreed on. What consensus,
//! dispatch and commands say is bytes here: their machines have codecs of their own.
//!
//! **Invariant:** every kind of frame has a limit, and each call carries only its own kinds
//! ([`Call::carries`]); so nobody who proved nothing can make a node hold more than a join needs.

mod logs;
mod message;

use serde::{Deserialize, Serialize};

pub use self::logs::{AskedLogs, LOG_TASKS_MAX, TaskLine};
pub use self::message::{MEMBER_BYTES_MAX, Message, limit};
use super::join_token::RootDigest;
use super::node::{Availability, NodeState, Role};
use super::validity::Standing;
use super::wire::Kind;
use crate::base::id::{ClusterId, NodeId, RequestId};
use crate::base::time::Wall;

/// The newest version of the protocol that this release speaks.
pub const PROTOCOL_NEWEST: u16 = 1;

/// The oldest: that of the release before.
pub const PROTOCOL_OLDEST: u16 = 1;

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
    /// It is no manager any more, whatever its certificate says.
    pub demoted: bool,
    /// Which certificate that is.
    pub certified: Certified,
}

/// What tells a certificate from the next one of the same node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certified {
    /// The root that has issued it.
    pub root: RootDigest,
    /// Its first moment, in whole seconds.
    pub issued: Wall,
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
    /// A manager reads logs of a node's tasks.
    Logs,
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
    const ALL: [Self; 6] =
        [Self::Join, Self::Renew, Self::Raft, Self::Session, Self::Forward, Self::Logs];

    /// Its number in [`Hello`], given once and never again.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Join => 1,
            Self::Renew => 2,
            Self::Raft => 3,
            Self::Session => 4,
            Self::Forward => 5,
            Self::Logs => 16,
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
            Self::Raft | Self::Session | Self::Forward | Self::Logs => {}
        }
        match (caller.standing, caller.identity.role) {
            (Standing::Expired, Role::Worker) => return Err(Refusal::Expired),
            // It holds the root's key, so the end of its certificate protects nobody; and managers
            // that were all off for long can elect the one that renews only by calling each other.
            (Standing::Expired, Role::Manager)
            | (Standing::Current | Standing::Unjudged, Role::Worker | Role::Manager) => {}
        }
        match (self, caller.identity.role) {
            (Self::Raft | Self::Forward | Self::Logs, Role::Manager) if caller.demoted => {
                Err(Refusal::ManagerNeeded)
            }
            (Self::Raft | Self::Forward | Self::Logs, Role::Worker) => Err(Refusal::ManagerNeeded),
            (Self::Join | Self::Renew | Self::Session, Role::Worker | Role::Manager)
            | (Self::Raft | Self::Forward | Self::Logs, Role::Manager) => Ok(()),
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
            (Self::Session, End::Caller) => &[
                Kind::PEER_PRESENT,
                Kind::PEER_PART,
                Kind::PEER_REPORT,
                Kind::PEER_PONG,
                Kind::PEER_ENDING,
                Kind::PEER_GOING_DOWN,
            ],
            (Self::Session, End::Answerer) => &[
                Kind::PEER_REFUSED,
                Kind::PEER_PART,
                Kind::PEER_ASSIGN,
                Kind::PEER_TOLD,
                Kind::PEER_PING,
            ],
            (Self::Forward, End::Caller) => &[Kind::PEER_FORWARD],
            (Self::Forward, End::Answerer) => &[Kind::PEER_REFUSED, Kind::PEER_FORWARDED],
            (Self::Logs, End::Caller) => &[Kind::PEER_ASK_LOGS],
            (Self::Logs, End::Answerer) => {
                &[Kind::PEER_REFUSED, Kind::PEER_LOGS, Kind::PEER_LOGS_OVER]
            }
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

/// How a node takes leave of the leader when its session ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parting {
    /// Without a word.
    #[default]
    Silent,
    /// Its daemon ends in order and is started again: what runs there goes on.
    Restarts,
    /// Its machine goes down, and what runs there with it; or it leaves the cluster.
    GoesDown,
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

/// What a node says of itself when its session begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// In the store's codec.
    pub description: Vec<u8>,
    /// `host:port` that others reach it at; an empty host is the one that the manager sees.
    pub advertise: String,
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
    /// How the leader sees nodes; managers show it to their users. Those that are not named are as
    /// they were.
    States(Vec<(NodeId, NodeState)>),
}

impl std::fmt::Debug for Told {
    /// Without keys and certificates.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Managers(managers) => f.debug_tuple("Managers").field(managers).finish(),
            Self::Roots(roots) => write!(f, "Roots({})", roots.len()),
            Self::GossipKeys(keys) => write!(f, "GossipKeys({})", keys.len()),
            Self::Renew => f.write_str("Renew"),
            Self::States(states) => f.debug_tuple("States").field(states).finish(),
        }
    }
}

#[cfg(test)]
mod tests;
