//! What the leader does by itself besides services: it gives up what a node held that has been
//! down for a day, moves tasks where the cluster asks for that, and takes over what workers did
//! while no manager heard of them.

use super::io::Adopted;
use super::{Lead, Manager};
use crate::base::id::{NodeId, ServiceId, TaskId};
use crate::base::time::{Now, Span, Time};
use crate::logic::orchestrator::{self, Chain, Draft, ORPHAN_AFTER};
use crate::logic::scheduler::rebalance::{Moved, REBALANCE_EVERY, rebalance};

/// How long after it was written that a node's tasks are given up it is looked at once more.
const ORPHAN_AGAIN: Span = Span::from_secs(60);

impl Lead {
    /// When one of it is due.
    pub(super) fn tend_due(&self) -> Option<Time> {
        let orphans = self.down.values().map(|since| *since + ORPHAN_AFTER).min();
        [orphans, self.rebalance_at].into_iter().flatten().min()
    }
}

impl Manager {
    /// Does what is due.
    pub(super) fn tend(&mut self, now: Now) {
        let due: Vec<NodeId> = self
            .lead
            .down
            .iter()
            .filter(|(_, since)| **since + ORPHAN_AFTER <= now.mono)
            .map(|(id, _)| *id)
            .collect();
        for node in due {
            let lead = &self.lead;
            let mut draft = Draft::new(&lead.planned, &lead.nodes, &mut self.rng, now);
            orchestrator::orphan_all(&mut draft, node);
            let changes = draft.into_changes();
            let services: Vec<ServiceId> =
                lead.planned.tasks_of_node(node).map(|task| task.service).collect();
            if changes.is_empty() {
                self.lead.down.remove(&node);
                continue;
            }
            if !self.write_own(now, changes) {
                break;
            }
            // The disk may still refuse it: looked at once more.
            let again = Time(now.mono.0.saturating_sub(ORPHAN_AFTER.0)) + ORPHAN_AGAIN;
            self.lead.down.insert(node, again);
            self.lead.dirty.extend(services);
        }
        self.describe(now);
        for (node, told) in std::mem::take(&mut self.lead.unadopted) {
            self.adopt(now, node, told);
        }
        if self.lead.rebalance_at.is_some_and(|at| at <= now.mono) {
            self.move_one(now);
        }
    }

    /// Moves one task, if something is to be gained.
    fn move_one(&mut self, now: Now) {
        let lead = &mut self.lead;
        let found = rebalance(&lead.planned, &lead.nodes, now, lead.moved);
        lead.rebalance_at = found.again;
        let Some((service, task)) = found.task else { return };
        let Some(of) = lead.planned.service(service) else { return };
        let mut draft = Draft::new(&lead.planned, &lead.nodes, &mut self.rng, now);
        let memory = lead.memories.entry(service).or_default();
        let begun = orchestrator::move_task(&mut draft, of, memory, task);
        let changes = draft.into_changes();
        // Also where nothing came of it: the next one is looked for later.
        lead.moved = Some(Moved { service, at: now.mono });
        lead.dirty.insert(service);
        if begun {
            self.write_own(now, changes);
        }
    }

    /// Something changed that may make another spread better.
    pub(super) fn look_at_spread(&mut self, now: Now) {
        if self.lead.planned.cluster().is_some_and(|cluster| cluster.rebalance) {
            let at = now.mono + REBALANCE_EVERY;
            self.lead.rebalance_at = Some(self.lead.rebalance_at.map_or(at, |old| old.min(at)));
        }
    }

    /// A worker made successors of a task by itself: they become the slot's, in one entry.
    pub(super) fn adopt(&mut self, now: Now, node: NodeId, told: Adopted) {
        if self.is_blocked(now) {
            return self.keep_unadopted(node, told);
        }
        let again = told.clone();
        let Adopted { base, status, ended, task } = told;
        let last: TaskId = task.id;
        let known = self.lead.planned.task(base).filter(|it| it.node == Some(node));
        let Some(service) = known.map(|it| it.service) else {
            // Nothing of it is wanted: the worker is told so.
            self.lead.dispatch.refuse(node, last);
            return;
        };
        let chain = Chain { base, status, ended, last: (last, task.status.clone()) };
        let lead = &self.lead;
        let mut draft = Draft::new(&lead.planned, &lead.nodes, &mut self.rng, now);
        orchestrator::adopt(&mut draft, &chain);
        let changes = draft.into_changes();
        if !self.write_own(now, changes) {
            return self.keep_unadopted(node, again);
        }
        self.lead.dirty.insert(service);
        self.observe(now, node, last, task.status);
    }

    /// The worker tells a chain once: what could not be written waits.
    fn keep_unadopted(&mut self, node: NodeId, told: Adopted) {
        self.lead.unadopted.retain(|(_, other)| other.base != told.base);
        self.lead.unadopted.push((node, told));
    }
}
