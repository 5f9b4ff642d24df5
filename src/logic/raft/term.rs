//! What comes from other members: epochs and terms first, then who handles it.

use super::io::{Body, Message, Output};
use super::{Raft, Role, TERM_MAX};
use crate::base::id::NodeId;
use crate::base::time::Time;

impl Raft {
    /// A member tells something.
    pub(super) fn receive(
        &mut self,
        now: Time,
        from: NodeId,
        message: Message,
        out: &mut Vec<Output>,
    ) {
        if self.retired || from == self.config.id || message.term > TERM_MAX {
            return;
        }
        if !self.meet_epoch(from, &message, out) || !self.meet_term(now, from, &message, out) {
            return;
        }
        let Message { epoch: _, term, body } = message;
        match body {
            Body::Vote { pre: true, transfer: _, last_index, last_term } => {
                self.asked_before(now, from, term, (last_term, last_index), out);
            }
            Body::Vote { pre: false, transfer, last_index, last_term } => {
                self.asked(now, from, transfer, (last_term, last_index), out);
            }
            Body::VoteReply { pre, granted, doubtful } => {
                let yes = granted.then_some(doubtful);
                self.answered(now, from, pre, yes, term, out);
            }
            Body::Append { previous_index, previous_term, entries, commit } => {
                if self.hears_leader(now, from, out) {
                    self.appended((previous_index, previous_term), entries, commit, from, out);
                }
            }
            Body::AppendOk { index } => self.append_ok(now, from, index, out),
            Body::AppendRejected { rejected, hint_index, hint_term } => {
                self.append_rejected(now, from, rejected, (hint_index, hint_term));
            }
            Body::Heartbeat { commit, last, read } => {
                if self.hears_leader(now, from, out) {
                    self.heartbeat(from, commit, last, read, out);
                }
            }
            Body::HeartbeatReply { read } => self.heartbeat_reply(now, from, read, out),
            Body::Snapshot { index, term, members, offset, total, checksum, piece } => {
                if self.hears_leader(now, from, out) {
                    let head = super::snapshot::Head { index, term, members, total, checksum };
                    self.snapshot_piece(now, from, head, offset, &piece, out);
                }
            }
            Body::SnapshotReply { index, offset } => {
                self.snapshot_reply(now, from, index, offset, out)
            }
            Body::Read { id } => self.read_asked(now, from, id),
            Body::ReadReply { id, index } => self.read_answered(from, id, index, out),
            Body::TimeoutNow => self.timeout_now(now, from, out),
            Body::GivenUp => {}
        }
    }

    /// Whether the message is of this cluster's epoch. Who has no members yet takes the leader's.
    fn meet_epoch(&mut self, from: NodeId, message: &Message, out: &mut Vec<Output>) -> bool {
        if message.epoch > self.config.epoch {
            if self.log.members().is_empty() {
                self.config.epoch = message.epoch;
                return true;
            }
            self.retired = true;
            self.fail_reads(out);
            (self.role, self.leader) = (Role::Follower, None);
            self.announce(out);
            out.push(Output::Removed);
            return false;
        }
        if message.epoch < self.config.epoch && message.body != Body::GivenUp {
            self.send(from, Body::GivenUp, out);
        }
        message.epoch == self.config.epoch
    }

    /// Whether the message is of this term once that was brought up to date (paper 5.1).
    fn meet_term(
        &mut self,
        now: Time,
        from: NodeId,
        message: &Message,
        out: &mut Vec<Output>,
    ) -> bool {
        let body = &message.body;
        let leads =
            matches!(body, Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot { .. });
        if message.term == self.term {
            return true;
        }
        if message.term > self.term {
            // Of a pre-vote the term is the one that would be campaigned in.
            let asks_before = matches!(
                body,
                Body::Vote { pre: true, .. } | Body::VoteReply { pre: true, granted: true, .. }
            );
            let disturbs = matches!(body, Body::Vote { pre: false, transfer: false, .. });
            if disturbs && self.has_lease(now) {
                return false;
            }
            if !asks_before {
                self.become_follower(now, message.term, leads.then_some(from), out);
            }
            return true;
        }
        // Who is behind learns the term from the answer.
        if leads {
            self.send(from, Body::HeartbeatReply { read: 0 }, out);
        } else if let Body::Vote { pre, .. } = body {
            self.send(from, Body::VoteReply { pre: *pre, granted: false, doubtful: false }, out);
        }
        false
    }

    /// A leader of this term speaks; false if it cannot be one.
    fn hears_leader(&mut self, now: Time, from: NodeId, out: &mut Vec<Output>) -> bool {
        match self.role {
            Role::Leader(_) => return false,
            Role::Follower if self.leader == Some(from) => {}
            Role::Follower | Role::PreCandidate { .. } | Role::Candidate { .. } => {
                if self.leader.is_some_and(|leader| leader != from) {
                    return false;
                }
                self.become_follower(now, self.term, Some(from), out);
            }
        }
        self.heard = Some(now);
        self.election_at = Some(self.election_timeout(now));
        true
    }

    /// Follows in `term`; what was promised in an earlier one is over.
    pub(super) fn become_follower(
        &mut self,
        now: Time,
        term: u64,
        leader: Option<NodeId>,
        out: &mut Vec<Output>,
    ) {
        debug_assert!(term >= self.term, "terms never go down");
        let changes = (self.term, self.leader) != (term, leader);
        if term > self.term {
            (self.term, self.vote) = (term, None);
            self.follow.new_term();
        }
        if changes {
            self.fail_reads(out);
        }
        self.role = Role::Follower;
        self.leader = leader;
        self.heard = leader.map(|_leader| now);
        self.election_at = Some(self.election_timeout(now));
        if changes {
            self.announce(out);
        }
    }

    /// Says who leads.
    pub(super) fn announce(&self, out: &mut Vec<Output>) {
        out.push(match &self.role {
            Role::Leader(leader) => Output::Leads { term: self.term, index: leader.first },
            Role::Follower | Role::PreCandidate { .. } | Role::Candidate { .. } => {
                Output::Follows { term: self.term, leader: self.leader }
            }
        });
    }
}
