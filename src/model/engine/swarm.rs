//! The cluster as the Engine API shows it.

use super::{Driver, Labels, Version, engine};

engine! {
    /// `GET /swarm`, and without the tokens `Swarm.Cluster` of `/info`.
    Swarm {
        always {
            id: String = "ID",
            version: Version,
            created_at: String,
            updated_at: String,
            spec: SwarmSpec,
            tls_info: TlsInfo = "TLSInfo",
            root_rotation_in_progress: bool,
            default_addr_pool: Vec<String>,
            subnet_size: u32,
            data_path_port: u32,
        }
        omit { join_tokens: Option<JoinTokens> }
    }

    /// The secrets that let a machine join.
    JoinTokens {
        always { worker: String, manager: String }
    }

    /// The cluster's certificate authority; both issuer fields are base64.
    TlsInfo {
        omit {
            trust_root: String,
            cert_issuer_subject: String,
            cert_issuer_public_key: String,
        }
    }

    /// What the user decides about the cluster.
    SwarmSpec {
        always { labels: Labels }
        omit {
            name: String,
            orchestration: OrchestrationConfig,
            raft: RaftConfig,
            dispatcher: DispatcherConfig,
            ca_config: CaConfig = "CAConfig",
            task_defaults: TaskDefaults,
            encryption_config: EncryptionConfig,
        }
    }

    /// How many old tasks are kept.
    OrchestrationConfig {
        omit { task_history_retention_limit: Option<i64> }
    }

    /// Docker's settings of its Raft.
    RaftConfig {
        always { keep_old_snapshots: Option<u64> }
        omit {
            snapshot_interval: u64,
            log_entries_for_slow_followers: u64,
            election_tick: i64,
            heartbeat_tick: i64,
        }
    }

    /// How often workers report.
    DispatcherConfig {
        omit { heartbeat_period: i64 }
    }

    /// How long certificates live.
    CaConfig {
        omit { node_cert_expiry: i64, force_rotate: u64 }
    }

    /// What tasks get when they do not say.
    TaskDefaults {
        omit { log_driver: Option<Driver> }
    }

    /// Whether managers need a key to start.
    EncryptionConfig {
        always { auto_lock_managers: bool }
    }

    /// The body of `POST /swarm/init`.
    InitRequest {
        always { listen_addr: String, advertise_addr: String, force_new_cluster: bool }
        omit {
            data_path_addr: String,
            data_path_port: u32,
            default_addr_pool: Vec<String>,
            subnet_size: u32,
            auto_lock_managers: bool,
            availability: String,
            spec: SwarmSpec,
        }
    }

    /// The body of `POST /swarm/unlock`, and what `GET /swarm/unlockkey` answers.
    UnlockKey {
        always { unlock_key: String }
    }

    /// The body of `POST /swarm/join`.
    JoinRequest {
        always { listen_addr: String, advertise_addr: String, join_token: String }
        omit { data_path_addr: String, remote_addrs: Vec<String>, availability: String }
    }
}
