//! Where everything lies: one type for the data root, one for the exec root.
//!
//! The data root survives a reboot, the exec root does not (and holds what must not reach a disk).
//! Both are for their owner alone.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::geteuid;

use super::IoFailed;
use crate::base::id::TaskId;

/// What survives a reboot; `/var/lib/skep` unless told otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataRoot(PathBuf);

/// What a reboot takes away; `/run/skep` unless told otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRoot(PathBuf);

/// Why a folder cannot be a root.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A call on it failed.
    #[error(transparent)]
    Io(#[from] IoFailed),
    /// It cannot be used.
    #[error("{} cannot be the {what} root: {why} (choose another with --{what}-root)", path.display())]
    Unsuitable {
        /// `data` or `exec`.
        what: &'static str,
        /// The folder.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
}

impl DataRoot {
    /// Makes the folders that are missing and refuses a place that cannot keep what is put there.
    pub fn prepare(path: &Path) -> Result<Self, LayoutError> {
        prepare("data", path)?;
        let root = Self(path.to_owned());
        for dir in [root.node(), root.raft(), root.tasks(), root.images(), root.volumes()] {
            make_dir(&dir)?;
        }
        Ok(root)
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Identity and keys of the node.
    #[must_use]
    pub fn node(&self) -> PathBuf {
        self.0.join("node")
    }

    /// The log and its snapshots.
    #[must_use]
    pub fn raft(&self) -> PathBuf {
        self.0.join("raft")
    }

    /// One folder per task.
    #[must_use]
    pub fn tasks(&self) -> PathBuf {
        self.0.join("tasks")
    }

    /// One task's folder.
    #[must_use]
    pub fn task(&self, id: TaskId) -> PathBuf {
        self.tasks().join(id.to_string())
    }

    /// The image store.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    /// The named volumes.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.0.join("volumes")
    }
}

impl ExecRoot {
    /// Makes the folders that are missing.
    pub fn prepare(path: &Path) -> Result<Self, LayoutError> {
        prepare("exec", path)?;
        let root = Self(path.to_owned());
        for dir in [root.tasks(), root.netns(), root.secrets()] {
            make_dir(&dir)?;
        }
        Ok(root)
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The API's socket, unless `--host` tells another.
    #[must_use]
    pub fn api_socket(&self) -> PathBuf {
        self.0.join("skep.sock")
    }

    /// Where daemon and proxy talk.
    #[must_use]
    pub fn proxy_socket(&self) -> PathBuf {
        self.0.join("proxy.sock")
    }

    /// One folder per running task.
    #[must_use]
    pub fn tasks(&self) -> PathBuf {
        self.0.join("tasks")
    }

    /// One running task's folder: bundle, root file system, sockets.
    #[must_use]
    pub fn task(&self, id: TaskId) -> PathBuf {
        self.tasks().join(id.to_string())
    }

    /// Where daemon and one shim talk.
    #[must_use]
    pub fn shim_socket(&self, id: TaskId) -> PathBuf {
        self.task(id).join("shim.sock")
    }

    /// The network namespaces of the tasks, kept by mounts.
    #[must_use]
    pub fn netns(&self) -> PathBuf {
        self.0.join("netns")
    }

    /// Secrets in plain text.
    #[must_use]
    pub fn secrets(&self) -> PathBuf {
        self.0.join("secrets")
    }
}

fn prepare(what: &'static str, path: &Path) -> Result<(), LayoutError> {
    let refuse = |why| Err(LayoutError::Unsuitable { what, path: path.to_owned(), why });
    if !path.is_absolute() {
        return refuse("it is not an absolute path");
    }
    if path.components().any(|part| part.as_os_str() == "..") {
        return refuse("it has a \"..\" in it");
    }
    if path.parent().is_none() {
        return refuse("it is the root of the file system");
    }
    make_dir(path)?;
    let meta = fs::metadata(path).map_err(|e| IoFailed::new("look at", path, e))?;
    if meta.uid() != geteuid().as_raw() {
        return refuse("it belongs to another user");
    }
    if meta.permissions().mode() & 0o022 != 0 {
        return refuse("others may write to it");
    }
    let kind = statfs(path).map_err(|e| IoFailed::new("look at", path, e.into()))?;
    if let Some(why) = unsuitable(kind.filesystem_type()) {
        return refuse(why);
    }
    let mount = statvfs(path).map_err(|e| IoFailed::new("look at", path, e.into()))?;
    if mount.flags().contains(FsFlags::ST_RDONLY) {
        return refuse("it is on a read-only file system");
    }
    Ok(())
}

/// File systems that cannot keep a log or an unpacked image.
fn unsuitable(kind: FsType) -> Option<&'static str> {
    const TABLE: &[(i64, &str)] = &[
        (0x4d44, "a FAT file system keeps neither owners nor modes"),
        (0x2011_bab0, "an exFAT file system keeps neither owners nor modes"),
        (0x5346_544e, "an NTFS file system keeps neither owners nor modes"),
        (0x6969, "a network file system (NFS) does not keep what was synced when it is cut off"),
        (0xfe53_4d42, "a network file system (SMB) keeps neither owners nor modes"),
        (0xff53_4d42, "a network file system (CIFS) keeps neither owners nor modes"),
        (0x9fa0, "it is the kernel's view of processes (/proc)"),
        (0x6265_6572, "it is the kernel's view of devices (/sys)"),
        (0x0027_e0eb, "it is a cgroup file system"),
        (0x6367_7270, "it is a cgroup file system"),
        (0x1cd1, "it is a devpts file system"),
    ];
    let found = TABLE.iter().find(|(magic, _)| i128::from(*magic) == i128::from(kind.0));
    found.map(|(_, why)| *why)
}

/// A folder for its owner alone; one that is there stays as it is.
fn make_dir(path: &Path) -> Result<(), IoFailed> {
    let mut builder = fs::DirBuilder::new();
    match builder.recursive(true).mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(IoFailed::new("make a folder of", path, io::ErrorKind::NotADirectory.into()))
        }
        Err(error) => Err(IoFailed::new("make the folder", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_roots_are_refused_with_their_reason() {
        for (path, why) in [
            ("var/lib/skep", "absolute"),
            ("/var/../lib", ".."),
            ("/", "root of the file system"),
            ("/proc/self", "/proc"),
        ] {
            let error = DataRoot::prepare(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("--data-root"), "{path}: {error}");
        }
    }
}
