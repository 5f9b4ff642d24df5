//! `volume …`.

use super::args::volume::{Create, Inspect, Ls, Prune, Rm, VolumeCommand};
use super::client::encode;
use super::context::{Context, confirmed};
use super::error::{CliError, plain};
use super::format::{self, Listing, Row, row};
use super::query::Filters;
use super::service::create::labels;
use super::table::natural;
use crate::base::units::human_size;
use crate::model::engine::volume::{Volume, VolumeCreate, VolumeList, VolumesPruneReport};

const LISTING: Listing<'_> = Listing {
    table: "{{.Driver}}\t{{.Name}}",
    quiet: "{{.Name}}",
    headings: &[
        ("Driver", "DRIVER"),
        ("Name", "VOLUME NAME"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Scope", "SCOPE"),
        ("Labels", "LABELS"),
        ("Size", "SIZE"),
    ],
};

/// Runs one command.
pub fn run(command: VolumeCommand, ctx: &mut Context) -> Result<(), CliError> {
    match command {
        VolumeCommand::Create(args) => create(args, ctx),
        VolumeCommand::Inspect(args) => inspect(&args, ctx),
        VolumeCommand::Ls(args) => list(&args, ctx),
        VolumeCommand::Prune(args) => prune(&args, ctx),
        VolumeCommand::Rm(args) => remove(&args, ctx),
    }
}

fn create(args: Create, ctx: &mut Context) -> Result<(), CliError> {
    let request = VolumeCreate {
        name: args.name.unwrap_or_default(),
        driver: args.driver.unwrap_or_else(|| "local".to_owned()),
        driver_opts: labels(&args.opt),
        labels: labels(&args.label),
    };
    let volume: Volume = ctx.client.post_for("/volumes/create", &request)?;
    ctx.line(&volume.name)
}

fn inspect(args: &Inspect, ctx: &mut Context) -> Result<(), CliError> {
    let get = |name: &str| ctx.client.get_text(&format!("/volumes/{}", encode(name)));
    let (text, failed) = format::inspect_all(&args.volumes, args.format.as_deref(), get)?;
    ctx.print(&text)?;
    format::told(ctx, &failed)
}

fn list(args: &Ls, ctx: &mut Context) -> Result<(), CliError> {
    let found: VolumeList = ctx.client.get(&Filters::new(&args.filter).on("/volumes")?)?;
    let mut volumes = found.volumes;
    volumes.sort_by(|a, b| natural(&a.name, &b.name));
    let rows: Vec<Row> = volumes.iter().map(line).collect();
    ctx.print(&LISTING.text(&rows, args.format.as_deref(), args.quiet)?)
}

fn line(volume: &Volume) -> Row {
    let labels: Vec<String> =
        volume.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    row([
        ("Driver", volume.driver.clone()),
        ("Name", volume.name.clone()),
        ("Mountpoint", volume.mountpoint.clone()),
        ("Scope", volume.scope.clone()),
        ("Labels", labels.join(",")),
        ("Size", "N/A".to_owned()),
    ])
}

fn prune(args: &Prune, ctx: &mut Context) -> Result<(), CliError> {
    let what = if args.all { "all" } else { "anonymous" };
    let warning =
        format!("WARNING! This will remove {what} local volumes not used by at least one container.");
    if !args.force && !confirmed(ctx, &warning)? {
        return Ok(());
    }
    let mut filters = Filters::new(&args.filter);
    if args.all {
        filters = filters.with("all", "true");
    }
    let path = filters.on("/volumes/prune")?;
    let report: VolumesPruneReport =
        serde_json::from_str(&ctx.client.post_empty(&path)?).map_err(CliError::BadJson)?;
    if !report.volumes_deleted.is_empty() {
        ctx.line("Deleted Volumes:")?;
        for name in &report.volumes_deleted {
            ctx.line(name)?;
        }
        ctx.line("")?;
    }
    ctx.line(&format!("Total reclaimed space: {}", human_size(report.space_reclaimed)))
}

fn remove(args: &Rm, ctx: &mut Context) -> Result<(), CliError> {
    let mut errors = Vec::new();
    for name in &args.volumes {
        let force = if args.force { "?force=1" } else { "" };
        match ctx.client.delete(&format!("/volumes/{}{force}", encode(name))) {
            Ok(_) => ctx.line(name)?,
            Err(error) => errors.push(error.to_string()),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(plain(errors.join("\n"))) }
}
