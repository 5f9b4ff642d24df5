//! Docker's own client as a process, for the tests that let it speak with a daemon of ours.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::node::{Node, Said};

/// Every client of this machine: Debian's, and the ones on the path.
pub(crate) fn all() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    found.extend(std::env::var_os("DOCKER_CLIENT").map(PathBuf::from));
    let unpacked = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/docker.io/usr/bin/docker");
    found.push(PathBuf::from(unpacked));
    let path = std::env::var("PATH").unwrap_or_default();
    found.extend(path.split(':').map(|folder| PathBuf::from(folder).join("docker")));
    found.retain(|path| path.exists());
    found.dedup();
    assert!(!found.is_empty(), "no docker client here: tests/run.sh fetches Debian's");
    found
}

/// One client that speaks with one daemon.
#[derive(Debug)]
pub(crate) struct Docker {
    pub(crate) client: PathBuf,
    host: String,
    home: PathBuf,
}

impl Docker {
    /// `home` is where the client looks for its configuration: none is there.
    pub(crate) fn new(client: PathBuf, socket: &Path, home: &Path) -> Self {
        Self { client, host: format!("unix://{}", socket.display()), home: home.to_owned() }
    }

    /// Debian's client for a node; the one that `DOCKER_CLIENT` names, if it does.
    pub(crate) fn on(node: &Node) -> Self {
        let client = all().swap_remove(0);
        Self::new(client, &node.socket(), &node.dir)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command.args(["-H", &self.host]).args(arguments).env("HOME", &self.home);
        for name in ["DOCKER_HOST", "DOCKER_API_VERSION", "DOCKER_CONTEXT", "DOCKER_CONFIG"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        Said::of(self.command(arguments).output().expect("docker"))
    }

    /// Standard output of a command that must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, 0, "{:?} {arguments:?}: {said:?}", self.client);
        said.out
    }

    /// Standard error of a command that must fail with 1.
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, 1, "{:?} {arguments:?}: {said:?}", self.client);
        said.err
    }

    /// A command that goes on until it is ended; its standard output is to be read.
    pub(crate) fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("docker")
    }
}

/// The cells of a table's row in which this column holds this text. Empty cells are left out.
pub(crate) fn row<'a>(table: &'a str, column: usize, cell: &str) -> Vec<&'a str> {
    let rows = table.lines().skip(1).map(cells);
    let mut found = rows.filter(|cells| cells.get(column) == Some(&cell));
    found.next().unwrap_or_else(|| panic!("no {cell} in\n{table}"))
}

/// The cells of one line of a table. Empty cells are left out.
pub(crate) fn cells(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}
