//! What workers tell: kept in memory at once, logged when it is worth it.
//!
//! A state before `Running` is logged only after a second in it: most tasks pass through them
//! faster, and a state that is lost with the manager is told again by the worker. Everything else
//! is gathered for [`Config::report_batch`](super::io::Config) and logged together. That an address
//! is free again goes along with whatever is written next, or waits for [`CLEANED_WAIT`].
//!
//! **Invariant:** what was told is kept until it is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::io::Report;
use super::{Lead, Leads, Manager};
use crate::base::id::{NodeId, TaskId};
use crate::base::time::{Now, Span, Time};
use crate::logic::store::Effect;
use crate::model::entry::Change;
use crate::model::object::{Object, ObjectId};
use crate::model::task::{Task, TaskState, TaskStatus};

/// A state before running is logged after this long in it.
pub(super) const EARLY_STATE_WAIT: Span = Span::from_secs(1);

/// Addresses given back are written after this long at the latest when nobody waits for one.
pub(super) const CLEANED_WAIT: Span = Span::from_secs(30);

/// What was told of one task and is not durable yet.
#[derive(Clone, Debug)]
struct Told {
    status: Option<TaskStatus>,
    cleaned: bool,
    removed: bool,
    due: Time,
    /// In an entry that is in flight.
    proposed: bool,
}

impl Told {
    /// Only a state that will most likely be gone in a moment.
    fn is_early(&self) -> bool {
        let early = |status: &TaskStatus| status.state < TaskState::Running;
        !self.cleaned && !self.removed && self.status.as_ref().is_some_and(early)
    }

    /// The status that was told, unless the task is further by now: it was orphaned meanwhile.
    fn news(&self, task: &Task) -> Option<&TaskStatus> {
        self.status.as_ref().filter(|status| status.state >= task.status.state)
    }

    /// The task as it is told; `None` when nothing is left of it.
    fn on(&self, task: &Task) -> Option<Task> {
        if self.removed && task.desired == TaskState::Remove {
            return None;
        }
        let mut task = task.clone();
        if let Some(status) = self.news(&task) {
            task.status = status.clone();
        }
        if self.cleaned || self.removed {
            task.addresses.clear();
        }
        Some(task)
    }
}

/// What was told and is not durable yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Reports {
    told: BTreeMap<TaskId, Told>,
}

impl Reports {
    /// When something of it is to be logged.
    pub(super) fn due(&self) -> Option<Time> {
        self.told.values().filter(|told| !told.proposed).map(|told| told.due).min()
    }

    /// What is durable need not be kept.
    pub(super) fn committed(&mut self, effects: &[Effect]) {
        for effect in effects {
            let (id, task) = match effect {
                Effect::Task(task) => (task.id, Some(task)),
                Effect::Remove(ObjectId::Task(id)) => (*id, None),
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
                ) => continue,
            };
            let Some(told) = self.told.get(&id) else { continue };
            if task.is_none_or(|task| told.on(task).is_some_and(|it| &it == task.as_ref())) {
                self.told.remove(&id);
            }
        }
    }

    /// What was in flight was refused.
    pub(super) fn retry(&mut self) {
        for told in self.told.values_mut() {
            told.proposed = false;
        }
    }

    /// A task's newest status.
    pub(super) fn status<'a>(&'a self, task: &'a Task) -> &'a TaskStatus {
        self.told.get(&task.id).and_then(|told| told.news(task)).unwrap_or(&task.status)
    }

    /// The task with its newest status.
    pub(super) fn newest(&self, task: &Arc<Task>) -> Arc<Task> {
        match self.told.get(&task.id).and_then(|told| told.news(task)) {
            Some(status) if status != &task.status => {
                Arc::new(Task { status: status.clone(), ..task.as_ref().clone() })
            }
            Some(_) | None => Arc::clone(task),
        }
    }
}

impl Manager {
    /// A worker tells.
    pub(super) fn report(&mut self, now: Now, node: NodeId, report: Report) {
        if self.leads != Leads::Yes {
            // It tells everything again when its session with a leader begins.
            return;
        }
        self.lead.heard.insert(node, now.mono);
        // What is told of a successor can be taken once it is known.
        for chain in report.adopted {
            self.adopt(now, node, chain);
        }
        for (id, status) in report.statuses {
            self.observe(now, node, id, status);
        }
        self.returned(now, node);
        let batch = self.config.report_batch;
        let cleaned = if self.lead.waiting.is_empty() { CLEANED_WAIT } else { batch };
        for id in report.cleaned {
            if let Some(told) = self.tell(now, node, id, cleaned) {
                told.cleaned = true;
            }
        }
        for id in report.removed {
            if let Some(told) = self.tell(now, node, id, batch) {
                told.removed = true;
            }
        }
    }

    /// States only grow; the same state again with something else to say replaces it.
    pub(super) fn observe(&mut self, now: Now, node: NodeId, id: TaskId, status: TaskStatus) {
        let Some(task) = self.lead.planned.task(id) else { return };
        let known = self.lead.reports.status(task);
        if status.state < known.state || &status == known {
            return;
        }
        let early = status.state < TaskState::Running;
        let wait = if early { EARLY_STATE_WAIT } else { self.config.report_batch };
        if let Some(told) = self.tell(now, node, id, wait) {
            if told.is_early() {
                told.due = now.mono + wait;
            }
            told.status = Some(status);
        }
    }

    fn tell(&mut self, now: Now, node: NodeId, id: TaskId, wait: Span) -> Option<&mut Told> {
        self.lead.planned.task(id).filter(|task| task.node == Some(node))?;
        let due = now.mono + wait;
        let new = Told { status: None, cleaned: false, removed: false, due, proposed: false };
        let told = self.lead.reports.told.entry(id).or_insert(new);
        told.due = told.due.min(due);
        told.proposed = false;
        Some(told)
    }

    /// Logs what is due, and with it everything but early states; that, too, when something else
    /// is written `along`. True when there was something.
    pub(super) fn flush_reports(&mut self, now: Now, along: bool) -> bool {
        let due = self.lead.reports.due().is_some_and(|at| along || at <= now.mono);
        if self.lead.flight.is_full() || !self.raft.takes_proposals() || !due {
            return false;
        }
        let mut services = BTreeSet::new();
        let mut changes = Vec::new();
        let (Lead { planned, reports, .. }, committed) = (&mut self.lead, &self.committed);
        reports.told.retain(|id, told| {
            if told.proposed || (told.is_early() && told.due > now.mono) {
                return true;
            }
            told.proposed = true;
            let Some(task) = planned.task(*id) else { return committed.task(*id).is_some() };
            match told.on(task) {
                Some(new) if &new == task.as_ref() => {
                    return committed.task(*id).is_none_or(|it| !Arc::ptr_eq(it, task));
                }
                Some(new) => changes.push(Change::Put(Object::Task(Box::new(new)))),
                None => changes.push(Change::Remove(ObjectId::Task(*id))),
            }
            services.insert(task.service);
            true
        });
        let any = !changes.is_empty();
        if !self.write_own(now, changes) {
            self.lead.reports.retry();
            return false;
        }
        self.lead.dirty.extend(services);
        any
    }
}
