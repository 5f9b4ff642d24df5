//! Snapshots: what is dropped of the log, and how a follower that needs it gets the leader's store,
//! piece by piece, each asked for by offset.

use super::follow::Follow;
use super::io::{Body, Members, Output, Snapshot, Ticket, Write};
use super::lead::Leader;
use super::progress::{Flow, Progress};
use super::{INDEX_MAX, Raft, Role};
use crate::base::id::NodeId;
use crate::base::time::{Span, Time};
use crate::model::wire::{self, HardState};

/// Largest piece.
pub const PIECE_BYTES_MAX: usize = 256 << 10;

/// Largest snapshot; what says that it is larger is not taken, since no disk would.
pub const SNAPSHOT_BYTES_MAX: u64 = wire::SNAPSHOT_BYTES_MAX as u64;

/// Bytes of entries that stay behind a snapshot, for followers that are a little behind.
pub const TAIL_BYTES: u64 = 256 << 10;

/// Bytes of entries that are kept while a follower gets an older snapshot, so that it can go on from
/// there. Above it they go, and it needs another one.
pub const LOG_BYTES_MAX: u64 = 64 << 20;

/// What names a snapshot: pieces of two that differ are never put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) members: Members,
    pub(super) total: u64,
    pub(super) checksum: u32,
}

/// What a follower has of one.
#[derive(Debug)]
pub(super) struct Restoring {
    head: Head,
    data: Vec<u8>,
    /// It is whole, and on its way to the disk.
    ticket: Option<Ticket>,
}

/// What the leader sends.
#[derive(Debug)]
pub(super) struct Sending {
    snapshot: Snapshot,
    checksum: u32,
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

impl Follow {
    /// A snapshot is on its way to the disk: until then nothing is appended and nobody campaigns.
    pub(super) fn is_restoring(&self) -> bool {
        self.restoring.as_ref().is_some_and(|it| it.ticket.is_some())
    }

    /// What came of a snapshot is not needed any more: the log got as far without it.
    pub(super) fn forget_restoring(&mut self, commit: u64) {
        self.restoring.take_if(|it| it.ticket.is_none() && it.head.index <= commit);
    }

    /// The disk refused; what came stays, and is written when the leader asks again.
    pub(super) fn refused(&mut self, ticket: Ticket) {
        (self.vote_due, self.ack_due) = (false, false);
        if let Some(restoring) = &mut self.restoring {
            restoring.ticket = restoring.ticket.filter(|own| *own < ticket);
        }
    }
}

impl Leader {
    /// Keeps the snapshot only while somebody gets it.
    pub(super) fn forget_snapshot(&mut self, now: Time, limit: Span) {
        let gets = |peer: &Progress| {
            matches!(peer.flow, Flow::Snapshot { .. }) && peer.silent_for(now) < limit
        };
        if !self.peers.values().any(gets) {
            self.sending = None;
        }
    }
}

impl Raft {
    /// A snapshot through this index is durable: what is below it goes, but for a tail. The snapshot
    /// must not be ahead of [`Raft::durable_index`] when it is saved: the entries would come after it.
    pub fn compact(&mut self, through: u64) {
        let through = through.min(self.writes.durable()).min(self.delivered);
        let mut cut = self.log.tail(through, TAIL_BYTES);
        if let Role::Leader(leader) = &self.role
            && let Some(sending) = &leader.sending
            && self.log.bytes(self.log.base(), self.log.last()) < LOG_BYTES_MAX
        {
            cut = cut.min(sending.snapshot.index);
        }
        self.log.compact(cut);
    }

    /// The answer to [`Output::WantSnapshot`]: a snapshot at the applied index.
    pub fn send_snapshot(
        &mut self,
        now: Time,
        peer: NodeId,
        snapshot: Snapshot,
        out: &mut Vec<Output>,
    ) {
        let (base, commit) = (self.log.base(), self.commit);
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.peers.get_mut(&peer) else { return };
        let is_wanted = matches!(progress.flow, Flow::Snapshot { index: 0, .. });
        if !is_wanted || snapshot.index < base.max(1) || snapshot.index > commit {
            return;
        }
        progress.want_snapshot();
        let checksum = crc32fast::hash(&snapshot.data);
        leader.sending = Some(Sending { snapshot, checksum });
        self.flush(now, out);
    }

    /// Sends a follower its next piece, or asks for a snapshot; true when there may be more to send.
    pub(super) fn send_piece(&mut self, now: Time, peer: NodeId, out: &mut Vec<Output>) -> bool {
        let base = self.log.base();
        let Role::Leader(leader) = &mut self.role else { return false };
        let Some(progress) = leader.peers.get_mut(&peer) else { return false };
        let Flow::Snapshot { index, offset, sent: None, bare } = progress.flow else {
            return false;
        };
        let usable = leader.sending.as_ref().filter(|it| it.snapshot.index >= base);
        let Some(Sending { snapshot, checksum }) = usable else {
            progress.flow = Flow::Snapshot { index: 0, offset: 0, sent: Some(now), bare: false };
            out.push(Output::WantSnapshot { peer });
            return false;
        };
        // Another one than before: from its beginning.
        let (offset, bare) = if index == snapshot.index { (offset, bare) } else { (0, false) };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(snapshot.data.len());
        let to = if bare { from } else { snapshot.data.len().min(from + PIECE_BYTES_MAX) };
        let body = Body::Snapshot {
            index: snapshot.index,
            term: snapshot.term,
            members: snapshot.members.clone(),
            offset,
            total: length(&snapshot.data),
            checksum: *checksum,
            piece: snapshot.data.get(from..to).unwrap_or_default().to_vec(),
        };
        let index = snapshot.index;
        progress.flow = Flow::Snapshot { index, offset, sent: Some(now), bare: false };
        self.send(peer, body, out);
        false
    }

    /// A follower tells what it has.
    pub(super) fn snapshot_reply(
        &mut self,
        now: Time,
        peer: NodeId,
        index: u64,
        offset: u64,
        out: &mut Vec<Output>,
    ) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.peers.get_mut(&peer) else { return };
        progress.hear(now);
        let (Flow::Snapshot { index: own, .. }, Some(sending)) = (progress.flow, &leader.sending)
        else {
            return;
        };
        if own != index || sending.snapshot.index != index {
            return;
        }
        if offset < length(&sending.snapshot.data) {
            progress.flow = Flow::Snapshot { index, offset, sent: None, bare: false };
            return;
        }
        progress.acked(index);
        progress.replicate();
        self.commit_by_count(out);
        self.tell_caught_up(peer, out);
    }

    /// A piece from the leader.
    pub(super) fn snapshot_piece(
        &mut self,
        now: Time,
        from: NodeId,
        head: Head,
        offset: u64,
        piece: &[u8],
        out: &mut Vec<Output>,
    ) {
        let index = head.index;
        if index <= self.commit {
            return self.send(from, Body::SnapshotReply { index, offset: head.total }, out);
        }
        let is_sound = head.total <= SNAPSHOT_BYTES_MAX && index <= INDEX_MAX;
        if self.follow.is_restoring() || !is_sound || head.term > self.term {
            return;
        }
        let kept = self.follow.restoring.take().filter(|it| it.head == head);
        let mut it = kept.unwrap_or(Restoring { head, data: Vec::new(), ticket: None });
        let have = length(&it.data);
        if offset == have && length(piece) <= it.head.total - have {
            it.data.extend_from_slice(piece);
        }
        let offset = length(&it.data);
        if offset < it.head.total {
            self.follow.restoring = Some(it);
            return self.send(from, Body::SnapshotReply { index, offset }, out);
        }
        if crc32fast::hash(&it.data) != it.head.checksum {
            return self.send(from, Body::SnapshotReply { index, offset: 0 }, out);
        }
        self.write_snapshot(now, it, out);
    }

    /// A whole snapshot goes to the disk.
    fn write_snapshot(&mut self, now: Time, mut it: Restoring, out: &mut Vec<Output>) {
        // The power may go between the two parts of this write: a commit index is never ahead of what
        // is there. The snapshot's own index counts as soon as it is.
        let commit = self.commit.min(self.writes.queued());
        let hard_state = HardState { term: self.term, vote: self.vote, commit };
        let ticket = self.writes.put(now, self.writes.queued(), hard_state, false);
        it.ticket = Some(ticket);
        let snapshot = it.snapshot();
        self.follow.restoring = Some(it);
        out.push(Output::Persist { ticket, write: Write::Snapshot { snapshot, hard_state } });
    }

    /// All through `ticket` is durable; a snapshot may be among it: the log begins behind it.
    pub(super) fn restored(&mut self, ticket: Ticket, out: &mut Vec<Output>) {
        let is_durable = |it: &mut Restoring| it.ticket.is_some_and(|own| own <= ticket);
        let Some(it) = self.follow.restoring.take_if(is_durable) else { return };
        let Head { index, term, total, .. } = it.head;
        if index > self.commit {
            let was_member = self.log.members_at(self.delivered).contains(self.config.id);
            if self.log.term(index) == Some(term) {
                self.log.compact(index);
                self.writes.skip_to(index);
            } else {
                self.log.reset(index, term, it.head.members.clone());
                self.writes.reset(index);
            }
            (self.commit, self.delivered) = (index, index);
            self.follow.restored(index);
            let is_member = it.head.members.contains(self.config.id);
            out.push(Output::Restored { snapshot: it.snapshot() });
            // The entry that says so is not in what is left of the log.
            if was_member && !is_member && !self.log.members().contains(self.config.id) {
                out.push(Output::Removed);
            }
        }
        if let Some(leader) = self.leader.filter(|_| !self.is_leader()) {
            self.send(leader, Body::SnapshotReply { index, offset: total }, out);
        }
    }
}

impl Restoring {
    fn snapshot(&self) -> Snapshot {
        let Head { index, term, members, .. } = self.head.clone();
        Snapshot { index, term, members, data: self.data.clone().into() }
    }
}
