//! What the API may ask of the daemon: the only door between the two.
//!
//! Every call blocks its caller (an API thread, of which there is a bounded number) until the
//! brain answered or the deadline passed. The channel to the brain is bounded; a full one is
//! waited for within the same deadline.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_channel::{Sender, TrySendError};

pub use crate::logic::manager::io::{Command, CommandError, Reply, View};
use crate::logic::raft::io::Ticket;

use crate::base::id::{ClusterId, NodeId, TaskId};
use crate::base::time::Span;
use crate::host::disk::layout::DataRoot;
use crate::host::images::Lease;
pub use crate::host::images::{ImageStore, InUse};
pub use crate::host::runtime::Runtime;
use crate::logic::worker::io::{Exit, Outcome, Probed, RefusedPort};
use super::lanes::Absent;
use super::links::Heard;
use super::logs::{BATCHES_MAX, LocalLogs, LogsError, RemoteLogs, Said};
use super::records;
use super::steps::Work;
use crate::model::cluster::Founding;
use crate::model::node::{Availability, NodeDescription, Role};
use crate::model::peer::AskedLogs;
use crate::model::unlock_key::UnlockKey;

/// Longest time that a command may take before its caller is told that it did not finish.
pub(super) const COMMAND_SECS_MAX: u64 = 30;

/// Longest time that a machine's going down may take.
const DOWN_SECS_MAX: u64 = 60;

/// The daemon as the API sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// What does not change while the daemon runs, and the swarm state, which does.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) brain: Sender<Event>,
    pub(super) swarm: RwLock<SwarmState>,
    pub(super) facts: Facts,
    pub(super) images: Arc<ImageStore>,
    pub(super) runtime: Arc<Runtime>,
    pub(super) data: DataRoot,
}

/// What the brain's loop is told by the rest of the process.
#[derive(Debug)]
pub(super) enum Event {
    /// A command and where its answer goes.
    Command { command: Command, answer: SyncSender<Result<Reply, Failure>> },
    /// Make a cluster of this one node.
    Init { request: InitRequest, answer: SyncSender<Result<NodeId, Failure>> },
    /// Become a node of a cluster.
    Join { request: JoinRequest, answer: SyncSender<Result<Role, Failure>> },
    /// Tell what a machine needs to join, and what certificates hang on.
    Tokens { answer: SyncSender<Result<Tokens, Failure>> },
    /// Change that.
    ChangeTrust { change: TrustChange, answer: SyncSender<Result<Reply, Failure>> },
    /// Tell the key that unlocks managers; none where they lock themselves not.
    UnlockKey { answer: SyncSender<Result<Option<UnlockKey>, Failure>> },
    /// Change that.
    ChangeLock { change: LockChange, answer: SyncSender<Result<Reply, Failure>> },
    /// Unlock this manager.
    Unlock { key: UnlockKey, answer: SyncSender<Result<(), Failure>> },
    /// Forget the cluster and everything of it.
    Leave { force: bool, answer: SyncSender<Result<(), Failure>> },
    /// Ask a node for logs.
    Logs { node: NodeId, asked: AskedLogs, said: Sender<Said> },
    /// The machine goes down: say so, and stop what runs.
    GoDown { answer: SyncSender<Result<(), Failure>> },
    /// Every write through this one is durable.
    Persisted { ticket: Ticket },
    /// No write from this one on reached the log.
    PersistRefused { ticket: Ticket, reason: String },
    /// A snapshot through this index is durable.
    SnapshotSaved { index: u64 },
    /// It is not.
    SnapshotRefused { index: u64 },
    /// An action of a task ended.
    Acted { task: TaskId, outcome: Outcome },
    /// An action cannot be done before this image is here.
    Absent { image: Absent, task: TaskId, work: Work },
    /// A pull for tasks ended: what keeps the image, or what becomes of the tasks.
    Pulled { image: Absent, pulled: Result<Arc<Lease>, Outcome> },
    /// A probe of a task's health check ended.
    Probed { task: TaskId, probed: Probed },
    /// A container ended.
    Exited { task: TaskId, exit: Exit },
    /// The proxy took a table.
    RoutesApplied { generation: u64, refused: Vec<RefusedPort> },
    /// Something was heard from another node.
    Link(Heard),
    /// What gossip tells has changed.
    Gossip,
    /// The daemon is to stop.
    Stop,
}

/// Whether this node is in a swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwarmState {
    /// In none.
    Inactive,
    /// In one.
    Active {
        /// This node.
        node: NodeId,
        /// Its cluster.
        cluster: ClusterId,
        /// It is a manager.
        manager: bool,
    },
    /// In one, as a manager that waits for its unlock key.
    Locked,
}

/// Facts about this machine and this daemon.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What the node says of itself.
    pub description: NodeDescription,
    /// Kernel release.
    pub kernel: String,
    /// `PRETTY_NAME` of the operating system.
    pub os: String,
    /// `uname -m`.
    pub machine: String,
    /// Version of runc.
    pub runc: String,
    /// `1` or `2`.
    pub cgroup_version: String,
    /// Data root.
    pub data_root: String,
}

/// What `init` may say.
#[derive(Clone, Debug, Default)]
pub struct InitRequest {
    /// Address that other nodes reach this one at; empty lets the daemon choose.
    pub advertise: String,
    /// Address to listen at; empty is `0.0.0.0:2377`.
    pub listen: String,
    /// What the new cluster begins with.
    pub founding: Founding,
    /// How long a node's certificate lives; 90 days where nothing is said.
    pub certificate_life: Option<Span>,
    /// Managers need a key after a restart.
    pub autolock: bool,
    /// Of a manager: it goes on alone with all that it holds, and the others are out.
    pub force_new_cluster: bool,
}

/// What `join` says.
#[derive(Clone, Debug, Default)]
pub struct JoinRequest {
    /// Managers, `host[:port]` each; the first that answers is taken.
    pub managers: Vec<String>,
    /// The join token.
    pub token: String,
    /// Address that other nodes reach this one at; empty is the one that the manager sees.
    pub advertise: String,
    /// Address to listen at; empty is `0.0.0.0:2377`.
    pub listen: String,
    /// Whether tasks may run here.
    pub availability: Availability,
}

/// Lines of the logs of one node's tasks.
#[derive(Debug)]
pub enum Lines {
    /// This one's.
    Local(LocalLogs),
    /// Another one's.
    Remote(RemoteLogs),
}

/// What machines need to join, and what the cluster's certificates hang on.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// The token of workers.
    pub worker: String,
    /// The token of managers.
    pub manager: String,
    /// The root certificate (DER); the new one while it takes the place of another.
    pub root: Vec<u8>,
    /// That is under way.
    pub rotating: bool,
    /// How long a node's certificate lives.
    pub life: Span,
}

/// What a user may change of the cluster's trust.
#[derive(Clone, Debug)]
pub enum TrustChange {
    /// The tokens of these roles are void, and there are new ones.
    Tokens(Vec<Role>),
    /// The next certificates.
    Certificates {
        /// How long they live, where that changes.
        life: Option<Span>,
        /// A new root takes the place of the one there is.
        new_root: bool,
    },
}

/// What a user may change of the lock of managers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockChange {
    /// They need a key after a restart.
    On,
    /// They need none.
    Off,
    /// They need another one.
    Rotate,
}

/// Why a call did not give what was asked for. `Display` is for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The manager refused.
    #[error(transparent)]
    Refused(CommandError),
    /// Docker's text for a manager's command without a swarm; 503.
    #[error(
        "This node is not a swarm manager. Use \"skep init\" or \"skep join\" to connect this node to swarm and try again."
    )]
    NoSwarm,
    /// Docker's text for a manager's command on a worker; 503.
    #[error(
        "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager."
    )]
    NotManager,
    /// Docker's text for `leave` of one of several managers without force; 503.
    #[error(
        "You are attempting to leave the swarm on a node that is participating as a manager. {0}The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message."
    )]
    Manager(String),
    /// The join was refused, or nobody answered; 503.
    #[error("{0}")]
    Join(String),
    /// It joins just now; 503.
    #[error("This node joins a swarm just now: wait for that, or stop the daemon to give it up")]
    Joining,
    /// Docker's text for a second `init`; 503.
    #[error(
        "This node is already part of a swarm. Use \"skep leave\" to leave this swarm and join another one."
    )]
    AlreadySwarm,
    /// Docker's text for `leave` without a swarm; 503.
    #[error("This node is not part of a swarm")]
    NotInSwarm,
    /// Docker's text for `leave` of the last manager without force; 400.
    #[error(
        "You are attempting to leave the swarm on a node that is participating as a manager. Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. "
    )]
    LastManager,
    /// Docker's text for what needs the store of a locked manager; 503.
    #[error(
        "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"skep unlock\" to unlock it."
    )]
    Locked,
    /// Docker's text for `leave` of a locked manager without force; 503.
    #[error(
        "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message."
    )]
    LockedLeave,
    /// Docker's text for `unlock` of a manager that is not locked; 409.
    #[error("swarm is not locked")]
    NotLocked,
    /// Docker's text for `unlock` with another key; 401.
    #[error("swarm could not be unlocked: invalid key provided")]
    WrongKey,
    /// What was given cannot be used; 400.
    #[error("{0}")]
    Invalid(String),
    /// The host did not do it; 500.
    #[error("{0}")]
    Host(String),
    /// No answer within the deadline; 504. It may still take effect.
    #[error("the daemon did not answer within {COMMAND_SECS_MAX} s; the request may still take effect")]
    Late,
    /// The daemon is stopping; 503.
    #[error("the daemon is stopping")]
    Stopping,
}

impl Handle {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Asks the manager.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the manager's reason, [`Failure::NoSwarm`], [`Failure::Late`] or
    /// [`Failure::Stopping`].
    pub fn command(&self, command: Command) -> Result<Reply, Failure> {
        self.ask(|answer| Event::Command { command, answer })
    }

    /// The cluster's objects as of now.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn view(&self) -> Result<Arc<View>, Failure> {
        match self.command(Command::Read)? {
            Reply::View(view) => Ok(view),
            Reply::Created { .. } | Reply::Done => {
                Err(Failure::Host("the manager answered a read with something else".to_owned()))
            }
        }
    }

    /// Whether this node is in a swarm.
    #[must_use]
    pub fn swarm(&self) -> SwarmState {
        match self.shared.swarm.read() {
            Ok(state) => *state,
            Err(poisoned) => *poisoned.into_inner(),
        }
    }

    /// Makes a cluster of this one node.
    ///
    /// # Errors
    /// [`Failure::AlreadySwarm`], [`Failure::Invalid`] for an address that cannot be used, or what
    /// the host said.
    pub fn init(&self, request: InitRequest) -> Result<NodeId, Failure> {
        self.ask(|answer| Event::Init { request, answer })
    }

    /// Becomes a node of a cluster; as what, its token says.
    ///
    /// # Errors
    /// [`Failure::AlreadySwarm`], [`Failure::Invalid`] for what cannot be used, [`Failure::Join`]
    /// when the managers named do not answer or refuse. Nothing is left behind then.
    pub fn join(&self, request: JoinRequest) -> Result<Role, Failure> {
        self.ask(|answer| Event::Join { request, answer })
    }

    /// What machines need to join.
    ///
    /// # Errors
    /// [`Failure::NoSwarm`] or [`Failure::NotManager`].
    pub fn tokens(&self) -> Result<Tokens, Failure> {
        self.ask(|answer| Event::Tokens { answer })
    }

    /// Changes the cluster's trust.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens) and [`command`](Self::command); [`Failure::Invalid`] for a life that
    /// is too short.
    pub fn change_trust(&self, change: TrustChange) -> Result<(), Failure> {
        self.ask(|answer| Event::ChangeTrust { change, answer }).map(drop)
    }

    /// The key that unlocks managers; none where they need none.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens).
    pub fn unlock_key(&self) -> Result<Option<UnlockKey>, Failure> {
        self.ask(|answer| Event::UnlockKey { answer })
    }

    /// Changes whether managers need a key, or which one.
    ///
    /// # Errors
    /// As [`command`](Self::command), and [`Failure::Invalid`] where there is no key to be replaced.
    pub fn change_lock(&self, change: LockChange) -> Result<(), Failure> {
        self.ask(|answer| Event::ChangeLock { change, answer }).map(drop)
    }

    /// Unlocks this manager; no task is touched.
    ///
    /// # Errors
    /// [`Failure::WrongKey`], [`Failure::NotLocked`], or what the host said.
    pub fn unlock(&self, key: UnlockKey) -> Result<(), Failure> {
        self.ask(|answer| Event::Unlock { key, answer })
    }

    /// Leaves the cluster: containers, networks and state of it are removed.
    ///
    /// # Errors
    /// [`Failure::NotInSwarm`], or [`Failure::LastManager`] without `force`.
    pub fn leave(&self, force: bool) -> Result<(), Failure> {
        self.ask(|answer| Event::Leave { force, answer })
    }

    /// Logs of tasks of a node, this one or another.
    ///
    /// # Errors
    /// When they are here and cannot be read. Of another node the first line tells.
    pub fn logs(&self, node: NodeId, asked: AskedLogs) -> Result<Lines, LogsError> {
        let here = matches!(self.swarm(), SwarmState::Active { node: own, .. } if own == node);
        if here {
            return LocalLogs::open(self.runtime(), &asked).map(Lines::Local);
        }
        let (said, hears) = async_channel::bounded(BATCHES_MAX);
        if let Err(err) = self.shared.brain.try_send(Event::Logs { node, asked, said }) {
            log::warn!("cannot ask node {node} for logs: {err}");
        }
        Ok(Lines::Remote(RemoteLogs::new(hears)))
    }

    /// The machine goes down: the leader is told, so that replacements start elsewhere at once; the
    /// tasks of this node leave the mesh, their containers get their stop signal and their grace, and
    /// the daemon ends.
    ///
    /// # Errors
    /// [`Failure::Stopping`] or [`Failure::Late`].
    pub fn go_down(&self) -> Result<(), Failure> {
        self.ask_for(DOWN_SECS_MAX, |answer| Event::GoDown { answer })
    }

    /// Facts about this machine and this daemon.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.shared.facts
    }

    /// The images of this node.
    #[must_use]
    pub fn images(&self) -> &ImageStore {
        &self.shared.images
    }

    /// The images that tasks of this node are made from. Asked again under the store's lock, where
    /// a failure keeps every image.
    ///
    /// # Errors
    /// When a task's record cannot be read: no image may be removed then.
    pub fn images_in_use(&self) -> Result<InUse, Failure> {
        records::images_in_use(&self.shared.data)
            .map_err(|err| Failure::Host(crate::base::chain::text(&err)))
    }

    /// The containers, volumes and logs of this node.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.shared.runtime
    }

    fn ask<T>(
        &self,
        event: impl FnOnce(SyncSender<Result<T, Failure>>) -> Event,
    ) -> Result<T, Failure> {
        self.ask_for(COMMAND_SECS_MAX, event)
    }

    fn ask_for<T>(
        &self,
        secs: u64,
        event: impl FnOnce(SyncSender<Result<T, Failure>>) -> Event,
    ) -> Result<T, Failure> {
        let (answer, answered) = sync_channel(1);
        match self.shared.brain.try_send(event(answer)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return Err(Failure::Refused(CommandError::Busy(
                    "the daemon is busy: too many requests wait, try again".to_owned(),
                )));
            }
            Err(TrySendError::Closed(_)) => return Err(Failure::Stopping),
        }
        match answered.recv_timeout(Duration::from_secs(secs)) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(Failure::Late),
            Err(RecvTimeoutError::Disconnected) => Err(Failure::Stopping),
        }
    }
}

