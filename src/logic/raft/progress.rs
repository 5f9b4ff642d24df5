//! What the leader knows of one follower, and how it sends to it.
//!
//! Three ways: *probe* (it is not known where the logs agree: one message, then wait), *replicate*
//! (entries are sent ahead of the answers, up to a limit), *snapshot* (what it needs is gone).

use std::collections::VecDeque;

use crate::base::time::{Span, Time};

/// Most appends under way to one follower, besides the limit of bytes.
pub(super) const IN_FLIGHT_MAX: usize = 256;

/// How the leader sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// One message at a time.
    Probe {
        /// It is under way.
        waits: bool,
        /// Without entries: an earlier one with them may still be in the follower's hands.
        bare: bool,
    },
    /// Ahead of the answers.
    Replicate,
    /// In pieces of a snapshot.
    Snapshot {
        /// Last index of the snapshot; 0: the layer above was not asked for one yet.
        index: u64,
        /// The next byte that the follower wants.
        offset: u64,
        /// When the last piece left; `None`: nothing is under way.
        sent: Option<Time>,
        /// Only ask what the follower has: the last piece may still be in its hands.
        bare: bool,
    },
}

/// What the leader knows of one follower.
#[derive(Debug)]
pub(super) struct Progress {
    /// The follower's log is durable and the leader's through this index.
    pub(super) matched: u64,
    /// The next entry to send.
    pub(super) next: u64,
    pub(super) flow: Flow,
    /// When it was last heard of; at first when it was begun to send to it.
    heard: Time,
    /// It has answered since then.
    answered: bool,
    /// Who was added holds the entry that says so before anything that it says counts for a vote.
    since: u64,
    /// Newest read that it has confirmed.
    pub(super) read: u64,
    /// Caught up once; told to the layer above.
    pub(super) caught_up: bool,
    /// It is no member any more, but is still told so.
    pub(super) leaving: bool,
    under_way: VecDeque<(u64, u64, Time)>,
    under_way_bytes: u64,
}

impl Progress {
    /// Of a follower whose log is taken to agree before `next`.
    pub(super) const fn new(now: Time, next: u64) -> Self {
        Self {
            matched: 0,
            next,
            flow: Flow::Probe { waits: false, bare: false },
            heard: now,
            answered: false,
            since: next - 1,
            read: 0,
            caught_up: false,
            leaving: false,
            under_way: VecDeque::new(),
            under_way_bytes: 0,
        }
    }

    /// It was heard of.
    pub(super) const fn hear(&mut self, now: Time) {
        (self.heard, self.answered) = (now, true);
    }

    /// For how long it is silent.
    pub(super) const fn silent_for(&self, now: Time) -> Span {
        now.since(self.heard)
    }

    /// It has answered this leader, in this membership.
    pub(super) const fn has_answered(&self) -> bool {
        self.answered
    }

    /// Its log holds the entry that made it a member.
    pub(super) const fn holds_its_beginning(&self) -> bool {
        self.matched >= self.since
    }

    /// What was sent is lost, or is taken to be.
    pub(super) fn forget_sent(&mut self) {
        self.under_way.clear();
        self.under_way_bytes = 0;
    }

    /// Begins to probe before `next`; with entries unless `bare`.
    pub(super) fn probe(&mut self, next: u64, bare: bool) {
        self.forget_sent();
        self.next = next.max(self.matched + 1);
        self.flow = Flow::Probe { waits: false, bare };
    }

    /// Begins to send ahead, behind what the last probe brought.
    pub(super) fn replicate(&mut self) {
        let sent = self.under_way.back().map_or(0, |(last, ..)| *last);
        self.next = self.matched.max(sent) + 1;
        self.flow = Flow::Replicate;
    }

    /// Begins to wait for a snapshot.
    pub(super) fn want_snapshot(&mut self) {
        self.forget_sent();
        self.flow = Flow::Snapshot { index: 0, offset: 0, sent: None, bare: false };
    }

    /// It can be reached (again): what is under way may be lost.
    pub(super) fn resume(&mut self) {
        match &mut self.flow {
            Flow::Probe { waits, bare } => (*waits, *bare) = (false, *bare || *waits),
            Flow::Snapshot { sent, bare, .. } => (*sent, *bare) = (None, *bare || sent.is_some()),
            // One that was started again agrees with nothing before it is told where the logs agree; it
            // would apply nothing, and answer no read, as long as there is nothing new to send.
            Flow::Replicate if self.under_way.is_empty() => self.probe(self.matched + 1, false),
            Flow::Replicate => {
                for (.., at) in &mut self.under_way {
                    *at = Time(0);
                }
            }
        }
    }

    /// Whether more may be sent ahead.
    pub(super) fn has_room(&self, bytes_max: u64) -> bool {
        self.under_way.len() < IN_FLIGHT_MAX && self.under_way_bytes < bytes_max
    }

    /// Entries through `last` left; a probe goes on from where it is.
    pub(super) fn sent(&mut self, now: Time, last: u64, bytes: u64) {
        match &mut self.flow {
            Flow::Probe { waits, .. } => *waits = true,
            Flow::Replicate | Flow::Snapshot { .. } => self.next = last + 1,
        }
        self.under_way_bytes += bytes;
        self.under_way.push_back((last, bytes, now));
    }

    /// Entries through `index` are durable there; true if that is news.
    pub(super) fn acked(&mut self, index: u64) -> bool {
        while let Some((_, bytes, _)) = self.under_way.pop_front_if(|(last, ..)| *last <= index) {
            self.under_way_bytes -= bytes;
        }
        let news = index > self.matched;
        self.matched = self.matched.max(index);
        self.next = self.next.max(self.matched + 1);
        news
    }

    /// Whether the answer to what left before `limit` is still missing; asked once for each, since
    /// the rest is taken to have left now.
    pub(super) fn take_overdue(&mut self, now: Time, limit: Time) -> bool {
        let overdue = self.under_way.front().is_some_and(|(.., at)| *at <= limit);
        if overdue {
            for (.., at) in &mut self.under_way {
                *at = now;
            }
        }
        overdue
    }
}
