//! The cluster itself: one object that holds what is true of all nodes.

use serde::{Deserialize, Serialize};

use super::network::Subnet;
use super::node::Availability;
use super::object::Meta;
use super::service::Labels;
use crate::base::id::ClusterId;

/// The cluster as the store holds it; there is exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The cluster's id.
    pub id: ClusterId,
    /// Version and times.
    pub meta: Meta,
    /// `default`.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// Finished tasks kept for each slot; negative keeps all.
    pub task_history_limit: i64,
    /// Blocks from which networks get their subnets.
    pub pools: Vec<Subnet>,
    /// Prefix length of a network's subnet.
    pub subnet_prefix: u8,
    /// Raised when a lost majority is given up; a worker refuses what is of a lower one.
    pub epoch: u64,
    /// Shapes of records that all managers read.
    pub feature_level: u32,
    /// Running tasks may be moved when nodes come or change, so that each has its share; swarm
    /// never does.
    pub rebalance: bool,
}

/// What the user may change of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// Labels.
    pub labels: Labels,
    /// Finished tasks kept for each slot; negative keeps all.
    pub task_history_limit: i64,
    /// Running tasks may be moved when nodes come or change.
    pub rebalance: bool,
}

impl Cluster {
    /// What the user wants of it.
    #[must_use]
    pub fn spec(&self) -> ClusterSpec {
        let Self { labels, task_history_limit, rebalance, .. } = self;
        ClusterSpec {
            labels: labels.clone(),
            task_history_limit: *task_history_limit,
            rebalance: *rebalance,
        }
    }
}

/// What the user may say of a new cluster and its first node. Not kept: it is in both from then on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Founding {
    /// Whether tasks may run on the first node.
    pub availability: Availability,
    /// Finished tasks kept for each slot, negative keeps all; swarm's default when absent.
    pub task_history_limit: Option<i64>,
}
