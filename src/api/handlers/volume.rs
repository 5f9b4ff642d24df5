//! Volumes of this node: list, look at, make, remove, prune.

use crate::api::call::Call;
use crate::api::engine::Engine;
use crate::api::errors::ApiError;
use crate::api::respond::Reply;
use crate::daemon::shown::Volume;
use crate::model::engine::Labels;
use crate::model::engine::volume as json;

const FILTERS: [&str; 4] = ["dangling", "driver", "label", "name"];
const PRUNE_FILTERS: [&str; 3] = ["all", "label", "label!"];

/// The only driver.
const DRIVER: &str = "local";

/// `GET /volumes`.
pub(super) fn list(engine: &dyn Engine, call: &Call<'_>) -> Result<Reply, ApiError> {
    let filters = call.query.filters(&FILTERS)?;
    let dangling = match filters.boolean("dangling")? {
        Some(wanted) => Some((wanted, engine.unused_volumes()?)),
        None => None,
    };
    let shown = engine.volumes()?.into_iter().filter(|volume| {
        filters.any("name", |part| volume.name.contains(part))
            && filters.exact("driver", DRIVER)
            && filters.labels("label", &volume.labels)
            && dangling.as_ref().is_none_or(|(is, unused)| *is == unused.contains(&volume.name))
    });
    let volumes = shown.map(volume).collect();
    Ok(Reply::json(&json::VolumeList { volumes, warnings: Vec::new() }))
}

/// `GET /volumes/{name}`.
pub(super) fn inspect(engine: &dyn Engine, name: &str) -> Result<Reply, ApiError> {
    Ok(Reply::json(&volume(found(engine, name)?)))
}

/// `POST /volumes/create`. One that is there is the answer too.
pub(super) fn create(engine: &dyn Engine, call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let asked: json::VolumeCreate = call.json()?;
    if !matches!(asked.driver.as_str(), "" | DRIVER) {
        return Err(ApiError::not_found(format!(
            "error looking up volume plugin {}: plugin \"{}\" not found",
            asked.driver, asked.driver
        )));
    }
    if !asked.driver_opts.is_empty() {
        return Err(ApiError::unimplemented("options of volumes"));
    }
    let name = if asked.name.is_empty() { random_name()? } else { asked.name };
    let made = engine.volume_create(&name, &asked.labels)?;
    Ok(Reply::json_with(201, &volume(made)))
}

/// `DELETE /volumes/{name}`; with `force` one that is not there is no error.
pub(super) fn remove(
    engine: &dyn Engine,
    name: &str,
    call: &Call<'_>,
) -> Result<Reply, ApiError> {
    match found(engine, name) {
        Ok(_) => engine.volume_remove(name)?,
        Err(_) if call.query.flag("force") => {}
        Err(error) => return Err(error),
    }
    Ok(Reply::empty(204))
}

/// `POST /volumes/prune`: what no container uses; since API 1.42 only volumes without a name
/// unless `all` is asked for.
pub(super) fn prune(engine: &dyn Engine, call: &Call<'_>) -> Result<Reply, ApiError> {
    let filters = call.query.filters(&PRUNE_FILTERS)?;
    let all = filters.boolean("all")?.unwrap_or(call.version.0 < 42);
    let mut report = json::VolumesPruneReport::default();
    for volume in engine.volumes()? {
        let spared = !filters.labels("label", &volume.labels)
            || (!filters.values("label!").is_empty() && filters.labels("label!", &volume.labels));
        if spared || !(all || is_anonymous(&volume.name)) {
            continue;
        }
        match engine.volume_remove(&volume.name) {
            Ok(()) => report.volumes_deleted.push(volume.name),
            Err(error) => log::debug!("pruning volumes: {} stays: {error}", volume.name),
        }
    }
    Ok(Reply::json(&report))
}

/// A name as Docker gives one where the user gives none.
fn random_name() -> Result<String, ApiError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| ApiError::new(500, format!("making a volume's name: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Docker's names of volumes that nobody named: 64 hexadecimal digits.
fn is_anonymous(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn found(engine: &dyn Engine, name: &str) -> Result<Volume, ApiError> {
    let all = engine.volumes()?;
    all.into_iter()
        .find(|volume| volume.name == name)
        .ok_or_else(|| ApiError::not_found(format!("get {name}: no such volume")))
}

fn volume(volume: Volume) -> json::Volume {
    json::Volume {
        name: volume.name,
        driver: DRIVER.to_owned(),
        mountpoint: volume.mountpoint.display().to_string(),
        labels: volume.labels,
        scope: "local".to_owned(),
        options: Labels::new(),
        created_at: volume.created.to_string(),
        usage_data: None,
    }
}
