//! Unpacks one layer into a directory that becomes a lower directory of overlayfs.
//!
//! Everything is resolved with openat2 inside the layer's root, so no name, symbolic link or hard
//! link of the archive reaches outside. Whiteouts become overlayfs's own (device 0/0,
//! `trusted.overlay.opaque`). Not here: syncing and publishing the directory (`layers` does that).
//! The caller's thread does all the work; memory is one buffer and the list of directory times.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, futimens,
    major, makedev, minor, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{
    Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat, write,
};

use super::decode::{self, Hashing};
use super::error::{ImageError, Result};
use super::limits::{Limited, Limits, SpaceGuard};
use super::tar_stream::{Entry, Kind, TarStream, read_failed};
use super::xattr;
use crate::host::tree::remove_tree;
use crate::model::digest::Digest;

/// Bytes of one entry's name.
pub(super) const PATH_BYTES_MAX: usize = 4095;

/// What a directory whose time is remembered until the end counts besides its path.
const TIME_BYTES: u64 = 96;

/// How often openat2 is tried again when a rename elsewhere on the machine disturbed it.
const RESOLVE_RETRIES_MAX: u32 = 128;

const COPY_BYTES: usize = 64 * 1024;
const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// What a layer turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// Digest of the plain tar stream.
    pub(super) diff_id: Digest,
    /// Bytes of its regular files.
    pub(super) bytes: u64,
}

/// Unpacks the layer that `source` holds (gzip, zstd or plain) into the empty directory `root`.
pub(super) fn unpack(source: impl Read, root: &Path, limits: &Limits) -> Result<Unpacked> {
    let plain = decode::plain(source).map_err(read_failed)?;
    let limited = Limited::new(plain, limits.layer_bytes_max);
    let mut tar = TarStream::new(Hashing::new(limited));
    let mut layer = Layer::new(root, limits)?;
    let mut entries = 0u64;
    while let Some(entry) = tar.next_entry()? {
        entries += 1;
        if entries > limits.layer_entries_max {
            return Err(ImageError::Limit {
                what: "the layer".to_owned(),
                limit: limits.layer_entries_max,
                unit: "entries",
            });
        }
        layer.place(&entry, &mut tar)?;
    }
    let (diff_id, _) = tar.drain()?.finish();
    let bytes = layer.bytes;
    layer.set_directory_times()?;
    Ok(Unpacked { diff_id, bytes })
}

/// The directory being filled.
struct Layer {
    path: PathBuf,
    root: Rc<OwnedFd>,
    /// The last parent directory; dropped as soon as anything is removed.
    last_parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Times are set at the end: what is put into a directory changes them.
    directory_times: BTreeMap<Vec<u8>, TimeSpec>,
    /// Bytes that they may still take; a layer with more is refused.
    times_room: u64,
    times_bytes_max: u64,
    space: SpaceGuard,
    buffer: Vec<u8>,
    bytes: u64,
}

impl Layer {
    fn new(path: &Path, limits: &Limits) -> Result<Self> {
        let space = SpaceGuard::new(path, limits.disk_reserve_bytes)?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let root = open(path, flags, Mode::empty())
            .map_err(|e| ImageError::io("open the layer directory", path, e))?;
        Ok(Self {
            path: path.to_owned(),
            root: Rc::new(root),
            last_parent: None,
            directory_times: BTreeMap::new(),
            times_room: limits.directories_bytes_max,
            times_bytes_max: limits.directories_bytes_max,
            space,
            buffer: vec![0; COPY_BYTES],
            bytes: 0,
        })
    }

    /// Puts one entry where it belongs, replacing what an earlier entry put there.
    fn place(&mut self, entry: &Entry, data: &mut impl Read) -> Result<()> {
        let parts = components(&entry.path, &entry.path)?;
        let Some((name, parents)) = parts.split_last() else {
            if entry.kind != Kind::Directory {
                return Err(ImageError::archive(&entry.path, "the root is not a directory"));
            }
            let root = self.root.clone();
            return self.finish_directory(&root, entry, b".".to_vec());
        };
        let parent = self.parent(parents, entry)?;
        if name.starts_with(WHITEOUT) {
            return self.whiteout(&parent, name, entry);
        }
        self.space.take(512).map_err(|e| self.named(e, entry))?;
        let replaced = self.clear_place(&parent, name, entry)?;
        match entry.kind {
            Kind::Directory => self.directory(&parent, name, &parts, entry, replaced),
            Kind::Regular => self.regular(&parent, name, entry, data),
            Kind::HardLink => self.hard_link(&parent, name, entry),
            Kind::Symlink => {
                symlinkat(&entry.link[..], &*parent, *name).map_err(|e| self.io(entry, e))?;
                self.finish_node(&parent, name, entry)
            }
            Kind::CharDevice => self.node(&parent, name, entry, SFlag::S_IFCHR),
            Kind::BlockDevice => self.node(&parent, name, entry, SFlag::S_IFBLK),
            Kind::Fifo => self.node(&parent, name, entry, SFlag::S_IFIFO),
        }
    }

    /// Opens the directory that holds the entry; makes what is missing, root's and 0755.
    fn parent(&mut self, parents: &[&[u8]], entry: &Entry) -> Result<Rc<OwnedFd>> {
        if parents.is_empty() {
            return Ok(self.root.clone());
        }
        let joined = parents.join(&b'/');
        if let Some((path, fd)) = &self.last_parent
            && *path == joined
        {
            return Ok(fd.clone());
        }
        let mut fd = self.root.clone();
        match self.resolve(&joined) {
            Ok(found) => fd = Rc::new(found),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                for depth in 0..parents.len() {
                    let next = self.parent_step(&fd, &parents[..=depth], entry)?;
                    fd = Rc::new(next);
                }
            }
            Err(e) => return Err(self.io(entry, e)),
        }
        self.last_parent = Some((joined, fd.clone()));
        Ok(fd)
    }

    /// Opens `parts`, whose last one is in `above`, and makes it if it is missing.
    fn parent_step(&mut self, above: &OwnedFd, parts: &[&[u8]], entry: &Entry) -> Result<OwnedFd> {
        let joined = parts.join(&b'/');
        let name = parts.last().copied().unwrap_or_default();
        let mode = Mode::from_bits_truncate(0o755);
        match self.resolve(&joined) {
            Ok(found) => return Ok(found),
            Err(Errno::ENOENT) => {
                mkdirat(above, name, mode).map_err(|e| self.io(entry, e))?;
            }
            // A whiteout of this layer hides what is below; a directory in its place is opaque.
            Err(Errno::ENOTDIR) if is_whiteout_at(above, name) => {
                unlinkat(above, name, UnlinkatFlags::NoRemoveDir).map_err(|e| self.io(entry, e))?;
                mkdirat(above, name, mode).map_err(|e| self.io(entry, e))?;
                let made = self.resolve(&joined).map_err(|e| self.io(entry, e))?;
                self.mark_opaque(&made, entry)?;
            }
            Err(e) => return Err(self.io(entry, e)),
        }
        self.resolve(&joined).map_err(|e| self.io(entry, e))
    }

    /// Opens a directory with the layer as the root of all symbolic links on the way.
    fn resolve(&self, path: &[u8]) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(
                ResolveFlag::RESOLVE_IN_ROOT
                    | ResolveFlag::RESOLVE_NO_MAGICLINKS
                    | ResolveFlag::RESOLVE_NO_XDEV,
            );
        let mut retries = 0;
        loop {
            match openat2(&*self.root, path, how) {
                Err(Errno::EAGAIN) if retries < RESOLVE_RETRIES_MAX => retries += 1,
                result => return result,
            }
        }
    }

    /// Removes what is at the entry's place unless both are directories. Tells what was there.
    fn clear_place(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<Replaced> {
        let stat = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(Replaced::Nothing),
            Err(e) => return Err(self.io(entry, e)),
        };
        if !is_kind(&stat, SFlag::S_IFDIR) {
            let was_whiteout = is_whiteout(&stat);
            // It may be the link that the last parent was reached through.
            self.last_parent = None;
            unlinkat(parent, name, UnlinkatFlags::NoRemoveDir).map_err(|e| self.io(entry, e))?;
            return Ok(if was_whiteout { Replaced::Whiteout } else { Replaced::Nothing });
        }
        if entry.kind == Kind::Directory {
            return Ok(Replaced::KeptDirectory);
        }
        self.last_parent = None;
        // Moved to the root under a name no entry can have, so that its depth does not matter.
        let shelf: &[u8] = b".wh..wh.removing";
        nix::fcntl::renameat(parent, name, &*self.root, shelf).map_err(|e| self.io(entry, e))?;
        let shelf = self.path.join(".wh..wh.removing");
        remove_tree(&shelf).map_err(|e| ImageError::io("replace", &shelf, e))?;
        Ok(Replaced::Nothing)
    }

    /// Applies a whiteout: it hides what lower layers have, never what this layer has.
    fn whiteout(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<()> {
        if name == WHITEOUT_OPAQUE {
            return self.mark_opaque(parent, entry);
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(ImageError::archive(&entry.path, "it is a whiteout of nothing"));
        }
        match fstatat(parent, hidden, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if is_kind(&stat, SFlag::S_IFDIR) => {
                let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let directory = openat(parent, hidden, flags, Mode::empty())
                    .map_err(|e| self.io(entry, e))?;
                self.mark_opaque(&directory, entry)
            }
            Ok(_) => Ok(()),
            Err(Errno::ENOENT) => {
                mknodat(parent, hidden, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))
                    .map_err(|e| self.io(entry, e))
            }
            Err(e) => Err(self.io(entry, e)),
        }
    }

    fn directory(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        parts: &[&[u8]],
        entry: &Entry,
        replaced: Replaced,
    ) -> Result<()> {
        if replaced != Replaced::KeptDirectory {
            mkdirat(parent, name, Mode::from_bits_truncate(0o700))
                .map_err(|e| self.io(entry, e))?;
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory =
            openat(parent, name, flags, Mode::empty()).map_err(|e| self.io(entry, e))?;
        if replaced == Replaced::Whiteout {
            self.mark_opaque(&directory, entry)?;
        }
        self.finish_directory(&directory, entry, parts.join(&b'/'))
    }

    fn finish_directory(&mut self, fd: &OwnedFd, entry: &Entry, path: Vec<u8>) -> Result<()> {
        self.finish_open(fd, entry)?;
        let bytes = path.len() as u64 + TIME_BYTES;
        if self.directory_times.insert(path, time_of(entry)).is_none() {
            let left = self.times_room.checked_sub(bytes);
            self.times_room = left.ok_or_else(|| ImageError::Limit {
                what: "the list of the layer's directories".to_owned(),
                limit: self.times_bytes_max,
                unit: "bytes",
            })?;
        }
        Ok(())
    }

    fn regular(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        data: &mut impl Read,
    ) -> Result<()> {
        let flags = OFlag::O_WRONLY
            | OFlag::O_CREAT
            | OFlag::O_EXCL
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC;
        let file = openat(parent, name, flags, Mode::from_bits_truncate(0o600))
            .map_err(|e| self.io(entry, e))?;
        loop {
            let count = match data.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(read_failed(e)),
            };
            self.space.take(count as u64).map_err(|e| self.named(e, entry))?;
            let mut rest = &self.buffer[..count];
            while !rest.is_empty() {
                match write(&file, rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(Errno::EINTR) => {}
                    Err(e) => return Err(self.io(entry, e)),
                }
            }
            self.bytes += count as u64;
        }
        self.finish_open(&file, entry)?;
        let time = time_of(entry);
        futimens(&file, &time, &time).map_err(|e| self.io(entry, e))
    }

    fn hard_link(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<()> {
        let parts = components(&entry.link, &entry.path)?;
        let missing = || ImageError::archive(&entry.path, "it is a hard link to nothing");
        let (target, above) = parts.split_last().ok_or_else(missing)?;
        let above = if above.is_empty() {
            self.root.clone()
        } else {
            match self.resolve(&above.join(&b'/')) {
                Ok(fd) => Rc::new(fd),
                Err(Errno::ENOENT | Errno::ENOTDIR) => return Err(missing()),
                Err(e) => return Err(self.io(entry, e)),
            }
        };
        match linkat(&*above, *target, parent, name, AtFlags::empty()) {
            Err(Errno::ENOENT) => Err(missing()),
            result => result.map_err(|e| self.io(entry, e)),
        }
    }

    fn node(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry, kind: SFlag) -> Result<()> {
        let (major, minor) = entry.device;
        let device = makedev(major.into(), minor.into());
        mknodat(parent, name, kind, Mode::from_bits_truncate(0o600), device)
            .map_err(|e| self.io(entry, e))?;
        self.finish_node(parent, name, entry)?;
        let mode = Mode::from_bits_truncate(entry.mode);
        fchmodat(parent, name, mode, FchmodatFlags::FollowSymlink).map_err(|e| self.io(entry, e))
    }

    /// Owner and time of what has no descriptor: links and devices.
    fn finish_node(&self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<()> {
        let (owner, group) = owner_of(entry)?;
        fchownat(parent, name, owner, group, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|e| self.io(entry, e))?;
        let time = time_of(entry);
        utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)
            .map_err(|e| self.io(entry, e))
    }

    /// Owner, mode and attributes, in the order in which none of them clears another.
    fn finish_open(&self, fd: &OwnedFd, entry: &Entry) -> Result<()> {
        let (owner, group) = owner_of(entry)?;
        fchown(fd, owner, group).map_err(|e| self.io(entry, e))?;
        fchmod(fd, Mode::from_bits_truncate(entry.mode)).map_err(|e| self.io(entry, e))?;
        for (name, value) in &entry.xattrs {
            if !xattr::is_wanted(name) {
                continue;
            }
            match xattr::set(fd, name, value) {
                // Attributes of users and access lists are a nicety; capabilities are not.
                Err(Errno::ENOTSUP) if !name.starts_with(b"security.") => {}
                result => result.map_err(|e| self.io(entry, e))?,
            }
        }
        Ok(())
    }

    fn mark_opaque(&self, directory: &OwnedFd, entry: &Entry) -> Result<()> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let readable =
            openat(directory, ".", flags, Mode::empty()).map_err(|e| self.io(entry, e))?;
        xattr::set(&readable, b"trusted.overlay.opaque", b"y").map_err(|e| self.io(entry, e))
    }

    fn set_directory_times(self) -> Result<()> {
        for (path, time) in &self.directory_times {
            match self.resolve(path) {
                Ok(fd) => {
                    utimensat(&fd, ".", time, time, UtimensatFlags::FollowSymlink)
                        .map_err(|e| ImageError::io("set the time of", &self.path, e))?;
                }
                // A later entry put something else in its place.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(e) => return Err(ImageError::io("set the time of", &self.path, e)),
            }
        }
        Ok(())
    }

    /// Names the entry that a system call failed for.
    fn io(&self, entry: &Entry, source: Errno) -> ImageError {
        let why = match source {
            Errno::ENOTDIR => "a part of its path is not a directory",
            Errno::ELOOP => "its path has too many symbolic links",
            Errno::EXDEV => "its path leaves the layer",
            Errno::ENAMETOOLONG => "its name is too long",
            Errno::EEXIST => "its path leads through a symbolic link to nothing",
            _ => {
                let path = self.path.join(String::from_utf8_lossy(&entry.path).as_ref());
                return ImageError::io("unpack", &path, source);
            }
        };
        ImageError::archive(&entry.path, why)
    }

    fn named(&self, error: ImageError, entry: &Entry) -> ImageError {
        match error {
            ImageError::NoSpace { .. } => self.io(entry, Errno::ENOSPC),
            other => other,
        }
    }
}

/// What an entry's place held before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replaced {
    Nothing,
    Whiteout,
    KeptDirectory,
}

/// The parts of a name below the root. Absolute names are taken below it; `..` is refused.
fn components<'a>(path: &'a [u8], entry: &[u8]) -> Result<Vec<&'a [u8]>> {
    if path.len() > PATH_BYTES_MAX {
        return Err(ImageError::archive(&path[..64], "its name is too long"));
    }
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(ImageError::archive(entry, "its path leaves the layer")),
            part => parts.push(part),
        }
    }
    Ok(parts)
}

fn owner_of(entry: &Entry) -> Result<(Option<Uid>, Option<Gid>)> {
    // The kernel takes this number as "leave it".
    if entry.uid == u32::MAX || entry.gid == u32::MAX {
        return Err(ImageError::archive(&entry.path, "its owner is out of range"));
    }
    Ok((Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid))))
}

#[allow(
    clippy::useless_conversion,
    clippy::unnecessary_fallible_conversions,
    reason = "the fields are 32 bits wide on some targets"
)]
fn time_of(entry: &Entry) -> TimeSpec {
    let (seconds, nanos) = entry.mtime;
    TimeSpec::new(seconds.try_into().unwrap_or(0), nanos.try_into().unwrap_or(0))
}

fn is_kind(stat: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind
}

fn is_whiteout(stat: &FileStat) -> bool {
    is_kind(stat, SFlag::S_IFCHR) && major(stat.st_rdev) == 0 && minor(stat.st_rdev) == 0
}

fn is_whiteout_at(directory: &OwnedFd, name: &[u8]) -> bool {
    fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|stat| is_whiteout(&stat))
}
