//! The frames themselves: one message of each kind, and how long it may be.

use super::{AskedLogs, Hello, Join, Joined, Present, Refusal, Renewed, TaskLine, Told, Welcome};
use crate::model::wire::{self, Frame, Kind, WireError};

/// Bytes of frames that are a few numbers or a refusal.
const SMALL_BYTES_MAX: usize = 4 << 10;

/// Bytes of a frame with a node's description, or with certificates and addresses.
const JOIN_BYTES_MAX: usize = 128 << 10;

/// Bytes of a frame that only members send: consensus (the largest proposal travels alone),
/// assignments, reports and commands.
pub const MEMBER_BYTES_MAX: usize = 2 << 20;

/// The version of what keeps its shape for ever.
const FIRST: u16 = 1;

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
    /// The caller's first word in a session.
    Present(Present),
    /// What the next `Assign` or `Report` begins with; one frame does not hold all of it.
    Part(Vec<u8>),
    /// Assignments, in dispatch's codec.
    Assign(Vec<u8>),
    /// A worker's report, in dispatch's codec.
    Report(Vec<u8>),
    /// The caller's daemon ends in order and is started again.
    Ending,
    /// The caller's machine goes down, and its tasks with it; or the node leaves the cluster. As the
    /// first word of a session: the node has joined and never ran, and is to be forgotten.
    GoingDown,
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
    /// A manager asks for logs.
    AskLogs(AskedLogs),
    /// Lines of them, in order of their time; none when all that is there has been told.
    Logs(Vec<TaskLine>),
    /// All of them have ended.
    LogsOver,
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
        | Kind::PEER_ENDING
        | Kind::PEER_GOING_DOWN
        | Kind::PEER_LOGS_OVER
        | Kind::PEER_PONG => SMALL_BYTES_MAX,
        Kind::PEER_JOIN
        | Kind::PEER_JOINED
        | Kind::PEER_RENEWED
        | Kind::PEER_PRESENT
        | Kind::PEER_ASK_LOGS
        | Kind::PEER_TOLD => JOIN_BYTES_MAX,
        Kind::PEER_RAFT
        | Kind::PEER_PART
        | Kind::PEER_ASSIGN
        | Kind::PEER_REPORT
        | Kind::PEER_FORWARD
        | Kind::PEER_FORWARDED
        | Kind::PEER_LOGS => MEMBER_BYTES_MAX,
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
            Self::Present(_) => Kind::PEER_PRESENT,
            Self::Part(_) => Kind::PEER_PART,
            Self::Assign(_) => Kind::PEER_ASSIGN,
            Self::Report(_) => Kind::PEER_REPORT,
            Self::Ending => Kind::PEER_ENDING,
            Self::GoingDown => Kind::PEER_GOING_DOWN,
            Self::Told(_) => Kind::PEER_TOLD,
            Self::Ping(_) => Kind::PEER_PING,
            Self::Pong(_) => Kind::PEER_PONG,
            Self::Forward(_) => Kind::PEER_FORWARD,
            Self::Forwarded(_) => Kind::PEER_FORWARDED,
            Self::AskLogs(_) => Kind::PEER_ASK_LOGS,
            Self::Logs(_) => Kind::PEER_LOGS,
            Self::LogsOver => Kind::PEER_LOGS_OVER,
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
            Self::Present(it) => wire::encode_into(kind, FIRST, it, max, out),
            Self::Ending | Self::GoingDown | Self::LogsOver => {
                wire::encode_into(kind, FIRST, &(), max, out)
            }
            Self::AskLogs(it) => wire::encode_into(kind, FIRST, it, max, out),
            Self::Logs(it) => wire::encode_into(kind, FIRST, it, max, out),
            Self::Ping(it) | Self::Pong(it) => wire::encode_into(kind, FIRST, it, max, out),
            Self::Renew(bytes)
            | Self::Raft(bytes)
            | Self::Part(bytes)
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
            Kind::PEER_PRESENT => frame.decode(kind, FIRST).map(Self::Present),
            Kind::PEER_PART => raw().map(Self::Part),
            Kind::PEER_ASSIGN => raw().map(Self::Assign),
            Kind::PEER_REPORT => raw().map(Self::Report),
            Kind::PEER_ENDING => frame.decode(kind, FIRST).map(|()| Self::Ending),
            Kind::PEER_GOING_DOWN => frame.decode(kind, FIRST).map(|()| Self::GoingDown),
            Kind::PEER_TOLD => frame.decode(kind, FIRST).map(Self::Told),
            Kind::PEER_PING => frame.decode(kind, FIRST).map(Self::Ping),
            Kind::PEER_PONG => frame.decode(kind, FIRST).map(Self::Pong),
            Kind::PEER_FORWARD => raw().map(Self::Forward),
            Kind::PEER_ASK_LOGS => frame.decode(kind, FIRST).map(Self::AskLogs),
            Kind::PEER_LOGS => frame.decode(kind, FIRST).map(Self::Logs),
            Kind::PEER_LOGS_OVER => frame.decode(kind, FIRST).map(|()| Self::LogsOver),
            Kind::PEER_FORWARDED => raw().map(Self::Forwarded),
            _ => Err(WireError::Unknown { kind, version: frame.version }),
        }
    }
}
