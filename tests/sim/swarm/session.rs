//! What the session between a worker and the leader would be: one ordered stream each way, and
//! pings.

use std::collections::VecDeque;

use skep::base::time::{Span, Time};
use skep::logic::manager::io::{Assignments, Report};

/// A segment that was lost is sent again after this long.
pub(crate) const AGAIN: Span = Span::from_millis(200);

/// What goes over a session.
#[derive(Debug)]
pub(crate) enum Word {
    Assign(Assignments),
    Report(Report),
    Ping(Time),
    /// With the time that the ping had.
    Pong(Time),
}

/// One session. Its number is new each time: what is under way in an old one is lost.
#[derive(Debug)]
pub(crate) struct Session {
    pub number: u64,
    pub manager: usize,
    /// Life of the manager's process.
    pub life: u64,
    /// How often that manager had stopped to lead: it ends no later than its leadership.
    pub reign: u64,
    /// On the way to the worker.
    pub down: VecDeque<Word>,
    /// On the way to the manager.
    pub up: VecDeque<Word>,
    /// When the worker's end heard of the manager.
    pub worker_heard: Time,
    /// When the manager's end heard of the worker.
    pub manager_heard: Time,
}
