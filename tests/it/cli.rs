//! The command line as a process, against a daemon of canned answers: outputs, requests, exit codes.
//!
//! In [`docker`] it and Docker's client are on one real node.

mod docker;
mod mock;
mod services;

use std::io::Write;
use std::process::Stdio;

use expect_test::{Expect, expect};
use serde_json::json;

use mock::{Answer, Mock, shown, skep};

fn ok(body: serde_json::Value) -> Answer {
    Answer::Json(200, body.to_string())
}

fn refused(status: u16, message: &str) -> Answer {
    Answer::Json(status, json!({ "message": message }).to_string())
}

fn check(args: &[&str], expected: &Expect) {
    expected.assert_eq(&shown(&skep(args).stdin(Stdio::null()).output().unwrap()));
}

#[test]
fn bad_command_lines_are_told_as_docker_tells_them() {
    check(
        &["service", "create", "--bogus-flag", "--name", "x", "web:1"],
        &expect![[r#"
            [stderr] unknown flag: --bogus-flag
            [stderr] See 'skep service create --help'.
            [rc=125]
        "#]],
    );
    check(
        &["service", "create", "--replica=3", "web:1"],
        &expect![[r#"
            [stderr] unknown flag: --replica
            [stderr] Did you mean --replicas?
            [stderr] See 'skep service create --help'.
            [rc=125]
        "#]],
    );
    check(
        &["service", "create", "--replicas", "-1", "--name", "x", "web:1"],
        &expect![[r#"
            [stderr] invalid argument "-1" for "--replicas" flag: strconv.ParseUint: parsing "-1": invalid syntax
            [stderr] See 'skep service create --help'.
            [rc=125]
        "#]],
    );
    check(
        &["service", "create", "-p", "99999:80", "web:1"],
        &expect![[r#"
            [stderr] invalid argument "99999:80" for "-p, --publish" flag: Invalid hostPort: 99999
            [stderr] See 'skep service create --help'.
            [rc=125]
        "#]],
    );
    check(
        &["service", "create"],
        &expect![[r#"
            [stderr] "skep service create" requires at least 1 argument.
            [stderr] See 'skep service create --help'.
            [stderr] 
            [stderr] Usage:  skep service create [OPTIONS] IMAGE [COMMAND] [ARG...]
            [stderr] 
            [stderr] Create a new service
            [rc=1]
        "#]],
    );
}

#[test]
fn refusals_behind_the_flags_exit_with_1() {
    check(
        &["service", "lss"],
        &expect![[r#"
            [stderr] skep: unknown command: skep service lss
            [stderr] Did you mean 'ls'?
            [stderr] See 'skep service --help'.
            [rc=1]
        "#]],
    );
    check(
        &["service", "create", "--mode", "bogus", "--name", "x", "web:1"],
        &expect![[r#"
            [stderr] Unknown mode: bogus, only replicated and global supported
            [rc=1]
        "#]],
    );
    check(
        &["service", "create", "--secret", "x", "web:1"],
        &expect![[r#"
            [stderr] --secret is not yet supported by skep
            [rc=1]
        "#]],
    );
    check(
        &["service", "create", "--env-file", "/nope", "web:1"],
        &expect![[r#"
            [stderr] open /nope: no such file or directory
            [rc=1]
        "#]],
    );
}

#[test]
fn no_daemon_is_told_with_what_to_do() {
    check(
        &["-H", "unix:///nonexistent/skep.sock", "service", "ls"],
        &expect![[r#"
            [stderr] Cannot connect to the skep daemon at unix:///nonexistent/skep.sock. Is the daemon running?
            [stderr] Start it and make this machine a swarm with 'sudo skep init', or name another socket with -H or SKEP_HOST.
            [rc=1]
        "#]],
    );
    check(
        &["--host=tcp://10.0.0.1:2375", "service", "ls"],
        &expect![[r#"
            [stderr] unable to parse docker host `tcp://10.0.0.1:2375`: only unix:///PATH is supported
            [rc=1]
        "#]],
    );
}

#[test]
fn answers_that_lie_are_errors() {
    for (bytes, expected) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[]"[..], "unexpected end of file"),
        (b"what?\r\n\r\n", "cannot be read: invalid HTTP version"),
        (b"", "cannot be read: the connection was closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope", "is not JSON"),
        (b"HTTP/1.1 500 X\r\nContent-Length: 5\r\n\r\noops\n", "Error response from daemon: oops"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "bad chunk"),
    ] {
        let mock = Mock::start(vec![("/services", Answer::Raw(bytes.to_vec()))]);
        let text = mock.run(&["service", "ls"]);
        assert!(text.contains(expected), "{expected}: {text}");
        assert!(text.ends_with("[rc=1]\n"), "{text}");
    }
}

#[test]
fn init_and_leave() {
    let mock = Mock::start(vec![
        ("/_ping", Answer::Json(200, "OK".to_owned())),
        ("POST /v1.51/swarm/init", ok(json!("v5bmodh5enjrv3f2iucyvo5u4"))),
        ("GET /v1.51/info", ok(json!({"Swarm": {"NodeID": "v5bmodh5enjrv3f2iucyvo5u4"}}))),
        ("GET /v1.51/nodes/v5bm", ok(json!({"ManagerStatus": {"Addr": "10.0.0.1:2377"}}))),
        (
            "GET /v1.51/swarm",
            ok(json!({"JoinTokens": {"Worker": "SWMTKN-1-w", "Manager": "SWMTKN-1-m"}})),
        ),
        ("POST /v1.51/swarm/leave?force=1", Answer::Json(200, String::new())),
        ("POST /v1.51/swarm/leave?force=0", refused(503, "You are attempting to leave")),
    ]);
    expect![[r#"
        Swarm initialized: current node (v5bmodh5enjrv3f2iucyvo5u4) is now a manager.

        To add a worker to this swarm, run the following command:

            skep join --token SWMTKN-1-w 10.0.0.1:2377

        To add a manager to this swarm, run 'skep join-token manager' and follow the instructions.

        To run a first service, which answers on port 80 of this machine:

            skep service create --name website --publish 80:80 skep/hello

        [rc=0]
    "#]]
    .assert_eq(&mock.run(&["swarm", "init", "--advertise-addr=10.0.0.1"]));
    let sent = mock.sent("/swarm/init");
    assert_eq!(sent["AdvertiseAddr"], "10.0.0.1");
    assert_eq!(sent["ListenAddr"], "0.0.0.0:2377");
    assert_eq!(mock.run(&["leave", "-f"]), "Node left the swarm.\n[rc=0]\n");
    assert_eq!(
        mock.run(&["swarm", "leave"]),
        "[stderr] Error response from daemon: You are attempting to leave\n[rc=1]\n"
    );
}

#[test]
fn a_node_that_others_change_meanwhile_is_tried_again_and_not_for_ever() {
    let id = "v5bmodh5enjrv3f2iucyvo5u4";
    let spec = json!({"Role": "worker", "Availability": "active"});
    let mock = Mock::start(vec![
        ("POST /v1.51/nodes/v5bm", refused(500, "update out of sequence")),
        ("GET /v1.51/nodes/v5bm", ok(json!({"ID": id, "Version": {"Index": 7}, "Spec": spec}))),
    ]);
    let said = mock.run(&["node", "promote", id]);
    assert!(said.contains("update out of sequence") && said.ends_with("[rc=1]\n"), "{said}");
    let tries = mock.seen().iter().filter(|it| it.line.starts_with("POST ")).count();
    assert_eq!(tries, 5);
    assert_eq!(
        mock.seen().iter().filter(|it| it.line.starts_with("GET ")).count() % 5,
        0,
        "read anew"
    );
}

#[test]
fn nodes_are_listed_by_name_with_a_star() {
    let node = |id: &str, name: &str, manager: bool| {
        let status = manager.then(|| json!({"Leader": true, "Reachability": "reachable"}));
        json!({
            "ID": id, "Spec": {"Availability": "active"}, "Status": {"State": "ready"},
            "Description": {"Hostname": name, "Engine": {"EngineVersion": "0.1.0"}},
            "ManagerStatus": status
        })
    };
    let nodes = json!([
        node("s03e22bzeq8bw6i9xsdssstdt", "node10", false),
        node("v5bmodh5enjrv3f2iucyvo5u4", "node2", true),
    ]);
    let mock = Mock::start(vec![
        ("GET /v1.51/nodes/nope", refused(404, "node nope not found")),
        ("GET /v1.51/nodes/v5bm", ok(nodes[1].clone())),
        ("GET /v1.51/nodes", ok(nodes)),
        ("GET /v1.51/info", ok(json!({"Swarm": {"NodeID": "v5bmodh5enjrv3f2iucyvo5u4"}}))),
    ]);
    expect![[r#"
        ID                            HOSTNAME   STATUS    AVAILABILITY   MANAGER STATUS   ENGINE VERSION
        v5bmodh5enjrv3f2iucyvo5u4 *   node2      Ready     Active         Leader           0.1.0
        s03e22bzeq8bw6i9xsdssstdt     node10     Ready     Active                          0.1.0
        [rc=0]
    "#]]
    .assert_eq(&mock.run(&["node", "ls"]));
    assert_eq!(
        mock.run(&["node", "ls", "-q"]),
        "v5bmodh5enjrv3f2iucyvo5u4\ns03e22bzeq8bw6i9xsdssstdt\n[rc=0]\n"
    );
    assert_eq!(
        mock.run(&["node", "ls", "--filter", "role=worker", "--format={{.Hostname}} {{.Status}}"]),
        "node2 Ready\nnode10 Ready\n[rc=0]\n"
    );
    let filtered = mock.seen();
    let filtered = filtered.iter().rev().find(|request| request.line.contains("filters")).unwrap();
    assert!(filtered.line.contains("%7B%22role%22%3A%7B%22worker%22%3Atrue%7D%7D"));
    assert_eq!(
        mock.run(&["node", "inspect", "nope"]),
        "[]\n[stderr] Status: Error: No such node: nope, Code: 1\n[rc=1]\n"
    );
    assert_eq!(
        mock.run(&["node", "inspect", "self", "--format", "{{.Description.Hostname}}"]),
        "node2\n[rc=0]\n"
    );
}

#[test]
fn a_pull_shows_each_change_once() {
    let lines = [
        json!({"status": "Pulling from library/web", "id": "1"}),
        json!({"status": "Downloading", "id": "ab", "progressDetail": {"current": 1, "total": 9}}),
        json!({"status": "Downloading", "id": "ab", "progressDetail": {"current": 5, "total": 9}}),
        json!({"status": "Pull complete", "id": "ab"}),
        json!({"status": "Digest: sha256:00"}),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let mock = Mock::start(vec![
        ("fromImage=web&tag=1", Answer::Chunks(text.into_bytes())),
        (
            "tag=bad",
            Answer::Chunks(b"{\"errorDetail\":{\"message\":\"no\"},\"error\":\"no\"}".to_vec()),
        ),
        ("tag=none", refused(404, "manifest unknown")),
    ]);
    expect![[r#"
        1: Pulling from library/web
        ab: Downloading
        ab: Pull complete
        Digest: sha256:00
        docker.io/library/web:1
        [rc=0]
    "#]]
    .assert_eq(&mock.run(&["pull", "web:1"]));
    assert_eq!(mock.run(&["image", "pull", "-q", "web:1"]), "docker.io/library/web:1\n[rc=0]\n");
    assert_eq!(mock.run(&["pull", "web:bad"]), "[stderr] no\n[rc=1]\n");
    assert_eq!(
        mock.run(&["pull", "web:none"]),
        "[stderr] Error response from daemon: manifest unknown\n[rc=1]\n"
    );
}

#[test]
fn an_archive_is_streamed_from_stdin() {
    let done = b"{\"stream\":\"Loaded image: web:1\\n\"}\n".to_vec();
    let mock = Mock::start(vec![("POST /v1.51/images/load", Answer::Chunks(done))]);
    let archive: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let mut load = mock.command(&["load"]);
    let load = load.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = load.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&archive).unwrap();
    assert_eq!(shown(&child.wait_with_output().unwrap()), "Loaded image: web:1\n[rc=0]\n");
    assert_eq!(mock.seen()[0].body, archive);
    assert_eq!(
        mock.run(&["image", "load", "-i", "/nope.tar"]),
        "[stderr] open /nope.tar: no such file or directory\n[rc=1]\n"
    );
    // What cannot be read is told at once: the daemon would wait for the rest of it.
    assert_eq!(
        mock.run(&["image", "load", "-i", "/etc"]),
        "[stderr] read /etc: is a directory\n[rc=1]\n"
    );
    let folder = std::fs::File::open("/etc").unwrap();
    let output = mock.command(&["load"]).stdin(folder).output().unwrap();
    assert_eq!(shown(&output), "[stderr] read standard input: is a directory\n[rc=1]\n");
}

#[test]
fn images_and_volumes() {
    let image = json!([{
        "Id": "sha256:0123456789abcdef", "RepoTags": ["h:5000/web:1", "web:2"],
        "RepoDigests": ["h:5000/web@sha256:ff"], "Created": 0, "Size": 133_000_000
    }, {"Id": "sha256:fedcba9876543210", "RepoTags": [], "Created": 0, "Size": 1}]);
    let mock = Mock::start(vec![
        ("GET /v1.51/images/json", ok(image)),
        ("DELETE /v1.51/images/web", ok(json!([{"Untagged": "web:1"}, {"Deleted": "sha256:01"}]))),
        ("DELETE /v1.51/images", refused(404, "No such image: nope")),
        ("/images/prune", ok(json!({"ImagesDeleted": null, "SpaceReclaimed": 0}))),
        ("POST /v1.51/volumes/create", Answer::Json(201, json!({"Name": "data"}).to_string())),
        ("GET /v1.51/volumes", ok(json!({"Volumes": [{"Name": "data", "Driver": "local"}]}))),
        ("DELETE /v1.51/volumes/data", Answer::Json(204, String::new())),
    ]);
    let table = mock.run(&["images"]);
    assert!(
        table.starts_with("REPOSITORY   TAG       IMAGE ID       CREATED        SIZE\n"),
        "{table}"
    );
    assert!(table.contains("\nh:5000/web   1         0123456789ab   "), "{table}");
    assert!(table.contains("\n<none>       <none>    fedcba987654   "), "{table}");
    assert!(table.contains(" 133MB\n"), "{table}");
    assert_eq!(
        mock.run(&["rmi", "web", "nope"]),
        "Untagged: web:1\nDeleted: sha256:01\n[stderr] Error response from daemon: No such image: \
         nope\n[rc=1]\n"
    );
    assert_eq!(mock.run(&["image", "prune", "-f"]), "Total reclaimed space: 0B\n[rc=0]\n");
    assert!(
        mock.run(&["image", "prune"]).ends_with("continue? [y/N] [rc=0]\n"),
        "no is the default"
    );
    assert_eq!(mock.run(&["volume", "create", "data", "--label=a=b"]), "data\n[rc=0]\n");
    assert_eq!(mock.sent("/volumes/create")["Labels"], json!({"a": "b"}));
    assert_eq!(mock.run(&["volume", "ls"]), "DRIVER    VOLUME NAME\nlocal     data\n[rc=0]\n");
    assert_eq!(mock.run(&["volume", "rm", "data"]), "data\n[rc=0]\n");
}

#[test]
fn faces_that_nobody_starts_by_hand_have_a_usage() {
    for face in ["hello", "shim", "proxy"] {
        let text = shown(&skep(&[face, "--help"]).output().unwrap());
        assert!(text.starts_with("Usage: ") && text.contains(face), "{text}");
        assert!(text.ends_with("[rc=0]\n") && !text.contains("[stderr]"), "{text}");
    }
}

#[test]
fn init_checks_its_addresses_before_it_starts_a_daemon() {
    let folder = std::env::temp_dir().join(format!("skep-init-{}", std::process::id()));
    let root = folder.display().to_string();
    for (flags, expected) in [
        (
            ["--advertise-addr", "nope"],
            "[stderr] advertise address must be a non-zero IP address or network interface (with \
             optional port number)\n[rc=1]\n",
        ),
        (
            ["--listen-addr", "192.0.2.1:2377"],
            "[stderr] failed to listen on remote API address: listen tcp 192.0.2.1:2377: bind: \
             cannot assign requested address - --listen-addr must be an address of this \
             machine\n[rc=1]\n",
        ),
    ] {
        let mut init = skep(&["init", "--exec-root", &root, "--data-root", &root]);
        let text = shown(&init.args(flags).stdin(Stdio::null()).output().unwrap());
        assert_eq!(text, expected);
        assert!(!folder.exists(), "nothing was started");
    }
    check(
        &["init", "--exec-root", "run"],
        &expect![[r#"
            [stderr] --exec-root must be an absolute path, not "run"
            [rc=1]
        "#]],
    );
}

#[test]
fn init_asks_the_daemon_of_its_exec_root() {
    let mock = Mock::start(vec![
        ("/_ping", Answer::Json(200, "OK".to_owned())),
        ("POST /v1.51/swarm/init", ok(json!("v5bmodh5enjrv3f2iucyvo5u4"))),
    ]);
    let folder = std::env::temp_dir().join(format!("skep-root-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let link = folder.join("skep.sock");
    std::os::unix::fs::symlink(mock.host().trim_start_matches("unix://"), &link).unwrap();
    let output = skep(&["init", "--exec-root", &folder.display().to_string()]).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(shown(&output).starts_with("Swarm initialized: "), "{}", shown(&output));
}
