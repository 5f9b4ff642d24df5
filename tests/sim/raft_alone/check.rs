//! What must hold of the consensus machine after every event.

use std::collections::BTreeMap;

use skep::base::id::NodeId;
use skep::logic::raft::io::{Body, Entry, MESSAGE_BYTES_MAX, Members, Message, Payload, Snapshot};

use crate::disk::Disk;

/// What a member told beside its entries, in a message: a generous allowance.
const HEAD_BYTES: usize = 16 << 10;

/// What a member has applied.
#[derive(Clone, Debug, Default)]
pub(crate) struct App {
    pub index: u64,
    pub term: u64,
    /// Of all that was applied, in order.
    pub hash: u64,
    pub members: Members,
    /// Entries since the last snapshot.
    pub since_snapshot: u64,
}

/// FNV-1a, 64 bits.
fn mix(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

fn hash_of(before: u64, entry: &Entry) -> u64 {
    let hash = mix(mix(before, &entry.index.to_le_bytes()), &entry.term.to_le_bytes());
    match &entry.payload {
        Payload::Nothing => mix(hash, b"nothing"),
        Payload::Members(members) => mix(hash, format!("{members:?}").as_bytes()),
        Payload::Command(data) => mix(hash, data),
    }
}

impl App {
    /// Takes the next committed entry in.
    fn apply(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.index + 1, "invariant_committed_in_order: {entry:?}");
        assert!(entry.term >= self.term, "invariant_committed_in_order: terms: {entry:?}");
        self.hash = hash_of(self.hash, entry);
        (self.index, self.term) = (entry.index, entry.term);
        if let Payload::Members(members) = &entry.payload {
            self.members.clone_from(members);
        }
        self.since_snapshot += 1;
    }

    pub(crate) fn snapshot(&mut self, padding: usize) -> Snapshot {
        self.since_snapshot = 0;
        let mut data = self.hash.to_le_bytes().to_vec();
        data.resize(8 + padding, 7);
        let members = self.members.clone();
        Snapshot { index: self.index, term: self.term, members, data: data.into() }
    }

    pub(crate) fn restore(snapshot: &Snapshot) -> Self {
        Self {
            index: snapshot.index,
            term: snapshot.term,
            hash: u64::from_le_bytes(*snapshot.data.first_chunk().unwrap()),
            members: snapshot.members.clone(),
            since_snapshot: 0,
        }
    }
}

/// What is known of all members together.
#[derive(Default)]
pub(crate) struct Check {
    leaders: BTreeMap<u64, NodeId>,
    /// The committed state behind each index: term, hash, members.
    committed: Vec<(u64, u64)>,
    members: BTreeMap<u64, Members>,
    /// Every entry that was ever to be written: by term and index.
    entries: BTreeMap<(u64, u64), u64>,
    /// Acknowledged to a client: index and term.
    pub acknowledged: u64,
    /// A disk lost what it had acknowledged, so that counting copies proves nothing.
    pub lost: bool,
}

impl Check {
    pub(crate) fn committed_index(&self) -> u64 {
        self.committed.len() as u64
    }

    /// A run begins with this state on every disk.
    pub(crate) fn begin(&mut self, app: &App) {
        self.note(app);
    }

    fn note(&mut self, app: &App) {
        let at = usize::try_from(app.index).unwrap();
        match self.committed.get(at - 1) {
            Some(known) => {
                let same = *known == (app.term, app.hash);
                assert!(same, "invariant_committed_entries_never_change: {app:?} {known:?}");
            }
            None => {
                assert_eq!(at, self.committed.len() + 1, "invariant_committed_in_order: {app:?}");
                self.committed.push((app.term, app.hash));
                let last = self.members.last_key_value().map(|(_, members)| members);
                if last != Some(&app.members) {
                    if let Some(last) = last {
                        invariant_members_change_one_at_a_time(last, &app.members);
                    }
                    self.members.insert(app.index, app.members.clone());
                }
            }
        }
    }

    /// A member says that these are committed.
    pub(crate) fn invariant_committed_entries_never_change(
        &mut self,
        app: &mut App,
        entries: &[Entry],
    ) {
        for entry in entries {
            app.apply(entry);
            self.note(app);
        }
    }

    /// A member says that this snapshot is what was committed.
    pub(crate) fn invariant_snapshots_hold_what_was_committed(&mut self, app: &App) {
        assert!(app.index <= self.committed_index(), "invariant_snapshots: {app:?}");
        self.note(app);
        let members = self.members.range(..=app.index).next_back().map(|(_, members)| members);
        assert_eq!(members, Some(&app.members), "invariant_snapshots_hold_the_members: {app:?}");
    }

    /// An entry is committed by its leader only when a majority has it on disk.
    pub(crate) fn invariant_committed_is_on_a_majority<'a>(
        &self,
        entries: &[Entry],
        voters: &Members,
        disks: impl Fn(NodeId) -> Option<&'a Disk>,
    ) {
        let Some(last) = entries.last().filter(|last| last.index > self.committed_index()) else {
            return;
        };
        let holds = |id: &&NodeId| disks(**id).is_some_and(|d| d.holds(last.index, last.term));
        let copies = voters.voters.iter().filter(holds).count();
        let enough = self.lost || 2 * copies > voters.voters.len();
        assert!(enough, "invariant_committed_is_on_a_majority: {copies} copies of {last:?}");
    }

    /// What a leader is the first to commit ends with an entry of its own term: older ones are
    /// committed by it, never by counting copies (paper 5.4.2, figure 8).
    pub(crate) fn invariant_only_the_own_term_is_counted(&self, entries: &[Entry], term: u64) {
        if let Some(last) = entries.last().filter(|last| last.index > self.committed_index()) {
            assert_eq!(last.term, term, "invariant_only_the_own_term_is_counted: {last:?}");
        }
    }

    /// A member leads.
    pub(crate) fn invariant_one_leader_per_term(&mut self, term: u64, id: NodeId) {
        let other = *self.leaders.entry(term).or_insert(id);
        assert_eq!(other, id, "invariant_one_leader_per_term: term {term}");
    }

    /// A new leader's log holds what was committed in the terms before (paper 5.4).
    pub(crate) fn invariant_a_leader_holds_what_was_committed(&self, term: u64, last: u64) {
        let below = self.committed.partition_point(|(of, _)| *of < term);
        let held = last >= below as u64;
        assert!(held, "invariant_a_leader_holds_what_was_committed: {last} of {below}");
    }

    /// Two logs with an entry of the same index and term hold the same there (paper 5.3).
    pub(crate) fn invariant_same_index_and_term_same_entry(&mut self, entries: &[Entry]) {
        for pair in entries.windows(2) {
            let next = pair[1].index == pair[0].index + 1 && pair[1].term >= pair[0].term;
            assert!(next, "invariant_entries_are_consecutive: {pair:?}");
        }
        for entry in entries {
            let hash = hash_of(0, entry);
            let known = *self.entries.entry((entry.term, entry.index)).or_insert(hash);
            assert_eq!(known, hash, "invariant_same_index_and_term_same_entry: {entry:?}");
        }
    }

    /// A read sees all that was acknowledged before it was asked for.
    pub(crate) fn invariant_reads_see_what_was_acknowledged(index: u64, floor: u64) {
        assert!(index >= floor, "invariant_reads_see_what_was_acknowledged: {index} of {floor}");
    }

    /// A client's proposal was committed at `index`.
    pub(crate) fn acknowledge(&mut self, index: u64) {
        self.acknowledged = self.acknowledged.max(index);
    }
}

fn invariant_members_change_one_at_a_time(old: &Members, new: &Members) {
    let changed = old.voters.symmetric_difference(&new.voters).count();
    assert!(changed <= 1, "invariant_members_change_one_at_a_time: {old:?} {new:?}");
}

/// What needs a durable write is not said before (paper 5: "updated on stable storage before
/// responding").
pub(crate) fn invariant_nothing_is_said_before_it_is_durable(
    to: NodeId,
    message: &Message,
    disk: &Disk,
) {
    match &message.body {
        Body::VoteReply { pre: false, granted: true, .. } => {
            let held = disk.vote() == (message.term, Some(to)) || disk.vote().0 > message.term;
            assert!(held, "invariant_nothing_is_said_before_it_is_durable: {message:?}");
        }
        Body::AppendOk { index } => {
            let held = disk.last() >= *index || disk.vote().0 > message.term;
            assert!(held, "invariant_nothing_is_said_before_it_is_durable: {message:?}");
        }
        Body::SnapshotReply { .. }
        | Body::Vote { .. }
        | Body::VoteReply { .. }
        | Body::Append { .. }
        | Body::AppendRejected { .. }
        | Body::Heartbeat { .. }
        | Body::HeartbeatReply { .. }
        | Body::Snapshot { .. }
        | Body::Read { .. }
        | Body::ReadReply { .. }
        | Body::TimeoutNow
        | Body::GivenUp => {}
    }
}

/// One message is never larger than its limit, but for one entry that travels alone.
pub(crate) fn invariant_messages_are_bounded(message: &Message) {
    let bytes = match &message.body {
        Body::Append { entries, .. } if entries.len() > 1 => entries
            .iter()
            .map(|entry| match &entry.payload {
                Payload::Command(data) => data.len(),
                Payload::Nothing | Payload::Members(_) => 0,
            })
            .sum(),
        Body::Snapshot { piece, .. } => piece.len(),
        _ => 0,
    };
    assert!(bytes <= MESSAGE_BYTES_MAX + HEAD_BYTES, "invariant_messages_are_bounded: {bytes}");
}
