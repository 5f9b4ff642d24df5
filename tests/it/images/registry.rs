//! Debian's registry as a process of the test.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Dir;

/// A registry on a free port of loopback; ends with its owner.
pub(super) struct Registry {
    child: Child,
    pub(super) address: SocketAddr,
    _dir: Dir,
}

impl Registry {
    /// `extra` goes into its configuration.
    pub(super) fn start(extra: &str) -> Self {
        Self::start_at("127.0.0.1:0", extra, "")
    }

    /// On a free port of another address; `http` goes into that section.
    pub(super) fn start_at(address: &str, extra: &str, http: &str) -> Self {
        let dir = Dir::new();
        let address = TcpListener::bind(address).unwrap().local_addr().unwrap();
        let config = dir.path("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {address}\n{http}{extra}\n",
            dir.path("data").display()
        );
        fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", &config.display().to_string()])
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.path("log")).unwrap())
            .spawn()
            .expect("docker-registry is needed by this test");
        let mut registry = Self { child, address, _dir: dir };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(address).is_err() {
            assert!(registry.child.try_wait().unwrap().is_none(), "the registry ended");
            assert!(Instant::now() < deadline, "the registry does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        registry
    }

    /// `127.0.0.1:PORT/name`.
    pub(super) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Copies an image with skopeo.
pub(super) fn copy(from: &str, to: &str, extra: &[&str]) {
    let base = ["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"];
    let args: Vec<&str> = base.iter().chain(extra).copied().chain([from, to]).collect();
    super::run("skopeo", &args);
}

/// Reads a file as text.
pub(super) fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
