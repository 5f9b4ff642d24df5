//! An image for tests: a static busybox as a docker-archive.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::node::must;

/// A docker-archive with one busybox image.
pub(crate) fn busybox_archive(tarball: &Path, name: &str, scratch: &Path) {
    busybox_archive_with(tarball, name, scratch, &serde_json::Value::Null);
}

/// The same, with this health check.
pub(crate) fn busybox_archive_with(
    tarball: &Path,
    name: &str,
    scratch: &Path,
    check: &serde_json::Value,
) {
    let root = scratch.join("busybox-root");
    for dir in ["bin", "etc", "tmp", "root", "www"] {
        fs::create_dir_all(root.join(dir)).expect("rootfs");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is needed");
    for applet in [
        "sh", "sleep", "echo", "cat", "id", "httpd", "nc", "ls", "wget", "env", "hostname", "dd",
        "true", "false", "test", "trap", "touch", "mount", "ps", "kill", "head", "yes",
    ] {
        let link = root.join("bin").join(applet);
        if fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink("busybox", &link).expect("applet");
        }
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/tmp:/bin/sh\n",
    )
    .expect("passwd");
    fs::write(root.join("etc/group"), "root:x:0:\napp:x:1000:\nvideo:x:44:app\n").expect("group");
    fs::write(root.join("www/index.html"), "hello from busybox\n").expect("index");
    let stage = scratch.join("busybox-image");
    fs::create_dir_all(&stage).expect("stage");
    must(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(stage.join("layer.tar")).arg("."));
    let sum = Command::new("sha256sum").arg(stage.join("layer.tar")).output().expect("sha256sum");
    let digest = String::from_utf8_lossy(&sum.stdout).split(' ').next().expect("digest").to_owned();
    let config = serde_json::json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "created": "2020-01-01T00:00:00Z",
        "config": { "Cmd": ["sh"], "Env": ["PATH=/bin"], "Healthcheck": check },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        "history": [],
    });
    fs::write(stage.join("config.json"), config.to_string()).expect("config");
    let manifest = serde_json::json!([{
        "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"],
    }]);
    fs::write(stage.join("manifest.json"), manifest.to_string()).expect("manifest");
    must(Command::new("tar").arg("-C").arg(&stage).arg("-cf").arg(tarball).args([
        "manifest.json",
        "config.json",
        "layer.tar",
    ]));
}
