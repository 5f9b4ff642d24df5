//! Who proposes, who reads, and who replaces members.

use std::sync::Arc;

use skep::base::id::RequestId;
use skep::base::time::Span;
use skep::logic::raft::Raft;
use skep::logic::raft::io::{MemberChange, Members};

use super::{Event, World};
use crate::faults::count;
use crate::trace::trace;

impl World {
    /// The members as the newest leader has them.
    pub(super) fn members(&self) -> Option<&Members> {
        self.leader().and_then(|node| self.nodes[node].raft.as_ref()).map(Raft::members)
    }

    /// The member that leads in the newest term.
    pub(super) fn leader(&self) -> Option<usize> {
        let leads = self.nodes.iter().enumerate().filter(|(_, node)| node.leads);
        leads
            .max_by_key(|(_, node)| node.raft.as_ref().map_or(0, |raft| raft.term()))
            .map(|(n, _)| n)
    }

    fn any_node(&mut self) -> usize {
        usize::try_from(self.rng.below(self.nodes.len() as u64)).unwrap()
    }

    pub(super) fn client(&mut self) {
        if self.quiet {
            return;
        }
        let node = self.any_node();
        if self.nodes[node].frozen <= self.now {
            if self.rng.one_in(3) {
                self.read(node);
            } else {
                self.propose(node);
            }
        }
        let wait = Span::from_millis(1 + self.rng.below(if self.faults { 100 } else { 400 }));
        self.after(wait, Event::Client);
    }

    fn read(&mut self, node: usize) {
        self.requests += 1;
        let request = RequestId::new(self.requests);
        let floor = self.check.acknowledged;
        let member = &mut self.nodes[node];
        let local = member.clock.mono(self.now);
        let mut out = Vec::new();
        if let Some(raft) = &mut member.raft {
            member.reads.insert(request, floor);
            raft.read(local, request, &mut out);
        }
        self.done(node, out);
    }

    pub(super) fn propose(&mut self, node: usize) {
        let times = if self.rng.one_in(10) { 20 } else { 1 };
        let large = self.rng.one_in(60);
        let member = &mut self.nodes[node];
        let local = member.clock.mono(self.now);
        let Some(raft) = &mut member.raft else { return };
        let mut taken = 0;
        for _ in 0..times {
            let mut data = self.proposals.to_le_bytes().to_vec();
            if large {
                data.resize(200_000, 1);
            }
            let data: Arc<[u8]> = data.into();
            match raft.propose(local, data) {
                Ok(index) => {
                    member.pending.insert(index, raft.term());
                    taken += 1;
                }
                Err(_) => break,
            }
            self.proposals += 1;
        }
        if taken == 0 {
            return;
        }
        count(&mut self.counts, "proposed", taken);
        if self.dies(node, "propose", false) {
            return;
        }
        let mut out = Vec::new();
        if let Some(raft) = &mut self.nodes[node].raft {
            raft.flush(local, &mut out);
        }
        self.done(node, out);
    }

    /// Sees to it that the members are the machines that are there; now and then changes something
    /// for its own sake.
    pub(super) fn operator(&mut self) {
        let wait = Span::from_millis(100 + self.rng.below(500));
        self.after(wait, Event::Operator);
        let Some(leader) = self.leader() else { return };
        let Some(members) = self.members().cloned() else { return };
        self.let_go(&members);
        if self.nodes[leader].frozen > self.now {
            return;
        }
        let ids: Vec<_> = self.nodes.iter().map(|node| node.id).collect();
        let all = members.voters.iter().chain(&members.learners);
        let stranger = all.copied().find(|id| !ids.contains(id));
        let missing = self.nodes.iter().find(|node| {
            let id = &node.id;
            !node.leaving && !members.voters.contains(id) && !members.learners.contains(id)
        });
        let change = if let Some(id) = stranger {
            MemberChange::Remove(id)
        } else if let Some(node) = missing {
            MemberChange::Add(node.id)
        } else if let Some(id) = members.learners.first() {
            MemberChange::Promote(*id)
        } else if self.faults && self.is_whole(&members) && self.rng.one_in(12) {
            let node = self.any_node();
            let id = self.nodes[node].id;
            match self.rng.below(4) {
                0 if !self.check.lost => {
                    self.nodes[node].leaving = true;
                    MemberChange::Remove(id)
                }
                0 | 1 => MemberChange::Demote(id),
                _ => return self.transfer(leader),
            }
        } else {
            return;
        };
        self.change(leader, change);
    }

    /// Everybody has a vote and an undamaged log, so that one may go.
    fn is_whole(&self, members: &Members) -> bool {
        self.nodes.len() > 2
            && members.voters.len() == self.nodes.len()
            && self.nodes.iter().all(|node| !node.disk.is_cut())
    }

    /// A machine that was removed comes back as another member.
    fn let_go(&mut self, members: &Members) {
        for n in 0..self.nodes.len() {
            let node = &self.nodes[n];
            let id = node.id;
            if !node.leaving || node.frozen > self.now {
                continue;
            }
            if members.voters.contains(&id) || members.learners.contains(&id) {
                // The change was refused or lost.
                self.nodes[n].leaving = false;
                continue;
            }
            let committed = self.nodes.iter().any(|other| {
                let members = &other.app.members;
                other.leads && !members.voters.contains(&id) && !members.learners.contains(&id)
            });
            if committed {
                trace!(self.now, "{n} is taken away");
                self.nodes[n].stop();
                self.nodes[n].wipe(n, self.fsync);
                self.after(Span::from_millis(100), Event::Up(n));
            }
        }
    }

    fn change(&mut self, leader: usize, change: MemberChange) {
        let member = &mut self.nodes[leader];
        let local = member.clock.mono(self.now);
        let Some(raft) = &mut member.raft else { return };
        let said = raft.change_members(local, change);
        trace!(self.now, "{leader} is asked for {change:?}: {said:?}");
        if said.is_err() {
            if let MemberChange::Remove(id) = change {
                let node = self.nodes.iter_mut().find(|node| node.id == id);
                if let Some(node) = node {
                    node.leaving = false;
                }
            }
            return;
        }
        count(&mut self.counts, "member changes", 1);
        let mut out = Vec::new();
        if let Some(raft) = &mut self.nodes[leader].raft {
            raft.flush(local, &mut out);
        }
        self.done(leader, out);
        if self.nodes[leader].armed.is_some() {
            self.dies(leader, "change members", true);
        }
    }

    fn transfer(&mut self, leader: usize) {
        let to = self.any_node();
        let to = (to != leader && self.rng.one_in(2)).then(|| self.nodes[to].id);
        let member = &mut self.nodes[leader];
        let local = member.clock.mono(self.now);
        let mut out = Vec::new();
        if let Some(raft) = &mut member.raft
            && raft.transfer(local, to, &mut out).is_ok()
        {
            trace!(self.now, "{leader} hands over to {to:?}");
            count(&mut self.counts, "transfers", 1);
        }
        self.done(leader, out);
    }
}
