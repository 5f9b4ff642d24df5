//! Roles and members: who the user wants to be a manager becomes a member of consensus, one change
//! at a time, first without and then with a vote (swarmkit `manager/role_manager.go`, which looks
//! every 5 s; here what is wanted is compared when a node, the members or a learner's progress
//! changed).
//!
//! Not here: certificates. A node is given a vote only when it has told the address of its manager.

use std::collections::BTreeSet;

use super::Manager;
use crate::base::id::NodeId;
use crate::base::time::{Now, Span};
use crate::logic::raft::io::{MemberChange, ProposeError};
use crate::model::node::Role;

/// How long a change that is not possible now is left alone.
const ROLES_EVERY: Span = Span::from_secs(1);

impl Manager {
    /// Proposes the next change, if one is wanted and none is under way.
    pub(super) fn arrange_members(&mut self, now: Now) {
        let due = self.lead.roles_at.is_some_and(|at| at <= now.mono);
        if !due {
            return;
        }
        self.lead.roles_at = None;
        if self.committed.cluster().is_none() {
            return;
        }
        let nodes = self.lead.planned.nodes();
        let wanted: BTreeSet<NodeId> = nodes
            .filter(|node| node.spec.role == Role::Manager && node.manager.is_some())
            .map(|node| node.id)
            .collect();
        let members = self.raft.members();
        let all: BTreeSet<NodeId> = members.voters.union(&members.learners).copied().collect();
        let caught_up = &self.lead.caught_up;
        let promote = members.learners.intersection(&wanted).find(|id| caught_up.contains(id));
        let add = wanted.difference(&all).next();
        // This manager itself goes last: the others are better off with a leader until then.
        let me = self.config.node;
        let gone = || all.difference(&wanted);
        let remove = gone().find(|id| **id != me).or_else(|| gone().next());
        let change = promote
            .map(|id| MemberChange::Promote(*id))
            .or_else(|| add.map(|id| MemberChange::Add(*id)))
            .or_else(|| remove.map(|id| MemberChange::Remove(*id)));
        let Some(change) = change else { return };
        match self.raft.change_members(now.mono, change) {
            Ok(index) => {
                self.lead.planned.skip(index);
                self.lead.flight.push(index, 0, None);
            }
            // The commit of the change that is under way comes back here.
            Err(ProposeError::ChangeUnderWay | ProposeError::NotLeader) => {}
            // A learner that is behind, managers that do not answer, too much to do: all of it passes.
            Err(
                ProposeError::BadChange
                | ProposeError::QuorumLost
                | ProposeError::Transferring
                | ProposeError::Full
                | ProposeError::TooLarge(_),
            ) => self.lead.roles_at = Some(now.mono + ROLES_EVERY),
        }
    }

    /// Whether the managers that would be left are a majority that can be reached.
    pub(super) fn can_lose(&self, now: Now, id: NodeId) -> bool {
        let members = self.raft.members();
        if !members.voters.contains(&id) {
            return true;
        }
        let left = || members.voters.iter().filter(|voter| **voter != id);
        let reachable = left().filter(|voter| self.raft.is_active(now.mono, **voter));
        reachable.count() > left().count() / 2
    }
}
