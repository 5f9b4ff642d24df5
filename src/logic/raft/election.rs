//! Elections: pre-votes, votes, timeouts (paper 5.2, 5.4.1; thesis 4.2.3, 9.6).
//!
//! **A log that was cut** may lack what its member has acknowledged. Its vote says so and counts only
//! if every voter votes for the same candidate: then the longest log of all wins, and nothing is lost
//! that any disk still has. So a whole site that lost its power elects a leader without a person, and
//! one member in doubt cannot help a shorter log to win while another is away.

use std::collections::BTreeSet;

use super::io::{Body, Message, Output};
use super::{Doubt, Raft, Role, quorum};
use crate::base::id::NodeId;
use crate::base::time::{Span, Time};

/// Who said yes.
#[derive(Debug, Default)]
pub(super) struct Granted {
    /// Their logs hold all that they have acknowledged.
    sure: BTreeSet<NodeId>,
    /// Their logs were cut.
    doubtful: BTreeSet<NodeId>,
}

impl Granted {
    fn insert(&mut self, voter: NodeId, doubtful: bool) {
        if doubtful { &mut self.doubtful } else { &mut self.sure }.insert(voter);
    }

    fn contains(&self, voter: NodeId) -> bool {
        self.sure.contains(&voter) || self.doubtful.contains(&voter)
    }

    /// A majority whose logs are whole; or all, whatever became of their logs.
    fn wins(&self, voters: &BTreeSet<NodeId>) -> bool {
        quorum::reached(voters, |voter| self.sure.contains(&voter))
            || (!voters.is_empty() && voters.iter().all(|voter| self.contains(*voter)))
    }
}

impl Raft {
    /// A deadline has passed.
    pub(super) fn tick(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.retired {
            return;
        }
        if self.is_leader() {
            return self.lead_on(now, out);
        }
        self.expire_reads(now, out);
        if self.election_at.is_some_and(|at| at <= now) {
            self.election_timed_out(now, out);
        }
    }

    /// No leader was heard of, or an election brought none.
    fn election_timed_out(&mut self, now: Time, out: &mut Vec<Output>) {
        if !self.may_campaign() {
            self.become_follower(now, self.term, None, out);
            // Who cannot campaign waits for a leader; one that restores tries again.
            if !self.follow.is_restoring() {
                self.election_at = None;
            }
            return;
        }
        if !matches!(self.role, Role::PreCandidate { .. }) {
            // Whoever leads now is not this member's leader any more.
            self.become_follower(now, self.term, None, out);
            let mut granted = Granted::default();
            granted.insert(self.config.id, self.is_doubtful());
            self.role = Role::PreCandidate { granted };
        }
        let half = Span(self.config.timing.election_min.0 / 2);
        self.election_at = Some(now + self.draw(half, self.config.timing.election_min));
        self.ask(true, false, None, out);
    }

    /// Whether this member may become leader: it has a vote. Who
    /// loses its vote by an entry that is not committed may still be needed to commit it (thesis
    /// 4.2.2); its own vote does not count then.
    fn may_campaign(&self) -> bool {
        let (id, at) = (self.config.id, self.log.members_index());
        let had_vote = || self.log.members_at(at.saturating_sub(1)).voters.contains(&id);
        (self.log.members().voters.contains(&id) || (at > self.commit && had_vote()))
            && !self.follow.is_restoring()
    }

    /// What it acknowledged before a restart may be missing.
    fn is_doubtful(&self) -> bool {
        self.doubt != Doubt::None && !self.is_alone()
    }

    /// A new term with a vote for itself.
    fn campaign(&mut self, now: Time, transfer: bool, out: &mut Vec<Output>) {
        self.become_follower(now, self.term + 1, None, out);
        self.role = Role::Candidate { granted: Granted::default() };
        self.vote = Some(self.config.id);
        self.need_hard_state();
        self.ask(false, transfer, None, out);
    }

    /// Asks the voters, or one of them. The end of the log that it names is the durable one.
    fn ask(&self, pre: bool, transfer: bool, only: Option<NodeId>, out: &mut Vec<Output>) {
        let last_index = self.writes.durable();
        let last_term = self.log.term(last_index).unwrap_or(0);
        let term = if pre { self.term + 1 } else { self.term };
        for to in &self.log.members().voters {
            if *to != self.config.id && only.is_none_or(|only| only == *to) {
                let body = Body::Vote { pre, transfer, last_index, last_term };
                let message = Message { epoch: self.config.epoch, term, body };
                out.push(Output::Send { to: *to, message });
            }
        }
    }

    /// A voter can be asked again.
    pub(super) fn ask_again(&self, peer: NodeId, out: &mut Vec<Output>) {
        match &self.role {
            Role::PreCandidate { granted } if !granted.contains(peer) => {
                self.ask(true, false, Some(peer), out);
            }
            Role::Candidate { granted } if !granted.contains(peer) => {
                self.ask(false, false, Some(peer), out);
            }
            Role::PreCandidate { .. }
            | Role::Candidate { .. }
            | Role::Follower
            | Role::Leader(_) => {}
        }
    }

    /// Whether a leader keeps this member from helping another (thesis 4.2.3): it leads itself, or
    /// has heard from the leader within the shortest election timeout.
    pub(super) fn has_lease(&self, now: Time) -> bool {
        let fresh = |at: Time| now.since(at) < self.config.timing.election_min;
        self.is_leader() || (self.leader.is_some() && self.heard.is_some_and(fresh))
    }

    /// The candidate's log holds at least what this one does (paper 5.4.1).
    fn is_up_to_date(&self, last: (u64, u64)) -> bool {
        last >= (self.log.last_term(), self.log.last())
    }

    /// Somebody wants to know whether it may campaign in `term`.
    pub(super) fn asked_before(
        &mut self,
        now: Time,
        from: NodeId,
        term: u64,
        last: (u64, u64),
        out: &mut Vec<Output>,
    ) {
        if self.has_lease(now) {
            return self.tell_that_it_left(now, from);
        }
        // Of two that ask at the same time one gives way.
        let durable = self.writes.durable();
        let mine = (self.log.term(durable).unwrap_or(0), durable, self.config.id);
        let asks_too = matches!(self.role, Role::PreCandidate { .. });
        let gives_way = !asks_too || (last.0, last.1, from) > mine;
        let granted = term > self.term && self.is_up_to_date(last) && gives_way;
        if granted {
            if asks_too {
                self.role = Role::Follower;
            }
            self.postpone(now);
        }
        let term = if granted { term } else { self.term };
        let doubtful = self.is_doubtful();
        let body = Body::VoteReply { pre: true, granted, doubtful };
        out.push(Output::Send {
            to: from,
            message: Message { epoch: self.config.epoch, term, body },
        });
    }

    /// Somebody wants a vote in this term. A yes leaves when it is durable.
    pub(super) fn asked(
        &mut self,
        now: Time,
        from: NodeId,
        transfer: bool,
        last: (u64, u64),
        out: &mut Vec<Output>,
    ) {
        if !transfer && self.has_lease(now) {
            return;
        }
        let is_free = self.vote.map_or(self.leader.is_none(), |vote| vote == from);
        if !is_free || !self.is_up_to_date(last) {
            let body = Body::VoteReply { pre: false, granted: false, doubtful: false };
            return self.send(from, body, out);
        }
        if matches!(self.role, Role::PreCandidate { .. }) {
            self.role = Role::Follower;
        }
        self.vote = Some(from);
        self.follow.vote_due = true;
        self.need_hard_state();
        self.postpone(now);
    }

    /// Puts the own campaign off.
    fn postpone(&mut self, now: Time) {
        let timing = self.config.timing;
        let at = now + self.draw(timing.grant_min, timing.grant_max);
        self.election_at = self.election_at.map(|own| own.max(at));
    }

    /// A voter answered: no, or yes and whether its log is in doubt.
    pub(super) fn answered(
        &mut self,
        now: Time,
        from: NodeId,
        pre: bool,
        yes: Option<bool>,
        term: u64,
        out: &mut Vec<Output>,
    ) {
        let Some(doubtful) = yes else { return };
        let (own_term, voters) = (self.term, &self.log.members().voters);
        match &mut self.role {
            Role::PreCandidate { granted } if pre && term == own_term + 1 => {
                granted.insert(from, doubtful);
                if granted.wins(voters) {
                    self.campaign(now, false, out);
                }
            }
            Role::Candidate { granted } if !pre && term == own_term => {
                granted.insert(from, doubtful);
            }
            Role::PreCandidate { .. }
            | Role::Candidate { .. }
            | Role::Follower
            | Role::Leader(_) => {}
        }
    }

    /// Lets a vote go that has become durable, and wins with one's own.
    pub(super) fn settle_votes(&mut self, now: Time, out: &mut Vec<Output>) {
        if !self.is_hard_state_durable() {
            return;
        }
        let (id, doubtful) = (self.config.id, self.is_doubtful());
        if std::mem::take(&mut self.follow.vote_due)
            && let Some(candidate) = self.vote.filter(|vote| *vote != id)
        {
            self.send(candidate, Body::VoteReply { pre: false, granted: true, doubtful }, out);
        }
        let may_campaign = self.may_campaign();
        let Role::Candidate { granted } = &mut self.role else { return };
        granted.insert(id, doubtful);
        if may_campaign && granted.wins(&self.log.members().voters) {
            if doubtful {
                // Every voter has seen this log and has none that is longer.
                self.doubt = Doubt::Until(self.log.last());
            }
            self.become_leader(now, out);
        }
    }

    /// The leader hands over to this member (thesis 3.10).
    pub(super) fn timeout_now(&mut self, now: Time, from: NodeId, out: &mut Vec<Output>) {
        let able = self.may_campaign() && !self.is_doubtful() && !self.is_alone();
        if self.leader == Some(from) && able {
            self.campaign(now, true, out);
        }
    }
}
