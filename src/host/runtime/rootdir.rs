//! Looking into a container's root file system from outside, without being led out of it by what
//! an image put there.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::Mode;

use super::error::{Doing, RuntimeError};

/// Symbolic links followed before a path counts as a loop, as in the kernel.
const LINKS_MAX: usize = 40;

/// A root file system, opened.
#[derive(Debug)]
pub(super) struct RootDir {
    fd: OwnedFd,
    path: PathBuf,
}

impl RootDir {
    pub(super) fn open(path: &Path) -> Result<Self, RuntimeError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path, flags, Mode::empty()).doing("open", path)?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Opens `path` as the container would, with no way out of the root.
    pub(super) fn open_at(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
        openat2(&self.fd, path, how)
    }

    /// A regular file's content: none when there is no such file, an error when it is larger than
    /// `bytes_max` or not a regular file.
    pub(super) fn read(
        &self,
        path: &'static str,
        bytes_max: u64,
    ) -> Result<Option<String>, RuntimeError> {
        let shown = || self.path.join(path.trim_start_matches('/'));
        // O_NONBLOCK: a FIFO there must not hold up anybody.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = match self.open_at(Path::new(path), flags) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENXIO) => return Ok(None),
            other => other.doing("open", shown())?,
        };
        let file = File::from(fd);
        let meta = file.metadata().doing("read", shown())?;
        if !meta.is_file() || meta.size() > bytes_max {
            return Err(RuntimeError::Spec(format!(
                "the image's {path} is not a regular file of at most {bytes_max} bytes"
            )));
        }
        let mut bytes = Vec::new();
        file.take(bytes_max).read_to_end(&mut bytes).doing("read", shown())?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Where `path` leads when every symbolic link is followed inside the root: absolute and
    /// without `..`. What does not exist is taken as it is written.
    pub(super) fn resolve(&self, path: &Path) -> Result<PathBuf, RuntimeError> {
        let mut done = PathBuf::from("/");
        let mut rest: Vec<PathBuf> = parts(path);
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == Path::new("..") {
                done.pop();
                continue;
            }
            let next = done.join(&part);
            match self.read_link(&next) {
                Ok(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(io::Error::from(Errno::ELOOP)).doing("resolve", path);
                    }
                    if target.is_absolute() {
                        done = PathBuf::from("/");
                    }
                    rest.extend(parts(&target));
                }
                Err(_) => done = next,
            }
        }
        Ok(done)
    }

    fn read_link(&self, path: &Path) -> nix::Result<PathBuf> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let name = path.file_name().unwrap_or(OsStr::new("."));
        let dir = self.open_at(parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        readlinkat(&dir, name).map(PathBuf::from)
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The named parts of a path, last one first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let named = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_leads_out() {
        let base = std::env::temp_dir().join(format!("skep-rootdir-{}", std::process::id()));
        let root = base.join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(base.join("secret"), "no").unwrap();
        symlink("../../../../secret", root.join("etc/up")).unwrap();
        symlink("/etc/up", root.join("abs")).unwrap();
        symlink("/proc/self/fd/7", root.join("work")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        std::fs::write(root.join("etc/passwd"), "x".repeat(100)).unwrap();
        let dir = RootDir::open(&root).unwrap();
        assert_eq!(dir.resolve(Path::new("/abs/x")).unwrap(), Path::new("/secret/x"));
        assert_eq!(dir.resolve(Path::new("work/..")).unwrap(), Path::new("/proc/self/fd"));
        assert_eq!(dir.resolve(Path::new("/a/../../b/./c")).unwrap(), Path::new("/b/c"));
        assert!(dir.resolve(Path::new("/loop")).is_err());
        assert!(dir.open_at(Path::new("/etc/up"), OFlag::O_RDONLY).is_err());
        assert_eq!(dir.read("/etc/group", 10).unwrap(), None);
        assert!(dir.read("/etc/passwd", 10).is_err());
        assert_eq!(dir.read("/etc/passwd", 100).unwrap().unwrap().len(), 100);
        std::fs::remove_dir_all(base).unwrap();
    }
}
