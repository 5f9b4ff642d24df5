//! The loop that drives the two machines, on the daemon's main thread.
//!
//! It waits for the first event, takes what else is there (at most [`BATCH_EVENTS_MAX`]), steps the
//! machines and performs what they want: log entries go to the log's thread as one batch, actions
//! to the pool, tables to the proxy's thread. Nothing here waits for any of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use async_channel::{Receiver, Sender};
use async_io::Timer;
use smol::future::FutureExt;

use super::acts::Acts;
use super::handle::{Event, Failure, Shared, SwarmState};
use super::log_thread::{LogThread, Persist, Write};
use super::plane_thread::PlaneThread;
use crate::base::id::{NodeId, RequestId};
use crate::base::rng::Rng;
use crate::base::time::Time;
use super::steps::exit;
use crate::host::clock::Clock;
use crate::host::runtime::ExitEvent;
use crate::logic::manager::io::{Command, Reply};
use crate::logic::manager::{self, Manager};
use crate::logic::worker::{self, Worker};
use crate::model::cluster::Founding;

/// Most events taken before the machines' outputs are performed.
const BATCH_EVENTS_MAX: usize = 256;

/// Most commands that wait for their answer at once.
const WAITING_MAX: usize = 1_024;

/// Why the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The daemon is to stop; containers and proxy go on.
    Stop,
    /// The node leaves its swarm: everything of it is to be removed.
    Leave,
    /// The log holds what this release cannot read. What runs goes on; the daemon must end.
    Broken(String),
}

/// The machines of a node that is in a swarm, and what carries out their wishes.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) manager: Manager,
    pub(super) worker: Worker,
    pub(super) log: LogThread,
    pub(super) plane: PlaneThread,
    pub(super) acts: Acts,
}

/// The loop's own state.
#[derive(Debug)]
pub(super) struct Brain {
    clock: Clock,
    requests: Rng,
    waiting: BTreeMap<RequestId, SyncSender<Result<Reply, Failure>>>,
    node: Node,
    to_manager: VecDeque<manager::io::Input>,
    to_worker: VecDeque<worker::io::Input>,
    writes: Vec<Persist>,
    exits: Receiver<ExitEvent>,
    /// Who asked for the cluster; answered when it is durable.
    init: Option<SyncSender<Result<NodeId, Failure>>>,
    /// What the manager cannot go on with.
    broken: Option<String>,
}

impl Brain {
    pub(super) fn new(node: Node, clock: Clock, requests: Rng, exits: Receiver<ExitEvent>) -> Self {
        Self {
            clock,
            requests,
            waiting: BTreeMap::new(),
            node,
            to_manager: VecDeque::new(),
            to_worker: VecDeque::new(),
            writes: Vec::new(),
            exits,
            init: None,
            broken: None,
        }
    }

    /// What the new cluster begins with, and whom to tell when it is durable.
    pub(super) fn answer_init(
        &mut self,
        founding: Founding,
        answer: SyncSender<Result<NodeId, Failure>>,
    ) {
        self.node.manager.set_founding(founding);
        self.init = Some(answer);
    }

    /// Runs until the daemon stops or the node leaves. Gives the node back, whose threads the
    /// caller ends.
    pub(super) async fn run(mut self, events: &Receiver<Event>) -> (Node, Ended) {
        let description = self.node.acts.description().clone();
        let node = self.node.id;
        if !self.node.manager.is_bootstrapped() {
            let mut outputs = Vec::new();
            self.node.manager.bootstrap(self.clock.now(), description.clone(), &mut outputs);
            outputs.into_iter().for_each(|output| self.perform_manager(output));
        }
        self.to_manager.push_back(manager::io::Input::WorkerJoined { node, description });
        self.to_worker.push_back(worker::io::Input::Tick);
        self.turn();
        loop {
            let deadline = match (self.node.manager.deadline(), self.node.worker.deadline()) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            let mut next = match wait(events, &self.exits, deadline, &self.clock).await {
                Wake::Event(event) => Some(event),
                Wake::Deadline => None,
                Wake::Closed => return (self.node, Ended::Stop),
            };
            let mut taken = 0;
            while let Some(event) = next.take() {
                if let Some(ended) = self.take(event) {
                    return (self.node, ended);
                }
                taken += 1;
                if taken < BATCH_EVENTS_MAX {
                    next = events.try_recv().ok();
                }
            }
            self.turn();
            if let Some(reason) = self.broken.take() {
                return (self.node, Ended::Broken(reason));
            }
        }
    }

    /// Turns an event into an input of a machine, or into the loop's end.
    fn take(&mut self, event: Event) -> Option<Ended> {
        match event {
            Event::Command { command, answer } => self.ask(command, answer),
            Event::Init { answer, .. } => reply(&answer, Err(Failure::AlreadySwarm)),
            Event::Leave { force: false, answer } => reply(&answer, Err(Failure::LastManager)),
            Event::Leave { force: true, answer } => {
                // The caller of `leave` waits until everything is removed: whoever ends the loop
                // keeps the answer.
                self.node.acts.leaving(answer);
                return Some(Ended::Leave);
            }
            Event::Persisted { ticket } => {
                self.to_manager.push_back(manager::io::Input::Persisted { ticket });
            }
            Event::PersistRefused { ticket, reason } => {
                if let Some(answer) = self.init.take() {
                    reply(&answer, Err(Failure::Host(reason.clone())));
                }
                self.to_manager.push_back(manager::io::Input::PersistRefused { ticket, reason });
            }
            Event::SnapshotSaved { index } => {
                self.to_manager.push_back(manager::io::Input::SnapshotSaved { index });
            }
            Event::SnapshotRefused { index } => {
                self.to_manager.push_back(manager::io::Input::SnapshotRefused { index });
            }
            Event::Acted { task, outcome } => {
                self.node.acts.ended(task);
                self.to_worker.push_back(worker::io::Input::Acted { task, outcome });
            }
            Event::Probed { task, probed } => {
                self.node.acts.probed();
                self.to_worker.push_back(worker::io::Input::Probed { task, probed });
            }
            Event::Exited { task, exit } => {
                self.to_worker.push_back(worker::io::Input::Exited { task, exit });
            }
            Event::RoutesApplied { generation, refused } => {
                self.to_worker.push_back(worker::io::Input::RoutesApplied { generation, refused });
            }
            Event::Stop => return Some(Ended::Stop),
        }
        None
    }

    fn ask(&mut self, command: Command, answer: SyncSender<Result<Reply, Failure>>) {
        if self.waiting.len() >= WAITING_MAX {
            let text = "the daemon is busy: too many requests wait, try again".to_owned();
            return reply(&answer, Err(Failure::Refused(manager::io::CommandError::Busy(text))));
        }
        let request = RequestId::new(self.requests.next_u128());
        self.waiting.insert(request, answer);
        self.to_manager.push_back(manager::io::Input::Command { request, command });
    }

    /// Steps both machines until neither has anything left to be told, then hands the log what it
    /// is to write.
    fn turn(&mut self) {
        let now = self.clock.now();
        if self.node.manager.deadline().is_some_and(|deadline| deadline <= now.mono) {
            self.to_manager.push_back(manager::io::Input::Tick);
        }
        if self.node.worker.deadline().is_some_and(|deadline| deadline <= now.mono) {
            self.to_worker.push_back(worker::io::Input::Tick);
        }
        let (mut managed, mut worked) = (Vec::new(), Vec::new());
        loop {
            if let Some(input) = self.to_manager.pop_front() {
                if matches!(input, manager::io::Input::PersistRefused { .. }) {
                    // What the manager has proposed so far it now takes back.
                    self.writes.clear();
                    self.node.log.write(Write::Resume);
                }
                self.node.manager.step(now, input, &mut managed);
                for output in managed.drain(..) {
                    self.perform_manager(output);
                }
            } else if let Some(input) = self.to_worker.pop_front() {
                self.node.worker.step(now, input, &mut worked);
                for output in worked.drain(..) {
                    self.perform_worker(output);
                }
            } else {
                break;
            }
        }
        self.hand_over_writes();
        if self.node.manager.is_bootstrapped()
            && let Some(answer) = self.init.take()
        {
            reply(&answer, Ok(self.node.id));
        }
    }

    fn hand_over_writes(&mut self) {
        if !self.writes.is_empty() {
            self.node.log.write(Write::Batch(std::mem::take(&mut self.writes)));
        }
    }

    fn perform_manager(&mut self, output: manager::io::Output) {
        match output {
            manager::io::Output::Persist { ticket, write, urgent } => {
                self.writes.push(Persist { ticket, write, urgent });
            }
            manager::io::Output::SaveSnapshot { snapshot } => {
                self.hand_over_writes();
                self.node.log.write(Write::Snapshot(snapshot));
            }
            manager::io::Output::Reply { request, reply: result } => {
                if let Some(answer) = self.waiting.remove(&request) {
                    reply(&answer, result.map_err(Failure::Refused));
                }
            }
            manager::io::Output::Assign { node, assignments } => {
                if node == self.node.id {
                    self.to_worker.push_back(worker::io::Input::Assignments(assignments));
                }
            }
            manager::io::Output::Leader { term, leader } => {
                log::debug!("term {term}: leader {leader:?}");
            }
            manager::io::Output::Broken { reason } => self.broken = Some(reason),
            // A node that cannot be joined has no peers to tell anything.
            manager::io::Output::Send { .. } | manager::io::Output::Removed => {}
        }
    }

    fn perform_worker(&mut self, output: worker::io::Output) {
        match output {
            worker::io::Output::Act { task, action, record } => {
                self.node.acts.begin(task, action, record);
            }
            worker::io::Output::Probe { task, probe } => self.node.acts.probe(task, probe),
            worker::io::Output::KeepFence { fence } => self.node.acts.keep_fence(fence),
            worker::io::Output::Routes { generation, ports } => {
                self.node.plane.set(generation, ports);
            }
            worker::io::Output::Report(report) => {
                let node = self.node.id;
                self.to_manager.push_back(manager::io::Input::Report { node, report });
            }
        }
    }
}

/// Answers the events of a node that is in no swarm, until it is told to make one or to stop.
pub(super) async fn idle(events: &Receiver<Event>) -> Option<Event> {
    loop {
        match events.recv().await {
            Ok(event @ Event::Init { .. }) => return Some(event),
            Ok(Event::Stop) | Err(_) => return None,
            Ok(Event::Command { answer, .. }) => reply(&answer, Err(Failure::NoSwarm)),
            Ok(Event::Leave { answer, .. }) => reply(&answer, Err(Failure::NotInSwarm)),
            // What a swarm left behind comes too late to matter.
            Ok(
                Event::Persisted { .. }
                | Event::PersistRefused { .. }
                | Event::SnapshotSaved { .. }
                | Event::SnapshotRefused { .. }
                | Event::Acted { .. }
                | Event::Probed { .. }
                | Event::Exited { .. }
                | Event::RoutesApplied { .. },
            ) => {}
        }
    }
}

/// Tells the API whether the node is in a swarm.
pub(super) fn publish(shared: &Arc<Shared>, state: SwarmState) {
    match shared.swarm.write() {
        Ok(mut swarm) => *swarm = state,
        Err(poisoned) => *poisoned.into_inner() = state,
    }
}

/// Answers a caller; one that has gone away is no error.
pub(super) fn reply<T>(answer: &SyncSender<Result<T, Failure>>, result: Result<T, Failure>) {
    if answer.try_send(result).is_err() {
        log::debug!("a caller went away before its answer");
    }
}

enum Wake {
    Event(Event),
    Deadline,
    Closed,
}

async fn wait(
    events: &Receiver<Event>,
    exits: &Receiver<ExitEvent>,
    deadline: Option<Time>,
    clock: &Clock,
) -> Wake {
    let event = async {
        match events.recv().await {
            Ok(event) => Wake::Event(event),
            Err(_) => Wake::Closed,
        }
    };
    let exit = async {
        match exits.recv().await {
            Ok(event) => {
                Wake::Event(Event::Exited { task: event.task, exit: exit(&event.exit) })
            }
            Err(_) => Wake::Closed,
        }
    };
    let event = event.or(exit);
    match deadline {
        None => event.await,
        Some(deadline) => {
            let left = deadline.since(clock.now().mono).as_std();
            let timer = async {
                Timer::after(left).await;
                Wake::Deadline
            };
            event.or(timer).await
        }
    }
}

/// The brain's end of the channel, for the threads that tell it things.
pub(super) type Events = Sender<Event>;
