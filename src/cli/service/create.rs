//! `service create`: flags into a `ServiceSpec`, the request, the wait.

use super::{environment, health, image, progress, update};
use crate::cli::CliError;
use crate::cli::args::create::Create;
use crate::cli::context::Context;
use crate::cli::error::plain;
use crate::cli::parse::value;
use crate::model::engine::container_spec::{ContainerSpec, DnsConfig};
use crate::model::engine::service::{
    EndpointSpec, ReplicatedService, ServiceMode, ServiceSpec, UpdateConfig,
};
use crate::model::engine::task::{
    Limit, Placement, PlacementPreference, ResourceRequirements, Resources, RestartPolicy,
    SpreadOver, TaskSpec,
};
use crate::model::engine::{Created, Driver, Empty, Labels};
use crate::model::spec_check::check_port_count;

/// Creates a service and waits until it is stable, unless told not to.
pub fn run(args: Create, ctx: &mut Context) -> Result<(), CliError> {
    refuse(&unsupported(&args))?;
    let (detach, quiet, resolve) = (args.detach, args.quiet, !args.no_resolve_image);
    let mut spec = spec(args)?;
    port_count(&spec)?;
    image::pin(ctx, &mut spec.task_template, resolve)?;
    let created: Created = ctx.client.post_for("/services/create", &spec)?;
    update::warn(ctx, &created.warnings)?;
    ctx.line(&created.id)?;
    if detach {
        return Ok(());
    }
    progress::wait(ctx, &created.id, &created.id, quiet)
}

/// Flags of Docker whose promise cannot be kept yet: refused, never ignored.
fn unsupported(args: &Create) -> Vec<(&'static str, bool)> {
    vec![
        ("--config", !args.config.is_empty()),
        ("--credential-spec", args.credential_spec.is_some()),
        ("--generic-resource", !args.generic_resource.is_empty()),
        ("--isolation", args.isolation.as_deref().is_some_and(|kind| kind != "default")),
        ("--max-concurrent", args.max_concurrent.is_some()),
        ("--secret", !args.secret.is_empty()),
        ("--with-registry-auth", args.with_registry_auth),
    ]
}

/// Refuses the first flag that was given.
pub fn refuse(flags: &[(&'static str, bool)]) -> Result<(), CliError> {
    match flags.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(plain(format!("{flag} is not yet supported by skep"))),
        None => Ok(()),
    }
}

/// The spec that the flags ask for.
pub fn spec(args: Create) -> Result<ServiceSpec, CliError> {
    let mode = mode(args.mode.as_deref(), args.replicas, args.replicas_max_per_node)?;
    let labels = labels(&args.label);
    let endpoint = EndpointSpec {
        mode: endpoint_mode(args.endpoint_mode.as_deref()),
        ports: args.publish.iter().flatten().cloned().collect(),
    };
    let update_config = update_config(&args);
    let rollback_config = rollback_config(&args);
    let name = args.name.clone().unwrap_or_default();
    let task_template = TaskSpec {
        resources: Some(resources(&args)),
        restart_policy: restart_policy(&args),
        placement: Some(placement(&args)),
        networks: args.network.clone(),
        log_driver: log_driver(args.log_driver.as_deref(), &args.log_opt),
        container_spec: Some(container(args)?),
        ..TaskSpec::default()
    };
    Ok(ServiceSpec {
        name,
        labels,
        task_template,
        mode,
        update_config,
        rollback_config,
        endpoint_spec: Some(endpoint),
        ..ServiceSpec::default()
    })
}

fn mode(
    mode: Option<&str>,
    replicas: Option<u64>,
    max_per_node: Option<u64>,
) -> Result<ServiceMode, CliError> {
    match mode.unwrap_or("replicated") {
        "replicated" => Ok(ServiceMode {
            replicated: Some(ReplicatedService { replicas }),
            ..ServiceMode::default()
        }),
        "global" if replicas.is_some() => {
            Err(plain("replicas can only be used with replicated or replicated-job mode"))
        }
        "global" if max_per_node.is_some_and(|most| most > 0) => Err(plain(
            "replicas-max-per-node can only be used with replicated or replicated-job mode",
        )),
        "global" => {
            Ok(ServiceMode { global: Some(Empty::default()), ..ServiceMode::default() })
        }
        mode @ ("replicated-job" | "global-job") => {
            Err(plain(format!("--mode {mode} is not yet supported by skep")))
        }
        mode => Err(plain(format!("Unknown mode: {mode}, only replicated and global supported"))),
    }
}

/// `vip` or `dnsrr`; the daemon refuses others.
pub fn endpoint_mode(mode: Option<&str>) -> String {
    mode.unwrap_or("vip").to_lowercase()
}

fn container(args: Create) -> Result<ContainerSpec, CliError> {
    let (add, drop) = update::capabilities(&args.cap_add, &args.cap_drop);
    let mut healthcheck = None;
    health::apply(&mut healthcheck, &health::Flags::from(&args))?;
    Ok(ContainerSpec {
        image: args.image,
        labels: labels(&args.container_label),
        command: args.entrypoint.unwrap_or_default(),
        args: args.command,
        hostname: args.hostname.unwrap_or_default(),
        env: environment::merged(&args.env_file, &args.env)?,
        dir: args.workdir.unwrap_or_default(),
        user: args.user.unwrap_or_default(),
        groups: args.group,
        init: args.init,
        stop_signal: args.stop_signal.unwrap_or_default(),
        tty: args.tty.unwrap_or_default(),
        read_only: args.read_only.unwrap_or_default(),
        mounts: args.mount,
        stop_grace_period: args.stop_grace_period,
        healthcheck,
        hosts: args.host.iter().filter_map(|text| host(text)).collect(),
        dns_config: Some(DnsConfig {
            nameservers: args.dns,
            search: args.dns_search,
            options: args.dns_option,
        }),
        sysctls: labels(&args.sysctl),
        capability_add: add,
        capability_drop: drop,
        ulimits: args.ulimit,
        oom_score_adj: args.oom_score_adj.unwrap_or_default(),
        devices: args.device,
        ..ContainerSpec::default()
    })
}

/// Refuses too many ports before a registry is asked and megabytes of JSON are sent.
pub fn port_count(spec: &ServiceSpec) -> Result<(), CliError> {
    let count = spec.endpoint_spec.as_ref().map_or(0, |endpoint| endpoint.ports.len());
    check_port_count(count).map_err(|bad| plain(bad.0))
}

/// `ip host`, as the API wants what `--host host:ip` says.
pub fn host(text: &str) -> Option<String> {
    value::host(text).ok().map(|(name, address)| format!("{address} {name}"))
}

/// `K=V` pairs as a map; `K` alone has an empty value.
pub fn labels(pairs: &[String]) -> Labels {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), value.to_owned())
    };
    pairs.iter().map(pair).collect()
}

fn resources(args: &Create) -> ResourceRequirements {
    ResourceRequirements {
        limits: Some(Limit {
            nano_cpus: args.limit_cpu.unwrap_or_default(),
            memory_bytes: args.limit_memory.unwrap_or_default(),
            pids: args.limit_pids.unwrap_or_default(),
        }),
        reservations: Some(Resources {
            nano_cpus: args.reserve_cpu.unwrap_or_default(),
            memory_bytes: args.reserve_memory.unwrap_or_default(),
            ..Resources::default()
        }),
    }
}

fn restart_policy(args: &Create) -> Option<RestartPolicy> {
    let policy = RestartPolicy {
        condition: args.restart_condition.clone().unwrap_or_default(),
        delay: args.restart_delay,
        max_attempts: args.restart_max_attempts,
        window: args.restart_window,
    };
    (policy != RestartPolicy::default()).then_some(policy)
}

fn placement(args: &Create) -> Placement {
    Placement {
        constraints: args.constraint.clone(),
        preferences: args.placement_pref.iter().map(|over| spread(over)).collect(),
        max_replicas: args.replicas_max_per_node.unwrap_or_default(),
        ..Placement::default()
    }
}

/// A preference for spreading over a label.
pub fn spread(over: &str) -> PlacementPreference {
    PlacementPreference { spread: Some(SpreadOver { spread_descriptor: over.to_owned() }) }
}

/// A log driver, where one or an option of one was named.
pub fn log_driver(name: Option<&str>, options: &[String]) -> Option<Driver> {
    if name.is_none() && options.is_empty() {
        return None;
    }
    Some(Driver { name: name.unwrap_or("json-file").to_owned(), options: labels(options) })
}

fn update_config(args: &Create) -> Option<UpdateConfig> {
    let given = args.update_parallelism.is_some()
        || args.update_delay.is_some()
        || args.update_monitor.is_some()
        || args.update_failure_action.is_some()
        || args.update_max_failure_ratio.is_some()
        || args.update_order.is_some();
    given.then(|| UpdateConfig {
        parallelism: args.update_parallelism.unwrap_or(1),
        delay: args.update_delay.unwrap_or_default(),
        failure_action: args.update_failure_action.clone().unwrap_or_default(),
        monitor: args.update_monitor.unwrap_or_default(),
        max_failure_ratio: args.update_max_failure_ratio.unwrap_or_default(),
        order: args.update_order.clone().unwrap_or_default(),
    })
}

fn rollback_config(args: &Create) -> Option<UpdateConfig> {
    let given = args.rollback_parallelism.is_some()
        || args.rollback_delay.is_some()
        || args.rollback_monitor.is_some()
        || args.rollback_failure_action.is_some()
        || args.rollback_max_failure_ratio.is_some()
        || args.rollback_order.is_some();
    given.then(|| UpdateConfig {
        parallelism: args.rollback_parallelism.unwrap_or(1),
        delay: args.rollback_delay.unwrap_or_default(),
        failure_action: args.rollback_failure_action.clone().unwrap_or_default(),
        monitor: args.rollback_monitor.unwrap_or_default(),
        max_failure_ratio: args.rollback_max_failure_ratio.unwrap_or_default(),
        order: args.rollback_order.clone().unwrap_or_default(),
    })
}
