//! Tasks and the template they are made from, as the Engine API shows them.

use super::container_spec::ContainerSpec;
use super::network::Network;
use super::service::PortConfig;
use super::{Driver, Labels, Version, engine};

engine! {
    /// One task.
    Task {
        always {
            id: String = "ID",
            version: Version,
            created_at: String,
            updated_at: String,
        }
        omit { name: String }
        always { labels: Labels, spec: TaskSpec, service_id: String = "ServiceID" }
        omit { slot: u64, node_id: String = "NodeID" }
        always { status: TaskStatus, desired_state: String }
        omit {
            networks_attachments: Vec<NetworkAttachment>,
            generic_resources: Vec<GenericResource>,
            job_iteration: Option<Version>,
        }
    }

    /// What a task last was.
    TaskStatus {
        always { timestamp: String, state: String }
        omit { message: String, err: String, container_status: Option<ContainerStatus> }
        always { port_status: PortStatus }
    }

    /// The container of a task.
    ContainerStatus {
        always { container_id: String = "ContainerID", pid: i64 = "PID", exit_code: i64 }
    }

    /// The ports a task holds on its node.
    PortStatus {
        omit { ports: Vec<PortConfig> }
    }

    /// A task's place on a network.
    NetworkAttachment {
        omit { network: Network, addresses: Vec<String> }
    }

    /// What each task of a service is made from.
    TaskSpec {
        omit {
            container_spec: Option<ContainerSpec>,
            resources: Option<ResourceRequirements>,
            restart_policy: Option<RestartPolicy>,
            placement: Option<Placement>,
            networks: Vec<NetworkAttachmentConfig>,
            log_driver: Option<Driver>,
        }
        always { force_update: u64 }
        omit { runtime: String }
    }

    /// A network that is asked for.
    NetworkAttachmentConfig {
        omit { target: String, aliases: Vec<String>, driver_opts: Labels }
    }

    /// What a task may use at most and must find at least.
    ResourceRequirements {
        omit { limits: Option<Limit>, reservations: Option<Resources> }
    }

    /// Upper bounds; zero is none.
    Limit {
        omit { nano_cpus: i64 = "NanoCPUs", memory_bytes: i64, pids: i64 }
    }

    /// What a node has, or a task reserves.
    Resources {
        omit {
            nano_cpus: i64 = "NanoCPUs",
            memory_bytes: i64,
            generic_resources: Vec<GenericResource>,
        }
    }

    /// A resource the user named; one field is set.
    GenericResource {
        omit {
            named_resource_spec: Option<NamedGenericResource>,
            discrete_resource_spec: Option<DiscreteGenericResource>,
        }
    }

    /// One of a kind, by name.
    NamedGenericResource {
        omit { kind: String, value: String }
    }

    /// So many of a kind.
    DiscreteGenericResource {
        omit { kind: String, value: i64 }
    }

    /// When and how often a task is replaced.
    RestartPolicy {
        omit {
            condition: String,
            delay: Option<i64>,
            max_attempts: Option<u64>,
            window: Option<i64>,
        }
    }

    /// Where a task may run.
    Placement {
        omit {
            constraints: Vec<String>,
            preferences: Vec<PlacementPreference>,
            max_replicas: u64,
            platforms: Vec<Platform>,
        }
    }

    /// One rule for spreading tasks.
    PlacementPreference {
        omit { spread: Option<SpreadOver> }
    }

    /// Even over the values of a label.
    SpreadOver {
        omit { spread_descriptor: String }
    }

    /// A kind of machine.
    Platform {
        omit { architecture: String, os: String = "OS" }
    }
}
