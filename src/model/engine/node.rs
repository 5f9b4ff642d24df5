//! Nodes as the Engine API shows them.

use super::swarm::TlsInfo;
use super::task::{Platform, Resources};
use super::{Labels, Version, engine};

engine! {
    /// A machine of the cluster.
    Node {
        always {
            id: String = "ID",
            version: Version,
            created_at: String,
            updated_at: String,
            spec: NodeSpec,
            description: NodeDescription,
            status: NodeStatus,
        }
        omit {
            /// Only on managers.
            manager_status: Option<ManagerStatus>,
        }
    }

    /// What the user decides about a node.
    NodeSpec {
        omit { name: String }
        always { labels: Labels }
        omit { role: String, availability: String }
    }

    /// What a node says about itself.
    NodeDescription {
        omit {
            hostname: String,
            platform: Platform,
            resources: Resources,
            engine: EngineDescription,
        }
        always { tls_info: TlsInfo = "TLSInfo" }
    }

    /// The program that runs a node's containers.
    EngineDescription {
        omit { engine_version: String, labels: Labels, plugins: Vec<PluginDescription> }
    }

    /// One thing the engine can do.
    PluginDescription {
        omit { r#type: String, name: String }
    }

    /// Whether a node is there.
    NodeStatus {
        omit { state: String, message: String, addr: String }
    }

    /// A manager's part in consensus.
    ManagerStatus {
        omit { leader: bool, reachability: String, addr: String }
    }
}
