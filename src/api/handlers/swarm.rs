//! The cluster: `swarm`, `swarm/init`, `swarm/join`, `swarm/update`, `swarm/leave`.

use crate::api::call::Call;
use crate::api::convert;
use crate::api::engine::Engine;
use crate::api::errors::ApiError;
use crate::api::respond::Reply;
use crate::daemon::handle::{Failure, InitRequest, JoinRequest};
use crate::model::cluster::Founding;
use crate::model::engine::swarm as json;
use crate::model::node::{Availability, Role};

/// `GET /swarm`.
pub(super) fn inspect(engine: &dyn Engine) -> Result<Reply, ApiError> {
    let view = engine.view()?;
    let cluster = view.cluster.as_ref().ok_or(Failure::NoSwarm)?;
    let tokens = engine.tokens()?;
    let join_tokens = json::JoinTokens { worker: tokens.worker, manager: tokens.manager };
    let swarm = convert::node::swarm(cluster);
    Ok(Reply::json(&json::Swarm { join_tokens: Some(join_tokens), ..swarm }))
}

/// `POST /swarm/join`.
pub(super) fn join(engine: &dyn Engine, call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let asked: json::JoinRequest = call.json()?;
    let availability = convert::node::availability(&asked.availability)?;
    engine.join(JoinRequest {
        managers: asked.remote_addrs,
        token: asked.join_token,
        advertise: asked.advertise_addr,
        listen: asked.listen_addr,
        availability,
    })?;
    Ok(Reply::empty(200))
}

/// `POST /swarm/update`: new join tokens. What the spec says is not changed.
pub(super) fn update(engine: &dyn Engine, call: &Call<'_>) -> Result<Reply, ApiError> {
    let mut roles = Vec::new();
    for (flag, role) in
        [("rotateWorkerToken", Role::Worker), ("rotateManagerToken", Role::Manager)]
    {
        if call.query.flag(flag) {
            roles.push(role);
        }
    }
    if roles.is_empty() {
        return Err(ApiError::unimplemented("changing the cluster's settings"));
    }
    engine.rotate_tokens(&roles)?;
    Ok(Reply::empty(200))
}

/// `POST /swarm/init`.
pub(super) fn init(engine: &dyn Engine, call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let asked: json::InitRequest = call.json()?;
    if asked.auto_lock_managers {
        return Err(ApiError::unimplemented("locking managers"));
    }
    if !asked.default_addr_pool.is_empty() {
        return Err(ApiError::unimplemented("default-addr-pool"));
    }
    // Docker's command line always says 24, which is what networks get.
    if !matches!(asked.subnet_size, 0 | 24) {
        return Err(ApiError::unimplemented("default-addr-pool-mask-length"));
    }
    let request = InitRequest {
        advertise: asked.advertise_addr,
        listen: asked.listen_addr,
        founding: Founding {
            availability: availability(&asked.availability)?,
            task_history_limit: asked.spec.orchestration.task_history_retention_limit,
        },
        force_new_cluster: asked.force_new_cluster,
    };
    Ok(Reply::json(&engine.init(request)?.to_string()))
}

fn availability(text: &str) -> Result<Availability, ApiError> {
    Ok(match text {
        "" | "active" => Availability::Active,
        "pause" => Availability::Pause,
        "drain" => Availability::Drain,
        other => return Err(ApiError::new(400, format!("invalid availability {other:?}"))),
    })
}

/// `POST /swarm/leave`.
pub(super) fn leave(engine: &dyn Engine, call: &Call<'_>) -> Result<Reply, ApiError> {
    engine.leave(call.query.flag("force"))?;
    Ok(Reply::empty(200))
}
