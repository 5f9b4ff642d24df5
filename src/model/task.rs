//! The scheduled unit: a task, its states and its status.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::name::Name;
use super::object::Meta;
use super::resource::Generic;
use super::service::{Labels, Port, Service, TaskSpec};
use crate::base::id::{NetworkId, NodeId, ServiceId, TaskId};
use crate::base::time::{Span, Wall};

/// A worker that has not heard of a leader for this long has stopped its tasks that are
/// `on_disconnect=stop`; on its own monotonic clock.
pub const LEASE: Span = Span::from_secs(5);

/// Added to [`LEASE`] by a leader before it lets a replacement of such a task start: for clocks
/// that run at different rates, and for a leader that was replaced and did not know it yet.
pub const LEASE_MARGIN: Span = Span::from_secs(2);

/// A task as the store holds it. It is never restarted: its successor is a new task in its slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The task's id, also the name of its container.
    pub id: TaskId,
    /// Version and times.
    pub meta: Meta,
    /// The service it belongs to.
    pub service: ServiceId,
    /// That service's name when the task was made.
    pub service_name: Name,
    /// 1… in a replicated service, 0 in a global one.
    pub slot: u64,
    /// Where it runs, once that is decided.
    pub node: Option<NodeId>,
    /// What it runs.
    pub spec: TaskSpec,
    /// `spec_version` of the service that `spec` is from.
    pub spec_version: u64,
    /// Labels of the service when the task was made.
    pub service_labels: Labels,
    /// Ports of the service when the task was made: it is reached through these.
    pub ports: Vec<Port>,
    /// Its addresses, one for each network.
    pub addresses: Vec<Address>,
    /// How far it may go; only the manager writes it and it only grows.
    pub desired: TaskState,
    /// How far it is; only the worker writes it and it only grows.
    pub status: TaskStatus,
    /// Which run of a job it belongs to.
    pub job_iteration: u64,
    /// A successor waits in `Ready` until this time (set by the restart delay), for the display
    /// only: the manager's own deadline decides.
    pub not_before: Option<Wall>,
    /// What its node set aside for it of its generic resources.
    pub generic: Vec<Generic>,
    /// The task that it came after on a node that was cut off: the worker there made it by itself
    /// ([`TaskId::successor`]), and the managers took it over later.
    pub adopted_from: Option<TaskId>,
}

impl Task {
    /// It may run; a job's task may run to its end.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.desired <= TaskState::Complete
    }

    /// It may run and has not ended.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.is_wanted() && !self.status.state.is_terminal()
    }

    /// Whether the service wants another task than this one: an update replaces it. Another
    /// placement alone does not (swarmkit `orchestrator.IsTaskDirty`).
    #[must_use]
    pub fn is_outdated(&self, service: &Service) -> bool {
        if self.spec_version == service.spec_version {
            return false;
        }
        let (mine, wanted) = (&self.spec, &service.spec.task);
        let same = mine.container == wanted.container
            && mine.resources == wanted.resources
            && mine.restart == wanted.restart
            && mine.log == wanted.log
            && mine.networks == wanted.networks
            && mine.force_update == wanted.force_update
            && mine.on_disconnect == wanted.on_disconnect
            && self.ports == service.ports;
        !same
    }
}

/// One address of a task, or of a service on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The network it is on.
    pub network: NetworkId,
    /// The address; a task has it as a /32 on its veth.
    pub address: Ipv4Addr,
}

/// How far a task is, observed, and how far it may go, desired (swarmkit `api/types.proto`
/// TaskState). The order is the order of a task's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TaskState {
    /// Made by the orchestrator.
    New,
    /// Addresses and ports are leased.
    Pending,
    /// A node is chosen.
    Assigned,
    /// The node knows it.
    Accepted,
    /// The image is fetched and the container made.
    Preparing,
    /// Made, not started.
    Ready,
    /// Started, not yet healthy.
    Starting,
    /// Running.
    Running,
    /// Ended by itself with exit code 0.
    Complete,
    /// Ended because it was asked to.
    Shutdown,
    /// Ended with an error at or after its start.
    Failed,
    /// Could not be started.
    Rejected,
    /// Only desired: delete it once it has ended.
    Remove,
    /// Its node has been gone for too long.
    Orphaned,
}

impl TaskState {
    /// The Engine API's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Remove => "remove",
            Self::Orphaned => "orphaned",
        }
    }

    /// The task will not run any more.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        self > Self::Running
    }
}

/// What a worker observed of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// How far it is.
    pub state: TaskState,
    /// When it got there.
    pub timestamp: Wall,
    /// Swarm's word for the phase: `created`, `preparing`, `started`, …
    pub message: String,
    /// What went wrong; empty when nothing did.
    pub err: String,
    /// Process id of the container's first process on its node; 0 when there is none.
    pub pid: u32,
    /// Exit code, once it has ended.
    pub exit_code: Option<i32>,
    /// Host-mode ports with the port number that the node took.
    pub ports: Vec<Port>,
}

/// Where a task may be reached from this node, for the proxy's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backend {
    /// The task.
    pub task: TaskId,
    /// Its address.
    pub address: IpAddr,
    /// Port in the container.
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use crate::model::object::Object;
    use crate::model::sample;
    use crate::model::service::OnDisconnect;

    #[test]
    fn a_change_of_what_a_worker_goes_by_replaces_the_task() {
        let mut task = sample::task();
        let Object::Service(mut service) = sample::objects().remove(3) else { unreachable!() };
        task.ports.clone_from(&service.ports);
        service.spec_version += 1;
        assert!(!task.is_outdated(&service), "it says the same");
        service.spec.task.placement.max_replicas += 1;
        assert!(!task.is_outdated(&service), "it is where it may be");
        service.spec.task.on_disconnect = OnDisconnect::Keep;
        assert!(task.is_outdated(&service));
    }
}
