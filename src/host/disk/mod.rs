//! Durable state: where files lie, who owns them, the log of the brain, small state files.
//!
//! Everything here blocks. The log belongs to one thread (`disk`); state files to whoever owns
//! what they tell. [`Disk`] is the seam below the log: its twin in the tests forgets what was not
//! synced and stops at any call, so that a crash between any two system calls can be tried.

#[cfg(test)]
mod golden;
pub mod key;
pub mod layout;
pub mod ledger;
pub mod lock;
mod recover;
mod replay;
mod seal;
pub mod sealed;
mod segment;
pub mod snapshot;
pub mod wal;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};

pub use self::key::{KeyError, load_or_create_key};
pub use self::recover::{Cut, Recovered};
pub use self::seal::LogKey;
pub use self::wal::Wal;

/// A call on a file failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}")]
pub struct IoFailed {
    /// What was being done.
    pub doing: &'static str,
    /// To which file or folder.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl IoFailed {
    pub(crate) fn new(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self { doing, path: path.to_owned(), source }
    }

    /// The file system has no room left (or the quota is used up).
    #[must_use]
    pub fn is_full(&self) -> bool {
        is_full(&self.source)
    }
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The few calls on files that the log needs.
pub trait Disk: fmt::Debug {
    /// An open file.
    type File: fmt::Debug;

    /// The names in a folder, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes the file, or empties it; only its owner may read it.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file that is there.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// The whole file, at most `limit` bytes.
    fn read(&self, file: &Self::File, limit: u64) -> io::Result<Vec<u8>>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, file: &Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, file: &Self::File, len: u64) -> io::Result<()>;
    /// Makes the file's bytes and length durable.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// Drops what the kernel keeps of the file, so that the next read tells what the disk holds.
    fn forget(&self, file: &Self::File) -> io::Result<()>;
    /// Gives a file another name, in place of what has that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; one that is not there is fine.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes a file of `len` bytes whose space is taken.
    fn reserve(&self, path: &Path, len: u64) -> io::Result<()>;
}

/// The machine's own file systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostDisk;

impl Disk for HostDisk {
    type File = File;

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    fn read(&self, file: &File, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("more than {limit} bytes"),
            ));
        }
        Ok(bytes)
    }

    fn write_at(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn forget(&self, file: &File) -> io::Result<()> {
        match posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED) {
            Ok(()) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn reserve(&self, path: &Path, len: u64) -> io::Result<()> {
        let file = self.create(path)?;
        let bytes = i64::try_from(len).map_err(|_range| io::ErrorKind::InvalidInput)?;
        let taken = match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => return Ok(()),
            // The file system cannot: zeros take the space as well.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                let zeros = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
                self.write_at(&file, 0, &zeros)
            }
            Err(errno) => Err(errno.into()),
        };
        // What is there is whole: the next start goes by the name alone.
        if taken.is_err() {
            self.remove(path)?;
        }
        taken
    }
}
