//! Snapshots of the store: one sealed file each, written whole or not at all.
//!
//! ```text
//! magic 8 | format 4 | feature level 4 | salt 32 | index 8 | term 8 | length 8 | crc 4 | zero 4 | sealed
//! ```
//! The CRC is outside the seal and covers the 72 bytes before it and the sealed bytes; the seal
//! covers those 72 bytes too. Invariant: a file under its final name was durable before it got it.

use std::path::Path;

use super::seal::{self, LogKey, SALT_BYTES, TAG_BYTES};
use super::segment::{Damage, FEATURE_LEVEL, FORMAT, array_at, u32_at, u64_at};
use super::{Disk, IoFailed};
use crate::host::failpoint::{self, Point};

pub use crate::model::wire::SNAPSHOT_BYTES_MAX;

/// Snapshots that are kept: the newest and the one before it.
pub(super) const SNAPSHOTS_KEPT: usize = 2;

pub(super) const HEADER_BYTES: usize = 80;

const MAGIC: &[u8; 8] = b"skep-snp";
const SIGNED: usize = 72;
const PURPOSE: &[u8] = b"skep snapshot 1";

/// The store as it was after an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last entry that it covers.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// What the store made of itself.
    pub data: Vec<u8>,
}

impl Snapshot {
    pub(super) fn place(&self) -> (u64, u64) {
        (self.index, self.term)
    }
}

/// The file's bytes.
pub(super) fn encode(
    key: &LogKey,
    salt: [u8; SALT_BYTES],
    place: (u64, u64),
    data: &[u8],
) -> Vec<u8> {
    let length = u64::try_from(data.len() + TAG_BYTES).unwrap_or(u64::MAX);
    let mut head = Vec::with_capacity(HEADER_BYTES);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&FORMAT.to_le_bytes());
    head.extend_from_slice(&FEATURE_LEVEL.to_le_bytes());
    head.extend_from_slice(&salt);
    for number in [place.0, place.1, length] {
        head.extend_from_slice(&number.to_le_bytes());
    }
    let mut sealed = data.to_vec();
    key.for_file(&salt, PURPOSE).seal(0, &head, &mut sealed);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head);
    crc.update(&sealed);
    head.extend_from_slice(&crc.finalize().to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&sealed);
    head
}

/// Reads the file's bytes back; an error tells the offset too.
pub(super) fn decode(bytes: &[u8], key: &LogKey) -> Result<Snapshot, (Damage, usize)> {
    if bytes.len() < HEADER_BYTES {
        return Err((Damage::Short, bytes.len()));
    }
    if !bytes.starts_with(MAGIC) {
        return Err((Damage::Magic, 0));
    }
    let (head, sealed) = bytes.split_at(HEADER_BYTES);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[..SIGNED]);
    crc.update(sealed);
    if u32_at(head, SIGNED) != crc.finalize() || u32_at(head, SIGNED + 4) != 0 {
        return Err((Damage::Checksum, SIGNED));
    }
    if u32_at(head, 8) != FORMAT {
        return Err((Damage::Format(u32_at(head, 8)), 8));
    }
    if u32_at(head, 12) > FEATURE_LEVEL {
        return Err((Damage::FeatureLevel(u32_at(head, 12)), 12));
    }
    if u64_at(head, 64) != u64::try_from(sealed.len()).unwrap_or(u64::MAX) {
        return Err((Damage::Short, 64));
    }
    let salt: [u8; SALT_BYTES] = array_at(head, 16);
    let mut sealed = sealed.to_vec();
    let file_key = key.for_file(&salt, PURPOSE);
    let opened = file_key.open(0, &head[..SIGNED], &mut sealed).map(<[u8]>::len);
    let length = opened.ok_or((Damage::Seal, HEADER_BYTES))?;
    sealed.truncate(length);
    Ok(Snapshot { index: u64_at(head, 48), term: u64_at(head, 56), data: sealed })
}

/// Makes a snapshot durable under its final name.
pub(super) fn write<D: Disk>(
    disk: &D,
    dir: &Path,
    key: &LogKey,
    place: (u64, u64),
    data: &[u8],
) -> Result<u64, IoFailed> {
    let bytes = encode(key, seal::random(), place, data);
    let path = dir.join(file_name(place));
    let fresh = dir.join(FRESH_NAME);
    failpoint::hit(Point::SnapshotBeforeWrite);
    let file = disk.create(&fresh).map_err(|e| IoFailed::new("create", &fresh, e))?;
    let written = disk
        .write_at(&file, 0, &bytes)
        .map_err(|e| IoFailed::new("write", &fresh, e))
        .and_then(|()| disk.sync(&file).map_err(|e| IoFailed::new("sync", &fresh, e)));
    if let Err(failed) = written {
        // Room on a full disk; the next snapshot empties the file anyway.
        if let Err(error) = disk.remove(&fresh) {
            log::warn!("cannot remove {}: {error}", fresh.display());
        }
        return Err(failed);
    }
    failpoint::hit(Point::SnapshotBeforeRename);
    disk.rename(&fresh, &path).map_err(|e| IoFailed::new("rename", &fresh, e))?;
    failpoint::hit(Point::SnapshotAfterRename);
    disk.sync_dir(dir).map_err(|e| IoFailed::new("sync", dir, e))?;
    Ok(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
}

const FRESH_NAME: &str = "snapshot.tmp";

/// The name of a snapshot's file.
pub(super) fn file_name((index, term): (u64, u64)) -> String {
    format!("snapshot-{index:020}-{term:020}.snap")
}

/// Index and term of a snapshot's file name.
pub(super) fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (index, term) = name.strip_prefix("snapshot-")?.strip_suffix(".snap")?.split_once('-')?;
    let place = (index.parse().ok()?, term.parse().ok()?);
    (file_name(place) == name).then_some(place)
}
