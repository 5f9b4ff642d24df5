//! Services: list, look at, make, change, remove.

use super::image;
use crate::api::call::Call;
use crate::api::convert;
use crate::api::engine::Engine;
use crate::api::errors::ApiError;
use crate::api::lookup::{Candidate, find};
use crate::api::random_name;
use crate::api::respond::Reply;
use crate::daemon::handle::{self, Command, View};
use crate::model::engine::Created;
use crate::model::engine::service::{ServiceSpec, ServiceUpdateResponse};
use crate::model::image_ref::Reference;
use crate::model::service::Service;

const FILTERS: [&str; 5] = ["id", "label", "mode", "name", "runtime"];

/// `GET /services`.
pub(super) fn list(engine: &dyn Engine, call: &Call<'_>) -> Result<Reply, ApiError> {
    let filters = call.query.filters(&FILTERS)?;
    let with_status = call.query.flag("status");
    let view = engine.view()?;
    let shown = view.services.iter().filter(|service| {
        filters.prefix("id", &service.id.to_string())
            && filters.prefix("name", service.spec.name.as_str())
            && filters.labels("label", &service.spec.labels)
            && filters.exact("mode", convert::service::mode_name(service.spec.mode))
            && filters.exact("runtime", "container")
    });
    let shown: Vec<_> = shown
        .map(|service| {
            let mut json = convert::service::service(service);
            if with_status {
                json.service_status = Some(convert::service::status(service, &view));
            }
            json
        })
        .collect();
    Ok(Reply::json(&shown))
}

/// `GET /services/{id}`.
pub(super) fn inspect(
    engine: &dyn Engine,
    typed: &str,
    call: &Call<'_>,
) -> Result<Reply, ApiError> {
    let view = engine.view()?;
    let mut json = convert::service::service(lookup(&view, typed)?);
    if call.query.flag("insertDefaults") {
        convert::service::insert_defaults(&mut json.spec);
    }
    Ok(Reply::json(&json))
}

/// `POST /services/create`.
pub(super) fn create(engine: &dyn Engine, call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let mut asked: ServiceSpec = call.json()?;
    let view = engine.view()?;
    if asked.name.is_empty() {
        let taken = view.services.iter().map(|service| service.spec.name.as_str()).collect();
        let bits = getrandom::u64().unwrap_or(view.index);
        asked.name = random_name::pick(bits, &taken);
    }
    let spec = convert::service_spec::parse(asked, &view.networks)?;
    let warnings = keep_credentials(engine, call, &view, &spec.as_spec().task.container.image)?;
    match engine.command(Command::CreateService { spec: Box::new(spec) })? {
        handle::Reply::Created { id } => {
            Ok(Reply::json_with(201, &Created { id: id.to_string(), warnings }))
        }
        handle::Reply::Done | handle::Reply::View(_) => Err(unexpected()),
    }
}

/// `POST /services/{id}/update`.
pub(super) fn update(
    engine: &dyn Engine,
    typed: &str,
    call: &mut Call<'_>,
) -> Result<Reply, ApiError> {
    let version = call.query.text("version");
    let version = version.parse().map_err(|_nan| {
        ApiError::invalid(format!("invalid service version '{version}': not a whole number"))
    })?;
    let rollback = match call.query.text("rollback") {
        "" => false,
        "previous" => true,
        other => {
            return Err(ApiError::invalid(format!("unrecognized rollback option {other}")));
        }
    };
    let asked: ServiceSpec = call.json()?;
    let view = engine.view()?;
    let service = lookup(&view, typed)?;
    let (spec, image) = if rollback {
        (None, service.spec.task.container.image.clone())
    } else {
        let spec = convert::service_spec::parse(asked, &view.networks)?;
        let image = spec.as_spec().task.container.image.clone();
        (Some(Box::new(spec)), image)
    };
    let warnings = keep_credentials(engine, call, &view, &image)?;
    match engine.command(Command::UpdateService { id: service.id, version, spec })? {
        handle::Reply::Done => Ok(Reply::json(&ServiceUpdateResponse { warnings })),
        handle::Reply::Created { .. } | handle::Reply::View(_) => Err(unexpected()),
    }
}

/// `DELETE /services/{id}`.
pub(super) fn remove(engine: &dyn Engine, typed: &str) -> Result<Reply, ApiError> {
    let view = engine.view()?;
    let id = lookup(&view, typed)?.id;
    match engine.command(Command::RemoveService { id })? {
        handle::Reply::Done => Ok(Reply::empty(200)),
        handle::Reply::Created { .. } | handle::Reply::View(_) => Err(unexpected()),
    }
}

/// Keeps what `X-Registry-Auth` says for the pulls of this node; what the user is to know of that.
fn keep_credentials(
    engine: &dyn Engine,
    call: &Call<'_>,
    view: &View,
    image: &str,
) -> Result<Vec<String>, ApiError> {
    let Some(credentials) = image::credentials(call)? else { return Ok(Vec::new()) };
    let reference = Reference::parse(image).map_err(|bad| ApiError::invalid(bad.to_string()))?;
    engine.images().keep_credentials(&reference, credentials);
    if view.nodes.len() < 2 {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "the credentials for {} stay on this node, in memory: other nodes pull without any; load the \
         image there, or keep the service here by a constraint",
        reference.familiar_name()
    )])
}

fn unexpected() -> ApiError {
    ApiError::new(500, "the manager answered with something else than was asked for")
}

/// The service that `typed` means.
pub(super) fn lookup<'a>(view: &'a View, typed: &str) -> Result<&'a Service, ApiError> {
    let candidates = view.services.iter().map(|service| Candidate {
        id: service.id.to_string(),
        name: service.spec.name.to_string(),
        object: service.as_ref(),
    });
    find("service", typed, candidates)
}
