//! A container's root file system: the image's layers below, its own writable layer on top.
//!
//! The layers are named by short symbolic links in the task's folder and mounted from there, so
//! the option string stays far below the kernel's page whatever the paths are, and no character
//! in a path needs an escape.

use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::error::{Doing, RuntimeError, unless_absent};

/// Layers of an image; Docker's limit is 127.
const LAYERS_MAX: usize = 250;

/// Mounts stacked on one point that are taken away; more than a few are never made.
const STACKED_MAX: usize = 16;

/// Mounts at `target`, unless something is mounted there already. `links` is a folder for the
/// links; `upper` and `work` are made where they are missing.
pub(super) fn mount_root(
    lowerdirs: &[PathBuf],
    upper: &Path,
    work: &Path,
    links: &Path,
    target: &Path,
) -> Result<(), RuntimeError> {
    if lowerdirs.is_empty() {
        return Err(RuntimeError::Spec("the image has no layers".to_owned()));
    }
    if lowerdirs.len() > LAYERS_MAX {
        return Err(RuntimeError::Spec(format!(
            "the image has {} layers, at most {LAYERS_MAX} can be mounted",
            lowerdirs.len()
        )));
    }
    for (dir, mode) in [(upper, 0o755), (work, 0o700), (links, 0o700), (target, 0o755)] {
        make_dir(dir, mode)?;
    }
    if is_mounted(target)? {
        return Ok(());
    }
    let mut names = Vec::with_capacity(lowerdirs.len());
    for (at, dir) in lowerdirs.iter().enumerate() {
        // A missing layer would be an error without a name from mount.
        std::fs::metadata(dir).doing("find the image layer", dir)?;
        let name = at.to_string();
        link(dir, &links.join(&name))?;
        names.push(name);
    }
    link(upper, &links.join("u"))?;
    link(work, &links.join("w"))?;
    let options = format!("lowerdir={},upperdir=u,workdir=w", names.join(":"));
    mount_in(links, target, &options)
}

/// Makes a folder that may exist.
pub(super) fn make_dir(dir: &Path, mode: u32) -> Result<(), RuntimeError> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(dir).doing("make the folder", dir)
}

fn link(to: &Path, at: &Path) -> Result<(), RuntimeError> {
    unless_absent(std::fs::remove_file(at)).doing("remove", at)?;
    symlink(to, at).doing("make the link", at)
}

/// Mounts with `dir` as the working directory of the mounting thread only.
fn mount_in(dir: &Path, target: &Path, options: &str) -> Result<(), RuntimeError> {
    let mounted = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(64 * 1024).spawn_scoped(scope, || {
            unshare(CloneFlags::CLONE_FS)?;
            nix::unistd::chdir(dir)?;
            mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options))
        });
        thread.map(|thread| thread.join().unwrap_or(Err(Errno::EIO)))
    });
    mounted.doing("start a thread to mount", target)?.doing("mount the root file system at", target)
}

/// Something is mounted at `path` (on another file system than its parent folder's).
pub(super) fn is_mounted(path: &Path) -> Result<bool, RuntimeError> {
    use std::os::unix::fs::MetadataExt;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let own = std::fs::symlink_metadata(path).doing("look at", path)?;
    let other = std::fs::symlink_metadata(parent).doing("look at", parent)?;
    Ok(own.dev() != other.dev())
}

/// Takes away whatever is mounted at `path`; nothing there is fine.
pub(super) fn unmount(path: &Path) -> Result<(), RuntimeError> {
    for _ in 0..STACKED_MAX {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point, or not there.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(err) => return Err(err).doing("unmount", path),
        }
    }
    Ok(())
}
