//! `service inspect`.

use super::{path, pretty};
use crate::cli::CliError;
use crate::cli::args::service::Inspect;
use crate::cli::context::Context;
use crate::cli::error::plain;
use crate::cli::format;
use crate::model::engine::service::Service;

/// Prints services as JSON, through a template, or for people.
pub fn run(args: &Inspect, ctx: &mut Context) -> Result<(), CliError> {
    if args.pretty && args.format.is_some() {
        return Err(plain("--format is incompatible with human friendly format"));
    }
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for name in &args.services {
        match ctx.client.get_text(&format!("{}?insertDefaults=true", path(name))) {
            Ok(text) => found.push(text.trim().to_owned()),
            Err(error) if error.is_not_found() => missing.push(format!("no such service: {name}")),
            Err(error) => return Err(error),
        }
    }
    if args.pretty {
        if let Some(first) = missing.first() {
            return Err(plain(format!("Error: {first}")));
        }
        for text in &found {
            let service: Service = serde_json::from_str(text).map_err(CliError::BadJson)?;
            ctx.print(&pretty::text(&service, crate::cli::age::now_micros()))?;
        }
    } else {
        ctx.print(&format::inspect(&found, args.format.as_deref())?)?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(plain(format!("Status: Error: {}, Code: 1", missing.join("\nError: "))))
}
