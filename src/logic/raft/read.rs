//! Reads without a lease (ReadIndex, thesis 6.4): the leader's commit index is good for a read once a
//! majority has answered a heartbeat that left after the read came, and an entry of the leader's term
//! is committed. No clock is trusted.

use std::collections::{BTreeMap, VecDeque};

use super::io::{Body, Output};
use super::{Raft, Role, quorum};
use crate::base::id::{NodeId, RequestId};
use crate::base::time::Time;

/// Most reads that wait, of a leader and of a follower each; more fail at once.
pub const READS_MAX: usize = 1_024;

/// Who reads.
#[derive(Clone, Copy, Debug)]
enum Reader {
    /// This member.
    Own(RequestId),
    /// A follower, with its number.
    Peer(NodeId, u64),
}

/// The leader's.
#[derive(Debug, Default)]
pub(super) struct LeaderReads {
    /// The newest round of heartbeats that confirms reads.
    round: u64,
    /// That round has not left yet: what comes now belongs to it.
    is_due: bool,
    waiting: VecDeque<(Reader, u64)>,
}

impl LeaderReads {
    /// The round that heartbeats name; 0 when no read waits.
    pub(super) fn newest(&self) -> u64 {
        if self.waiting.is_empty() { 0 } else { self.round }
    }

    /// False at the limit.
    fn add(&mut self, reader: Reader) -> bool {
        if self.waiting.len() >= READS_MAX {
            return false;
        }
        if !self.is_due {
            self.round += 1;
            self.is_due = true;
        }
        self.waiting.push_back((reader, self.round));
        true
    }
}

/// The follower's: asked of the leader under a number.
#[derive(Debug, Default)]
pub(super) struct FollowerReads {
    next: u64,
    waiting: BTreeMap<u64, (RequestId, Time)>,
}

impl FollowerReads {
    /// Numbers from `first` on: by chance, so that no answer to an earlier life of this member is
    /// taken for one of now.
    pub(super) const fn new(first: u64) -> Self {
        Self { next: first, waiting: BTreeMap::new() }
    }

    /// When the first one fails.
    pub(super) fn due(&self) -> Option<Time> {
        // All wait for the same time, so the first one is the oldest.
        self.waiting.first_key_value().map(|(_, (_, until))| *until)
    }

    pub(super) fn expire(&mut self, now: Time, out: &mut Vec<Output>) {
        self.waiting.retain(|_, (request, until)| {
            let waits = *until > now;
            if !waits {
                out.push(Output::ReadFailed { request: *request });
            }
            waits
        });
    }
}

impl Raft {
    /// Somebody wants to read: answered by exactly one [`Output::ReadReady`] or
    /// [`Output::ReadFailed`], now or later. [`Raft::flush`] sends what it takes, for all reads
    /// since the last one together.
    pub fn read(&mut self, now: Time, request: RequestId, out: &mut Vec<Output>) {
        let id = self.config.id;
        let is_taken = match (&mut self.role, self.leader) {
            (Role::Leader(leader), _) => leader.reads.add(Reader::Own(request)),
            (Role::Follower, Some(to)) if to != id && !self.retired => {
                let reads = &mut self.follow.reads;
                let has_room = reads.waiting.len() < READS_MAX;
                if has_room {
                    let (number, until) = (reads.next, now + self.config.timing.election_max);
                    reads.next = reads.next.wrapping_add(1);
                    reads.waiting.insert(number, (request, until));
                    self.send(to, Body::Read { id: number }, out);
                }
                has_room
            }
            (Role::Follower | Role::PreCandidate { .. } | Role::Candidate { .. }, _) => false,
        };
        if is_taken {
            self.answer_reads(out);
        } else {
            out.push(Output::ReadFailed { request });
        }
    }

    /// A follower wants to read.
    pub(super) fn read_asked(&mut self, now: Time, from: NodeId, number: u64) {
        let Role::Leader(leader) = &mut self.role else { return };
        // At the limit it is told nothing, and its read fails when its time is over.
        if let Some(peer) = leader.peers.get_mut(&from) {
            peer.hear(now);
            leader.reads.add(Reader::Peer(from, number));
        }
    }

    /// The leader answered.
    pub(super) fn read_answered(
        &mut self,
        from: NodeId,
        number: u64,
        index: u64,
        out: &mut Vec<Output>,
    ) {
        if self.leader != Some(from) {
            return;
        }
        if let Some((request, _)) = self.follow.reads.waiting.remove(&number) {
            self.commit_told(index);
            out.push(Output::ReadReady { request, index });
        }
    }

    /// Sends the round of heartbeats that the newest reads wait for.
    pub(super) fn confirm_reads(&mut self, out: &mut Vec<Output>) {
        let Role::Leader(leader) = &mut self.role else { return };
        if std::mem::take(&mut leader.reads.is_due) && !leader.reads.waiting.is_empty() {
            self.beat(out);
        }
    }

    /// Answers what is confirmed.
    pub(super) fn answer_reads(&mut self, out: &mut Vec<Output>) {
        let (commit, id) = (self.commit, self.config.id);
        let voters = &self.log.members().voters;
        let mut answers = Vec::new();
        let Role::Leader(leader) = &mut self.role else { return };
        while let Some((reader, round)) = leader.reads.waiting.front().copied() {
            let has = |voter| leader.peers.get(&voter).is_some_and(|peer| peer.read >= round);
            if commit < leader.first || !quorum::reached(voters, |it| it == id || has(it)) {
                break;
            }
            leader.reads.waiting.pop_front();
            answers.push(reader);
        }
        for reader in answers {
            match reader {
                Reader::Own(request) => out.push(Output::ReadReady { request, index: commit }),
                Reader::Peer(to, id) => self.send(to, Body::ReadReply { id, index: commit }, out),
            }
        }
    }

    /// No read that waits can be answered any more.
    pub(super) fn fail_reads(&mut self, out: &mut Vec<Output>) {
        let mine = std::mem::take(&mut self.follow.reads.waiting);
        let mut failed: Vec<RequestId> = mine.into_values().map(|(request, _)| request).collect();
        if let Role::Leader(leader) = &mut self.role {
            for (reader, _) in leader.reads.waiting.drain(..) {
                match reader {
                    Reader::Own(request) => failed.push(request),
                    Reader::Peer(..) => {}
                }
            }
        }
        out.extend(failed.into_iter().map(|request| Output::ReadFailed { request }));
    }
}
