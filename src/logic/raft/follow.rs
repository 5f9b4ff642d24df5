//! The follower's side of replication (paper 5.3): entries come in, are checked, written, and
//! acknowledged once they are durable.
//!
//! **Invariant:** `matched` is what is known to be the current leader's, in memory; what is told to
//! the leader is never more than what is durable of it, with the leader's term durable, too.

use super::io::{Body, Entry, Output};
use super::read::FollowerReads;
use super::snapshot::Restoring;
use super::{Doubt, INDEX_MAX, Raft};
use crate::base::id::NodeId;
use crate::base::time::Time;

/// Most bytes of entries that are not durable yet; what comes then is not taken, and the leader
/// tries again.
pub(super) const UNDURABLE_BYTES_MAX: u64 = 64 << 20;

/// What only a follower has.
#[derive(Debug, Default)]
pub(super) struct Follow {
    /// The log is this leader's through here.
    matched: u64,
    /// The leader was told so of this much.
    acked: u64,
    /// The leader waits to be told.
    pub(super) ack_due: bool,
    /// No append came since the last heartbeat.
    is_idle: bool,
    /// Term of the leader that measured what a cut may have lost.
    measured: u64,
    /// The vote of this term is to be told once it is durable.
    pub(super) vote_due: bool,
    pub(super) reads: FollowerReads,
    pub(super) restoring: Option<Restoring>,
}

impl Follow {
    /// Nothing is promised yet in a new term. What came of a snapshot stays: it is committed.
    pub(super) const fn new_term(&mut self) {
        (self.matched, self.acked) = (0, 0);
        (self.ack_due, self.vote_due) = (false, false);
    }

    /// A snapshot through `index` is durable.
    pub(super) fn restored(&mut self, index: u64) {
        (self.matched, self.acked) = (self.matched.max(index), self.acked.max(index));
    }

    /// The log was cut.
    pub(super) fn truncate(&mut self, through: u64) {
        self.matched = self.matched.min(through);
        self.acked = self.acked.min(through);
    }
}

impl Raft {
    /// Entries from the leader.
    pub(super) fn appended(
        &mut self,
        previous: (u64, u64),
        mut entries: Vec<Entry>,
        commit: u64,
        from: NodeId,
        out: &mut Vec<Output>,
    ) {
        self.follow.is_idle = false;
        if self.follow.is_restoring() || !is_sound(previous, &entries, self.term) {
            return;
        }
        let (mut index, mut term) = previous;
        if index < self.commit {
            // What is committed is the same in every leader's log; only what is behind it counts.
            entries.retain(|entry| entry.index > self.commit);
            (index, term) = (self.commit, self.log.term(self.commit).unwrap_or(0));
        }
        if self.log.term(index) != Some(term) {
            if index == self.commit {
                return;
            }
            let (agreed, _term) = self.log.agree(index.min(self.log.last()), term);
            let hint_index = agreed.max(self.commit);
            let hint_term = self.log.term(hint_index).unwrap_or(0);
            let rejected = previous.0;
            return self.send(from, Body::AppendRejected { rejected, hint_index, hint_term }, out);
        }
        let undurable = self.log.bytes(self.writes.durable(), self.log.last());
        if undurable > UNDURABLE_BYTES_MAX && !entries.is_empty() {
            return;
        }
        if entries.first().is_some_and(|first| first.term < term) {
            return;
        }
        let through = entries.last().map_or(index, |last| last.index);
        for entry in entries {
            let old = self.log.term(entry.index);
            if old == Some(entry.term) {
                continue;
            }
            if old.is_some() {
                self.truncate(entry.index - 1);
            }
            self.log.push(entry);
        }
        self.follow.matched = self.follow.matched.max(through);
        self.follow.ack_due = true;
        self.write_due |= self.follow.matched > self.writes.queued();
        if self.writes.queued_hard().term != self.term {
            self.write_due = true;
        }
        self.commit_told(commit);
    }

    /// The leader knows this to be committed.
    pub(super) fn commit_told(&mut self, commit: u64) {
        self.commit = self.commit.max(commit.min(self.follow.matched));
    }

    /// The leader lives.
    pub(super) fn heartbeat(
        &mut self,
        from: NodeId,
        commit: u64,
        last: u64,
        read: u64,
        out: &mut Vec<Output>,
    ) {
        self.measure(last);
        self.commit_told(commit);
        self.send(from, Body::HeartbeatReply { read }, out);
        // The leader may take what was cut for acknowledged, and would send nothing more.
        let hint_index = self.log.last();
        let is_short = matches!(self.doubt, Doubt::Until(until) if until > hint_index);
        if std::mem::replace(&mut self.follow.is_idle, true) && is_short {
            let hint_term = self.log.last_term();
            self.send(from, Body::AppendRejected { rejected: last, hint_index, hint_term }, out);
        }
    }

    /// What this member may have acknowledged is at most what a leader's log holds. A leader that
    /// does not know that it was deposed holds less: the next one measures again, as long as what
    /// the first one named is not durable.
    fn measure(&mut self, last: u64) {
        let index = match self.doubt {
            Doubt::None => return,
            Doubt::Until(_) if self.follow.measured == self.term => return,
            Doubt::Until(index) => index.max(last),
            Doubt::Unmeasured => last,
        };
        (self.doubt, self.follow.measured) = (Doubt::Until(index), self.term);
    }

    /// What the cut may have lost is durable again, and that is not on its way to the disk.
    pub(super) fn heals(&self) -> bool {
        let is_whole = match self.doubt {
            Doubt::None => false,
            Doubt::Unmeasured => self.is_alone(),
            Doubt::Until(index) => self.is_alone() || self.writes.durable() >= index,
        };
        is_whole && !self.writes.is_healing()
    }

    /// Tells the leader what has become durable.
    pub(super) fn settle_acks(&mut self, out: &mut Vec<Output>) {
        if !self.follow.ack_due || self.writes.hard().term != self.term {
            return;
        }
        let Some(leader) = self.leader.filter(|_| !self.is_leader()) else { return };
        let index = self.follow.matched.min(self.writes.durable());
        let is_all = index == self.follow.matched;
        if is_all || index > self.follow.acked {
            self.follow.acked = index;
            self.follow.ack_due = !is_all;
            self.send(leader, Body::AppendOk { index }, out);
        }
    }

    /// A member can be reached (again).
    pub(super) fn reachable(&mut self, peer: NodeId, out: &mut Vec<Output>) {
        if self.retired {
            return;
        }
        self.ask_again(peer, out);
        self.reach(peer, out);
    }

    /// Reads of this member that no leader will answer any more.
    pub(super) fn expire_reads(&mut self, now: Time, out: &mut Vec<Output>) {
        self.follow.reads.expire(now, out);
    }
}

/// Whether a leader of `term` can have sent this: consecutive, and terms never go down.
fn is_sound(previous: (u64, u64), entries: &[Entry], term: u64) -> bool {
    let (mut index, mut last) = previous;
    for entry in entries {
        if index.checked_add(1) != Some(entry.index) || entry.term < last {
            return false;
        }
        (index, last) = (entry.index, entry.term);
    }
    last <= term && index <= INDEX_MAX
}
