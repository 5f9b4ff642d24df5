//! The leader: how one begins, what it does at each heartbeat, how leadership is handed over.

use std::collections::BTreeMap;

use super::io::{Body, Output, Payload, ProposeError};
use super::progress::{Flow, Progress};
use super::read::LeaderReads;
use super::snapshot::Sending;
use super::{Raft, Role, quorum};
use crate::base::id::NodeId;
use crate::base::time::Time;

/// What only a leader has.
#[derive(Debug)]
pub(super) struct Leader {
    /// Its own first entry; of a sole voter the last one that it found.
    pub(super) first: u64,
    pub(super) peers: BTreeMap<NodeId, Progress>,
    pub(super) reads: LeaderReads,
    /// The snapshot that followers are sent.
    pub(super) sending: Option<Sending>,
    heartbeat_at: Time,
    handing: Option<Handing>,
    /// Leadership was offered to another since this disk stalled.
    stall_told: bool,
}

/// Leadership is being handed over.
#[derive(Clone, Copy, Debug)]
struct Handing {
    to: NodeId,
    until: Time,
}

impl Leader {
    pub(super) fn deadline(&self) -> Option<Time> {
        (!self.peers.is_empty()).then_some(self.heartbeat_at)
    }
}

impl Raft {
    /// The only voter leads at once, in a new term: nobody else can have got a vote in it. All that
    /// is durable is committed.
    pub(super) fn lead_alone(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.is_leader() || !self.is_alone() {
            return;
        }
        self.fail_reads(out);
        self.follow.new_term();
        (self.term, self.vote) = (self.term + 1, Some(self.config.id));
        self.become_leader(now, out);
    }

    /// Leads in the term at hand (paper 5.2): from now on, with an entry of its own (paper 8).
    pub(super) fn become_leader(&mut self, now: Time, out: &mut Vec<Output>) {
        let last = self.log.last();
        let is_alone = self.is_alone();
        self.role = Role::Leader(Box::new(Leader {
            first: if is_alone { last } else { last + 1 },
            peers: BTreeMap::new(),
            reads: LeaderReads::default(),
            sending: None,
            heartbeat_at: now + self.config.timing.heartbeat,
            handing: None,
            stall_told: false,
        }));
        (self.leader, self.heard, self.election_at) = (Some(self.config.id), None, None);
        self.sync_peers(now);
        if !is_alone {
            self.append(now, Payload::Nothing);
        }
        self.announce(out);
        self.commit_by_count(out);
    }

    /// A heartbeat is due.
    pub(super) fn lead_on(&mut self, now: Time, out: &mut Vec<Output>) {
        let timing = self.config.timing;
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.peers.is_empty() || now < leader.heartbeat_at {
            return;
        }
        leader.heartbeat_at = now + timing.heartbeat;
        leader.handing = leader.handing.filter(|handing| now < handing.until);
        leader.forget_snapshot(now, timing.election_max);
        if !quorum::reached(&self.log.members().voters, |voter| self.is_active(now, voter)) {
            // Check-quorum (thesis 6.2): somebody else may lead by now.
            return self.become_follower(now, self.term, None, out);
        }
        self.leave_slow_disk(now);
        self.part(now, out);
        self.beat(out);
    }

    /// Tells all followers that the leader lives, and what is committed.
    pub(super) fn beat(&self, out: &mut Vec<Output>) {
        let Role::Leader(leader) = &self.role else { return };
        for to in leader.peers.keys() {
            self.beat_one(leader, *to, out);
        }
        if let Some(handing) = leader.handing
            && leader.peers.get(&handing.to).is_some_and(|it| it.matched == self.log.last())
        {
            self.send(handing.to, Body::TimeoutNow, out);
        }
    }

    fn beat_one(&self, leader: &Leader, to: NodeId, out: &mut Vec<Output>) {
        let matched = leader.peers.get(&to).map_or(0, |peer| peer.matched);
        let (commit, last) = (self.commit.min(matched), self.log.last());
        self.send(to, Body::Heartbeat { commit, last, read: leader.reads.newest() }, out);
    }

    /// A follower can be reached (again).
    pub(super) fn reach(&mut self, peer: NodeId, out: &mut Vec<Output>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.peers.get_mut(&peer) else { return };
        progress.resume();
        if let Role::Leader(leader) = &self.role {
            self.beat_one(leader, peer, out);
        }
    }

    /// Heard of within the longest election timeout. It itself always is.
    #[must_use]
    pub fn is_active(&self, now: Time, member: NodeId) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let fresh = |peer: &Progress| peer.silent_for(now) < self.config.timing.election_max;
        member == self.config.id || leader.peers.get(&member).is_some_and(fresh)
    }

    /// Whether a member is heard of, and has answered since this leader was elected: what is about to
    /// hang on it must not hang on one that was gone before.
    #[must_use]
    pub fn has_answered(&self, now: Time, member: NodeId) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let answered = leader.peers.get(&member).is_some_and(Progress::has_answered);
        member == self.config.id || (answered && self.is_active(now, member))
    }

    /// Whether a proposal is taken now.
    pub(super) fn may_propose(&self) -> Result<(), ProposeError> {
        let Role::Leader(leader) = &self.role else { return Err(ProposeError::NotLeader) };
        match leader.handing {
            Some(_) => Err(ProposeError::Transferring),
            None if self.retired => Err(ProposeError::NotLeader),
            None => Ok(()),
        }
    }

    /// Whether a proposal would be taken now, if it is not too large.
    #[must_use]
    pub fn takes_proposals(&self) -> bool {
        self.may_propose().is_ok()
    }

    /// Hands leadership over (thesis 3.10): to the voter that is named, or to the most up-to-date one
    /// that is heard of. Given up after the longest election timeout.
    ///
    /// # Errors
    /// When it does not lead, is at it already, or there is nobody to hand over to.
    pub fn transfer(
        &mut self,
        now: Time,
        to: Option<NodeId>,
        out: &mut Vec<Output>,
    ) -> Result<(), ProposeError> {
        self.may_propose()?;
        let to = self.successor(now, to).ok_or(ProposeError::BadChange)?;
        self.hand_over(now, to, out);
        self.flush(now, out);
        Ok(())
    }

    /// Who can take over: of those that are heard of the one with the longest log.
    fn successor(&self, now: Time, named: Option<NodeId>) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        let voters = &self.log.members().voters;
        let able = |id: &NodeId| voters.contains(id) && self.is_active(now, *id);
        let peers = leader.peers.iter().filter(|(id, _)| able(id));
        let peers = peers.filter(|(id, _)| named.is_none_or(|named| named == **id));
        peers.max_by_key(|(_, peer)| peer.matched).map(|(id, _)| *id)
    }

    fn hand_over(&mut self, now: Time, to: NodeId, out: &mut Vec<Output>) {
        let until = now + self.config.timing.election_max;
        let Role::Leader(leader) = &mut self.role else { return };
        leader.handing = Some(Handing { to, until });
        self.hand_over_when_ready(to, out);
    }

    /// The successor has the whole log: it may campaign.
    pub(super) fn hand_over_when_ready(&self, peer: NodeId, out: &mut Vec<Output>) {
        let Role::Leader(leader) = &self.role else { return };
        let Some(progress) = leader.peers.get(&peer) else { return };
        let is_successor = leader.handing.is_some_and(|handing| handing.to == peer);
        if is_successor && progress.matched == self.log.last() {
            self.send(peer, Body::TimeoutNow, out);
        }
    }

    /// This log is stuck while a majority goes on without it: another should lead.
    fn leave_slow_disk(&mut self, now: Time) {
        let is_stuck = self.writes.stalled_for(now) >= self.config.timing.slow_disk
            && self.commit > self.writes.durable();
        let last = self.log.last();
        let Some(to) = self.successor(now, None).filter(|_| is_stuck) else { return };
        let until = now + self.config.timing.election_max;
        let Role::Leader(leader) = &mut self.role else { return };
        let is_whole = leader.peers.get(&to).is_some_and(|peer| {
            peer.flow == Flow::Replicate && last - peer.matched.min(last) <= super::members::NEAR
        });
        if leader.handing.is_none() && !leader.stall_told && is_whole {
            leader.stall_told = true;
            leader.handing = Some(Handing { to, until });
        }
    }

    /// The own log is durable: the disk goes on.
    pub(super) fn disk_caught_up(&mut self) {
        if let Role::Leader(leader) = &mut self.role {
            leader.stall_told = false;
        }
    }

    /// A leader without a vote is done: it hands over and follows.
    pub(super) fn resign(&mut self, now: Time, out: &mut Vec<Output>) {
        let to = self.successor(now, None);
        let last = self.log.last();
        if let (Some(to), Role::Leader(leader)) = (to, &self.role)
            && leader.peers.get(&to).is_some_and(|peer| peer.matched == last)
        {
            self.send(to, Body::TimeoutNow, out);
        }
        self.become_follower(now, self.term, None, out);
    }
}
