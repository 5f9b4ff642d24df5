//! The seal of one datagram: layout, keys, and what it is bound to.
//!
//! ```text
//! version 4 bits, kind 4 bits | key 1 | receiver 4 | salt 12 | counter 6 | sealed … | tag 16
//! ```
//! The sender's key is derived from the cluster's key and its salt (HKDF-SHA256), the nonce is the
//! counter (ChaCha20-Poly1305, RFC 8439). The head and the whole salt of the receiver are
//! authenticated with the text, so that a datagram opens only where and while it was meant to.
//!
//! Invariant: a (key, nonce) pair seals at most once. The salt is drawn afresh at each start, the
//! counter only grows. No clock and no file is trusted for that: a board has no clock, and a card
//! that is restored from a copy has counted before.

use std::fmt;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::{digest, hkdf};

/// Bytes of a cluster key.
pub const KEY_BYTES: usize = 32;
/// Bytes before the sealed text.
pub(super) const HEAD_BYTES: usize = 24;
/// Bytes behind it.
pub(super) const TAG_BYTES: usize = 16;
/// The counter's limit; a sender that comes to it is silent until it starts again.
pub(super) const COUNTER_MAX: u64 = (1 << 48) - 1;

const VERSION: u8 = 1;
const SALT_BYTES: usize = 12;
const PURPOSE: &[u8] = b"skep gossip 1";
const NUMBER: &[u8] = b"skep gossip key number 1";

/// A key of the cluster, with a number.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// Tells it from others; two keys in use have two numbers. Only the low byte is on the wire, as a
    /// hint.
    pub number: u32,
    /// The secret.
    pub secret: [u8; KEY_BYTES],
}

impl Key {
    /// A key whose number follows from its secret, and tells nothing of it.
    #[must_use]
    pub fn new(secret: [u8; KEY_BYTES]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(NUMBER);
        context.update(&secret);
        let digest = context.finish();
        let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
        Self { number: u32::from_be_bytes(first), secret }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.number)
    }
}

/// The keys in use: both open, one seals.
///
/// A rotation without a gap takes two steps, each done on all nodes before the next: first the new
/// key is `also` everywhere, then it seals and the old one is `also`. A third step with no `also`
/// shuts out who knows only the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Seals what is sent.
    pub seal: Key,
    /// Opens as well.
    pub also: Option<Key>,
}

impl Keys {
    pub(super) fn with_tag(&self, tag: u8) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.seal).chain(&self.also).filter(move |key| key.tag() == tag)
    }
}

impl Key {
    #[allow(clippy::cast_possible_truncation, reason = "the low byte is meant")]
    pub(super) const fn tag(&self) -> u8 {
        self.number as u8
    }
}

/// Names one start of one sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Salt(pub [u8; SALT_BYTES]);

impl Salt {
    /// What a datagram without a receiver is bound to.
    pub(super) const NOBODY: Self = Self([0; SALT_BYTES]);

    fn tag(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }

    /// Whether a head names this receiver.
    pub(super) fn is_named_by(&self, head: &Head) -> bool {
        self.tag() == head.receiver
    }
}

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole message.
    Data = 0,
    /// A part of one.
    Part = 1,
    /// "I do not know your salt": bound to nobody, holds nothing.
    Hello = 2,
    /// The answer, bound to who asked: the head has the salt.
    Welcome = 3,
}

/// The part of a datagram that is not secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) key: u8,
    receiver: [u8; 4],
    pub(super) salt: Salt,
    pub(super) counter: u64,
}

impl Head {
    /// The head of a datagram, if it is long enough and of this version.
    pub(super) fn read(datagram: &[u8]) -> Option<Self> {
        if datagram.len() < HEAD_BYTES + TAG_BYTES {
            return None;
        }
        let (first, rest) = datagram.split_first_chunk::<6>()?;
        let (salt, rest) = rest.split_first_chunk::<SALT_BYTES>()?;
        let (counter, _) = rest.split_first_chunk::<6>()?;
        let [what, key, receiver @ ..] = *first;
        let kind = match (what >> 4 == VERSION, what & 15) {
            (true, 0) => Kind::Data,
            (true, 1) => Kind::Part,
            (true, 2) => Kind::Hello,
            (true, 3) => Kind::Welcome,
            (true | false, _) => return None,
        };
        let [a, b, c, d, e, f] = *counter;
        let counter = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        Some(Self { kind, key, receiver, salt: Salt(*salt), counter })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend([VERSION << 4 | self.kind as u8, self.key]);
        out.extend(self.receiver);
        out.extend(self.salt.0);
        out.extend(&self.counter.to_be_bytes()[2..]);
    }
}

/// One sender's key, for as long as it runs and the cluster's key is in use.
pub(super) struct SenderKey(LessSafeKey);

impl SenderKey {
    /// The key of the sender with that salt.
    pub(super) fn derive(key: &Key, salt: &Salt, cluster: &str) -> Self {
        let info = [PURPOSE, cluster.as_bytes()];
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, &salt.0).extract(&key.secret);
        let mut bytes = [0; KEY_BYTES];
        // The two only fail on lengths, which are constants here.
        let key = extracted
            .expand(&info, hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut bytes))
            .and_then(|()| UnboundKey::new(&CHACHA20_POLY1305, &bytes))
            .expect("a 32-byte key from one round of HKDF-SHA256");
        Self(LessSafeKey::new(key))
    }

    /// A datagram with that text, bound to its receiver.
    pub(super) fn seal(
        &self,
        (kind, key): (Kind, u8),
        (salt, counter): (Salt, u64),
        receiver: &Salt,
        text: &[&[u8]],
    ) -> Vec<u8> {
        let head = Head { kind, key, receiver: receiver.tag(), salt, counter };
        let len: usize = text.iter().map(|part| part.len()).sum();
        let mut datagram = Vec::with_capacity(HEAD_BYTES + len + TAG_BYTES);
        head.write(&mut datagram);
        let aad = bound(&datagram, receiver);
        for part in text {
            datagram.extend_from_slice(part);
        }
        // Only a text of more than 256 GiB is refused.
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(counter), Aad::from(aad), &mut datagram[HEAD_BYTES..])
            .expect("a text below the limit of ChaCha20");
        datagram.extend_from_slice(tag.as_ref());
        datagram
    }

    /// The text of a datagram, if this key sealed it for that receiver.
    pub(super) fn open<'a>(
        &self,
        head: &Head,
        receiver: &Salt,
        datagram: &'a mut [u8],
    ) -> Option<&'a [u8]> {
        let (start, sealed) = datagram.split_at_mut_checked(HEAD_BYTES)?;
        let aad = bound(start, receiver);
        let text = self.0.open_in_place(nonce(head.counter), Aad::from(aad), sealed).ok()?;
        Some(text)
    }
}

fn bound(head: &[u8], receiver: &Salt) -> [u8; HEAD_BYTES + SALT_BYTES] {
    let mut aad = [0; HEAD_BYTES + SALT_BYTES];
    aad[..HEAD_BYTES].copy_from_slice(&head[..HEAD_BYTES]);
    aad[HEAD_BYTES..].copy_from_slice(&receiver.0);
    aad
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Salt = Salt([1; SALT_BYTES]);
    const YOU: Salt = Salt([2; SALT_BYTES]);

    fn key(number: u32) -> Key {
        Key { number, secret: [7; KEY_BYTES] }
    }

    fn sealed() -> Vec<u8> {
        let sender = SenderKey::derive(&key(3), &ME, "swarm");
        sender.seal((Kind::Part, 3), (ME, 77), &YOU, &[b"he", b"llo"])
    }

    fn open(datagram: &[u8], key: &Key, cluster: &str, receiver: &Salt) -> Option<Vec<u8>> {
        let mut datagram = datagram.to_owned();
        let head = Head::read(&datagram)?;
        let sender = SenderKey::derive(key, &head.salt, cluster);
        sender.open(&head, receiver, &mut datagram).map(<[u8]>::to_owned)
    }

    /// The layout is frozen: another release must read it.
    #[test]
    fn the_bytes_on_the_wire() {
        let hex: String = sealed().iter().map(|byte| format!("{byte:02x}")).collect();
        let want = "110302020202010101010101010101010101\
                    00000000004d";
        assert_eq!(&hex[..48], want);
        expect_test::expect!["8ed242b44caee1fca9f3963bd0cf871816ef09240b"].assert_eq(&hex[48..]);
    }

    #[test]
    fn only_the_receiver_in_the_cluster_with_the_key_opens() {
        let datagram = sealed();
        let head = Head::read(&datagram).unwrap();
        assert_eq!((head.kind, head.key, head.salt, head.counter), (Kind::Part, 3, ME, 77));
        assert!(YOU.is_named_by(&head) && !ME.is_named_by(&head));
        assert_eq!(open(&datagram, &key(3), "swarm", &YOU).unwrap(), b"hello");
        // The number is not a part of the secret, all else is.
        assert!(open(&datagram, &key(4), "swarm", &YOU).is_some());
        assert_eq!(open(&datagram, &key(3), "swarn", &YOU), None);
        assert_eq!(open(&datagram, &key(3), "swarm", &Salt::NOBODY), None);
        let other = Key { number: 3, secret: [8; KEY_BYTES] };
        assert_eq!(open(&datagram, &other, "swarm", &YOU), None);
    }

    #[test]
    fn no_bit_can_be_changed_and_no_byte_cut() {
        let datagram = sealed();
        for bit in 0..datagram.len() * 8 {
            let mut forged = datagram.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&forged, &key(3), "swarm", &YOU), None, "bit {bit}");
        }
        for len in 0..datagram.len() {
            assert_eq!(open(&datagram[..len], &key(3), "swarm", &YOU), None, "{len} bytes");
        }
    }

    #[test]
    fn a_number_follows_from_the_secret() {
        let number = |byte| Key::new([byte; KEY_BYTES]).number;
        assert_eq!(number(1), number(1));
        assert_ne!(number(1), number(2));
        expect_test::expect!["25002270"].assert_eq(&format!("{:08x}", number(7)));
    }

    #[test]
    fn a_key_is_not_shown() {
        let keys = Keys { seal: key(258), also: Some(key(2)) };
        assert_eq!(format!("{keys:?}"), "Keys { seal: Key(258), also: Some(Key(2)) }");
        assert_eq!(keys.with_tag(2).count(), 2);
        assert_eq!(keys.with_tag(3).count(), 0);
    }
}
