//! The cluster: `swarm`, and below it `init`, `join`, `update`, `unlock`, `unlockkey`, `leave`.

use crate::api::call::Call;
use crate::api::convert;
use crate::api::engine::Engine;
use crate::api::errors::ApiError;
use crate::api::respond::Reply;
use crate::base::time::Span;
use crate::daemon::handle::{
    Command, Failure, InitRequest, JoinRequest, LockChange, SwarmState, TrustChange,
};
use crate::model::cluster::Founding;
use crate::model::engine::swarm as json;
use crate::model::node::{Availability, Role};
use crate::model::pem;
use crate::model::unlock_key::BadUnlockKey;

/// `GET /swarm`.
pub(super) fn inspect(engine: &dyn Engine) -> Result<Reply, ApiError> {
    let view = engine.view()?;
    let cluster = view.cluster.as_ref().ok_or(Failure::NoSwarm)?;
    let tokens = engine.tokens()?;
    let join_tokens = json::JoinTokens { worker: tokens.worker, manager: tokens.manager };
    let mut swarm = convert::node::swarm(cluster);
    let life = tokens.life.as_nanos();
    swarm.spec.ca_config.node_cert_expiry = i64::try_from(life).unwrap_or(i64::MAX);
    swarm.tls_info.trust_root = pem::certificate(&tokens.root);
    swarm.root_rotation_in_progress = tokens.rotating;
    swarm.spec.encryption_config.auto_lock_managers = engine.unlock_key()?.is_some();
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

/// `POST /swarm/update`: new join tokens, another root or life of certificates, managers that lock
/// themselves, labels, and how many old tasks are kept.
pub(super) fn update(engine: &dyn Engine, call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let version = call.query.text("version");
    let version = version.parse().map_err(|_not_a_number| {
        ApiError::new(400, format!("invalid swarm version '{version}': it must be a number"))
    })?;
    let mut roles = Vec::new();
    for (flag, role) in
        [("rotateWorkerToken", Role::Worker), ("rotateManagerToken", Role::Manager)]
    {
        if call.query.flag(flag) {
            roles.push(role);
        }
    }
    let rotate = call.query.flag("rotateManagerUnlockKey");
    let asked: json::SwarmSpec = call.json()?;
    let view = engine.view()?;
    let cluster = view.cluster.as_ref().ok_or(Failure::NoSwarm)?;
    check_unchanged(&asked, &convert::node::swarm(cluster).spec)?;
    let had = engine.tokens()?.life;
    let life = life(&asked.ca_config)?.filter(|life| *life != had);
    let new_root = asked.ca_config.force_rotate > 0;
    let mut spec = cluster.spec();
    spec.labels = asked.labels;
    if let Some(limit) = asked.orchestration.task_history_retention_limit {
        spec.task_history_limit = limit;
    }
    // First what may be refused because somebody else was faster.
    if spec != cluster.spec() {
        engine.command(Command::UpdateCluster { version, spec: Box::new(spec) })?;
    }
    if !roles.is_empty() {
        engine.change_trust(TrustChange::Tokens(roles))?;
    }
    if life.is_some() || new_root {
        engine.change_trust(TrustChange::Certificates { life, new_root })?;
    }
    engine.change_lock(match (rotate, asked.encryption_config.auto_lock_managers) {
        (true, _) => LockChange::Rotate,
        (false, true) => LockChange::On,
        (false, false) => LockChange::Off,
    })?;
    // This manager has done it, too, when it has seen it and answered once more.
    engine.view()?;
    engine.unlock_key()?;
    Ok(Reply::empty(200))
}

/// `GET /swarm/unlockkey`.
pub(super) fn unlock_key(engine: &dyn Engine) -> Result<Reply, ApiError> {
    // What another manager was told is seen here, too.
    engine.view()?;
    let key = engine.unlock_key()?.map(|key| key.to_string()).unwrap_or_default();
    Ok(Reply::json(&json::UnlockKey { unlock_key: key }))
}

/// `POST /swarm/unlock`.
pub(super) fn unlock(engine: &dyn Engine, call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let asked: json::UnlockKey = call.json()?;
    match asked.unlock_key.parse() {
        Ok(key) => engine.unlock(key)?,
        // What is no key unlocks nothing either; first of all a node must be locked.
        Err(BadUnlockKey) => match engine.swarm() {
            SwarmState::Locked => return Err(Failure::WrongKey.into()),
            SwarmState::Inactive => return Err(Failure::NoSwarm.into()),
            SwarmState::Active { manager: true, .. } => return Err(Failure::NotLocked.into()),
            SwarmState::Active { manager: false, .. } => return Err(Failure::NotManager.into()),
        },
    }
    Ok(Reply::empty(200))
}

/// Refuses what this program does not do; what is left out stays as it is.
fn check_unchanged(asked: &json::SwarmSpec, shown: &json::SwarmSpec) -> Result<(), ApiError> {
    if asked.raft != json::RaftConfig::default() && asked.raft != shown.raft {
        return Err(ApiError::unimplemented("changing the settings of Raft"));
    }
    let heartbeat = asked.dispatcher.heartbeat_period;
    if heartbeat != 0 && heartbeat != shown.dispatcher.heartbeat_period {
        return Err(ApiError::unimplemented("changing how often workers report"));
    }
    Ok(())
}

/// How long certificates are to live, where that is said.
fn life(asked: &json::CaConfig) -> Result<Option<Span>, ApiError> {
    match u64::try_from(asked.node_cert_expiry) {
        Ok(0) => Ok(None),
        Ok(nanos) => Ok(Some(Span::from_nanos(nanos))),
        Err(_) => Err(ApiError::new(400, "NodeCertExpiry: a duration cannot be negative".to_owned())),
    }
}

/// `POST /swarm/init`.
pub(super) fn init(engine: &dyn Engine, call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let asked: json::InitRequest = call.json()?;
    if !asked.default_addr_pool.is_empty() {
        return Err(ApiError::unimplemented("default-addr-pool"));
    }
    // Docker's command line always says 24, which is what networks get.
    if !matches!(asked.subnet_size, 0 | 24) {
        return Err(ApiError::unimplemented("default-addr-pool-mask-length"));
    }
    let certificate_life = life(&asked.spec.ca_config)?;
    let request = InitRequest {
        certificate_life,
        autolock: asked.auto_lock_managers || asked.spec.encryption_config.auto_lock_managers,
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
