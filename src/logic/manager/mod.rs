//! The manager machine: consensus, store, orchestrator, allocator, scheduler and dispatch in one
//! `step()`.
//!
//! Every manager keeps `committed`: what a majority holds, the same on all of them at the same
//! index. The one that leads also keeps `planned`: what is in flight on top of it. Every decision is
//! made there, so that pipelining neither loses an update nor leases an address twice; it is made
//! anew when leadership changes or the disk refuses. Preconditions decide once more when an entry is
//! applied.
//!
//! One step: consensus takes the input in, what it committed is applied, the services that this
//! touched are looked at, the new entries go out as one batch, the workers are told what was
//! committed.
//!
//! **Invariants:** `planned` = `committed` + entries in flight. Nothing is decided before the first
//! entry of this manager's own term is applied. A write is answered, and a worker told, only after
//! its entry is committed. With nothing to do and nobody to keep in touch with there is no deadline.

mod begin;
#[cfg(test)]
mod begin_tests;
mod command;
mod dispatch;
mod flight;
mod full;
#[cfg(test)]
mod full_tests;
pub mod io;
mod lead;
mod members;
mod nodes;
mod payloads;
mod recover;
mod report;
mod tend;
#[cfg(test)]
mod tests;
pub mod wire;
mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use self::dispatch::Dispatch;
use self::flight::Flight;
use self::full::Blocked;
use self::io::{Adopted, Command, Config, Input, Output};
pub use self::recover::RecoverError;
use self::report::Reports;
use crate::base::id::{NodeId, RequestId, ServiceId};
use crate::base::rng::Rng;
use crate::base::time::{Now, Span, Time};
use crate::logic::orchestrator::{self, Draft, Memory};
use crate::logic::raft::Raft;
use crate::logic::raft::io::{self as raft, Ticket};
use crate::logic::scheduler::rebalance::Moved;
use crate::logic::scheduler::{MemoryUse, Nodes};
use crate::logic::store::{Feed, Store};
use crate::model::cluster::Founding;
use crate::model::entry::Change;
use crate::model::node::{NodeDescription, NodeState};

/// Shortest wait before the manager tries its own writes again after the disk refused.
pub const REFUSED_WAIT_MIN: Span = Span::from_secs(1);

/// Longest such wait.
pub const REFUSED_WAIT_MAX: Span = Span::from_secs(30);

/// Most commands that wait for a new leader's first entry; the next one is told to come again.
const EARLY_MAX: usize = 256;

/// How far this manager is with leading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leads {
    /// It follows.
    No,
    /// It was elected; it decides once the entry at this index is applied.
    From(u64),
    /// It decides.
    Yes,
}

/// The manager.
#[derive(Debug)]
pub struct Manager {
    config: Config,
    rng: Rng,
    raft: Raft,
    /// Members as of `committed`.
    members: raft::Members,
    committed: Store,
    /// What changed last in it, for who watches.
    feed: Feed,
    /// Term of the entry that `committed` is at.
    committed_term: u64,
    /// Bytes committed since the last snapshot was asked for.
    grown_bytes: u64,
    /// Bytes of the store in the last snapshot.
    state_bytes: u64,
    /// Reads that may be answered once this index is applied.
    reads: Vec<(RequestId, u64)>,
    /// Who makes the cluster, once this manager leads.
    founder: Option<NodeDescription>,
    /// What the cluster begins with, as long as it has not begun.
    founding: Founding,
    /// The disk refused.
    blocked: Option<Blocked>,
    /// The last write, where it makes room.
    urgent: Option<Ticket>,
    /// What the disk said last.
    refusal: String,
    broken: bool,
    /// What is to be done since the start, told with the first step.
    pending: Vec<Output>,
    leads: Leads,
    lead: Lead,
}

/// What only a leader keeps. Empty on all others.
#[derive(Debug, Default)]
struct Lead {
    planned: Store,
    flight: Flight,
    /// Commands that came before it may decide.
    early: VecDeque<(RequestId, Command)>,
    /// Follows `planned`.
    nodes: Nodes,
    /// When each node was last heard of.
    heard: BTreeMap<NodeId, Time>,
    reports: Reports,
    dispatch: Dispatch,
    memories: BTreeMap<ServiceId, Memory>,
    /// Services to be looked at in this step.
    dirty: BTreeSet<ServiceId>,
    /// Services that were looked at while the disk refused, and need more than it has room for.
    held: BTreeSet<ServiceId>,
    /// Services with a task that waits for a node or an address.
    waiting: BTreeSet<ServiceId>,
    /// When to look at a service even if nothing happens.
    wakes: BTreeMap<ServiceId, Time>,
    /// Since when each node is down.
    down: BTreeMap<NodeId, Time>,
    /// Nodes that were down, have a session again and have not told yet what runs there.
    returning: BTreeSet<NodeId>,
    /// What nodes said of themselves, until it is committed.
    descriptions: BTreeMap<NodeId, NodeDescription>,
    /// Chains that workers told while nothing could be written, at most one for each task.
    unadopted: Vec<(NodeId, Adopted)>,
    /// The last task that was moved for the sake of the spread.
    moved: Option<Moved>,
    /// When to look whether another is to be moved.
    rebalance_at: Option<Time>,
    /// When roles and members are to be compared.
    roles_at: Option<Time>,
    /// Learners that have caught up.
    caught_up: BTreeSet<NodeId>,
}

impl Manager {
    /// Takes an input in. Never blocks, never fails.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        out.append(&mut self.pending);
        if self.broken {
            return;
        }
        self.take(now, input, out);
        if self.raft.deadline().is_some_and(|at| at <= now.mono) {
            self.consensus(now, raft::Input::Tick, out);
        }
        self.bootstrap_again(now, out);
        let can = self.leads == Leads::Yes && self.raft.takes_proposals();
        if can && self.is_blocked(now) {
            if self.has_reserve() {
                self.look(now);
            }
        } else if can {
            self.found(now);
            self.begin_epoch(now);
            self.arrange_members(now);
            self.tend(now);
            self.flush_reports(now, false);
            self.look(now);
            if self.lead.flight.has_new() && self.flush_reports(now, true) {
                self.look(now);
            }
        }
        self.flush(now, out);
        self.save_snapshot(out);
        self.answer_reads(out);
        if self.leads == Leads::Yes {
            let term = self.raft.durable_term();
            let Lead { dispatch, reports, .. } = &mut self.lead;
            dispatch.flush(&self.committed, reports, term, out);
        }
    }

    fn take(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Tick => {}
            Input::Command { request, command } => self.command(now, request, command, out),
            Input::Peer { from, message } => {
                self.consensus(now, raft::Input::Message { from, message }, out);
            }
            Input::Reachable { peer } => {
                self.consensus(now, raft::Input::Reachable { peer }, out);
            }
            Input::Persisted { ticket } => {
                self.consensus(now, raft::Input::Persisted { ticket }, out);
            }
            Input::PersistRefused { ticket, reason } => self.refused(now, ticket, reason, out),
            // Until then the log below the snapshot is simply longer.
            Input::SnapshotSaved { index } => self.raft.compact(index),
            Input::SnapshotRefused { index: _ } => {}
            Input::Stopping => {
                let mut wants = Vec::new();
                // Without another manager there is nobody to hand anything to.
                if self.raft.transfer(now.mono, None, &mut wants).is_ok() {
                    self.obey(now, wants, out);
                }
            }
            Input::WorkerJoined { node, description } => {
                self.worker_joined(now, node, description);
            }
            Input::WorkerLeft { node } => self.lead.dispatch.leave(node),
            Input::Heard { node } => {
                if self.leads != Leads::No {
                    self.lead.heard.insert(node, now.mono);
                }
            }
            Input::Load { node, used_bytes, total_bytes } => {
                self.lead.nodes.set_memory(node, MemoryUse { used_bytes, total_bytes });
            }
            Input::Health { node, state } => self.health(now, node, state),
            Input::Report { node, report } => self.report(now, node, report),
        }
    }

    /// When to call [`Manager::step`] with [`Input::Tick`] even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        if self.broken {
            return None;
        }
        let mut due = None;
        if self.leads == Leads::Yes {
            let lead = &self.lead;
            let wake = lead.wakes.values().min().copied();
            // What is left to look at while the log is full goes on when the disk answers.
            let can = !lead.flight.is_full() && self.raft.takes_proposals();
            let left =
                !lead.dirty.is_empty() || !lead.held.is_empty() || !lead.unadopted.is_empty();
            let start = left.then_some(Time(0));
            let own =
                [wake, start, lead.reports.due(), lead.tend_due()].into_iter().flatten().min();
            let own = own.filter(|_| can);
            due = own.map(|due| self.blocked.map_or(due, |blocked| due.max(blocked.until)));
        }
        [due, self.begins_at(), self.raft.deadline()].into_iter().flatten().min()
    }

    /// Whether the cluster's first entry is committed.
    #[must_use]
    pub const fn is_bootstrapped(&self) -> bool {
        self.committed.cluster().is_some()
    }

    /// Whether this manager leads and decides.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leads == Leads::Yes
    }

    /// The consensus machine; for checks and figures.
    #[must_use]
    pub const fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The committed state; for checks.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.committed
    }

    /// How each node is, as far as this manager knows; a follower knows nothing.
    #[must_use]
    pub fn node_states(&self) -> Vec<(NodeId, NodeState)> {
        self.committed.nodes().map(|node| (node.id, self.lead.nodes.state(node.id))).collect()
    }

    /// What changed last in it.
    #[must_use]
    pub const fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Looks at every service that something happened to, or whose time has come. While the disk
    /// refuses only what makes room is written ([`full`]).
    fn look(&mut self, now: Now) {
        let blocked = self.is_blocked(now);
        let lead = &mut self.lead;
        if !blocked {
            lead.dirty.append(&mut lead.held);
        }
        let due: Vec<ServiceId> =
            lead.wakes.iter().filter(|(_, at)| **at <= now.mono).map(|(id, _)| *id).collect();
        lead.dirty.extend(due);
        while !self.lead.flight.is_full() && self.raft.takes_proposals() {
            let lead = &mut self.lead;
            let Some(id) = lead.dirty.pop_first() else { break };
            lead.wakes.remove(&id);
            lead.waiting.remove(&id);
            let before = blocked.then(|| lead.memories.get(&id).cloned().unwrap_or_default());
            let mut draft = Draft::new(&lead.planned, &lead.nodes, &mut self.rng, now)
                .with_last_heard(&lead.heard);
            if let Some(service) = lead.planned.service(id) {
                let memory = lead.memories.entry(id).or_default();
                let looked = orchestrator::reconcile(&mut draft, service, memory);
                if let Some(at) = looked.wake.time() {
                    lead.wakes.insert(id, at);
                }
                if looked.waits {
                    lead.waiting.insert(id);
                }
            } else {
                lead.memories.remove(&id);
                orchestrator::remove_all(&mut draft, id);
            }
            let changes = draft.into_changes();
            if blocked && !changes.iter().all(Change::makes_room) {
                self.lead.memories.extend(before.map(|before| (id, before)));
                self.lead.held.insert(id);
                continue;
            }
            if !self.write_own(now, changes) {
                // What was not taken is seen again.
                if let Some(memory) = self.lead.memories.get_mut(&id) {
                    memory.reset();
                }
                if self.lead.flight.is_full() || !self.raft.takes_proposals() {
                    self.lead.dirty.insert(id);
                    break;
                }
                // It cannot be written as it is: the others go first.
                self.lead.wakes.insert(id, now.mono + REFUSED_WAIT_MAX);
            }
        }
    }
}
