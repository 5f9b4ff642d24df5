//! chitchat's messages as data: what this node's chitchat writes is taken apart here, and what it
//! is to read is put together.
//!
//! Neither goes over the wire (`compact` does). So chitchat's decoder sees nothing but our own
//! writing, of what `check` has left. The format is chitchat 0.13's (`message_serialize.rs`,
//! `serialize.rs`, `digest.rs`, `delta.rs`), version 0: its version 1 only adds compression.

use std::net::{IpAddr, SocketAddr};
use std::str;
use std::sync::Arc;

use chitchat::ChitchatId;

use super::MESSAGE_BYTES_MAX;

/// Bytes of a delta when it is unpacked. One that is longer is read up to there.
const STREAM_BYTES_MAX: usize = 256 << 10;

const MAGIC: u16 = 45_139;
/// chitchat's `ProtocolVersion::V0`.
const VERSION: u8 = 0;
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

/// The highest of chitchat's `DeletionStatusMutation`.
const STATUS_MAX: u8 = 2;

/// A value, or that there is none any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) version: u64,
    /// chitchat's `DeletionStatusMutation`: set, deleted, deleted after a while.
    pub(super) status: u8,
}

impl News {
    /// The values, and the version if there are none.
    pub(super) fn parts(&self) -> (&[Value], Option<u64>) {
        match self {
            Self::Values(values) => (values, None),
            Self::Version(version) => (&[], Some(*version)),
        }
    }
}

/// Sections while they are read. Refuses what chitchat would not survive: versions that do not grow,
/// a version behind values, a node twice.
#[derive(Default)]
pub(super) struct Deltas {
    sections: Vec<Section>,
    /// Sections of nobody are read as well, and forgotten.
    nobody: bool,
}

impl Deltas {
    /// Begins a section. `None` from here and from what follows: the message is to be refused.
    pub(super) fn section(
        &mut self,
        id: Option<ChitchatId>,
        last_gc: u64,
        from: u64,
    ) -> Option<()> {
        self.forget();
        self.nobody = id.is_none();
        let id = id.unwrap_or_else(|| ChitchatId::new("", 0, ([0, 0, 0, 0], 0).into()));
        let again = self.sections.iter().any(|other| other.id == id);
        self.sections.push(Section { id, last_gc, from, what: News::Values(Vec::new()) });
        (!again).then_some(())
    }

    /// A value of the section that was begun.
    pub(super) fn value(&mut self, value: Value) -> Option<()> {
        let News::Values(values) = &mut self.sections.last_mut()?.what else { return None };
        let grows = values.last().map_or(0, |last| last.version) < value.version;
        let legal = grows && value.status <= STATUS_MAX;
        values.push(value);
        legal.then_some(())
    }

    /// The version of a section without values.
    pub(super) fn version(&mut self, version: u64) -> Option<()> {
        let last = self.sections.last_mut()?;
        let alone = matches!(&last.what, News::Values(values) if values.is_empty());
        last.what = News::Version(version);
        (alone && version > 0).then_some(())
    }

    pub(super) fn done(mut self) -> Vec<Section> {
        self.forget();
        self.sections
    }

    fn forget(&mut self) {
        if self.nobody {
            self.sections.pop();
        }
    }
}

/// Takes a message of this node's chitchat apart. `None` if it is none, or a complaint
/// (`BadCluster`), which nobody here has a use for.
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
        3.. => return None,
    };
    rest.0.is_empty().then_some(message)
}

fn digest(rest: &mut Reader<'_>) -> Option<Vec<Known>> {
    let mut entries = Vec::new();
    for _ in 0..rest.u16()? {
        let id = rest.id()?;
        let (heartbeat, last_gc, max_version) = (rest.u64()?, rest.u64()?, rest.u64()?);
        entries.push(Known { id, heartbeat, last_gc, max_version });
    }
    Some(entries)
}

fn delta(rest: &mut Reader<'_>) -> Option<Vec<Section>> {
    let stream = unpack(rest)?;
    let mut deltas = Deltas::default();
    let mut rest = Reader(&stream.bytes);
    while !rest.0.is_empty() {
        match operation(&mut rest) {
            Some(operation) => operation.put(&mut deltas)?,
            // What is behind the limit comes with the next message, as each part is of use.
            None if stream.cut => break,
            None => return None,
        }
    }
    Some(deltas.done())
}

/// One operation of a delta.
enum Operation {
    Section(ChitchatId, u64, u64),
    Value(Value),
    Version(u64),
}

impl Operation {
    fn put(self, deltas: &mut Deltas) -> Option<()> {
        match self {
            Self::Section(id, last_gc, from) => deltas.section(Some(id), last_gc, from),
            Self::Value(value) => deltas.value(value),
            Self::Version(version) => deltas.version(version),
        }
    }
}

fn operation(rest: &mut Reader<'_>) -> Option<Operation> {
    Some(match rest.u8()? {
        0 => Operation::Section(rest.id()?, rest.u64()?, rest.u64()?),
        1 => {
            let (key, value) = (rest.text()?.to_owned(), rest.text()?.to_owned());
            Operation::Value(Value { key, value, version: rest.u64()?, status: rest.u8()? })
        }
        2 => Operation::Version(rest.u64()?),
        3.. => return None,
    })
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
    }
    out
}

fn write_digest(out: &mut Vec<u8>, digest: &[Known]) {
    // `check` leaves far fewer.
    out.extend(u16::try_from(digest.len()).unwrap_or(u16::MAX).to_le_bytes());
    for known in digest.iter().take(usize::from(u16::MAX)) {
        id(out, &known.id);
        for number in [known.heartbeat, known.last_gc, known.max_version] {
            out.extend(number.to_le_bytes());
        }
    }
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
    let (values, version) = section.what.parts();
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
    address(out, id.gossip_advertise_addr);
}

pub(super) fn address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend(ip.octets());
        }
    }
    out.extend(address.port().to_le_bytes());
}

/// Bytes of an id with a name of so many bytes, at most.
pub(super) const fn id_bytes_max(name: usize) -> usize {
    2 + name + 8 + 17 + 2
}

/// Bytes of an entry of a digest, without its id.
pub(super) const KNOWN_BYTES: usize = 24;

/// What is left of some bytes.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
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
        Some(ChitchatId::new(node, generation, self.address()?))
    }

    pub(super) fn address(&mut self) -> Option<SocketAddr> {
        let ip = match self.u8()? {
            4 => IpAddr::from(self.array::<4>()?),
            6 => IpAddr::from(self.array::<16>()?),
            0..=3 | 5 | 7.. => return None,
        };
        Some(SocketAddr::new(ip, self.u16()?))
    }
}

#[cfg(test)]
mod tests;
