//! How the load talks to a member: frames of a length (4 bytes, little endian) and a body.
//!
//! This stands in for the manager's own RPC, which is not there yet: no TLS, no HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;

/// What is asked, first byte of a body.
pub(crate) const SET: u8 = 1;
pub(crate) const ADD: u8 = 2;
pub(crate) const FIGURES: u8 = 3;

/// First byte of an answer.
pub(crate) const OK: u8 = 0;
pub(crate) const REFUSED: u8 = 1;

/// Longest body.
const BODY_BYTES_MAX: usize = 4 << 10;

/// What a member tells of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// 1 when it leads and decides.
    pub(crate) leads: u64,
    pub(crate) voters: u64,
    pub(crate) commit: u64,
    /// Of the log: bytes written, calls of fsync and fdatasync, appends.
    pub(crate) bytes: u64,
    pub(crate) syncs: u64,
    pub(crate) appends: u64,
}

impl Figures {
    pub(crate) fn encode(self) -> Vec<u8> {
        let Self { leads, voters, commit, bytes, syncs, appends } = self;
        [leads, voters, commit, bytes, syncs, appends]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let mut all = bytes.chunks(8).map(|it| u64::from_le_bytes(it.try_into().unwrap()));
        let mut next = || all.next().unwrap();
        let (leads, voters, commit) = (next(), next(), next());
        Self { leads, voters, commit, bytes: next(), syncs: next(), appends: next() }
    }
}

/// Appends one frame.
pub(crate) fn put(out: &mut Vec<u8>, first: u8, rest: &[u8]) {
    out.extend_from_slice(&u32::try_from(rest.len() + 1).unwrap().to_le_bytes());
    out.push(first);
    out.extend_from_slice(rest);
}

/// The body of the first frame, if it is whole, and how many bytes the frame takes.
pub(crate) fn take(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*head)).unwrap();
    assert!(length <= BODY_BYTES_MAX, "a frame of {length} bytes");
    Some((rest.get(..length)?, 4 + length))
}

/// One question and its answer, on a connection that waits.
pub(crate) fn ask(stream: &mut TcpStream, first: u8, rest: &[u8]) -> Result<Vec<u8>, String> {
    let mut frame = Vec::new();
    put(&mut frame, first, rest);
    stream.write_all(&frame).map_err(|e| e.to_string())?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).map_err(|e| e.to_string())?;
    let mut body = vec![0; usize::try_from(u32::from_le_bytes(head)).unwrap()];
    stream.read_exact(&mut body).map_err(|e| e.to_string())?;
    match body.split_first() {
        Some((&OK, rest)) => Ok(rest.to_vec()),
        Some((_, text)) => Err(String::from_utf8_lossy(text).into_owned()),
        None => Err("an empty answer".to_owned()),
    }
}
