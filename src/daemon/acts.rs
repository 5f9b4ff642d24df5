//! Carries out the worker's actions on a bounded pool of threads that end when idle.
//!
//! What runs and what waits, `lanes` says: eight pulls from a dead registry cannot keep a container
//! from being stopped or another from being started, nor can a card that stalls. Beside the lanes run
//! the probes of health checks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use async_channel::Receiver;

use super::brain::{Events, reply};
use super::handle::{Event, Failure};
use super::lanes::{Absent, Begin, Kind, Lanes};
use super::steps::{Performed, Steps, Work};
use crate::base::id::TaskId;
use crate::host::images::Lease;
use crate::logic::manager::io::Fence;
use crate::logic::worker::io::{Action, Input, Outcome, Probe, Record};
use crate::model::node::NodeDescription;

/// How long a leaving node waits for actions under way: shorter than a command line waits.
const GIVE_UP_WAIT: std::time::Duration = std::time::Duration::from_secs(20);

/// Probes of health checks at once; more wait for their turn. Each is a runc of some MiB while it lasts.
const PROBES_MAX: usize = 6;

/// The lanes and their threads.
#[derive(Debug)]
pub(super) struct Acts {
    steps: Arc<Steps>,
    events: Events,
    lanes: Lanes<Work>,
    probing: usize,
    /// One of a task at most.
    probes: VecDeque<(TaskId, Probe)>,
    leaving: Option<SyncSender<Result<(), Failure>>>,
    /// The daemon was told to stop while the node left.
    stop_after: bool,
}

impl Acts {
    pub(super) fn new(steps: Arc<Steps>, events: Events) -> Self {
        Self {
            steps,
            events,
            lanes: Lanes::new(),
            probing: 0,
            probes: VecDeque::new(),
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

    /// Nothing more is begun or made.
    pub(super) fn close(&mut self) {
        self.steps.close();
        self.lanes.clear();
        // Those under way end with their containers.
        self.probes.clear();
    }

    /// The daemon ends when the node has left.
    pub(super) fn stop_after_leaving(&mut self) {
        log::info!("stopping when the node has left");
        self.stop_after = true;
    }

    /// The node leaves: nothing more is begun, and what is under way ends at its next step. Returns
    /// when it has, or after a while: a pull cannot be cut short, but makes nothing afterwards.
    pub(super) async fn give_up(&mut self, events: &Receiver<Event>) {
        self.close();
        let all = async {
            while !self.lanes.is_idle() {
                match events.recv().await {
                    Ok(Event::Acted { task, .. } | Event::Absent { task, .. }) => {
                        self.lanes.ended(task);
                    }
                    Ok(Event::Pulled { image, .. }) => {
                        self.lanes.pulled(&image);
                    }
                    Ok(
                        Event::Command { answer, .. }
                        | Event::ChangeTrust { answer, .. }
                        | Event::ChangeLock { answer, .. },
                    ) => reply(&answer, Err(Failure::NoSwarm)),
                    Ok(Event::UnlockKey { answer }) => reply(&answer, Err(Failure::NoSwarm)),
                    Ok(Event::Unlock { answer, .. }) => reply(&answer, Err(Failure::NoSwarm)),
                    Ok(Event::Leave { answer, .. }) => reply(&answer, Err(Failure::NotInSwarm)),
                    Ok(Event::Init { answer, .. }) => reply(&answer, Err(Failure::AlreadySwarm)),
                    Ok(Event::Join { answer, .. }) => reply(&answer, Err(Failure::AlreadySwarm)),
                    Ok(Event::Tokens { answer }) => reply(&answer, Err(Failure::NoSwarm)),
                    Ok(Event::GoDown { answer }) => reply(&answer, Err(Failure::NoSwarm)),
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
        self.lanes.push(kind, task, Work { action, record, lease: None });
        self.next();
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
        self.lanes.ended(task);
        self.next();
    }

    /// An action waits for an image, which is pulled.
    pub(super) fn absent(&mut self, image: Absent, task: TaskId, work: Work) {
        self.lanes.absent(image, task, work);
        self.next();
    }

    /// A pull ended: who waited for it goes on, or is told here why it cannot.
    pub(super) fn pulled(
        &mut self,
        image: &Absent,
        pulled: &Result<Arc<Lease>, Outcome>,
    ) -> Vec<Input> {
        let mut told = Vec::new();
        for (task, work) in self.lanes.pulled(image) {
            match pulled {
                Ok(lease) => {
                    let work = Work { lease: Some(Arc::clone(lease)), ..work };
                    self.lanes.push(Kind::Making, task, work);
                }
                Err(outcome) => told.push(Input::Acted { task, outcome: outcome.clone() }),
            }
        }
        self.next();
        told
    }

    /// Begins what may begin now.
    fn next(&mut self) {
        while let Some(begin) = self.lanes.next() {
            let (steps, events) = (Arc::clone(&self.steps), self.events.clone());
            smol::unblock(move || {
                let (what, event) = match begin {
                    Begin::Act(task, work) => {
                        let event = match steps.perform(task, work) {
                            Performed::Ended(outcome) => Event::Acted { task, outcome },
                            Performed::Absent(image, work) => Event::Absent { image, task, work },
                        };
                        (format!("an action of task {task}"), event)
                    }
                    Begin::Pull(image) => {
                        let pulled = steps.pull(&image.name);
                        (format!("a pull of {}", image.name), Event::Pulled { image, pulled })
                    }
                };
                if events.send_blocking(event).is_err() {
                    log::debug!("{what} ended after the daemon stopped");
                }
            })
            .detach();
        }
    }
}
