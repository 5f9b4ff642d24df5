//! The machine and the program as the Engine API shows them.

use super::swarm::Swarm;
use super::task::GenericResource;
use super::{Labels, engine};
use std::collections::BTreeMap;

engine! {
    /// `GET /version`.
    SystemVersion {
        always {
            platform: PlatformName,
            components: Vec<Component>,
            version: String,
            api_version: String,
            min_api_version: String = "MinAPIVersion",
            git_commit: String,
            go_version: String,
            os: String,
            arch: String,
            kernel_version: String,
        }
        omit { experimental: bool, build_time: String }
    }

    /// What the whole calls itself.
    PlatformName {
        always { name: String }
    }

    /// One program the engine is made of.
    Component {
        always { name: String, version: String }
        omit { details: Labels }
    }

    /// `GET /info`.
    Info {
        always {
            id: String = "ID",
            containers: u64,
            containers_running: u64,
            containers_paused: u64,
            containers_stopped: u64,
            images: u64,
            driver: String,
            driver_status: Vec<Vec<String>>,
            plugins: Plugins,
            memory_limit: bool,
            swap_limit: bool,
            cpu_cfs_period: bool = "CpuCfsPeriod",
            cpu_cfs_quota: bool = "CpuCfsQuota",
            cpu_shares: bool = "CPUShares",
            cpu_set: bool = "CPUSet",
            pids_limit: bool,
            ipv4_forwarding: bool = "IPv4Forwarding",
            bridge_nf_iptables: bool,
            bridge_nf_ip6tables: bool,
            debug: bool,
            n_fd: i64 = "NFd",
            oom_kill_disable: bool,
            n_goroutines: i64 = "NGoroutines",
            system_time: String,
            logging_driver: String,
            cgroup_driver: String,
            cgroup_version: String,
            n_events_listener: i64 = "NEventsListener",
            kernel_version: String,
            operating_system: String,
            os_version: String = "OSVersion",
            os_type: String = "OSType",
            architecture: String,
            index_server_address: String,
            registry_config: RegistryConfig,
            ncpu: i64 = "NCPU",
            mem_total: i64,
            generic_resources: Vec<GenericResource>,
            docker_root_dir: String,
            http_proxy: String,
            https_proxy: String,
            no_proxy: String,
            name: String,
            labels: Vec<String>,
            experimental_build: bool,
            server_version: String,
            runtimes: BTreeMap<String, Runtime>,
            default_runtime: String,
            swarm: SwarmInfo,
            live_restore_enabled: bool,
            isolation: String,
            init_binary: String,
            containerd_commit: Commit,
            runc_commit: Commit,
            init_commit: Commit,
            security_options: Vec<String>,
            warnings: Vec<String>,
        }
    }

    /// Drivers by what they do.
    Plugins {
        always {
            volume: Vec<String>,
            network: Vec<String>,
            authorization: Vec<String>,
            log: Vec<String>,
        }
    }

    /// How registries are spoken to.
    RegistryConfig {
        always {
            insecure_registry_cidrs: Vec<String> = "InsecureRegistryCIDRs",
            index_configs: BTreeMap<String, IndexConfig>,
            mirrors: Vec<String>,
        }
    }

    /// One registry.
    IndexConfig {
        always { name: String, mirrors: Vec<String>, secure: bool, official: bool }
    }

    /// The program that starts containers.
    Runtime {
        always { path: String = "path" }
    }

    /// A program's version.
    Commit {
        always { id: String = "ID", expected: String }
    }

    /// This node's part in a cluster.
    SwarmInfo {
        always {
            node_id: String = "NodeID",
            node_addr: String,
            local_node_state: String,
            control_available: bool,
            error: String,
            remote_managers: Vec<Peer>,
        }
        omit { nodes: u64, managers: u64, cluster: Option<Swarm>, warnings: Vec<String> }
    }

    /// The answer to `POST /auth`.
    AuthResponse {
        always { status: String, identity_token: String }
    }

    /// A manager this node knows.
    Peer {
        always { node_id: String = "NodeID", addr: String }
    }
}
