//! What a disk that refuses means for a leader: its own work waits, longer each time, and only what
//! makes room goes on, into the log's reserve.
//!
//! A service whose plan only takes away, or tells tasks to end, is planned while the disk refuses:
//! of two tasks in a slot one has to end on a full disk, too. Such a plan goes out in entries of
//! its own, since a write is urgent only as a whole. When the disk refuses even that, the reserve is
//! spent, and that waits as well.

use super::io::Output;
use super::{Manager, REFUSED_WAIT_MAX, REFUSED_WAIT_MIN};
use crate::base::time::{Now, Span, Time};
use crate::logic::raft::io::{self as raft, Ticket};

/// The disk refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocked {
    /// Own work waits until then.
    pub(super) until: Time,
    /// For this long; doubles.
    wait: Span,
    /// What makes room was refused, too.
    spent: bool,
}

impl Manager {
    /// The disk refused, and it is not yet time to try again.
    pub(super) fn is_blocked(&self, now: Now) -> bool {
        self.blocked.is_some_and(|blocked| now.mono < blocked.until)
    }

    /// What makes room may still be written.
    pub(super) fn has_reserve(&self) -> bool {
        self.blocked.is_none_or(|blocked| !blocked.spent)
    }

    /// Nothing from `ticket` on was written.
    pub(super) fn refused(
        &mut self,
        now: Now,
        ticket: Ticket,
        reason: String,
        out: &mut Vec<Output>,
    ) {
        self.refusal = reason;
        let wait = self.blocked.map_or(REFUSED_WAIT_MIN, |last| {
            Span(last.wait.0.saturating_mul(2)).min(REFUSED_WAIT_MAX)
        });
        // Of several that were under way only the last is known: then one more is tried.
        let spent = self.urgent.take() == Some(ticket);
        self.blocked = Some(Blocked { until: now.mono + wait, wait, spent });
        self.consensus(now, raft::Input::PersistRefused { ticket }, out);
    }
}
