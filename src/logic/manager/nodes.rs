//! Nodes: they join, are changed and removed, and are heard of.

use super::command::Asked;
use super::io::CommandError;
use super::write::LOSS_OF_QUORUM;
use super::{Lead, Leads, Manager};
use crate::base::id::{NodeId, RequestId};
use crate::base::time::Now;
use crate::logic::orchestrator::{self, Draft};
use crate::model::entry::{Change, Precondition};
use crate::model::node::{Availability, Node, NodeDescription, NodeSpec, NodeState, Role};
use crate::model::object::{Meta, Object, ObjectId};

impl Manager {
    /// A node joined, or tells another address.
    pub(super) fn add_node(&mut self, now: Now, request: RequestId, new: NewNode) -> Asked {
        let NewNode { id, description, role, address, manager } = new;
        let (condition, node) = match self.lead.planned.node(id) {
            // What the user wanted of it since it joined stays.
            Some(old) => {
                let condition = Precondition::Version(ObjectId::Node(id), old.meta.version);
                let mut node = old.as_ref().clone();
                (node.description, node.address, node.manager) = (description, address, manager);
                (condition, node)
            }
            None => {
                let availability = Availability::Active;
                let spec = NodeSpec { role, availability, ..NodeSpec::default() };
                let meta = Meta::default();
                let node = Node { id, meta, spec, description, address, manager };
                (Precondition::Absent(ObjectId::Node(id)), node)
            }
        };
        let put = Change::Put(Object::Node(Box::new(node)));
        self.write_asked(now, request, vec![condition], vec![put])?;
        Ok(None)
    }

    /// The user wants something else of a node.
    pub(super) fn update_node(
        &mut self,
        now: Now,
        request: RequestId,
        id: NodeId,
        version: u64,
        spec: NodeSpec,
    ) -> Asked {
        let old = self.lead.planned.node(id).ok_or_else(|| no_node(id))?;
        if old.meta.version != version {
            return Err(CommandError::OutOfSequence);
        }
        if old.spec.role == Role::Manager && spec.role == Role::Worker {
            let managers = self.lead.planned.nodes().filter(|it| it.spec.role == Role::Manager);
            if managers.count() <= 1 {
                return Err(CommandError::Precondition(LAST_MANAGER.to_owned()));
            }
            if !self.can_lose(now, id) {
                return Err(CommandError::Precondition(LOSS_OF_QUORUM.to_owned()));
            }
        }
        let mut node = old.as_ref().clone();
        node.spec = spec;
        let current = Precondition::Version(ObjectId::Node(id), version);
        let put = Change::Put(Object::Node(Box::new(node)));
        self.write_asked(now, request, vec![current], vec![put])?;
        Ok(None)
    }

    /// The user wants a node gone.
    pub(super) fn remove_node(
        &mut self,
        now: Now,
        request: RequestId,
        id: NodeId,
        force: bool,
    ) -> Asked {
        let node = self.lead.planned.node(id).ok_or_else(|| no_node(id))?;
        let members = self.raft.members();
        let member = members.voters.contains(&id) || members.learners.contains(&id);
        if node.spec.role == Role::Manager || member {
            return Err(CommandError::Precondition(format!(
                "rpc error: code = FailedPrecondition desc = node {id} is a cluster manager and is \
                 a member of the raft cluster. It must be demoted to worker before removal"
            )));
        }
        if !force && self.lead.nodes.state(id) == NodeState::Ready {
            return Err(CommandError::Precondition(format!(
                "rpc error: code = FailedPrecondition desc = node {id} is not down and can't be \
                 removed"
            )));
        }
        let current = Precondition::Version(ObjectId::Node(id), node.meta.version);
        let remove = Change::Remove(ObjectId::Node(id));
        self.write_asked(now, request, vec![current], vec![remove])?;
        // What it held is given up; whatever of this is lost is done when its services are looked at.
        let lead = &self.lead;
        let mut draft = Draft::new(&lead.planned, &lead.nodes, &mut self.rng, now);
        orchestrator::orphan_all(&mut draft, id);
        let changes = draft.into_changes();
        self.write_own(now, changes);
        Ok(None)
    }

    /// A worker began a session.
    pub(super) fn worker_joined(&mut self, now: Now, id: NodeId, description: NodeDescription) {
        if self.leads == Leads::No {
            return;
        }
        self.lead.heard.insert(id, now.mono);
        self.lead.dispatch.join(id);
        self.lead.descriptions.insert(id, description);
        let down = self.lead.nodes.state(id) == NodeState::Down;
        if down && self.lead.planned.tasks_of_node(id).any(|task| task.is_active()) {
            self.lead.returning.insert(id);
        } else {
            self.set_state(now, id, NodeState::Ready);
        }
    }

    /// Logs what nodes said of themselves where that is news; kept until it is committed.
    pub(super) fn describe(&mut self, now: Now) {
        let mut changes = Vec::new();
        let (Lead { descriptions, planned, .. }, committed) = (&mut self.lead, &self.committed);
        descriptions.retain(|id, description| {
            let Some(node) = planned.node(*id) else { return false };
            if node.description != *description {
                let mut node = node.as_ref().clone();
                node.description = description.clone();
                changes.push(Change::Put(Object::Node(Box::new(node))));
            }
            committed.node(*id).is_none_or(|node| node.description != *description)
        });
        self.write_own(now, changes);
    }

    /// The evidence says something else of a node than before.
    pub(super) fn health(&mut self, now: Now, id: NodeId, state: NodeState) {
        if self.leads == Leads::No {
            return;
        }
        if state == NodeState::Ready {
            self.lead.heard.insert(id, now.mono);
            if self.lead.returning.contains(&id) {
                return;
            }
        }
        self.lead.returning.remove(&id);
        self.set_state(now, id, state);
    }

    fn set_state(&mut self, now: Now, id: NodeId, state: NodeState) {
        let lead = &mut self.lead;
        if state == NodeState::Down {
            lead.down.entry(id).or_insert(now.mono);
        } else {
            lead.down.remove(&id);
        }
        if lead.nodes.state(id) != state {
            lead.nodes.set_state(id, state);
            self.node_changed(id);
            self.look_at_spread(now);
        }
    }

    /// A node that was down told what really runs there: it is back. Not before that: a replacement
    /// must not be taken back for a task that turns out to be dead.
    pub(super) fn returned(&mut self, now: Now, id: NodeId) {
        if self.lead.returning.remove(&id) {
            self.set_state(now, id, NodeState::Ready);
        }
    }
}

/// A node that joins, as its join names it.
#[derive(Debug)]
pub(super) struct NewNode {
    pub(super) id: NodeId,
    pub(super) description: NodeDescription,
    pub(super) role: Role,
    pub(super) address: String,
    pub(super) manager: Option<String>,
}

/// Swarm's refusal of a swarm without managers.
const LAST_MANAGER: &str = "rpc error: code = FailedPrecondition desc = attempting to demote the \
    last manager of the swarm";

fn no_node(id: NodeId) -> CommandError {
    CommandError::NotFound(format!("node {id} not found"))
}
