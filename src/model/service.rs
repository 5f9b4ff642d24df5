//! What a user asks for: a service and everything in its specification.
//!
//! The shapes follow the Engine API's `ServiceSpec`; units are in the names or the types.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::name::Name;
use super::object::Meta;
use super::payload::FileRef;
use super::task::Address;
use crate::base::id::{ConfigId, NetworkId, SecretId, ServiceId};
use crate::base::time::{Span, Wall};

mod update;

pub use self::update::{FailureAction, UpdateConfig, UpdateOrder, UpdateState, UpdateStatus};

/// Key and value pairs in key order.
pub type Labels = BTreeMap<String, String>;

/// A service as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The service's id.
    pub id: ServiceId,
    /// Version and times.
    pub meta: Meta,
    /// What is wanted.
    pub spec: ServiceSpec,
    /// What was wanted before the last update; one step deep.
    pub previous_spec: Option<Box<ServiceSpec>>,
    /// Index of the entry that last changed the spec: tells which tasks are of which spec.
    pub spec_version: u64,
    /// Published ports as leased: every `published` is set unless it is a host-mode port left open.
    pub ports: Vec<Port>,
    /// How the last update goes.
    pub update_status: Option<UpdateStatus>,
    /// How often a job was started; `None` unless it is one.
    pub job: Option<JobStatus>,
    /// Its virtual addresses, at most one for each network; none in mode `dnsrr`.
    pub vips: Vec<Address>,
}

/// How often a job was started (swarmkit `api/objects.proto` JobStatus).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Raised by every update of the service: which of its tasks are of this run.
    pub iteration: u64,
    /// When that was.
    pub last_execution: Wall,
}

/// What is wanted of a service. Legal only inside a [`super::spec_check::ValidSpec`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Unique in the cluster.
    pub name: Name,
    /// Labels of the service, not of its containers.
    pub labels: Labels,
    /// What each task runs.
    pub task: TaskSpec,
    /// How many tasks.
    pub mode: Mode,
    /// How an update proceeds; swarm's defaults when absent.
    pub update: Option<UpdateConfig>,
    /// How a rollback proceeds; swarm's defaults when absent.
    pub rollback: Option<UpdateConfig>,
    /// How the service is reached.
    pub endpoint: EndpointSpec,
}

/// How many tasks a service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// This many slots.
    Replicated {
        /// Number of slots.
        replicas: u64,
    },
    /// One task on every node that fits.
    Global,
    /// Run to completion: `total` times, `max_concurrent` at once.
    ReplicatedJob {
        /// At most this many at once.
        max_concurrent: u64,
        /// This many completions.
        total: u64,
    },
    /// Run to completion once on every node that fits.
    GlobalJob,
}

impl Mode {
    /// Its tasks run to completion.
    #[must_use]
    pub const fn is_job(self) -> bool {
        match self {
            Self::ReplicatedJob { .. } | Self::GlobalJob => true,
            Self::Replicated { .. } | Self::Global => false,
        }
    }

    /// One task on each node instead of numbered slots.
    #[must_use]
    pub const fn is_global(self) -> bool {
        match self {
            Self::Global | Self::GlobalJob => true,
            Self::Replicated { .. } | Self::ReplicatedJob { .. } => false,
        }
    }
}

/// What one task runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The container.
    pub container: ContainerSpec,
    /// Limits and reservations.
    pub resources: Resources,
    /// When and how often a task is replaced.
    pub restart: RestartPolicy,
    /// Where it may run.
    pub placement: Placement,
    /// Log driver; the node's default when absent.
    pub log: Option<LogDriver>,
    /// Networks it is attached to, besides the ingress network.
    pub networks: Vec<NetworkAttachment>,
    /// Raised by `--force`: replaces every task.
    pub force_update: u64,
    /// What becomes of it while its node is cut off.
    pub on_disconnect: OnDisconnect,
}

/// What a worker does with a task while it hears of no manager.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnDisconnect {
    /// Runs it on, as swarm does: elsewhere a second one may run meanwhile.
    #[default]
    Keep,
    /// Stops it after a lease, before the managers may start another: never two at once.
    Stop,
}

/// The container of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Image reference as the user gave it, with a digest where one was resolved.
    pub image: String,
    /// Labels of the container.
    pub labels: Labels,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's command when not empty.
    pub args: Vec<String>,
    /// Host name; may hold a template.
    pub hostname: String,
    /// `K=V` in the user's order; may hold templates.
    pub env: Vec<String>,
    /// Working directory; the image's when empty.
    pub dir: String,
    /// `user[:group]` by name or number; the image's when empty.
    pub user: String,
    /// Extra groups by name or number.
    pub groups: Vec<String>,
    /// A terminal instead of pipes.
    pub tty: bool,
    /// Keep stdin open.
    pub open_stdin: bool,
    /// Root file system read-only.
    pub read_only: bool,
    /// A tiny init as process 1; the node's default when absent.
    pub init: Option<bool>,
    /// Signal that asks to stop; the image's, else SIGTERM, when empty.
    pub stop_signal: String,
    /// Time between that signal and SIGKILL; 10 s when absent.
    pub stop_grace: Option<Span>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Extra lines for /etc/hosts in the form `IP name [alias…]`.
    pub hosts: Vec<String>,
    /// Resolver settings; the node's when absent.
    pub dns: Option<Dns>,
    /// Kernel settings of the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Capabilities added, in the form `CAP_NET_ADMIN`, or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities dropped.
    pub cap_drop: Vec<String>,
    /// Resource limits of the processes.
    pub ulimits: Vec<Ulimit>,
    /// Devices of the node (Docker's services have none).
    pub devices: Vec<Device>,
    /// No new privileges by setuid files.
    pub no_new_privileges: bool,
    /// −1000…1000.
    pub oom_score_adj: i32,
    /// Health check; the image's when absent.
    pub health: Option<Health>,
    /// Secrets, each a file in memory below `/run/secrets`.
    pub secrets: Vec<FileRef<SecretId>>,
    /// Configs, each a file.
    pub configs: Vec<FileRef<ConfigId>>,
}

/// Resolver settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Servers.
    pub servers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// One resource limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Name without `RLIMIT_`, in lower case: `nofile`.
    pub name: String,
    /// Soft limit; −1 is unlimited.
    pub soft: i64,
    /// Hard limit; −1 is unlimited.
    pub hard: i64,
}

/// One device of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path on the node.
    pub path_on_host: String,
    /// Path in the container.
    pub path_in_container: String,
    /// Some of `rwm`.
    pub permissions: String,
}

/// A health check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`; empty inherits the image's.
    pub test: Vec<String>,
    /// Between two checks.
    pub interval: Option<Span>,
    /// Of one check.
    pub timeout: Option<Span>,
    /// Failures in a row that make a container unhealthy.
    pub retries: Option<u32>,
    /// After the start, failures do not count for this long.
    pub start_period: Option<Span>,
    /// Between two checks in the start period.
    pub start_interval: Option<Span>,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container.
    pub target: String,
    /// Not writable.
    pub read_only: bool,
    /// What is mounted.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A path of the node; it must exist.
    Bind {
        /// Absolute path; may hold a template.
        source: String,
        /// How mounts below it travel.
        propagation: Propagation,
        /// Mounts below it are left out.
        non_recursive: bool,
    },
    /// A volume; made on first use.
    Volume {
        /// Name; empty makes an anonymous one. May hold a template.
        name: String,
        /// Labels of a volume made for this mount.
        labels: Labels,
        /// Do not fill a new volume from the image.
        no_copy: bool,
        /// A folder inside the volume; empty is its root.
        subpath: String,
    },
    /// Memory.
    Tmpfs {
        /// 0 is half of the memory, as the kernel does.
        size_bytes: u64,
        /// Mode of the root; 0 is 1777.
        mode: u32,
    },
    /// A path of the node, read-only, with a say in what is mounted below it: `bind-recursive`.
    BindReadOnly {
        /// As of [`MountKind::Bind`].
        source: String,
        /// As of [`MountKind::Bind`].
        propagation: Propagation,
        /// What is mounted below is read-only as well, or the task is refused where the kernel cannot
        /// do that; otherwise it stays as it is.
        recursive: bool,
    },
}

/// Propagation of mounts below a bind mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Docker's default.
    #[default]
    Rprivate,
    /// Not recursive.
    Private,
    /// Both ways, recursive.
    Rshared,
    /// Both ways.
    Shared,
    /// From the node, recursive.
    Rslave,
    /// From the node.
    Slave,
}

/// Limits and reservations of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// 10⁻⁹ of a CPU; 0 is no limit.
    pub limit_nano_cpus: u64,
    /// 0 is no limit.
    pub limit_memory_bytes: u64,
    /// 0 is no limit.
    pub limit_pids: u64,
    /// 10⁻⁹ of a CPU that the scheduler sets aside.
    pub reserve_nano_cpus: u64,
    /// Memory that the scheduler sets aside.
    pub reserve_memory_bytes: u64,
    /// Counted resources: kind and number.
    pub reserve_generic: Vec<(String, u64)>,
}

/// When a task that ended is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// After which ends.
    pub condition: RestartCondition,
    /// Before the successor starts.
    pub delay: Span,
    /// 0 is no limit.
    pub max_attempts: u64,
    /// Attempts older than this do not count; zero counts all.
    pub window: Span,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: Span::from_secs(5),
            max_attempts: 0,
            window: Span::ZERO,
        }
    }
}

/// After which ends a task is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartCondition {
    /// Never.
    None,
    /// Only when it failed.
    OnFailure,
    /// Always.
    #[default]
    Any,
}

/// Where tasks may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// `key==value` or `key!=value`, checked when the spec was.
    pub constraints: Vec<String>,
    /// `node.labels.X` or `engine.labels.X` to spread over.
    pub spread: Vec<String>,
    /// 0 is no limit.
    pub max_replicas: u64,
    /// Platforms of the image; empty matches all.
    pub platforms: Vec<super::node::Platform>,
}

/// Where a container's output goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDriver {
    /// `json-file`, `local` or `none`.
    pub name: String,
    /// `max-size`, `max-file`, …
    pub options: Labels,
}

/// One network of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAttachment {
    /// The network.
    pub network: NetworkId,
    /// Names for the service on it.
    pub aliases: Vec<String>,
}

/// How a service is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// By a virtual address or by names only.
    pub mode: EndpointMode,
    /// Published ports as asked for.
    pub ports: Vec<Port>,
}

/// By a virtual address or by names only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndpointMode {
    /// One address for the service.
    #[default]
    Vip,
    /// The tasks' addresses.
    Dnsrr,
}

/// One published port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// Free text of the API.
    pub name: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// In the container.
    pub target: u16,
    /// On the node; 0 in a spec lets the allocator pick one from 30000–32767.
    pub published: u16,
    /// On every node or on the task's own.
    pub mode: PublishMode,
    /// Only on this address of the node (Docker's services refuse one).
    pub host_ip: Option<IpAddr>,
}

/// Transport protocol of a port.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// Where a port is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PublishMode {
    /// On every node.
    #[default]
    Ingress,
    /// On the node where the task runs.
    Host,
}
