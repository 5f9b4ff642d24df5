//! `service update`: reads the service, edits its spec by the flags, sends it back.

use super::create::{self, endpoint_mode, refuse, spread};
use super::{find, health, image, lists, path, progress};
use crate::cli::CliError;
use crate::cli::args::update::Update;
use crate::cli::client::Client;
use crate::cli::context::Context;
use crate::cli::error::plain;
use crate::model::engine::container_spec::ContainerSpec;
use crate::model::engine::service::{ServiceSpec, ServiceUpdateResponse, UpdateConfig};
use crate::model::engine::task::TaskSpec;

/// Updates a service and waits until it is stable, unless told not to.
pub fn run(args: Update, ctx: &mut Context) -> Result<(), CliError> {
    refuse(&unsupported(&args))?;
    let service = find(&ctx.client, &args.service)?;
    let mut spec = service.spec.clone();
    if !args.rollback {
        apply(&mut spec, &args)?;
        create::port_count(&spec)?;
        if args.image.is_some() {
            image::pin(ctx, &mut spec.task_template, !args.no_resolve_image)?;
        }
    }
    let version = service.version.index;
    let warnings = send(&ctx.client, &service.id, version, &spec, args.rollback)?;
    warn(ctx, &warnings)?;
    ctx.line(&args.service)?;
    if args.detach {
        return Ok(());
    }
    progress::wait(ctx, &service.id, &args.service, args.quiet)
}

/// Sends a spec and returns the daemon's warnings.
pub fn send(
    client: &Client,
    id: &str,
    version: u64,
    spec: &ServiceSpec,
    rollback: bool,
) -> Result<Vec<String>, CliError> {
    let back = if rollback { "&rollback=previous" } else { "" };
    let target = format!("{}/update?version={version}&registryAuthFrom=spec{back}", path(id));
    let answer = client.post(&target, spec)?;
    if answer.trim().is_empty() {
        return Ok(Vec::new());
    }
    let answer: ServiceUpdateResponse = serde_json::from_str(&answer).map_err(CliError::BadJson)?;
    Ok(answer.warnings)
}

/// Prints warnings on standard error.
pub fn warn(ctx: &mut Context, warnings: &[String]) -> Result<(), CliError> {
    warnings.iter().try_for_each(|warning| ctx.error(warning))
}

fn unsupported(args: &Update) -> Vec<(&'static str, bool)> {
    vec![
        ("--config-add", !args.config_add.is_empty()),
        ("--config-rm", !args.config_rm.is_empty()),
        ("--credential-spec", args.credential_spec.is_some()),
        ("--generic-resource-add", !args.generic_resource_add.is_empty()),
        ("--generic-resource-rm", !args.generic_resource_rm.is_empty()),
        ("--isolation", args.isolation.as_deref().is_some_and(|kind| kind != "default")),
        ("--max-concurrent", args.max_concurrent.is_some()),
        ("--secret-add", !args.secret_add.is_empty()),
        ("--secret-rm", !args.secret_rm.is_empty()),
        ("--with-registry-auth", args.with_registry_auth),
    ]
}

/// Edits a spec as the flags say.
pub fn apply(spec: &mut ServiceSpec, args: &Update) -> Result<(), CliError> {
    lists::map(&mut spec.labels, &args.label_rm, &args.label_add);
    if let Some(replicas) = args.replicas {
        match &mut spec.mode.replicated {
            Some(mode) => mode.replicas = Some(replicas),
            None => return Err(plain("replicas can only be used with replicated mode")),
        }
    }
    task(&mut spec.task_template, args);
    let spec_of_container = spec.task_template.container_spec.get_or_insert_default();
    health::apply(&mut spec_of_container.healthcheck, &health::Flags::from(args))?;
    container(spec_of_container, args);
    let endpoint = spec.endpoint_spec.get_or_insert_default();
    if args.endpoint_mode.is_some() {
        endpoint.mode = endpoint_mode(args.endpoint_mode.as_deref());
    }
    lists::ports(&mut endpoint.ports, &args.publish_rm, &args.publish_add).map_err(plain)?;
    update_config(&mut spec.update_config, args);
    rollback_config(&mut spec.rollback_config, args);
    Ok(())
}

fn set<T: Clone>(field: &mut T, value: &Option<T>) {
    if let Some(value) = value {
        *field = value.clone();
    }
}

fn set_some<T: Clone>(field: &mut Option<T>, value: &Option<T>) {
    if value.is_some() {
        field.clone_from(value);
    }
}

fn task(task: &mut TaskSpec, args: &Update) {
    let resources = task.resources.get_or_insert_default();
    let limits = resources.limits.get_or_insert_default();
    set(&mut limits.nano_cpus, &args.limit_cpu);
    set(&mut limits.memory_bytes, &args.limit_memory);
    set(&mut limits.pids, &args.limit_pids);
    let reservations = resources.reservations.get_or_insert_default();
    set(&mut reservations.nano_cpus, &args.reserve_cpu);
    set(&mut reservations.memory_bytes, &args.reserve_memory);
    if args.restart_condition.is_some()
        || args.restart_delay.is_some()
        || args.restart_max_attempts.is_some()
        || args.restart_window.is_some()
    {
        let restart = task.restart_policy.get_or_insert_default();
        set(&mut restart.condition, &args.restart_condition);
        set_some(&mut restart.delay, &args.restart_delay);
        set_some(&mut restart.max_attempts, &args.restart_max_attempts);
        set_some(&mut restart.window, &args.restart_window);
    }
    let placement = task.placement.get_or_insert_default();
    lists::values(&mut placement.constraints, &args.constraint_rm, &args.constraint_add);
    let removed: Vec<_> = args.placement_pref_rm.iter().map(|over| spread(over)).collect();
    placement.preferences.retain(|old| !removed.contains(old));
    placement.preferences.extend(args.placement_pref_add.iter().map(|over| spread(over)));
    set(&mut placement.max_replicas, &args.replicas_max_per_node);
    task.networks.retain(|network| !args.network_rm.contains(&network.target));
    task.networks.extend(args.network_add.iter().cloned());
    if let Some(driver) = create::log_driver(args.log_driver.as_deref(), &args.log_opt) {
        task.log_driver = Some(driver);
    }
    if args.force {
        task.force_update = task.force_update.wrapping_add(1);
    }
}

fn container(spec: &mut ContainerSpec, args: &Update) {
    set(&mut spec.image, &args.image);
    set(&mut spec.args, &args.args);
    set(&mut spec.command, &args.entrypoint);
    set(&mut spec.hostname, &args.hostname);
    set(&mut spec.dir, &args.workdir);
    set(&mut spec.user, &args.user);
    set_some(&mut spec.init, &args.init);
    set(&mut spec.stop_signal, &args.stop_signal);
    set(&mut spec.tty, &args.tty);
    set(&mut spec.read_only, &args.read_only);
    set_some(&mut spec.stop_grace_period, &args.stop_grace_period);
    set(&mut spec.oom_score_adj, &args.oom_score_adj);
    lists::map(&mut spec.labels, &args.container_label_rm, &args.container_label_add);
    lists::map(&mut spec.sysctls, &args.sysctl_rm, &args.sysctl_add);
    lists::env(&mut spec.env, &args.env_rm, &args.env_add);
    lists::values(&mut spec.groups, &args.group_rm, &args.group_add);
    lists::mounts(&mut spec.mounts, &args.mount_rm, &args.mount_add);
    lists::ulimits(&mut spec.ulimits, &args.ulimit_rm, &args.ulimit_add);
    lists::devices(&mut spec.devices, &args.device_rm, &args.device_add);
    lists::hosts(&mut spec.hosts, &args.host_rm, &args.host_add);
    let dns = spec.dns_config.get_or_insert_default();
    lists::values(&mut dns.nameservers, &args.dns_rm, &args.dns_add);
    lists::values(&mut dns.search, &args.dns_search_rm, &args.dns_search_add);
    lists::values(&mut dns.options, &args.dns_option_rm, &args.dns_option_add);
    if !args.cap_add.is_empty() || !args.cap_drop.is_empty() {
        change_capabilities(spec, &args.cap_add, &args.cap_drop);
    }
}

/// Adding a dropped capability only takes the drop back, and the other way round; `RESET` clears.
fn change_capabilities(spec: &mut ContainerSpec, add: &[String], drop: &[String]) {
    let (mut add, mut drop) = (named(add), named(drop));
    if let Some(at) = add.iter().position(|name| name == "RESET") {
        add.remove(at);
        spec.capability_add.clear();
    }
    if let Some(at) = drop.iter().position(|name| name == "RESET") {
        drop.remove(at);
        spec.capability_drop.clear();
    }
    drop.retain(|name| !add.contains(name));
    for name in add {
        let before = spec.capability_drop.len();
        spec.capability_drop.retain(|old| *old != name);
        if before == spec.capability_drop.len() {
            spec.capability_add.push(name);
        }
    }
    for name in drop {
        let before = spec.capability_add.len();
        spec.capability_add.retain(|old| *old != name);
        if before == spec.capability_add.len() {
            spec.capability_drop.push(name);
        }
    }
    for list in [&mut spec.capability_add, &mut spec.capability_drop] {
        list.sort();
        list.dedup();
    }
}

/// Capabilities to add and to drop, as `CAP_X` or `ALL`, sorted; what is added is not dropped.
pub fn capabilities(add: &[String], drop: &[String]) -> (Vec<String>, Vec<String>) {
    let all = |list: Vec<String>| {
        if list.iter().any(|name| name == "ALL") { vec!["ALL".to_owned()] } else { list }
    };
    let (add, mut drop) = (all(named(add)), all(named(drop)));
    drop.retain(|name| !add.contains(name) || name == "ALL");
    (add, drop)
}

fn named(list: &[String]) -> Vec<String> {
    let name = |text: &String| {
        let upper = text.trim().to_uppercase();
        let plain = upper == "ALL" || upper == "RESET" || upper.starts_with("CAP_");
        if plain { upper } else { format!("CAP_{upper}") }
    };
    let mut names: Vec<String> = list.iter().map(name).collect();
    names.sort();
    names.dedup();
    names
}

fn update_config(config: &mut Option<UpdateConfig>, args: &Update) {
    let given = args.update_parallelism.is_some()
        || args.update_delay.is_some()
        || args.update_monitor.is_some()
        || args.update_failure_action.is_some()
        || args.update_max_failure_ratio.is_some()
        || args.update_order.is_some();
    if given {
        let config = config.get_or_insert_with(one_by_one);
        set(&mut config.parallelism, &args.update_parallelism);
        set(&mut config.delay, &args.update_delay);
        set(&mut config.monitor, &args.update_monitor);
        set(&mut config.failure_action, &args.update_failure_action);
        set(&mut config.max_failure_ratio, &args.update_max_failure_ratio);
        set(&mut config.order, &args.update_order);
    }
}

fn rollback_config(config: &mut Option<UpdateConfig>, args: &Update) {
    let given = args.rollback_parallelism.is_some()
        || args.rollback_delay.is_some()
        || args.rollback_monitor.is_some()
        || args.rollback_failure_action.is_some()
        || args.rollback_max_failure_ratio.is_some()
        || args.rollback_order.is_some();
    if given {
        let config = config.get_or_insert_with(one_by_one);
        set(&mut config.parallelism, &args.rollback_parallelism);
        set(&mut config.delay, &args.rollback_delay);
        set(&mut config.monitor, &args.rollback_monitor);
        set(&mut config.failure_action, &args.rollback_failure_action);
        set(&mut config.max_failure_ratio, &args.rollback_max_failure_ratio);
        set(&mut config.order, &args.rollback_order);
    }
}

/// Swarm's default: one task at a time.
fn one_by_one() -> UpdateConfig {
    UpdateConfig { parallelism: 1, ..UpdateConfig::default() }
}
