//! Docker's own client against our socket: the one that `DOCKER_CLIENT` names (Debian's), and the
//! one on the path, whichever are there; at least one must be.

use super::Server;
use super::twin::Twin;
use crate::client::{Docker, all, row};
use skep::api::front::Limits;

/// A client that speaks with a server.
fn docker(client: std::path::PathBuf, server: &Server) -> Docker {
    Docker::new(client, &server.socket, &server.folder)
}

fn each(test: impl Fn(&Docker, &Server)) {
    for client in all() {
        let server = Server::new();
        test(&docker(client, &server), &server);
    }
}

#[test]
fn version_and_info() {
    each(|docker, _| {
        let version = docker.ok(&["version"]);
        for wanted in ["Server: skep", "API version:", "(minimum version 1.24)", "linux/amd64"] {
            assert!(version.contains(wanted), "{wanted} is missing in\n{version}");
        }
        let json =
            docker.ok(&["version", "--format", "{{.Server.Version}} {{.Server.APIVersion}}"]);
        assert_eq!(json, "0.1.0 1.51\n");
        let info = docker.ok(&["info"]);
        for wanted in [
            "Swarm: active",
            "Is Manager: true",
            "Managers: 1",
            "Nodes: 1",
            "Default Address Pool: 10.0.0.0/8",
            "Task History Retention Limit: 5",
            "Manager Addresses:",
            "10.77.0.1:2377",
            "Operating System: Twin Linux",
            "Docker Root Dir: /var/lib/skep",
        ] {
            assert!(info.contains(wanted), "{wanted} is missing in\n{info}");
        }
    });
}

#[test]
fn nodes() {
    each(|docker, _| {
        let table = docker.ok(&["node", "ls"]);
        let cells = row(&table, 1, "node1");
        assert_eq!(cells[1..], ["node1", "Ready", "Active", "Leader", "0.1.0"], "{table}");
        let id = docker.ok(&["node", "ls", "-q"]).trim().to_owned();
        assert_eq!(id.len(), 25);
        let name = docker.ok(&["node", "inspect", "--format", "{{.Description.Hostname}}", "self"]);
        assert_eq!(name, "node1\n");
        assert!(docker.ok(&["node", "inspect", "--pretty", &id[..6]]).contains("Hostname:"));
        assert!(docker.fails(&["node", "inspect", "nope"]).to_lowercase().contains("nope"));
    });
}

#[test]
fn a_service_from_its_creation_to_its_end() {
    each(|docker, _| {
        let image = "registry.invalid/web:1";
        let common = ["service", "create", "--no-resolve-image", "-d"];
        let id = docker.ok(&[
            &common[..],
            &["--name", "web", "--replicas", "2", "-p", "80:8080", image],
        ]
        .concat());
        let id = id.trim();
        assert_eq!(id.len(), 25);

        let table = docker.ok(&["service", "ls"]);
        let cells = row(&table, 1, "web");
        assert_eq!(cells, [&id[..12], "web", "replicated", "2/2", image, "*:80->8080/tcp"]);

        let table = docker.ok(&["service", "ps", "web"]);
        let cells = row(&table, 1, "web.1");
        assert_eq!(cells[2..5], [image, "node1", "Running"], "{table}");
        assert!(cells[5].starts_with("Running "), "{table}");
        row(&table, 1, "web.2");

        let one = docker.ok(&["service", "inspect", "--format", "{{json .Spec.Mode}}", &id[..8]]);
        assert_eq!(one, "{\"Replicated\":{\"Replicas\":2}}\n");
        let pretty = docker.ok(&["service", "inspect", "--pretty", "web"]);
        for wanted in
            ["Replicas:\t2", "Parallelism:\t1", "PublishedPort = 80", "Endpoint Mode:\tvip"]
        {
            assert!(pretty.contains(wanted), "{wanted:?} is missing in\n{pretty}");
        }

        let scaled = docker.ok(&["service", "scale", "-d", "web=3"]);
        assert_eq!(scaled, "web scaled to 3\n");
        let table = docker.ok(&["service", "ls"]);
        assert_eq!(row(&table, 1, "web")[3], "3/3");
        docker.ok(&["service", "update", "-d", "--env-add", "A=b", "--label-add", "l=1", "web"]);
        let env = "{{.Spec.TaskTemplate.ContainerSpec.Env}} {{.Spec.Labels}}";
        assert_eq!(docker.ok(&["service", "inspect", "--format", env, "web"]), "[A=b] map[l:1]\n");
        assert_eq!(docker.ok(&["service", "ls", "-q", "-f", "label=l=1"]).trim(), &id[..12]);
        assert_eq!(docker.ok(&["service", "ls", "-q", "-f", "name=other"]), "");

        assert_eq!(docker.ok(&["service", "rm", "web"]), "web\n");
        assert_eq!(docker.ok(&["service", "ls", "-q"]), "");
        assert!(docker.fails(&["service", "inspect", "web"]).contains("no such service: web"));
    });
}

#[test]
fn the_attached_client_sees_convergence() {
    each(|docker, _| {
        let create =
            ["service", "create", "--no-resolve-image", "--name", "web", "--replicas", "2"];
        let monitor = ["--update-monitor", "100ms", "registry.invalid/web:1"];
        let out = docker.ok(&[&create[..], &monitor[..]].concat());
        assert!(out.contains("overall progress: 2 out of 2 tasks"), "{out}");
        assert!(out.contains("converged"), "{out}");
    });
}

/// The arguments of a create that does not wait.
fn created<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["service", "create", "--no-resolve-image", "-d", "--name"], arguments].concat()
}

#[test]
fn refusals_in_dockers_words() {
    each(|docker, _| {
        docker.ok(&created(&["web", "-p", "8082:80", "x/web:1"]));
        for (arguments, wanted) in [
            (
                &["web", "x/y:1"][..],
                "name conflicts with an existing object: service web already exists",
            ),
            (&["bad name", "x/y:1"], "name must be valid as a DNS name component"),
            (&["b", "-p", "8082:80", "x/y:1"], "port '8082' is already in use by service 'web'"),
            (
                &["b", "--constraint", "foo", "x/y:1"],
                "constraint expected one operator from ==, !=",
            ),
            (
                &["b", "--limit-memory", "1", "x/y:1"],
                "invalid memory value 1: Must be at least 4MiB",
            ),
            (
                &["b", "--limit-cpu", "0.00001", "x/y:1"],
                "invalid cpu value 1e-05: Must be at least 0.001",
            ),
            (&["b", "Not/An:Image:1"], "is not a valid repository/tag"),
            (
                &["b", "--endpoint-mode", "dnsrr", "-p", "8099:80", "x/y:1"],
                "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
            ),
            (
                &[
                    "b",
                    "--mount",
                    "type=volume,source=a,target=/x",
                    "--mount",
                    "type=tmpfs,target=/x",
                    "x/y:1",
                ],
                "ContainerSpec: duplicate mount point: /x",
            ),
        ] {
            let error = docker.fails(&created(arguments));
            assert!(error.contains(wanted), "{arguments:?}: {error}");
            assert!(error.starts_with("Error response from daemon: rpc error: code = "), "{error}");
        }
        for mount in ["type=nfs", "o=addr=10.0.0.9"] {
            let mount = format!("type=volume,source=a,target=/x,volume-opt={mount}");
            let error = docker.fails(&created(&["b", "--mount", &mount, "x/y:1"]));
            assert!(error.contains("not implemented: options of volumes"), "{error}");
        }
        let error = docker.fails(&created(&["b", "-p", "31000-60000:1-29001", "x/y:1"]));
        assert!(error.contains("29001 published ports are more than the 4096"), "{error}");
        assert!(docker.fails(&["service", "ls", "-f", "bogus=1"]).contains("'bogus'"));
        assert!(docker.fails(&["service", "rm", "nope"]).contains("nope"));
        assert_eq!(docker.ok(&["service", "ls", "-q"]).lines().count(), 1, "nothing was changed");
    });
}

#[test]
fn nobody_is_warned_of_health_checks() {
    each(|docker, _| {
        let output = docker.run(&created(&["web", "--health-cmd", "true", "x/web:1"]));
        assert_eq!(output.err, "");
        let output = docker.run(&created(&["off", "--no-healthcheck", "x/web:1"]));
        assert_eq!(output.err, "");
        let update = ["service", "update", "-d", "--no-resolve-image"];
        let output = docker.run(&[&update[..], &["--label-add", "a=b", "web"]].concat());
        assert_eq!(output.err, "");
        let output = docker.run(&[&update[..], &["--health-retries", "9", "web"]].concat());
        assert_eq!(output.err, "");
    });
}

#[test]
fn outside_a_swarm_docker_says_so() {
    for client in all() {
        let server = Server::with(Limits::default(), Twin::alone);
        let docker = docker(client, &server);
        let wanted = "This node is not a swarm manager. Use \"skep init\" or \"skep join\" \
            to connect this node to swarm and try again.";
        assert!(docker.fails(&["service", "ls"]).contains(wanted));
        assert!(docker.fails(&["swarm", "leave"]).contains("This node is not part of a swarm"));
        assert!(docker.ok(&["info"]).contains("Swarm: inactive"));
        docker.ok(&["swarm", "init"]);
        assert!(docker.fails(&["swarm", "init"]).contains("This node is already part of a swarm."));
        assert!(docker.fails(&["swarm", "leave"]).contains("Use `--force` to ignore this message"));
        docker.ok(&["swarm", "leave", "--force"]);
        assert!(docker.ok(&["info"]).contains("Swarm: inactive"));
    }
}

#[test]
fn logs_of_a_service_and_of_a_task() {
    for client in all() {
        let log = [Some((false, "one\n")), Some((true, "two\n")), Some((false, "three\n"))];
        let server = Server::with(Limits::default(), |folder| Twin::new(folder).writing(&log));
        let docker = docker(client, &server);
        docker.ok(&created(&["web", "x/web:1"]));
        let task = docker.ok(&["service", "ps", "-q", "--no-trunc", "web"]).trim().to_owned();
        let output = docker.run(&["service", "logs", "web"]);
        let prefix = format!("web.1.{}@node1    | ", &task[..12]);
        assert_eq!(output.out, format!("{prefix}one\n{prefix}three\n"));
        assert_eq!(output.err, format!("{prefix}two\n"));
        let tail = docker.ok(&["service", "logs", "-t", "--tail", "1", "web"]);
        assert_eq!(tail, format!("1970-01-01T00:00:03.000000000Z {prefix}three\n"));
        let raw = docker.run(&["service", "logs", "--raw", &task]);
        assert_eq!((&*raw.out, &*raw.err), ("one\nthree\n", "two\n"));
    }
}

#[test]
fn images_and_volumes() {
    each(|docker, server| {
        assert_eq!(docker.ok(&["image", "ls", "-q"]), "");
        assert!(docker.fails(&["image", "inspect", "nope"]).contains("No such image: nope"));
        assert!(docker.fails(&["image", "rm", "nope"]).contains("No such image: nope"));
        assert!(docker.fails(&["pull", "127.0.0.1:1/x/y"]).contains("127.0.0.1:1"));
        let garbage = server.folder.join("garbage.tar");
        std::fs::write(&garbage, "no archive").unwrap();
        docker.fails(&["load", "-i", garbage.to_str().unwrap()]);
        assert!(docker.ok(&["image", "prune", "-f"]).contains("Total reclaimed space: 0B"));

        assert_eq!(docker.ok(&["volume", "create", "--label", "a=b", "data"]), "data\n");
        let table = docker.ok(&["volume", "ls"]);
        assert_eq!(row(&table, 1, "data"), ["local", "data"]);
        let place =
            docker.ok(&["volume", "inspect", "--format", "{{.Mountpoint}} {{.Labels}}", "data"]);
        assert_eq!(place, "/var/lib/skep/volumes/data map[a:b]\n");
        assert_eq!(docker.ok(&["volume", "rm", "data"]), "data\n");
        let made = docker.ok(&["volume", "create"]).trim().to_owned();
        assert!(made.len() == 64 && made.bytes().all(|b| b.is_ascii_hexdigit()), "{made}");
        assert_ne!(docker.ok(&["volume", "create"]).trim(), made);
        docker.ok(&["volume", "inspect", &made]);
        assert!(docker.fails(&["volume", "inspect", "data"]).contains("data"));
        assert!(docker.ok(&["network", "ls"]).contains("ingress"));
    });
}
