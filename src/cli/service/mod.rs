//! `service …`: each command in a file of its own; the short ones here.

pub mod create;
pub mod environment;
pub mod health;
pub mod image;
pub mod inspect;
pub mod lists;
pub mod logs;
pub mod ls;
pub mod pretty;
pub mod progress;
pub mod ps;
pub mod scale;
pub mod update;
pub mod watch;

use super::CliError;
use super::args::service::{Rm, Rollback, ServiceCommand};
use super::client::{Client, encode};
use super::context::Context;
use super::error::plain;
use crate::model::engine::service::Service;

/// Runs one command.
pub fn run(command: ServiceCommand, ctx: &mut Context) -> Result<(), CliError> {
    match command {
        ServiceCommand::Create(create) => create::run(create, ctx),
        ServiceCommand::Inspect(args) => inspect::run(&args, ctx),
        ServiceCommand::Logs(args) => logs::run(&args, ctx),
        ServiceCommand::Ls(args) => ls::run(&args, ctx),
        ServiceCommand::Ps(args) => ps::run(&args, ctx),
        ServiceCommand::Rm(args) => remove(&args, ctx),
        ServiceCommand::Rollback(args) => rollback(&args, ctx),
        ServiceCommand::Scale(args) => scale::run(&args, ctx),
        ServiceCommand::Update(update) => update::run(update, ctx),
    }
}

/// A service by its id, name or the beginning of its id.
fn find(client: &Client, name: &str) -> Result<Service, CliError> {
    client.get(&path(name)).map_err(|error| not_found(error, name))
}

fn path(name: &str) -> String {
    format!("/services/{}", encode(name))
}

/// Docker's words for a service that is not there.
fn not_found(error: CliError, name: &str) -> CliError {
    if error.is_not_found() { plain(format!("Error: No such service: {name}")) } else { error }
}

fn remove(args: &Rm, ctx: &mut Context) -> Result<(), CliError> {
    let mut failed = false;
    for name in &args.services {
        match ctx.client.delete(&path(name)) {
            Ok(_) => ctx.line(name)?,
            Err(error) => {
                ctx.error(&not_found(error, name).to_string())?;
                failed = true;
            }
        }
    }
    if failed { Err(CliError::Told) } else { Ok(()) }
}

fn rollback(args: &Rollback, ctx: &mut Context) -> Result<(), CliError> {
    let service = find(&ctx.client, &args.service)?;
    update::send(&ctx.client, &service.id, service.version.index, &service.spec, true)
        .and_then(|warnings| update::warn(ctx, &warnings))?;
    ctx.line(&args.service)?;
    if args.detach {
        return Ok(());
    }
    progress::wait(ctx, &service.id, &args.service, args.quiet)
}
