//! What the session between a worker and the leader would be: one ordered stream each way, pings,
//! and what both ends conclude from silence (DESIGN section 6).

use std::collections::VecDeque;

use skep::base::time::{Span, Time};
use skep::logic::manager::io::{Assignments, Report};
use skep::model::node::NodeState;

/// Between two pings of a session.
pub(crate) const PING: Span = Span::from_millis(400);

/// A session that is silent for this long is over.
pub(crate) const SILENCE: Span = Span::from_millis(1_200);

/// A host that answers while its daemon does not: Down after this long.
pub(crate) const UNKNOWN: Span = Span::from_secs(10);

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
    /// On the way to the worker.
    pub down: VecDeque<Word>,
    /// On the way to the manager.
    pub up: VecDeque<Word>,
    /// When the worker's end heard of the manager.
    pub worker_heard: Time,
    /// When the manager's end heard of the worker.
    pub manager_heard: Time,
}

/// What a manager knows of one worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence {
    /// When its session was heard, or the manager began to lead.
    pub heard: Time,
    /// When its kernel was heard.
    pub host_heard: Time,
    /// What the manager was told.
    pub told: Option<NodeState>,
}

impl Evidence {
    /// The verdict: Ready while the session speaks; Down once session and kernel are silent, or the
    /// daemon is for long; else Unknown.
    pub(crate) fn verdict(&self, now: Time, session: bool) -> NodeState {
        let silent = now.since(self.heard);
        if session && silent <= SILENCE {
            NodeState::Ready
        } else if silent > UNKNOWN || now.since(self.host_heard) > SILENCE {
            NodeState::Down
        } else {
            NodeState::Unknown
        }
    }
}

pub(crate) fn the_evidence_rule() {
    let at = |ms| Time(1_000_000_000) + Span::from_millis(ms);
    let evidence = Evidence { heard: at(0), host_heard: at(0), told: None };
    assert_eq!(evidence.verdict(at(1_000), true), NodeState::Ready);
    assert_eq!(evidence.verdict(at(1_000), false), NodeState::Unknown);
    assert_eq!(evidence.verdict(at(1_300), true), NodeState::Down);
    let alive = |ms| Evidence { host_heard: at(ms), ..evidence };
    assert_eq!(alive(1_300).verdict(at(1_300), true), NodeState::Unknown);
    assert_eq!(alive(9_900).verdict(at(9_900), false), NodeState::Unknown);
    assert_eq!(alive(10_100).verdict(at(10_100), false), NodeState::Down);
}
