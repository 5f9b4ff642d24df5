//! One daemon per data root and per exec root: an flock that ends with the process, however it ends.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::IoFailed;

/// Why the data root is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A call on the lock's file failed.
    #[error(transparent)]
    Io(#[from] IoFailed),
    /// Somebody else has it.
    #[error("another skep daemon ({holder}) uses {} (stop it, or choose another --{what}-root)", root.display())]
    Held {
        /// `data` or `exec`.
        what: &'static str,
        /// The root.
        root: PathBuf,
        /// `pid N`, as far as its file tells.
        holder: String,
    },
}

/// The lock, held while this lives. Descriptors are close-on-exec, so no child keeps it.
#[derive(Debug)]
pub struct RootLock {
    _file: Flock<File>,
}

impl RootLock {
    /// Takes the lock of the `data` or `exec` root, or tells at once who has it.
    pub fn take(what: &'static str, root: &Path) -> Result<Self, LockError> {
        let path = root.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(|e| IoFailed::new("open", &path, e))?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((file, Errno::EWOULDBLOCK)) => {
                let (root, holder) = (root.to_owned(), holder(file));
                return Err(LockError::Held { what, root, holder });
            }
            Err((_, errno)) => return Err(IoFailed::new("lock", &path, errno.into()).into()),
        };
        let pid = format!("{}\n", std::process::id());
        // Only told to others; a full disk must not keep a daemon from starting.
        if let Err(error) = lock.set_len(0).and_then(|()| lock.write_all(pid.as_bytes())) {
            log::warn!("cannot write the process id to {}: {error}", path.display());
        }
        Ok(Self { _file: lock })
    }
}

fn holder(file: File) -> String {
    let mut text = String::new();
    let pid = file.take(16).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
    match pid {
        Some(pid) => format!("pid {}", u32::to_string(&pid)),
        None => "pid unknown".to_owned(),
    }
}
