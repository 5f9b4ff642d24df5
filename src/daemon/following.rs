//! This node as the leader sees it: its session, what it is told there, and what it is to be.
//!
//! While this node's own manager leads, its worker is told directly and there is no session.

use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;

use super::brain::{Brain, publish, reply};
use super::handle::{Failure, SwarmState};
use super::links::TrustError;
use super::papers;
use crate::base::chain;
use crate::base::id::NodeId;
use crate::base::time::Span;
use crate::host::peers::Outbox;
use crate::host::pki::Root;
use crate::logic::manager::wire;
use crate::logic::worker::io::Input;
use crate::model::node::{NodeState, Role};
use crate::model::peer::{MANAGERS_MAX, ManagerAddress, Message, Told};
use crate::logic::manager::io::Report;

/// The longest that a daemon whose machine goes down waits for another leader and for its goodbye to be
/// said: what is not said costs the replacements ten seconds.
const GOODBYE_DOWN_MAX: Span = Span::from_secs(4);

/// This node's end of its session.
#[derive(Debug, Default)]
pub(super) struct Own {
    session: Option<(u64, Outbox)>,
    /// The session that ends because the daemon does.
    ending: Option<u64>,
    /// The leader was told that the daemon ends, or that the node leaves.
    said_ending: bool,
    /// Where managers are.
    pub(super) managers: Vec<ManagerAddress>,
    /// How the leader sees the nodes, as it told last.
    pub(super) states: BTreeMap<NodeId, NodeState>,
}

impl Own {
    /// Without a session.
    pub(super) fn new(managers: Vec<ManagerAddress>) -> Self {
        Self { managers, ..Self::default() }
    }

    fn is(&self, number: u64) -> bool {
        self.session.as_ref().is_some_and(|(it, _)| *it == number)
    }
}

impl Brain {
    pub(super) fn opened(&mut self, number: u64, outbox: Outbox) {
        // A session that was begun just before this manager began to lead is of no use.
        if self.lead.is_none() && !self.own.said_ending {
            self.own.session = Some((number, outbox));
            self.look_at_addresses();
        }
    }

    pub(super) fn assigned(&mut self, number: u64, bytes: &[u8]) {
        if !self.own.is(number) {
            return;
        }
        match wire::decode_assignments(bytes) {
            Ok(assignments) => self.to_worker.push_back(Input::Assignments(assignments)),
            Err(err) => {
                log::error!("the leader's assignments cannot be used: {}", chain::text(&err));
                self.end_own_session();
            }
        }
    }

    pub(super) fn leader_heard(&mut self, number: u64, at: crate::base::time::Time) {
        if self.own.is(number) {
            self.to_worker.push_back(Input::LeaderHeard { at, alone: false });
        }
    }

    pub(super) fn lost(&mut self, number: u64) {
        if self.own.is(number) {
            self.end_own_session();
        }
        self.own.ending = self.own.ending.filter(|ending| *ending != number);
    }

    /// The worker has no session from here on.
    pub(super) fn end_own_session(&mut self) {
        if self.own.session.take().is_some() {
            self.to_worker.push_back(Input::SessionLost);
        }
    }

    /// Tells the leader.
    pub(super) fn report(&mut self, report: &Report) {
        let Some((_, outbox)) = &self.own.session else { return };
        let said = match wire::encode_report(report) {
            Ok(bytes) => outbox.push_long(bytes, Message::Report),
            Err(err) => {
                log::error!("a report is too long: {}", chain::text(&err));
                false
            }
        };
        // What is not told now is told at the start of the next one.
        if !said {
            self.end_own_session();
        }
    }

    pub(super) fn told(&mut self, number: u64, told: Told) {
        if !self.own.is(number) {
            return;
        }
        match told {
            Told::Managers(managers) => {
                if managers.len() <= MANAGERS_MAX && !managers.is_empty() {
                    self.note_managers(managers);
                }
            }
            Told::Roots(roots) => {
                let roots: Result<Vec<Root>, _> = roots.into_iter().map(Root::parse).collect();
                let set = roots.map_err(TrustError::from);
                if let Err(err) = set.and_then(|roots| self.node.links.trust_roots(roots)) {
                    let err = chain::text(&err);
                    log::warn!("the roots that the leader tells cannot be used: {err}");
                }
            }
            // A manager has those of its store.
            Told::GossipKeys(_) if self.node.seat.is_some() => {}
            Told::GossipKeys(keys) => self.take_gossip_keys(keys),
            Told::Renew => self.node.links.renew(),
            Told::States(states) => self.own.states.extend(states),
        }
    }

    /// Managers are at these addresses now.
    pub(super) fn note_managers(&mut self, managers: Vec<ManagerAddress>) {
        if self.own.managers == managers {
            return;
        }
        let alone = managers.iter().all(|it| it.node == self.node.id);
        if !(alone && self.own.managers.is_empty())
            && let Err(err) = papers::write_managers(&self.host.data, &managers)
        {
            log::warn!("cannot keep where managers are: {}", chain::text(&err));
        }
        self.own.managers = managers;
        self.tell_gossip_of_nodes();
        self.gossip_changed();
        self.node.links.set_managers(&self.own.managers, self.node.seat.is_some());
    }

    /// The certificate is another one: so may be what this node is.
    pub(super) fn renewed(&mut self, role: Role) {
        match (role, self.node.seat.is_some()) {
            (Role::Manager, false) => self.take_seat(),
            (Role::Worker, true) => self.give_up_seat(),
            (Role::Manager, true) | (Role::Worker, false) => {}
        }
    }

    /// This node becomes a manager, with an empty log: the leader tells it all.
    fn take_seat(&mut self) {
        match self.host.new_seat(&self.identity, &self.shared, &self.lock.vault) {
            Ok(seat) => self.node.seat = Some(seat),
            Err(err) => {
                self.broken = Some(chain::text(&err));
                return;
            }
        }
        log::info!("this node is a manager now");
        self.node.links.set_managers(&self.own.managers, true);
        self.tell_api();
    }

    /// This node is a manager no more: its manager ends, and its log goes.
    fn give_up_seat(&mut self) {
        let Some(seat) = self.node.seat.take() else { return };
        if self.lead.is_some() {
            self.stop_leading();
        }
        self.writes.clear();
        self.to_manager.clear();
        seat.log.finish();
        if let Err(err) = self.host.empty_log() {
            // It is emptied before another one is begun, too.
            log::warn!("{}", chain::text(&err));
        }
        self.give_up_lock();
        log::info!("this node is a worker now");
        self.give_up_waiting();
        self.issuer = None;
        (self.seen, self.leader) = (0, None);
        self.tell_trust_of_nodes();
        self.node.links.set_managers(&self.own.managers, false);
        self.node.links.set_leader(None, false);
        self.tell_api();
    }

    pub(super) fn tell_api(&self) {
        let manager = self.node.seat.is_some();
        let (node, cluster) = (self.identity.node, self.identity.cluster);
        publish(&self.shared, SwarmState::Active { node, cluster, manager });
    }

    /// The machine goes down: what is said is said first, then what runs is stopped.
    pub(super) fn go_down(&mut self, answer: SyncSender<Result<(), Failure>>) {
        if self.stopping.is_some() {
            return reply(&answer, Err(Failure::Stopping));
        }
        log::info!("the machine goes down: this node takes leave of its swarm for now");
        self.goes_down = true;
        self.node.acts.leaving(answer);
        self.say_goodbye(GOODBYE_DOWN_MAX);
    }

    /// The daemon is to stop when it has said goodbye, or after `max`.
    pub(super) fn say_goodbye(&mut self, max: Span) {
        self.stopping = Some((self.clock.now().mono + max, self.lead.is_some()));
        self.to_manager.push_back(crate::logic::manager::io::Input::Stopping);
    }

    /// Whether everything is said that is to be said before the daemon stops: the leadership is
    /// handed over, and the leader knows that this node comes back, goes down, or leaves. `led`: this
    /// manager led when the stop began.
    pub(super) fn has_said_goodbye(&mut self, led: bool) -> bool {
        if self.lead.is_some() {
            return self.is_alone();
        }
        if self.own.said_ending {
            return self.own.ending.is_none();
        }
        let Some((number, outbox)) = self.own.session.take() else {
            // Who led until now waits for its session with the next leader.
            return !led;
        };
        self.node.links.part();
        let word =
            if self.goes_down || self.leaves { Message::GoingDown } else { Message::Ending };
        if outbox.push(&word) {
            self.own.ending = Some(number);
        }
        // Without its outbox the session ends when all is said.
        self.own.said_ending = true;
        self.to_worker.push_back(Input::SessionLost);
        self.own.ending.is_none()
    }
}
