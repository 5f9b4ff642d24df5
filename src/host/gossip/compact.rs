//! Messages as they are on the wire, short.
//!
//! A digest names every node in every message; with ids of 25 letters that is most of what gossip
//! sends. So a start of a node that the receiver has named itself in its last digest is named by four
//! bytes, and numbers are as long as they need be.
//!
//! ```text
//! message  kind 1 (0 Syn, 1 SynAck, 2 Ack) | digest (not of Ack) | delta (not of Syn)
//! digest   count | (name | heartbeat | last gc | version) …
//! delta    (0 name last-gc from | 1 key-length key value-length value version status | 2 version) …
//! name     0 tag 4 | length 1–32, node, generation, 4 or 6, address, port 2
//! ```
//! Counts, versions and lengths are LEB128, as in postcard. The cluster is not named: the seal is
//! bound to it. A message that chitchat would not send, or not survive, is refused (see
//! [`Deltas`]).
//!
//! Invariant: no input panics, and none makes more memory than a few times its own length.

use std::collections::{BTreeMap, BTreeSet};

use chitchat::ChitchatId;

use super::MESSAGE_BYTES_MAX;
use super::check::NODE_BYTES_MAX;
use super::wire::{self, Deltas, Known, Message, Reader, Section, Value};

/// The short name of a start. Two may share one; both are meant then, which does no harm: one's own
/// message about itself is the one that counts.
pub(super) type Tag = u32;

pub(super) fn tag(id: &ChitchatId) -> Tag {
    let mut bytes = Vec::with_capacity(64);
    full(&mut bytes, id);
    crc32fast::hash(&bytes)
}

/// A message that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) message: Message,
    /// The starts that its digest names, all that its sender knows; `None` if it has no digest.
    pub(super) named: Option<BTreeSet<Tag>>,
}

/// Takes a message apart; `known` are the starts that may be named short. `None` if it is none.
pub(super) fn read<'a>(
    message: &[u8],
    cluster: &str,
    known: impl Iterator<Item = &'a ChitchatId>,
) -> Option<Read> {
    let mut names = Names(BTreeMap::new());
    for id in known {
        names.add(id);
    }
    let mut rest = Reader(message);
    let kind = rest.u8()?;
    let (mut named, mut digest) = (None, Vec::new());
    if kind <= 1 {
        let mut tags = BTreeSet::new();
        for _ in 0..rest.number()? {
            let (tag, ids) = names.read(&mut rest)?;
            tags.insert(tag);
            let (heartbeat, last_gc, max_version) =
                (rest.number()?, rest.number()?, rest.number()?);
            let entry = |id| Known { id, heartbeat, last_gc, max_version };
            digest.extend(ids.into_iter().map(entry));
        }
        named = Some(tags);
    }
    let mut deltas = Deltas::default();
    if kind == 1 || kind == 2 {
        while !rest.0.is_empty() {
            operation(&mut rest, &mut names, &mut deltas)?;
        }
    }
    let delta = deltas.done();
    let message = match kind {
        0 => Message::Syn { cluster: cluster.to_owned(), digest },
        1 => Message::SynAck { digest, delta },
        2 => Message::Ack { delta },
        3.. => return None,
    };
    rest.0.is_empty().then_some(Read { message, named })
}

fn operation(rest: &mut Reader<'_>, names: &mut Names, deltas: &mut Deltas) -> Option<()> {
    match rest.u8()? {
        0 => {
            let (_, ids) = names.read(rest)?;
            let (last_gc, from) = (rest.number()?, rest.number()?);
            // Of nobody, if it is not known: what follows is read, and left out.
            deltas.section(ids.into_iter().next(), last_gc, from)
        }
        1 => {
            let key = rest.long_text()?.to_owned();
            let value = rest.long_text()?.to_owned();
            deltas.value(Value { key, value, version: rest.number()?, status: rest.u8()? })
        }
        2 => deltas.version(rest.number()?),
        3.. => None,
    }
}

/// Puts a message together for one that knows the starts with these tags. What does not fit is left
/// out at the end of a delta, where it is of no harm: it is said again. `None` if there is nothing
/// to say, or no more than chitchat's own limit can carry.
pub(super) fn write(message: &Message, known: &BTreeSet<Tag>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(512);
    match message {
        Message::Syn { digest, .. } => {
            out.push(0);
            write_digest(&mut out, digest, known);
        }
        Message::SynAck { digest, delta } => {
            out.push(1);
            write_digest(&mut out, digest, known);
            write_delta(&mut out, delta, known);
        }
        // An Ack without news tells nothing: a third of what chitchat sends at rest.
        Message::Ack { delta } if delta.is_empty() => return None,
        Message::Ack { delta } => {
            out.push(2);
            write_delta(&mut out, delta, known);
        }
    }
    (out.len() <= MESSAGE_BYTES_MAX).then_some(out)
}

fn write_digest(out: &mut Vec<u8>, digest: &[Known], known: &BTreeSet<Tag>) {
    number(out, digest.len() as u64);
    for entry in digest {
        name(out, &entry.id, known);
        for part in [entry.heartbeat, entry.last_gc, entry.max_version] {
            number(out, part);
        }
    }
}

fn write_delta(out: &mut Vec<u8>, delta: &[Section], known: &BTreeSet<Tag>) {
    for section in delta {
        let mut first = vec![0];
        name(&mut first, &section.id, known);
        number(&mut first, section.last_gc);
        number(&mut first, section.from);
        let (values, version) = section.what.parts();
        let values = values.iter().map(|value| {
            let mut bytes = vec![1];
            for text in [&value.key, &value.value] {
                number(&mut bytes, text.len() as u64);
                bytes.extend_from_slice(text.as_bytes());
            }
            number(&mut bytes, value.version);
            bytes.push(value.status);
            bytes
        });
        let version = version.map(|version| {
            let mut bytes = vec![2];
            number(&mut bytes, version);
            bytes
        });
        for operation in std::iter::once(first).chain(values).chain(version) {
            if out.len() + operation.len() > MESSAGE_BYTES_MAX {
                return;
            }
            out.extend(operation);
        }
    }
}

fn name(out: &mut Vec<u8>, id: &ChitchatId, known: &BTreeSet<Tag>) {
    let tag = tag(id);
    if known.contains(&tag) {
        out.push(0);
        out.extend(tag.to_le_bytes());
    } else {
        full(out, id);
    }
}

fn full(out: &mut Vec<u8>, id: &ChitchatId) {
    // One that is longer is nobody's: no member has such an id.
    let node = id.node_id.as_bytes();
    let node = &node[..node.len().min(NODE_BYTES_MAX)];
    out.push(u8::try_from(node.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(node);
    number(out, id.generation_id);
    wire::address(out, id.gossip_advertise_addr);
}

/// LEB128.
fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// The starts that may be named short.
struct Names(BTreeMap<Tag, Vec<ChitchatId>>);

impl Names {
    fn add(&mut self, id: &ChitchatId) -> Tag {
        let tag = tag(id);
        let ids = self.0.entry(tag).or_default();
        if !ids.contains(id) {
            ids.push(id.clone());
        }
        tag
    }

    /// Reads a name: who is meant, nobody if a short one is not known.
    fn read(&mut self, rest: &mut Reader<'_>) -> Option<(Tag, Vec<ChitchatId>)> {
        let len = usize::from(rest.u8()?);
        if len == 0 {
            let tag = rest.u32()?;
            return Some((tag, self.0.get(&tag).cloned().unwrap_or_default()));
        }
        if len > NODE_BYTES_MAX {
            return None;
        }
        let node = std::str::from_utf8(rest.take(len)?).ok()?;
        let (generation, address) = (rest.number()?, rest.address()?);
        let id = ChitchatId::new(node, generation, address);
        Some((self.add(&id), vec![id]))
    }
}

impl<'a> Reader<'a> {
    /// LEB128, in its shortest form or not.
    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return None;
            }
            value |= part << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn long_text(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.number()?).ok()?;
        std::str::from_utf8(self.take(len)?).ok()
    }
}

#[cfg(test)]
mod tests;
