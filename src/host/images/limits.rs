//! The named limits of everything that comes from outside, and the guard over the disk's space.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::error::{ImageError, Result};

/// What a hostile registry or archive cannot exceed.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one compressed blob.
    pub blob_bytes_max: u64,
    /// Bytes of one unpacked layer, tar headers included.
    pub layer_bytes_max: u64,
    /// Entries of one layer.
    pub layer_entries_max: u64,
    /// Bytes of memory for the paths of one layer's directories.
    pub directories_bytes_max: u64,
    /// Layers of one image.
    pub layers_max: usize,
    /// Bytes of a manifest, an index or a configuration.
    pub document_bytes_max: u64,
    /// Bytes of an archive given to `load`, after its outer compression.
    pub archive_bytes_max: u64,
    /// Entries of an archive given to `load`.
    pub archive_entries_max: u64,
    /// Images of an archive given to `load`.
    pub archive_images_max: usize,
    /// Bytes that images leave free on the disk, so that the log and the tasks can go on.
    pub disk_reserve_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blob_bytes_max: 16 * GIB,
            layer_bytes_max: 32 * GIB,
            layer_entries_max: 1_000_000,
            directories_bytes_max: 32 * MIB,
            layers_max: 127,
            document_bytes_max: 4 * MIB,
            archive_bytes_max: 64 * GIB,
            archive_entries_max: 100_000,
            archive_images_max: 1_000,
            disk_reserve_bytes: 64 * MIB,
        }
    }
}

/// An unpacked layer's bytes; ends with [`ImageError::Limit`] inside the I/O error when more comes than is allowed.
pub(super) struct Limited<R> {
    inner: R,
    left: u64,
    max: u64,
}

impl<R> Limited<R> {
    pub(super) fn new(inner: R, max: u64) -> Self {
        Self { inner, left: max, max }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => {
                let what = "the unpacked layer".to_owned();
                let limit = ImageError::Limit { what, limit: self.max, unit: "bytes" };
                return Err(io::Error::other(limit));
            }
        }
        Ok(count)
    }
}

/// How many bytes are written between two looks at the free space.
const CHECK_EVERY_BYTES: u64 = 8 * MIB;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Refuses writes that would take the disk's reserve.
#[derive(Debug)]
pub(super) struct SpaceGuard {
    directory: PathBuf,
    reserve: u64,
    until_check: u64,
}

impl SpaceGuard {
    /// Looks once at once, so that a full disk is told before the first byte.
    pub(super) fn new(directory: &Path, reserve: u64) -> Result<Self> {
        let mut guard = Self { directory: directory.to_owned(), reserve, until_check: 0 };
        guard.take(0)?;
        Ok(guard)
    }

    /// Accounts for `bytes` about to be written.
    pub(super) fn take(&mut self, bytes: u64) -> Result<()> {
        if bytes < self.until_check {
            self.until_check -= bytes;
            return Ok(());
        }
        let stat = statvfs(&self.directory)
            .map_err(|e| ImageError::io("look at the free space of", &self.directory, e))?;
        // The field widths differ between targets.
        #[allow(clippy::useless_conversion, reason = "u32 on 32-bit targets")]
        let free = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
        let Some(spare) = free.checked_sub(self.reserve.saturating_add(bytes)) else {
            return Err(ImageError::NoSpace { doing: "write to", path: self.directory.clone() });
        };
        self.until_check = CHECK_EVERY_BYTES.min(spare.max(1));
        Ok(())
    }
}
