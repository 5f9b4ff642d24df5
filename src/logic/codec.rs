//! What the log's entries and the snapshots hold, in the envelope of [`wire`].
//!
//! What is not known is an error, never skipped: a node that cannot read an entry must not go on.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::entry::Entry;
use crate::model::v1;
use crate::model::wire::{self, Kind, WireError};

/// An [`Entry`] of the store.
pub const STORE_ENTRY: Kind = Kind(192);

/// A snapshot of the store.
pub const STORE_SNAPSHOT: Kind = Kind(193);

/// The version that this release writes, of both kinds.
const VERSION: u16 = 2;

/// The version before it, which is read, too ([`v1`]).
const VERSION_OLD: u16 = 1;

/// Largest entry: with its envelope it fits into one record of the log.
pub const STORE_ENTRY_BYTES_MAX: usize = 3 << 19;

/// Room for members and frames around a store's snapshot.
pub const SNAPSHOT_HEAD_BYTES: usize = 8 << 10;

/// Largest snapshot: with the members and both frames it fits on the disk.
pub const STORE_SNAPSHOT_BYTES_MAX: usize = wire::SNAPSHOT_BYTES_MAX - SNAPSHOT_HEAD_BYTES;

/// Bytes that cannot be read, or a value that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The envelope or what is in it.
    #[error(transparent)]
    Wire(WireError),
    /// Something follows the envelope.
    #[error("{0} bytes too many")]
    Rest(usize),
}

/// One frame.
///
/// # Errors
/// When the value cannot be written or is longer than `limit`.
pub fn encode<T: Serialize>(kind: Kind, value: &T, limit: usize) -> Result<Vec<u8>, CodecError> {
    wire::encode(kind, VERSION, value, limit).map_err(CodecError::Wire)
}

/// The value of a frame that must be all of `bytes`; one of the version before is turned into what
/// it is now.
///
/// # Errors
/// When kind, version, length or shape are not what they should be.
pub fn decode<T, Old>(kind: Kind, bytes: &[u8], limit: usize) -> Result<T, CodecError>
where
    T: DeserializeOwned + From<Old>,
    Old: DeserializeOwned,
{
    let (frame, rest) = wire::split(bytes, limit).map_err(CodecError::Wire)?;
    if !rest.is_empty() {
        return Err(CodecError::Rest(rest.len()));
    }
    if frame.version == VERSION_OLD {
        return frame.decode::<Old>(kind, VERSION_OLD).map(T::from).map_err(CodecError::Wire);
    }
    frame.decode(kind, VERSION).map_err(CodecError::Wire)
}

/// An entry as the log holds it.
///
/// # Errors
/// As [`encode`].
pub fn encode_entry(entry: &Entry) -> Result<Vec<u8>, CodecError> {
    encode(STORE_ENTRY, entry, STORE_ENTRY_BYTES_MAX)
}

/// An entry of the log.
///
/// # Errors
/// As [`decode`].
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, CodecError> {
    decode::<Entry, v1::Entry>(STORE_ENTRY, bytes, STORE_ENTRY_BYTES_MAX)
}
