//! A service's specification from the client, parsed into one that is legal.
//!
//! What Docker knows and this program does not is refused, never dropped: a task must not run with
//! less than its owner asked for.

use std::sync::Arc;

use super::container_spec;
use crate::api::errors::ApiError;
use crate::api::lookup::{Candidate, find};
use crate::base::time::Span;
use crate::model::engine::service as json;
use crate::model::engine::task as task_json;
use crate::model::name::Name;
use crate::model::network::Network;
use crate::model::node::Platform;
use crate::model::service::{
    EndpointMode, EndpointSpec, FailureAction, LogDriver, Mode, NetworkAttachment, OnDisconnect, Placement, Port,
    Protocol, PublishMode, Resources, RestartCondition, RestartPolicy, ServiceSpec, TaskSpec,
    UpdateConfig, UpdateOrder,
};
use crate::model::spec_check::ValidSpec;

/// Parses a specification; networks are looked up among `networks`.
///
/// # Errors
/// With Docker's text for the first thing that is wrong.
pub fn parse(spec: json::ServiceSpec, networks: &[Arc<Network>]) -> Result<ValidSpec, ApiError> {
    let name = Name::new(&spec.name).map_err(|bad| invalid(bad.to_string()))?;
    let mut template = spec.task_template;
    if template.networks.is_empty() {
        template.networks = spec.networks;
    }
    let parsed = ServiceSpec {
        name,
        labels: spec.labels,
        task: task(template, networks)?,
        mode: mode(&spec.mode)?,
        update: spec.update_config.map(|config| update(&config, "update")).transpose()?,
        rollback: spec.rollback_config.map(|config| update(&config, "rollback")).transpose()?,
        endpoint: endpoint(spec.endpoint_spec.unwrap_or_default())?,
    };
    parsed.validate().map_err(|bad| invalid(bad.to_string()))
}

/// 400 in the words of swarm's own checks.
pub(super) fn invalid(text: impl AsRef<str>) -> ApiError {
    ApiError::invalid(format!("rpc error: code = InvalidArgument desc = {}", text.as_ref()))
}

/// A span of nanoseconds that must not be negative.
pub(super) fn span(nanos: i64, what: &str) -> Result<Span, ApiError> {
    let nanos =
        u64::try_from(nanos).map_err(|_negative| invalid(format!("{what} cannot be negative")))?;
    Ok(Span::from_nanos(nanos))
}

/// A number that must not be negative.
pub(super) fn count(value: i64, what: &str) -> Result<u64, ApiError> {
    u64::try_from(value).map_err(|_negative| invalid(format!("invalid {what} {value}: must not be negative")))
}

fn task(spec: task_json::TaskSpec, networks: &[Arc<Network>]) -> Result<TaskSpec, ApiError> {
    if !matches!(spec.runtime.as_str(), "" | "container") {
        return Err(ApiError::unimplemented(&format!("services of runtime {}", spec.runtime)));
    }
    let Some(container) = spec.container_spec else {
        return Err(invalid("TaskSpec: missing runtime"));
    };
    Ok(TaskSpec {
        container: container_spec::parse(container)?,
        resources: resources(spec.resources.unwrap_or_default())?,
        restart: spec.restart_policy.map_or_else(|| Ok(RestartPolicy::default()), |p| restart(&p))?,
        placement: placement(spec.placement.unwrap_or_default())?,
        log: spec
            .log_driver
            .filter(|driver| !driver.name.is_empty())
            .map(|driver| LogDriver { name: driver.name, options: driver.options }),
        networks: spec
            .networks
            .into_iter()
            .map(|wanted| attachment(wanted, networks))
            .collect::<Result<_, _>>()?,
        force_update: spec.force_update,
        on_disconnect: OnDisconnect::Keep,
    })
}

fn attachment(
    wanted: task_json::NetworkAttachmentConfig,
    networks: &[Arc<Network>],
) -> Result<NetworkAttachment, ApiError> {
    let candidates = networks.iter().map(|network| Candidate {
        id: network.id.to_string(),
        name: network.name.clone(),
        object: network.as_ref(),
    });
    let network = find("network", &wanted.target, candidates)?;
    if network.ingress {
        return Err(invalid("Service cannot be explicitly attached to the ingress network \"ingress\""));
    }
    if !wanted.driver_opts.is_empty() {
        return Err(ApiError::unimplemented("driver options of networks"));
    }
    Ok(NetworkAttachment { network: network.id, aliases: wanted.aliases })
}

fn mode(mode: &json::ServiceMode) -> Result<Mode, ApiError> {
    let json::ServiceMode { replicated, global, replicated_job, global_job } = mode;
    match (replicated, global, replicated_job, global_job) {
        (None, None, None, None) => Ok(Mode::Replicated { replicas: 1 }),
        (Some(it), None, None, None) => Ok(Mode::Replicated { replicas: it.replicas.unwrap_or(1) }),
        (None, Some(_), None, None) => Ok(Mode::Global),
        (None, None, Some(job), None) => {
            let max_concurrent = job.max_concurrent.unwrap_or(1);
            let total = job.total_completions.unwrap_or(max_concurrent);
            Ok(Mode::ReplicatedJob { max_concurrent, total })
        }
        (None, None, None, Some(_)) => Ok(Mode::GlobalJob),
        _ => Err(ApiError::invalid("must specify only one service mode")),
    }
}

fn update(config: &json::UpdateConfig, kind: &str) -> Result<UpdateConfig, ApiError> {
    let default = UpdateConfig::default();
    let ratio = config.max_failure_ratio;
    if !(0.0..=1.0).contains(&ratio) {
        return Err(invalid(format!(
            "TaskSpec: {kind}-maxfailureratio cannot be less than 0 or bigger than 1"
        )));
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the ratio is between 0 and 1"
    )]
    let max_failure_ppm = (ratio * 1e6).round() as u32;
    let monitor = span(config.monitor, &format!("TaskSpec: {kind}-monitor"))?;
    Ok(UpdateConfig {
        parallelism: config.parallelism,
        delay: span(config.delay, &format!("TaskSpec: {kind}-delay"))?,
        on_failure: match config.failure_action.as_str() {
            "" | "pause" => FailureAction::Pause,
            "continue" => FailureAction::Continue,
            "rollback" if kind == "update" => FailureAction::Rollback,
            other => {
                return Err(invalid(format!("unrecognized {kind} failure action {other}")));
            }
        },
        monitor: if monitor == Span::ZERO { default.monitor } else { monitor },
        max_failure_ppm,
        order: match config.order.as_str() {
            "" | "stop-first" => UpdateOrder::StopFirst,
            "start-first" => UpdateOrder::StartFirst,
            other => return Err(invalid(format!("unrecognized {kind} order {other}"))),
        },
    })
}

fn endpoint(spec: json::EndpointSpec) -> Result<EndpointSpec, ApiError> {
    Ok(EndpointSpec {
        mode: match spec.mode.as_str() {
            "" | "vip" => EndpointMode::Vip,
            "dnsrr" => EndpointMode::Dnsrr,
            other => return Err(invalid(format!("invalid EndpointSpec mode: \"{other}\""))),
        },
        ports: spec.ports.into_iter().map(port).collect::<Result<_, _>>()?,
    })
}

fn port(port: json::PortConfig) -> Result<Port, ApiError> {
    let number = |value: u32| {
        u16::try_from(value).map_err(|_large| {
            invalid(format!("EndpointSpec: invalid port {value}: must be at most 65535"))
        })
    };
    Ok(Port {
        name: port.name,
        protocol: match port.protocol.as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => return Err(ApiError::unimplemented("publishing ports of SCTP")),
            other => return Err(invalid(format!("invalid protocol: \"{other}\""))),
        },
        target: number(port.target_port)?,
        published: number(port.published_port)?,
        mode: match port.publish_mode.as_str() {
            "" | "ingress" => PublishMode::Ingress,
            "host" => PublishMode::Host,
            other => return Err(invalid(format!("invalid publish mode value {other}"))),
        },
        host_ip: match port.host_ip.as_str() {
            "" => None,
            text => Some(
                text.parse().map_err(|_no_ip| invalid(format!("invalid IP address: {text}")))?,
            ),
        },
    })
}

fn resources(given: task_json::ResourceRequirements) -> Result<Resources, ApiError> {
    let limits = given.limits.unwrap_or_default();
    let reservations = given.reservations.unwrap_or_default();
    let mut reserve_generic = Vec::new();
    for resource in reservations.generic_resources {
        let Some(counted) = resource.discrete_resource_spec else {
            return Err(ApiError::unimplemented("generic resources with names"));
        };
        let number = count(counted.value, "generic resource value")?;
        reserve_generic.push((counted.kind, number));
    }
    Ok(Resources {
        limit_nano_cpus: count(limits.nano_cpus, "cpu value")?,
        limit_memory_bytes: count(limits.memory_bytes, "memory value")?,
        limit_pids: count(limits.pids, "pids limit")?,
        reserve_nano_cpus: count(reservations.nano_cpus, "cpu value")?,
        reserve_memory_bytes: count(reservations.memory_bytes, "memory value")?,
        reserve_generic,
    })
}

fn restart(policy: &task_json::RestartPolicy) -> Result<RestartPolicy, ApiError> {
    let default = RestartPolicy::default();
    let time = |given: Option<i64>, default: Span, what: &str| {
        given.map_or(Ok(default), |nanos| span(nanos, what))
    };
    Ok(RestartPolicy {
        condition: match policy.condition.as_str() {
            "" | "any" => RestartCondition::Any,
            "none" => RestartCondition::None,
            "on-failure" => RestartCondition::OnFailure,
            other => return Err(invalid(format!("invalid RestartCondition: \"{other}\""))),
        },
        delay: time(policy.delay, default.delay, "TaskSpec: restart-delay")?,
        max_attempts: policy.max_attempts.unwrap_or(default.max_attempts),
        window: time(policy.window, default.window, "TaskSpec: restart-window")?,
    })
}

fn placement(given: task_json::Placement) -> Result<Placement, ApiError> {
    let mut spread = Vec::new();
    for preference in given.preferences {
        let Some(over) = preference.spread else {
            return Err(invalid("placement preference must specify a spread descriptor"));
        };
        spread.push(over.spread_descriptor);
    }
    let platforms = given.platforms.into_iter().map(|platform| Platform {
        os: platform.os,
        arch: architecture(platform.architecture),
        variant: String::new(),
    });
    Ok(Placement {
        constraints: given.constraints,
        spread,
        max_replicas: given.max_replicas,
        platforms: platforms.collect(),
    })
}

/// Clients send Go's names; a few send the kernel's.
fn architecture(name: String) -> String {
    match name.as_str() {
        "x86_64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        "armv7l" | "armv6l" => "arm".to_owned(),
        _ => name,
    }
}
