//! The manager machine: log, store, orchestrator, allocator, scheduler and dispatch in one
//! `step()`.
//!
//! Two stores: `committed` holds what is durable, answers reads and feeds the workers; `planned`
//! holds what is in flight on top of it, and every decision is made there, so that pipelining
//! neither loses an update nor leases an address twice. When the disk refuses, `planned` is made
//! anew from `committed`.
//!
//! One step: take the input in, let the services that it touched be looked at, hand the new
//! entries to the disk as one batch, tell the workers what was committed.
//!
//! **Invariants:** `planned` = `committed` + entries in flight. A write is answered, and a worker
//! told, only after its entry is durable. With nothing to do there is no deadline.

mod command;
mod dispatch;
pub mod io;
mod log;
mod report;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet};

use self::dispatch::Dispatch;
use self::io::{Config, Input, Output, Recovered};
use self::log::Log;
use self::report::Reports;
use crate::base::id::ServiceId;
use crate::base::rng::Rng;
use crate::base::time::{Now, Span, Time};
use crate::logic::codec::{self, CodecError};
use crate::logic::orchestrator::{self, Draft, Memory};
use crate::logic::scheduler::Nodes;
use crate::logic::store::{SnapshotError, Store};

/// Shortest wait before the manager tries its own writes again after the disk refused.
pub const REFUSED_WAIT_MIN: Span = Span::from_secs(1);

/// Longest such wait.
pub const REFUSED_WAIT_MAX: Span = Span::from_secs(30);

/// What was found in the log cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// The snapshot.
    #[error("cannot read the snapshot at index {index}")]
    Snapshot {
        /// Its last index.
        index: u64,
        /// Why.
        #[source]
        source: SnapshotError,
    },
    /// An entry.
    #[error("cannot read the log's entry {index}")]
    Entry {
        /// Its index.
        index: u64,
        /// Why.
        #[source]
        source: CodecError,
    },
    /// Entries are not consecutive.
    #[error("the log goes on at entry {found} instead of {wanted}")]
    Gap {
        /// What should come.
        wanted: u64,
        /// What came.
        found: u64,
    },
}

/// The manager.
#[derive(Debug)]
pub struct Manager {
    config: Config,
    rng: Rng,
    log: Log,
    committed: Store,
    planned: Store,
    /// Follows `planned`.
    nodes: Nodes,
    reports: Reports,
    dispatch: Dispatch,
    memories: BTreeMap<ServiceId, Memory>,
    /// Services to be looked at in this step.
    dirty: BTreeSet<ServiceId>,
    /// Services with a task that waits for a node or an address.
    waiting: BTreeSet<ServiceId>,
    /// When to look at a service even if nothing happens.
    wakes: BTreeMap<ServiceId, Time>,
    /// The disk refused: own work waits until this time, for this long.
    blocked: Option<(Time, Span)>,
}

impl Manager {
    /// With what was found in the log.
    ///
    /// # Errors
    /// When the log holds what this release cannot read; the node must not go on.
    pub fn new(config: Config, recovered: Recovered, _now: Now) -> Result<Self, RecoverError> {
        let (mut store, mut index, mut term) = (Store::default(), 0, 0);
        if let Some((at, of, data)) = recovered.snapshot {
            store = Store::restore(&data)
                .map_err(|source| RecoverError::Snapshot { index: at, source })?;
            (index, term) = (at, of);
        }
        let mut grown_bytes = 0;
        for entry in recovered.entries {
            if entry.index != index + 1 {
                return Err(RecoverError::Gap { wanted: index + 1, found: entry.index });
            }
            let decoded = codec::decode_entry(&entry.data)
                .map_err(|source| RecoverError::Entry { index: entry.index, source })?;
            store.apply(entry.index, &decoded);
            (index, term) = (entry.index, entry.term);
            grown_bytes += u64::try_from(entry.data.len()).unwrap_or(u64::MAX);
        }
        let dirty = write::all_services(&store);
        Ok(Self {
            rng: Rng::from_entropy(config.seed),
            log: Log::new(index, term, recovered.term, grown_bytes),
            nodes: Nodes::new(&store, &BTreeMap::new()),
            planned: store.clone(),
            committed: store,
            reports: Reports::default(),
            dispatch: Dispatch::default(),
            memories: BTreeMap::new(),
            dirty,
            waiting: BTreeSet::new(),
            wakes: BTreeMap::new(),
            blocked: None,
            config,
        })
    }

    /// Takes an input in. Never blocks, never fails.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Tick => {}
            Input::Command { request, command } => self.command(now, request, command, out),
            Input::Persisted { index } => self.persisted(index, out),
            Input::PersistRefused { index, reason } => self.refused(now, index, &reason, out),
            // Until then the log below the snapshot is simply longer.
            Input::SnapshotSaved { index: _ } => {}
            Input::WorkerJoined { node, description } => {
                self.worker_joined(now, node, description);
            }
            Input::Report { node, report } => self.report(now, node, report),
        }
        if self.blocked.is_none_or(|(until, _)| now.mono >= until) {
            self.flush_reports(now, false);
            self.look(now);
            if self.log.has_outbox() && self.flush_reports(now, true) {
                self.look(now);
            }
        }
        self.write_out(out);
        self.dispatch.flush(&self.committed, self.log.term(), out);
    }

    /// When to call [`Manager::step`] with [`Input::Tick`] even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let wake = self.wakes.values().min().copied();
        // What is left to look at while the log is full goes on when the disk answers.
        let start = (!self.dirty.is_empty() && !self.log.is_full()).then_some(Time(0));
        let due = [wake, start, self.reports.due()].into_iter().flatten().min()?;
        Some(self.blocked.map_or(due, |(until, _)| due.max(until)))
    }

    /// Whether the cluster's first entry is durable.
    #[must_use]
    pub const fn is_bootstrapped(&self) -> bool {
        self.committed.cluster().is_some()
    }

    /// The durable state; for checks.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.committed
    }

    /// Looks at every service that something happened to, or whose time has come.
    fn look(&mut self, now: Now) {
        let due: Vec<ServiceId> =
            self.wakes.iter().filter(|(_, at)| **at <= now.mono).map(|(id, _)| *id).collect();
        self.dirty.extend(due);
        while !self.log.is_full() {
            let Some(id) = self.dirty.pop_first() else { break };
            self.wakes.remove(&id);
            self.waiting.remove(&id);
            let mut draft = Draft::new(&self.planned, &self.nodes, &mut self.rng, now);
            if let Some(service) = self.planned.service(id) {
                let memory = self.memories.entry(id).or_default();
                let looked = orchestrator::reconcile(&mut draft, service, memory);
                if let Some(at) = looked.wake.time() {
                    self.wakes.insert(id, at);
                }
                if looked.waits {
                    self.waiting.insert(id);
                }
            } else {
                self.memories.remove(&id);
                orchestrator::remove_all(&mut draft, id);
            }
            let changes = draft.into_changes();
            self.write_own(now, changes);
        }
    }
}
