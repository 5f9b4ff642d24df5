//! `service inspect --pretty`.

use std::fmt::{self, Write};

use super::ls;
use crate::base::duration::format_duration;
use crate::base::units::{bytes_size, format_cpus};
use crate::cli::age;
use crate::cli::query::title;
use crate::model::engine::Labels;
use crate::model::engine::container_spec::{ContainerSpec, HealthConfig};
use crate::model::engine::service::{Service, UpdateConfig};
use crate::model::engine::task::{ResourceRequirements, TaskSpec};

/// A service in Docker's layout for people, seen from `now` in microseconds since 1970.
pub fn text(service: &Service, now: i64) -> String {
    let mut out = String::new();
    match write(&mut out, service, now) {
        Ok(()) => out,
        // Writing to a `String` cannot fail.
        Err(fmt::Error) => out,
    }
}

fn write(out: &mut String, service: &Service, now: i64) -> fmt::Result {
    let spec = &service.spec;
    writeln!(out, "\nID:\t\t{}\nName:\t\t{}", service.id, spec.name)?;
    pairs(out, "Labels:", &spec.labels)?;
    writeln!(out, "Service Mode:\t{}", title(ls::mode(service)))?;
    if let Some(mode) = &spec.mode.replicated {
        writeln!(out, " Replicas:\t{}", mode.replicas.unwrap_or(1))?;
    }
    if let Some(status) = &service.update_status {
        writeln!(out, "UpdateStatus:\n State:\t\t{}", status.state)?;
        if let Some(time) = status.started_at.as_ref().filter(|time| !time.is_empty()) {
            writeln!(out, " Started:\t{}", age::ago(time, now))?;
        }
        if let Some(time) = status.completed_at.as_ref().filter(|time| !time.is_empty()) {
            writeln!(out, " Completed:\t{}", age::ago(time, now))?;
        }
        writeln!(out, " Message:\t{}", status.message)?;
    }
    placement(out, &spec.task_template)?;
    if let Some(config) = &spec.update_config {
        update(out, "UpdateConfig", "Update order:     ", config)?;
    }
    if let Some(config) = &spec.rollback_config {
        update(out, "RollbackConfig", "Rollback order:   ", config)?;
    }
    if let Some(container) = &spec.task_template.container_spec {
        self::container(out, container)?;
    }
    if let Some(driver) = &spec.task_template.log_driver {
        writeln!(out, "Log Driver:\n Name:\t\t{}", driver.name)?;
        if !driver.options.is_empty() {
            writeln!(out, " LogOpts:")?;
        }
        for (key, value) in &driver.options {
            writeln!(out, "  {key}:       {value}")?;
        }
        writeln!(out)?;
    }
    if let Some(resources) = &spec.task_template.resources {
        self::resources(out, resources)?;
    }
    let networks = &spec.task_template.networks;
    if !networks.is_empty() {
        write!(out, "Networks:")?;
        networks.iter().try_for_each(|network| write!(out, " {}", network.target))?;
        writeln!(out)?;
    }
    write!(out, "Endpoint Mode:\t{}", service.endpoint.spec.mode)?;
    if !service.endpoint.ports.is_empty() {
        write!(out, "\nPorts:")?;
    }
    for port in &service.endpoint.ports {
        write!(out, "\n PublishedPort = {}\n  Protocol = {}", port.published_port, port.protocol)?;
        write!(out, "\n  TargetPort = {}\n  PublishMode = {}", port.target_port, port.publish_mode)?;
    }
    // Docker's template leaves a blank behind the last port.
    write!(out, "{}", if service.endpoint.ports.is_empty() { "" } else { " " })?;
    let container = spec.task_template.container_spec.as_ref();
    if let Some(check) = container.and_then(|container| container.healthcheck.as_ref()) {
        health(out, check)?;
    }
    writeln!(out, "\n")
}

fn health(out: &mut String, check: &HealthConfig) -> fmt::Result {
    let time = format_duration;
    write!(out, "\n Healthcheck:\n  Interval = {}", time(check.interval))?;
    write!(out, "\n  Retries = {}", check.retries)?;
    write!(out, "\n  StartPeriod =\t{}", time(check.start_period))?;
    write!(out, "\n  Timeout =\t{}", time(check.timeout))?;
    if check.test.is_empty() {
        return Ok(());
    }
    write!(out, "\n  Tests:")?;
    check.test.iter().try_for_each(|word| write!(out, "\n\t Test = {word}"))?;
    // And one behind the last test.
    write!(out, " ")
}

fn pairs(out: &mut String, heading: &str, pairs: &Labels) -> fmt::Result {
    if pairs.is_empty() {
        return Ok(());
    }
    writeln!(out, "{heading}")?;
    pairs.iter().try_for_each(|(key, value)| match value.as_str() {
        "" => writeln!(out, " {key}"),
        value => writeln!(out, " {key}={value}"),
    })
}

fn placement(out: &mut String, template: &TaskSpec) -> fmt::Result {
    writeln!(out, "Placement:")?;
    let Some(placement) = &template.placement else { return Ok(()) };
    if !placement.constraints.is_empty() {
        writeln!(out, " Constraints:\t[{}]", placement.constraints.join(" "))?;
    }
    if !placement.preferences.is_empty() {
        let over = placement.preferences.iter().filter_map(|preference| preference.spread.as_ref());
        let over: Vec<String> = over.map(|over| format!("spread={}", over.spread_descriptor)).collect();
        writeln!(out, " Preferences:   [{}]", over.join(" "))?;
    }
    if placement.max_replicas > 0 {
        writeln!(out, " Max Replicas Per Node:   {}", placement.max_replicas)?;
    }
    Ok(())
}

fn update(out: &mut String, heading: &str, order: &str, config: &UpdateConfig) -> fmt::Result {
    writeln!(out, "{heading}:\n Parallelism:\t{}", config.parallelism)?;
    if config.delay > 0 {
        writeln!(out, " Delay:\t\t{}", format_duration(config.delay))?;
    }
    writeln!(out, " On failure:\t{}", config.failure_action)?;
    if config.monitor > 0 {
        writeln!(out, " Monitoring Period: {}", format_duration(config.monitor))?;
    }
    writeln!(out, " Max failure ratio: {}\n {order} {}", config.max_failure_ratio, config.order)
}

fn container(out: &mut String, spec: &ContainerSpec) -> fmt::Result {
    writeln!(out, "ContainerSpec:\n Image:\t\t{}", spec.image)?;
    let words = |list: &[String]| list.iter().map(|word| format!("{word} ")).collect::<String>();
    if !spec.args.is_empty() {
        writeln!(out, " Args:\t\t{}", words(&spec.args))?;
    }
    if !spec.env.is_empty() {
        writeln!(out, " Env:\t\t{}", words(&spec.env))?;
    }
    if !spec.dir.is_empty() {
        writeln!(out, " Dir:\t\t{}", spec.dir)?;
    }
    if let Some(init) = spec.init {
        writeln!(out, " Init:\t\t{init}")?;
    }
    if !spec.user.is_empty() {
        writeln!(out, " User: {}", spec.user)?;
    }
    if !spec.capability_add.is_empty() || !spec.capability_drop.is_empty() {
        writeln!(out, "Capabilities:")?;
        for (name, list) in [("Add", &spec.capability_add), ("Drop", &spec.capability_drop)] {
            if !list.is_empty() {
                writeln!(out, " {name}:{}", list.iter().map(|cap| format!(" {cap}")).collect::<String>())?;
            }
        }
    }
    if !spec.sysctls.is_empty() {
        writeln!(out, "SysCtls:")?;
        spec.sysctls.iter().try_for_each(|(key, value)| writeln!(out, " {key}: {value}"))?;
    }
    if !spec.ulimits.is_empty() {
        writeln!(out, "Ulimits:")?;
        for limit in &spec.ulimits {
            writeln!(out, " {}: {}:{}", limit.name, limit.soft, limit.hard)?;
        }
    }
    if !spec.devices.is_empty() {
        writeln!(out, "Devices:")?;
        for device in &spec.devices {
            let inside = &device.path_in_container;
            writeln!(out, " {}:{inside}:{}", device.path_on_host, device.cgroup_permissions)?;
        }
    }
    if !spec.mounts.is_empty() {
        writeln!(out, "Mounts:")?;
    }
    for mount in &spec.mounts {
        writeln!(out, " Target:\t{}\n  Source:\t{}", mount.target, mount.source)?;
        writeln!(out, "  ReadOnly:\t{}\n  Type:\t\t{}", mount.read_only, mount.r#type)?;
    }
    Ok(())
}

fn resources(out: &mut String, resources: &ResourceRequirements) -> fmt::Result {
    writeln!(out, "Resources:")?;
    let bytes = |bytes: i64| bytes_size(bytes.unsigned_abs());
    if let Some(reserved) =
        resources.reservations.as_ref().filter(|r| r.nano_cpus > 0 || r.memory_bytes > 0)
    {
        writeln!(out, " Reservations:")?;
        if reserved.nano_cpus > 0 {
            writeln!(out, "  CPU:\t\t{}", format_cpus(reserved.nano_cpus))?;
        }
        if reserved.memory_bytes > 0 {
            writeln!(out, "  Memory:\t{}", bytes(reserved.memory_bytes))?;
        }
    }
    if let Some(limits) =
        resources.limits.as_ref().filter(|l| l.nano_cpus > 0 || l.memory_bytes > 0 || l.pids > 0)
    {
        writeln!(out, " Limits:")?;
        if limits.nano_cpus > 0 {
            writeln!(out, "  CPU:\t\t{}", format_cpus(limits.nano_cpus))?;
        }
        if limits.memory_bytes > 0 {
            writeln!(out, "  Memory:\t{}", bytes(limits.memory_bytes))?;
        }
        if limits.pids > 0 {
            writeln!(out, "  PIDs:\t\t{}", limits.pids)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_check_is_dockers_last_section() {
        let mut service = Service::default();
        let without = text(&service, 0);
        assert!(without.ends_with("Endpoint Mode:\t\n\n"), "{without:?}");
        let check = HealthConfig {
            test: vec!["CMD-SHELL".to_owned(), "true".to_owned()],
            interval: 5_000_000_000,
            retries: 2,
            ..HealthConfig::default()
        };
        let container = ContainerSpec { healthcheck: Some(check), ..ContainerSpec::default() };
        service.spec.task_template.container_spec = Some(container);
        let section = "Endpoint Mode:\t\n Healthcheck:\n  Interval = 5s\n  Retries = 2\n  \
            StartPeriod =\t0s\n  Timeout =\t0s\n  Tests:\n\t Test = CMD-SHELL\n\t Test = true \n\n";
        let with = text(&service, 0);
        assert!(with.ends_with(section), "{with:?}");
    }
}
