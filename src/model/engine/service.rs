//! Services as the Engine API shows them.

use super::task::{NetworkAttachmentConfig, TaskSpec};
use super::{Empty, Labels, Version, engine};

engine! {
    /// A service and what is known about it.
    Service {
        always {
            id: String = "ID",
            version: Version,
            created_at: String,
            updated_at: String,
            spec: ServiceSpec,
        }
        omit { previous_spec: Option<ServiceSpec> }
        always { endpoint: Endpoint }
        omit {
            update_status: Option<UpdateStatus>,
            /// Only where `?status=true` asked for it.
            service_status: Option<ServiceStatus>,
            job_status: Option<JobStatus>,
        }
    }

    /// What the user asked for.
    ServiceSpec {
        always {
            name: String,
            labels: Labels,
            task_template: TaskSpec,
            mode: ServiceMode,
        }
        omit {
            update_config: Option<UpdateConfig>,
            rollback_config: Option<UpdateConfig>,
            /// The deprecated place of `TaskTemplate.Networks`.
            networks: Vec<NetworkAttachmentConfig>,
            endpoint_spec: Option<EndpointSpec>,
        }
    }

    /// How many tasks; one field is set.
    ServiceMode {
        omit {
            replicated: Option<ReplicatedService>,
            global: Option<Empty>,
            replicated_job: Option<ReplicatedJob>,
            global_job: Option<Empty>,
        }
    }

    /// A fixed number of tasks; one where it is not said.
    ReplicatedService {
        omit { replicas: Option<u64> }
    }

    /// Tasks that run to their end.
    ReplicatedJob {
        omit { max_concurrent: Option<u64>, total_completions: Option<u64> }
    }

    /// How tasks are replaced, for updates and rollbacks.
    UpdateConfig {
        always { parallelism: u64 }
        omit { delay: i64, failure_action: String, monitor: i64 }
        always {
            #[serde(serialize_with = "super::short")]
            max_failure_ratio: f64,
            order: String,
        }
    }

    /// How clients reach the service.
    EndpointSpec {
        omit { mode: String, ports: Vec<PortConfig> }
    }

    /// One published port.
    PortConfig {
        omit {
            name: String,
            protocol: String,
            target_port: u32,
            published_port: u32,
            publish_mode: String,
            /// The host's address that listens; not known to Docker's services.
            host_ip: String = "HostIP",
        }
    }

    /// The ports and addresses that the cluster gave.
    Endpoint {
        always { spec: EndpointSpec }
        omit { ports: Vec<PortConfig>, virtual_ips: Vec<VirtualIp> = "VirtualIPs" }
    }

    /// The service's address on one network, as `10.0.1.5/24`.
    VirtualIp {
        omit { network_id: String = "NetworkID", addr: String }
    }

    /// How far an update has come.
    UpdateStatus {
        omit {
            state: String,
            started_at: Option<String>,
            completed_at: Option<String>,
            message: String,
        }
    }

    /// Numbers of tasks.
    ServiceStatus {
        always { running_tasks: u64, desired_tasks: u64, completed_tasks: u64 }
    }

    /// The latest execution of a job.
    JobStatus {
        always { job_iteration: Version }
        omit { last_execution: String }
    }

    /// The answer to an update.
    ServiceUpdateResponse {
        omit { warnings: Vec<String> }
    }
}
