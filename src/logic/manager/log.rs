//! The log with a single voter: what is proposed, in flight and durable.
//!
//! Raft takes this module's place; what is above sees only `propose`, `persisted` and `refused`.
//! An entry commits when it is durable. The term rises with each start and becomes durable with
//! the first entry of that start, so a manager that changes nothing writes nothing.
//!
//! **Invariant:** indexes in flight are consecutive and follow the last committed one.

use std::collections::VecDeque;

use crate::base::id::RequestId;
use crate::logic::codec::{self, CodecError};
use crate::logic::manager::io::LogEntry;
use crate::logic::store::Applied;
use crate::model::entry::Entry;

/// Most entries that wait for the disk; at the limit commands are told to come again.
pub(super) const IN_FLIGHT_MAX: usize = 1_024;

/// An entry that waits for the disk.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) index: u64,
    pub(super) entry: Entry,
    /// What it did to the planned store.
    pub(super) applied: Applied,
    /// Who waits for it.
    pub(super) waiting: Vec<RequestId>,
    bytes: u64,
}

/// What is proposed, in flight and durable.
#[derive(Debug)]
pub(super) struct Log {
    term: u64,
    committed: u64,
    committed_term: u64,
    in_flight: VecDeque<InFlight>,
    /// Encoded, not yet handed to the disk.
    outbox: Vec<LogEntry>,
    /// Bytes committed since the last snapshot was asked for.
    grown_bytes: u64,
}

impl Log {
    /// After what was recovered: `index` and `term` of the last entry, `grown_bytes` after the
    /// snapshot, and the term in which this manager last led.
    pub(super) fn new(index: u64, term: u64, led: u64, grown_bytes: u64) -> Self {
        Self {
            term: led.max(term) + 1,
            committed: index,
            committed_term: term,
            in_flight: VecDeque::new(),
            outbox: Vec::new(),
            grown_bytes,
        }
    }

    pub(super) const fn term(&self) -> u64 {
        self.term
    }

    /// Index of the last committed entry and its term.
    pub(super) const fn committed(&self) -> (u64, u64) {
        (self.committed, self.committed_term)
    }

    pub(super) fn next_index(&self) -> u64 {
        self.in_flight.back().map_or(self.committed, |last| last.index) + 1
    }

    pub(super) fn is_full(&self) -> bool {
        self.in_flight.len() >= IN_FLIGHT_MAX
    }

    /// Whether something is to be handed to the disk in this step.
    pub(super) fn has_outbox(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// The encoded entry, before anything is changed.
    pub(super) fn encode(&self, entry: &Entry) -> Result<LogEntry, CodecError> {
        let data = codec::encode_entry(entry)?;
        let urgent = entry.makes_room();
        Ok(LogEntry { index: self.next_index(), term: self.term, data, urgent })
    }

    /// Takes an entry that was encoded for the next index.
    pub(super) fn push(
        &mut self,
        encoded: LogEntry,
        entry: Entry,
        applied: Applied,
        waiting: Vec<RequestId>,
    ) {
        let (index, bytes) = (encoded.index, encoded.data.len());
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.in_flight.push_back(InFlight { index, entry, applied, waiting, bytes });
        self.outbox.push(encoded);
    }

    /// A retried request whose entry is still in flight waits for it, too.
    pub(super) fn wait_too(&mut self, request: RequestId) -> bool {
        let found = self.in_flight.iter_mut().find(|entry| entry.entry.request == request);
        found.is_some_and(|entry| {
            entry.waiting.push(request);
            true
        })
    }

    /// What is to be handed to the disk.
    pub(super) fn take_outbox(&mut self) -> Vec<LogEntry> {
        std::mem::take(&mut self.outbox)
    }

    /// The next entry that is durable through `index`.
    pub(super) fn commit(&mut self, index: u64) -> Option<InFlight> {
        let entry = self.in_flight.pop_front_if(|entry| entry.index <= index)?;
        self.committed = entry.index;
        self.committed_term = self.term;
        self.grown_bytes = self.grown_bytes.saturating_add(entry.bytes);
        Some(entry)
    }

    /// Drops what the disk refused, from `index` on.
    pub(super) fn refuse(&mut self, index: u64) -> Vec<InFlight> {
        self.outbox.retain(|entry| entry.index < index);
        let keep = self.in_flight.partition_point(|entry| entry.index < index);
        self.in_flight.split_off(keep).into()
    }

    /// What is still in flight, in order.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = &InFlight> {
        self.in_flight.iter()
    }

    /// True once when the log grew by `limit` bytes.
    pub(super) fn take_growth(&mut self, limit: u64) -> bool {
        let due = self.grown_bytes >= limit.max(1);
        if due {
            self.grown_bytes = 0;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ServiceId;
    use crate::base::time::Wall;
    use crate::logic::fixture;
    use crate::model::entry::Change;
    use crate::model::object::{Object, ObjectId};
    use crate::model::task::TaskState;

    #[test]
    fn what_only_takes_away_is_urgent() {
        let log = Log::new(0, 0, 0, 0);
        let urgent = |changes| {
            let request = RequestId::new(1);
            let entry = Entry { request, time: Wall(0), preconditions: Vec::new(), changes };
            log.encode(&entry).expect("encodes").urgent
        };
        let remove = || Change::Remove(ObjectId::Service(ServiceId::new(1)));
        let task = |desired| {
            let mut task = fixture::task(2, 1);
            task.desired = desired;
            Change::Put(Object::Task(Box::new(task)))
        };
        assert!(urgent(vec![remove()]));
        assert!(urgent(vec![remove(), task(TaskState::Remove)]));
        assert!(urgent(vec![task(TaskState::Shutdown)]));
        assert!(!urgent(vec![remove(), task(TaskState::Running)]));
    }
}
