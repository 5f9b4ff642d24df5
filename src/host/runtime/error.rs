//! What goes wrong with containers, in words for the user.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a step did not work.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A file operation.
    #[error("cannot {doing} {path:?}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A system call without a path.
    #[error("cannot {doing}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        #[source]
        source: nix::errno::Errno,
    },
    /// runc is not there or does not run.
    #[error("cannot run {path:?} (install the package runc)")]
    NoRunc {
        /// The program.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// runc is too old.
    #[error("runc {found} is too old: {minimum} or newer is needed (upgrade the package runc)")]
    OldRunc {
        /// What `runc --version` said.
        found: String,
        /// The oldest that works.
        minimum: &'static str,
    },
    /// A program stood still.
    #[error("{what} did not end within {} s and was killed", .limit.as_secs())]
    Late {
        /// Which.
        what: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// runc said no.
    #[error("{0}")]
    Runc(String),
    /// A mount that cannot be made; Docker's words.
    #[error("invalid mount config for type \"{kind}\": {why}")]
    Mount {
        /// `bind`, `volume` or `tmpfs`.
        kind: &'static str,
        /// Why.
        why: String,
    },
    /// Something in the specification that this node cannot do.
    #[error("{0}")]
    Spec(String),
    /// A volume's name, options or state.
    #[error("{0}")]
    Volume(String),
    /// The shim did not start, answered nonsense or is gone.
    #[error("the container's shim {0}")]
    Shim(String),
}

impl RuntimeError {
    /// A later try may work without any change by the user: the disk may have space again, the
    /// machine less load.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::File { source, .. } => matches!(
                source.raw_os_error(),
                Some(
                    nix::libc::ENOSPC
                        | nix::libc::EDQUOT
                        | nix::libc::ENOMEM
                        | nix::libc::EAGAIN
                        | nix::libc::EMFILE
                        | nix::libc::ENFILE
                        | nix::libc::EBUSY
                )
            ),
            Self::System { .. } | Self::Late { .. } | Self::Shim(_) => true,
            Self::Runc(text) => {
                text.contains("no space left") || text.contains("cannot allocate memory")
            }
            Self::NoRunc { .. }
            | Self::OldRunc { .. }
            | Self::Mount { .. }
            | Self::Spec(_)
            | Self::Volume(_) => false,
        }
    }

    /// The text with its causes, for the user.
    #[must_use]
    pub fn full_text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(err) = cause {
            text = format!("{text}: {err}");
            cause = err.source();
        }
        text
    }
}

/// Adds what was being done to an I/O error.
pub(super) trait Doing<T> {
    fn doing(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T, RuntimeError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T, RuntimeError> {
        self.map_err(|source| RuntimeError::File { doing, path: path.into(), source })
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T, RuntimeError> {
        self.map_err(io::Error::from).doing(doing, path)
    }
}

/// Treats "it is not there" as done.
pub(super) fn unless_absent<T: Default>(result: io::Result<T>) -> io::Result<T> {
    match result {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        other => other,
    }
}
