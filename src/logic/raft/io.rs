//! What the consensus machine is told and what it wants done.
//!
//! **Durability.** Every [`Output::Persist`] carries a [`Ticket`]; tickets grow by one and writes are
//! performed in that order. The machine names for each message that it makes which ticket must be
//! durable first (heartbeats, the leader's own appends, pre-votes and reads need none; append-ok and
//! vote-ok do) and holds the message back itself until [`Input::Persisted`] covers it: whatever leaves
//! as [`Output::Send`] may leave at once, and nothing else waits for the disk.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::id::{NodeId, RequestId};
use crate::base::time::Span;
use crate::model::wire::HardState;

/// Largest message, its entries or its piece of a snapshot included.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Largest proposal. One entry may be larger than [`MESSAGE_BYTES_MAX`]: it then travels alone.
pub const PROPOSAL_BYTES_MAX: usize = 3 << 19;

/// Most members, learners included.
pub const MEMBERS_MAX: usize = 15;

/// Number of a write: they are made durable in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Who takes part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Those with a vote.
    pub voters: BTreeSet<NodeId>,
    /// Those that only follow, to catch up before they vote.
    pub learners: BTreeSet<NodeId>,
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// A new leader's first entry.
    Nothing,
    /// From this entry on (not only once it is committed) these are the members.
    Members(Members),
    /// For the store above.
    Command(Arc<[u8]>),
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place; the first is 1.
    pub index: u64,
    /// Term of the leader that took it.
    pub term: u64,
    /// What it holds.
    pub payload: Payload,
}

/// A state of the store above, and who took part at that index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Last index that it holds.
    pub index: u64,
    /// Term of the entry at that index.
    pub term: u64,
    /// The members as of that index.
    pub members: Members,
    /// The encoded store; opaque here.
    pub data: Arc<[u8]>,
}

/// What a member tells another. The shapes are frozen once they have landed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The sender's epoch of the cluster. Raised when a lost majority is given up: who hears of a
    /// higher one is out ([`Output::Removed`]), who says a lower one is told so.
    pub epoch: u64,
    /// The sender's term; of a pre-vote request the term that it would campaign in.
    pub term: u64,
    /// What is told.
    pub body: Body,
}

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// May I campaign, or (not `pre`) will you vote for me?
    Vote {
        /// Nothing is changed by the answer (thesis 9.6).
        pre: bool,
        /// The current leader asked for this campaign: its lease does not count.
        transfer: bool,
        /// Last entry of the candidate's log.
        last_index: u64,
        /// That entry's term.
        last_term: u64,
    },
    /// The answer.
    VoteReply {
        /// Of which question.
        pre: bool,
        /// Yes.
        granted: bool,
        /// The voter's log was cut, and it may have acknowledged what is missing: its yes counts
        /// only together with that of every other voter, for then the longest log wins and nothing
        /// is lost that any disk still has.
        doubtful: bool,
    },
    /// Entries behind `previous_index`; none in a heartbeat that only probes.
    Append {
        /// Index before the first entry.
        previous_index: u64,
        /// Its term.
        previous_term: u64,
        /// Consecutive.
        entries: Vec<Entry>,
        /// What the leader knows to be committed.
        commit: u64,
    },
    /// All entries through `index` are durable and the leader's.
    AppendOk {
        /// Last such index.
        index: u64,
    },
    /// The entry before the first one is not there, or is another.
    AppendRejected {
        /// `previous_index` that was refused.
        rejected: u64,
        /// The last entry that may agree: where to go on trying.
        hint_index: u64,
        /// Term at `hint_index`.
        hint_term: u64,
    },
    /// The leader lives.
    Heartbeat {
        /// Committed and known to be in the receiver's log.
        commit: u64,
        /// Last entry of the leader's log: what a member whose log was cut must hold before it
        /// votes again, since all that it ever acknowledged is at or below it.
        last: u64,
        /// Newest read that wants this leader confirmed; 0: none.
        read: u64,
    },
    /// So does the follower.
    HeartbeatReply {
        /// Of the heartbeat.
        read: u64,
    },
    /// A piece of a snapshot.
    Snapshot {
        /// Last index that the snapshot holds.
        index: u64,
        /// That entry's term.
        term: u64,
        /// Members as of it.
        members: Members,
        /// Where the piece begins.
        offset: u64,
        /// Length of the whole.
        total: u64,
        /// CRC-32 of the whole: pieces of two that differ are never put together.
        checksum: u32,
        /// The piece.
        piece: Vec<u8>,
    },
    /// What the follower has of it; `total` when all of it is durable.
    SnapshotReply {
        /// Of which snapshot.
        index: u64,
        /// The next byte that it wants.
        offset: u64,
    },
    /// A follower wants to read.
    Read {
        /// The follower's number for it.
        id: u64,
    },
    /// It may, once it has applied this index.
    ReadReply {
        /// Number from the request.
        id: u64,
        /// What must be applied.
        index: u64,
    },
    /// Campaign at once: leadership is handed over (thesis 3.10).
    TimeoutNow,
    /// The receiver's epoch is over: the answer to whatever it said.
    GivenUp,
}

/// What the machine is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// The machine's `deadline()` has passed.
    Tick,
    /// A member tells something. The sender is known by its certificate.
    Message {
        /// Who.
        from: NodeId,
        /// What.
        message: Message,
    },
    /// Every write through this one is durable.
    Persisted {
        /// Its number.
        ticket: Ticket,
    },
    /// No write from this one on reached the log, and none that was put out before this input will.
    PersistRefused {
        /// The first one that was refused.
        ticket: Ticket,
    },
    /// A member's address is new or its connection is there again: no need to wait for a deadline.
    Reachable {
        /// Who.
        peer: NodeId,
    },
}

/// What the machine wants done, in this order.
#[derive(Clone, Debug)]
pub enum Output {
    /// Make this durable: one write, answered by [`Input::Persisted`] or [`Input::PersistRefused`].
    Persist {
        /// Its number.
        ticket: Ticket,
        /// What is to be written.
        write: Write,
    },
    /// Tell a member.
    Send {
        /// Whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// These are committed; each comes once and in order.
    Committed {
        /// Consecutive.
        entries: Vec<Entry>,
    },
    /// The leader's snapshot is durable: the store above becomes what it holds.
    Restored {
        /// The snapshot.
        snapshot: Snapshot,
    },
    /// This member leads from now on; its own first entry is at `index`.
    Leads {
        /// In this term.
        term: u64,
        /// Index of the entry that must be committed before anything is decided.
        index: u64,
    },
    /// This member does not lead (any more), and knows this leader or none.
    Follows {
        /// In this term.
        term: u64,
        /// Whom.
        leader: Option<NodeId>,
    },
    /// A read may be answered once this index is applied.
    ReadReady {
        /// Which.
        request: RequestId,
        /// What must be applied.
        index: u64,
    },
    /// A read cannot be answered: there is no leader, or it changed.
    ReadFailed {
        /// Which.
        request: RequestId,
    },
    /// A follower is behind what is left of the log: call `Raft::send_snapshot` with a snapshot at
    /// the applied index.
    WantSnapshot {
        /// Who needs it.
        peer: NodeId,
    },
    /// A learner has caught up and may be given a vote.
    CaughtUp {
        /// Who.
        peer: NodeId,
    },
    /// This member is not among the members any more, or the leader is of a cluster that gave it up.
    Removed,
}

/// One write. All of it is durable, or none of it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Entries and what else must not be forgotten.
    Log {
        /// Term, vote, commit, where they changed.
        hard_state: Option<HardState>,
        /// Consecutive; the first one may be at an index that is already there: it replaces that
        /// entry and all behind it.
        entries: Vec<Entry>,
        /// What the cut of the log's tail may have lost is there again ([`Recovered::doubt`]):
        /// forget the cut.
        healed: bool,
    },
    /// A snapshot from the leader: what is in the log goes unless it holds the snapshot's entry.
    Snapshot {
        /// The snapshot.
        snapshot: Snapshot,
        /// Written with it.
        hard_state: HardState,
    },
}

/// Why a proposal is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This member does not lead.
    #[error("this manager is not the leader")]
    NotLeader,
    /// Leadership is being handed over.
    #[error("leadership is being handed over")]
    Transferring,
    /// Too much waits to be committed.
    #[error("too many changes wait to be committed")]
    Full,
    /// Larger than [`PROPOSAL_BYTES_MAX`].
    #[error("the change has {0} bytes, the limit is {PROPOSAL_BYTES_MAX}")]
    TooLarge(usize),
    /// Another change of the members is not yet committed, or this leader's first entry is not.
    #[error("another change of the managers is under way")]
    ChangeUnderWay,
    /// The change would leave fewer reachable voters than a majority.
    #[error("the change may leave the managers without a majority")]
    QuorumLost,
    /// The change makes no sense: the member is not there, is there already, or is behind.
    #[error("there is nothing to be changed, or the member is not ready")]
    BadChange,
}

/// One change of the members (thesis 4.1: one at a time).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A new learner.
    Add(NodeId),
    /// A learner that has caught up gets a vote.
    Promote(NodeId),
    /// A voter loses its vote and goes on as a learner.
    Demote(NodeId),
    /// A member goes.
    Remove(NodeId),
}

/// What a member is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// This member.
    pub id: NodeId,
    /// Seed of its timeouts.
    pub seed: [u8; 32],
    /// Epoch of the cluster as the store has it; `Raft::set_epoch` raises it.
    pub epoch: u64,
    /// Times; [`Timing::default`] is DESIGN's.
    pub timing: Timing,
    /// Most bytes of entries that are proposed and not committed.
    pub uncommitted_bytes_max: u64,
    /// Most bytes under way to one follower.
    pub in_flight_bytes_max: u64,
}

/// Times of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats.
    pub heartbeat: Span,
    /// Shortest election timeout; also how long a leader's word keeps others from being elected.
    pub election_min: Span,
    /// Longest one: drawn anew, continuously, for each wait.
    pub election_max: Span,
    /// Granting a (pre-)vote puts one's own campaign off by at least this …
    pub grant_min: Span,
    /// … and at most this.
    pub grant_max: Span,
    /// A leader whose own log has not become durable for this long while a majority goes on hands
    /// leadership over.
    pub slow_disk: Span,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Span::from_millis(100),
            election_min: Span::from_millis(400),
            election_max: Span::from_millis(800),
            grant_min: Span::from_millis(50),
            grant_max: Span::from_millis(150),
            slow_disk: Span::from_millis(1_000),
        }
    }
}

/// What a member finds on its disk.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Term, vote and commit.
    pub hard_state: HardState,
    /// The newest snapshot.
    pub snapshot: Option<Snapshot>,
    /// The entries behind it.
    pub entries: Vec<Entry>,
    /// The log's tail was cut behind this index: one among several neither votes nor campaigns
    /// until it holds the leader's last entry as of first contact.
    pub doubt: Option<u64>,
}

/// What was found in the log cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// Entries are not consecutive.
    #[error("the log goes on at entry {found} instead of {wanted}")]
    Gap {
        /// What should come.
        wanted: u64,
        /// What came.
        found: u64,
    },
    /// An entry's term is lower than the one before it, or higher than the newest that was seen.
    #[error("the log's entry {index} is of term {term}")]
    Term {
        /// Its index.
        index: u64,
        /// Its term.
        term: u64,
    },
}
