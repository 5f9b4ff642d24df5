//! The flags of `service update`.

use argh::{ArgsInfo, FromArgs};

use crate::cli::parse::value::{self};
use crate::cli::parse::words::{self, Words};
use crate::cli::parse::{device, mount, network, port};
use crate::model::engine::container_spec::{DeviceMapping, Mount, Ulimit};
use crate::model::engine::service::PortConfig;
use crate::model::engine::task::NetworkAttachmentConfig;

/// Update a service
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "update", note = "SERVICE")]
pub struct Update {
    /// service command args
    #[argh(option, arg_name = "command", from_str_fn(words::parse))]
    pub args: Option<Words>,
    /// add Linux capabilities
    #[argh(option, arg_name = "list")]
    pub cap_add: Vec<String>,
    /// drop Linux capabilities
    #[argh(option, arg_name = "list")]
    pub cap_drop: Vec<String>,
    /// add or update a config file on a service
    #[argh(option, arg_name = "config")]
    pub config_add: Vec<String>,
    /// remove a configuration file
    #[argh(option, arg_name = "list")]
    pub config_rm: Vec<String>,
    /// add or update a placement constraint
    #[argh(option, arg_name = "list")]
    pub constraint_add: Vec<String>,
    /// remove a constraint
    #[argh(option, arg_name = "list")]
    pub constraint_rm: Vec<String>,
    /// add or update a container label
    #[argh(option, arg_name = "list")]
    pub container_label_add: Vec<String>,
    /// remove a container label by its key
    #[argh(option, arg_name = "list")]
    pub container_label_rm: Vec<String>,
    /// credential spec for managed service account (Windows only)
    #[argh(option, arg_name = "credential-spec")]
    pub credential_spec: Option<String>,
    /// exit immediately instead of waiting for the service to converge
    #[argh(switch, short = 'd')]
    pub detach: bool,
    /// add or update a custom DNS server
    #[argh(option, arg_name = "list")]
    pub dns_add: Vec<String>,
    /// add or update a DNS option
    #[argh(option, arg_name = "list")]
    pub dns_option_add: Vec<String>,
    /// remove a DNS option
    #[argh(option, arg_name = "list")]
    pub dns_option_rm: Vec<String>,
    /// remove a custom DNS server
    #[argh(option, arg_name = "list")]
    pub dns_rm: Vec<String>,
    /// add or update a custom DNS search domain
    #[argh(option, arg_name = "list")]
    pub dns_search_add: Vec<String>,
    /// remove a DNS search domain
    #[argh(option, arg_name = "list")]
    pub dns_search_rm: Vec<String>,
    /// endpoint mode (vip or dnsrr)
    #[argh(option, arg_name = "string")]
    pub endpoint_mode: Option<String>,
    /// overwrite the default ENTRYPOINT of the image
    #[argh(option, arg_name = "command", from_str_fn(words::parse))]
    pub entrypoint: Option<Words>,
    /// add or update an environment variable
    #[argh(option, arg_name = "list")]
    pub env_add: Vec<String>,
    /// remove an environment variable
    #[argh(option, arg_name = "list")]
    pub env_rm: Vec<String>,
    /// force update even if no changes require it
    #[argh(switch)]
    pub force: bool,
    /// add a Generic resource
    #[argh(option, arg_name = "list")]
    pub generic_resource_add: Vec<String>,
    /// remove a Generic resource
    #[argh(option, arg_name = "list")]
    pub generic_resource_rm: Vec<String>,
    /// add an additional supplementary user group to the container
    #[argh(option, arg_name = "list")]
    pub group_add: Vec<String>,
    /// remove a previously added supplementary user group from the container
    #[argh(option, arg_name = "list")]
    pub group_rm: Vec<String>,
    /// command to run to check health
    #[argh(option, arg_name = "string")]
    pub health_cmd: Option<String>,
    /// time between running the check (ms|s|m|h)
    #[argh(option, arg_name = "duration", from_str_fn(value::duration))]
    pub health_interval: Option<i64>,
    /// consecutive failures needed to report unhealthy
    #[argh(option, arg_name = "int", from_str_fn(value::int))]
    pub health_retries: Option<i64>,
    /// time between running the check during the start period (ms|s|m|h)
    #[argh(option, arg_name = "duration", from_str_fn(value::duration))]
    pub health_start_interval: Option<i64>,
    /// start period for the container to initialize before counting retries towards unstable (ms|s|m|h)
    #[argh(option, arg_name = "duration", from_str_fn(value::duration))]
    pub health_start_period: Option<i64>,
    /// maximum time to allow one check to run (ms|s|m|h)
    #[argh(option, arg_name = "duration", from_str_fn(value::duration))]
    pub health_timeout: Option<i64>,
    /// add a custom host-to-IP mapping ("host:ip")
    #[argh(option, arg_name = "list")]
    pub host_add: Vec<String>,
    /// remove a custom host-to-IP mapping ("host:ip")
    #[argh(option, arg_name = "list")]
    pub host_rm: Vec<String>,
    /// container hostname
    #[argh(option, arg_name = "string")]
    pub hostname: Option<String>,
    /// service image tag
    #[argh(option, arg_name = "string")]
    pub image: Option<String>,
    /// use an init inside each service container to forward signals and reap processes
    #[argh(option, arg_name = "bool", from_str_fn(value::boolean))]
    pub init: Option<bool>,
    /// service container isolation mode
    #[argh(option, arg_name = "string")]
    pub isolation: Option<String>,
    /// add or update a service label
    #[argh(option, arg_name = "list")]
    pub label_add: Vec<String>,
    /// remove a label by its key
    #[argh(option, arg_name = "list")]
    pub label_rm: Vec<String>,
    /// limit CPUs
    #[argh(option, arg_name = "decimal", from_str_fn(value::cpus))]
    pub limit_cpu: Option<i64>,
    /// limit Memory
    #[argh(option, arg_name = "bytes", from_str_fn(value::bytes))]
    pub limit_memory: Option<i64>,
    /// limit maximum number of processes (default 0 = unlimited)
    #[argh(option, arg_name = "int", from_str_fn(value::int))]
    pub limit_pids: Option<i64>,
    /// logging driver for service
    #[argh(option, arg_name = "string")]
    pub log_driver: Option<String>,
    /// logging driver options
    #[argh(option, arg_name = "list")]
    pub log_opt: Vec<String>,
    /// number of job tasks to run concurrently (default equal to --replicas)
    #[argh(option, arg_name = "uint", from_str_fn(value::uint))]
    pub max_concurrent: Option<u64>,
    /// add or update a mount on a service
    #[argh(option, arg_name = "mount", from_str_fn(mount::parse))]
    pub mount_add: Vec<Mount>,
    /// remove a mount by its target path
    #[argh(option, arg_name = "list")]
    pub mount_rm: Vec<String>,
    /// add a network
    #[argh(option, arg_name = "network", from_str_fn(network::parse))]
    pub network_add: Vec<NetworkAttachmentConfig>,
    /// remove a network
    #[argh(option, arg_name = "list")]
    pub network_rm: Vec<String>,
    /// disable any container-specified HEALTHCHECK
    #[argh(option, arg_name = "bool", from_str_fn(value::boolean))]
    pub no_healthcheck: Option<bool>,
    /// do not query the registry to resolve image digest and supported platforms
    #[argh(switch)]
    pub no_resolve_image: bool,
    /// tune host's OOM preferences (-1000 to 1000)
    #[argh(option, arg_name = "int", from_str_fn(value::int))]
    pub oom_score_adj: Option<i64>,
    /// add a placement preference
    #[argh(option, arg_name = "pref", from_str_fn(value::preference))]
    pub placement_pref_add: Vec<String>,
    /// remove a placement preference
    #[argh(option, arg_name = "pref", from_str_fn(value::preference))]
    pub placement_pref_rm: Vec<String>,
    /// add or update a published port
    #[argh(option, arg_name = "port", from_str_fn(port::parse))]
    pub publish_add: Vec<Vec<PortConfig>>,
    /// remove a published port by its target port
    #[argh(option, arg_name = "port", from_str_fn(port::parse_removal))]
    pub publish_rm: Vec<(u32, String)>,
    /// suppress progress output
    #[argh(switch, short = 'q')]
    pub quiet: bool,
    /// mount the container's root filesystem as read only
    #[argh(option, arg_name = "bool", from_str_fn(value::boolean))]
    pub read_only: Option<bool>,
    /// number of tasks
    #[argh(option, arg_name = "uint", from_str_fn(value::uint))]
    pub replicas: Option<u64>,
    /// maximum number of tasks per node (default 0 = unlimited)
    #[argh(option, arg_name = "uint", from_str_fn(value::uint))]
    pub replicas_max_per_node: Option<u64>,
    /// reserve CPUs
    #[argh(option, arg_name = "decimal", from_str_fn(value::cpus))]
    pub reserve_cpu: Option<i64>,
    /// reserve Memory
    #[argh(option, arg_name = "bytes", from_str_fn(value::bytes))]
    pub reserve_memory: Option<i64>,
    /// restart when condition is met ("none", "on-failure", "any")
    #[argh(option, arg_name = "string")]
    pub restart_condition: Option<String>,
    /// delay between restart attempts (ns|us|ms|s|m|h)
    #[argh(option, arg_name = "duration", from_str_fn(value::duration))]
    pub restart_delay: Option<i64>,
    /// maximum number of restarts before giving up
    #[argh(option, arg_name = "uint", from_str_fn(value::uint))]
    pub restart_max_attempts: Option<u64>,
    /// window used to evaluate the restart policy (ns|us|ms|s|m|h)
    #[argh(option, arg_name = "duration", from_str_fn(value::duration))]
    pub restart_window: Option<i64>,
    /// rollback to previous specification
    #[argh(switch)]
    pub rollback: bool,
    /// delay between task rollbacks (ns|us|ms|s|m|h)
    #[argh(option, arg_name = "duration", from_str_fn(value::duration))]
    pub rollback_delay: Option<i64>,
    /// action on rollback failure ("pause", "continue")
    #[argh(option, arg_name = "string")]
    pub rollback_failure_action: Option<String>,
    /// failure rate to tolerate during a rollback
    #[argh(option, arg_name = "float", from_str_fn(value::float))]
    pub rollback_max_failure_ratio: Option<f64>,
    /// duration after each task rollback to monitor for failure (ns|us|ms|s|m|h)
    #[argh(option, arg_name = "duration", from_str_fn(value::duration))]
    pub rollback_monitor: Option<i64>,
    /// rollback order ("start-first", "stop-first")
    #[argh(option, arg_name = "string")]
    pub rollback_order: Option<String>,
    /// maximum number of tasks rolled back simultaneously (0 to roll back all at once)
    #[argh(option, arg_name = "uint", from_str_fn(value::uint))]
    pub rollback_parallelism: Option<u64>,
    /// add or update a secret on a service
    #[argh(option, arg_name = "secret")]
    pub secret_add: Vec<String>,
    /// remove a secret
    #[argh(option, arg_name = "list")]
    pub secret_rm: Vec<String>,
    /// time to wait before force killing a container (ns|us|ms|s|m|h)
    #[argh(option, arg_name = "duration", from_str_fn(value::duration))]
    pub stop_grace_period: Option<i64>,
    /// signal to stop the container
    #[argh(option, arg_name = "string")]
    pub stop_signal: Option<String>,
    /// add or update a Sysctl option
    #[argh(option, arg_name = "list")]
    pub sysctl_add: Vec<String>,
    /// remove a Sysctl option
    #[argh(option, arg_name = "list")]
    pub sysctl_rm: Vec<String>,
    /// allocate a pseudo-TTY
    #[argh(option, arg_name = "bool", from_str_fn(value::boolean), short = 't')]
    pub tty: Option<bool>,
    /// add or update a ulimit option
    #[argh(option, arg_name = "ulimit", from_str_fn(value::ulimit))]
    pub ulimit_add: Vec<Ulimit>,
    /// remove a ulimit option
    #[argh(option, arg_name = "list")]
    pub ulimit_rm: Vec<String>,
    /// delay between updates (ns|us|ms|s|m|h)
    #[argh(option, arg_name = "duration", from_str_fn(value::duration))]
    pub update_delay: Option<i64>,
    /// action on update failure ("pause", "continue", "rollback")
    #[argh(option, arg_name = "string")]
    pub update_failure_action: Option<String>,
    /// failure rate to tolerate during an update
    #[argh(option, arg_name = "float", from_str_fn(value::float))]
    pub update_max_failure_ratio: Option<f64>,
    /// duration after each task update to monitor for failure (ns|us|ms|s|m|h)
    #[argh(option, arg_name = "duration", from_str_fn(value::duration))]
    pub update_monitor: Option<i64>,
    /// update order ("start-first", "stop-first")
    #[argh(option, arg_name = "string")]
    pub update_order: Option<String>,
    /// maximum number of tasks updated simultaneously (0 to update all at once)
    #[argh(option, arg_name = "uint", from_str_fn(value::uint))]
    pub update_parallelism: Option<u64>,
    /// username or UID (format: <name|uid>[:<group|gid>])
    #[argh(option, arg_name = "string", short = 'u')]
    pub user: Option<String>,
    /// send registry authentication details to swarm agents
    #[argh(switch)]
    pub with_registry_auth: bool,
    /// working directory inside the container
    #[argh(option, arg_name = "string", short = 'w')]
    pub workdir: Option<String>,
    /// add or update a host device
    #[argh(option, arg_name = "device", from_str_fn(device::parse))]
    pub device_add: Vec<DeviceMapping>,
    /// remove a host device by its path in the container
    #[argh(option, arg_name = "list")]
    pub device_rm: Vec<String>,
    /// the service
    #[argh(positional)]
    pub service: String,
}
