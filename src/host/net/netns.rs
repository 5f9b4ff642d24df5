//! Network namespaces that outlive every process: pinned by a bind mount on a file.
//!
//! A namespace is made and configured on a helper thread, which takes it down with itself, so no
//! thread of the caller ever changes its own. Making and removing are idempotent.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, fstatfs};

use crate::host::failpoint::{self, Point};

/// File system type of a namespace's file (`linux/magic.h` `NSFS_MAGIC`).
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// Mounts that may lie on one pin before its removal gives up.
const PIN_MOUNTS_MAX: usize = 16;

/// What may go wrong with a namespace.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}", path = .path.display())]
pub struct NetnsError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn failed(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> NetnsError {
    NetnsError { doing, path: path.to_owned(), source: source.into() }
}

/// Moves the calling thread into the namespace pinned at `path`, which is made and pinned if it
/// is not there. Only for a thread that ends soon.
///
/// # Errors
/// What the kernel says.
pub fn enter_or_create(path: &Path) -> Result<File, NetnsError> {
    if let Some(file) = open_pinned(path)? {
        setns(&file, CloneFlags::CLONE_NEWNET)
            .map_err(|e| failed("enter the network namespace", path, e))?;
        return Ok(file);
    }
    create(path)?;
    open_pinned(path)?.ok_or_else(|| failed("pin the network namespace", path, Errno::ENOENT))
}

/// Takes the pin away; false if there was none. The namespace ends with its last process.
///
/// # Errors
/// What the kernel says.
pub fn unpin(path: &Path) -> Result<bool, NetnsError> {
    for _ in 0..PIN_MOUNTS_MAX {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(Errno::EINVAL) => break,
            Err(Errno::ENOENT) => return Ok(false),
            Err(error) => return Err(failed("unmount the network namespace", path, error)),
        }
    }
    failpoint::hit(Point::NetUnmounted);
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove the pin", path, error)),
    }
}

/// The namespace's file, if `path` is a pin with a namespace on it.
fn open_pinned(path: &Path) -> Result<Option<File>, NetnsError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open the network namespace", path, error)),
    };
    let stat = fstatfs(&file).map_err(|e| failed("examine the network namespace", path, e))?;
    Ok((stat.filesystem_type() == NSFS_MAGIC).then_some(file))
}

fn create(path: &Path) -> Result<(), NetnsError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| failed("create the pin", path, e))?;
    failpoint::hit(Point::NetPinFile);
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|e| failed("make the network namespace for", path, e))?;
    let own = Path::new("/proc/thread-self/ns/net");
    mount(Some(own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|e| failed("pin the network namespace", path, e))
}
