//! The cluster: `swarm`, `swarm/init`, `swarm/leave`.

use crate::api::call::Call;
use crate::api::convert;
use crate::api::engine::Engine;
use crate::api::errors::ApiError;
use crate::api::respond::Reply;
use crate::daemon::handle::{Failure, InitRequest};
use crate::model::cluster::Founding;
use crate::model::engine::swarm as json;
use crate::model::node::Availability;

/// `GET /swarm`.
pub(super) fn inspect(engine: &dyn Engine) -> Result<Reply, ApiError> {
    let view = engine.view()?;
    let cluster = view.cluster.as_ref().ok_or(Failure::NoSwarm)?;
    Ok(Reply::json(&convert::node::swarm(cluster)))
}

/// `POST /swarm/init`.
pub(super) fn init(engine: &dyn Engine, call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let asked: json::InitRequest = call.json()?;
    if asked.force_new_cluster {
        return Err(ApiError::unimplemented("a new cluster from what is left of an old one"));
    }
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
