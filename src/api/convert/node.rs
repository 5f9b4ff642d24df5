//! Nodes and the cluster, towards the client.

use crate::api::errors::ApiError;
use crate::daemon::handle::View;
use crate::model::cluster::Cluster;
use crate::model::engine::node as json;
use crate::model::engine::swarm::{
    CaConfig, DispatcherConfig, OrchestrationConfig, RaftConfig, Swarm, SwarmSpec,
};
use crate::model::engine::task::{
    DiscreteGenericResource, GenericResource, NamedGenericResource, Platform, Resources,
};
use crate::model::engine::Version;
use crate::model::node::{Availability, Node, NodeState, Role};
use crate::model::resource::Generic;

use super::int;

/// Port that Docker's overlay networks use; shown because clients print it.
const DATA_PATH_PORT: u32 = 4789;

/// Drivers of container logs, in the order of their names.
pub const LOG_DRIVERS: &[&str] = &["json-file", "local", "none"];

/// Drivers of networks.
pub const NETWORK_DRIVERS: &[&str] = &["bridge", "host", "null", "overlay"];

/// Drivers of volumes.
pub const VOLUME_DRIVERS: &[&str] = &["local"];

/// A node.
#[must_use]
pub fn node(node: &Node, state: NodeState, view: &View) -> json::Node {
    let description = &node.description;
    json::Node {
        id: node.id.to_string(),
        version: Version { index: node.meta.version },
        created_at: node.meta.created.to_string(),
        updated_at: node.meta.updated.to_string(),
        spec: json::NodeSpec {
            labels: node.spec.labels.clone(),
            name: String::new(),
            role: role_name(node.spec.role).to_owned(),
            availability: match node.spec.availability {
                Availability::Active => "active",
                Availability::Pause => "pause",
                Availability::Drain => "drain",
            }
            .to_owned(),
        },
        description: json::NodeDescription {
            hostname: description.hostname.clone(),
            platform: Platform {
                architecture: machine(&description.platform.arch, &description.platform.variant),
                os: description.platform.os.clone(),
            },
            resources: Resources {
                nano_cpus: int(description.nano_cpus),
                memory_bytes: int(description.memory_bytes),
                generic_resources: description.generic.iter().map(generic).collect(),
            },
            engine: json::EngineDescription {
                engine_version: description.engine_version.clone(),
                labels: description.engine_labels.clone(),
                plugins: plugins(),
            },
            ..json::NodeDescription::default()
        },
        status: json::NodeStatus {
            state: match state {
                NodeState::Unknown => "unknown",
                NodeState::Ready => "ready",
                NodeState::Down => "down",
            }
            .to_owned(),
            message: String::new(),
            addr: node.address.clone(),
        },
        manager_status: node.manager.as_ref().map(|addr| json::ManagerStatus {
            leader: Some(node.id) == view.leader,
            reachability: match state {
                // It does not help the others to a majority yet.
                NodeState::Ready if !view.voters.contains(&node.id) => "unknown",
                NodeState::Unknown => "unknown",
                NodeState::Ready => "reachable",
                NodeState::Down => "unreachable",
            }
            .to_owned(),
            addr: addr.clone(),
        }),
    }
}

fn plugins() -> Vec<json::PluginDescription> {
    let kinds =
        [("Log", LOG_DRIVERS), ("Network", NETWORK_DRIVERS), ("Volume", VOLUME_DRIVERS)];
    let all = kinds.iter().flat_map(|(kind, names)| names.iter().map(move |name| (kind, name)));
    all.map(|(kind, name)| json::PluginDescription {
        r#type: (*kind).to_owned(),
        name: (*name).to_owned(),
    })
    .collect()
}

const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Worker => "worker",
        Role::Manager => "manager",
    }
}

/// What a client calls a role.
///
/// # Errors
/// 400 for what is none.
pub fn role(name: &str) -> Result<Role, ApiError> {
    match name.to_ascii_lowercase().as_str() {
        "worker" => Ok(Role::Worker),
        "manager" => Ok(Role::Manager),
        _ => Err(ApiError::new(400, format!("invalid Role: {name:?}"))),
    }
}

/// What a client calls an availability; nothing means active.
///
/// # Errors
/// 400 for what is none.
pub fn availability(name: &str) -> Result<Availability, ApiError> {
    match name.to_ascii_lowercase().as_str() {
        "" | "active" => Ok(Availability::Active),
        "pause" => Ok(Availability::Pause),
        "drain" => Ok(Availability::Drain),
        _ => Err(ApiError::new(400, format!("invalid Availability: {name:?}"))),
    }
}

/// A resource that only users know.
fn generic(resource: &Generic) -> GenericResource {
    match resource {
        Generic::Count { kind, count } => counted(kind, *count),
        Generic::Named { kind, value } => GenericResource {
            named_resource_spec: Some(NamedGenericResource {
                kind: kind.clone(),
                value: value.clone(),
            }),
            ..GenericResource::default()
        },
    }
}

/// A counted resource.
#[must_use]
pub fn counted(kind: &str, count: u64) -> GenericResource {
    let counted = DiscreteGenericResource { kind: kind.to_owned(), value: int(count) };
    GenericResource { discrete_resource_spec: Some(counted), ..GenericResource::default() }
}

/// `uname -m` for one of Docker's architectures.
fn machine(arch: &str, variant: &str) -> String {
    match (arch, variant) {
        ("amd64", _) => "x86_64".to_owned(),
        ("arm64", _) => "aarch64".to_owned(),
        ("386", _) => "i686".to_owned(),
        ("arm", "") => "armv7l".to_owned(),
        ("arm", variant) => format!("arm{variant}l"),
        (other, _) => other.to_owned(),
    }
}

/// The cluster, without join tokens.
#[must_use]
pub fn swarm(cluster: &Cluster) -> Swarm {
    Swarm {
        id: cluster.id.to_string(),
        version: Version { index: cluster.meta.version },
        created_at: cluster.meta.created.to_string(),
        updated_at: cluster.meta.updated.to_string(),
        spec: SwarmSpec {
            labels: cluster.labels.clone(),
            name: cluster.name.clone(),
            orchestration: OrchestrationConfig {
                task_history_retention_limit: Some(cluster.task_history_limit),
            },
            // Docker's defaults: clients print them, nothing here is tuned by them.
            raft: RaftConfig {
                keep_old_snapshots: Some(0),
                snapshot_interval: 10_000,
                log_entries_for_slow_followers: 500,
                election_tick: 10,
                heartbeat_tick: 1,
            },
            dispatcher: DispatcherConfig { heartbeat_period: 5_000_000_000 },
            ca_config: CaConfig { node_cert_expiry: 7_776_000_000_000_000, force_rotate: 0 },
            ..SwarmSpec::default()
        },
        default_addr_pool: cluster
            .pools
            .iter()
            .map(|pool| format!("{}/{}", pool.base, pool.prefix))
            .collect(),
        subnet_size: u32::from(cluster.subnet_prefix),
        data_path_port: DATA_PATH_PORT,
        ..Swarm::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sample;

    #[test]
    fn generic_resources_have_dockers_shapes() {
        let count = Generic::Count { kind: "ssd".to_owned(), count: 2 };
        let named = Generic::Named { kind: "gpu".to_owned(), value: "u1".to_owned() };
        let text = serde_json::to_string(&[generic(&count), generic(&named)]).unwrap();
        let wanted = r#"[{"DiscreteResourceSpec":{"Kind":"ssd","Value":2}},{"NamedResourceSpec":{"Kind":"gpu","Value":"u1"}}]"#;
        assert_eq!(text, wanted);
    }

    #[test]
    fn a_manager_is_reachable_when_its_vote_counts() {
        let mut it = sample::node();
        it.manager = Some("10.0.0.2:2377".to_owned());
        let mut view = View::default();
        let reachability = |view: &View, state| {
            node(&it, state, view).manager_status.map(|status| status.reachability)
        };
        assert_eq!(reachability(&view, NodeState::Ready).as_deref(), Some("unknown"));
        view.voters.insert(it.id);
        assert_eq!(reachability(&view, NodeState::Ready).as_deref(), Some("reachable"));
        assert_eq!(reachability(&view, NodeState::Down).as_deref(), Some("unreachable"));
    }
}
