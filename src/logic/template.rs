//! Go templates in env, hostname and mounts of a service, as far as swarm's documentation goes.
//!
//! An action is one field of the context, or `index` of a label map. Everything else (pipes,
//! conditions, variables) is refused when the service is made, with Docker's text.

use crate::base::id::NodeId;
use crate::model::node::NodeDescription;
use crate::model::service::{ContainerSpec, MountKind};
use crate::model::task::Task;

/// Longest text that a template may grow to.
pub const EXPANDED_BYTES_MAX: usize = 64 << 10;

/// What Go's trim markers take away.
const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];

/// Why a template cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{{` without `}}`.
    #[error("template: expansion:1: unclosed action")]
    Unclosed,
    /// Nothing between the braces.
    #[error("template: expansion:1: missing value for command")]
    Empty,
    /// A word that is neither a field nor a known function.
    #[error("template: expansion:1: function \"{0}\" not defined")]
    Function(String),
    /// A field that the context does not have.
    #[error("template: expansion:1: executing \"expansion\" at <{0}>: can't evaluate field {0}")]
    Field(String),
    /// Something that is legal in Go and not taken here.
    #[error("template: expansion:1: unexpected \"{0}\" in operand")]
    Operand(String),
    /// The result is too long.
    #[error("template: expansion:1: the result is longer than {EXPANDED_BYTES_MAX} bytes")]
    Long,
}

/// What templates may name.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The task.
    pub task: &'a Task,
    /// Its node.
    pub node: NodeId,
    /// What that node says of itself.
    pub description: &'a NodeDescription,
}

/// Replaces the actions in `text`. Without a context it only checks them.
///
/// # Errors
/// With Docker's text for what is no template.
pub fn expand(text: &str, context: Option<&Context<'_>>) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("{{") {
        let literal = &rest[..at];
        let inner = &rest[at + 2..];
        let end = inner.find("}}").ok_or(TemplateError::Unclosed)?;
        let action = &inner[..end];
        let trim_left = action.starts_with("- ");
        let trim_right = action.ends_with(" -");
        // Only what stands in the template is trimmed, not what an action gave.
        out.push_str(if trim_left { literal.trim_end_matches(SPACES) } else { literal });
        let action = action.strip_prefix("- ").unwrap_or(action);
        let action = action.strip_suffix(" -").unwrap_or(action).trim();
        out.push_str(&value(action, context)?);
        rest = &inner[end + 2..];
        if trim_right {
            rest = rest.trim_start_matches(SPACES);
        }
        if out.len() > EXPANDED_BYTES_MAX {
            return Err(TemplateError::Long);
        }
    }
    out.push_str(rest);
    if out.len() > EXPANDED_BYTES_MAX { Err(TemplateError::Long) } else { Ok(out) }
}

fn value(action: &str, context: Option<&Context<'_>>) -> Result<String, TemplateError> {
    if action.is_empty() {
        return Err(TemplateError::Empty);
    }
    if let Some(rest) = action.strip_prefix("index ") {
        let (map, key) = rest.trim().split_once(' ').unwrap_or((rest, ""));
        let key = key.trim();
        let quoted = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
        let raw = key.strip_prefix('`').and_then(|key| key.strip_suffix('`'));
        let Some(key) = quoted.or(raw) else {
            return Err(TemplateError::Operand(key.to_owned()));
        };
        return match map {
            ".Service.Labels" => Ok(label(key, context)),
            _ => Err(TemplateError::Field(map.to_owned())),
        };
    }
    if let Some(bad) = action.chars().find(|c| "|()$\"`".contains(*c) || c.is_whitespace()) {
        return Err(TemplateError::Operand(bad.to_string()));
    }
    if !action.starts_with('.') {
        return Err(TemplateError::Function(action.to_owned()));
    }
    if let Some(key) = action.strip_prefix(".Service.Labels.") {
        return Ok(label(key, context));
    }
    field(action, context)
}

fn label(key: &str, context: Option<&Context<'_>>) -> String {
    let value = context.and_then(|context| context.task.service_labels.get(key));
    // Go prints a key that is not there in a map of strings as nothing.
    value.cloned().unwrap_or_default()
}

fn field(name: &str, context: Option<&Context<'_>>) -> Result<String, TemplateError> {
    type Read = fn(&Context<'_>) -> String;
    let read: Read = match name {
        ".Service.ID" => |c| c.task.service.to_string(),
        ".Service.Name" => |c| c.task.service_name.to_string(),
        ".Node.ID" => |c| c.node.to_string(),
        ".Node.Hostname" => |c| c.description.hostname.clone(),
        ".Node.Platform.OS" => |c| c.description.platform.os.clone(),
        ".Node.Platform.Architecture" => |c| go_arch(&c.description.platform.arch).to_owned(),
        ".Task.ID" => |c| c.task.id.to_string(),
        ".Task.Name" => |c| task_name(c.task),
        ".Task.Slot" => |c| match c.task.slot {
            0 => c.node.to_string(),
            slot => slot.to_string(),
        },
        _ => return Err(TemplateError::Field(name.to_owned())),
    };
    Ok(context.map(read).unwrap_or_default())
}

/// Docker shows the machine's word here, not Go's.
fn go_arch(arch: &str) -> &str {
    match arch {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    }
}

/// `service.slot.task`, or `service.node.task` in a global service: also the container's name.
#[must_use]
pub fn task_name(task: &Task) -> String {
    let (service, id) = (&task.service_name, task.id);
    match (task.slot, task.node) {
        (0, Some(node)) => format!("{service}.{node}.{id}"),
        (slot, _) => format!("{service}.{slot}.{id}"),
    }
}

/// The container with its templates replaced; only checked without a context.
///
/// # Errors
/// With the text that Docker answers a create with.
pub fn expand_container(
    container: &ContainerSpec,
    context: Option<&Context<'_>>,
) -> Result<ContainerSpec, String> {
    let mut container = container.clone();
    for mount in &mut container.mounts {
        let failed = |what: &str, text: &str, error: TemplateError| {
            format!("expanding mounts failed: expanding mount {what} {}: {error}", shown(text))
        };
        match &mut mount.kind {
            MountKind::Bind { source, .. } | MountKind::BindReadOnly { source, .. } => {
                *source = expand(source, context).map_err(|e| failed("source", source, e))?;
            }
            MountKind::Volume { name, .. } => {
                *name = expand(name, context).map_err(|e| failed("source", name, e))?;
            }
            MountKind::Tmpfs { .. } => {}
        }
        let target = &mount.target;
        mount.target = expand(target, context).map_err(|e| failed("target", target, e))?;
    }
    for env in &mut container.env {
        *env = expand(env, context)
            .map_err(|e| format!("expanding env failed: expanding {}: {e}", shown(env)))?;
    }
    container.hostname = expand(&container.hostname, context)
        .map_err(|e| format!("expanding hostname failed: {e}"))?;
    Ok(container)
}

/// A value in an error: quoted, and cut where it is too long to be read.
fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 100;
    match text.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{:?}…", &text[..at]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests;
