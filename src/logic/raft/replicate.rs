//! The leader's side of replication (paper 5.3, 5.4.2): what is sent to whom, and what is committed.

use super::io::{Body, MESSAGE_BYTES_MAX, Output};
use super::progress::{Flow, Progress};
use super::{Raft, Role, quorum};
use crate::base::id::NodeId;
use crate::base::time::{Span, Time};

/// Bytes of a message that are not entries.
const HEAD_BYTES: u64 = 1 << 10;

/// Bytes of entries in one append, if they are more than one.
const BATCH_BYTES_MAX: u64 = MESSAGE_BYTES_MAX as u64 - HEAD_BYTES;

impl Raft {
    /// Sends each follower what it may have; it needs this leader's term to be durable.
    pub(super) fn replicate(&mut self, now: Time, out: &mut Vec<Output>) {
        if !self.is_leader() {
            return;
        }
        self.confirm_reads(out);
        self.answer_reads(out);
        let is_term_durable = self.writes.hard().term == self.term;
        let mut is_wanted = false;
        let Role::Leader(leader) = &self.role else { return };
        let peers: Vec<NodeId> = leader.peers.keys().copied().collect();
        for peer in peers {
            if is_term_durable {
                while self.send_one(now, peer, out) {}
            } else {
                is_wanted = true;
            }
        }
        // A sole voter's term is durable with its first entry, or when somebody wants to follow.
        if is_wanted && now >= self.retry_at {
            self.need_hard_state();
        }
    }

    /// Sends one message to a follower, if there is one to send.
    fn send_one(&mut self, now: Time, peer: NodeId, out: &mut Vec<Output>) -> bool {
        let (base, last, commit) = (self.log.base(), self.log.last(), self.commit);
        let bytes_max = self.config.in_flight_bytes_max;
        let Role::Leader(leader) = &mut self.role else { return false };
        let Some(progress) = leader.peers.get_mut(&peer) else { return false };
        let bare = match progress.flow {
            Flow::Snapshot { .. } => return self.send_piece(now, peer, out),
            Flow::Probe { waits: true, .. } => return false,
            Flow::Probe { waits: false, bare } => bare,
            Flow::Replicate if progress.next > last || !progress.has_room(bytes_max) => {
                return false;
            }
            Flow::Replicate => false,
        };
        let previous_index = progress.next - 1;
        if previous_index < base {
            progress.want_snapshot();
            return true;
        }
        let entries =
            if bare { Vec::new() } else { self.log.batch(previous_index, BATCH_BYTES_MAX) };
        if let Some(last) = entries.last() {
            progress.sent(now, last.index, self.log.bytes(previous_index, last.index));
        } else {
            progress.flow = Flow::Probe { waits: true, bare };
        }
        let previous_term = self.log.term(previous_index).unwrap_or(0);
        self.send(peer, Body::Append { previous_index, previous_term, entries, commit }, out);
        true
    }

    /// What left before this should have been answered.
    fn overdue(&self, now: Time) -> Time {
        now - Span(self.config.timing.heartbeat.0.saturating_mul(2))
    }

    /// The follower, if it is one.
    fn progress(&mut self, peer: NodeId) -> Option<&mut Progress> {
        match &mut self.role {
            Role::Leader(leader) => leader.peers.get_mut(&peer),
            Role::Follower | Role::PreCandidate { .. } | Role::Candidate { .. } => None,
        }
    }

    /// A follower has entries durable.
    pub(super) fn append_ok(&mut self, now: Time, peer: NodeId, index: u64, out: &mut Vec<Output>) {
        let (base, last) = (self.log.base(), self.log.last());
        let overdue = self.overdue(now);
        let Some(progress) = self.progress(peer).filter(|_| index <= last) else { return };
        progress.hear(now);
        let news = progress.acked(index);
        match progress.flow {
            Flow::Probe { bare, .. } => {
                // What was sent with entries long ago is not on its way any more.
                if bare && progress.take_overdue(now, overdue) {
                    progress.forget_sent();
                }
                progress.replicate();
            }
            Flow::Snapshot { .. } if index >= base && news => progress.replicate(),
            Flow::Snapshot { .. } | Flow::Replicate => {}
        }
        if news {
            self.commit_by_count(out);
            self.hand_over_when_ready(peer, out);
            self.tell_caught_up(peer, out);
            self.part(now, out);
        }
    }

    /// A follower's log is another one before what it was sent. It may also have lost what it had: a
    /// cut log, or a disk that refused.
    pub(super) fn append_rejected(
        &mut self,
        now: Time,
        peer: NodeId,
        rejected: u64,
        hint: (u64, u64),
    ) {
        let agreed = if hint.0 < self.log.base() {
            hint.0
        } else {
            self.log.agree(hint.0.min(self.log.last()), hint.1).0
        };
        let Some(progress) = self.progress(peer) else { return };
        progress.hear(now);
        match progress.flow {
            Flow::Snapshot { .. } => return,
            Flow::Probe { .. } if rejected != progress.next - 1 => return,
            Flow::Probe { .. } | Flow::Replicate => {}
        }
        let lost = rejected <= progress.matched && hint.0 < rejected;
        if lost {
            progress.matched = progress.matched.min(hint.0);
        } else if rejected <= progress.matched {
            return;
        }
        let next = agreed.min(rejected.saturating_sub(1)).saturating_add(1);
        progress.probe(next, lost);
    }

    /// A follower lives.
    pub(super) fn heartbeat_reply(
        &mut self,
        now: Time,
        peer: NodeId,
        read: u64,
        out: &mut Vec<Output>,
    ) {
        let base = self.log.base();
        let overdue = self.overdue(now);
        let commit = self.commit;
        let Some(progress) = self.progress(peer) else { return };
        progress.hear(now);
        progress.read = progress.read.max(read);
        self.tell_caught_up(peer, out);
        let Some(progress) = self.progress(peer) else { return };
        match progress.flow {
            Flow::Probe { waits: true, .. } => {
                progress.flow = Flow::Probe { waits: false, bare: true };
            }
            Flow::Snapshot { index, offset, sent: Some(at), .. } if at <= overdue => {
                progress.flow = Flow::Snapshot { index, offset, sent: None, bare: true };
            }
            Flow::Probe { waits: false, .. } | Flow::Snapshot { .. } => {}
            // The answer may be lost, or the append, or the disk is slow: to find out which, ask
            // without entries behind the last one sent. Only who has it all stays silent.
            Flow::Replicate => {
                let previous_index = progress.next - 1;
                let previous_term = self.log.term(previous_index);
                let Some(progress) = self.progress(peer) else { return };
                if previous_index < base {
                    if progress.take_overdue(now, overdue) {
                        progress.want_snapshot();
                    }
                } else if progress.take_overdue(now, overdue) {
                    let previous_term = previous_term.unwrap_or(0);
                    let entries = Vec::new();
                    let body = Body::Append { previous_index, previous_term, entries, commit };
                    self.send(peer, body, out);
                }
            }
        }
    }

    /// Commits what a majority has durable: only an entry of the own term counts, what is before it
    /// comes with it (paper 5.4.2). A sole voter commits all that is durable.
    pub(super) fn commit_by_count(&mut self, out: &mut Vec<Output>) {
        let Role::Leader(leader) = &self.role else { return };
        let durable = self.writes.durable();
        let is_alone = self.is_alone();
        let counted = quorum::median(&self.log.members().voters, |voter| {
            if voter == self.config.id {
                durable
            } else {
                leader.peers.get(&voter).map_or(0, |peer| peer.matched)
            }
        });
        if counted > self.commit && (is_alone || self.log.term(counted) == Some(self.term)) {
            self.commit = counted;
            self.answer_reads(out);
        }
    }
}
