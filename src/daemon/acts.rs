//! Carries out the worker's actions on a bounded pool of threads that end when idle.
//!
//! Three lanes, so that eight pulls from a dead registry cannot keep a container from being stopped,
//! nor can a card that stalls: making containers, signals, which touch no disk, and everything else.
//! Beside them run the probes of health checks. Within a lane, first come, first served. The worker has
//! at most one action of a task under way, so the queues are bounded by the number of its tasks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use async_channel::Receiver;

use super::brain::{Events, reply};
use super::handle::{Event, Failure};
use super::steps::Steps;
use crate::base::id::TaskId;
use crate::logic::manager::io::Fence;
use crate::logic::worker::io::{Action, Probe, Record};
use crate::model::node::NodeDescription;

/// Containers made at once: a pull or an unpack keeps a whole small core busy.
const MAKING_MAX: usize = 6;

/// How long a leaving node waits for actions under way: shorter than a command line waits.
const GIVE_UP_WAIT: std::time::Duration = std::time::Duration::from_secs(20);

/// Other actions at once.
const QUICK_MAX: usize = 6;

/// Probes of health checks at once; more wait for their turn. Each is a runc of some MiB while it lasts.
const PROBES_MAX: usize = 6;

/// Signals at once: a shim that does not answer holds one up for some seconds.
const SIGNALS_MAX: usize = 8;

/// The three lanes.
#[derive(Debug)]
pub(super) struct Acts {
    steps: Arc<Steps>,
    events: Events,
    making: Lane,
    quick: Lane,
    signals: Lane,
    probing: usize,
    /// One of a task at most.
    probes: VecDeque<(TaskId, Probe)>,
    under_way: BTreeMap<TaskId, Kind>,
    leaving: Option<SyncSender<Result<(), Failure>>>,
    /// The daemon was told to stop while the node left.
    stop_after: bool,
}

#[derive(Debug, Default)]
struct Lane {
    running: usize,
    queue: VecDeque<(TaskId, Action, Option<Box<Record>>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Making,
    Quick,
    Signal,
}

impl Acts {
    pub(super) fn new(steps: Arc<Steps>, events: Events) -> Self {
        Self {
            steps,
            events,
            making: Lane::default(),
            quick: Lane::default(),
            signals: Lane::default(),
            probing: 0,
            probes: VecDeque::new(),
            under_way: BTreeMap::new(),
            leaving: None,
            stop_after: false,
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

    /// The daemon ends when the node has left.
    pub(super) fn stop_after_leaving(&mut self) {
        log::info!("stopping when the node has left");
        self.stop_after = true;
    }

    /// The node leaves: nothing more is begun, and what is under way ends at its next step. Returns
    /// when it has, or after a while: a pull cannot be cut short, but makes nothing afterwards.
    pub(super) async fn give_up(&mut self, events: &Receiver<Event>) {
        self.steps.close();
        self.making.queue.clear();
        self.quick.queue.clear();
        self.signals.queue.clear();
        // Those under way end with their containers.
        self.probes.clear();
        let all = async {
            while !self.under_way.is_empty() {
                match events.recv().await {
                    Ok(Event::Acted { task, .. }) => {
                        self.under_way.remove(&task);
                    }
                    Ok(Event::Command { answer, .. } | Event::ChangeTrust { answer, .. }) => {
                        reply(&answer, Err(Failure::NoSwarm));
                    }
                    Ok(Event::Leave { answer, .. }) => reply(&answer, Err(Failure::NotInSwarm)),
                    Ok(Event::Init { answer, .. }) => reply(&answer, Err(Failure::AlreadySwarm)),
                    Ok(Event::Join { answer, .. }) => reply(&answer, Err(Failure::AlreadySwarm)),
                    Ok(Event::Tokens { answer }) => reply(&answer, Err(Failure::NoSwarm)),
                    Ok(Event::Stop) => self.stop_after_leaving(),
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        };
        let late = async {
            smol::Timer::after(GIVE_UP_WAIT).await;
            log::warn!("some tasks are still being made; what they leave goes at the next start");
        };
        smol::future::or(all, late).await;
        if self.stop_after && self.events.send(Event::Stop).await.is_err() {
            log::debug!("nobody is left to be stopped");
        }
    }

    /// Begins an action, or queues it.
    pub(super) fn begin(&mut self, task: TaskId, action: Action, record: Option<Box<Record>>) {
        let kind = match action {
            Action::Prepare(_) => Kind::Making,
            Action::Stop | Action::Kill if record.is_none() => Kind::Signal,
            Action::Start { .. }
            | Action::Stop
            | Action::Kill
            | Action::Clean
            | Action::Remove
            | Action::Remember => Kind::Quick,
        };
        let (lane, max) = self.lane(kind);
        lane.queue.push_back((task, action, record));
        if lane.running < max {
            self.next(kind);
        }
    }

    /// Begins a probe, or queues it.
    pub(super) fn probe(&mut self, task: TaskId, probe: Probe) {
        self.probes.push_back((task, probe));
        self.next_probe();
    }

    /// A probe ended: the next one begins.
    pub(super) fn probed(&mut self) {
        self.probing = self.probing.saturating_sub(1);
        self.next_probe();
    }

    fn next_probe(&mut self) {
        if self.probing >= PROBES_MAX {
            return;
        }
        let Some((task, probe)) = self.probes.pop_front() else { return };
        self.probing += 1;
        let (steps, events) = (Arc::clone(&self.steps), self.events.clone());
        smol::unblock(move || {
            let probed = steps.probe(task, &probe);
            if events.send_blocking(Event::Probed { task, probed }).is_err() {
                log::debug!("task {task}: a probe ended after the daemon stopped");
            }
        })
        .detach();
    }

    /// Keeps a fence, without a word on how that went.
    pub(super) fn keep_fence(&self, fence: Fence) {
        let steps = Arc::clone(&self.steps);
        smol::unblock(move || steps.keep_fence(fence)).detach();
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
            Kind::Signal => (&mut self.signals, SIGNALS_MAX),
        }
    }

    fn next(&mut self, kind: Kind) {
        let (lane, _) = self.lane(kind);
        let Some((task, action, record)) = lane.queue.pop_front() else { return };
        lane.running += 1;
        self.under_way.insert(task, kind);
        let (steps, events) = (Arc::clone(&self.steps), self.events.clone());
        smol::unblock(move || {
            let outcome = steps.perform(task, action, record);
            if events.send_blocking(Event::Acted { task, outcome }).is_err() {
                log::debug!("task {task}: an action ended after the daemon stopped");
            }
        })
        .detach();
    }
}
