//! What is durable, and what is on its way to the disk.
//!
//! Not the log itself: only how far the disk has got with what is in it now.
//!
//! **Invariant:** `durable` <= `queued` <= the log's last index; what a write on its way counts for
//! is cut when the log is.

use std::collections::VecDeque;

use super::io::Ticket;
use crate::base::time::{Span, Time};
use crate::model::wire::HardState;

/// A write on its way.
#[derive(Debug)]
struct UnderWay {
    ticket: Ticket,
    /// When it is durable, the log is through this index.
    through: u64,
    hard: HardState,
    heals: bool,
    since: Time,
}

/// What is durable, and what is on its way.
#[derive(Debug)]
pub(super) struct Writes {
    next: Ticket,
    durable: u64,
    queued: u64,
    hard: HardState,
    under_way: VecDeque<UnderWay>,
}

/// What has become durable.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// A write with `heals` was among it.
    pub(super) healed: bool,
    /// The newest ticket.
    pub(super) ticket: Ticket,
}

impl Writes {
    pub(super) const fn new(durable: u64, hard: HardState) -> Self {
        Self { next: Ticket(1), durable, queued: durable, hard, under_way: VecDeque::new() }
    }

    /// The log is durable through this index.
    pub(super) const fn durable(&self) -> u64 {
        self.durable
    }

    /// The log was handed to the disk through this index.
    pub(super) const fn queued(&self) -> u64 {
        self.queued
    }

    /// The durable hard state.
    pub(super) const fn hard(&self) -> HardState {
        self.hard
    }

    /// The hard state that was handed to the disk last.
    pub(super) fn queued_hard(&self) -> HardState {
        self.under_way.back().map_or(self.hard, |last| last.hard)
    }

    /// Whether a write that forgets the cut is on its way.
    pub(super) fn is_healing(&self) -> bool {
        self.under_way.iter().any(|write| write.heals)
    }

    /// How long the oldest write has been on its way.
    pub(super) fn stalled_for(&self, now: Time) -> Span {
        self.under_way.front().map_or(Span::ZERO, |oldest| now.since(oldest.since))
    }

    /// Hands the log through `through` to the disk.
    pub(super) fn put(&mut self, now: Time, through: u64, hard: HardState, heals: bool) -> Ticket {
        let ticket = self.next;
        self.next = Ticket(ticket.0 + 1);
        self.queued = through;
        self.under_way.push_back(UnderWay { ticket, through, hard, heals, since: now });
        ticket
    }

    /// All through `ticket` is durable.
    pub(super) fn persisted(&mut self, ticket: Ticket) -> Done {
        let mut done = Done::default();
        while let Some(write) = self.under_way.pop_front_if(|write| write.ticket <= ticket) {
            self.durable = self.durable.max(write.through);
            self.hard = write.hard;
            done.healed |= write.heals;
            done.ticket = write.ticket;
        }
        done
    }

    /// Nothing from `ticket` on was written; false: nothing was on its way.
    pub(super) fn refused(&mut self, ticket: Ticket) -> bool {
        let before = self.under_way.len();
        while self.under_way.pop_back_if(|write| write.ticket >= ticket).is_some() {}
        self.queued = self.under_way.back().map_or(self.durable, |last| last.through);
        self.under_way.len() < before
    }

    /// The log was cut behind `through`.
    pub(super) fn truncate(&mut self, through: u64) {
        self.durable = self.durable.min(through);
        self.queued = self.queued.min(through);
        for write in &mut self.under_way {
            write.through = write.through.min(through);
        }
    }

    /// A durable snapshot holds all through `index`.
    pub(super) fn skip_to(&mut self, index: u64) {
        (self.durable, self.queued) = (self.durable.max(index), self.queued.max(index));
    }

    /// The log begins anew behind a durable snapshot.
    pub(super) fn reset(&mut self, index: u64) {
        self.truncate(index);
        (self.durable, self.queued) = (index, index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_counts_only_for_what_was_not_cut_since() {
        let hard = HardState::default();
        let mut writes = Writes::new(4, hard);
        let old = writes.put(Time(1), 7, hard, false);
        writes.truncate(5);
        let new = writes.put(Time(2), 6, hard, false);
        writes.persisted(old);
        assert_eq!((writes.durable(), writes.queued()), (5, 6), "6 and 7 are others by now");
        writes.persisted(new);
        assert_eq!(writes.durable(), 6);
    }

    #[test]
    fn what_is_refused_is_not_on_its_way_any_more() {
        let hard = |term| HardState { term, vote: None, commit: 0 };
        let mut writes = Writes::new(0, hard(1));
        let first = writes.put(Time(1), 2, hard(2), false);
        let second = writes.put(Time(3), 5, hard(3), true);
        assert!(writes.is_healing());
        assert_eq!(writes.stalled_for(Time(8)), Span(7));
        assert!(writes.refused(second));
        assert!(!writes.refused(second), "nothing from there on is on its way");
        assert_eq!((writes.queued(), writes.queued_hard()), (2, hard(2)));
        assert!(!writes.is_healing());
        writes.persisted(first);
        assert_eq!((writes.durable(), writes.hard()), (2, hard(2)));
        assert_eq!(writes.stalled_for(Time(9)), Span::ZERO);
    }
}
