//! Entries that this leader has proposed and that are not committed yet.
//!
//! **Invariant:** their indexes are consecutive and follow the committed one.

use std::collections::VecDeque;

use crate::base::id::RequestId;
use crate::logic::store::Applied;
use crate::model::entry::Entry;

/// Most entries in flight; at the limit commands are told to come again.
pub(super) const IN_FLIGHT_MAX: usize = 1_024;

/// Bytes in flight above which nothing new is begun: a quarter of what consensus takes.
pub(super) const IN_FLIGHT_BYTES_FULL: u64 = 4 << 20;

/// An entry in flight.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) index: u64,
    /// `None`: not the store's, such as a change of the members.
    pub(super) own: Option<Own>,
    bytes: u64,
}

/// What is known of an entry of the store.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) entry: Entry,
    /// What it did to the planned store.
    pub(super) applied: Applied,
    /// Who waits for it.
    pub(super) waiting: Vec<RequestId>,
}

/// All entries in flight.
#[derive(Debug, Default)]
pub(super) struct Flight {
    queue: VecDeque<InFlight>,
    bytes: u64,
    /// Something was added since it was last asked.
    new: bool,
}

impl Flight {
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= IN_FLIGHT_MAX || self.bytes >= IN_FLIGHT_BYTES_FULL
    }

    /// Whether something was proposed in this step.
    pub(super) const fn has_new(&self) -> bool {
        self.new
    }

    /// The step is over.
    pub(super) const fn note_sent(&mut self) {
        self.new = false;
    }

    /// Takes an entry in.
    pub(super) fn push(&mut self, index: u64, bytes: usize, own: Option<Own>) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        debug_assert!(self.queue.back().is_none_or(|last| last.index + 1 == index));
        self.bytes = self.bytes.saturating_add(bytes);
        self.queue.push_back(InFlight { index, own, bytes });
        self.new = true;
    }

    /// A retried request whose entry is still in flight waits for it, too.
    pub(super) fn wait_too(&mut self, request: RequestId) -> bool {
        let mut own = self.queue.iter_mut().filter_map(|it| it.own.as_mut());
        own.find(|own| own.entry.request == request).is_some_and(|own| {
            own.waiting.push(request);
            true
        })
    }

    /// The entry at this index, if it is the oldest.
    pub(super) fn pop(&mut self, index: u64) -> Option<InFlight> {
        let entry = self.queue.pop_front_if(|entry| entry.index == index)?;
        self.bytes -= entry.bytes;
        Some(entry)
    }

    /// The store's entry at this index.
    pub(super) fn get(&self, index: u64) -> Option<&Own> {
        let first = self.queue.front()?.index;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        self.queue.get(at)?.own.as_ref()
    }

    /// Everybody who waits, and nothing is in flight any more.
    pub(super) fn give_up(&mut self) -> Vec<RequestId> {
        let all = std::mem::take(self).queue.into_iter().filter_map(|entry| entry.own);
        all.flat_map(|own| own.waiting).collect()
    }
}
