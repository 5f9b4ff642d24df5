//! `service …` against canned answers.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use expect_test::{expect, expect_file};
use serde_json::{Value, json};

use super::mock::{Answer, Mock, shown};
use super::{ok, refused};

const ID: &str = "i1lh9ugtdvanyohfs0wu3kzkv";

fn ago(seconds: i64) -> String {
    let then = jiff::Timestamp::now().as_second() - seconds;
    jiff::Timestamp::from_second(then).unwrap().to_string()
}

fn service(replicas: u64, monitor: i64) -> Value {
    json!({
        "ID": ID, "Version": {"Index": 85},
        "Spec": {
            "Name": "web", "Labels": {"l": "1"}, "Mode": {"Replicated": {"Replicas": replicas}},
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": "h:5000/web:1@sha256:98", "Env": ["A=1", "B=2"], "Args": ["sleep", "1"]
                },
                "Resources": {"Limits": {"MemoryBytes": 67_108_864}, "Reservations": {}},
                "ForceUpdate": 0
            },
            "UpdateConfig": {"Parallelism": 1, "Monitor": monitor, "Order": "stop-first",
                "FailureAction": "pause", "MaxFailureRatio": 0},
            "EndpointSpec": {"Mode": "vip", "Ports": [
                {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8081, "PublishMode": "ingress"}
            ]}
        },
        "Endpoint": {"Spec": {"Mode": "vip"}, "Ports": [
            {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8081, "PublishMode": "ingress"}
        ]},
        "ServiceStatus": {"RunningTasks": 1, "DesiredTasks": replicas}
    })
}

fn task(id: &str, slot: u64, state: &str, error: &str, age: i64) -> Value {
    let desired = if state == "running" { "running" } else { "shutdown" };
    json!({
        "ID": id, "ServiceID": ID, "Slot": slot, "NodeID": "v5bmodh5enjrv3f2iucyvo5u4",
        "CreatedAt": ago(age), "DesiredState": desired,
        "Spec": {"ContainerSpec": {"Image": "h:5000/web:1@sha256:98"}},
        "Status": {"Timestamp": ago(age), "State": state, "Err": error}
    })
}

fn node() -> Value {
    json!({"ID": "v5bmodh5enjrv3f2iucyvo5u4", "Description": {"Hostname": "node1"}})
}

#[test]
fn services_are_listed() {
    let mock = Mock::start(vec![
        ("bogus", refused(400, "Invalid filter 'bogus'")),
        ("GET /v1.51/services?status=true", ok(json!([service(3, 0)]))),
    ]);
    expect![[r#"
        ID             NAME      MODE         REPLICAS   IMAGE          PORTS
        i1lh9ugtdvan   web       replicated   1/3        h:5000/web:1   *:8081->80/tcp
        [rc=0]
    "#]]
    .assert_eq(&mock.run(&["service", "ls"]));
    assert_eq!(mock.run(&["service", "list", "-q"]), "i1lh9ugtdvan\n[rc=0]\n");
    expect![[r#"
        {"ID":"i1lh9ugtdvan","Image":"h:5000/web:1","Mode":"replicated","Name":"web","Ports":"*:8081->80/tcp","Replicas":"1/3"}
        [rc=0]
    "#]]
    .assert_eq(&mock.run(&["service", "ls", "--format", "json"]));
    expect![[r#"
        [stderr] Error response from daemon: Invalid filter 'bogus'
        [rc=1]
    "#]]
    .assert_eq(&mock.run(&["service", "ls", "--filter=bogus=1"]));
    expect![[r#"
        [stderr] template parsing error: template: :1: function "foo" not defined
        [rc=1]
    "#]]
    .assert_eq(&mock.run(&["service", "ls", "--format", "{{foo .ID}}"]));
}

#[test]
fn an_empty_list_has_its_heading() {
    let mock = Mock::start(vec![("GET /v1.51/services", ok(json!([])))]);
    assert_eq!(
        mock.run(&["service", "ls"]),
        "ID        NAME      MODE      REPLICAS   IMAGE     PORTS\n[rc=0]\n"
    );
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let many: Vec<Value> = (0..3_000).map(|_| service(1, 0)).collect();
    let mock = Mock::start(vec![("GET /v1.51/services", ok(json!(many)))]);
    let mut command = mock.command(&["service", "ls"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 16];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.signal(), output.status.code()), (None, Some(0)));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn tasks_are_listed_newest_first() {
    let tasks = json!([
        task(
            "hfu8c614rp073fn93b13o8rty",
            1,
            "failed",
            "starting container failed: failed to create",
            400
        ),
        task("hy8sl19vue6fday3trzf6zg4j", 1, "running", "", 130),
        task("mkbeqjp4t5uybf7dzbjjana02", 2, "running", "", 130),
    ]);
    let mock = Mock::start(vec![
        ("GET /v1.51/tasks", ok(tasks)),
        ("GET /v1.51/services/nope", refused(404, "service nope not found")),
        ("GET /v1.51/services/", ok(service(2, 0))),
        ("GET /v1.51/nodes/", ok(node())),
    ]);
    expect![[r#"
        ID             NAME        IMAGE          NODE      DESIRED STATE   CURRENT STATE           ERROR                              PORTS
        hy8sl19vue6f   web.1       h:5000/web:1   node1     Running         Running 2 minutes ago                                      
        hfu8c614rp07    \_ web.1   h:5000/web:1   node1     Shutdown        Failed 6 minutes ago    "starting container failed: fa…"   
        mkbeqjp4t5uy   web.2       h:5000/web:1   node1     Running         Running 2 minutes ago                                      
        [rc=0]
    "#]]
    .assert_eq(&mock.run(&["service", "ps", "web"]));
    assert_eq!(
        mock.run(&["service", "ps", "-q", "web"]),
        "hy8sl19vue6fday3trzf6zg4j\nhfu8c614rp073fn93b13o8rty\nmkbeqjp4t5uybf7dzbjjana02\n[rc=0]\n"
    );
    let both = mock.run(&["service", "ps", "--format={{.Name}}", "web", "nope"]);
    assert_eq!(both, "web.1\nweb.1\nweb.2\n[stderr] no such service: nope\n[rc=1]\n");
}

#[test]
fn create_sends_what_the_flags_say() {
    let created = json!({"ID": ID, "Warnings": ["careful"]}).to_string();
    let mock = Mock::start(vec![("POST /v1.51/services/create", Answer::Json(201, created))]);
    let text = mock.run(&[
        "service",
        "create",
        "-dtp80:80",
        "--name=web",
        "-eA=b",
        "--env",
        "C=d",
        "--replicas=3",
        "--limit-cpu",
        ".5",
        "--limit-memory=64m",
        "--restart-delay=1s",
        "--mount",
        "type=bind,src=/a,dst=/b,ro",
        "--no-resolve-image",
        "--init=false",
        "--cap-drop=all",
        "--cap-add",
        "net_admin",
        "--host",
        "h:10.0.0.1",
        "--device=/dev/fb0",
        "-l",
        "x=y",
        "--ulimit",
        "nofile=1:2",
        "--log-opt=max-size=1m",
        "--entrypoint",
        "sh -c",
        "img",
        "-p",
        "ls -l",
        "--",
        "x",
    ]);
    assert_eq!(text, format!("{ID}\n[stderr] careful\n[rc=0]\n"));
    expect_file!["../../data/cli/create.json"]
        .assert_eq(&(serde_json::to_string_pretty(&mock.sent("/services/create")).unwrap() + "\n"));
}

#[test]
fn create_pins_the_digest_or_warns() {
    let created = json!({"ID": ID}).to_string();
    let found = json!({
        "Descriptor": {"digest": "sha256:ab"},
        "Platforms": [{"architecture": "arm64", "os": "linux"}, {"architecture": "arm", "os": "linux"}]
    });
    let mock = Mock::start(vec![
        ("/distribution/web%3Alatest/json", ok(found)),
        ("POST /v1.51/services/create", Answer::Json(201, created.clone())),
    ]);
    assert_eq!(mock.run(&["service", "create", "-d", "web"]), format!("{ID}\n[rc=0]\n"));
    let template = mock.sent("/services/create")["TaskTemplate"].clone();
    assert_eq!(template["ContainerSpec"]["Image"], "web:latest@sha256:ab");
    assert_eq!(template["Placement"]["Platforms"][1], json!({"OS": "linux"}));
    let mock = Mock::start(vec![("/services/create", Answer::Json(201, created))]);
    let text = mock.run(&["service", "create", "-d", "web:1"]);
    assert!(text.contains("[stderr] image web:1 could not be accessed on a registry to record\n"));
    let asked = |text: &str| mock.seen().iter().any(|request| request.line.contains(text));
    assert_eq!(mock.run(&["service", "create", "-d", "skep/hello"]), format!("{ID}\n[rc=0]\n"));
    assert!(!asked("distribution/skep"), "the image of the program itself is never pinned");
}

#[test]
fn what_cannot_be_is_refused_before_a_registry_is_asked() {
    let bad = "ContainerSpec: \"Not/An:Image:1\" is not a valid repository/tag";
    let mock = Mock::start(vec![("/services/create", refused(400, bad))]);
    assert_eq!(
        mock.run(&["service", "create", "Not/An:Image:1"]),
        format!("[stderr] Error response from daemon: {bad}\n[rc=1]\n")
    );
    let sent = mock.sent("/services/create");
    assert_eq!(sent["TaskTemplate"]["ContainerSpec"]["Image"], "Not/An:Image:1");
    assert_eq!(
        mock.run(&["service", "create", "-p", "31000-60000:1-29001", "web:1"]),
        "[stderr] EndpointSpec: 29001 published ports are more than the 4096 that a node can listen \
         on; publish a smaller range\n[rc=1]\n"
    );
    assert_eq!(mock.seen().len(), 1);
}

fn attached(state: &str, update_status: Value) -> Mock {
    let mut service = service(1, 300_000_000);
    service["UpdateStatus"] = update_status;
    Mock::start(vec![
        ("POST /v1.51/services/create", Answer::Json(201, json!({"ID": ID}).to_string())),
        ("POST /v1.51/services/i1lh", Answer::Json(200, "{}".to_owned())),
        ("GET /v1.51/services/", ok(service)),
        ("GET /v1.51/tasks", ok(json!([task("hy8sl19vue6fday3trzf6zg4j", 1, state, "", 1)]))),
        ("GET /v1.51/nodes", ok(json!([node()]))),
    ])
}

#[test]
fn a_pipe_gets_only_lines_that_changed() {
    let mock = attached("running", Value::Null);
    expect![[r#"
        i1lh9ugtdvanyohfs0wu3kzkv
        overall progress: 1 out of 1 tasks
        verify: Waiting 1 seconds to verify that tasks are stable...
        verify: Service i1lh9ugtdvanyohfs0wu3kzkv converged
        [rc=0]
    "#]]
    .assert_eq(&mock.run(&["service", "create", "--no-resolve-image", "web"]));
    assert_eq!(
        mock.run(&["service", "create", "-q", "--no-resolve-image", "web"]),
        format!("{ID}\n[rc=0]\n")
    );
    let asked = mock.seen();
    assert!(asked.iter().any(|request| request.line.contains("_up-to-date")));
}

#[test]
fn an_update_that_stops_is_an_error() {
    let mock = attached("running", json!({"State": "paused", "Message": "task x failed"}));
    let text = mock.run(&["service", "update", "--force", "web"]);
    assert!(text.contains("[stderr] service update paused: task x failed\n[rc=1]\n"), "{text}");
}

#[test]
fn ctrl_c_leaves_the_operation_running() {
    let mock = attached("starting", Value::Null);
    let mut command = mock.command(&["service", "create", "--no-resolve-image", "web"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut seen = String::new();
    let mut from = child.stdout.take().unwrap();
    while !seen.contains("overall progress") {
        let mut buffer = [0; 256];
        let read = from.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    from.read_to_string(&mut seen).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(seen.ends_with(&format!(
        "Operation continuing in background.\nUse `skep service ps {ID}` to check progress.\n"
    )));
}

#[test]
fn update_edits_the_spec() {
    let mock = attached("running", Value::Null);
    let text = mock.run(&[
        "service",
        "update",
        "-d",
        "--image=web:2",
        "--no-resolve-image",
        "--env-add",
        "A=9",
        "--env-rm=B",
        "--label-add",
        "m=2",
        "--label-rm=l",
        "--publish-rm",
        "80",
        "--publish-add",
        "9000:80",
        "--args",
        "sh -c 'ls -l'",
        "--replicas",
        "5",
        "--limit-cpu=1",
        "--update-parallelism=2",
        "web",
    ]);
    assert_eq!(text, "web\n[rc=0]\n");
    let seen = mock.seen();
    let update = seen.iter().find(|request| request.line.starts_with("POST")).unwrap();
    assert!(update.line.contains("/update?version=85&registryAuthFrom=spec"), "{}", update.line);
    let spec = mock.sent("/update?");
    let container = &spec["TaskTemplate"]["ContainerSpec"];
    assert_eq!(container["Image"], "web:2");
    assert_eq!(container["Env"], json!(["A=9"]));
    assert_eq!(container["Args"], json!(["sh", "-c", "ls -l"]));
    assert_eq!(spec["Labels"], json!({"m": "2"}));
    assert_eq!(spec["Mode"]["Replicated"]["Replicas"], 5);
    assert_eq!(spec["EndpointSpec"]["Ports"][0]["PublishedPort"], 9000);
    assert_eq!(spec["TaskTemplate"]["Resources"]["Limits"]["NanoCPUs"], 1_000_000_000);
    assert_eq!(spec["TaskTemplate"]["Resources"]["Limits"]["MemoryBytes"], 67_108_864);
    assert_eq!(spec["UpdateConfig"]["Parallelism"], 2);
    assert_eq!(spec["UpdateConfig"]["Order"], "stop-first");
}

#[test]
fn unknown_services_are_told() {
    let mock = Mock::start(vec![
        ("DELETE /v1.51/services/web", Answer::Json(200, String::new())),
        ("ambiguous", refused(400, "i1 is ambiguous (2 matches found)")),
        ("/services/", refused(404, "service nope not found")),
        ("/tasks/", refused(404, "task nope not found")),
    ]);
    for (args, expected) in [
        (
            &["service", "rm", "web", "nope"][..],
            "web\n[stderr] Error: No such service: nope\n[rc=1]\n",
        ),
        (&["service", "update", "nope"], "[stderr] Error: No such service: nope\n[rc=1]\n"),
        (&["service", "ps", "nope"], "[stderr] no such service: nope\n[rc=1]\n"),
        (&["service", "logs", "nope"], "[stderr] no such task or service: nope\n[rc=1]\n"),
        (
            &["service", "inspect", "nope"],
            "[]\n[stderr] Status: Error: no such service: nope, Code: 1\n[rc=1]\n",
        ),
        (&["service", "scale", "nope=3"], "[stderr] nope: Error: No such service: nope\n[rc=1]\n"),
        (
            &["service", "scale", "web=x"],
            "[stderr] web: invalid replicas value x: strconv.ParseUint: parsing \"x\": invalid \
             syntax\n[rc=1]\n",
        ),
        (
            &["service", "rm", "ambiguous"],
            "[stderr] Error response from daemon: i1 is ambiguous (2 matches found)\n[rc=1]\n",
        ),
    ] {
        assert_eq!(mock.run(args), expected, "{args:?}");
    }
}

#[test]
fn logs_are_prefixed_and_parted() {
    let details = format!(
        "com.docker.swarm.node.id=v5bmodh5enjrv3f2iucyvo5u4,com.docker.swarm.service.id={ID},\
         com.docker.swarm.task.id=kn4sm9kcwlkvy2lzf6lq94izs"
    );
    let mut stream = Vec::new();
    for (kind, text) in [(1u8, "line 0\n"), (2, "err 0\n"), (1, "line 1\n")] {
        let payload = format!("{details} {text}");
        stream.extend([kind, 0, 0, 0]);
        stream.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        stream.extend(payload.bytes());
    }
    let mut broken = stream.clone();
    broken.extend([3, 0, 0, 0, 0, 0, 0, 4]);
    broken.extend(b"oops");
    let mock = Mock::start(vec![
        ("logs?stdout=1&stderr=1&details=1&tail=1", Answer::Chunks(broken)),
        ("/logs?stdout=1&stderr=1&details=1", Answer::Chunks(stream)),
        ("GET /v1.51/services/", ok(service(2, 0))),
        ("GET /v1.51/tasks/", ok(task("kn4sm9kcwlkvy2lzf6lq94izs", 2, "running", "", 1))),
        ("GET /v1.51/nodes/", ok(node())),
    ]);
    expect![[r#"
        web.2.kn4sm9kcwlkv@node1    | line 0
        web.2.kn4sm9kcwlkv@node1    | line 1
        [stderr] web.2.kn4sm9kcwlkv@node1    | err 0
        [rc=0]
    "#]]
    .assert_eq(&mock.run(&["service", "logs", "web"]));
    let short = mock.run(&["service", "logs", "--no-task-ids", "web"]);
    assert!(short.starts_with("web.2@node1    | line 0\n"), "{short}");
    let output = mock.command(&["service", "logs", "-n1", "web"]).output().unwrap();
    assert!(shown(&output).ends_with("[stderr] error from daemon in stream: oops\n[rc=1]\n"));
}

#[test]
fn a_service_for_people() {
    let mock = Mock::start(vec![(
        "GET /v1.51/services/web?insertDefaults=true",
        ok(service(3, 5_000_000_000)),
    )]);
    let text = mock.run(&["service", "inspect", "--pretty", "web"]);
    expect![[r#"

        ID:		i1lh9ugtdvanyohfs0wu3kzkv
        Name:		web
        Labels:
         l=1
        Service Mode:	Replicated
         Replicas:	3
        Placement:
        UpdateConfig:
         Parallelism:	1
         On failure:	pause
         Monitoring Period: 5s
         Max failure ratio: 0
         Update order:      stop-first
        ContainerSpec:
         Image:		h:5000/web:1@sha256:98
         Args:		sleep 1 
         Env:		A=1 B=2 
        Resources:
         Limits:
          Memory:	64MiB
        Endpoint Mode:	vip
        Ports:
         PublishedPort = 8081
          Protocol = tcp
          TargetPort = 80
          PublishMode = ingress 

        [rc=0]
    "#]]
    .assert_eq(&text);
}
