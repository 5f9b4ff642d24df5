//! Images made on the spot and pushed to a registry that a node can reach.

use std::path::Path;
use std::process::{Child, Stdio};

use crate::node::{Node, must};

/// Debian's registry inside a node's network, at 127.0.0.1:5000.
pub(crate) struct Registry {
    child: Child,
}

impl Registry {
    pub(crate) fn start(node: &Node) -> Self {
        Self::start_with(node, "")
    }

    /// The same over what an earlier one has, with more in its configuration.
    pub(crate) fn start_with(node: &Node, extra: &str) -> Self {
        let config = node.dir.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:5000\n{extra}\n",
            node.dir.join("registry").display()
        );
        std::fs::write(&config, text).expect("configuration");
        let child = node
            .command("docker-registry")
            .args(["serve", config.to_str().expect("path")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry");
        let registry = Self { child };
        // By a word that comes also where one has to log in.
        let ask = ["-s", "-m", "5", "-o", "/dev/null", "http://127.0.0.1:5000/v2/"];
        node.wait("the registry answers", || {
            node.command("curl").args(ask).status().expect("curl").success().then_some(())
        });
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

/// Makes an image of the files in `root` with buildah, its configuration by buildah's options, and
/// pushes it as `127.0.0.1:5000/NAME`.
pub(crate) fn push(node: &Node, name: &str, root: &Path, configuration: &[&str]) {
    let storage = node.dir.join("buildah");
    let buildah = |args: &[&str]| {
        let mut command = node.command("buildah");
        command.arg("--root").arg(storage.join("root")).arg("--runroot").arg(storage.join("run"));
        let output = must(command.args(["--storage-driver", "vfs"]).args(args));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let container = buildah(&["from", "scratch"]);
    buildah(&["add", "-q", &container, root.to_str().expect("path"), "/"]);
    buildah(&[&["config"], configuration, &[&container]].concat());
    buildah(&["commit", "-q", &container, name]);
    let to = format!("docker://127.0.0.1:5000/{name}");
    buildah(&["push", "-q", "--tls-verify=false", name, &to]);
}
