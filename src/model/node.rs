//! A machine that takes part.

use serde::{Deserialize, Serialize};

use super::object::Meta;
use super::resource::Generic;
use super::service::Labels;
use crate::base::id::NodeId;

/// Device paths that a node tells of; those that come after them in order are left out.
pub const DEVICES_MAX: usize = 512;

/// A node as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The node's id.
    pub id: NodeId,
    /// Version and times.
    pub meta: Meta,
    /// Labels and what the user wants of it.
    pub spec: NodeSpec,
    /// What it said of itself.
    pub description: NodeDescription,
    /// Address that others reach it at, host part only.
    pub address: String,
    /// It has a vote; the address is `host:port` of its manager.
    pub manager: Option<String>,
}

/// What the user wants of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Labels for constraints.
    pub labels: Labels,
    /// Manager or worker.
    pub role: Role,
    /// Whether tasks may run there.
    pub availability: Availability,
}

/// Manager or worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Runs tasks.
    #[default]
    Worker,
    /// Holds the cluster's state, too.
    Manager,
}

/// Whether tasks may run on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Availability {
    /// Yes.
    #[default]
    Active,
    /// What runs stays, nothing new comes.
    Pause,
    /// What runs goes elsewhere.
    Drain,
}

/// Whether a node is heard of. Held in the leader's memory, never logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// Not heard of since this manager leads.
    Unknown,
    /// Heard of.
    Ready,
    /// Gone.
    Down,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDescription {
    /// Host name.
    pub hostname: String,
    /// Platform of its kernel.
    pub platform: Platform,
    /// 10⁻⁹ of a CPU, all of them.
    pub nano_cpus: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Resources that only users know, from the daemon's settings.
    pub generic: Vec<Generic>,
    /// Labels from the daemon's settings.
    pub engine_labels: Labels,
    /// Version of skep.
    pub engine_version: String,
    /// Paths of its devices, and of the folders that hold some, in order; at most [`DEVICES_MAX`].
    pub devices: Vec<String>,
}

/// Operating system and processor in Docker's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`.
    pub arch: String,
    /// `v6`, `v7`, `v8`, or empty.
    pub variant: String,
}
