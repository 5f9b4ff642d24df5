//! The machine and the program: `_ping`, `version`, `info`, `auth`.

use std::collections::BTreeMap;

use crate::api::call::Call;
use crate::api::convert;
use crate::api::engine::Engine;
use crate::api::errors::ApiError;
use crate::api::respond::Reply;
use crate::api::version::{API_VERSION, API_VERSION_MIN};
use crate::daemon::handle::{Facts, SwarmState, View};
use crate::model::engine::system::{
    Commit, Component, IndexConfig, Info, Peer, PlatformName, Plugins, RegistryConfig, Runtime,
    SwarmInfo, SystemVersion,
};
use crate::model::engine::Labels;

/// The registry of names without a host.
const INDEX_SERVER: &str = "https://index.docker.io/v1/";

/// `GET` and `HEAD /_ping`: tells a client what it speaks with.
pub(super) fn ping(engine: &dyn Engine, call: &Call<'_>) -> Reply {
    let swarm = match engine.swarm() {
        SwarmState::Inactive => "inactive",
        SwarmState::Active { manager: true, .. } => "active/manager",
        SwarmState::Active { manager: false, .. } => "active/worker",
        SwarmState::Locked => "locked",
    };
    let headers = [
        // 2 would tell clients to build through BuildKit.
        ("Builder-Version", "1"),
        ("Swarm", swarm),
        ("Cache-Control", "no-cache, no-store, must-revalidate"),
        ("Pragma", "no-cache"),
    ];
    Reply::Whole {
        status: 200,
        content_type: "text/plain; charset=utf-8",
        headers: headers.map(|(name, value)| (name, value.to_owned())).into(),
        body: if call.method == "HEAD" { Vec::new() } else { b"OK".to_vec() },
    }
}

/// `GET /version`.
pub(super) fn version(engine: &dyn Engine) -> Reply {
    let facts = engine.facts();
    let skep = facts.description.engine_version.clone();
    let details = Labels::from([
        ("ApiVersion".to_owned(), API_VERSION.to_string()),
        ("MinAPIVersion".to_owned(), API_VERSION_MIN.to_string()),
        ("Os".to_owned(), "linux".to_owned()),
        ("Arch".to_owned(), facts.description.platform.arch.clone()),
        ("KernelVersion".to_owned(), facts.kernel.clone()),
        ("Experimental".to_owned(), "false".to_owned()),
    ]);
    let component = |name: &str, version: &str, details: Labels| Component {
        name: name.to_owned(),
        version: version.to_owned(),
        details,
    };
    Reply::json(&SystemVersion {
        platform: PlatformName { name: "skep".to_owned() },
        components: vec![
            component("Engine", &skep, details),
            component("runc", &facts.runc, Labels::new()),
        ],
        version: skep,
        api_version: API_VERSION.to_string(),
        min_api_version: API_VERSION_MIN.to_string(),
        os: "linux".to_owned(),
        arch: facts.description.platform.arch.clone(),
        kernel_version: facts.kernel.clone(),
        ..SystemVersion::default()
    })
}

/// `POST /skep/shutdown`: the machine goes down.
pub(super) fn shutdown(engine: &dyn Engine) -> Result<Reply, ApiError> {
    engine.go_down()?;
    Ok(Reply::empty(200))
}

/// `GET /info`.
pub(super) fn info(engine: &dyn Engine) -> Result<Reply, ApiError> {
    let facts = engine.facts();
    let mut info = machine(facts);
    info.images = engine.images().list().len() as u64;
    match engine.swarm() {
        SwarmState::Active { node, manager: true, .. } => {
            info.id = node.to_string();
            let view = engine.view()?;
            count_containers(&mut info, &view);
            info.swarm = swarm(&view);
        }
        SwarmState::Active { node, manager: false, .. } => {
            info.id = node.to_string();
            info.swarm.node_id = node.to_string();
            info.swarm.local_node_state = "active".to_owned();
        }
        SwarmState::Inactive => info.swarm.local_node_state = "inactive".to_owned(),
        SwarmState::Locked => info.swarm.local_node_state = "locked".to_owned(),
    }
    Ok(Reply::json(&info))
}

/// What is true of the machine, in a swarm or not.
fn machine(facts: &Facts) -> Info {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    let description = &facts.description;
    let index = IndexConfig {
        name: "docker.io".to_owned(),
        mirrors: Vec::new(),
        secure: true,
        official: true,
    };
    Info {
        name: description.hostname.clone(),
        driver: "overlayfs".to_owned(),
        plugins: Plugins {
            volume: texts(convert::node::VOLUME_DRIVERS),
            network: texts(convert::node::NETWORK_DRIVERS),
            authorization: Vec::new(),
            log: texts(convert::node::LOG_DRIVERS),
        },
        memory_limit: true,
        swap_limit: true,
        cpu_cfs_period: true,
        cpu_cfs_quota: true,
        cpu_shares: true,
        cpu_set: true,
        pids_limit: true,
        ipv4_forwarding: true,
        // Nothing here hangs on bridge filters; clients warn where these are off.
        bridge_nf_iptables: true,
        bridge_nf_ip6tables: true,
        oom_kill_disable: facts.cgroup_version == "1",
        logging_driver: "json-file".to_owned(),
        cgroup_driver: "cgroupfs".to_owned(),
        cgroup_version: facts.cgroup_version.clone(),
        kernel_version: facts.kernel.clone(),
        operating_system: facts.os.clone(),
        os_type: "linux".to_owned(),
        architecture: facts.machine.clone(),
        index_server_address: INDEX_SERVER.to_owned(),
        registry_config: RegistryConfig {
            insecure_registry_cidrs: texts(&["::1/128", "127.0.0.0/8"]),
            index_configs: BTreeMap::from([("docker.io".to_owned(), index)]),
            mirrors: Vec::new(),
        },
        ncpu: convert::int(description.nano_cpus / 1_000_000_000),
        mem_total: convert::int(description.memory_bytes),
        docker_root_dir: facts.data_root.clone(),
        labels: description.engine_labels.iter().map(|(k, v)| format!("{k}={v}")).collect(),
        server_version: description.engine_version.clone(),
        runtimes: BTreeMap::from([("runc".to_owned(), Runtime { path: "runc".to_owned() })]),
        default_runtime: "runc".to_owned(),
        init_binary: "skep".to_owned(),
        // Clients tell a difference between the two; any runc that works is the right one.
        runc_commit: Commit { id: facts.runc.clone(), expected: facts.runc.clone() },
        security_options: texts(&["name=seccomp,profile=builtin"]),
        ..Info::default()
    }
}

fn count_containers(info: &mut Info, view: &View) {
    use crate::model::task::TaskState;
    let mine = view.tasks.iter().filter(|task| task.node.is_some() && task.node == view.node);
    for task in mine {
        match task.status.state {
            TaskState::Running | TaskState::Starting => info.containers_running += 1,
            TaskState::Complete | TaskState::Shutdown | TaskState::Failed => {
                info.containers_stopped += 1;
            }
            _ => continue,
        }
        info.containers += 1;
    }
}

fn swarm(view: &View) -> SwarmInfo {
    let mine = view.nodes.iter().find(|(node, _)| Some(node.id) == view.node);
    let managers: Vec<_> = view
        .nodes
        .iter()
        .filter_map(|(node, _)| {
            let addr = node.manager.clone()?;
            Some(Peer { node_id: node.id.to_string(), addr })
        })
        .collect();
    SwarmInfo {
        node_id: view.node.map(|id| id.to_string()).unwrap_or_default(),
        node_addr: mine.map(|(node, _)| node.address.clone()).unwrap_or_default(),
        local_node_state: "active".to_owned(),
        control_available: true,
        error: String::new(),
        nodes: view.nodes.len() as u64,
        managers: managers.len() as u64,
        remote_managers: managers,
        cluster: view.cluster.as_ref().map(|cluster| convert::node::swarm(cluster)),
        warnings: Vec::new(),
    }
}
