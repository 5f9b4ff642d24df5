//! Services, towards the client.

use crate::daemon::handle::View;
use crate::model::engine::service as json;
use crate::model::engine::{Empty, Version};
use crate::model::service::{
    EndpointMode, FailureAction, Mode, Port, Protocol, PublishMode, Service, ServiceSpec,
    UpdateConfig, UpdateOrder, UpdateState, UpdateStatus,
};
use crate::model::task::TaskState;

use super::{container, nanos};

/// A service, without numbers of tasks.
#[must_use]
pub fn service(service: &Service) -> json::Service {
    json::Service {
        id: service.id.to_string(),
        version: Version { index: service.meta.version },
        created_at: service.meta.created.to_string(),
        updated_at: service.meta.updated.to_string(),
        spec: spec(&service.spec),
        endpoint: json::Endpoint {
            spec: endpoint(&service.spec),
            ports: service.ports.iter().map(port).collect(),
            virtual_ips: Vec::new(),
        },
        previous_spec: service.previous_spec.as_deref().map(spec),
        update_status: service.update_status.as_ref().map(update_status),
        service_status: None,
        job_status: None,
    }
}

fn spec(spec: &ServiceSpec) -> json::ServiceSpec {
    json::ServiceSpec {
        name: spec.name.to_string(),
        labels: spec.labels.clone(),
        task_template: container::task_spec(&spec.task),
        mode: mode(spec.mode),
        update_config: spec.update.as_ref().map(update_config),
        rollback_config: spec.rollback.as_ref().map(update_config),
        networks: Vec::new(),
        endpoint_spec: Some(endpoint(spec)),
    }
}

fn mode(mode: Mode) -> json::ServiceMode {
    let mut out = json::ServiceMode::default();
    match mode {
        Mode::Replicated { replicas } => {
            out.replicated = Some(json::ReplicatedService { replicas: Some(replicas) });
        }
        Mode::Global => out.global = Some(Empty {}),
        Mode::ReplicatedJob { max_concurrent, total } => {
            out.replicated_job = Some(json::ReplicatedJob {
                max_concurrent: Some(max_concurrent),
                total_completions: Some(total),
            });
        }
        Mode::GlobalJob => out.global_job = Some(Empty {}),
    }
    out
}

/// The word for a mode in filters.
#[must_use]
pub const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Replicated { .. } => "replicated",
        Mode::Global => "global",
        Mode::ReplicatedJob { .. } => "replicated-job",
        Mode::GlobalJob => "global-job",
    }
}

/// Numbers of tasks.
#[must_use]
pub fn status(service: &Service, view: &View) -> json::ServiceStatus {
    let tasks = || view.tasks.iter().filter(|task| task.service == service.id);
    let count = |n: usize| n as u64;
    let running = count(tasks().filter(|task| task.status.state == TaskState::Running).count());
    let wanted = tasks().filter(|task| task.is_wanted()).count();
    let completed = tasks()
        .filter(|task| {
            task.status.state == TaskState::Complete && task.spec_version == service.spec_version
        })
        .count();
    json::ServiceStatus {
        running_tasks: running,
        desired_tasks: match service.spec.mode {
            Mode::Replicated { replicas } => replicas,
            Mode::ReplicatedJob { max_concurrent, total } => {
                max_concurrent.min(total.saturating_sub(count(completed)))
            }
            Mode::Global | Mode::GlobalJob => count(wanted),
        },
        completed_tasks: match service.spec.mode {
            Mode::ReplicatedJob { .. } | Mode::GlobalJob => count(completed),
            Mode::Replicated { .. } | Mode::Global => 0,
        },
    }
}

fn update_config(config: &UpdateConfig) -> json::UpdateConfig {
    json::UpdateConfig {
        parallelism: config.parallelism,
        max_failure_ratio: f64::from(config.max_failure_ppm) / 1e6,
        order: match config.order {
            UpdateOrder::StopFirst => "stop-first",
            UpdateOrder::StartFirst => "start-first",
        }
        .to_owned(),
        delay: nanos(config.delay),
        failure_action: match config.on_failure {
            FailureAction::Pause => "pause",
            FailureAction::Continue => "continue",
            FailureAction::Rollback => "rollback",
        }
        .to_owned(),
        monitor: nanos(config.monitor),
    }
}

fn update_status(status: &UpdateStatus) -> json::UpdateStatus {
    json::UpdateStatus {
        state: match status.state {
            UpdateState::Updating => "updating",
            UpdateState::Paused => "paused",
            UpdateState::Completed => "completed",
            UpdateState::RollbackStarted => "rollback_started",
            UpdateState::RollbackPaused => "rollback_paused",
            UpdateState::RollbackCompleted => "rollback_completed",
        }
        .to_owned(),
        started_at: status.started.map(|time| time.to_string()),
        completed_at: status.completed.map(|time| time.to_string()),
        message: status.message.clone(),
    }
}

fn endpoint(spec: &ServiceSpec) -> json::EndpointSpec {
    json::EndpointSpec {
        mode: match spec.endpoint.mode {
            EndpointMode::Vip => "vip",
            EndpointMode::Dnsrr => "dnsrr",
        }
        .to_owned(),
        ports: spec.endpoint.ports.iter().map(port).collect(),
    }
}

/// A published port.
#[must_use]
pub fn port(port: &Port) -> json::PortConfig {
    json::PortConfig {
        name: port.name.clone(),
        protocol: match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
        .to_owned(),
        target_port: u32::from(port.target),
        published_port: u32::from(port.published),
        publish_mode: match port.mode {
            PublishMode::Ingress => "ingress",
            PublishMode::Host => "host",
        }
        .to_owned(),
        host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    }
}

/// Says what holds where the spec is silent.
pub fn insert_defaults(spec: &mut json::ServiceSpec) {
    let default = update_config(&UpdateConfig::default());
    spec.update_config.get_or_insert_with(|| default.clone());
    spec.rollback_config.get_or_insert(default);
    if let Some(container) = &mut spec.task_template.container_spec {
        container.stop_grace_period.get_or_insert(10_000_000_000);
        container.dns_config.get_or_insert_default();
    }
}
