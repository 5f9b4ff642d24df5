//! Who waits for the manager's answer: users, other managers, machines that join, the daemon itself.
//!
//! A user's command that this manager cannot do is passed on to the leader, under the same request
//! id, and asked again while there is none: so a change of the leader is a delay and no error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use async_channel::Sender;

use super::brain::{Brain, reply};
use super::handle::{COMMAND_SECS_MAX, Failure};
use super::issuing::Joining;
use crate::base::chain;
use crate::base::id::{NodeId, RequestId};
use crate::base::time::{Span, Time};
use crate::logic::manager::io::{Command, CommandError, Input, Reply};
use crate::logic::manager::wire::{self, Answer, Asked};

/// Most commands that wait for their answer at once.
const WAITING_MAX: usize = 1_024;

/// Between two tries of a command.
const AGAIN: Span = Span::from_millis(200);

/// A command is tried again for this long while nobody leads: longer than an election takes.
const LEADERLESS: Span = Span::from_secs(6);

/// The last try is not later than this after the first.
const TRIES: Span = Span::from_secs(COMMAND_SECS_MAX - 2);

/// Where an answer goes.
#[derive(Debug)]
pub(super) enum Waiter {
    /// A user of this node.
    User {
        command: Box<Command>,
        answer: SyncSender<Result<Reply, Failure>>,
        since: Time,
    },
    /// Another manager, for a user of its own.
    Manager { answer: Sender<Vec<u8>> },
    /// A machine that joins.
    Join(Box<Joining>),
    /// The node's address or its manager's is written.
    Address { node: NodeId, number: u64 },
    /// The cluster's trust is written.
    Trust,
    /// The unlock key of a new cluster is written.
    Lock,
    /// A step of its rotation is.
    Rotation,
    /// Nobody: it is done again when it is still needed.
    Nobody,
}

/// All who wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    all: BTreeMap<RequestId, Waiter>,
    /// When to ask again.
    again: BTreeSet<(Time, RequestId)>,
}

impl Waiting {
    /// When a command is to be tried again.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.again.first().map(|(at, _)| *at)
    }

    fn is_full(&self) -> bool {
        self.all.len() >= WAITING_MAX
    }
}

impl Brain {
    /// A user asks something.
    pub(super) fn ask(&mut self, command: Command, answer: SyncSender<Result<Reply, Failure>>) {
        if self.node.seat.is_none() {
            return reply(&answer, Err(Failure::NotManager));
        }
        if self.waiting.is_full() {
            return reply(&answer, Err(Failure::Refused(CommandError::Busy(BUSY.to_owned()))));
        }
        let since = self.clock.now().mono;
        let waiter = Waiter::User { command: Box::new(command.clone()), answer, since };
        self.put(command, waiter);
    }

    /// Asks this node's manager.
    pub(super) fn put(&mut self, command: Command, waiter: Waiter) {
        let request = RequestId::new(self.requests.next_u128());
        self.put_as(request, command, waiter);
    }

    /// Asks it under a number that the asker has chosen.
    pub(super) fn put_as(&mut self, request: RequestId, command: Command, waiter: Waiter) {
        self.waiting.all.insert(request, waiter);
        self.to_manager.push_back(Input::Command { request, command });
    }

    /// Another manager asks for its user.
    pub(super) fn forward_asked(&mut self, from: NodeId, bytes: &[u8], answer: Sender<Vec<u8>>) {
        let refuse = |error: CommandError| {
            match wire::encode_answer(&Answer::new(Err(error))) {
                Ok(bytes) => tell(&answer, bytes),
                Err(err) => log::warn!("cannot tell a refusal: {}", chain::text(&err)),
            };
        };
        let member = self.node.seat.as_ref().is_some_and(|seat| {
            let node = seat.manager.store().node(from);
            node.is_some_and(|node| node.manager.is_some())
        });
        if !member {
            return refuse(CommandError::Precondition("this node is not a manager".to_owned()));
        }
        let asked = match wire::decode_asked(bytes) {
            Ok(asked) => asked,
            Err(err) => return refuse(CommandError::Invalid(chain::text(&err))),
        };
        // The same one again: the connection before broke, so nobody waits for the first answer.
        if self.waiting.is_full() {
            return refuse(CommandError::Busy(BUSY.to_owned()));
        }
        self.put_as(asked.request, asked.command, Waiter::Manager { answer });
    }

    /// The leader answered what was passed on, or it could not be reached.
    pub(super) fn forwarded(&mut self, request: RequestId, answer: Option<&[u8]>) {
        let result = match answer.map(wire::decode_answer) {
            Some(Ok(answer)) => answer.into_reply(),
            Some(Err(err)) => Err(CommandError::Busy(format!(
                "the leader's answer cannot be used: {}",
                chain::text(&err)
            ))),
            None => Err(CommandError::NotLeader { leader: None }),
        };
        if let Some(waiter) = self.waiting.all.remove(&request) {
            // What the other one says of its leader is no news here.
            let result = match result {
                Err(CommandError::NotLeader { .. }) => {
                    Err(CommandError::NotLeader { leader: None })
                }
                result => result,
            };
            self.settle(request, waiter, result);
        }
    }

    /// This node's manager answered.
    pub(super) fn answered(&mut self, request: RequestId, result: Result<Reply, CommandError>) {
        if let Some(waiter) = self.waiting.all.remove(&request) {
            self.settle(request, waiter, result);
        }
    }

    fn settle(
        &mut self,
        request: RequestId,
        waiter: Waiter,
        result: Result<Reply, CommandError>,
    ) {
        match waiter {
            Waiter::User { command, answer, since } => {
                let result = match result {
                    Err(
                        error @ (CommandError::NotLeader { .. } | CommandError::Unavailable),
                    ) => match self.try_elsewhere(request, &command, since, error) {
                        None => {
                            let waiter = Waiter::User { command, answer, since };
                            self.waiting.all.insert(request, waiter);
                            return;
                        }
                        Some(error) => Err(error),
                    },
                    Ok(Reply::View(view)) => Ok(Reply::View(self.with_states(view))),
                    result => result,
                };
                reply(&answer, result.map_err(Failure::Refused));
            }
            Waiter::Manager { answer } => match wire::encode_answer(&Answer::new(result)) {
                Ok(bytes) => tell(&answer, bytes),
                Err(err) => log::warn!("cannot answer another manager: {}", chain::text(&err)),
            },
            Waiter::Join(joining) => self.joined(*joining, result),
            Waiter::Address { node, number } => self.addressed(node, number, result.is_ok()),
            Waiter::Trust => self.trust_written(result.is_ok()),
            Waiter::Lock => self.lock_written(result.is_ok()),
            Waiter::Rotation => self.rotated(result.is_ok()),
            Waiter::Nobody => {
                if let Err(err) = result {
                    log::warn!("{err}");
                }
            }
        }
    }

    /// Passes a command on, or sets a time to try it again; gives the error back when neither is of
    /// use.
    fn try_elsewhere(
        &mut self,
        request: RequestId,
        command: &Command,
        since: Time,
        error: CommandError,
    ) -> Option<CommandError> {
        let now = self.clock.now().mono;
        let leader = match &error {
            // What a leader sees is not told to others: a read is asked again here.
            CommandError::NotLeader { .. } if matches!(command, Command::Read) => None,
            CommandError::NotLeader { leader } => leader.filter(|it| *it != self.node.id),
            _other => None,
        };
        if let Some(leader) = leader.filter(|_| now < since + TRIES) {
            let asked = Asked { request, command: command.clone() };
            match wire::encode_asked(&asked) {
                Ok(bytes) => {
                    if self.node.links.forward(request, leader, bytes) {
                        return None;
                    }
                }
                Err(err) => return Some(CommandError::Invalid(chain::text(&err))),
            }
        }
        let known = self.node.seat.as_ref().is_some_and(|it| it.manager.raft().leader().is_some());
        let patience = if known { TRIES } else { LEADERLESS };
        if now >= since + patience {
            return Some(error);
        }
        self.waiting.again.insert((now + AGAIN, request));
        None
    }

    /// Tries again what is due.
    pub(super) fn ask_again(&mut self, now: Time) {
        while let Some((at, request)) = self.waiting.again.first().copied() {
            if at > now {
                return;
            }
            self.waiting.again.pop_first();
            if let Some(Waiter::User { command, .. }) = self.waiting.all.get(&request) {
                let command = command.as_ref().clone();
                self.to_manager.push_back(Input::Command { request, command });
            }
        }
    }

    /// This node has no manager any more.
    pub(super) fn give_up_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for waiter in waiting.all.into_values() {
            if let Waiter::User { answer, .. } = waiter {
                reply(&answer, Err(Failure::NotManager));
            }
        }
    }

    /// A follower does not know how nodes are: it shows what the leader told it.
    fn with_states(
        &self,
        view: Arc<crate::logic::manager::io::View>,
    ) -> Arc<crate::logic::manager::io::View> {
        if self.lead.is_some() {
            return view;
        }
        let mut view = view.as_ref().clone();
        for (node, state) in &mut view.nodes {
            if let Some(told) = self.own.states.get(&node.id) {
                *state = *told;
            }
        }
        Arc::new(view)
    }
}

const BUSY: &str = "the daemon is busy: too many requests wait, try again";

fn tell(answer: &Sender<Vec<u8>>, bytes: Vec<u8>) {
    if answer.try_send(bytes).is_err() {
        log::debug!("another manager went away before its answer");
    }
}
