//! `service ps`.

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
    let (mut by_id, mut by_name) = (Filters::default(), Filters::default());
    for name in names {
        by_id = by_id.with("id", name);
        by_name = by_name.with("name", name);
    }
    let with_id: Vec<Service> = client.get(&by_id.on("/services")?)?;
    let with_name: Vec<Service> = client.get(&by_name.on("/services")?)?;
    let (mut ids, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        let exact = with_id.iter().find(|service| service.id == *name);
        let named = || with_name.iter().find(|service| service.spec.name == *name);
        let begins: Vec<&Service> =
            with_id.iter().filter(|service| service.id.starts_with(name.as_str())).collect();
        match exact.or_else(named).or(begins.first().copied()) {
            Some(service) if exact.is_none() && named().is_none() && begins.len() > 1 => {
                let count = begins.len();
                return Err(CliError::Plain(format!(
                    "multiple services found with provided prefix: {name} ({count} matches, one is \
                     {})",
                    service.spec.name
                )));
            }
            Some(service) => ids.push(service.id.clone()),
            None => missing.push(name.clone()),
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
