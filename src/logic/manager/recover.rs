//! A manager from what was found on its disk.

use std::sync::Arc;

use super::io::Config;
use super::{Lead, Leads, Manager};
use crate::base::rng::Rng;
use crate::base::time::Now;
use crate::logic::codec;
use crate::logic::raft::Raft;
use crate::logic::raft::io::{self as raft, Members, Payload, Snapshot};
use crate::logic::store::{Feed, SnapshotError, Store};
use crate::model::cluster::Founding;
use crate::model::entry::Change;
use crate::model::object::Object;

/// Most bytes of entries that are proposed and not committed. The manager stops its own work well
/// below it ([`super::flight`]), so that what users ask for finds room.
const UNCOMMITTED_BYTES_MAX: u64 = 16 << 20;

/// Most bytes under way to one follower.
const IN_FLIGHT_BYTES_MAX: u64 = 4 << 20;

/// What was found in the log cannot be used.
#[derive(Debug, thiserror::Error)]
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
    /// The log.
    #[error("cannot use the log")]
    Log(#[source] raft::RecoverError),
}

impl Manager {
    /// With what was found in the log; a manager that is to join has found nothing.
    ///
    /// # Errors
    /// When the log holds what this release cannot read; the node must not go on.
    pub fn new(
        config: Config,
        mut recovered: raft::Recovered,
        now: Now,
    ) -> Result<Self, RecoverError> {
        let (mut committed, mut term, mut members) = (Store::default(), 0, Members::default());
        adopt_single(&config, &mut recovered);
        let state_bytes = recovered.snapshot.as_ref().map_or(0, |it| it.data.len() as u64);
        if let Some(snapshot) = recovered.snapshot.as_ref() {
            if snapshot.index > 0 {
                committed = Store::restore(&snapshot.data)
                    .map_err(|source| RecoverError::Snapshot { index: snapshot.index, source })?;
            }
            (term, members) = (snapshot.term, snapshot.members.clone());
        }
        // Another stream than that of the ids.
        let seed = config.seed.map(|byte| byte ^ 0x5a);
        let raft_config = raft::Config {
            id: config.node,
            seed,
            epoch: epoch(&committed, &recovered),
            timing: config.timing,
            uncommitted_bytes_max: UNCOMMITTED_BYTES_MAX,
            in_flight_bytes_max: IN_FLIGHT_BYTES_MAX,
        };
        let raft = Raft::new(raft_config, recovered, now.mono).map_err(RecoverError::Log)?;
        let mut manager = Self {
            rng: Rng::from_entropy(config.seed),
            raft,
            members,
            feed: Feed::new(&committed),
            committed,
            committed_term: term,
            grown_bytes: 0,
            state_bytes,
            reads: Vec::new(),
            founder: None,
            founding: Founding::default(),
            blocked: None,
            urgent: None,
            refusal: String::new(),
            broken: false,
            leads: Leads::No,
            lead: Lead::default(),
            pending: Vec::new(),
            config,
        };
        // What is known to be committed is applied at once.
        let mut pending = Vec::new();
        manager.flush(now, &mut pending);
        manager.pending = pending;
        Ok(manager)
    }
}

/// A log from before there were members is this manager's alone.
fn adopt_single(config: &Config, recovered: &mut raft::Recovered) {
    let found = recovered.snapshot.is_some() || !recovered.entries.is_empty();
    let told = recovered.snapshot.as_ref().is_some_and(|s| !s.members.voters.is_empty())
        || recovered.entries.iter().any(|entry| matches!(entry.payload, Payload::Members(_)));
    if !found || told {
        return;
    }
    let members = Members { voters: [config.node].into(), ..Members::default() };
    match &mut recovered.snapshot {
        Some(snapshot) => snapshot.members = members,
        None => {
            let data = Arc::from([]);
            recovered.snapshot = Some(Snapshot { index: 0, term: 0, members, data });
        }
    }
}

/// The highest epoch that the disk tells of. What is not known to be committed counts, too: an epoch
/// that somebody wrote is one that others may speak of.
fn epoch(committed: &Store, recovered: &raft::Recovered) -> u64 {
    let stored = committed.cluster().map_or(0, |cluster| cluster.epoch);
    let told = recovered.entries.iter().filter_map(|entry| match &entry.payload {
        Payload::Command(data) => codec::decode_entry(data).ok(),
        Payload::Nothing | Payload::Members(_) => None,
    });
    let epochs = told.flat_map(|entry| entry.changes).filter_map(|change| match change {
        Change::Put(Object::Cluster(cluster)) => Some(cluster.epoch),
        Change::Put(_) | Change::Remove(_) => None,
    });
    epochs.fold(stored, u64::max)
}
