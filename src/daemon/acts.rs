//! Carries out the worker's actions on a bounded pool of threads that end when idle.
//!
//! Two lanes, so that eight pulls from a dead registry cannot keep a container from being stopped:
//! making containers, and everything else. Within a lane, first come, first served. The worker has
//! at most one action of a task under way, so the queues are bounded by the number of its tasks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::brain::Events;
use super::handle::{Event, Failure};
use super::steps::Steps;
use crate::base::id::TaskId;
use crate::logic::worker::io::Action;
use crate::model::node::NodeDescription;

/// Containers made at once: a pull or an unpack keeps a whole small core busy.
const MAKING_MAX: usize = 6;

/// Other actions at once.
const QUICK_MAX: usize = 6;

/// The two lanes.
#[derive(Debug)]
pub(super) struct Acts {
    steps: Arc<Steps>,
    events: Events,
    making: Lane,
    quick: Lane,
    under_way: BTreeMap<TaskId, Kind>,
    leaving: Option<SyncSender<Result<(), Failure>>>,
}

#[derive(Debug, Default)]
struct Lane {
    running: usize,
    queue: VecDeque<(TaskId, Action)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Making,
    Quick,
}

impl Acts {
    pub(super) fn new(steps: Arc<Steps>, events: Events) -> Self {
        Self {
            steps,
            events,
            making: Lane::default(),
            quick: Lane::default(),
            under_way: BTreeMap::new(),
            leaving: None,
        }
    }

    pub(super) fn description(&self) -> &NodeDescription {
        self.steps.description()
    }

    /// Remembers who is to be told when everything is removed.
    pub(super) fn leaving(&mut self, answer: SyncSender<Result<(), Failure>>) {
        self.leaving = Some(answer);
    }

    /// Who is to be told when everything is removed.
    pub(super) fn take_leaving(&mut self) -> Option<SyncSender<Result<(), Failure>>> {
        self.leaving.take()
    }

    /// Begins an action, or queues it.
    pub(super) fn begin(&mut self, task: TaskId, action: Action) {
        let kind = match action {
            Action::Prepare(_) => Kind::Making,
            Action::Start | Action::Stop | Action::Kill | Action::Clean | Action::Remove => {
                Kind::Quick
            }
        };
        let (lane, max) = self.lane(kind);
        lane.queue.push_back((task, action));
        if lane.running < max {
            self.next(kind);
        }
    }

    /// An action ended: the next one of its lane begins.
    pub(super) fn ended(&mut self, task: TaskId) {
        if let Some(kind) = self.under_way.remove(&task) {
            self.lane(kind).0.running -= 1;
            self.next(kind);
        }
    }

    fn lane(&mut self, kind: Kind) -> (&mut Lane, usize) {
        match kind {
            Kind::Making => (&mut self.making, MAKING_MAX),
            Kind::Quick => (&mut self.quick, QUICK_MAX),
        }
    }

    fn next(&mut self, kind: Kind) {
        let (lane, _) = self.lane(kind);
        let Some((task, action)) = lane.queue.pop_front() else { return };
        lane.running += 1;
        self.under_way.insert(task, kind);
        let (steps, events) = (Arc::clone(&self.steps), self.events.clone());
        smol::unblock(move || {
            let outcome = steps.perform(task, action);
            if events.send_blocking(Event::Acted { task, outcome }).is_err() {
                log::debug!("task {task}: an action ended after the daemon stopped");
            }
        })
        .detach();
    }
}
