//! What the manager is told and what it wants done.
//!
//! **Order.** Outputs are performed in order. A [`Output::Reply`] to a write leaves the machine only
//! after [`Input::Persisted`] covered its entry, so the caller need not hold anything back.

use std::sync::Arc;

use crate::base::id::{ClusterId, NodeId, RequestId, ServiceId, TaskId};
use crate::base::time::Span;
use crate::model::cluster::Cluster;
use crate::model::network::Network;
use crate::model::node::{Node, NodeDescription, NodeState};
use crate::model::service::Service;
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
    /// Everything up to this index is durable.
    Persisted {
        /// Last durable index.
        index: u64,
    },
    /// Nothing from this index on reached the log, and nothing that was put out before this input
    /// will: the disk is full or broken.
    PersistRefused {
        /// First index that was refused.
        index: u64,
        /// What the disk said.
        reason: String,
    },
    /// A snapshot through this index is durable; the log below it is gone.
    SnapshotSaved {
        /// Last index that the snapshot holds.
        index: u64,
    },
    /// A worker began a session: it wants its assignments, whole.
    WorkerJoined {
        /// Which.
        node: NodeId,
        /// What it says of itself.
        description: NodeDescription,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Append to the log, one write and one fdatasync for all in a batch of outputs.
    Persist {
        /// Consecutive entries, encoded.
        entries: Vec<LogEntry>,
    },
    /// Save a snapshot, then drop the log below it.
    SaveSnapshot {
        /// Last index it holds.
        index: u64,
        /// That entry's term.
        term: u64,
        /// The encoded store.
        data: Vec<u8>,
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

/// One entry as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Position in the log, from 1.
    pub index: u64,
    /// Term of the leader that proposed it.
    pub term: u64,
    /// The encoded [`Entry`](crate::model::entry::Entry) record.
    pub data: Vec<u8>,
    /// It makes room: on a full disk the log's reserve is used for it.
    pub urgent: bool,
}

/// What a worker is to run.
#[derive(Clone, Debug)]
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
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Fence {
    /// Epoch of the cluster.
    pub epoch: u64,
    /// Term of the leader.
    pub term: u64,
    /// Index of the entry that caused the change.
    pub index: u64,
}

/// What somebody may ask of a manager.
#[derive(Clone, Debug)]
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
    /// Everything, as of now; cheap, the objects are shared.
    Read,
}

/// The answer to a command.
#[derive(Clone, Debug)]
pub enum Reply {
    /// The service was made.
    Created {
        /// Its id.
        id: ServiceId,
    },
    /// The service was changed or removed.
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
    /// Nodes and whether each is heard of.
    pub nodes: Vec<(Arc<Node>, NodeState)>,
    /// Networks.
    pub networks: Vec<Arc<Network>>,
    /// Services.
    pub services: Vec<Arc<Service>>,
    /// Tasks, statuses that are not yet logged included.
    pub tasks: Vec<Arc<Task>>,
}

/// Why a command is refused. `Display` is swarm's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
}

/// What was found in the log. All of it is durable: opening the log syncs what a killed process
/// had written and not yet synced.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Last index, its term and data of the newest snapshot.
    pub snapshot: Option<(u64, u64, Vec<u8>)>,
    /// Entries after it, consecutive.
    pub entries: Vec<LogEntry>,
    /// Term in which this manager last led.
    pub term: u64,
}
