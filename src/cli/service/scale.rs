//! `service scale`.

use super::{find, progress, update};
use crate::base::units::parse_uint;
use crate::cli::CliError;
use crate::cli::args::service::Scale;
use crate::cli::context::Context;
use crate::cli::error::plain;

/// Sets the number of tasks of services, one after the other; then waits for each.
pub fn run(args: &Scale, ctx: &mut Context) -> Result<(), CliError> {
    for text in &args.scales {
        if text.split_once('=').is_none_or(|(name, count)| name.is_empty() || count.is_empty()) {
            return Err(plain(format!(
                "Invalid scale specifier '{text}'.\nSee 'skep service scale --help'.\n\n\
                 Usage:  skep service scale [OPTIONS] SERVICE=REPLICAS [SERVICE=REPLICAS...]\n\n\
                 Scale one or multiple replicated services"
            )));
        }
    }
    let mut scaled = Vec::new();
    let mut errors = Vec::new();
    for text in &args.scales {
        let (name, count) = text.split_once('=').unwrap_or((text, ""));
        match scale(ctx, name, count) {
            Ok(id) => {
                ctx.line(&format!("{name} scaled to {count}"))?;
                scaled.push((id, name));
            }
            Err(CliError::Output(error)) => return Err(CliError::Output(error)),
            Err(error) => errors.push(format!("{name}: {error}")),
        }
    }
    if !args.detach {
        for (id, name) in &scaled {
            if let Err(error) = progress::wait(ctx, id, name, false) {
                match error {
                    CliError::Output(error) => return Err(CliError::Output(error)),
                    error => errors.push(format!("{name}: {error}")),
                }
            }
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(plain(errors.join("\n"))) }
}

fn scale(ctx: &mut Context, name: &str, count: &str) -> Result<String, CliError> {
    let replicas =
        parse_uint(count).map_err(|error| plain(format!("invalid replicas value {count}: {error}")))?;
    let mut service = find(&ctx.client, name)?;
    match (&mut service.spec.mode.replicated, &mut service.spec.mode.replicated_job) {
        (Some(mode), _) => mode.replicas = Some(replicas),
        (None, Some(mode)) => mode.total_completions = Some(replicas),
        (None, None) => {
            return Err(plain("scale can only be used with replicated or replicated-job mode"));
        }
    }
    let warnings =
        update::send(&ctx.client, &service.id, service.version.index, &service.spec, false)?;
    update::warn(ctx, &warnings)?;
    Ok(service.id)
}
