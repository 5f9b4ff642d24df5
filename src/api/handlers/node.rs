//! Nodes: list and look at.

use crate::api::call::Call;
use crate::api::convert;
use crate::api::engine::Engine;
use crate::api::errors::ApiError;
use crate::api::lookup::{Candidate, find};
use crate::api::respond::Reply;
use crate::daemon::handle::View;
use crate::model::node::Node;

const FILTERS: [&str; 6] = ["id", "label", "membership", "name", "node.label", "role"];

/// `GET /nodes`.
pub(super) fn list(engine: &dyn Engine, call: &Call<'_>) -> Result<Reply, ApiError> {
    let filters = call.query.filters(&FILTERS)?;
    let view = engine.view()?;
    let shown = view.nodes.iter().filter(|(node, _)| {
        let role = if node.manager.is_some() { "manager" } else { "worker" };
        filters.prefix("id", &node.id.to_string())
            && filters.exact("name", &node.description.hostname)
            && filters.exact("role", role)
            && filters.exact("membership", "accepted")
            && filters.labels("label", &node.description.engine_labels)
            && filters.labels("node.label", &node.spec.labels)
    });
    let shown: Vec<_> = shown.map(|(node, state)| convert::node::node(node, *state, &view)).collect();
    Ok(Reply::json(&shown))
}

/// `GET /nodes/{id}`.
pub(super) fn inspect(engine: &dyn Engine, typed: &str) -> Result<Reply, ApiError> {
    let view = engine.view()?;
    let node = lookup(&view, typed)?;
    let state = view.nodes.iter().find(|(other, _)| other.id == node.id).map(|(_, state)| *state);
    let state = state.unwrap_or(crate::model::node::NodeState::Unknown);
    Ok(Reply::json(&convert::node::node(node, state, &view)))
}

/// The node that `typed` means.
pub(super) fn lookup<'a>(view: &'a View, typed: &str) -> Result<&'a Node, ApiError> {
    let candidates = view.nodes.iter().map(|(node, _)| Candidate {
        id: node.id.to_string(),
        name: node.description.hostname.clone(),
        object: node.as_ref(),
    });
    find("node", typed, candidates)
}
