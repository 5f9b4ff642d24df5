//! What of a message reaches chitchat.
//!
//! The sender knows the cluster's key, so it is a member; it may still be hostile or broken. What
//! chitchat would not survive, or would keep without bound, stops here:
//!
//! | chitchat 0.13 | here |
//! |---|---|
//! | `apply_delta` asserts that a version does not go back | a version behind values is refused (`Deltas`) |
//! | a delta of one's own state makes the next `set` assert or overflow | sections of one's own node are left out |
//! | a listener's range cuts a key behind its first byte | keys are ASCII |
//! | a digest of more than a message asserts `mtu >= 100` | ids are limited to [`IDS_MAX`] |
//! | `Delta::serialize` asserts one length under two block sizes | the same: see the constant assertion |
//! | a value above 64 KiB blocks all that follow | values end at [`VALUE_BYTES_MAX`] |
//! | ids, keys and values are kept without limit | counted per node, per start and in all |
//!
//! What it cannot stop: a member that lies about others in good form. It can make a node seem alive
//! or dead, or hide its values; so gossip is a hint, and decides nothing alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use chitchat::{ChitchatId, NodeState};

use super::wire::{self, KNOWN_BYTES, Known, Message, News, Section, Value};
use super::{KEY_BYTES_MAX, MESSAGE_BYTES_MAX, Nodes, STATE_BYTES_MAX, VALUE_BYTES_MAX};

/// Bytes of a node's id.
pub(super) const NODE_BYTES_MAX: usize = 32;
/// Starts of nodes that are known, of all nodes. Further ones are left out until others are gone.
pub(super) const IDS_MAX: usize = 512;
/// The same of one node: a daemon that starts over and over must not fill the table.
pub(super) const STARTS_MAX: usize = 32;
/// Keys of one start, deleted ones too, until they are forgotten.
const KEYS_OF_START_MAX: usize = 128;
/// Bytes of keys and values of one start. Above what an honest one sets, as what it deleted counts
/// as well.
const BYTES_OF_START_MAX: usize = 2 * STATE_BYTES_MAX;
/// Bytes of keys and values of all.
const BYTES_MAX: usize = 4 << 20;

/// The block size of chitchat's deltas: a digest leaves at least that much of a message.
const DELTA_BLOCK_BYTES: usize = 16_384;
const DIGEST_BYTES_MAX: usize = IDS_MAX * (wire::id_bytes_max(NODE_BYTES_MAX) + KNOWN_BYTES) + 64;
const _: () = assert!(DIGEST_BYTES_MAX + DELTA_BLOCK_BYTES < MESSAGE_BYTES_MAX);

/// What a message is checked against.
#[derive(Debug)]
pub(super) struct Check<'a> {
    /// This member.
    pub(super) own: &'a ChitchatId,
    /// Who may be spoken of.
    pub(super) nodes: &'a Nodes,
    /// What is known.
    pub(super) states: &'a BTreeMap<ChitchatId, NodeState>,
}

/// What is left of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checked {
    /// The message as chitchat is to see it.
    pub(super) message: Message,
    /// Whose heart has gone on beating, as far as this message says.
    pub(super) beating: Vec<ChitchatId>,
    /// Others know more of this very start than it has said: a lie, or its number was used before.
    /// What it says is no news to them then.
    pub(super) disowned: bool,
    /// How many things were left out.
    pub(super) left_out: usize,
}

impl Check<'_> {
    /// Leaves out what goes beyond a limit.
    pub(super) fn message(&self, message: Message) -> Checked {
        let mut digest = Digest {
            check: self,
            new: BTreeSet::new(),
            beating: Vec::new(),
            disowned: false,
            out: 0,
        };
        let message = match message {
            Message::Syn { cluster, digest: entries } => {
                Message::Syn { cluster, digest: digest.keep(entries) }
            }
            Message::SynAck { digest: entries, delta } => {
                let entries = digest.keep(entries);
                Message::SynAck { digest: entries, delta: self.delta(delta, &mut digest.out) }
            }
            Message::Ack { delta } => Message::Ack { delta: self.delta(delta, &mut digest.out) },
        };
        let Digest { beating, disowned, out, .. } = digest;
        Checked { message, beating, disowned, left_out: out }
    }

    /// Whether a start of a node may be spoken of at all.
    fn is_admitted(&self, id: &ChitchatId) -> bool {
        is_node(&id.node_id)
            && is_reachable(id.gossip_advertise_addr)
            && self.nodes.admit(&id.node_id)
    }

    fn delta(&self, delta: Vec<Section>, out: &mut usize) -> Vec<Section> {
        let bytes = |state: &NodeState| {
            let values = state.key_values_including_deleted();
            values.map(|(key, value)| key.len() + value.value.len()).sum::<usize>()
        };
        let mut left = BYTES_MAX.saturating_sub(self.states.values().map(bytes).sum());
        let mut kept = Vec::new();
        for mut section in delta {
            // Nobody but this member itself has something new to say of it.
            if section.id.node_id == self.own.node_id || !self.is_admitted(&section.id) {
                *out += 1;
                continue;
            }
            if let News::Values(values) = &mut section.what {
                let fit = self.fit(&section.id, values, &mut left);
                // A section is cut at the first value that does not fit: what is before it holds.
                *out += values.len() - fit;
                if fit == 0 && !values.is_empty() {
                    continue;
                }
                values.truncate(fit);
            }
            kept.push(section);
        }
        kept
    }

    /// How many of the values fit the limits.
    fn fit(&self, id: &ChitchatId, values: &[Value], left: &mut usize) -> usize {
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        if let Some(state) = self.states.get(id) {
            let there = state.key_values_including_deleted();
            sizes.extend(there.map(|(key, value)| (key, key.len() + value.value.len())));
        }
        let mut total: usize = sizes.values().sum();
        for (number, value) in values.iter().enumerate() {
            let size = value.key.len() + value.value.len();
            let before = sizes.insert(&value.key, size).unwrap_or(0);
            total = total + size - before;
            let fits = is_key(&value.key)
                && value.value.len() <= VALUE_BYTES_MAX
                && sizes.len() <= KEYS_OF_START_MAX
                && total <= BYTES_OF_START_MAX
                && size <= *left;
            if !fits {
                return number;
            }
            *left -= size;
        }
        values.len()
    }
}

/// A digest while it is checked.
struct Digest<'a> {
    check: &'a Check<'a>,
    /// Starts that become known with this message.
    new: BTreeSet<ChitchatId>,
    beating: Vec<ChitchatId>,
    disowned: bool,
    out: usize,
}

impl Digest<'_> {
    fn keep(&mut self, entries: Vec<Known>) -> Vec<Known> {
        let mut kept: Vec<Known> = Vec::new();
        for entry in entries {
            if self.may_stay(&entry) && kept.len() < IDS_MAX {
                kept.push(entry);
            } else {
                self.out += 1;
            }
        }
        kept
    }

    fn may_stay(&mut self, entry: &Known) -> bool {
        let own = self.check.own;
        if entry.id.node_id == own.node_id {
            if let Some(state) = self.check.states.get(&entry.id) {
                self.disowned |= entry.max_version > state.max_version()
                    || entry.heartbeat > u64::from(state.heartbeat());
            }
            // An earlier start of this member is over, whoever says otherwise.
            return entry.id == *own;
        }
        if !self.check.is_admitted(&entry.id) {
            return false;
        }
        if let Some(state) = self.check.states.get(&entry.id) {
            let before = u64::from(state.heartbeat());
            // chitchat takes the first one for no beat.
            if before > 0 && entry.heartbeat > before {
                self.beating.push(entry.id.clone());
            }
            return true;
        }
        let known = self.check.states.keys().chain(&self.new);
        let starts = known.filter(|id| id.node_id == entry.id.node_id).count();
        if starts >= STARTS_MAX || self.check.states.len() + self.new.len() >= IDS_MAX {
            return false;
        }
        self.new.insert(entry.id.clone());
        true
    }
}

/// Whether this can be the id of a node.
pub(super) fn is_node(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain && (1..=NODE_BYTES_MAX).contains(&name.len())
}

/// Whether this can be the address of a host.
pub(super) fn is_reachable(address: SocketAddr) -> bool {
    let host = match address.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    };
    host && address.port() != 0
}

/// Whether this can be the key of a value.
pub(super) fn is_key(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte);
    (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(plain)
}


#[cfg(test)]
mod tests;
