//! Small secrets of the node in files, sealed.
//!
//! A [`Secret`] is drawn at random and seals other keys; which file keeps it, and what opens that one, the
//! vault says. **Invariant:** every seal draws a fresh salt, and with it a key that seals once.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::seal::{self, LogKey, SALT_BYTES};

/// Opens what it has sealed.
#[derive(Clone)]
pub struct Secret(LogKey);

/// What was sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    salt: [u8; SALT_BYTES],
    /// With the tag.
    bytes: Vec<u8>,
}

impl Secret {
    /// From its bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(LogKey::new(bytes))
    }

    /// A new one.
    #[must_use]
    pub fn draw() -> Self {
        Self::new(seal::random())
    }

    /// Its bytes. Whoever has them opens everything.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        self.0.bytes()
    }

    /// Seals `text` for one `purpose`, together with what stands open beside it.
    #[must_use]
    pub fn seal(&self, purpose: &'static [u8], beside: &[u8], text: &[u8]) -> Sealed {
        self.seal_with(seal::random(), purpose, beside, text)
    }

    pub(crate) fn seal_with(
        &self,
        salt: [u8; SALT_BYTES],
        purpose: &'static [u8],
        beside: &[u8],
        text: &[u8],
    ) -> Sealed {
        let mut bytes = text.to_vec();
        self.0.for_file(&salt, purpose).seal(0, beside, &mut bytes);
        Sealed { salt, bytes }
    }

    /// What was sealed, if it was with this secret, for this purpose and beside this.
    #[must_use]
    pub fn open(&self, purpose: &'static [u8], beside: &[u8], sealed: &Sealed) -> Option<Vec<u8>> {
        let mut bytes = sealed.bytes.clone();
        let key = self.0.for_file(&sealed.salt, purpose);
        key.open(0, beside, &mut bytes).map(<[u8]>::to_vec)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_purpose_and_neighbour_open_it() {
        let secret = Secret::new([7; 32]);
        let sealed = secret.seal(b"test", b"beside", b"text");
        assert_eq!(secret.open(b"test", b"beside", &sealed), Some(b"text".to_vec()));
        assert_eq!(secret.open(b"else", b"beside", &sealed), None);
        assert_eq!(secret.open(b"test", b"other", &sealed), None);
        assert_eq!(Secret::draw().open(b"test", b"beside", &sealed), None);
        assert_ne!(secret.seal(b"test", b"beside", b"text"), sealed, "each has its own salt");
        for n in 0..sealed.bytes.len() {
            let mut changed = sealed.clone();
            changed.bytes[n] ^= 1;
            assert_eq!(secret.open(b"test", b"beside", &changed), None, "{n}");
            changed.bytes.truncate(n);
            assert_eq!(secret.open(b"test", b"beside", &changed), None, "{n}");
        }
        assert_eq!(format!("{secret:?}"), "Secret");
    }
}
