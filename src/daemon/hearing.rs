//! What other nodes and the API bring to the brain besides commands: each to whom it is for.

use std::collections::BTreeMap;

use super::brain::Brain;
use super::handle::{Failure, Tokens};
use super::links::Heard;
use super::rotating::NOT_READY;
use crate::base::chain;
use crate::logic::manager;
use crate::logic::raft::codec;
use crate::model::node::Role;

impl Brain {
    /// Takes in what was heard from another node.
    pub(super) fn heard(&mut self, heard: Heard) {
        let now = self.clock.now().mono;
        match heard {
            Heard::Peer { from, bytes } => match codec::decode_message(&bytes) {
                Ok(message) => {
                    self.to_manager.push_back(manager::io::Input::Peer { from, message });
                }
                Err(err) => log::warn!("the manager of node {from}: {}", chain::text(&err)),
            },
            Heard::Reachable { peer } => {
                self.to_manager.push_back(manager::io::Input::Reachable { peer });
            }
            Heard::Began { .. } => self.began(now, heard),
            Heard::Report { node, number, bytes } => {
                if self.session_heard(now, node, number) {
                    match manager::wire::decode_report(&bytes) {
                        Ok(report) => self
                            .to_manager
                            .push_back(manager::io::Input::Report { node, report }),
                        Err(err) => log::warn!("a report of node {node}: {}", chain::text(&err)),
                    }
                }
            }
            Heard::Answered { node, number } => {
                if self.session_heard(now, node, number) {
                    self.to_manager.push_back(manager::io::Input::Heard { node });
                    self.look_at_role(now, node);
                }
            }
            Heard::Ended { node, number, parting } => {
                self.session_ended(node, number, parting);
            }
            Heard::Withdrawn { node } => self.withdraw(node),
            Heard::Opened { number, outbox } => self.opened(number, outbox),
            Heard::Assigned { number, bytes } => self.assigned(number, &bytes),
            Heard::Leader { number, at } => self.leader_heard(number, at),
            Heard::Told { number, told } => self.told(number, told),
            Heard::Lost { number } => self.lost(number),
            Heard::ForwardAsked { from, bytes, answer } => {
                self.forward_asked(from, &bytes, answer);
            }
            Heard::Forwarded { request, answer } => self.forwarded(request, answer.as_deref()),
            Heard::JoinAsked { join, from, answer } => self.join_asked(*join, from, answer),
            Heard::RenewAsked { node, csr, answer } => self.renew_asked(node, &csr, &answer),
            Heard::Host { node } => self.host_heard(now, node),
            Heard::Addresses => self.look_at_addresses(),
            Heard::Renewed { role } => self.renewed(role),
        }
    }

    /// What a machine needs to join.
    pub(super) fn tokens(&self) -> Result<Tokens, Failure> {
        if self.node.seat.is_none() {
            return Err(Failure::NotManager);
        }
        let issuer = self.issuer.as_ref().ok_or_else(|| {
            Failure::Host(NOT_READY.to_owned())
        })?;
        let [worker, manager] =
            [Role::Worker, Role::Manager].map(|role| issuer.token(role).to_string());
        let trust = &issuer.trust;
        let root = if trust.next_key.is_some() { trust.roots.last() } else { trust.roots.first() };
        Ok(Tokens {
            worker,
            manager,
            root: root.cloned().unwrap_or_default(),
            rotating: trust.is_rotating(),
            life: trust.life,
        })
    }

    /// Who is a manager, and who is none, is known to all connections.
    pub(super) fn tell_trust_of_nodes(&self) {
        let mut workers = BTreeMap::new();
        if let Some(seat) = &self.node.seat {
            let members = seat.manager.raft().members();
            let nodes = seat.manager.store().nodes();
            let nodes = nodes.filter(|node| node.spec.role == Role::Worker);
            // Who was a manager goes on as one until it is no member any more.
            let nodes = nodes.filter(|node| !members.contains(node.id));
            workers.extend(nodes.map(|node| (node.id, node.meta.updated)));
        }
        self.node.links.endpoint().trust().set_workers(workers);
    }

    /// Why this node may not leave without force.
    pub(super) fn must_stay(&self) -> Option<Failure> {
        let seat = self.node.seat.as_ref()?;
        if self.is_alone() {
            return Some(Failure::LastManager);
        }
        let voters = seat.manager.raft().members().voters.len();
        let known = seat.manager.raft().leader().is_some();
        Some(Failure::Manager(if !known {
            "Doing so may lose the consensus of your cluster. ".to_owned()
        } else if voters == 2 {
            "Removing this node leaves 1 managers out of 2. Without a Raft quorum your swarm will \
             be inaccessible. "
                .to_owned()
        } else {
            String::new()
        }))
    }
}
