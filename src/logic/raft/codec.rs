//! The machine's messages and payloads in the envelope of [`wire`].
//!
//! A command is an entry of the log as it is: its bytes are a frame of their own already, so logs
//! from before there were members are read without change. What is not known is an error.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::io::{Entry, Members, Message, PROPOSAL_BYTES_MAX, Payload};
use crate::logic::codec::{CodecError, STORE_SNAPSHOT_BYTES_MAX};
use crate::model::wire::{self, Frame, Kind, RECORD_BYTES_MAX, WireError};

/// Largest payload of a message's frame: one entry of the largest size, alone.
pub const MESSAGE_FRAME_BYTES_MAX: usize = PROPOSAL_BYTES_MAX + (1 << 10);

/// Largest frame of members.
const MEMBERS_BYTES_MAX: usize = 4 << 10;

/// Largest payload of a snapshot's frame.
const SNAPSHOT_FRAME_BYTES_MAX: usize = STORE_SNAPSHOT_BYTES_MAX + MEMBERS_BYTES_MAX;

const _: () = assert!(
    SNAPSHOT_FRAME_BYTES_MAX + wire::HEADER_BYTES <= wire::SNAPSHOT_BYTES_MAX,
    "what consensus takes fits on the disk"
);

/// The version that this release writes and reads, of every kind here.
const VERSION: u16 = 1;

fn encode<T: Serialize>(kind: Kind, value: &T, limit: usize) -> Result<Vec<u8>, CodecError> {
    wire::encode(kind, VERSION, value, limit).map_err(CodecError::Wire)
}

fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    let (frame, rest) = wire::split(bytes, limit).map_err(CodecError::Wire)?;
    if !rest.is_empty() {
        return Err(CodecError::Rest(rest.len()));
    }
    frame.decode(kind, VERSION).map_err(CodecError::Wire)
}

/// A message between two managers.
///
/// # Errors
/// When it is longer than [`MESSAGE_FRAME_BYTES_MAX`].
pub fn encode_message(message: &Message) -> Result<Vec<u8>, CodecError> {
    encode(Kind::RAFT_MESSAGE, message, MESSAGE_FRAME_BYTES_MAX)
}

/// A message between two managers.
///
/// # Errors
/// When kind, version, length or shape are not what they should be.
pub fn decode_message(bytes: &[u8]) -> Result<Message, CodecError> {
    decode(Kind::RAFT_MESSAGE, bytes, MESSAGE_FRAME_BYTES_MAX)
}

/// An entry as the log's file holds it.
///
/// # Errors
/// When the members do not fit, which [`MEMBERS_MAX`](super::io::MEMBERS_MAX) rules out.
pub fn to_record(entry: &Entry) -> Result<wire::Entry, CodecError> {
    let data = match &entry.payload {
        Payload::Nothing => encode(Kind::RAFT_NOTHING, &(), MEMBERS_BYTES_MAX)?,
        Payload::Members(members) => encode(Kind::RAFT_MEMBERS, members, MEMBERS_BYTES_MAX)?,
        Payload::Command(data) => data.to_vec(),
    };
    Ok(wire::Entry { term: entry.term, index: entry.index, data })
}

/// An entry of the log's file.
///
/// # Errors
/// When it is of a kind that is not known here, or has not that kind's shape.
pub fn from_record(record: wire::Entry) -> Result<Entry, CodecError> {
    let wire::Entry { term, index, data } = record;
    let (frame, rest) = wire::split(&data, RECORD_BYTES_MAX).map_err(CodecError::Wire)?;
    if !rest.is_empty() {
        return Err(CodecError::Rest(rest.len()));
    }
    let Frame { kind, version, payload: _ } = frame;
    let payload = match kind {
        Kind::STORE_ENTRY => Payload::Command(data.into()),
        Kind::RAFT_NOTHING => {
            decode::<()>(kind, &data, MEMBERS_BYTES_MAX)?;
            Payload::Nothing
        }
        Kind::RAFT_MEMBERS => Payload::Members(decode(kind, &data, MEMBERS_BYTES_MAX)?),
        kind => return Err(CodecError::Wire(WireError::Unknown { kind, version })),
    };
    Ok(Entry { index, term, payload })
}

/// A snapshot's data as the disk holds it: who took part goes with the store.
///
/// # Errors
/// When the store is longer than its limit.
pub fn to_snapshot(members: &Members, store: &[u8]) -> Result<Vec<u8>, CodecError> {
    encode(Kind::RAFT_SNAPSHOT, &(members, store), SNAPSHOT_FRAME_BYTES_MAX)
}

/// Members and store of a snapshot on the disk. One from before there were members has none.
///
/// # Errors
/// When it is neither, or has not its kind's shape.
pub fn from_snapshot(bytes: &[u8]) -> Result<(Members, Arc<[u8]>), CodecError> {
    let (frame, _rest) = wire::split(bytes, SNAPSHOT_FRAME_BYTES_MAX).map_err(CodecError::Wire)?;
    if frame.kind == Kind::STORE_SNAPSHOT {
        return Ok((Members::default(), bytes.into()));
    }
    decode(Kind::RAFT_SNAPSHOT, bytes, SNAPSHOT_FRAME_BYTES_MAX)
}
