//! stub
use super::io::*; use crate::model::wire; use crate::logic::codec::CodecError;
pub fn to_record(e: &Entry) -> wire::Entry { todo!() }
pub fn from_record(e: wire::Entry) -> Result<Entry, CodecError> { todo!() }
pub fn encode_snapshot(m: &Members, d: &[u8]) -> Vec<u8> { todo!() }
pub fn decode_snapshot(i: u64, t: u64, d: Vec<u8>) -> Result<Snapshot, CodecError> { todo!() }
