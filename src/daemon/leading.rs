//! What a leader does besides its manager: it keeps the nodes' sessions and concludes which nodes
//! are down. Who joins, and certificates: see `issuing`.
//!
//! **Invariant:** all of it is gone when this manager stops leading; sessions end with it, and the
//! workers find the next leader.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use async_channel::Sender;

use super::asking::Waiter;
use super::brain::Brain;
use super::links::Heard;
use super::logs::Said;
use super::rotating::Rotation;
use crate::base::chain;
use crate::base::id::NodeId;
use crate::base::time::{Now, Span, Time};
use crate::host::peers::{Outbox, PORT};
use crate::logic::manager::io::{Assignments, Command, Input};
use crate::logic::manager::wire;
use crate::logic::membership::{Membership, PING};
use crate::logic::worker;
use crate::model::node::{Node, NodeDescription, NodeState, Role};
use crate::model::peer::{
    AskedLogs, Certified, ManagerAddress, Message, Parting, Refusal, Told,
};

/// A node that has not renewed its certificate is told again after this long.
const RENEW_AGAIN: Span = Span::from_secs(5);

/// The same for a certificate that is to be replaced before its time.
pub(super) const STALE_AGAIN: Span = Span::from_millis(1_500);

/// What only a leader keeps.
#[derive(Debug, Default)]
pub(super) struct Leading {
    membership: Membership,
    sessions: BTreeMap<NodeId, Session>,
    /// Number of each node's last session, also of one that is over already.
    numbers: BTreeMap<NodeId, u64>,
    /// The nodes that are watched.
    watched: BTreeSet<NodeId>,
    /// What managers were told of the nodes.
    states: BTreeMap<NodeId, NodeState>,
    /// Silent nodes are probed then.
    probe_at: Time,
    /// The own worker hears its leader then.
    hear_at: Time,
    /// What it heard last.
    alone: Option<bool>,
    pub(super) rotation: Rotation,
    /// When a node was told to renew a certificate that is to be replaced before its time.
    stale_told: BTreeMap<NodeId, Time>,
    /// The own address is on its way to the store.
    pub(super) placing: bool,
    /// The cluster's trust is on its way to the store.
    pub(super) trust_asked: bool,
}

/// A node's session.
#[derive(Debug)]
struct Session {
    number: u64,
    role: Role,
    certified: Certified,
    /// `host:port` of the node.
    address: String,
    description: NodeDescription,
    outbox: Outbox,
    /// When it was told to renew its certificate.
    renew_told: Option<Time>,
    /// Its address is on its way to the store.
    address_asked: bool,
}

impl Leading {
    /// The nodes that have a session.
    pub(super) fn in_session(&self) -> impl Iterator<Item = NodeId> {
        self.sessions.keys().copied()
    }

    /// The certificate that a node began its session with.
    pub(super) fn certified(&self, node: NodeId) -> Option<Certified> {
        self.sessions.get(&node).map(|session| session.certified)
    }

    /// When the leader has to look although nothing is heard.
    pub(super) fn deadline(&self, now: Time) -> Option<Time> {
        let hear = (self.alone == Some(false)).then_some(self.hear_at);
        let probe = self.membership.silent(now).next().map(|_| self.probe_at);
        let rotation = self.rotation.deadline(now);
        [self.membership.deadline(now), hear, probe, rotation].into_iter().flatten().min()
    }
}

impl Brain {
    /// This manager leads and decides from here on.
    pub(super) fn begin_leading(&mut self, now: Now) {
        log::info!("this node leads the swarm");
        self.end_own_session();
        self.lead = Some(Leading::default());
        self.own.states.clear();
        self.look_at_addresses();
        self.watch_nodes(now.mono);
        let (node, description) = (self.node.id, self.node.acts.description().clone());
        self.to_manager.push_back(Input::WorkerJoined { node, description });
    }

    /// Another one leads, or nobody.
    pub(super) fn stop_leading(&mut self) {
        log::info!("this node does not lead the swarm any more");
        // Their outboxes go, and so do the sessions.
        self.lead = None;
        self.to_worker.push_back(worker::io::Input::SessionLost);
    }

    /// Whether nobody else could lead.
    pub(super) fn is_alone(&self) -> bool {
        let Some(seat) = &self.node.seat else { return false };
        let members = seat.manager.raft().members();
        let managers = seat.manager.store().nodes();
        members.voters.len() == 1
            && members.learners.is_empty()
            && managers.filter(|node| node.spec.role == Role::Manager).count() <= 1
    }

    /// Looks at what is due; what follows is queued.
    pub(super) fn attend(&mut self, now: Now) {
        let alone = self.is_alone();
        let (id, links) = (self.node.id, &self.node.links);
        let Some(lead) = &mut self.lead else { return };
        if lead.alone != Some(alone) || (!alone && lead.hear_at <= now.mono) {
            (lead.alone, lead.hear_at) = (Some(alone), now.mono + PING);
            let heard = worker::io::Input::LeaderHeard { at: now.mono, alone };
            self.to_worker.push_back(heard);
            self.to_manager.push_back(Input::Heard { node: id });
        }
        if lead.membership.silent(now.mono).next().is_some() {
            for (node, at) in self.gossip.heard() {
                lead.membership.gossip_heard(at, node);
            }
        }
        for (node, state) in lead.membership.judge(now.mono) {
            log::info!("node {node} is {state:?}");
            self.to_manager.push_back(Input::Health { node, state });
        }
        if lead.probe_at <= now.mono {
            let silent: Vec<NodeId> = lead.membership.silent(now.mono).collect();
            if !silent.is_empty() {
                lead.probe_at = now.mono + PING;
            }
            let Some(seat) = &self.node.seat else { return };
            for node in silent {
                if let Some(node) = seat.manager.store().node(node) {
                    let session = lead.sessions.get(&node.id).map(|it| it.address.clone());
                    let manager = session.or_else(|| node.manager.clone());
                    let address = manager.unwrap_or_else(|| at(&node.address, PORT));
                    links.probe(node.id, address);
                }
            }
        }
    }

    /// Asks a node for logs, at the address that is known of it.
    pub(super) fn ask_logs(&self, node: NodeId, asked: AskedLogs, said: Sender<Said>) {
        let session = self.lead.as_ref().and_then(|lead| lead.sessions.get(&node));
        let stored = self.node.seat.as_ref().and_then(|seat| seat.manager.store().node(node));
        let stored = stored.map(|it| it.manager.clone().unwrap_or_else(|| at(&it.address, PORT)));
        // Without one the asker's end is told by the other one's drop.
        if let Some(address) = session.map(|it| it.address.clone()).or(stored) {
            self.node.links.ask_logs(node, address, asked, said);
        }
    }

    /// The store has changed: nodes came or went.
    pub(super) fn watch_nodes(&mut self, now: Time) {
        let (Some(lead), Some(seat)) = (&mut self.lead, &self.node.seat) else { return };
        let nodes = seat.manager.store().nodes().map(|node| node.id);
        let nodes: BTreeSet<NodeId> = nodes.filter(|id| *id != self.node.id).collect();
        for gone in lead.watched.difference(&nodes) {
            lead.membership.forget(*gone);
            lead.rotation.removed(*gone);
            lead.states.remove(gone);
            lead.stale_told.remove(gone);
            lead.numbers.remove(gone);
            if let Some(session) = lead.sessions.remove(gone) {
                log::info!("node {gone} was removed from the swarm");
                drop(session);
            }
        }
        let heard = self.gossip.heard();
        for new in nodes.difference(&lead.watched) {
            // What gossip knows nothing of is taken to be there until it is probed.
            lead.membership.watch(now, *new, heard.get(new).copied().unwrap_or(now));
        }
        lead.watched = nodes;
    }

    /// A node begins a session.
    pub(super) fn began(&mut self, now: Time, heard: Heard) {
        let Heard::Began { node, number, role, certified, description, advertise, from, outbox } = heard
        else {
            return;
        };
        let managers = Message::Told(Told::Managers(self.own.managers.clone()));
        let (Some(lead), Some(seat)) = (&mut self.lead, &self.node.seat) else { return };
        if seat.manager.store().node(node).is_none() {
            log::debug!("node {node} at {from} is not, or no more, of this swarm");
            return refuse(&outbox, Refusal::Removed);
        }
        let description = match wire::decode_description(&description) {
            Ok(description) => description,
            Err(err) => {
                log::warn!("node {node}: {}", chain::text(&err));
                return refuse(&outbox, Refusal::Other(err.to_string()));
            }
        };
        log::info!("node {node} ({}) has a session", description.hostname);
        lead.numbers.insert(node, number);
        let keys = self.issuer.as_ref().map(|issuer| issuer.trust.gossip_keys.clone());
        let keys = keys.is_none_or(|keys| outbox.push(&Message::Told(Told::GossipKeys(keys))));
        let told = keys && outbox.push(&managers);
        let told = told && (role == Role::Worker || outbox.push(&states(&lead.states)));
        if !told {
            return;
        }
        let session = Session {
            number,
            role,
            certified,
            address: reached(&advertise, from),
            description: description.clone(),
            outbox,
            renew_told: None,
            address_asked: false,
        };
        lead.sessions.insert(node, session);
        lead.membership.begin(now, node);
        self.to_manager.push_back(Input::WorkerJoined { node, description });
        self.look_at_role(now, node);
    }

    /// A node spoke in its session; false when that is not the one it has.
    pub(super) fn session_heard(&mut self, now: Time, node: NodeId, number: u64) -> bool {
        let Some(lead) = &mut self.lead else { return false };
        if lead.sessions.get(&node).is_none_or(|session| session.number != number) {
            return false;
        }
        lead.membership.hear(now, node);
        true
    }

    /// A node's kernel answered.
    pub(super) fn host_heard(&mut self, now: Time, node: NodeId) {
        if let Some(lead) = &mut self.lead {
            lead.membership.host_heard(now, node);
        }
    }

    /// A node's session is over.
    pub(super) fn session_ended(&mut self, node: NodeId, number: u64, parting: Parting) {
        let Some(lead) = &mut self.lead else { return };
        if lead.numbers.get(&node) != Some(&number) {
            return;
        }
        // What it said last counts, also where its session was given up before that was heard.
        lead.membership.end(node, parting);
        if lead.sessions.remove(&node).is_some() {
            log::info!("the session of node {node} is over");
            self.to_manager.push_back(Input::WorkerLeft { node });
        }
    }

    /// Tells a node what it is to run.
    pub(super) fn assign(&mut self, node: NodeId, assignments: Assignments) {
        if node == self.node.id {
            let input = worker::io::Input::Assignments(assignments);
            return self.to_worker.push_back(input);
        }
        let Some(lead) = &mut self.lead else { return };
        let Some(session) = lead.sessions.get(&node) else { return };
        let said = match wire::encode_assignments(&assignments) {
            Ok(bytes) => session.outbox.push_long(bytes, Message::Assign),
            Err(err) => {
                log::error!("the assignments of node {node}: {}", chain::text(&err));
                false
            }
        };
        if !said {
            // It begins anew, and is told everything.
            let number = session.number;
            self.session_ended(node, number, Parting::Silent);
        }
    }

    /// Whether a node is what it should be, and where the store says it is.
    pub(super) fn look_at_role(&mut self, now: Time, id: NodeId) {
        let (Some(lead), Some(seat)) = (&mut self.lead, &self.node.seat) else { return };
        let Some(session) = lead.sessions.get_mut(&id) else { return };
        let Some(node) = seat.manager.store().node(id) else { return };
        let members = seat.manager.raft().members();
        let member = members.contains(id);
        let should = match node.spec.role {
            Role::Manager => Role::Manager,
            Role::Worker if member => session.role,
            Role::Worker => Role::Worker,
        };
        let stale = self.issuer.as_ref().is_some_and(|it| it.is_stale(&session.certified));
        if should != session.role {
            if session.renew_told.is_none_or(|at| now.since(at) >= RENEW_AGAIN)
                && session.outbox.push(&Message::Told(Told::Renew))
            {
                session.renew_told = Some(now);
            }
            return;
        }
        // Over sessions: what a node gets in the second in which it was asked for may be stale, too.
        if stale
            && lead.stale_told.get(&id).is_none_or(|at| now.since(*at) >= STALE_AGAIN)
            && session.outbox.push(&Message::Told(Told::Renew))
        {
            lead.stale_told.insert(id, now);
        }
        if let Some(command) = (!session.address_asked).then(|| placed(node, session)).flatten() {
            session.address_asked = true;
            let number = session.number;
            self.put(command, Waiter::Address { node: id, number });
        }
    }

    /// The address of a node is in the store, or could not be put there.
    pub(super) fn addressed(&mut self, node: NodeId, number: u64, _done: bool) {
        let Some(lead) = &mut self.lead else { return };
        lead.placing &= node != self.node.id;
        if let Some(session) = lead.sessions.get_mut(&node)
            && session.number == number
        {
            session.address_asked = false;
        }
    }

    /// Tells all sessions something.
    pub(super) fn tell_all(&mut self, told: Told, managers_only: bool) {
        let Some(lead) = &mut self.lead else { return };
        let message = Message::Told(told);
        let mut failed = Vec::new();
        for (node, session) in &lead.sessions {
            let wanted = !managers_only || session.role == Role::Manager;
            if wanted && !session.outbox.push(&message) {
                failed.push((*node, session.number));
            }
        }
        for (node, number) in failed {
            self.session_ended(node, number, Parting::Silent);
        }
    }

    /// Tells the other managers how the nodes are, where that has changed.
    pub(super) fn tell_states(&mut self) {
        let (Some(lead), Some(seat)) = (&mut self.lead, &self.node.seat) else { return };
        if lead.sessions.is_empty() {
            return;
        }
        let now = seat.manager.node_states();
        let changed: Vec<(NodeId, NodeState)> =
            now.into_iter().filter(|(id, state)| lead.states.get(id) != Some(state)).collect();
        if !changed.is_empty() {
            lead.states.extend(changed.iter().copied());
            self.tell_all(Told::States(changed), true);
        }
    }

    /// Where managers are, by the store.
    pub(super) fn managers(&self) -> Option<Vec<ManagerAddress>> {
        let store = self.node.seat.as_ref()?.manager.store();
        store.cluster()?;
        let managers = store.nodes().filter_map(|node| {
            Some(ManagerAddress { node: node.id, address: node.manager.clone()? })
        });
        Some(managers.collect())
    }
}

/// What the store has to say of a node whose session tells something else.
fn placed(node: &Node, session: &Session) -> Option<Command> {
    let host = host_of(&session.address);
    let manager = match (session.role, node.spec.role) {
        (Role::Manager, Role::Manager) => Some(session.address.clone()),
        // Until it is no member, others have to find it.
        (Role::Manager, Role::Worker) => node.manager.clone(),
        (Role::Worker, Role::Manager | Role::Worker) => None,
    };
    if node.address == host && node.manager == manager {
        return None;
    }
    Some(Command::AddNode {
        id: node.id,
        description: Box::new(session.description.clone()),
        role: session.role,
        address: host.to_owned(),
        manager,
    })
}

fn states(states: &BTreeMap<NodeId, NodeState>) -> Message {
    Message::Told(Told::States(states.iter().map(|(id, state)| (*id, *state)).collect()))
}

/// `host:port` of a node, by its word; where that names no host, by where it calls from.
pub(super) fn reached(advertise: &str, from: SocketAddr) -> String {
    let port = advertise.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(PORT);
    match advertise.rsplit_once(':') {
        Some((host, _)) if !host.is_empty() => advertise.to_owned(),
        Some(_) | None => SocketAddr::new(from.ip().to_canonical(), port).to_string(),
    }
}

/// The host part of `host:port`, without the brackets of IPv6.
pub(super) fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_matches(['[', ']'])
}

/// A host part with a port.
fn at(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn refuse(outbox: &Outbox, refusal: Refusal) {
    if !outbox.push(&Message::Refused(refusal)) {
        log::debug!("cannot tell a refusal");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_node_is_reached() {
        let v4: SocketAddr = "10.0.0.9:40000".parse().unwrap();
        let v6: SocketAddr = "[fd00::9]:40000".parse().unwrap();
        for (advertise, from, address, host) in [
            ("10.0.0.1:99", v4, "10.0.0.1:99", "10.0.0.1"),
            (":99", v4, "10.0.0.9:99", "10.0.0.9"),
            ("", v4, "10.0.0.9:2377", "10.0.0.9"),
            (":99", v6, "[fd00::9]:99", "fd00::9"),
            ("[fd00::1]:2377", v4, "[fd00::1]:2377", "fd00::1"),
        ] {
            assert_eq!(reached(advertise, from), address);
            assert_eq!(host_of(address), host);
        }
        assert_eq!(at("fd00::1", 1), "[fd00::1]:1");
        assert_eq!(at("10.0.0.1", 1), "10.0.0.1:1");
    }
}
