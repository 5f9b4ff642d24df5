//! Tasks, towards the client.

use crate::daemon::handle::View;
use crate::model::engine::Version;
use crate::model::engine::network::{Network as JsonNetwork, NetworkSpec};
use crate::model::engine::task as json;
use crate::model::task::{Address, Task};

use super::{container, service};

/// `service.slot.taskid`, or `service.nodeid.taskid` for a global service.
#[must_use]
pub fn name(task: &Task) -> String {
    match (task.slot, task.node) {
        (0, Some(node)) => format!("{}.{node}.{}", task.service_name, task.id),
        (slot, _) => format!("{}.{slot}.{}", task.service_name, task.id),
    }
}

/// A task.
#[must_use]
pub fn task(task: &Task, view: &View) -> json::Task {
    let status = &task.status;
    let started = status.pid != 0 || status.exit_code.is_some();
    json::Task {
        id: task.id.to_string(),
        version: Version { index: task.meta.version },
        created_at: task.meta.created.to_string(),
        updated_at: task.meta.updated.to_string(),
        spec: container::task_spec(&task.spec),
        service_id: task.service.to_string(),
        slot: task.slot,
        node_id: task.node.map(|node| node.to_string()).unwrap_or_default(),
        desired_state: task.desired.as_str().to_owned(),
        status: json::TaskStatus {
            timestamp: status.timestamp.to_string(),
            state: status.state.as_str().to_owned(),
            message: status.message.clone(),
            err: status.err.clone(),
            container_status: started.then(|| json::ContainerStatus {
                container_id: task.id.to_string(),
                pid: i64::from(status.pid),
                exit_code: i64::from(status.exit_code.unwrap_or(0)),
            }),
            port_status: json::PortStatus { ports: status.ports.iter().map(service::port).collect() },
        },
        networks_attachments: task
            .addresses
            .iter()
            .map(|address| attachment(address, view))
            .collect(),
        ..json::Task::default()
    }
}

fn attachment(address: &Address, view: &View) -> json::NetworkAttachment {
    let network = view.networks.iter().find(|network| network.id == address.network);
    let prefix = network.map_or(32, |network| network.subnet.prefix);
    let shown = network.map_or_else(JsonNetwork::default, |network| JsonNetwork {
        id: network.id.to_string(),
        version: Version { index: network.meta.version },
        created_at: network.meta.created.to_string(),
        updated_at: network.meta.updated.to_string(),
        spec: NetworkSpec {
            name: network.name.clone(),
            labels: network.labels.clone(),
            ingress: network.ingress,
            scope: "swarm".to_owned(),
            ..NetworkSpec::default()
        },
        ..JsonNetwork::default()
    });
    json::NetworkAttachment {
        network: shown,
        addresses: vec![format!("{}/{prefix}", address.address)],
    }
}
