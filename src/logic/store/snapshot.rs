//! The store as bytes and back, and a number that tells two stores apart.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ApplyResult, Effect, Store};
use crate::base::id::{RequestId, ServiceId};
use crate::logic::codec::{self, CodecError, STORE_SNAPSHOT, STORE_SNAPSHOT_BYTES_MAX};
use crate::model::cluster::Cluster;
use crate::model::network::Network;
use crate::model::node::Node;
use crate::model::object::ObjectId;
use crate::model::payload::{Config, Secret};
use crate::model::resource::Resource;
use crate::model::service::Service;
use crate::model::task::Task;
use crate::model::v1;

/// A snapshot cannot be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Writing it.
    #[error("cannot encode the snapshot of the store")]
    Encode(#[source] CodecError),
    /// Reading it.
    #[error("cannot decode the snapshot of the store")]
    Decode(#[source] CodecError),
}

/// The tables in id order and the answers in the order of their requests.
#[derive(Serialize, Deserialize)]
struct Snapshot {
    index: u64,
    cluster: Option<Arc<Cluster>>,
    nodes: Vec<Arc<Node>>,
    networks: Vec<Arc<Network>>,
    services: Vec<Arc<Service>>,
    tasks: Vec<Arc<Task>>,
    secrets: Vec<Arc<Secret>>,
    configs: Vec<Arc<Config>>,
    resources: Vec<Arc<Resource>>,
    answers: Vec<(RequestId, ApplyResult)>,
}

/// Version 1 of [`Snapshot`].
#[derive(Deserialize)]
struct SnapshotV1 {
    index: u64,
    cluster: Option<v1::Cluster>,
    nodes: Vec<v1::Node>,
    networks: Vec<Arc<Network>>,
    services: Vec<v1::Service>,
    tasks: Vec<v1::Task>,
    answers: Vec<(RequestId, ResultV1)>,
}

/// Version 1 of [`ApplyResult`].
#[derive(Deserialize)]
enum ResultV1 {
    Done,
    Created(ServiceId),
    Stale,
}

impl From<ResultV1> for ApplyResult {
    fn from(old: ResultV1) -> Self {
        match old {
            ResultV1::Done => Self::Done,
            ResultV1::Created(id) => Self::Created(ObjectId::Service(id)),
            ResultV1::Stale => Self::Stale,
        }
    }
}

impl From<SnapshotV1> for Snapshot {
    fn from(old: SnapshotV1) -> Self {
        fn all<Old, T: From<Old>>(old: Vec<Old>) -> Vec<Arc<T>> {
            old.into_iter().map(|it| Arc::new(it.into())).collect()
        }
        Self {
            index: old.index,
            cluster: old.cluster.map(|cluster| Arc::new(cluster.into())),
            nodes: all(old.nodes),
            networks: old.networks,
            services: all(old.services),
            tasks: all(old.tasks),
            secrets: Vec::new(),
            configs: Vec::new(),
            resources: Vec::new(),
            answers: old.answers.into_iter().map(|(of, it)| (of, it.into())).collect(),
        }
    }
}

impl Store {
    /// The whole store as bytes.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn snapshot(&self) -> Result<Vec<u8>, SnapshotError> {
        let answers = &self.answers;
        let snapshot = Snapshot {
            index: self.index,
            cluster: self.cluster.clone(),
            nodes: self.nodes.values().cloned().collect(),
            networks: self.networks.values().cloned().collect(),
            services: self.services.values().cloned().collect(),
            tasks: self.tasks.values().cloned().collect(),
            secrets: self.secrets.values().cloned().collect(),
            configs: self.configs.values().cloned().collect(),
            resources: self.resources.values().cloned().collect(),
            answers: answers
                .order
                .iter()
                .filter_map(|request| Some((*request, *answers.by_request.get(request)?)))
                .collect(),
        };
        codec::encode(STORE_SNAPSHOT, &snapshot, STORE_SNAPSHOT_BYTES_MAX)
            .map_err(SnapshotError::Encode)
    }

    /// The store that [`Store::snapshot`] was made of.
    ///
    /// # Errors
    /// When the bytes are no snapshot that this release knows.
    pub fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let snapshot =
            codec::decode::<Snapshot, SnapshotV1>(STORE_SNAPSHOT, bytes, STORE_SNAPSHOT_BYTES_MAX)
                .map_err(SnapshotError::Decode)?;
        let mut store = Self { index: snapshot.index, ..Self::default() };
        let cluster = snapshot.cluster.into_iter().map(Effect::Cluster);
        let nodes = snapshot.nodes.into_iter().map(Effect::Node);
        let networks = snapshot.networks.into_iter().map(Effect::Network);
        let services = snapshot.services.into_iter().map(Effect::Service);
        let tasks = snapshot.tasks.into_iter().map(Effect::Task);
        let secrets = snapshot.secrets.into_iter().map(Effect::Secret);
        let configs = snapshot.configs.into_iter().map(Effect::Config);
        let resources = snapshot.resources.into_iter().map(Effect::Resource);
        let first = cluster.chain(nodes).chain(networks).chain(services).chain(tasks);
        for effect in first.chain(secrets).chain(configs).chain(resources) {
            store.write(&effect);
        }
        for (request, result) in snapshot.answers {
            store.answers.note(request, result);
        }
        Ok(store)
    }

    /// Equal for equal stores (FNV-1a of the snapshot); zero when it cannot be encoded.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        self.snapshot().map_or(0, |bytes| bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
    }
}
