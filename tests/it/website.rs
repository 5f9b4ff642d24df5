//! The first thing that anybody does: a web site of a real nginx, from a registry to the browser.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::node::{Node, must};
use crate::pushed::{Registry, push};

/// As the official image has it, without what Debian's modules would want.
const CONFIG: &str = "user www-data;
worker_processes auto;
events { worker_connections 64; }
http {
  access_log /var/log/nginx/access.log;
  server {
    listen 80;
    listen [::]:80;
    root /usr/share/nginx/html;
    location /host { return 200 $hostname; }
  }
}
";

/// Pushes Debian's nginx as an image that says `greeting`.
fn push_nginx(node: &Node, name: &str, greeting: &str) {
    let root = node.dir.join("nginx-root");
    for dir in ["etc/nginx", "run", "tmp", "usr/share/nginx/html", "var/lib/nginx", "var/log/nginx"]
    {
        fs::create_dir_all(root.join(dir)).expect("rootfs");
    }
    let nginx = must(Command::new("sh").args(["-c", "command -v nginx || echo /usr/sbin/nginx"]));
    let nginx = String::from_utf8_lossy(&nginx.stdout).trim().to_owned();
    copy_in(&root, &nginx, "usr/sbin/nginx");
    let libraries = must(Command::new("ldd").arg(&nginx));
    for word in String::from_utf8_lossy(&libraries.stdout).split_whitespace() {
        if word.starts_with('/') {
            copy_in(&root, word, word.trim_start_matches('/'));
        }
    }
    let write = |path: &str, text: &str| fs::write(root.join(path), text).expect("a file");
    write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\n");
    write("etc/group", "root:x:0:\nwww-data:x:33:\n");
    write("etc/nginx/nginx.conf", CONFIG);
    write("usr/share/nginx/html/index.html", greeting);
    for (name, to) in [("access", "stdout"), ("error", "stderr")] {
        let link = root.join(format!("var/log/nginx/{name}.log"));
        if fs::symlink_metadata(&link).is_err() {
            symlink(format!("/dev/{to}"), link).expect("link");
        }
    }
    let command = r#"["nginx", "-g", "daemon off;"]"#;
    let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    push(
        node,
        name,
        &root,
        &["--cmd", command, "--env", path, "--port", "80", "--stop-signal", "SIGQUIT"],
    );
}

fn copy_in(root: &Path, from: &str, to: &str) {
    let to: PathBuf = root.join(to);
    fs::create_dir_all(to.parent().expect("a parent")).expect("rootfs");
    fs::copy(from, to).unwrap_or_else(|err| panic!("nginx-light is needed: {from}: {err}"));
}

/// Who answers, over some connections.
fn hosts(node: &Node) -> BTreeSet<String> {
    (0..12).filter_map(|_| node.get("127.0.0.1:8080/host")).collect()
}

#[test]
fn a_web_site_of_a_real_nginx_runs_scales_is_updated_and_goes() {
    let node = Node::swarm();
    let _registry = Registry::start(&node);
    push_nginx(&node, "nginx:alpine", "Welcome to nginx!\n");
    let image = "127.0.0.1:5000/nginx:alpine";
    let create = ["service", "create", "--name", "website", "--publish", "8080:80"];
    let said = node.ok(&[&create[..], &["--replicas", "2", image]].concat());
    assert!(said.contains("overall progress: 2 out of 2 tasks"), "{said}");
    assert!(said.contains("converged"), "{said}");
    for address in ["127.0.0.1:8080", "[::1]:8080"] {
        assert_eq!(node.get(address).as_deref(), Some("Welcome to nginx!\n"), "{address}");
    }
    assert_eq!(hosts(&node).len(), 2, "both answer");

    let said = node.ok(&["service", "scale", "website=3"]);
    assert!(said.contains("website scaled to 3"), "{said}");
    node.wait("all three answer", || (hosts(&node).len() == 3).then_some(()));
    let ps = node.ok(&["service", "ps", "website"]);
    let running = ps.lines().filter(|line| line.contains(image) && line.contains(" Running "));
    assert_eq!(running.count(), 3, "{ps}");
    assert!((1..=3).all(|n| ps.contains(&format!("website.{n}"))), "{ps}");
    let ls = node.ok(&["service", "ls"]);
    assert!(ls.contains("3/3") && ls.contains("*:8080->80/tcp"), "{ls}");

    // What nginx writes to its access log, by way of /dev/stdout.
    node.get("127.0.0.1:8080/missing");
    let line = node.wait("the request is in the log", || {
        let logs = node.ok(&["service", "logs", "website"]);
        logs.lines().find(|line| line.contains("\"GET /missing/ HTTP/1.1\" 404")).map(str::to_owned)
    });
    assert!(line.starts_with("website.") && line.contains("    | "), "{line}");
    let tail = node.skep(&["service", "logs", "--tail", "1", "website"]);
    // One has told its error on stderr, and here it comes out there too.
    let lines = tail.out.lines().count() + tail.err.lines().count();
    assert_eq!(lines, 3, "the last line of each task: {tail:?}");

    push_nginx(&node, "nginx:alpine-2", "Welcome to nginx 2!\n");
    let update = ["service", "update", "--image", "127.0.0.1:5000/nginx:alpine-2"];
    let said = node.ok(&[&update[..], &["--update-monitor", "1s", "website"]].concat());
    assert!(said.contains("converged"), "{said}");
    for address in ["127.0.0.1:8080", "[::1]:8080"] {
        assert_eq!(node.get(address).as_deref(), Some("Welcome to nginx 2!\n"), "{address}");
    }
    let ps = node.ok(&["service", "ps", "website"]);
    assert_eq!(ps.lines().filter(|line| line.contains("\\_ website.")).count(), 3, "{ps}");
    // SIGQUIT, the image's own signal, ends nginx well; SIGKILL would not.
    assert!(!ps.contains("137"), "{ps}");

    assert_eq!(node.ok(&["service", "rm", "website"]), "website");
    node.wait("no task is left", || {
        node.api("/tasks").as_array().is_some_and(Vec::is_empty).then_some(())
    });
    assert_eq!(node.get("127.0.0.1:8080"), None);
}
