//! Copying a folder of an image into an empty volume: contents, owners, modes, times, extended
//! attributes, links and device nodes.
//!
//! The image's tree does not change meanwhile (nothing runs in it) and symbolic links are never
//! followed, so what is copied is only ever inside the image.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;

use super::error::{Doing, RuntimeError};
use super::rootdir::RootDir;
use crate::host::tree::remove_tree;

/// The longest list of names and the longest value of extended attributes; the kernel's limits.
const XATTR_BYTES_MAX: usize = 64 * 1024;

/// A folder of an image.
#[derive(Debug)]
pub(super) struct Source {
    /// Keeps `path` good.
    _fd: OwnedFd,
    path: PathBuf,
}

impl Source {
    /// None when the image has no folder there.
    pub(super) fn open(root: &RootDir, target: &Path) -> Result<Option<Self>, RuntimeError> {
        match root.open_at(target, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(fd) => {
                let path = PathBuf::from(format!("/proc/self/fd/{}/.", fd.as_raw_fd()));
                Ok(Some(Self { _fd: fd, path }))
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV) => Ok(None),
            Err(err) => Err(err).doing("open the image's", target),
        }
    }

    pub(super) fn is_empty(&self) -> Result<bool, RuntimeError> {
        Ok(fs::read_dir(&self.path).doing("list", &self.path)?.next().is_none())
    }

    /// Gives `to` the owner and mode of the image's folder.
    pub(super) fn copy_owner(&self, to: &Path) -> Result<(), RuntimeError> {
        let meta = fs::metadata(&self.path).doing("look at", &self.path)?;
        lchown(to, Some(meta.uid()), Some(meta.gid())).doing("change the owner of", to)?;
        fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))
            .doing("change the mode of", to)
    }

    /// Copies everything in it.
    pub(super) fn copy_into(&self, to: &Path) -> Result<(), RuntimeError> {
        let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
        let mut folders = vec![(self.path.clone(), to.to_owned())];
        let mut done = 0;
        while let Some((from, into)) = folders.get(done).cloned() {
            done += 1;
            for entry in fs::read_dir(&from).doing("list", &from)? {
                let name = entry.doing("list", &from)?.file_name();
                let (source, copy) = (from.join(&name), into.join(&name));
                let meta = fs::symlink_metadata(&source).doing("look at", &source)?;
                if meta.nlink() > 1 && !meta.is_dir() {
                    let first = links.entry((meta.dev(), meta.ino())).or_insert_with(|| copy.clone());
                    if *first != copy {
                        fs::hard_link(&*first, &copy).doing("link", &copy)?;
                        continue;
                    }
                }
                copy_one(&source, &copy, &meta)?;
                if meta.is_dir() {
                    folders.push((source, copy));
                }
            }
        }
        // Inner folders first: setting a time does not change the outer one's.
        for (from, into) in folders.iter().skip(1).rev() {
            let meta = fs::symlink_metadata(from).doing("look at", from)?;
            copy_times(into, &meta).doing("set the time of", into)?;
        }
        Ok(())
    }
}

fn copy_one(source: &Path, copy: &Path, meta: &Metadata) -> Result<(), RuntimeError> {
    let kind = meta.file_type();
    if kind.is_dir() {
        fs::create_dir(copy).doing("make the folder", copy)?;
    } else if kind.is_symlink() {
        let target = fs::read_link(source).doing("read the link", source)?;
        symlink(target, copy).doing("make the link", copy)?;
    } else if kind.is_file() {
        fs::copy(source, copy).doing("copy to", copy)?;
    } else {
        let flag = match () {
            () if kind.is_fifo() => SFlag::S_IFIFO,
            () if kind.is_char_device() => SFlag::S_IFCHR,
            () if kind.is_block_device() => SFlag::S_IFBLK,
            () => SFlag::S_IFSOCK,
        };
        mknod(copy, flag, Mode::S_IRUSR, meta.rdev()).doing("make", copy)?;
    }
    lchown(copy, Some(meta.uid()), Some(meta.gid())).doing("change the owner of", copy)?;
    if kind.is_symlink() {
        return Ok(());
    }
    // After the owner, which clears set-id bits and capabilities.
    fs::set_permissions(copy, fs::Permissions::from_mode(meta.mode() & 0o7777))
        .doing("change the mode of", copy)?;
    copy_xattrs(source, copy).doing("copy the attributes of", source)?;
    copy_times(copy, meta).doing("set the time of", copy)
}

fn copy_times(path: &Path, meta: &Metadata) -> nix::Result<()> {
    let access = TimeSpec::new(meta.atime(), meta.atime_nsec());
    let change = TimeSpec::new(meta.mtime(), meta.mtime_nsec());
    utimensat(nix::fcntl::AT_FDCWD, path, &access, &change, UtimensatFlags::NoFollowSymlink)
}

/// Copies user attributes and file capabilities; what the target file system does not know is
/// left out.
fn copy_xattrs(source: &Path, copy: &Path) -> io::Result<()> {
    let (source, copy) = (c_path(source)?, c_path(copy)?);
    let mut names = vec![0u8; XATTR_BYTES_MAX];
    // SAFETY: the path ends with a NUL and the buffer has the length that is told.
    let len = unsafe { libc::llistxattr(source.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let Ok(len) = usize::try_from(len) else { return unless_unsupported() };
    let mut value = vec![0u8; XATTR_BYTES_MAX];
    for name in names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if !name.starts_with(b"user.") && name != b"security.capability" {
            continue;
        }
        let name = CString::new(name).map_err(io::Error::from)?;
        let (at, size) = (value.as_mut_ptr().cast(), value.len());
        // SAFETY: both strings end with a NUL and the buffer has the length that is told.
        let len = unsafe { libc::lgetxattr(source.as_ptr(), name.as_ptr(), at, size) };
        let Ok(len) = usize::try_from(len) else { continue };
        let at = value.as_ptr().cast();
        // SAFETY: both strings end with a NUL and `len` bytes of the buffer were just written.
        if unsafe { libc::lsetxattr(copy.as_ptr(), name.as_ptr(), at, len, 0) } < 0 {
            unless_unsupported()?;
        }
    }
    Ok(())
}

/// The last error, unless it says that the file system has no such attributes.
fn unless_unsupported() -> io::Result<()> {
    match Errno::last() {
        Errno::ENOTSUP | Errno::EPERM => Ok(()),
        err => Err(err.into()),
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(OsStr::as_bytes(path.as_os_str())).map_err(io::Error::from)
}

/// Removes everything in `folder`.
pub(super) fn clear(folder: &Path) -> Result<(), RuntimeError> {
    for entry in fs::read_dir(folder).doing("list", folder)? {
        let entry = entry.doing("list", folder)?;
        let path = entry.path();
        remove_tree(&path).doing("remove", &path)?;
    }
    Ok(())
}

/// Makes the whole file system that holds `folder` durable.
pub(super) fn sync(folder: &Path) -> Result<(), RuntimeError> {
    let fd = fs::File::open(folder).doing("open", folder)?;
    // SAFETY: syncfs only reads the descriptor, which is open.
    Errno::result(unsafe { libc::syncfs(fd.as_raw_fd()) }).map(drop).doing("sync", folder)
}
