//! The table of tasks: `service ps` and `node ps`.

use std::collections::BTreeMap;

use super::age;
use super::client::{Client, encode};
use super::format::{Listing, Row, row};
use super::query::{ellipsis, short, tagged, title};
use super::table::natural;
use crate::model::engine::node::Node;
use crate::model::engine::service::{PortConfig, Service};
use crate::model::engine::task::Task;

/// Letters of an error that a table shows.
const ERROR_CHARS_MAX: usize = 30;

/// The table's layout.
pub const LISTING: Listing<'_> = Listing {
    table: "{{.ID}}\t{{.Name}}\t{{.Image}}\t{{.Node}}\t{{.DesiredState}}\t{{.CurrentState}}\t{{.Error}}\t{{.Ports}}",
    quiet: "{{.ID}}",
    headings: &[
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Image", "IMAGE"),
        ("Node", "NODE"),
        ("DesiredState", "DESIRED STATE"),
        ("CurrentState", "CURRENT STATE"),
        ("Error", "ERROR"),
        ("Ports", "PORTS"),
    ],
};

/// Names of services and nodes by their ids; each is asked for once.
#[derive(Debug)]
pub struct Names<'a> {
    client: &'a Client,
    resolve: bool,
    services: BTreeMap<String, String>,
    nodes: BTreeMap<String, String>,
}

impl<'a> Names<'a> {
    /// Ids stay ids unless `resolve`.
    #[must_use]
    pub fn new(client: &'a Client, resolve: bool) -> Self {
        Self { client, resolve, services: BTreeMap::new(), nodes: BTreeMap::new() }
    }

    /// A service's name; its id where the daemon does not know it any more.
    pub fn service(&mut self, id: &str) -> String {
        if !self.resolve || id.is_empty() {
            return id.to_owned();
        }
        let client = self.client;
        let found = || client.get::<Service>(&format!("/services/{}", encode(id)));
        let name = || found().map_or_else(|_| id.to_owned(), |service| service.spec.name);
        self.services.entry(id.to_owned()).or_insert_with(name).clone()
    }

    /// A node's host name; its id where the daemon does not know it any more.
    pub fn node(&mut self, id: &str) -> String {
        if !self.resolve || id.is_empty() {
            return id.to_owned();
        }
        let client = self.client;
        let name = || match client.get::<Node>(&format!("/nodes/{}", encode(id))) {
            Ok(node) if !node.spec.name.is_empty() => node.spec.name,
            Ok(node) if !node.description.hostname.is_empty() => node.description.hostname,
            _ => id.to_owned(),
        };
        self.nodes.entry(id.to_owned()).or_insert_with(name).clone()
    }

    /// A task by its id.
    pub fn find_task(&self, id: &str) -> Option<Task> {
        match self.client.get::<Task>(&format!("/tasks/{}", encode(id))) {
            Ok(task) if !id.is_empty() => Some(task),
            Ok(_) | Err(_) => None,
        }
    }

    /// `web.1`, or `web.NODEID` of a global service.
    pub fn task(&mut self, task: &Task) -> String {
        let service = self.service(&task.service_id);
        if task.slot != 0 {
            format!("{service}.{}", task.slot)
        } else {
            format!("{service}.{}", task.node_id)
        }
    }
}

/// The lines of a table, sorted by name with the newest task of a name first. `indent` marks older
/// ones, as the plain table does.
pub fn rows(
    tasks: Vec<Task>,
    names: &mut Names<'_>,
    trunc: bool,
    short_ids: bool,
    indent: bool,
) -> Vec<Row> {
    let now = age::now_micros();
    let mut named: Vec<(String, Task)> =
        tasks.into_iter().map(|task| (names.task(&task), task)).collect();
    named.sort_by(|(a, x), (b, y)| {
        let newest = age::micros(&y.created_at).cmp(&age::micros(&x.created_at));
        natural(a, b).then(newest).then_with(|| x.id.cmp(&y.id))
    });
    let mut last = String::new();
    let mut out = Vec::new();
    for (name, task) in named {
        let shown = if indent && name == last { format!(" \\_ {name}") } else { name.clone() };
        last = name;
        out.push(line(&task, shown, names, trunc, short_ids, now));
    }
    out
}

fn line(
    task: &Task,
    name: String,
    names: &mut Names<'_>,
    trunc: bool,
    short_ids: bool,
    now: i64,
) -> Row {
    let image = task.spec.container_spec.as_ref().map_or("", |spec| spec.image.as_str());
    let error = match task.status.err.as_str() {
        "" => String::new(),
        text if trunc => format!("\"{}\"", ellipsis(text, ERROR_CHARS_MAX)),
        text => format!("\"{text}\""),
    };
    let age = age::ago(&task.status.timestamp, now).to_lowercase();
    row([
        ("ID", if short_ids { short(&task.id) } else { task.id.clone() }),
        ("Name", name),
        ("Image", if trunc { tagged(image).to_owned() } else { image.to_owned() }),
        ("Node", names.node(&task.node_id)),
        ("DesiredState", title(&task.desired_state)),
        ("CurrentState", format!("{} {age}", title(&task.status.state))),
        ("Error", error),
        ("Ports", ports(&task.status.port_status.ports)),
    ])
}

fn ports(ports: &[PortConfig]) -> String {
    let host = |port: &PortConfig| {
        let ip = if port.host_ip.is_empty() { "*" } else { &port.host_ip };
        format!("{ip}:{}->{}/{}", port.published_port, port.target_port, port.protocol)
    };
    ports.iter().map(host).collect::<Vec<_>>().join(",")
}
