//! Changes of the members, one at a time (thesis 4.1 to 4.4, and Ongaro's correction of July 2015: a
//! leader first commits an entry of its own term).
//!
//! **Invariant:** members hold from the entry on, committed or not; an entry that is cut gives back
//! what was before it. There is never more than one change that is not committed.

use std::collections::BTreeSet;

use super::io::{MEMBERS_MAX, MemberChange, Members, Output, Payload, ProposeError};
use super::progress::{Flow, Progress};
use super::{Raft, Role, quorum};
use crate::base::id::NodeId;
use crate::base::time::Time;

/// A learner is ready for a vote when it is at most this many entries behind.
pub(super) const NEAR: u64 = 64;

/// Most that are told at a time that they are no members any more; the next one asks again.
const LEAVING_MAX: usize = MEMBERS_MAX;

impl Members {
    /// The first member of a cluster.
    #[must_use]
    pub fn sole(id: NodeId) -> Self {
        Self { voters: BTreeSet::from([id]), learners: BTreeSet::new() }
    }

    /// Whether it takes part, with or without a vote.
    #[must_use]
    pub fn contains(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// Whether it is the only one with a vote.
    #[must_use]
    pub fn is_sole_voter(&self, id: NodeId) -> bool {
        self.voters.len() == 1 && self.voters.contains(&id)
    }

    /// Nobody takes part: a member that has not heard of the cluster yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty() && self.learners.is_empty()
    }

    /// All of them, in order of their ids.
    fn all(&self) -> BTreeSet<NodeId> {
        self.voters.union(&self.learners).copied().collect()
    }

    /// After a change; `None` when it makes no sense.
    fn changed(&self, change: MemberChange) -> Option<Self> {
        let mut new = self.clone();
        let is_fine = match change {
            MemberChange::Add(id) => {
                let has_room = self.voters.len() + self.learners.len() < MEMBERS_MAX;
                has_room && !self.contains(id) && new.learners.insert(id)
            }
            MemberChange::Promote(id) => new.learners.remove(&id) && new.voters.insert(id),
            MemberChange::Demote(id) => new.voters.remove(&id) && new.learners.insert(id),
            MemberChange::Remove(id) => new.voters.remove(&id) || new.learners.remove(&id),
        };
        is_fine.then_some(new)
    }
}

impl Raft {
    /// Begins a cluster, with this member as its only one; a log from before there were members goes
    /// on. Without effect when there are members already.
    pub fn bootstrap(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.log.members().is_empty() {
            self.become_sole(now, out);
        }
    }

    /// Gives a lost majority up: this member becomes the only one, in a new epoch, and all that it
    /// holds is committed. A lower epoch than the present one is not taken.
    pub fn force_new_cluster(&mut self, now: Time, epoch: u64, out: &mut Vec<Output>) {
        if self.retired || self.follow.is_restoring() {
            return;
        }
        // Nobody is told of the epoch before this member cannot forget it.
        self.forcing = Some((epoch, self.log.last() + 1));
        self.become_sole(now, out);
    }

    /// The entry that gives a lost majority up is durable, or was refused.
    pub(super) fn settle_epoch(&mut self) {
        let Some((epoch, index)) = self.forcing else { return };
        if self.writes.durable() >= index {
            self.set_epoch(epoch);
        } else if self.log.last() >= index {
            return;
        }
        self.forcing = None;
    }

    fn become_sole(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.retired || self.follow.is_restoring() {
            return;
        }
        self.fail_reads(out);
        self.follow.new_term();
        self.role = Role::Follower;
        (self.term, self.vote) = (self.term + 1, Some(self.config.id));
        self.started = true;
        self.append(now, Payload::Members(Members::sole(self.config.id)));
        self.become_leader(now, out);
        self.flush(now, out);
    }

    /// Appends a change of the members in memory and tells its index; [`Raft::flush`] then writes
    /// and sends it.
    ///
    /// # Errors
    /// When it is not taken; nothing is changed.
    pub fn change_members(&mut self, now: Time, change: MemberChange) -> Result<u64, ProposeError> {
        self.may_propose()?;
        let Role::Leader(leader) = &self.role else { return Err(ProposeError::NotLeader) };
        if self.commit < leader.first || self.log.members_index() > self.commit {
            return Err(ProposeError::ChangeUnderWay);
        }
        let members = self.log.members().changed(change).ok_or(ProposeError::BadChange)?;
        match change {
            MemberChange::Add(_) => {}
            MemberChange::Promote(id) => {
                let is_ready = leader.peers.get(&id).is_some_and(|peer| self.is_near(peer));
                if !is_ready || !self.is_active(now, id) {
                    self.tell_again(id);
                    return Err(ProposeError::BadChange);
                }
            }
            MemberChange::Demote(_) | MemberChange::Remove(_) => {
                if !quorum::reached(&members.voters, |voter| self.has_answered(now, voter)) {
                    return Err(ProposeError::QuorumLost);
                }
            }
        }
        let index = self.append(now, Payload::Members(members));
        if let (MemberChange::Demote(id), Role::Leader(leader)) = (change, &mut self.role)
            && let Some(peer) = leader.peers.get_mut(&id)
        {
            // Nobody asked for its vote back.
            peer.caught_up = true;
        }
        Ok(index)
    }

    fn is_near(&self, peer: &Progress) -> bool {
        let is_whole = !matches!(peer.flow, Flow::Snapshot { .. }) && peer.matched > 0;
        let is_whole = is_whole && peer.holds_its_beginning();
        is_whole && self.log.last().saturating_sub(peer.matched) <= NEAR
    }

    /// A learner was not ready for its vote after all.
    fn tell_again(&mut self, id: NodeId) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(peer) = leader.peers.get_mut(&id)
        {
            peer.caught_up = false;
        }
    }

    /// A learner has caught up; told once.
    pub(super) fn tell_caught_up(&mut self, peer: NodeId, out: &mut Vec<Output>) {
        let Role::Leader(leader) = &self.role else { return };
        let is_news = self.log.members().learners.contains(&peer)
            && leader.peers.get(&peer).is_some_and(|it| !it.caught_up && self.is_near(it));
        if let (true, Role::Leader(leader)) = (is_news, &mut self.role)
            && let Some(progress) = leader.peers.get_mut(&peer)
        {
            progress.caught_up = true;
            out.push(Output::CaughtUp { peer });
        }
    }

    /// Follows the members: whom this leader sends to. Who is none any more is still sent to, until
    /// it knows ([`Raft::part`]) or the members change again.
    pub(super) fn sync_peers(&mut self, now: Time) {
        let next = self.log.last() + 1;
        let members = self.log.members().all();
        let Role::Leader(leader) = &mut self.role else { return };
        for id in members.iter().filter(|id| **id != self.config.id) {
            // Who left may have emptied its log since: nothing that is known of it counts any more.
            if leader.peers.get(id).is_none_or(|peer| peer.leaving) {
                leader.peers.insert(*id, Progress::new(now, next));
            }
        }
        leader.peers.retain(|id, peer| !peer.leaving || members.contains(id));
        for (id, peer) in &mut leader.peers {
            peer.leaving = !members.contains(id);
        }
    }

    /// Somebody that is no member any more asks for votes: it was silent when its removal was
    /// committed, and would ask for ever. It gets the log until it knows.
    pub(super) fn tell_that_it_left(&mut self, now: Time, id: NodeId) {
        let next = self.log.last() + 1;
        let is_member = self.log.members().contains(id);
        let is_settled = self.log.members_index() <= self.commit;
        let Role::Leader(leader) = &mut self.role else { return };
        let leaving = leader.peers.values().filter(|peer| peer.leaving).count();
        if is_member || !is_settled || leaving >= LEAVING_MAX {
            return;
        }
        let peer = leader.peers.entry(id).or_insert_with(|| Progress::new(now, next));
        peer.leaving = true;
    }

    /// What a committed change of the members brings with it.
    pub(super) fn members_committed(&mut self, now: Time, out: &mut Vec<Output>) {
        if !self.is_leader() || self.log.members_index() > self.commit {
            return;
        }
        self.part(now, out);
        if !self.log.members().voters.contains(&self.config.id) {
            self.resign(now, out);
        }
    }

    /// Parts from those that are no members any more: once they hold the entry that says so and are
    /// told that it is committed, or when they are silent.
    pub(super) fn part(&mut self, now: Time, out: &mut Vec<Output>) {
        let Role::Leader(leader) = &self.role else { return };
        let index = self.log.members_index();
        if index > self.commit {
            return;
        }
        let is_done = |id: NodeId, peer: &Progress| {
            peer.leaving && (peer.matched >= index || !self.is_active(now, id))
        };
        let peers = leader.peers.iter().filter(|(id, peer)| is_done(**id, peer));
        let done: Vec<NodeId> = peers.map(|(id, _)| *id).collect();
        for id in done {
            self.reach(id, out);
            if let Role::Leader(leader) = &mut self.role {
                leader.peers.remove(&id);
            }
        }
    }
}
