//! `node …`.

use std::fmt::{self, Write};

use super::args::node::{Inspect, Ls, NodeCommand, Ps, Rm, Update};
use super::client::encode;
use super::context::Context;
use super::error::{CliError, plain};
use super::format::{self, Listing, Row, row};
use super::query::{Filters, node_reference, title};
use super::table::natural;
use super::tasks::{self, Names};
use crate::base::units::{bytes_size, format_cpus};
use crate::cli::age;
use crate::model::engine::node::{Node, NodeSpec};
use crate::model::engine::system::Info;
use crate::model::engine::task::Task;

const LISTING: Listing<'_> = Listing {
    table: "{{.ID}} {{if .Self}}*{{else}} {{end}}\t{{.Hostname}}\t{{.Status}}\t{{.Availability}}\t{{.ManagerStatus}}\t{{.EngineVersion}}",
    quiet: "{{.ID}}",
    headings: &[
        ("ID", "ID"),
        ("Self", ""),
        ("Hostname", "HOSTNAME"),
        ("Status", "STATUS"),
        ("Availability", "AVAILABILITY"),
        ("ManagerStatus", "MANAGER STATUS"),
        ("EngineVersion", "ENGINE VERSION"),
        ("TLSStatus", "TLS STATUS"),
    ],
};

/// How often a change is tried that somebody else was faster than.
const TRIES_MAX: u32 = 5;

/// Runs one command.
pub fn run(command: NodeCommand, ctx: &mut Context) -> Result<(), CliError> {
    match command {
        NodeCommand::Demote(args) => set_role(&args.nodes, "worker", ctx),
        NodeCommand::Promote(args) => set_role(&args.nodes, "manager", ctx),
        NodeCommand::Rm(args) => remove(&args, ctx),
        NodeCommand::Update(args) => update(&args, ctx),
        NodeCommand::Inspect(args) => inspect(&args, ctx),
        NodeCommand::Ls(args) => list(&args, ctx),
        NodeCommand::Ps(args) => ps(&args, ctx),
    }
}

/// Changes a node's spec; false when it was so before. Where the node was changed meanwhile (the
/// managers write its addresses, too), the same is done to what it is now.
fn change(
    name: &str,
    ctx: &Context,
    change: impl Fn(&mut NodeSpec) -> Result<(), CliError>,
) -> Result<bool, CliError> {
    let id = node_reference(&ctx.client, name)?;
    let mut tries = 1;
    loop {
        let node: Node = ctx.client.get(&format!("/nodes/{}", encode(&id)))?;
        let before = serde_json::to_value(&node.spec).map_err(CliError::BadJson)?;
        let mut spec = node.spec;
        change(&mut spec)?;
        if serde_json::to_value(&spec).map_err(CliError::BadJson)? == before {
            return Ok(false);
        }
        let path = format!("/nodes/{}/update?version={}", encode(&node.id), node.version.index);
        match ctx.client.post(&path, &spec) {
            Err(CliError::Daemon { message, .. })
                if message.contains("update out of sequence") && tries < TRIES_MAX =>
            {
                tries += 1;
            }
            done => return done.map(|_| true),
        }
    }
}

fn set_role(nodes: &[String], role: &str, ctx: &mut Context) -> Result<(), CliError> {
    for name in nodes {
        let changed = change(name, ctx, |spec| {
            role.clone_into(&mut spec.role);
            Ok(())
        })?;
        ctx.line(&match (role, changed) {
            ("manager", true) => format!("Node {name} promoted to a manager in the swarm."),
            (_, true) => format!("Manager {name} demoted in the swarm."),
            (_, false) => format!("Node {name} is already a {role}."),
        })?;
    }
    Ok(())
}

fn remove(args: &Rm, ctx: &mut Context) -> Result<(), CliError> {
    let mut errors = Vec::new();
    for name in &args.nodes {
        let id = node_reference(&ctx.client, name)?;
        match ctx.client.delete(&format!("/nodes/{}?force={}", encode(&id), u8::from(args.force))) {
            Ok(_) => ctx.line(name)?,
            Err(error @ CliError::Daemon { .. }) => errors.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(plain(errors.join("\n"))) }
}

fn update(args: &Update, ctx: &mut Context) -> Result<(), CliError> {
    change(&args.node, ctx, |spec| {
        if let Some(role) = &args.role {
            if !matches!(role.as_str(), "worker" | "manager") {
                return Err(plain(format!(
                    "invalid role {role:?}, only worker and manager are supported"
                )));
            }
            role.clone_into(&mut spec.role);
        }
        if let Some(availability) = &args.availability {
            if !matches!(availability.as_str(), "active" | "pause" | "drain") {
                return Err(plain(format!(
                    "invalid availability {availability:?}, only active, pause and drain are \
                     supported"
                )));
            }
            availability.clone_into(&mut spec.availability);
        }
        for label in &args.label_add {
            let (key, value) = label.split_once('=').unwrap_or((label, ""));
            spec.labels.insert(key.to_owned(), value.to_owned());
        }
        for label in &args.label_rm {
            if spec.labels.remove(label).is_none() {
                return Err(plain(format!("key {label} doesn't exist in node's labels")));
            }
        }
        Ok(())
    })?;
    ctx.line(&args.node)
}

fn list(args: &Ls, ctx: &mut Context) -> Result<(), CliError> {
    let mut nodes: Vec<Node> = ctx.client.get(&Filters::new(&args.filter).on("/nodes")?)?;
    let own = if nodes.is_empty() || args.quiet {
        String::new()
    } else {
        ctx.client.get::<Info>("/info")?.swarm.node_id
    };
    nodes.sort_by(|a, b| natural(&a.description.hostname, &b.description.hostname));
    let rows: Vec<Row> = nodes.iter().map(|node| line(node, &own)).collect();
    ctx.print(&LISTING.text(&rows, args.format.as_deref(), args.quiet)?)
}

fn line(node: &Node, own: &str) -> Row {
    let manager = node.manager_status.as_ref().map_or(String::new(), |status| {
        if status.leader { "Leader".to_owned() } else { title(&status.reachability) }
    });
    let mut line = row([
        ("ID", node.id.clone()),
        ("Hostname", node.description.hostname.clone()),
        ("Status", title(&node.status.state)),
        ("Availability", title(&node.spec.availability)),
        ("ManagerStatus", manager),
        ("EngineVersion", node.description.engine.engine_version.clone()),
        // Nodes have no certificates of a common root that could be compared.
        ("TLSStatus", "Unknown".to_owned()),
    ]);
    line.insert("Self".to_owned(), (node.id == own).into());
    line
}

fn inspect(args: &Inspect, ctx: &mut Context) -> Result<(), CliError> {
    if args.pretty && args.format.is_some() {
        return Err(plain("--format is incompatible with human friendly format"));
    }
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in &args.nodes {
        let id = node_reference(&ctx.client, name)?;
        match ctx.client.get_text(&format!("/nodes/{}", encode(&id))) {
            Ok(text) => found.push(text.trim().to_owned()),
            Err(error) if error.is_not_found() => missing.push(format!("No such node: {name}")),
            Err(error) => return Err(error),
        }
    }
    if args.pretty {
        if let Some(first) = missing.first() {
            return Err(plain(format!("Error: {first}")));
        }
        for (at, text) in found.iter().enumerate() {
            let node: Node = serde_json::from_str(text).map_err(CliError::BadJson)?;
            let mut out = if at == 0 { String::new() } else { "\n".to_owned() };
            // Writing to a `String` cannot fail.
            if pretty(&mut out, &node).is_ok() {
                ctx.print(&out)?;
            }
        }
    } else {
        ctx.print(&format::inspect(&found, args.format.as_deref())?)?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(plain(format!("Status: Error: {}, Code: 1", missing.join("\nError: "))))
}

fn pretty(out: &mut String, node: &Node) -> fmt::Result {
    let description = &node.description;
    writeln!(out, "ID:\t\t\t{}", node.id)?;
    if !node.spec.name.is_empty() {
        writeln!(out, "Name:\t\t\t{}", node.spec.name)?;
    }
    if !node.spec.labels.is_empty() {
        writeln!(out, "Labels:")?;
        for (key, value) in &node.spec.labels {
            writeln!(out, " - {key}={value}")?;
        }
    }
    writeln!(out, "Hostname:              \t{}", description.hostname)?;
    writeln!(out, "Joined at:             \t{}", age::date(&node.created_at))?;
    writeln!(out, "Status:\n State:\t\t\t{}", title(&node.status.state))?;
    if !node.status.message.is_empty() {
        writeln!(out, " Message:\t\t{}", title(&node.status.message))?;
    }
    writeln!(out, " Availability:         \t{}", title(&node.spec.availability))?;
    if !node.status.addr.is_empty() {
        writeln!(out, " Address:\t\t{}", node.status.addr)?;
    }
    if let Some(status) = &node.manager_status {
        writeln!(out, "Manager Status:\n Address:\t\t{}", status.addr)?;
        writeln!(out, " Raft Status:\t\t{}", title(&status.reachability))?;
        writeln!(out, " Leader:\t\t{}", if status.leader { "Yes" } else { "No" })?;
    }
    let platform = &description.platform;
    writeln!(out, "Platform:\n Operating System:\t{}", platform.os)?;
    writeln!(out, " Architecture:\t\t{}", platform.architecture)?;
    let resources = &description.resources;
    writeln!(out, "Resources:\n CPUs:\t\t\t{}", format_cpus(resources.nano_cpus))?;
    writeln!(out, " Memory:\t\t{}", bytes_size(resources.memory_bytes.unsigned_abs()))?;
    plugins(out, node)?;
    writeln!(out, "Engine Version:\t\t{}", description.engine.engine_version)?;
    if !description.engine.labels.is_empty() {
        writeln!(out, "Engine Labels:")?;
        for (key, value) in &description.engine.labels {
            writeln!(out, " - {key}={value}")?;
        }
    }
    let tls = &description.tls_info;
    if !tls.trust_root.is_empty() {
        writeln!(out, "TLS Info:\n TrustRoot:\n{}", tls.trust_root)?;
        writeln!(out, " Issuer Subject:\t{}", tls.cert_issuer_subject)?;
        writeln!(out, " Issuer Public Key:\t{}", tls.cert_issuer_public_key)?;
    }
    Ok(())
}

fn plugins(out: &mut String, node: &Node) -> fmt::Result {
    let plugins = &node.description.engine.plugins;
    if plugins.is_empty() {
        return Ok(());
    }
    writeln!(out, "Plugins:")?;
    for kind in ["Log", "Network", "Volume"] {
        let names: Vec<&str> =
            plugins.iter().filter(|p| p.r#type == kind).map(|p| p.name.as_str()).collect();
        if !names.is_empty() {
            writeln!(out, " {kind}:\t\t{}", names.join(", "))?;
        }
    }
    Ok(())
}

fn ps(args: &Ps, ctx: &mut Context) -> Result<(), CliError> {
    let own = ["self".to_owned()];
    let wanted = if args.nodes.is_empty() { &own[..] } else { &args.nodes };
    let mut errors = Vec::new();
    let mut found: Vec<Task> = Vec::new();
    for name in wanted {
        let id = node_reference(&ctx.client, name)?;
        match ctx.client.get::<Node>(&format!("/nodes/{}", encode(&id))) {
            Ok(node) => {
                let filters = Filters::new(&args.filter).with("node", &node.id);
                found.extend(ctx.client.get::<Vec<Task>>(&filters.on("/tasks")?)?);
            }
            Err(error) if error.is_not_found() => {
                errors.push(format!("Error: No such node: {name}"));
            }
            Err(error) => return Err(error),
        }
    }
    if errors.len() < wanted.len() {
        let client = ctx.client.clone();
        let mut names = Names::new(&client, !args.no_resolve);
        let plain = args.format.as_deref().is_none_or(|format| format.starts_with("table"));
        let rows = tasks::rows(found, &mut names, !args.no_trunc, !args.no_trunc, plain);
        ctx.print(&tasks::LISTING.text(&rows, args.format.as_deref(), args.quiet)?)?;
    }
    if errors.is_empty() { Ok(()) } else { Err(plain(errors.join("\n"))) }
}
