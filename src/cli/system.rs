//! `version` and `info`.

use std::fmt::{self, Write};

use serde_json::{Value, json};

use super::Hooks;
use super::args::system::{Info as InfoArgs, Shutdown, Version};
use super::client::API_VERSION;
use super::context::Context;
use super::error::CliError;
use super::template::Template;
use crate::base::duration::{format_duration, human_duration};
use crate::base::units::bytes_size;
use crate::model::engine::swarm::Swarm;
use crate::model::engine::system::{Info, SwarmInfo, SystemVersion};

/// Prints the versions of this program and of the daemon.
pub fn version(args: &Version, ctx: &mut Context) -> Result<(), CliError> {
    let own = env!("CARGO_PKG_VERSION");
    let (os, arch) = (std::env::consts::OS, arch());
    let server = ctx.client.get_text("/version");
    if let Some(format) = args.format.as_deref() {
        let server_json = server.as_ref().ok().map(|text| serde_json::from_str::<Value>(text));
        let value = json!({
            "Client": { "Version": own, "ApiVersion": API_VERSION, "Os": os, "Arch": arch },
            "Server": server_json.transpose().map_err(CliError::BadJson)?,
        });
        return filled(ctx, format, &value).and_then(|()| server.map(drop));
    }
    ctx.print(&format!(
        "Client:\n Version:           {own}\n API version:       {API_VERSION}\n \
         OS/Arch:           {os}/{arch}\n"
    ))?;
    let server: SystemVersion = serde_json::from_str(&server?).map_err(CliError::BadJson)?;
    let mut out = String::new();
    // Writing to a `String` cannot fail.
    if server_version(&mut out, &server).is_ok() {
        ctx.print(&out)?;
    }
    Ok(())
}

/// Has what runs on this machine replaced elsewhere and stopped, because the machine goes down. Where no
/// daemon answers there is nothing to be done.
pub fn shutdown(args: &Shutdown, ctx: &Context, hooks: &Hooks) -> Result<(), CliError> {
    if args.if_stopping && !(hooks.is_stopping)() {
        return Ok(());
    }
    match ctx.client.post_empty("/skep/shutdown") {
        Ok(_) => Ok(()),
        Err(CliError::NotRunning { .. }) if args.if_stopping => Ok(()),
        Err(error) => Err(error),
    }
}

/// Go's name of this machine's architecture.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn filled(ctx: &mut Context, format: &str, value: &Value) -> Result<(), CliError> {
    let format = if format == "json" { "{{json .}}" } else { format };
    let text = Template::parse(format)?.fill(value, false)?;
    ctx.line(&text)
}

fn server_version(out: &mut String, server: &SystemVersion) -> fmt::Result {
    let platform = &server.platform.name;
    let title = if platform.is_empty() { String::new() } else { format!(" {platform}") };
    writeln!(out, "\nServer:{title}\n Engine:\n  Version:          {}", server.version)?;
    let least = &server.min_api_version;
    writeln!(out, "  API version:      {} (minimum version {least})", server.api_version)?;
    if !server.git_commit.is_empty() {
        writeln!(out, "  Git commit:       {}", server.git_commit)?;
    }
    if !server.build_time.is_empty() {
        writeln!(out, "  Built:            {}", server.build_time)?;
    }
    writeln!(out, "  OS/Arch:          {}/{}", server.os, server.arch)?;
    for part in server.components.iter().filter(|part| part.name != "Engine") {
        writeln!(out, " {}:\n  Version:          {}", part.name, part.version)?;
        for (key, value) in &part.details {
            writeln!(out, "  {:17} {value}", format!("{key}:"))?;
        }
    }
    Ok(())
}

/// Prints what the daemon knows about itself and its machine.
pub fn info(args: &InfoArgs, ctx: &mut Context) -> Result<(), CliError> {
    let text = ctx.client.get_text("/info")?;
    if let Some(format) = args.format.as_deref() {
        let value: Value = serde_json::from_str(&text).map_err(CliError::BadJson)?;
        return filled(ctx, format, &value);
    }
    let info: Info = serde_json::from_str(&text).map_err(CliError::BadJson)?;
    let mut out = String::new();
    // Writing to a `String` cannot fail.
    if whole(&mut out, &info).is_ok() {
        ctx.print(&out)?;
    }
    for warning in &info.warnings {
        ctx.error(warning)?;
    }
    Ok(())
}

fn whole(out: &mut String, info: &Info) -> fmt::Result {
    writeln!(out, "Client:\n Version:    {}\n\nServer:", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, " Containers: {}\n  Running: {}", info.containers, info.containers_running)?;
    writeln!(out, "  Paused: {}\n  Stopped: {}", info.containers_paused, info.containers_stopped)?;
    writeln!(out, " Images: {}\n Server Version: {}", info.images, info.server_version)?;
    writeln!(out, " Storage Driver: {}", info.driver)?;
    for status in &info.driver_status {
        if let [key, value, ..] = status.as_slice() {
            writeln!(out, "  {key}: {value}")?;
        }
    }
    writeln!(out, " Logging Driver: {}\n Cgroup Driver: {}", info.logging_driver, info.cgroup_driver)?;
    writeln!(out, " Cgroup Version: {}\n Plugins:", info.cgroup_version)?;
    for (kind, names) in [
        ("Volume", &info.plugins.volume),
        ("Network", &info.plugins.network),
        ("Log", &info.plugins.log),
    ] {
        if !names.is_empty() {
            writeln!(out, "  {kind}: {}", names.join(" "))?;
        }
    }
    swarm(out, &info.swarm)?;
    let runtimes: Vec<&str> = info.runtimes.keys().map(String::as_str).collect();
    writeln!(out, " Runtimes: {}\n Default Runtime: {}", runtimes.join(" "), info.default_runtime)?;
    writeln!(out, " Init Binary: {}\n runc version: {}", info.init_binary, info.runc_commit.id)?;
    writeln!(out, " Security Options:")?;
    for option in &info.security_options {
        security(out, option)?;
    }
    writeln!(out, " Kernel Version: {}", info.kernel_version)?;
    writeln!(out, " Operating System: {}\n OSType: {}", info.operating_system, info.os_type)?;
    writeln!(out, " Architecture: {}\n CPUs: {}", info.architecture, info.ncpu)?;
    writeln!(out, " Total Memory: {}", bytes_size(info.mem_total.unsigned_abs()))?;
    writeln!(out, " Name: {}\n ID: {}", info.name, info.id)?;
    writeln!(out, " Docker Root Dir: {}\n Debug Mode: {}", info.docker_root_dir, info.debug)?;
    if !info.labels.is_empty() {
        writeln!(out, " Labels:")?;
        info.labels.iter().try_for_each(|label| writeln!(out, "  {label}"))?;
    }
    writeln!(out, " Experimental: {}", info.experimental_build)?;
    let registries = &info.registry_config;
    let insecure = registries.index_configs.values().filter(|index| !index.secure);
    let names: Vec<&str> = insecure
        .map(|index| index.name.as_str())
        .chain(registries.insecure_registry_cidrs.iter().map(String::as_str))
        .collect();
    if !names.is_empty() {
        writeln!(out, " Insecure Registries:")?;
        names.iter().try_for_each(|name| writeln!(out, "  {name}"))?;
    }
    writeln!(out, " Live Restore Enabled: {}\n", info.live_restore_enabled)
}

/// `name=seccomp,profile=default`.
fn security(out: &mut String, option: &str) -> fmt::Result {
    for pair in option.split(',') {
        match pair.split_once('=') {
            Some(("name", name)) => writeln!(out, "  {name}")?,
            Some((key, value)) => {
                let mut letters = key.chars();
                let first = letters.next().map(|c| c.to_ascii_uppercase());
                let key: String = first.into_iter().chain(letters).collect();
                writeln!(out, "   {key}: {value}")?;
            }
            None => writeln!(out, "  {pair}")?,
        }
    }
    Ok(())
}

fn swarm(out: &mut String, swarm: &SwarmInfo) -> fmt::Result {
    writeln!(out, " Swarm: {}", swarm.local_node_state)?;
    if matches!(swarm.local_node_state.as_str(), "" | "inactive" | "locked") {
        return Ok(());
    }
    writeln!(out, "  NodeID: {}", swarm.node_id)?;
    if !swarm.error.is_empty() {
        writeln!(out, "  Error: {}", swarm.error)?;
    }
    writeln!(out, "  Is Manager: {}", swarm.control_available)?;
    if let Some(cluster) = swarm.cluster.as_ref().filter(|_| swarm.control_available) {
        self::cluster(out, swarm, cluster)?;
    }
    writeln!(out, "  Node Address: {}", swarm.node_addr)?;
    if !swarm.remote_managers.is_empty() {
        let mut addresses: Vec<&str> =
            swarm.remote_managers.iter().map(|peer| peer.addr.as_str()).collect();
        addresses.sort_unstable();
        writeln!(out, "  Manager Addresses:")?;
        addresses.iter().try_for_each(|address| writeln!(out, "   {address}"))?;
    }
    Ok(())
}

fn cluster(out: &mut String, swarm: &SwarmInfo, cluster: &Swarm) -> fmt::Result {
    writeln!(out, "  ClusterID: {}\n  Managers: {}", cluster.id, swarm.managers)?;
    writeln!(out, "  Nodes: {}", swarm.nodes)?;
    if !cluster.default_addr_pool.is_empty() {
        writeln!(out, "  Default Address Pool: {}  ", cluster.default_addr_pool.join("  "))?;
        writeln!(out, "  SubnetSize: {}", cluster.subnet_size)?;
    }
    if cluster.data_path_port > 0 {
        writeln!(out, "  Data Path Port: {}", cluster.data_path_port)?;
    }
    let spec = &cluster.spec;
    let kept = spec.orchestration.task_history_retention_limit.unwrap_or(0);
    writeln!(out, "  Orchestration:\n   Task History Retention Limit: {kept}\n  Raft:")?;
    writeln!(out, "   Snapshot Interval: {}", spec.raft.snapshot_interval)?;
    if let Some(kept) = spec.raft.keep_old_snapshots {
        writeln!(out, "   Number of Old Snapshots to Retain: {kept}")?;
    }
    writeln!(out, "   Heartbeat Tick: {}", spec.raft.heartbeat_tick)?;
    writeln!(out, "   Election Tick: {}\n  Dispatcher:", spec.raft.election_tick)?;
    let beat = spec.dispatcher.heartbeat_period;
    let seconds = |nanos: i64| nanos.unsigned_abs() / 1_000_000_000;
    let beat = if beat < 1_000_000_000 { format_duration(beat) } else { human_duration(seconds(beat)) };
    let expiry = human_duration(seconds(spec.ca_config.node_cert_expiry));
    writeln!(out, "   Heartbeat Period: {beat}\n  CA Configuration:\n   Expiry Duration: {expiry}")?;
    writeln!(out, "   Force Rotate: {}", spec.ca_config.force_rotate)?;
    writeln!(out, "  Autolock Managers: {}", spec.encryption_config.auto_lock_managers)?;
    writeln!(out, "  Root Rotation In Progress: {}", cluster.root_rotation_in_progress)
}
