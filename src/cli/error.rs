//! What can go wrong in a command, in the words the user reads, and the exit code it ends with.

use std::io;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The daemon refused; its own words.
    #[error("Error response from daemon: {message}")]
    Daemon {
        /// The HTTP status.
        status: u16,
        /// The daemon's words.
        message: String,
    },
    /// No daemon answers at the socket.
    #[error(
        "Cannot connect to the skep daemon at {host}. Is the daemon running?\n\
         Start it and make this machine a swarm with 'sudo skep init', or name another socket with \
         -H or SKEP_HOST."
    )]
    NotRunning {
        /// The socket.
        host: String,
    },
    /// The socket may not be opened by this user.
    #[error(
        "permission denied while trying to connect to the skep daemon socket at {host}\n\
         Run the command with sudo, or join the group that owns the socket."
    )]
    Permission {
        /// The socket.
        host: String,
    },
    /// The host is in a form that is not spoken.
    #[error("unable to parse docker host `{0}`: only unix:///PATH is supported")]
    BadHost(String),
    /// The connection broke while a request was under way.
    #[error("error during connect: {request}: {source}")]
    Connection {
        /// Method and path.
        request: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The answer is not HTTP or not what the request asks for.
    #[error("the daemon's answer to {request} cannot be read: {why}")]
    BadAnswer {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        why: String,
    },
    /// Text that should be JSON.
    #[error("the daemon's answer is not JSON: {0}")]
    BadJson(#[source] serde_json::Error),
    /// A template that cannot be read or filled.
    #[error(transparent)]
    Template(#[from] super::template::TemplateError),
    /// A local file.
    #[error("open {path}: {}", words(.source))]
    File {
        /// The file.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Standard output or error is gone or full.
    #[error("write to standard output: {0}")]
    Output(#[source] io::Error),
    /// Standard input.
    #[error("read standard input: {0}")]
    Input(#[source] io::Error),
    /// What was to be sent cannot be read.
    #[error("read {what}: {}", words(.source))]
    Source {
        /// The file, or standard input.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A rule of the command line itself, in Docker's words.
    #[error("{0}")]
    Plain(String),
    /// Everything was told already.
    #[error("")]
    Told,
}

impl CliError {
    /// Whether the daemon does not know the object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Daemon { status: 404, .. })
    }
}

/// An operating system error as Go words it: in lower case, without the number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// A rule of the command line in Docker's words.
pub fn plain(text: impl Into<String>) -> CliError {
    CliError::Plain(text.into())
}
