//! What each worker is told: everything when it joins, then what changed.
//!
//! Only what is committed is told, and only tasks that are placed: one of a global service names its
//! node before that. Of a task only `desired` changes in its life, so that is what is
//! remembered of what a worker knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::io::{Assignments, Fence, Output};
use super::report::Reports;
use crate::base::id::{NodeId, TaskId};
use crate::logic::store::{Effect, Store};
use crate::model::object::ObjectId;
use crate::model::task::TaskState;

/// What a worker knows.
#[derive(Debug, Default)]
struct Session {
    /// Joined and not yet told.
    fresh: bool,
    known: BTreeMap<TaskId, TaskState>,
    changed: BTreeSet<TaskId>,
}

/// What all workers know.
#[derive(Debug, Default)]
pub(super) struct Dispatch {
    sessions: BTreeMap<NodeId, Session>,
}

impl Dispatch {
    /// A worker began a session: it is told everything.
    pub(super) fn join(&mut self, node: NodeId) {
        self.sessions.insert(node, Session { fresh: true, ..Session::default() });
    }

    /// Every worker is told everything again.
    pub(super) fn begin_again(&mut self) {
        self.sessions.values_mut().for_each(|session| session.fresh = true);
    }

    /// The worker has a task that is nobody's: it is told to remove it.
    pub(super) fn refuse(&mut self, node: NodeId, task: TaskId) {
        if let Some(session) = self.sessions.get_mut(&node) {
            session.changed.insert(task);
        }
    }

    /// A worker's session ended.
    pub(super) fn leave(&mut self, node: NodeId) {
        self.sessions.remove(&node);
    }

    /// A write is committed.
    pub(super) fn note(&mut self, effect: &Effect) {
        match effect {
            Effect::Task(task) => {
                let Some(session) = task.node.and_then(|node| self.sessions.get_mut(&node)) else {
                    return;
                };
                if task.status.state < TaskState::Assigned {
                    return;
                }
                if session.known.get(&task.id) != Some(&task.desired) {
                    session.changed.insert(task.id);
                }
            }
            Effect::Remove(ObjectId::Task(id)) => {
                for session in self.sessions.values_mut() {
                    if session.known.contains_key(id) {
                        session.changed.insert(*id);
                    }
                }
            }
            Effect::Cluster(_)
            | Effect::Node(_)
            | Effect::Network(_)
            | Effect::Service(_)
            | Effect::Secret(_)
            | Effect::Config(_)
            | Effect::Resource(_)
            | Effect::Remove(
                ObjectId::Cluster(_)
                | ObjectId::Node(_)
                | ObjectId::Network(_)
                | ObjectId::Service(_)
                | ObjectId::Secret(_)
                | ObjectId::Config(_)
                | ObjectId::Resource(_),
            ) => {}
        }
    }

    /// Tells each worker what it does not know yet. A worker that was started anew may know less of a
    /// task than it has told before: with all that there is goes what was told last.
    pub(super) fn flush(
        &mut self,
        store: &Store,
        reports: &Reports,
        term: u64,
        out: &mut Vec<Output>,
    ) {
        for (node, session) in &mut self.sessions {
            let complete = std::mem::take(&mut session.fresh);
            let changed = std::mem::take(&mut session.changed);
            if !complete && changed.is_empty() {
                continue;
            }
            let (mut tasks, mut removed) = (Vec::new(), Vec::new());
            if complete {
                let placed = store.tasks_of_node(*node);
                let placed = placed.filter(|task| task.status.state >= TaskState::Assigned);
                tasks.extend(placed.map(|task| reports.newest(task)));
            } else {
                for id in changed {
                    match store.task(id) {
                        Some(task) => tasks.push(Arc::clone(task)),
                        None => removed.push(id),
                    }
                }
            }
            for id in &removed {
                session.known.remove(id);
            }
            session.known.extend(tasks.iter().map(|task| (task.id, task.desired)));
            let epoch = store.cluster().map_or(0, |cluster| cluster.epoch);
            let fence = Fence { epoch, term, index: store.index() };
            let networks = store.networks().cloned().collect();
            let assignments = Assignments { fence, complete, tasks, removed, networks };
            out.push(Output::Assign { node: *node, assignments });
        }
    }
}
