//! From method and path to what is asked for: one match. Pure.

/// What is asked for. Names are as in the path, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// `/_ping`
    Ping,
    /// `/version`
    Version,
    /// `/info`
    Info,
    /// `/auth`
    Auth,
    /// `/events`
    Events,
    /// `/plugins`
    Plugins,
    /// `GET /swarm`
    Swarm,
    /// `/swarm/init`
    SwarmInit,
    /// `/swarm/join`
    SwarmJoin,
    /// `/swarm/update`
    SwarmUpdate,
    /// `/swarm/leave`
    SwarmLeave,
    /// `/swarm/unlock`
    SwarmUnlock,
    /// `GET /swarm/unlockkey`
    SwarmUnlockKey,
    /// `/skep/shutdown`, which Docker does not have
    Shutdown,
    /// `GET /nodes`
    Nodes,
    /// `GET /nodes/{id}`
    Node(&'a str),
    /// `POST /nodes/{id}/update`
    NodeUpdate(&'a str),
    /// `DELETE /nodes/{id}`
    NodeRemove(&'a str),
    /// `GET /services`
    Services,
    /// `/services/create`
    ServiceCreate,
    /// `GET /services/{id}`
    Service(&'a str),
    /// `/services/{id}/update`
    ServiceUpdate(&'a str),
    /// `DELETE /services/{id}`
    ServiceRemove(&'a str),
    /// `/services/{id}/logs`
    ServiceLogs(&'a str),
    /// `GET /tasks`
    Tasks,
    /// `GET /tasks/{id}`
    Task(&'a str),
    /// `/tasks/{id}/logs`
    TaskLogs(&'a str),
    /// `GET /networks`
    Networks,
    /// `GET /networks/{id}`
    Network(&'a str),
    /// `/images/json`
    Images,
    /// `/images/create`
    ImagePull,
    /// `/images/load`
    ImageLoad,
    /// `/images/prune`
    ImagesPrune,
    /// `/images/{name}/json`
    Image(&'a str),
    /// `DELETE /images/{name}`
    ImageRemove(&'a str),
    /// `/distribution/{name}/json`
    Distribution(&'a str),
    /// `GET /volumes`
    Volumes,
    /// `/volumes/create`
    VolumeCreate,
    /// `/volumes/prune`
    VolumesPrune,
    /// `GET /volumes/{name}`
    Volume(&'a str),
    /// `DELETE /volumes/{name}`
    VolumeRemove(&'a str),
    /// Docker has it, this program does not.
    Unimplemented,
    /// Nobody knows it.
    NotFound,
}

/// First parts of paths that Docker's engine has beyond those of [`Route`].
const DOCKERS: [&str; 18] = [
    "auth", "build", "commit", "configs", "containers", "distribution", "exec", "grpc", "images",
    "networks", "nodes", "plugins", "secrets", "services", "session", "swarm", "system", "volumes",
];

/// Finds the route of a decoded path without version.
#[must_use]
pub fn route<'a>(method: &str, path: &'a str) -> Route<'a> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let found = match method {
        "GET" | "HEAD" => get(method, first, rest),
        "POST" => post(first, rest),
        "DELETE" => delete(first, rest),
        _ => None,
    };
    found.unwrap_or(if DOCKERS.contains(&first) && path.len() > first.len() + 1
        || matches!(first, "build" | "commit" | "configs" | "secrets" | "session" | "grpc")
    {
        Route::Unimplemented
    } else {
        Route::NotFound
    })
}

fn get<'a>(method: &str, first: &str, rest: &'a str) -> Option<Route<'a>> {
    let route = match (first, rest) {
        ("_ping", "") => Route::Ping,
        _ if method == "HEAD" => return None,
        ("version", "") => Route::Version,
        ("info", "") => Route::Info,
        ("events", "") => Route::Events,
        ("plugins", "") => Route::Plugins,
        ("swarm", "") => Route::Swarm,
        ("swarm", "unlockkey") => Route::SwarmUnlockKey,
        ("nodes", "") => Route::Nodes,
        ("services", "") => Route::Services,
        ("tasks", "") => Route::Tasks,
        ("networks", "") => Route::Networks,
        ("volumes", "") => Route::Volumes,
        ("images", "json") => Route::Images,
        ("nodes", id) => Route::Node(id),
        ("networks", id) => Route::Network(id),
        ("volumes", name) => Route::Volume(name),
        ("services", rest) => inner(rest, "logs").map_or(Route::Service(rest), Route::ServiceLogs),
        ("tasks", rest) => inner(rest, "logs").map_or(Route::Task(rest), Route::TaskLogs),
        ("images", rest) => Route::Image(inner(rest, "json")?),
        ("distribution", rest) => Route::Distribution(inner(rest, "json")?),
        _ => return None,
    };
    Some(route)
}

fn post<'a>(first: &str, rest: &'a str) -> Option<Route<'a>> {
    let route = match (first, rest) {
        ("auth", "") => Route::Auth,
        ("swarm", "init") => Route::SwarmInit,
        ("swarm", "join") => Route::SwarmJoin,
        ("swarm", "update") => Route::SwarmUpdate,
        ("swarm", "leave") => Route::SwarmLeave,
        ("swarm", "unlock") => Route::SwarmUnlock,
        ("skep", "shutdown") => Route::Shutdown,
        ("services", "create") => Route::ServiceCreate,
        ("images", "create") => Route::ImagePull,
        ("images", "load") => Route::ImageLoad,
        ("images", "prune") => Route::ImagesPrune,
        ("volumes", "create") => Route::VolumeCreate,
        ("volumes", "prune") => Route::VolumesPrune,
        ("services", rest) => Route::ServiceUpdate(inner(rest, "update")?),
        ("nodes", rest) => Route::NodeUpdate(inner(rest, "update")?),
        _ => return None,
    };
    Some(route)
}

fn delete<'a>(first: &str, rest: &'a str) -> Option<Route<'a>> {
    let route = match (first, rest) {
        (_, "") => return None,
        ("services", id) => Route::ServiceRemove(id),
        ("nodes", id) => Route::NodeRemove(id),
        ("volumes", name) => Route::VolumeRemove(name),
        ("images", name) => Route::ImageRemove(name),
        _ => return None,
    };
    Some(route)
}

/// What stands before `/LAST`. Names of images hold slashes; with one in it another name is one
/// that nothing has, and is told so.
fn inner<'a>(rest: &'a str, last: &str) -> Option<&'a str> {
    rest.strip_suffix(last)?.strip_suffix('/').filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn routes() {
        for (method, path, wanted) in [
            ("HEAD", "/_ping", Route::Ping),
            ("GET", "/_ping", Route::Ping),
            ("HEAD", "/info", Route::NotFound),
            ("GET", "/services", Route::Services),
            ("GET", "/services/web", Route::Service("web")),
            ("GET", "/services/a/b", Route::Service("a/b")),
            ("DELETE", "/services/a/b", Route::ServiceRemove("a/b")),
            ("DELETE", "/services/", Route::NotFound),
            ("POST", "/services/a/b/update", Route::ServiceUpdate("a/b")),
            ("GET", "/services/create", Route::Service("create")),
            ("POST", "/services/create", Route::ServiceCreate),
            ("POST", "/skep/shutdown", Route::Shutdown),
            ("GET", "/skep/shutdown", Route::NotFound),
            ("GET", "/swarm/unlockkey", Route::SwarmUnlockKey),
            ("POST", "/swarm/unlock", Route::SwarmUnlock),
            ("POST", "/services/web/update", Route::ServiceUpdate("web")),
            ("GET", "/services/web/logs", Route::ServiceLogs("web")),
            ("GET", "/images/json", Route::Images),
            ("GET", "/images/localhost:5000/a/b:1/json", Route::Image("localhost:5000/a/b:1")),
            ("DELETE", "/images/a/b", Route::ImageRemove("a/b")),
            ("GET", "/distribution/a/b/json", Route::Distribution("a/b")),
            ("POST", "/containers/x/attach", Route::Unimplemented),
            ("GET", "/secrets", Route::Unimplemented),
            ("GET", "/services/", Route::Services),
            ("PUT", "/nope", Route::NotFound),
            ("GET", "/nope", Route::NotFound),
            ("GET", "", Route::NotFound),
            ("GET", "//", Route::NotFound),
        ] {
            assert_eq!(route(method, path), wanted, "{method} {path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_breaks_it(method in "GET|POST|DELETE|HEAD|[A-Z]{0,5}", path in ".{0,80}") {
            for path in [path.clone(), format!("/services/{path}"), format!("/images/{path}/json")] {
                prop_assert_eq!(route(&method, &path), route(&method, &path));
            }
        }
    }
}
