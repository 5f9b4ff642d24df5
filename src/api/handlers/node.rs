//! Nodes: list, look at, change and remove.

use crate::api::call::Call;
use crate::api::convert;
use crate::api::engine::Engine;
use crate::api::errors::ApiError;
use crate::api::lookup::{Candidate, find};
use crate::api::respond::Reply;
use crate::daemon::handle::{Command, View};
use crate::model::engine::node as json;
use crate::model::node::{Node, NodeSpec};

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

/// `POST /nodes/{id}/update`.
pub(super) fn update(
    engine: &dyn Engine,
    typed: &str,
    call: &mut Call<'_>,
) -> Result<Reply, ApiError> {
    let version = call.query.text("version");
    let version = version.parse().map_err(|_not_a_number| {
        ApiError::new(400, format!("invalid node version '{version}': it must be a number"))
    })?;
    let asked: json::NodeSpec = call.json()?;
    let view = engine.view()?;
    let node = lookup(&view, typed)?;
    let spec = NodeSpec {
        labels: asked.labels,
        role: convert::node::role(&asked.role)?,
        availability: convert::node::availability(&asked.availability)?,
    };
    engine.command(Command::UpdateNode { id: node.id, version, spec })?;
    Ok(Reply::empty(200))
}

/// `DELETE /nodes/{id}`.
pub(super) fn remove(engine: &dyn Engine, typed: &str, call: &Call<'_>) -> Result<Reply, ApiError> {
    let view = engine.view()?;
    let id = lookup(&view, typed)?.id;
    engine.command(Command::RemoveNode { id, force: call.query.flag("force") })?;
    Ok(Reply::empty(200))
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
