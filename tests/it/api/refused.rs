//! What Docker has and this program does not is refused with 501 and its name, never with silence.

use super::Server;
use super::front::status;

#[test]
fn what_is_refused_is_refused_by_name() {
    let server = Server::new();
    let ask = |method: &str, path: &str, body: &str| {
        let head = "Connection: close\r\nContent-Type: application/json";
        let length = body.len();
        let text =
            format!("{method} {path} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}");
        server.raw(text.as_bytes())
    };
    for call in [
        "GET /containers/json",
        "POST /containers/create",
        "POST /containers/x/start",
        "DELETE /containers/x",
        "POST /build",
        "POST /commit",
        "POST /session",
        "POST /grpc",
        "GET /system/df",
        "GET /secrets",
        "POST /secrets/create",
        "GET /configs",
        "POST /configs/create",
        "POST /networks/create",
        "DELETE /networks/x",
        "POST /networks/x/connect",
        "POST /networks/prune",
        "GET /plugins/x/json",
        "POST /plugins/pull",
        "POST /images/x/push",
        "POST /images/x/tag",
        "GET /images/x/get",
        "GET /images/search",
        "GET /images/x/history",
        "PUT /volumes/x",
    ] {
        let (method, path) = call.split_once(' ').unwrap();
        let answer = ask(method, path, "");
        assert_eq!(status(&answer), "501", "{call}: {answer}");
        assert!(answer.contains(&format!("not implemented: {call}")), "{call}: {answer}");
    }
    let container = |field: &str| {
        format!(r#"{{"Name":"x","TaskTemplate":{{"ContainerSpec":{{"Image":"x",{field}}}}}}}"#)
    };
    for (body, what) in [
        (container(r#""Secrets":[{"SecretName":"a"}]"#), "secrets"),
        (container(r#""Configs":[{"ConfigName":"a"}]"#), "configs"),
        (container(r#""Privileges":{"CredentialSpec":{"File":"a"}}"#), "credential specs"),
        (container(r#""Privileges":{"SELinuxContext":{"User":"a"}}"#), "SELinux labels"),
        (container(r#""Privileges":{"Seccomp":{"Mode":"unconfined"}}"#), "seccomp profiles"),
        (container(r#""Privileges":{"AppArmor":{"Mode":"disabled"}}"#), "AppArmor modes"),
        (
            container(r#""Mounts":[{"Type":"image","Source":"a","Target":"/a"}]"#),
            "mounts of type image",
        ),
        (
            container(
                r#""Mounts":[{"Type":"bind","Source":"/a","Target":"/a","BindOptions":{"CreateMountpoint":true}}]"#,
            ),
            "bind-create-src",
        ),
    ] {
        let answer = ask("POST", "/services/create", &body);
        assert_eq!(status(&answer), "501", "{body}: {answer}");
        assert!(answer.contains(&format!("not implemented: {what}")), "{body}: {answer}");
    }
    assert!(ask("GET", "/services", "").ends_with("[]\n"), "nothing was made");
}
