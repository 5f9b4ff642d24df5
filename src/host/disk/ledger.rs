//! Small state files that are there whole or not at all.
//!
//! ```text
//! magic 8 | crc 4 | kind 2 | version 2 | length 4 | postcard
//! ```
//! The CRC covers everything behind it, and the file must end where the length says. A file has
//! one writer at a time. Not for anything secret: nothing is sealed here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::IoFailed;
use crate::host::failpoint::{self, Point};
use crate::model::wire::{self, Kind, WireError};

/// The largest payload of a state file.
pub const LEDGER_BYTES_MAX: usize = 4 << 20;

const MAGIC: &[u8; 8] = b"skepfile";
const HEAD_BYTES: usize = 12;

/// Why a state file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A call on the file failed.
    #[error(transparent)]
    Io(#[from] IoFailed),
    /// The value does not fit.
    #[error("cannot put this into {}", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: WireError,
    },
    /// The file is not what was written.
    #[error("{} is damaged ({what})", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In which way.
        what: &'static str,
    },
    /// The file is whole, but does not hold what is asked for.
    #[error("{} cannot be used by this release", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: WireError,
    },
}

impl LedgerError {
    /// The reason is a full disk, which passes.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io(failed) if failed.is_full())
    }
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<T> {
    /// The value.
    pub value: T,
    /// Set if the file was damaged and the copy before it was read: what was wrong.
    pub from_previous: Option<String>,
}

/// Whether a state file must outlive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durable {
    Yes,
    No,
}

/// Writes a state file durably: two fsyncs (file and folder).
pub fn write<T>(path: &Path, kind: Kind, version: u16, value: &T) -> Result<(), LedgerError>
where
    T: Serialize + ?Sized,
{
    let bytes = encode(path, kind, version, value)?;
    Ok(replace(path, &bytes, Durable::Yes)?)
}

/// Writes a state file whose loss is no harm: never half, but after a power cut perhaps the old one
/// or none.
pub fn write_lazily<T>(path: &Path, kind: Kind, version: u16, value: &T) -> Result<(), LedgerError>
where
    T: Serialize + ?Sized,
{
    let bytes = encode(path, kind, version, value)?;
    Ok(replace(path, &bytes, Durable::No)?)
}

/// Like [`write`], and keeps the file that was there under `.prev`: a good copy that
/// [`read_with_previous`] falls back on.
pub fn write_keeping_previous<T>(
    path: &Path,
    kind: Kind,
    version: u16,
    value: &T,
) -> Result<(), LedgerError>
where
    T: Serialize + ?Sized,
{
    let bytes = encode(path, kind, version, value)?;
    // A damaged file must not take the place of its good copy.
    if load(path, kind).is_ok_and(|found| found.is_some()) {
        let previous = previous_path(path);
        remove_if_there(&previous)?;
        fs::hard_link(path, &previous).map_err(|e| IoFailed::new("link", &previous, e))?;
    }
    Ok(replace(path, &bytes, Durable::Yes)?)
}

/// Reads a state file; `None` if there is none.
pub fn read<T: DeserializeOwned>(
    path: &Path,
    kind: Kind,
    version: u16,
) -> Result<Option<T>, LedgerError> {
    let Some((found, payload)) = load(path, kind)? else { return Ok(None) };
    let frame = wire::Frame { kind, version: found, payload: &payload };
    let value = frame.decode(kind, version);
    value.map(Some).map_err(|source| LedgerError::Decode { path: path.to_owned(), source })
}

/// Reads a state file, or the copy before it if it is damaged.
pub fn read_with_previous<T: DeserializeOwned>(
    path: &Path,
    kind: Kind,
    version: u16,
) -> Result<Option<Found<T>>, LedgerError> {
    let error = match read(path, kind, version) {
        Ok(value) => return Ok(value.map(|value| Found { value, from_previous: None })),
        Err(error @ LedgerError::Damaged { .. }) => error,
        Err(error) => return Err(error),
    };
    match read(&previous_path(path), kind, version) {
        Ok(Some(value)) => Ok(Some(Found { value, from_previous: Some(error.to_string()) })),
        Ok(None) | Err(_) => Err(error),
    }
}

/// Reads a state file whose version the caller tells apart: version and payload.
pub fn load(path: &Path, kind: Kind) -> Result<Option<(u16, Vec<u8>)>, LedgerError> {
    match read_bytes(path)? {
        Some(bytes) => parse(path, kind, &bytes).map(Some),
        None => Ok(None),
    }
}

/// Version and payload of a state file's bytes.
pub(super) fn parse(
    path: &Path,
    kind: Kind,
    bytes: &[u8],
) -> Result<(u16, Vec<u8>), LedgerError> {
    let damaged = |what| LedgerError::Damaged { path: path.to_owned(), what };
    let (head, body) =
        bytes.split_at_checked(HEAD_BYTES).ok_or_else(|| damaged("it ends too early"))?;
    if !head.starts_with(MAGIC) {
        return Err(damaged("it does not begin as a state file does"));
    }
    if head[MAGIC.len()..] != crc32fast::hash(body).to_le_bytes() {
        return Err(damaged("its checksum is wrong"));
    }
    let decode = |source| LedgerError::Decode { path: path.to_owned(), source };
    let (frame, rest) = wire::split(body, LEDGER_BYTES_MAX).map_err(decode)?;
    if !rest.is_empty() {
        return Err(damaged("something follows its end"));
    }
    if frame.kind != kind {
        return Err(decode(WireError::Unknown { kind: frame.kind, version: frame.version }));
    }
    Ok((frame.version, frame.payload.to_vec()))
}

/// Removes a state file and its copy durably. One that is not there is fine.
pub fn remove(path: &Path) -> Result<(), LedgerError> {
    remove_if_there(&previous_path(path))?;
    remove_if_there(path)?;
    Ok(sync_folder_of(path)?)
}

/// Puts `bytes` in place of a file, durably: for files whose form is not ours (runc's, the
/// image's).
pub fn replace_bytes(path: &Path, bytes: &[u8]) -> Result<(), LedgerError> {
    Ok(replace(path, bytes, Durable::Yes)?)
}

/// A state file's bytes.
pub(super) fn encode<T>(path: &Path, kind: Kind, version: u16, value: &T) -> Result<Vec<u8>, LedgerError>
where
    T: Serialize + ?Sized,
{
    let body = wire::encode(kind, version, value, LEDGER_BYTES_MAX)
        .map_err(|source| LedgerError::Encode { path: path.to_owned(), source })?;
    Ok([&MAGIC[..], &crc32fast::hash(&body).to_le_bytes(), &body].concat())
}

fn replace(path: &Path, bytes: &[u8], durable: Durable) -> Result<(), IoFailed> {
    let fresh = with_suffix(path, ".tmp");
    failpoint::hit(Point::LedgerBeforeWrite);
    if let Err(failed) = write_file(&fresh, bytes, durable) {
        if let Err(error) = remove_if_there(&fresh) {
            log::warn!("{error}: {}", error.source);
        }
        return Err(failed);
    }
    failpoint::hit(Point::LedgerBeforeRename);
    fs::rename(&fresh, path).map_err(|e| IoFailed::new("rename", &fresh, e))?;
    failpoint::hit(Point::LedgerAfterRename);
    match durable {
        Durable::Yes => sync_folder_of(path),
        Durable::No => Ok(()),
    }
}

fn write_file(path: &Path, bytes: &[u8], durable: Durable) -> Result<(), IoFailed> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).map_err(|e| IoFailed::new("create", path, e))?;
    file.write_all(bytes).map_err(|e| IoFailed::new("write", path, e))?;
    match durable {
        Durable::Yes => file.sync_data().map_err(|e| IoFailed::new("sync", path, e)),
        Durable::No => Ok(()),
    }
}

fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>, LedgerError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(IoFailed::new("open", path, error).into()),
    };
    let limit = HEAD_BYTES + wire::HEADER_BYTES + LEDGER_BYTES_MAX;
    let mut bytes = Vec::new();
    let read = file.take(u64::try_from(limit).unwrap_or(u64::MAX) + 1).read_to_end(&mut bytes);
    read.map_err(|e| IoFailed::new("read", path, e))?;
    if bytes.len() > limit {
        return Err(LedgerError::Damaged { path: path.to_owned(), what: "it is too long" });
    }
    Ok(Some(bytes))
}

fn remove_if_there(path: &Path) -> Result<(), IoFailed> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(IoFailed::new("remove", path, error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync_folder_of(path: &Path) -> Result<(), IoFailed> {
    let Some(dir) = path.parent() else { return Ok(()) };
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|e| IoFailed::new("sync", dir, e))
}

fn previous_path(path: &Path) -> PathBuf {
    with_suffix(path, ".prev")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
