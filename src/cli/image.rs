//! `image …`, `pull` and `load`.

use std::fs::File;
use std::io::{self, IsTerminal, Read};

use super::args::image::{ImageCommand, Inspect, Load, Ls, Prune, Pull, Rm};
use super::client::{Payload, encode};
use super::context::{Context, confirmed};
use super::error::{CliError, plain};
use super::format::{self, Listing, Row, row};
use super::pull_progress;
use super::query::{Filters, has_tag, short};
use crate::base::duration::human_duration;
use crate::base::units::{human_size, human_size_3};
use crate::cli::age;
use crate::model::engine::image::{ImageDelete, ImageSummary, ImagesPruneReport};

const HEADINGS: [(&str, &str); 7] = [
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
];

const NONE: &str = "<none>";

/// Runs one command.
pub fn run(command: ImageCommand, ctx: &mut Context) -> Result<(), CliError> {
    match command {
        ImageCommand::Inspect(args) => inspect(&args, ctx),
        ImageCommand::Load(args) => load(&args, ctx),
        ImageCommand::Ls(args) => list(&args, ctx),
        ImageCommand::Prune(args) => prune(&args, ctx),
        ImageCommand::Pull(args) => pull(&args, ctx),
        ImageCommand::Rm(args) => remove(&args, ctx),
    }
}

/// Downloads an image from a registry.
pub fn pull(args: &Pull, ctx: &mut Context) -> Result<(), CliError> {
    let image = &args.image;
    let (name, tag) = match image.split_once('@') {
        Some((name, digest)) => (name.to_owned(), digest.to_owned()),
        None if has_tag(image) => {
            let (name, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
            (name.to_owned(), tag.to_owned())
        }
        None => {
            if !args.quiet {
                ctx.line("Using default tag: latest")?;
                ctx.flush()?;
            }
            (image.clone(), "latest".to_owned())
        }
    };
    let mut path = format!("/images/create?fromImage={}&tag={}", encode(&name), encode(&tag));
    if let Some(platform) = &args.platform {
        path.push_str(&format!("&platform={}", encode(platform)));
    }
    let answer = ctx.client.stream("POST", &path, Payload::None)?;
    pull_progress::show(answer.body, ctx, args.quiet)?;
    let mark = if tag.contains(':') { '@' } else { ':' };
    ctx.line(&pull_progress::canonical(&format!("{name}{mark}{tag}")))
}

/// Loads images from a tar archive.
pub fn load(args: &Load, ctx: &mut Context) -> Result<(), CliError> {
    let mut what = "standard input";
    let mut from: Box<dyn Read> = match args.input.as_deref() {
        Some(path) if !path.is_empty() => {
            what = path;
            let open = File::open(path);
            Box::new(open.map_err(|source| CliError::File { path: path.to_owned(), source })?)
        }
        _ if io::stdin().is_terminal() => {
            return Err(plain("requested load from stdin, but stdin is empty"));
        }
        _ => Box::new(io::stdin().lock()),
    };
    let quiet = args.quiet || !ctx.terminal;
    let path = format!("/images/load?quiet={}", u8::from(quiet));
    let answer = ctx.client.stream("POST", &path, Payload::Tar { from: &mut from, what })?;
    pull_progress::show(answer.body, ctx, false)
}

fn list(args: &Ls, ctx: &mut Context) -> Result<(), CliError> {
    let mut filters = Filters::new(&args.filter);
    if let Some(reference) = &args.reference {
        filters = filters.with("reference", reference);
    }
    let path = if args.all { "/images/json?all=1" } else { "/images/json" };
    let mut images: Vec<ImageSummary> = ctx.client.get(&filters.on(path)?)?;
    images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
    let now = age::now();
    let rows: Vec<Row> =
        images.iter().flat_map(|image| lines(image, args.no_trunc, args.digests, now)).collect();
    let table = if args.digests {
        "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
    } else {
        "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
    };
    let listing = Listing { table, quiet: "{{.ID}}", headings: &HEADINGS };
    ctx.print(&listing.text(&rows, args.format.as_deref(), args.quiet)?)
}

/// One line per tag; an image without one has `<none>`.
fn lines(image: &ImageSummary, no_trunc: bool, digests: bool, now: u64) -> Vec<Row> {
    let id = image.id.as_str();
    let id = if no_trunc { id.to_owned() } else { short(id.trim_start_matches("sha256:")) };
    let created = u64::try_from(image.created).unwrap_or(0);
    let digest_of = |repository: &str| {
        let digests = image.repo_digests.iter().filter_map(|digest| digest.split_once('@'));
        let mut own = digests.filter(|(name, _)| *name == repository);
        own.next().map_or(NONE, |(_, digest)| digest).to_owned()
    };
    let line = |repository: &str, tag: &str, digest: String| {
        row([
            ("ID", id.clone()),
            ("Repository", repository.to_owned()),
            ("Tag", tag.to_owned()),
            ("Digest", digest),
            ("CreatedSince", human_duration(now.saturating_sub(created)) + " ago"),
            ("CreatedAt", pull_progress::date(image.created)),
            ("Size", human_size_3(image.size.unsigned_abs())),
        ])
    };
    let tags = image.repo_tags.iter().filter(|tag| *tag != "<none>:<none>");
    let mut out: Vec<Row> = tags
        .map(|tag| {
            let (repository, tag) = tag.rsplit_once(':').unwrap_or((tag, NONE));
            line(repository, tag, digest_of(repository))
        })
        .collect();
    if out.is_empty() {
        let digests = if digests { image.repo_digests.as_slice() } else { &[] };
        out.extend(digests.iter().filter_map(|digest| digest.split_once('@')).map(
            |(repository, digest)| line(repository, NONE, digest.to_owned()),
        ));
    }
    if out.is_empty() {
        let digest = image.repo_digests.first().and_then(|digest| digest.split_once('@'));
        out.push(line(digest.map_or(NONE, |(name, _)| name), NONE, NONE.to_owned()));
    }
    out
}

fn inspect(args: &Inspect, ctx: &mut Context) -> Result<(), CliError> {
    let get = |name: &str| ctx.client.get_text(&format!("/images/{}/json", encode(name)));
    let (text, failed) = format::inspect_all(&args.images, args.format.as_deref(), get)?;
    ctx.print(&text)?;
    format::told(ctx, &failed)
}

fn remove(args: &Rm, ctx: &mut Context) -> Result<(), CliError> {
    let mut errors = Vec::new();
    for name in &args.images {
        let mut path = format!("/images/{}?force={}", encode(name), u8::from(args.force));
        if args.no_prune {
            path.push_str("&noprune=1");
        }
        match ctx.client.delete(&path) {
            Ok(text) => {
                let steps: Vec<ImageDelete> =
                    serde_json::from_str(&text).map_err(CliError::BadJson)?;
                tell(ctx, &steps)?;
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(plain(errors.join("\n"))) }
}

fn tell(ctx: &mut Context, steps: &[ImageDelete]) -> Result<(), CliError> {
    for step in steps {
        if !step.deleted.is_empty() {
            ctx.line(&format!("Deleted: {}", step.deleted))?;
        }
        if !step.untagged.is_empty() {
            ctx.line(&format!("Untagged: {}", step.untagged))?;
        }
    }
    Ok(())
}

fn prune(args: &Prune, ctx: &mut Context) -> Result<(), CliError> {
    let what = if args.all {
        "all images without at least one container associated to them."
    } else {
        "all dangling images."
    };
    if !args.force && !confirmed(ctx, &format!("WARNING! This will remove {what}"))? {
        return Ok(());
    }
    let dangling = if args.all { "false" } else { "true" };
    let path = Filters::new(&args.filter).with("dangling", dangling).on("/images/prune")?;
    let report: ImagesPruneReport =
        serde_json::from_str(&ctx.client.post_empty(&path)?).map_err(CliError::BadJson)?;
    if !report.images_deleted.is_empty() {
        ctx.line("Deleted Images:")?;
        for step in &report.images_deleted {
            let (what, name) = if step.untagged.is_empty() {
                ("deleted", &step.deleted)
            } else {
                ("untagged", &step.untagged)
            };
            ctx.line(&format!("{what}: {name}"))?;
        }
        ctx.line("")?;
    }
    ctx.line(&format!("Total reclaimed space: {}", human_size(report.space_reclaimed)))
}
