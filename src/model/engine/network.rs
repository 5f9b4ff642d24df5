//! Networks as the Engine API shows them: one shape in lists, another inside a task.

use super::{Driver, Labels, Version, engine};
use std::collections::BTreeMap;

engine! {
    /// An element of `GET /networks`.
    NetworkResource {
        always {
            name: String,
            id: String,
            created: String,
            scope: String,
            driver: String,
            enable_ipv4: bool = "EnableIPv4",
            enable_ipv6: bool = "EnableIPv6",
            ipam: Ipam = "IPAM",
            internal: bool,
            attachable: bool,
            ingress: bool,
            config_from: ConfigFrom,
            config_only: bool,
            containers: BTreeMap<String, EndpointResource>,
            options: Labels,
            labels: Labels,
        }
    }

    /// How addresses are given.
    Ipam {
        always { driver: String, options: Labels, config: Vec<IpamConfig> }
    }

    /// One pool of addresses.
    IpamConfig {
        omit { subnet: String, ip_range: String = "IPRange", gateway: String }
    }

    /// The network whose settings are used.
    ConfigFrom {
        always { network: String }
    }

    /// A container on a network.
    EndpointResource {
        always {
            name: String,
            endpoint_id: String = "EndpointID",
            mac_address: String,
            ipv4_address: String = "IPv4Address",
            ipv6_address: String = "IPv6Address",
        }
    }

    /// A network as a task's attachment shows it.
    Network {
        always {
            id: String = "ID",
            version: Version,
            created_at: String,
            updated_at: String,
            spec: NetworkSpec,
        }
        omit { driver_state: Option<Driver>, ipam_options: Option<IpamOptions> = "IPAMOptions" }
    }

    /// What the user decides about a network.
    NetworkSpec {
        always { name: String, labels: Labels }
        omit {
            driver_configuration: Option<Driver>,
            internal: bool,
            attachable: bool,
            ingress: bool,
            ipam_options: Option<IpamOptions> = "IPAMOptions",
            scope: String,
        }
    }

    /// Pools with their driver.
    IpamOptions {
        omit { driver: Option<Driver>, configs: Vec<IpamConfig> }
    }
}
