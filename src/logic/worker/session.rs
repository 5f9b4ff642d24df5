//! Whether a leader is heard, and what follows when none is: tasks go on as they were found, leases
//! run out.
//!
//! **Leases.** A task with on-disconnect=stop must be dead before the managers start another. They
//! do that [`LEASE`] + [`LEASE_MARGIN`](crate::model::task::LEASE_MARGIN) after they last heard of
//! the node. Here the lease counts from when something was *sent* to the leader that it has
//! answered, which is never later than what the leader counts from. With `heard` that time and
//! `grace` the task's, but at most [`LEASE_GRACE_MAX`]:
//!
//! ```text
//! heard + LEASE − grace   stop signal, without waiting for the proxy
//! heard + LEASE           SIGKILL
//! heard + LEASE + MARGIN  the managers may start another
//! ```
//!
//! The margin is for the kill itself and for clocks that do not run equally fast. A daemon that
//! starts has heard nobody: it counts from its start. While no daemon runs nobody counts. So what it
//! finds running, and the first manager to speak does not want to run, may have its replacement by
//! now: it is dead after its grace, and after [`LEASE_GRACE_MAX`] at the latest.
//!
//! A start that hangs until the lease is over is not made ([`Action::Start`](super::io::Action)).

use super::Worker;
use super::machine::{Doing, Host, Machine, Wanted};
use super::next::grace;
use crate::base::time::{Now, Span, Time};
use crate::model::task::LEASE;

/// After a start without a manager, tasks go on as they were found after this long.
pub const START_HOLD: Span = Span::from_secs(2);

/// After this long without a session the worker restarts tasks by itself.
pub const AUTONOMY_AFTER: Span = Span::from_secs(5);

/// The longest time that a task has between stop signal and SIGKILL when its lease runs out.
pub const LEASE_GRACE_MAX: Span = Span::from_secs(2);

/// The session with the leader.
#[derive(Debug)]
pub(super) struct Session {
    open: bool,
    /// It has begun, and nothing was told in it yet.
    fresh: bool,
    /// When it was lost, or the start.
    lost: Time,
    /// What was found at start is left alone until then.
    hold: Option<Time>,
    /// What was sent then the leader has answered.
    heard: Time,
    alone: bool,
}

impl Session {
    /// None so far.
    pub(super) fn new(now: Time, alone: bool) -> Self {
        Self {
            open: false,
            fresh: false,
            lost: now,
            hold: Some(now + START_HOLD),
            heard: now,
            alone,
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.open
    }

    /// No other manager could give anybody this node's tasks.
    pub(super) const fn is_alone(&self) -> bool {
        self.alone
    }

    /// One begins.
    pub(super) const fn begin(&mut self) {
        (self.open, self.fresh) = (true, true);
        self.hold = None;
    }

    /// True once for each session.
    pub(super) const fn take_fresh(&mut self) -> bool {
        std::mem::replace(&mut self.fresh, false)
    }

    /// It ended.
    pub(super) const fn lose(&mut self, now: Time) {
        if self.open {
            self.open = false;
            self.lost = now;
        }
    }

    /// The leader was heard.
    pub(super) fn hear(&mut self, at: Time, alone: bool) {
        self.heard = self.heard.max(at);
        self.alone = alone;
    }

    /// From when on the worker restarts tasks by itself.
    pub(super) fn autonomous_from(&self) -> Option<Time> {
        (!self.open).then(|| self.lost + AUTONOMY_AFTER)
    }

    /// When the lease of a task is over, as far as is known now; none where nothing ends it.
    pub(super) fn lease_over(&self, machine: &Machine) -> Option<Time> {
        (!self.alone && machine.is_leased()).then(|| self.heard + LEASE)
    }

    /// When a task's lease leaves just the time to stop it.
    fn lease_end(&self, machine: &Machine) -> Option<Time> {
        let starts = machine.doing == Some(Doing::Start);
        let runs = machine.host == Host::Running || starts;
        let live = runs || (machine.assigned && !machine.is_over());
        let over = self.lease_over(machine).filter(|_| machine.cut_off.is_none() && live)?;
        Some(over - grace(machine).min(LEASE_GRACE_MAX))
    }

    /// When the worker has to look again even if nothing happens.
    pub(super) fn deadline<'a>(&self, tasks: impl Iterator<Item = &'a Machine>) -> Option<Time> {
        let (mut held, mut next) = (false, None);
        for machine in tasks {
            held |= !machine.assigned;
            next = self.lease_end(machine).into_iter().chain(next).min();
        }
        self.hold.filter(|_| held).into_iter().chain(next).min()
    }
}

impl Worker {
    /// What a manager's word says of leases that nobody counted while no daemon ran.
    pub(super) fn cover(&mut self, now: Now) {
        let alone = self.session.is_alone();
        for machine in self.tasks.values_mut().filter(|machine| machine.uncovered) {
            if machine.wanted() > Wanted::Stopped {
                // What it let run by itself a manager has yet to decide on.
                machine.uncovered = !machine.assigned || machine.own.is_some();
                continue;
            }
            machine.uncovered = false;
            if machine.host == Host::Running && !alone {
                machine.cut_off = machine.cut_off.or(Some(now.mono + LEASE_GRACE_MAX));
            }
        }
    }

    /// What follows from the session alone.
    pub(super) fn attend(&mut self, now: Now) {
        let released = self.session.hold.is_some_and(|hold| now.mono >= hold);
        for machine in self.tasks.values_mut() {
            // One that went down is held until somebody says that it runs nowhere else.
            if released && (!machine.is_leased() || machine.host == Host::Running) {
                machine.release(now);
            }
            if self.session.lease_end(machine).is_some_and(|end| now.mono >= end) {
                machine.release(now);
                machine.cut_off = Some(self.session.heard + LEASE);
            }
        }
        if released {
            self.session.hold = None;
        }
    }
}
