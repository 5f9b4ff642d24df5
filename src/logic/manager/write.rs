//! How the manager writes: entries proposed on the planned store, committed when they are durable,
//! undone when the disk refuses.

use std::collections::BTreeSet;

use super::io::{CommandError, Output, Reply};
use super::log::InFlight;
use super::{Manager, REFUSED_WAIT_MAX, REFUSED_WAIT_MIN};
use crate::base::id::{RequestId, ServiceId};
use crate::base::time::{Now, Span, Wall};
use crate::logic::store::{ApplyResult, Effect, OWN_REQUEST, Store};
use crate::model::entry::{Change, ENTRY_CHANGES_MAX, Entry, Precondition};
use crate::model::object::{Object, ObjectId};

/// Bytes of changes that one entry of the manager's own work holds, if it holds more than one.
pub(super) const ENTRY_BYTES_MAX: usize = 512 << 10;

impl Manager {
    /// Proposes what somebody asked for; answered when it is durable.
    pub(super) fn write_asked(
        &mut self,
        now: Now,
        request: RequestId,
        preconditions: Vec<Precondition>,
        changes: Vec<Change>,
    ) -> Result<(), CommandError> {
        if self.log.is_full() {
            return Err(CommandError::Busy(
                "too many changes wait for the disk; try again in a moment".to_owned(),
            ));
        }
        let entry = Entry { request, time: now.wall, preconditions, changes };
        self.propose(entry, vec![request])
    }

    /// Proposes the manager's own work, in as many entries as it takes.
    pub(super) fn write_own(&mut self, now: Now, changes: Vec<Change>) {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for change in changes {
            let size = size(&change);
            if !batch.is_empty()
                && (batch.len() >= ENTRY_CHANGES_MAX || bytes + size > ENTRY_BYTES_MAX)
            {
                self.propose_own(now.wall, std::mem::take(&mut batch));
                bytes = 0;
            }
            bytes += size;
            batch.push(change);
        }
        if !batch.is_empty() {
            self.propose_own(now.wall, batch);
        }
    }

    fn propose_own(&mut self, time: Wall, changes: Vec<Change>) {
        let entry = Entry { request: OWN_REQUEST, time, preconditions: Vec::new(), changes };
        let proposed = self.propose(entry, Vec::new());
        debug_assert!(proposed.is_ok(), "the manager's own objects can be encoded");
    }

    fn propose(&mut self, entry: Entry, waiting: Vec<RequestId>) -> Result<(), CommandError> {
        let encoded = self
            .log
            .encode(&entry)
            .map_err(|error| CommandError::Invalid(format!("cannot write this change: {error}")))?;
        let applied = self.planned.apply(encoded.index, &entry);
        for effect in &applied.effects {
            self.touch(effect);
        }
        self.log.push(encoded, entry, applied, waiting);
        Ok(())
    }

    /// Marks the services that a write concerns.
    fn touch(&mut self, effect: &Effect) {
        match effect {
            Effect::Service(service) => {
                self.dirty.insert(service.id);
            }
            Effect::Task(task) => {
                if task.status.state.is_terminal() || task.addresses.is_empty() {
                    self.dirty.extend(&self.waiting);
                }
            }
            Effect::Remove(ObjectId::Service(id)) => {
                self.dirty.insert(*id);
            }
            Effect::Remove(ObjectId::Task(_)) => self.dirty.extend(&self.waiting),
            Effect::Cluster(_) | Effect::Node(_) | Effect::Network(_) => {
                self.dirty.extend(self.planned.services().map(|service| service.id));
            }
            // No service's tasks hang on these: a spec names them before it is accepted.
            Effect::Secret(_) | Effect::Config(_) | Effect::Resource(_) => {}
            Effect::Remove(
                ObjectId::Cluster(_)
                | ObjectId::Node(_)
                | ObjectId::Network(_)
                | ObjectId::Secret(_)
                | ObjectId::Config(_)
                | ObjectId::Resource(_),
            ) => {}
        }
    }

    /// Hands the new entries to the disk, and a snapshot when it is time.
    pub(super) fn write_out(&mut self, out: &mut Vec<Output>) {
        let entries = self.log.take_outbox();
        if !entries.is_empty() {
            out.push(Output::Persist { entries });
        }
    }

    /// Everything through `index` is durable.
    pub(super) fn persisted(&mut self, index: u64, out: &mut Vec<Output>) {
        while let Some(entry) = self.log.commit(index) {
            self.blocked = None;
            self.committed.install(entry.index, &entry.entry, &entry.applied);
            for effect in &entry.applied.effects {
                self.dispatch.note(effect);
            }
            self.reports.committed(&entry.applied.effects);
            answer(entry, out);
        }
        if self.log.take_growth(self.config.snapshot_after_bytes)
            && let Ok(data) = self.committed.snapshot()
        {
            let (index, term) = self.log.committed();
            out.push(Output::SaveSnapshot { index, term, data });
        }
    }

    /// Nothing from `index` on was written: it is undone, and whoever waits is told.
    pub(super) fn refused(&mut self, now: Now, index: u64, reason: &str, out: &mut Vec<Output>) {
        let refused = self.log.refuse(index);
        if refused.is_empty() {
            return;
        }
        self.planned = self.committed.clone();
        let Self { planned, log, .. } = self;
        for entry in log.in_flight() {
            planned.install(entry.index, &entry.entry, &entry.applied);
        }
        for entry in refused {
            for request in entry.waiting {
                let reply =
                    Err(CommandError::Storage(format!("cannot write the cluster's log: {reason}")));
                out.push(Output::Reply { request, reply });
            }
        }
        for memory in self.memories.values_mut() {
            memory.reset();
        }
        self.reports.retry();
        self.wakes.clear();
        self.dirty = all_services(&self.planned);
        let wait = self.blocked.map_or(REFUSED_WAIT_MIN, |(_, last)| {
            Span(last.0.saturating_mul(2)).min(REFUSED_WAIT_MAX)
        });
        self.blocked = Some((now.mono + wait, wait));
    }
}

/// Every service that has an object or a task: one may be gone while its tasks are still there.
pub(super) fn all_services(store: &Store) -> BTreeSet<ServiceId> {
    let services = store.services().map(|service| service.id);
    services.chain(store.tasks().map(|task| task.service)).collect()
}

fn answer(entry: InFlight, out: &mut Vec<Output>) {
    for request in entry.waiting {
        out.push(Output::Reply { request, reply: reply(entry.applied.result) });
    }
}

/// The answer that a result stands for.
pub(super) fn reply(result: ApplyResult) -> Result<Reply, CommandError> {
    match result {
        ApplyResult::Done => Ok(Reply::Done),
        ApplyResult::Created(ObjectId::Service(id)) => Ok(Reply::Created { id }),
        // Nobody asks for these yet.
        ApplyResult::Created(
            ObjectId::Cluster(_)
            | ObjectId::Node(_)
            | ObjectId::Network(_)
            | ObjectId::Task(_)
            | ObjectId::Secret(_)
            | ObjectId::Config(_)
            | ObjectId::Resource(_),
        ) => Ok(Reply::Done),
        ApplyResult::Stale => Err(CommandError::OutOfSequence),
    }
}

/// About how many bytes a change takes; what is large in it is the spec.
fn size(change: &Change) -> usize {
    match change {
        Change::Put(Object::Task(task)) => {
            let size = postcard::ser_flavors::Size::default();
            64 + postcard::serialize_with_flavor(&task.spec, size).unwrap_or(0)
        }
        Change::Put(Object::Secret(secret)) => 64 + secret.data.len(),
        Change::Put(Object::Config(config)) => 64 + config.data.len(),
        Change::Put(Object::Resource(resource)) => 64 + resource.payload.len(),
        Change::Put(
            Object::Cluster(_) | Object::Node(_) | Object::Network(_) | Object::Service(_),
        )
        | Change::Remove(_) => 64,
    }
}
