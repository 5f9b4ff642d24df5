//! Keys of the log: one long-lived key of the node, one derived key per file.
//!
//! Invariant: a (key, nonce) pair seals at most once. Every file draws a fresh salt for its key,
//! and its counter only grows, also over writes that failed.

use std::fmt;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};

/// Bytes of a salt.
pub(super) const SALT_BYTES: usize = 32;
/// Bytes that a seal adds.
pub(super) const TAG_BYTES: usize = 16;

/// The end of a sealed text; what follows it in the file is bound to it.
pub(super) type Tag = [u8; TAG_BYTES];

/// The node's key for its log.
#[derive(Clone)]
pub struct LogKey([u8; 32]);

impl LogKey {
    /// From the bytes of a key file.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Tells keys apart in tests.
    #[cfg(test)]
    pub(crate) fn fingerprint(&self) -> String {
        let mut text = b"fingerprint".to_vec();
        self.for_file(&[0; SALT_BYTES], b"test").seal(0, b"", &mut text);
        format!("{text:?}")
    }

    /// The key of one file.
    pub(super) fn for_file(&self, salt: &[u8; SALT_BYTES], purpose: &'static [u8]) -> FileKey {
        let mut bytes = [0; 32];
        let pseudo_random = Salt::new(HKDF_SHA256, salt).extract(&self.0);
        let info = [purpose];
        // The two only fail on lengths, which are constants here.
        let key = pseudo_random
            .expand(&info, HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut bytes))
            .and_then(|()| UnboundKey::new(&CHACHA20_POLY1305, &bytes))
            .expect("a 32-byte key from one round of HKDF-SHA256");
        FileKey(LessSafeKey::new(key))
    }
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogKey")
    }
}

/// The key of one file.
pub(super) struct FileKey(LessSafeKey);

impl FileKey {
    /// Seals `text` in place and appends the tag.
    pub(super) fn seal(&self, counter: u64, aad: &[u8], text: &mut Vec<u8>) -> Tag {
        // Only a text of more than 256 GiB is refused.
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(counter), Aad::from(aad), text)
            .expect("a text below the limit of ChaCha20");
        let mut bytes = [0; TAG_BYTES];
        bytes.copy_from_slice(tag.as_ref());
        text.extend_from_slice(&bytes);
        bytes
    }

    /// The text of `sealed`, if key, counter and `aad` are those of the seal.
    pub(super) fn open<'a>(
        &self,
        counter: u64,
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Option<&'a [u8]> {
        match self.0.open_in_place(nonce(counter), Aad::from(aad), sealed) {
            Ok(text) => Some(text),
            Err(ring::error::Unspecified) => None,
        }
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileKey")
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Fresh random bytes for a salt or a key. The kernel's generator does not fail once it is up.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the kernel's random numbers");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_counter_and_context_open_a_seal() {
        let node = LogKey::new([7; 32]);
        let key = node.for_file(&[1; 32], b"test");
        let mut sealed = b"text".to_vec();
        key.seal(5, b"context", &mut sealed);
        assert_eq!(key.open(5, b"context", &mut sealed.clone()), Some(&b"text"[..]));
        assert_eq!(key.open(6, b"context", &mut sealed.clone()), None);
        assert_eq!(key.open(5, b"other", &mut sealed.clone()), None);
        for other in [
            node.for_file(&[2; 32], b"test"),
            node.for_file(&[1; 32], b"else"),
            LogKey::new([8; 32]).for_file(&[1; 32], b"test"),
        ] {
            assert_eq!(other.open(5, b"context", &mut sealed.clone()), None);
        }
        assert_eq!(format!("{node:?}"), "LogKey", "a key is never printed");
    }
}
