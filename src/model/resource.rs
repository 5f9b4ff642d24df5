//! What the cluster keeps or counts without knowing what it is.

use serde::{Deserialize, Serialize};

use super::object::Meta;
use super::service::Labels;
use crate::base::id::ResourceId;

/// Bytes of a resource's payload.
pub const PAYLOAD_BYTES_MAX: usize = 1_000 << 10;

/// An object of a kind that only its users know (swarmkit `api/objects.proto` Resource).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// The resource's id.
    pub id: ResourceId,
    /// Version and times.
    pub meta: Meta,
    /// What it is, in its users' words.
    pub kind: String,
    /// Unique among those of its kind.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// At most [`PAYLOAD_BYTES_MAX`].
    pub payload: Vec<u8>,
}

/// A generic resource that a node has or a task was given (swarmkit `api/types.proto`
/// GenericResource).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Generic {
    /// This many, each as good as the other (swarm: discrete).
    Count {
        /// `ssd`.
        kind: String,
        /// How many.
        count: u64,
    },
    /// This very one (swarm: named).
    Named {
        /// `gpu`.
        kind: String,
        /// `UUID1`.
        value: String,
    },
}

impl Generic {
    /// What it is a resource of.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Count { kind, .. } | Self::Named { kind, .. } => kind,
        }
    }

    /// How many it is; a named one is one.
    #[must_use]
    pub const fn count(&self) -> u64 {
        match self {
            Self::Count { count, .. } => *count,
            Self::Named { .. } => 1,
        }
    }
}
