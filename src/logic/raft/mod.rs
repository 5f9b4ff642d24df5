//! The consensus machine: one member's part of Raft (Ongaro and Ousterhout 2014 "paper", Ongaro's
//! thesis 2014), with pre-votes, check-quorum, reads without a lease, pipelined appends, learners,
//! changes of one member at a time, snapshots in pieces and handing over.
//!
//! It decides; it neither sends nor writes: [`Input`]s come in, [`Output`]s go out, and time is an
//! argument. It is not the store: commands are opaque.
//!
//! **What waits for the disk** is not queued but read off the state, so it has a bound: one vote, one
//! acknowledgement (the highest) and one snapshot may wait, and [`Raft::flush`] lets go what has
//! become true. A vote and an acknowledgement leave only when term, vote and entries are durable; a
//! candidate counts its own vote, and a leader its own log, only then; a leader's entries leave only
//! when its term is durable. A candidate asks with the *durable* end of its log, so it may ask before
//! its own vote is durable: should it crash and ask again in the same term, an old grant still holds.
//!
//! **A sole voter** leads at once, holds all its log for committed and writes its term with its
//! first entry.
//!
//! **A write is put out only when something needs it** (`write_due`): nothing is retried by itself
//! on a disk that refuses.
//!
//! **Invariants:** `delivered` <= `commit` <= the log's last index. Nothing at or below `commit` is
//! ever cut. A member leads at most once in a term.

pub mod codec;
mod election;
mod follow;
pub mod io;
mod lead;
mod log;
mod members;
mod progress;
mod quorum;
mod read;
mod replicate;
mod snapshot;
mod term;
#[cfg(test)]
mod tests;
mod writes;

use std::sync::Arc;

/// Bytes of entries in one write to the disk, if they are more than one.
const WRITE_BYTES_MAX: u64 = 2 << 20;

pub use self::read::READS_MAX;
pub use self::snapshot::{LOG_BYTES_MAX, PIECE_BYTES_MAX, SNAPSHOT_BYTES_MAX, TAIL_BYTES};

use self::election::Granted;
use self::follow::Follow;
use self::io::{
    Body, Config, Entry, Input, Members, Message, Output, PROPOSAL_BYTES_MAX, Payload,
    ProposeError, RecoverError, Recovered, Ticket, Write,
};
use self::lead::Leader;
use self::log::Log;
use self::writes::Writes;
use crate::base::id::NodeId;
use crate::base::rng::Rng;
use crate::base::time::{Span, Time};
use crate::model::wire::HardState;

/// Highest term; what says a higher one is not heard. Far above what elections can reach.
pub const TERM_MAX: u64 = 1 << 62;

/// Highest index that is taken from another member.
pub const INDEX_MAX: u64 = 1 << 62;

/// What a member is doing.
#[derive(Debug)]
enum Role {
    Follower,
    /// Asks whether it may campaign (thesis 9.6).
    PreCandidate {
        granted: Granted,
    },
    Candidate {
        granted: Granted,
    },
    Leader(Box<Leader>),
}

/// Whether what was acknowledged may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    None,
    /// No leader was heard of since the start.
    Unmeasured,
    /// Until the log is durable through this index.
    Until(u64),
}

/// One member.
#[derive(Debug)]
pub struct Raft {
    config: Config,
    rng: Rng,
    term: u64,
    vote: Option<NodeId>,
    commit: u64,
    /// Put out as [`Output::Committed`] through here.
    delivered: u64,
    log: Log,
    writes: Writes,
    role: Role,
    leader: Option<NodeId>,
    /// When that leader was last heard of.
    heard: Option<Time>,
    /// When the wait for a leader or for votes is over.
    election_at: Option<Time>,
    follow: Follow,
    doubt: Doubt,
    /// Something waits for a write.
    write_due: bool,
    /// The disk refused: what only wants to go on waits until then.
    retry_at: Time,
    /// Said once at the start who leads.
    started: bool,
    /// The cluster gave this member up.
    retired: bool,
    /// A new epoch, and the index of the entry that it begins with: not durable yet.
    forcing: Option<(u64, u64)>,
}

impl Raft {
    /// With what was found on the disk. What of it is committed comes as [`Output::Committed`] of
    /// the first step; [`Raft::deadline`] asks for that step.
    ///
    /// # Errors
    /// When the entries are not what follows the snapshot: the node must not go on.
    pub fn new(config: Config, recovered: Recovered, now: Time) -> Result<Self, RecoverError> {
        let Recovered { hard_state, snapshot, entries, doubt } = recovered;
        let term = hard_state.term.max(snapshot.as_ref().map_or(0, |it| it.term));
        let term = entries.last().map_or(term, |last| term.max(last.term));
        let log = Log::new(snapshot, entries, term)?;
        let commit = hard_state.commit.clamp(log.base(), log.last());
        let vote = hard_state.vote.filter(|_| hard_state.term == term);
        let mut raft = Self {
            rng: Rng::from_entropy(config.seed),
            term,
            vote,
            commit,
            delivered: log.base(),
            writes: Writes::new(log.last(), hard_state),
            log,
            role: Role::Follower,
            leader: None,
            heard: None,
            election_at: None,
            follow: Follow::default(),
            doubt: doubt.map_or(Doubt::None, |_cut| Doubt::Unmeasured),
            write_due: false,
            retry_at: now,
            started: false,
            retired: false,
            forcing: None,
            config,
        };
        raft.follow.reads = read::FollowerReads::new(raft.rng.next_u64());
        raft.election_at = Some(raft.election_timeout(now));
        raft.lead_alone(now, &mut Vec::new());
        Ok(raft)
    }

    /// Takes an input in. Never blocks, never fails.
    pub fn step(&mut self, now: Time, input: Input, out: &mut Vec<Output>) {
        if self.retired {
            return;
        }
        match input {
            Input::Tick => self.tick(now, out),
            Input::Message { from, message } => self.receive(now, from, message, out),
            Input::Persisted { ticket } => self.persisted(ticket, out),
            Input::PersistRefused { ticket } => self.refused(now, ticket, out),
            Input::Reachable { peer } => self.reachable(peer, out),
        }
        self.flush(now, out);
    }

    /// When to call [`Raft::step`] with [`Input::Tick`] even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        if !self.started {
            return Some(Time(0));
        }
        if self.retired {
            return None;
        }
        match &self.role {
            Role::Leader(leader) => leader.deadline(),
            Role::Follower | Role::PreCandidate { .. } | Role::Candidate { .. } => {
                [self.election_at, self.follow.reads.due()].into_iter().flatten().min()
            }
        }
    }

    /// Appends a command in memory and tells its index; [`Raft::flush`] then writes and sends it.
    ///
    /// # Errors
    /// When it is not taken; nothing is changed.
    pub fn propose(&mut self, now: Time, data: Arc<[u8]>) -> Result<u64, ProposeError> {
        self.may_propose()?;
        if data.len() > PROPOSAL_BYTES_MAX {
            return Err(ProposeError::TooLarge(data.len()));
        }
        let payload = Payload::Command(data);
        let waiting = self.log.bytes(self.commit, self.log.last());
        let limit = self.config.uncommitted_bytes_max;
        if waiting > 0 && waiting.saturating_add(log::size(&payload)) > limit {
            return Err(ProposeError::Full);
        }
        Ok(self.append(now, payload))
    }

    /// Puts out what can be: votes and acknowledgements that have become true, appends, one
    /// [`Output::Persist`] for all that is new (group commit), and what was committed.
    pub fn flush(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.retired {
            return;
        }
        if !self.started {
            self.started = true;
            self.announce(out);
        }
        if self.log.members_index() <= self.writes.durable() && !self.follow.is_restoring() {
            self.lead_alone(now, out);
        }
        self.settle_votes(now, out);
        self.settle_acks(out);
        self.replicate(now, out);
        self.write(now, out);
        self.deliver(now, out);
    }

    /// What is new goes to the disk, if something waits for that.
    fn write(&mut self, now: Time, out: &mut Vec<Output>) {
        let healed = self.heals();
        let heals_now = healed && !self.is_alone() && now >= self.retry_at;
        if !std::mem::take(&mut self.write_due) && !heals_now {
            return;
        }
        let last = self.log.last();
        let mut through = self.writes.queued();
        // A torn write must not leave a commit index behind the log's end.
        let hard = HardState { term: self.term, vote: self.vote, commit: self.commit.min(through) };
        let mut old = self.writes.queued_hard();
        let news = (hard.term, hard.vote) != (old.term, old.vote);
        // A sole voter's log is all committed when it starts again.
        let commit = hard.commit != old.commit && through < last && !self.is_alone();
        if through >= last && !news && !healed {
            return;
        }
        let mut hard_state = (news || commit).then_some(hard);
        loop {
            // The disk takes a write whole or refuses it whole.
            let entries = self.log.batch(through, WRITE_BYTES_MAX);
            through = entries.last().map_or(last, |entry| entry.index);
            let healed = healed && through == last;
            old = hard_state.unwrap_or(old);
            let ticket = self.writes.put(now, through, old, healed);
            let write = Write::Log { hard_state: hard_state.take(), entries, healed };
            out.push(Output::Persist { ticket, write });
            if through >= last {
                return;
            }
        }
    }

    /// Asks for a write of term and vote, unless they are on their way.
    fn need_hard_state(&mut self) {
        let queued = self.writes.queued_hard();
        self.write_due |= (queued.term, queued.vote) != (self.term, self.vote);
    }

    /// Term and vote are durable as they are now.
    fn is_hard_state_durable(&self) -> bool {
        let hard = self.writes.hard();
        (hard.term, hard.vote) == (self.term, self.vote)
    }

    /// All through `ticket` is durable.
    fn persisted(&mut self, ticket: Ticket, out: &mut Vec<Output>) {
        let done = self.writes.persisted(ticket);
        if done.healed {
            self.doubt = Doubt::None;
        }
        self.restored(done.ticket, out);
        if self.log.last() == self.writes.durable() {
            self.disk_caught_up();
        }
        self.settle_epoch();
        self.commit_by_count(out);
    }

    /// Nothing from `ticket` on was written: the log goes back to what is durable or committed. Who
    /// leads others steps down; a sole voter goes on in a new term, since entries of this one may
    /// have been seen.
    fn refused(&mut self, now: Time, ticket: Ticket, out: &mut Vec<Output>) {
        if !self.writes.refused(ticket) {
            return;
        }
        self.retry_at = now + REFUSED_WAIT;
        self.write_due = false;
        self.follow.refused(ticket);
        self.truncate(self.writes.queued().max(self.commit));
        self.settle_epoch();
        match &self.role {
            Role::Leader(_) if self.is_alone() => {
                self.role = Role::Follower;
                self.lead_alone(now, out);
            }
            Role::Leader(_) | Role::Candidate { .. } => {
                self.become_follower(now, self.term, None, out)
            }
            Role::Follower | Role::PreCandidate { .. } => {}
        }
    }

    /// Appends an entry of this leader.
    fn append(&mut self, now: Time, payload: Payload) -> u64 {
        let entry = Entry { index: self.log.last() + 1, term: self.term, payload };
        let index = entry.index;
        let is_members = matches!(entry.payload, Payload::Members(_));
        self.log.push(entry);
        self.write_due = true;
        if is_members {
            self.sync_peers(now);
        }
        index
    }

    /// Cuts the log behind `through`.
    fn truncate(&mut self, through: u64) {
        assert!(through >= self.commit, "invariant: what is committed is never cut");
        self.log.truncate(through);
        self.writes.truncate(through);
        self.follow.truncate(through);
    }

    /// What is newly committed goes up.
    fn deliver(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.commit <= self.delivered {
            return;
        }
        self.follow.forget_restoring(self.commit);
        let entries = self.log.entries(self.delivered, self.commit);
        let was_member = self.log.members_at(self.delivered).contains(self.config.id);
        self.delivered = self.commit;
        let is_member = self.log.members_at(self.commit).contains(self.config.id);
        out.push(Output::Committed { entries });
        if was_member && !is_member && !self.log.members().contains(self.config.id) {
            out.push(Output::Removed);
        }
        self.members_committed(now, out);
    }

    fn send(&self, to: NodeId, body: Body, out: &mut Vec<Output>) {
        let message = Message { epoch: self.config.epoch, term: self.term, body };
        out.push(Output::Send { to, message });
    }

    /// A span drawn continuously.
    fn draw(&mut self, min: Span, max: Span) -> Span {
        Span(min.0.saturating_add(self.rng.below(max.0.saturating_sub(min.0).saturating_add(1))))
    }

    fn election_timeout(&mut self, now: Time) -> Time {
        now + self.draw(self.config.timing.election_min, self.config.timing.election_max)
    }

    /// The only voter is this member.
    fn is_alone(&self) -> bool {
        self.log.members().is_sole_voter(self.config.id)
    }
}

/// How long what only wants to go on waits after the disk refused.
const REFUSED_WAIT: Span = Span::from_secs(1);

/// What others ask of it.
impl Raft {
    /// This member.
    #[must_use]
    pub const fn id(&self) -> NodeId {
        self.config.id
    }

    /// Its term.
    #[must_use]
    pub const fn term(&self) -> u64 {
        self.term
    }

    /// Whom it takes for the leader of its term.
    #[must_use]
    pub const fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Whether it leads.
    #[must_use]
    pub const fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// The term that it cannot forget. A sole voter whose disk is full may lead in a later one, of
    /// which nobody else must know: after a crash the same number may be another leader's.
    #[must_use]
    pub const fn durable_term(&self) -> u64 {
        self.writes.hard().term
    }

    /// Whether it is the only one with a vote.
    #[must_use]
    pub fn is_sole_voter(&self) -> bool {
        self.is_alone()
    }

    /// Who takes part, as of the last entry.
    #[must_use]
    pub fn members(&self) -> &Members {
        self.log.members()
    }

    /// Who took part as of an entry, for a snapshot at that index.
    #[must_use]
    pub fn members_at(&self, index: u64) -> &Members {
        self.log.members_at(index)
    }

    /// Term of an entry that is still there, for a snapshot at that index.
    #[must_use]
    pub fn term_at(&self, index: u64) -> Option<u64> {
        self.log.term(index)
    }

    /// What is known to be committed.
    #[must_use]
    pub const fn commit(&self) -> u64 {
        self.commit
    }

    /// The log is durable through this index. What is committed may be ahead of it while a majority
    /// goes on without this disk; a snapshot is saved only of what is durable.
    #[must_use]
    pub const fn durable_index(&self) -> u64 {
        self.writes.durable()
    }

    /// Index of the last entry.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.log.last()
    }

    /// Index of the first entry that is still there.
    #[must_use]
    pub const fn first_index(&self) -> u64 {
        self.log.base() + 1
    }

    /// Epoch of the cluster.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.config.epoch
    }

    /// The store knows of a new epoch; a lower one is not taken.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.config.epoch = self.config.epoch.max(epoch);
    }
}
