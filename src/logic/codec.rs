//! Entries and snapshots as bytes: (kind, version, length) and postcard.
//!
//! What is not known is an error, never skipped: a node that cannot read an entry must not go on.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::entry::Entry;

/// Bytes before the payload: kind (2), version (2), length (4), little endian.
const HEADER_BYTES: usize = 8;

/// What the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(u16);

impl Kind {
    /// An [`Entry`].
    pub const STORE_ENTRY: Self = Self(192);
    /// A snapshot of the store.
    pub const STORE_SNAPSHOT: Self = Self(193);
}

/// The version that this release writes and reads, of both kinds.
const VERSION: u16 = 1;

/// Bytes that cannot be read or a value that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Fewer bytes than the header or its length ask for, or more.
    #[error("{have} bytes instead of {need}")]
    Length {
        /// Bytes that should be there.
        need: usize,
        /// Bytes that are.
        have: usize,
    },
    /// Another kind or version than this release knows.
    #[error("kind {kind} version {version} is not known here")]
    Unknown {
        /// What was found.
        kind: u16,
        /// Its version.
        version: u16,
    },
    /// The payload does not have the shape that its kind and version name.
    #[error("kind {kind} version {VERSION} does not have its shape")]
    Shape {
        /// What was being read or written.
        kind: u16,
    },
}

/// One frame.
///
/// # Errors
/// When the value cannot be written or is too long for its length field.
pub fn encode<T: Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>, CodecError> {
    let shape = CodecError::Shape { kind: kind.0 };
    let mut out = Vec::with_capacity(HEADER_BYTES + 64);
    out.extend_from_slice(&kind.0.to_le_bytes());
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    let mut out = postcard::to_extend(value, out).map_err(|_postcard| shape)?;
    let length = u32::try_from(out.len() - HEADER_BYTES).map_err(|_range| shape)?;
    out[4..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(out)
}

/// The value of a frame that must be all of `bytes`.
///
/// # Errors
/// When kind, version, length or shape are not what they should be.
pub fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, CodecError> {
    let have = bytes.len();
    let (head, payload) = bytes
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or(CodecError::Length { need: HEADER_BYTES, have })?;
    let [k0, k1, v0, v1, l0, l1, l2, l3] = *head;
    let (found, version) = (u16::from_le_bytes([k0, k1]), u16::from_le_bytes([v0, v1]));
    if (found, version) != (kind.0, VERSION) {
        return Err(CodecError::Unknown { kind: found, version });
    }
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if payload.len() != length {
        return Err(CodecError::Length { need: length.saturating_add(HEADER_BYTES), have });
    }
    match postcard::take_from_bytes(payload) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => Err(CodecError::Shape { kind: kind.0 }),
    }
}

/// An entry as the log holds it.
///
/// # Errors
/// As [`encode`].
pub fn encode_entry(entry: &Entry) -> Result<Vec<u8>, CodecError> {
    encode(Kind::STORE_ENTRY, entry)
}

/// An entry of the log.
///
/// # Errors
/// As [`decode`].
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, CodecError> {
    decode(Kind::STORE_ENTRY, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_damage_is_told() {
        let bytes = encode(Kind::STORE_SNAPSHOT, &"text").unwrap();
        assert_eq!(decode::<String>(Kind::STORE_SNAPSHOT, &bytes), Ok("text".to_owned()));
        let other = decode::<String>(Kind::STORE_ENTRY, &bytes);
        assert_eq!(other, Err(CodecError::Unknown { kind: 193, version: 1 }));
        for cut in 0..bytes.len() {
            assert!(decode::<String>(Kind::STORE_SNAPSHOT, &bytes[..cut]).is_err(), "{cut}");
        }
        assert!(decode::<u128>(Kind::STORE_SNAPSHOT, &bytes).is_err());
    }
}
