//! How the leader writes: entries proposed on the planned store, in flight until they are committed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Manager;
use super::flight::Own;
use super::io::{CommandError, Reply};
use crate::base::id::{NodeId, RequestId, ServiceId};
use crate::base::time::{Now, Time};
use crate::logic::codec;
use crate::logic::orchestrator;
use crate::logic::raft::io::ProposeError;
use crate::logic::store::{ApplyResult, Effect, OWN_REQUEST, Store};
use crate::model::entry::{Change, ENTRY_CHANGES_MAX, Entry, Precondition};
use crate::model::object::ObjectId;
use crate::model::wire::SNAPSHOT_BYTES_MAX;

/// Bytes of changes that one entry of the manager's own work holds, if it holds more than one.
pub(super) const ENTRY_BYTES_MAX: usize = 512 << 10;

/// Bytes of state above which users may only take away: half of what a snapshot can hold, so that
/// the managers' own work always finds room.
pub(super) const STATE_BYTES_MAX: u64 = SNAPSHOT_BYTES_MAX as u64 / 2;

const TOO_MUCH: &str = "the cluster holds as much as its managers can keep; remove services, \
    secrets or configs that are not needed any more";

impl Manager {
    /// Proposes what somebody asked for; answered when it is committed.
    pub(super) fn write_asked(
        &mut self,
        now: Now,
        request: RequestId,
        preconditions: Vec<Precondition>,
        changes: Vec<Change>,
    ) -> Result<(), CommandError> {
        if self.lead.flight.is_full() {
            return Err(busy());
        }
        let entry = Entry { request, time: now.wall, preconditions, changes };
        if self.state_bytes.saturating_add(self.grown_bytes) > STATE_BYTES_MAX
            && !entry.makes_room()
        {
            return Err(CommandError::Busy(TOO_MUCH.to_owned()));
        }
        self.propose(now, entry, vec![request])
    }

    /// Proposes the manager's own work, in as many entries as it takes. False when not all of it
    /// was taken: what is left is seen again at the next look.
    pub(super) fn write_own(&mut self, now: Now, changes: Vec<Change>) -> bool {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for change in changes {
            let size = size(&change);
            if !batch.is_empty()
                && (batch.len() >= ENTRY_CHANGES_MAX || bytes + size > ENTRY_BYTES_MAX)
            {
                if !self.propose_own(now, std::mem::take(&mut batch)) {
                    return false;
                }
                bytes = 0;
            }
            bytes += size;
            batch.push(change);
        }
        batch.is_empty() || self.propose_own(now, batch)
    }

    fn propose_own(&mut self, now: Now, changes: Vec<Change>) -> bool {
        let time = now.wall;
        let entry = Entry { request: OWN_REQUEST, time, preconditions: Vec::new(), changes };
        self.propose(now, entry, Vec::new()).is_ok()
    }

    fn propose(
        &mut self,
        now: Now,
        entry: Entry,
        waiting: Vec<RequestId>,
    ) -> Result<(), CommandError> {
        let encoded = codec::encode_entry(&entry)
            .map_err(|error| CommandError::Invalid(format!("cannot write this change: {error}")))?;
        let bytes = encoded.len();
        let index =
            self.raft.propose(now.mono, Arc::from(encoded)).map_err(|error| self.not_now(error))?;
        let applied = self.lead.planned.apply(index, &entry);
        for effect in &applied.effects {
            self.touch(effect);
            self.lead.nodes.note(effect);
        }
        self.lead.flight.push(index, bytes, Some(Own { entry, applied, waiting }));
        Ok(())
    }

    /// Why consensus takes nothing, for the user.
    pub(super) fn not_now(&self, error: ProposeError) -> CommandError {
        match error {
            ProposeError::NotLeader => CommandError::NotLeader { leader: self.raft.leader() },
            ProposeError::Full => busy(),
            ProposeError::Transferring | ProposeError::ChangeUnderWay => {
                CommandError::Busy(format!("{error}; try again in a moment"))
            }
            ProposeError::TooLarge(_) => {
                CommandError::Invalid(format!("cannot write this change: {error}"))
            }
            ProposeError::QuorumLost => CommandError::Precondition(LOSS_OF_QUORUM.to_owned()),
            ProposeError::BadChange => CommandError::Precondition(error.to_string()),
        }
    }

    /// Marks the services that a write concerns.
    fn touch(&mut self, effect: &Effect) {
        let lead = &mut self.lead;
        match effect {
            Effect::Service(service) => {
                lead.dirty.insert(service.id);
            }
            Effect::Task(task) => {
                if task.status.state.is_terminal() || task.addresses.is_empty() {
                    lead.dirty.extend(&lead.waiting);
                }
            }
            Effect::Remove(ObjectId::Service(id)) => {
                lead.dirty.insert(*id);
            }
            Effect::Remove(ObjectId::Task(_)) => lead.dirty.extend(&lead.waiting),
            Effect::Node(node) => self.node_changed(node.id),
            Effect::Remove(ObjectId::Node(id)) => self.node_changed(*id),
            Effect::Cluster(cluster) => {
                if cluster.rebalance {
                    lead.rebalance_at.get_or_insert(Time(0));
                }
                // What of its history a slot keeps may have changed.
                lead.dirty.extend(lead.planned.services().map(|service| service.id));
            }
            Effect::Network(_) => {
                lead.dirty.extend(lead.planned.services().map(|service| service.id));
            }
            // No service's tasks hang on these: a spec names them before it is accepted.
            Effect::Secret(_) | Effect::Config(_) | Effect::Resource(_) => {}
            Effect::Remove(
                ObjectId::Cluster(_)
                | ObjectId::Network(_)
                | ObjectId::Secret(_)
                | ObjectId::Config(_)
                | ObjectId::Resource(_),
            ) => {}
        }
    }
}

impl Manager {
    /// A node came, changed or went: what is there, what is everywhere and what waits is looked at.
    pub(super) fn node_changed(&mut self, id: NodeId) {
        let lead = &mut self.lead;
        lead.roles_at = Some(Time(0));
        lead.dirty.extend(orchestrator::concerned(&lead.planned, id));
        lead.dirty.extend(&lead.waiting);
    }
}

/// Swarm's refusal to lose a manager that is needed.
pub(super) const LOSS_OF_QUORUM: &str = "rpc error: code = FailedPrecondition desc = can't remove \
    member from the raft: this would result in a loss of quorum";

fn busy() -> CommandError {
    CommandError::Busy("too many changes wait for the disk; try again in a moment".to_owned())
}

/// Every service that has an object or a task: one may be gone while its tasks are still there.
pub(super) fn all_services(store: &Store) -> BTreeSet<ServiceId> {
    let services = store.services().map(|service| service.id);
    services.chain(store.tasks().map(|task| task.service)).collect()
}

/// The answer that a result stands for.
pub(super) fn reply(result: ApplyResult) -> Result<Reply, CommandError> {
    match result {
        ApplyResult::Done => Ok(Reply::Done),
        ApplyResult::Created(object) => Ok(Reply::Created { id: object.id() }),
        ApplyResult::Stale => Err(CommandError::OutOfSequence),
    }
}

/// How many bytes a change takes, and a few more.
fn size(change: &Change) -> usize {
    let size = postcard::ser_flavors::Size::default();
    64 + postcard::serialize_with_flavor(change, size).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::fixture;
    use crate::model::object::Object;

    #[test]
    fn a_change_counts_with_all_that_it_holds() {
        let mut task = fixture::task(1, 2);
        task.service_labels.insert("note".to_owned(), "x".repeat(5_000));
        let change = Change::Put(Object::Task(Box::new(task)));
        assert!(size(&change) > 5_000, "{}", size(&change));
        let mut service = fixture::service(2, "web");
        service.spec.task.container.env.push("y".repeat(9_000));
        let change = Change::Put(Object::Service(Box::new(service)));
        assert!(size(&change) > 9_000, "{}", size(&change));
    }
}
