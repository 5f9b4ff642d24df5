//! From a request to its answer: one module per resource, one match over the routes.

mod network;
mod node;
mod service;
mod swarm;
mod system;
mod task;

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
        Route::Auth => system::auth(call),
        Route::Plugins => Ok(Reply::json::<[(); 0]>(&[])),
        Route::Swarm => swarm::inspect(engine),
        Route::SwarmInit => swarm::init(engine, call),
        Route::SwarmLeave => swarm::leave(engine, call),
        Route::Nodes => node::list(engine, call),
        Route::Node(id) => node::inspect(engine, id),
        Route::Services => service::list(engine, call),
        Route::Service(id) => service::inspect(engine, id, call),
        Route::ServiceCreate => service::create(engine, call),
        Route::ServiceUpdate(id) => service::update(engine, id, call),
        Route::ServiceRemove(id) => service::remove(engine, id),
        Route::Tasks => task::list(engine, call),
        Route::Task(id) => task::inspect(engine, id),
        Route::Networks => network::list(engine, call),
        Route::Network(id) => network::inspect(engine, id),
        Route::NotFound => Err(ApiError::page_not_found()),
        _ => Err(ApiError::unimplemented(&format!("{} {path}", call.method))),
    }
}
