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
use crate::logic::raft::io::{MEMBERS_MAX, MemberChange, ProposeError};
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
        // Where all places are taken one has to be free first.
        let add = wanted.difference(&all).next().filter(|_| all.len() < MEMBERS_MAX);
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
            // The commit of the change that is under way comes back here; who has caught up still has
            // then.
            Err(ProposeError::ChangeUnderWay | ProposeError::NotLeader) => {}
            // Consensus tells once more when the learner has caught up again.
            Err(ProposeError::BadChange) => {
                self.lead.caught_up.retain(|id| MemberChange::Promote(*id) != change);
            }
            // Managers that do not answer, or too much to do: it passes.
            Err(
                ProposeError::QuorumLost
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
        let reachable = left().filter(|voter| self.raft.has_answered(now.mono, **voter));
        reachable.count() > left().count() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ClusterId, RequestId};
    use crate::base::time::{Span, Time, Wall};
    use crate::logic::manager::io::{Command, Config, Input, Output};
    use crate::logic::raft::io::{Body, Message, Recovered, Timing};
    use crate::model::node::{NodeDescription, NodeSpec};

    const NOW: Now = Now { mono: Time(1), wall: Wall(1) };

    fn step(manager: &mut Manager, input: Input) -> Vec<Input> {
        let mut out = Vec::new();
        manager.step(NOW, input, &mut out);
        persisted(out)
    }

    fn persisted(out: Vec<Output>) -> Vec<Input> {
        let tickets = out.into_iter().filter_map(|output| match output {
            Output::Persist { ticket, .. } => Some(Input::Persisted { ticket }),
            _ => None,
        });
        tickets.collect()
    }

    /// The disk and whoever follows keep up.
    fn settle(manager: &mut Manager, mut inputs: Vec<Input>) {
        while let Some(input) = inputs.pop() {
            inputs.extend(step(manager, input));
        }
    }

    fn add(manager: &mut Manager, id: u128) -> Vec<Input> {
        let command = Command::AddNode {
            id: NodeId::new(id),
            description: Box::new(NodeDescription::default()),
            role: Role::Manager,
            address: "10.0.0.1".to_owned(),
            manager: Some("10.0.0.1:2377".to_owned()),
        };
        step(manager, Input::Command { request: RequestId::new(id), command })
    }

    fn has_it_all(manager: &Manager, from: u128, index: u64) -> Input {
        let term = manager.raft.term();
        let message = Message { epoch: 1, term, body: Body::AppendOk { index } };
        Input::Peer { from: NodeId::new(from), message }
    }

    /// A cluster of one.
    fn alone() -> Manager {
        let config = Config {
            node: NodeId::new(7),
            cluster: ClusterId::new(1),
            seed: [1; 32],
            report_batch: Span::from_millis(100),
            snapshot_after_bytes: 1 << 20,
            advertise: "10.0.0.1:2377".to_owned(),
            timing: Timing::default(),
        };
        let mut manager = Manager::new(config, Recovered::default(), NOW).unwrap();
        let mut out = Vec::new();
        manager.bootstrap(NOW, NodeDescription::default(), &mut out);
        settle(&mut manager, persisted(out));
        manager
    }

    #[test]
    fn with_all_places_taken_who_is_demoted_makes_room_for_who_waits() {
        let mut manager = alone();
        for id in 100..100 + MEMBERS_MAX as u128 {
            let asked = add(&mut manager, id);
            settle(&mut manager, asked);
        }
        let learner = |id: u128| NodeId::new(id);
        let members = manager.raft.members();
        assert_eq!(members.learners.len() + members.voters.len(), MEMBERS_MAX);
        assert!(!members.contains(learner(114)), "it waits");
        let node = manager.store().node(learner(100)).unwrap();
        let (version, spec) = (node.meta.version, NodeSpec::default());
        let command = Command::UpdateNode { id: learner(100), version, spec };
        let asked = step(&mut manager, Input::Command { request: RequestId::new(1), command });
        settle(&mut manager, asked);
        let members = manager.raft.members();
        assert!(!members.contains(learner(100)) && members.contains(learner(114)), "{members:?}");
    }

    #[test]
    fn who_catches_up_while_another_is_added_gets_its_vote() {
        let mut manager = alone();
        let asked = add(&mut manager, 8);
        settle(&mut manager, asked);
        let index = manager.raft.commit();

        // 9 is on its way to the disk when 8 has caught up.
        let mut asked = add(&mut manager, 9);
        let told = has_it_all(&manager, 8, index);
        asked.extend(step(&mut manager, told));
        settle(&mut manager, asked);
        let voters: Vec<NodeId> = manager.raft.members().voters.iter().copied().collect();
        assert_eq!(voters, [NodeId::new(7), NodeId::new(8)]);
    }
}
