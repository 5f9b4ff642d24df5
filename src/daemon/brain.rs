//! The loop that drives the two machines, on the daemon's main thread.
//!
//! It waits for the first event, takes what else is there (at most [`BATCH_EVENTS_MAX`]), steps the
//! machines and performs what they want: log entries go to the log's thread as one batch, actions
//! to the pool, tables to the proxy's thread. Nothing here waits for any of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use async_channel::{Receiver, Sender};

use super::acts::Acts;
use super::asking::Waiting;
use super::beginning::Beginner;
use super::following::Own;
use super::gossiping::Gossiping;
use super::handle::{Event, Failure, Shared, SwarmState};
use super::identity::Identity;
use super::leading::Leading;
use super::links::Links;
use super::locking::Locking;
use super::log_thread::{LogThread, Persist, Write};
use super::node::Host;
use super::papers::Issuer;
use super::plane_thread::PlaneThread;
use super::waiting::{Sources, Wake, wait};
use crate::base::chain;
use crate::base::id::NodeId;
use crate::base::rng::Rng;
use crate::base::time::{Now, Span, Time};
use crate::host::clock::Clock;
use crate::host::pki::Authority;
use crate::host::runtime::ExitEvent;
use crate::host::vault::Vault;
use crate::logic::manager::{self, Manager};
use crate::logic::raft::codec;
use crate::logic::worker::{self, Worker};
use crate::model::peer::ManagerAddress;
use crate::model::validity::CERTIFICATE_LIFE;

/// Most events taken before the machines' outputs are performed.
const BATCH_EVENTS_MAX: usize = 256;

/// The longest that a daemon that stops waits for another leader and for its goodbye to be said.
const GOODBYE_MAX: Span = Span::from_secs(1);

/// Why the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The daemon is to stop; containers and proxy go on.
    Stop,
    /// The machine goes down: what runs is to be stopped.
    GoesDown,
    /// The node leaves its swarm: everything of it is to be removed.
    Leave,
    /// The log holds what this release cannot read. What runs goes on; the daemon must end.
    Broken(String),
}

/// The machines of a node that is in a swarm, and what carries out their wishes.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    /// None on a worker.
    pub(super) seat: Option<Seat>,
    pub(super) worker: Worker,
    pub(super) plane: PlaneThread,
    pub(super) acts: Acts,
    pub(super) links: Links,
}

/// What makes a node a manager.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) manager: Manager,
    pub(super) log: LogThread,
}

/// What the loop is made with, besides the node.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) host: Arc<Host>,
    pub(super) shared: Arc<Shared>,
    pub(super) identity: Identity,
    pub(super) clock: Clock,
    pub(super) requests: Rng,
    /// Where managers were reached last; none where this node made the cluster.
    pub(super) managers: Vec<ManagerAddress>,
    /// The root of a cluster that has none in its store yet.
    pub(super) founding: Option<Authority>,
    pub(super) vault: Vault,
}

/// The loop's own state.
#[derive(Debug)]
pub(super) struct Brain {
    pub(super) host: Arc<Host>,
    pub(super) shared: Arc<Shared>,
    pub(super) identity: Identity,
    pub(super) clock: Clock,
    pub(super) requests: Rng,
    pub(super) waiting: Waiting,
    pub(super) node: Node,
    pub(super) to_manager: VecDeque<manager::io::Input>,
    pub(super) to_worker: VecDeque<worker::io::Input>,
    pub(super) writes: Vec<Persist>,
    /// While this node's manager leads and decides.
    pub(super) lead: Option<Leading>,
    pub(super) own: Own,
    pub(super) gossip: Gossiping,
    /// The cluster's trust, once the store has it.
    pub(super) issuer: Option<Issuer>,
    pub(super) founding: Option<Authority>,
    /// How long certificates are to live in a cluster that has no trust yet.
    pub(super) certificate_life: Span,
    pub(super) lock: Locking,
    /// Index up to which the store was looked at.
    pub(super) seen: u64,
    /// Who leads, as far as this node's manager knows.
    pub(super) leader: Option<NodeId>,
    /// When the daemon stops at the latest, and whether this manager led when that began.
    pub(super) stopping: Option<(Time, bool)>,
    /// It stops because the machine goes down.
    pub(super) goes_down: bool,
    /// It stops because the node leaves its swarm.
    pub(super) leaves: bool,
    exits: Receiver<ExitEvent>,
    /// Who asked for the cluster; answered when it is durable.
    pub(super) init: Option<Beginner>,
    /// What the node cannot go on with.
    pub(super) broken: Option<String>,
}

impl Brain {
    pub(super) fn new(node: Node, setting: Setting, exits: Receiver<ExitEvent>) -> Self {
        let Setting { host, shared, identity, clock, requests, managers, founding, vault } = setting;
        Self {
            host,
            shared,
            identity,
            clock,
            requests,
            waiting: Waiting::default(),
            node,
            lead: None,
            own: Own::new(managers),
            gossip: Gossiping::default(),
            issuer: None,
            founding,
            certificate_life: CERTIFICATE_LIFE,
            lock: Locking::new(vault),
            seen: 0,
            leader: None,
            stopping: None,
            goes_down: false,
            leaves: false,
            to_manager: VecDeque::new(),
            to_worker: VecDeque::new(),
            writes: Vec::new(),
            exits,
            init: None,
            broken: None,
        }
    }

    /// Runs until the daemon stops or the node leaves. Gives the node back, whose threads the
    /// caller ends.
    pub(super) async fn run(mut self, events: &Receiver<Event>) -> (Node, Ended) {
        let description = self.node.acts.description().clone();
        // Who joined a cluster waits to be told of it.
        let founds = self.own.managers.is_empty();
        if let Some(seat) = self.node.seat.as_mut().filter(|it| founds && !it.manager.is_bootstrapped())
        {
            let mut outputs = Vec::new();
            seat.manager.bootstrap(self.clock.now(), description, &mut outputs);
            outputs.into_iter().for_each(|output| self.perform_manager(output));
        }
        self.node.links.set_managers(&self.own.managers, self.node.seat.is_some());
        self.tell_api();
        self.begin_gossip();
        self.to_worker.push_back(worker::io::Input::Tick);
        self.turn();
        loop {
            let deadline = self.deadline();
            let gossip = self.gossip.changes();
            let sources = Sources { events, exits: &self.exits, gossip };
            let mut next = match wait(sources, deadline, &self.clock).await {
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
            if self.stopped() {
                let ended = match (self.leaves, self.goes_down) {
                    (true, _) => Ended::Leave,
                    (false, true) => Ended::GoesDown,
                    (false, false) => Ended::Stop,
                };
                return (self.node, ended);
            }
        }
    }

    /// When to look although nothing happens.
    fn deadline(&self) -> Option<Time> {
        let manager = self.node.seat.as_ref().and_then(|seat| seat.manager.deadline());
        let lead = self.lead.as_ref().and_then(|lead| lead.deadline(self.clock.now().mono));
        let stop = self.stopping.map(|(by, _)| by);
        let (worker, again) = (self.node.worker.deadline(), self.waiting.deadline());
        let all = [manager, worker, lead, again, stop, self.gossip.deadline(), self.lock.deadline()];
        all.into_iter().flatten().min()
    }

    /// Whether a daemon that is to stop can.
    fn stopped(&mut self) -> bool {
        let Some((by, led)) = self.stopping else { return false };
        if self.clock.now().mono >= by {
            return true;
        }
        let said = self.has_said_goodbye(led);
        self.turn();
        said
    }

    /// Turns an event into an input of a machine, or into the loop's end.
    fn take(&mut self, event: Event) -> Option<Ended> {
        match event {
            Event::Command { command, answer } => self.ask(command, answer),
            Event::Init { request, answer } => self.init_again(&request, answer),
            Event::Join { answer, .. } => reply(&answer, Err(Failure::AlreadySwarm)),
            Event::Tokens { answer } => reply(&answer, self.tokens()),
            Event::ChangeTrust { change, answer } => self.change_trust(change, answer),
            Event::UnlockKey { answer } => reply(&answer, self.unlock_key()),
            Event::ChangeLock { change, answer } => self.change_lock(change, answer),
            Event::Unlock { answer, .. } => reply(&answer, Err(self.not_locked())),
            Event::Leave { force, answer } => {
                if let Some(refused) = self.must_stay().filter(|_| !force) {
                    reply(&answer, Err(refused));
                    return None;
                }
                if self.stopping.is_some() {
                    reply(&answer, Err(Failure::Stopping));
                    return None;
                }
                // The caller of `leave` waits until everything is removed: whoever ends the loop
                // keeps the answer.
                self.node.acts.leaving(answer);
                self.leaves = true;
                self.say_goodbye(GOODBYE_MAX);
            }
            Event::Persisted { ticket } => {
                self.to_manager.push_back(manager::io::Input::Persisted { ticket });
            }
            Event::PersistRefused { ticket, reason } => {
                self.refuse_init(&reason);
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
            Event::Absent { image, task, work } => self.node.acts.absent(image, task, work),
            Event::Pulled { image, pulled } => {
                self.to_worker.extend(self.node.acts.pulled(&image, &pulled));
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
            Event::Link(heard) => self.heard(heard),
            Event::GoDown { answer } => self.go_down(answer),
            Event::Gossip => self.gossip_changed(),
            Event::Logs { node, asked, said } => self.ask_logs(node, asked, said),
            // Its containers have their time; whoever is in a hurry sends a second signal.
            Event::Stop if self.goes_down => {}
            Event::Stop if self.leaves => self.node.acts.stop_after_leaving(),
            // Asked twice, it stops at once.
            Event::Stop if self.stopping.is_some() => return Some(Ended::Stop),
            Event::Stop => self.say_goodbye(GOODBYE_MAX),
        }
        None
    }

    /// Steps both machines until nothing is left to be told, then hands the log what it is to write.
    fn turn(&mut self) {
        let now = self.clock.now();
        self.ask_again(now.mono);
        if let Some(seat) = &self.node.seat
            && seat.manager.deadline().is_some_and(|deadline| deadline <= now.mono)
        {
            self.to_manager.push_back(manager::io::Input::Tick);
        }
        if self.node.worker.deadline().is_some_and(|deadline| deadline <= now.mono) {
            self.to_worker.push_back(worker::io::Input::Tick);
        }
        let (mut managed, mut worked) = (Vec::new(), Vec::new());
        loop {
            if let Some(input) = self.to_manager.pop_front() {
                let Some(seat) = &mut self.node.seat else { continue };
                if matches!(input, manager::io::Input::PersistRefused { .. }) {
                    // What the manager has proposed so far it now takes back.
                    self.writes.clear();
                    seat.log.write(Write::Resume);
                }
                seat.manager.step(now, input, &mut managed);
                for output in managed.drain(..) {
                    self.perform_manager(output);
                }
            } else if let Some(input) = self.to_worker.pop_front() {
                self.node.worker.step(now, input, &mut worked);
                for output in worked.drain(..) {
                    self.perform_worker(output);
                }
            } else {
                self.look(now);
                if self.to_manager.is_empty() && self.to_worker.is_empty() {
                    break;
                }
            }
        }
        self.look_at_gossip(now.mono);
        self.hand_over_writes();
        self.tell_begun();
    }

    /// What follows from what the manager holds now.
    fn look(&mut self, now: Now) {
        let Some(seat) = &self.node.seat else { return };
        let (leads, index) = (seat.manager.is_leader(), seat.manager.store().index());
        let leader = seat.manager.raft().leader();
        if leads != self.lead.is_some() {
            if leads { self.begin_leading(now) } else { self.stop_leading() }
            self.tell_gossip_who_leads();
            self.node.links.set_leader(leader, leads);
        } else if leader != self.leader {
            self.node.links.set_leader(leader, leads);
        }
        self.leader = leader;
        if index != self.seen {
            self.seen = index;
            self.watch_nodes(now.mono);
            if let Some(managers) = self.managers()
                && managers != self.own.managers
            {
                self.note_managers(managers.clone());
                self.tell_all(crate::model::peer::Told::Managers(managers), false);
            }
            self.tell_gossip_of_nodes();
            self.tell_trust_of_nodes();
            self.place_self();
        }
        self.look_at_trust();
        self.look_at_rotation(now);
        self.look_at_lock(now.mono);
        self.attend(now);
        self.tell_states();
    }

    fn hand_over_writes(&mut self) {
        if let Some(seat) = &self.node.seat
            && !self.writes.is_empty()
        {
            seat.log.write(Write::Batch(std::mem::take(&mut self.writes)));
        }
    }

    pub(super) fn perform_manager(&mut self, output: manager::io::Output) {
        match output {
            manager::io::Output::Persist { ticket, write, urgent } => {
                self.writes.push(Persist { ticket, write, urgent });
            }
            manager::io::Output::SaveSnapshot { snapshot } => {
                self.hand_over_writes();
                if let Some(seat) = &self.node.seat {
                    seat.log.write(Write::Snapshot(snapshot));
                }
            }
            manager::io::Output::Reply { request, reply } => self.answered(request, reply),
            manager::io::Output::Assign { node, assignments } => self.assign(node, assignments),
            manager::io::Output::Leader { term, leader } => {
                log::debug!("term {term}: leader {leader:?}");
            }
            manager::io::Output::Broken { reason } => self.broken = Some(reason),
            manager::io::Output::Send { to, message } => match codec::encode_message(&message) {
                Ok(bytes) => self.node.links.raft(to, bytes),
                Err(err) => log::error!("a message to node {to}: {}", chain::text(&err)),
            },
            // Only a hint: who was added again replays its removal. The session says what counts.
            manager::io::Output::Removed => log::debug!("this manager was removed once"),
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
                if self.lead.is_some() {
                    let node = self.node.id;
                    self.to_manager.push_back(manager::io::Input::Report { node, report });
                } else {
                    self.report(&report);
                }
            }
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

/// The brain's end of the channel, for the threads that tell it things.
pub(super) type Events = Sender<Event>;
