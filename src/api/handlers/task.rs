//! Tasks: list and look at.

use std::collections::BTreeMap;

use super::{node, service};
use crate::api::call::Call;
use crate::api::convert;
use crate::api::engine::Engine;
use crate::api::errors::ApiError;
use crate::api::lookup::{Candidate, find};
use crate::api::query::Filters;
use crate::api::respond::Reply;
use crate::base::id::{NodeId, ServiceId};
use crate::daemon::handle::View;
use crate::model::task::{Task, TaskState};

const FILTERS: [&str; 8] =
    ["_up-to-date", "desired-state", "id", "label", "name", "node", "runtime", "service"];

/// `GET /tasks`.
pub(super) fn list(engine: &dyn Engine, call: &Call<'_>) -> Result<Reply, ApiError> {
    let filters = call.query.filters(&FILTERS)?;
    let view = engine.view()?;
    let services = ids(&filters, "service", |typed| {
        service::lookup(&view, typed).map(|service| service.id)
    })?;
    let nodes: Vec<NodeId> =
        ids(&filters, "node", |typed| node::lookup(&view, typed).map(|node| node.id))?;
    for state in filters.values("desired-state") {
        if !STATES.iter().any(|known| known.as_str() == state.to_ascii_lowercase()) {
            return Err(ApiError::invalid(format!("invalid filter 'desired-state=[{state}]'")));
        }
    }
    let up_to_date = filters.boolean("_up-to-date")?;
    let current: BTreeMap<ServiceId, u64> =
        view.services.iter().map(|service| (service.id, service.spec_version)).collect();
    let shown = view.tasks.iter().filter(|task| {
        let is_current = current.get(&task.service) == Some(&task.spec_version);
        (services.is_empty() || services.contains(&task.service))
            && (nodes.is_empty() || task.node.is_some_and(|node| nodes.contains(&node)))
            && up_to_date.is_none_or(|wanted| wanted == is_current)
            && filters.prefix("id", &task.id.to_string())
            && filters.prefix("name", &convert::task::name(task))
            && filters.labels("label", &task.service_labels)
            && filters.exact("runtime", "container")
            && filters.any("desired-state", |state| {
                state.eq_ignore_ascii_case(task.desired.as_str())
            })
    });
    let shown: Vec<_> = shown.map(|task| convert::task::task(task, &view)).collect();
    Ok(Reply::json(&shown))
}

const STATES: [TaskState; 14] = [
    TaskState::New,
    TaskState::Pending,
    TaskState::Assigned,
    TaskState::Accepted,
    TaskState::Preparing,
    TaskState::Ready,
    TaskState::Starting,
    TaskState::Running,
    TaskState::Complete,
    TaskState::Shutdown,
    TaskState::Failed,
    TaskState::Rejected,
    TaskState::Remove,
    TaskState::Orphaned,
];

/// The ids that a filter's values mean.
fn ids<T>(
    filters: &Filters,
    name: &str,
    mut lookup: impl FnMut(&str) -> Result<T, ApiError>,
) -> Result<Vec<T>, ApiError> {
    filters.values(name).iter().map(|typed| lookup(typed)).collect()
}

/// `GET /tasks/{id}`.
pub(super) fn inspect(engine: &dyn Engine, typed: &str) -> Result<Reply, ApiError> {
    let view = engine.view()?;
    let task = lookup(&view, typed)?;
    Ok(Reply::json(&convert::task::task(task, &view)))
}

/// The task that `typed` means.
pub(super) fn lookup<'a>(view: &'a View, typed: &str) -> Result<&'a Task, ApiError> {
    let candidates = view.tasks.iter().map(|task| Candidate {
        id: task.id.to_string(),
        name: convert::task::name(task),
        object: task.as_ref(),
    });
    find("task", typed, candidates)
}
