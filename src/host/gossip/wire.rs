//! chitchat's messages as data: taken apart with limits, and put together again in one form only.
//!
//! What arrives is never handed on as it is. It is parsed here, checked by `check`, and what is left
//! is written anew, uncompressed; so chitchat's own decoder sees nothing but our writing. The format
//! is chitchat 0.13's (`message_serialize.rs`, `serialize.rs`, `digest.rs`, `delta.rs`), version 1.
//!
//! Invariant: no input panics, and none makes more than [`STREAM_BYTES_MAX`] of memory.

use std::net::{IpAddr, SocketAddr};
use std::str;
use std::sync::Arc;

use chitchat::ChitchatId;

use super::MESSAGE_BYTES_MAX;

/// Bytes of a digest or a delta when it is unpacked. A delta that is longer is read up to there.
const STREAM_BYTES_MAX: usize = 256 << 10;

const MAGIC: u16 = 45_139;
/// chitchat's `ProtocolVersion::V1`.
const VERSION: u8 = 1;
/// The largest block that chitchat's decoder has room for.
const BLOCK_BYTES_MAX: usize = 65_535;

/// What members tell each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// What I know of.
    Syn { cluster: String, digest: Vec<Known> },
    /// What I know of, and what you lack.
    SynAck { digest: Vec<Known>, delta: Vec<Section> },
    /// What you lack.
    Ack { delta: Vec<Section> },
    /// You are of another cluster.
    BadCluster,
}

/// How much is known of one start of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) id: ChitchatId,
    pub(super) heartbeat: u64,
    pub(super) last_gc: u64,
    pub(super) max_version: u64,
}

/// What is new of one start of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) id: ChitchatId,
    pub(super) last_gc: u64,
    pub(super) from: u64,
    pub(super) what: News,
}

/// What a section holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Values in the order of their versions, which all differ; perhaps none.
    Values(Vec<Value>),
    /// No value, but this version.
    Version(u64),
}

/// A value, or that there is none any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) version: u64,
    /// chitchat's `DeletionStatusMutation`: set, deleted, deleted after a while.
    pub(super) status: u8,
}

/// Takes a message apart. `None` if it is none, or one that chitchat never sends.
pub(super) fn read(message: &[u8]) -> Option<Message> {
    if message.len() > MESSAGE_BYTES_MAX {
        return None;
    }
    let mut rest = Reader(message);
    if rest.u16()? != MAGIC || rest.u8()? != VERSION {
        return None;
    }
    let message = match rest.u8()? {
        0 => {
            let digest = digest(&mut rest)?;
            Message::Syn { cluster: rest.text()?.to_owned(), digest }
        }
        1 => Message::SynAck { digest: digest(&mut rest)?, delta: delta(&mut rest)? },
        2 => Message::Ack { delta: delta(&mut rest)? },
        3 => Message::BadCluster,
        4.. => return None,
    };
    rest.0.is_empty().then_some(message)
}

fn digest(rest: &mut Reader<'_>) -> Option<Vec<Known>> {
    let stream = unpack(rest)?;
    if stream.cut {
        return None;
    }
    let mut entries = Vec::new();
    let mut rest = Reader(&stream.bytes);
    while !rest.0.is_empty() {
        let id = rest.id()?;
        let (heartbeat, last_gc, max_version) = (rest.u64()?, rest.u64()?, rest.u64()?);
        entries.push(Known { id, heartbeat, last_gc, max_version });
    }
    Some(entries)
}

fn delta(rest: &mut Reader<'_>) -> Option<Vec<Section>> {
    let stream = unpack(rest)?;
    let mut sections = Vec::new();
    let mut rest = Reader(&stream.bytes);
    while !rest.0.is_empty() {
        match operation(&mut rest, &mut sections) {
            Some(true) => {}
            Some(false) => return None,
            // What is behind the limit comes with the next message, as each part is of use.
            None if stream.cut => break,
            None => return None,
        }
    }
    Some(sections)
}

/// Reads one operation. `None` if it is not there whole, false if it cannot be where it is.
fn operation(rest: &mut Reader<'_>, sections: &mut Vec<Section>) -> Option<bool> {
    match rest.u8()? {
        0 => {
            let section = Section {
                id: rest.id()?,
                last_gc: rest.u64()?,
                from: rest.u64()?,
                what: News::Values(Vec::new()),
            };
            let again = sections.iter().any(|other| other.id == section.id);
            sections.push(section);
            Some(!again)
        }
        1 => {
            let (key, value) = (rest.text()?.to_owned(), rest.text()?.to_owned());
            let value = Value { key, value, version: rest.u64()?, status: rest.u8()? };
            let Some(News::Values(values)) = sections.last_mut().map(|last| &mut last.what) else {
                return Some(false);
            };
            let grows = values.last().map_or(0, |last| last.version) < value.version;
            let known = value.status <= 2;
            values.push(value);
            Some(grows && known)
        }
        2 => {
            let version = rest.u64()?;
            let Some(last) = sections.last_mut() else { return Some(false) };
            // Behind values it could say less than they do, which chitchat would not survive.
            let alone = matches!(&last.what, News::Values(values) if values.is_empty());
            last.what = News::Version(version);
            Some(alone && version > 0)
        }
        3.. => Some(false),
    }
}

/// Blocks put together.
struct Stream {
    bytes: Vec<u8>,
    /// There was more than the limit.
    cut: bool,
}

fn unpack(rest: &mut Reader<'_>) -> Option<Stream> {
    let mut bytes = Vec::new();
    let mut cut = false;
    loop {
        let kind = rest.u8()?;
        if kind == 0 {
            return Some(Stream { bytes, cut });
        }
        let len = usize::from(rest.u16()?);
        let block = rest.take(len)?;
        if cut {
            continue;
        }
        match kind {
            1 => bytes.extend(zstd::bulk::decompress(block, BLOCK_BYTES_MAX).ok()?),
            2 => bytes.extend_from_slice(block),
            0 | 3.. => return None,
        }
        if bytes.len() > STREAM_BYTES_MAX {
            bytes.truncate(STREAM_BYTES_MAX);
            cut = true;
        }
    }
}

/// Puts a message together. What does not fit is left out at the end of a delta, where it is of no
/// harm: it is said again. The digest must fit.
pub(super) fn write(message: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(1_024);
    out.extend(MAGIC.to_le_bytes());
    out.push(VERSION);
    match message {
        Message::Syn { cluster, digest } => {
            out.push(0);
            write_digest(&mut out, digest);
            text(&mut out, cluster);
        }
        Message::SynAck { digest, delta } => {
            out.push(1);
            write_digest(&mut out, digest);
            write_delta(&mut out, delta);
        }
        Message::Ack { delta } => {
            out.push(2);
            write_delta(&mut out, delta);
        }
        Message::BadCluster => out.push(3),
    }
    out
}

fn write_digest(out: &mut Vec<u8>, digest: &[Known]) {
    let mut bytes = Vec::new();
    for known in digest {
        id(&mut bytes, &known.id);
        for number in [known.heartbeat, known.last_gc, known.max_version] {
            bytes.extend(number.to_le_bytes());
        }
    }
    blocks(out, &bytes);
}

fn write_delta(out: &mut Vec<u8>, delta: &[Section]) {
    let room = MESSAGE_BYTES_MAX.saturating_sub(out.len());
    let mut bytes = Vec::new();
    for operation in delta.iter().flat_map(operations) {
        if blocks_bytes(bytes.len() + operation.len()) > room {
            break;
        }
        bytes.extend(operation);
    }
    blocks(out, &bytes);
}

/// The operations of a section, each as bytes.
fn operations(section: &Section) -> impl Iterator<Item = Vec<u8>> {
    let mut first = vec![0];
    id(&mut first, &section.id);
    first.extend(section.last_gc.to_le_bytes());
    first.extend(section.from.to_le_bytes());
    let (values, version) = match &section.what {
        News::Values(values) => (values.as_slice(), None),
        News::Version(version) => (&[][..], Some(*version)),
    };
    let values = values.iter().map(|value| {
        let mut bytes = vec![1];
        text(&mut bytes, &value.key);
        text(&mut bytes, &value.value);
        bytes.extend(value.version.to_le_bytes());
        bytes.push(value.status);
        bytes
    });
    let version = version.map(|version| [&[2][..], &version.to_le_bytes()].concat());
    std::iter::once(first).chain(values).chain(version)
}

/// Bytes of a stream of so many bytes.
const fn blocks_bytes(len: usize) -> usize {
    len + len.div_ceil(BLOCK_BYTES_MAX) * 3 + 1
}

fn blocks(out: &mut Vec<u8>, bytes: &[u8]) {
    for block in bytes.chunks(BLOCK_BYTES_MAX) {
        out.push(2);
        out.extend(u16::try_from(block.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(block);
    }
    out.push(0);
}

fn text(out: &mut Vec<u8>, text: &str) {
    // What was read was not longer than this.
    out.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn id(out: &mut Vec<u8>, id: &ChitchatId) {
    text(out, &id.node_id);
    out.extend(id.generation_id.to_le_bytes());
    match id.gossip_advertise_addr.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend(ip.octets());
        }
    }
    out.extend(id.gossip_advertise_addr.port().to_le_bytes());
}

/// Bytes of an id with a name of so many bytes, at most.
pub(super) const fn id_bytes_max(name: usize) -> usize {
    2 + name + 8 + 17 + 2
}

/// Bytes of an entry of a digest, without its id.
pub(super) const KNOWN_BYTES: usize = 24;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = usize::from(self.u16()?);
        str::from_utf8(self.take(len)?).ok()
    }

    fn id(&mut self) -> Option<ChitchatId> {
        let node: Arc<str> = Arc::from(self.text()?);
        let generation = self.u64()?;
        let ip = match self.u8()? {
            4 => IpAddr::from(self.array::<4>()?),
            6 => IpAddr::from(self.array::<16>()?),
            0..=3 | 5 | 7.. => return None,
        };
        Some(ChitchatId::new(node, generation, SocketAddr::new(ip, self.u16()?)))
    }
}


#[cfg(test)]
mod tests;
