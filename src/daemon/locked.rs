//! A manager that waits for its unlock key: it has neither log nor papers, and so no word with anybody.
//!
//! What it ran it goes on running, by the rules of a worker that hears no manager; its ports stay open. When
//! the key comes, log and papers are opened beside what runs, which is handed over as it is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use async_channel::Receiver;

use super::brain::{self, Brain, reply};
use super::handle::{Event, Failure, Shared, SwarmState};
use super::identity::Identity;
use super::node::Host;
use super::starting::Hands;
use super::waiting::{Sources, Wake, wait};
use crate::base::chain;
use crate::host::vault::Locked;
use crate::logic::worker::io::{Input, Output};
use crate::model::unlock_key::UnlockKey;

/// What became of it.
pub(super) enum After {
    /// It is a manager again.
    Unlocked(Box<Brain>),
    /// The daemon is to stop.
    Stopped,
    /// The node has left its swarm.
    Left,
}

/// Why the wait ends, or may.
enum Word {
    Unlock { key: UnlockKey, answer: SyncSender<Result<(), Failure>> },
    Leave,
    GoDown,
    Stop,
}

/// The node while it waits.
struct Waiting {
    host: Arc<Host>,
    shared: Arc<Shared>,
    identity: Identity,
    hands: Hands,
    inputs: VecDeque<Input>,
}

/// Runs what runs until the key comes, the daemon stops or the node leaves.
pub(super) async fn run(
    host: &Arc<Host>,
    shared: &Arc<Shared>,
    identity: Identity,
    locked: Locked,
    hands: Hands,
    events: &Receiver<Event>,
) -> After {
    log::warn!("the keys of this manager are locked: unlock it with `skep unlock`");
    let (host, shared) = (Arc::clone(host), Arc::clone(shared));
    let mut node =
        Waiting { host, shared, identity, hands, inputs: VecDeque::from([Input::Tick]) };
    let exits = node.host.runtime.events();
    loop {
        node.turn();
        let deadline = node.hands.worker.deadline();
        let sources = Sources { events, exits: &exits, gossip: None };
        let word = match wait(sources, deadline, &node.host.clock).await {
            Wake::Event(event) => node.take(event),
            Wake::Deadline => None,
            Wake::Closed => Some(Word::Stop),
        };
        match word {
            None => {}
            Some(Word::Unlock { key, answer }) => match node.unlock(&locked, &key) {
                Ok(unlocked) => {
                    unlocked.tell_api();
                    reply(&answer, Ok(()));
                    return After::Unlocked(unlocked);
                }
                Err(failed) => {
                    node = failed.0;
                    reply(&answer, Err(failed.1));
                }
            },
            Some(Word::Leave) => {
                brain::publish(&node.shared, SwarmState::Inactive);
                let Hands { plane, acts, .. } = node.hands;
                node.host.leave(acts, || plane.finish(), node.identity, events).await;
                return After::Left;
            }
            Some(Word::GoDown) => {
                let Hands { plane, acts, .. } = &mut node.hands;
                node.host.stop_what_runs(acts, plane, events).await;
                node.hands.plane.finish();
                return After::Stopped;
            }
            Some(Word::Stop) => {
                node.hands.plane.finish();
                return After::Stopped;
            }
        }
    }
}

impl Waiting {
    /// Opens log and papers with a key.
    fn unlock(self, locked: &Locked, key: &UnlockKey) -> Result<Box<Brain>, Box<(Self, Failure)>> {
        let Some(vault) = locked.open(key) else {
            log::warn!("somebody tried to unlock this manager with another key");
            return Err(Box::new((self, Failure::WrongKey)));
        };
        let Self { host, shared, identity, hands, inputs } = self;
        match Host::unlock_node(&host, &identity, &shared, vault, hands) {
            Ok(brain) => {
                log::info!("this manager is unlocked");
                Ok(Box::new(brain))
            }
            Err(failed) => {
                let (fatal, hands) = *failed;
                let failure = Failure::Host(chain::text(&fatal));
                log::error!("cannot unlock this manager: {failure}");
                Err(Box::new((Self { host, shared, identity, hands, inputs }, failure)))
            }
        }
    }

    /// Answers what needs a log, takes in what the tasks do.
    fn take(&mut self, event: Event) -> Option<Word> {
        match event {
            Event::Unlock { key, answer } => return Some(Word::Unlock { key, answer }),
            Event::Leave { force: false, answer } => reply(&answer, Err(Failure::LockedLeave)),
            Event::Leave { force: true, answer } => {
                self.hands.acts.leaving(answer);
                return Some(Word::Leave);
            }
            Event::GoDown { answer } => {
                log::info!("the machine goes down");
                self.hands.acts.leaving(answer);
                return Some(Word::GoDown);
            }
            Event::Stop => return Some(Word::Stop),
            Event::Init { request, answer } => reply(
                &answer,
                Err(if request.force_new_cluster { Failure::Locked } else { Failure::AlreadySwarm }),
            ),
            Event::Join { answer, .. } => reply(&answer, Err(Failure::AlreadySwarm)),
            Event::Command { answer, .. }
            | Event::ChangeTrust { answer, .. }
            | Event::ChangeLock { answer, .. } => reply(&answer, Err(Failure::Locked)),
            Event::Tokens { answer } => reply(&answer, Err(Failure::Locked)),
            Event::UnlockKey { answer } => reply(&answer, Err(Failure::Locked)),
            Event::Acted { task, outcome } => {
                self.hands.acts.ended(task);
                self.inputs.push_back(Input::Acted { task, outcome });
            }
            Event::Absent { image, task, work } => self.hands.acts.absent(image, task, work),
            Event::Pulled { image, pulled } => {
                self.inputs.extend(self.hands.acts.pulled(&image, &pulled));
            }
            Event::Probed { task, probed } => {
                self.hands.acts.probed();
                self.inputs.push_back(Input::Probed { task, probed });
            }
            Event::Exited { task, exit } => self.inputs.push_back(Input::Exited { task, exit }),
            Event::RoutesApplied { generation, refused } => {
                self.inputs.push_back(Input::RoutesApplied { generation, refused });
            }
            // Nobody is connected; what is asked of logs hears that its end was dropped.
            Event::Logs { .. }
            | Event::Link(_)
            | Event::Gossip
            | Event::Persisted { .. }
            | Event::PersistRefused { .. }
            | Event::SnapshotSaved { .. }
            | Event::SnapshotRefused { .. } => {}
        }
        None
    }

    /// Steps the worker until nothing is left to be told.
    fn turn(&mut self) {
        let now = self.host.clock.now();
        let Hands { worker, plane, acts } = &mut self.hands;
        if worker.deadline().is_some_and(|deadline| deadline <= now.mono) {
            self.inputs.push_back(Input::Tick);
        }
        let mut out = Vec::new();
        while let Some(input) = self.inputs.pop_front() {
            worker.step(now, input, &mut out);
            for output in out.drain(..) {
                match output {
                    Output::Act { task, action, record } => acts.begin(task, action, record),
                    Output::Probe { task, probe } => acts.probe(task, probe),
                    Output::KeepFence { fence } => acts.keep_fence(fence),
                    Output::Routes { generation, ports } => plane.set(generation, ports),
                    // It is told at the start of the first session.
                    Output::Report(_) => {}
                }
            }
        }
    }
}
