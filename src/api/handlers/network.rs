//! Networks: list and look at.

use crate::api::call::Call;
use crate::api::engine::Engine;
use crate::api::errors::ApiError;
use crate::api::lookup::{Candidate, find};
use crate::api::respond::Reply;
use crate::daemon::handle::{SwarmState, View};
use crate::model::engine::network as json;
use crate::model::network::{GWBRIDGE, Network};

const FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];

/// Networks that no user made and that every Docker has under these names.
const BUILTIN: [&str; 2] = ["host", "none"];

/// `GET /networks`.
pub(super) fn list(engine: &dyn Engine, call: &Call<'_>) -> Result<Reply, ApiError> {
    let filters = call.query.filters(&FILTERS)?;
    let mut shown = all(engine)?;
    shown.retain(|network| {
        let kind = if BUILTIN.contains(&network.name.as_str()) { "builtin" } else { "custom" };
        filters.any("name", |part| network.name.contains(part))
            && filters.prefix("id", &network.id)
            && filters.exact("driver", &network.driver)
            && filters.exact("scope", &network.scope)
            && filters.exact("type", kind)
            && filters.labels("label", &network.labels)
    });
    Ok(Reply::json(&shown))
}

/// `GET /networks/{id}`.
pub(super) fn inspect(engine: &dyn Engine, typed: &str) -> Result<Reply, ApiError> {
    let networks = all(engine)?;
    let candidates = networks.iter().map(|network| Candidate {
        id: network.id.clone(),
        name: network.name.clone(),
        object: network,
    });
    Ok(Reply::json(find("network", typed, candidates)?))
}

fn all(engine: &dyn Engine) -> Result<Vec<json::NetworkResource>, ApiError> {
    let mut networks = vec![local("host", "host"), local("none", "null")];
    if let SwarmState::Active { .. } = engine.swarm() {
        let view: &View = &*engine.view()?;
        networks.extend(view.networks.iter().map(|it| network(it)));
    }
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(networks)
}

/// The networks that every engine has.
fn local(name: &str, driver: &str) -> json::NetworkResource {
    json::NetworkResource {
        name: name.to_owned(),
        id: name.to_owned(),
        scope: "local".to_owned(),
        driver: driver.to_owned(),
        ipam: json::Ipam { driver: "default".to_owned(), ..json::Ipam::default() },
        created: "0001-01-01T00:00:00Z".to_owned(),
        ..json::NetworkResource::default()
    }
}

fn network(network: &Network) -> json::NetworkResource {
    let subnet = network.subnet;
    // Docker's has its name on each node for itself.
    let (scope, driver) =
        if network.name == GWBRIDGE { ("local", "bridge") } else { ("swarm", "overlay") };
    json::NetworkResource {
        name: network.name.clone(),
        id: network.id.to_string(),
        created: network.meta.created.to_string(),
        scope: scope.to_owned(),
        driver: driver.to_owned(),
        enable_ipv4: true,
        ipam: json::Ipam {
            driver: "default".to_owned(),
            config: vec![json::IpamConfig {
                subnet: format!("{}/{}", subnet.base, subnet.prefix),
                ip_range: String::new(),
                gateway: subnet.nth(1).map(|address| address.to_string()).unwrap_or_default(),
            }],
            ..json::Ipam::default()
        },
        ingress: network.ingress,
        labels: network.labels.clone(),
        ..json::NetworkResource::default()
    }
}
