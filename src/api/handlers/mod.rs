//! From a request to its answer: one module per resource, one match over the routes.

use std::sync::Arc;

use super::Api;
use super::call::Call;
use super::errors::ApiError;
use super::respond::Reply;
use super::router::{Route, route};

/// Answers one request.
pub(super) fn handle(api: &Arc<Api>, call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let path = call.path.clone();
    let _ = api;
    match route(&call.method, &path) {
        Route::NotFound => Err(ApiError::page_not_found()),
        _ => Err(ApiError::unimplemented(&format!("{} {path}", call.method))),
    }
}
