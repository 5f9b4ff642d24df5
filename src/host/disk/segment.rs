//! One file of the log, as bytes: a header of 128 bytes, then frames. No I/O here.
//!
//! ```text
//! header   magic 8 | format 4 | feature level 4 | salt 32 | sequence 8 | first index 8
//!          | previous: length 8, last index 8, last term 8, last tag 16 | crc 4 | zero 4 | tag 16
//! frame    marker 4 | length 4 | counter 8 | crc 4 | sealed records (length bytes, tag at the end)
//! ```
//! Numbers are little endian. A frame is what one append wrote, so it is there whole or not at
//! all. Its CRC is outside the seal and covers the 16 bytes before it and the sealed bytes; the
//! seal covers the same 16 bytes and the tag before it, so that no frame can be taken out of the
//! middle, put elsewhere or exchanged. The header's tag is the first link of that chain.

use std::ops::Range;

use super::seal::{FileKey, LogKey, SALT_BYTES, TAG_BYTES, Tag};
use crate::model::wire::{self, LogRecord, RECORD_BYTES_MAX};

/// Bytes of a segment's header.
pub(super) const HEADER_BYTES: usize = 128;
/// Bytes of a frame before the sealed ones.
pub(super) const FRAME_HEAD_BYTES: usize = 20;
/// The most bytes of records that one frame holds; more goes into the next one.
pub(super) const FRAME_BYTES_MAX: usize = 4 << 20;
/// The format that this release writes and reads.
pub(super) const FORMAT: u32 = 1;
/// What this release may write; raised when all managers can read more.
pub(super) const FEATURE_LEVEL: u32 = 1;

const MAGIC: &[u8; 8] = b"skep-wal";
const MARKER: &[u8; 4] = b"SkeF";
const PURPOSE: &[u8] = b"skep wal segment 1";
const HEADER_COUNTER: u64 = 0;
const HEADER_SIGNED: usize = 104;

/// Where the log stood when a segment began: the end of the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Previous {
    /// Bytes of the segment before that count; what follows them was cut.
    pub(super) length: u64,
    /// The last index in the log.
    pub(super) last_index: u64,
    /// Its term.
    pub(super) last_term: u64,
    /// The end of the last frame, or of the header where there is none.
    pub(super) tag: Tag,
}

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) feature_level: u32,
    pub(super) salt: [u8; SALT_BYTES],
    /// Its place among the segments; the first is 1.
    pub(super) sequence: u64,
    /// The index that the next new entry gets.
    pub(super) first_index: u64,
    pub(super) previous: Previous,
}

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file ends before the thing does.
    #[error("it ends too early")]
    Short,
    /// It does not begin with its magic bytes or marker.
    #[error("its first bytes are not those of this kind of file")]
    Magic,
    /// The checksum is another.
    #[error("its checksum is wrong")]
    Checksum,
    /// The seal does not open.
    #[error("its seal does not open: another key, or it was changed")]
    Seal,
    /// Written by a newer release.
    #[error("format {0} is not known here: a newer skep wrote it")]
    Format(u32),
    /// Written under a feature level that this release does not know.
    #[error("feature level {0} is not known here: a newer skep wrote it")]
    FeatureLevel(u32),
    /// It does not follow from what is before it.
    #[error("it does not follow from what is before it")]
    Order,
    /// One of the records inside.
    #[error("a record in it: {0}")]
    Record(wire::WireError),
    /// Not the file that its name tells.
    #[error("it is not the one that its name tells")]
    Name,
}

impl Header {
    /// The header's bytes and the first link of the chain of tags.
    pub(super) fn encode(&self, key: &FileKey) -> ([u8; HEADER_BYTES], Tag) {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&self.feature_level.to_le_bytes());
        out.extend_from_slice(&self.salt);
        let previous = &self.previous;
        for number in [
            self.sequence,
            self.first_index,
            previous.length,
            previous.last_index,
            previous.last_term,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&previous.tag);
        let mut nothing = Vec::new();
        let tag = key.seal(HEADER_COUNTER, &out, &mut nothing);
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&tag);
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(&out);
        (bytes, tag)
    }

    /// Reads the header of a segment; the key opens its frames.
    pub(super) fn decode(bytes: &[u8], node: &LogKey) -> Result<(Self, FileKey, Tag), Damage> {
        let head = bytes.first_chunk::<HEADER_BYTES>().ok_or(Damage::Short)?;
        if !head.starts_with(MAGIC) {
            return Err(Damage::Magic);
        }
        let (signed, rest) = head.split_at(HEADER_SIGNED);
        if u32_at(rest, 0) != crc32fast::hash(signed) || u32_at(rest, 4) != 0 {
            return Err(Damage::Checksum);
        }
        if u32_at(head, 8) != FORMAT {
            return Err(Damage::Format(u32_at(head, 8)));
        }
        let feature_level = u32_at(head, 12);
        if feature_level > FEATURE_LEVEL {
            return Err(Damage::FeatureLevel(feature_level));
        }
        let header = Self {
            feature_level,
            salt: array_at(head, 16),
            sequence: u64_at(head, 48),
            first_index: u64_at(head, 56),
            previous: Previous {
                length: u64_at(head, 64),
                last_index: u64_at(head, 72),
                last_term: u64_at(head, 80),
                tag: array_at(head, 88),
            },
        };
        let key = node.for_file(&header.salt, PURPOSE);
        let tag: Tag = array_at(head, 112);
        key.open(HEADER_COUNTER, signed, &mut tag.clone()).ok_or(Damage::Seal)?;
        Ok((header, key, tag))
    }

    /// The key that seals this segment.
    pub(super) fn key(&self, node: &LogKey) -> FileKey {
        node.for_file(&self.salt, PURPOSE)
    }
}

/// Seals `records` (wire frames) into one frame at the end of `out`; the next link of the chain.
pub(super) fn seal_frame(
    key: &FileKey,
    counter: u64,
    chain: &Tag,
    mut records: Vec<u8>,
    out: &mut Vec<u8>,
) -> Tag {
    let sealed = records.len() + TAG_BYTES;
    let mut head = [0; 16];
    head[..4].copy_from_slice(MARKER);
    head[4..8].copy_from_slice(&u32::try_from(sealed).unwrap_or(u32::MAX).to_le_bytes());
    head[8..].copy_from_slice(&counter.to_le_bytes());
    let tag = key.seal(counter, &aad(&head, chain), &mut records);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head);
    crc.update(&records);
    out.extend_from_slice(&head);
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&records);
    tag
}

/// Where the sealed bytes of the frame at `at` lie, if its CRC is right.
pub(super) fn frame_at(bytes: &[u8], at: usize) -> Result<Range<usize>, Damage> {
    let frame = bytes.get(at..).ok_or(Damage::Short)?;
    let (head, rest) = frame.split_at_checked(FRAME_HEAD_BYTES).ok_or(Damage::Short)?;
    if !head.starts_with(MARKER) {
        return Err(Damage::Magic);
    }
    let length = usize::try_from(u32_at(head, 4)).unwrap_or(usize::MAX);
    if !(TAG_BYTES..=FRAME_BYTES_MAX + TAG_BYTES).contains(&length) {
        return Err(Damage::Checksum);
    }
    let sealed = rest.get(..length).ok_or(Damage::Short)?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[..16]);
    crc.update(sealed);
    if u32_at(head, 16) != crc.finalize() {
        return Err(Damage::Checksum);
    }
    let start = at + FRAME_HEAD_BYTES;
    Ok(start..start + length)
}

/// The offset of the first whole frame at or behind `from`. The marker keeps this linear.
pub(super) fn next_frame(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let rest = bytes.get(at..)?;
        at += rest.windows(MARKER.len()).position(|window| window == MARKER)?;
        if frame_at(bytes, at).is_ok() {
            return Some(at);
        }
        at += 1;
    }
}

/// Goes through the frames of one segment in order.
#[derive(Debug)]
pub(super) struct Frames<'a> {
    bytes: &'a [u8],
    key: &'a FileKey,
    chain: Tag,
    at: usize,
    counter: u64,
}

impl<'a> Frames<'a> {
    /// `bytes` is the whole file; `chain` the header's tag.
    pub(super) fn new(bytes: &'a [u8], key: &'a FileKey, chain: Tag) -> Self {
        Self { bytes, key, chain, at: HEADER_BYTES, counter: HEADER_COUNTER }
    }

    /// Where the next frame begins, or would.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    /// The end of the frame before, which the next one is bound to.
    pub(super) fn chain(&self) -> Tag {
        self.chain
    }

    /// The CRC of the next frame says that it is whole.
    pub(super) fn is_whole(&self) -> Result<(), Damage> {
        frame_at(self.bytes, self.at).map(|_range| ())
    }

    /// The records of the next frame.
    pub(super) fn next(&mut self) -> Result<Vec<LogRecord>, Damage> {
        let range = frame_at(self.bytes, self.at)?;
        let head = &self.bytes[self.at..self.at + 16];
        let counter = u64_at(head, 8);
        if counter <= self.counter {
            return Err(Damage::Order);
        }
        let mut sealed = self.bytes[range.clone()].to_vec();
        let tag: Tag = array_at(&sealed, sealed.len() - TAG_BYTES);
        let text =
            self.key.open(counter, &aad(head, &self.chain), &mut sealed).ok_or(Damage::Seal)?;
        let mut records = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (frame, after) = wire::split(rest, RECORD_BYTES_MAX).map_err(Damage::Record)?;
            records.push(LogRecord::decode(&frame).map_err(Damage::Record)?);
            rest = after;
        }
        (self.at, self.counter, self.chain) = (range.end, counter, tag);
        Ok(records)
    }
}

fn aad(head: &[u8], chain: &Tag) -> Vec<u8> {
    [head, chain].concat()
}

/// `N` bytes at `at`; zeros where the caller has not checked the length.
pub(super) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// The name of a segment's file.
pub(super) fn file_name(sequence: u64, first_index: u64) -> String {
    format!("wal-{sequence:08}-{first_index:020}.seg")
}

/// Sequence and first index of a segment's file name.
pub(super) fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (sequence, index) = name.strip_prefix("wal-")?.strip_suffix(".seg")?.split_once('-')?;
    let found = (sequence.parse().ok()?, index.parse().ok()?);
    (file_name(found.0, found.1) == name).then_some(found)
}
