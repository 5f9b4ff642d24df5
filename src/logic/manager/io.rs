//! What the manager is told and what it wants done.
//!
//! **Order.** Outputs are performed in order. What must wait for a disk, here or elsewhere, is held
//! back by the machine itself: a [`Output::Reply`] to a write leaves it only after a majority has
//! the entry on disk, a vote only after it is on this one's. The caller holds nothing back.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::id::{
    ClusterId, ConfigId, Id, NodeId, RequestId, ResourceId, SecretId, ServiceId, TaskId,
};
use crate::base::time::Span;
use crate::logic::raft::io as raft;
use crate::logic::raft::io::{Snapshot, Ticket, Timing, Write};
use crate::model::cluster::{Cluster, ClusterSpec};
use crate::model::network::Network;
use crate::model::node::{Node, NodeDescription, NodeSpec, NodeState, Role};
use crate::model::payload;
use crate::model::service::{Labels, Service};
use crate::model::spec_check::ValidSpec;
use crate::model::task::{Task, TaskStatus};

/// What the manager is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// The manager's `deadline()` has passed.
    Tick,
    /// Somebody asks for something; answered by exactly one [`Output::Reply`].
    Command {
        /// Which answer belongs to it; for a write also what makes a retry harmless.
        request: RequestId,
        /// What is asked for.
        command: Command,
    },
    /// Another manager tells something. The sender is known by its certificate.
    Peer {
        /// Who.
        from: NodeId,
        /// What.
        message: raft::Message,
    },
    /// The way to another manager is there (again).
    Reachable {
        /// Which.
        peer: NodeId,
    },
    /// Every write through this one is durable.
    Persisted {
        /// Its number.
        ticket: Ticket,
    },
    /// No write from this one on reached the disk, and none that was put out before this input
    /// will: the disk is full or broken.
    PersistRefused {
        /// The first that was refused.
        ticket: Ticket,
        /// What the disk said.
        reason: String,
    },
    /// A snapshot through this index is durable; the log below it is gone.
    SnapshotSaved {
        /// Last index that the snapshot holds.
        index: u64,
    },
    /// A snapshot could not be saved: it is tried again when the log has grown further.
    SnapshotRefused {
        /// Last index that it would have held.
        index: u64,
    },
    /// This process is to end in order: leadership goes to another manager, if there is one.
    Stopping,
    /// A worker began a session: it wants its assignments, whole.
    WorkerJoined {
        /// Which.
        node: NodeId,
        /// What it says of itself.
        description: NodeDescription,
    },
    /// A worker's session ended.
    WorkerLeft {
        /// Which.
        node: NodeId,
    },
    /// A worker answered in its session. Changes nothing but the time until which nodes that run
    /// tasks with [`OnDisconnect::Stop`](crate::model::service::OnDisconnect) are taken to run them.
    Heard {
        /// Which.
        node: NodeId,
    },
    /// How much memory a node uses: among nodes that are alike, the one that uses least is chosen.
    Load {
        /// Which.
        node: NodeId,
        /// Bytes in use.
        used_bytes: u64,
        /// Bytes that there are.
        total_bytes: u64,
    },
    /// What the evidence of sessions and gossip says of a node (told by who keeps them).
    Health {
        /// Which.
        node: NodeId,
        /// How it is.
        state: NodeState,
    },
    /// A worker tells what became of its tasks.
    Report {
        /// Which.
        node: NodeId,
        /// What it saw.
        report: Report,
    },
}

/// What a worker saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// New statuses, oldest first.
    pub statuses: Vec<(TaskId, TaskStatus)>,
    /// Ended tasks of which only log and exit record are left: their addresses are free again.
    pub cleaned: Vec<TaskId>,
    /// Tasks of which nothing is left on the worker: their addresses are free again.
    pub removed: Vec<TaskId>,
    /// Tasks that ended while the worker was cut off, with the successors that it made itself.
    pub adopted: Vec<Adopted>,
}

/// A task that ended while its worker was cut off from the managers, and the successors that the
/// worker made itself. Told at the start of a session and with each change, instead of the base's
/// status, until the manager has decided:
///
/// - assignments that name `task` adopt it. The base's addresses are the successor's from then on,
///   so that the entry that adopts it takes them from the base.
/// - `task` among the removed, or a base that is no longer wanted running (or not named by a
///   complete set), ends it: it is stopped and removed, and so is everything of the chain. The
///   base's addresses are told to be free when that is done.
///
/// Until then `task` runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// The task that the manager knows.
    pub base: TaskId,
    /// How it ended; `None` when nothing of it is left on the worker.
    pub status: Option<TaskStatus>,
    /// Successors that have ended, oldest first, only the newest few; but for these two they are
    /// as `task` is.
    pub ended: Vec<(TaskId, TaskStatus)>,
    /// The newest successor, its status included: most likely it runs, it may have ended, too.
    pub task: Task,
}

/// What the manager wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Make this durable: one write and one fdatasync for all in a batch of outputs.
    Persist {
        /// Its number, one more than that of the write before.
        ticket: Ticket,
        /// What is to be written.
        write: Write,
        /// It makes room: on a full disk the log's reserve is used for it.
        urgent: bool,
    },
    /// Save a snapshot, then drop the log below it; answered by [`Input::SnapshotSaved`].
    SaveSnapshot {
        /// State and members at its index.
        snapshot: Snapshot,
    },
    /// Tell another manager. May be lost.
    Send {
        /// Whom.
        to: NodeId,
        /// What.
        message: raft::Message,
    },
    /// Who leads, as far as this manager knows; told when it changes.
    Leader {
        /// In this term.
        term: u64,
        /// Whom; `None` while nobody is known.
        leader: Option<NodeId>,
    },
    /// This node is no manager any more: its state is to be dropped.
    Removed,
    /// The log holds what this release cannot read: the process must end. Told once; from here on
    /// the machine does nothing.
    Broken {
        /// What was found where.
        reason: String,
    },
    /// Answer to a command.
    Reply {
        /// Which.
        request: RequestId,
        /// The answer.
        reply: Result<Reply, CommandError>,
    },
    /// Tell a worker what it is to run.
    Assign {
        /// Which worker.
        node: NodeId,
        /// All of it, or what changed.
        assignments: Assignments,
    },
}

/// What a worker is to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assignments {
    /// Grows with each set; a worker refuses one that is lower than what it has.
    pub fence: Fence,
    /// True: `tasks` is all there is, anything else is to be removed.
    pub complete: bool,
    /// New or changed tasks.
    pub tasks: Vec<Arc<Task>>,
    /// Tasks to be removed with everything they left.
    pub removed: Vec<TaskId>,
    /// Networks that its tasks are on.
    pub networks: Vec<Arc<Network>>,
}

/// Order of assignments over epochs, terms and indexes (compared in this order).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fence {
    /// Epoch of the cluster.
    pub epoch: u64,
    /// Term of the leader.
    pub term: u64,
    /// Index of the entry that caused the change.
    pub index: u64,
}

/// What somebody may ask of a manager.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Makes a service.
    CreateService {
        /// What is wanted.
        spec: Box<ValidSpec>,
    },
    /// Replaces a service's spec.
    UpdateService {
        /// Which.
        id: ServiceId,
        /// Version that the new spec was made from.
        version: u64,
        /// What is wanted; `None` goes back to the previous spec.
        spec: Option<Box<ValidSpec>>,
    },
    /// Removes a service and its tasks.
    RemoveService {
        /// Which.
        id: ServiceId,
    },
    /// A node joined, or joined again with another address: it is there and active.
    AddNode {
        /// Which.
        id: NodeId,
        /// What it says of itself.
        description: Box<NodeDescription>,
        /// What its token lets it be.
        role: Role,
        /// Address that others reach it at, host part only.
        address: String,
        /// `host:port` of its manager, when it has one to take part.
        manager: Option<String>,
    },
    /// Replaces what the user wants of a node: labels, role, availability.
    UpdateNode {
        /// Which.
        id: NodeId,
        /// Version that the new spec was made from.
        version: u64,
        /// What is wanted.
        spec: NodeSpec,
    },
    /// Removes a node that is down; with `force` any that is no manager.
    RemoveNode {
        /// Which.
        id: NodeId,
        /// Also one that is not down.
        force: bool,
    },
    /// Makes a secret.
    CreateSecret(Box<Payload>),
    /// Makes a config.
    CreateConfig(Box<Payload>),
    /// Replaces a secret's labels.
    LabelSecret {
        /// Which.
        id: SecretId,
        /// Version that the labels were made from.
        version: u64,
        /// What they are to be.
        labels: Labels,
    },
    /// Replaces a config's labels.
    LabelConfig {
        /// Which.
        id: ConfigId,
        /// Version that the labels were made from.
        version: u64,
        /// What they are to be.
        labels: Labels,
    },
    /// Removes a secret that no service names.
    RemoveSecret {
        /// Which.
        id: SecretId,
    },
    /// Removes a config that no service names.
    RemoveConfig {
        /// Which.
        id: ConfigId,
    },
    /// Makes or replaces what is kept under this kind and name.
    SetResource {
        /// What it is, in its users' words.
        kind: String,
        /// Unique among those of its kind.
        name: String,
        /// What is kept.
        payload: Vec<u8>,
    },
    /// Removes a resource.
    RemoveResource {
        /// Which.
        id: ResourceId,
    },
    /// Hands leadership to another manager, or to whichever is most up to date.
    Transfer {
        /// Whom.
        to: Option<NodeId>,
    },
    /// Everything, as of a moment between question and answer; cheap, the objects are shared.
    Read,
    /// Replaces what the user wants of the cluster.
    UpdateCluster {
        /// Version that the new spec was made from.
        version: u64,
        /// What is wanted.
        spec: Box<ClusterSpec>,
    },
}

/// A secret or config to be made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// Unique among those of its kind.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// What it holds.
    pub data: Vec<u8>,
    /// That is a template.
    pub templating: bool,
}

impl std::fmt::Debug for Payload {
    /// Without the data: what is logged is read by others.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payload").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The answer to a command.
#[derive(Clone, Debug)]
pub enum Reply {
    /// The object was made.
    Created {
        /// Its id.
        id: Id,
    },
    /// The object was changed or removed.
    Done,
    /// The cluster's objects.
    View(Arc<View>),
}

/// The cluster's objects at one index, each table in id order.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Index of the last applied entry.
    pub index: u64,
    /// The cluster.
    pub cluster: Option<Arc<Cluster>>,
    /// This manager's node.
    pub node: Option<NodeId>,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Managers whose vote counts: one that has just become a manager catches up first.
    pub voters: BTreeSet<NodeId>,
    /// Nodes and whether each is heard of.
    pub nodes: Vec<(Arc<Node>, NodeState)>,
    /// Networks.
    pub networks: Vec<Arc<Network>>,
    /// Services.
    pub services: Vec<Arc<Service>>,
    /// Secrets; whoever shows one leaves its data out.
    pub secrets: Vec<Arc<payload::Secret>>,
    /// Configs.
    pub configs: Vec<Arc<payload::Config>>,
    /// Tasks, statuses that are not yet logged included.
    pub tasks: Vec<Arc<Task>>,
}

/// Swarm's words for a cluster that cannot decide.
const NOT_LEADER: &str = "rpc error: code = Unknown desc = The swarm does not have a leader. It's \
    possible that too few managers are online. Make sure more than half of the managers are online.";

/// Why a command is refused. `Display` is swarm's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum CommandError {
    /// No such object; answered with 404.
    #[error("{0}")]
    NotFound(String),
    /// The name or port is taken; 409.
    #[error("{0}")]
    Conflict(String),
    /// The spec cannot be taken; 400.
    #[error("{0}")]
    Invalid(String),
    /// What swarm cannot do either; 501.
    #[error("{0}")]
    Unimplemented(String),
    /// The spec was made from a version that is not the newest; 500 with swarm's text.
    #[error("rpc error: code = Unknown desc = update out of sequence")]
    OutOfSequence,
    /// The log cannot be written; nothing was changed; 507.
    #[error("{0}")]
    Storage(String),
    /// A limit of the manager is reached; nothing was changed; 503.
    #[error("{0}")]
    Busy(String),
    /// This manager does not lead; nothing was changed; ask the leader, if one is known; 503.
    #[error("{NOT_LEADER}")]
    NotLeader {
        /// Whom to ask.
        leader: Option<NodeId>,
    },
    /// Leadership was lost while the change was under way: it may come to be or not. Asking again
    /// with the same request id is safe; 503.
    #[error("the managers lost their leader while the change was under way; look, or try again")]
    Unavailable,
    /// A node cannot be changed or removed in the state that it is in; 500 or 400 as in swarm.
    #[error("{0}")]
    Precondition(String),
}

/// What a manager is told once, before its first step.
#[derive(Clone, Debug)]
pub struct Config {
    /// This manager's node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Seed of its ids and jitter.
    pub seed: [u8; 32],
    /// Reports of workers are gathered for this long before they are logged.
    pub report_batch: Span,
    /// A snapshot is made when the log has grown by this many bytes since the last one.
    pub snapshot_after_bytes: u64,
    /// Address that others reach this node at.
    pub advertise: String,
    /// Times of the consensus protocol.
    pub timing: Timing,
}
