//! The one door through which a service specification becomes legal.
//!
//! Texts are swarmkit's (`manager/controlapi/service.go`), so that clients which match them go on
//! working.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::image_ref::Reference;
use super::route::LISTENERS_MAX;
use super::service::{
    EndpointMode, Mode, MountKind, PublishMode, RestartPolicy, ServiceSpec, TaskSpec,
};

/// Smallest CPU limit or reservation: 0.001 of a CPU.
pub const NANO_CPUS_MIN: u64 = 1_000_000;

/// Smallest memory limit or reservation.
pub const MEMORY_BYTES_MIN: u64 = 4 << 20;

/// Most replicas of one service: a typing error must not fill a small board.
pub const REPLICAS_MAX: u64 = 100_000;

/// Largest encoded specification; it is copied into each task.
pub const SPEC_BYTES_MAX: usize = 256 << 10;

/// A specification that passed every check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ServiceSpec", into = "ServiceSpec")]
pub struct ValidSpec(ServiceSpec);

impl From<ValidSpec> for ServiceSpec {
    fn from(spec: ValidSpec) -> Self {
        spec.0
    }
}

impl TryFrom<ServiceSpec> for ValidSpec {
    type Error = BadSpec;

    fn try_from(spec: ServiceSpec) -> Result<Self, BadSpec> {
        spec.validate()
    }
}

/// Why a specification is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSpec(pub String);

impl ValidSpec {
    /// The specification.
    #[must_use]
    pub const fn as_spec(&self) -> &ServiceSpec {
        &self.0
    }

    /// The specification, owned.
    #[must_use]
    pub fn into_spec(self) -> ServiceSpec {
        self.0
    }
}

impl ServiceSpec {
    /// Checks everything that can be checked without the rest of the cluster.
    ///
    /// # Errors
    /// With swarm's text for the first rule that is broken.
    pub fn validate(self) -> Result<ValidSpec, BadSpec> {
        check_task(&self.task)?;
        check_mode(&self)?;
        check_endpoint(&self)?;
        Ok(ValidSpec(self))
    }
}

fn refuse<T>(text: impl Into<String>) -> Result<T, BadSpec> {
    Err(BadSpec(text.into()))
}

fn check_task(task: &TaskSpec) -> Result<(), BadSpec> {
    let container = &task.container;
    if container.image.is_empty() {
        return refuse("ContainerSpec: image reference must be provided");
    }
    if Reference::parse(&container.image).is_err() {
        let image = &container.image;
        return refuse(format!("ContainerSpec: \"{image}\" is not a valid repository/tag"));
    }
    let mut targets = BTreeSet::new();
    for mount in &container.mounts {
        if !mount.target.starts_with('/') {
            return refuse(format!(
                "invalid mount target, must be an absolute path: {}",
                mount.target
            ));
        }
        if mount.target.split('/').any(|part| part == "..") {
            return refuse(format!("invalid mount target, must not hold \"..\": {}", mount.target));
        }
        if !targets.insert(mount.target.trim_end_matches('/')) {
            return refuse(format!("ContainerSpec: duplicate mount point: {}", mount.target));
        }
        if let MountKind::Bind { source, .. } | MountKind::BindReadOnly { source, .. } = &mount.kind
            && (!source.starts_with('/') || source.split('/').any(|part| part == ".."))
        {
            return refuse(format!("invalid mount source, must be an absolute path: {source}"));
        }
        if let MountKind::Volume { subpath, .. } = &mount.kind
            && (subpath.starts_with('/') || subpath.split('/').any(|part| part == ".."))
        {
            return refuse(format!(
                "invalid mount config for type \"volume\": subpath must be a relative path within \
                 the volume: {subpath}"
            ));
        }
    }
    check_resources(task)?;
    check_restart(&task.restart)
}

fn check_resources(task: &TaskSpec) -> Result<(), BadSpec> {
    let resources = &task.resources;
    for cpus in [resources.limit_nano_cpus, resources.reserve_nano_cpus] {
        if cpus != 0 && cpus < NANO_CPUS_MIN {
            let cpus = small_cpus(cpus);
            return refuse(format!("invalid cpu value {cpus}: Must be at least 0.001"));
        }
    }
    for bytes in [resources.limit_memory_bytes, resources.reserve_memory_bytes] {
        if bytes != 0 && bytes < MEMORY_BYTES_MIN {
            return refuse(format!("invalid memory value {bytes}: Must be at least 4MiB"));
        }
    }
    Ok(())
}

/// Less than [`NANO_CPUS_MIN`] in CPUs, as Go prints such a number.
fn small_cpus(nano: u64) -> String {
    let digits = nano.to_string();
    if nano >= 100_000 {
        return format!("0.{nano:09}").trim_end_matches('0').to_owned();
    }
    let (first, rest) = digits.split_at(1);
    let rest = rest.trim_end_matches('0');
    let point = if rest.is_empty() { "" } else { "." };
    format!("{first}{point}{rest}e-{:02}", 10 - digits.len())
}

fn check_restart(policy: &RestartPolicy) -> Result<(), BadSpec> {
    let day_us = 24 * 3_600 * 1_000_000;
    if policy.delay.0 > 365 * day_us || policy.window.0 > 365 * day_us {
        return refuse("TaskSpec: restart-delay and restart-window cannot be longer than a year");
    }
    Ok(())
}

fn check_mode(spec: &ServiceSpec) -> Result<(), BadSpec> {
    match spec.mode {
        Mode::Replicated { replicas } | Mode::ReplicatedJob { total: replicas, .. } => {
            if replicas > REPLICAS_MAX {
                return refuse(format!(
                    "Number of replicas must be at most {REPLICAS_MAX}, not {replicas}"
                ));
            }
        }
        Mode::Global | Mode::GlobalJob => {
            if spec.task.placement.max_replicas > 0 {
                return refuse(
                    "replicas-max-per-node can only be used with replicated or replicated-job mode",
                );
            }
        }
    }
    let job = matches!(spec.mode, Mode::ReplicatedJob { .. } | Mode::GlobalJob);
    if job && spec.update.is_some() {
        return refuse("Jobs may not have an update config");
    }
    Ok(())
}

/// Refuses more published ports of one service than a node can listen on.
///
/// # Errors
/// With both numbers.
pub fn check_port_count(count: usize) -> Result<(), BadSpec> {
    if count <= LISTENERS_MAX {
        return Ok(());
    }
    refuse(format!(
        "EndpointSpec: {count} published ports are more than the {LISTENERS_MAX} that a node can \
         listen on; publish a smaller range"
    ))
}

fn check_endpoint(spec: &ServiceSpec) -> Result<(), BadSpec> {
    check_port_count(spec.endpoint.ports.len())?;
    let mut seen = BTreeSet::new();
    for port in &spec.endpoint.ports {
        if port.target == 0 {
            return refuse("EndpointSpec: TargetPort must be between 1 and 65535");
        }
        if port.mode == PublishMode::Ingress && spec.endpoint.mode == EndpointMode::Dnsrr {
            return refuse(
                "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
            );
        }
        let key = (port.published, port.protocol, port.host_ip);
        if port.published != 0 && !seen.insert(key) {
            return refuse("EndpointSpec: duplicate published ports provided");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_print_as_in_go() {
        for (nano, text) in [
            (10_000, "1e-05"),
            (1, "1e-09"),
            (12_500, "1.25e-05"),
            (100_000, "0.0001"),
            (999_000, "0.000999"),
        ] {
            assert_eq!(small_cpus(nano), text);
        }
    }
}
