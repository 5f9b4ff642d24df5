//! The template of a service's tasks, towards the client.

use crate::model::engine::container_spec as json;
use crate::model::engine::task as task_json;
use crate::model::engine::{Driver, Labels};
use crate::model::service::{
    ContainerSpec, Health, Mount, MountKind, Placement, Propagation, Resources, RestartCondition,
    RestartPolicy, TaskSpec,
};

use super::{int, nanos, node};

/// What each task runs.
#[must_use]
pub fn task_spec(spec: &TaskSpec) -> task_json::TaskSpec {
    task_json::TaskSpec {
        force_update: spec.force_update,
        container_spec: Some(container(&spec.container)),
        resources: Some(resources(&spec.resources)),
        restart_policy: Some(restart(&spec.restart)),
        placement: Some(placement(&spec.placement)),
        networks: spec
            .networks
            .iter()
            .map(|network| task_json::NetworkAttachmentConfig {
                target: network.network.to_string(),
                aliases: network.aliases.clone(),
                driver_opts: Labels::new(),
            })
            .collect(),
        log_driver: spec
            .log
            .as_ref()
            .map(|log| Driver { name: log.name.clone(), options: log.options.clone() }),
        runtime: "container".to_owned(),
    }
}

fn container(spec: &ContainerSpec) -> json::ContainerSpec {
    json::ContainerSpec {
        image: spec.image.clone(),
        labels: spec.labels.clone(),
        command: spec.command.clone(),
        args: spec.args.clone(),
        hostname: spec.hostname.clone(),
        env: spec.env.clone(),
        dir: spec.dir.clone(),
        user: spec.user.clone(),
        groups: spec.groups.clone(),
        privileges: spec
            .no_new_privileges
            .then(|| json::Privileges { no_new_privileges: true, ..json::Privileges::default() }),
        init: spec.init,
        stop_signal: spec.stop_signal.clone(),
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        read_only: spec.read_only,
        mounts: spec.mounts.iter().map(mount).collect(),
        stop_grace_period: spec.stop_grace.map(nanos),
        healthcheck: spec.health.as_ref().map(health),
        hosts: spec.hosts.clone(),
        dns_config: spec.dns.as_ref().map(|dns| json::DnsConfig {
            nameservers: dns.servers.iter().map(ToString::to_string).collect(),
            search: dns.search.clone(),
            options: dns.options.clone(),
        }),
        secrets: Vec::new(),
        configs: Vec::new(),
        isolation: "default".to_owned(),
        sysctls: spec.sysctls.clone(),
        capability_add: spec.cap_add.clone(),
        capability_drop: spec.cap_drop.clone(),
        ulimits: spec
            .ulimits
            .iter()
            .map(|limit| json::Ulimit {
                name: limit.name.clone(),
                hard: limit.hard,
                soft: limit.soft,
            })
            .collect(),
        oom_score_adj: i64::from(spec.oom_score_adj),
        devices: spec
            .devices
            .iter()
            .map(|device| json::DeviceMapping {
                path_on_host: device.path_on_host.clone(),
                path_in_container: device.path_in_container.clone(),
                cgroup_permissions: device.permissions.clone(),
            })
            .collect(),
    }
}

fn health(health: &Health) -> json::HealthConfig {
    json::HealthConfig {
        test: health.test.clone(),
        interval: health.interval.map_or(0, nanos),
        timeout: health.timeout.map_or(0, nanos),
        start_period: health.start_period.map_or(0, nanos),
        start_interval: health.start_interval.map_or(0, nanos),
        retries: health.retries.map_or(0, i64::from),
    }
}

fn bind_options(propagation: Propagation) -> json::BindOptions {
    let propagation = match propagation {
        Propagation::Rprivate => "",
        Propagation::Private => "private",
        Propagation::Rshared => "rshared",
        Propagation::Shared => "shared",
        Propagation::Rslave => "rslave",
        Propagation::Slave => "slave",
    };
    json::BindOptions { propagation: propagation.to_owned(), ..json::BindOptions::default() }
}

pub(super) fn mount(mount: &Mount) -> json::Mount {
    let mut out = json::Mount {
        target: mount.target.clone(),
        read_only: mount.read_only,
        ..json::Mount::default()
    };
    match &mount.kind {
        MountKind::Bind { source, propagation, non_recursive } => {
            out.r#type = "bind".to_owned();
            out.source.clone_from(source);
            let options =
                json::BindOptions { non_recursive: *non_recursive, ..bind_options(*propagation) };
            out.bind_options = Some(options).filter(|o| *o != json::BindOptions::default());
        }
        MountKind::BindReadOnly { source, propagation, recursive } => {
            out.r#type = "bind".to_owned();
            out.source.clone_from(source);
            out.bind_options = Some(json::BindOptions {
                read_only_force_recursive: *recursive,
                read_only_non_recursive: !*recursive,
                ..bind_options(*propagation)
            });
        }
        MountKind::Volume { name, labels, no_copy, subpath } => {
            out.r#type = "volume".to_owned();
            out.source.clone_from(name);
            let options = json::VolumeOptions {
                no_copy: *no_copy,
                labels: labels.clone(),
                subpath: subpath.clone(),
                driver_config: None,
            };
            out.volume_options = Some(options).filter(|o| *o != json::VolumeOptions::default());
        }
        MountKind::Tmpfs { size_bytes, mode } => {
            out.r#type = "tmpfs".to_owned();
            let options = json::TmpfsOptions {
                size_bytes: int(*size_bytes),
                mode: *mode,
                options: Vec::new(),
            };
            out.tmpfs_options = Some(options).filter(|o| *o != json::TmpfsOptions::default());
        }
    }
    out
}

fn resources(resources: &Resources) -> task_json::ResourceRequirements {
    task_json::ResourceRequirements {
        limits: Some(task_json::Limit {
            nano_cpus: int(resources.limit_nano_cpus),
            memory_bytes: int(resources.limit_memory_bytes),
            pids: int(resources.limit_pids),
        }),
        reservations: Some(task_json::Resources {
            nano_cpus: int(resources.reserve_nano_cpus),
            memory_bytes: int(resources.reserve_memory_bytes),
            generic_resources: resources.reserve_generic.iter().map(|(kind, count)| node::counted(kind, *count)).collect(),
        }),
    }
}

fn restart(policy: &RestartPolicy) -> task_json::RestartPolicy {
    task_json::RestartPolicy {
        condition: match policy.condition {
            RestartCondition::None => "none",
            RestartCondition::OnFailure => "on-failure",
            RestartCondition::Any => "any",
        }
        .to_owned(),
        delay: Some(nanos(policy.delay)),
        max_attempts: Some(policy.max_attempts),
        window: Some(nanos(policy.window)).filter(|window| *window != 0),
    }
}

fn placement(placement: &Placement) -> task_json::Placement {
    let spread = |descriptor: &String| task_json::PlacementPreference {
        spread: Some(task_json::SpreadOver { spread_descriptor: descriptor.clone() }),
    };
    task_json::Placement {
        constraints: placement.constraints.clone(),
        preferences: placement.spread.iter().map(spread).collect(),
        max_replicas: placement.max_replicas,
        platforms: placement
            .platforms
            .iter()
            .map(|platform| task_json::Platform {
                architecture: platform.arch.clone(),
                os: platform.os.clone(),
            })
            .collect(),
    }
}
