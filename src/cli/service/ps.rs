//! `service ps`.

use super::path;
use crate::cli::CliError;
use crate::cli::args::service::Ps;
use crate::cli::client::Client;
use crate::cli::context::Context;
use crate::cli::query::{Filters, node_reference};
use crate::cli::tasks::{self, LISTING, Names};
use crate::model::engine::node::Node;
use crate::model::engine::service::Service;
use crate::model::engine::task::Task;

/// Lists the tasks of services; unknown ones are told behind the table.
pub fn run(args: &Ps, ctx: &mut Context) -> Result<(), CliError> {
    let (ids, missing) = resolve(&ctx.client, &args.services)?;
    if !ids.is_empty() {
        let filters = filters(&ctx.client, args, &ids)?;
        let found: Vec<Task> = ctx.client.get(&filters.on("/tasks")?)?;
        let text = {
            let mut names = Names::new(&ctx.client, !args.no_resolve);
            let plain = args.format.as_deref().is_none_or(|format| format.starts_with("table"));
            let short = !args.no_trunc && !args.quiet;
            let rows = tasks::rows(found, &mut names, !args.no_trunc, short, plain);
            LISTING.text(&rows, args.format.as_deref(), args.quiet)?
        };
        ctx.print(&text)?;
    }
    for name in &missing {
        ctx.error(&format!("no such service: {name}"))?;
    }
    if missing.is_empty() { Ok(()) } else { Err(CliError::Told) }
}

/// Ids of the services that are there, and the names of those that are not.
fn resolve(client: &Client, names: &[String]) -> Result<(Vec<String>, Vec<String>), CliError> {
    let (mut ids, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match client.get::<Service>(&path(name)) {
            Ok(service) => ids.push(service.id),
            Err(error) if error.is_not_found() => missing.push(name.clone()),
            Err(error) => return Err(error),
        }
    }
    Ok((ids, missing))
}

/// The user's filters with nodes as ids, and the services.
fn filters(client: &Client, args: &Ps, ids: &[String]) -> Result<Filters, CliError> {
    let mut filters = Filters::new(&args.filter);
    for name in filters.take("node") {
        let name = node_reference(client, &name)?;
        let node: Node = client.get(&format!("/nodes/{}", crate::cli::client::encode(&name)))?;
        filters = filters.with("node", &node.id);
    }
    Ok(ids.iter().fold(filters, |filters, id| filters.with("service", id)))
}
