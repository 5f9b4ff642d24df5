//! From a request to its answer: one module per resource, one match over the routes.

mod image;
mod image_filter;
mod logs;
mod network;
mod node;
mod service;
mod swarm;
mod system;
mod task;
mod volume;

use std::sync::Arc;

use super::Api;
use super::call::Call;
use super::errors::ApiError;
use super::respond::Reply;
use super::router::{Route, route};

/// Answers one request.
pub(super) fn handle(api: &Arc<Api>, call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let path = call.path.clone();
    let engine = api.engine.as_ref();
    match route(&call.method, &path) {
        Route::Ping => Ok(system::ping(engine, call)),
        Route::Version => Ok(system::version(engine)),
        Route::Info => system::info(engine),
        Route::Auth => image::auth(engine, call),
        Route::Plugins => Ok(Reply::json::<[(); 0]>(&[])),
        Route::Swarm => swarm::inspect(engine),
        Route::SwarmInit => swarm::init(engine, call),
        Route::SwarmJoin => swarm::join(engine, call),
        Route::SwarmUpdate => swarm::update(engine, call),
        Route::SwarmLeave => swarm::leave(engine, call),
        Route::SwarmUnlock => swarm::unlock(engine, call),
        Route::SwarmUnlockKey => swarm::unlock_key(engine),
        Route::Shutdown => system::shutdown(engine),
        Route::Nodes => node::list(engine, call),
        Route::Node(id) => node::inspect(engine, id),
        Route::NodeUpdate(id) => node::update(engine, id, call),
        Route::NodeRemove(id) => node::remove(engine, id, call),
        Route::Services => service::list(engine, call),
        Route::Service(id) => service::inspect(engine, id, call),
        Route::ServiceCreate => service::create(engine, call),
        Route::ServiceUpdate(id) => service::update(engine, id, call),
        Route::ServiceRemove(id) => service::remove(engine, id),
        Route::Tasks => task::list(engine, call),
        Route::Task(id) => task::inspect(engine, id),
        Route::Networks => network::list(engine, call),
        Route::Network(id) => network::inspect(engine, id),
        Route::ServiceLogs(id) => logs::of_service(api, id, call),
        Route::TaskLogs(id) => logs::of_task(api, id, call),
        Route::Images => image::list(engine, call),
        Route::Image(name) => image::inspect(engine, name),
        Route::ImageRemove(name) => image::remove(engine, name, call),
        Route::ImagePull => image::pull(api, call),
        Route::ImageLoad => image::load(engine, call),
        Route::ImagesPrune => image::prune(engine, call),
        Route::Distribution(name) => image::distribution(engine, name, call),
        Route::Volumes => volume::list(engine, call),
        Route::Volume(name) => volume::inspect(engine, name),
        Route::VolumeCreate => volume::create(engine, call),
        Route::VolumeRemove(name) => volume::remove(engine, name, call),
        Route::VolumesPrune => volume::prune(engine, call),
        Route::NotFound => Err(ApiError::page_not_found()),
        _ => Err(ApiError::unimplemented(&format!("{} {path}", call.method))),
    }
}
