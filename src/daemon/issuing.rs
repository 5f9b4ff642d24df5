//! The cluster's trust: machines join with its secrets, nodes get certificates of its root.
//!
//! It is what the store says, on every manager; a leader that finds none there makes it.
//!
//! **Invariant:** a join is answered only after its node is committed, and a certificate has the role
//! that the store gives the node.

use std::net::SocketAddr;

use super::asking::Waiter;
use super::brain::Brain;
use super::leading::{host_of, reached};
use super::links::{AnswerTo, TrustError};
use super::papers::{self, Issuer};
use crate::base::chain;
use crate::base::id::NodeId;
use crate::logic::manager::io::{Command, CommandError, Reply};
use crate::logic::manager::wire;
use crate::model::cluster_trust::{RESOURCE_KIND, RESOURCE_NAME};
use crate::model::node::{Availability, NodeSpec, Role};
use crate::model::peer::{Join, Joined, Refusal, Renewed, Told};

/// A machine that joins.
#[derive(Debug)]
pub(super) struct Joining {
    node: NodeId,
    role: Role,
    csr: Vec<u8>,
    availability: Availability,
    answer: AnswerTo<Joined>,
}

impl Brain {
    /// A machine wants to join.
    pub(super) fn join_asked(&mut self, join: Join, from: SocketAddr, answer: AnswerTo<Joined>) {
        if self.lead.is_none() {
            let leader = self.node.links.leader();
            return say(&answer, Err(Refusal::NotLeader { leader }));
        }
        let Some(issuer) = &self.issuer else {
            let text = "the swarm's certificates are not ready yet".to_owned();
            return say(&answer, Err(Refusal::Busy(text)));
        };
        let Some(role) = issuer.trust.role_of(join.secret) else {
            log::warn!("a machine at {from} wants to join with a token that is not valid");
            return say(&answer, Err(Refusal::WrongSecret));
        };
        let description = match wire::decode_description(&join.description) {
            Ok(description) => Box::new(description),
            Err(err) => return say(&answer, Err(Refusal::Other(chain::text(&err)))),
        };
        // The same machine asking again is the same node.
        let node = NodeId(join.request.0);
        let address = reached(&join.advertise, from);
        let host = host_of(&address).to_owned();
        let Join { request, csr, availability, .. } = join;
        // Its manager takes part once it runs: its first session tells.
        let command = Command::AddNode { id: node, description, role, address: host, manager: None };
        let joining = Joining { node, role, csr, availability, answer };
        self.put_as(request, command, Waiter::Join(Box::new(joining)));
    }

    /// A machine that joins is in the store, or not.
    pub(super) fn joined(&mut self, joining: Joining, result: Result<Reply, CommandError>) {
        let Joining { node, role, csr, availability, answer } = joining;
        if let Err(err) = result {
            return say(&answer, Err(Refusal::Busy(err.to_string())));
        }
        let papers = self.papers(node, role, &csr);
        let papers = papers.map(|(certificate, roots)| Joined {
            certificate,
            roots,
            managers: self.own.managers.clone(),
            gossip_keys: self.issuer.as_ref().map_or(Vec::new(), |it| it.trust.gossip_keys.clone()),
        });
        if papers.is_ok() {
            log::info!("node {node} has joined as a {role:?}");
        }
        say(&answer, papers);
        let stored = self.node.seat.as_ref().and_then(|it| it.manager.store().node(node));
        if let Some(stored) = stored
            && stored.spec.availability != availability
        {
            let spec = NodeSpec { availability, ..stored.spec.clone() };
            let (id, version) = (node, stored.meta.version);
            self.put(Command::UpdateNode { id, version, spec }, Waiter::Nobody);
        }
    }

    /// A machine has joined and could not keep its papers: its node goes again, as if it had never
    /// asked.
    pub(super) fn withdraw(&mut self, id: NodeId) {
        let store = self.node.seat.as_ref().filter(|_| self.lead.is_some());
        let Some(node) = store.and_then(|seat| seat.manager.store().node(id)) else { return };
        log::info!("node {id} has joined and could not begin: it is removed");
        if node.spec.role == Role::Manager {
            let spec = NodeSpec { role: Role::Worker, ..node.spec.clone() };
            let version = node.meta.version;
            self.put(Command::UpdateNode { id, version, spec }, Waiter::Nobody);
        }
        self.put(Command::RemoveNode { id, force: true }, Waiter::Nobody);
    }

    /// A node wants its next certificate: it gets the role that it should have.
    pub(super) fn renew_asked(&mut self, node: NodeId, csr: &[u8], answer: &AnswerTo<Renewed>) {
        let Some(seat) = self.node.seat.as_ref().filter(|_| self.lead.is_some()) else {
            let leader = self.node.links.leader();
            return say(answer, Err(Refusal::NotLeader { leader }));
        };
        let Some(stored) = seat.manager.store().node(node) else {
            return say(answer, Err(Refusal::Removed));
        };
        // A demoted manager stays one until it is no member any more.
        let member = seat.manager.raft().members().contains(node);
        let role = if member { Role::Manager } else { stored.spec.role };
        let papers = self.papers(node, role, csr);
        say(answer, papers.map(|(certificate, roots)| Renewed { certificate, roots }));
    }

    fn papers(
        &self,
        node: NodeId,
        role: Role,
        csr: &[u8],
    ) -> Result<(Vec<u8>, Vec<Vec<u8>>), Refusal> {
        let (Some(issuer), Some(seat)) = (&self.issuer, &self.node.seat) else {
            return Err(Refusal::Busy("the swarm's certificates are not ready yet".to_owned()));
        };
        let issued = issuer.issue(csr, node, role, seat.manager.store());
        let certificate = issued.map_err(|err| Refusal::Other(err.to_string()))?;
        Ok((certificate, issuer.trust.roots.clone()))
    }

    /// The store's trust is this node's; a leader that finds none makes it.
    pub(super) fn look_at_trust(&mut self) {
        let Some(seat) = &self.node.seat else { return };
        let had = self.issuer.as_ref().map(|issuer| issuer.version);
        match Issuer::newer(seat.manager.store(), had) {
            Ok(Some(issuer)) => self.trust(issuer),
            Ok(None) if self.issuer.is_none() => self.make_trust(),
            Ok(None) => {}
            Err(err) => self.broken = Some(format!("the swarm's root cannot be used: {err}")),
        }
    }

    fn trust(&mut self, issuer: Issuer) {
        let links = &self.node.links;
        let roots = issuer.roots().map_err(TrustError::from);
        if let Err(err) = roots.and_then(|roots| links.trust_roots(roots)) {
            log::error!("the swarm's roots cannot be used: {}", chain::text(&err));
        }
        links.endpoint().trust().set_removed(issuer.trust.removed.iter().copied().collect());
        let roots = issuer.trust.roots.clone();
        let keys = issuer.trust.gossip_keys.clone();
        self.issuer = Some(issuer);
        // It was made when the root was not in the store yet, and that one was lost.
        let own = links.credentials();
        if links.endpoint().trust().verify(own.certificate()).is_err() {
            links.renew();
        }
        self.take_gossip_keys(keys.clone());
        self.tell_all(Told::Roots(roots), false);
        self.tell_all(Told::GossipKeys(keys), false);
    }

    fn make_trust(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        if std::mem::replace(&mut lead.trust_asked, true) {
            return;
        }
        let made = match self.founding.take() {
            Some(authority) => Ok(authority),
            None => papers::new_authority(self.identity.cluster),
        };
        let made = made.map_err(|err| err.to_string());
        let life = self.certificate_life;
        let made = made.and_then(|authority| {
            let trust = papers::new_trust(&authority, life).map_err(|err| err.to_string())?;
            self.founding = Some(authority);
            trust.encode().map_err(|err| err.to_string())
        });
        match made {
            Ok(payload) => {
                let (kind, name) = (RESOURCE_KIND.to_owned(), RESOURCE_NAME.to_owned());
                self.put(Command::SetResource { kind, name, payload }, Waiter::Trust);
            }
            Err(err) => self.broken = Some(format!("cannot make the swarm's root: {err}")),
        }
    }

    /// The cluster's trust is in the store, or could not be put there.
    pub(super) fn trust_written(&mut self, done: bool) {
        if let Some(lead) = &mut self.lead {
            lead.trust_asked = done;
        }
    }
}

fn say<T>(answer: &AnswerTo<T>, result: Result<T, Refusal>) {
    if answer.try_send(result).is_err() {
        log::debug!("who asked went away before the answer");
    }
}
