//! The cluster: `swarm`, `swarm/init`, `swarm/leave`.

use crate::api::call::Call;
use crate::api::convert;
use crate::api::engine::Engine;
use crate::api::errors::ApiError;
use crate::api::respond::Reply;
use crate::daemon::handle::{Failure, InitRequest};
use crate::model::engine::swarm as json;

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
    let request = InitRequest { advertise: asked.advertise_addr, listen: asked.listen_addr };
    Ok(Reply::json(&engine.init(request)?.to_string()))
}

/// `POST /swarm/leave`.
pub(super) fn leave(engine: &dyn Engine, call: &Call<'_>) -> Result<Reply, ApiError> {
    engine.leave(call.query.flag("force"))?;
    Ok(Reply::empty(200))
}
